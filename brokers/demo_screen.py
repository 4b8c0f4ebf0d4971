"""What the demo looks like: one line per request as it ends, a moving strip of orders, a table, the totals.

On a terminal the strip lives below the lines and goes when all is over. Into a pipe the same lines are written as
plain text, without colors and without the strip. Streams that are not UTF-8 get ASCII.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from tronsave_async import AlreadyClosed, Canceled, Evidence, OrderState, Unknown

from .demo import counted, perform

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from rich.console import RenderableType

    from tronsave_async import CancelOutcome

    from .demo import Plan, Progress, Record, Report, Row, Stage

__all__ = ["Glyphs", "Screen", "open_console", "show"]

TICK: Final = 0.1
"""Seconds between two pictures."""
MARGIN: Final = "  "
SHORT: Final = 10
"""Columns for the vendor's word where there is little room."""

HUES: Final = {
    "Canceled": "green",
    "AlreadyClosed": "cyan",
    "NotFound": "magenta",
    "TooEarly": "magenta",
    "Refused": "magenta",
    "NotSent": "magenta",
    "Unknown": "bold magenta",
}
PROOFS: Final = {Evidence.REPLY: "reply", Evidence.READ_BACK: "read-back", Evidence.NONE: "none"}


class Glyphs(NamedTuple):
    """The signs that are not ASCII, and what stands in for them."""

    canceled: str = "●"
    closed: str = "◆"
    other: str = "?"
    wire: str = "○"
    waiting: str = "·"
    dot: str = "·"
    cut: str = "…"
    true: str = "✓"
    lie: str = "✗"
    times: str = "\u00d7"

    def of(self, kind: str) -> str:
        """The sign of an outcome."""
        return {"Canceled": self.canceled, "AlreadyClosed": self.closed}.get(kind, self.other)


ASCII: Final = Glyphs(
    canceled="#",
    closed="x",
    wire=">",
    waiting=".",
    dot="-",
    cut="..",
    true="ok",
    lie="LIE",
    times="x",
)


