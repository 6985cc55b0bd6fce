"""What grows with the data set, and how fast: `make bench-scaling` prints the figures of docs/scaling.md.

The pipeline of `maskbeam run` goes through Beam's local runner as through a cluster: nothing is kept in files on the side, so
what is grouped and what becomes a side input is encoded bytes in the runner's hands. There they are counted, not in our code.
The images are 200 contents under many names, and are not decoded (`--check_images header`); all else is a real job.

A cluster's job of 1e9 images differs from one of 1e4 in how many buckets and shards there are, and so in how little is left to
a batch of one worker for one of them. `as_if` gives a small job the batches of a large one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, execution, translations
from bench import cost_of, maskbeam
from make_data import AS_COCO, annotations, make

from beam_pipeline.options import RunOptions
from beam_pipeline.pipeline import build
from beam_pipeline.publish import REJECT_BUCKETS, bucket_reject, clear_output, prepare_output, publish, write_reject_part
from transforms import gcs
from transforms.batches import BatchWriter
from transforms.columns import pack_images
from transforms.rasterize import rasterize_images
from transforms.records import AnnotatedImage, Census, ReasonCode, Reject
from transforms.sharding import PackByShard, ShardPlan, in_order
from transforms.shards import ShardSummary
from transforms.sources import coco
from transforms.sources.coco_json import parse_annotations
from transforms.statistics import DatasetStatistics

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from storage_server import BUCKET, storage_server

INSTANCES, WIDTH, HEIGHT = 7, 640, 480
ANNOTATIONS = (100_000, 300_000, 1_000_000)
SMALL = 10_000  # images of a job that is given a larger one's batches
LARGER_JOBS = (10**5, 10**6, 10**7, 10**9)  # images
STEPS = {
    "writing": ("WriteShards/",),
    "grouping": ("ReadAnnotations/FindDuplicates", "ReadAnnotations/Flatten/Read", "ReadAnnotations/Meet/"),
    "summarizing": ("Summarize/", "ReadAnnotations/Rejects/Read", "AllRejects/Read", "Publish/"),
    "planning": ("ReadAnnotations/", "Count/", "PlanShards/"),
}
"""Beginnings of the names of transforms; a stage of the runner counts for the first step that has one of its transforms."""


class Traffic(NamedTuple):
    """What crosses from worker to worker at one place: elements (of a side input, 0) and encoded bytes.

    Beam adds 13 bytes to each element.
    """

    elements: int = 0
    bytes: int = 0


@dataclass
class Cost:
    """Seconds, and by how much memory has grown at most, in MB."""

    wall: float = 0.0
    processor: float = 0.0
    megabytes: float = 0.0

    def add(self, other: Cost) -> None:
        """Takes in what came after it."""
        self.wall += other.wall
        self.processor += other.processor
        self.megabytes = max(self.megabytes, other.megabytes)


@dataclass
class Job:
    """What a job has cost by step, what has crossed by place, and the bytes in the files that it has read and written."""

    images: int
    steps: dict[str, Cost] = field(default_factory=lambda: {step: Cost() for step in STEPS})
    cutting: Cost = field(default_factory=Cost)
    grouped: dict[str, Traffic] = field(default_factory=dict)
    side_inputs: dict[str, Traffic] = field(default_factory=dict)
    read: int = 0
    written: Counter[str] = field(default_factory=Counter)
    shards: int = 0

    @property
    def shuffled(self) -> int:
        """Bytes: all that is grouped, and all side inputs, once."""
        return sum(traffic.bytes for traffic in (*self.grouped.values(), *self.side_inputs.values()))

    @property
    def share(self) -> float:
        """The bytes shuffled, as a share of those in the shards."""
        return self.shuffled / self.written["shards"]


class CountingBuffer(execution.GroupingBuffer):  # type: ignore[misc]
    """The local runner's shuffle, which knows how many bytes it was given."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bytes = 0

    def append(self, elements_data: bytes) -> None:
        self.bytes += len(elements_data)
        super().append(elements_data)


