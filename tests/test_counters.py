"""What a job counts and logs, held against what is in its records and rejects."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from apache_beam import Pipeline
from conftest import Data

from beam_pipeline.options import RunOptions
from beam_pipeline.pipeline import build
from beam_pipeline.publish import prepare_output
from transforms import counters, events
from transforms.tfrecord import read_records


def run(data: Data, output: Path, **more: object) -> tuple[dict[str, int], dict[str, object]]:
    """The job's counters and distributions, by name."""
    given = {"splits": "train=0.7,val=0.3", "num_shards": "3", **more}
    options = RunOptions(annotations=str(data.annotations), images=str(data.images), output=str(output), **given)
    pipeline = Pipeline(runner="FnApiRunner")
    build(pipeline, options, prepare_output(str(output), False, options.resume))
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query()
    ours = {kind: [one for one in found[kind] if one.key.metric.namespace == counters.NAMESPACE] for kind in found}
    count: Counter[str] = Counter()
    for one in ours["counters"]:
        count[one.key.metric.name] += one.committed
    return dict(count), {one.key.metric.name: one.committed for one in ours["distributions"]}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counted") / "records"


def test_counters_are_what_is_in_the_files(demo_data: Data, output: Path) -> None:
    counted, measured = run(demo_data, output)
    annotations = json.loads(demo_data.annotations.read_text())
    records = sizes = 0
    for shard in output.glob("*.tfrecord"):
        with shard.open("rb") as file:
            records += sum(1 for _ in read_records(file))
        sizes += shard.stat().st_size
    lines = [json.loads(line) for line in (output / "rejects.jsonl").read_text().splitlines()]
    rejected = Counter(f"rejected_{line['kind']}s_{line['reason']}" for line in lines)
    lost = sum(line["kind"] == "annotation" for line in lines)
    assert len(rejected) >= 4
    filled = sum(shard.stat().st_size > 0 for shard in output.glob("*.tfrecord"))
    assert counted == {
        "images_read": len(annotations["images"]),
        "annotations_read": len(annotations["annotations"]),
        "images_written": records,
        "instances_written": len(annotations["annotations"]) - lost,
        "bytes_written": sizes,
        "shards_written": filled,
        **rejected,
    }
    # Every image that reached a shard was read and encoded, or found wanting there.
    at_the_shard = sum(line["kind"] == "image" and line["reason"] in ("IMAGE_MISSING", "IMAGE_CORRUPT") for line in lines)
    assert set(measured) == set(counters.DISTRIBUTIONS)
    for distribution in measured.values():
        assert distribution.count == records + at_the_shard
        assert 0 <= distribution.min <= distribution.max < 60_000


def test_what_is_left_as_it_was_is_counted_apart(demo_data: Data, output: Path) -> None:
    before, _ = run(demo_data, output.with_name("again"))
    after, measured = run(demo_data, output.with_name("again"), resume=True)
    assert after == {**{name: value for name, value in before.items() if name != "shards_written"}, "shards_reused": 6}
    assert measured == {}


def test_names_that_are_not_documented_are_refused() -> None:
    for function in (counters.counter, counters.distribution, events.log):
        with pytest.raises(KeyError):
            function("images_eaten")


def test_log_lines_are_objects_and_one_a_file(demo_data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "maskbeam")
    run(demo_data, tmp_path / "records")
    logged = [json.loads(record.getMessage()) for record in caplog.records if record.name == "maskbeam"]
    assert Counter(line["event"] for line in logged) == {"annotations_found": 1, "shard_written": 6, "published": 1}
    assert {line["file"] for line in logged if line["event"] == "shard_written"} == {
        shard.name for shard in (tmp_path / "records").glob("*.tfrecord")
    }
    run(demo_data, tmp_path / "records", resume=True)
    again = [json.loads(record.getMessage()) for record in caplog.records if record.name == "maskbeam"][len(logged) :]
    assert Counter(line["event"] for line in again) == {"annotations_found": 1, "shard_reused": 6, "published": 1}
