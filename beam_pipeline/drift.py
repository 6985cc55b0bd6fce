"""How much the splits of a data set differ in their classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


class Drift(NamedTuple):
    """How two splits differ.

    `divergence` is the Jensen–Shannon divergence of their classes in bits: 0 where shares are the same, 1 where no class is in
    both, splits of equal weight. `by_chance` is what two random draws of this size from the same classes differ by on average.
    `label` is the class whose share differs most, `first` and `second` are its shares.
    """

    divergence: float
    by_chance: float
    label: int
    first: float
    second: float

    @property
    def notable(self) -> bool:
        """Whether the splits differ by more than a little, and by clearly more than chance."""
        return self.divergence >= 0.02 and self.divergence >= 3 * self.by_chance


def drift(first: Mapping[int, int], second: Mapping[int, int]) -> Drift | None:
    """How two splits differ, from instances by label; None where one has no instance.

    Source: Lin, Divergence measures based on the Shannon entropy (1991). By chance: near 0 the divergence is an eighth of the
    sum of (p - q)² / m, in nats, and (p - q)² is m (1 - m) (1 / n1 + 1 / n2) on average.
    """
    sizes = sum(first.values()), sum(second.values())
    if not all(sizes):
        return None
    labels = sorted(label for label in first.keys() | second.keys() if first.get(label) or second.get(label))
    shares = {label: (first.get(label, 0) / sizes[0], second.get(label, 0) / sizes[1]) for label in labels}

    def gain(share: float, mean: float) -> float:
        return share * math.log2(share / mean) if share else 0.0

    terms = (gain(share, (p + q) / 2) / 2 for p, q in shares.values() for share in (p, q))
    by_chance = (len(labels) - 1) / (8 * math.log(2)) * (1 / sizes[0] + 1 / sizes[1])
    apart = {label: abs(first.get(label, 0) * sizes[1] - second.get(label, 0) * sizes[0]) for label in labels}  # exact
    most = max(labels, key=lambda label: (apart[label], -label))
    return Drift(max(0.0, math.fsum(terms)), by_chance, most, *shares[most])
