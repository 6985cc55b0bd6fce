"""Files of XML, read without what makes XML dangerous, and what stands in their elements."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from transforms.records import Problem, ReasonCode, problem


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type before what it declares is read: entities in entities can be of any size."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a <!DOCTYPE>, which no format of annotations needs")


def parse_xml(data: bytes, root: str) -> ElementTree.Element | Problem:
    """The element `root` that is the whole file; FILE_INVALID."""
    try:
        found = ElementTree.fromstring(data, ElementTree.XMLParser(target=_Builder()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return problem(ReasonCode.FILE_INVALID, f"the XML can't be read: {error}")
    if found.tag != root:
        return problem(ReasonCode.FILE_INVALID, f"the XML has <{found.tag[:40]}>, expected <{root}>")
    return found


def text_of(element: ElementTree.Element, path: str) -> str:
    """The text of the first element at a path, stripped; empty where there is none."""
    return (element.findtext(path) or "").strip()


def number_of(element: ElementTree.Element, path: str) -> float | Problem:
    """The number at a path; FIELD_INVALID for what is none, or not finite."""
    text = text_of(element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    return problem(ReasonCode.FIELD_INVALID, f"<{path}> is {text[:40]!r}, expected a number")


def flag_of(element: ElementTree.Element, path: str) -> bool:
    """Whether what stands at a path says yes."""
    return text_of(element, path).lower() in ("1", "true", "yes")
