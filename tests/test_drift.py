"""How much splits differ in their classes, against numpy's own sums and draws."""

from __future__ import annotations

import numpy as np
import pytest

from beam_pipeline.drift import drift


def divergence(first: list[int], second: list[int]) -> float:
    """The Jensen–Shannon divergence in bits, by entropies."""
    p, q = (np.array(one, np.float64) / sum(one) for one in (first, second))

    def entropy(shares: np.ndarray) -> float:
        shares = shares[shares > 0]
        return float(-(shares * np.log2(shares)).sum())

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


@pytest.mark.parametrize(("first", "second"), [([3, 5, 0, 2], [1, 1, 7, 1]), ([1, 99], [99, 1]), ([4, 6], [2, 3]), ([1], [8])])
def test_it_is_what_entropies_say(first: list[int], second: list[int]) -> None:
    found = drift(dict(enumerate(first)), dict(enumerate(second)))
    assert found is not None
    assert found.divergence == pytest.approx(divergence(first, second), abs=1e-12)


def test_nothing_in_common_is_1_and_the_same_shares_are_0() -> None:
    apart, alike = drift({1: 5, 2: 0}, {2: 8}), drift({1: 5, 2: 10}, {1: 50, 2: 100, 3: 0})
    assert apart is not None
    assert alike is not None
    assert (apart.divergence, alike.divergence) == (1.0, 0.0)


def test_the_class_that_differs_most() -> None:
    found = drift({1: 50, 2: 30, 7: 20}, {1: 50, 2: 10, 7: 40})
    assert found is not None
    assert (found.label, found.first, found.second) == (2, 0.3, 0.1), "of equals, the lowest label"


def test_an_empty_split_has_no_drift() -> None:
    assert drift({}, {1: 3}) is None
    assert drift({1: 3}, {1: 0}) is None


@pytest.mark.parametrize(("classes", "sizes"), [(5, (4000, 500)), (80, (9000, 1500))])
def test_chance_is_what_draws_from_the_same_classes_differ_by(classes: int, sizes: tuple[int, int]) -> None:
    randomness = np.random.default_rng(5)
    shares = randomness.dirichlet(np.full(classes, 3.0))
    drawn = []
    for _ in range(200):
        first, second = (dict(enumerate(randomness.multinomial(size, shares).tolist())) for size in sizes)
        found = drift(first, second)
        assert found is not None
        assert not found.notable
        drawn.append((found.divergence, found.by_chance))
    measured, said = np.mean(drawn, axis=0)
    assert said == pytest.approx(measured, rel=0.1)


def test_what_differs_by_more_than_chance_is_notable() -> None:
    found = drift({1: 500, 2: 500}, {1: 400, 2: 100})
    assert found is not None
    assert found.notable
    few = drift({1: 5, 2: 5}, {1: 4, 2: 1})
    assert few is not None
    assert few.divergence == pytest.approx(found.divergence)
    assert not few.notable
