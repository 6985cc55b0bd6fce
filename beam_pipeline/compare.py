"""`maskbeam compare`: two data sets side by side, for those who rebuild nightly and want to know what has changed.

Shards that are the same by the manifests are not read. Of the others, each record is read once, and its id, its place and a
digest are kept: 28 bytes. Only records that differ are read again, and looked into.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as cocomask

from beam_pipeline.dataset_files import STATISTICS, complete_manifest
from beam_pipeline.pages import make_page
from beam_pipeline.terminal import quiet
from beam_pipeline.verify import read_label_maps
from transforms import run_lengths, storage
from transforms.ahead import ahead
from transforms.images import lift_cap_of_pillow
from transforms.read_records import WrittenImage, WrittenInstance, iter_shard, read_at, read_image, read_json
from transforms.records import InputError

EXAMPLES = 200
"""Images that are named of those that were added, of those that were removed, and of those that changed."""
SHOWN = 10
"""So many of them on a terminal."""
THREADS = 4
ALIKE = 0.5
"""Boxes whose intersection is so much of their union are taken for those of one object."""
MOST_PAIRS = 10**7
"""Of instances that may be alike; where there were more, none is looked for."""

_ENTRY = np.dtype([("image_id", "<i8"), ("digest", "<u8"), ("shard", "<i4"), ("offset", "<i8")])
Index = npt.NDArray[np.void]
"""Records: the image's id, a digest of all, the shard's number, and at which byte of it the record begins."""
Shard = Mapping[str, Any]
"""A shard's entry in the manifest."""


class Row(NamedTuple):
    """A line of a table: a name, and what belongs to it before and after; None where nothing does."""

    name: str
    before: Any
    after: Any


class Change(NamedTuple):
    """An image that is in one data set only, or differs; `what` says in what."""

    image_id: int
    file_name: str
    what: tuple[str, ...]


class Changes(NamedTuple):
    """How many images have changed so, and the first `EXAMPLES` of them by id."""

    total: int
    examples: list[Change]


class Comparison(NamedTuple):
    """Two data sets, named `before` and `after`.

    `rewritten` images are the same, but in other bytes: their masks in another encoding, or their instances in another order.
    `kinds` counts the changed images by what of them has changed; an image may have changed in several ways.
    """

    before: str
    after: str
    identical_bytes: bool
    unchanged: int
    rewritten: int
    added: Changes
    removed: Changes
    changed: Changes
    kinds: dict[str, int]
    sizes: list[Row]
    category_ids: list[Row]
    categories: list[Row]
    rejects: list[Row]
    options: list[Row]

    @property
    def same(self) -> bool:
        """Whether both have the same images, in the same splits, with the same instances, and the same label map."""
        return not (self.added.total or self.removed.total or self.changed.total or differing(self.category_ids))


def differing(rows: Iterable[Row]) -> list[Row]:
    """The rows that are not the same before and after."""
    return [row for row in rows if row.before != row.after]


# ---------------------------------------------------------------------------------------------------------- instances

Instances = list[WrittenInstance]
InstancePairs = list[tuple[WrittenInstance, WrittenInstance]]


def _but_mask(instance: WrittenInstance) -> WrittenInstance:
    return instance._replace(stored_mask=None)


def _stored(instance: WrittenInstance) -> Hashable:
    mask = instance.stored_mask
    return mask.tobytes() if isinstance(mask, np.ndarray) else mask


def pair_up(
    before: Instances, after: Instances, key: Callable[[WrittenInstance], Hashable]
) -> tuple[InstancePairs, Instances, Instances]:
    """Instances that have a key in common, and what is left of both; a key that is None is nobody's."""
    if not (before and after):
        return [], before, after
    waiting: dict[Hashable, Instances] = {}
    for one in reversed(after):
        waiting.setdefault(key(one), []).append(one)
    nobodys = waiting.pop(None, [])
    pairs, left = [], []
    for one in before:
        same = waiting.get(key(one))
        if same:
            pairs.append((one, same.pop()))
        else:
            left.append(one)
    return pairs, left, [*nobodys, *(one for some in waiting.values() for one in some)]


def _coco_boxes(instances: Instances) -> npt.NDArray[np.float64]:
    boxes = np.array([one.box for one in instances])
    return np.hstack((boxes[:, 1::-1], boxes[:, 3:1:-1] - boxes[:, 1::-1]))  # x, y, width, height


