"""Pictures of records: where every line lies, to the pixel, and what can be told apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from drawings import draw as drawn
from drawings import masks_of_size, oblong_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import corrupt_jpeg, saved
from PIL import Image

from beam_pipeline import pictures
from beam_pipeline.pictures import PALETTE, colour_of, contact_sheet, draw, label_text, plain, shortened, text_on
from transforms.read_records import WrittenImage, WrittenInstance, iter_images

GREY = (77, 77, 77)  # nothing in the palette, and no mixture with it


def instance(mask=None, box=None, label=1, name="", is_crowd=False, area=None):
    """With the tight box and the area of its mask, unless others are given; masks as dense records have them."""
    if mask is not None and box is None:
        (top, bottom), (left, right) = ((int(line.min()), int(line.max()) + 1) for line in mask.nonzero())
        box = (top, left, bottom, right)
    if area is None:
        area = float(mask.sum()) if mask is not None else (box[2] - box[0]) * (box[3] - box[1])
    stored = None if mask is None else mask.astype(np.float32)
    return WrittenInstance(label, name, tuple(map(float, box)), is_crowd, area, stored, None)


def image(*instances, height, width, data=None):
    data = data or saved(Image.new("RGB", (width, height), GREY), "PNG")
    return WrittenImage(1, "a.png", "train", height, width, data, "png", "", instances, None, None)


def pixels(picture):
    return np.asarray(picture).astype(int)


def changed(picture):
    """Where a picture is not as it was."""
    return (pixels(picture) != GREY).any(axis=2)


def is_colour(picture, label=1):
    return (pixels(picture) == colour_of(label)).all(axis=2)


@pytest.fixture
def nothing_but_masks(monkeypatch):
    monkeypatch.setattr(pictures, "_paint_box", lambda *given, **more: None)
    monkeypatch.setattr(pictures, "_paint_names", lambda *given: None)


@pytest.fixture
def no_names(monkeypatch):
    monkeypatch.setattr(pictures, "_paint_names", lambda *given: None)


# ------------------------------------------------------------------------------------------------------------ masks


@given(st.data())
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("is_crowd", [False, True])
def test_at_full_size_the_tint_is_the_mask_bit_for_bit(is_crowd, data):
    height, width = data.draw(oblong_sizes())
    mask = data.draw(masks_of_size(height, width))
    one = instance(mask, (0, 0, height, width), is_crowd=is_crowd)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_paint_box", lambda *given, **more: None)
        patch.setattr(pictures, "_paint_names", lambda *given: None)
        picture = draw(image(one, height=height, width=width), max(height, width))
    assert picture.size == (width, height)
    assert np.array_equal(changed(picture), mask.astype(bool))


def test_the_outline_is_the_masks_innermost_pixels(nothing_but_masks):
    mask = drawn("""
        ............
        .#######....
        .#######..#.
        .#######....
        .#######....
        .#######.###
        .....###.###
        .....###.###
    """)
    edge = drawn("""
        ............
        .#######....
        .#.....#..#.
        .#.....#....
        .#.....#....
        .####..#.###
        .....#.#.#.#
        .....###.###
    """)
    picture = draw(image(instance(mask), height=8, width=12), 12)
    assert np.array_equal(is_colour(picture), edge.astype(bool))
    shaded, tinted = pixels(picture)[2, 2], pixels(picture)[3, 4]
    assert shaded.sum() < tinted.sum()  # a dark line inside of it, or a mask of the picture's own colour had no outline
    share = pictures.FILL / 255
    assert np.abs(tinted - (np.array(GREY) * (1 - share) + np.array(colour_of(1)) * share)).max() <= 1


def test_a_scaled_mask_lies_where_the_scaled_image_has_it(nothing_but_masks):
    mask = np.zeros((60, 100), np.uint8)
    mask[10:31, 40:70] = 1
    photo = np.where(mask[..., None], (250, 10, 10), GREY).astype(np.uint8)
    for side in (33, 50, 150, 400):
        height = round(60 * side / 100)
        picture = draw(image(instance(mask), height=60, width=100), side)
        assert picture.size == (side, height)
        y, x = changed(picture).nonzero()
        down, across = height / 60, side / 100
        expected = (10 * down, 40 * across, 31 * down, 70 * across)
        assert np.abs(np.subtract((y.min(), x.min(), y.max() + 1, x.max() + 1), expected)).max() <= 0.5
        reference = draw(image(height=60, width=100, data=saved(Image.fromarray(photo), "PNG")), side)
        reddish = pixels(reference)[..., 0] > (250 + 77) / 2
        assert (reddish != changed(picture)).mean() < 0.01


def test_a_mask_enlarged_by_a_whole_number_has_its_pixels_as_squares(nothing_but_masks):
    mask = np.random.default_rng(1).integers(0, 2, (6, 10)).astype(np.uint8)
    picture = draw(image(instance(mask), height=6, width=10), 70)
    assert np.array_equal(changed(picture), np.kron(mask, np.ones((7, 7))).astype(bool))


@pytest.mark.parametrize(("y", "x"), [(0, 0), (399, 2999), (123, 1777)])
def test_a_single_pixel_of_a_large_picture_still_shows(y, x, no_names):
    mask = np.zeros((400, 3000), np.uint8)
    mask[y, x] = 1
    picture = draw(image(instance(mask), height=400, width=3000), 300)
    assert picture.size == (300, 40)
    assert is_colour(picture)[int(y * 0.1), int(x * 0.1)]
    assert is_colour(picture).sum() >= 5  # with a ring at a distance, which the picture's edge may cut


def test_the_small_lies_over_the_large(nothing_but_masks):
    small, large = np.zeros((20, 30), np.uint8), np.ones((20, 30), np.uint8)
    small[5:9, 5:12] = 1
    picture = draw(image(instance(small, label=2), instance(large, label=1), height=20, width=30), 30)
    assert is_colour(picture, 2).sum() == 2 * 7 + 2 * 2


def test_crowds_are_striped(nothing_but_masks):
    mask = np.ones((30, 50), np.uint8)
    plain_one, crowd = (draw(image(instance(mask, is_crowd=is_crowd), height=30, width=50), 50) for is_crowd in (False, True))
    assert len(np.unique(pixels(plain_one)[2:-2, 2:-2].reshape(-1, 3), axis=0)) == 1
    inside = pixels(crowd)[2:-2, 2:-2]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) == 2
    assert np.array_equal(inside[1:, :-1], inside[:-1, 1:])  # along the diagonals


# ------------------------------------------------------------------------------------------------------------ boxes


def lines_of(top, left, bottom, right, height, width):
    lines = np.zeros((height, width), bool)
    lines[top:bottom, left:right] = True
    lines[top + 1 : bottom - 1, left + 1 : right - 1] = False
    return lines


def test_a_box_is_drawn_on_the_innermost_of_its_half_open_pixels(no_names):
    box = (3, 5, 19, 31)
    mask = np.zeros((24, 40), np.uint8)  # a mask elsewhere, so that the box is not dashed
    mask[22, 38] = 1
    picture = draw(image(instance(mask, box), height=24, width=40), 40)
    assert np.array_equal(is_colour(picture), lines_of(*box, 24, 40) | mask.astype(bool))


def test_a_box_of_parts_of_pixels_has_all_that_it_touches_and_no_more_for_float32s_sake(no_names):
    for box, expected in (((3.4, 5.9, 18.1, 30.5), (3, 5, 19, 31)), ((2.9999998, 5, 19.0000012, 31), (3, 5, 19, 31))):
        picture = draw(image(instance(np.zeros((24, 40), np.uint8), box), height=24, width=40), 40)
        assert np.array_equal(is_colour(picture), lines_of(*expected, 24, 40))


def test_a_scaled_box(no_names):
    mask = np.zeros((240, 400), np.uint8)
    mask[230:, 390:] = 1
    picture = draw(image(instance(mask, (30, 50, 190, 310)), height=240, width=400), 40)
    assert np.array_equal(is_colour(picture)[:22], lines_of(3, 5, 19, 31, 24, 40)[:22])


def test_without_a_mask_a_box_is_dashed(no_names):
    picture = draw(image(instance(box=(3, 5, 39, 61)), height=48, width=80), 80)
    lines = lines_of(3, 5, 39, 61, 48, 80)
    found = is_colour(picture)
    assert np.array_equal(changed(picture), found)
    assert not (found & ~lines).any()
    assert 0.4 < found.sum() / lines.sum() < 0.6
    assert found[3, 5:9].all()
    assert not found[3, 9:13].any()


def test_empty_boxes_and_masks_and_boxes_outside_are_no_trouble():
    empty = WrittenInstance(1, "a", (0.0, 0.0, 0.0, 0.0), False, 0.0, np.zeros((24, 40), np.float32), None)
    corner = instance(box=(24, 40, 24, 40), label=2, name="b")
    assert draw(image(empty, corner, height=24, width=40), 40).size == (40, 24)


# ------------------------------------------------------------------------------------------------------------ names


def test_a_name_is_legible_inside_the_picture_and_on_its_classs_colour():
    for top, left in itertools.product((0, 100, 219), (0, 150, 379)):
        mask = np.zeros((240, 400), np.uint8)
        mask[top : top + 21, left : left + 21] = 1
        one = instance(mask, label=5, name="balloon")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pictures, "_paint_names", lambda *given: None)
            without = pixels(draw(image(one, height=240, width=400), 400))
        picture = pixels(draw(image(one, height=240, width=400), 400))
        y, x = (picture != without).any(axis=2).nonzero()
        part = picture[y.min() : y.max() + 1, x.min() : x.max() + 1]
        height, width = part.shape[:2]
        assert 10 <= height <= 20
        assert 30 <= width <= 70  # not cut off by the picture's edge
        assert (part == colour_of(5)).all(axis=2).mean() > 0.5
        assert (np.abs(part - text_on(colour_of(5))).max(axis=2) < 100).sum() > 30  # ink
        assert y.max() < top or y.min() >= top + 21  # and not over what it names


def test_names_do_not_cover_each_other_nor_the_picture():
    boxes = [(y, x, y + 6, x + 7) for y in range(0, 240, 8) for x in range(0, 400, 9)]
    many = [instance(box=box, name="nucleus") for box in boxes] + [instance(box=(120, 200, 126, 206), label=2, name="rare")]
    places = []
    rectangle = pictures.ImageDraw.ImageDraw.rectangle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pictures.ImageDraw.ImageDraw,
            "rectangle",
            lambda pen, place, fill: (places.append((place, fill)), rectangle(pen, place, fill=fill)),
        )
        draw(image(*many, height=240, width=400), 400)
    covered = np.zeros((240, 400), int)
    for (left, top, right, bottom), _ in places:
        covered[top : bottom + 1, left : right + 1] += 1
        assert 0 <= left <= right < 400
        assert 0 <= top <= bottom < 240
    assert covered.max() == 1
    assert 0.03 < covered.mean() <= 0.08
    assert colour_of(2) in [fill for _, fill in places]  # of each class, one comes first


def test_names_as_the_font_has_them():
    assert plain("Straße\nzürich  naïve Łódź") == "Strasse zurich naive Lodz"
    assert label_text(instance(box=(0, 0, 1, 1), name="vélo")) == "velo"
    assert label_text(instance(box=(0, 0, 1, 1), name="自転車", label=17)) == "#17"
    assert label_text(instance(box=(0, 0, 1, 1), name="bird", is_crowd=True)) == "bird (crowd)"
    assert plain("a自") == "a\ufffd"


@pytest.mark.parametrize("name", ["x" * 500, "a b " * 90, "", "🚲", "a\0b\tc"])
def test_any_name_fits(name):
    assert draw(image(instance(box=(2, 3, 9, 20), name=name), height=24, width=40), 40).size == (40, 24)


def test_only_what_is_looked_for_is_named_and_tinted():
    one, other = np.zeros((240, 400), np.uint8), np.zeros((240, 400), np.uint8)
    one[50:100, 50:150], other[50:100, 250:350] = 1, 1
    whole = image(instance(one, (40, 40, 110, 160), 1, "kite"), instance(other, None, 2, "boat"), height=240, width=400)
    found = changed(draw(whole, 400, {"boat"}))
    expected = lines_of(50, 50, 100, 150, 240, 400) | lines_of(51, 51, 99, 149, 240, 400)
    assert np.array_equal(found[:, :200], expected[:, :200])
    assert found[50:100, 250:350].all()
    assert found[:50].any()


# ---------------------------------------------------------------------------------------------------------- colours


PROTANOPE = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPE = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
"""Linear RGB as such eyes see it: Machado, Oliveira and Fernandes 2009, severity 1."""


OKLAB_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.793617785, -0.0040720468],
    [1.9779984951, -2.428592205, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.808675766],
]
"""Björn Ottosson, https://bottosson.github.io/posts/oklab/"""


