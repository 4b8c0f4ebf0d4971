"""What a script found out: lines of figures, verdicts on the goals, and the tables in which both are shown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from measure import HERE, Goal, Kind, Options, Series, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MEASURED = (
    *("aiohttp", "websockets", "msgspec", "anyio", "uvloop"),
    *("python-binance", "pybotters", "ccxt", "tronsave", "httpx"),
    *("aiolimiter", "pyrate-limiter", "limits", "stamina", "tenacity"),
)
"""The distributions whose versions a reader wants to know."""


class Line(msgspec.Struct, frozen=True):
    """One arm in one setting."""

    setting: str
    arm: str
    kind: Kind
    unit: str
    series: Series
    ratio: Series | None = None
    """Ours to this arm, round by round."""
    note: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """One goal, and whether it was reached. The figures are texts: each goal compares what it compares."""

    question: str
    ours: str
    ideal: str
    peer: str
    ratio: str
    goal: str
    reached: bool | None
    """None: not measured, or there is no goal."""


class Bar(msgspec.Struct, frozen=True):
    """One bar of a chart."""

    label: str
    kind: Kind
    series: Series


class Chart(msgspec.Struct, frozen=True):
    """Bars to be drawn under one heading."""

    name: str
    title: str
    unit: str
    bars: list[Bar]
    logarithmic: bool = False


class Entrant(Protocol):
    """Whatever was measured, as far as a table is concerned."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def note(self) -> str:
        """What it does differently."""


class Report(msgspec.Struct):
    """All that one script found out."""

    script: str
    title: str
    method: str
    lines: list[Line] = []
    verdicts: list[Verdict] = []
    charts: list[Chart] = []
    remarks: list[str] = []
    """What was not measured and why, and whatever a reader must know."""
    profiles: list[str] = []
    quick: bool = False
    seconds: float = 0.0

    def add(
        self, setting: str, unit: str, arms: Sequence[Entrant], measured: Mapping[str, Series]
    ) -> None:
        """Take one setting's arms; ratios are ours to theirs."""
        ours = next((measured[arm.name] for arm in arms if arm.kind is Kind.OURS), None)
        for arm in arms:
            series = measured[arm.name]
            ratio = None if ours is None or arm.kind is Kind.OURS else ours.over(series)
            self.lines.append(Line(setting, arm.name, arm.kind, unit, series, ratio, arm.note))

    def line(
        self, setting: str, arm: str, kind: Kind, unit: str, series: Series, note: str = ""
    ) -> None:
        """Take one figure that is compared with nothing."""
        self.lines.append(Line(setting, arm, kind, unit, series, None, note))

    def judge(
        self,
        question: str,
        setting: str,
        *,
        ideal: Goal | None = None,
        peer: Goal | None = None,
        peers: Sequence[str] = (),
    ) -> None:
        """Hold ours against the ideal, and against the best peer (or those named), in one setting.

        A library that lacks the operation does less of the job than a peer. Where it is cheaper than the best peer, it
        gets a line of its own and no goal; it is judged where it is named.
        """
        lines = [line for line in self.lines if line.setting == setting]
        ours = next(line for line in lines if line.kind is Kind.OURS)
        if ideal is not None:
            by_hand = next(line for line in lines if line.kind is Kind.IDEAL)
            self._compare(f"{question}: the ideal", ours, ideal, by_hand=by_hand)
        if peer is None:
            return
        best = best_of(lines, peers)
        whom = peers[0] if peers else "the best peer"
        self._compare(f"{question}: {whom}", ours, peer, peer=best)
        cheapest = min(
            (line for line in lines if line.kind is Kind.NEAREST),
            key=lambda line: line.series.median,
            default=None,
        )
        if not peers and cheapest is not None and not cheaper(best, cheapest):
            self._compare(f"{question}: {cheapest.arm}, which does less", ours, None, peer=cheapest)

    def _compare(
        self,
        question: str,
        ours: Line,
        goal: Goal | None,
        *,
        by_hand: Line | None = None,
        peer: Line | None = None,
    ) -> None:
        other = by_hand or peer
        ratio = other.ratio if other is not None else None
        self.verdicts.append(
            Verdict(
                question,
                _figure(ours),
                _figure(by_hand),
                _figure(peer, named=True),
                "" if ratio is None else str(ratio),
                "none" if goal is None else str(goal),
                None if ratio is None or goal is None else goal.reached_by(ratio.median),
            )
        )

    def judge_value(
        self,
        question: str,
        value: Series,
        goal: Goal,
        *,
        ideal: str = "",
        peer: str = "",
    ) -> None:
        """Hold a figure of ours against a goal of its own."""
        self.verdicts.append(
            Verdict(
                question,
                f"{number(value.median)} {goal.unit}".rstrip(),
                ideal,
                peer,
                "",
                str(goal),
                goal.reached_by(value.median),
            )
        )


