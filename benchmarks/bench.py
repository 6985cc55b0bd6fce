"""The figures of docs/performance.md, in one run: `make bench`.

maskbeam beside what people use today, each from PyPI in an environment of its own: whole processes, start-up included, one
after the other in turn; medians. Wall and processor seconds are the kernel's; memory is the peak of what all of a run's
processes hold together, shared pages once. Who writes fewer records than there are images is stopped. The machine may be shared,
so what counts is the ratio, taken of runs that came one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from make_data import AS_COCO, make

from transforms.tfrecord import read_records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from environments import python_of, python_with_maskbeam

DATUMARO = """\
import datumaro, sys
dataset = datumaro.Dataset.import_from(sys.argv[1], "coco")
dataset.transform("polygons_to_masks")
dataset.export(sys.argv[2], "tf_detection_api", save_masks=True, save_media=True)
"""
SAMPLE_SECONDS, SAMPLE_SHARE = 0.2, 0.02
"""How often memory is looked at, and for how much of the time at most: to look takes 0.05 s, in which a process waits."""


class Cost(NamedTuple):
    """What a run took, and what came of it."""

    wall: float
    processor: float
    megabytes: float
    written: float = 0.0  # MB


class DataSet(NamedTuple):
    """Data that is made, and how the table calls it."""

    images: int
    instances: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.images:,} images of {self.width}×{self.height}, {self.instances} instances each"

    def make(self, root: Path) -> Path:
        folder = root / f"{self.images}-{self.width}-{self.instances}"
        make(folder, *self, quality=AS_COCO)
        # As Datumaro wants it.
        for name in ("annotations", "images"):
            (folder / "as_coco" / name).mkdir(parents=True)
        (folder / "as_coco/annotations/instances_train.json").symlink_to(folder / "instances.json")
        (folder / "as_coco/images/train").symlink_to(folder / "images")
        return folder


Tool = Callable[[Path, Path], list[str]]
"""The command that turns a data set into records in a folder."""


def cost_of(command: list[str]) -> Cost:
    """Runs a command and all its processes to their end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        pause = SAMPLE_SECONDS
        while True:
            try:
                process.wait(pause)
                break
            except psutil.TimeoutExpired:
                looked = time.monotonic()
                peak = max(peak, sum(held(process)))
                pause = max(SAMPLE_SECONDS, (time.monotonic() - looked) / SAMPLE_SHARE)
        wall = time.monotonic() - began
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command[0]} failed:\n{said.read().decode()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak / 1e6)


def held(process: psutil.Process) -> Iterator[int]:
    """Bytes that a process and its children hold, shared pages split between them."""
    with suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                yield one.memory_full_info().pss


def median(costs: list[Cost]) -> Cost:
    """Of each figure."""
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def maskbeam(*more: str) -> Tool:
    """Our own, as `pip install maskbeam` brings it, with the default options and these."""

    def command(data: Path, output: Path) -> list[str]:
        program = str(Path(python_with_maskbeam()).with_name("maskbeam"))
        paths = [f"--annotations={data / 'instances.json'}", f"--images={data / 'images'}", f"--output={output}"]
        return [program, "run", *paths, "--overwrite", *more]

    return command


def object_detection_api(data: Path, output: Path) -> list[str]:
    """`create_coco_tf_record`; the two other splits that it insists on are empty."""
    empty = output / "empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    module = "object_detection.dataset_tools.create_coco_tf_record"
    command = [python_of("object_detection"), "-m", module, "--include_masks=True", f"--output_dir={output}"]
    for split, file in (("train", data / "instances.json"), ("val", empty), ("testdev", empty)):
        command.append(f"--{split}_annotations_file={file}")
    return command + [f"--{split}_image_dir={data / 'images'}" for split in ("train", "val", "test")]


