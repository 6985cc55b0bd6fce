"""The options of `maskbeam run`: one typed class, from which the parser, its help and the documentation's table derive.

Nothing here imports Beam, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from beam_pipeline.trainer_bases import BASES, MODEL_GARDEN
from transforms.sources import AUTO, COCO, NAMES

if TYPE_CHECKING:
    from transforms.encode import MaskEncoding
    from transforms.images import ImageCheck
    from transforms.rasterize import BoxSource

GROUPS = (
    "Input",
    "Output",
    "Masks and boxes",
    "Scaling and tiles",
    "Splits and shards",
    "What to leave out",
    "Limits",
    "Trainer",
    "This machine",
)


ParamType = Literal["TEXT", "NUMBER", "GCS_READ_FILE", "GCS_READ_FOLDER", "GCS_WRITE_FOLDER"]
"""What a Dataflow template's form shows for an option; switches and choices have forms of their own."""


class About(NamedTuple):
    """What is said of an option, and how its text is checked."""

    group: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] = str
    param_type: ParamType = "TEXT"
    regex: str | None = None


def option(
    group: str,
    help: str,  # noqa: A002 - argparse's own name for it
    *,
    default: Any = MISSING,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    parse: Callable[[str], Any] = str,
    param_type: ParamType = "TEXT",
    regex: str | None = None,
) -> Any:
    """A field of `RunOptions`; without a default it must be given, with the default False it is a switch.

    `regex` is for forms: it matches all that `parse` takes.
    """
    return field(default=default, metadata={"about": About(group, help, metavar, choices, parse, param_type, regex)})


WHOLE_NUMBER = r"0*[1-9][0-9]{0,8}"
NUM_SHARDS = r"auto|0*[1-9][0-9]{0,4}"
WORKERS = r"auto|0*[1-9][0-9]{0,2}"
SHARE = r"\s*[A-Za-z0-9_]+(=[^,;=]*)?\s*"
PIXELS = r"[0-9]{1,9}"
TILE = r"0*[1-9][0-9]{0,5}x0*[1-9][0-9]{0,5}"
SPLITS = rf"{SHARE}(,{SHARE})*"


def _path(text: str) -> str:
    if not text:
        raise ValueError("expected a path, found nothing")
    return text


def a_path(param_type: ParamType) -> dict[str, Any]:
    """What options have in common that are paths."""
    return {"parse": _path, "param_type": param_type}


def parse_splits(text: str) -> tuple[tuple[str, float], ...]:
    """`train=0.9,val=0.1` to names and shares. Raises `ValueError` with a message for the user."""
    shares = []
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise ValueError(f"expected NAME=SHARE,… with names of letters, digits and _, found {part.strip()!r}")
        try:
            shares.append((name, float(share or "1")))
        except ValueError:
            raise ValueError(f"expected a number as the share of {name!r}, found {share!r}") from None
        if name == "all":
            raise ValueError("a split can't be named 'all': TensorFlow Datasets takes that for all splits together")
    if len({name for name, _ in shares}) < len(shares):
        raise ValueError(f"a split is named twice in {text!r}")
    if any(not share > 0 for _, share in shares) or abs(sum(share for _, share in shares) - 1) > 1e-6:
        raise ValueError(f"expected shares above 0 that add up to 1, found {text!r}")
    return tuple(shares)


def _splits(text: str) -> str:
    parse_splits(text)
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a regular expression, found {text!r}: {error}") from None
    return text


def _auto_or(numbers: str, most: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(numbers, text):
            raise ValueError(f"expected auto or a number from 1 to {most}, found {text!r}")
        return text

    return parse


def positive(text: str) -> float:
    """A number above 0. Raises `ValueError` with a message for the user."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"expected a number above 0, found {text!r}")
    return value


def positive_int(text: str) -> int:
    """A whole number above 0. Raises `ValueError` with a message for the user."""
    if not re.fullmatch(WHOLE_NUMBER, text):
        raise ValueError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def job_name(text: str) -> str:
    """A name of a job, as Dataflow takes it. Raises `ValueError` with a message for the user."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", text):
        raise ValueError(f"expected a-z, 0-9 and -, a letter first and no - at the end, found {text!r}")
    return text


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"expected a number from 0 to 1, found {text!r}")
    return value


def _pixels(text: str) -> int:
    if not re.fullmatch(PIXELS, text):
        raise ValueError(f"expected a number of pixels, found {text!r}")
    return int(text)


