"""`maskbeam show`: what is in the records, as pictures: on the terminal, as one PNG, or as a page."""

from __future__ import annotations

import difflib
import io
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image

from beam_pipeline.inline_images import encoded, terminal_width, way_of
from beam_pipeline.pages import jpeg_source, make_page
from beam_pipeline.pictures import MISSING, colour_of, contact_sheet, draw, label_text, plain
from beam_pipeline.publish import iter_rejects
from beam_pipeline.verify import read_label_maps
from beam_pipeline.words import listed, some
from transforms import storage
from transforms.images import lift_cap_of_pillow
from transforms.read_records import MANIFEST, WrittenImage, iter_shard, read_json, shards_of
from transforms.records import InputError
from transforms.sharding import shard_of, stable_hash
from transforms.tfrecord import FRAMING
from transforms.views import MOST_TILES

LIMIT, SIZE, COLUMNS, GAP = 12, 480, 3, 12
"""Unless the user says otherwise: images, pixels of a picture's longer side, pictures beside each other; pixels between them."""
QUALITY = 88  # of the page's JPEGs

Shard = dict[str, Any]  # an entry of the manifest


class Choices(NamedTuple):
    """Which images, and how they are shown; None is the default."""

    split: str | None = None
    categories: tuple[str, ...] = ()
    image_ids: tuple[int, ...] = ()
    limit: int | None = None
    columns: int | None = None
    size: int = SIZE


class Place(NamedTuple):
    """Where a record is: its shard, by its number among those that are looked at, and the byte at which it begins."""

    shard: int
    offset: int


# ---------------------------------------------------------------------------------------------------- which images


def find(output: str, shards: Sequence[Shard], choices: Choices) -> list[Place]:
    """The records to show, of these shards, in their order; the same ones every time. Raises `InputError` if there are none."""
    where = f"the split {choices.split!r} of {output}" if choices.split else output
    _check_categories(output, choices.categories)
    if not any(shard["records"] for shard in shards):
        raise InputError(f"{where} has no images")
    if choices.image_ids:
        return _find_ids(output, shards, choices, where)
    found = spread(output, shards, choices.limit or LIMIT, lambda image: _has_category(image, choices.categories))
    if not found:
        raise InputError(f"no image of {where} has {' or '.join(map(repr, choices.categories))}")
    return found


