"""What the formats' tests share: a data set read and drawn without Beam, and whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from transforms import run_lengths
from transforms.images import ImageFolder
from transforms.rasterize import rasterize_images
from transforms.records import AnnotatedImage, Instance, Reject, RunLengths, pack
from transforms.sources import format_of
from transforms.sources.files import cut_pieces, find_pieces, folder_of
from transforms.sources.once import forget
from transforms.sources.source import Context, Piece, SourceImage


class Drawn(NamedTuple):
    """An image as it is before its record is built: names, masks [N, height, width], rejects by annotation number."""

    source: SourceImage
    image: AnnotatedImage
    names: list[str]
    masks: npt.NDArray[np.uint8]
    rejects: dict[int | None, str]

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.image.instances


def source_images(name: str, annotations: Path, images: Path | None = None, **context: Any) -> list[SourceImage]:
    """What a format makes of its files."""
    forget()
    format_ = format_of(name)
    given = Context(folder_of(str(annotations)), ImageFolder(str(images or annotations)), **context)
    pieces = [piece for some in find_pieces(str(annotations), format_) for piece in some]
    if format_.cut:
        pieces = [piece for some in cut_pieces(pieces, format_) for piece in some]
    if format_.rows:
        by_image: dict[str, list[bytes]] = {}
        for piece in pieces:
            for name, row in format_.rows(piece, given):
                by_image.setdefault(name, []).append(row)
        pieces = [Piece((name,), pack(sorted(found))) for name, found in sorted(by_image.items())]
    return [image for piece in pieces for image in format_.parse(piece, given)]


def parse_text(
    name: str, data: bytes | str, path: str = "/data/one.json", images: str = "/data", **context: Any
) -> list[SourceImage]:
    """What a format makes of one file's or block's bytes."""
    forget()
    piece = Piece((path,), data.encode() if isinstance(data, str) else data)
    return list(format_of(name).parse(piece, Context(path.rpartition("/")[0], ImageFolder(images), **context)))


def rasterize_image(image: AnnotatedImage, **how: Any) -> tuple[AnnotatedImage | None, list[Reject]]:
    """One image alone."""
    [found] = rasterize_images([image], **how)
    return found


def drawn(source: SourceImage) -> Drawn:
    """An image rasterized."""
    image, rejects = rasterize_image(source.image)
    assert image is not None
    masks = [run_lengths.to_mask(one.shape) for one in image.instances if isinstance(one.shape, RunLengths)]
    codes = {annotation_id: why.code for annotation_id, why in source.rejects}
    return Drawn(
        source,
        image,
        [source.names[one.category_id] for one in image.instances],
        np.array(masks, np.uint8).reshape(-1, image.height, image.width),
        codes | {reject.annotation_id: reject.reason for reject in rejects},
    )


def all_drawn(name: str, annotations: Path, images: Path | None = None, **context: Any) -> dict[str, Drawn]:
    """Every image of a data set, by file name."""
    return {one.image.file_name: drawn(one) for one in source_images(name, annotations, images, **context)}


def run_format(name: str, annotations: Path | str, images: Path | str, output: Path | str, **options: Any) -> dict[str, Any]:
    """A whole run; its manifest."""
    paths = {"annotations": str(annotations), "images": str(images), "output": str(output)}
    outcome = run(RunOptions(format=name, **paths, **options), [])
    assert outcome is not None
    return outcome.manifest


def by_file_name(records: Iterator[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records as `read_back` of test_end_to_end gives them, by their image's file name."""
    return {record["image/filename"].decode(): record for record in records}