def most_alike(before: Instances, after: Instances) -> tuple[InstancePairs, Instances, Instances]:
    """Each instance and the one whose box is most alike, if it is `ALIKE`; and what is left of both."""
    if not 0 < len(before) * len(after) <= MOST_PAIRS:
        return [], before, after
    shares = cocomask.iou(_coco_boxes(before), _coco_boxes(after), [0] * len(after))
    pairs, left, taken = [], [], set()
    for one, row in zip(before, shares, strict=True):
        best = int(row.argmax())
        if row[best] < ALIKE:
            left.append(one)
            continue
        pairs.append((one, after[best]))
        taken.add(best)
        shares[:, best] = -1
    return pairs, left, [one for number, one in enumerate(after) if number not in taken]


def instance_changes(before: Sequence[WrittenInstance], after: Sequence[WrittenInstance]) -> Iterator[tuple[str, str]]:
    """What has changed among an image's instances: kinds, and words for each.

    Records don't number their instances. Those belong together that are equal, have the same mask or box, or boxes most alike.
    """
    known: dict[int, bytes | None] = {}

    def counts(one: WrittenInstance) -> bytes | None:
        """The mask's run lengths, whichever way it is stored; worked out once, and only where what is stored differs."""
        if id(one) not in known:
            mask = one.mask
            known[id(one)] = None if mask is None else run_lengths.from_mask(mask).counts
        return known[id(one)]

    _, left, right = pair_up(list(before), list(after), lambda one: (_but_mask(one), _stored(one)))
    pairs, left, right = pair_up(left, right, _stored)
    _, left, right = pair_up(left, right, lambda one: (_but_mask(one), counts(one)))
    for key in (counts, lambda one: (one.name, one.box), lambda one: one.box):
        some, left, right = pair_up(left, right, key)
        pairs += some
    some, left, right = most_alike(left, right)
    for one, other in pairs + some:
        if one.name != other.name:
            yield "class", f"{one.name} → {other.name}"
        elif one.label != other.label:
            yield "class id", f"{one.name}: class id"
        for field, kind in (("box", "box"), ("is_crowd", "crowd"), ("area", "area"), ("attributes", "attributes")):
            if getattr(one, field) != getattr(other, field):
                yield kind, f"{other.name}: {kind}"
        if _stored(one) != _stored(other) and counts(one) != counts(other):
            yield "mask", f"{other.name}: mask"
    yield from (("instance removed", f"{one.name} removed") for one in left)
    yield from (("instance added", f"{one.name} added") for one in right)


def image_changes(before: WrittenImage, after: WrittenImage) -> Iterator[tuple[str, str]]:
    """What of an image has changed: kinds, and words for each; none, if its records differ in bytes only."""
    if before.split != after.split:
        yield "split", f"{before.split} → {after.split}"
    if before.file_name != after.file_name:
        yield "file name", f"was {before.file_name}"
    if (before.height, before.width) != (after.height, after.width):
        yield "size", f"{before.height} × {before.width} → {after.height} × {after.width} (height × width)"
    if before.sha256 != after.sha256:
        yield "pixels", "image file"
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        if getattr(before, name) != getattr(after, name):
            yield name, name
    yield from instance_changes(before.instances, after.instances)


# ------------------------------------------------------------------------------------------------------------- images


def _digest(record: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(record, digest_size=8).digest(), "little")


class DataSet(NamedTuple):
    """A data set, and those of its shards that the other does not have."""

    output: str
    shards: list[Shard]

    def make_index(self, report: Callable[[str], None]) -> Index:
        """The records of the shards, in no order. `report` is told of each shard as it is done."""

        def entries(number: int) -> Index:
            records = iter_shard(self.output, self.shards[number])
            return np.array([(image.image_id, _digest(data), number, offset) for offset, data, image in records], _ENTRY)

        found = []
        for number, some in ahead(entries, range(len(self.shards)), THREADS):
            report(f"{self.output}: {self.shards[number]['file']}")
            found.append(some)
        return np.concatenate([np.empty(0, _ENTRY), *found])

    def read(self, entry: np.void) -> WrittenImage:
        """The image of an entry of the index."""
        shard = self.shards[int(entry["shard"])]
        return read_image(read_at(self.output, shard["file"], int(entry["offset"])), shard["split"])


