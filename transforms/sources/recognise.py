"""`--format auto`: which format files are of, told from a few of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from transforms import storage
from transforms.records import InputError
from transforms.sources import COCO, COCO_PANOPTIC, PER_FILE, format_of
from transforms.sources.coco import LISTS
from transforms.sources.files import is_named
from transforms.sources.json_blocks import cut_blocks
from transforms.sources.source import HEAD_BYTES

_FILES_LOOKED_AT = 3  # of each format
_OTHERS_LOOKED_AT = 100  # where one of COCO's files is found
_BEGINS_LIKE_COCO = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(?:info|licenses|images|annotations|categories|type)"\s*:')


class Recognised(NamedTuple):
    """A format by its name, and what tells it."""

    format: str
    why: str
    path: str
    """Where the format is of one file, that."""


def recognise(annotations: str) -> Recognised:
    """The format of a file, of those that a pattern matches, or of those in a folder. Raises `InputError` if it is not clear."""
    folder = storage.is_folder(annotations)
    paths = [file.path for file in (storage.list_below(annotations) if folder else storage.match(annotations))]
    heads: dict[str, bytes] = {}
    found = [one for name in (COCO, *PER_FILE) if (one := _look(name, paths, folder, heads))]
    here = f"--format auto: {annotations}"
    if len(found) == 1:
        if found[0].path and folder:
            _refuse_others_like(found[0].path, paths, here)
        return found[0]
    if not paths:
        raise InputError(f"{here}: there are no files")
    if not found:
        looked_at = ", ".join(map(storage.name_of, sorted(heads)[:3])) or "none"
        raise InputError(f"{here}: no format is recognised in {len(paths)} files (looked at: {looked_at}): give --format")
    several = "; ".join(f"{one.format} {one.why}" for one in found)
    raise InputError(f"{here}: it could be {several}: give --format, or the path of the one")


def _refuse_others_like(taken: str, paths: Sequence[str], here: str) -> None:
    """Raises `InputError` where a folder has several of COCO's files: whether they belong together, only the user knows."""
    named = [path for path in paths if path != taken and is_named(path, ("*.json",))][:_OTHERS_LOOKED_AT]
    others = [path for path in named if _BEGINS_LIKE_COCO.match(_head(path))]
    if others:
        names = ", ".join(map(storage.name_of, sorted([taken, *others])[:4]))
        raise InputError(f"{here}: several files look like COCO's ({names}): give the path of the one, or a pattern for all")


def _look(name: str, paths: Sequence[str], folder: bool, heads: dict[str, bytes]) -> Recognised | None:
    """A format, if one of the first files that are named as its are is recognised by it."""
    patterns = ("*.json",) if name == COCO else format_of(name).files
    named = [path for path in paths if not folder or is_named(path, patterns)]
    for path in named[:_FILES_LOOKED_AT]:
        if path not in heads:
            heads[path] = _head(path)
        found = _coco(path, heads[path]) if name == COCO else _of(name, path, heads[path])
        if found:
            return found
    return None


def _head(path: str) -> bytes:
    with storage.open_read(path) as file:
        return file.read(HEAD_BYTES)


def _of(name: str, path: str, head: bytes) -> Recognised | None:
    why = format_of(name).recognise(path, head)
    return Recognised(name, f"for {storage.name_of(path)}: {why}", "") if why else None


def _coco(path: str, head: bytes) -> Recognised | None:
    """COCO's files begin like no others, but instances and panoptic segments are told apart only by the annotations."""
    if not _BEGINS_LIKE_COCO.match(head):
        return None
    with storage.open_read(path) as file:
        try:
            for block in cut_blocks(file.read, LISTS, path):
                if block.key == "annotations" and block.length > 2:
                    data = storage.read_range(path, block.offset, block.length, block.crc32c)
                    panoptic = b'"segments_info"' in data
                    why = f"for {storage.name_of(path)}: its annotations have {'' if panoptic else 'no '}segments_info"
                    return Recognised(COCO_PANOPTIC if panoptic else COCO, why, path)
        except InputError:
            return None
    return Recognised(COCO, f"for {storage.name_of(path)}: it has images, annotations and categories", path)