def traffic_of(buffer: Any) -> Traffic:
    """What is in one of the runner's buffers, before it is read."""
    if isinstance(buffer, CountingBuffer):
        return Traffic(sum(map(len, buffer._table.values())), buffer.bytes)
    return Traffic(0, sum(map(len, buffer)))


class MeasuringRunner(FnApiRunner):  # type: ignore[misc]
    """Beam's local runner, which notes what each stage costs and what it hands on."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def run_stages(self, stage_context: Any, stages: list[Any]) -> Any:
        with mock.patch.object(execution, "GroupingBuffer", CountingBuffer):
            return super().run_stages(stage_context, stages)

    def _run_bundle(self, context: Any, bundle: Any, bundle_input: Any, data_output: Any, *more: Any) -> Any:
        transforms = bundle.stage.transforms
        step = step_of([transform.unique_name for transform in transforms])
        buffers = set(data_output.values())
        before = {one: traffic_of(context.pcoll_buffers[one]) for one in buffers & context.pcoll_buffers.keys()}
        with measure(traced=step == "summarizing") as cost:
            result = super()._run_bundle(context, bundle, bundle_input, data_output, *more)
        self.job.steps[step].add(cost)
        if any(transform.unique_name == "ReadAnnotations/CutBlocks" for transform in transforms):
            self.job.cutting.add(cost)
        side_inputs = {one for inputs in context.side_input_descriptors_by_stage.values() for one, _ in inputs.values()}
        for one in buffers & context.pcoll_buffers.keys():
            kind, name = translations.split_buffer_id(one)
            found, known = traffic_of(context.pcoll_buffers[one]), before.get(one, Traffic())
            new = Traffic(found.elements - known.elements, found.bytes - known.bytes)
            if kind == "group":
                place, into = context.pipeline_components.transforms[name].unique_name, self.job.grouped
            elif one in side_inputs:
                place, into = _source(transforms, name), self.job.side_inputs
            else:
                continue  # between two stages that another runner fuses
            known = into.get(place, Traffic())
            into[place] = Traffic(known.elements + new.elements, known.bytes + new.bytes)
        return result


def _source(transforms: Sequence[Any], collection: str) -> str:
    """The transform that a PCollection comes from, and which of its outputs that is."""
    for transform in transforms:
        for tag, output in transform.outputs.items():
            if output == collection:
                return transform.unique_name.split("/ParDo(")[0] + ("" if tag == "None" else f", {tag}")
    raise LookupError(collection)


def step_of(names: Sequence[str]) -> str:
    """The step that a stage of these transforms counts for."""
    return next(step for step, beginnings in STEPS.items() if any(name.startswith(beginnings) for name in names))


def _memory(name: str) -> float:
    """A line of the kernel's account of this process, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


@contextmanager
def measure(traced: bool = False) -> Iterator[Cost]:
    """Fills in what the block has cost: memory as the kernel counts it, or, `traced`, as Python does: exact, but slow."""
    cost = Cost()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    if traced:
        tracemalloc.start()
    resident, wall, processor = _memory("VmRSS"), time.monotonic(), time.process_time()
    yield cost
    cost.wall, cost.processor = time.monotonic() - wall, time.process_time() - processor
    cost.megabytes = _memory("VmHWM") - resident
    if traced:
        cost.megabytes = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()


def run(data: Path, output: Path, images: int, **options: Any) -> Job:
    """A job on data that `make` has made, with its output, which is deleted again."""
    annotations = data / "instances.json"
    given = {"annotations": str(annotations), "images": str(data / "images"), "check_images": "header", **options}
    chosen = RunOptions(output=str(output), **given)
    job = Job(images, read=annotations.stat().st_size)
    claim = prepare_output(chosen.output, overwrite=False)
    pipeline = beam.Pipeline(runner=MeasuringRunner(job), options=PipelineOptions([]))
    build(pipeline, chosen, claim)
    pipeline.run().wait_until_finish()
    for path in filter(Path.is_file, output.rglob("*")):
        kind = "shards" if path.suffix == ".tfrecord" else "states" if path.suffix == ".msgpack" else path.name
        job.written[kind] += path.stat().st_size
        job.shards += kind == "shards"
    shutil.rmtree(output)
    return job


