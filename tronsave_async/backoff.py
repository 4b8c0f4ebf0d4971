"""The pauses between the attempts of one gateway: one policy, and one quota of repeats."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final

from tronsave_async.errors import (
    GatewayError,
    QuotaExhausted,
    RateLimited,
    RequestFailed,
    VendorFailure,
)
from tronsave_async.outcomes import Wire
from tronsave_async.retry import Reach, RetryPolicy, RetryQuota
from tronsave_async.telemetry import Event, Retried

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.exchange import Exchange
    from tronsave_async.lifetime import Lifetime

__all__ = ["BackOff", "reach_of"]


class BackOff:
    """Says whether a failed request may be repeated, and waits before it is.

    Args:
        lifetime: the gateway's; its end ends a pause.
        policy: how often, and how long between.
        emit: takes the telemetry events, or None where nobody listens.
    """

    def __init__(
        self, lifetime: Lifetime, policy: RetryPolicy, emit: Callable[[Event], None] | None
    ) -> None:
        self._lifetime = lifetime
        self._policy = policy
        self._quota = RetryQuota(policy)
        self._emit = emit
        self.answered: Final = self._quota.answered
        """A request was answered: the quota of repeats recovers."""

    @property
    def attempts(self) -> int:
        """How often a request is tried at most."""
        return self._policy.attempts

    def admits(self, exchange: Exchange) -> bool:
        """Take one token of the quota for each failed request, however many callers shared it."""
        if exchange.quota_admitted is None:
            exchange.quota_admitted = self._quota.admit(self._lifetime.time())
        return exchange.quota_admitted

    async def pause(
        self, what: str, failures: int, attempt: int, exchange: Exchange, reason: str
    ) -> None:
        """Wait after a failed request, the longer the more ``failures`` there were, or until the gateway closes."""
        delay = self._policy.delay(failures, spread=exchange.spread)
        if self._emit is not None:
            self._emit(
                Retried(
                    venue=exchange.venue,
                    endpoint=what,
                    attempt=attempt,
                    delay=delay,
                    reason=reason,
                )
            )
        assert exchange.ended_at is not None, "a pause follows the end of a request"
        await self._lifetime.sleep_until(exchange.ended_at + delay)

    async def pause_or_raise(
        self, what: str, failures: int, exchange: Exchange, error: GatewayError
    ) -> None:
        """Wait before a call is tried again; raises ``error`` where it may not be."""
        tired = failures >= self._policy.attempts or reach_of(error) is Reach.ANSWERED
        if tired or not self.admits(exchange):
            raise copy(error) from error.__cause__  # sharers must not share a traceback
        await self.pause(what, failures, failures, exchange, str(error))


def reach_of(error: GatewayError) -> Reach:
    """What a failed request's error proves about it."""
    match error:
        case QuotaExhausted():
            return Reach.ANSWERED
        case RequestFailed(wire=Wire.NOT_SENT):
            return Reach.NEVER_LEFT
        case RequestFailed() | VendorFailure():
            return Reach.MAY_HAVE_ARRIVED
        case RateLimited():
            return Reach.REFUSED_UNPROCESSED
        case _:
            return Reach.ANSWERED
