"""
A TCP proxy on loopback that cuts connections at an exact byte.

It stands between a client and a vendor's sandbox and passes bytes on; whether they are HTTP, a WebSocket or TLS is
nothing to it. Each direction of each connection may have one `Cut`: after so many bytes the connection is closed,
reset, half closed, stalled, slowed down or swallowed. It keeps what came, so that a clean run tells where to cut.

It does what it does in the step in which bytes come, with protocols and without timers (but for a delay), and so works
on a clock that jumps as well.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cut", "Cutter", "Direction", "How", "Link"]


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_VENDOR = "to the vendor"
    TO_CLIENT = "to the client"


class How(enum.Enum):
    """What happens at the byte."""

    FIN = "fin"
    """Both ends are closed in good order."""
    RESET = "reset"
    """Both ends are reset; what has passed can still be read."""
    HALF_CLOSE = "half-close"
    """The direction ends: whoever reads it sees its end, what still comes is lost. The other direction goes on."""
    STALL = "stall"
    """The direction stands still. What comes, and the end of it, is held until it is released."""
    DELAY = "delay"
    """What comes from here on passes some seconds later."""
    BLACKHOLE = "blackhole"
    """Nothing passes any more, in neither direction, not even an end."""


@dataclass(frozen=True)
class Cut:
    """What is to happen to a connection, and where.

    Attributes:
        direction: whose bytes are counted.
        at: so many of them pass before, from the beginning of the connection. 0: none, and it happens on arrival of
            the connection. If more have passed already, it happens at once.
        how: what happens.
        lazy: it waits until a further byte comes. Otherwise it happens as soon as the last byte before it has passed,
            before its reader has read it.
        delay: seconds, for `How.DELAY`.
    """

    direction: Direction
    at: int
    how: How
    lazy: bool = False
    delay: float = 0.0


class Cutter:
    """The proxy.

    Args:
        target: the port on 127.0.0.1 to which connections are passed on.

    Attributes:
        links: the connections so far, in the order in which they came; may be cleared.
        cuts: how many cuts have happened.
        when_cut: called in the moment of each cut, before its reader has read what has just passed.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.links: list[Link] = []
        self.cuts = 0
        self.when_cut: Callable[[Link, Cut], object] | None = None
        self._script: deque[tuple[Cut, ...]] = deque()
        self._always: tuple[Cut, ...] = ()
        self._open: set[Link] = set()
        self._listener: asyncio.Server | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on; kept while it refuses."""
        assert self._port, "entered before"
        return self._port

    @property
    def open(self) -> int:
        """How many connections are not closed at both ends."""
        return len(self._open)

    def next(self, *cuts: Cut) -> None:
        """Cut the next connection that comes and has not been spoken for: at most once in each direction."""
        self._script.append(cuts)

    def always(self, *cuts: Cut) -> None:
        """Cut every connection that comes and has not been spoken for."""
        self._always = cuts

    def heal(self) -> None:
        """Cut nothing any more. What has been cut stays so; what is held is held."""
        self._script.clear()
        self._always = ()
        for link in self._open:
            link.spare()

    def release(self) -> None:
        """Let go what is held on any connection."""
        for link in list(self._open):
            link.release()

    def refuse(self) -> None:
        """Close the port: nobody listens. Connections that stand stay as they are."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def listen(self) -> None:
        """Listen, after `refuse` on the same port again. Listening already changes nothing."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._accept, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and break off what stands; return when all sockets are closed."""
        self.refuse()
        for _ in range(5):  # who was let in just now becomes a link
            await asyncio.sleep(0)
        for link in list(self._open):
            link.abort()
        if self._open:
            await asyncio.wait([link.closed for link in self._open])

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def happened(self, link: Link, cut: Cut) -> None:
        """A cut happens (internal to the links)."""
        self.cuts += 1
        if self.when_cut is not None:
            self.when_cut(link, cut)

    def gone(self, link: Link) -> None:
        """Both ends of a link are closed (internal to the links)."""
        self._open.discard(link)

    def _accept(self) -> _End:
        link = Link(self, self._script.popleft() if self._script else self._always)
        self.links.append(link)
        self._open.add(link)
        return link.client


