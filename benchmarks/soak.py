"""Truth and leaks over a long time: a storm of cancels in real time, with the vendor in this process.

    python benchmarks/soak.py --seconds 600 --vendor ripio --rate 300 --seed 7

It asks for no speed. Thousands of callers cancel orders and go at random moments, under random faults; every outcome is
judged by the simulated vendor's own record, every request that arrived is matched with the telemetry, and after each
squall it is measured what is left. It prints a report, also when it is interrupted (Ctrl-C), and exits with 1 if there
was a lie or a leak.

The storm is the test suite's (`tests/support/storm.py`): the script needs the checkout, whose ``tests`` folder it puts
on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from contract.ripio import RipioStage
from contract.sms4sats import Sms4SatsStage
from contract.tronsave import TronSaveStage
from support.canary import sightings
from support.storm import storming
from support.storm_remains import descriptors
from support.storm_weather import Climate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contract.stage import Stage
    from support.storm import Storm
    from support.storm_remains import Memory

STAGES: Mapping[str, type[Stage]] = {
    kind.venue: kind for kind in (RipioStage, TronSaveStage, Sms4SatsStage)
}

SQUALL = 2.5
"""Seconds of one squall."""

BYTES = 24 << 20
"""By which the resident memory may grow: what the allocator keeps; some replies have 3 MB."""

IN_USE = 2 << 20
"""By which more may be in use of what the allocator has given out for larger things."""

BLOCKS = 15_000
"""By which the interpreter's own caches may grow."""

OBJECTS = 100
"""Of a kind, by which there may be more: as many as there may be idle connections."""


def climate(rate: float) -> Climate:
    """Return a climate in which everything is quick, and so many cancels a second are about what is admitted."""
    return Climate(
        delays=(0.005, 0.1, 0.6),
        moments=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 0.8),
        timeouts=(*(None,) * 6, 10.0, 10.0, 3.0, 3.0, 0.1, 0.002),
        patience=0.5,
        calm=1.5,
        silence=0.02,
        way=0.01,
        lag=0.5,
        window=0.3,
        margin=0.15,
        requests=max(10, round(rate * 0.7)),
        rest=30.0,
        ages=120.0,
        idle=0.3,
        crowd=60,
    )


