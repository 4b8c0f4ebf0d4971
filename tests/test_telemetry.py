"""Telemetry: one frozen event per fact, one hook, and nothing built when nobody listens."""

from __future__ import annotations

import asyncio
import json
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest

from tronsave_async import admission, backoff, cancels, exchange
from tronsave_async.admission import Meter
from tronsave_async.coalescing import Delivery
from tronsave_async.dispatch import Dispatcher
from tronsave_async.errors import ConnectionLost, RequestFailed
from tronsave_async.limiter import RateLimit, RateLimiter, Scope
from tronsave_async.orders import OrderRef, OrderSnapshot, OrderState
from tronsave_async.outcomes import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    Refused,
    Unknown,
    Wire,
)
from tronsave_async.retry import RetryPolicy
from tronsave_async.settlement import Meaning, Verdict
from tronsave_async.telemetry import (
    Answered,
    Connected,
    Disconnected,
    Event,
    LoggingHook,
    Lost,
    OutcomeReached,
    Penalized,
    Queued,
    Retried,
    Sent,
    Stray,
    TelemetryHook,
    emitter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tronsave_async.exchange import Exchange
    from tronsave_async.limiter import Lane

ORDER = OrderRef(id="673c17a3129f1881382e98e3")


def outcome(kind: type[CancelOutcome], **fields: Any) -> CancelOutcome:
    """Return an outcome of a kind."""
    return kind(
        order=ORDER,
        venue="venue",
        attempts=1,
        elapsed=0.5,
        wire=Wire.ANSWERED,
        evidence=Evidence.REPLY,
        message="grüße",
        **fields,
    )


def reached(kind: type[CancelOutcome], **fields: Any) -> OutcomeReached:
    """Return the event of an outcome."""
    return OutcomeReached(
        venue="venue", outcome=outcome(kind, **fields), queue=0.1, wire=0.2, read_back=0.0
    )


EVENTS: dict[str, Event] = {
    "queued": Queued(venue="venue", request=1, endpoint="cancel", orders=2),
    "sent": Sent(venue="venue", request=1, endpoint="cancel", orders=2, queue=0.5),
    "answered": Answered(
        venue="venue", request=1, endpoint="cancel", orders=2, status=200, wire=0.25
    ),
    "lost": Lost(
        venue="venue",
        request=1,
        endpoint="cancel",
        orders=2,
        reason="connection reset",
        reached=Wire.MAYBE_SENT,
        wire=0.25,
    ),
    "retried": Retried(venue="venue", endpoint="cancel", attempt=1, delay=0.5, reason="reset"),
    "penalized": Penalized(venue="venue", endpoint="cancel", seconds=2.0),
    "connected": Connected(venue="venue", connections=2),
    "disconnected": Disconnected(venue="venue", reason="closed by the peer (1001)", pending=3),
    "stray": Stray(venue="venue", kind="late"),
    "outcome": reached(Canceled, executed=Decimal("1.50")),
}

OUTCOMES: list[OutcomeReached] = [
    reached(Canceled),
    reached(AlreadyClosed, state=OrderState.FILLED),
    reached(NotFound),
    reached(Refused),
    reached(NotSent),
]


def test_every_event_is_here() -> None:
    """The union and these tests know the same events."""
    assert {type(event) for event in EVENTS.values()} == set(get_args(Event))


@pytest.mark.parametrize(("tag", "event"), EVENTS.items())
def test_an_event_is_frozen(tag: str, event: Event) -> None:
    """No listener can change what the next one sees."""
    for field in msgspec.structs.fields(event):
        with pytest.raises(AttributeError):
            setattr(event, field.name, None)
    assert hash(event) is not None
    assert tag


@pytest.mark.parametrize(("tag", "event"), EVENTS.items())
def test_an_event_is_tagged_json_and_back(tag: str, event: Event) -> None:
    """An event is one JSON object whose ``event`` says which, and reading it back gives the same event."""
    data = msgspec.json.encode(event)
    assert json.loads(data)["event"] == tag
    assert json.loads(data)["venue"] == "venue"
    assert msgspec.json.decode(data, type=Event) == event


@pytest.mark.parametrize("event", [*OUTCOMES, reached(Unknown)])
def test_the_event_of_an_outcome_carries_the_whole_outcome(event: OutcomeReached) -> None:
    """The outcome keeps its own tag inside the event's."""
    data = msgspec.json.encode(event)
    assert json.loads(data)["outcome"]["outcome"] == msgspec.to_builtins(event.outcome)["outcome"]
    assert msgspec.json.decode(data, type=Event) == event


LEVELS = {
    "queued": logging.DEBUG,
    "sent": logging.DEBUG,
    "answered": logging.DEBUG,
    "lost": logging.INFO,
    "retried": logging.INFO,
    "penalized": logging.WARNING,
    "connected": logging.DEBUG,
    "disconnected": logging.INFO,
    "stray": logging.INFO,
    "outcome": logging.INFO,
}


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    """Return the lines of the SDK's logger and of the test's."""
    names = ("tronsave_async", "bot")
    return [
        (record.name, record.levelno, record.getMessage())
        for record in caplog.records
        if record.name in names
    ]


@pytest.mark.parametrize(
    ("event", "level"),
    [
        *((EVENTS[tag], level) for tag, level in LEVELS.items()),
        *((event, logging.INFO) for event in OUTCOMES),
        (reached(Unknown), logging.WARNING),
    ],
)
def test_the_level_of_a_log_line(
    caplog: pytest.LogCaptureFixture, event: Event, level: int
) -> None:
    """What needs a human is a warning, what went wrong is information, the rest is for debugging."""
    caplog.set_level(logging.DEBUG, logger="tronsave_async")
    LoggingHook()(event)
    assert logged(caplog) == [("tronsave_async", level, str(event))]


def test_a_logger_of_one_s_own(caplog: pytest.LogCaptureFixture) -> None:
    """Events go to the logger that was given, and to no other."""
    caplog.set_level(logging.DEBUG, logger="bot")
    hook: TelemetryHook = LoggingHook(logging.getLogger("bot"))
    hook(EVENTS["penalized"])
    assert [line[:2] for line in logged(caplog)] == [("bot", logging.WARNING)]


def test_a_line_that_nobody_reads_is_not_formatted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the logger's level an event costs nothing but the look."""
    logger = logging.getLogger("bot")
    caplog.set_level(logging.WARNING, logger="bot")
    monkeypatch.setattr(logger, "log", None)
    for tag, level in LEVELS.items():
        if level < logging.WARNING:
            LoggingHook(logger)(EVENTS[tag])


# -- the way to a hook -----------------------------------------------------------------------------


def test_nobody_is_told_where_nobody_listens() -> None:
    """Without a hook there is nothing to call, so that no event need be built."""
    assert emitter(None) is None


async def test_a_hook_is_told_each_event_as_it_is() -> None:
    """An event reaches the hook at once, unchanged, and once."""
    events: list[Event] = []
    emit = emitter(events.append)
    assert emit is not None
    for event in EVENTS.values():
        emit(event)
        assert events.pop() is event
        assert events == []


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), asyncio.CancelledError("a bug")])
async def test_what_a_hook_raises_ends_with_the_hook(
    error: BaseException, loop_errors: list[str]
) -> None:
    """The event loop's exception handler is told, with the hook named, and the next event comes."""
    events: list[Event] = []

    def hook(event: Event, /) -> None:
        events.append(event)
        raise error

    emit = emitter(hook)
    assert emit is not None
    emit(EVENTS["stray"])
    emit(EVENTS["connected"])
    assert events == [EVENTS["stray"], EVENTS["connected"]]
    assert all("telemetry hook raised" in report for report in loop_errors)
    assert len(loop_errors) == 2
    loop_errors.clear()


