"""One WebSocket connection: websockets' sans-I/O core under an `asyncio.Protocol`, and the watch over its life."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, Protocol, cast

from aiohappyeyeballs import start_connection
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import CONNECTING, OPEN

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType
    from websockets.typing import BytesLike
    from websockets.uri import WebSocketURI

__all__ = ["HIGH_WATER", "Connection", "Owner", "dial"]

MAX_MESSAGE: Final = 1 << 20
"""Bytes of a message that are read at most; the vendors' largest are a few kilobytes."""
HIGH_WATER: Final = 1 << 15
"""Bytes that wait for the system to take them before sending pauses: signatures must not age there."""
BACKLOG: Final = 1 << 22
"""Bytes that a peer which still sends may leave unread (pongs to its own pings) before it is given up."""
MAX_PARTS: Final = 1 << 12
"""Parts of one message."""
CLOSE_TIME: Final = 1.0
"""Seconds for a connection to end in good order."""
STEADY: Final = 5.0
"""Seconds after which a connection has proved itself, even if nothing was asked."""

HEAD_START: Final = 0.25
"""Seconds that an address gets to itself before the next one is tried as well (RFC 8305)."""

# The core would log messages, and messages carry credentials: no configuration may reach this logger.
_SILENT: Final = logging.Logger("tronsave_async.connection")  # noqa: LOG001
_SILENT.disabled = True


async def dial(host: str, port: int) -> socket.socket:
    """Connect to the first of a host's addresses that answers.

    Canceling it leaves no socket open, also in the moment in which the race is won.

    Raises:
        OSError: no address answers, or there is none.
    """
    opened: list[socket.socket] = []

    def open_socket(address: AddrInfoType) -> socket.socket:
        opened.append(socket.socket(*address[:3]))
        return opened[-1]

    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    try:
        return await start_connection(
            addresses, happy_eyeballs_delay=HEAD_START, socket_factory=open_socket
        )
    except BaseException:
        for each in opened:
            each.close()
        raise