def oklab(colour, eyes):
    """Distances in it are about as people see them."""
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(np.array(OKLAB_CONES) @ np.clip(np.array(eyes) @ linear, 0, 1))
    return np.array(OKLAB) @ cones


@pytest.mark.parametrize("eyes", [np.eye(3), PROTANOPE, DEUTERANOPE], ids=["all", "protanope", "deuteranope"])
def test_colours_can_be_told_apart(eyes):
    seen = [oklab(colour, eyes) for colour in PALETTE]
    assert len(seen) >= 16
    closest = min(math.dist(one, other) for one, other in itertools.combinations(seen, 2))
    assert closest > 0.07  # as far as grey 128 is from grey 150


def test_a_class_always_has_its_colour():
    assert colour_of(1) == (230, 159, 0)
    assert [colour_of(label) for label in range(1, 17)] == list(PALETTE)
    assert colour_of(17) == colour_of(1)


def test_names_have_contrast():
    def luminance(colour):
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in np.array(colour) / 255]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    for ground in PALETTE:
        darker, lighter = sorted((luminance(ground), luminance(text_on(ground))))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


# ----------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("height", "width", "side", "size"), [(48, 80, 40, (40, 24)), (81, 48, 40, (24, 40)), (1, 400, 100, (100, 1))]
)
def test_the_longer_side_is_as_asked(height, width, side, size):
    assert draw(image(height=height, width=width), side).size == size


