"""Every form of segmentation against masks drawn by hand and against `COCO.annToMask`; bad geometry; boxes."""

from __future__ import annotations

import json
import time
import tracemalloc

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to
from conftest import parse_annotation
from drawings import draw
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from sources import rasterize_image

from transforms import polygons as drawing
from transforms import rasterize, run_lengths
from transforms.rasterize import Drops, Limits
from transforms.records import AnnotatedImage, Instance, Polygons, Reject, RunLengths, split_rings, values_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]


def ann_to_mask(segmentation, height, width):
    """The truth: what pycocotools' own `COCO.annToMask` makes of an annotation."""
    coco = COCO()
    coco.imgs = {1: {"id": 1, "height": height, "width": width}}
    return coco.annToMask({"image_id": 1, "segmentation": segmentation})


def annotated(segmentation, crowd=0, bbox=(0, 0, 1, 1)):
    """The instance that a COCO annotation is read to."""
    entry = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": segmentation, "bbox": bbox, "iscrowd": crowd}
    return parse_annotation(json.dumps(entry).encode()).instance


def instance(shape=None, box=None, **fields):
    return Instance(**{"annotation_id": 7, "category_id": 1, "area": None, "is_crowd": False} | fields, shape=shape, box=box)


def polygons(*rings):
    """Rings of any floats, also those that no source would let through."""
    values = np.array([value for ring in rings for value in ring], "<f8")
    return Polygons(values.tobytes(), tuple(map(len, rings)))


def code_of(found):
    return getattr(found, "code", None)


GOLDENS = {
    "polygon, square": ([SQUARE], "..... .###. .###. ....."),
    "polygon, the whole image": ([[0, 0, 5, 0, 5, 4, 0, 4]], "##### ##### ##### #####"),
    "polygon, right triangle": ([[0, 0, 5, 0, 5, 4]], ".#### ..### ...## ....#"),
    "polygon, left triangle": ([[0, 0, 5, 0, 0, 4]], "####. ###.. ##... #...."),
    "polygon, diamond": ([[2.5, 0, 5, 2, 2.5, 4, 0, 2]], "..#.. .###. .###. ..#.."),
    "polygon, bow-tie": ([[0, 0, 5, 4, 5, 0, 0, 4]], "#...# ##.## ##.## #...#"),
    "polygon, two parts apart": (
        [[0, 0, 2, 0, 2, 2, 0, 2], [3, 2, 5, 2, 5, 4, 3, 4]],
        "##... ##... ...## ...##",
    ),
    "polygon, two parts that overlap": (
        [[0, 0, 3, 0, 3, 3, 0, 3], [2, 1, 5, 1, 5, 4, 2, 4]],
        "###.. ##### ##### ..###",
    ),
    "polygon, the same part twice": ([SQUARE, SQUARE], "..... .###. .###. ....."),
    "polygon, three parts, one in another": (
        [[0, 0, 5, 0, 5, 3, 0, 3], [1, 1, 2, 1, 2, 2, 1, 2], [0, 3, 1, 3, 1, 4, 0, 4]],
        "##### ##### ##### #....",
    ),
    "polygon, over the upper left corner": ([[-1, -1, 2, -1, 2, 2, -1, 2]], "##... ##... ..... ....."),
    "polygon, over the lower right corner": ([[3, 2, 5.5, 2, 5.5, 4.5, 3, 4.5]], "..... ..... ...## ...##"),
    "polygon, square image": ([[1, 0, 3, 0, 3, 4, 1, 4]], ".##. .##. .##. .##."),
    "run list": ({"size": [4, 5], "counts": [4, 3, 1, 1, 1, 2, 8]}, ".##.. .#... .##.. ..#.."),
    "run list, starting with the mask": ({"size": [4, 5], "counts": [0, 1, 18, 1]}, "#.... ..... ..... ....#"),
    "run list, over the end of a column": ({"size": [4, 5], "counts": [10, 4, 6]}, "...#. ...#. ..#.. ..#.."),
    "run list, the whole image": ({"size": [4, 5], "counts": [0, 20]}, "##### ##### ##### #####"),
    "run string": ({"size": [4, 5], "counts": "431N017"}, ".##.. .#... .##.. ..#.."),
    "run string, the whole image": ({"size": [4, 5], "counts": "0d0"}, "##### ##### ##### #####"),
    "run string, square image": ({"size": [4, 4], "counts": "04<"}, "#... #... #... #..."),
}


def rasterize_one(annotated, height, width, *how):
    [drawn] = rasterize.rasterize([(annotated, height, width)], *how)
    return drawn


def draw_one(shape, height, width):
    [drawn] = drawing.draw_polygons([(shape, height, width)])
    return getattr(drawn, "mask", drawn)


def crosses_itself(ring):
    [crosses] = drawing.cross_themselves([ring])
    return crosses


