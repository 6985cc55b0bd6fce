"""Masks for tests: drawn by hand, or of every kind by hypothesis; always H ≠ W."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st


def draw(picture):
    """A mask from rows of '#' and '.'."""
    return np.array([[character == "#" for character in row] for row in picture.split()], np.uint8)


@st.composite
def oblong_sizes(draw_from, most=40):
    height, width = draw_from(st.integers(1, most)), draw_from(st.integers(1, most))
    assume(height != width)
    return height, width


@st.composite
def masks_of_size(draw_from, height, width):
    """Masks of many kinds: empty, full, single pixels, bars along edges, blocks, stripes and noise."""
    mask = np.zeros((height, width), np.uint8)
    kind = draw_from(st.sampled_from(("empty", "full", "pixel", "frame", "block", "columns", "rows", "noise")))
    y, x = draw_from(st.integers(0, height - 1)), draw_from(st.integers(0, width - 1))
    if kind == "full":
        mask[:] = 1
    elif kind == "pixel":
        mask[y, x] = 1
    elif kind == "frame":
        mask[[0, -1]] = 1
        mask[:, [0, -1]] = 1
    elif kind == "block":
        mask[y : y + draw_from(st.integers(1, height)), x : x + draw_from(st.integers(1, width))] = 1
    elif kind == "columns":
        mask[:, x::2] = 1
    elif kind == "rows":
        mask[y::3] = 1
    elif kind == "noise":
        random = np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
        mask[:] = random.random((height, width)) < draw_from(st.floats(0.02, 0.98))
    return mask
