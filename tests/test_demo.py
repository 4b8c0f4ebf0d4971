"""The demo: its judge, what it learns from telemetry, what it draws, and whole runs of it on virtual time."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from rich.console import Console

from brokers.demo import (
    Conduct,
    Fact,
    Line,
    Plan,
    Progress,
    Record,
    Report,
    Row,
    Stage,
    is_true,
    perform,
)
from brokers.demo_ripio import RipioStage
from brokers.demo_screen import Screen, open_console, show
from brokers.demo_tronsave import TronSaveStage
from brokers.tronsave import TronSaveGateway
from tronsave_async import (
    AlreadyClosed,
    Answered,
    Canceled,
    CancelOutcome,
    Connected,
    Disconnected,
    Evidence,
    Lost,
    NotFound,
    NotSent,
    OrderRef,
    OrderState,
    OutcomeReached,
    Penalized,
    Queued,
    RateLimited,
    RateLimiter,
    Refused,
    Retried,
    RetryPolicy,
    Sent,
    Stray,
    TooEarly,
    Unknown,
    Wire,
)
from tronsave_async import sandbox as faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tronsave_async import Event

ORDER = "6b010f9238b4e652f2269e0f"
OTHER = "6b010f9238b4e652f2269e10"
FACTS: dict[str, Any] = {
    "venue": "tronsave",
    "attempts": 1,
    "elapsed": 0.25,
    "wire": Wire.ANSWERED,
    "evidence": Evidence.REPLY,
}
ZERO, FULL = Decimal(0), Decimal(65_000)


def outcome(kind: type[CancelOutcome], order: str = ORDER, **fields: Any) -> CancelOutcome:
    """Return an outcome of a kind."""
    return kind(order=OrderRef(id=order), **(FACTS | fields))


def record(state: OrderState, word: str = "", **fields: Any) -> Record:
    """Return a vendor's record of an order."""
    amounts = {"executed": ZERO, "remaining": FULL}
    facts: dict[str, Any] = {"how": "", "ours": False, "asked": True} | amounts | fields
    return Record(state=state, word=word or state.value, **facts)


FILLED = record(OrderState.FILLED, "matched", how="in the race", executed=FULL, remaining=ZERO)
OURS = record(OrderState.CANCELED, ours=True)
THEIRS = record(OrderState.CANCELED)
HALF = Decimal(32_500)
HALVED = record(OrderState.CANCELED, how="beforehand", executed=HALF, remaining=HALF, ours=True)
HALVED_BY_THEM = HALVED._replace(ours=False)
OPEN = record(OrderState.OPEN, "pending")
UNSEEN = record(OrderState.OPEN, "pending", asked=False)
LATER = datetime(2030, 1, 1, tzinfo=UTC)


