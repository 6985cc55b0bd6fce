"""How many threads a worker process should have, where each image comes from a bucket: the figures of deploy/dataflow.md.

    python benchmarks/worker_threads.py [--images 2000] [--size 640x480] [--latency_ms 60] [--runs 3]

Each measurement is a job in one process on one processor, as Dataflow has one process for each, with so many threads that
write shards. Images lie in a folder, but are read as from a bucket, and each takes `--latency_ms` longer. Prints medians of
runs that are made in turn.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from make_data import make

THREADS = (1, 2, 4, 12)


def run_job(data: str, output: str, threads: str, latency_ms: str) -> None:
    """One job, in this process; prints its seconds, and the most memory that it had, in MB."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from beam_pipeline.options import RunOptions
    from beam_pipeline.run import run
    from transforms import shards, storage

    read = storage.read_bytes

    def slowly(*given: Any) -> bytes:
        time.sleep(float(latency_ms) / 1000)
        return read(*given)

    storage.read_bytes = slowly
    shards.read_threads = lambda folder: shards.REMOTE_READS
    options = RunOptions(annotations=f"{data}/instances.json", images=f"{data}/images", output=output, num_shards="24")
    began = time.monotonic()
    run(options, [f"--direct_num_workers={threads}", "--direct_running_mode=multi_threading"])
    print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", default="640x480", help="width x height")
    parser.add_argument("--latency_ms", type=float, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    found: dict[int, list[list[float]]] = {threads: [] for threads in THREADS}
    with tempfile.TemporaryDirectory() as folder:
        width, height = map(int, parsed.size.split("x"))
        make(Path(folder), parsed.images, 7, width, height)
        for attempt in range(parsed.runs):
            for threads in THREADS:
                output = f"{folder}/{threads}-{attempt}"
                command = [sys.executable, __file__, "--job", folder, output, str(threads), str(parsed.latency_ms)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[threads].append([float(number) for number in said.split()])
    print(f"| threads | images/s at {parsed.size} | peak MB |\n|---|---|---|")
    for threads, runs in found.items():
        seconds, megabytes = (statistics.median(figures) for figures in zip(*runs, strict=True))
        print(f"| {threads} | {parsed.images / seconds:.0f} | {megabytes:.0f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        run_job(*sys.argv[2:])
    else:
        main()