def test_the_image_itself_is_seen_through(no_names):
    photo = np.random.default_rng(3).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    mask = np.zeros((24, 40), np.uint8)
    mask[5:20, 5:30] = 1
    picture = draw(image(instance(mask), height=24, width=40, data=saved(Image.fromarray(photo), "PNG")), 40)
    assert np.array_equal(np.asarray(picture)[mask == 0], photo[mask == 0])
    seen = pixels(picture)[8:17, 8:27].reshape(-1, 3)
    below = photo[8:17, 8:27].reshape(-1, 3)
    assert np.corrcoef(seen[:, 0], below[:, 0])[0, 1] > 0.99


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_jpeg_is_decoded_small(mode, monkeypatch):
    gradient = Image.linear_gradient("L").resize((2000, 1200)).convert(mode)
    decoded = []
    load = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, *given: (decoded.append(self.size), load(self, *given))[1])
    picture = draw(image(height=1200, width=2000, data=saved(gradient, "JPEG")), 240)
    assert decoded[0] == (250, 150)
    monkeypatch.undo()
    expected = np.asarray(gradient.convert("RGB").resize((240, 144), Image.Resampling.BOX)).astype(int)
    assert np.abs(pixels(picture) - expected).max() <= 4


def test_an_image_that_cannot_be_decoded_is_grey_with_its_masks_over_it(no_names):
    mask = np.zeros((240, 400), np.uint8)
    mask[10:40, 20:90] = 1
    for data in (corrupt_jpeg(240, 400)[:200], b"no picture"):
        picture = draw(image(instance(mask), height=240, width=400, data=data), 400)
        assert picture.getpixel((300, 20)) == (128, 128, 128)
        assert is_colour(picture)[10, 20:90].all()
        assert (pixels(picture)[100:140, 100:300] == 255).all(axis=2).any()  # words