class _DemoConsole(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: the command line knows what to do."""
        raise BrokenPipeError


def open_console(file: IO[str] | None = None) -> Console:
    """A console on a stream, by default the standard output."""
    return _DemoConsole(file=file, highlight=False, markup=False, emoji=False)


class Screen:
    """Draws the demo.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._glyphs = ASCII if console.options.ascii_only else Glyphs()
        self._shown = 0

    def heading(self, plan: Plan, stage: Stage[Any, Any]) -> None:
        """Say what is going to be shown."""
        faults = "faults on" if plan.faults else "faults off"
        terms = [counted(plan.orders, "order"), stage.terms, faults, f"seed {plan.seed}"]
        self._print(
            Text(),
            Text(f"{stage.vendor}, simulated on this machine", style="bold"),
            Text(f" {self._glyphs.dot} ".join(terms), style="dim"),
            Text(),
            _in_columns("time", "call", "orders", "the client saw", "the vendor did", style="dim"),
        )

    @contextmanager
    def following(self, progress: Progress) -> Iterator[Callable[[], None]]:
        """Yield what is to be called for each picture; on a terminal the strip is there as long as the block lasts."""
        if self._console.is_dumb_terminal or not self._console.file.isatty():
            yield lambda: self._print_lines(progress)
            self._print_lines(progress)
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def draw() -> None:
                self._print_lines(progress)
                live.update(self.strip(progress), refresh=True)

            yield draw
            self._print_lines(progress)

    def strip(self, progress: Progress) -> RenderableType:
        """The orders as signs, with their legend and the requests so far."""
        glyphs = self._glyphs
        parts = [(glyphs.of(kind), HUES[kind], kind, n) for kind, n in _in_order(progress)]
        parts.append((glyphs.wire, "bold", "on the wire", progress.on_wire))
        parts.append((glyphs.waiting, "dim", "queued", progress.waiting))
        signs, legend = Text(overflow="fold"), Text()
        for sign, hue, name, number in parts:
            signs.append(sign * number, hue)
            legend.append(f"{sign} ", hue).append(f"{name} {number}  ")
        below = [_cropped(legend), _cropped(self._requests(progress))]
        return Padding(Group(Text(), signs, Text(), *below), (0, 2))

    def result(self, report: Report) -> None:
        """Show what became of every order, and the totals."""
        blank = Text()
        self._print(blank, *self._table(report), blank, *self._cost(report), blank)
        self._print(self._kinds(report), self._truth(report), blank)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _print(self, *texts: Text) -> None:
        """Write whole lines into a pipe, and what fits on a terminal."""
        for text in texts:
            line = Text(MARGIN).append_text(text)
            line.rstrip()
            if self._console.is_terminal:
                self._console.print(line, no_wrap=True, overflow="crop")
            else:
                self._console.print(line, soft_wrap=True)

    def _print_lines(self, progress: Progress) -> None:
        lines, self._shown = progress.lines[self._shown :], len(progress.lines)
        for line in lines:
            seen = line.saw, line.did.words
            text = _in_columns(f"{line.at:.1f} s", line.call, str(line.orders or ""), *seen)
            if not line.did.is_usual:
                text.stylize("magenta", BOTH_ENDS)
            self._print(text)

    def _requests(self, progress: Progress) -> Text:
        counts = [
            f"{progress.queued} queued",
            f"{progress.under_way} on the wire",
            f"{progress.answered} answered",
            f"{progress.lost} lost",
        ]
        clock = f"{progress.elapsed:.1f} s"
        return Text(f"{clock} {self._glyphs.dot} requests: {', '.join(counts)}", style="dim")

    def _table(self, report: Report) -> list[Text]:
        """One row for each order, in the order in which they were settled: as much as fits on a terminal."""
        rows = self._rows(report, is_whole=True, has_story=True)
        for has_story in (True, False):
            if (
                not self._console.is_terminal
                or rows[0].cell_len + len(MARGIN) < self._console.width
            ):
                break
            rows = self._rows(report, is_whole=False, has_story=has_story)
        return rows

    def _rows(self, report: Report, *, is_whole: bool, has_story: bool) -> list[Text]:
        """The rows, with whole ids or not, and with what happened to an order or without."""
        record = "vendor's record" if has_story else "record"
        names = ["order", "outcome", "proof", "tries", "time", record, "true"]
        heads = [Text(name, style="dim") for name in names]
        rows = [self._cells(row, is_whole, has_story) for row in report.settled_first]
        return _aligned([heads, *rows], right={3, 4})

    def _cells(self, row: Row, is_whole: bool, has_story: bool) -> list[Text]:
        outcome = row.outcome
        name = str(outcome.order)
        return [
            Text(name if is_whole else f"{self._glyphs.cut}{name[-6:]}"),
            Text(_label(outcome), style=HUES[type(outcome).__name__]),
            Text(PROOFS[outcome.evidence]),
            Text(str(outcome.attempts)),
            Text(f"{outcome.elapsed:.1f} s"),
            self._record(row.record, has_story),
            self._mark(row),
        ]

    def _record(self, record: Record | None, has_story: bool) -> Text:
        """The vendor's word; where there is room, also how it came to that."""
        if record is None:
            return Text("no order")
        if not has_story:
            whole, cut = record.word, self._glyphs.cut
            return Text(whole if len(whole) <= SHORT else f"{whole[: SHORT - len(cut)]}{cut}")
        text = Text(record.word)
        if record.executed and record.state is OrderState.CANCELED:
            text.append(f", {record.executed:f} filled")
        if record.how:
            text.append(f" {record.how}", style="dim")
        return text

    def _mark(self, row: Row) -> Text:
        if row.is_lie:
            return Text(self._glyphs.lie, style="bold red")
        if isinstance(row.outcome, Unknown):
            return Text("-", style="magenta")
        return Text(self._glyphs.true, style="green")

    def _cost(self, report: Report) -> list[Text]:
        """What this run cost, and what one cancel after the other would have cost."""
        number, alone = len(report.rows), len(report.rows) * report.pace
        requests = f"{counted(report.cancels, 'cancel')} + {counted(report.reads, 'read-back')}"
        seconds = f"{number} {self._glyphs.times} {report.pace:.3g} s, without any faults"
        rows = [
            ["", "this run", f"{report.yardstick}, computed", ""],
            ["requests", str(report.cancels + report.reads), str(number), requests],
            ["time", f"{report.elapsed:.1f} s", f"{alone:.1f} s", seconds],
        ]
        if report.refused_for_pace:
            rows.append(["too early", str(report.refused_for_pace), "", "refused by the meter"])
        rows += [[fact.name, fact.number, "", fact.words] for fact in report.facts]
        hues = ["dim", "bold", "", "dim"]
        cells = [[Text(t, hue) for t, hue in zip(row, hues, strict=True)] for row in rows[1:]]
        return _aligned([[Text(text, "dim") for text in rows[0]], *cells], right={1, 2})

    def _kinds(self, report: Report) -> Text:
        text = Text()
        for kind, number in _in_order(report):
            text.append(f"{self._glyphs.of(kind)} ", HUES[kind]).append(f"{kind} {number}  ")
        return text

    def _truth(self, report: Report) -> Text:
        mark, hue = (self._glyphs.lie, "red") if report.lies else (self._glyphs.true, "green")
        outcomes = counted(len(report.rows), "outcome")
        text = Text(f"{mark} {outcomes}, {counted(report.lies, 'lie')}", style=f"bold {hue}")
        return text.append(
            "  each compared with the vendor's own record", style="not bold dim default"
        )


async def show(stage: Stage[Any, Any], plan: Plan, progress: Progress, screen: Screen) -> Report:
    """Perform the demo on a stage, and draw it."""
    screen.heading(plan, stage)
    async with stage:
        with screen.following(progress) as draw:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_keep_drawing, draw)
                report = await perform(stage, progress)
                tasks.cancel_scope.cancel()
    screen.result(report)
    return report