# -- through a gateway's dispatcher ----------------------------------------------------------------


class Reply:
    """A reply of the fake vendor."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.body = b""

    def retry_after(self) -> float | None:
        return None


class Transport:
    """A transport that plays a script: a status, or a lost connection."""

    def __init__(self, script: list[int | RequestFailed]) -> None:
        self.script = script

    async def send(
        self,
        *,
        departing: Callable[[bool], None],
    ) -> Reply:
        departing(True)
        await asyncio.sleep(0)
        step = self.script.pop(0)
        if isinstance(step, RequestFailed):
            raise step
        return Reply(step)

    async def aclose(self) -> None:
        """Nothing to close."""


LOST = ConnectionLost("venue", "cancel", "connection reset", wire=Wire.MAYBE_SENT)


async def cancel_after_trouble(hook: TelemetryHook | None) -> CancelOutcome:
    """Cancel at a vendor that rejects a request, loses the next, shows the order open, and then cancels."""
    transport = Transport([429, LOST, 200])
    dispatcher = Dispatcher(
        "venue",
        meters={"cancel": Meter(Scope("venue", "account", "cancel"), RateLimit(100, per=2.0))},
        transports=(transport,),
        limiter=RateLimiter(),
        retry=RetryPolicy(base=0.01),
        telemetry=hook,
    )

    async def send(keys: Sequence[str], exchange: Exchange) -> Mapping[str, Verdict]:
        reply = await dispatcher.admission.carry(
            exchange, transport.send(departing=exchange.depart)
        )
        meaning = Meaning.NOT_PROCESSED if reply.status == 429 else Meaning.CANCELED
        return dict.fromkeys(keys, Verdict(meaning=meaning))

    async def read_back(order: OrderRef, lane: Lane) -> Delivery[OrderSnapshot]:
        snapshot = OrderSnapshot(order=order, venue="venue", state=OrderState.OPEN)
        return Delivery(dispatcher.admission.open_exchange("cancel", 1), snapshot, None)

    batcher = dispatcher.batcher("cancel", maximum=5, send=send, join_departed=True)
    dispatcher.settle_with(batcher, read_back, str)
    try:
        return await dispatcher.cancels.cancel(ORDER, None)
    finally:
        await dispatcher.aclose()


@pytest.mark.virtual_time
async def test_every_fact_is_told_once() -> None:
    """Waits, departures, replies, losses, pauses, penalties and the outcome come in the order in which they happen."""
    events: list[Event] = []
    outcome = await cancel_after_trouble(events.append)
    assert [type(event).__name__ for event in events] == [
        *("Queued", "Sent", "Answered", "Penalized"),
        *("Queued", "Sent", "Lost"),
        *("Retried", "Queued"),
        *("Queued", "Sent", "Answered"),
        "OutcomeReached",
    ]
    last = events[-1]
    assert isinstance(last, OutcomeReached)
    assert last.outcome is outcome
    assert isinstance(outcome, Canceled)


@pytest.mark.virtual_time
async def test_nothing_is_built_without_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole cancel with its troubles makes no event where nobody listens."""

    def build(**_: object) -> None:
        raise AssertionError("an event was built for nobody")

    for module, names in (
        (exchange, ("Queued", "Sent", "Answered", "Lost")),
        (backoff, ("Retried",)),
        (admission, ("Penalized",)),
        (cancels, ("OutcomeReached",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, build)
    assert isinstance(await cancel_after_trouble(None), Canceled)


@pytest.mark.virtual_time
async def test_a_hook_that_raises_harms_no_order(loop_errors: list[str]) -> None:
    """What a hook raises goes to the event loop's exception handler and never to an outcome."""

    def hook(event: Event, /) -> None:
        raise ZeroDivisionError("the hook's own bug")

    assert isinstance(await cancel_after_trouble(hook), Canceled)
    assert loop_errors
    assert all("the hook's own bug" in report for report in loop_errors)
    loop_errors.clear()
