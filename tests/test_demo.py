"""The demo: its judge, what it learns from telemetry, what it draws, and whole runs of it on virtual time."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from rich.console import Console

from brokers.demo import Conduct, Line, Plan, Progress, Record, Report, Row, is_true, perform
from brokers.demo_screen import Screen, open_console, show
from brokers.demo_tronsave import TronSaveStage
from brokers.tronsave import TronSaveGateway
from tronsave_async import (
    AlreadyClosed,
    Answered,
    Canceled,
    CancelOutcome,
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
    TooEarly,
    Unknown,
    Wire,
)

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
    facts: dict[str, Any] = {"how": "", "executed": ZERO, "ours": False, "asked": True} | fields
    return Record(state=state, word=word or state.value, **facts)


FILLED = record(OrderState.FILLED, "matched", how="in the race", executed=FULL)
OURS = record(OrderState.CANCELED, ours=True)
THEIRS = record(OrderState.CANCELED)
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
        (outcome(Canceled), FILLED, False),
        (outcome(Canceled), OPEN, False),
        (outcome(Canceled), None, False),
        (outcome(AlreadyClosed, state=OrderState.FILLED), FILLED, True),
        (outcome(AlreadyClosed, state=OrderState.FILLED, executed=ZERO), FILLED, False),
        (outcome(AlreadyClosed, state=OrderState.CANCELED), THEIRS, True),
        (outcome(AlreadyClosed, state=OrderState.CANCELED), OURS, False),
        (outcome(AlreadyClosed, state=OrderState.CANCELED), FILLED, False),
        (outcome(AlreadyClosed, state=OrderState.CLOSED), FILLED, True),
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


def report(*rows: Row, refused: int = 0) -> Report:
    """Return the report of a run with these rows."""
    return Report(rows=rows, cancels=2, reads=1, elapsed=4.5, pace=2.0, refused_for_pace=refused)


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


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_is_cut_off(width: int, encoding: str) -> None:
    """The widest rows end before the terminal does."""
    wide = report(*ROWS, LIAR, DOUBT, refused=3)
    lines = drawn(wide, width, encoding)
    assert max(map(len, lines)) < width


def test_lies_and_doubts_are_marked() -> None:
    """A lie is called a lie; an outcome that claims nothing gets no mark of truth."""
    lines = drawn(report(LIAR, DOUBT, refused=1), 80)
    assert lines[2].endswith("matched   ✗")
    assert lines[3].endswith("no order  -")
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


async def played(plan: Plan) -> tuple[Report, Progress]:
    """Return the report of a whole run."""
    progress = Progress(plan.orders)
    async with TronSaveStage(plan, progress.hear) as stage:
        return await perform(stage, progress), progress


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(6))
async def test_no_outcome_lies_whatever_befalls_the_requests(seed: int) -> None:
    """60 orders at the documented pace: every outcome agrees with the vendor, in far fewer requests."""
    result, progress = await played(Plan(orders=60, seed=seed, faults=True))
    assert [row for row in result.rows if row.is_lie] == []
    assert result.outcomes.total() == progress.settled == 60
    assert result.outcomes["Unknown"] == 0
    assert result.cancels + result.reads < 30
    assert any(not line.did.is_usual for line in progress.lines)


@pytest.mark.virtual_time
async def test_without_faults_nothing_unusual_happens() -> None:
    """Every request arrives and returns, and none comes too early."""
    result, progress = await played(Plan(orders=24, seed=1, faults=False))
    assert [line for line in progress.lines if not line.did.is_usual] == []
    assert (result.lies, result.refused_for_pace) == (0, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("orders", [1, 2, 3, 500])
async def test_any_number_of_orders_will_do(orders: int) -> None:
    """The smallest and the largest that the command line admits."""
    result, _ = await played(Plan(orders=orders, seed=7, faults=True))
    assert len(result.rows) == orders
    assert result.lies == 0


@pytest.mark.virtual_time
async def test_the_same_seed_tells_the_same_story() -> None:
    """The orders that end early, and the accidents, are decided by the seed."""
    plan = Plan(orders=60, seed=3, faults=True)
    first, second = [await played(plan) for _ in range(2)]
    conducts = [
        [line.did for line in progress.lines if line.call == "cancel"][:5]
        for _, progress in (first, second)
    ]
    assert conducts[0] == conducts[1]


@pytest.mark.virtual_time
async def test_the_stage_knows_what_its_vendor_did() -> None:
    """Also with requests that came too early or never, and with orders that do not exist."""
    plan = Plan(orders=1, seed=1, faults=False)
    async with TronSaveStage(plan, Progress(1).hear) as stage:
        [order] = await stage.open_orders()
        await stage.gateway.track([order])
        eager = TronSaveGateway(
            "sandbox-key",
            base_url=stage._sandbox.url,
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


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """A pipe, as far as the screen can tell."""
    with io.StringIO() as stream:
        yield stream


@pytest.mark.virtual_time
async def test_the_whole_show_in_a_pipe(written: io.StringIO) -> None:
    """Plain text, one line per request, one row per order, no control characters."""
    plan = Plan(orders=8, seed=7, faults=True)
    progress = Progress(8)
    stage = TronSaveStage(plan, progress.hear)
    result = await show(stage, plan, progress, Screen(open_console(written)))
    text = written.getvalue()
    assert text.replace("\n", "").isprintable()
    assert all(text.count(str(row.outcome.order)) == 1 for row in result.rows)
    assert sum(line.split()[2:3] == ["cancel"] for line in text.splitlines()) == result.cancels
    assert "✓ 8 outcomes, 0 lies" in text
    assert all(line == line.rstrip() for line in text.splitlines())


async def test_a_canceled_show_closes_everything() -> None:
    """The suite's own checks see no task and no socket left."""
    plan = Plan(orders=8, seed=7, faults=True)
    progress = Progress(8)
    with io.StringIO() as stream:
        async with anyio.create_task_group() as tasks:

            def listen(event: Event, /) -> None:
                progress.hear(event)
                if progress.settled:
                    tasks.cancel_scope.cancel()

            stage = TronSaveStage(plan, listen)
            tasks.start_soon(show, stage, plan, progress, Screen(open_console(stream)))
    assert progress.settled < 8
