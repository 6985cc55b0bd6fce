"""Publishing: what an output folder may lose, what lies beside the shards, the ledger, and the marker that comes last."""

from __future__ import annotations

import csv
import io
import json
import pkgutil
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import google_crc32c
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import but_for_time

from beam_pipeline import __version__, publish
from beam_pipeline.options import RunOptions
from beam_pipeline.publish import (
    Ledger,
    Publish,
    all_shards,
    bucket_reject,
    check_shards,
    clear_output,
    count_rejects,
    label_map_csv,
    label_map_pbtxt,
    ledger,
    make_manifest,
    write_empty_shards,
    write_reject_part,
    write_rejects,
)
from beam_pipeline.publish import prepare_output as claim_output
from transforms import coders, storage
from transforms.claims import Claim
from transforms.examples import LabelMap
from transforms.records import Category, Census, InputError, Reject
from transforms.sharding import ShardPlan
from transforms.shards import ShardSummary
from transforms.statistics import DatasetStatistics, SplitStatistics
from transforms.tfrecord import RecordWriter

CATEGORIES = [Category(2, "dog"), Category(1, "cat")]
PLAN = ShardPlan((("train", 2), ("val", 1)))
BESIDE = ["_SUCCESS", "dataset_info.json", "features.json", "label_map.csv", "label_map.pbtxt", "manifest.json"]
BESIDE += ["rejects.jsonl", "report.html", "statistics.json", "statistics.pb"]


JOB = "0123456789abcdef0123456789abcdef"


def broken_off(folder: Path, *names: str) -> Path:
    """What a job that was killed leaves: its claim, and these files."""
    fill(folder, *names)
    (folder / "_temporary" / JOB).mkdir(parents=True, exist_ok=True)
    (folder / "_temporary" / "started").write_text(JOB)
    return folder


def published_files(folder: Path) -> dict[str, bytes]:
    """All but the claim, which stands until all is published."""
    return {name: data for name, data in files_of(folder).items() if name != "_temporary/started"}


def run_options(output: Path, **changes: Any) -> RunOptions:
    return RunOptions(annotations="a.json", images="photos", output=str(output), **{"max_reject_fraction": 1.0, **changes})


def claim_on(output: Path) -> Claim:
    """The claim that stands there now."""
    started = output / "_temporary" / "started"
    return Claim(str(output), started.read_text() if started.exists() else "")


def files_of(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return but_for_time(files) if files.get("report.html", b"").startswith(b"<") else files


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content of " + name.encode())
    return folder


def write_shard(output: Path, split: str, index: int, records: list[bytes], plan: ShardPlan = PLAN) -> ShardSummary:
    name = plan.file_name(split, index)
    with (output / name).open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)
    return ShardSummary(split, index, name, len(records), 2 * len(records), writer.bytes, writer.crc32c, "f")


REJECTS = [
    Reject("annotation", 5, 11, "EMPTY_MASK", "no pixel"),
    Reject("annotation", 5, 3, "EMPTY_MASK", "no pixel"),
    Reject("image", 40, None, "IMAGE_MISSING", "ünï “quoted”", "ünï.jpg"),
    Reject("annotation", 40, 9, "IMAGE_MISSING", "its image was rejected"),
    Reject("image", 6, None, "DROPPED_EMPTY_IMAGE", "it has no annotations"),
    Reject("annotation", None, None, "FIELD_INVALID", "no id"),
    Reject("annotation", None, 8, "FIELD_INVALID", "no image id"),
    Reject("image", None, None, "FIELD_INVALID", "no id"),
    Reject("annotation", -5, 2, "DROPPED_CROWD", "it is a crowd"),
]
CENSUS = Census(images=3 + 3, annotations=6 + 6, pixels=6_000_000)


def written_rejects(output: Path, rejects: Iterable[Reject]) -> Counter[tuple[str, str]]:
    buckets: dict[int, list[bytes]] = {}
    for reject in rejects:
        bucket, packed = bucket_reject(reject)
        buckets.setdefault(bucket, []).append(packed)
    claim = Claim.stake(str(output))
    parts = [write_reject_part(claim, bucket, packed) for bucket, packed in buckets.items()]
    write_rejects(claim, parts)
    return count_rejects(parts)


