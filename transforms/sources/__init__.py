"""The formats of annotations, a module each, which has what `source.Format` wants as `FORMAT`; COCO's are read by `coco`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transforms.sources.source import Format

COCO, COCO_PANOPTIC = "coco", "coco_panoptic"
PER_FILE = (
    "cityscapes",
    "jsonl",
    "labelbox",
    "labelme",
    "mask_folders",
    "open_images",
    "oxford_pets",
    "pascal_voc",
    "sagemaker",
    "supervisely",
)
"""Formats that `files.ReadFiles` reads, by the names of their modules."""
OF_COCO = (COCO, COCO_PANOPTIC)
"""Formats that `coco.ReadCoco` reads."""
AUTO = "auto"
"""What stands for a format that is to be recognised."""
NAMES = (*OF_COCO, *PER_FILE)


def format_of(name: str) -> Format:
    """A format of `PER_FILE` by its name."""
    found: Format = importlib.import_module(f"transforms.sources.{name}").FORMAT
    return found
