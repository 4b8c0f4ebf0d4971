"""What lies between a gateway and the model vendor: requests with fates, over transports in memory.

A request goes on when its client has given it up, as in reality: what was lost on the way back has arrived, and what
was reset may arrive later.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from support.machine_vendor import ModelVendor, Said, Word
from tronsave_async.errors import ConnectFailed, ConnectionLost, GatewayClosed, RequestTimeout
from tronsave_async.outcomes import Wire
from tronsave_async.websocket import WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from websockets.typing import BytesLike

    from tronsave_async import RetryPolicy
    from tronsave_async.connection import Connection
    from tronsave_async.exchange import Exchange

__all__ = [
    "Act",
    "Fate",
    "Interrupt",
    "MemoryHttp",
    "MemorySocket",
    "Mishap",
    "Network",
    "Packet",
    "Reply",
    "Stage",
]

VENUE: Final = "vendor"
PATIENCE: Final = 15.0
"""Seconds that a transport waits for a reply."""


class Mishap(enum.Enum):
    """What goes wrong with one request."""

    NONE = "nothing"
    NO_CONNECTION = "no connection stands"
    LOST_BEFORE = "it never arrives, and nobody says so"
    RESET_BEFORE = "it never arrives, and the connection breaks"
    RESET_FIRST = "the connection breaks, and it arrives later"
    RESET_AFTER = "it is processed, and the connection breaks"
    HANG = "it is processed, and never answered"
    LATE = "it is processed, and answered too late"
    TWICE = "it is answered twice"
    TOO_MANY = "429"
    TOO_MANY_FOR = "429 with Retry-After"
    BUSY = "503 with Retry-After, not processed"
    FAILURE_BEFORE = "500, not processed"
    FAILURE_AFTER = "500, processed"
    GARBAGE_BEFORE = "not the vendor's reply, not processed"
    GARBAGE_AFTER = "not the vendor's reply, processed"
    REFUSED = "the vendor says no"
    SILENT = "the reply misses some"
    FOREIGN = "the reply names others as well"
    CONTRADICTS = "the reply says two things"
    WHOLE = "refused as a whole"
    REJECTED = "401"
    STALE = "the signature is too old"


UNPROCESSED: Final = {
    Mishap.TOO_MANY: 429,
    Mishap.TOO_MANY_FOR: 429,
    Mishap.BUSY: 503,
    Mishap.FAILURE_BEFORE: 500,
    Mishap.GARBAGE_BEFORE: 200,
    Mishap.WHOLE: 400,
    Mishap.REJECTED: 401,
    Mishap.STALE: 498,
}
"""What is answered without a look at the request, and with what status."""


class Stage(enum.Enum):
    """Where a request is."""

    ASKED = "it has its permit"
    DEPARTING = "a connection stands"
    DEPARTED = "it has left"
    ARRIVING = "it arrives"
    PROCESSED = "it was processed"
    ANSWERING = "its reply arrives"


class Act(enum.Enum):
    """What somebody else does in the middle."""

    CANCEL_A_CALL = "cancel a call"
    CANCEL_ALL_CALLS = "cancel all calls"
    FILL = "fill its orders"
    FILL_PARTLY = "fill its orders in part"
    CANCEL_BEHIND = "cancel its orders from elsewhere"
    DROP = "drop the socket"
    CLOSE = "close the gateway"


class Interrupt(NamedTuple):
    """Something that happens when a request is somewhere, or so many turns of the loop later."""

    stage: Stage
    act: Act
    turns: int


class Fate(NamedTuple):
    """What becomes of one request: seconds until a connection stands, there, and back."""

    mishap: Mishap = Mishap.NONE
    connect: float = 0.0
    travel: float = 0.01
    back: float = 0.01
    interrupt: Interrupt | None = None


class Reply:
    """What the vendor answers; no words where it is not the vendor's."""

    def __init__(
        self, status: int, words: Sequence[tuple[str, Word]] | None, retry: float | None = None
    ) -> None:
        self.status = status
        self.words = words
        self._retry = retry

    def retry_after(self) -> float | None:
        """Seconds that the vendor asks to wait."""
        return self._retry


