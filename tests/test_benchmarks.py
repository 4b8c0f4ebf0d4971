"""The benchmarks' own arithmetic: medians, ratios, goals, what a limiter is judged by; and that each script starts."""

from __future__ import annotations

import json
import math
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from brokers.ripio import wire as ripio
from brokers.tronsave import wire as tronsave
from tronsave_async import RateLimit

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(
    path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by name, as Python lets them when one of them is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> Any:
    """Return a module of the benchmarks."""
    return import_module(name)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_starts(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no peer is installed: peers are imported when they are measured."""
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code in (0, None)
    assert "usage:" in capsys.readouterr().out


# -- series, goals, verdicts -----------------------------------------------------------------------


def test_a_series_tells_its_middle_and_its_quartiles() -> None:
    """One value is its own quartiles; none is not a number."""
    series = module("measure").Series
    assert (series([1.0, 9.0, 2.0]).median, series([4.0]).quartiles) == (2.0, (4.0, 4.0))
    assert series([1.0, 2.0, 3.0, 4.0, 5.0]).quartiles == (2.0, 4.0)
    assert math.isnan(series([]).median)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down changes no ratio; the ratio of the medians would tell another one."""
    series = module("measure").Series
    ours, theirs = series([2.0, 20.0, 6.0]), series([1.0, 10.0, 4.0])
    assert ours.over(theirs).values == [2.0, 2.0, 1.5]
    assert ours.over(theirs).median == 2.0
    assert ours.median / theirs.median == 1.5
    with pytest.raises(ValueError, match="zip"):
        ours.over(series([1.0]))


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        ({"limit": 1.15}, 1.15, True),
        ({"limit": 1.15}, 1.16, False),
        ({"limit": 98.0, "at_least": True}, 98.0, True),
        ({"limit": 98.0, "at_least": True}, 97.9, False),
        ({"limit": 1.0}, math.nan, False),
        ({"limit": 1.0, "at_least": True}, math.nan, False),
    ],
)
def test_a_goal_is_reached_or_not(goal: dict[str, Any], value: float, reached: bool) -> None:
    """At the limit it is; what was not measured reached nothing."""
    assert module("measure").Goal(**goal).reached_by(value) is reached


async def test_arms_take_turns_and_the_first_rounds_do_not_count() -> None:
    """Each round begins with another arm, so that none always comes first."""
    measure = module("measure")
    calls: list[str] = []

    def arm(name: str) -> Any:
        async def block() -> float:
            calls.append(name)
            return float(len(calls))

        return measure.Arm(name, measure.Kind.OURS, block)

    measured = await measure.alternate([arm("a"), arm("b")], rounds=2, warm_up=1)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert {name: series.values for name, series in measured.items()} == {
        "a": [4.0, 5.0],
        "b": [3.0, 6.0],
    }


def reported(**costs: tuple[str, float]) -> Any:
    """Return a report with one setting: costs by name and kind, in three equal rounds."""
    measure, report = module("measure"), module("report").Report("x", "X", "")
    arms = [measure.Arm(name, measure.Kind(kind), None) for name, (kind, _) in costs.items()]
    measured = {name: measure.Series([cost] * 3) for name, (_, cost) in costs.items()}
    report.add("here", "us", arms, measured)
    return report


def said(report: Any) -> list[tuple[str, str, bool | None]]:
    """Return each verdict's question, peer and whether it was reached."""
    return [(v.question, v.peer, v.reached) for v in report.verdicts]


def test_ours_is_judged_against_the_best_peer_that_has_the_operation() -> None:
    """One that lacks it is shown beside it where it is cheaper, without a goal."""
    goal = module("measure").Goal(0.5)
    report = reported(
        ours=("ours", 10.0), good=("peer", 25.0), bad=("peer", 90.0), less=("nearest", 15.0)
    )
    report.judge("Q", "here", peer=goal)
    assert said(report) == [
        ("Q: the best peer", "25 us (good)", True),
        ("Q: less, which does less", "15 us (less, nearest)", None),
    ]
    dear = reported(ours=("ours", 10.0), good=("peer", 15.0), less=("nearest", 16.0))
    dear.judge("Q", "here", peer=goal)
    assert said(dear) == [("Q: the best peer", "15 us (good)", False)]


def test_a_peer_that_is_named_is_judged_whatever_it_does() -> None:
    """And where it was not measured, nothing is reached."""
    goal = module("measure").Goal(0.5)
    report = reported(ours=("ours", 10.0), less=("nearest", 25.0), good=("peer", 11.0))
    report.judge("Q", "here", peer=goal, peers=["less"])
    report.judge("Q", "here", peer=goal, peers=["missing"])
    assert said(report) == [("Q: less", "25 us (less, nearest)", True), ("Q: missing", "", None)]
    assert "not measured" in module("report").verdicts([report])


def test_what_is_not_reached_is_said() -> None:
    """In the table, and with the profile that shows why."""
    report = reported(ours=("ours", 12.0), by_hand=("ideal", 10.0))
    report.judge("Q", "here", ideal=module("measure").Goal(1.15))
    report.profiles = ["why.txt"]
    text = module("report").document([report], "make bench", 60.0)
    assert "| 1.2 (1.2 .. 1.2) | <= 1.15 x | NO " in text
    assert "- Q: the ideal. Where it goes: [why.txt](profiles/why.txt)" in text