def model_garden(processes: int) -> Tool:
    """The Model Garden's `create_coco_tf_record`, in so many processes besides its own."""

    def command(data: Path, output: Path) -> list[str]:
        options = {
            "image_dir": data / "images",
            "object_annotations_file": data / "instances.json",
            "output_file_prefix": output / "train",
            "num_processes": processes,
        }
        module = "official.vision.data.create_coco_tf_record"
        given = [f"--{name}={value}" for name, value in options.items()]
        return [python_of("model_garden"), "-m", module, "--include_masks", *given]

    return command


def datumaro(data: Path, output: Path) -> list[str]:
    """Datumaro's exporter, after its transform that makes masks of outlines."""
    return [python_of("datumaro"), "-c", DATUMARO, str(data / "as_coco"), str(output / "records")]


def run(tool: Tool, data: Path, output: Path, images: int) -> Cost:
    """One run into an empty folder, whose records are counted."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    cost = cost_of(tool(data, output))
    shards = [path for path in output.rglob("*") if ".tfrecord" in path.name or ".record" in path.name]
    shards = [path for path in shards if path.suffix != ".msgpack"]
    count = sum(1 for path in shards for _ in read_records(path.open("rb")))
    if count != images:
        sys.exit(f"{count} records were written of {images} images")
    return cost._replace(written=sum(path.stat().st_size for path in shards) / 1e6)


TOOLS: dict[str, Tool] = {
    "maskbeam": maskbeam("--workers=1"),
    "maskbeam, two processes": maskbeam("--workers=2"),
    "Object Detection API": object_detection_api,
    "Model Garden": model_garden(0),
    "Model Garden, two processes": model_garden(2),
    "Datumaro": datumaro,
}
DENSE = {"maskbeam, dense masks": maskbeam("--workers=1", "--mask_encoding=dense")}
SETS = {
    "start": (DataSet(1, 7, 640, 480), TOOLS),
    "small": (DataSet(1500, 7, 640, 480), TOOLS),
    "large": (DataSet(15_000, 7, 640, 480), TOOLS),
    "wide": (DataSet(300, 40, 3840, 2160), TOOLS),
    "crowded": (DataSet(300, 300, 640, 480), TOOLS),
    "dense": (DataSet(300, 7, 640, 480), DENSE),
}
"""What is made, and what it is given to."""


def compare(data: DataSet, tools: dict[str, Tool], runs: int, root: Path) -> dict[str, list[Cost]]:
    """All tools on one data set, in turn."""
    folder = data.make(root)
    costs: dict[str, list[Cost]] = {name: [] for name in tools}
    for _ in range(runs):
        for name, tool in tools.items():
            costs[name].append(run(tool, folder, root / "records", data.images))
            print(f"{name}: {costs[name][-1]}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return costs


def table(data: DataSet, costs: dict[str, list[Cost]]) -> Iterator[str]:
    """The costs as a table; ratios are of runs that came one after the other."""
    yield f"| {data} | wall s | processor s | images/s | peak MB | MB written | maskbeam is so many times as fast |"
    yield "|---|---|---|---|---|---|---|"
    ours = next(iter(costs.values()))
    for name, found in costs.items():
        cost, ratios = median(found), [one.wall / base.wall for one, base in zip(found, ours, strict=True)]
        times = [cost.wall, cost.processor, data.images / cost.wall]
        figures = [*(f"{value:,.1f}" for value in times), f"{cost.megabytes:,.0f}", f"{cost.written:,.0f}"]
        yield f"| {' | '.join([name, *figures, f'{statistics.median(ratios):.2f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--tools", nargs="*", help=f"some of: {', '.join(TOOLS)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    parsed = parser.parse_args()
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}; medians of {parsed.runs} runs, in turn")
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-", dir=parsed.folder) as scratch:
        for name in parsed.sets:
            data, tools = SETS[name]
            chosen = {name: tool for name, tool in tools.items() if not parsed.tools or name in parsed.tools}
            print("", *table(data, compare(data, chosen, parsed.runs, Path(scratch))), sep="\n", flush=True)


if __name__ == "__main__":
    main()
