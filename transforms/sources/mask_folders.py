"""`mask_folders`: painted masks and nothing else; which file belongs to which image, their names say.

One file an object, whose pixels are those that are not 0:
- `ID/masks/*.png` of the image `ID/images/ID.*`, as in the 2018 Data Science Bowl (BBBC038 of the Broad Bioimage Benchmark
  Collection);
- `annotations/ID_CLASS_NUMBER.png` of the image `ID.*`, as pycococreator reads them (`examples/shapes` in its repository).

Or one file an image, anywhere else, of the same name: each value but 0 is an object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from transforms import run_lengths, storage
from transforms.records import Problem, RunLengths
from transforms.sources.image_names import find_image
from transforms.sources.mask_files import check_shape, image_size, objects_of, read_ids
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage

CATEGORY = "object"
"""The one category, where names say of none."""
_NAMED = re.compile(r"(?P<image>.+)_(?P<category>[^\W\d_][^_]*)_\d+\.png")


def together(path: str) -> str:
    """What the mask files of one image have in common; of one file an image, its path."""
    folder = storage.folder_of(path)
    if storage.name_of(folder) == "masks":
        return folder
    named = _named(path)
    return storage.join(folder, named["image"]) if named else path


def _named(path: str) -> re.Match[str] | None:
    folder, name = storage.folder_of(path), storage.name_of(path)
    return _NAMED.fullmatch(name) if storage.name_of(folder) == "annotations" else None


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image that some masks belong to; or the images of the masks in a folder `masks` that has one file an image."""
    path = piece.paths[0]
    relative = PurePosixPath(context.relative(path))
    above = relative.parent.parent
    if named := _named(path):
        yield _one_an_object(piece, str(above / named["image"]), context)
        return
    if relative.parent.name == "masks":
        whole = str(above / "images" / (above.name or PurePosixPath(context.annotations).name))
        if _is_there(find_image(context.images, whole)) or not any(_is_there(_image_of(one, context)) for one in piece.paths):
            yield _one_an_object(piece, whole, context)
            return
    yield from (found for one in piece.paths if (found := _one_an_image(one, context)))


def _is_there(found: str | Problem) -> bool:
    return not isinstance(found, Problem)


def _image_of(path: str, context: Context) -> str | Problem:
    """The file name of the image that a mask is the only one of."""
    relative = PurePosixPath(context.relative(path))
    folder, stem = relative.parent, relative.stem
    if folder.name != "masks":
        return find_image(context.images, str(folder / stem))
    found = find_image(context.images, str(folder.parent / "images" / stem))
    return find_image(context.images, str(folder.parent / stem)) if isinstance(found, Problem) else found


def _one_an_object(piece: Piece, stem: str, context: Context) -> SourceImage:
    file_name = find_image(context.images, stem)
    draft = Draft(stem if isinstance(file_name, Problem) else file_name)
    masks = [_mask(path, context.max_pixels) for path in piece.paths]
    size = file_name if isinstance(file_name, Problem) else _size(masks, file_name, context)
    if isinstance(size, Problem):
        return draft.fail(size, len(piece.paths))
    height, width = size
    for path, mask in zip(piece.paths, masks, strict=True):
        named = _named(path)
        wrong = None if isinstance(mask, Problem) else check_shape((mask.height, mask.width), height, width, path)
        draft.add(named["category"] if named else CATEGORY, wrong or mask)
    return draft.done(height, width, context.max_pixels)


def _mask(path: str, max_pixels: int) -> RunLengths | Problem:
    ids = read_ids(path, max_pixels)
    return ids if isinstance(ids, Problem) else run_lengths.from_mask(ids)


def _size(masks: list[RunLengths | Problem], file_name: str, context: Context) -> tuple[int, int] | Problem:
    """Height and width of an image. Where all its masks agree, they say: the record's step sees whether it is of that size."""
    sizes = {(mask.height, mask.width) for mask in masks if not isinstance(mask, Problem)}
    return sizes.pop() if len(sizes) == 1 else image_size(context.images, file_name)


def _one_an_image(path: str, context: Context) -> SourceImage | None:
    """The image of a mask file; None for a file that is itself an image, in the same tree."""
    file_name = _image_of(path, context)
    if storage.name_of(storage.folder_of(path)) == "images" or _is_at(file_name, path, context):
        return None
    if isinstance(file_name, Problem):
        return Draft(str(PurePosixPath(context.relative(path)).with_suffix(""))).fail(file_name)
    draft = Draft(file_name)
    ids = read_ids(path, context.max_pixels)
    if isinstance(ids, Problem):
        return draft.fail(ids)
    objects = objects_of(ids, path)
    if isinstance(objects, Problem):
        return draft.fail(objects)
    for mask in objects.values():
        draft.add(CATEGORY, mask)
    return draft.done(ids.shape[0], ids.shape[1], context.max_pixels)


def _is_at(file_name: str | Problem, path: str, context: Context) -> bool:
    """Whether an image is the file at a path, however either folder was given."""
    found = file_name if isinstance(file_name, Problem) else context.images.locate(file_name)
    if isinstance(found, Problem):
        return False
    return os.path.realpath(found) == os.path.realpath(path) if storage.is_local(path) else found == path


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if not data.startswith(b"\x89PNG"):
        return None
    if _named(path):
        return "its name is ID_CLASS_NUMBER.png, in a folder annotations"
    return "it is a PNG in a folder masks" if storage.name_of(storage.folder_of(path)) == "masks" else None


FORMAT = Format(
    name="mask_folders",
    title="Mask files: a PNG an object, or an image",
    files=("*.png",),
    parse=parse,
    recognise=recognise,
    together=together,
)
