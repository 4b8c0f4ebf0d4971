"""One request on its way to a vendor: what was proved about it, and the telemetry of it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from tronsave_async.errors import GatewayError
from tronsave_async.limiter import Lane
from tronsave_async.outcomes import Wire
from tronsave_async.telemetry import Answered, Event, Lost, Queued, Sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tronsave_async.limiter import Permit
    from tronsave_async.quota import DailyQuota

__all__ = ["Exchange", "Revoked"]


class Revoked(GatewayError):
    """Everybody who wanted the request went before it left: it must not leave any more."""

    def __str__(self) -> str:
        return "revoked before it left"


class Exchange:
    """One request, from the queue to its end. It departs at most once and ends exactly once.

    Args:
        number: number of the request within the gateway.
        venue, endpoint: whose request it is.
        orders: how many orders it is about.
        queued_at: since when it waits: monotonic seconds.
        clock: monotonic seconds.
        emit: takes the telemetry events, or None where nobody listens.
    """

    __slots__ = (
        "_clock",
        "_counted_at",
        "_emit",
        "_permit",
        "_quota",
        "_revoked",
        "_spread",
        "departed_at",
        "departed_time",
        "ended_at",
        "endpoint",
        "lane",
        "number",
        "orders",
        "queued_at",
        "quota_admitted",
        "venue",
        "was_answered",
    )

    def __init__(
        self,
        number: int,
        venue: str,
        endpoint: str,
        orders: int,
        queued_at: float,
        clock: Callable[[], float],
        emit: Callable[[Event], None] | None,
    ) -> None:
        self.number: Final = number
        self.venue: Final = venue
        self.endpoint: Final = endpoint
        self.orders = orders
        self.lane = Lane.READ
        """The lane in which it was admitted."""
        self.queued_at: Final = queued_at
        self.departed_at: float | None = None
        self.departed_time = 0.0
        """The same moment on the wall clock, or on the vendor's where that is known, in seconds since the epoch."""
        self.ended_at: float | None = None
        self.was_answered = False
        self._spread: float | None = None
        self.quota_admitted: bool | None = None
        """Whether the quota let its sharers repeat it: asked once, however many they are."""
        self._clock: Final = clock
        self._emit: Final = emit
        self._permit: Permit | None = None
        self._quota: DailyQuota | None = None
        self._counted_at: datetime
        self._revoked = False
        if emit is not None:
            emit(Queued(venue=venue, request=number, endpoint=endpoint, orders=orders))

    @property
    def spread(self) -> float:
        """The random part of the back-off, shared by all who shared the request: they come back together."""
        if self._spread is None:
            self._spread = random.random()
        return self._spread

    @property
    def reached(self) -> Wire:
        """How far the request got."""
        if self.was_answered:
            return Wire.ANSWERED
        return Wire.NOT_SENT if self.departed_at is None else Wire.MAYBE_SENT

    def granted(self, permit: Permit) -> None:
        """The limiter let it pass; the permit is spent when it departs."""
        self._permit = permit

    def counted(self, quota: DailyQuota, at: datetime) -> None:
        """It counts against the day's quota since then; it is given back to that if it never departs."""
        self._quota, self._counted_at = quota, at

    @property
    def is_unwanted(self) -> bool:
        """Everybody who wanted it went; it may have departed before."""
        return self._revoked

    def revoke(self) -> bool:
        """Nobody wants it any more. True if it had not departed, and then it never will."""
        self._revoked = True
        return self.departed_at is None

    def depart(self, seen: bool = True) -> None:
        """A connection stands and the first byte leaves after this call returns.

        Args:
            seen: this is the very moment. Otherwise it comes later, unseen, and the permit is spent at the end, when
                the vendor must have seen the request.

        Raises:
            Revoked: it was revoked before; no byte may leave.
        """
        if self._revoked:
            raise Revoked
        assert self.departed_at is None, "an exchange departs once"
        now = self._clock()
        if seen and self._permit is not None:
            self._permit.spend(now)
            self._permit = None
        self.departed_at = now
        self.departed_time = time.time()
        if (emit := self._emit) is not None:
            emit(
                Sent(
                    venue=self.venue,
                    request=self.number,
                    endpoint=self.endpoint,
                    orders=self.orders,
                    queue=now - self.queued_at,
                )
            )

    def never_left(self) -> None:
        """It is proved that nothing left, although `depart` was called (unseen, and so too early)."""
        self.departed_at = None

    def signed_at(self, moment: float) -> None:
        """Its time by the vendor's clock as far as that is known, in seconds since the epoch."""
        self.departed_time = moment

    def replaced_by(self, further: Exchange | None) -> None:
        """The vendor answered that it did not look at it. What may be in doubt is the ``further`` attempt, if that
        departed."""
        self.departed_at = None if further is None else further.departed_at
        if further is not None:
            self.departed_time = further.departed_time

    def answered(self, status: int) -> None:
        """The whole reply is here."""
        self.was_answered = True
        self._end()
        if (emit := self._emit) is not None:
            emit(
                Answered(
                    venue=self.venue,
                    request=self.number,
                    endpoint=self.endpoint,
                    orders=self.orders,
                    status=status,
                    wire=self.wire_time,
                )
            )

    def lost(self, reason: str) -> None:
        """It ended without a usable reply, or will never leave."""
        self._end()
        if (emit := self._emit) is not None:
            emit(
                Lost(
                    venue=self.venue,
                    request=self.number,
                    endpoint=self.endpoint,
                    orders=self.orders,
                    reason=reason,
                    reached=self.reached,
                    wire=self.wire_time,
                )
            )

    @property
    def wire_time(self) -> float:
        """Seconds under way; 0 if it never left."""
        if self.departed_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.departed_at

    def queue_time(self, since: float) -> float:
        """Seconds that one who waited since ``since`` spent until it left, or until it failed to."""
        end = self.departed_at if self.departed_at is not None else self.ended_at
        return max(0.0, (end if end is not None else self._clock()) - since)

    def _end(self) -> None:
        assert self.ended_at is None, "an exchange ends once"
        self.ended_at = now = self._clock()
        if self._quota is not None and self.departed_at is None:
            self._quota.give_back(self._counted_at)
        if self._permit is not None:
            if self.departed_at is not None:
                self._permit.spend(now)
            self._permit.give_back()
