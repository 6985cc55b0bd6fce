"""The figures of docs/performance.md, in one run: `make bench`.

Whole processes, start-up included, one after the other in turn; wall and processor seconds and the peak of resident memory
(of the largest process) as the kernel accounts them; medians. The machine is shared, so what counts is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from make_data import make


class Cost(NamedTuple):
    """What a process took."""

    wall: float
    processor: float
    megabytes: float


def measure(command: list[str]) -> Cost:
    """Runs a command in a child that reports its own resources."""
    code = (
        "import json,resource,subprocess,sys,time\n"
        "began=time.monotonic()\n"
        "done=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,stderr=subprocess.PIPE)\n"
        "if done.returncode: sys.exit(done.stderr.decode()[-2000:])\n"
        "used=resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([time.monotonic()-began,used.ru_utime+used.ru_stime,used.ru_maxrss/1024]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr}")
    return Cost(*json.loads(done.stdout))


def median(costs: list[Cost]) -> Cost:
    """Of each figure."""
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def maskbeam(data: Path, output: Path, *more: str) -> Cost:
    """A run with the default options."""
    shutil.rmtree(output, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("maskbeam")), "run", "--annotations", str(data / "instances.json")]
    return measure([*command, "--images", str(data / "images"), "--output", str(output), *more])


def object_detection_api(python: str, data: Path, output: Path) -> Cost:
    """`create_coco_tf_record` on the same data; the two other splits that it insists on are empty."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    empty = output / "empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    command = [python, "-m", "object_detection.dataset_tools.create_coco_tf_record", "--include_masks=True"]
    for split, file in (("train", data / "instances.json"), ("val", empty), ("testdev", empty)):
        command.append(f"--{split}_annotations_file={file}")
    command += [f"--{split}_image_dir={data / 'images'}" for split in ("train", "val", "test")]
    return measure([*command, f"--output_dir={output}"])


def row(name: str, images: int, cost: Cost) -> str:
    """A line of the table."""
    return f"| {name} | {cost.wall:.1f} | {cost.processor:.1f} | {images / cost.wall:,.0f} | {cost.megabytes:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, metavar="PYTHON", help="a Python that has the Object Detection API")
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}; medians of {parsed.runs} runs, in turn\n")
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch:
        root = Path(scratch)
        small, large, wide = root / "1500", root / "15000", root / "120mb"
        make(small, 1500, 7, 640, 480)
        make(large, 15_000, 7, 640, 480)
        make(wide, 1500, 139, 640, 480)
        ours, theirs = [], []
        for _ in range(parsed.runs):
            ours.append(maskbeam(small, root / "ours"))
            theirs.append(object_detection_api(parsed.peer, small, root / "theirs"))
        mine, peer = median(ours), median(theirs)
        many = maskbeam(large, root / "ours")
        heavy = maskbeam(wide, root / "ours")
        print("| 640×480, 7 instances an image, PNG masks | wall s | processor s | images/s | peak MB |\n|---|---|---|---|---|")
        print(row("1,500 images, maskbeam run", 1500, mine))
        print(row("1,500 images, create_coco_tf_record", 1500, peer))
        print(row("15,000 images, maskbeam run", 15_000, many))
        size = (wide / "instances.json").stat().st_size / 1e6
        print(row(f"1,500 images, {size:.0f} MB of annotations (139 an image), maskbeam run", 1500, heavy))
        ratios = [a.wall / b.wall for a, b in zip(theirs, ours, strict=True)]
        print(
            f"\ntimes as fast, start-up included: {statistics.median(ratios):.1f} ({', '.join(f'{one:.1f}' for one in ratios)})"
        )
        print(f"peak memory, 15,000 against 1,500 images: {100 * (many.megabytes / mine.megabytes - 1):+.0f} %")
        print(f"peak memory that {size:.0f} MB of annotations add: {heavy.megabytes - mine.megabytes:.0f} MB")


if __name__ == "__main__":
    main()