def test_the_same_every_time(demo_output):
    first, second = (
        [draw(one, 200).tobytes() for one in itertools.islice(iter_images(str(demo_output.folder)), 3)] for _ in range(2)
    )
    assert first == second


# ---------------------------------------------------------------------------------------------------- contact sheet


def test_a_sheet_has_all_pictures_whole_in_rows_with_their_captions():
    sizes = [(40, 24), (30, 40), (40, 24), (20, 40), (40, 10)]
    some = [Image.new("RGB", size, PALETTE[index]) for index, size in enumerate(sizes)]
    sheet = contact_sheet(some, [f"picture {index}\nand more" for index in range(5)], 2, gap=6)
    found = pixels(sheet)
    assert sheet.width == 6 + 2 * (40 + 6)
    corners = []
    for index, (width, height) in enumerate(sizes):
        y, x = (found == PALETTE[index]).all(axis=2).nonzero()
        assert (x.max() + 1 - x.min(), y.max() + 1 - y.min()) == (width, height)
        assert len(y) == width * height
        corners.append((int(y.min()), int(x.min())))
        below = found[y.max() + 1 : y.max() + 36, x.min() : x.min() + 40]
        assert (below.sum(axis=2) < 300).sum() > 20  # ink
    tops, lefts = zip(*corners, strict=True)
    assert lefts == (6, 52, 6, 52, 6)
    assert tops[0] == tops[1] < tops[2] == tops[3] < tops[4]


def test_a_caption_ends_where_its_picture_does():
    some = [Image.new("RGB", (60, 24), PALETTE[0])] * 2
    sheet = pixels(contact_sheet(some, ["wide" * 40] * 2, 2, gap=10))
    assert (sheet[:, 70:80] == pictures.SHEET).all()
    assert (sheet[:, -10:] == pictures.SHEET).all()


def test_a_text_keeps_all_that_fits():
    font = pictures._font(12)
    assert shortened("balloon", font, font.getlength("balloon")) == "balloon"
    assert shortened("balloon", font, font.getlength("ballo…")) == "ballo…"
    assert shortened("balloon", font, font.getlength("ballo…") - 0.1) == "ball…"


def test_a_sheet_of_fewer_pictures_than_columns_is_no_wider_than_they_are():
    assert contact_sheet([Image.new("RGB", (60, 24))], [""], 4, gap=10).width == 80
