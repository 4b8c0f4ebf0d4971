"""A vendor's own calls: with their permits, their repeats and one deadline."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from tronsave_async.arguments import timeout_seconds
from tronsave_async.backoff import reach_of
from tronsave_async.coalescing import Delivery, Mailbox
from tronsave_async.errors import (
    BadReply,
    GatewayClosed,
    GatewayError,
    OutcomeUnknown,
    RequestFailed,
    RequestTimeout,
    VendorError,
)
from tronsave_async.exchange import Exchange, Revoked
from tronsave_async.limiter import Lane
from tronsave_async.outcomes import Wire
from tronsave_async.retry import Reach, Repeatable, may_repeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence

    from tronsave_async.admission import Admission
    from tronsave_async.backoff import BackOff
    from tronsave_async.coalescing import Batcher
    from tronsave_async.lifetime import Lifetime

__all__ = ["Calls"]

K = TypeVar("K", bound="Hashable")
R = TypeVar("R")


class Calls:
    """Carries what a gateway asks its vendor besides cancels.

    Args:
        lifetime, admission, back_off: the gateway's.
    """

    def __init__(self, lifetime: Lifetime, admission: Admission, back_off: BackOff) -> None:
        self._lifetime = lifetime
        self._admission = admission
        self._back_off = back_off
        self._admissions: set[asyncio.Timeout] = set()
        """What ends the waits for permits."""
        self._exchanges: set[Exchange] = set()
        """The requests that wait, or are under way."""

    async def call(
        self,
        endpoint: str,
        attempt: Callable[[Exchange], Awaitable[R]],
        *,
        lane: Lane,
        repeatable: Repeatable,
        timeout: float | None,
        how_to_check: str = "",
    ) -> R:
        """One of the vendor's calls.

        Args:
            endpoint: the vendor's call.
            attempt: carries one admitted exchange and reads the reply, or raises a `GatewayError`.
            lane: who goes first.
            repeatable: what a second execution would do.
            timeout: seconds for everything, or None.
            how_to_check: for a call that is not always repeatable: how to learn what happened.

        Raises:
            RequestFailed, VendorError: the last attempt's error.
            OutcomeUnknown: the call must not be repeated, and may have taken effect.
            GatewayClosed, UsageError: nothing was sent, but what the vendor did not look at.
        """
        timeout = timeout_seconds(timeout)
        exchanges: list[Exchange] = []
        error: Exception
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                return await self._repeat(endpoint, attempt, lane, repeatable, exchanges)
        except TimeoutError as late:
            error = late
            if bound.expired() and not isinstance(late, GatewayError):
                error = self._out_of_time(endpoint, _reached(exchanges))
        except Exception as failure:  # noqa: BLE001 - whatever it is: what it leaves in doubt is said
            error = failure
        if repeatable is Repeatable.UNLESS_SENT and _in_doubt(exchanges, error):
            sent_at = datetime.fromtimestamp(exchanges[-1].departed_time, UTC)
            raise OutcomeUnknown(
                self._lifetime.venue,
                endpoint,
                sent_at=sent_at,
                how_to_check=how_to_check,
                reason=_instead_of_an_answer(error),
            ) from error
        raise error

    async def admitted(
        self, exchange: Exchange, lane: Lane, attempt: Callable[[Exchange], Awaitable[R]]
    ) -> R:
        """Wait for the exchange's permit and carry it; whatever happens, it ends."""
        self._exchanges.add(exchange)
        try:
            await self._admit_until_closed(exchange, lane)
            return await attempt(exchange)
        except Revoked:
            raise GatewayClosed(self._lifetime.venue) from None
        finally:
            self._exchanges.discard(exchange)
            if exchange.ended_at is None:
                exchange.lost("not wanted any more")

    async def fetch(self, batcher: Batcher[K, R], key: K, lane: Lane) -> Delivery[R]:
        """Want ``key`` from ``batcher``. Canceling the call takes only this interest away."""
        mailbox: Mailbox[R] = Mailbox(self._lifetime.loop)
        ticket = batcher.join(key, lane, mailbox, self._lifetime.time())
        try:
            return await mailbox.wait()
        except asyncio.CancelledError:
            if mailbox.delivery is None:
                ticket.leave()
            raise

    async def read(
        self, endpoint: str, fetch: Callable[[], Awaitable[Delivery[R]]], timeout: float | None
    ) -> R | None:
        """What ``fetch`` brings, repeating what fails; None where the vendor tells nothing.

        Raises:
            RequestFailed, VendorError: the last attempt's error.
            GatewayClosed, UsageError: nothing was sent.
        """
        self._lifetime.check_open()
        async with self.deadline(endpoint, timeout):
            for failures in itertools.count(1):
                self._lifetime.check_open()
                delivery = await fetch()
                if delivery.failure is None:
                    return delivery.value
                await self._pause(endpoint, failures, delivery)
        raise AssertionError("unreachable: the loop returns or raises")

    async def poll(
        self, endpoint: str, batcher: Batcher[str, R], keys: Sequence[str], timeout: float | None
    ) -> dict[str, R]:
        """What ``batcher`` brings for each of several keys, repeating what fails; silent keys are missing.

        Raises:
            RequestFailed, VendorError: the last attempt's error.
            GatewayClosed, UsageError: nothing was sent.
        """
        found: dict[str, R] = {}
        async with self.deadline(endpoint, timeout):
            for failures in itertools.count(1):
                self._lifetime.check_open()
                keys, failed = await self._collect(batcher, keys, found)
                if failed is None:
                    break
                await self._pause(endpoint, failures, failed)
        return found

    @asynccontextmanager
    async def deadline(self, endpoint: str, timeout: float | None) -> AsyncIterator[None]:
        """Bound what only reads.

        Raises:
            UsageError: the timeout is not usable.
            RequestTimeout: it is over.
        """
        bound = asyncio.timeout(timeout_seconds(timeout))
        try:
            async with bound:
                yield
        except TimeoutError as error:
            if not bound.expired() or isinstance(error, GatewayError):
                raise
            raise self._out_of_time(endpoint, Wire.MAYBE_SENT) from error

    def end(self, now: float) -> None:
        """The gateway closes: no request departs any more, and nobody waits for a permit."""
        for exchange in self._exchanges:
            exchange.revoke()
        for admission in self._admissions:
            admission.reschedule(now)

    async def _repeat(
        self,
        endpoint: str,
        attempt: Callable[[Exchange], Awaitable[R]],
        lane: Lane,
        repeatable: Repeatable,
        exchanges: list[Exchange],
    ) -> R:
        while True:
            self._lifetime.check_open()
            exchange = self._admission.open_exchange(endpoint, 0)
            exchanges.append(exchange)
            try:
                return await self.admitted(exchange, lane, attempt)
            except (RequestFailed, VendorError) as error:
                if not may_repeat(reach_of(error), repeatable):
                    raise
                await self._back_off.pause_or_raise(endpoint, len(exchanges), exchange, error)

    async def _admit_until_closed(self, exchange: Exchange, lane: Lane) -> None:
        admission = asyncio.timeout(None)
        try:
            async with admission:
                self._admissions.add(admission)
                try:
                    await self._admission.admit(exchange, lane)
                finally:
                    self._admissions.discard(admission)
        except TimeoutError:
            self._lifetime.check_open()
            raise
        self._lifetime.check_open()

    async def _collect(
        self, batcher: Batcher[str, R], keys: Sequence[str], found: dict[str, R]
    ) -> tuple[list[str], Delivery[R] | None]:
        """Ask once for all ``keys``; put what is told into ``found``, and return what failed."""
        mailboxes: dict[str, Mailbox[R]] = {key: Mailbox(self._lifetime.loop) for key in keys}
        now = self._lifetime.time()
        tickets = {k: batcher.join(k, Lane.READ, box, now) for k, box in mailboxes.items()}
        failed: list[str] = []
        last: Delivery[R] | None = None
        try:
            for key, mailbox in mailboxes.items():
                delivery = await mailbox.wait()
                if delivery.failure is not None:
                    failed.append(key)
                    last = delivery
                elif delivery.value is not None:
                    found[key] = delivery.value
        finally:
            for key, mailbox in mailboxes.items():
                if mailbox.delivery is None:
                    tickets[key].leave()
        return failed, last

    async def _pause(self, endpoint: str, failures: int, failed: Delivery[R]) -> None:
        """Wait before what failed is asked again."""
        assert failed.failure is not None, "it failed"
        self._lifetime.check_open()
        await self._back_off.pause_or_raise(endpoint, failures, failed.exchange, failed.failure)

    def _out_of_time(self, endpoint: str, wire: Wire) -> RequestTimeout:
        return RequestTimeout(self._lifetime.venue, endpoint, "out of time", wire=wire)


def _reached(exchanges: Sequence[Exchange]) -> Wire:
    """How far the requests of a call got, in doubt the farthest."""
    if any(exchange.departed_at is not None for exchange in exchanges):
        return Wire.MAYBE_SENT
    answered = any(exchange.was_answered for exchange in exchanges)
    return Wire.ANSWERED if answered else Wire.NOT_SENT


def _instead_of_an_answer(error: Exception) -> str:
    match error:
        case VendorError():
            return f"answered by {error.words}"
        case BadReply():
            return f"not answered as its API would ({error.reason})"
        case RequestFailed():
            return f"not answered ({error.reason})"
        case _:
            return "not answered"


def _in_doubt(exchanges: Sequence[Exchange], error: Exception) -> bool:
    """Whether the last request of a call may have taken effect: it departed, and the error does not say otherwise."""
    if not exchanges or exchanges[-1].departed_at is None:
        return False
    return not isinstance(error, GatewayError) or reach_of(error) is Reach.MAY_HAVE_ARRIVED
