"""How fast a large COCO file is read, on one processor, and in how much memory: `make bench-annotations`.

Annotations of an image lie anywhere in the file, so none can be written before all of it was read. Each line is a process of its
own; seconds are its processor time without imports.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
from make_data import write_coco

from beam_pipeline.run import LOCAL_RUNNER
from transforms import coders, memory
from transforms.sources.coco import ReadCoco, cut_file, read_block
from transforms.sources.coco_json import parse_annotations, parse_images

INSTANCES, WIDTH, HEIGHT = 7, 640, 480
BYTES_AN_IMAGE = 4300  # of JSON


def read(path: Path) -> int:
    """Cuts the file, reads its blocks and parses every element; gives how many there were."""
    memory.tune()  # as `ParseBlocks` does
    count = 0
    for block in cut_file(str(path), 1):
        data = read_block(block)
        if block.key == "images":
            count += len(parse_images(data))
        elif block.key == "annotations":
            count += len(parse_annotations(data))
    return count


def read_and_group(path: Path) -> int:
    """`ReadCoco`: the same, and images and annotations packed, brought together and unpacked; gives how many there were."""
    coders.register()
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as spill:
        found = Path(spill) / "count"
        with beam.Pipeline(LOCAL_RUNNER) as pipeline:
            images = (pipeline | ReadCoco(str(path), spill_folder=spill)).images
            counts = images | beam.Map(lambda image: 1 + len(image.instances))
            _ = counts | beam.CombineGlobally(sum) | beam.Map(lambda count: found.write_text(str(count)))
        return int(found.read_text())


WAYS: dict[str, Callable[[Path], int]] = {"cut, read, parse and check": read, "ReadCoco, on Beam's local runner": read_and_group}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[120, 1200])
    parser.add_argument("--read", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.read:
        way, path = parsed.read[0], Path(parsed.read[1])
        began = time.process_time()
        count = WAYS[way](path)
        seconds = time.process_time() - began
        rate, peak = path.stat().st_size / 1e6 / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"| {way} | {path.stat().st_size / 1e6:,.0f} | {count:,} | {seconds:.1f} | {rate:.0f} | {peak:,.0f} |")
        return
    os.sched_setaffinity(0, {0})
    print("| | MB of JSON | elements | processor s | MB/s | peak MB |", "|---|---|---|---|---|---|", sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch:
        for megabytes in parsed.megabytes:
            path = Path(scratch) / f"{megabytes}.json"
            write_coco(path, megabytes * 10**6 // BYTES_AN_IMAGE, INSTANCES, WIDTH, HEIGHT, scattered=True)
            for way in WAYS:
                subprocess.run([sys.executable, __file__, "--read", way, str(path)], check=True)
            path.unlink()


if __name__ == "__main__":
    main()