async def _keep_drawing(draw: Callable[[], None]) -> None:
    while True:
        draw()
        await anyio.sleep(TICK)


def _in_order(source: Progress | Report) -> list[tuple[str, int]]:
    """Outcomes and their numbers, always in the same order, the two usual ones also where there are none."""
    usual = ("Canceled", "AlreadyClosed")
    return [(k, source.outcomes[k]) for k in HUES if source.outcomes[k] or k in usual]


def _label(outcome: CancelOutcome) -> str:
    if isinstance(outcome, AlreadyClosed):
        return f"AlreadyClosed {outcome.state.value}"
    if isinstance(outcome, Canceled) and outcome.executed:
        return f"Canceled, {outcome.executed:f} filled"
    return type(outcome).__name__


CALL_AND_ORDERS: Final = 15
"""Columns that they share: of the longest calls it is not known how many orders they are about."""
BOTH_ENDS: Final = 25
"""Where the part of a request's line begins that says what both ends saw."""


def _in_columns(time: str, call: str, orders: str, saw: str, did: str, *, style: str = "") -> Text:
    room = CALL_AND_ORDERS - len(call)
    return Text(f"{time:>6}  {call}{orders:>{room}}  {saw:<24}  {did}", style=style)


def _aligned(rows: Sequence[Sequence[Text]], *, right: Container[int]) -> list[Text]:
    """Rows of cells as lines; the columns in ``right`` end at the same place, the others begin there."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.copy() for cell in row]
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            cell.align("right" if index in right else "left", width)
        lines.append(Text("  ").join(cells))
    return lines


def _cropped(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "crop"
    return text
