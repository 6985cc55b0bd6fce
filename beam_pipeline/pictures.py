"""Pictures of what is in the records: masks, boxes and names drawn over the image, and many of them on one sheet.

Pillow and numpy do all of it, and its own font, so that the same record gives the same pixels on every machine.
"""

from __future__ import annotations

import io
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from transforms.images import DAMAGED, READ_FORMATS
from transforms.read_records import WrittenImage, WrittenInstance
from transforms.records import Box
from transforms.run_lengths import Mask

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((120, 255, 255), (150, 0, 0), (0, 0, 255), (135, 210, 165), (90, 135, 255), (135, 15, 105), (30, 60, 180)),
    *((150, 75, 90), (180, 255, 180)),
)
"""Okabe and Ito's seven colours (https://jfly.uni-koeln.de/color/), then always the one farthest from all before it, in OKLab,
as seen with normal, protanope and deuteranope eyes, whichever tells them apart least."""

FILL, FAINT, STRIPE, SHADE = 96, 40, 150, 90
"""How much, of 255, covers the picture: of the colour inside a mask, between a crowd's stripes, on them; of black, along the
outline's inner side, so that it shows on a picture of its own colour."""
STRIPES = 4  # pixels from one stripe to the next but one, across
DASH = 4  # pixels of a dash, and between two
TINY, GAP = 5, 2  # a box with no side of so many pixels is drawn so far away from what it holds, or it would hide it
LABEL_SHARE = 0.08  # of a picture, at most, is covered with names
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (128, 128, 128)
SHEET, INK = (250, 250, 250), (40, 40, 40)  # a contact sheet's ground, and its captions


class _Rectangle(NamedTuple):
    """Whole pixels of a picture, half-open."""

    top: int
    left: int
    bottom: int
    right: int


def colour_of(label: int) -> Colour:
    """The colour of a class by its label id, from 1: the same in every picture; after the palette's end, from its beginning."""
    return PALETTE[(label - 1) % len(PALETTE)]


def draw(image: WrittenImage, side: int, highlight: Collection[str] | None = None) -> Image.Image:
    """The image, scaled so that its longer side has `side` pixels, with what the record says drawn over it; RGB.

    Each instance has its class's colour: its mask is tinted, with an outline of full colour along its innermost pixels; its box
    is a line along its innermost pixels, dashed where there is no mask; its name stands beside it if there is room. A crowd is
    striped. Of a mask that is scaled down, at least a pixel stays. Where only the classes in `highlight` matter, others have
    their outline and nothing else. An image that can't be decoded is grey, and says so.
    """
    picture = _background(image, side)
    down, across = picture.height / image.height, picture.width / image.width
    line = max(1, round(side / 700))
    shown = sorted(image.instances, key=lambda one: -one.area)  # stable; the small ones over the large
    matters = [highlight is None or one.name in highlight for one in shown]
    has_mask = []
    for one, tinted in zip(shown, matters, strict=True):
        mask = one.mask  # decoded here, and let go
        has_mask.append(mask is not None)
        if mask is not None:
            _paint_mask(picture, one, mask, line, tinted)
    boxes = [_pixels_of(one.box, down, across) for one in shown]
    named = []
    for one, box, masked, tinted in zip(shown, boxes, has_mask, matters, strict=True):
        if tinted or not masked:
            _paint_box(picture, _around(box, picture), colour_of(one.label), line, dashed=not masked)
        if tinted:
            named.append((one, box))
    _paint_names(picture, named, side)
    return picture