def _alone(data_set: DataSet, entries: Index) -> Changes:
    """Images that are in one data set only."""
    images = map(data_set.read, np.sort(entries, order="image_id")[:EXAMPLES])
    named = [Change(one.image_id, one.file_name, (_instances_in_words(len(one.instances)),)) for one in images]
    return Changes(len(entries), named)


def _instances_in_words(count: int) -> str:
    return f"{count or 'no'} instance{'s' * (count != 1)}"


def _split_numbers(data_set: DataSet, entries: Index, splits: Sequence[str]) -> npt.NDArray[np.int64]:
    numbers = np.array([splits.index(shard["split"]) for shard in data_set.shards], np.int64)
    found: npt.NDArray[np.int64] = numbers[entries["shard"]]
    return found


class Differences(NamedTuple):
    """Of the images that are not in shards that both data sets have; fields as in `Comparison`."""

    unchanged: int
    rewritten: int
    added: Changes
    removed: Changes
    changed: Changes
    kinds: dict[str, int]


def compare_images(before: DataSet, after: DataSet, report: Callable[[str], None]) -> Differences:
    """Finds the images that differ, by id, and what of them does."""
    old, new = before.make_index(report), after.make_index(report)
    _, at_old, at_new = np.intersect1d(old["image_id"], new["image_id"], return_indices=True)
    removed, added = np.delete(old, at_old), np.delete(new, at_new)
    old, new = old[at_old], new[at_new]
    splits = sorted({shard["split"] for shard in (*before.shards, *after.shards)})
    moved = _split_numbers(before, old, splits) != _split_numbers(after, new, splits)
    differ = np.flatnonzero(moved | (old["digest"] != new["digest"]))

    def look(place: np.intp) -> tuple[Change, set[str]]:
        one, other = before.read(old[place]), after.read(new[place])
        found = list(image_changes(one, other))
        words = Counter(text for _, text in found)
        what = tuple(text if count == 1 else f"{text} ({count} times)" for text, count in words.items())
        return Change(other.image_id, other.file_name, what), {kind for kind, _ in found}

    kinds: Counter[str] = Counter()
    rewritten, changed = 0, 0
    examples: list[Change] = []
    for number, (_, (change, of_kinds)) in enumerate(ahead(look, differ, THREADS), start=1):
        report(f"{number:,} of {len(differ):,} images that differ")
        kinds.update(of_kinds)
        rewritten += not of_kinds
        changed += bool(of_kinds)
        if of_kinds and len(examples) < EXAMPLES:
            examples.append(change)
    return Differences(
        len(old) - len(differ),
        rewritten,
        _alone(after, added),
        _alone(before, removed),
        Changes(changed, examples),
        dict(sorted(kinds.items(), key=lambda one: (-one[1], one[0]))),
    )


# ---------------------------------------------------------------------------------------------------------- data sets


def rows(before: Mapping[str, Any], after: Mapping[str, Any], missing: Any = None) -> list[Row]:
    """A row for each name, in the order in which they come; `missing` is for what one of them does not have."""
    return [Row(name, before.get(name, missing), after.get(name, missing)) for name in dict.fromkeys((*before, *after))]


def _sizes(manifest: Mapping[str, Any]) -> Counter[str]:
    """Images and instances by split."""
    found: Counter[str] = Counter()
    for shard in manifest["shards"]:
        found[f"{shard['split']}: images"] += shard["records"]
        found[f"{shard['split']}: instances"] += shard["instances"]
    return found


def _labels(output: str) -> dict[str, int]:
    labels, faults = read_label_maps(output)
    if faults:
        raise InputError(f"{output}: {faults[0]}")
    return {name: label for label, name in labels.items()}


def _instances(output: str, labels: Iterable[str]) -> dict[str, int]:
    """Instances by category, in the order of the label map."""
    counts = dict.fromkeys(labels, 0)
    for split in read_json(output, STATISTICS).values():
        for category in split["categories"].values():
            counts[category["name"]] += category["instances"]
    return counts


