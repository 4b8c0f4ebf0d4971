"""Which request a reply belongs to, on a connection that carries many: a table, without I/O and without a clock.

A request is entered before it is sent and leaves the table exactly once: its reply came, its waiter went, or the
connection did. What left early leaves a tombstone, so that a reply which comes all the same is told from a stranger's.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Final, Generic, TypeVar

__all__ = ["Match", "Pending"]

W = TypeVar("W")

TOMBSTONES: Final = 10_000
"""Requests that are remembered after they left the table."""


class Match(enum.Enum):
    """What a reply's key matches."""

    AWAITED = "awaited"
    """A pending request."""
    LATE = "late"
    """A request whose waiter is gone: what the reply says is true nevertheless."""
    DUPLICATE = "duplicate"
    """A request that was answered before."""
    UNKNOWN = "unknown"
    """No request that is remembered."""


class Pending(Generic[W]):
    """The pending requests of one connection, and the latest that are pending no more.

    Invariant: a key is pending, buried with its waiter, buried as answered, or unknown; there are at most
    ``tombstones`` of the buried.

    Args:
        tombstones: how many keys are remembered after they left the table.
    """

    __slots__ = ("_buried", "_pending", "_tombstones")

    def __init__(self, tombstones: int = TOMBSTONES) -> None:
        self._pending: dict[str, W] = {}
        self._buried: OrderedDict[str, W | None] = OrderedDict()
        self._tombstones = tombstones

    def __len__(self) -> int:
        """How many requests are pending."""
        return len(self._pending)

    def __contains__(self, key: str) -> bool:
        """Whether a request is pending."""
        return key in self._pending

    @property
    def oldest(self) -> tuple[str, W] | None:
        """Key and waiter of the pending request that was entered first, or None."""
        return next(iter(self._pending.items()), None)

    def enter(self, key: str, waiter: W) -> None:
        """A request is about to be sent. Keys are never used twice."""
        assert key not in self._pending, "a key is entered once"
        self._pending[key] = waiter

    def withdraw(self, key: str) -> None:
        """A request that was entered is not sent after all: no reply can come."""
        del self._pending[key]

    def match(self, key: str) -> tuple[Match, W | None]:
        """A reply came. It settles its request, if that is pending.

        Returns:
            What the key matches, and the waiter of a pending request, or of a late reply.
        """
        waiter = self._pending.pop(key, None)
        if waiter is not None:
            self._bury(key, None)
            return Match.AWAITED, waiter
        if key not in self._buried:
            return Match.UNKNOWN, None
        waiter = self._buried[key]
        self._buried[key] = None
        return (Match.DUPLICATE, None) if waiter is None else (Match.LATE, waiter)

    def abandon(self, key: str) -> W | None:
        """A pending request's waiter goes.

        Returns:
            The waiter, or None if the request is not pending (any more).
        """
        waiter = self._pending.pop(key, None)
        if waiter is not None:
            self._bury(key, waiter)
        return waiter

    def abandon_all(self) -> list[W]:
        """The connection is gone: nothing is pending any more.

        Returns:
            The waiters, in the order in which they were entered.
        """
        return [waiter for key in list(self._pending) if (waiter := self.abandon(key)) is not None]

    def _bury(self, key: str, waiter: W | None) -> None:
        self._buried[key] = waiter
        if len(self._buried) > self._tombstones:
            self._buried.popitem(last=False)