def best_of(lines: Iterable[Line], names: Sequence[str] = ()) -> Line | None:
    """The cheapest of the peers that have the operation, or of those named, whatever they have."""
    peers = [line for line in lines if (line.arm in names if names else line.kind is Kind.PEER)]
    return min(peers, key=lambda line: line.series.median, default=None)


def cheaper(line: Line | None, other: Line) -> bool:
    """Whether a line is cheaper than another; one that is missing is not."""
    return line is not None and line.series.median <= other.series.median


def _figure(line: Line | None, *, named: bool = False) -> str:
    if line is None:
        return ""
    figure = f"{number(line.series.median)} {line.unit}"
    if not named:
        return figure
    return f"{figure} ({line.arm}{', nearest' if line.kind is Kind.NEAREST else ''})"


# -- tables ------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned, so that it can be read in a terminal too."""
    cells = [list(head), *[[cell.replace("|", "/") for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    rule = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(row)} |" for row in [padded[0], rule, *padded[1:]])


def figures(report: Report) -> str:
    """Every arm in every setting: median, quartiles, and ours in relation to it."""
    rows = [
        (
            line.setting,
            line.arm,
            line.kind.value,
            f"{number(line.series.median)} {line.unit}",
            " .. ".join(map(number, line.series.quartiles)),
            "" if line.ratio is None else number(line.ratio.median),
            line.note,
        )
        for line in report.lines
    ]
    head = ("setting", "arm", "is", "median", "quartiles", "ours / it", "note")
    return table(head, rows)


def verdicts(reports: Iterable[Report]) -> str:
    """The last word: question, ours, ideal, best peer, ratio, goal, reached or not."""
    rows = [
        (v.question, v.ours, v.ideal, v.peer, v.ratio, v.goal, said(v))
        for report in reports
        for v in report.verdicts
    ]
    return table(("question", "ours", "ideal", "best peer", "ratio", "goal", "reached"), rows)


def said(verdict: Verdict) -> str:
    """Whether a goal was reached, in a word."""
    if verdict.goal == "none":
        return "-"
    return {True: "yes", False: "NO", None: "not measured"}[verdict.reached]


def finish(report: Report, given: Options, seconds: float) -> None:
    """Print a script's findings, and write them where they are asked for."""
    report.seconds = seconds
    report.quick = given.quick
    print(f"\n{report.title}\n")
    print(figures(report))
    for remark in report.remarks:
        print(f"- {remark}")
    if report.verdicts:
        print()
        print(verdicts([report]))
    if given.output is not None:
        given.output.write_bytes(msgspec.json.encode(report))


# -- the whole ---------------------------------------------------------------------------------------------------------


def machine() -> str:
    """What this runs on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> str:
    """The interpreter and the distributions that were measured."""
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in MEASURED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


WHY = HERE / "WHY.md"
"""What the profiles of the goals that were missed show, in words; there need not be any."""
READING = """\
Only ratios mean something beyond this run: each is the median, with quartiles, of one block against the other's of the
same round, and blocks of all arms alternate in one process. CPU is this process's; the server runs in another. `ideal`
is written by hand on the same libraries, `floor` does less than the job, `nearest` is a library that lacks the
operation and is measured on the nearest it has; its cost is no goal unless it is named."""


def document(reports: Sequence[Report], command: str, seconds: float) -> str:
    """The text of RESULTS.md."""
    parts = [
        "# Results",
        f"Made by `{command}` in {seconds / 60:.1f} minutes, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.\n\n"
        f"- Machine: {machine()}\n- Versions: {versions()}",
        READING,
        "## Goals",
        verdicts(reports),
    ]
    if any(report.quick for report in reports):
        parts.insert(
            1, "**A quick run: few and small blocks, to see that everything works. No result.**"
        )
    parts += _unreached(reports)
    for report in reports:
        parts += [f"## {report.title}", report.method.strip(), figures(report)]
        parts += [f"![{chart.title}](charts/{chart.name}.svg)" for chart in report.charts]
        if report.remarks:
            parts.append("\n".join(f"- {remark}" for remark in report.remarks))
    return "\n\n".join(parts) + "\n"


def _unreached(reports: Sequence[Report]) -> list[str]:
    missed = []
    for report in reports:
        questions = [verdict.question for verdict in report.verdicts if verdict.reached is False]
        if questions:
            links = ", ".join(f"[{name}](profiles/{name})" for name in report.profiles)
            missed.append(f"- {'; '.join(questions)}. Where it goes: {links or 'no profile'}")
    if not missed:
        return []
    reasons = [WHY.read_text(encoding="utf-8").strip()] if WHY.exists() else []
    return ["### Not reached", "\n".join(missed), *reasons]
