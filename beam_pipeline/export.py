"""`maskbeam export`: a data set as COCO has its own, for tools that read that: annotation files, and images as files.

    FOLDER/annotations/instances_SPLIT.json   COCO's run lengths, equal to the masks bit for bit
    FOLDER/SPLIT/…                            images, each byte for byte what its record has
    FOLDER/_SUCCESS                           last, once all of it is there

An image is held at a time, or a few where they are written by threads; annotations wait in a temporary file, since COCO's
list of images comes first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from beam_pipeline import __version__
from beam_pipeline.dataset_files import SUCCESS, complete_manifest
from beam_pipeline.terminal import FIRST_SECONDS, PLAIN_SECONDS, progress_line, quiet, showing
from beam_pipeline.verify import read_label_maps
from beam_pipeline.words import some
from transforms import run_lengths, storage
from transforms.ahead import ahead
from transforms.images import leads_out, lift_cap_of_pillow, parts_of
from transforms.read_records import WrittenImage, WrittenInstance, iter_images, shards_of
from transforms.records import Box, InputError
from transforms.shards import read_threads

ANNOTATIONS = "annotations"
PART = ".part"
"""What the name of an annotation file ends in while it is written."""
MARKER = "_EXPORT"
"""A file that says that a folder is an export's."""
CONVERTED = "converted"
"""The folder, in a split's own, of images whose names in the records would not do for what they are."""

_SUFFIXES = {"jpeg": (".jpg", ".jpeg"), "png": (".png",)}
_ESCAPES = {ord(character): f"%{ord(character):02X}" for character in "%/\\:\0"}


class Counts(NamedTuple):
    """What was exported."""

    images: int
    annotations: int
    without_mask: int


# ----------------------------------------------------------------------------------------------------------- entries


def exported_name(file_name: str, format_: str) -> str:
    """The name of an image's file, in the folder of its split; never outside, and of no other image.

    A name whose suffix fits the content stays. Else (the image was converted, turned or is a tile) the suffix is added, and the
    name is one in `CONVERTED`, so that it can't be another image's; a name that leads out loses its slashes there.
    """
    parts, suffixes = parts_of(file_name), _SUFFIXES[format_]
    if leads_out(file_name):
        return f"{CONVERTED}/{file_name.translate(_ESCAPES)}{suffixes[0]}"
    name = "/".join(parts)
    if name.lower().endswith(suffixes) and parts[0] != CONVERTED:
        return name
    return f"{CONVERTED}/{name.replace('%', '%25')}{suffixes[0]}"


def _start(share: np.float32, size: int) -> float:
    """A coordinate in pixels, with as few decimals as give the record's float32 again."""
    exact = float(share) * size
    return next((start for digits in range(10) if np.float32((start := round(exact, digits)) / size) == share), exact)


def _length(start: float, stop: np.float32, size: int) -> float:
    """A length above 0, with as few decimals as give, added to `start`, the record's float32 again."""
    exact = float(stop) * size - start
    lengths = (max(round(exact, digits), 10.0**-digits) for digits in range(13))
    return next((length for length in lengths if np.float32((start + length) / size) == stop), exact)


def coco_box(box: Box, height: int, width: int) -> list[float]:
    """[x, y, width, height] in pixels, in short numbers from which float32 coordinates in [0, 1] come out the same again."""
    ymin, xmin, ymax, xmax = (np.float32(value / size) for value, size in zip(box, (height, width) * 2, strict=True))
    x, y = _start(xmin, width), _start(ymin, height)
    return [x, y, _length(x, xmax, width), _length(y, ymax, height)]


def coco_annotation(image: WrittenImage, instance: WrittenInstance) -> dict[str, Any]:
    """An entry of `annotations`, but for its id; without `segmentation` where there is no mask."""
    entry: dict[str, Any] = {
        "image_id": image.image_id,
        "category_id": instance.label,
        "bbox": coco_box(instance.box, image.height, image.width),
        "area": float(str(np.float32(instance.area))),  # as few digits as give it again
        "iscrowd": int(instance.is_crowd),
    }
    mask = instance.mask
    if mask is not None:
        runs = run_lengths.from_mask(mask)
        entry["segmentation"] = {"size": [runs.height, runs.width], "counts": runs.counts.decode()}
    if instance.attributes:
        entry["attributes"] = msgspec.structs.asdict(instance.attributes)  # as Datumaro and CVAT have them
    return entry


def coco_image(image: WrittenImage, name: str) -> dict[str, Any]:
    """An entry of `images`, with LVIS's lists where the record has them."""
    entry = {"id": image.image_id, "file_name": name, "height": image.height, "width": image.width}
    lists = {name: getattr(image, name) for name in ("neg_category_ids", "not_exhaustive_category_ids")}
    return entry | {name: ids for name, ids in lists.items() if ids is not None}


# ------------------------------------------------------------------------------------------------------------- files


def _file_of(split: str) -> str:
    return f"instances_{split}.json"


