"""The shared retry policy: how often, how long to wait, and what may be repeated at all.

Everything here is a decision: no clock, no waiting, no I/O. The random part of a delay is passed in.
"""

from __future__ import annotations

import enum
import math
from datetime import UTC, datetime

import msgspec

from tronsave_async.arguments import whole_number, within

__all__ = ["Reach", "Repeatable", "RetryPolicy", "RetryQuota", "may_repeat", "parse_retry_after"]


class Reach(enum.Enum):
    """What was proved about a request that brought no result."""

    NEVER_LEFT = "never_left"
    """No byte left: the vendor cannot know of it."""
    REFUSED_UNPROCESSED = "refused_unprocessed"
    """The vendor answered that it did not process it (429)."""
    MAY_HAVE_ARRIVED = "may_have_arrived"
    """It left, or may have left, and nothing says what became of it (lost reply, 5xx, unreadable reply)."""
    ANSWERED = "answered"
    """The vendor answered: there is nothing to repeat."""


class Repeatable(enum.Enum):
    """What a call's second execution would do."""

    ALWAYS = "always"
    """Nothing more than the first: reads and cancels."""
    UNLESS_SENT = "unless_sent"
    """It could spend again: a create is never repeated once bytes may have left."""


def may_repeat(reach: Reach, call: Repeatable) -> bool:
    """Whether a request that ended like ``reach`` may be sent again."""
    if reach is Reach.ANSWERED:
        return False
    return reach is Reach.NEVER_LEFT or call is Repeatable.ALWAYS


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a request is tried, and how long is waited in between: exponential back-off with full jitter.

    Attributes:
        attempts: tries in all, at least 1; 1 means never repeat.
        base: seconds, the upper bound of the first delay.
        cap: seconds, the upper bound of every delay.
        max_retry_after: seconds, the longest ``Retry-After`` that is honored; a longer one is cut to this.
        quota: how many repeats a gateway may save up (see `RetryQuota`); 0 means never repeat.
        quota_refill: repeats regained per second.

    Raises:
        UsageError: a value is out of its range.
    """

    attempts: int = 4
    base: float = 0.25
    cap: float = 8.0
    max_retry_after: float = 60.0
    quota: float = 20.0
    quota_refill: float = 0.2

    def __post_init__(self) -> None:
        whole_number("RetryPolicy.attempts", self.attempts, least=1)
        for name in ("base", "cap", "max_retry_after", "quota", "quota_refill"):
            within(f"RetryPolicy.{name}", getattr(self, name), inclusive=True)

    def delay(self, failures: int, *, spread: float) -> float:
        """Seconds to wait before the next try.

        Args:
            failures: tries that failed so far, at least 1.
            spread: a random number within 0..1, drawn once for each failed request, so that all who shared it come
                back together.
        """
        return spread * min(self.cap, self.base * 2.0 ** min(failures - 1, 64))

    def penalty(self, rejections: int, *, retry_after: float | None, minimum: float) -> float:
        """Seconds for which the vendor is left alone after "too many requests".

        Args:
            rejections: how many came in a row, at least 1. Without a ``Retry-After`` the penalty doubles with each.
            retry_after: what the vendor asked for, in seconds, or None.
            minimum: the least that the vendor's documented limit makes sense of, in seconds.
        """
        if retry_after is not None:
            return max(minimum, min(retry_after, self.max_retry_after))
        return max(minimum, min(self.cap, minimum * 2.0 ** min(rejections - 1, 64)))


class RetryQuota:
    """A token bucket for repeats, so that an outage does not multiply traffic.

    Each repeat takes one token, each answered request returns one, and time refills the bucket slowly. When it is
    empty, calls end with what they know instead of asking again.
    """

    __slots__ = ("_at", "_policy", "_tokens")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._tokens = policy.quota
        self._at = math.inf  # no time passes before the first repeat

    @property
    def tokens(self) -> float:
        """Repeats left at the last admission."""
        return self._tokens

    def admit(self, now: float) -> bool:
        """Take the token for one repeat at monotonic time ``now``; False if there is none."""
        passed = max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._policy.quota, self._tokens + passed * self._policy.quota_refill)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def answered(self) -> None:
        """A request was answered: the vendor is there."""
        self._tokens = min(self._policy.quota, self._tokens + 1.0)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Read a ``Retry-After`` header (RFC 9110, 10.2.3): seconds, or an HTTP date.

    Args:
        value: the header, or None.
        now: aware current time, for a date.

    Returns:
        Seconds, 0 or more; None where there is no header or it cannot be read.
    """
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(text: str, now: datetime) -> float | None:
    from email.utils import parsedate_to_datetime  # on use: dates are rare, and the import is slow

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
