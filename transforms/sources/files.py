"""ReadAnnotations for all formats but COCO's: files are found, read and parsed by workers, then numbered.

FindPieces ──▶ ParsePieces ──▶ SourceImage, by bucket ──GroupByKey──▶ Number ──▶ AnnotatedImage
                        └────▶ names ──▶ categories ────────────────────┘

A format in tables, whose rows of one image lie anywhere, has one step more: rows meet by image before they are parsed.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList

from transforms import counters, memory, progress, storage
from transforms.ahead import ahead
from transforms.batches import BatchWriter, Packer
from transforms.bundles import in_window
from transforms.images import lift_cap_of_pillow
from transforms.records import AnnotatedImage, Category, Census, InputError, Reject, pack
from transforms.sources.annotations import Annotations, find_annotations, log_found
from transforms.sources.numbering import MergeNames, Number, bucket_of, in_order_of_names, pack_source_images
from transforms.sources.once import forget
from transforms.sources.source import Context, Format, Piece, SourceImage

PIECES_AT_ONCE = 32  # for one worker; a small file takes as long to hand on as to parse
REMOTE_READS = 32
"""Pieces that are read and parsed at the same time, where storage is far away."""
WAITING_BYTES = 8 << 20


def folder_of(annotations: str) -> str:
    """The folder that names below are relative to: the one that is given, or that of a file, or of a pattern's fixed part."""
    if storage.is_folder(annotations):
        return annotations.rstrip("/") or annotations
    if storage.is_pattern(annotations) and storage.exists(annotations):
        return storage.folder_of(annotations)
    fixed = annotations
    while storage.is_pattern(fixed) or fixed == annotations:
        above = storage.folder_of(fixed)
        if above == fixed:
            return above
        fixed = above
    return fixed


def is_named(path: str, patterns: Sequence[str]) -> bool:
    """Whether the name of a file is one of those that patterns stand for."""
    return any(fnmatch.fnmatchcase(storage.name_of(path), pattern) for pattern in patterns)


def find_files(annotations: str, format_: Format) -> list[storage.StoredFile]:
    """The files of a format: those that a pattern matches, or those in a folder whose names say so. Raises `InputError`."""
    if not storage.is_folder(annotations):
        return find_annotations(annotations)
    found = storage.list_below(annotations.rstrip("/") or annotations)
    if storage.is_local(annotations):  # a pipe would be read forever
        found = [file for file in found if os.path.isfile(file.path)]
    found = [file for file in found if is_named(file.path, format_.files)]
    if not found:
        raise InputError(f"there is no {' or '.join(format_.files)} in {annotations}, which --format {format_.name} reads")
    return found


def find_pieces(annotations: str, format_: Format) -> Iterator[list[Piece]]:
    """The files of a format as pieces, some at once."""
    files = find_files(annotations, format_)
    if format_.cut or format_.rows:
        for file in files:
            log_found(file)
            yield [Piece((file.path,))]
        return
    pieces: Iterator[Piece] = (Piece((file.path,)) for file in files)
    if format_.together:
        together = format_.together
        by_key = sorted((together(file.path), file.path) for file in files)
        pieces = (Piece(tuple(path for _, path in same)) for _, same in groupby(by_key, lambda pair: pair[0]))
    while some := list(islice(pieces, PIECES_AT_ONCE)):
        yield some


def cut_pieces(pieces: list[Piece], format_: Format) -> Iterator[list[Piece]]:
    """Files of many images, cut."""
    for piece in pieces:
        for data in format_.cut(piece.paths[0]) if format_.cut else ():
            yield [Piece(piece.paths, data)]


