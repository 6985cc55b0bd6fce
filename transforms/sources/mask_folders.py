"""`mask_folders`: painted masks and nothing else; which file belongs to which image, their names say.

One file an object, whose pixels are those that are not 0:
- `ID/masks/*.png` of the image `ID/images/ID.*`, as in the 2018 Data Science Bowl (BBBC038 of the Broad Bioimage Benchmark
  Collection);
- `annotations/ID_CLASS_NUMBER.png` of the image `ID.*`, as pycococreator reads them (`examples/shapes` in its repository).

Or one file an image, anywhere else, of the same name: each value but 0 is an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from transforms import run_lengths, storage
from transforms.records import Problem, Shape
from transforms.sources.mask_files import Ids, check_size, find_image, image_size, objects_of, read_ids
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
    elif relative.parent.name == "masks" and above.name and _is_of_one_image(above, relative.stem, context):
        yield _one_an_object(piece, str(above / "images" / above.name), context)
    else:
        yield from (found for one in piece.paths if (found := _one_an_image(one, context)))


def _is_of_one_image(folder: PurePosixPath, stem: str, context: Context) -> bool:
    """Whether masks in `folder` belong to the image of the folder's name, and the first of them has none of its own."""
    whole = find_image(context.images, str(folder / "images" / folder.name))
    return not isinstance(whole, Problem) or isinstance(_image_beside(folder, stem, context), Problem)


def _image_beside(folder: PurePosixPath, stem: str, context: Context) -> str | Problem:
    """The image of a mask in `folder`/masks that is its only one."""
    found = find_image(context.images, str(folder / "images" / stem))
    return find_image(context.images, str(folder / stem)) if isinstance(found, Problem) else found


def _one_an_object(piece: Piece, stem: str, context: Context) -> SourceImage:
    file_name = find_image(context.images, stem)
    if isinstance(file_name, Problem):
        draft = Draft(stem)
        for _ in piece.paths:
            draft.reject(file_name)
        return draft.fail(file_name)
    draft = Draft(file_name)
    masks = [read_ids(path, context.max_pixels) for path in piece.paths]
    sizes = {mask.shape for mask in masks if not isinstance(mask, Problem)}
    # Where all masks agree, the image need not be opened: whether it is of their size is seen when its record is made.
    size = sizes.pop() if len(sizes) == 1 else image_size(context.images, file_name)
    if isinstance(size, Problem):
        for _ in piece.paths:
            draft.reject(size)
        return draft.fail(size)
    height, width = size
    for path, mask in zip(piece.paths, masks, strict=True):
        named = _named(path)
        draft.add(named["category"] if named else CATEGORY, _shape(mask, height, width, path))
    return draft.done(height, width, context.max_pixels)


def _shape(mask: Ids | Problem, height: int, width: int, path: str) -> Shape | Problem:
    if isinstance(mask, Problem):
        return mask
    return check_size(mask, height, width, path) or run_lengths.from_mask((mask != 0).astype(np.uint8))


def _one_an_image(path: str, context: Context) -> SourceImage | None:
    """The image of a mask file; None for a file that is itself an image, in the same tree."""
    relative = PurePosixPath(context.relative(path))
    folder, stem = relative.parent, relative.stem
    if folder.name == "masks":
        file_name = _image_beside(folder.parent, stem, context)
    else:
        file_name = find_image(context.images, str(folder / stem))
    if storage.name_of(storage.folder_of(path)) == "images" or _is_at(file_name, path, context):
        return None
    if isinstance(file_name, Problem):
        return Draft(str(folder / stem)).fail(file_name)
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
    return not isinstance(file_name, Problem) and context.images.locate(file_name) == path


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
