"""
How much is tried: a sample in every run of the suite, everything there is in `make proof` (`THOROUGH=1`).

A sample is spread evenly and is the same in every run, so that a failure can be run again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["THOROUGH", "either", "sampled"]

T = TypeVar("T")

THOROUGH: Final = os.environ.get("THOROUGH", "") not in ("", "0")


def either(usually: T, thorough: T) -> T:
    """Return the first, or the second in a thorough run: for numbers of examples, of orders, of bytes."""
    return thorough if THOROUGH else usually


def sampled(items: Sequence[T], usually: int) -> Sequence[T]:
    """Return so many of the items, always with the first and the last; all of them in a thorough run.

    Args:
        items: in the order in which they are to be tried.
        usually: at least 2.
    """
    if THOROUGH or len(items) <= usually:
        return items
    step = (len(items) - 1) / (usually - 1)
    return [items[round(number * step)] for number in range(usually)]