class ParsePieces(beam.DoFn):  # type: ignore[misc]
    """Pieces → (bucket, packed images); and, tagged, names, and the census."""

    def __init__(self, format_: Format, context: Context, spill_folder: str | None) -> None:
        self.format, self.context = format_, context
        self.writer = BatchWriter(spill_folder)
        self.images: Packer[int, SourceImage] = Packer(self.writer, pack_source_images)

    def setup(self) -> None:
        memory.tune()
        forget()
        lift_cap_of_pillow()

    def teardown(self) -> None:
        self.writer.close()

    def start_bundle(self) -> None:
        self.names: set[str] = set()

    def process(self, pieces: list[Piece]) -> Iterator[Any]:
        census = Census()
        for images in self._parse(pieces):
            census = sum((Census(1, one.annotations, one.image.height * one.image.width) for one in images), census)
            yield from self._take(images)
        yield beam.pvalue.TaggedOutput("census", census)
        counters.counter(counters.IMAGES_READ).inc(census.images)
        counters.counter(counters.ANNOTATIONS_READ).inc(census.annotations)

    def _parse(self, pieces: list[Piece]) -> Iterator[list[SourceImage]]:
        if len(pieces) == 1 or (storage.is_local(self.context.annotations) and storage.is_local(self.context.images.root)):
            yield from (list(self.format.parse(piece, self.context)) for piece in pieces)
        else:
            yield from (found for _, found in ahead(lambda one: list(self.format.parse(one, self.context)), pieces, REMOTE_READS))

    def _take(self, images: list[SourceImage]) -> Iterator[tuple[int, bytes]]:
        for one in images:
            self.names.update(one.names)
            self.images.add(bucket_of(one.image.file_name), one, len(pack(one)))
        progress.advance(progress.IMAGES_READ, len(images))
        if self.images.bytes >= WAITING_BYTES:
            yield from self.images.batches()

    def finish_bundle(self) -> Iterator[Any]:
        for name in sorted(self.names):
            yield in_window(beam.pvalue.TaggedOutput("names", name))
        yield from map(in_window, self.images.batches())


@dataclass
class ReadFiles(beam.PTransform):  # type: ignore[misc]
    """The files of a format, by path, pattern or folder, to `Annotations`.

    Raises `InputError` in the pipeline where there are none, or one of many images is unusable; a bad image or annotation is a
    reject.
    """

    format: Format
    pattern: str
    context: Context
    spill_folder: str | None = None

    def expand(self, pipeline: beam.Pipeline) -> Annotations:
        format_, context = self.format, self.context
        pieces = (
            pipeline
            | beam.Create([self.pattern])
            | "FindPieces" >> beam.FlatMap(find_pieces, format_)
            | "SpreadPieces" >> beam.Reshuffle()
        )
        if format_.cut:
            pieces = pieces | "CutPieces" >> beam.FlatMap(cut_pieces, format_) | "SpreadParts" >> beam.Reshuffle()
        if format_.rows:
            rows = format_.rows
            pieces = (
                pieces
                | "ReadRows" >> beam.FlatMap(lambda some: (row for piece in some for row in rows(piece, context)))
                | "GroupRows" >> beam.GroupByKey()
                | "SortRows" >> beam.MapTuple(lambda name, found: Piece((name,), pack(sorted(found))))
                | "SomeAtOnce" >> beam.BatchElements(1, PIECES_AT_ONCE)
            )
        parse = beam.ParDo(ParsePieces(format_, context, self.spill_folder))
        parsed = pieces | "ParsePieces" >> parse.with_output_types(tuple[int, bytes], names=str, census=Census).with_outputs(
            "names", "census", main="images"
        )
        if format_.categories:
            own = format_.categories
            names = pipeline | "Format" >> beam.Create([None])
            listed = beam.FlatMap(lambda _: own(context))
        else:
            names = parsed.names | beam.CombineGlobally(MergeNames())
            listed = beam.FlatMap(in_order_of_names)
        categories = names | "Categories" >> listed.with_output_types(Category)
        numbered = (
            parsed.images
            | "GroupByBucket" >> beam.GroupByKey()
            | "Number"
            >> beam.ParDo(Number(), AsList(categories))
            .with_output_types(AnnotatedImage, rejects=Reject)
            .with_outputs("rejects", main="images")
        )
        return Annotations(numbered.images, categories, numbered.rejects, parsed.census)
