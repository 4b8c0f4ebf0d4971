"""Thousands of cancels whose callers go at random moments, under random faults (`support.storm`)."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import pytest

from brokers.sms4sats import gateway as sms4sats_gateway
from brokers.tronsave import gateway as tronsave_gateway
from contract.ripio import RipioStage
from contract.sms4sats import Sms4SatsStage
from contract.stage import Ability
from contract.tronsave import TronSaveStage
from support import tally
from support.effort import either, sampled
from support.sms4sats import wall_of_the_loop
from support.storm import storming
from support.storm_remains import descriptors
from support.storm_weather import Climate
from tronsave_async import Evidence, RateLimit, Sent, Wire
from tronsave_async.cancels import Cancels
from tronsave_async.correlation import Pending
from tronsave_async.exchange import Exchange
from tronsave_async.http import HttpTransport
from tronsave_async.settlement import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from contract.stage import Stage
    from support.storm import Report
    from tronsave_async import CancelOutcome

    Break = Callable[[pytest.MonkeyPatch], None]

pytestmark = [pytest.mark.proof, pytest.mark.once, pytest.mark.virtual_time]

SEED: Final = 5

TENTHS: Final = 10

SLACK: Final = either(8, 32) << 20
"""Bytes that the allocator may keep to itself: some replies have 3 MB, and a longer storm has higher peaks."""

IN_USE: Final = 2 << 20
"""Bytes of larger things by which more may be in use: not even one of those replies."""

A_FEW: Final = 20
"""Objects of a kind by which there may be more: the latest request is remembered, and who shared it."""

BLOCKS: Final = 6_000
"""Blocks by which the interpreter's own caches may grow: less than one for each cancel."""


class Size(NamedTuple):
    """One storm."""

    kind: type[Stage]
    cancels: int


SIZES: Final = [
    Size(RipioStage, either(8_000, 40_000)),
    Size(TronSaveStage, either(8_000, 40_000)),
    Size(Sms4SatsStage, either(4_000, 20_000)),
]


