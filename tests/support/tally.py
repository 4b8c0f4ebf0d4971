"""
What the suite has tried, counted as it was tried: the figures of `tests/README.md`.

`conftest.py` prints them when the suite ends. Only what was judged is counted, after it was judged.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["count", "counted", "rows"]

counted: Final[dict[str, Counter[str]]] = {}
"""By what was done, how often each thing came of it."""


def count(disaster: str, outcome: str, times: int = 1) -> None:
    """Count what came of something.

    Args:
        disaster: what was done, such as ``cut at every byte, ripio, reply``.
        outcome: what came of it, such as the outcome's name: ``Canceled``.
        times: how often.
    """
    counted.setdefault(disaster, Counter())[outcome] += times


def rows() -> Iterator[str]:
    """Yield a line for each disaster: how often, and what came of it."""
    width = max(map(len, counted), default=0)
    for disaster, outcomes in sorted(counted.items()):
        kinds = ", ".join(f"{name} {number:,}" for name, number in sorted(outcomes.items()))
        yield f"{disaster:<{width}}  {outcomes.total():>9,}  {kinds}"
