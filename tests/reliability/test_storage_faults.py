"""A bucket that misbehaves: annotations, images and output on `gs://`, behind a proxy that makes faults.

Either the job ends well and has published the very bytes of a run on this machine, or it ends with an error, says so, and
there is no success marker.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from storage_server import FAULTS, StorageServer, files_below, published, storage_server

from beam_pipeline.dataset_files import SUCCESS
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run

IMAGES = 40
OPTIONS = {"splits": "train=0.8,val=0.2", "num_shards": "2"}
FLAGS = [f"--{name}={value}" for name, value in OPTIONS.items()]
PIECES = {"READ_BYTES": 4096, "WRITE_BYTES": 1 << 18}
"""So that even what is small here is read by ranges, and written piece by piece."""
RATES = (0.01, 0.05, 0.20)
HANGS_SECONDS = 240.0


class Data(NamedTuple):
    annotations: Path
    images: Path


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Forty pictures of noise, a few KB each; one of them cut off, one annotation malformed."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "images").mkdir()
    rng, noise = random.Random(3), np.random.default_rng(3)
    images, annotations = [], []
    for number in range(1, IMAGES + 1):
        name = f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        width, height = rng.choice([(72, 54), (54, 72)])
        path = folder / "images" / name
        Image.fromarray(noise.integers(0, 255, (height, width, 3), np.uint8)).save(path)
        if number == 7:
            path.write_bytes(path.read_bytes()[:-100])
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for _ in range(rng.randint(0, 4)):
            x, y = rng.uniform(0, width - 12), rng.uniform(0, height - 12)
            ring = [x, y, x + rng.uniform(4, 12), y, x + 5, y + rng.uniform(4, 12)]
            identity = {"id": len(annotations) + 1, "image_id": number, "category_id": rng.randint(1, 3), "iscrowd": 0}
            annotations.append({**identity, "segmentation": [ring], "bbox": [x, y, 12, 12], "area": 50})
    annotations[11]["segmentation"][0].pop()
    categories = [{"id": number, "name": f"kind {number}"} for number in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return Data(folder / "annotations.json", folder / "images")


@pytest.fixture(scope="module")
def undisturbed(small_data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on this machine publishes."""
    output = tmp_path_factory.mktemp("undisturbed") / "records"
    run(RunOptions(annotations=str(small_data.annotations), images=str(small_data.images), output=str(output), **OPTIONS), [])
    return published(files_below(output), str(small_data.annotations), str(small_data.images))


@pytest.fixture(scope="module")
def server(small_data: Data) -> Iterator[StorageServer]:
    with storage_server() as server:
        server.upload(small_data.images, "gs://bkt/in/images")
        server.upload(small_data.annotations, "gs://bkt/in/annotations.json")
        yield server


class Tried(NamedTuple):
    kind: str
    faults: Counter[str]
    survived: bool


@pytest.fixture(scope="module")
def tried(figures: dict[str, str]) -> Iterator[list[Tried]]:
    """All runs of this file; they become rows of the table."""
    found: list[Tried] = []
    yield found
    for kind in dict.fromkeys(one.kind for one in found):
        runs = [one for one in found if one.kind == kind]
        faults = sum((one.faults for one in runs), Counter())
        survived = sum(one.survived for one in runs)
        figures[f"bucket on `gs://`: {kind}"] = (
            f"{faults.total()} faults in {len(runs)} runs: {survived} with the bytes of an undisturbed run, "
            f"{len(runs) - survived} ended with a message and without a marker, 0 silently wrong"
        )


def run_and_compare(
    server: StorageServer, undisturbed: dict[str, bytes], output: str, kind: str, tried: list[Tried], **constants: float
) -> bool:
    """Whether the job ended well; fails where it did something else than ending well, or with an error."""
    paths = ["--annotations=gs://bkt/in/annotations.json", "--images=gs://bkt/in/images", f"--output={output}"]
    done = server.run_maskbeam("run", *paths, *FLAGS, timeout=HANGS_SECONDS, **constants)
    faults = server.faults
    files = server.objects(output)
    if done.returncode == 0:
        found = published(files, "gs://bkt/in/annotations.json", "gs://bkt/in/images")
        differ = sorted(name for name in found.keys() | undisturbed.keys() if found.get(name) != undisturbed.get(name))
        assert not differ, f"other bytes, or other files, after {faults}"
    else:
        assert SUCCESS not in files, f"a marker, after {faults} and exit status {done.returncode}"
        assert done.stderr.splitlines()[-1].startswith("maskbeam: "), done.stderr
    tried.append(Tried(kind, faults, done.returncode == 0))
    return done.returncode == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", FAULTS)
def test_faults_of_one_kind(
    server: StorageServer, undisturbed: dict[str, bytes], tried: list[Tried], kind: str, rate: float
) -> None:
    server.plan({kind: rate}, seed=5)
    survived = run_and_compare(server, undisturbed, f"gs://bkt/{kind}/{rate}", f"{kind} at 1, 5 and 20 %", tried)
    assert survived or rate > 0.05, "one fault in twenty requests must be survived"
    assert set(server.faults) <= {kind}
    assert rate == min(RATES) or server.faults.total() >= 1, "nothing was tried"


@pytest.mark.parametrize("seed", range(3))
def test_faults_of_all_kinds_and_transfers_in_pieces(
    server: StorageServer, undisturbed: dict[str, bytes], tried: list[Tried], seed: int
) -> None:
    server.plan(dict.fromkeys(FAULTS, 0.01), seed)
    run_and_compare(server, undisturbed, f"gs://bkt/all/{seed}", "all of these at 1 % each, in small pieces", tried, **PIECES)


@pytest.mark.parametrize("spared", [0, 40, 90])
def test_a_bucket_that_goes_away_and_stays_away(
    server: StorageServer, undisturbed: dict[str, bytes], tried: list[Tried], spared: int
) -> None:
    server.plan({"unavailable": 1.0}, spared=spared)
    output = f"gs://bkt/gone/{spared}"
    assert not run_and_compare(server, undisturbed, output, "gone for good in the middle", tried, PATIENCE=2.0)
    server.plan()
    assert run_and_compare(server, undisturbed, output, "the same command, when it is back", tried)
