"""The weather of a storm: what befalls requests, and what befalls the vendor as a whole."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from brokers.ripio.sandbox import RipioSandbox
from contract.stage import Ability
from contract.weather import LOST_REPLIES, LOST_REQUESTS
from tronsave_async import sandbox as faults
from tronsave_async import sandbox_socket as socket_faults
from tronsave_async.connection import MAX_MESSAGE
from tronsave_async.sandbox import Fault, Reply
from tronsave_async.tasks import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from contract.stage import Stage
    from tronsave_async import RateLimiter

    from .storm_ledger import Ledger

    Gust = Callable[[], Awaitable[None]]

__all__ = ["A_FEW", "Climate", "Gusts", "Way", "drawn_from", "faults_of"]

STRANGE: Final = (b'{"id":7,"topic":"order_status","body":{}}', b"not JSON", b"[]", b"{}")
"""Messages that nobody asked for."""

MORE_OFTEN: Final = 6
"""How much more often other faults come than those that end a socket."""

OFTEN: Final = ("penalty", "way blocked", "way blocked")
"""What comes more often than the rest, and takes less along."""

A_FEW: Final = 5
"""Turns of the loop in which it is noticed that connections are gone."""


class Climate(msgspec.Struct, frozen=True, kw_only=True):
    """How rough it is, and in which measure time passes. All times in seconds.

    Attributes:
        fault_rate: the part of requests that a fault befalls.
        delays: by how much replies may be late.
        moments: after how long callers may go, and orders change behind their backs.
        timeouts: of the callers; None for none.
        patience: the gateway's, with one request.
        calm: between two gusts, at most.
        silence: for how long the vendor may be away or silent, at most.
        way: how long a request, or a reply, may be under way.
        lag: by how much a busy machine may be late.
        requests, window: how many requests the vendor admits in which time.
        margin: what the gateway adds to the window: what left evenly arrives bunched, by the way's length.
        rest: after how long whatever is still under way without callers will never end.
        ages: after how long whoever still waits will wait for ever.
        idle: for how long nothing happens after a squall, so that idle connections are given up.
        crowd: callers at a time.
    """

    fault_rate: float = 0.12
    delays: tuple[float, ...] = (0.01, 0.7, 3.3)
    moments: tuple[float, ...] = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.6, 1.0, 4.0, 15.0, 31.0)
    timeouts: tuple[float | None, ...] = (*(None,) * 6, 60.0, 60.0, 20.0, 20.0, 1.0, 0.01)
    patience: float = 3.0
    calm: float = 3.0
    silence: float = 0.05
    way: float = 0.1
    lag: float = 0.0
    requests: int = 300
    window: float = 0.5
    margin: float = 0.1
    rest: float = 200.0
    ages: float = 20_000.0
    idle: float = 31.0
    crowd: int = 120

    @property
    def longest_way(self) -> float:
        """How long a request travels that nobody waits for any more when it arrives."""
        return self.patience * 1.2

    def limit_of(self, kind: type[Stage]) -> int:
        """How many requests the vendor admits in a window: fewer, where many orders share one."""
        return max(1, self.requests // min(10, kind.cancels_per_request))


def faults_of(stage: Stage, climate: Climate) -> Mapping[str, Fault]:
    """What may befall a request to this vendor, by name. Faults that other vendors' cancels have as well come first."""
    cancel = stage.cancel_call
    found = {f"reply: {name}": weather(cancel) for name, weather in LOST_REPLIES.items()}
    found |= {f"request: {name}": weather(cancel) for name, weather in LOST_REQUESTS.items()}
    found |= {f"late {delay:g} s": faults.late(cancel, delay=delay) for delay in climate.delays}
    found["filled in the race"] = faults.fill_in_the_race(cancel)
    if Ability.RETRY_AFTER not in stage.lacks:
        found["429 with Retry-After"] = faults.rate_limited(cancel, retry_after=climate.window)
    if Ability.PARTIAL_FILLS not in stage.lacks:
        found["partly filled in the race"] = faults.partial_fill_in_the_race(cancel)
    for call in stage.read_calls:
        found |= {f"{call}: reply: {name}": of(call) for name, of in LOST_REPLIES.items()}
        found |= {f"{call}: request: {name}": of(call) for name, of in LOST_REQUESTS.items()}
        found[f"{call}: filled in the race"] = faults.fill_in_the_race(call)
    if isinstance(stage.sandbox, RipioSandbox):
        found |= _faults_of_sockets(cancel)
    return found


