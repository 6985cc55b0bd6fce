"""Numbers and lists in words, for people."""

from __future__ import annotations

from collections.abc import Iterable

UNIT = "\u00a0"
"""Between a number and its unit, which stay on one line."""
NAMED = 5
"""Of a list, before the rest is only counted."""


def percent(share: float) -> str:
    """A share, 0 to 1: never 0 % of something, nor 100 % of less than all."""
    if 0 < share < 0.001:
        return f"under 0.1{UNIT}%"
    if 0.99 < share < 1:
        return f"over 99{UNIT}%"
    return f"{100 * share:.1f}{UNIT}%" if 0 < share < 0.0995 else f"{100 * share:.0f}{UNIT}%"


def size(count: float) -> str:
    """Bytes."""
    for unit_size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit_size:
            return f"{count / unit_size:,.0f}{UNIT}{unit}" if count >= 10 * unit_size else f"{count / unit_size:.1f}{UNIT}{unit}"
    return some(int(count), "byte")


def bits(value: float) -> str:
    """A divergence: to a thousandth, and never 0 where it is not."""
    return "under 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def some(count: int, one: str, many: str = "") -> str:
    """A count with its noun; `many` where more than one does not just add an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:NAMED])
    return shown + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