@pytest.mark.parametrize("crowd", [0, 1])
@pytest.mark.parametrize(("segmentation", "picture"), GOLDENS.values(), ids=GOLDENS)
def test_every_form_gives_the_mask_drawn_by_hand(segmentation, picture, crowd):
    expected = draw(picture)
    np.testing.assert_array_equal(ann_to_mask(segmentation, *expected.shape), expected)
    drawn = rasterize_one(annotated(segmentation, crowd), *expected.shape)
    assert drawn.is_crowd is bool(crowd)
    assert (drawn.shape.height, drawn.shape.width) == expected.shape
    np.testing.assert_array_equal(run_lengths.to_mask(drawn.shape), expected)


@st.composite
def sizes(draw_from):
    height, width = draw_from(st.integers(1, 40)), draw_from(st.integers(1, 40))
    assume(height != width)
    return height, width


def rings_around(height, width, far):
    hundredths = st.integers(-100 * far, 100 * (max(height, width) + far)).map(lambda number: number / 100)
    anything = st.floats(-far, max(height, width) + far, allow_nan=False)
    point = st.tuples(hundredths, hundredths) | st.tuples(anything, anything)
    ring = st.lists(point, min_size=3, max_size=9).map(lambda points: [value for pair in points for value in pair])
    return st.lists(ring, min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(sizes(), st.sampled_from((0, 3, 500)), st.data())
def test_polygons_are_drawn_as_ann_to_mask_draws_them(size, far, data):
    rings = data.draw(rings_around(*size, far))
    expected = ann_to_mask(rings, *size)
    packed = Polygons.pack(rings)
    drawn = draw_one(packed, *size)
    if expected.any():
        np.testing.assert_array_equal(run_lengths.to_mask(drawn), expected)
    else:
        assert drawn.code == "EMPTY_MASK"


@settings(max_examples=100, deadline=None)
@given(sizes(), st.data())
def test_run_lists_and_run_strings_give_what_ann_to_mask_gives(size, data):
    height, width = size
    bounds = data.draw(st.lists(st.integers(0, height * width), max_size=20))
    runs = np.diff([0, *sorted(bounds), height * width]).tolist()
    expected = ann_to_mask({"size": [height, width], "counts": runs}, height, width)
    counts = run_lengths.encode_counts(np.array(runs)).decode()
    np.testing.assert_array_equal(ann_to_mask({"size": [height, width], "counts": counts}, height, width), expected)
    for given_counts in (runs, counts):
        drawn = rasterize_one(annotated({"size": [height, width], "counts": given_counts}), height, width)
        if expected.any():
            np.testing.assert_array_equal(run_lengths.to_mask(drawn.shape), expected)
        else:
            assert drawn.code == "EMPTY_MASK"


ANYWHERE = st.floats(-2e7, 2e7, exclude_min=True, exclude_max=True)
NEAR, FAR = (st.integers(-limit, limit).map(lambda number: number / 100) for limit in (16_000, 1_999_999_999))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([ANYWHERE, NEAR, FAR]).flatmap(lambda number: st.lists(st.lists(number, max_size=12), max_size=4)))
def test_packed_polygons_come_back_unchanged(rings):
    packed = Polygons.pack(rings)
    assert [ring.tolist() for ring in split_rings([packed], packed.values())[0]] == rings
    assert packed.values().tolist() == [value for ring in rings for value in ring]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([ANYWHERE, NEAR, FAR]).flatmap(lambda number: st.lists(number, min_size=6, max_size=12)), min_size=1)
)
def test_several_polygons_have_the_values_that_each_has(rings):
    shapes = [Polygons.pack([ring[: len(ring) // 2 * 2]]) for ring in rings]
    values = values_of(shapes)
    assert values.tolist() == [value for shape in shapes for value in shape.values()]
    assert [[ring.tolist()] for ring in (shape.values() for shape in shapes)] == [
        [ring.tolist() for ring in some] for some in split_rings(shapes, values)
    ]


@pytest.mark.parametrize(
    ("bytes_each", "ring"),
    [
        (2, [0.01, 1.15, 327.68, -0.07, 639.99, -0.01]),  # steps of at most 327.67
        (4, [0.01, 1.15, 327.69, -0.07, 639.99, 100000.01]),
        (4, [-10e6, 0, 10e6, 0.01, -1e7, 5]),
        (8, [-15e6, 0, 15e6, 0.01, -1e7, 5]),  # steps of over 2^31 hundredths
        (8, [0.001, 1, 2, 3, 4, 5]),
    ],
)
def test_coordinates_take_no_more_bytes_than_they_need(bytes_each, ring):
    packed = Polygons.pack([ring])
    assert len(packed.coordinates) == bytes_each * len(ring)
    assert packed.values().tolist() == ring


# ---------------------------------------------------------------------------------------------------- bad polygons

NAN, INFINITY = float("nan"), float("inf")
BAD_POLYGONS = {
    "no ring": (polygons(), "POLY_MALFORMED", "no ring"),
    "an empty ring": (polygons([]), "POLY_MALFORMED", "0 numbers"),
    "an empty ring beside a good one": (polygons(SQUARE, []), "POLY_MALFORMED", "0 numbers"),
    "a point": (polygons([1, 1]), "POLY_MALFORMED", "2 numbers"),
    "four numbers, like a box": (polygons([1, 1, 4, 4]), "POLY_MALFORMED", "4 numbers"),
    "five numbers": (polygons([1, 1, 4, 1, 4]), "POLY_MALFORMED", "5 numbers"),
    "seven numbers": (polygons([1, 1, 4, 1, 4, 3, 1]), "POLY_MALFORMED", "7 numbers"),
    "two odd rings, together even": (polygons(SQUARE[:7], SQUARE[:7]), "POLY_MALFORMED", "7 numbers"),
    "NaN": (polygons([1, 1, 4, NAN, 4, 3]), "COORD_INVALID", "nan"),
    "infinity": (polygons([1, 1, INFINITY, 1, 4, 3]), "COORD_INVALID", "inf"),
    "minus infinity": (polygons([1, 1, 4, 1, 4, -INFINITY]), "COORD_INVALID", "-inf"),
    "NaN in the second ring": (polygons(SQUARE, [1, 1, 4, NAN, 4, 3]), "COORD_INVALID", "nan"),
    "NaN beside infinity": (polygons([NAN, 1, INFINITY, 1, 4, 3]), "COORD_INVALID", "nan"),
    "1e9": (polygons([1, 1, 1e9, 1, 4, 3]), "COORD_INVALID", "1000000000.0"),
    "-1e9": (polygons([1, -1e9, 4, 1, 4, 3]), "COORD_INVALID", "-1000000000.0"),
    "just over the bound": (polygons([1, 1, 100000.5, 1, 4, 3]), "COORD_INVALID", "100000.5"),
    "over 100000 points": (polygons([1, 1, 4, 1, 4, 3] * 33334), "POINT_LIMIT", "100002 points"),
    "over 100000 points in many rings": (polygons(*[[1, 1, 4, 1, 4, 3]] * 33334), "POINT_LIMIT", "100002 points"),
    "a huge zigzag": (polygons([0, 0, 99999, 1] * 50), "POINT_LIMIT", "at most 2000000"),
    "a huge zigzag downwards": (polygons([0, -99999, 1, 99999] * 10), "POINT_LIMIT", "outline"),
    "many large rings": (polygons(*[[0, 0, 90000, 0, 90000, 90000, 0, 90000]] * 6), "POINT_LIMIT", "outline is 2160000"),
}


@pytest.fixture
def no_pycocotools(monkeypatch):
    """Whatever reaches pycocotools now fails the test."""

    def refuse(*arguments):
        raise AssertionError(f"pycocotools was called with {str(arguments)[:80]}")

    for name in ("frPyObjects", "merge", "area"):
        monkeypatch.setattr(rasterize.cocomask, name, refuse)


@pytest.mark.usefixtures("no_pycocotools")
@pytest.mark.parametrize(("shape", "code", "message"), BAD_POLYGONS.values(), ids=BAD_POLYGONS)
def test_a_bad_polygon_is_refused_before_pycocotools_sees_it(shape, code, message):
    found = rasterize_one(instance(shape, (0.0, 0.0, 4.0, 5.0)), 4, 5)
    assert found.code == code
    assert message in found.message


def test_as_many_points_and_as_long_an_outline_as_allowed_are_drawn():
    most_points = polygons([1, 1, 4, 1, 4, 3, 1, 3] * 24_999 + [1, 3] * 4)
    drawn = draw_one(most_points, 4, 5)
    np.testing.assert_array_equal(run_lengths.to_mask(drawn), draw("..... .###. .###. ....."))
    longest = polygons([0, 0, 100_000, 0, 100_000, 3, 0, 3] * 9)
    assert isinstance(draw_one(longest, 4, 5), RunLengths)


@pytest.mark.parametrize("shift", [(-9, 0), (9, 0), (0, -9), (0, 9), (9, 9), (-90000, 0), (0, 90000)])
def test_a_polygon_wholly_outside_has_no_mask(shift):
    ring = [1 + shift[0], 1 + shift[1], 4 + shift[0], 1 + shift[1], 4 + shift[0], 3 + shift[1]]
    assert rasterize_one(instance(polygons(ring), (0.0, 0.0, 4.0, 5.0)), 4, 5).code == "EMPTY_MASK"


def test_good_and_bad_polygons_of_images_of_several_sizes_are_drawn_as_each_alone(monkeypatch):
    ring, holed = [0.5, 0.5, 4.25, 1, 3, 3.75], Polygons.pack([[0, 0, 5, 0, 5, 3, 0, 3], [1, 1, 2, 1, 2, 2, 1, 2]], 1)
    shapes = [
        (polygons(ring), 4, 5),
        *((shape, 4, 5) for shape, _, _ in BAD_POLYGONS.values()),
        (polygons(ring, SQUARE), 5, 4),
        (polygons([9, 9, 12, 9, 12, 12]), 4, 5),
        (holed, 4, 5),
        (holed, 3, 2),
        (polygons(CROSSING["bow-tie"]), 7, 6),
        (polygons([1 / 3, 0, 4, 0, 4, 3]), 4, 5),
    ]
    alone = [found for shape in shapes for found in drawing.draw_polygons([shape])]
    assert len({type(one) for one in alone}) == 2
    for at_once in (1, 20, 1 << 20):
        monkeypatch.setattr(drawing, "NUMBERS_AT_ONCE", at_once)
        assert drawing.draw_polygons(shapes) == alone
        assert drawing.draw_polygons(shapes[::-1]) == alone[::-1]


def test_of_a_thousand_small_polygons_together_each_is_drawn():
    """Of which pycocotools can't count so many at once."""
    rings = [[x, y, x + 3, y, x + 3, y + 2] for x in range(40) for y in range(25)]
    drawn = drawing.draw_polygons([(polygons(ring), 30, 50) for ring in rings])
    for ring, one in zip(rings, drawn, strict=True):
        np.testing.assert_array_equal(run_lengths.to_mask(one.mask), ann_to_mask([ring], 30, 50))


def test_a_polygon_without_area_has_no_mask():
    assert rasterize_one(instance(polygons([1, 1, 3, 1, 2, 1])), 4, 5).code == "EMPTY_MASK"


CLIPPED = {
    "-1 at the left": [-1, 1, 3, 1, 3, 3, -1, 3],
    "-1 at the top": [1, -1, 3, -1, 3, 3, 1, 3],
    "a hundredth over at the right": [1, 1, 5.01, 1, 5.01, 3, 1, 3],
    "half a pixel over at the bottom": [1, 1, 3, 1, 3, 4.5, 1, 4.5],
    "a corner far away": [1, 1, 3, 1, 1000, 900],
    "over all edges": [-5, -5, 50, -5, 50, 50, -5, 50],
}


@pytest.mark.parametrize("ring", CLIPPED.values(), ids=CLIPPED)
def test_a_polygon_over_the_edge_is_clipped_and_counted(ring):
    drawn = rasterize_one(instance(polygons(ring), (1.0, 1.0, 3.0, 3.0)), 4, 5)
    assert drawn.fixes == ("POLYGON_CLIPPED",)
    np.testing.assert_array_equal(run_lengths.to_mask(drawn.shape), ann_to_mask([ring], 4, 5))


@pytest.mark.parametrize("ring", [SQUARE, [0, 0, 5, 0, 5, 4, 0, 4], [0, 3.99, 4.99, 0, 5, 4]])
def test_a_polygon_up_to_the_edge_is_not_counted_as_clipped(ring):
    assert rasterize_one(instance(polygons(ring), (1.0, 1.0, 3.0, 3.0)), 4, 5).fixes == ()


def test_the_second_ring_counts_as_clipped_too_and_height_is_not_mistaken_for_width():
    box = (1.0, 1.0, 3.0, 3.0)
    assert rasterize_one(instance(polygons(SQUARE, [0, 0, 1, 0, 1, 4.5]), box), 4, 5).fixes == ("POLYGON_CLIPPED",)
    upright = polygons([0, 0, 4, 0, 4, 5])
    assert rasterize_one(instance(upright, box), 5, 4).fixes == ()
    assert rasterize_one(instance(upright, box), 4, 5).fixes == ("POLYGON_CLIPPED",)


# -------------------------------------------------------------------------------------------------- crossing sides

CROSSING = {
    "bow-tie": [0, 0, 5, 4, 5, 0, 0, 4],
    "bow-tie, the other way round": [0, 4, 5, 0, 5, 4, 0, 0],
    "bow-tie of thousandths, that look alike in hundredths": [0.001, 0, 5, 4.001, 5.001, 0, 0, 4],
    "a loop inside a loop": [0, 0, 5, 0, 5, 4, 2, 4, 2, 1, 4, 1, 4, 2, 0, 2],
    "a star of five points": [2.5, 0, 4, 4, 0, 1.5, 5, 1.5, 1, 4],
    "the closing side crosses": [0, 0, 4, 0, 4, 3, 2, -1, 1, 3],
    "a twist of a hundredth": [0, 0, 5, 0, 5, 4, 2.01, 4, 2, 4.01, 2, 3.99, 2.02, 4, 0, 4],
}
NOT_CROSSING = {
    "square": SQUARE,
    "clockwise": [1, 3, 4, 3, 4, 1, 1, 1],
    "triangle": [0, 0, 5, 0, 5, 4],
    "closed twice": [*SQUARE, 1, 1],
    "each point twice": [1, 1, 1, 1, 4, 1, 4, 1, 4, 3, 4, 3, 1, 3, 1, 3],
    "the same way twice": SQUARE + SQUARE,
    "there and back": [1, 1, 4, 1, 4, 3, 4, 1],
    "two squares that touch in a corner": [0, 0, 2, 0, 2, 2, 4, 2, 4, 4, 2, 4, 2, 2, 0, 2],
    "a corner that touches a side": [0, 0, 5, 0, 5, 4, 2.5, 0, 0, 4],
    "a hole on a bridge": [0, 0, 5, 0, 5, 4, 0, 4, 0, 0, 1, 1, 1, 3, 4, 3, 4, 1, 1, 1],
    "a point": [1, 1, 1, 1, 1, 1],
}


def whole(ring):
    return np.rint(np.array(ring, np.float64).ravel() * 100)


def crosses_by_fractions(ring):
    """The definition, side by side, in whole numbers that can't overflow."""
    points = [(int(x), int(y)) for x, y in whole(ring).reshape(-1, 2)]
    sides = list(zip(points, points[1:] + points[:1], strict=True))

    def side_of(a, b, c):
        turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (turn > 0) - (turn < 0)

    return any(
        side_of(a, b, c) * side_of(a, b, d) < 0 and side_of(c, d, a) * side_of(c, d, b) < 0
        for number, (a, b) in enumerate(sides)
        for c, d in sides[:number]
    )


@pytest.fixture(params=["few sides", "many sides"])
def crosses(request, monkeypatch):
    """`cross_themselves`, as it goes about few sides and about many."""
    if request.param == "many sides":
        monkeypatch.setattr(drawing, "FEW_SIDES", 0)
        monkeypatch.setattr(drawing, "PAIRS_AT_ONCE", 7)
    return lambda ring: crosses_itself(whole(ring))


@pytest.mark.parametrize("ring", CROSSING.values(), ids=CROSSING)
def test_a_ring_whose_sides_cross_is_found(crosses, ring):
    assert crosses_by_fractions(ring)
    assert crosses(ring)
    assert crosses([value + 90_000 for value in ring])
    upright = np.array(ring).reshape(-1, 2)[:, ::-1].ravel()
    assert crosses(upright)
    assert crosses(upright * np.tile([1.0, 10.0], len(ring) // 2))


@pytest.mark.parametrize("ring", NOT_CROSSING.values(), ids=NOT_CROSSING)
def test_sides_that_touch_or_lie_on_one_another_do_not_cross(crosses, ring):
    assert not crosses_by_fractions(ring)
    assert not crosses(ring)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.integers(0, 6) | st.integers(-(10**7), 10**7)] * 2), min_size=3, max_size=12))
def test_rings_cross_where_the_definition_says_so(crosses, points):
    ring = [value / 100 for point in points for value in point]
    assert crosses(ring) == crosses_by_fractions(ring)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(*[st.integers(0, 600)] * 2), min_size=3, max_size=40), max_size=12))
