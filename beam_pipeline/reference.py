"""The files of the checkout that derive from the code: `python -m beam_pipeline.reference` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import msgspec

from beam_pipeline.flex_template import as_text, image_spec, metadata
from beam_pipeline.options import GROUPS, RunOptions, about
from transforms import counters
from transforms.counters import KINDS
from transforms.events import EVENTS
from transforms.examples import FEATURES, OPTIONAL_FEATURES
from transforms.records import Fix, ReasonCode
from transforms.shards import LOCAL_READS, READ_AHEAD_BYTES, REMOTE_READS
from transforms.sources import PER_FILE, format_of
from transforms.sources.jsonl import Line

CHECKOUT = Path(__file__).resolve().parents[1]


def options_page() -> str:
    """docs/options.md."""
    lines = [
        "# Options of `maskbeam run`",
        "",
        "Any option of Apache Beam can be given too; without `--runner` the job runs on this machine.",
    ]
    for group in GROUPS:
        lines += ["", f"## {group}", "", "| option | default | meaning |", "|---|---|---|"]
        for one in fields(RunOptions):
            said = about(one)
            if said.group != group:
                continue
            default = "required" if one.default is MISSING else "off" if one.default is False else str(one.default or "–")
            values = said.metavar or ", ".join(said.choices or ())
            name = f"`--{one.name}{' ' + values if values else ''}`".replace("|", "\\|")
            lines.append(f"| {name} | {default} | {said.help} |")
    return "\n".join(lines) + "\n"


def reason_codes_page() -> str:
    """docs/reason_codes.md."""
    lines = [
        "# Reason codes",
        "",
        "Every image and annotation that is not in the records is in `rejects.jsonl`, a JSON object a line with `kind`",
        "(image or annotation), `image_id`, `annotation_id`, `reason`, `message` and `file_name`. An image that is",
        "rejected takes its annotations with it, under the same reason. What was dropped because you asked for it, or the",
        "format says so, is listed too, and counted apart.",
        "",
        "| code | what it means | what to do |",
        "|---|---|---|",
        *(f"| `{code.name}` | {code.value} | {code.advice} |" for code in ReasonCode),
        "",
        "A file that can't be used as a whole ends the job with exit status 2 and a message that begins with `JSON_INVALID`:",
        "it is cut off, is no JSON, nests too deeply, has a number of thousands of digits, or lacks one of the lists.",
        "",
        "## What is put right, or is odd and kept",
        "",
        "Counted in `statistics.json` under `fixes`, for what was written:",
        "",
        "| name | what it counts |",
        "|---|---|",
        *(f"| `{fix.name}` | {fix.value} |" for fix in Fix),
    ]
    return "\n".join(lines) + "\n"


def record_page() -> str:
    """docs/record.md."""
    lines = [
        "# The record",
        "",
        "One `tf.train.Example` an image, readable by the TensorFlow Object Detection API and by the TensorFlow Model Garden.",
        "",
        "| feature | kind | length | value |",
        "|---|---|---|---|",
    ]
    for name, feature in (FEATURES | OPTIONAL_FEATURES).items():
        mask = name == "image/object/mask"
        kind = feature.kind.name.lower() + (", or float" if mask else "")
        length = ("N, or N·H·W" if mask else "N") if feature.per_instance else "any" if name in OPTIONAL_FEATURES else "1"
        lines.append(f"| `{name}` | {kind} | {length} | {feature.meaning} |")
    lines += [
        "",
        "Those from `image/object/difficult` on are there where the annotations say so much.",
        "",
        "The N instances stand in the order of their annotation ids. N may be 0; the lists are then empty and keep their kind.",
        "",
        "| `--mask_encoding` | mask | Object Detection API | Model Garden |",
        "|---|---|---|---|",
        "| `png` | 8-bit grey PNG of the image's size, values 0 and 1 | `mask_type: PNG_MASKS` | as it is |",
        "| `png1` | 1-bit PNG with the palette (0,0,0), (1,1,1) | `mask_type: PNG_MASKS` | as it is |",
        "| `dense` | float32 0.0/1.0, [N, H, W] flattened | its default, `NUMERICAL_MASKS` | can't read it |",
        "",
        "Shards are plain TFRecord files, `SPLIT-00000-of-00016.tfrecord`. An image's split, its shard and its place",
        "in the shard come from a hash of its id. A shard that no image falls into is an empty file.",
    ]
    return "\n".join(lines) + "\n"


def counters_page() -> str:
    """docs/counters.md."""
    lines = [
        "# Counters and log lines",
        "",
        f"What a job counts while it runs, in the namespace `{counters.NAMESPACE}` of Beam's metrics, under names that stay.",
        "Dataflow, Flink and Spark show them where they show their own; `result.metrics().query()` has them in Python. What the",
        "manifest says does not rest on them: it is counted by data that travels with the job, and has to balance.",
        "",
        "| counter | what it counts |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in counters.COUNTERS.items()),
        *(
            f"| `{counters.reject_counter(kind, 'CODE')}` | {kind}s rejected or dropped with this [reason](reason_codes.md) |"
            for kind in KINDS
        ),
        "",
        "| distribution | its values |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in counters.DISTRIBUTIONS.items()),
        "",
        f"Up to {REMOTE_READS} images of a shard are read at the same time ({LOCAL_READS} from the worker's disk), or",
        f"as many as fit into {READ_AHEAD_BYTES >> 20} MB. So storage holds nothing up while the mean of `read_ms` is below",
        "that many times that of `encode_ms`.",
        "",
        "## Log lines",
        "",
        "Each of ours is a JSON object at the level INFO, of the logger `maskbeam`, and its `event` is one of these. There is",
        "one for each file or shard, none for an image. Workers log them by themselves; `maskbeam run --verbose` shows those of",
        "a job on this machine.",
        "",
        "| event | what has happened, and its fields |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in EVENTS.items()),
    ]
    return "\n".join(lines) + "\n"


def formats_page() -> str:
    """docs/formats.md."""
    lines = [
        "# Formats of annotations",
        "",
        "`maskbeam run --format NAME`; `--format auto` tells it from the files, and says which it took and why. For formats of",
        "more than one file, `--annotations` is a folder: all files in and below it are taken that are named as the table says.",
        "Links to folders are not followed.",
        "",
        "| `--format` | | files |",
        "|---|---|---|",
        "| [`coco`](formats/coco.md) | COCO instances, LVIS: one JSON file, or several | |",
        "| [`coco_panoptic`](formats/coco_panoptic.md) | COCO panoptic: a JSON file and a folder of PNGs | |",
    ]
    for name in PER_FILE:
        found = format_of(name)
        files = ", ".join(f"`{pattern}`" for pattern in found.files)
        lines.append(f"| [`{name}`](formats/{name}.md) | {found.title} | {files} |")
    lines += [
        "",
        "In all but COCO's, images are known by their file names and classes by theirs. An image's id is then a hash of its",
        "file name, below 2^24, which stays when other images come or go; classes are numbered from 1 in the order of their",
        "names, or of the format's own list. [preparation.md](preparation.md) has what can be done to any of them: classes",
        "kept, renamed and merged, images scaled and cut into tiles. [data_sets.md](data_sets.md) lists real data sets that are",
        "run whole.",
    ]
    return "\n".join(lines) + "\n"


def jsonl_schema() -> str:
    """docs/formats/jsonl.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Line)}
    return json.dumps(schema, indent=1) + "\n"


DERIVED: dict[str, Callable[[], str]] = {
    "docs/options.md": options_page,
    "docs/reason_codes.md": reason_codes_page,
    "docs/record.md": record_page,
    "templates/flex/metadata.json": lambda: as_text(metadata()),
    "templates/flex/image_spec.json": lambda: as_text(image_spec()),
    "docs/counters.md": counters_page,
    "docs/formats.md": formats_page,
    "docs/formats/jsonl.schema.json": jsonl_schema,
}


def main() -> None:
    """Writes them."""
    for name, text in DERIVED.items():
        (CHECKOUT / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