@contextmanager
def as_if(larger: int, images: int, annotation_bytes: int) -> Iterator[None]:
    """A job of some `images` has as little in a batch as one of a `larger` number, which has more buckets and shards.

    It gets as many buckets, or one for each image; where that is less, or where its shards are, as much less waits for them.
    """
    scale = larger / images
    of_image = max(1.0, annotation_bytes * scale / coco.BUCKET_BYTES / images)
    with (
        mock.patch.object(coco, "BUCKET_BYTES", max(1, round(coco.BUCKET_BYTES / scale))),
        mock.patch.object(coco.ParseBlocks, "WAITING_BYTES", max(1, round(coco.ParseBlocks.WAITING_BYTES / of_image))),
        mock.patch.object(PackByShard, "WAITING_BYTES", max(1, round(PackByShard.WAITING_BYTES / scale))),
    ):
        yield


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of values over sizes, both as logarithms: 1 is linear growth, 0 is none."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def growth_table(jobs: Sequence[Job]) -> str:
    """Cost by step and size, and how it grows."""
    sizes = [job.images for job in jobs]
    lines = ["| step | " + " | ".join(f"{job.images:,} images" for job in jobs) + " | wall grows as n^ | processor | memory |"]
    lines.append("|---|" + "---|" * (len(jobs) + 3))
    for step in ("planning", "grouping", "writing", "summarizing"):
        costs = [job.steps[step] for job in jobs]
        cells = [f"{cost.wall:.1f} s, {cost.processor:.1f} s, {cost.megabytes:,.0f} MB" for cost in costs]
        slopes = [exponent(sizes, [getattr(cost, name) for cost in costs]) for name in ("wall", "processor", "megabytes")]
        lines.append(f"| {step} | " + " | ".join(cells) + " | " + " | ".join(f"{slope:.2f}" for slope in slopes) + " |")
    return "\n".join(lines)


def traffic_table(jobs: Sequence[Job], heads: Sequence[str]) -> str:
    """Bytes an instance by place, and their share of what is written."""
    lines = ["| bytes an instance | " + " | ".join(heads) + " |", "|---|" + "---|" * len(jobs)]
    for kind in ("grouped", "side_inputs"):
        for place in sorted({place for job in jobs for place in getattr(job, kind)}):
            values = [getattr(job, kind).get(place, Traffic()).bytes / (job.images * INSTANCES) for job in jobs]
            name = place if kind == "grouped" else f"side input: {place}"
            lines.append(
                f"| {name} | " + " | ".join(f"{value:,.3f}" if value < 1 else f"{value:,.1f}" for value in values) + " |"
            )
    lines.append("| all | " + " | ".join(f"{job.shuffled / (job.images * INSTANCES):,.1f}" for job in jobs) + " |")
    lines.append("| share of the bytes in shards | " + " | ".join(f"{job.share:.2%}" for job in jobs) + " |")
    return "\n".join(lines)


