"""`--resume`: what has not changed stays as it is, what has is written anew, and the result is that of a fresh run."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import pytest
from conftest import Data, digests
from PIL import Image

from beam_pipeline.options import RunOptions
from beam_pipeline.publish import prepare_output
from beam_pipeline.run import Outcome, run, summary
from transforms import claims, shards
from transforms.claims import Claim
from transforms.records import InputError

Run = Callable[..., Outcome]


@pytest.fixture
def data(demo_data: Data, tmp_path: Path) -> Data:
    """The demo's data, to be changed."""
    shutil.copytree(demo_data.images, tmp_path / "data" / "images")
    shutil.copy(demo_data.annotations, tmp_path / "data" / "annotations.json")
    return Data(tmp_path / "data" / "annotations.json", tmp_path / "data" / "images")


@pytest.fixture
def work(data: Data, tmp_path: Path) -> Run:
    """Runs the data into a folder of a name, with six shards."""

    def runs(name: str, **options: Any) -> Outcome:
        paths = {"annotations": str(data.annotations), "images": str(data.images), "output": str(tmp_path / name)}
        return run(RunOptions(**paths, **{"num_shards": "3", "splits": "train=0.5,val=0.5", **options}), [])

    return runs


def written_at(folder: Path) -> dict[str, int]:
    """When each shard was written: a move keeps the time of the file, so a shard written anew shows."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}


def changed(before: dict[str, int], folder: Path) -> set[str]:
    return {name for name, time in written_at(folder).items() if before.get(name) != time}


def shard_with(folder: Path, image_id: int) -> str:
    """The shard that has an image."""
    tf = pytest.importorskip("tensorflow")
    for path in sorted(folder.glob("*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)):
            example = tf.train.Example.FromString(record.numpy())
            if example.features.feature["image/source_id"].bytes_list.value[0] == str(image_id).encode():
                return path.name
    raise AssertionError(f"image {image_id} is in no shard")


def test_nothing_is_written_anew_where_nothing_has_changed(work: Run, tmp_path: Path) -> None:
    work("a")
    before, bytes_before = written_at(tmp_path / "a"), digests(tmp_path / "a")
    again = work("a", resume=True)
    assert again.shards_reused == 6
    assert changed(before, tmp_path / "a") == set()
    assert digests(tmp_path / "a") == bytes_before
    assert "6 of 6 shards with images were up to date" in summary(
        RunOptions(annotations="", images="", output=str(tmp_path / "a"), resume=True), again, 1
    )


def test_a_changed_image_costs_its_shard_and_no_other(work: Run, data: Data, tmp_path: Path) -> None:
    work("a")
    before = written_at(tmp_path / "a")
    with Image.open(data.images / "morning" / "beach-003.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data.images / "morning" / "beach-003.jpg")
    assert work("a", resume=True).shards_reused == 5
    assert changed(before, tmp_path / "a") == {shard_with(tmp_path / "a", 3)}
    work("fresh")
    assert digests(tmp_path / "a") == digests(tmp_path / "fresh")


def test_an_image_that_comes_or_goes_costs_its_shard_and_no_other(work: Run, data: Data, tmp_path: Path) -> None:
    work("a", max_reject_fraction=1.0)
    before, home = written_at(tmp_path / "a"), shard_with(tmp_path / "a", 7)
    (data.images / "morning" / "beach-007.jpg").rename(tmp_path / "elsewhere.jpg")
    assert work("a", resume=True, max_reject_fraction=1.0).manifest["reasons"]["image"]["IMAGE_MISSING"] == 1
    assert changed(before, tmp_path / "a") == {home}
    before = written_at(tmp_path / "a")
    (tmp_path / "elsewhere.jpg").rename(data.images / "morning" / "beach-007.jpg")
    work("a", resume=True, max_reject_fraction=1.0)
    assert changed(before, tmp_path / "a") == {home}
    work("fresh", max_reject_fraction=1.0)
    assert digests(tmp_path / "a") == digests(tmp_path / "fresh")


def change_mask(annotations: dict[str, Any]) -> None:
    boat = next(one for one in annotations["annotations"] if one["image_id"] == 3 and one["category_id"] == 3)
    boat["segmentation"][0][0] += 2


def rename_cloud(annotations: dict[str, Any]) -> None:
    annotations["categories"][3]["name"] = "cumulus"


@pytest.mark.parametrize(
    ("change", "options", "anew"),
    [
        (change_mask, {}, 1),
        (rename_cloud, {}, 6),
        (lambda annotations: annotations["categories"].append({"id": 12, "name": "unused"}), {}, 0),
        (lambda annotations: annotations["images"].reverse(), {}, 0),
        (None, {"mask_encoding": "png1"}, 6),
        (None, {"boxes": "mask"}, 6),
        (None, {"category_ids": "contiguous"}, 6),
        (None, {"trainer_config": "mask_rcnn_resnet50_atrous_coco"}, 0),
        (None, {"num_shards": "2"}, 4),
    ],
)
def test_what_decides_over_a_shard_is_in_its_fingerprint(
    work: Run, data: Data, tmp_path: Path, change: Callable[[dict[str, Any]], None] | None, options: dict[str, Any], anew: int
) -> None:
    work("a")
    before = written_at(tmp_path / "a")
    if change:
        annotations = json.loads(data.annotations.read_text())
        change(annotations)
        data.annotations.write_text(json.dumps(annotations))
    work("a", resume=True, **options)
    assert len(changed(before, tmp_path / "a")) == anew
    work("fresh", **options)
    found, fresh = digests(tmp_path / "a"), digests(tmp_path / "fresh")
    assert {name for name in found.keys() | fresh.keys() if found.get(name) != fresh.get(name)} <= {"pipeline.config"}


@pytest.mark.parametrize("damage", ["shard flipped", "shard cut", "shard gone", "state flipped", "state cut", "state gone"])
def test_a_damaged_shard_or_state_is_written_anew(work: Run, tmp_path: Path, damage: str) -> None:
    work("a")
    good, before = digests(tmp_path / "a"), written_at(tmp_path / "a")
    name = sorted(before)[0]
    what, how = damage.split()
    path = tmp_path / "a" / (name if what == "shard" else shards.state_name(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.unlink()
    if how != "gone":
        path.write_bytes(content if how == "flipped" else content[:-1])
    work("a", resume=True)
    assert changed(before, tmp_path / "a") == {name}
    assert digests(tmp_path / "a") == good


def as_of_the_first_version(state: bytes) -> bytes:
    """A state as it was stored when statistics had histograms of few bins."""
    summary, statistics, rejects = msgspec.msgpack.decode(state[4:]).values()
    histogram = [3, 600, 1.0, 3.0, {4: 1, 8: 2}]
    for split, now in statistics[0].items():
        statistics[0][split] = [*now[:5], *[histogram] * 3, {"jpeg": now[0]}, {}, {1: [now[2], now[0], 0, *[histogram] * 3]}]
    data = msgspec.msgpack.encode({"summary": summary, "statistics": statistics, "rejects": rejects})
    return int(google_crc32c.value(data)).to_bytes(4, "big") + data


@pytest.mark.parametrize("what", ["state", "fingerprint"])
def test_a_shard_of_an_earlier_version_is_written_anew(
    work: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(shards, "RECORDS_VERSION", 1 if what == "fingerprint" else shards.RECORDS_VERSION)
        work("a")
    states = list((tmp_path / "a" / shards.STATES).iterdir())
    assert len(states) == 6
    if what == "state":
        for path in states:
            path.write_bytes(as_of_the_first_version(path.read_bytes()))
    assert work("a", resume=True).shards_reused == 0
    work("fresh")
    assert digests(tmp_path / "a") == digests(tmp_path / "fresh")


def test_a_job_that_was_broken_off_is_gone_on_with(work: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = shards.draft_shard

    def breaks(claim: Claim, key: tuple[str, int], *rest: Any) -> shards.Draft:
        if key == ("val", 1):
            raise OSError("the machine has stopped")
        return draft(claim, key, *rest)

    monkeypatch.setattr(shards, "draft_shard", breaks)
    with pytest.raises(Exception, match="the machine has stopped"):
        work("a")
    monkeypatch.undo()
    before = written_at(tmp_path / "a")
    assert len(before) in range(1, 6)
    assert work("a", resume=True).shards_reused == len(before)
    assert before.items() <= written_at(tmp_path / "a").items()
    work("fresh")
    assert digests(tmp_path / "a") == digests(tmp_path / "fresh")


def test_without_resume_a_data_set_is_not_gone_on_with(work: Run, tmp_path: Path) -> None:
    work("a")
    before = written_at(tmp_path / "a")
    with pytest.raises(InputError, match="bring it up to date with --resume"):
        work("a")
    assert work("a", overwrite=True).shards_reused == 0
    assert len(changed(before, tmp_path / "a")) == 6
    with pytest.raises(InputError, match="--resume keeps what --overwrite replaces"):
        work("a", resume=True, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="is not empty"):
        work("mine", resume=True)


# --------------------------------------------------------------------------------------------------- two jobs at once


MOMENTS = {
    "a shard is whole": ("transforms.claims.Claim.publish", lambda self, temporary, name, *rest: name.startswith("train-")),
    "a shard is to be moved": ("transforms.storage.move", lambda source, target: "train-" in target and "_state" not in target),
    "the old data set is to be deleted": ("transforms.claims.Claim.take_away", lambda self, paths: True),
    "rejects are written": ("transforms.storage.write_bytes", lambda path, data: "rejects-" in path),
    "rejects are merged": ("beam_pipeline.publish.write_rejects", lambda *given: True),
    "empty shards are written": ("beam_pipeline.publish.write_empty_shards", lambda *given: True),
    "the manifest is to be moved": ("transforms.storage.move", lambda source, target: target.endswith("manifest.json")),
    "shards are checked": ("beam_pipeline.publish.check_shards", lambda *given: True),
    "the marker is to be moved": ("transforms.storage.move", lambda source, target: target.endswith("_SUCCESS")),
}
"""When a later job comes and runs to its end: a function, and for which of its calls."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_of_two_jobs_on_one_output_the_later_goes_on_and_the_other_says_so(
    work: Run, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The later job has other options, so that a file of the earlier one would show."""
    work("fresh", mask_encoding="png1", boxes="mask")
    paths = ["--annotations", str(data.annotations), "--images", str(data.images), "--output", str(tmp_path / "a")]
    given = ["--num_shards=3", "--splits=train=0.5,val=0.5", "--mask_encoding=png1", "--boxes=mask", "--overwrite"]
    command = [sys.executable, "-m", "beam_pipeline.cli", "run", *paths, *given]
    where, when = MOMENTS[moment]
    home, name = where.rsplit(".", 1)
    owner = claims.Claim if home.endswith("Claim") else importlib.import_module(home)
    real = getattr(owner, name)
    runs: list[int] = []

    def with_another_job(*arguments: Any) -> Any:
        if not runs and when(*arguments):
            runs.append(1)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return real(*arguments)

    monkeypatch.setattr(owner, name, with_another_job)
    with pytest.raises(InputError, match="another job has begun to write there since"):
        work("a", overwrite=True)
    assert runs == [1]
    assert digests(tmp_path / "a") == digests(tmp_path / "fresh")


def test_a_job_that_is_overtaken_and_not_yet_replaced_publishes_nothing(
    work: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beam_pipeline import publish

    check = publish.check_shards

    def claimed_meanwhile(*arguments: Any) -> None:
        check(*arguments)
        prepare_output(str(tmp_path / "a"), False)

    monkeypatch.setattr(publish, "check_shards", claimed_meanwhile)
    with pytest.raises(InputError, match="another job has begun to write there"):
        work("a")
    assert not (tmp_path / "a" / "_SUCCESS").exists()


# ------------------------------------------------------------------------------------------------ too much is rejected


def test_a_job_fails_where_more_is_rejected_than_allowed(work: Run, data: Data, tmp_path: Path) -> None:
    for path in sorted((data.images / "evening").iterdir())[:4]:
        path.unlink()
    with pytest.raises(
        InputError,
        match=r"5 of 30 images \(16\.7%\) can't be written, more than the 5\.0% that --max_reject_fraction allows: "
        r"4 IMAGE_MISSING \(e\.g\. image \d+ \(evening/.*\): there is no file .*\); 1 IMAGE_CORRUPT \(.*\); "
        r".*rejects\.jsonl has them all",
    ):
        work("a")
    assert (tmp_path / "a" / "rejects.jsonl").exists()
    assert not (tmp_path / "a" / "_SUCCESS").exists()
    assert work("a", resume=True, max_reject_fraction=0.2).manifest["images"]["rejected"] == 5


def test_what_is_dropped_on_request_does_not_count(work: Run) -> None:
    assert work("a", drop_crowds=True, max_reject_fraction=0.04).manifest["annotations"]["dropped"] == 1
    with pytest.raises(InputError, match=r"8 of 220 annotations \(3\.6%\) can't be written"):
        work("b", max_reject_fraction=0.035)
