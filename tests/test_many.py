"""Many cancels at once: one outcome per order, in order, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tronsave_async.cancels import Opening
from tronsave_async.coalescing import Delivery
from tronsave_async.errors import AuthenticationRejected
from tronsave_async.exchange import Exchange
from tronsave_async.many import CancelMany
from tronsave_async.orders import OrderRef
from tronsave_async.outcomes import Canceled, NotSent, Unknown, Wire
from tronsave_async.settlement import Case, Doubts, Meaning, Step, Verdict, canceled_at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.outcomes import CancelOutcome

ADVANCE = Opening(not_before=datetime(2026, 1, 2, tzinfo=UTC))
CANCELED = Verdict(meaning=Meaning.CANCELED)
AGAIN = Verdict(meaning=Meaning.NOT_PROCESSED)
REJECTED = Verdict(
    meaning=Meaning.ACCOUNT, error=AuthenticationRejected("v", "cancel", status=401, text="key")
)


class Wanted:
    """A place in the next request."""

    def __init__(self, deliver: Callable[[Delivery[Verdict]], None]) -> None:
        self.deliver = deliver
        self.joined_at = 5.0
        self.taken = False
        self.left = False
        self.is_open = True


class Desk:
    """A dispatcher that waits for the test: what is wanted, what has a task, what was reported."""

    def __init__(self, *, hurries: bool = False) -> None:
        self.hurries = hurries
        """A first success is told without a case."""
        self.cases: dict[str, Case] = {}
        self.wanted: dict[str, Wanted] = {}
        self.working: dict[str, asyncio.Future[Verdict]] = {}
        self.reported: list[str] = []
        self.joined: list[float] = []
        self.deadlines: list[float | None] = []
        self.fault: Exception | None = None
        self.at_once: dict[str, Verdict] = {}
        """What is delivered in the step in which it is wanted."""
        self.doubts = Doubts()

    def open_case(self, order: OrderRef, started: float) -> Case:
        """Open a case."""
        case = Case(order, "v", started=started, attempts=3, doubts=self.doubts)
        self.cases[str(order)] = case
        return case

    def join(
        self, order: OrderRef, deliver: Callable[[Delivery[Verdict]], None], now: float
    ) -> Wanted:
        """Give an order a place."""
        wanted = self.wanted[str(order)] = Wanted(deliver)
        if (verdict := self.at_once.get(str(order))) is not None:
            self.answer(str(order), verdict)
        return wanted

    def success(
        self, order: OrderRef, delivery: Delivery[Verdict], started: float
    ) -> CancelOutcome | None:
        """Tell of an order that its first request canceled."""
        if self.fault is not None or not self.hurries or delivery.value is not CANCELED:
            return None
        self.reported.append(str(order))
        return canceled_at_once(order, "v", delivery.value, 0.0)

    def leave(self, case: Case, ticket: Wanted, delivery: None) -> None:
        """Take a case's place away."""
        assert ticket is self.wanted[str(case.order)]
        assert delivery is None
        ticket.left = True
        case.left_queue(Wire.MAYBE_SENT if ticket.taken else Wire.NOT_SENT, tried=ticket.taken)

    def digest(self, case: Case, delivery: Delivery[Verdict], joined_at: float) -> Step:
        """Tell a case what was delivered."""
        if self.fault is not None:
            raise self.fault
        self.joined.append(joined_at)
        assert delivery.value is not None
        return case.answered(delivery.value, 0.0)

    async def settle(self, case: Case, step: Step) -> None:
        """Carry a case on when the test says how it ends."""
        assert step is Step.SEND
        name = str(case.order)
        answer = self.working[name] = asyncio.get_running_loop().create_future()
        case.answered(await answer, 0.0)

    async def begin(self, case: Case, opening: Opening, deadline: float | None) -> None:
        """Carry a case from its opening."""
        self.deadlines.append(deadline)
        await self.settle(case, opening.step if opening.step is Step.SEND else Step.SEND)

    def report(self, case: Case) -> CancelOutcome:
        """Tell whoever listens."""
        assert case.outcome is not None
        self.reported.append(str(case.order))
        return case.outcome

    def answer(self, name: str, verdict: Verdict, *, departed: bool = True) -> None:
        """Deliver the answer to a request."""
        exchange = Exchange(1, "v", "cancel", 1, 0.0, lambda: 0.0, None)
        if departed:
            exchange.depart()
        self.wanted[name].is_open = False
        self.wanted[name].deliver(Delivery(exchange, verdict, None, 0))