def publishing_table(folder: Path, counts: Sequence[int] = (1_000, 10_000, 99_999), rejects: int = 300_000) -> str:
    """The last step alone, by the number of shards, and with rejects; the shards themselves are empty here."""
    lines = ["| the last step | processor | memory | manifest.json |", "|---|---|---|---|"]
    costs = []
    for shards, bad in [*((count, 0) for count in counts), (counts[0], rejects)]:
        output = str(folder / "records")
        options = RunOptions(annotations="a.json", images="images", output=output, max_reject_fraction=1.0)
        claim = prepare_output(output, overwrite=False)
        plan = ShardPlan((("train", shards),))
        clear_output(plan, options, claim, [])
        summaries = []
        for key in plan.shard_keys():
            (folder / "records" / plan.file_name(*key)).touch()
            summaries.append(ShardSummary(*key, plan.file_name(*key), 1000, 7000, 0, 0, "f" * 64))
        found = [Reject("image", number, None, ReasonCode.IMAGE_MISSING.name, "there is no such file") for number in range(bad)]
        buckets: dict[int, list[bytes]] = {}
        for bucket, packed in map(bucket_reject, found):
            buckets.setdefault(bucket, []).append(packed)
        with measure(traced=True) as memory:
            parts = [write_reject_part(claim, bucket, packed) for bucket, packed in buckets.items()]
        with measure() as cost:
            publish(
                options,
                claim,
                plan,
                Census(shards * 1000 + bad, shards * 7000),
                [],
                summaries,
                DatasetStatistics(),
                parts,
                time.time(),
            )
        costs.append(cost)
        size = (folder / "records" / "manifest.json").stat().st_size / 1e6
        what = f"{shards:,} shards" + (f", {bad:,} rejects" if bad else "")
        lines.append(f"| {what} | {cost.processor:.1f} s | {cost.megabytes:,.0f} MB | {size:.1f} MB |")
        shutil.rmtree(output)
    slope = exponent(counts, [cost.processor for cost in costs[: len(counts)]])
    each = memory.megabytes * 1e6 / (rejects / REJECT_BUCKETS)
    lines.append(f"\nprocessor time grows as shards^{slope:.2f}; a bucket of rejects takes {each:,.0f} bytes of memory for each")
    return "\n".join(lines)


def billed_as(request: str) -> str:
    """How Google bills a request: as class A, class B, or not at all."""
    method, path = request.split(" ", 1)
    if method == "POST" or (method == "GET" and path.partition("?")[0].endswith("/o")):  # what writes, copies or lists
        return "A"
    return "B" if method == "GET" else "free"  # a PUT is a piece of an upload that a POST has begun


def bucket_table(root: Path) -> str:
    """Requests of a job on a bucket, for each image, each shard and the rest, and the processor time of an image there."""
    kinds = ("A", "B", "free")
    jobs = {"few": (60, 2), "images": (660, 2), "shards": (60, 12)}
    counts: dict[str, Counter[str]] = {}
    seconds: dict[str, float] = {}
    with storage_server() as server:
        for name, (images, shards) in jobs.items():
            place = f"gs://{BUCKET}/{images}"
            if not (root / f"bucket-{images}").exists():
                make(root / f"bucket-{images}", images, INSTANCES, WIDTH, HEIGHT)
                server.upload(root / f"bucket-{images}", place)
            server.plan()  # which counts anew
            flags = ["--annotations", f"{place}/instances.json", "--images", f"{place}/images", "--num_shards", str(shards)]
            before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
            done = server.run_maskbeam("run", *flags, "--output", f"gs://{BUCKET}/{name}", timeout=900, TIMEOUT=gcs.TIMEOUT)
            if done.returncode:
                sys.exit(done.stderr)
            seconds[name] = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
            counts[name] = Counter()
            for request, count in server.lines.items():
                counts[name][billed_as(request)] += count
    image, shard = jobs["images"][0] - jobs["few"][0], jobs["shards"][1] - jobs["few"][1]
    of_image = [(counts["images"][kind] - counts["few"][kind]) / image for kind in kinds]
    of_shard = [(counts["shards"][kind] - counts["few"][kind]) / shard for kind in kinds]
    rest = [
        counts["few"][kind] - jobs["few"][0] * a - jobs["few"][1] * b
        for kind, a, b in zip(kinds, of_image, of_shard, strict=True)
    ]
    lines = ["| requests | class A | class B | not billed |", "|---|---|---|---|"]
    for name, values in (("an image", of_image), ("a shard", of_shard), ("the rest", rest)):
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    lines.append(
        f"\nprocessor time an image on a bucket, without TLS: {(seconds['images'] - seconds['few']) / image * 1e3:.1f} ms"
    )
    return "\n".join(lines)


