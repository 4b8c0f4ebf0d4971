"""Each vendor behind cutters: plain or under TLS, with gateways at it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, tzinfo
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch
from urllib.parse import urlsplit

import trustme

from brokers.ripio import RipioGateway, config
from brokers.ripio.sandbox import RipioSandbox
from brokers.sms4sats import Sms4SatsGateway
from brokers.sms4sats.sandbox import Sms4SatsSandbox
from brokers.tronsave import TronSaveGateway
from brokers.tronsave.sandbox import TronSaveSandbox
from contract import ripio, sms4sats, tronsave
from contract.stage import UNMETERED
from support import virtual_time
from support.canary import CANARY, sightings
from support.cut_points import ENCRYPTED, records, requests_left
from support.cutter import Cutter, Direction
from tronsave_async import OutcomeReached, RateLimiter, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from contract.stage import Stage
    from tronsave_async import Event

__all__ = ["VENUES", "Scene", "opened"]

CLOCKED: Final = (
    "brokers.ripio.gateway",
    "brokers.sms4sats.gateway",
    "brokers.tronsave.gateway",
    "tronsave_async.admission",
    "tronsave_async.cancels",
)
"""Modules that read the wall clock: here it goes with the event loop's."""

PATIENT: Final = RetryPolicy(quota=10_000, quota_refill=10_000)
"""The usual pauses, and a quota that is never used up."""

UNLIMITED: Final = config.Profile(UNMETERED, daily_quota=10**9)


@cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The vendor's context and the client's: built once."""
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return serving, trusting


class Scene:
    """A vendor behind cutters.

    Attributes:
        stage: the vendor.
        cutter: stands before the host to which cancels and creations go.
        reads: stands before the host that is read; of most vendors the same one.
        secure: whether it is all under TLS.
        welcome: encrypted records of the vendor's side of a TLS handshake.
        settled: how many outcomes were told to the telemetry hook, by order.
    """

    def __init__(self, stage: Stage, *, secure: bool) -> None:
        self.stage = stage
        self.secure = secure
        self.welcome = 0
        self.settled: dict[str, int] = {}
        self.cutter: Cutter
        self.reads: Cutter

    @property
    def venue(self) -> str:
        """The vendor's name."""
        return self.stage.venue

    @property
    def cut_what(self) -> str:
        """The first words of what is counted."""
        return f"cut at every byte, {self.venue}, {'TLS' if self.secure else 'plain'}"

    @property
    def socket(self) -> bool:
        """Whether cancels go over a WebSocket."""
        return self.venue == "ripio"

    @property
    def cutters(self) -> set[Cutter]:
        """All of them."""
        return {self.cutter, self.reads}

    def gateway(self, **options: Any) -> Any:
        """Construct a gateway that reaches the vendor through the cutters; the options are the constructor's."""
        usual: dict[str, Any] = {
            "limiter": RateLimiter(),
            "retry": PATIENT,
            "telemetry": self.hear,
            "ssl": tls_contexts()[1] if self.secure else None,
            "rate_limit": UNMETERED,
        }
        options = usual | options
        s, url = "s" if self.secure else "", f"127.0.0.1:{self.cutter.port}"
        if self.venue == "tronsave":
            return TronSaveGateway(CANARY, base_url=f"http{s}://{url}", **options)
        if self.venue == "sms4sats":
            return Sms4SatsGateway(CANARY, base_url=f"http{s}://{url}", **options)
        return RipioGateway(
            f"token-{CANARY}",
            f"secret-{CANARY}",
            ws_url=f"ws{s}://{url}/",
            rest_url=f"http{s}://127.0.0.1:{self.reads.port}/trade",
            profile=UNLIMITED,
            **options,
        )

    def hear(self, event: Event, /) -> None:
        """The telemetry hook."""
        if isinstance(event, OutcomeReached):
            order = event.outcome.order.id or ""
            self.settled[order] = self.settled.get(order, 0) + 1
            sightings.event(event)

    def fill(self, order: str) -> None:
        """Fill an order, if it is alive."""
        if self.is_open(order):
            self.stage.fill(order)

    def is_open(self, order: str) -> bool:
        """Whether an order is alive."""
        record = self.stage.record(order)
        return record is not None and record.state.is_open

    @property
    def requests_left(self) -> list[int]:
        """How many bytes of requests have left the client for the host to which cancels go, on each connection so far,
        whether they arrived or not."""
        links = self.cutter.links
        return [requests_left(link, secure=self.secure, socket=self.socket) for link in links]

    @property
    def clients_left(self) -> bool:
        """Whether the client has ended all its connections."""
        return all(link.client_left for cutter in self.cutters for link in cutter.links)

    def mend(self) -> None:
        """Let later connections pass, and forget what was scripted."""
        for cutter in self.cutters:
            cutter.heal()
            cutter.when_cut = None
        self.stage.sandbox.faults.clear()

    async def heal(self) -> None:
        """The same, and let go what is held; the ports are open again."""
        self.mend()
        for cutter in self.cutters:
            await cutter.listen()
            cutter.release()

    def forget(self) -> None:
        """Break off the connections so far, and forget them."""
        for cutter in self.cutters:
            for link in cutter.links:
                link.abort()
            cutter.links.clear()


