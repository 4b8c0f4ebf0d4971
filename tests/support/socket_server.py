"""
A WebSocket server that does exactly what a test says, and nothing in between.

It is synchronous: each message of a client is handed to the test's answer in the step in which its bytes came. What a
test sends is written at once. It records connections, messages, pings and close frames: the judge of what a client
sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any, Self, cast

from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Callable

# The protocol's own logger would show the messages.
SILENT = logging.getLogger(f"{__name__}.silent")
SILENT.setLevel(logging.CRITICAL)

Asked = dict[str, Any]
"""A client's message, decoded."""


def frame(
    data: bytes | str,
    opcode: int = Opcode.TEXT,
    *,
    fin: bool = True,
    reserved: bool = False,
    masked: bool = False,
) -> bytes:
    """Return the bytes of one frame, well-formed or not."""
    payload = data.encode() if isinstance(data, str) else data
    head = bytes([fin << 7 | reserved << 6 | opcode])
    size, mask = len(payload), masked << 7
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def closing(code: int, reason: str = "") -> bytes:
    """Return the bytes of a close frame."""
    return frame(struct.pack("!H", code) + reason.encode(), Opcode.CLOSE)


class Peer(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, server: SocketServer) -> None:
        self.server = server
        self.messages: list[Asked] = []
        self.pings = 0
        self.pongs: list[bytes] = []
        self.closed_with: int | None = None
        """The code of the client's close frame."""
        self.came_at = asyncio.get_running_loop().time()
        self.is_gone = False
        self.answers_pings = True
        self.is_deaf = False
        """What comes is answered with nothing."""
        self._core = ServerProtocol(logger=SILENT, max_size=None)
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The socket's transport."""
        assert self._transport is not None, "connected before"
        return self._transport

    def send(self, message: object) -> None:
        """Send a text message: text as it is, anything else as JSON."""
        self.raw(frame(message if isinstance(message, str) else json.dumps(message)))

    def reply(self, *asked: Asked) -> None:
        """Send the replies to these messages."""
        for message in asked:
            self.send({"id": message["id"], "echo": message.get("n")})

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.transport.write(data)

    def cut(self) -> None:
        """Close the TCP connection without a word (FIN)."""
        self.transport.close()

    def reset(self) -> None:
        """Break the TCP connection off (RST)."""
        if self.transport.is_closing():
            return
        linger = struct.pack("ii", 1, 0)
        own: socket.socket = self.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def close(self, code: int) -> None:
        """Send a close frame; a client in good order answers it and closes the connection."""
        self.raw(closing(code))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast("asyncio.Transport", transport)
        self.server.peers.append(self)

    def data_received(self, data: bytes) -> None:
        """Let it in, or take its messages."""
        if self.is_deaf:
            return
        self._core.receive_data(data)
        for event in self._core.events_received():
            if isinstance(event, Request):
                self._admit(event)
            elif isinstance(event, Frame):
                self._take(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.is_gone = True

    def _admit(self, request: Request) -> None:
        door = self.server.door
        if door is None:  # leave it waiting
            return
        if isinstance(door, bytes):
            self.raw(door)
            self.cut()
            return
        self._core.send_response(self._core.accept(request))
        self._core.state = State.OPEN
        self.raw(b"".join(self._core.data_to_send()) + door(self))

    def _take(self, event: Frame) -> None:
        if event.opcode is Opcode.PING:
            self.pings += 1
            if self.answers_pings:
                self.raw(frame(bytes(event.data), Opcode.PONG))
        elif event.opcode is Opcode.PONG:
            self.pongs.append(bytes(event.data))
        elif event.opcode is Opcode.CLOSE:
            self.closed_with = Close.parse(event.data).code
        elif event.opcode is Opcode.TEXT:
            asked = json.loads(bytes(event.data))
            self.messages.append(asked)
            self.server.answer(self, asked)


async def until(condition: Callable[[], object], turns: int = 100_000) -> None:
    """Let the loop turn until something is so. No time passes on a clock that jumps."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be so")


def nothing(_: Peer) -> bytes:
    """Send nothing after the upgrade."""
    return b""


class SocketServer:
    """Serves WebSockets on loopback.

    Args:
        answer: called with each message; by default it is answered at once.
        door: what an upgrade gets: the bytes that follow an accepted one, or bytes instead of it, before the connection
            is closed, or None for no answer at all.
        ssl: a TLS context.
        port: where to listen; 0 for any port.
    """

    def __init__(
        self,
        answer: Callable[[Peer, Asked], object] = Peer.reply,
        *,
        door: Callable[[Peer], bytes] | bytes | None = nothing,
        ssl: tls.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.answer = answer
        self.door = door
        self.peers: list[Peer] = []
        self.port = port
        self._ssl = ssl
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"ws{'s' if self._ssl else ''}://127.0.0.1:{self.port}/path"

    @property
    def peer(self) -> Peer:
        """The latest connection."""
        return self.peers[-1]

    @property
    def messages(self) -> list[Asked]:
        """All messages, of all connections."""
        return [message for peer in self.peers for message in peer.messages]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Peer(self), "127.0.0.1", self.port, ssl=self._ssl
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None, "entered before"
        for _ in range(5):  # who was let in just now becomes a peer
            await asyncio.sleep(0)
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()
        await until(lambda: all(peer.is_gone for peer in self.peers))
