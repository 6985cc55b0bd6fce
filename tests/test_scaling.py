"""benchmarks/scaling.py: that it counts right, and what holds of the pipeline's traffic."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsList

from beam_pipeline.options import RunOptions
from beam_pipeline.run import run as run_maskbeam
from transforms import ReadCoco
from transforms.batches import BatchWriter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import make_data
import price
import scaling

IMAGES = 60
WINDOWED = 13
"""Bytes that Beam writes before each element: 8 of time, 4 of how many windows, none of the global one, 1 of its pane."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data.make(folder, IMAGES, scaling.INSTANCES, 320, 240, scattered=True)
    return folder


def test_what_is_grouped_and_what_is_a_side_input_is_counted_to_the_byte():
    job = scaling.Job(1)
    with beam.Pipeline(runner=scaling.MeasuringRunner(job), options=PipelineOptions([])) as pipeline:
        pairs = pipeline | "ReadAnnotations" >> beam.Create([("key", b"seven__"), ("key", b"x" * 200), ("k", b"")])
        pairs |= "ReadAnnotations/Typed" >> beam.Map(lambda pair: pair).with_output_types(tuple[str, bytes])
        names = pairs | "ReadAnnotations/Names" >> beam.Map(lambda pair: pair[0]).with_output_types(str)
        grouped = pairs | "ReadAnnotations/Group" >> beam.GroupByKey()
        _ = grouped | "ReadAnnotations/Use" >> beam.Map(lambda _, given: None, AsList(names))
    lengths = (1 + 3) + (1 + 7) + (1 + 3) + (2 + 200) + (1 + 1) + (1 + 0)
    assert job.grouped["ReadAnnotations/Group"] == scaling.Traffic(3, lengths + 3 * WINDOWED)
    assert job.side_inputs == {"ReadAnnotations/Names": scaling.Traffic(0, (1 + 3) + (1 + 3) + (1 + 1) + 3 * WINDOWED)}


def test_batches_are_nearly_all_that_is_shuffled(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches: list[int] = []
    write = BatchWriter.write

    def counting(self: BatchWriter, sections: Sequence[bytes]) -> bytes:
        batches.append(len(write(self, sections)))
        return write(self, sections)

    monkeypatch.setattr(BatchWriter, "write", counting)
    job = scaling.run(data, tmp_path / "out", IMAGES)
    packed = [
        job.grouped[name] for name in ("ReadAnnotations/GroupIds", "ReadAnnotations/GroupByImage", "AssignShards/GroupByShard")
    ]
    assert sum(traffic.elements for traffic in packed) == len(batches)
    with_keys = sum(traffic.bytes for traffic in packed) - sum(batches)
    assert WINDOWED * len(batches) < with_keys < 40 * len(batches)


def test_the_job_that_is_measured_writes_what_a_real_one_does(data: Path, tmp_path: Path):
    job = scaling.run(data, tmp_path / "measured", IMAGES, num_shards="3")
    given = {"annotations": str(data / "instances.json"), "images": str(data / "images"), "num_shards": "3"}
    run_maskbeam(RunOptions(output=str(tmp_path / "real"), **given), [])
    shards = list((tmp_path / "real").glob("*.tfrecord"))
    assert (job.shards, job.written["shards"]) == (len(shards), sum(path.stat().st_size for path in shards))
    assert all(cost.processor > 0 for cost in job.steps.values())


def test_a_job_as_if_of_a_billion_images_has_batches_of_one(data: Path, tmp_path: Path):
    with scaling.as_if(10**9, IMAGES, (data / "instances.json").stat().st_size):
        job = scaling.run(data, tmp_path / "out", IMAGES)
    assert job.grouped["AssignShards/GroupByShard"].elements == IMAGES
    assert job.grouped["ReadAnnotations/GroupByImage"].elements == 2 * IMAGES  # entries of images and annotations lie apart


def test_growth_is_the_slope_of_the_logarithms():
    assert scaling.exponent([1, 10, 100], [5, 50, 500]) == pytest.approx(1)
    assert scaling.exponent([1, 10, 100], [2, 200, 20000]) == pytest.approx(2)
    assert scaling.exponent([1, 10, 100], [7, 7, 7]) == pytest.approx(0)


def test_files_are_cut_by_other_workers_than_the_one_that_finds_them():
    pipeline = beam.Pipeline()
    _ = pipeline | "Read" >> ReadCoco("*.json")
    _, stages = scaling.FnApiRunner().create_stages(pipeline.to_runner_api())
    names = [{transform.unique_name for transform in stage.transforms} for stage in stages]
    assert [stage for stage in names if "Read/CutBlocks" in stage and "Read/FindFiles" not in stage]


def test_the_table_in_the_docs_is_what_the_formulas_give():
    page = (Path(__file__).resolve().parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert price.table(price.IN_THE_DOCS) in page, "python benchmarks/price.py prints the table anew"


def test_a_job_is_priced_by_its_parts():
    row = price.Job(1e6, image_kb=200).row(prices=price.Prices(1, 0, 0, 0, 0, 1, 0))
    vcpu_hours = 1e6 * price.Measured().cpu_ms / 3.6e6 / price.BUSY + 100 * price.START_MINUTES / 60
    assert row["workers, US$"] == f"{vcpu_hours:,.2f}"
    requests = (
        1e6 + 4 * price.plan_shards(price.Census(10**6, 7 * 10**6, 307_000 * 10**6), price.Splits(), None, False).shards[0][1]
    )
    assert float(row["requests, US$"].replace(",", "")) == pytest.approx(requests / 1e3 + (75 + 7 * 573) / 1e3, abs=0.01)


def test_less_is_shuffled_than_a_fiftieth_of_what_is_written(tmp_path: Path):
    size = scaling.WIDTH, scaling.HEIGHT
    make_data.make(tmp_path, 400, scaling.INSTANCES, *size, scattered=True, quality=make_data.AS_COCO)
    weights = [path.stat().st_size for path in (tmp_path / "images").iterdir()]
    assert 160_000 < sum(weights) / len(weights) < 170_000  # COCO's files have 163 KB on the average
    assert scaling.run(tmp_path, tmp_path / "out", 400).share < 0.02