# --- the judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "book", "true"),
    [
        (outcome(Canceled, executed=ZERO), OURS, True),
        (outcome(Canceled), THEIRS, True),
        (outcome(Canceled, executed=FULL), OURS, False),
        (outcome(Canceled, remaining=FULL), OURS, True),
        (outcome(Canceled, executed=HALF, remaining=HALF), HALVED, True),
        (outcome(Canceled, executed=ZERO), HALVED, False),
        (outcome(Canceled, executed=HALF, remaining=FULL), HALVED, False),
        (outcome(Canceled, remaining=ZERO), OURS, False),
        (outcome(Canceled), FILLED, False),
        (outcome(Canceled), OPEN, False),
        (outcome(Canceled), None, False),
        (outcome(AlreadyClosed, state=OrderState.FILLED), FILLED, True),
        (outcome(AlreadyClosed, state=OrderState.FILLED, executed=ZERO), FILLED, False),
        (outcome(AlreadyClosed, state=OrderState.CANCELED), THEIRS, True),
        (outcome(AlreadyClosed, state=OrderState.CANCELED), OURS, False),
        (outcome(AlreadyClosed, state=OrderState.CANCELED), FILLED, False),
        (outcome(AlreadyClosed, state=OrderState.CANCELED, executed=HALF), HALVED_BY_THEM, True),
        (outcome(AlreadyClosed, state=OrderState.CANCELED, executed=ZERO), HALVED_BY_THEM, False),
        (outcome(AlreadyClosed, state=OrderState.CLOSED), FILLED, True),
        (outcome(AlreadyClosed, state=OrderState.CLOSED), THEIRS, True),
        (outcome(AlreadyClosed, state=OrderState.CLOSED, executed=HALF), HALVED_BY_THEM, True),
        (outcome(AlreadyClosed, state=OrderState.CLOSED, executed=ZERO), FILLED, False),
        (outcome(AlreadyClosed, state=OrderState.CLOSED), OURS, False),
        (outcome(AlreadyClosed, state=OrderState.CLOSED), OPEN, False),
        (outcome(NotFound), None, True),
        (outcome(NotFound), OPEN, False),
        (outcome(Refused), OPEN, True),
        (outcome(Refused), OURS, False),
        (outcome(TooEarly, retry_at=LATER), OPEN, True),
        (outcome(TooEarly, retry_at=LATER), UNSEEN, False),
        (outcome(NotSent), UNSEEN, True),
        (outcome(NotSent), OPEN, False),
        (outcome(Unknown), FILLED, True),
        (outcome(Unknown), None, True),
    ],
)
def test_the_judge_compares_an_outcome_with_the_record(
    told: CancelOutcome, book: Record | None, true: bool
) -> None:
    """Every outcome has claims that a record can refute; `Unknown` has none."""
    assert is_true(told, book) is true
    assert Row(told, book).is_lie is not true


# --- what telemetry tells -------------------------------------------------------------------------


def request(number: int = 1, orders: int = 2) -> dict[str, Any]:
    """Return what the events of one request share."""
    return {"venue": "tronsave", "request": number, "endpoint": "cancel", "orders": orders}


def test_progress_follows_a_request() -> None:
    """Queued, on the wire, answered: an order is in one place at a time."""
    progress = Progress(3)
    progress.conduct = lambda call, number: Conduct(f"{call} {number}")
    progress.hear(Queued(**request()))
    assert (progress.queued, progress.under_way, progress.waiting) == (1, 0, 3)
    progress.hear(Sent(**request(), queue=0.0))
    assert (progress.queued, progress.under_way, progress.on_wire, progress.waiting) == (0, 1, 2, 1)
    progress.hear(Answered(**request(), status=200, wire=0.05))
    reached = OutcomeReached(
        venue="tronsave", outcome=outcome(Canceled), queue=0.0, wire=0.05, read_back=0.0
    )
    progress.hear(reached)
    assert (progress.answered, progress.on_wire, progress.settled, progress.waiting) == (1, 0, 1, 2)
    assert progress.lines[0][1:] == ("cancel", 2, "200 in 50 ms", Conduct("cancel 0"))
    assert progress.sent == {"cancel": 1}


def test_progress_tells_a_lost_request_from_one_that_never_left() -> None:
    """Only what left gets a line."""
    progress = Progress(3)
    for number in (1, 2):
        progress.hear(Queued(**request(number)))
    progress.hear(Sent(**request(1), queue=0.0))
    progress.hear(Lost(**request(1), reason="gone", reached=Wire.MAYBE_SENT, wire=0.1))
    progress.hear(Lost(**request(2), reason="unwanted", reached=Wire.NOT_SENT, wire=0.0))
    progress.hear(Retried(venue="tronsave", endpoint="cancel", attempt=1, delay=0.1, reason="gone"))
    assert (progress.queued, progress.under_way, progress.lost) == (0, 0, 1)
    assert [line.saw for line in progress.lines] == ["no reply"]


def test_progress_adds_the_penalty_to_the_request_that_earned_it() -> None:
    """A 429 is told together with the pause that follows."""
    progress = Progress(3)
    progress.hear(Queued(**request()))
    progress.hear(Sent(**request(), queue=0.0))
    progress.hear(Answered(**request(), status=429, wire=0.03))
    progress.hear(Penalized(venue="tronsave", endpoint="cancel", seconds=3.0))
    assert [line.saw for line in progress.lines] == ["429 in 30 ms, wait 3 s"]


