"""The cancels of one gateway, each carried from the call to its outcome.

How a cancel travels::

    cancel() -> Batcher -> admission -> transport -> vendor's verdict -> Case -> outcome
                  ^                                                        |
                  +---- pause (retry policy, quota) <-- read back, repeat <+

What a case wants next is decided in `settlement`, without I/O; here it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tronsave_async.arguments import timeout_seconds
from tronsave_async.backoff import reach_of
from tronsave_async.coalescing import Delivery, Mailbox, Ticket
from tronsave_async.creations import Creations
from tronsave_async.deadlines import Deadlines
from tronsave_async.errors import QuotaExhausted, RequestFailed
from tronsave_async.limiter import Lane
from tronsave_async.many import CancelMany
from tronsave_async.orders import OrderRef, OrderSnapshot
from tronsave_async.outcomes import CancelOutcome, Wire
from tronsave_async.retry import Reach
from tronsave_async.settlement import (
    Case,
    Doubts,
    Meaning,
    Name,
    Step,
    Verdict,
    canceled_at_once,
)
from tronsave_async.tasks import clock
from tronsave_async.telemetry import Event, OutcomeReached

if TYPE_CHECKING:
    from tronsave_async.backoff import BackOff
    from tronsave_async.coalescing import Batcher
    from tronsave_async.exchange import Exchange
    from tronsave_async.lifetime import Lifetime

__all__ = ["AT_ONCE", "Cancels", "Opening", "ReadBack"]


class Opening(NamedTuple):
    """How a cancel begins: with the cancel, or with a look at the order; and not before a moment, where the vendor's
    rule says so (aware)."""

    step: Step = Step.SEND
    not_before: datetime | None = None


AT_ONCE: Final = Opening()


ReadBack = Callable[[OrderRef, Lane], Awaitable[Delivery[OrderSnapshot]]]
"""Reads an order back: a delivery without value and failure means that the vendor tells nothing about it."""

_SILENT: Final = Verdict(meaning=Meaning.AMBIGUOUS, message="the reply does not mention the order")


class Cancels:
    """Carries the cancels of one gateway.

    Args:
        lifetime, back_off: the gateway's.
        batcher: sends them, and brings what the vendor says of each.
        key: names an order to the batcher.
        opening: how the cancel of an order begins.
        read_back, read_back_in_doubt: reads an order back; one whose cancel may have been carried out.
        read_first: after a lost reply, an order is read back before its cancel is repeated.
        tells_canceled: the vendor's record tells whether an order was canceled before; see `Case`.
        emit: takes the telemetry events, or None where nobody listens.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        back_off: BackOff,
        batcher: Batcher[Any, Verdict],
        *,
        key: Callable[[OrderRef], Any],
        opening: Callable[[OrderRef], Opening],
        read_back: ReadBack,
        read_back_in_doubt: ReadBack,
        read_first: bool,
        tells_canceled: Callable[[OrderRef], bool],
        emit: Callable[[Event], None] | None,
    ) -> None:
        self._venue = lifetime.venue
        self._lifetime = lifetime
        self._back_off = back_off
        self._batcher = batcher
        self._key = key
        self._opening = opening
        self._read_back = read_back
        self._read_back_in_doubt = read_back_in_doubt
        self._read_first = read_first
        self._tells_canceled = tells_canceled
        self._emit = emit
        self._doubts = Doubts()
        self._deadlines = Deadlines()
        self.creations: Final = Creations(self._doubts, self._detach)

    # -- for callers ----------------------------------------------------------------------------------------------

    async def cancel(self, order: OrderRef, timeout: float | None) -> CancelOutcome:
        """Cancel one order; see `OrderGateway.cancel`."""
        timeout = timeout_seconds(timeout)
        loop = self._lifetime.check_open()
        opening = self._opening(order)
        if opening is not AT_ONCE:
            case = self.open_case(order)
            deadline = None if timeout is None else clock() + timeout
            await self._settle_until(deadline, case, self.begin(case, opening, deadline))
            return self._conclude(case)
        mailbox: Mailbox[Verdict] = Mailbox(loop)
        started = self._lifetime.time()
        ticket = self._batcher.join(self._key(order), Lane.CANCEL, mailbox, started)
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

    async def cancel_many(
        self,
        orders: Sequence[OrderRef],
        timeout: float | None,
        on_outcome: Callable[[CancelOutcome], object] | None,
        unusable: Callable[[OrderRef], str | None],
    ) -> list[CancelOutcome]:
        """Cancel many orders; see `OrderGateway.cancel_many`. ``unusable`` says why an order cannot be sent."""
        timeout = timeout_seconds(timeout)
        self._lifetime.check_open()
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

    async def read_back(
        self, order: OrderRef, lane: Lane, *, in_doubt: bool = False
    ) -> Delivery[OrderSnapshot]:
        """Read an order back, which is harder where its cancel may have been carried out."""
        if in_doubt or self._doubts.hold(order):
            return await self._read_back_in_doubt(order, lane)
        return await self._read_back(order, lane)

    # -- for the vendor -------------------------------------------------------------------------------------------

    def resolve(self, name: Name, verdict: Verdict, exchange: Exchange) -> None:
        """What a cancel request said about an order, heard or not by those who asked: it may end a doubt, and then
        another request for it need not wait for its permit any more."""
        if self._doubts.resolve(name, verdict, exchange.departed_at):
            order_id, client_id = name
            order = OrderRef(id=order_id, client_id=client_id)
            self._batcher.call_off(self._key(order), exchange, verdict)

    def end(self) -> None:
        """The gateway is closed: no call waits any more."""
        self._deadlines.close()
        self.creations.end()

    def _detach(self, order: OrderRef) -> None:
        self._batcher.detach(self._key(order))

    # -- the steps of a case --------------------------------------------------------------------------------------

    def open_case(self, order: OrderRef, started: float | None = None) -> Case:
        """Start the cancel of one order."""
        return Case(
            order,
            self._venue,
            started=clock() if started is None else started,
            attempts=self._back_off.attempts,
            doubts=self._doubts,
            read_first=self._read_first,
            tells_canceled=self._tells_canceled,
        )

    async def begin(self, case: Case, opening: Opening, deadline: float | None) -> None:
        """Carry a case from its opening to its end; where that would be after the caller's ``deadline`` (monotonic
        seconds), it is too early."""
        if (when := opening.not_before) is not None:
            moment = clock() + (when - datetime.now(UTC)).total_seconds()
            if deadline is not None and moment >= deadline:
                case.too_early(when, clock())
                return
            await self._lifetime.sleep_until(moment)
        await self.settle(case, opening.step)

    async def settle(self, case: Case, step: Step) -> None:
        """Carry a case from ``step`` to its end. Canceling the call leaves in the case what was proved so far."""
        while step is not Step.DONE:
            if case.consult(clock()):
                return
            if step.pauses and not await self._pause(case, step):
                step = case.must_not_repeat(clock())
                continue
            if step is Step.SEND_WHEN_CREATED:
                await self.creations.end_of_one(case.order.name)
            if self._lifetime.is_over:
                case.give_up("gateway closed", clock())
            if case.name_was_given_away:
                case.give_up("its name was given to a new order", clock())
            if case.consult(clock()):
                return
            step = await (self._send(case) if step.sends else self._look_back(case))

    def join(
        self, order: OrderRef, deliver: Callable[[Delivery[Verdict]], None], now: float
    ) -> Ticket[Any, Verdict]:
        """Want an order with the next cancel request, since ``now`` (monotonic seconds)."""
        return self._batcher.join(self._key(order), Lane.CANCEL, deliver, now)

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
        elapsed = self._lifetime.time() - started
        outcome = canceled_at_once(order, self._venue, verdict, elapsed)
        if self._emit is not None:
            self._tell(outcome, exchange.queue_time(started), exchange.wire_time, 0.0)
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
        if self._lifetime.is_over:
            return case.cut_off(delivery.reached, "gateway closed", clock())
        if isinstance(failure, QuotaExhausted):
            return case.cut_off(Wire.NOT_SENT, failure.reason, clock())
        if isinstance(failure, RequestFailed):
            return case.failed(failure, clock())
        return case.broken(failure, clock())

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

    def report(self, case: Case) -> CancelOutcome:
        """The outcome, told to whoever listens."""
        assert case.outcome is not None, "settled or given up before"
        if self._emit is not None:
            self._tell(case.outcome, case.queue_time, case.wire_time, case.read_back_time)
        return case.outcome

    # -- inside ---------------------------------------------------------------------------------------------------

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

    def _conclude(self, case: Case) -> CancelOutcome:
        if case.error is not None:
            raise copy(case.error) from case.error.__cause__
        return self.report(case)

    async def _send(self, case: Case) -> Step:
        mailbox: Mailbox[Verdict] = Mailbox(self._lifetime.loop)
        ticket = self.join(case.order, mailbox, self._lifetime.time())
        try:
            delivery = await mailbox.wait()
        except asyncio.CancelledError:
            self.leave(case, ticket, mailbox.delivery)
            raise
        return self.digest(case, delivery, ticket.joined_at)

    async def _look_back(self, case: Case) -> Step:
        started = clock()
        try:
            delivery = await self.read_back(case.order, Lane.CANCEL, in_doubt=case.doubt)
        finally:
            case.read_back_time += clock() - started
        if delivery.failure is None:
            return case.read(delivery.value, clock(), asked_at=started)
        case.exchange = delivery.exchange
        if reach_of(delivery.failure) is Reach.ANSWERED:
            return case.read(None, clock())
        return case.read_failed(str(delivery.failure), clock())

    async def _pause(self, case: Case, step: Step) -> bool:
        """Wait before a step; False, and no wait, where the quota of repeats is used up."""
        exchange = case.exchange
        assert exchange is not None, "only a failed request asks for a pause"
        if case.is_repeat(step) and not self._back_off.admits(exchange):
            return False
        attempts, reason = case.attempts, case.reason
        await self._back_off.pause(step.value, case.failures, attempts, exchange, reason)
        return True

    def _tell(self, outcome: CancelOutcome, queue: float, wire: float, read_back: float) -> None:
        assert self._emit is not None, "checked before, so that nothing is built in vain"
        self._emit(
            OutcomeReached(
                venue=self._venue, outcome=outcome, queue=queue, wire=wire, read_back=read_back
            )
        )