def _faults_of_sockets(cancel: str) -> dict[str, Fault]:
    found = {
        "duplicate": socket_faults.duplicated(cancel),
        "reordered": socket_faults.reordered(cancel),
        "unknown id": socket_faults.unaddressed(cancel),
        "no id": socket_faults.unaddressed(cancel, address=None),
        "binary": socket_faults.binary_frame(cancel),
        "an error, then the reply": socket_faults.contradicted(cancel, first=True),
        "the reply, then an error": socket_faults.contradicted(cancel),
        "processed too slowly": faults.too_slow(cancel),
        "closed (1012)": socket_faults.closing(1012, cancel),
        "processed, closed (1001)": socket_faults.closing(1001, cancel, processed=True),
        "replied, closed (1000)": socket_faults.closing(1000, cancel, replied=True),
    }
    for message in STRANGE:
        name = f"preceded by {message.decode()}"
        found[name] = socket_faults.uninvited(cancel, body=message)
    return found


class Way(random.Random):
    """The way to the vendor and back: every request and every reply travels for a random time.

    It is one of three times: where the clock jumps to the next timer, each different moment costs real time.

    Args:
        climate: how long it is.
        seed: of the travel times.

    Attributes:
        is_blocked: what sets out now arrives when nobody waits for it any more.
    """

    def __init__(self, climate: Climate, seed: int) -> None:
        super().__init__(seed)
        self.is_blocked = False
        self._climate = climate

    def uniform(self, a: float, b: float) -> float:
        """Return how long one of them travels."""
        if self.is_blocked:
            return self._climate.longest_way
        return self.choice((a, (a + b) / 2, b))

    def lead_to(self, stage: Stage) -> None:
        """Let all that goes to a vendor, or comes from it, go this way."""
        sandbox: Any = stage.sandbox
        for name in ("_server", "_ws", "_rest", "_sockets"):
            if (server := getattr(sandbox, name, None)) is not None:
                server._jitter = self._climate.way
                server._random = self


def drawn_from(found: Mapping[str, Fault], stage: Stage, chance: random.Random) -> Sequence[Fault]:
    """The faults of one squall, each as often as it is to be drawn: what takes a whole socket along, and all that is
    under way on it, seldom."""
    if not isinstance(stage.sandbox, RipioSandbox):
        return list(found.values())
    ends = [fault for fault in found.values() if _ends_the_socket(fault, stage.cancel_call)]
    often = [fault for fault in found.values() if not _ends_the_socket(fault, stage.cancel_call)]
    return [*often * MORE_OFTEN, *chance.sample(ends, 3)]


def _ends_the_socket(fault: Fault, cancel: str) -> bool:
    too_large = fault.body is not None and len(fault.body) > MAX_MESSAGE
    cut = fault.reply in {Reply.DROP, Reply.TRUNCATED} or fault.close_code is not None
    return fault.endpoint == cancel and (cut or too_large)