class Call:
    """One ``cancel_many``."""

    def __init__(
        self,
        desk: Desk,
        names: str,
        *,
        openings: dict[str, Opening] | None = None,
        unusable: str = "",
        on_outcome: Callable[[CancelOutcome], object] | None = None,
        deadline: float | None = None,
    ) -> None:
        given: Any = desk
        self.many = CancelMany(given, [OrderRef(id=name) for name in names], on_outcome)
        self.running = asyncio.create_task(
            self.many.run(
                lambda order: f"{order} cannot be sent" if str(order) in unusable else None,
                lambda order: (openings or {}).get(str(order), Opening()),
                deadline,
            )
        )

    async def outcomes(self) -> list[CancelOutcome]:
        """Wait for the end, and leave as the dispatcher does."""
        await self.running
        await self.many.withdraw("not needed")
        return self.many.outcomes()


async def turns() -> None:
    """Let everything happen that is ready to."""
    for _ in range(5):
        await asyncio.sleep(0)


def names_of(outcomes: list[CancelOutcome]) -> str:
    """Return the orders of outcomes, in order."""
    return "".join(str(outcome.order) for outcome in outcomes)


@pytest.mark.parametrize("hurries", [False, True])
async def test_one_outcome_per_order_in_order(hurries: bool) -> None:
    """Whatever the order of the answers; each is told when it is there, once."""
    desk = Desk(hurries=hurries)
    told: list[CancelOutcome] = []
    call = Call(desk, "abc", on_outcome=told.append)
    await turns()
    assert not call.running.done()
    for name in "cab":
        desk.answer(name, CANCELED)
    outcomes = await call.outcomes()
    assert names_of(outcomes) == "abc"
    assert all(isinstance(outcome, Canceled) for outcome in outcomes)
    assert names_of(told) == "".join(desk.reported) == "cab"
    assert desk.joined == [case._started for case in desk.cases.values()]
    assert len(desk.cases) == (0 if hurries else 3), "a case is opened only where it is needed"


async def test_an_end_in_the_step_in_which_an_order_is_wanted_is_an_end() -> None:
    """As where the gateway is closed by whoever hears of the request: nobody leaves what was delivered to."""
    desk = Desk()
    desk.at_once = {"a": CANCELED, "c": AGAIN}
    call = Call(desk, "abc")
    await turns()
    call.running.cancel()
    await call.many.withdraw("out of time")
    a, b, c = call.many.outcomes()
    assert [type(outcome) for outcome in (a, b, c)] == [Canceled, NotSent, Unknown]
    assert [desk.wanted[name].left for name in "abc"] == [False, True, False]


async def test_what_is_sent_meanwhile_is_not_spared() -> None:
    """Whoever is told that one was spared may let another leave: that is waited for, and not called unsent."""
    desk = Desk(hurries=True)

    def depart(outcome: CancelOutcome) -> None:
        desk.wanted["c"].taken = True

    call = Call(desk, "abc", on_outcome=depart)
    await turns()
    desk.answer("a", REJECTED)
    assert [desk.wanted[name].left for name in "abc"] == [False, True, False]
    desk.answer("c", CANCELED)
    assert [type(o) for o in await call.outcomes()] == [Unknown, NotSent, Canceled]


