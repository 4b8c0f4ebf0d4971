"""What each request of a gateway passes on its way out and back: the limiter, and the quota for the day."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from tronsave_async.errors import ConnectFailed, QuotaExhausted, RequestFailed
from tronsave_async.exchange import Exchange
from tronsave_async.limiter import Lane, RateLimit, RateLimiter, Scope, shared_limiter
from tronsave_async.outcomes import Wire
from tronsave_async.telemetry import Event, Penalized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tronsave_async.backoff import BackOff
    from tronsave_async.lifetime import Lifetime
    from tronsave_async.quota import DailyQuota
    from tronsave_async.retry import RetryPolicy

__all__ = ["Admission", "Meter", "Reply"]


class Meter(NamedTuple):
    """What the vendor counts a call against, and how much of it is allowed: in a window, and in a day."""

    scope: Scope
    limit: RateLimit
    quota: DailyQuota | None = None


class Reply(Protocol):
    """A reply, as far as the rate limit is concerned."""

    @property
    def status(self) -> int:
        """The HTTP (or HTTP-like) status."""

    def retry_after(self) -> float | None:
        """Seconds that the vendor asks to wait, or None."""


P = TypeVar("P", bound=Reply)


class Admission:
    """Opens the requests of one gateway, lets them pass, and closes a scope where a reply says "too many".

    Args:
        lifetime: the gateway's.
        meters: for each of the vendor's calls, what it is counted against.
        limiter: a limiter to share, or None for the event loop's own.
        retry: says for how long a scope is closed.
        back_off: recovers with each answer.
        emit: takes the telemetry events, or None where nobody listens.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        *,
        meters: Mapping[str, Meter],
        limiter: RateLimiter | None,
        retry: RetryPolicy,
        back_off: BackOff,
        emit: Callable[[Event], None] | None,
    ) -> None:
        self._lifetime = lifetime
        self._venue = lifetime.venue
        self._meters = meters
        self._limiter = limiter
        self._is_declared = False
        self._retry = retry
        self._back_off = back_off
        self._emit = emit
        self._numbers = itertools.count(1)
        self._rejections: dict[Scope, int] = {}
        """In a row, for each scope."""

    @property
    def limiter(self) -> RateLimiter:
        """The limiter, with this gateway's scopes declared on first use."""
        if self._limiter is None:
            self._limiter = shared_limiter()
        if not self._is_declared:
            for scope, limit, _ in self._meters.values():
                self._limiter.declare(scope, limit)
            self._is_declared = True
        return self._limiter

    def open_exchange(self, endpoint: str, orders: int) -> Exchange:
        """Start the record of one request about so many orders."""
        number, time = next(self._numbers), self._lifetime.time
        return Exchange(number, self._venue, endpoint, orders, time(), time, self._emit)

    async def admit(self, exchange: Exchange, lane: Lane) -> None:
        """Wait for the exchange's permit.

        Raises:
            QuotaExhausted: the vendor answers nothing today.
        """
        exchange.lane = lane
        meter = self._meters[exchange.endpoint]
        self._check_quota(exchange.endpoint, meter.quota)
        permit = await self.limiter.acquire(meter.scope, lane=lane)
        exchange.granted(permit)
        self._check_quota(exchange.endpoint, meter.quota)
        if meter.quota is not None:
            now = datetime.now(UTC)
            meter.quota.count(now)
            exchange.counted(meter.quota, now)

    def admit_at_once(self, endpoint: str, lane: Lane, now: float) -> Exchange | None:
        """Start a request about one order with its permit, or None where it has to wait, or must not be sent."""
        scope, _, quota = self._meters[endpoint]
        limiter = self._limiter if self._is_declared else self.limiter
        assert limiter is not None, "found when its scopes are declared"
        permit = limiter.at_hand(scope, self._lifetime.loop, now)
        if permit is None:
            return None
        counted_at = datetime.now(UTC)
        if quota is not None and not quota.admit(counted_at):
            permit.give_back()
            return None
        number, time = next(self._numbers), self._lifetime.time
        exchange = Exchange(number, self._venue, endpoint, 1, now, time, self._emit)
        exchange.lane = lane
        exchange.granted(permit)
        if quota is not None:
            exchange.counted(quota, counted_at)
        return exchange

    async def carry(self, exchange: Exchange, sending: Awaitable[P]) -> P:
        """Send one admitted request, once; "too many requests" closes the scope for all its users.

        Args:
            exchange: the request; its `Exchange.depart` is what the transport calls when it leaves.
            sending: the transport's attempt.

        Raises:
            RequestFailed: as the transport does.
        """
        try:
            reply = await sending
        except BaseException as error:
            self.not_carried(exchange, error)
            raise
        self.carried(exchange, reply)
        return reply

    def carried(self, exchange: Exchange, reply: Reply) -> None:
        """The request has its reply."""
        if exchange.ended_at is None:
            exchange.answered(reply.status)
        self._heed(exchange.endpoint, reply)

    def not_carried(self, exchange: Exchange, error: BaseException) -> None:
        """The request has no reply."""
        if isinstance(error, ConnectFailed):
            exchange.never_left()
        if exchange.ended_at is None:
            exchange.lost(_short(error))

    def exhausted(self, endpoint: str) -> None:
        """The vendor says that the day's quota is used up: what is counted against it is not sent any more."""
        if (quota := self._meters[endpoint].quota) is not None:
            quota.refused(datetime.now(UTC))

    def _check_quota(self, endpoint: str, quota: DailyQuota | None) -> None:
        until = None if quota is None else quota.closed_until(datetime.now(UTC))
        if until is not None:
            reason = f"the day's quota is used up until {until:%Y-%m-%d %H:%M} UTC"
            wire = Wire.NOT_SENT
            raise QuotaExhausted(self._venue, endpoint, reason, wire=wire, retry_at=until)

    def _heed(self, endpoint: str, reply: Reply) -> None:
        """Close the scope where the vendor asked for it; note that it is there."""
        status = reply.status
        if status == 429 or (status == 503 and reply.retry_after() is not None):
            self._penalize(endpoint, reply.retry_after())
            return
        if self._rejections:
            self._rejections.pop(self._meters[endpoint].scope, None)
        if status < 500:
            self._back_off.answered()

    def _penalize(self, endpoint: str, retry_after: float | None) -> None:
        scope, limit, _ = self._meters[endpoint]
        rejections = self._rejections[scope] = self._rejections.get(scope, 0) + 1
        seconds = self._retry.penalty(rejections, retry_after=retry_after, minimum=limit.per)
        self.limiter.penalize(scope, seconds)
        if self._emit is not None:
            self._emit(Penalized(venue=self._venue, endpoint=endpoint, seconds=seconds))


def _short(error: BaseException) -> str:
    return error.reason if isinstance(error, RequestFailed) else type(error).__name__
