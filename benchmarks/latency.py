"""What it costs that images lie far away: `make bench-latency` prints the table of deploy/storage.md.

The same job from a folder into a folder, from a bucket into a folder, and from a bucket into a bucket: `gcp-storage-emulator`
behind the tests' proxy, which makes every request 50 ms longer, reads and writes alike. Whole processes, start-up included, in
turn; medians. Emulator and proxy have a processor of their own, and each job the same one, so that they take nothing from it;
but what is written they take in no faster than they can. Without read-ahead, one image is read at a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from make_data import AS_COCO, make

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from storage_server import StorageServer, storage_server

LATENCY_MS = 50.0
PROGRAM = """\
import sys
from transforms import shards
shards.REMOTE_READS = {reads} or shards.REMOTE_READS
from beam_pipeline.cli import main
sys.exit(main())
"""


def seconds(server: StorageServer, source: str, output: str, reads: int = 0) -> float:
    """Seconds of one run; `reads` images at the same time, 0 for as many as usual."""
    server.plan(latency_ms=LATENCY_MS)
    paths = [f"--annotations={source}/instances.json", f"--images={source}/images", f"--output={output}", "--overwrite"]
    command = ["taskset", "--cpu-list", "0", sys.executable, "-c", PROGRAM.format(reads=reads), "run", *paths]
    began = time.monotonic()
    done = subprocess.run(command, env=server.environment, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    images = parsed.images
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch, storage_server() as server:
        here, out, bucket = f"{scratch}/in", f"{scratch}/out", "gs://bkt/in"
        make(Path(here), images, 7, 640, 480, quality=AS_COCO)
        server.upload(Path(here) / "images", f"{bucket}/images")
        server.upload(Path(here) / "instances.json", f"{bucket}/instances.json")
        server.remember("in")
        seconds(server, bucket, out)  # so that it remembers
        ways = {
            "a folder, into a folder": (here, out),
            f"a bucket, {LATENCY_MS:.0f} ms a request, into a folder": (bucket, out),
            "the same, into a bucket": (bucket, "gs://bkt/out"),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(parsed.runs):
            for name, (source, output) in ways.items():
                took[name].append(seconds(server, source, output))
        requests, connections = server.requests, server.connections
        took["a bucket, into a folder, without read-ahead (one run)"] = [seconds(server, bucket, out, reads=1)]
    base = next(iter(took.values()))
    print(f"one processor; {images:,} images of 640×480, 167 KB and 7 instances each; medians of {parsed.runs} runs, in turn\n")
    print("| from | s | images/s | of the folder's throughput |\n|---|---|---|---|")
    for name, runs in took.items():
        ratio = statistics.median(folder / run for folder, run in zip(base, runs, strict=False))
        each = statistics.median(runs)
        print(f"| {name} | {each:.1f} | {images / each:,.0f} | {ratio:.0%} |")
    asked = ", ".join(f"{count:,} {kind}" for kind, count in sorted(requests.items()))
    print(f"\nrequests of a run into a bucket: {asked}; over {connections} connections")


if __name__ == "__main__":
    main()