@asynccontextmanager
async def opened(venue: str, *, secure: bool) -> AsyncIterator[Scene]:
    """Open a vendor behind cutters. All clocks go with the event loop's."""
    async with AsyncExitStack() as stack:
        module, kind, sandbox = VENUES[venue]
        options = {"ssl_context": tls_contexts()[0]} if secure else {}
        with patch.object(module, sandbox.__name__, partial(sandbox, **options)):
            scene = Scene(kind(), secure=secure)
        loop = asyncio.get_running_loop()
        stack.enter_context(patch.object(virtual_time, "GRACE", 0.0))
        stack.enter_context(patch.object(loop, "getaddrinfo", _addresses))
        for name in CLOCKED:
            stack.enter_context(patch(f"{name}.datetime", wall_of(scene.stage)))
        await scene.stage.sandbox.start()
        stack.push_async_callback(scene.stage.sandbox.aclose)
        ports = _ports(scene.stage.sandbox)
        through = [await stack.enter_async_context(Cutter(port)) for port in ports]
        scene.cutter, scene.reads = through[0], through[-1]
        if secure:
            scene.welcome = await _welcome(scene.cutter)
        # All gateways of an account share the clock that this one sets by the event loop's.
        keeper = await stack.enter_async_context(scene.gateway())
        await keeper.cancel(scene.stage.place())
        await keeper.aclose()
        scene.forget()
        yield scene


VENUES: Final[dict[str, tuple[ModuleType, type[Stage], Any]]] = {
    "ripio": (ripio, ripio.RipioStage, RipioSandbox),
    "sms4sats": (sms4sats, sms4sats.Sms4SatsStage, Sms4SatsSandbox),
    "tronsave": (tronsave, tronsave.TronSaveStage, TronSaveSandbox),
}
"""The vendors: the module that makes the sandbox, what makes the stage, and the sandbox."""


def wall_of(stage: Stage) -> type[datetime]:
    """A wall clock that shows the vendor's time."""

    class Wall(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            """The time of the loop; a plain datetime, as `datetime.now` returns it."""
            return stage.now().astimezone(tz)

    return Wall


def _ports(sandbox: Any) -> list[int]:
    """Where a vendor listens: first for cancels, last for reads."""
    urls = [sandbox.ws_url, sandbox.rest_url] if hasattr(sandbox, "ws_url") else [sandbox.url]
    return [urlsplit(url).port or 0 for url in urls]


async def _addresses(host: str, port: int, **options: Any) -> list[Any]:
    """The loop asks a thread, which takes longer than a cut."""
    return socket.getaddrinfo(host, port, **options)


async def _welcome(cutter: Cutter) -> int:
    """How many encrypted records the vendor's side of a TLS handshake has."""
    context = tls_contexts()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", cutter.port, ssl=context)
    await asyncio.sleep(0.01)
    told = bytes(cutter.links[-1].came[Direction.TO_CLIENT])
    writer.close()
    await writer.wait_closed()
    return sum(record.kind == ENCRYPTED for record in records(told))