class Link:
    """One connection through the cutter.

    Attributes:
        came: the bytes that came, by direction, whether they passed or not.
        client, vendor: its two ends (internal).
        closed: done when both are closed.
    """

    def __init__(self, cutter: Cutter, cuts: tuple[Cut, ...]) -> None:
        self.came = {direction: bytearray() for direction in Direction}
        self.client = _End(self, Direction.TO_VENDOR)
        self.vendor = _End(self, Direction.TO_CLIENT)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cutter = cutter
        self._dialing: asyncio.Task[None] | None = None
        self._is_over = False
        self._lanes = {
            Direction.TO_VENDOR: _Lane(self, self.came[Direction.TO_VENDOR], self.vendor),
            Direction.TO_CLIENT: _Lane(self, self.came[Direction.TO_CLIENT], self.client),
        }
        for cut in cuts:
            self._lanes[cut.direction].cut = cut

    @property
    def passed(self) -> dict[Direction, int]:
        """How many of the bytes that came were passed on, by direction: the first ones."""
        return {direction: lane.passed for direction, lane in self._lanes.items()}

    @property
    def client_left(self) -> bool:
        """Whether the client has ended its direction, or everything is closed at its end."""
        return self.client.has_ended

    def cut(self, cut: Cut) -> None:
        """Have a connection that stands cut; a cut of the same direction that has not happened is forgotten."""
        lane = self._lanes[cut.direction]
        lane.cut = cut
        lane.flow()

    def spare(self) -> None:
        """Forget the cuts that have not happened."""
        for lane in self._lanes.values():
            lane.spare()

    def release(self) -> None:
        """Let go what is held."""
        for lane in self._lanes.values():
            lane.release()

    def abort(self) -> None:
        """Break it off on both sides."""
        self._stop()
        self._is_over = True
        self.client.abort()
        self.vendor.abort()

    # -- what the ends and lanes tell -----------------------------------------------------------------------------

    def stands(self, end: _End) -> None:
        """An end is connected: first the client's, then the vendor's."""
        if self._is_over:
            end.abort()
        if end is self.vendor:
            self._lanes[Direction.TO_VENDOR].flow()
            return
        for lane in self._lanes.values():
            if lane.cut is not None and lane.cut.at == 0:
                lane.flow()
        if all(lane.is_stopped for lane in self._lanes.values()):
            self.vendor.is_gone = True
            return
        self._dialing = asyncio.get_running_loop().create_task(self._dial())
        self._dialing.add_done_callback(self._dialed)

    def take(self, direction: Direction, data: bytes) -> None:
        """Bytes came."""
        self.came[direction] += data
        self._lanes[direction].flow()

    def end(self, direction: Direction, *, reset: bool) -> None:
        """No more bytes will come."""
        self._lanes[direction].end(reset=reset)

    def lost(self) -> None:
        """An end is closed."""
        if self.client.is_gone and self.vendor.is_gone and not self.closed.done():
            self.closed.set_result(None)
            self._cutter.gone(self)

    def happen(self, cut: Cut) -> None:
        """Do to the connection what the cut says."""
        self._cutter.happened(self, cut)
        lane = self._lanes[cut.direction]
        match cut.how:
            case How.STALL:
                lane.is_held = True
            case How.DELAY:
                lane.delay = cut.delay
            case How.HALF_CLOSE:
                lane.is_stopped = True
                lane.to.write_eof()
            case How.BLACKHOLE:
                self._stop()
            case How.FIN:
                self._stop()
                self.client.close()
                self.vendor.close()
            case How.RESET:
                self._stop()
                self.client.reset()
                self.vendor.reset()

    def _stop(self) -> None:
        for lane in self._lanes.values():
            lane.is_stopped = True
        if self._dialing is not None:
            self._dialing.cancel()

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self.vendor, "127.0.0.1", self._cutter.target
            )
        except OSError:  # nobody is there
            self.client.reset()

    def _dialed(self, _: asyncio.Task[None]) -> None:
        if not self.vendor.was_connected:
            self.vendor.is_gone = True
            self.lost()