def test_progress_follows_the_connection() -> None:
    """It opens, it is lost with requests in flight, it opens again; a message comes that nobody asked for."""
    progress = Progress(3)
    progress.strays = {"late": "replied at last"}
    progress.hear(Connected(venue="ripio", connections=1))
    progress.hear(Disconnected(venue="ripio", reason="closed by the peer (1012)", pending=2))
    progress.hear(Connected(venue="ripio", connections=2))
    progress.hear(Stray(venue="ripio", kind="late"))
    progress.hear(Stray(venue="ripio", kind="binary"))
    assert [line[1:] for line in progress.lines] == [
        ("socket", 0, "open", Conduct("")),
        ("socket", 0, "lost, 2 in flight", Conduct("closed by the peer (1012)", is_usual=False)),
        ("socket", 0, "open again", Conduct("")),
        ("socket", 0, "stray message: late", Conduct("replied at last", is_usual=False)),
        ("socket", 0, "stray message: binary", Conduct("", is_usual=False)),
    ]


def test_progress_does_not_mind_the_end() -> None:
    """When every order is settled, the connection may go."""
    progress = Progress(1)
    progress.outcomes["Canceled"] = 1
    progress.hear(Disconnected(venue="ripio", reason="gateway closed", pending=0))
    assert progress.lines == []


# --- what is drawn --------------------------------------------------------------------------------

ROWS = [
    Row(outcome(Canceled, executed=ZERO), OURS),
    Row(
        outcome(
            AlreadyClosed,
            OTHER,
            state=OrderState.CANCELED,
            attempts=3,
            elapsed=112.34,
            evidence=Evidence.READ_BACK,
        ),
        record(OrderState.CANCELED, how="on the website"),
    ),
]
LIAR = Row(outcome(Canceled, "6b010f9238b4e652f2269e11"), FILLED)
DOUBT = Row(outcome(Unknown, "6b010f9238b4e652f2269e12", evidence=Evidence.NONE), None)


def report(*rows: Row, **fields: Any) -> Report:
    """Return the report of a run with these rows."""
    facts: dict[str, Any] = {"cancels": 2, "reads": 1, "elapsed": 4.5, "pace": 2.0}
    facts |= {"yardstick": "one by one", "refused_for_pace": 0}
    return Report(rows=rows, **(facts | fields))


