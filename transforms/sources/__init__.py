"""The formats of annotations, a module each, which has what `source.Format` wants as `FORMAT`; COCO's are read by `coco`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transforms.sources.source import Format

COCO = "coco"
PER_FILE = ("cvat", "jsonl", "label_studio", "labelme", "via", "yolo")
"""Formats that `files.ReadFiles` reads, by the names of their modules."""
NAMES = (COCO, *PER_FILE)


def format_of(name: str) -> Format:
    """A format of `PER_FILE` by its name."""
    found: Format = importlib.import_module(f"transforms.sources.{name}").FORMAT
    return found