def test_many_rings_together_cross_themselves_as_each_does(many):
    rings = [[value / 100 for point in points for value in point] for points in many]
    assert drawing.cross_themselves(list(map(whole, rings))) == list(map(crosses_by_fractions, rings))


def circle(count, radius=1000.0):
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([radius + radius * np.cos(angles), 2 * radius + 2 * radius * np.sin(angles)], axis=1)


@pytest.mark.parametrize("count", [63, 64, 65, 66, 1000, 100_000])
def test_one_twist_among_many_sides_is_found(count):
    points = circle(count)
    assert not crosses_itself(whole(points.ravel()))
    middle = count // 3
    apart = points.copy()
    apart[middle - 1 : middle + 3] = points[middle] + np.array([[0, 0], [0.5, 0.5], [0.5, 0], [0, 0.5]])
    assert crosses_itself(whole(apart.ravel()))


@pytest.mark.parametrize("standing", [False, True])
def test_a_twist_at_the_end_of_a_long_comb_is_found(standing):
    """Along the comb a tooth has two neighbours; across it, all of them."""
    along = np.arange(40_000) * 0.05
    comb = np.stack([along, np.where(np.arange(40_000) % 4 < 2, 0.0, 100.0)], axis=1)
    comb = np.concatenate([comb, [[2010.0, 50.0], [2010.0, -50.0], [0.0, -50.0]]])
    twisted = comb.copy()
    twisted[-5:-3] = twisted[-4:-6:-1]
    for points, expected in ((comb, False), (twisted, True)):
        assert crosses_itself(whole(points[:, ::-1] if standing else points)) is expected


