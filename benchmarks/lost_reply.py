"""The vendor processes a cancel, and the reply is lost: how long until somebody knows what happened?

Ours, at the vendors' simulators, on an event loop whose clock jumps: every reply takes 100 ms, the first one never
comes because the connection breaks. From that moment to the outcome: the back-off that the policy drew, and so many
round trips. Opening a connection again takes no time there; on a network it adds its own. The ideal by hand sleeps as
long and reads the order back: one round trip.

The peers are asked to cancel at the local server, which processes the cancel and closes the connection. Nothing of
theirs looks at the order afterwards: what they raise, how long that takes, and how many cancels the server processed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import aiohttp
import measure
import peers
from measure import Goal, Kind, Options, Series
from report import Report, finish

from brokers.ripio import Profile, RipioGateway
from brokers.ripio.sandbox import RipioSandbox
from brokers.sms4sats import Sms4SatsGateway
from brokers.sms4sats.sandbox import Sms4SatsSandbox
from brokers.tronsave import TronSaveGateway
from brokers.tronsave.sandbox import TronSaveSandbox
from tronsave_async import (
    Canceled,
    CancelOutcome,
    Event,
    Lost,
    OrderRef,
    OutcomeReached,
    RateLimit,
    RateLimiter,
    Retried,
)
from tronsave_async.sandbox import Fault, FaultScript, Reply

ROUND_TRIP = 0.1
PATIENCE = 15.0
FAST = RateLimit(1000, per=1.0, margin=0.0)
TRIPS = Goal(2.0, "round trips")


class Watch:
    """Hears when the reply was lost, how long the pauses were, and when the outcome was reached."""

    def __init__(self) -> None:
        self.lost_at: float | None = None
        self.known_at: float | None = None
        self.paused = 0.0
        """Seconds."""

    def forget(self) -> None:
        """Begin anew."""
        self.lost_at = self.known_at = None
        self.paused = 0.0

    def __call__(self, event: Event) -> None:
        """Take note."""
        now = asyncio.get_running_loop().time()
        if isinstance(event, Lost) and self.lost_at is None:
            self.lost_at = now
        elif isinstance(event, Retried):
            self.paused += event.delay
        elif isinstance(event, OutcomeReached):
            self.known_at = now

    @property
    def trips(self) -> float:
        """Round trips from the loss to the outcome, without the pauses."""
        assert self.lost_at is not None, "no reply was lost"
        assert self.known_at is not None, "nothing came of it"
        return round((self.known_at - self.lost_at - self.paused) / ROUND_TRIP, 6)


def lose_one(faults: FaultScript) -> None:
    """The first cancel's reply never comes; every other reply takes its time."""
    faults.add(Fault(endpoint="cancel", reply=Reply.DROP, delay=ROUND_TRIP))
    faults.add(Fault(reply=Reply.LATE, delay=ROUND_TRIP, times=100))


async def at_tronsave(watch: Watch) -> CancelOutcome:
    """TronSave: tracked, or found in the history."""
    async with TronSaveSandbox(requests_per_window=1000) as sandbox:
        order = sandbox.add_order()
        lose_one(sandbox.faults)
        async with TronSaveGateway(
            sandbox.api_key,
            base_url=sandbox.url,
            rate_limit=FAST,
            limiter=RateLimiter(),
            telemetry=watch,
        ) as gateway:
            return await gateway.cancel(order)


async def at_ripio(watch: Watch) -> CancelOutcome:
    """Ripio: canceled again, and read back by REST. The socket has served before; one that has not is opened again
    after a pause of its own."""
    async with RipioSandbox(requests_per_window=1000) as sandbox:
        order = sandbox.add_order()
        async with RipioGateway(
            sandbox.api_token,
            sandbox.secret,
            ws_url=sandbox.ws_url,
            rest_url=sandbox.rest_url,
            profile=Profile(FAST, daily_quota=1000),
            limiter=RateLimiter(),
            telemetry=watch,
        ) as gateway:
            await gateway.cancel(sandbox.add_order())
            watch.forget()
            lose_one(sandbox.faults)
            return await gateway.cancel(order)