def terminal(width: int, encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    """Return a colorless terminal of some columns, and what was written to it."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = Console(
        file=stream, width=width, force_terminal=True, color_system=None, _environ={}, **options
    )
    return console, raw


def drawn(result: Report, width: int, encoding: str = "utf-8") -> list[str]:
    """Return the lines of a report's picture."""
    console, raw = terminal(width, encoding)
    Screen(console).result(result)
    return raw.getvalue().decode(encoding).splitlines()


def test_the_result_fits_80_columns() -> None:
    """Ids are cut, and what happened to an order is left out: nothing else."""
    lines = drawn(report(*ROWS), 80)
    assert lines == [
        "",
        "  order    outcome                 proof      tries     time  record    true",
        "  …269e0f  Canceled                reply          1    0.2 s  canceled  ✓",
        "  …269e10  AlreadyClosed canceled  read-back      3  112.3 s  canceled  ✓",
        "",
        "            this run  one by one, computed",
        "  requests         3                     2  2 cancels + 1 read-back",
        "  time         4.5 s                 4.0 s  2 × 2 s, without any faults",  # noqa: RUF001
        "",
        "  ● Canceled 1  ◆ AlreadyClosed 1",
        "  ✓ 2 outcomes, 0 lies  each compared with the vendor's own record",
        "",
    ]


def test_the_result_is_complete_at_120_columns() -> None:
    """Whole ids, and what happened to an order."""
    lines = drawn(report(*ROWS), 120)
    assert f"  {ORDER}  Canceled                reply" in lines[2]
    assert lines[3].endswith("112.3 s  canceled on the website  ✓")


UUID = "D23F0824-128B-4F33-8C5C-7FD0A6A3A450"
EXCHANGED = [
    Row(outcome(Canceled, UUID, executed=HALF, attempts=2), HALVED),
    Row(
        outcome(AlreadyClosed, UUID, state=OrderState.FILLED, evidence=Evidence.READ_BACK),
        record(OrderState.FILLED, "executed_completely", how="in the race", executed=FULL),
    ),
]


@pytest.mark.parametrize(
    ("width", "first", "second"),
    [
        (
            80,
            "  …A3A450  Canceled, 32500 filled  reply          2  0.2 s  canceled    ✓",
            "  …A3A450  AlreadyClosed filled    read-back      1  0.2 s  executed_…  ✓",
        ),
        (
            110,
            "  …A3A450  Canceled, 32500 filled  reply          2  0.2 s  canceled, 32500 filled beforehand  ✓",
            "  …A3A450  AlreadyClosed filled    read-back      1  0.2 s  executed_completely in the race    ✓",
        ),
    ],
)
def test_what_was_filled_is_told(width: int, first: str, second: str) -> None:
    """By the client always, by the vendor's record where there is room: longer words take more of it."""
    lines = drawn(report(*EXCHANGED), width)
    assert lines[2:4] == [first, second]
    assert drawn(report(*EXCHANGED), 140)[2].startswith(f"  {UUID}  Canceled, 32500 filled")


def test_what_a_vendor_has_besides_is_told() -> None:
    """Below the costs, in the same columns."""
    facts = [Fact("sockets", "3", "2 reconnects"), Fact("signatures", "56", "no two alike")]
    lines = drawn(report(*ROWS, yardstick="one each", facts=facts), 80)
    assert lines[5:10] == [
        "              this run  one each, computed",
        "  requests           3                   2  2 cancels + 1 read-back",
        "  time           4.5 s               4.0 s  2 × 2 s, without any faults",  # noqa: RUF001
        "  sockets            3                      2 reconnects",
        "  signatures        56                      no two alike",
    ]


def test_long_names_of_calls_keep_the_columns() -> None:
    """Of such a call there are no orders to tell."""
    progress = Progress(2)
    stream = io.StringIO()
    with Screen(open_console(stream)).following(progress):
        progress.lines.append(Line(0.1, "server_time", 0, "200 in 30 ms", Conduct("processed")))
        progress.lines.append(Line(0.2, "cancel", 1, "200 in 31 ms", Conduct("processed")))
    first, second = stream.getvalue().splitlines()
    assert first.index("200") == second.index("200")
    assert first.index("processed") == second.index("processed")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_is_cut_off(width: int, encoding: str) -> None:
    """The widest rows end before the terminal does."""
    wide = report(*ROWS, *EXCHANGED, LIAR, DOUBT, refused_for_pace=3)
    lines = drawn(wide, width, encoding)
    assert max(map(len, lines)) < width


def test_lies_and_doubts_are_marked() -> None:
    """A lie is called a lie; an outcome that claims nothing gets no mark of truth."""
    lines = drawn(report(LIAR, DOUBT, refused_for_pace=1), 80)
    assert lines[2].endswith("matched in the race  ✗")
    assert lines[3].endswith("no order             -")
    assert "  too early         1                        refused by the meter" in lines
    assert any(line.startswith("  ✗ 2 outcomes, 1 lie ") for line in lines)
    assert any("? Unknown 1" in line for line in lines)


def test_a_stream_that_is_not_utf_8_gets_ascii() -> None:
    """Not a single sign that the stream could not encode."""
    lines = drawn(report(*ROWS, LIAR, DOUBT), 80, "ascii")
    assert lines[2].endswith("ok")
    assert lines[3].endswith("LIE")


def test_the_strip_has_a_sign_for_every_order() -> None:
    """Settled, on the wire, queued: together they are all."""
    progress = Progress(9)
    progress.outcomes.update(Canceled=4, Unknown=1)
    progress.on_wire = 2
    console, raw = terminal(80)
    console.print(Screen(console).strip(progress))
    lines = [line.strip() for line in raw.getvalue().decode().splitlines()]
    assert lines[1] == "●●●●?○○··"
    assert lines[3] == "● Canceled 4  ◆ AlreadyClosed 0  ? Unknown 1  ○ on the wire 2  · queued 2"


def test_requests_are_shown_once_and_accidents_in_color() -> None:
    """Each request has its line, with what both ends saw."""
    progress = Progress(2)
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, _environ={"TERM": "xterm"})
    screen = Screen(console)
    with screen.following(progress) as draw:
        progress.lines.append(
            Line(0.1, "cancel", 2, "no reply", Conduct("nothing", is_usual=False))
        )
        draw()
        draw()
    assert stream.getvalue().count("no reply") == 1
    assert "\x1b[35mno reply" in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_on_a_terminal_the_strip_is_below_the_lines() -> None:
    """It is drawn again under each new line, and gone in the end."""
    progress = Progress(2)
    console = Console(file=Terminal(), width=80, force_terminal=True, _environ={"TERM": "xterm"})
    with Screen(console).following(progress) as draw:
        draw()
        progress.lines.append(
            Line(0.1, "cancel", 2, "no reply", Conduct("nothing", is_usual=False))
        )
        draw()
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert text.index("queued 2") < text.index("no reply") < text.rindex("queued 2")
    assert "\x1b[?25h" in console.file.getvalue().removeprefix(text)  # type: ignore[attr-defined]