class Line(Protocol):
    """Where the answer to a request comes back."""

    def answer(self, packet: Packet, reply: Reply) -> None:
        """Bring the reply."""

    def lose(self, packet: Packet) -> None:
        """Break the connection."""


class Packet:
    """One request, and what became of it: moments of the vendor's, or None for never."""

    def __init__(
        self, number: int, call: str, names: Sequence[str], exchange: Exchange, fate: Fate
    ) -> None:
        self.number = number
        self.call = call
        self.names = tuple(names)
        self.exchange = exchange
        self.fate = fate
        self.line: Line
        self.key = ""
        """The socket's id for it."""
        self.gateway = 0
        """Whose it is: the number of the gateway."""
        self.asked = 0
        self.asked_at = self.departed_at = self.heard_at = 0.0
        """Seconds on the loop's clock."""
        self.claimed: int | None = None
        """Since when it counts as sent."""
        self.departed: int | None = None
        self.processed: int | None = None
        self.heard: int | None = None
        """When the reply came in time."""
        self.heard_late: int | None = None
        self.ended: int | None = None
        """When its client stopped to wait for it, and whoever asked has been told."""
        self.reply: Reply | None = None

    def __repr__(self) -> str:
        return f"<{self.number} {self.call} {self.names} {self.fate.mishap.name}>"

    def word(self, name: str) -> Word | None:
        """What the reply says about an order of the request; None if nothing, or two things."""
        if name not in self.names:
            return None
        words = () if self.reply is None or self.reply.words is None else self.reply.words
        said = {word for its, word in words if its == name}
        return said.pop() if len(said) == 1 else None