class Gusts:
    """What befalls the vendor, or the account, as a whole. One at a time, each over when its call returns.

    Args:
        stage: the vendor.
        limiter: the account's.
        ledger: is told when nothing can arrive.
        way: to the vendor and back.
        climate: how long it lasts.
        chance: which comes when.

    Attributes:
        blown: how many, by name.
    """

    def __init__(
        self,
        stage: Stage,
        limiter: RateLimiter,
        ledger: Ledger,
        way: Way,
        climate: Climate,
        chance: random.Random,
    ) -> None:
        self.blown: dict[str, int] = {}
        self._piles: list[tuple[float, float]] = []
        self._stage = stage
        self._limiter = limiter
        self._ledger = ledger
        self._way = way
        self._climate = climate
        self._chance = chance
        self._next: list[str] = []
        self._kinds: dict[str, Gust] = {
            "vendor restarted": self.restart,
            "penalty": self._penalize,
            "way blocked": self._block,
        }
        if isinstance(stage.sandbox, RipioSandbox):
            self._kinds |= self._of_sockets(stage.sandbox)

    async def blow(self) -> None:
        """Let one of them come."""
        if not self._next:  # all of them come, and then all of them again
            deck = [*self._kinds, *OFTEN]
            self._next = self._chance.sample(deck, len(deck))
        name = self._next.pop()
        self.blown[name] = self.blown.get(name, 0) + 1
        await self._kinds[name]()

    async def restart(self) -> None:
        """The vendor breaks everything off, is away for a moment, and listens again."""
        with self._ledger.outage():
            await self._stage.sandbox.aclose()
            await self._away()
            await self._stage.sandbox.start()
            for _ in range(A_FEW):
                await asyncio.sleep(0)

    async def _penalize(self) -> None:
        """Somebody else on the account was told "too many requests"."""
        scope = self._chance.choice([*self._limiter.statistics(), None])
        if scope is not None:
            self._limiter.penalize(scope, self._chance.random() * self._climate.silence * 20)

    async def _block(self) -> None:
        """For a moment nothing comes through; it arrives much later, all at once."""
        self._way.is_blocked, since = True, clock()
        await asyncio.sleep(self._chance.uniform(0.5, 1.5) * self._climate.window)
        self._way.is_blocked = False
        self._pile_up(since, clock() + self._climate.longest_way)

    def _pile_up(self, since: float, until: float) -> None:
        """What left evenly arrived all at once."""
        self._piles.append((since, until + 2 * self._climate.window))

    def bunched(self, moment: float) -> bool:
        """Whether requests may have waited at the vendor's door, and have come in together at that moment."""
        return any(since <= moment <= until for since, until in self._piles)

    def turn_the_page(self) -> None:
        """Forget when."""
        self._piles.clear()

    async def _away(self) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.random() * self._climate.silence)

    def _of_sockets(self, sandbox: RipioSandbox) -> dict[str, Gust]:
        ledger, chance = self._ledger, self._chance

        async def cut() -> None:
            sandbox.cut_sockets(reset=chance.random() < 0.5)

        async def close() -> None:
            sandbox.close_sockets(chance.choice([1000, 1001, 1011, 1012]))

        async def be_silent() -> None:
            since = clock()
            sandbox.freeze(reads=chance.random() < 0.5)
            await asyncio.sleep(chance.choice([0.05, 0.3, 1.5]) * self._climate.patience)
            sandbox.thaw()
            self._pile_up(since, clock() + self._climate.way)

        async def refuse() -> None:
            how: Any = chance.choice([503, 404, Reply.DROP])
            sandbox.refuse_upgrades(how, times=2)
            sandbox.cut_sockets()

        async def no_socket() -> None:
            await sandbox.close_ws()
            await self._away()
            await sandbox.open_ws()

        async def no_rest() -> None:
            with ledger.outage():
                await sandbox.close_rest()
                await self._away()
                await sandbox.open_rest()
                for _ in range(A_FEW):
                    await asyncio.sleep(0)

        async def babble() -> None:
            sandbox.broadcast_raw(chance.choice(STRANGE), binary=chance.random() < 0.5)

        return {
            "sockets cut": cut,
            "sockets closed": close,
            "sockets silent": be_silent,
            "upgrades refused": refuse,
            "socket host down": no_socket,
            "REST host down": no_rest,
            "strange messages": babble,
        }