class Owner(Protocol):
    """Who is told what happens on a connection. Nothing of it may raise."""

    def stands(self, connection: Connection) -> None:
        """The upgrade is through: requests may be sent."""

    def received(self, message: BytesLike) -> bool:
        """A whole text message came. True if somebody had waited for it."""

    def stray(self, kind: str) -> None:
        """Something came that is no text message."""

    def writable(self) -> None:
        """The connection takes more again."""

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection is of no more use. Told once."""


class Connection(asyncio.Protocol):
    """One connection, from the first byte of the upgrade to the end.

    Args:
        owner: who is told.
        uri: where it leads.
        quiet: seconds without a sign of life after which the peer is pinged; as many again, and it is gone.
    """

    def __init__(self, owner: Owner, uri: WebSocketURI, quiet: float) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        """Done when the upgrade is through, or failed."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the connection is of no more use."""
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        self._loop = loop
        self._owner = owner
        self._quiet = quiet
        self._core = ClientProtocol(uri, max_size=MAX_MESSAGE, logger=_SILENT)
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._parts: list[BytesLike] | None = None
        """The parts so far of a text message that comes in parts."""
        self._opened_at = self._heard_at = loop.time()
        self._served = False
        self._pinged = False
        self._watch: asyncio.TimerHandle | None = None
        self._closer: asyncio.TimerHandle | None = None

    @property
    def proved_itself(self) -> bool:
        """It brought a message that was waited for, or stood for a while."""
        return self._served or self._loop.time() - self._opened_at >= STEADY

    @property
    def takes_more(self) -> bool:
        """The system takes what is written: it is not choked, and has not found the connection broken; and the peer has
        not closed it, maybe in the very bytes that are being read."""
        if self._paused or self._transport is None or self._core.state is not OPEN:
            return False
        return not self._transport.is_closing()

    def say(self, message: bytes) -> int:
        """Put a text message into the core; `write` sends what is in it. Return its length."""
        self._core.send_text(message)
        return len(message)

    def write(self) -> None:
        """Write what the core has to say, in one piece."""
        data = self._core.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(data))

    def close(self, reason: str) -> None:
        """End it in good order: a closing message, then the socket; the latter at the latest after a second."""
        if self._core.state is OPEN:
            self._core.send_close(1000)
        self._end(reason)

    def abort(self) -> None:
        """End it at once."""
        self.opened.cancel()
        self._end("aborted")
        if self._transport is not None:
            self._transport.abort()
        elif not self.gone.done():
            self.gone.set_result(None)

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands: ask for the upgrade."""
        # uvloop's transports do all that an asyncio.Transport does, and are none.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._core.send_request(self._core.connect())
        self.write()

    def data_received(self, data: bytes) -> None:
        """Bytes came: a part of the upgrade, or of messages."""
        core = self._core
        core.receive_data(data)
        events = core.events_received()
        if events:  # the bytes of a frame that never ends are no sign of life: they swallow all that follows
            self._heard_at = self._loop.time()
            self._pinged = False
        for event in events:
            if isinstance(event, Frame):
                self._frame(event)
            elif core.state is OPEN:  # and was not closed in the same breath
                self._stand()
        self.write()
        if self._transport is not None and self._transport.get_write_buffer_size() > BACKLOG:
            self._end("the peer does not read")
        if core.state is not OPEN and (core.state is not CONNECTING or core.handshake_exc):
            self._end(self._why())

    def eof_received(self) -> None:
        """The peer writes no more."""
        self._core.receive_eof()
        self._end(self._why())

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._core.receive_eof()
        self._end(self._why() if exc is None else "connection broken")
        if self._closer is not None:
            self._closer.cancel()
        self.gone.set_result(None)

    def pause_writing(self) -> None:
        """The system takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """It takes more."""
        self._paused = False
        self._owner.writable()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _stand(self) -> None:
        if self.opened.done():  # nobody waits for it any more
            return
        self.opened.set_result(None)
        self._opened_at = self._heard_at
        self._watch = self._loop.call_later(self._quiet, self._look)
        self._owner.stands(self)

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self._message(frame.data)
        elif opcode is Opcode.TEXT:
            self._parts = [frame.data]
        elif opcode is Opcode.BINARY:
            self._parts = None
            self._owner.stray("binary")
        elif opcode is Opcode.CONT and self._parts is not None:
            self._parts.append(frame.data)
            if len(self._parts) > MAX_PARTS:
                self._parts = None
                self._end("a message in too many parts")
                return
            if frame.fin:
                parts, self._parts = self._parts, None
                self._message(b"".join(parts))

    def _message(self, data: BytesLike) -> None:
        if self._owner.received(data):
            self._served = True

    def _look(self) -> None:
        """Whether the peer is still there."""
        if self._pinged:
            self._end("no sign of life")
            return
        left = self._heard_at + self._quiet - self._loop.time()
        if left <= 0.0:
            self._pinged = True
            self._core.send_ping(b"")
            self.write()
            left = self._quiet
        self._watch = self._loop.call_later(left, self._look)

    def _why(self) -> str:
        if (closed := self._core.close_rcvd) is not None:
            return f"closed by the peer ({closed.code:d})"
        error = self._core.parser_exc
        return "closed by the peer" if isinstance(error, EOFError | None) else type(error).__name__

    def _end(self, reason: str) -> None:
        """The only place where a connection ends. Ending it twice changes nothing."""
        if self.ended.done():
            return
        self.ended.set_result(None)
        if self._watch is not None:
            self._watch.cancel()
        if not self.opened.done():
            self.opened.set_exception(self._core.handshake_exc or ConnectionError(reason))
            self.opened.exception()  # whoever waits may have gone
        self._owner.lost(self, reason)
        if self._transport is not None:
            self.write()
            self._transport.close()
            self._closer = self._loop.call_later(CLOSE_TIME, self._transport.abort)
