"""The one place that composes: limiter, transport, verdict, retry, read-back, deadline, telemetry, outcome.

A gateway owns one `Dispatcher` and gives it what only a vendor knows: what is metered, how cancels are sent (a
`Batcher` of verdicts over whatever transport) and how an order is read back. How a cancel travels::

    cancel() -> Case -> Batcher -> limiter -> transport -> vendor's verdict -> Case -> outcome
                  ^                                                              |
                  +---- pause (retry policy, quota) <---- read back, repeat <----+
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import anyio

from tronsave_async.arguments import timeout_seconds
from tronsave_async.coalescing import Batch, Batcher, Delivery, Mailbox, Ticket
from tronsave_async.deadlines import Deadlines
from tronsave_async.errors import (
    ConnectFailed,
    GatewayClosed,
    GatewayError,
    OutcomeUnknown,
    QuotaExhausted,
    RateLimited,
    RequestFailed,
    RequestTimeout,
    UsageError,
    VendorError,
    VendorFailure,
)
from tronsave_async.exchange import Exchange, Revoked
from tronsave_async.limiter import Lane, RateLimit, RateLimiter, Scope, shared_limiter
from tronsave_async.many import CancelMany
from tronsave_async.orders import OrderRef, OrderSnapshot
from tronsave_async.outcomes import CancelOutcome, Wire
from tronsave_async.retry import Reach, Repeatable, RetryPolicy, RetryQuota, may_repeat
from tronsave_async.settlement import (
    Case,
    Doubts,
    Meaning,
    Name,
    Step,
    Verdict,
    canceled_at_once,
)
from tronsave_async.tasks import clock, start
from tronsave_async.telemetry import OutcomeReached, Penalized, Retried, TelemetryHook, emitter

if TYPE_CHECKING:
    from tronsave_async.quota import DailyQuota

__all__ = ["Dispatcher", "Meter", "Opening", "ReadBack", "Reply", "Transport", "reach_of"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Meter(NamedTuple):
    """What the vendor counts a call against, and how much of it is allowed: in a window, and in a day."""

    scope: Scope
    limit: RateLimit
    quota: DailyQuota | None = None


class Transport(Protocol):
    """Whatever carries requests, as far as its lifetime is concerned."""

    async def aclose(self) -> None:
        """Send nothing any more, and close the connections."""


class Reply(Protocol):
    """A reply, as far as the rate limit is concerned."""

    @property
    def status(self) -> int:
        """The HTTP (or HTTP-like) status."""

    def retry_after(self) -> float | None:
        """Seconds that the vendor asks to wait, or None."""


P = TypeVar("P", bound=Reply)


class Opening(NamedTuple):
    """How a cancel begins: with the cancel, or with a look at the order; and not before a moment, where the vendor's
    rule says so (aware)."""

    step: Step = Step.SEND
    not_before: datetime | None = None


_AT_ONCE: Final = Opening()

ReadBack = Callable[[OrderRef, Lane], Awaitable[Delivery[OrderSnapshot]]]
"""Reads an order back: a delivery without value and failure means that the vendor tells nothing about it."""

_SILENT: Final = Verdict(meaning=Meaning.AMBIGUOUS, message="the reply does not mention the order")


class Dispatcher:
    """Carries the calls of one gateway.

    Args:
        venue: the gateway's name.
        meters: for each of the vendor's calls, what it is counted against. After a first "too many requests" the scope
            is closed for one period of its limit.
        transports: what carries the requests; closed with the gateway.
        limiter: a limiter to share, or None for the event loop's own.
        retry: the shared policy.
        telemetry: who listens, or None.
        read_first: after a lost reply, an order is read back before its cancel is repeated.
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
        read_first: bool = True,
    ) -> None:
        self.venue: Final = venue
        self._meters = meters
        self._transports = transports
        self._read_first = read_first
        self._limiter = limiter
        self._declared = False
        self._retry = retry
        self._quota = RetryQuota(retry)
        self._emit = emitter(telemetry)
        self._rejections: dict[Scope, int] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._doubts = Doubts()
        self._closing = asyncio.Event()
        self._closer: asyncio.Task[None] | None = None
        self._admissions: set[asyncio.Timeout] = set()
        """What ends the waits of the vendor's own calls for their permits."""
        self._calls: set[Exchange] = set()
        """The requests of the vendor's own calls."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._time: Callable[[], float] = clock
        """Monotonic seconds of the loop that it serves."""
        self._batchers: list[Batcher[Any, Any]] = []
        self._cancels: Batcher[Any, Verdict] | None = None
        self._key: Callable[[OrderRef], Any] | None = None
        self._opening: Callable[[OrderRef], Opening] = lambda order: _AT_ONCE
        self._read_back: ReadBack | None = None
        self._deadlines = Deadlines()

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
    ) -> Batcher[K, R]:
        """A waiting room for one of the vendor's calls. ``post`` sends a request without a task where nothing has to be
        waited for, neither a permit nor, as ``may_post`` says, anything else."""
        batcher: Batcher[K, R] = Batcher(
            maximum=maximum,
            open_exchange=partial(self.open_exchange, endpoint),
            admit=self.admit,
            send=send,
            spawn=self.spawn,
            join_departed=join_departed,
            admit_at_once=partial(self.admit_at_once, endpoint, may_post),
            post=post,
        )
        self._batchers.append(batcher)
        return batcher

    def settle_with(
        self,
        cancels: Batcher[K, Verdict],
        read_back: ReadBack,
        key: Callable[[OrderRef], K],
        opening: Callable[[OrderRef], Opening] = lambda order: _AT_ONCE,
    ) -> None:
        """How this vendor's cancels are sent and by which key, how an order is read back, and how a cancel begins."""
        self._opening = opening
        self._cancels = cancels
        self._key = key
        self._read_back = read_back

    def resolve(self, name: Name, verdict: Verdict, exchange: Exchange) -> None:
        """What a cancel request said about an order, heard or not by those who asked: it may end a doubt, and then
        another request for it need not wait for its permit any more."""
        if self._doubts.resolve(name, verdict, exchange.departed_at):
            assert self._cancels is not None, "it was asked for"
            assert self._key is not None, "set together with the batcher"
            order_id, client_id = name
            order = OrderRef(id=order_id, client_id=client_id)
            self._cancels.call_off(self._key(order), exchange, verdict)

    def rename(self, order: OrderRef) -> None:
        """The creation of a new order of this name leaves: what was asked before says nothing about the new one, and
        whoever comes from now on asks anew."""
        self._doubts.rename(order, clock())
        assert self._cancels is not None, "set by the gateway"
        assert self._key is not None, "set by the gateway"
        self._cancels.detach(self._key(order))

    def renamed(self, order: OrderRef) -> None:
        """The new order of this name is there: what is in doubt about a former one says nothing about it."""
        self._doubts.renamed(order)

    def exhausted(self, endpoint: str) -> None:
        """The vendor says that the day's quota is used up: what is counted against it is not sent any more."""
        if (quota := self._meters[endpoint].quota) is not None:
            quota.refused(datetime.now(UTC))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it serves."""
        assert self._loop is not None, "every call begins with `check_open`"
        return self._loop

    # -- one request ----------------------------------------------------------------------------------------------

    def open_exchange(self, endpoint: str, orders: int) -> Exchange:
        """Start the record of one request."""
        number, now = next(self._numbers), self._time()
        return Exchange(number, self.venue, endpoint, orders, now, self._time, self._emit)

    async def admit(self, exchange: Exchange, lane: Lane) -> None:
        """Wait for the exchange's permit.

        Raises:
            QuotaExhausted: the vendor answers nothing today.
        """
        exchange.lane = lane
        meter = self._meters[exchange.endpoint]
        self._check_quota(exchange.endpoint, meter.quota)
        permit = await self._shared().acquire(meter.scope, lane=lane)
        exchange.granted(permit)
        self._check_quota(exchange.endpoint, meter.quota)
        if meter.quota is not None:
            now = datetime.now(UTC)
            meter.quota.count(now)
            exchange.counted(meter.quota, now)

    def admit_at_once(
        self, endpoint: str, may_post: Callable[[], bool] | None, lane: Lane, now: float
    ) -> Exchange | None:
        """Start a request about one order with its permit, or None where it has to wait, or must not be sent."""
        if may_post is not None and not may_post():
            return None
        scope, _, quota = self._meters[endpoint]
        limiter = self._limiter if self._declared else self._shared()
        assert limiter is not None, "found when its scopes are declared"
        permit = limiter.at_hand(scope, self.loop, now)
        if permit is None:
            return None
        counted_at = datetime.now(UTC)
        if quota is not None and not quota.admit(counted_at):
            permit.give_back()
            return None
        number = next(self._numbers)
        exchange = Exchange(number, self.venue, endpoint, 1, now, self._time, self._emit)
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

    async def fetch(self, batcher: Batcher[K, R], key: K, lane: Lane) -> Delivery[R]:
        """Want ``key`` from ``batcher``. Canceling the call takes only this interest away."""
        mailbox: Mailbox[R] = Mailbox(self.loop)
        ticket = batcher.join(key, lane, mailbox, self._time())
        try:
            return await mailbox.wait()
        except asyncio.CancelledError:
            if mailbox.delivery is None:
                ticket.leave()
            raise

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
                self.check_open()
                keys, failed = await self._collect(batcher, keys, found)
                if failed is None or failed.failure is None:
                    break
                self.check_open()
                await self._pause(endpoint, failures, failed.exchange, failed.failure)
        return found

    async def _collect(
        self, batcher: Batcher[str, R], keys: Sequence[str], found: dict[str, R]
    ) -> tuple[list[str], Delivery[R] | None]:
        """Ask once for all ``keys``; put what is told into ``found``, and return what failed."""
        mailboxes: dict[str, Mailbox[R]] = {key: Mailbox(self.loop) for key in keys}
        now = self._time()
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

    # -- the vendor's own calls -----------------------------------------------------------------------------------

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
        """One of the vendor's calls, with its permits, repeats and deadline.

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
            GatewayClosed, UsageError: nothing was sent.
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
                departed = any(exchange.departed_at is not None for exchange in exchanges)
                wire = Wire.MAYBE_SENT if departed else Wire.NOT_SENT
                error = RequestTimeout(self.venue, endpoint, "out of time", wire=wire)
        except Exception as failure:  # noqa: BLE001 - whatever it is: what it leaves in doubt is said
            error = failure
        if repeatable is Repeatable.UNLESS_SENT and _in_doubt(exchanges, error):
            sent_at = datetime.fromtimestamp(exchanges[-1].departed_time, UTC)
            raise OutcomeUnknown(
                self.venue, endpoint, sent_at=sent_at, how_to_check=how_to_check
            ) from error
        raise error

    async def read(self, order: OrderRef, timeout: float | None) -> OrderSnapshot | None:
        """Read an order for a caller, repeating what fails; None where the vendor tells nothing about it.

        Raises:
            RequestFailed, VendorError: the last attempt's error.
            GatewayClosed, UsageError: nothing was sent.
        """
        self.check_open()
        assert self._read_back is not None, "set by the gateway"
        async with self.deadline("get_order", timeout):
            for failures in itertools.count(1):
                self.check_open()
                delivery = await self._read_back(order, Lane.READ)
                if delivery.failure is None:
                    return delivery.value
                self.check_open()
                await self._pause("get_order", failures, delivery.exchange, delivery.failure)
        raise AssertionError("unreachable: the loop returns or raises")

    # -- cancels --------------------------------------------------------------------------------------------------

    async def cancel(self, order: OrderRef, timeout: float | None) -> CancelOutcome:
        """Cancel one order; see `OrderGateway.cancel`."""
        timeout = timeout_seconds(timeout)
        loop = self.check_open()
        opening = self._opening(order)
        if opening is not _AT_ONCE:
            case = self.open_case(order)
            deadline = None if timeout is None else clock() + timeout
            await self._settle_until(deadline, case, self.begin(case, opening, deadline))
            return self._conclude(case)
        mailbox: Mailbox[Verdict] = Mailbox(loop)
        started = self._time()
        ticket = self.join(order, mailbox, started)
        if timeout is not None:
            self._deadlines.enter(mailbox, timeout, started)
        try:
            await mailbox.future
        except asyncio.CancelledError:
            self.leave(self.open_case(order, started), ticket, mailbox.delivery)
            raise
        finally:
            if timeout is not None:
                self._deadlines.leave(mailbox, timeout)
        delivery = mailbox.delivery
        if delivery is not None:
            outcome = self.success(order, delivery, started)
            if outcome is not None:
                return outcome
        case = self.open_case(order, started)
        if delivery is None:
            self.leave(case, ticket, None)
            case.give_up("out of time", clock())
        elif (step := self.digest(case, delivery, started)) is not Step.DONE:
            deadline = None if timeout is None else started + timeout
            await self._settle_until(deadline, case, self.settle(case, step))
        return self._conclude(case)

    def _conclude(self, case: Case) -> CancelOutcome:
        if case.error is not None:
            raise copy(case.error) from case.error.__cause__
        return self.report(case)

    async def _settle_until(
        self, deadline: float | None, case: Case, settling: Coroutine[Any, Any, None]
    ) -> None:
        bound = asyncio.timeout_at(deadline)
        try:
            async with bound:
                await settling
        except TimeoutError:
            if not bound.expired():
                raise
            case.give_up("out of time", clock())

    async def cancel_many(
        self,
        orders: Sequence[OrderRef],
        timeout: float | None,
        on_outcome: Callable[[CancelOutcome], object] | None,
        unusable: Callable[[OrderRef], str | None],
    ) -> list[CancelOutcome]:
        """Cancel many orders; see `OrderGateway.cancel_many`. ``unusable`` says why an order cannot be sent."""
        timeout = timeout_seconds(timeout)
        self.check_open()
        many = CancelMany(self, orders, on_outcome)
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                await many.run(unusable, self._opening, bound.when())
        except TimeoutError:
            if not bound.expired():
                raise
        finally:
            await many.withdraw("out of time" if bound.expired() else "the call was canceled")
        return many.outcomes()

    def open_case(self, order: OrderRef, started: float | None = None) -> Case:
        """Start the cancel of one order."""
        return Case(
            order,
            self.venue,
            started=clock() if started is None else started,
            attempts=self._retry.attempts,
            doubts=self._doubts,
            read_first=self._read_first,
        )

    async def begin(self, case: Case, opening: Opening, deadline: float | None) -> None:
        """Carry a case from its opening to its end; where that would be after the caller's ``deadline`` (monotonic
        seconds), it is too early."""
        if (when := opening.not_before) is not None:
            moment = clock() + (when - datetime.now(UTC)).total_seconds()
            if deadline is not None and moment >= deadline:
                case.too_early(when, clock())
                return
            await self.sleep_until(moment)
        await self.settle(case, opening.step)

    async def settle(self, case: Case, step: Step) -> None:
        """Carry a case from ``step`` to its end. Canceling the call leaves in the case what was proved so far."""
        while step is not Step.DONE:
            if case.consult(clock()):
                return
            if step.pauses and not await self._pause_case(case, step):
                case.give_up("the retry quota is used up", clock())
            elif self._closing.is_set():
                case.give_up("gateway closed", clock())
            if case.consult(clock()):
                return
            step = await (self._send_cancel(case) if step.sends else self._look_back(case))

    def join(
        self, order: OrderRef, deliver: Callable[[Delivery[Verdict]], None], now: float
    ) -> Ticket[Any, Verdict]:
        """Want an order with the next cancel request, since ``now`` (monotonic seconds)."""
        assert self._cancels is not None, "set by the gateway"
        assert self._key is not None, "set by the gateway"
        return self._cancels.join(self._key(order), Lane.CANCEL, deliver, now)

    def success(
        self, order: OrderRef, delivery: Delivery[Verdict], started: float
    ) -> CancelOutcome | None:
        """The outcome, told to whoever listens, if the first request canceled the order; else a case is opened."""
        verdict = delivery.value
        if verdict is None or verdict.meaning is not Meaning.CANCELED:
            return None
        if delivery.late or delivery.divided:  # it answers another request than the first
            return None
        exchange = delivery.exchange
        self._doubts.dispel(order, exchange.departed_at)
        # Not the moment of the reply: a busy event loop may have kept its caller waiting since.
        outcome = canceled_at_once(order, self.venue, verdict, self._time() - started)
        if self._emit is not None:
            self._tell_outcome(outcome, exchange.queue_time(started), exchange.wire_time, 0.0)
        return outcome

    def digest(self, case: Case, delivery: Delivery[Verdict], joined_at: float) -> Step:
        """Tell a case what its cancel request brought."""
        exchange, failure = delivery.exchange, delivery.failure
        case.exchange = exchange
        case.queue_time += exchange.queue_time(joined_at)
        case.wire_time += exchange.wire_time
        case.was_divided(delivery.divided)
        if delivery.late:
            case.proof = delivery.value
            case.consult(clock())
            return Step.DONE
        if failure is None:
            return case.answered(delivery.value or _SILENT, clock())
        if self._closing.is_set():
            return case.cut_off(delivery.reached, "gateway closed", clock())
        if isinstance(failure, QuotaExhausted):
            return case.cut_off(Wire.NOT_SENT, failure.reason, clock())
        if isinstance(failure, RequestFailed):
            return case.failed(failure, clock())
        return case.broken(failure, clock())

    def report(self, case: Case) -> CancelOutcome:
        """The outcome, told to whoever listens."""
        assert case.outcome is not None, "settled or given up before"
        if self._emit is not None:
            self._tell_outcome(case.outcome, case.queue_time, case.wire_time, case.read_back_time)
        return case.outcome

    # -- lifetime -------------------------------------------------------------------------------------------------

    def check_open(self) -> asyncio.AbstractEventLoop:
        """Bind the gateway to the running event loop on its first call, and return it.

        Raises:
            GatewayClosed: it is closed.
            UsageError: it serves another event loop.
        """
        if self._closing.is_set():
            raise GatewayClosed(self.venue)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._time = loop.time
        elif self._loop is not loop:
            raise UsageError(f"this {self.venue} gateway serves another event loop: open a new one")
        return loop

    async def aclose(self) -> None:
        """End every call at once with what was proved so far, and close the transport. Idempotent, from any task.

        Canceling the call does not stop the closing, which takes 5 seconds at most.
        """
        self._closing.set()
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            return  # what there was to close has ended with its event loop
        if self._closer is None:
            self._closer = start(self._close())
            self._end_calls(loop.time())
        await asyncio.shield(self._closer)

    def _end_calls(self, now: float) -> None:
        for batcher in self._batchers:
            batcher.close()
        for exchange in self._calls:
            exchange.revoke()
        for admission in self._admissions:
            admission.reschedule(now)

    async def _close(self) -> None:
        self._deadlines.close()
        with anyio.move_on_after(5):
            if tasks := set(self._tasks):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            for transport in self._transports:
                await transport.aclose()

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
            reason, wire = "out of time", Wire.MAYBE_SENT
            raise RequestTimeout(self.venue, endpoint, reason, wire=wire) from error

    def spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a background task of the gateway."""
        task = start(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _repeat(
        self,
        endpoint: str,
        attempt: Callable[[Exchange], Awaitable[R]],
        lane: Lane,
        repeatable: Repeatable,
        exchanges: list[Exchange],
    ) -> R:
        while True:
            self.check_open()
            exchange = self.open_exchange(endpoint, 0)
            exchanges.append(exchange)
            try:
                return await self.admitted(exchange, lane, attempt)
            except (RequestFailed, VendorError) as error:
                if not may_repeat(reach_of(error), repeatable):
                    raise
                await self._pause(endpoint, len(exchanges), exchange, error)

    async def admitted(
        self, exchange: Exchange, lane: Lane, attempt: Callable[[Exchange], Awaitable[R]]
    ) -> R:
        """Wait for the exchange's permit and carry it; whatever happens, it ends."""
        self._calls.add(exchange)
        try:
            await self._admit_until_closed(exchange, lane)
            return await attempt(exchange)
        except Revoked:
            raise GatewayClosed(self.venue) from None
        finally:
            self._calls.discard(exchange)
            if exchange.ended_at is None:
                exchange.lost("not wanted any more")

    async def _admit_until_closed(self, exchange: Exchange, lane: Lane) -> None:
        admission = asyncio.timeout(None)
        try:
            async with admission:
                self._admissions.add(admission)
                try:
                    await self.admit(exchange, lane)
                finally:
                    self._admissions.discard(admission)
        except TimeoutError:
            self.check_open()
            raise
        self.check_open()

    async def _send_cancel(self, case: Case) -> Step:
        mailbox: Mailbox[Verdict] = Mailbox(self.loop)
        ticket = self.join(case.order, mailbox, self._time())
        try:
            delivery = await mailbox.wait()
        except asyncio.CancelledError:
            self.leave(case, ticket, mailbox.delivery)
            raise
        return self.digest(case, delivery, ticket.joined_at)

    def leave(
        self, case: Case, ticket: Ticket[Any, Verdict], delivery: Delivery[Verdict] | None
    ) -> None:
        """A caller goes. What was delivered in the same tick counts; else what is known of its request."""
        if delivery is not None:
            self.digest(case, delivery, ticket.joined_at)
            return
        tried = ticket.under_way
        case.was_divided(ticket.divided)
        case.left_queue(ticket.leave(), tried=tried, deserted=not ticket.has_company)

    async def _look_back(self, case: Case) -> Step:
        assert self._read_back is not None, "set by the gateway"
        started = clock()
        try:
            delivery = await self._read_back(case.order, Lane.CANCEL)
        finally:
            case.read_back_time += clock() - started
        if delivery.failure is None:
            return case.read(delivery.value, clock())
        case.exchange = delivery.exchange
        if reach_of(delivery.failure) is Reach.ANSWERED:
            return case.read(None, clock())
        return case.read_failed(str(delivery.failure), clock())

    async def _pause_case(self, case: Case, step: Step) -> bool:
        exchange = case.exchange
        assert exchange is not None, "only a failed request asks for a pause"
        # The first look at the order is no repeat: it is what the doubt calls for.
        looks_first = not step.sends and not case.was_read
        if not looks_first and not self._admit_repeat(exchange):
            return False
        delay = self._retry.delay(case.failures, spread=exchange.spread)
        if self._emit is not None:
            self._tell_retry(step.value, case.attempts, delay, case.reason)
        await self.sleep_until(_ended(exchange) + delay)
        return True

    async def _pause(
        self, what: str, failures: int, exchange: Exchange, error: GatewayError
    ) -> None:
        """Wait before a call is tried again; raises ``error`` where it may not be."""
        tired = failures >= self._retry.attempts or reach_of(error) is Reach.ANSWERED
        if tired or not self._admit_repeat(exchange):
            raise copy(error) from error.__cause__  # sharers must not share a traceback
        delay = self._retry.delay(failures, spread=exchange.spread)
        if self._emit is not None:
            self._tell_retry(what, failures, delay, str(error))
        await self.sleep_until(_ended(exchange) + delay)

    def _admit_repeat(self, exchange: Exchange) -> bool:
        """One token of the quota for each failed request, however many callers shared it."""
        if exchange.quota_admitted is None:
            exchange.quota_admitted = self._quota.admit(clock())
        return exchange.quota_admitted

    async def sleep_until(self, moment: float) -> None:
        """Sleep, or until the gateway closes. The moment is absolute: those who shared a request wake up in one tick,
        and share the next."""
        bound = asyncio.timeout_at(moment)
        try:
            async with bound:
                await self._closing.wait()
        except TimeoutError:
            if not bound.expired():
                raise

    def _check_quota(self, endpoint: str, quota: DailyQuota | None) -> None:
        until = None if quota is None else quota.closed_until(datetime.now(UTC))
        if until is not None:
            reason = f"the day's quota is used up until {until:%Y-%m-%d %H:%M} UTC"
            wire = Wire.NOT_SENT
            raise QuotaExhausted(self.venue, endpoint, reason, wire=wire, retry_at=until)

    def _heed(self, endpoint: str, reply: Reply) -> None:
        """Close the scope where the vendor asked for it; note that it is there."""
        status = reply.status
        if status == 429 or (status == 503 and reply.retry_after() is not None):
            self._penalize(endpoint, reply.retry_after())
            return
        if self._rejections:
            self._rejections.pop(self._meters[endpoint].scope, None)
        if status < 500:
            self._quota.answered()

    def _penalize(self, endpoint: str, retry_after: float | None) -> None:
        scope, limit, _ = self._meters[endpoint]
        rejections = self._rejections[scope] = self._rejections.get(scope, 0) + 1
        seconds = self._retry.penalty(rejections, retry_after=retry_after, minimum=limit.per)
        self._shared().penalize(scope, seconds)
        if self._emit is not None:
            self._emit(Penalized(venue=self.venue, endpoint=endpoint, seconds=seconds))

    def _shared(self) -> RateLimiter:
        """The limiter, with this gateway's scopes declared on first use."""
        if self._limiter is None:
            self._limiter = shared_limiter()
        if not self._declared:
            for scope, limit, _ in self._meters.values():
                self._limiter.declare(scope, limit)
            self._declared = True
        return self._limiter

    def _tell_outcome(
        self, outcome: CancelOutcome, queue: float, wire: float, read_back: float
    ) -> None:
        assert self._emit is not None, "checked before, so that nothing is built in vain"
        self._emit(
            OutcomeReached(
                venue=self.venue, outcome=outcome, queue=queue, wire=wire, read_back=read_back
            )
        )

    def _tell_retry(self, what: str, attempt: int, delay: float, reason: str) -> None:
        assert self._emit is not None, "checked before, so that nothing is built in vain"
        self._emit(
            Retried(venue=self.venue, endpoint=what, attempt=attempt, delay=delay, reason=reason)
        )


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


def _in_doubt(exchanges: Sequence[Exchange], error: Exception) -> bool:
    """Whether the last request of a call may have taken effect: it departed, and the error does not say otherwise."""
    if not exchanges or exchanges[-1].departed_at is None:
        return False
    return not isinstance(error, GatewayError) or reach_of(error) is Reach.MAY_HAVE_ARRIVED


def _ended(exchange: Exchange) -> float:
    assert exchange.ended_at is not None, "a pause follows the end of a request"
    return exchange.ended_at


def _short(error: BaseException) -> str:
    return error.reason if isinstance(error, RequestFailed) else type(error).__name__