def _rejects(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {f"{kind} {code}": count for kind, codes in manifest["reasons"].items() for code, count in codes.items()}


def _content(shard: Shard) -> tuple[str, int, str]:
    """What shards have in common that are the same."""
    return shard["split"], shard["bytes"], shard["crc32c"]


def compare(before: str, after: str, report: Callable[[str], None] = lambda line: None) -> Comparison:
    """Compares two data sets. Raises `InputError` where one is none, is not complete, or can't be read.

    `report` is told how far it has come.
    """
    old, new = complete_manifest(before), complete_manifest(after)
    both = {_content(shard) for shard in old["shards"]} & {_content(shard) for shard in new["shards"]}
    left, right = (
        DataSet(output, [shard for shard in manifest["shards"] if _content(shard) not in both])
        for output, manifest in ((before, old), (after, new))
    )
    found = compare_images(left, right, report)
    old_labels, new_labels = _labels(before), _labels(after)
    names = [[(shard["file"], *_content(shard)) for shard in manifest["shards"]] for manifest in (old, new)]
    return Comparison(
        before,
        after,
        names[0] == names[1] and old_labels == new_labels,
        found.unchanged + sum(shard["records"] for shard in old["shards"] if _content(shard) in both),
        *found[1:],
        rows(_sizes(old), _sizes(new), 0),
        rows(old_labels, new_labels),
        rows(_instances(before, old_labels), _instances(after, new_labels), 0),
        rows(_rejects(old), _rejects(new), 0),
        rows({"maskbeam": old["maskbeam"], **old["options"]}, {"maskbeam": new["maskbeam"], **new["options"]}),
    )


# --------------------------------------------------------------------------------------------------------- for people


def verdict(found: Comparison) -> str:
    """What it comes to, in a line."""
    if found.identical_bytes:
        return "identical bytes: every shard is the same"
    if found.same:
        return "the same data, in other bytes" if found.rewritten else "the same data, in other shards"
    return "they differ"


def difference(row: Row) -> str:
    """What a number has grown by, with its sign; a dash where it has not."""
    return f"{row.after - row.before:+,}" if row.after != row.before else "–"


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if type(value) is int else str(value)


def _table(title: str, all_rows: list[Row], numbers: bool = True) -> Iterator[str]:
    """The rows that differ, in columns."""
    shown = differing(all_rows)
    if not shown:
        return
    same = len(all_rows) - len(shown)
    yield f"{title}{f' ({same} the same)' if same else ''}:"
    cells = [(row.name, _text(row.before), _text(row.after), difference(row) if numbers else "") for row in shown]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    for name, before, after, more in cells:
        yield f"  {name:{widths[0]}}  {before:>{widths[1]}} → {after:>{widths[2]}}  {more:>{widths[3]}}".rstrip()


def lines(found: Comparison) -> Iterator[str]:
    """A comparison for a terminal."""
    yield f"{found.before} → {found.after}: {verdict(found)}"
    if not found.identical_bytes:
        yield from _of_images(found)
    yield from _table("sizes", found.sizes)
    yield from _table("category ids", found.category_ids, numbers=False)
    yield from _table("instances by category", found.categories)
    yield from _table("rejects", found.rejects)
    yield from _table("options", found.options, numbers=False)


def _of_images(found: Comparison) -> Iterator[str]:
    rewritten = f", {found.rewritten:,} the same in other bytes" if found.rewritten else ""
    counts = {"added": found.added, "removed": found.removed, "changed": found.changed}
    said = ", ".join(f"{some.total:,} {word}" for word, some in counts.items())
    yield f"images: {said}, {found.unchanged:,} the same{rewritten}"
    if found.kinds:
        yield "changed: " + ", ".join(f"{kind} in {count:,}" for kind, count in found.kinds.items())
    for word, some in counts.items():
        for change in some.examples[:SHOWN]:
            yield f"  {word}: {change.image_id} ({change.file_name}): {', '.join(change.what)}"
        if some.total > SHOWN:
            yield f"  … and {some.total - SHOWN:,} more {word}"


def as_html(found: Comparison) -> bytes:
    """A comparison as a page that needs nothing else."""
    filters = {"text": _text, "difference": difference, "differing": differing}
    return make_page("compare.html", filters, found=found, verdict=verdict(found))


def compare_command(before: str, after: str, page: str | None) -> int:
    """Runs `compare`, prints what it finds, writes it to `page`; exit status 0 where the data is the same, else 1."""
    lift_cap_of_pillow()
    try:
        with quiet() as terminal:
            found = compare(before, after, terminal.status if terminal.live else lambda line: None)
    except OSError as error:
        raise InputError(f"{before} and {after} can't be compared: {error}") from error
    print("\n".join(lines(found)))
    if page:
        try:
            storage.write_bytes(page, as_html(found))
        except OSError as error:
            raise InputError(f"--output {page} can't be written: {error}") from error
        print(f"side by side, with more of the images: {page}")
    return int(not found.same)