def test_whoever_stops_reading_is_noticed() -> None:
    """A broken pipe is an error that the command line knows, not the end of the interpreter."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        open_console(Broken()).print("anybody?")


# --- whole runs -----------------------------------------------------------------------------------

STAGES: list[type[Stage[Any, Any]]] = [TronSaveStage, RipioStage]
EVERY_STAGE = pytest.mark.parametrize("stage_of", STAGES)


async def played(stage_of: type[Stage[Any, Any]], plan: Plan) -> tuple[Report, Progress]:
    """Return the report of a whole run."""
    progress = Progress(plan.orders)
    async with stage_of(plan, progress.hear) as stage:
        return await perform(stage, progress), progress


@pytest.mark.virtual_time
@pytest.mark.parametrize(("stage_of", "most"), [(TronSaveStage, 30), (RipioStage, 75)])
@pytest.mark.parametrize("seed", range(6))
async def test_no_outcome_lies_whatever_befalls_the_requests(
    stage_of: type[Stage[Any, Any]], most: int, seed: int
) -> None:
    """The usual show at the documented pace: every outcome agrees with the vendor, in few requests."""
    orders = stage_of.usual_orders
    result, progress = await played(stage_of, Plan(orders=orders, seed=seed, faults=True))
    assert [row for row in result.rows if row.is_lie] == []
    assert result.outcomes.total() == progress.settled == orders
    assert result.outcomes["Unknown"] == 0
    assert result.cancels + result.reads < most
    assert any(not line.did.is_usual for line in progress.lines)


@pytest.mark.virtual_time
@EVERY_STAGE
async def test_without_faults_nothing_unusual_happens(stage_of: type[Stage[Any, Any]]) -> None:
    """Every request arrives and returns, and none comes too early."""
    result, progress = await played(stage_of, Plan(orders=24, seed=1, faults=False))
    assert [line for line in progress.lines if not line.did.is_usual] == []
    assert (result.lies, result.refused_for_pace) == (0, 0)


@pytest.mark.virtual_time
@EVERY_STAGE
@pytest.mark.parametrize("orders", [1, 2, 3, 500])
async def test_any_number_of_orders_will_do(stage_of: type[Stage[Any, Any]], orders: int) -> None:
    """The smallest and the largest that the command line admits."""
    result, _ = await played(stage_of, Plan(orders=orders, seed=7, faults=True))
    assert len(result.rows) == orders
    assert result.lies == 0


@pytest.mark.virtual_time
@EVERY_STAGE
async def test_the_same_seed_tells_the_same_story(stage_of: type[Stage[Any, Any]]) -> None:
    """The orders that end early, and the order of the accidents, are decided by the seed."""

    async def story(seed: int) -> tuple[list[str], list[str]]:
        plan = Plan(orders=60, seed=seed, faults=True)
        async with stage_of(plan, Progress(60).hear) as stage:
            orders = await stage.open_orders()
            records = [stage.record(order) for order in orders]
            accidents = [accident.conduct.words for accident in stage._script]
            return [record.how for record in records if record], accidents

    first, second, other = [await story(seed) for seed in (3, 3, 4)]
    assert first == second
    assert first[0] != other[0]
    assert first[1] != other[1]


@pytest.mark.virtual_time
async def test_the_stage_knows_what_its_vendor_did() -> None:
    """Also with requests that came too early or never, and with orders that do not exist."""
    plan = Plan(orders=1, seed=1, faults=False)
    async with TronSaveStage(plan, Progress(1).hear) as stage:
        [order] = await stage.open_orders()
        await stage.gateway.track([order])
        eager = TronSaveGateway(
            "sandbox-key",
            base_url=stage._simulator.url,
            limiter=RateLimiter(),
            retry=RetryPolicy(attempts=1),
        )
        async with eager:
            with pytest.raises(RateLimited):
                await eager.track([order])
        assert stage.conduct("create", 0) == Conduct("created 1 order")
        assert stage.conduct("track", 0) == Conduct("processed")
        assert stage.conduct("track", 1) == Conduct("nothing: 429, too early", is_usual=False)
        assert stage.conduct("track", 2) == Conduct("nothing: it never arrived", is_usual=False)
        assert stage.record("6b010f9238b4e652f2269e99") is None
        assert stage.refused_for_pace() == 1


@pytest.mark.virtual_time
async def test_the_exchange_shows_what_is_particular_about_it() -> None:
    """Signatures, one socket and its two ends, replies that nobody waits for, and partial fills."""
    result, progress = await played(RipioStage, Plan(orders=36, seed=7, faults=True))
    told = [
        (line.call, re.sub(r"(lost, [2-6]| in).*", "", line.saw), line.did.words)
        for line in progress.lines
    ]
    for line in [
        ("create", "400", "nothing: signed 20 s ago"),
        ("server_time", "200", "processed"),
        ("create", "200", "created 1 order"),
        ("socket", "", "connection broken"),
        ("socket", "", "closed by the peer (1012)"),
        ("socket", "stray message: event", "order_status, unasked"),
        ("socket", "stray message: malformed", "half a JSON"),
        ("socket", "stray message: late", "replied at last"),
        ("cancel", "no reply", "processed; replied late"),
        ("cancel", "no reply", "processed; reply lost"),
        ("cancel", "no reply", "processed; cut the socket"),
        ("cancel", "no reply", "nothing; planned close"),
        ("cancel", "500", "processed; said 500 first"),
        ("cancel", "400", "refused; filled it first"),
        ("cancel", "200", "processed; half filled"),
        ("cancel", "400", "refused: closed already"),
    ]:
        assert line in told
    assert told.count(("socket", "stray message: duplicate", "one reply too many")) == 2
    assert told.count(("socket", "open again", "")) == 2
    facts = {fact.name: (fact.number, fact.words) for fact in result.facts}
    assert facts["sockets"] == ("3", "2 reconnects")
    assert facts["signatures"][1] == "no two alike"
    partly = [
        row.outcome for row in result.rows if row.record and row.record.executed == HALF_OF_IT
    ]
    assert len(partly) >= 4
    assert {(type(each), each.executed) for each in partly} == {(Canceled, HALF_OF_IT)}  # type: ignore[union-attr]
    stories = {(row.record.word, row.record.how) for row in result.rows if row.record}
    assert {
        ("executed_completely", "beforehand"),
        ("executed_completely", "in the race"),
        ("canceled", "beforehand"),
        ("canceled", "in the race"),
        ("canceled", "meanwhile"),
        ("canceled", "on the website"),
        ("canceled", ""),
    } <= stories


HALF_OF_IT = Decimal("0.2")


@pytest.mark.virtual_time
async def test_the_exchange_knows_what_it_did() -> None:
    """Also with requests that came too early or never, and with orders that do not exist."""
    plan = Plan(orders=3, seed=1, faults=False)
    async with RipioStage(plan, Progress(3).hear) as stage:
        await stage.open_orders()
        sandbox = stage._simulator
        assert stage.conduct("order", 0) == Conduct("not arrived by then", is_usual=False)
        sandbox.faults.add(faults.rate_limited("cancel"))
        outcome = await stage.gateway.cancel(sandbox.add_order())
        assert isinstance(outcome, Canceled)
        snapshot = await stage.gateway.get_order(outcome.order)
        assert snapshot.state is OrderState.CANCELED
        assert stage.conduct("create", 1) == Conduct("created 1 order")
        assert stage.conduct("cancel", 0) == Conduct("nothing: 429, too early", is_usual=False)
        assert stage.conduct("cancel", 1) == Conduct("processed")
        assert stage.conduct("order", 0) == Conduct("processed")
        assert stage.record("no such order") is None
        assert stage.refused_for_pace() == 0


@EVERY_STAGE
@pytest.mark.parametrize("told", ["filled", "amount"])
async def test_an_outcome_that_lies_is_caught(
    stage_of: type[Stage[Any, Any]], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the orders are said to be what they are not."""
    plan = Plan(orders=4, seed=1, faults=False, pace=0.05)
    progress = Progress(4)
    async with stage_of(plan, progress.hear) as stage:
        meant = stage.gateway.cancel

        async def cancel(order: str, *, timeout: float | None) -> CancelOutcome:
            said = await meant(order, timeout=timeout)
            assert said.order.id is not None
            if told == "filled":
                return outcome(AlreadyClosed, said.order.id, state=OrderState.EXPIRED)
            return outcome(Canceled, said.order.id, executed=Decimal("0.1"))

        monkeypatch.setattr(stage.gateway, "cancel", cancel)
        result = await perform(stage, progress)
    assert result.lies == 2


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """A pipe, as far as the screen can tell."""
    with io.StringIO() as stream:
        yield stream