def test_the_worst_rings_are_looked_through_in_bounded_time_and_memory():
    """100,000 long sides side by side, whichever way one looks; the pairs would be five billion."""
    step = np.arange(50_000) * 0.02
    comb = np.stack([np.stack([step, -step], 1), np.stack([step + 900.01, 899.99 - step], 1)], axis=1).reshape(-1, 2)
    back = comb[-1] + [10.0, 0.0], [comb[0][0] + 1000, 2000.0], [-50.0, 2000.0], [-50.0, 0.0]
    ring = np.concatenate([comb, np.array([list(point) for point in back])])
    tracemalloc.start()
    began = time.monotonic()
    crosses_itself(whole(ring.ravel()))
    seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5
    assert peak < 100_000_000


@pytest.mark.parametrize("rings", [[CROSSING["bow-tie"]], [SQUARE, CROSSING["bow-tie"]]], ids=["alone", "second ring"])
def test_a_bow_tie_is_kept_as_pycocotools_draws_it_and_counted(rings):
    drawn = rasterize_one(annotated(rings), 4, 5)
    assert drawn.fixes == ("POLYGON_CROSSES_ITSELF",)
    np.testing.assert_array_equal(run_lengths.to_mask(drawn.shape), ann_to_mask(rings, 4, 5))