def parse_tile(text: str) -> tuple[int, int]:
    """`1024x512` to (width, height). Raises `ValueError` with a message for the user."""
    if not re.fullmatch(TILE, text):
        raise ValueError(f"expected WIDTHxHEIGHT in pixels, as in 1024x512, found {text!r}")
    width, height = text.split("x")
    return int(width), int(height)


def _tile(text: str) -> str:
    parse_tile(text)
    return text


def _record_mb(text: str) -> float:
    value = positive(text)
    if value > 2000:
        raise ValueError(f"expected at most 2000, found {text!r}: a protobuf message can't have over 2 GiB")
    return value


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `maskbeam run` can be told, apart from Beam's own options."""

    annotations: str = option(
        "Input",
        "the annotation file, or a pattern that several match; for formats of a file an image, their folder",
        metavar="PATH",
        **a_path("TEXT"),
    )
    images: str = option(
        "Input", "the folder that file names in the annotations are relative to", metavar="FOLDER", **a_path("GCS_READ_FOLDER")
    )
    format: str = option(
        "Input",
        "the format of the annotations; auto: told from the files, and said",
        default=COCO,
        choices=(*NAMES, AUTO),
    )
    masks: str | None = option(
        "Input",
        "the folder of mask files, where they are not where the format has them",
        default=None,
        metavar="FOLDER",
        **a_path("GCS_READ_FOLDER"),
    )
    class_attribute: str | None = option(
        "Input",
        "the attribute that holds an object's class, for formats that leave it to their users",
        default=None,
        metavar="NAME",
    )
    faces_only: bool = option(
        "Input", "of oxford_pets, the boxes around the heads, and what of the masks lies in them", default=False
    )
    check_images: ImageCheck = option(
        "Input",
        "full: decode every image; header: only those to convert, which is faster, but a damaged one may reach the trainer",
        default="full",
        choices=("full", "header"),
    )
    output: str = option("Output", "the folder for the data set, which is made", metavar="FOLDER", **a_path("GCS_WRITE_FOLDER"))
    overwrite: bool = option(
        "Output",
        "replace the data set that is in the output folder; it goes once the new annotations are read, even if the job fails",
        default=False,
    )
    resume: bool = option(
        "Output",
        "go on with what is in the output folder: shards whose images, annotations and options have not changed stay as they are",
        default=False,
    )
    mask_encoding: MaskEncoding = option(
        "Masks and boxes",
        "png: 8-bit grey, values 0 and 1; png1: 1-bit palette, smaller; dense: float32, large, for the Object Detection API only",
        default="png",
        choices=("png", "dense", "png1"),
    )
    boxes: BoxSource = option(
        "Masks and boxes",
        "annotation: the annotation's box, clipped to the image; mask: the tight box around the mask",
        default="annotation",
        choices=("annotation", "mask"),
    )
    category_ids: str = option(
        "Masks and boxes",
        "source: as in the annotations; contiguous: numbered from 1 in the order of the ids",
        default="source",
        choices=("source", "contiguous"),
    )
    max_side: int | None = option(
        "Scaling and tiles",
        "scale images down so that no side is longer than this, and their annotations with them",
        default=None,
        metavar="PIXELS",
        parse=positive_int,
        param_type="NUMBER",
        regex=WHOLE_NUMBER,
    )
    tile: str | None = option(
        "Scaling and tiles",
        "cut images, once they are scaled, into tiles of this size, and their annotations with them",
        default=None,
        metavar="WIDTHxHEIGHT",
        parse=_tile,
        regex=TILE,
    )
    tile_overlap: int = option(
        "Scaling and tiles",
        "pixels that neighbouring tiles share: fewer than their sides have, 0 for none",
        default=64,
        metavar="PIXELS",
        parse=_pixels,
        param_type="NUMBER",
        regex=PIXELS,
    )
    tile_min_share: float = option(
        "Scaling and tiles",
        "leave out what of an object lies on a tile where it is a smaller share than this of its largest part on any tile",
        default=0.1,
        metavar="SHARE",
        parse=_fraction,
        param_type="NUMBER",
    )
    splits: str = option(
        "Splits and shards",
        "names and shares of the splits, as in train=0.9,val=0.1",
        default="train=1",
        metavar="NAME=SHARE,...",
        parse=_splits,
        regex=SPLITS,
    )
    split_by: str | None = option(
        "Splits and shards",
        "a regular expression: images for which it (or its first group) finds the same text in the file name stay in one split",
        default=None,
        metavar="PATTERN",
        parse=_pattern,
    )
    num_shards: str = option(
        "Splits and shards",
        "shards of each split; auto: about 100 MB each",
        default="auto",
        metavar="auto|N",
        parse=_auto_or(NUM_SHARDS, 99999),
        regex=NUM_SHARDS,
    )
    categories: str | None = option(
        "What to leave out",
        "a small file that says which classes to keep or drop, rename or merge: rename: {kitten: cat}, keep: [cat, dog]",
        default=None,
        metavar="PATH",
        **a_path("GCS_READ_FILE"),
    )
    min_area: float | None = option(
        "What to leave out",
        "leave out objects of fewer pixels than this",
        default=None,
        metavar="PIXELS",
        parse=positive,
        param_type="NUMBER",
    )
    drop_crowds: bool = option("What to leave out", "leave out crowds", default=False)
    drop_annotations_without_mask: bool = option("What to leave out", "leave out annotations that have only a box", default=False)
    drop_images_without_annotations: bool = option("What to leave out", "leave out images with nothing on them", default=False)
    max_record_mb: float = option(
        "Limits", "the largest record that is written, in MB", default=512.0, metavar="MB", parse=_record_mb, param_type="NUMBER"
    )
    max_megapixels: float = option(
        "Limits",
        "the largest image that is read, in millions of pixels",
        default=100.0,
        metavar="N",
        parse=positive,
        param_type="NUMBER",
    )
    max_points: int = option(
        "Limits",
        "the most points of a polygon that is drawn",
        default=100_000,
        metavar="N",
        parse=positive_int,
        param_type="NUMBER",
        regex=WHOLE_NUMBER,
    )
    max_instances: int = option(
        "Limits",
        "the most annotations of an image that is written",
        default=10_000,
        metavar="N",
        parse=positive_int,
        param_type="NUMBER",
        regex=WHOLE_NUMBER,
    )
    max_reject_fraction: float = option(
        "Limits",
        "the job fails where more than this share of the images, or of the annotations, can't be written",
        default=0.05,
        metavar="SHARE",
        parse=_fraction,
        param_type="NUMBER",
    )
    trainer_config: str | None = option(
        "Trainer",
        "write the configuration of this trainer along, as pipeline.config or model_garden.yaml",
        default=None,
        choices=(*BASES, MODEL_GARDEN),
    )
    workers: str = option(
        "This machine",
        "processes that work, of a job that runs here; auto: one for each processor, where there is enough for each to do",
        default="auto",
        metavar="auto|N",
        parse=_auto_or(WORKERS, 999),
        regex=WORKERS,
    )
    profile: bool = option(
        "This machine", "say at the end which part of the work took the processor's time, of a job in one process", default=False
    )
    verbose: bool = option("This machine", "show Beam's log, and the stack trace if the job fails", default=False)

    def for_manifest(self) -> dict[str, Any]:
        """What decides over the data set: all but where it goes and how it is talked about."""
        left_out = {"output", "overwrite", "resume", "workers", "profile", "verbose"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def about(option_field: Field[Any]) -> About:
    """What is said of a field of `RunOptions`."""
    found: About = option_field.metadata["about"]
    return found


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as argparse wants it, so that its message reaches the user."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def switch(text: str) -> bool:
    """`true` or `false`, as a template's form gives it. Raises `ValueError` with a message for the user."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


def reader(one: Field[Any]) -> Callable[[str], Any]:
    """From the text of an option to its value, for argparse. An empty text means the default, as in a form left empty."""
    said = about(one)

    def read(text: str) -> Any:
        if not text and one.default is not MISSING:
            return one.default
        if said.choices and text not in said.choices:
            raise ValueError(f"expected one of {', '.join(said.choices)}, found {text!r}")
        return (switch if one.default is False else said.parse)(text)

    return typed(read)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `RunOptions` to a parser, by group. A switch can be given alone, or as =true or =false."""
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for one in fields(RunOptions):
        said = about(one)
        text = said.help.replace("%", "%%")
        if one.default is False:
            groups[said.group].add_argument(
                f"--{one.name}", nargs="?", const=True, default=False, metavar="true|false", type=reader(one), help=text
            )
            continue
        required = one.default is MISSING
        if not required and one.default is not None:
            text += f" (default: {one.default})"
        groups[said.group].add_argument(
            f"--{one.name}",
            required=required,
            default=None if required else one.default,
            metavar="{" + ",".join(said.choices) + "}" if said.choices else said.metavar,
            type=reader(one),
            help=text,
        )


def options_from(parsed: argparse.Namespace) -> RunOptions:
    """The options that a parser with `add_options` has read."""
    return RunOptions(**{one.name: getattr(parsed, one.name) for one in fields(RunOptions)})
