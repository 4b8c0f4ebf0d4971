"""The one place that composes: a gateway's life, admission, pauses, calls and cancels.

A gateway owns one `Dispatcher` and gives it what only a vendor knows: what is metered, how cancels are sent (a
`Batcher` of verdicts over whatever transport) and how an order is read back.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio

from tronsave_async.admission import Admission, Meter
from tronsave_async.arguments import check_type
from tronsave_async.backoff import BackOff
from tronsave_async.calls import Calls
from tronsave_async.cancels import AT_ONCE, Cancels, Opening, ReadBack
from tronsave_async.coalescing import Batch, Batcher
from tronsave_async.lifetime import Lifetime
from tronsave_async.limiter import Lane, RateLimit, RateLimiter
from tronsave_async.retry import RetryPolicy
from tronsave_async.tasks import start
from tronsave_async.telemetry import TelemetryHook, emitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

    from tronsave_async.exchange import Exchange
    from tronsave_async.orders import OrderRef, OrderSnapshot
    from tronsave_async.settlement import Verdict

__all__ = ["Dispatcher", "Transport"]

K = TypeVar("K", bound="Hashable")
R = TypeVar("R")


class Transport(Protocol):
    """Whatever carries requests, as far as its lifetime is concerned."""

    async def aclose(self) -> None:
        """Send nothing any more, and close the connections."""


class Dispatcher:
    """What one gateway is made of.

    Args:
        venue: the gateway's name.
        meters: for each of the vendor's calls, what it is counted against. After a first "too many requests" the scope
            is closed for one period of its limit.
        transports: what carries the requests; closed with the gateway.
        limiter: a limiter to share, or None for the event loop's own.
        retry: the shared policy.
        telemetry: who listens, or None.

    Raises:
        UsageError: an argument is of another type.
    """

    def __init__(
        self,
        venue: str,
        *,
        meters: Mapping[str, Meter],
        transports: Sequence[Transport],
        limiter: RateLimiter | None,
        retry: RetryPolicy,
        telemetry: TelemetryHook | None,
    ) -> None:
        if limiter is not None:
            check_type("limiter", limiter, RateLimiter)
        check_type("retry", retry, RetryPolicy)
        for meter in meters.values():
            check_type("rate_limit", meter.limit, RateLimit)
        self.venue: Final = venue
        self._emit: Final = emitter(telemetry)
        self.lifetime: Final = Lifetime(venue)
        self._back_off: Final = BackOff(self.lifetime, retry, self._emit)
        self.admission: Final = Admission(
            self.lifetime,
            meters=meters,
            limiter=limiter,
            retry=retry,
            back_off=self._back_off,
            emit=self._emit,
        )
        self.calls: Final = Calls(self.lifetime, self.admission, self._back_off)
        self.cancels: Cancels
        """Set by `settle_with`."""
        self._transports = transports
        self._batchers: list[Batcher[Any, Any]] = []
        self._closer: asyncio.Task[None] | None = None

    # -- what a gateway plugs in ----------------------------------------------------------------------------------

    def batcher(
        self,
        endpoint: str,
        *,
        maximum: int,
        send: Callable[[Sequence[K], Exchange], Awaitable[Mapping[K, R]]],
        join_departed: bool,
        post: Callable[[K, Batch[K, R]], None] | None = None,
        may_post: Callable[[], bool] | None = None,
        is_reusable: Callable[[K], bool] | None = None,
    ) -> Batcher[K, R]:
        """A waiting room for one of the vendor's calls; see `Batcher`. ``post`` sends a request without a task where
        nothing has to be waited for, neither a permit nor, as ``may_post`` says, anything else."""
        admission = self.admission
        batcher: Batcher[K, R] = Batcher(
            maximum=maximum,
            open_exchange=partial(admission.open_exchange, endpoint),
            admit=admission.admit,
            send=send,
            spawn=self.lifetime.spawn,
            join_departed=join_departed,
            admit_at_once=partial(admission.admit_at_once, endpoint),
            post=post,
            may_post=may_post,
            is_reusable=is_reusable,
        )
        self._batchers.append(batcher)
        return batcher

    def settle_with(
        self,
        cancels: Batcher[K, Verdict],
        read_back: ReadBack,
        key: Callable[[OrderRef], K],
        *,
        opening: Callable[[OrderRef], Opening] = lambda order: AT_ONCE,
        read_back_in_doubt: ReadBack | None = None,
        read_first: bool = True,
        tells_canceled: Callable[[OrderRef], bool] = lambda order: True,
    ) -> None:
        """Say what is particular about this vendor's cancels.

        Args:
            cancels: sends them, by ``key``.
            read_back: reads an order back.
            key: names an order to ``cancels``.
            opening: how a cancel begins; by default at once, with the cancel.
            read_back_in_doubt: reads an order back whose cancel may have been carried out, where that takes more.
            read_first: after a lost reply, an order is read back before its cancel is repeated.
            tells_canceled: whether the vendor's record tells an order that was canceled before from one that waits.
        """
        self.cancels = Cancels(
            self.lifetime,
            self._back_off,
            cancels,
            key=key,
            opening=opening,
            read_back=read_back,
            read_back_in_doubt=read_back_in_doubt or read_back,
            read_first=read_first,
            tells_canceled=tells_canceled,
            emit=self._emit,
        )

    # -- for callers ----------------------------------------------------------------------------------------------

    async def read(self, order: OrderRef, timeout: float | None) -> OrderSnapshot | None:
        """Read an order for a caller, repeating what fails; None where the vendor tells nothing about it.

        Raises:
            RequestFailed, VendorError: the last attempt's error.
            GatewayClosed, UsageError: nothing was sent.
        """
        fetch = partial(self.cancels.read_back, order, Lane.READ)
        return await self.calls.read("get_order", fetch, timeout)

    async def aclose(self) -> None:
        """End every call at once with what was proved so far, and close the transport. Idempotent, from any task.

        Canceling the call does not stop the closing, which takes 5 seconds at most.
        """
        if not self.lifetime.end():
            return  # what there was to close has ended with its event loop
        if self._closer is None:
            self._closer = start(self._close())
            for batcher in self._batchers:
                batcher.close()
            self.calls.end(asyncio.get_running_loop().time())
        await asyncio.shield(self._closer)

    async def _close(self) -> None:
        self.cancels.end()
        with anyio.move_on_after(5):
            await self.lifetime.end_tasks()
            for transport in self._transports:
                await transport.aclose()
