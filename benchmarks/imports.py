"""How long does importing take? Every import runs in a fresh interpreter, all of them in turn, and CPU is counted.

Bytecode and files are warm: each import runs twice before it counts. CPU rather than wall time, since another process's
load does not change it; an import waits for nothing else. A gateway is compared with the libraries that carry its
requests: aiohttp for TronSave, websockets' client and aiohttp for Ripio.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import measure
from measure import Goal, Kind, Series
from report import Bar, Chart, Entrant, Report, finish

if TYPE_CHECKING:
    from pathlib import Path

WARM = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of an import: where no bytecode may be kept, a checkout, and nothing else, is compiled every time."""
TIMED = "import time; began = time.process_time(); {}; print(time.process_time() - began)"
QUICKLY = Goal(80.0, "ms")
TO_TRANSPORT = Goal(1.15, "x")


class Import(NamedTuple):
    """A statement whose cost is measured."""

    name: str
    kind: Kind
    statement: str

    @property
    def note(self) -> str:
        """What is run."""
        return self.statement


SDK = Import("tronsave-async", Kind.OURS, "import tronsave_async")
TRONSAVE = (
    Import("TronSaveGateway", Kind.OURS, "from brokers.tronsave import TronSaveGateway"),
    Import("aiohttp", Kind.IDEAL, "import aiohttp"),
)
RIPIO = (
    Import("RipioGateway", Kind.OURS, "from brokers.ripio import RipioGateway"),
    Import("websockets and aiohttp", Kind.IDEAL, "import websockets.client, aiohttp"),
    Import("websockets", Kind.FLOOR, "import websockets.client"),
)
PEERS = (
    Import("python-binance", Kind.PEER, "import binance"),
    Import("pybotters", Kind.PEER, "import pybotters"),
    Import("ccxt", Kind.PEER, "import ccxt.async_support"),
    Import("ccxt.pro", Kind.PEER, "import ccxt.pro"),
    Import("tronsave (official)", Kind.PEER, "import tronsave"),
    Import("httpx", Kind.PEER, "import httpx"),
)


def milliseconds(statement: str) -> float:
    """CPU of one import in a fresh interpreter; raises if it fails."""
    command = [sys.executable, "-P", "-c", TIMED.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=WARM)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise ImportError("not installed" if "ModuleNotFoundError" in last else last)
    return float(done.stdout) * 1000


def measurable(imports: tuple[Import, ...], report: Report) -> list[Import]:
    """Those that work here."""
    found = []
    for each in imports:
        try:
            milliseconds(each.statement)
        except ImportError as error:
            report.remarks.append(f"{each.name}: not measured: {error}")
        else:
            found.append(each)
    return found


def compare(rounds: int, report: Report) -> None:
    """Each round imports everything once, beginning with another one."""
    imports = measurable((SDK, *TRONSAVE, *RIPIO, *PEERS), report)
    found: dict[str, list[float]] = {each.name: [] for each in imports}
    for turn in range(rounds + 1):
        start = turn % len(imports)
        for each in [*imports[start:], *imports[:start]]:
            found[each.name].append(milliseconds(each.statement))
    measured = {name: Series(values[1:]) for name, values in found.items()}
    peers = [each for each in imports if each.kind is Kind.PEER]
    groups: tuple[tuple[str, tuple[Entrant, ...]], ...] = (
        ("the SDK alone", (SDK, *peers)),
        ("TronSave's gateway", TRONSAVE),
        ("Ripio's gateway", RIPIO),
    )
    for setting, group in groups:
        report.add(setting, "ms", group, measured)
    cheapest = min(peers, key=lambda each: measured[each.name].median, default=None)
    others = (
        ""
        if cheapest is None
        else f"{measure.number(measured[cheapest.name].median)} ms ({cheapest.name})"
    )
    report.judge_value("Import of tronsave_async", measured[SDK.name], QUICKLY, peer=others)
    report.judge("Import of TronSaveGateway", "TronSave's gateway", ideal=TO_TRANSPORT)
    report.judge("Import of RipioGateway", "Ripio's gateway", ideal=TO_TRANSPORT)
    bars = [Bar(each.name, each.kind, measured[each.name]) for each in imports]
    report.charts.append(Chart("imports", "CPU of an import", "ms", bars))


def profile(folder: Path, report: Report) -> None:
    """Write what is imported, and how long each module takes itself and with what it imports."""
    for each in (SDK, TRONSAVE[0], RIPIO[0]):
        command = [sys.executable, "-P", "-X", "importtime", "-c", each.statement]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=WARM)
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        costly = sorted(lines[1:], key=lambda line: -int(line.split("|")[0].rpartition(":")[2]))
        text = "\n".join([lines[0], *costly[:30]])
        report.profiles.append(measure.write_profile(folder, f"imports_{each.name}", text))


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("imports", "Imports", __doc__ or "")
    if given.profile:
        profile(given.profile, report)
    else:
        compare(given.rounds(15, quick=3), report)
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
