"""What it costs that images lie far away: `make bench-latency` prints a table.

The same job from a folder into a folder, and from a bucket into a bucket: `gcp-storage-emulator` behind the tests' proxy, which
makes every request 50 ms longer, reads and writes alike. Whole processes, start-up included, in turn; medians. Emulator and proxy
have a processor of their own, and each job the same one, so that they take nothing from it. Without read-ahead, one image is read
at a time.
"""

from __future__ import annotations

import argparse
import os
import shutil
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


def seconds(environment: dict[str, str], source: str, output: str, reads: int = 0) -> float:
    """Seconds of one run; `reads` images at the same time, 0 for as many as usual."""
    paths = [f"--annotations={source}/instances.json", f"--images={source}/images", f"--output={output}", "--overwrite"]
    began = time.monotonic()
    command = ["taskset", "--cpu-list", "0", sys.executable, "-c", PROGRAM.format(reads=reads), "run", *paths]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return time.monotonic() - began


def on_the_bucket(server: StorageServer, latency_ms: float, reads: int = 0) -> float:
    """Seconds of a run whose requests take so much longer."""
    server.plan(latency_ms=latency_ms)
    return seconds(server.environment, "gs://bkt/in", "gs://bkt/out", reads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    images = parsed.images
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch, storage_server() as server:
        root = Path(scratch)
        make(root / "in", images, 7, 640, 480, quality=AS_COCO)
        server.upload(root / "in" / "images", "gs://bkt/in/images")
        server.upload(root / "in" / "instances.json", "gs://bkt/in/instances.json")
        server.remember("in")
        on_the_bucket(server, 0.0)  # so that it remembers
        folder, near, far = [], [], []
        for _ in range(parsed.runs):
            shutil.rmtree(root / "out", ignore_errors=True)
            folder.append(seconds(dict(os.environ), str(root / "in"), str(root / "out")))
            near.append(on_the_bucket(server, 0.0))
            far.append(on_the_bucket(server, LATENCY_MS))
        requests, connections = server.requests, server.connections
        alone = on_the_bucket(server, LATENCY_MS, reads=1)
    base = statistics.median(folder)
    print(
        f"{os.cpu_count()} processors; {images:,} images of 640×480, 167 KB and 7 instances each; medians of {parsed.runs} runs\n"
    )
    print("| from and to | s | images/s | of the folder's throughput |\n|---|---|---|---|")
    rows = {
        "a folder": base,
        "a bucket, no latency": statistics.median(near),
        f"a bucket, {LATENCY_MS:.0f} ms a request": statistics.median(far),
        f"the same, no read-ahead ({images:,} images, one run)": alone,
    }
    for name, took in rows.items():
        print(f"| {name} | {took:.1f} | {images / took:,.0f} | {base / took:.0%} |")
    ratios = ", ".join(f"{a / b:.0%}" for a, b in zip(folder, far, strict=True))
    asked = ", ".join(f"{count:,} {kind}" for kind, count in sorted(requests.items()))
    print(f"\nwith latency, run by run: {ratios}\nrequests of one run: {asked}; {connections} connections")


if __name__ == "__main__":
    main()
