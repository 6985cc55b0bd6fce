"""SelectCategories: which classes are kept, and under which names, by a small file that the user writes.

rename: {kitten: cat, tomcat: cat}   # several with one name become one class
keep: [cat, dog]                     # or drop: […]; after renaming, all else is left out
order: [cat, dog]                    # or this: what is kept, numbered from 1, whether it is there or not
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
from apache_beam.pvalue import AsList, AsSingleton

from transforms import storage
from transforms.records import AnnotatedImage, Category, InputError, ReasonCode, Reject, names_by_id, problem, reject_instance
from transforms.sources import yaml_files
from transforms.sources.source import escaped


class CategoryRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says; `rename` is applied first."""

    rename: dict[str, str] = {}
    keep: list[str] | None = None
    drop: list[str] = []
    order: list[str] | None = None


def read_rules(path: str) -> CategoryRules:
    """The rules in a YAML (or JSON) file. Raises `InputError` for what is no such file."""
    data = storage.if_there(storage.read_bytes, path)
    if data is None:
        raise InputError(f"--categories {path}: there is no such file")
    try:
        rules = msgspec.convert(yaml_files.load(data), CategoryRules)
    except (ValueError, msgspec.ValidationError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"--categories {path}: expected rename: {{old: new}}, keep, drop or order: […]: {said}") from None
    if sum(bool(given) for given in (rules.keep is not None, rules.drop, rules.order is not None)) > 1:
        raise InputError(f"--categories {path}: of keep, drop and order, give one: each says what is left out")
    if rules.order == []:
        raise InputError(f"--categories {path}: order leaves no class")
    if rules.order is not None and len(set(rules.order)) < len(rules.order):
        raise InputError(f"--categories {path}: order: a class is named twice")
    if not all(name.strip() for name in (*rules.rename.values(), *(rules.order or ()))):
        raise InputError(f"--categories {path}: a class would have no name")
    for name in (*rules.rename.values(), *(rules.order or ())):
        if escaped(name) != name:
            raise InputError(f"--categories {path}: the name {escaped(name)} is not valid Unicode")
    return rules


class Selection(NamedTuple):
    """The categories that are left, and by the id of each old one, the id that it has now, or None."""

    categories: list[Category]
    ids: dict[int, int | None]


def select(categories: Sequence[Category], rules: CategoryRules) -> Selection:
    """Applies rules to categories. Classes that are merged have the id of the one that had the name already, or the smallest.

    With `order`, its classes are numbered from 1, and need not be there. Raises `InputError` where the rules name another class
    that there is not, or leave none.
    """
    names = set(names_by_id(categories).values())
    renamed = {name: rules.rename.get(name, name) for name in names}
    if rules.order is not None:
        in_order = {name: number for number, name in enumerate(rules.order, start=1)}
        numbered = {category.category_id: in_order.get(renamed[category.name]) for category in categories}
        return Selection([Category(number, name) for name, number in in_order.items()], numbered)
    for option, given, known in (
        ("rename", rules.rename, names),
        ("keep", rules.keep or (), renamed.values()),
        ("drop", rules.drop, renamed.values()),
    ):
        for name in given:
            if name not in set(known):
                near = difflib.get_close_matches(name, sorted(known), 1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise InputError(f"--categories: {option}: the annotations have no category {name!r}{hint}")
    left = set(renamed.values()) if rules.keep is None else set(rules.keep)
    left -= set(rules.drop)
    if names and not left:
        raise InputError("--categories leaves no class")
    new_ids: dict[str, int] = {}
    for category in sorted(categories, key=lambda one: (one.name != renamed[one.name], one.category_id)):
        new_ids.setdefault(renamed[category.name], category.category_id)
    ids = {one.category_id: new_ids[renamed[one.name]] if renamed[one.name] in left else None for one in categories}
    kept = {Category(new_ids[name], name) for name in left}
    return Selection(sorted(kept), ids)


def select_of(image: AnnotatedImage, selection: Selection) -> tuple[AnnotatedImage, list[Reject]]:
    """The image with what is left of its instances, and a reject, DROPPED_CATEGORY, for each of the others."""
    kept, rejects = [], []
    for instance in image.instances:
        category_id = selection.ids.get(instance.category_id)
        if category_id is None:
            why = problem(ReasonCode.DROPPED_CATEGORY, "its category is left out")
            rejects.append(reject_instance(image, instance.annotation_id, why))
        else:
            kept.append(msgspec.structs.replace(instance, category_id=category_id))
    extras = image.extras
    if extras:
        lists = (extras.neg_category_ids, extras.not_exhaustive_category_ids)
        neg, not_exhaustive = (None if ids is None else _selected(ids, selection) for ids in lists)
        extras = msgspec.structs.replace(extras, neg_category_ids=neg, not_exhaustive_category_ids=not_exhaustive)
    return msgspec.structs.replace(image, instances=tuple(kept), extras=extras), rejects


def _selected(ids: Sequence[int], selection: Selection) -> tuple[int, ...]:
    return tuple(sorted({new for old in ids if (new := selection.ids.get(old)) is not None}))


class Selected(NamedTuple):
    """What `SelectCategories` gives."""

    images: beam.PCollection[AnnotatedImage]
    categories: beam.PCollection[Category]
    rejects: beam.PCollection[Reject]


@dataclass
class SelectCategories(beam.PTransform):  # type: ignore[misc]
    """AnnotatedImage → AnnotatedImage with the classes that are left; the categories; and rejects."""

    categories: beam.PCollection[Category]
    rules: CategoryRules

    def expand(self, images: beam.PCollection[AnnotatedImage]) -> Selected:
        rules = self.rules
        once = images.pipeline | "Rules" >> beam.Create([None])
        selection = once | "Apply" >> beam.Map(lambda _, categories: select(categories, rules), AsList(self.categories))
        left = selection | "Left" >> beam.FlatMap(lambda one: one.categories).with_output_types(Category)

        def each(image: AnnotatedImage, selected: Selection) -> Iterator[Any]:
            kept, rejects = select_of(image, selected)
            for reject in rejects:
                yield beam.pvalue.TaggedOutput("rejects", reject)
            yield kept

        typed = beam.FlatMap(each, AsSingleton(selection)).with_output_types(AnnotatedImage, rejects=Reject)
        out = images | "Select" >> typed.with_outputs("rejects", main="images")
        return Selected(out.images, left, out.rejects)
