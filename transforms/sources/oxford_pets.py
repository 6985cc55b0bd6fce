"""`oxford_pets`: a trimap an image, and XML files with boxes around heads, of the Oxford-IIIT Pet data set.

Source: `annotations/README` in the data set; and, of what becomes of it, the repository tensorflow/models:
`research/object_detection/dataset_tools/create_pet_tf_record.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

import numpy as np

from transforms import run_lengths, storage
from transforms.records import Problem, ReasonCode, problem
from transforms.sources.mask_files import Ids, read_ids
from transforms.sources.pascal_voc import attributes_of, corners_of, size_of
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage
from transforms.sources.xml_files import parse_xml

FOREGROUND, BACKGROUND, BORDER = 1, 2, 3
_FILE = re.compile(r"(?P<folder>(?:.*/)?)(?:xmls|trimaps)/(?P<name>[^/]+)\.(?:xml|png)")
_NAME = re.compile(r"(?P<breed>.+)_\d+")


def together(path: str) -> str:
    """What the files of one image have in common."""
    found = _FILE.fullmatch(path)
    return f"{found['folder']}{found['name']}" if found else path


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of a trimap; with `context.faces_only`, of an XML file. None of other files."""
    path = piece.paths[0]  # trimaps come before xmls
    xmls = [one for one in piece.paths if one.endswith(".xml")]
    ours = xmls if context.faces_only else xmls or _FILE.fullmatch(path)
    stem = PurePosixPath(path).stem
    if not ours or stem.startswith("._"):  # the data set has such files beside its own, of a Macintosh
        return
    draft = Draft(image_of(path, stem, context))
    name = _NAME.fullmatch(stem)
    xml = parse_xml(storage.read_bytes(xmls[0]), "annotation") if xmls else None
    if not name:
        heads = len(xml.findall("object")) if xml is not None and not isinstance(xml, Problem) else 0
        wrong = problem(ReasonCode.FILE_INVALID, f"the file is named {stem!r}, expected BREED_NUMBER")
        yield draft.fail(wrong, heads if context.faces_only else 1)
    elif isinstance(xml, Problem):
        yield draft.fail(xml, 0 if context.faces_only else 1)
    elif xml is not None and context.faces_only:
        yield _heads(xml, name["breed"], draft, context)
    else:
        yield _body(xml, name["breed"], path, draft, context)


def image_of(path: str, stem: str, context: Context) -> str:
    """The file name of an image: in `images` beside `annotations`, or in the image folder itself."""
    parts = PurePosixPath(context.relative(path)).parts
    if "annotations" not in parts or PurePosixPath(context.images.root).name == "images":
        return f"{stem}.jpg"
    return str(PurePosixPath(*parts[: parts.index("annotations")], "images", f"{stem}.jpg"))


def _heads(xml: Element, breed: str, draft: Draft, context: Context) -> SourceImage:
    """Boxes without masks. Corners are taken as the Object Detection API takes them: none is moved by a pixel."""
    size = size_of(xml, draft.file_name, context)
    for one in xml.iterfind("object"):
        box = corners_of(one)
        if isinstance(box, Problem):
            draft.reject(box)
        else:
            draft.add(breed, None, box=box, attributes=attributes_of(one))
    return draft.fail(size) if isinstance(size, Problem) else draft.done(*size, context.max_pixels)


def _body(xml: Element | None, breed: str, path: str, draft: Draft, context: Context) -> SourceImage:
    """The one pet of a trimap, with what the XML file says of it besides."""
    folder = context.masks or storage.join(storage.folder_of(storage.folder_of(path)), "trimaps")
    ids = _trimap(storage.join(folder, f"{PurePosixPath(path).stem}.png"), context.max_pixels)
    if isinstance(ids, Problem):
        return draft.fail(ids, 1)
    first = None if xml is None else xml.find("object")
    mask = run_lengths.from_mask(ids != BACKGROUND)
    draft.add(breed, mask, attributes=None if first is None else attributes_of(first))
    return draft.done(ids.shape[0], ids.shape[1], context.max_pixels)


def _trimap(path: str, max_pixels: int) -> Ids | Problem:
    ids = read_ids(path, max_pixels)
    if isinstance(ids, Problem):
        return ids
    others = np.setdiff1d(run_lengths.value_runs(ids).values, (FOREGROUND, BACKGROUND, BORDER))
    if others.size:
        return problem(ReasonCode.MASK_INVALID, f"the trimap {path} has the value {others[0]}, expected 1, 2 and 3")
    return ids


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    folder = PurePosixPath(path).parent.name
    if data.startswith(b"\x89PNG"):
        return "it is a PNG in a folder trimaps" if folder == "trimaps" else None
    return "it has <annotation>, in a folder xmls" if folder == "xmls" and b"<annotation>" in data else None


FORMAT = Format(
    name="oxford_pets",
    title="Oxford-IIIT Pets: trimaps, and XML with boxes around heads",
    files=("*.png", "*.xml"),
    parse=parse,
    recognise=recognise,
    together=together,
)