def spread(output: str, shards: Sequence[Shard], limit: int, holds: Callable[[WrittenImage], bool]) -> list[Place]:
    """At most `limit` records for which `holds`, as many of a shard as of any other if it has them.

    In a shard they stand by a hash of their ids, so that its first ones are as good as drawn by lot.
    """
    waiting = [Place(number, 0) for number, shard in enumerate(shards) if shard["records"]]
    waiting.sort(key=lambda place: stable_hash(shards[place.shard]["file"], "show"))
    found: list[Place] = []
    while waiting and len(found) < limit:
        share = max(1, (limit - len(found)) // len(waiting))
        unread = []
        for begin in waiting:
            taken = list(itertools.islice(_matches(output, shards, begin, holds), min(share, limit - len(found))))
            found += [place for place, _ in taken]
            if len(taken) == share:
                unread.append(taken[-1][1])
        waiting = unread
    return sorted(found)


def _matches(
    output: str, shards: Sequence[Shard], begin: Place, holds: Callable[[WrittenImage], bool]
) -> Iterator[tuple[Place, Place]]:
    """The records of a shard, from a place on, for which `holds`, and where the next one is."""
    for offset, record, image in iter_shard(output, shards[begin.shard], begin.offset):
        if holds(image):
            yield Place(begin.shard, offset), Place(begin.shard, offset + len(record) + FRAMING)


def _has_category(image: WrittenImage, categories: Sequence[str]) -> bool:
    return not categories or any(one.name in categories for one in image.instances)


def _check_categories(output: str, categories: Sequence[str]) -> None:
    names = list(read_label_maps(output)[0].values()) if categories else []
    for name in categories:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            hint = f", did you mean {' or '.join(map(repr, near))}?" if near else f": it has {listed(names) or 'none'}"
            raise InputError(f"{output} has no category {name!r}{hint}")


def _find_ids(output: str, shards: Sequence[Shard], choices: Choices, where: str) -> list[Place]:
    """The images of these ids or, where images were cut into tiles, their tiles. Of each split, an id's own shard is read."""
    tiled = bool(read_json(output, MANIFEST)["options"].get("tile"))
    of_split: dict[str, list[int]] = {}
    for number, shard in enumerate(shards):
        of_split.setdefault(shard["split"], []).append(number)
    found: set[Place] = set()
    for wanted in choices.image_ids:
        source = _parent_id(wanted) if tiled else wanted
        numbers = {mine[shard_of(one, len(mine))] for mine in of_split.values() for one in (wanted, source)}

        def is_it(image: WrittenImage, wanted: int = wanted) -> bool:
            return image.image_id == wanted or (tiled and _parent_id(image.image_id) == wanted)

        places = {place for number in numbers for place, _ in _matches(output, shards, Place(number, 0), is_it)}
        if not places:
            raise InputError(f"{where} has no image {wanted}{_why_not(output, wanted)}")
        found |= places
    return sorted(found)[: choices.limit]


def _parent_id(tile_id: int) -> int:
    return (tile_id - 1) // MOST_TILES


def _why_not(output: str, image_id: int) -> str:
    def reason(output: str) -> str | None:
        found = (one for one in iter_rejects(output) if one.kind == "image" and one.image_id == image_id)
        return next((f": it was rejected, {one.reason}: {one.message}" for one in found), None)

    return storage.if_there(reason, output) or ""


# --------------------------------------------------------------------------------------------------------- pictures


class Shown(NamedTuple):
    """An image as it is shown, and what is said of it; `counts` has each class's name and how many of it there are."""

    picture: Image.Image
    image: WrittenImage
    counts: list[tuple[str, int]]

    @property
    def facts(self) -> str:
        """Id, split and the number of instances."""
        count = len(self.image.instances)
        return f"id {self.image.image_id}, {self.image.split}, {some(count, 'instance')}"

    @property
    def caption(self) -> str:
        """Three lines, as Pillow's font has them: the file, the facts, the classes."""
        names = {one.name: label_text(one._replace(is_crowd=False)) for one in self.image.instances}
        classes = ", ".join(f"{names[name]} {count}" for name, count in self.counts)
        return f"{self.image.file_name}\n{self.facts}\n{classes}"


def pictures_of(output: str, shards: Sequence[Shard], places: Sequence[Place], choices: Choices) -> Iterator[Shown]:
    """The pictures, one at a time. Where categories are asked for, all is drawn, and theirs is coloured and named."""
    for place in places:
        _, _, image = next(iter_shard(output, shards[place.shard], place.offset))
        picture = draw(image, choices.size, choices.categories or None)
        yield Shown(picture, image, list(Counter(one.name for one in image.instances).items()))


def as_png(shown: Sequence[Shown], columns: int) -> bytes:
    """One picture with all of them."""
    file = io.BytesIO()
    contact_sheet([one.picture for one in shown], [one.caption for one in shown], columns, GAP).save(file, "PNG")
    return file.getvalue()


def as_page(shown: Sequence[Shown], title: str, columns: int | None) -> bytes:
    """A page that has all in itself, in UTF-8."""
    return make_page("show.html", title=title, columns=columns, pictures=list(map(_for_page, shown)))


def _for_page(one: Shown) -> dict[str, Any]:
    return {
        "source": jpeg_source(one.picture, QUALITY),
        "height": one.picture.height,
        "width": one.picture.width,
        "title": one.image.file_name,
        "facts": one.facts,
        "counts": one.counts,
        "numbers": {instance.name: instance.label for instance in one.image.instances if MISSING in plain(instance.name)},
        "colours": {instance.name: f"rgb{colour_of(instance.label)}" for instance in one.image.instances},
    }


# ---------------------------------------------------------------------------------------------------------- command


def show_command(output: str, file: str | None, inline: str, choices: Choices) -> int:
    """Shows images, and says where their pictures went. `inline` is auto, none, or the way of a terminal."""
    suffix = os.path.splitext(file)[1].lower() if file else ".png"
    if suffix not in (".png", ".html", ".htm"):
        raise InputError(f"--output {file}: expected a name that ends in .png or .html")
    way = None if inline == "none" else inline
    if inline == "auto":
        way = way_of(os.environ) if sys.stdout.isatty() and not file else None
    if not way:
        file = file or f"{storage.name_of(os.path.abspath(output))}-pictures.png"
    shards = shards_of(output, [choices.split] if choices.split else None)
    places, images = find(output, shards, choices), sum(shard["records"] for shard in shards)
    said = f"{len(places):,} of {some(images, 'image')}"
    if choices.columns is None and suffix == ".png":
        fitting = (terminal_width() - GAP) // (choices.size + GAP) if way else COLUMNS
        choices = choices._replace(columns=max(1, fitting))
    lift_cap_of_pillow()  # what is in a record has been let pass
    each = pictures_of(output, shards, places, choices)
    kept: list[Shown] = []
    numbers: dict[int, str] = {}
    for row in iter(lambda: list(itertools.islice(each, choices.columns or 1)), []):
        if way:
            print(encoded(contact_sheet([one.picture for one in row], [one.caption for one in row], len(row), GAP), way))
        kept += row if file else []
        numbers |= {one.label: one.name for shown in row for one in shown.image.instances if MISSING in plain(one.name)}
    if file:
        page = suffix != ".png"
        data = as_page(kept, f"{output}: {said}", choices.columns) if page else as_png(kept, choices.columns or COLUMNS)
        try:
            storage.write_bytes(file, data)
        except OSError as error:
            raise InputError(f"{file} can't be written: {error}") from None
    print(f"{said}: {file}" if file else said)
    if suffix == ".png":
        for label, name in sorted(numbers.items()):
            print(f"#{label} is {name}")
    return 0
