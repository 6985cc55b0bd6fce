"""Numbers in words."""

from __future__ import annotations

import pytest

from beam_pipeline.words import UNIT, bits, listed, percent, size, some


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (0.0004, "under 0.1 %"),
        (0.001, "0.1 %"),
        (0.031, "3.1 %"),
        (0.0996, "10 %"),
        (0.5, "50 %"),
        (0.999, "over 99 %"),
        (1, "100 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_all(share: float, said: str) -> None:
    assert percent(share) == said.replace(" %", f"{UNIT}%")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (41.3e9, "41 GB"), (2.5e12, "2.5 TB")],
)
def test_bytes_have_a_unit_that_fits(count: float, said: str) -> None:
    assert size(count).replace(UNIT, " ") == said


def test_counts_and_lists() -> None:
    assert [some(one, "class", "classes") for one in (0, 1, 1203)] == ["0 classes", "1 class", "1,203 classes"]
    assert listed("abcde") == "a, b, c, d, e"
    assert listed("abcdefg") == "a, b, c, d, e and 2 more"


def test_a_divergence_is_0_only_where_it_is() -> None:
    assert [bits(one) for one in (0.0, 0.0004, 0.0005, 0.3051, 1.0)] == ["0.000", "under 0.001", "0.001", "0.305", "1.000"]