def _background(image: WrittenImage, side: int) -> Image.Image:
    scale = side / max(image.height, image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    try:
        with Image.open(io.BytesIO(image.data), formats=READ_FORMATS) as file:
            file.draft(None, size)  # of a JPEG, no more is decoded than is needed
            return file.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    except (*DAMAGED, Image.DecompressionBombError):  # which may be, with --check_images header
        picture = Image.new("RGB", size, GREY)
        text = ImageDraw.Draw(picture)
        text.text((size[0] / 2, size[1] / 2), "can't be decoded", WHITE, _font(_font_size(side)), anchor="mm")
        return picture


# ------------------------------------------------------------------------------------------------ masks and boxes


def _paint_mask(picture: Image.Image, one: WrittenInstance, pixels: Mask, line: int, tinted: bool) -> None:
    height, width = pixels.shape
    rows = np.flatnonzero(pixels.max(axis=1))
    if not rows.size:
        return
    columns = np.flatnonzero(pixels[rows[0] : rows[-1] + 1].max(axis=0))
    down, across = picture.height / height, picture.width / width
    left, top = math.floor(columns[0] * across), math.floor(rows[0] * down)
    right = min(picture.width, math.ceil((columns[-1] + 1) * across))
    bottom = min(picture.height, math.ceil((rows[-1] + 1) * down))
    source = left / across, top / down, min(right / across, width), min(bottom / down, height)
    before, above = int(source[0]), int(source[1])
    part = pixels[above : math.ceil(source[3]), before : math.ceil(source[2])]  # of large images, most masks are small
    full = Image.fromarray(np.where(part, 255, 0).astype(np.uint8))
    within = source[0] - before, source[1] - above, source[2] - before, source[3] - above
    covered = np.asarray(full.resize((right - left, bottom - top), Image.Resampling.BOX, within))
    inside = covered >= max(1, min(128, int(covered.max())))
    edge = _edge(inside, line)
    tint: npt.NDArray[np.int64] | int = FILL
    if one.is_crowd:
        y, x = np.ogrid[top:bottom, left:right]
        tint = np.where((x + y) // (STRIPES * line) % 2, STRIPE, FAINT)
    opacity = np.where(edge, 255, np.where(inside, tint, 0) if tinted else 0).astype(np.uint8)
    picture.paste(colour_of(one.label), (left, top, right, bottom), Image.fromarray(opacity))
    shade = _edge(inside & ~edge, line)
    picture.paste(BLACK, (left, top, right, bottom), Image.fromarray((shade * SHADE).astype(np.uint8)))


def _edge(inside: npt.NDArray[np.bool_], line: int) -> npt.NDArray[np.bool_]:
    """The pixels of a mask from which fewer than `line` steps lead out of it, up, down, left or right."""
    kept = inside
    for _ in range(line):
        padded = np.pad(kept, 1)
        kept = kept & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~kept


def _pixels_of(box: Box, down: float, across: float) -> _Rectangle:
    """The pixels that a box touches; a thousandth of one is float32's doing."""
    ymin, xmin, ymax, xmax = box
    top, left = math.floor(ymin * down + 1e-3), math.floor(xmin * across + 1e-3)
    return _Rectangle(top, left, max(top + 1, math.ceil(ymax * down - 1e-3)), max(left + 1, math.ceil(xmax * across - 1e-3)))


def _around(box: _Rectangle, picture: Image.Image) -> _Rectangle:
    """Where a box is drawn: where it is, unless it is tiny; inside the picture."""
    gap = GAP if max(box.bottom - box.top, box.right - box.left) < TINY else 0
    bottom, right = min(picture.height, box.bottom + gap), min(picture.width, box.right + gap)
    return _Rectangle(max(0, min(box.top - gap, bottom - 1)), max(0, min(box.left - gap, right - 1)), bottom, right)


def _paint_box(picture: Image.Image, box: _Rectangle, colour: Colour, line: int, dashed: bool) -> None:
    top, left, bottom, right = box
    dash = DASH * line if dashed else max(bottom - top, right - left)
    for x in range(left, right, 2 * dash):
        for y in (top, max(top, bottom - line)):
            picture.paste(colour, (x, y, min(x + dash, right), min(y + line, bottom)))
    for y in range(top, bottom, 2 * dash):
        for x in (left, max(left, right - line)):
            picture.paste(colour, (x, y, min(x + line, right), min(y + dash, bottom)))


# ---------------------------------------------------------------------------------------------------------- names


_PLAIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i"}
)
"""Latin letters that are no letter with an accent, for Unicode's decomposition leaves them."""
MISSING = "\ufffd"


def plain(text: str) -> str:
    """Text as Pillow's font can draw it, on a line: letters without their accents, `MISSING` for those that it lacks."""
    letters = unicodedata.normalize("NFKD", " ".join(text.split())).translate(_PLAIN)
    return "".join(one if _is_drawn(one) else MISSING for one in letters if not unicodedata.combining(one))


def label_text(one: WrittenInstance) -> str:
    """What stands beside an instance: the name, or the label's number where the font lacks its letters, and if it is a crowd."""
    name = plain(one.name)
    text = f"#{one.label}" if MISSING in name or not name else name
    return f"{text} (crowd)" if one.is_crowd else text


@lru_cache(maxsize=4096)
def _is_drawn(character: str) -> bool:
    drawn, lacking = (_font(16).getmask(one) for one in (character, "\uffff"))
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow is built without FreeType, which draws the names: install the one from PyPI")
    return font


def _font_size(side: int) -> int:
    return max(10, min(24, side // 36))


def text_on(ground: Colour) -> Colour:
    """Black or white, whichever has more contrast with the ground (WCAG 2.1's relative luminance)."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (one / 255 for one in ground)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else WHITE


def _paint_names(picture: Image.Image, instances: Sequence[tuple[WrittenInstance, _Rectangle]], side: int) -> None:
    """Names on grounds of their classes' colours, none over another: first one of each class, then the largest instances."""
    font = _font(_font_size(side))
    ascent, descent = font.getmetrics()
    height, room = ascent + descent + 1, LABEL_SHARE * picture.width * picture.height
    taken = np.zeros((picture.height, picture.width), bool)
    pen = ImageDraw.Draw(picture)
    firsts = {one.label: index for index, (one, _) in reversed(list(enumerate(instances)))}.values()
    for index in [*sorted(firsts), *(index for index in range(len(instances)) if index not in firsts)]:
        one, box = instances[index]
        text = shortened(label_text(one), font, picture.width - 5)
        width = math.ceil(font.getlength(text)) + 4
        if taken.sum() + height * width > room and taken.any():
            break
        for top, left in _places(box, height, width, picture):
            part = taken[top : top + height, left : left + width]
            if part.shape == (height, width) and not part.any():
                part[:] = True
                pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour_of(one.label))
                pen.text((left + 2, top), text, text_on(colour_of(one.label)), font)
                break


def _places(box: _Rectangle, height: int, width: int, picture: Image.Image) -> list[tuple[int, int]]:
    """Tops and lefts for a name of this size, inside the picture, the best first: above the box, below, within."""
    lefts = [max(0, min(left, picture.width - width)) for left in (box.left, box.right - width)]
    outside = [top for top in (box.top - height, box.bottom) if 0 <= top <= picture.height - height]
    within = [max(0, min(top, picture.height - height)) for top in (box.top, box.bottom - height)]
    return [(top, left) for top in (*outside, *within) for left in lefts]


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its beginning as is at most `width` pixels wide together with three dots."""
    if font.getlength(text) <= width:
        return text
    kept = bisect_right(range(1, len(text) + 1), width, key=lambda letters: font.getlength(f"{text[:letters]}…"))
    return f"{text[:kept].rstrip()}…"


# -------------------------------------------------------------------------------------------------- contact sheet


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int, gap: int = 12) -> Image.Image:
    """Pictures in rows of `columns`, a gap around each, and under each its caption, whose lines are shortened to fit; RGB.

    Columns are as wide as the widest picture, a row is as high as its highest. Raises `ValueError` without a picture.
    """
    wide = max(one.width for one in pictures)
    font = _font(max(13, _font_size(wide)))
    texts = [[shortened(plain(line), font, wide) for line in caption.split("\n")] for caption in captions]
    line_height = sum(font.getmetrics()) + 2
    rows = [range(start, min(start + columns, len(pictures))) for start in range(0, len(pictures), columns)]
    heights = [max(pictures[i].height for i in row) + 4 + line_height * max(len(texts[i]) for i in row) + gap for row in rows]
    sheet = Image.new("RGB", (gap + min(columns, len(pictures)) * (wide + gap), gap + sum(heights)), SHEET)
    pen, top = ImageDraw.Draw(sheet), gap
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = gap + column * (wide + gap)
            sheet.paste(pictures[index], (left, top))
            for number, line in enumerate(texts[index]):
                pen.text((left, top + pictures[index].height + 4 + number * line_height), line, INK, font)
        top += height
    return sheet