def published(output: Path, plan: ShardPlan = PLAN, overwrite: bool = False) -> None:
    """A data set of three records in the first two shards of the plan, through all of what this module has."""
    prepare_output(str(output), overwrite)
    keys = plan.shard_keys()
    summaries = [write_shard(output, *keys[0], [b"one", b"two"], plan), write_shard(output, *keys[1], [b"three"], plan)]
    claim = claim_on(output)
    parts = [write_reject_part(claim, *part) for part in ((number, [packed]) for number, packed in enumerated_rejects())]
    statistics = DatasetStatistics({"train": SplitStatistics(images=3)})
    publish.publish(run_options(output), claim, 0.0, plan, CENSUS, CATEGORIES, summaries, statistics, parts)


def enumerated_rejects() -> list[tuple[int, bytes]]:
    return [(number, bucket_reject(reject)[1]) for number, reject in enumerate(REJECTS)]


# --------------------------------------------------------------------------------------------------- before the job


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    prepare_output(str(output), False)
    assert files_of(output) == {"_temporary/started": claim_on(output).job.encode()}


def prepare_output(output: str, overwrite: bool) -> None:
    """As a job does: claims the folder, and clears it once the annotations are read."""
    claim = claim_output(output, overwrite)
    assert clear_output(PLAN, run_options(Path(output)), claim, CATEGORIES) == PLAN


def test_what_is_to_be_replaced_stays_until_the_annotations_are_read(tmp_path: Path) -> None:
    published(tmp_path)
    before = files_of(tmp_path)
    claim = claim_output(str(tmp_path), True)
    with pytest.raises(InputError, match="category_ids contiguous"):
        clear_output(PLAN, run_options(tmp_path), claim, [Category(0, "nothing")])
    assert {name: data for name, data in files_of(tmp_path).items() if name in before} == before


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    prepare_output(str(tmp_path), False)
    prepare_output(str(tmp_path) + "/", False)
    assert files_of(tmp_path) == {"_temporary/started": claim_on(tmp_path).job.encode()}


@pytest.mark.parametrize("marker", ["_SUCCESS", "manifest.json"])
def test_a_data_set_is_refused_and_left_alone(tmp_path: Path, marker: str) -> None:
    fill(tmp_path, marker, "train-00000-of-00001.tfrecord")
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=r"holds a data set already: .*, replace it with --overwrite, or .* with --resume"):
        prepare_output(str(tmp_path), False)
    assert files_of(tmp_path) == before


def test_a_published_data_set_is_refused_and_left_alone(tmp_path: Path) -> None:
    published(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="holds a data set already"):
        prepare_output(str(tmp_path), False)
    assert files_of(tmp_path) == before


def test_overwriting_deletes_all_of_ours_and_keeps_what_is_foreign(tmp_path: Path) -> None:
    published(tmp_path)
    foreign = (
        "notes.txt",
        "train.tfrecord",
        "train-0-of-1.tfrecord",
        "train-00000-of-00001.tfrecord.gz",
        "Manifest.json",
        "mine/_SUCCESS",
        "mine/manifest.json",
        "mine/train-00000-of-00001.tfrecord",
    )
    before = files_of(fill(tmp_path, *foreign))
    prepare_output(str(tmp_path), True)
    assert files_of(tmp_path) == {name: before[name] for name in foreign} | {
        "_temporary/started": claim_on(tmp_path).job.encode()
    }


def test_fewer_shards_leave_no_stale_ones(tmp_path: Path) -> None:
    published(tmp_path, ShardPlan((("train", 9), ("val", 4))))
    published(tmp_path, ShardPlan((("train", 2),)), overwrite=True)
    shards = [name for name in files_of(tmp_path) if name.endswith("tfrecord")]
    assert shards == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