def prepare_folder(folder: str) -> None:
    """Marks a folder as an export's. Of an earlier one, the annotation files go; images stay, and are replaced one by one.

    Raises `InputError` where there is something else.
    """
    storage.check(folder)
    try:
        if not storage.exists(storage.join(folder, MARKER)):
            found = _anything(folder)
            if found:
                raise InputError(f"--output {folder} is not empty ({found}), and no earlier export: choose another folder")
            storage.make_folder(folder)
            storage.write_bytes(storage.join(folder, MARKER), b"")
        storage.delete([file.path for file in storage.list_folder(folder) if storage.name_of(file.path) == SUCCESS])
        annotations = storage.join(folder, ANNOTATIONS)
        storage.make_folder(annotations)
        ours = (_file_of("*"), _file_of("*") + PART)
        there = [file.path for file in storage.list_folder(annotations)]
        storage.delete([path for path in there if any(fnmatchcase(storage.name_of(path), name) for name in ours)])
    except OSError as error:
        raise InputError(f"--output {folder} can't be written: {error}") from None


def _anything(folder: str) -> str | None:
    if not storage.is_local(folder):
        return next((file.path for file in storage.list_below(folder)), None)
    return min(os.listdir(folder), default=None) if os.path.exists(folder) else None


def export_split(
    output: str,
    split: str,
    first_id: int,
    categories: Sequence[dict[str, Any]],
    folder: str,
    images: bool,
    done: Callable[[], None],
) -> Counts:
    """Writes a split's images, unless `images` is False, and then its annotation file; annotations are numbered from `first_id`.

    `done` is called after each image. The same data set gives the same bytes.
    """
    encode, make_folder = msgspec.json.encode, lru_cache(maxsize=256)(storage.make_folder)

    def take(image: WrittenImage) -> tuple[bytes, list[dict[str, Any]]]:
        name = exported_name(image.file_name, image.format)
        if images:
            file = storage.join(folder, split, *name.split("/"))
            make_folder(storage.folder_of(file))
            storage.write_bytes(file, image.data)
        return encode(coco_image(image, name)), [coco_annotation(image, one) for one in image.instances]

    written, next_id, without_mask = 0, first_id, 0
    path = storage.join(folder, ANNOTATIONS, _file_of(split))
    with storage.open_write(path + PART) as file, tempfile.TemporaryFile() as later:
        info = {"description": f"the split {split} of a data set", "version": f"maskbeam {__version__}"}
        file.write(b'{"info": ' + encode(info) + b',\n"categories": ' + encode(categories) + b',\n"images": [')
        for _, (entry, annotations) in ahead(take, iter_images(output, [split]), read_threads(folder)):
            file.write((b",\n" if written else b"\n") + entry)
            for annotation in annotations:
                later.write((b",\n" if next_id > first_id else b"\n") + encode({"id": next_id, **annotation}))
                next_id += 1
                without_mask += "segmentation" not in annotation
            written += 1
            done()
        file.write(b'\n],\n"annotations": [')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write(b"\n]}\n")
    storage.move(path + PART, path)
    return Counts(written, next_id - first_id, without_mask)


def export(
    output: str, folder: str, splits: Sequence[str] | None = None, images: bool = True, done: Callable[[], None] = lambda: None
) -> dict[str, Counts]:
    """Exports a data set, or some of its splits, and gives what each had. Raises `InputError` where that can't be done.

    Annotations are numbered through the whole data set, so that a split's ids are the same whichever others are exported.
    """
    complete_manifest(output)
    shards_of(output, splits)
    labels, faults = read_label_maps(output)
    if faults:
        raise InputError(f"{output}: {faults[0]}")
    categories = [{"id": label, "name": name} for label, name in labels.items()]
    instances: Counter[str] = Counter()
    for shard in shards_of(output):
        instances[shard["split"]] += shard["instances"]
    prepare_folder(folder)
    counts, next_id = {}, 1
    for split, number in instances.items():
        if splits is None or split in splits:
            counts[split] = export_split(output, split, next_id, categories, folder, images, done)
        next_id += number
    storage.write_bytes(storage.join(folder, SUCCESS), b"")
    return counts


def export_command(output: str, folder: str, splits: str | None, images: bool) -> int:
    """Runs `export`, says what was written, gives the exit status."""
    chosen = splits.split(",") if splits else None
    began, exported = time.monotonic(), 0

    def done() -> None:
        nonlocal exported
        exported += 1

    lift_cap_of_pillow()  # what is in a record has been let pass
    with quiet() as terminal:
        total = sum(shard["records"] for shard in shards_of(output, chosen))

        def line() -> str:
            return progress_line(total, exported, time.monotonic() - began)

        with showing(terminal, line, FIRST_SECONDS, PLAIN_SECONDS):
            counts = export(output, folder, chosen, images, done)
    for split, count in counts.items():
        without = f" ({count.without_mask:,} of them without a mask)" if count.without_mask else ""
        file = storage.join(folder, ANNOTATIONS, _file_of(split))
        print(f"{file}: {some(count.images, 'image')}, {some(count.annotations, 'annotation')}{without}")
    if images:
        print(f"their images are in {storage.join(folder, 'SPLIT')}: file names are relative to it")
    return 0