async def test_one_that_leaves_may_end_the_others() -> None:
    """Whoever is told of one outcome may close the gateway, in the middle of all leaving."""
    desk = Desk()

    def close(outcome: CancelOutcome) -> None:
        for name in "bc":
            if desk.wanted[name].is_open:
                desk.answer(name, AGAIN)

    call = Call(desk, "abc", on_outcome=close)
    await turns()
    call.running.cancel()
    await call.many.withdraw("out of time")
    assert names_of(call.many.outcomes()) == "abc"
    assert sorted(desk.reported) == ["a", "b", "c"]


async def test_one_that_is_spared_may_end_the_others() -> None:
    """Nor is an order that ends in the middle of sparing the rest left."""
    desk = Desk(hurries=True)

    def close(outcome: CancelOutcome) -> None:
        if desk.wanted["c"].is_open:
            desk.answer("c", CANCELED)

    call = Call(desk, "abc", on_outcome=close)
    await turns()
    desk.answer("a", REJECTED)
    outcomes = await call.outcomes()
    assert [type(outcome) for outcome in outcomes] == [Unknown, NotSent, Canceled]
    assert [desk.wanted[name].left for name in "abc"] == [False, True, False]


async def test_no_orders_no_wait() -> None:
    """Nothing asked for is done at once."""
    assert await Call(Desk(), "").outcomes() == []


async def test_what_cannot_be_sent_harms_no_other() -> None:
    """A bad id is told as such, at once, and the others are canceled."""
    desk = Desk()
    call = Call(desk, "abc", unusable="b")
    await turns()
    assert sorted(desk.wanted) == ["a", "c"]
    desk.answer("a", CANCELED)
    desk.answer("c", CANCELED)
    first, second, third = await call.outcomes()
    assert isinstance(second, NotSent)
    assert second.message == "b cannot be sent"
    assert isinstance(first, Canceled)
    assert isinstance(third, Canceled)
    assert desk.reported == ["b", "a", "c"]


@pytest.mark.parametrize("opening", [ADVANCE, Opening(Step.READ_BACK)])
async def test_what_does_not_begin_with_the_cancel_has_its_own_task(opening: Opening) -> None:
    """A wait, or a look at the order, holds nobody up; the caller's deadline is known to it."""
    desk = Desk()
    call = Call(desk, "ab", openings={"a": opening}, deadline=99.0)
    await turns()
    assert (list(desk.wanted), list(desk.working), desk.deadlines) == (["b"], ["a"], [99.0])
    desk.answer("b", CANCELED)
    await turns()
    assert not call.running.done()
    desk.working["a"].set_result(CANCELED)
    assert names_of(await call.outcomes()) == "ab"


async def test_what_the_first_request_does_not_settle_gets_a_task() -> None:
    """The others do not wait for it."""
    desk = Desk()
    call = Call(desk, "ab")
    await turns()
    desk.answer("a", AGAIN)
    desk.answer("b", CANCELED)
    await turns()
    assert desk.reported == ["b"]
    desk.working["a"].set_result(CANCELED)
    first, _ = await call.outcomes()
    assert isinstance(first, Canceled)
    assert first.attempts == 2


async def test_whoever_withdraws_has_every_outcome() -> None:
    """Out of time: what waits was not sent, what is under way is unknown, what has a task ends, what is known stays."""
    desk = Desk()
    call = Call(desk, "abcd", openings={"c": ADVANCE})
    await turns()
    desk.answer("a", CANCELED)
    desk.wanted["b"].taken = True
    call.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.running
    await call.many.withdraw("out of time")
    a, b, c, d = call.many.outcomes()
    assert [type(outcome) for outcome in (a, b, c, d)] == [Canceled, Unknown, NotSent, NotSent]
    assert [outcome.message for outcome in (b, c, d)] == ["out of time"] * 3
    assert [desk.wanted[name].left for name in "abd"] == [False, True, True]
    assert desk.working["c"].cancelled()
    assert sorted(desk.reported) == ["a", "b", "c", "d"]