class Soak:
    """One vendor's storm, and what it shows.

    Args:
        kind: the vendor.
        seed: of everything that is drawn.
        rate: cancels a second, at most.
    """

    def __init__(self, kind: type[Stage], seed: int, rate: float) -> None:
        self.kind = kind
        self.seed = seed
        self.rate = rate
        self.started = time.monotonic()
        self.seconds = 0.0
        self.descriptors = 0
        self.left: list[str] = []
        self.opened = 0
        self.settled = False
        self.storm: Storm | None = None

    async def run(self, seconds: float) -> None:
        """Let it storm for so long, and close the gateway in the midst of the last squall."""
        tasks, self.descriptors = asyncio.all_tasks(), descriptors()
        self.started = time.monotonic()
        cancels = max(100, round(self.rate * SQUALL))
        try:
            async with storming(self.kind, seed=self.seed, climate=climate(self.rate)) as storm:
                self.storm = storm
                while (self.seconds + SQUALL < seconds) or not storm.report.memory:
                    await storm.squall(cancels, rate=self.rate)
                    self.seconds = time.monotonic() - self.started
                await storm.squall(cancels, rate=self.rate, closing=True)
            self.settled = True
        finally:
            self.seconds = time.monotonic() - self.started
        for _ in range(20):
            await asyncio.sleep(0)
        self.left = sorted(repr(task.get_coro()) for task in asyncio.all_tasks() - tasks)
        self.opened = descriptors() - self.descriptors
        self.left += [f"{self.opened} descriptors"] if self.opened else []

    def wrong(self) -> list[str]:
        """Everything that is a lie or a leak."""
        if self.storm is None:
            return []
        report = self.storm.report
        found = list(report.complaints)
        if (more := report.wrong - len(found)) > 0:
            found.append(f"and {more} more")
        found += [f"left behind: {each}" for each in self.left]
        found += [f"the secret was shown: {text[:200]}" for text in sightings.seen]
        memory = report.memory[1:-1] if self.settled else report.memory[1:]
        return found + (leaks(memory[0], memory[-1]) if len(memory) > 1 else [])

    def show(self) -> None:
        """Print the report."""
        storm = self.storm
        if storm is None:
            return
        report, ledger = storm.report, storm.ledger
        state = "" if self.settled else ", interrupted: the last squall is not settled"
        print(f"\n{self.kind.venue}, seed {self.seed}, {self.seconds:.0f} s{state}")
        line("cancels", f"{report.cancels:,} by {report.callers:,} calls", report.outcomes)
        line("callers that went", f"{report.gone.total():,}", report.gone)
        line("requests that arrived", f"{report.requests:,}", {})
        line("sent, and eaten", f"{ledger.lost_on_the_way.total():,}", ledger.lost_on_the_way)
        line("telemetry", f"{ledger.kinds.total():,} events", ledger.kinds)
        line("faults", f"{report.faults.total():,}", report.faults)
        line("gusts", f"{report.gusts.total():,}", report.gusts)
        self._show_memory(report.memory[1:-1] if self.settled else report.memory[1:])
        most = (
            f"{self.descriptors} before, {report.most_descriptors} at most, {self.opened:+} after"
        )
        line("descriptors", most, {})
        wrong = self.wrong()
        line("lies, leaks", f"{len(wrong)}", {})
        for sentence in wrong:
            print(f"    {sentence[:400]}")

    def _show_memory(self, memory: Sequence[Memory]) -> None:
        if len(memory) < 2:
            line("memory", "too few squalls", {})
            return
        each = max(1, len(memory) // 10)
        first, last = mean(memory[:each]), mean(memory[-each:])
        assert self.storm is not None
        thousands = self.storm.report.cancels / len(self.storm.report.memory) / 1_000
        rise = slope([m.resident for m in memory]) / thousands
        grown = Counter(memory[-1].grown(memory[0]))
        line(
            "resident memory",
            f"{first / 1e6:.1f} MB in the first tenth, {last / 1e6:.1f} MB in the last, "
            f"{rise / 1e3:+.1f} kB for each 1,000 cancels over {len(memory)} squalls",
            {},
        )
        line("blocks, objects", f"{memory[-1].blocks - memory[0].blocks:+,}", grown)


def line(name: str, figure: str, parts: Mapping[str, int]) -> None:
    """Print a figure and what it is made of."""
    shown = ", ".join(f"{part} {times:,}" for part, times in Counter(parts).most_common())
    print(f"  {name:<22} {figure}{': ' if shown else ''}{shown}")


def leaks(first: Memory, last: Memory) -> list[str]:
    """What there is more of than there may be."""
    found = [f"leaked {n} {kind}" for kind, n in last.grown(first).items() if n > OBJECTS]
    if (blocks := last.blocks - first.blocks) > BLOCKS:
        found.append(f"leaked {blocks:,} blocks")
    if (larger := last.in_use - first.in_use) > IN_USE:
        found.append(f"leaked {larger / 1e6:.1f} MB of larger things")
    if (grown := last.resident - first.resident) > BYTES:
        found.append(f"leaked {grown / 1e6:.1f} MB")
    return found


def mean(memory: Sequence[Memory]) -> float:
    """Return the mean of the resident memory, in bytes."""
    return sum(each.resident for each in memory) / len(memory)


def slope(values: Sequence[float]) -> float:
    """Return by how much the values rise from one to the next, by least squares."""
    middle, average = (len(values) - 1) / 2, sum(values) / len(values)
    rise = sum((n - middle) * (value - average) for n, value in enumerate(values))
    return rise / sum((n - middle) ** 2 for n in range(len(values)))


async def soak(soaks: Sequence[Soak], seconds: float) -> None:
    """Let one vendor storm after the other, each for its share of the time."""
    for each in soaks:
        await each.run(seconds / len(soaks))


def main() -> int:
    """Storm, print the reports, and say if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all vendors together (60)")
    parser.add_argument("--vendor", action="append", choices=STAGES, help="may be repeated (all)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (1)")
    parser.add_argument("--rate", type=float, default=250.0, help="cancels a second (250)")
    given: Any = parser.parse_args()
    kinds = [STAGES[name] for name in given.vendor or STAGES]
    soaks = [Soak(kind, given.seed, given.rate) for kind in kinds]
    try:
        asyncio.run(soak(soaks, given.seconds))
    except KeyboardInterrupt:
        pass
    for each in soaks:
        each.show()
    return int(any(each.wrong() for each in soaks))


if __name__ == "__main__":
    sys.exit(main())
