"""The vendor's clock, estimated from what its replies say. Arithmetic: it never waits and asks nobody.

A signature is refused 5 seconds after its timestamp, and one from the future may be refused too, so timestamps must be
the vendor's time, whatever the local clock says. Kept is the vendor's time minus the monotonic clock: a local wall
clock that is set while the program runs changes nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from . import config

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VendorClock", "shared_clock"]

_DRIFT: Final = 200e-6
"""Seconds per second by which two clocks may run apart: twice what a poor quartz does."""
_CACHED: Final = config.SERVER_TIME_CACHE
"""Seconds for which the vendor caches its public endpoints, the server's time among them."""
_TICK: Final = 0.001
"""Stamps are whole milliseconds, cut off."""
_STILL_MS: Final = 250
"""A correction backwards of up to this stops the timestamps for that long; a larger one sets them back."""
_REMEMBERED_MS: Final = int(config.LONGEST_TOLERANCE * 1000)
"""For how long it is remembered what was signed: the vendor's longest tolerance."""
_FIRST_MS: Final = 1_262_304_000_000
"""The beginning of the year 2010: no vendor was there before, and seconds sent for milliseconds are."""
_LAST_MS: Final = 4_102_444_800_000
"""The end of the year 2099."""


class _Interval(NamedTuple):
    """Where the vendor's time minus the monotonic clock lies, as of a monotonic time."""

    low: float
    high: float
    at: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def aged(self, now: float) -> _Interval:
        slack = _DRIFT * max(0.0, now - self.at)
        return _Interval(self.low - slack, self.high + slack, max(now, self.at))


class VendorClock:
    """Tells the vendor's time, and never the same time twice for the same text.

    It starts with the local wall clock, read once.

    Args:
        wall: seconds since 1970, as `time.time` gives them.
        monotonic: seconds that never jump, as `time.monotonic` gives them.
    """

    __slots__ = (
        "__weakref__",
        "_anchor",
        "_estimate",
        "_known",
        "_monotonic",
        "_next",
        "_now_ms",
        "_sweep_ms",
    )

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic: Final = monotonic
        self._anchor: Final = wall() - monotonic()
        self._estimate = self._anchor
        self._known: _Interval | None = None
        self._now_ms = 0
        self._next: dict[tuple[int, bytes], int] = {}
        """For a time at which a text was signed: a later one, before which none is free for that text."""
        self._sweep_ms = 0

    @property
    def offset(self) -> float:
        """Seconds by which the vendor is ahead of the local wall clock as it was at construction."""
        return self._estimate - self._anchor

    @property
    def uncertainty(self) -> float | None:
        """Half the width, in seconds, of the interval in which the offset lies now; None while nothing was learned."""
        if self._known is None:
            return None
        known = self._known.aged(self._monotonic())
        return (known.high - known.low) / 2

    def timestamp(self, text: bytes) -> int:
        """Return the vendor's time in milliseconds, for signing ``text``.

        No two calls with the same text get the same number, so no two signatures are equal: a second one within a
        millisecond gets the next free one. Different texts may share a millisecond, so that a burst of orders does
        not run ahead of the clock. The numbers for one text rise, unless the estimate was corrected backwards by more
        than a quarter of a second: a clock found to be ahead must sign with the right time at once, as the vendor may
        refuse a time to come. Even then none is repeated, up to a correction of a minute.
        """
        now = int((self._monotonic() + self._estimate) * 1000)
        if not now < self._now_ms <= now + _STILL_MS:
            self._now_ms = now
        if not self._sweep_ms - _REMEMBERED_MS <= self._now_ms < self._sweep_ms:
            self._sweep(self._now_ms)
        if (self._now_ms, text) not in self._next:  # by far the most
            self._next[self._now_ms, text] = self._now_ms + 1
            return self._now_ms
        taken = [self._now_ms]
        while free := self._next.get((taken[-1], text)):
            taken.append(free)
        # All that were passed on the way now lead to the end at once: many equal texts cost no more than few.
        for stamp in taken:
            self._next[stamp, text] = taken[-1] + 1
        return taken[-1]

    def _sweep(self, now: int) -> None:
        """Forget what was signed a minute ago; once a minute, so that it costs next to nothing per call."""
        self._sweep_ms = now + _REMEMBERED_MS
        forget = now - _REMEMBERED_MS
        self._next = {key: free for key, free in self._next.items() if key[0] >= forget}

    def heard(self, stamp_ms: int, sent: float, received: float) -> None:
        """Learn from a reply to a signed request, which is never cached and carries the vendor's time.

        The stamp was made between sending and receiving, so the truth lies in an interval as wide as the round trip;
        its middle is the estimate. An interval known from before is cut with it, widened by the drift since; where
        they exclude each other somebody's clock was set, or this machine slept, and the new one stands alone.

        Args:
            stamp_ms: the vendor's time in milliseconds; an absurd one is ignored.
            sent: monotonic seconds before the request left.
            received: monotonic seconds after the reply came.
        """
        new = _reading(stamp_ms, sent, received)
        if new is None:
            return
        if self._known is not None:
            known = self._known.aged(received)
            new = new.aged(known.at)
            low, high = max(known.low, new.low), min(known.high, new.high)
            if low <= high:
                new = _Interval(low, high, new.at)
        self._known = new
        self._estimate = new.middle

    def told(self, stamp_ms: int, sent: float, received: float, *, rejected: bool) -> None:
        """Learn from the public server-time endpoint, whose answer may have been cached for up to 30 seconds.

        It bounds the vendor's time, and says no more. An estimate within the bounds stays as it is, one outside is
        moved to the nearer bound. After a rejection the estimate is wrong, whatever it is: then the answer is taken
        at its word, as if it were fresh.

        Args:
            stamp_ms: the vendor's time in milliseconds; an absurd one is ignored.
            sent: monotonic seconds before the request left.
            received: monotonic seconds after the reply came.
            rejected: the vendor refused a timestamp that was made by the present estimate.
        """
        fresh = _reading(stamp_ms, sent, received)
        if fresh is None:
            return
        bounds = fresh._replace(high=fresh.high + _CACHED)
        within = min(max(self._estimate, bounds.low), bounds.high)
        if rejected or within != self._estimate:
            self._known = bounds
            self._estimate = fresh.middle if rejected else within


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, VendorClock]] = (
    WeakKeyDictionary()
)


def shared_clock(account: str) -> VendorClock:
    """The clock of an account on the running event loop, kept as long as a gateway uses it: two gateways of one account
    must not sign the same text at the same time.

    Args:
        account: names the account and the host; never a secret.
    """
    loop = asyncio.get_running_loop()
    clocks = _shared.setdefault(loop, WeakValueDictionary())
    clock = clocks.get(account)
    if clock is None:
        clock = clocks[account] = VendorClock(monotonic=loop.time)
    return clock


def _reading(stamp_ms: float, sent: float, received: float) -> _Interval | None:
    """Bound the offset by a stamp that was made between two monotonic times; None if it is absurd."""
    if not (_FIRST_MS <= stamp_ms <= _LAST_MS and -math.inf < sent <= received < math.inf):
        return None
    stamp = stamp_ms / 1000
    # It holds as of an unknown moment since `sent`, so it ages from there.
    return _Interval(stamp - received, stamp + _TICK - sent, sent)
