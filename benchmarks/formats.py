"""What it costs that annotations are in another format than COCO's: `make bench-formats`.

One data set, written in each format; whole runs in one process, after one another in turn, each beside one of a COCO file of the
same masks, in seconds of the processor; the ratio is the median of those. Where masks are painted, that file has run lengths.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import Cost, cost_of
from make_data import AS_COCO, make

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from environments import python_with_maskbeam
from written_formats import FORMATS, HEIGHT, WIDTH, as_coco, read


def run(format_: str, annotations: Path, images: Path, output: Path) -> Cost:
    """One run in one process."""
    program = str(Path(python_with_maskbeam()).with_name("maskbeam"))
    paths = [f"--annotations={annotations}", f"--images={images}", f"--output={output}", f"--format={format_}"]
    return cost_of([program, "run", *paths, "--workers=1", "--overwrite", "--max_reject_fraction=1"])


def table(folder: Path, names: list[str], runs: int) -> Iterator[str]:
    """A line a format."""
    images = folder / "images"
    annotated = read(folder / "instances.json")
    head = f"{len(annotated):,} images of {WIDTH}×{HEIGHT}, as"
    yield f"| {head} | MB of annotations | processor s | COCO beside it | times as much |"
    yield "|---|---|---|---|---|"
    for name in names:
        format_, written, coco = FORMATS[name], folder / name, folder / "instances.json"
        written.mkdir()
        format_.write(annotated, written)
        if format_.shapes:
            coco = folder / f"{name}.json"
            as_coco(annotated, coco, format_.shapes)
        for one in annotated:  # some formats look for it under another name
            other = images / format_.image.format(one.file_name.removesuffix(".jpg"))
            other.parent.mkdir(parents=True, exist_ok=True)
            if not other.exists():
                other.hardlink_to(images / one.file_name)
        found, beside = [], []
        for _ in range(runs):
            beside.append(run("coco", coco, images, folder / "records"))
            expected = instances_of(folder / "records")
            found.append(run(name, written / format_.annotations, images, folder / "records"))
            if instances_of(folder / "records") != expected:
                sys.exit(f"{name}: {instances_of(folder / 'records')} instances, COCO's file has {expected}")
            print(name, found[-1].processor, beside[-1].processor, file=sys.stderr, flush=True)
        ratio = statistics.median(one.processor / other.processor for one, other in zip(found, beside, strict=True))
        size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file()) / 1e6
        seconds = [statistics.median(cost.processor for cost in costs) for costs in (found, beside)]
        yield f"| {name} | {size:.1f} | {seconds[0]:.1f} | {seconds[1]:.1f} | {ratio:.2f} |"


def instances_of(records: Path) -> int:
    manifest = json.loads((records / "manifest.json").read_text())
    return int(manifest["annotations"]["written"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch:
        folder = Path(scratch) / "data"
        make(folder, parsed.images, 7, WIDTH, HEIGHT, quality=AS_COCO)
        for line in table(folder, parsed.formats, parsed.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
