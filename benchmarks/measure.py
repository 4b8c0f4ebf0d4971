"""How everything here is measured: arms alternate in blocks within one process, and ratios are taken block by block.

Absolute microseconds drift by half within an hour on a shared machine. So each round runs one block of every arm, in an
order that turns from round to round, and a ratio is the median over rounds of one arm's block against the other's of
the same round. CPU is `time.process_time` of this process: the server runs in another one, and waiting costs nothing.
Before each block garbage is collected; during a block collection is on, as in a user's process.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import io
import math
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

HERE = Path(__file__).resolve().parent
LARGE = 16 << 20
WARM_UP = 2
"""Rounds that are run and not counted."""

T = TypeVar("T")


class Kind(Enum):
    """What an arm is, and so what it is compared with."""

    OURS = "ours"
    OURS_TOO = "ours, another way"
    """The SDK in another setting than the one that is judged."""
    IDEAL = "ideal"
    """Written by hand: the least code that does the same job on the same libraries."""
    FLOOR = "floor"
    """Less than the job: shown for orientation, not judged against."""
    PEER = "peer"
    """A library that users would pick instead, doing the same thing."""
    NEAREST = "nearest"
    """A library that lacks the operation, doing the nearest thing it has."""


class Options(NamedTuple):
    """What every script understands."""

    quick: bool
    profile: Path | None
    """Where profiles are written; None if the script is to measure."""
    loops: tuple[str, ...]
    output: Path | None
    case: str | None = None
    """What a process of its own is to measure; for scripts that start themselves again."""

    def rounds(self, full: int, quick: int = 4) -> int:
        """How many rounds to count."""
        return quick if self.quick else full

    def size(self, full: int, quick: int | None = None) -> int:
        """How many operations in a block; a quick run takes a quarter, or what is given."""
        if not self.quick:
            return full
        return quick if quick is not None else max(1, full // 4)


class Series(msgspec.Struct, frozen=True):
    """What one arm measured, a value for each round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle value; not a number if there is none."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def quartiles(self) -> tuple[float, float]:
        """The values below which a quarter, and three quarters, of the rounds are."""
        if len(self.values) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def over(self, other: Series) -> Series:
        """The ratios to another arm, round by round."""
        return Series([a / b for a, b in zip(self.values, other.values, strict=True)])

    def __str__(self) -> str:
        low, high = self.quartiles
        return f"{number(self.median)} ({number(low)} .. {number(high)})"


class Goal(msgspec.Struct, frozen=True):
    """A number to reach: at most ``limit``, or at least."""

    limit: float
    unit: str = "x"
    at_least: bool = False

    def reached_by(self, value: float) -> bool:
        """Whether a measured value is good enough; what was not measured (not a number) is not."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {number(self.limit)} {self.unit}".rstrip()


class Arm(NamedTuple):
    """One way to do the job.

    ``block`` runs one block and returns its cost per operation.
    """

    name: str
    kind: Kind
    block: Callable[[], Awaitable[float]]
    note: str = ""


def number(value: float) -> str:
    """Print a number with three significant digits or more, without an exponent."""
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# -- one block ---------------------------------------------------------------------------------------------------------


def settle_heap() -> None:
    """Bring the C heap into the state in which a long-running process has it.

    A young asyncio process maps and unmaps the 256 KiB receive buffer on each read, which costs more than a request.
    glibc stops doing so once a larger block was freed: one is, before the first arm runs.
    """
    block = bytearray(LARGE)
    del block
    gc.collect()
    gc.freeze()


async def alternate(arms: Sequence[Arm], rounds: int, warm_up: int = WARM_UP) -> dict[str, Series]:
    """Run a block of every arm in each round; each round begins with another arm."""
    values: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(warm_up + rounds):
        start = turn % len(arms)
        for arm in [*arms[start:], *arms[:start]]:
            gc.collect()
            values[arm.name].append(await arm.block())
    return {name: Series(costs[warm_up:]) for name, costs in values.items()}


async def cpu_of(work: Awaitable[object], operations: int) -> float:
    """Microseconds of CPU per operation."""
    started = time.process_time()
    await work
    return (time.process_time() - started) / operations * 1e6


async def in_flight(
    call: Callable[[T], Awaitable[object]], keys: Sequence[T], at_once: int
) -> None:
    """Await ``call`` for every key, so many at a time: each of so many tasks takes one key after the other."""
    if at_once == 1:
        for key in keys:
            await call(key)
        return
    waiting = iter(keys)

    async def worker() -> None:
        for key in waiting:
            await call(key)

    await asyncio.gather(*[worker() for _ in range(at_once)])


class Pace(NamedTuple):
    """What a caller feels: seconds of wall time from call to return, and operations per second."""

    p50: float
    p99: float
    rate: float


async def pace_of(call: Callable[[T], Awaitable[object]], keys: Sequence[T], at_once: int) -> Pace:
    """Time every call; the stamps cost a little CPU, so this is not done where CPU is counted."""
    took: list[float] = []

    async def timed(key: T) -> None:
        started = time.perf_counter()
        await call(key)
        took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await in_flight(timed, keys, at_once)
    rate = len(keys) / (time.perf_counter() - started)
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return Pace(cuts[49], cuts[98], rate)


# -- running a script --------------------------------------------------------------------------------------------------


def options(description: str | None, argv: Sequence[str] | None = None) -> Options:
    """Read the command line that all scripts share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and small blocks: a try, no result"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        nargs="?",
        const=HERE / "profiles",
        metavar="FOLDER",
        help="measure nothing, but write where the time goes, by default to profiles/",
    )
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="only this event loop")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    loops = (given.loop,) if given.loop else ("asyncio", "uvloop")
    return Options(given.quick, given.profile, loops, given.output, given.case)


def run_on(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh event loop of a kind."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def usable_loops(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The event loops that can be run here, and a line about each one that cannot."""
    if "uvloop" in wanted:
        try:
            import uvloop  # noqa: F401
        except ImportError:
            rest = [loop for loop in wanted if loop != "uvloop"]
            return rest, ["uvloop: not measured: not installed"]
    return list(wanted), []


@contextmanager
def server() -> Iterator[int]:
    """Run the local server in another process, and give its port."""
    command = [sys.executable, str(HERE / "server.py"), "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


async def profiled(folder: Path, name: str, work: Awaitable[object], lines: int = 25) -> str:
    """Write the functions in which ``work`` spends its time, most expensive first; the name of the file."""
    profiler = cProfile.Profile(time.process_time)  # waiting, and other processes, cost nothing
    profiler.enable()
    await work
    profiler.disable()
    printed = io.StringIO()
    pstats.Stats(profiler, stream=printed).strip_dirs().sort_stats("tottime").print_stats(lines)
    kept = [line.rstrip() for line in printed.getvalue().splitlines()]
    return write_profile(folder, name, "\n".join(kept).strip())


def write_profile(folder: Path, name: str, text: str) -> str:
    """Write an excerpt; the name of the file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return f"{name}.txt"
