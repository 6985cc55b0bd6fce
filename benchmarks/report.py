"""What the report costs a run: `make bench-report`.

The same job in one process, with the report and without, in turn; whole processes, start-up included, and their processor's time,
which others on the machine disturb little. Medians.
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

PROGRAM = """\
import sys
from beam_pipeline import publish
if not {report}:
    publish.report = lambda *arguments: b"<html>"
from beam_pipeline.cli import main
sys.exit(main())
"""


def cost(folder: Path, report: bool) -> tuple[float, float]:
    """Seconds, and seconds of the processor, of one run."""
    given = {"annotations": folder / "instances.json", "images": folder / "images", "output": folder / "out"}
    options = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-c", PROGRAM.format(report=report), "run", *options, "--workers=1", "--splits=train=0.9,val=0.1"]
    began, before = time.monotonic(), os.times()
    done = subprocess.run([*command, "--overwrite"], capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=15_000)
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch:
        folder = Path(scratch)
        make(folder, parsed.images, 7, 640, 480, quality=AS_COCO)
        runs = [(cost(folder, report=False), cost(folder, report=True)) for _ in range(parsed.runs)]
        megabytes = (folder / "out" / "report.html").stat().st_size / 1e6
    (without, used_without), (with_it, used_with) = (
        [statistics.median(column) for column in zip(*one, strict=True)] for one in zip(*runs, strict=True)
    )
    print(f"{parsed.images:,} images, {parsed.runs} runs each; the report has {megabytes:.1f} MB")
    print(f"without the report: {without:.1f} s, {used_without:.1f} s of processor")
    print(f"with it:            {with_it:.1f} s, {used_with:.1f} s of processor, {used_with / used_without - 1:+.1%}")


if __name__ == "__main__":
    main()