def image_lines(root: Path) -> str:
    """What an image takes of a processor in `maskbeam run`, start-up aside, and of memory while its shard is written."""
    few, many = 500, 4_500
    for images in (few, many):
        make(root / f"local-{images}", images, INSTANCES, WIDTH, HEIGHT)
    costs = [cost_of(maskbeam("--workers=1")(root / f"local-{images}", root / "records")) for images in (few, many)]
    shutil.rmtree(root / "records")
    milliseconds = (costs[1].processor - costs[0].processor) / (many - few) * 1e3
    block = b",".join(map(msgspec.json.encode, annotations(few, INSTANCES, WIDTH, HEIGHT)))
    instances = [parsed.instance for parsed in parse_annotations(block)]
    images = [
        AnnotatedImage(number, f"{number:012d}.jpg", HEIGHT, WIDTH, tuple(instances[number * INSTANCES :][:INSTANCES]))
        for number in range(few)
    ]
    drawn = [image for image, _ in rasterize_images(images)]
    batch = BatchWriter(None).write(pack_images(drawn))
    with measure(traced=True) as memory:
        in_order([batch])
    return (
        f"an image takes {milliseconds:.2f} ms of processor time from a folder, with all checks, "
        f"and {memory.megabytes * 1e6 / few:,.0f} bytes of memory while its shard is written"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, nargs="*", default=ANNOTATIONS, help="the sizes that are tried")
    parser.add_argument("--as_if", type=int, nargs="*", default=LARGER_JOBS, help="images of jobs whose batches are tried")
    parser.add_argument("--by_image", action="store_true", help="annotations lie image by image; in COCO's files they don't")
    parser.add_argument("--only_traffic", action="store_true", help="leave out publishing, the bucket, and the time of an image")
    parser.add_argument("--folder", help="where to work, with 26 GB for a million annotations (default: a temporary folder)")
    parsed = parser.parse_args()
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="maskbeam-scaling-", dir=parsed.folder) as scratch:
        root = Path(scratch)

        def job_of(images: int, larger: int | None = None) -> Job:
            if not (root / str(images)).exists():
                make(root / str(images), images, INSTANCES, WIDTH, HEIGHT, scattered=not parsed.by_image, quality=AS_COCO)
            size = (root / str(images) / "instances.json").stat().st_size
            with as_if(larger, images, size) if larger else nullcontext():
                job = run(root / str(images), root / "records", images)
            print(f"{images:,} images{f' as if {larger:,}' if larger else ''}: {job.share:.2%}", file=sys.stderr, flush=True)
            return job

        if parsed.annotations:
            jobs = [job_of(count // INSTANCES) for count in parsed.annotations]
            large = jobs[-1]
            print(growth_table(jobs), end="\n\n")
            print(traffic_table(jobs, [f"{job.images:,} images" for job in jobs]), end="\n\n")
            in_shards = large.written["shards"] / large.images
            print(f"an image: {large.read / large.images:,.0f} bytes of JSON, {in_shards:,.0f} in shards")
            print(f"a shard: {large.written['states'] / large.shards:,.0f} bytes of state; {large.shards} shards")
            print(f"CutBlocks: {large.read / 1e6 / large.cutting.processor:,.0f} MB/s of processor time\n", flush=True)
        if parsed.as_if:
            small = [job_of(SMALL, larger) for larger in parsed.as_if]
            print(f"{SMALL:,} images, with batches as of\n")
            print(traffic_table(small, [f"{larger:,}" for larger in parsed.as_if]), end="\n\n", flush=True)
        if not parsed.only_traffic:
            print(publishing_table(root), end="\n\n", flush=True)
            print(bucket_table(root), end="\n\n", flush=True)
            print(image_lines(root))


if __name__ == "__main__":
    main()