@pytest.mark.virtual_time
@EVERY_STAGE
async def test_the_whole_show_in_a_pipe(
    stage_of: type[Stage[Any, Any]], written: io.StringIO
) -> None:
    """Plain text, one line per request, one row per order, no control characters."""
    plan = Plan(orders=8, seed=7, faults=True)
    progress = Progress(8)
    stage = stage_of(plan, progress.hear)
    result = await show(stage, plan, progress, Screen(open_console(written)))
    text = written.getvalue()
    assert text.replace("\n", "").isprintable()
    assert all(text.count(str(row.outcome.order)) == 1 for row in result.rows)
    assert sum(line.split()[2:3] == ["cancel"] for line in text.splitlines()) == result.cancels
    assert "✓ 8 outcomes, 0 lies" in text
    assert all(line == line.rstrip() for line in text.splitlines())


@EVERY_STAGE
async def test_the_heading_fits_80_columns(stage_of: type[Stage[Any, Any]]) -> None:
    """Also with the largest number of orders."""
    plan = Plan(orders=500, seed=7, faults=True)
    console, raw = terminal(80)
    Screen(console).heading(plan, stage_of(plan, Progress(500).hear))
    assert "faults on · seed 7" in raw.getvalue().decode()


@EVERY_STAGE
async def test_a_canceled_show_closes_everything(stage_of: type[Stage[Any, Any]]) -> None:
    """The suite's own checks see no task and no socket left."""
    plan = Plan(orders=8, seed=7, faults=True)
    progress = Progress(8)
    with io.StringIO() as stream:
        async with anyio.create_task_group() as tasks:

            def listen(event: Event, /) -> None:
                progress.hear(event)
                if progress.settled:
                    tasks.cancel_scope.cancel()

            stage = stage_of(plan, listen)
            tasks.start_soon(show, stage, plan, progress, Screen(open_console(stream)))
    assert progress.settled < 8