class Network:
    """All requests, and their fates: given out in order, one for each; then nothing goes wrong.

    Args:
        vendor: who processes what arrives.
        loop: what time it is.
        happen: does what a fate interrupts its request with.
    """

    def __init__(
        self,
        vendor: ModelVendor,
        loop: asyncio.AbstractEventLoop,
        happen: Callable[[Act, Packet, int], None],
    ) -> None:
        self.vendor = vendor
        self.loop = loop
        self.gateway = 0
        self.watch: Callable[[Packet], None] = lambda packet: None
        """Is shown every request that has its permit."""
        self.of_exchange: dict[tuple[int, int], Packet] = {}
        """By gateway, and number of the exchange."""
        self.fates: deque[Fate] = deque()
        self.packets: list[Packet] = []
        self.frames: list[tuple[str, Reply] | str] = []
        """What arrived over sockets."""
        self._happen = happen

    def packet(self, call: str, names: Sequence[str], exchange: Exchange, line: Line) -> Packet:
        """A request has its permit."""
        fate = self.fates.popleft() if self.fates else Fate()
        packet = Packet(len(self.packets), call, names, exchange, fate)
        packet.line = line
        packet.gateway = self.gateway
        packet.asked, packet.asked_at = self.vendor.tick(), self.loop.time()
        self.packets.append(packet)
        self.of_exchange[self.gateway, exchange.number] = packet
        self.watch(packet)
        self.reach(packet, Stage.ASKED)
        return packet

    def hear(self, packet: Packet) -> None:
        """The reply came; in time, unless the gateway was closed just now."""
        exchange = packet.exchange
        if exchange.ended_at is None or exchange.was_answered:
            packet.heard, packet.heard_at = self.vendor.tick(), self.loop.time()

    def reach(self, packet: Packet, stage: Stage) -> None:
        """A request is somewhere."""
        interrupt = packet.fate.interrupt
        if interrupt is not None and interrupt.stage is stage:
            self._happen(interrupt.act, packet, interrupt.turns)

    def depart(self, packet: Packet) -> None:
        """Its bytes leave."""
        fate = packet.fate
        packet.departed, packet.departed_at = self.vendor.tick(), self.loop.time()
        if fate.mishap is not Mishap.LOST_BEFORE:
            self.loop.call_later(fate.travel, self._arrive, packet)
        if fate.mishap is Mishap.RESET_FIRST:
            self.loop.call_later(fate.travel / 2, packet.line.lose, packet)
        self.reach(packet, Stage.DEPARTED)

    def _arrive(self, packet: Packet) -> None:
        fate = packet.fate
        if fate.mishap is Mishap.RESET_BEFORE:
            packet.line.lose(packet)
            return
        self.reach(packet, Stage.ARRIVING)
        packet.reply = self._process(packet)
        self.reach(packet, Stage.PROCESSED)
        if fate.mishap in (Mishap.HANG, Mishap.RESET_FIRST):
            return
        if fate.mishap is Mishap.RESET_AFTER:
            self.loop.call_later(fate.back, packet.line.lose, packet)
            return
        late = PATIENCE + 1.0 if fate.mishap is Mishap.LATE else 0.0
        self.loop.call_later(fate.back + late, self._answer, packet)
        if fate.mishap is Mishap.TWICE:
            self.loop.call_later(fate.back + 0.1, self._answer, packet)

    def _answer(self, packet: Packet) -> None:
        assert packet.reply is not None, "it was processed"
        self.reach(packet, Stage.ANSWERING)
        packet.line.answer(packet, packet.reply)

    def _process(self, packet: Packet) -> Reply:
        mishap = packet.fate.mishap
        if (status := UNPROCESSED.get(mishap)) is not None:
            waits = mishap in (Mishap.TOO_MANY_FOR, Mishap.BUSY)
            return Reply(status, None, 3.0 if waits else None)
        if packet.call == "cancel" and self._spoils(packet):
            return Reply(400, None)
        packet.processed = self.vendor.tick()
        words = [(name, self._word(packet, name)) for name in packet.names]
        if mishap is Mishap.FAILURE_AFTER:
            return Reply(500, None)
        if mishap is Mishap.GARBAGE_AFTER:
            return Reply(200, None)
        if mishap is Mishap.SILENT:
            words = words[1::2]
        if mishap is Mishap.FOREIGN:
            words += [
                (name, Word(Said.CANCELED, None)) for name in ("a", "x") if name not in packet.names
            ]
        if mishap is Mishap.CONTRADICTS and packet.call == "cancel":
            words.append((packet.names[0], Word(Said.REFUSED, None)))
        return Reply(200, words)

    def _spoils(self, packet: Packet) -> bool:
        """An order that the vendor does not know spoils a request of several."""
        unknown = [name for name in packet.names if self.vendor.life(name) is None]
        return bool(unknown) and len(packet.names) > 1

    def _word(self, packet: Packet, name: str) -> Word:
        vendor = self.vendor
        if packet.call == "create":
            return vendor.create(name)
        if packet.call == "read":
            return vendor.read(name)
        if packet.fate.mishap is Mishap.REFUSED:
            return vendor.refuse(name)
        return vendor.cancel(name)