class _Lane:
    """One direction of a link."""

    def __init__(self, link: Link, came: bytearray, to: _End) -> None:
        self.cut: Cut | None = None
        self.to = to
        self.passed = 0
        self.delay = 0.0
        self.is_held = False
        self.is_stopped = False
        self._link = link
        self._came = came
        self._ended = self._reset = False
        self._end_passed = False

    def flow(self) -> None:
        """Pass on what may pass, and cut where it is to be cut."""
        if self.is_stopped or self.is_held:
            return
        if self.delay:
            asyncio.get_running_loop().call_later(
                self.delay, self._pass, len(self._came), self._ended
            )
            return
        cut = self.cut
        self._pass(len(self._came) if cut is None else min(len(self._came), cut.at), self._ended)
        if cut is not None and self._is_due(cut):
            self.cut = None
            self._link.happen(cut)
            self.flow()

    def end(self, *, reset: bool) -> None:
        """No more bytes will come. The end passes like a byte."""
        self._ended = True
        self._reset |= reset
        self.flow()

    def spare(self) -> None:
        """Forget a cut that has not happened, and pass on what came up to it."""
        self.cut = None
        self.flow()

    def release(self) -> None:
        """Let go what is held."""
        self.is_held = False
        self.flow()

    def _is_due(self, cut: Cut) -> bool:
        return self.passed >= cut.at and (not cut.lazy or len(self._came) > cut.at)

    def _pass(self, upto: int, ended: bool) -> None:
        if self.is_stopped or not self.to.was_connected:
            return
        if upto > self.passed:
            self.to.write(bytes(self._came[self.passed : upto]))
            self.passed = upto
        if ended and self.passed == len(self._came) and not self._end_passed:
            self._end_passed = True
            if self._reset:
                self.to.reset()
            else:
                self.to.write_eof()


class _End(asyncio.Protocol):
    """One end of a link."""

    def __init__(self, link: Link, direction: Direction) -> None:
        self.was_connected = False
        self.is_gone = False
        self._link = link
        self._direction = direction
        """Of what is read here."""
        self._transport: asyncio.Transport | None = None
        self._read_all = self._wrote_all = False

    @property
    def has_ended(self) -> bool:
        """The peer writes no more."""
        return self._read_all or self.is_gone

    def write(self, data: bytes) -> None:
        """Write bytes, unless it is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """Write no more (FIN); once the peer does not either, it is closed."""
        self._wrote_all = True
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.write_eof()
        except OSError:  # the peer has reset it, and the loop has not heard of it yet
            self._transport.abort()
        self._close_if_done()

    def close(self) -> None:
        """Close it in good order."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close it with RST."""
        if self._transport is None or self._transport.is_closing():
            return
        own: socket.socket = self._transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands."""
        self._transport = cast("asyncio.Transport", transport)
        self.was_connected = True
        if self._wrote_all:  # before there was anything to write to
            self._transport.write_eof()
        self._link.stands(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._link.take(self._direction, data)

    def eof_received(self) -> bool:
        """The peer writes no more; it may still read."""
        self._read_all = True
        self._link.end(self._direction, reset=False)
        self._close_if_done()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.is_gone = True
        if not self._read_all:
            self._link.end(self._direction, reset=exc is not None)
        self._link.lost()

    def _close_if_done(self) -> None:
        if self._read_all and self._wrote_all and self._transport is not None:
            self._transport.close()
