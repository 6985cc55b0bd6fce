"""Masks in the three encodings of a record, read as the trainers read them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from drawings import draw
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as cocomask

from transforms import encode, run_lengths
from transforms.polygons import Drawn, draw_polygons
from transforms.records import Instance, Polygons

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def runs_of(mask):
    return run_lengths.runs_of(run_lengths.from_mask(mask))


@st.composite
def oblong_sizes(draw_from, most):
    height, width = draw_from(st.integers(1, most)), draw_from(st.integers(1, most))
    assume(height != width)
    return height, width


PICTURES = {
    "empty": "..... ..... ..... .....",
    "full": "##### ##### ##### #####",
    "upper left pixel": "#.... ..... ..... .....",
    "upper right pixel": "....# ..... ..... .....",
    "lower left pixel": "..... ..... ..... #....",
    "lower right pixel": "..... ..... ..... ....#",
    "one row": "..... ##### ..... .....",
    "one column": "..#.. ..#.. ..#.. ..#..",
    "all edges": "##### #...# #...# #####",
    "over a row's end": "..... ...## ##... .....",
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_dense_mask_is_row_by_row(picture):
    dense = encode.dense_masks([runs_of(draw(picture))], 4, 5)
    assert dense.dtype == np.float32
    assert dense.tolist() == [float(character == "#") for character in picture if character in "#."]


@pytest.mark.parametrize("encoding", ["png", "png1"])
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_png_mask_has_the_images_size_and_values_zero_and_one(picture, encoding):
    (data,) = encode.png_masks([runs_of(draw(picture))], 4, 5, encoding)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("PNG", "L" if encoding == "png" else "P", (5, 4))
    np.testing.assert_array_equal(np.asarray(image), draw(picture))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.repeat(draw(picture)[:, :, None], 3, axis=2))


def test_dense_masks_follow_one_another_as_count_height_width():
    masks = [draw(picture) for picture in PICTURES.values()]
    dense = encode.dense_masks([runs_of(mask) for mask in masks], 4, 5)
    np.testing.assert_array_equal(dense.reshape(len(masks), 4, 5), np.stack(masks))
    assert not np.array_equal(dense.reshape(len(masks), 5, 4).swapaxes(1, 2), np.stack(masks))


@settings(max_examples=150, deadline=None)
@given(oblong_sizes(30), st.integers(1, 4), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_noise_is_read_back_from_all_encodings(size, count, share, seed):
    height, width = size
    masks = (np.random.default_rng(seed).random((count, height, width)) < share).astype(np.uint8)
    runs = [runs_of(mask) for mask in masks]
    np.testing.assert_array_equal(encode.dense_masks(runs, height, width).reshape(count, height, width), masks)
    for encoding in ("png", "png1"):
        files = encode.png_masks(runs, height, width, encoding)
        np.testing.assert_array_equal([np.asarray(Image.open(io.BytesIO(data))) for data in files], masks)


@settings(max_examples=100, deadline=None)
@given(oblong_sizes(40), st.lists(st.tuples(*[st.floats(-5, 45)] * 2), min_size=3, max_size=7))
def test_polygons_are_dense_as_pycocotools_draws_them(size, points):
    (height, width), ring = size, [value for point in points for value in point]
    expected = cocomask.decode(cocomask.merge(cocomask.frPyObjects([ring], height, width)))
    [drawn] = draw_polygons([(Polygons.pack([ring]), height, width)])
    assume(isinstance(drawn, Drawn))
    dense = encode.dense_masks([run_lengths.runs_of(drawn.mask)], height, width)
    np.testing.assert_array_equal(dense.reshape(height, width), expected)


@pytest.mark.parametrize("encoding", ["png", "png1", "dense"])
def test_masks_of_images_of_several_sizes_are_what_each_image_alone_has(encoding):
    random = np.random.default_rng(5)

    def image(count, height, width):
        shapes = [run_lengths.from_mask(random.random((height, width)) < 0.3) if one % 3 else None for one in range(count)]
        return [Instance(one, 1, None, None, False, shape) for one, shape in enumerate(shapes)], height, width

    images = [image(3, 4, 5), image(2, 5, 4), image(0, 4, 5), image(5, 4, 5), image(1, 9, 2)]
    together = encode.encode_masks(images, encoding)
    assert len(together) == 5
    for (instances, height, width), found in zip(images, together, strict=True):
        ((alone_runs, alone_pngs),) = encode.encode_masks([(instances, height, width)], encoding)
        assert [runs.tolist() for runs in found.runs] == [runs.tolist() for runs in alone_runs]
        assert found.pngs == alone_pngs
        empty = np.zeros((height, width), np.uint8)
        masks = [run_lengths.to_mask(one.shape) if one.shape else empty for one in instances]
        if encoding == "dense":
            assert found.pngs is None
            masks_found = encode.dense_masks(found.runs, height, width).reshape(-1, height, width)
        else:
            masks_found = [np.asarray(Image.open(io.BytesIO(data))) for data in found.pngs]
        assert [mask.tolist() for mask in masks_found] == [mask.tolist() for mask in masks]


def test_the_size_of_dense_masks_is_known_beforehand():
    for count, height, width in ((0, 4, 5), (1, 4, 5), (3, 7, 2)):
        masks = encode.dense_masks([runs_of(np.ones((height, width), np.uint8))] * count, height, width)
        assert masks.nbytes == encode.dense_bytes(count, height, width) == 4 * count * height * width


def test_no_masks_are_an_empty_vector_or_an_empty_list():
    dense = encode.dense_masks([], 4, 5)
    assert (dense.dtype, dense.shape) == (np.float32, (0,))
    assert encode.png_masks([], 4, 5, "png") == encode.png_masks([], 4, 5, "png1") == []