def test_a_chart_is_a_picture_of_its_bars() -> None:
    """Well-formed, a bar for each that was measured, and longer ones for higher costs."""
    measure, report = module("measure"), module("report")
    costs = {"a & b": [1.0, 2.0], "<c>": [40.0], "none": []}
    bars = [report.Bar(name, measure.Kind.OURS, measure.Series(c)) for name, c in costs.items()]
    drawn = module("charts").svg(report.Chart("x", "T", "us", bars))
    root = ElementTree.fromstring(drawn)
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    widths = [
        float(bar.attrib["width"])
        for bar in root.iter("{http://www.w3.org/2000/svg}rect")
        if bar.get("x") == str(module("charts").LABELS)
    ]
    assert {"T", "a & b", "<c>", "1.5", "40"} <= set(words)
    assert "none" not in words
    assert widths == pytest.approx([380 * 1.5 / 40, 380], abs=0.1)


# -- limiters, coalescing, regressions, peers ------------------------------------------------------


def test_the_fullest_window_is_found() -> None:
    """A window is open at its end: what comes exactly one period later is outside."""
    peak = module("limiter").peak_in_window
    assert peak([0.0, 0.5, 1.0, 1.4], 1.0) == 3
    assert peak([0.0, 1.0, 2.0], 1.0) == 1
    assert peak([], 1.0) == 0


def test_overtaking_is_counted() -> None:
    """Whoever is granted after one that stood behind it was overtaken."""
    overtakings = module("limiter").overtakings
    assert (overtakings([0, 1, 2]), overtakings([0, 2, 1]), overtakings([3, 0, 1])) == (0, 1, 2)


def test_the_pace_is_counted_in_whole_windows_after_the_first() -> None:
    """A burst at the beginning and a broken window at the end tell no pace."""
    pace, limit = module("limiter").percent_of_pace, RateLimit(2, per=1.0, margin=0.0)
    full = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert pace(full, limit) == pytest.approx(100.0)
    assert pace([0.0, 0.0, 2.0, 2.0, 4.0, 4.0, 6.0], limit) == pytest.approx(50.0)
    assert math.isnan(pace([0.0, 0.0, 1.0], limit))


@pytest.mark.parametrize(
    ("orders", "alone", "needed"),
    [(1, False, 1), (50, False, 1), (51, False, 2), (1, True, 1), (51, True, 2), (52, True, 3)],
)
def test_no_more_requests_are_needed(orders: int, alone: bool, needed: int) -> None:
    """As few as 50 orders per request allow; a first caller may go alone."""
    assert module("coalescing").requests_needed(orders, first_goes_alone=alone) == needed


def test_a_regression_is_beyond_the_tolerance() -> None:
    """Faster is no regression; a hot path without a stored ratio is one, or nothing would be noticed."""
    regressions = module("check").regressions
    stored = {"same": 2.0, "slower": 2.0, "faster": 2.0}
    found = {"same": 2.39, "slower": 2.41, "faster": 1.0, "new": 1.0}
    assert regressions(found, stored, 0.2) == ["slower", "new"]


async def test_a_peer_that_is_missing_is_reported() -> None:
    """Never silently dropped: not installed, or the reason."""
    peers, kind = module("peers"), module("measure").Kind.PEER
    remarks: list[str] = []

    async def missing(*_: object) -> Any:
        return import_module("no_such_library")

    async def broken(*_: object) -> Any:
        raise RuntimeError("of its own")

    async def fine(*_: object) -> Any:
        async def cancel(order: int) -> int:
            return order

        return cancel

    listed = [peers.Peer(each.__name__, kind, "", each) for each in (missing, broken, fine)]
    opened = await peers.open_all(listed, None, 0, remarks)
    assert [peer.name for peer, _ in opened] == ["fine"]
    assert remarks == [
        "missing: not measured: not installed",
        "broken: not measured: RuntimeError: of its own",
    ]


# -- the local server ------------------------------------------------------------------------------

ORDER = "7155ED34-9EC4-4733-8B32-1E4319CB662F"


def asked(**params: object) -> bytes:
    """Return a signed cancel over a socket."""
    signed = {"signature": "s", "timestamp": 1, **params}
    return json.dumps({"id": "r1", "method": "order.cancel", "params": signed}).encode()


def test_the_server_answers_as_the_vendors_do() -> None:
    """The SDK's own readers take its replies for successes."""
    server = module("server")
    read = ripio.read_message(server.socket_reply(asked(id=ORDER)))
    assert isinstance(read, tuple)
    assert isinstance(read[1].result, ripio.Order)
    assert (read[0], read[1].result.id, read[1].result.status) == ("r1", ORDER, "canceled")
    binance = msgspec.json.decode(server.socket_reply(asked(symbol="BTCUSDT", orderId=7)))
    assert (binance["id"], binance["result"]["orderId"]) == ("r1", 7)
    body = b'{"order_ids":["673c17a3129f1881382e98e3","673c17a3129f1881382e98e4"]}'
    reply = server.http_body(b"POST", b"/v0/fast-charge-order-cancel", body)
    items = msgspec.json.decode(reply, type=tronsave.CancelReply).cancel_results
    assert [(item.order_id[-1], item.is_success) for item in items] == [("3", True), ("4", True)]


@pytest.mark.parametrize(
    "message",
    [asked(id=ORDER, signature=""), asked(), b"{}", asked(id=ORDER).replace(b"cancel", b"fill")],
)
def test_the_server_answers_no_nonsense(message: bytes) -> None:
    """A benchmark whose client sends it fails."""
    with pytest.raises((ValueError, msgspec.ValidationError)):
        module("server").socket_reply(message)


def test_the_server_loses_replies_when_told_to() -> None:
    """The cancel is processed, and counted."""
    server = module("server")
    server.weather(b"/weather/bad")
    with pytest.raises(server.Lost):
        server.socket_reply(asked(id=ORDER))
    assert server.weather(b"/weather/good") == 1
    assert server.socket_reply(asked(id=ORDER))