class MemoryHttp:
    """`HttpTransport` without sockets: a request to a connection, which is its own.

    Args:
        network: carries the requests.
        seen: the moment is known in which a connection stands; else a request counts as sent from the beginning.
    """

    def __init__(self, network: Network, *, seen: bool) -> None:
        self._network = network
        self._seen = seen
        self._closed = False
        self._connecting: dict[Packet, asyncio.Future[bool]] = {}
        self._waiting: dict[Packet, asyncio.Future[Reply | None]] = {}

    async def send(self, packet: Packet, departing: Callable[[bool], object]) -> Reply:
        """One attempt: a reply, or an error that says whether bytes left."""
        if self._closed:
            raise GatewayClosed(VENUE)
        if not self._seen:
            self._claim(packet, departing)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._exchange(packet, departing)
        except TimeoutError:
            wire = Wire.NOT_SENT if packet.claimed is None else Wire.MAYBE_SENT
            raise RequestTimeout(VENUE, packet.call, "timed out", wire=wire) from None
        finally:
            self._connecting.pop(packet, None)
            self._waiting.pop(packet, None)

    async def aclose(self) -> None:
        """Send nothing any more, and break the connections."""
        self._closed = True
        for packet in list(self._connecting):
            self._connect(packet, False)
        for packet in list(self._waiting):
            self.lose(packet)

    def answer(self, packet: Packet, reply: Reply) -> None:
        """Bring the reply, if anybody waits for it."""
        future = self._waiting.get(packet)
        if future is not None and not future.done():
            future.set_result(reply)

    def lose(self, packet: Packet) -> None:
        """Break its connection."""
        future = self._waiting.get(packet)
        if future is not None and not future.done():
            future.set_result(None)

    def _connect(self, packet: Packet, stands: bool) -> None:
        future = self._connecting.get(packet)
        if future is not None and not future.done():
            future.set_result(stands)

    def _claim(self, packet: Packet, departing: Callable[[bool], object]) -> None:
        departing(self._seen)
        packet.claimed = self._network.vendor.tick()

    async def _exchange(self, packet: Packet, departing: Callable[[bool], object]) -> Reply:
        network, fate = self._network, packet.fate
        connected = self._connecting[packet] = network.loop.create_future()
        stands = fate.mishap is not Mishap.NO_CONNECTION
        network.loop.call_later(fate.connect, self._connect, packet, stands)
        if not await connected or self._closed:
            packet.claimed = None
            raise ConnectFailed(VENUE, packet.call, "refused", wire=Wire.NOT_SENT)
        network.reach(packet, Stage.DEPARTING)
        if self._seen:
            self._claim(packet, departing)
        future: asyncio.Future[Reply | None] = network.loop.create_future()
        self._waiting[packet] = future
        network.depart(packet)
        reply = await future
        if reply is None:
            raise ConnectionLost(VENUE, packet.call, "reset", wire=Wire.MAYBE_SENT)
        network.hear(packet)
        return reply


class MemoryConnection:
    """What `WebSocketTransport` needs of a connection."""

    def __init__(self, socket: MemorySocket) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.proved_itself = False
        self.is_choked = False
        self._socket = socket

    @property
    def takes_more(self) -> bool:
        """It is written to."""
        return not (self.is_choked or self.ended.done())

    def say(self, message: bytes) -> int:
        """A request leaves."""
        self._socket.depart(int(message), self)
        return len(message)

    def write(self) -> None:
        """It left before."""

    def hear(self, message: bytes) -> None:
        """A message comes, if the connection still stands."""
        if not self.ended.done() and self._socket.received(message):
            self.proved_itself = True

    def close(self, reason: str) -> None:
        """It ends."""
        if not self.ended.done():
            self.ended.set_result(None)
            self._socket.lost(cast("Connection", self), reason)


class MemorySocket(WebSocketTransport[Reply]):
    """The WebSocket transport itself, over connections in memory."""

    def __init__(self, network: Network, *, retry: RetryPolicy, max_in_flight: int) -> None:
        super().__init__(
            VENUE,
            "ws://vendor",
            read=self._message,
            retry=retry,
            timeout=PATIENCE,
            max_in_flight=max_in_flight,
        )
        self.network = network
        self.refusals = 0
        """So many attempts to connect will fail."""
        self._lines: dict[Packet, MemoryConnection] = {}

    @property
    def current(self) -> MemoryConnection | None:
        """The connection that stands."""
        return cast("MemoryConnection | None", self._connection)

    def depart(self, number: int, connection: MemoryConnection) -> None:
        """A request is written."""
        packet = self.network.packets[number]
        self._lines[packet] = connection
        self.network.depart(packet)

    def answer(self, packet: Packet, reply: Reply) -> None:
        """Bring the reply, if the connection still stands over which it was asked."""
        self._lines[packet].hear(self.frame((packet.key, reply)))

    def lose(self, packet: Packet) -> None:
        """Break the connection, with all that is under way on it."""
        self._lines[packet].close("reset")

    def frame(self, content: tuple[str, Reply] | str) -> bytes:
        """A message with this content."""
        self.network.frames.append(content)
        return str(len(self.network.frames) - 1).encode()

    def _message(self, message: BytesLike) -> tuple[str, Reply] | str:
        return self.network.frames[int(bytes(message))]

    async def _connect(self) -> tuple[Connection | None, str]:
        await asyncio.sleep(0)
        if self.refusals:
            self.refusals -= 1
            return None, "refused"
        connection = cast("Connection", MemoryConnection(self))
        self.stands(connection)
        return connection, ""