def test_a_twist_below_a_hundredth_of_a_pixel_is_not_counted():
    for scale, fixes in ((0.01, ("POLYGON_CROSSES_ITSELF",)), (0.001, ())):
        twist = [2 + scale, 4, 2, 4 + scale, 2, 4 - scale, 2 + 2 * scale, 4]
        assert rasterize_one(annotated([[0, 0, 5, 0, 5, 4, *twist, 0, 4]]), 6, 7).fixes == fixes


def test_rings_that_cross_one_another_are_not_counted():
    assert rasterize_one(annotated([SQUARE, [0, 2, 5, 2, 5, 2.5, 0, 2.5]]), 4, 5).fixes == ()


def test_what_crosses_and_reaches_over_is_counted_as_both():
    drawn = rasterize_one(annotated([[0, 0, 6, 4, 6, 0, 0, 4]]), 4, 5)
    assert drawn.fixes == ("POLYGON_CLIPPED", "POLYGON_CROSSES_ITSELF")


# -------------------------------------------------------------------------------------------------- bad run lengths

BAD_RUN_LENGTHS = {
    "ends inside a number": (b"000o", "RLE_MALFORMED"),
    "short sum": (run_lengths.encode_counts(np.array([5, 5])), "RLE_MALFORMED"),
    "long sum": (run_lengths.encode_counts(np.array([5, 5, 11])), "RLE_MALFORMED"),
    "one too many": (run_lengths.encode_counts(np.array([5, 16])), "RLE_MALFORMED"),
    "negative": (b"OE0", "RLE_MALFORMED"),
    "over 2^32": (run_lengths.encode_counts(np.array([0, 2**32 + 20])), "RLE_MALFORMED"),
    "right modulo 2^32": (run_lengths.encode_counts(np.array([0, 2**32, 20])), "RLE_MALFORMED"),
    "empty": (b"", "RLE_MALFORMED"),
    "NUL": (b"5\x005:", "RLE_MALFORMED"),
    "non-ASCII": ("5é:".encode(), "RLE_MALFORMED"),
    "no pixel": (run_lengths.encode_counts(np.array([20])), "EMPTY_MASK"),
    "no pixel, with runs of zero": (run_lengths.encode_counts(np.array([12, 0, 8])), "EMPTY_MASK"),
}


