"""Images whose names annotations give in part, or in one of several ways: which is there, from a listing of the folder."""

from __future__ import annotations

import threading

from transforms import storage
from transforms.images import ImageFolder
from transforms.records import Problem, ReasonCode, problem
from transforms.sources.once import once

EXTENSIONS = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".mpo", ".pgm", ".ppm")
"""Of image files, in the order that they are looked for."""
_one_at_a_time = threading.Lock()


def names_in(folder: str) -> frozenset[str]:
    """The names of the files directly in a folder, which is listed once and not for each image. None if there is no such."""
    with _one_at_a_time:  # else all threads would list it at once
        return _listed(folder)


@once
def _listed(folder: str) -> frozenset[str]:
    return frozenset(storage.name_of(file.path) for file in storage.list_folder(folder))


def is_there(images: ImageFolder, file_name: str) -> bool:
    """Whether there is an image of this name, for formats that leave open which of several it is.

    In buckets, by a list of its folder: to ask for each image would take longer than to read its annotations.
    """
    path = images.locate(file_name)
    if isinstance(path, Problem) or storage.join(path, "") == storage.join(images.root, ""):
        return False
    return storage.exists(path) if storage.is_local(path) else storage.name_of(path) in names_in(storage.folder_of(path))


def find_image(images: ImageFolder, stem: str) -> str | Problem:
    """The file name of an image that is known without its extension; PATH_FORBIDDEN, IMAGE_MISSING."""
    path = images.locate(stem)
    if isinstance(path, Problem):
        return path
    for extension in EXTENSIONS:
        if is_there(images, stem + extension):
            return stem + extension
    return problem(ReasonCode.IMAGE_MISSING, f"there is no {stem}.jpg, .png or the like in the image folder")
