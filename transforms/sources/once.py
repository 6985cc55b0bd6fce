"""What a worker finds out once and not for each image, such as what a folder has; a new job in the same process finds it anew."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])
_KEPT = 64
_forgetting: list[Callable[[], None]] = []


def once(function: Function) -> Function:
    """The function, whose answers are kept until `forget`."""
    kept = lru_cache(maxsize=_KEPT)(function)
    _forgetting.append(kept.cache_clear)
    return kept  # type: ignore[return-value]  # it is called in the same way


def forget() -> None:
    """Nothing is known any more."""
    for clear in _forgetting:
        clear()