@pytest.mark.usefixtures("no_pycocotools")
@pytest.mark.parametrize(("counts", "code"), BAD_RUN_LENGTHS.values(), ids=BAD_RUN_LENGTHS)
def test_bad_run_lengths_are_refused_without_pycocotools(counts, code):
    assert rasterize_one(instance(RunLengths(4, 5, counts), (0.0, 0.0, 4.0, 5.0)), 4, 5).code == code


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 6), (3, 5), (2, 10), (1, 20), (0, 5), (4, 0)])
def test_run_lengths_of_another_size_are_refused_with_both_sizes(height, width):
    counts = run_lengths.encode_counts(np.array([0, height * width]))
    found = rasterize_one(instance(RunLengths(height, width, counts)), 4, 5)
    assert found.code == "RLE_SIZE_MISMATCH"
    assert f"{height} × {width}" in found.message
    assert "4 × 5" in found.message


# ------------------------------------------------------------------------------------------------------------ boxes

MASK = RunLengths(4, 5, run_lengths.encode_counts(np.array([5, 2, 2, 2, 9])))
MASK_BOX = (1.0, 1.0, 3.0, 3.0)
BOXES = {
    "inside": ((0.5, 1.0, 3.25, 4.0), (0.5, 1.0, 3.25, 4.0), ()),
    "the whole image": ((0.0, 0.0, 4.0, 5.0), (0.0, 0.0, 4.0, 5.0), ()),
    "over the upper left": ((-1.0, -2.5, 2.0, 2.0), (0.0, 0.0, 2.0, 2.0), ("BOX_CLIPPED",)),
    "over the lower right": ((1.0, 1.0, 4.5, 5.25), (1.0, 1.0, 4.0, 5.0), ("BOX_CLIPPED",)),
    "as high as wide": ((0.0, 0.0, 5.0, 4.0), (0.0, 0.0, 4.0, 4.0), ("BOX_CLIPPED",)),
    "infinite": ((0.0, 0.0, INFINITY, INFINITY), (0.0, 0.0, 4.0, 5.0), ("BOX_CLIPPED",)),
    "missing": (None, MASK_BOX, ("BOX_FROM_MASK",)),
    "no height": ((1.0, 1.0, 1.0, 4.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "no width": ((1.0, 2.0, 3.0, 2.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "upside down": ((3.0, 1.0, 1.0, 4.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "left of the image": ((1.0, -3.0, 3.0, 0.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "right of the image": ((1.0, 5.0, 3.0, 7.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "below the image": ((4.0, 1.0, 5.0, 3.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "NaN at the top": ((NAN, 1.0, 3.0, 3.0), MASK_BOX, ("BOX_FROM_MASK",)),
    "NaN at the right": ((1.0, 1.0, 3.0, NAN), MASK_BOX, ("BOX_FROM_MASK",)),
}


@pytest.mark.parametrize(("box", "expected", "fixes"), BOXES.values(), ids=BOXES)
def test_the_box_of_an_annotation_is_clipped_or_taken_from_its_mask(box, expected, fixes):
    drawn = rasterize_one(instance(MASK, box), 4, 5)
    assert drawn.box == expected
    assert drawn.fixes == fixes


@pytest.mark.parametrize(("box", "expected", "fixes"), BOXES.values(), ids=BOXES)
def test_without_a_mask_a_box_without_area_is_invalid(box, expected, fixes):
    for boxes in ("annotation", "mask"):
        drawn = rasterize_one(instance(None, box), 4, 5, boxes)
        if "BOX_FROM_MASK" in fixes:
            assert drawn.code == "BOX_INVALID"
        else:
            assert (drawn.box, drawn.fixes, drawn.shape) == (expected, fixes, None)


@pytest.mark.parametrize("box", [None, (0.0, 0.0, 4.0, 5.0), (-3.0, 0.0, 9.0, 5.0)])
def test_boxes_from_masks_are_tight_and_no_fix(box):
    drawn = rasterize_one(instance(MASK, box), 4, 5, "mask")
    assert (drawn.box, drawn.fixes) == (MASK_BOX, ())


def test_the_box_from_a_polygons_mask_is_that_of_its_pixels():
    drawn = rasterize_one(instance(polygons([-2, 1, 3.4, 1, 3.4, 9, -2, 9])), 4, 5)
    rows, columns = np.nonzero(run_lengths.to_mask(drawn.shape))
    assert drawn.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (1, 0, 4, 3)
    assert drawn.fixes == ("POLYGON_CLIPPED", "BOX_FROM_MASK")


def test_nothing_else_of_an_instance_changes():
    before = instance(polygons([-1, 1, 4, 1, 4, 3]), (0.0, 0.0, 9.0, 9.0), area=3.5, is_crowd=True, fixes=("EARLIER",))
    after = rasterize_one(before, 4, 5)
    assert (after.annotation_id, after.category_id, after.area, after.is_crowd) == (7, 1, 3.5, True)
    assert after.fixes == ("EARLIER", "POLYGON_CLIPPED", "BOX_CLIPPED")
    assert before.fixes == ("EARLIER",)
    assert isinstance(before.shape, Polygons)


# ----------------------------------------------------------------------------------------------------------- images


def image_with(*instances):
    return AnnotatedImage(3, "a.jpg", 4, 5, instances)


def test_an_image_keeps_what_can_be_drawn_in_order_and_rejects_the_rest():
    image = image_with(
        instance(MASK, annotation_id=1),
        instance(polygons([1, 1]), annotation_id=2),
        instance(polygons(SQUARE), annotation_id=3),
        instance(None, annotation_id=4),
        instance(None, (1.0, 1.0, 2.0, 2.0), annotation_id=5),
    )
    drawn, rejects = rasterize_image(image)
    assert [one.annotation_id for one in drawn.instances] == [1, 3, 5]
    assert (drawn.image_id, drawn.file_name, drawn.height, drawn.width) == (3, "a.jpg", 4, 5)
    assert [(one.kind, one.image_id, one.annotation_id, one.reason) for one in rejects] == [
        ("annotation", 3, 2, "POLY_MALFORMED"),
        ("annotation", 3, 4, "BOX_INVALID"),
    ]


def test_an_image_without_instances_is_kept_unless_told_otherwise():
    only_bad = image_with(instance(polygons([1, 1])))
    assert rasterize_image(image_with()) == (image_with(), [])
    assert rasterize_image(only_bad)[0] == image_with()
    for image, reasons in ((image_with(), []), (only_bad, ["POLY_MALFORMED"])):
        drawn, rejects = rasterize_image(image, drops=Drops(empty_images=True))
        assert drawn is None
        assert [one.reason for one in rejects] == [*reasons, "DROPPED_EMPTY_IMAGE"]
        assert rejects[-1].kind == "image"


def test_crowds_and_instances_without_a_mask_are_dropped_where_told():
    image = image_with(
        instance(MASK, annotation_id=1),
        instance(MASK, annotation_id=2, is_crowd=True),
        instance(None, MASK_BOX, annotation_id=3),
    )

    def outcome(drops):
        drawn, rejects = rasterize_image(image, drops=drops)
        return [one.annotation_id for one in drawn.instances], [(one.annotation_id, one.reason) for one in rejects]

    assert outcome(Drops()) == ([1, 2, 3], [])
    assert outcome(Drops(crowds=True)) == ([1, 3], [(2, "DROPPED_CROWD")])
    assert outcome(Drops(without_mask=True)) == ([1, 2], [(3, "DROPPED_WITHOUT_MASK")])


def test_an_image_over_the_limit_of_instances_is_rejected_with_all_of_them():
    image = image_with(*(instance(MASK, annotation_id=number) for number in range(4)))
    drawn, rejects = rasterize_image(image, limits=Limits(instances=4))
    assert (len(drawn.instances), rejects) == (4, [])
    drawn, rejects = rasterize_image(image, limits=Limits(instances=3))
    assert drawn is None
    assert [(one.kind, one.annotation_id, one.reason) for one in rejects] == [
        ("image", None, "INSTANCE_LIMIT"),
        *(("annotation", number, "INSTANCE_LIMIT") for number in range(4)),
    ]
    assert "has 4 annotations, at most 3 are read (--max_instances)" in rejects[0].message


def test_the_limit_of_points_is_exact_and_counts_all_rings():
    image = image_with(instance(polygons(SQUARE, SQUARE)))
    assert rasterize_image(image, limits=Limits(points=8))[1] == []
    (reject,) = rasterize_image(image, limits=Limits(points=7))[1]
    assert reject.reason == "POINT_LIMIT"
    assert "8 points, at most 7 are read (--max_points)" in reject.message


def test_the_transform_gives_images_and_rejects_apart():
    good, bad = instance(MASK, MASK_BOX, annotation_id=1), instance(polygons([1, 1]), annotation_id=2)
    with beam.Pipeline() as pipeline:
        out = pipeline | beam.Create([image_with(good, bad)]) | rasterize.Rasterize(boxes="mask")
        assert_that(out.images, equal_to([image_with(good)]), "images")
        message = "a polygon ring has 2 numbers, expected an even count of at least 6"
        assert_that(out.rejects, equal_to([Reject("annotation", 3, 2, "POLY_MALFORMED", message, "a.jpg")]), "rejects")


def test_small_objects_are_dropped_once_they_are_drawn() -> None:
    box_only = Instance(2, 1, (0.0, 0.0, 5.0, 5.0), None, False, None)
    drawn = Instance(1, 1, (0.0, 0.0, 40.0, 50.0), 2000.0, False, Polygons.pack([[10, 5, 14, 5, 14, 10, 10, 10]]))
    image = AnnotatedImage(3, "a.jpg", 40, 50, (drawn, box_only))
    for below, expected in ((20, []), (20.5, [1]), (25, [1]), (26, [1, 2])):
        kept, rejects = rasterize_image(image, drops=Drops(below_area=below))
        assert kept is not None
        assert [reject.annotation_id for reject in rejects] == expected
        assert {reject.reason for reject in rejects} <= {"DROPPED_SMALL"}
        assert len(kept.instances) + len(rejects) == 2


def test_the_box_of_what_was_drawn_is_tight():
    random = np.random.default_rng(4)
    drawn = 0
    for _ in range(3000):
        height, width = (int(side) for side in random.integers(1, 60, 2))
        ring = (random.uniform(-0.3, 1.3, (random.integers(3, 8), 2)) * (width, height)).round(2).ravel().tolist()
        found = rasterize_one(Instance(1, 1, None, None, False, Polygons.pack([ring])), height, width)
        if isinstance(found, Instance):
            rows, columns = np.nonzero(run_lengths.to_mask(found.shape))
            assert found.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            drawn += 1
    assert drawn > 2000
