"""What the tests share: where the real data is, and the demo's data and records, made once a session."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from reports import but_for_time
from storage_server import StorageServer, storage_server

from beam_pipeline.demo import make_demo_data
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from transforms.records import Reject
from transforms.sources.coco_json import CocoAnnotation, parse_annotations

pytest.register_assert_rewrite("store_contract")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """Real data sets beside the checkout; tests that need them are skipped where there are none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"there is no real data at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def tf() -> Any:
    """TensorFlow, for the tests that read with it."""
    return pytest.importorskip("tensorflow")


def parse_annotation(raw: bytes) -> CocoAnnotation | Reject:
    """One element of `annotations`, from its JSON."""
    (found,) = parse_annotations(raw)
    return found


class Data(NamedTuple):
    annotations: Path
    images: Path


class Output(NamedTuple):
    folder: Path
    manifest: dict[str, Any]


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The demo's pictures and annotations."""
    return Data(*make_demo_data(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def storage(demo_data: Data) -> Iterator[StorageServer]:
    """An emulator of Google's buckets that has the demo's data."""
    with storage_server() as server:
        server.upload(demo_data.annotations, "gs://bkt/instances.json")
        server.upload(demo_data.images, "gs://bkt/images")
        yield server


@pytest.fixture(scope="session")
def run_demo(demo_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Output]:
    """Runs the demo's data with options, Beam's as `beam=[…]`, into a new folder."""

    def runs(beam: tuple[str, ...] = (), **options: Any) -> Output:
        folder = options.pop("output", None) or tmp_path_factory.mktemp("out") / "records"
        given = {"annotations": str(demo_data.annotations), "images": str(demo_data.images), "output": str(folder), **options}
        return Output(Path(folder), run(RunOptions(**given), beam).manifest)

    return runs


@pytest.fixture(scope="session")
def demo_output(run_demo: Callable[..., Output]) -> Output:
    """The demo's records, with the default options but two shards a split."""
    return run_demo(splits="train=0.7,val=0.3", num_shards="2")


def whole_tinycoco(root: Path, folder: Path) -> Data:
    """Both halves of tinycoco as one annotation file."""
    parts = {split: json.loads((root / f"annotations/instances_{split}.json").read_text()) for split in ("train2017", "val2017")}
    whole = {
        "images": [dict(i, file_name=f"{split}/{i['file_name']}") for split, part in parts.items() for i in part["images"]],
        "annotations": [one for part in parts.values() for one in part["annotations"]],
        "categories": parts["train2017"]["categories"],
    }
    file = folder / "tinycoco.json"
    file.write_text(json.dumps(whole))
    return Data(file, root / "images")


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder and below, by its path in it; of the report's, all but its time counts."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in but_for_time(files).items()}


Figures = dict[str, str]
"""What was tried for `make reliability`, and the outcome; the rows of docs/reliability.md."""

RELIABILITY = """\
# Bad input and broken machines: what was tried

Written by `make reliability`, which also fails where anything here does not hold. What must happen to each kind of bad input is
tested line by line in `tests/test_faults.py`; the reason codes are explained in [reason_codes.md](reason_codes.md).

| tried | outcome |
|---|---|
"""


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """The figures of this session; they become the page if all of tests/reliability has run and nothing has failed."""
    found: Figures = {}
    yield found
    folder = Path(__file__).parent / "reliability"
    config, session = request.config, request.session
    all_of_it = {item.path for item in session.items} >= set(folder.glob("test_*.py")) and not config.getoption("keyword")
    if all_of_it and not session.testsfailed:
        rows = "".join(f"| {tried} | {outcome} |\n" for tried, outcome in sorted(found.items()))
        (folder.parents[1] / "docs" / "reliability.md").write_text(RELIABILITY + rows, encoding="utf-8")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser, for tests/browser; what needs it is skipped, in words, where it can't be had."""
    from browser import browsing

    with browsing() as started:
        yield started