async def at_sms4sats(watch: Watch) -> CancelOutcome:
    """sms4sats: looked at."""
    made = datetime.now(UTC) - timedelta(minutes=5)
    async with Sms4SatsSandbox() as sandbox:
        order = OrderRef(id=sandbox.add_order(created_at=made), created_at=made)
        lose_one(sandbox.faults)
        async with Sms4SatsGateway(
            base_url=sandbox.url, rate_limit=FAST, limiter=RateLimiter(), telemetry=watch
        ) as gateway:
            return await gateway.cancel(order)


VENDORS = (
    ("TronSave", "tracked", at_tronsave),
    ("Ripio", "canceled again, and read back", at_ripio),
    ("Sms4Sats", "looked at", at_sms4sats),
)


def ours(given: Options, report: Report) -> None:
    """Round trips at each vendor; only the pauses are random."""
    sys.path.insert(0, str(measure.HERE.parent / "tests"))
    try:
        from support.virtual_time import VirtualTimeLoop
    except ImportError as error:
        report.remarks.append(f"tronsave-async: not measured: {peers.reason(error)}")
        return
    setting = "round trips after the back-off"
    for vendor, how, play in VENDORS:
        trips: list[float] = []
        proofs: set[str] = set()
        for _ in range(given.rounds(10)):
            watch = Watch()
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                outcome = runner.run(play(watch))
            assert isinstance(outcome, Canceled), outcome
            trips.append(watch.trips)
            proofs.add(outcome.evidence.value)
        note = f"{how}; Canceled, evidence: {', '.join(sorted(proofs))}"
        report.line(setting, f"{vendor}Gateway", Kind.OURS, "round trips", Series(trips), note)
        report.judge_value(
            f"From a lost reply to a proved outcome, {vendor}",
            Series([max(trips)]),
            TRIPS,
            ideal="1 (a look)",
            peer="none proves anything",
        )
    report.line(setting, "by hand", Kind.IDEAL, "round trips", Series([1.0]), "calculated")


class Told(NamedTuple):
    """What came of a peer's cancel whose reply was lost."""

    said: str
    seconds: float
    processed: int


async def ask_peer(cancel: peers.Cancel, session: aiohttp.ClientSession, base: str) -> Told:
    """Cancel once while replies get lost."""
    async with session.get(f"{base}/weather/bad") as reply:
        await reply.read()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            said = f"returned {await cancel(7)!r}"
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is the answer
        seconds = time.perf_counter() - started
        waited_in_vain = isinstance(error, TimeoutError) and seconds >= PATIENCE
        said = "nothing" if waited_in_vain else f"raised {type(error).__name__}"
    took = time.perf_counter() - started
    async with session.get(f"{base}/weather/good") as reply:
        return Told(said, took, int(await reply.read()))


async def others(port: int, report: Report) -> None:
    """Every peer once: what it does is not a matter of chance."""
    base = f"http://127.0.0.1:{port}"
    for peer in (*peers.SOCKETS, *peers.HTTP):
        if "official" in peer.name:
            continue
        async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
            for opened, cancel in await peers.open_all([peer], stack, port, report.remarks):
                told = await ask_peer(cancel, session, base)
                report.line(
                    "seconds until the peer gives up",
                    f"{opened.name}, {'socket' if peer in peers.SOCKETS else 'HTTP'}",
                    opened.kind,
                    "s",
                    Series([told.seconds]),
                    f"{told.said}; the server processed {told.processed} cancel(s); state of the order unknown",
                )


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("lost_reply", "From a lost reply to a proved outcome", __doc__ or "")
    ours(given, report)
    with measure.server() as port:
        measure.run_on("asyncio", others(port, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