@pytest.mark.parametrize("name", ["notes.txt", "a b#%ü.jpg", "started"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    before = files_of(fill(tmp_path, name))
    with pytest.raises(InputError) as caught:
        prepare_output(str(tmp_path), False)
    assert f"is not empty ({name})" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert files_of(tmp_path) == before


def test_with_overwrite_foreign_files_are_written_beside(tmp_path: Path) -> None:
    before = files_of(fill(tmp_path, "notes.txt"))
    published(tmp_path, overwrite=True)
    assert {name: data for name, data in files_of(tmp_path).items() if name in before} == before
    assert (tmp_path / "_SUCCESS").exists()


def test_what_a_broken_off_job_has_left_is_cleared_away(tmp_path: Path) -> None:
    broken_off(tmp_path, f"_temporary/{JOB}/val-00000-of-00001.tfrecord.0123", "_temporary/rejects-03.jsonl")
    fill(tmp_path, "train-00000-of-00009.tfrecord", "label_map.pbtxt", "label_map.csv", "statistics.json", "rejects.jsonl")
    prepare_output(str(tmp_path), False)
    assert files_of(tmp_path) == {"_temporary/started": claim_on(tmp_path).job.encode()}


def test_a_job_broken_off_beside_foreign_files_can_be_started_again(tmp_path: Path) -> None:
    broken_off(tmp_path, "train-00000-of-00009.tfrecord", "notes.txt")
    prepare_output(str(tmp_path), False)
    assert sorted(files_of(tmp_path)) == ["_temporary/started", "notes.txt"]


def test_the_marker_is_deleted_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    deleted: list[list[str]] = []
    delete = storage.delete

    def recorded(paths: list[str]) -> None:
        deleted.extend([[Path(path).name.rpartition(".")[0] for path in paths]] if paths else [])
        delete(paths)

    monkeypatch.setattr(storage, "delete", recorded)
    prepare_output(str(tmp_path), True)
    assert deleted[0] == ["_SUCCESS"]
    assert sorted(chain(*deleted[1:])) == sorted(
        [*(name for name in BESIDE if name != "_SUCCESS"), *(PLAN.file_name(*key) for key in PLAN.shard_keys())]
    )


def test_a_job_that_breaks_off_while_it_deletes_leaves_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    delete = storage.delete

    def broken(paths: list[str]) -> None:
        if paths and not paths[0].endswith("_SUCCESS"):
            raise OSError("the disk is gone")
        delete(paths)

    monkeypatch.setattr(storage, "delete", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        prepare_output(str(tmp_path), True)
    assert not (tmp_path / "_SUCCESS").exists()


@pytest.mark.parametrize("name", ["train-00000-of-00010.tfrecord", "label_map.pbtxt", "statistics.json", "rejects.jsonl"])
def test_files_that_are_only_named_like_ours_are_not_deleted_unasked(tmp_path: Path, name: str) -> None:
    before = files_of(fill(tmp_path, name))
    with pytest.raises(InputError):
        prepare_output(str(tmp_path), False)
    assert files_of(tmp_path) == before


def test_a_job_killed_between_manifest_and_marker_can_be_started_again(tmp_path: Path) -> None:
    broken_off(tmp_path, "manifest.json", "train-00000-of-00001.tfrecord")
    prepare_output(str(tmp_path), False)


def test_what_a_killed_job_has_spilled_is_cleared_away(tmp_path: Path) -> None:
    broken_off(tmp_path, f"_temporary/{JOB}/scratch/0123456789abcdef")
    prepare_output(str(tmp_path), False)
    assert files_of(tmp_path) == {"_temporary/started": claim_on(tmp_path).job.encode()}


# --------------------------------------------------------------------------------------------------------- label maps

AWKWARD = [
    'say "hi"',
    "back\\slash",
    "new\nline",
    "tab\tbed",
    "a,b;c",
    "日本 犬 😀 é",
    "it's",
    " spaced ",
    "\x01\x7f",
    "{id: 9}",
]


def label_map_message() -> Any:
    """The Object Detection API's `StringIntLabelMap`, as far as we write it."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{uuid.uuid4().hex}.proto", package="labels", syntax="proto2")
    item = file.message_type.add(name="Item")
    item.field.add(name="name", number=1, label=1, type=9)
    item.field.add(name="id", number=2, label=1, type=5)
    whole = file.message_type.add(name="Map")
    whole.field.add(name="item", number=1, label=3, type=11, type_name=".labels.Item")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("labels.Map"))()


def labels_of(names: list[str]) -> LabelMap:
    return LabelMap.of([Category(number, name) for number, name in enumerate(names, 1)], False)


def test_the_label_maps_of_two_categories() -> None:
    labels = LabelMap.of(CATEGORIES, False)
    assert label_map_pbtxt(labels) == b'item {\n  id: 1\n  name: "cat"\n}\nitem {\n  id: 2\n  name: "dog"\n}\n'
    assert label_map_csv(labels) == b"1,cat\n2,dog\n"


def test_names_are_escaped_in_the_label_map() -> None:
    lines = label_map_pbtxt(labels_of(['a "b"', "c\\d", "e\nf\tg", "é犬😀", "\x01"])).decode().splitlines()
    names = [line for line in lines if "name" in line]
    assert names == ['  name: "a \\"b\\""', '  name: "c\\\\d"', '  name: "e\\nf\\tg"', '  name: "é犬😀"', '  name: "\\u0001"']


@settings(max_examples=100, deadline=None)
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_any_name_is_read_back_from_the_label_map(names: list[str]) -> None:
    parsed = text_format.Parse(label_map_pbtxt(labels_of(names)).decode(), label_map_message())
    assert [(item.id, item.name) for item in parsed.item] == list(enumerate(names, 1))


def test_awkward_names_are_read_back_from_both_label_maps() -> None:
    labels = labels_of(AWKWARD)
    parsed = text_format.Parse(label_map_pbtxt(labels).decode(), label_map_message())
    assert [item.name for item in parsed.item] == AWKWARD
    rows = csv.reader(io.StringIO(label_map_csv(labels).decode(), newline=""))
    assert [(int(label), name) for label, name in rows] == list(enumerate(AWKWARD, 1))


def test_a_name_with_a_carriage_return_is_read_back_from_the_csv() -> None:
    rows = csv.reader(io.StringIO(label_map_csv(labels_of(["a\rb"])).decode(), newline=""))
    assert list(rows) == [["1", "a\rb"]]


def test_names_are_quoted_in_the_csv() -> None:
    assert label_map_csv(labels_of(["a,b", 'c"d', "e\nf", " g ", "é"])) == b'1,"a,b"\n2,"c""d"\n3,"e\nf"\n4, g \n5,\xc3\xa9\n'


def test_no_categories_give_empty_label_maps() -> None:
    assert label_map_pbtxt(LabelMap.of([], False)) == label_map_csv(LabelMap.of([], True)) == b""


def test_the_same_category_twice_is_one() -> None:
    assert LabelMap.of([*CATEGORIES, *CATEGORIES], False).items() == [(1, "cat"), (2, "dog")]


def test_labels_are_the_ids_of_the_source_or_numbered_in_their_order() -> None:
    categories = [Category(90, "dog"), Category(-3, "cat"), Category(0, "owl")]
    assert LabelMap.of(categories, True).labels == {-3: (1, "cat"), 0: (2, "owl"), 90: (3, "dog")}
    assert LabelMap.of(categories[:1], False).labels == {90: (90, "dog")}
    largest = 2**31 - 1
    assert LabelMap.of([Category(largest, "x")], False).items() == [(largest, "x")]


@pytest.mark.parametrize("contiguous", [False, True])
def test_an_id_with_two_names_is_refused(contiguous: bool) -> None:
    with pytest.raises(InputError, match="the category id 1 stands for 'cat' and 'dog'"):
        LabelMap.of([Category(1, "dog"), Category(1, "cat")], contiguous)


@pytest.mark.parametrize("contiguous", [False, True])
def test_a_name_with_two_ids_is_refused(contiguous: bool) -> None:
    with pytest.raises(InputError, match=r"the categories 1 and 7 are both named 'cat'.*rename one"):
        LabelMap.of([Category(7, "cat"), Category(1, "cat")], contiguous)


@pytest.mark.parametrize("category_id", [0, -1, 2**31])
def test_an_id_that_trainers_do_not_take_is_refused_with_a_way_out(category_id: int) -> None:
    with pytest.raises(InputError, match=f"'owl' has the id {category_id}.*--category_ids contiguous"):
        LabelMap.of([*CATEGORIES, Category(category_id, "owl")], False)


# ------------------------------------------------------------------------------------------------ ledger and manifest

REASONS: Counter[tuple[str, str]] = Counter(
    {
        ("image", "IMAGE_MISSING"): 1,
        ("image", "DROPPED_EMPTY_IMAGE"): 2,
        ("annotation", "IMAGE_MISSING"): 4,
        ("annotation", "EMPTY_MASK"): 3,
        ("annotation", "DROPPED_CROWD"): 5,
    }
)
SUMMARIES = [
    ShardSummary("train", 0, "train-00000-of-00001.tfrecord", 7, 30, 1234, 0xABC, "f0"),
    ShardSummary("val", 0, "val-00000-of-00001.tfrecord", 1, 2, 99, 0xFFFFFFFF, "f1"),
]


def test_the_ledger_tells_what_was_dropped_from_what_was_rejected() -> None:
    assert ledger("image", 11, 8, REASONS) == Ledger(11, 8, 1, 2)
    assert ledger("annotation", 44, 32, REASONS) == Ledger(44, 32, 7, 5)
    assert ledger("image", 11, 8, REASONS).balances()
    assert ledger("image", 0, 0, Counter()).balances()
    assert not ledger("image", 12, 8, REASONS).balances()


def test_the_manifest(tmp_path: Path) -> None:
    options = run_options(tmp_path, splits="train=0.5,val=0.5", overwrite=True, verbose=True)
    found = make_manifest(options, LabelMap.of(CATEGORIES, False), Census(11, 44, 5), SUMMARIES, REASONS)
    assert found == {
        "maskbeam": __version__,
        "options": options.for_manifest(),
        "categories": 2,
        "images": {"read": 11, "written": 8, "rejected": 1, "dropped": 2},
        "annotations": {"read": 44, "written": 32, "rejected": 7, "dropped": 5},
        "reasons": {
            "image": {"DROPPED_EMPTY_IMAGE": 2, "IMAGE_MISSING": 1},
            "annotation": {"DROPPED_CROWD": 5, "EMPTY_MASK": 3, "IMAGE_MISSING": 4},
        },
        "shards": [
            {
                "split": "train",
                "file": SUMMARIES[0].file_name,
                "records": 7,
                "instances": 30,
                "bytes": 1234,
                "crc32c": "00000abc",
                "fingerprint": "f0",
            },
            {
                "split": "val",
                "file": SUMMARIES[1].file_name,
                "records": 1,
                "instances": 2,
                "bytes": 99,
                "crc32c": "ffffffff",
                "fingerprint": "f1",
            },
        ],
    }
    assert json.loads(publish.as_json(found)) == found
    assert not {"output", "overwrite", "resume", "verbose"} & set(found["options"])
    assert found["options"]["splits"] == "train=0.5,val=0.5"


@pytest.mark.parametrize(
    ("census", "reasons"),
    [
        (Census(10, 44, 5), REASONS),
        (Census(12, 44, 5), REASONS),
        (Census(11, 43, 5), REASONS),
        (Census(11, 45, 5), REASONS),
        (Census(11, 44, 5), REASONS + Counter({("annotation", "EMPTY_MASK"): 1})),
        (Census(11, 44, 5), REASONS + Counter({("image", "DROPPED_EMPTY_IMAGE"): 1})),
        (Census(11, 44, 5), Counter()),
        (Census(12, 43, 5), REASONS),
    ],
)
def test_a_ledger_that_does_not_balance_is_a_bug_and_not_published(
    tmp_path: Path, census: Census, reasons: Counter[tuple[str, str]]
) -> None:
    with pytest.raises(AssertionError, match="the ledger does not balance: images=Ledger"):
        make_manifest(run_options(tmp_path), LabelMap.of(CATEGORIES, False), census, SUMMARIES, reasons)


# ------------------------------------------------------------------------------------------------------------- rejects


def test_rejects_are_written_sorted_and_counted(tmp_path: Path) -> None:
    reasons = written_rejects(tmp_path, REJECTS)
    lines = (tmp_path / "rejects.jsonl").read_bytes().splitlines()
    found = [tuple(json.loads(line).values()) for line in lines]
    assert [one[:3] for one in found] == [
        ("image", None, None),
        ("annotation", None, None),
        ("annotation", None, 8),
        ("annotation", -5, 2),
        ("annotation", 5, 3),
        ("annotation", 5, 11),
        ("image", 6, None),
        ("image", 40, None),
        ("annotation", 40, 9),
    ]
    assert json.loads(lines[7]) == {
        "kind": "image",
        "image_id": 40,
        "annotation_id": None,
        "reason": "IMAGE_MISSING",
        "message": "ünï “quoted”",
        "file_name": "ünï.jpg",
    }
    assert reasons == Counter((reject.kind, reject.reason) for reject in REJECTS)


def test_no_rejects_give_an_empty_file(tmp_path: Path) -> None:
    assert written_rejects(tmp_path, []) == Counter()
    assert (tmp_path / "rejects.jsonl").read_bytes() == b""


ids = st.none() | st.integers(-2, 3) | st.sampled_from([2**63 - 1, -(2**63)])
any_rejects = st.builds(
    Reject,
    st.sampled_from(["image", "annotation"]),
    ids,
    ids,
    st.sampled_from(["EMPTY_MASK", "DUP_ID", "DROPPED_CROWD"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)


@settings(max_examples=40, deadline=None)
@given(rejects=st.lists(any_rejects, max_size=12), randomness=st.randoms(use_true_random=False))
def test_rejects_do_not_depend_on_the_order_of_input(
    tmp_path_factory: pytest.TempPathFactory, rejects: list[Reject], randomness: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("rejects")
    reasons = written_rejects(folder, rejects)
    expected = (folder / "rejects.jsonl").read_bytes()
    assert Counter(Reject(**json.loads(line)) for line in expected.splitlines()) == Counter(rejects)
    assert reasons.total() == len(rejects)
    randomness.shuffle(rejects)
    assert written_rejects(folder, rejects) == reasons
    assert (folder / "rejects.jsonl").read_bytes() == expected


def test_rejects_of_an_image_are_in_one_bucket() -> None:
    assert len({bucket_reject(Reject("annotation", 5, number, "DUP_ID", ""))[0] for number in range(50)}) == 1
    buckets = {bucket_reject(Reject("image", number, None, "DUP_IMAGE", ""))[0] for number in range(500)}
    assert buckets == set(range(publish.REJECT_BUCKETS))


# -------------------------------------------------------------------------------------------------------------- shards


def test_empty_shards_are_written_and_all_are_in_the_order_of_the_plan(tmp_path: Path) -> None:
    there = write_shard(tmp_path, "train", 1, [b"record"])
    before = published_files(tmp_path)
    found = all_shards(PLAN, [there])
    write_empty_shards(Claim.stake(str(tmp_path)), found)
    empty = 0, 0, 0, 0, ""
    assert found == [
        ShardSummary("train", 0, "train-00000-of-00002.tfrecord", *empty),
        there,
        ShardSummary("val", 0, "val-00000-of-00001.tfrecord", *empty),
    ]
    assert published_files(tmp_path) == before | {found[0].file_name: b"", found[2].file_name: b""}


def test_shards_that_are_all_there_are_not_touched(tmp_path: Path) -> None:
    there = [write_shard(tmp_path, split, index, [b"record"]) for split, index in PLAN.shard_keys()]
    before = files_of(tmp_path)
    assert all_shards(PLAN, there[::-1]) == there
    write_empty_shards(Claim.stake(str(tmp_path)), there)
    assert published_files(tmp_path) == before


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardSummary]:
    return [write_shard(tmp_path, split, index, [b"record"]) for split, index in PLAN.shard_keys()]


def test_shards_that_are_all_listed_pass(tmp_path: Path, shards: list[ShardSummary]) -> None:
    fill(tmp_path, "notes.txt", "train.tfrecord", "mine/train-00000-of-00009.tfrecord", "_temporary/x")
    check_shards(str(tmp_path), shards)
    check_shards(str(tmp_path) + "/", shards)


def test_a_missing_shard_is_noticed(tmp_path: Path, shards: list[ShardSummary]) -> None:
    (tmp_path / shards[1].file_name).unlink()
    with pytest.raises(OSError, match=r"train-00001-of-00002.tfrecord: expected \d+ bytes, storage lists None"):
        check_shards(str(tmp_path), shards)


def test_an_extra_shard_is_noticed(tmp_path: Path, shards: list[ShardSummary]) -> None:
    fill(tmp_path, "train-00000-of-00009.tfrecord")
    with pytest.raises(OSError, match=r"train-00000-of-00009.tfrecord: expected None bytes, storage lists \d+"):
        check_shards(str(tmp_path), shards)


@pytest.mark.parametrize("change", [b"", b"more than there was in the shard before"])
def test_a_shard_of_another_size_is_noticed(tmp_path: Path, shards: list[ShardSummary], change: bytes) -> None:
    (tmp_path / shards[2].file_name).write_bytes(change)
    with pytest.raises(
        OSError, match=f"val-00000-of-00001.tfrecord: expected {shards[2].bytes} bytes, storage lists {len(change)}"
    ):
        check_shards(str(tmp_path), shards)


# ------------------------------------------------------------------------------------------------------------- publish


def test_a_published_data_set_is_complete_and_nothing_temporary_is_left(tmp_path: Path) -> None:
    published(tmp_path)
    assert sorted(files_of(tmp_path)) == sorted([*BESIDE, *(PLAN.file_name(*key) for key in PLAN.shard_keys())])
    assert not (tmp_path / "_temporary").exists()
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert [shard["file"] for shard in manifest["shards"]] == [PLAN.file_name(*key) for key in PLAN.shard_keys()]
    for shard in manifest["shards"]:
        data = (tmp_path / shard["file"]).read_bytes()
        assert (len(data), f"{google_crc32c.value(data):08x}") == (shard["bytes"], shard["crc32c"])
    assert manifest["images"] == {"read": 6, "written": 3, "rejected": 2, "dropped": 1}
    assert manifest["annotations"] == {"read": 12, "written": 6, "rejected": 5, "dropped": 1}
    assert (tmp_path / "label_map.csv").read_text() == "1,cat\n2,dog\n"
    statistics = json.loads((tmp_path / "statistics.json").read_bytes())
    assert statistics["train"]["images"] == 3
    assert (tmp_path / "rejects.jsonl").read_bytes().count(b"\n") == len(REJECTS)


def test_publishing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    published(tmp_path / "a")
    published(tmp_path / "b")
    published(tmp_path / "a", overwrite=True)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_the_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    write, check = storage.write_bytes, publish.check_shards

    def recorded(path: str, data: bytes) -> None:
        steps.append(re.sub(r"\.[0-9a-f]{32}$", "", Path(path).name))
        write(path, data)

    def checked(output: str, summaries: list[ShardSummary]) -> None:
        steps.append("check")
        check(output, summaries)

    monkeypatch.setattr(storage, "write_bytes", recorded)
    monkeypatch.setattr(publish, "check_shards", checked)
    published(tmp_path)
    assert steps[-2:] == ["check", "_SUCCESS"]
    assert {"manifest.json", "label_map.pbtxt", "label_map.csv", "statistics.json"} <= set(steps[:-2])


def publish_shards(output: Path, summaries: list[ShardSummary], census: Census) -> None:
    publish.publish(run_options(output), claim_on(output), 0.0, PLAN, census, CATEGORIES, summaries, DatasetStatistics(), [])


def test_no_marker_is_set_where_a_shard_is_missing(tmp_path: Path) -> None:
    prepare_output(str(tmp_path), False)
    summary = write_shard(tmp_path, "train", 0, [b"record"])
    (tmp_path / summary.file_name).unlink()
    with pytest.raises(OSError, match="expected 22 bytes, storage lists None"):
        publish_shards(tmp_path, [summary], Census(1, 2, 1))
    assert not (tmp_path / "_SUCCESS").exists()


def test_no_marker_is_set_where_a_shard_has_another_size(tmp_path: Path) -> None:
    prepare_output(str(tmp_path), False)
    summary = write_shard(tmp_path, "train", 0, [b"record"])
    with (tmp_path / summary.file_name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(OSError, match="expected 22 bytes, storage lists 23"):
        publish_shards(tmp_path, [summary], Census(1, 2, 1))
    assert not (tmp_path / "_SUCCESS").exists()


def test_no_marker_is_set_where_a_stale_shard_is_left(tmp_path: Path) -> None:
    prepare_output(str(tmp_path), False)
    fill(tmp_path, "test-00000-of-00001.tfrecord")
    with pytest.raises(OSError, match="expected None bytes"):
        publish_shards(tmp_path, [write_shard(tmp_path, "train", 0, [b"record"])], Census(1, 2, 1))
    assert not (tmp_path / "_SUCCESS").exists()


def test_no_marker_and_no_manifest_where_the_ledger_does_not_balance(tmp_path: Path) -> None:
    prepare_output(str(tmp_path), False)
    with pytest.raises(AssertionError, match="the ledger does not balance"):
        publish_shards(tmp_path, [write_shard(tmp_path, "train", 0, [b"record"])], Census(2, 2, 1))
    assert not {"_SUCCESS", "manifest.json"} & set(files_of(tmp_path))


def test_no_images_at_all_make_a_data_set_too(tmp_path: Path) -> None:
    prepare_output(str(tmp_path), False)
    publish_shards(tmp_path, [], Census())
    found = published_files(tmp_path)
    assert sorted(found) == sorted([*BESIDE, *(PLAN.file_name(*key) for key in PLAN.shard_keys())])
    assert json.loads(found["manifest.json"])["images"] == {"read": 0, "written": 0, "rejected": 0, "dropped": 0}
    assert json.loads(found["statistics.json"]) == {}


def attempt(output: Path, claim: Claim) -> None:
    publish.publish(run_options(output), claim, 0.0, PLAN, Census(), CATEGORIES, [], DatasetStatistics(), [])


def test_an_attempt_after_one_that_has_published_changes_nothing(tmp_path: Path) -> None:
    claim = claim_output(str(tmp_path), False)
    attempt(tmp_path, claim)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not (tmp_path / "_temporary").exists()
    attempt(tmp_path, claim)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("broken_off_in", ["claims.Claim.release", "claims.Claim.check", "storage.delete", "claims.os.rmdir"])
def test_an_attempt_goes_on_where_one_has_ended_behind_the_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_off_in: str
) -> None:
    claim = claim_output(str(tmp_path / "a"), False)
    storage.write_bytes(claim.temporary_name("rejects"), b"of this job")
    name = f"transforms.{broken_off_in}"
    real = pkgutil.resolve_name(name)

    def killed(*arguments: Any) -> None:
        if (tmp_path / "a" / "_SUCCESS").exists():
            raise SystemExit
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(name, killed)
        with pytest.raises(SystemExit):
            attempt(tmp_path / "a", claim)
    assert (tmp_path / "a" / "_SUCCESS").exists()
    assert (tmp_path / "a" / "_temporary").exists()
    attempt(tmp_path / "a", claim)
    attempt(tmp_path / "b", claim_output(str(tmp_path / "b"), False))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_what_can_not_be_deleted_behind_the_marker_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(claim: Claim) -> None:
        raise OSError(5, "Input/output error")

    claim = claim_output(str(tmp_path), False)
    monkeypatch.setattr(Claim, "clear", broken)
    attempt(tmp_path, claim)
    assert {"_SUCCESS", "_temporary/started"} <= set(files_of(tmp_path))


def test_an_attempt_whose_claim_has_lapsed_does_not_take_another_data_set_for_its_own(tmp_path: Path) -> None:
    published(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="another job has begun to write there"):
        attempt(tmp_path, Claim(str(tmp_path), JOB))
    assert files_of(tmp_path) == before


def test_an_attempt_whose_claim_has_lapsed_does_not_end_that_of_another_job(tmp_path: Path) -> None:
    claim = claim_output(str(tmp_path), False)
    attempt(tmp_path, claim)
    claim_output(str(tmp_path), True)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="another job has begun to write there"):
        attempt(tmp_path, claim)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("names", [["_temporary/theirs"], ["_state/mine.txt"], ["_temporary/started"]])
def test_folders_that_are_only_named_like_ours_are_not_deleted_unasked(tmp_path: Path, names: list[str]) -> None:
    before = files_of(fill(tmp_path, *names))
    with pytest.raises(InputError, match="is not empty"):
        prepare_output(str(tmp_path), False)
    assert files_of(tmp_path) == before


def test_publish_in_a_pipeline_gives_the_same_as_by_hand(tmp_path: Path) -> None:
    coders.register()
    by_hand, output = tmp_path / "by hand", tmp_path / "in a pipeline"
    published(by_hand)
    prepare_output(str(output), False)
    summaries = [write_shard(output, "train", 0, [b"one", b"two"]), write_shard(output, "train", 1, [b"three"])]
    collections = {
        "plan": ([PLAN], ShardPlan),
        "census": ([CENSUS], Census),
        "categories": (CATEGORIES, Category),
        "summaries": (summaries[::-1], ShardSummary),
        "statistics": ([DatasetStatistics({"train": SplitStatistics(images=3)})], DatasetStatistics),
        "rejects": (REJECTS[::-1], Reject),
    }
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        created = {
            name: pipeline | name >> beam.Create(values).with_output_types(kind) for name, (values, kind) in collections.items()
        }
        _ = pipeline | Publish(run_options(output), claim_on(output), 0.0, **created)
    assert files_of(output) == files_of(by_hand)
    assert not (output / "_temporary").exists()