@pytest.mark.timeout(either(600, 3_000))
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.kind.venue)
async def test_storm(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lie; each caller has one outcome, or its own CancelledError; every request is told exactly once; and nothing
    is left of it all: no task, no descriptor, no entry in a table, no memory."""
    keep_time(monkeypatch)
    tasks, open_before = asyncio.all_tasks(), descriptors()
    async with storming(size.kind, seed=SEED) as storm:
        await storm.squall(size.cancels // 20)  # caches fill up
        for _ in range(TENTHS):
            await storm.squall(size.cancels * 19 // 20 // TENTHS)
        await storm.squall(size.cancels // 20, closing=True)
    report = storm.report
    assert report.complaints == []
    assert report.wrong == 0
    assert asyncio.all_tasks() == tasks
    assert descriptors() == open_before
    assert_flat(report)
    assert report.cancels >= size.cancels
    assert report.outcomes.total() == report.cancels
    sent, lost = storm.ledger.kinds["Sent"], storm.ledger.lost_on_the_way.total()
    assert sent == report.requests + lost
    assert_stormy(report, size.kind)
    for kind, times in report.outcomes.items():
        tally.count(f"storm, {size.kind.venue}", kind, times)


def assert_flat(report: Report) -> None:
    """As much memory is held after the last tenth as after the first."""
    first, last = report.memory[1], report.memory[TENTHS]
    assert {kind: more for kind, more in last.grown(first).items() if more > A_FEW} == {}
    assert last.blocks - first.blocks < BLOCKS
    assert last.in_use - first.in_use < IN_USE
    assert last.resident - first.resident < SLACK


def assert_stormy(report: Report, kind: type[Stage]) -> None:
    """There was something to get wrong: every kind of outcome, callers who went at every stage, faults and gusts."""
    seldom = {"AlreadyClosed", "NotFound", "NotSent", "Unknown", "CancelledError"}
    if kind.cancels_per_request == 1 and kind.tells_canceled:  # elsewhere another's reply says no
        seldom.add("Refused")
    if Ability.AGE_RULE not in kind.lacks:
        seldom.add("TooEarly")
    assert min(report.outcomes[name] for name in seldom) > report.cancels / 2_000
    assert report.outcomes["Canceled"] > report.cancels / 3
    assert len(report.gone) == 4
    assert report.gone.total() > report.callers / 6
    assert len(report.faults) > 30
    assert report.faults.total() > report.requests / 20
    assert report.gusts["vendor restarted"] > 0
    assert report.gusts["way blocked"] > 0


def keep_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gateways' wall clocks go with the event loop's."""
    wall_of_the_loop(monkeypatch)
    wall: Any = sms4sats_gateway
    monkeypatch.setattr(tronsave_gateway, "datetime", wall.datetime)


# -- a storm finds what is broken ---------------------------------------------------------------------------------


def read_a_lost_reply_as_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that was not answered is called canceled."""

    def in_doubt(self: Case, *, look: bool) -> Any:
        return self._canceled(Evidence.REPLY, None, None, self._started)

    monkeypatch.setattr(Case, "_in_doubt", in_doubt)


def call_it_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that runs out of time is told that nothing was sent."""
    left_queue = Case.left_queue

    def unsent(self: Case, reached: Wire, **options: bool) -> None:
        left_queue(self, Wire.NOT_SENT, **options)

    monkeypatch.setattr(Case, "left_queue", unsent)


def forget_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost request is forgotten: what arrives late is not reckoned with."""
    monkeypatch.setattr(Case, "doubt", property(lambda self: False))


def count_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed request is no attempt."""
    failed = Case.failed

    def uncounted(self: Case, *args: Any) -> Any:
        self.attempts -= 1
        return failed(self, *args)

    monkeypatch.setattr(Case, "failed", uncounted)


def keep_the_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that did not leave does not give its permit back."""
    end = Exchange._end

    def kept(self: Exchange) -> Any:
        if self.departed_at is None:
            self._permit = None
        seconds: Any = end(self)
        return seconds

    monkeypatch.setattr(Exchange, "_end", kept)


def keep_it_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that was answered stays in the table."""
    match = Pending.match

    def kept(self: Pending[Any], key: str) -> Any:
        waiter = self._pending.get(key)
        matched = match(self, key)
        if waiter is not None:
            self._pending[key] = waiter
        return matched

    monkeypatch.setattr(Pending, "match", kept)


def tell_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is not told to telemetry."""

    def silent(self: Exchange, status: int) -> None:
        self.was_answered = True
        self._end()

    monkeypatch.setattr(Exchange, "answered", silent)


def tell_a_departure_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then a request is told to leave, and told again."""
    depart = Exchange.depart

    def twice(self: Exchange, seen: bool = True) -> None:
        depart(self, seen)
        if self.number % 20 == 0 and self._emit is not None:
            again = {"venue": self.venue, "request": self.number, "endpoint": self.endpoint}
            self._emit(Sent(**again, orders=self.orders, queue=0.0))  # type: ignore[arg-type]

    monkeypatch.setattr(Exchange, "depart", twice)


def tell_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of a cancel is not told to telemetry."""
    monkeypatch.setattr(Cancels, "report", lambda self, case: case.outcome)


def go_on_when_canceled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that is canceled is given an outcome."""
    cancel = Cancels.cancel

    async def swallowing(self: Cancels, order: Any, timeout: float | None) -> Any:
        try:
            return await cancel(self, order, timeout)
        except asyncio.CancelledError:
            case = self.open_case(order)
            case.give_up("canceled", 0.0)
            return self.report(case)

    monkeypatch.setattr(Cancels, "cancel", swallowing)


def invent_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose order is unknown is canceled."""
    report = Cancels.report

    def canceling(self: Cancels, case: Case) -> Any:
        outcome = report(self, case)
        if type(outcome).__name__ == "NotFound":
            raise asyncio.CancelledError
        return outcome

    monkeypatch.setattr(Cancels, "report", canceling)


def repeat_in_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP transport sends once more what was lost, as HTTP libraries do, and tells nobody."""
    exchange = HttpTransport._exchange

    async def twice(self: HttpTransport, attempt: Any) -> Any:
        try:
            return await exchange(self, attempt)
        except (aiohttp.ClientError, ConnectionError):
            attempt._departing = lambda seen: None
            return await exchange(self, attempt)

    monkeypatch.setattr(HttpTransport, "_exchange", twice)


def go_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limiter's windows have no length."""
    monkeypatch.setattr(RateLimit, "span", property(lambda self: 0.0))


def keep_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forgotten."""
    kept: list[Case] = []
    settle = Case._settle

    def keeping(self: Case, outcome: CancelOutcome) -> Any:
        kept.append(self)
        return settle(self, outcome)

    monkeypatch.setattr(Case, "_settle", keeping)


FOUND: Final[dict[Break, tuple[type[Stage], str]]] = {
    read_a_lost_reply_as_success: (TronSaveStage, "wrong about what became of the order"),
    call_it_unsent: (TronSaveStage, "wrong about .*that nothing was sent"),
    forget_doubt: (TronSaveStage, r"Refused\(.* is wrong about what became of the order"),
    count_short: (TronSaveStage, "wrong about how often it was tried"),
    keep_the_permit: (Sms4SatsStage, "never comes to rest: {.*permits in hand"),
    keep_it_pending: (RipioStage, "requests are pending, and"),
    tell_no_answer: (TronSaveStage, "has no end"),
    tell_a_departure_twice: (TronSaveStage, "telemetry told it as"),
    tell_no_outcome: (TronSaveStage, "telemetry was not told"),
    go_on_when_canceled: (TronSaveStage, "was canceled, and it went on"),
    invent_a_cancellation: (TronSaveStage, "nobody canceled the caller, and it was canceled"),
    repeat_in_secret: (Sms4SatsStage, "telemetry does not know it|NOT_SENT, and is Wire.MAYBE"),
    go_too_fast: (Sms4SatsStage, "the vendor rejected"),
}
"""What is broken, whose storm finds it, and in which words."""


@pytest.mark.parametrize("broken", sampled(list(FOUND), 7), ids=lambda broken: broken.__name__)
async def test_a_storm_finds(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a storm is to prove it can disprove."""
    kind, words = FOUND[broken]
    keep_time(monkeypatch)
    broken(monkeypatch)
    async with storming(kind, seed=SEED, climate=Climate(requests=100)) as storm:
        complaints, squalls = storm.report.complaints, 0
        while not any(re.search(words, sentence) for sentence in complaints):
            squalls += 1
            assert squalls < 10, complaints[:3]
            await storm.squall(300)


async def test_a_storm_finds_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lives longer than its call is counted."""
    keep_time(monkeypatch)
    keep_every_case(monkeypatch)
    async with storming(TronSaveStage, seed=SEED) as storm:
        for _ in range(2):
            await storm.squall(200)
    assert storm.report.memory[1].grown(storm.report.memory[0])["Case"] > 50