async def test_a_case_whose_task_is_canceled_has_its_outcome() -> None:
    """Whoever cancels all tasks of the program does not leave the caller waiting."""
    desk = Desk()
    others = asyncio.all_tasks()
    call = Call(desk, "a", openings={"a": ADVANCE})
    await turns()
    (task,) = asyncio.all_tasks() - others - {call.running}
    task.cancel()
    (outcome,) = await call.outcomes()
    assert isinstance(outcome, NotSent)
    assert outcome.message == "its task was canceled"


async def test_a_fault_of_ours_leaves_nobody_waiting() -> None:
    """The case ends with what is proved, as one that was tried; the fault is raised where it happened."""
    desk = Desk()
    call = Call(desk, "ab")
    await turns()
    desk.fault = LookupError("a bug")
    with pytest.raises(LookupError, match="a bug"):
        desk.answer("a", CANCELED)
    desk.fault = None
    desk.answer("b", CANCELED)
    first, second = await call.outcomes()
    assert isinstance(first, Unknown)
    assert (first.message, first.wire, first.attempts) == ("an internal error", Wire.MAYBE_SENT, 1)
    assert isinstance(second, Canceled)


# -- the account --------------------------------------------------------------------------------------------------


async def test_an_account_that_is_rejected_is_an_error_if_nothing_else_happened() -> None:
    """It is raised as a copy of its own, and what was not sent stays unsent, told to nobody as an outcome."""
    desk = Desk()
    told: list[CancelOutcome] = []
    call = Call(desk, "abc", on_outcome=told.append)
    await turns()
    desk.answer("b", REJECTED)
    await call.running
    assert [desk.wanted[name].left for name in "abc"] == [True, False, True]
    with pytest.raises(AuthenticationRejected, match="key") as caught:
        call.many.outcomes()
    assert caught.value is not REJECTED.error
    assert {name: case.outcome and case.outcome.message for name, case in desk.cases.items()} == {
        "a": "not sent: the account was rejected",
        "b": None,
        "c": "not sent: the account was rejected",
    }
    assert names_of(told) == "ac"


async def test_what_is_under_way_when_the_account_is_rejected_is_waited_for() -> None:
    """It may have been done: its outcome counts, and then the rejected order has one as well."""
    desk = Desk()
    told: list[CancelOutcome] = []
    call = Call(desk, "abc", on_outcome=told.append)
    await turns()
    desk.wanted["c"].taken = True
    desk.answer("a", REJECTED)
    await turns()
    assert not call.running.done()
    assert [desk.wanted[name].left for name in "bc"] == [True, False]
    desk.answer("c", CANCELED)
    first, second, third = await call.outcomes()
    assert isinstance(first, Unknown)
    assert isinstance(second, NotSent)
    assert isinstance(third, Canceled)
    assert names_of(told) == "bca", "the rejected one when it is certain that nothing is raised"


async def test_the_cause_of_the_accounts_error_is_kept() -> None:
    """Whoever looks for the reason finds it."""
    error = AuthenticationRejected("v", "cancel", status=401, text="key")
    error.__cause__ = LookupError("why")
    desk = Desk()
    call = Call(desk, "a")
    await turns()
    desk.answer("a", Verdict(meaning=Meaning.ACCOUNT, error=error))
    with pytest.raises(AuthenticationRejected) as caught:
        await call.outcomes()
    assert caught.value.__cause__ is error.__cause__


async def test_a_callback_that_raises_harms_no_order(loop_errors: list[str]) -> None:
    """It is the caller's own: the outcomes are complete, and the event loop is told."""
    desk = Desk()

    def fails(_: CancelOutcome) -> None:
        raise LookupError("the caller's bug")

    call = Call(desk, "ab", on_outcome=fails)
    await turns()
    desk.answer("a", CANCELED)
    desk.answer("b", CANCELED)
    assert names_of(await call.outcomes()) == "ab"
    assert len(loop_errors) == 2
    loop_errors.clear()
