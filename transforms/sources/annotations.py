"""What every source gives, and what reading any of them begins with: finding the files, and giving bundles back to Beam."""

from __future__ import annotations

from typing import NamedTuple

import apache_beam as beam

from transforms import events, storage
from transforms.records import AnnotatedImage, Category, Census, InputError, Reject
from transforms.storage import StoredFile


class Annotations(NamedTuple):
    """What every source gives: images with their geometry, the category list, the rejects and the census."""

    images: beam.PCollection[AnnotatedImage]
    categories: beam.PCollection[Category]
    rejects: beam.PCollection[Reject]
    census: beam.PCollection[Census]


def find_annotations(pattern: str) -> list[StoredFile]:
    """The files that a pattern matches. Raises `InputError` where there are none."""
    try:
        files = storage.match(pattern)
    except Exception as error:
        raise InputError(f"the annotations {pattern} can't be read: {error}") from error
    if not files:
        raise InputError(f"there are no annotations at {pattern}")
    return files


def log_found(file: StoredFile) -> None:
    """Says that a file of many images was found."""
    events.log("annotations_found", file=file.path, bytes=file.bytes)
