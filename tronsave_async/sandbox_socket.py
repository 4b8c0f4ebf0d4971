"""
WebSockets for the simulators of all vendors: the faults of `sandbox` on a socket, the faults that
only a socket can have, keep-alive, and sockets that close, break off or freeze. It knows no vendor.

A simulator is a `SocketVendor`: one synchronous decision per message. `LoopbackSockets` serves it
from a `LoopbackServer` (its `upgrade`). There are no tasks here: bytes come in, a decision is made,
bytes or a timer go out, all in one step.

On a socket the parts of a fault mean: DROP, the connection is cut without a close frame; HANG, this
reply never comes, but the connection lives on; LATE, others pass the reply meanwhile; TRUNCATED,
half a frame, then the cut; RETYPED and REPLACED, another text. `headers` mean nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from aiohttp import web
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from .sandbox import (
    Fault,
    Processing,
    RecordedRequest,
    Reply,
    RequestLog,
    cut_connection,
    retyped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

__all__ = [
    "Keepalive",
    "LoopbackSockets",
    "SocketDecision",
    "SocketMessage",
    "SocketReply",
    "SocketRequest",
    "SocketVendor",
    "binary_frame",
    "closing",
    "contradicted",
    "duplicated",
    "reordered",
    "unaddressed",
    "uninvited",
]

PATIENCE = 5.0
"""Seconds that a client gets to answer a close frame."""

PONG = bytes([0x80 | Opcode.PONG])
"""The first byte of a pong."""

# The protocol's own logger would show whole frames, with the credentials in them.
SILENT = logging.getLogger(f"{__name__}.silent")
SILENT.setLevel(logging.CRITICAL)


# --- faults ---------------------------------------------------------------------------------------


def duplicated(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Process the request once, and send the reply twice."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.DUPLICATED)


def contradicted(
    endpoint: str | None = None,
    *,
    status: int = 500,
    body: bytes | None = None,
    first: bool = False,
    times: int = 1,
) -> Fault:
    """
    Process the request, and send two replies that contradict each other.

    Args:
        endpoint: The endpoint; None takes any.
        status: Of the other reply: the vendor's error with this status.
        body: Of the other reply, instead; with `first` it is sent as it is, without an address.
        first: Whether the other reply comes before the true one.
        times: How many requests.
    """
    reply = Reply.PRECEDED if first else Reply.DUPLICATED
    return Fault(endpoint=endpoint, times=times, reply=reply, status=status, body=body)


def uninvited(endpoint: str | None = None, *, body: bytes, times: int = 1) -> Fault:
    """Process the request, and send a message that nobody asked for before the reply."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.PRECEDED, body=body)


def reordered(endpoint: str | None = None, *, within: float = 0.05, times: int = 1) -> Fault:
    """Process the request, and answer after the next reply, at the latest `within` seconds."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.REORDERED, delay=within)


def binary_frame(
    endpoint: str | None = None, *, body: bytes | None = None, times: int = 1
) -> Fault:
    """Process the request, and answer in a binary message: the reply, or `body` in its place."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.BINARY, body=body)


def unaddressed(
    endpoint: str | None = None,
    *,
    address: str | float | None = "unknown",
    times: int = 1,
) -> Fault:
    """Process the request, and send the reply as one to another request, or (None) to none."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.UNADDRESSED, address=address)


def closing(
    code: int = 1001,
    endpoint: str | None = None,
    *,
    reason: str = "",
    processed: bool = False,
    replied: bool = False,
    times: int = 1,
) -> Fault:
    """
    Close the socket in the planned way, with a close frame.

    Args:
        code: The close code.
        endpoint: The endpoint; None takes any.
        reason: The reason given.
        processed: Whether the request was processed before.
        replied: Whether it was answered, too, before.
        times: How many requests.
    """
    return Fault(
        endpoint=endpoint,
        times=times,
        processing=Processing.NORMAL if processed or replied else Processing.SKIPPED,
        reply=Reply.NORMAL if replied else Reply.HANG,
        close_code=code,
        close_reason=reason,
    )


# --- what a simulator sees and says ---------------------------------------------------------------


class SocketMessage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A message as a simulator reads it, before it decides anything.

    Attributes:
        endpoint: The vendor's word for what it asks; None if it asks for nothing known.
        shown: Its text for the record, credentials masked.
        body: The same decoded; None if it is no JSON.
        content: For the simulator's own use.
    """

    endpoint: str | None
    shown: bytes
    body: Any = None
    content: Any = None


class SocketRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A message that has arrived.

    Attributes:
        number: Its place in the record.
        connection: The socket it came on, counted from 1.
        message: What `SocketVendor.read` returned.
        arrived: `loop.time()` on arrival.
    """

    number: int
    connection: int
    message: SocketMessage
    arrived: float


class SocketReply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply: its text, and the status in it, for the record."""

    status: int
    text: bytes


class SocketDecision(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a simulator decided about a message, its work already done.

    Attributes:
        reply: Its own reply; None for silence.
        address: The request's id, as JSON text.
        fault: The fault that befalls it.
        caller: Which known caller sent it.
        processed: Whether it was carried out.
        delay: Seconds that the vendor takes for it.
        signature_age: Seconds since it was signed, by the vendor's clock.
    """

    reply: SocketReply | None = None
    address: bytes = b"null"
    fault: Fault | None = None
    caller: str | None = None
    processed: bool = False
    delay: float = 0.0
    signature_age: float | None = None


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """
    When the vendor's side pings, and when it gives a socket up. Seconds; None for never.

    Attributes:
        idle_timeout: A socket on which nothing was heard for so long is closed. Heard are messages,
            pongs that answer a ping and, with `pings_count`, pings.
        ping_interval: How often the vendor's side pings.
        pong_timeout: How long the pong may take. It has the ping's payload; one that answers
            nothing is allowed, and does not count.
        close_code: With which code a socket is given up; None: without a close frame.
        answers_pings: Whether pings are answered, as RFC 6455 demands.
        pings_count: Whether a ping counts as something heard.
    """

    idle_timeout: float | None = None
    ping_interval: float | None = None
    pong_timeout: float | None = None
    close_code: int | None = 1001
    answers_pings: bool = True
    pings_count: bool = False


class SocketVendor(Protocol):
    """A simulator behind `LoopbackSockets`. Its methods are synchronous: each call is atomic."""

    address_field: str
    """The field of a reply that says which request it answers."""

    @property
    def keepalive(self) -> Keepalive:
        """How sockets are kept alive; looked at when one opens, and at each of its timers."""

    def read(self, raw: bytes, *, binary: bool) -> SocketMessage:
        """Read a message."""

    def hear(self, request: SocketRequest) -> SocketDecision:
        """Carry a message out, and say how it is answered."""

    def error_text(self, status: int, address: bytes) -> bytes:
        """Return the text with which the vendor answers an error of this status."""


# --- sockets on loopback --------------------------------------------------------------------------


class LoopbackSockets:
    """
    The WebSockets of a simulated vendor.

    A message that has arrived is carried out even if its socket is gone meanwhile, as at a real
    vendor. What arrives after the vendor's close frame is not read.

    Args:
        vendor: Who decides.
        log: The record to write to.
        now: The vendor's wall clock; returns aware times.
        jitter: Every message travels for a random time up to this, in seconds; none overtakes
            another on the same socket and in the same direction.
        seed: Of the random travel times.

    Attributes:
        opened: How many sockets were opened.
        refused: How many upgrades were refused.
    """

    def __init__(
        self,
        vendor: SocketVendor,
        *,
        log: RequestLog,
        now: Callable[[], datetime],
        jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.opened = 0
        self.refused = 0
        self._vendor = vendor
        self._log = log
        self._now = now
        self._jitter = jitter
        self._random = random.Random(seed)
        self._connections: dict[int, _Connection] = {}
        self._refusal: int | Reply | None = None
        self._refusals: int | None = None

    def __len__(self) -> int:
        """Return how many sockets are open: not closed, nor being closed."""
        return sum(connection.is_open for connection in self._connections.values())

    async def upgrade(self, request: web.BaseRequest, gone: asyncio.Event) -> web.StreamResponse:
        """Serve a connection as a WebSocket until it is gone: `upgrade` of a `LoopbackServer`."""
        transport = request.transport
        assert transport is not None, "the server hands over no connection that is gone"
        refusal = self._take_refusal()
        if isinstance(refusal, int):
            return web.Response(status=refusal, headers={"Connection": "close"})
        if refusal is Reply.DROP:
            cut_connection(transport)
        elif refusal is None and not transport.is_closing():
            self._open(request, transport)
        await gone.wait()
        return web.Response()

    def refuse(self, how: int | Reply, times: int | None = None) -> None:
        """
        Refuse to open sockets until `accept`.

        Args:
            how: An HTTP status; `Reply.DROP`: the connection is closed; `Reply.HANG`: no answer.
            times: How often; None: always.

        Raises:
            ValueError: If it is any other `Reply`.
        """
        if how not in {Reply.DROP, Reply.HANG} and not isinstance(how, int):
            raise ValueError("an upgrade is refused with a status, DROP or HANG")
        self._refusal, self._refusals = how, times

    def accept(self) -> None:
        """Open sockets again."""
        self._refusal = None

    def close(self, code: int = 1001, reason: str = "") -> None:
        """
        Close every socket in the planned way.

        Raises:
            ValueError: If the code cannot be sent.
        """
        for connection in self._live():
            connection.close(code, reason)

    def cut(self, *, reset: bool = False) -> None:
        """Cut every connection at once, without a close frame: with FIN, or with RST."""
        for connection in list(self._connections.values()):
            connection.cut(reset=reset)

    def freeze(self, *, reads: bool = False) -> None:
        """
        Fall silent on every open socket: no reply, no pong, no ping, and TCP stays connected.

        Args:
            reads: Whether what arrives is carried out all the same, its reply lost; else it waits
                unread for `thaw`.
        """
        for connection in self._live():
            connection.freeze(reads=reads)

    def thaw(self) -> None:
        """Go on with frozen sockets; what was not said meanwhile is lost."""
        for connection in list(self._connections.values()):
            connection.thaw()

    def broadcast(self, message: bytes, *, binary: bool = False) -> None:
        """Send a message that nobody asked for on every open socket."""
        for connection in self._live():
            connection.say(message, binary=binary)

    def end(self) -> None:
        """Carry nothing more out. The connections are the server's to abort, before or after."""
        for connection in list(self._connections.values()):
            connection.end()
        self._connections.clear()

    # For the connections.

    def arrive(self, connection: _Connection, raw: bytes, *, binary: bool) -> SocketDecision:
        """Record a message and have it decided."""
        message = self._vendor.read(raw, binary=binary)
        now = asyncio.get_running_loop().time()
        number = len(self._log)
        self._log.append(
            RecordedRequest(
                number=number,
                endpoint=message.endpoint,
                method="MESSAGE",
                path=connection.path,
                query=connection.query,
                arrived=now,
                received_at=self._now(),
                raw=message.shown,
                body=message.body,
                headers={},
                connection=connection.number,
            )
        )
        decision = self._vendor.hear(
            SocketRequest(number=number, connection=connection.number, message=message, arrived=now)
        )
        self._log.note(
            number,
            caller=decision.caller,
            processed=decision.processed,
            fault=decision.fault,
            signature_age=decision.signature_age,
        )
        connection.answer(number, decision)
        return decision

    def sent(self, number: int, status: int) -> None:
        """Record that a reply was put on the wire."""
        self._log.note(number, status=status)

    def travel_time(self) -> float:
        """Return how long the next message travels."""
        return self._random.uniform(0, self._jitter) if self._jitter else 0.0

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that has nothing more to do."""
        self._connections.pop(connection.number, None)

    @property
    def vendor(self) -> SocketVendor:
        """Who decides."""
        return self._vendor

    def _live(self) -> list[_Connection]:
        return [c for c in self._connections.values() if c.is_open]

    def _take_refusal(self) -> int | Reply | None:
        refusal = self._refusal
        if refusal is not None:
            self.refused += 1
            if self._refusals is not None:
                self._refusals -= 1
                self._refusal = refusal if self._refusals > 0 else None
        return refusal

    def _open(self, request: web.BaseRequest, transport: asyncio.Transport) -> None:
        connection = _Connection(self, self.opened + 1, request, transport)
        if connection.shake_hands(request):
            self.opened += 1
            self._connections[connection.number] = connection


class _Connection(asyncio.Protocol):
    """
    One WebSocket, on a connection taken over from the HTTP server.

    Args:
        sockets: Whose it is.
        number: Its number, from 1.
        request: The upgrade request, whose protocol is told when the connection is lost.
        transport: The connection.
    """

    def __init__(
        self,
        sockets: LoopbackSockets,
        number: int,
        request: web.BaseRequest,
        transport: asyncio.Transport,
    ) -> None:
        self.number = number
        self.path, _, self.query = request.raw_path.partition("?")
        self._sockets = sockets
        self._http = request.protocol
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._protocol = ServerProtocol(logger=SILENT)
        self._lost = False
        # Whether this side has begun to end the connection: what comes then is not read.
        self._left = False
        # None, or whether the frozen socket still reads.
        self._frozen: bool | None = None
        # The frames of a message that has begun, and whether it is binary.
        self._parts: list[bytes] = []
        self._binary = False
        self._timers: set[asyncio.TimerHandle] = set()
        # What travels each way, in order, and when the last of it is due.
        self._travelling: dict[str, deque[Callable[[], None]]] = {"in": deque(), "out": deque()}
        self._due = {"in": 0.0, "out": 0.0}
        # Replies that wait for the next one.
        self._held: list[Callable[[], None]] = []
        self._heard = self._pinged = self._loop.time()
        # Payloads of unanswered pings and when they were sent, oldest first.
        self._pings: dict[bytes, float] = {}
        self._ping_count = 0
        self._watcher: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return not (self._lost or self._left) and self._protocol.state is State.OPEN

    # Opening and ending.

    def shake_hands(self, request: web.BaseRequest) -> bool:
        """Answer the upgrade request; return whether the socket is open."""
        head = [f"{request.method} {request.raw_path} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in request.headers.items()]
        self._transport.set_protocol(self)
        self._protocol.receive_data("\r\n".join([*head, "", ""]).encode("utf-8", "replace"))
        for event in self._protocol.events_received():
            assert isinstance(event, Request), "no frame comes before the handshake"
            self._protocol.send_response(self._protocol.accept(event))
        self._flush()
        if not self.is_open:
            self._transport.close()
        self._watch()
        return self.is_open

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the client's answer, or impatience, ends the connection."""
        try:
            self._protocol.send_close(code, reason)
        except ProtocolError as error:
            raise ValueError(f"{code} is not sent in a close frame") from error
        self._left = True
        self._flush()
        self._later(PATIENCE, self._transport.abort)

    def cut(self, *, reset: bool) -> None:
        """Cut the connection."""
        self._left = True
        self._stop_watching()
        if not self._lost:
            cut_connection(self._transport, reset=reset)

    def end(self) -> None:
        """Do nothing more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._held.clear()
        self._stop_watching()

    def freeze(self, *, reads: bool) -> None:
        """Fall silent."""
        self._frozen = reads
        if not reads:
            self._transport.pause_reading()

    def thaw(self) -> None:
        """Go on."""
        self._frozen = None
        self._transport.resume_reading()
        if not self.is_open:
            self._transport.close()  # the close frame was lost in the silence
        self._watch()

    # From the transport.

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._protocol.receive_data(data)
        self._flush()
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and not self._left:
                self._take(event)

    def eof_received(self) -> None:
        """Let the transport close: a half-closed WebSocket is of no use."""
        self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the HTTP server; messages on their way are still carried out."""
        self._lost = True
        self._stop_watching()
        if not self._timers:
            self._sockets.forget(self)
        self._http.connection_lost(exc)

    # Frames and messages from the client.

    def _take(self, frame: Frame) -> None:
        now = self._loop.time()
        if frame.opcode is Opcode.PING:
            if self._sockets.vendor.keepalive.pings_count:
                self._heard = now
        elif frame.opcode is Opcode.PONG:
            self._take_pong(bytes(frame.data), now)
        elif frame.opcode is not Opcode.CLOSE:
            self._heard = now
            self._take_part(frame)

    def _take_pong(self, payload: bytes, now: float) -> None:
        if payload not in self._pings:
            return  # allowed, but it proves nothing
        self._heard = now
        sent = list(self._pings)
        for answered in sent[: sent.index(payload) + 1]:
            del self._pings[answered]

    def _take_part(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._binary = frame.opcode is Opcode.BINARY
        self._parts.append(bytes(frame.data))
        if frame.fin:
            raw, self._parts = b"".join(self._parts), []
            binary = self._binary
            self._travel("in", lambda: self._arrive(raw, binary))

    def _arrive(self, raw: bytes, binary: bool) -> None:
        self._sockets.arrive(self, raw, binary=binary)

    # Replies.

    def answer(self, number: int, decision: SocketDecision) -> None:
        """Let a reply, or what the fault makes of it, go its way."""
        fault = decision.fault
        delay = decision.delay
        if fault is not None and fault.reply is not Reply.REORDERED:
            delay += fault.delay

        def play() -> None:
            self._travel("out", lambda: self._play(number, decision))

        if delay:
            self._later(delay, play)
        else:
            play()

    def say(self, message: bytes, *, binary: bool = False) -> None:
        """Send a message."""
        self._travel("out", lambda: self._say(message, binary=binary))

    def _play(self, number: int, decision: SocketDecision) -> None:
        fault = decision.fault
        fate = Reply.NORMAL if fault is None else fault.reply
        if fate is Reply.DROP:
            self.cut(reset=fault is not None and fault.reset)
        elif fate is Reply.REORDERED and fault is not None:
            self._hold(lambda: self._send(number, decision), fault.delay)
        elif fate is not Reply.HANG and self._send(number, decision):
            self._release()
        if fault is not None and fault.close_code is not None and self.is_open:
            self.close(fault.close_code, fault.close_reason)

    def _send(self, number: int, decision: SocketDecision) -> bool:
        """Put a decision's messages on the wire; return whether there were any."""
        if not self.is_open or self._frozen is not None:
            return False
        status, messages = self._worded(decision)
        fault = decision.fault
        if fault is not None and fault.reply is Reply.TRUNCATED:
            self._say_half(messages[0])
            self.cut(reset=fault.reset)
        else:
            binary = fault is not None and fault.reply is Reply.BINARY
            for message in messages:
                self._say(message, binary=binary)
        if messages:
            self._sockets.sent(number, status)
        return bool(messages)

    def _worded(self, decision: SocketDecision) -> tuple[int, list[bytes]]:
        """Return the status that is sent, and the messages."""
        fault, reply = decision.fault, decision.reply
        if fault is not None and fault.reply is Reply.REPLACED:
            return fault.status, [self._other(fault, decision.address)]
        if reply is None:
            return 0, []
        if fault is None:
            return reply.status, [reply.text]
        return reply.status, self._changed(fault, reply.text, decision.address)

    def _changed(self, fault: Fault, text: bytes, address: bytes) -> list[bytes]:
        """Return what a fault makes of a reply."""
        field = self._sockets.vendor.address_field
        other = fault.status != 200 or fault.body is not None
        match fault.reply:
            case Reply.RETYPED:
                return [retyped(text, kept=field)]
            case Reply.DUPLICATED:
                return [text, self._other(fault, address) if other else text]
            case Reply.PRECEDED if fault.body is not None:
                return [fault.body, text]
            case Reply.PRECEDED:
                return [self._other(fault, address), text]
            case Reply.BINARY:
                return [text if fault.body is None else fault.body]
            case Reply.UNADDRESSED:
                return [_addressed(text, field, msgspec.json.encode(fault.address))]
            case _:
                return [text]

    def _other(self, fault: Fault, address: bytes) -> bytes:
        """Return the text of a fault's own reply, addressed to the request."""
        if fault.body is None:
            return self._sockets.vendor.error_text(fault.status, address)
        return _addressed(fault.body, self._sockets.vendor.address_field, address, keep=True)

    def _hold(self, send: Callable[[], object], within: float) -> None:
        """Keep a reply until the next one was sent, or until time is up."""

        def release() -> None:
            if release in self._held:
                self._held.remove(release)
                send()

        self._held.append(release)
        self._later(within, release)

    def _release(self) -> None:
        for release in self._held[:]:
            release()

    # Bytes to the client.

    def _say(self, message: bytes, *, binary: bool) -> None:
        if not self.is_open:
            return
        if binary:
            self._protocol.send_binary(message)
        else:
            self._protocol.send_text(message)
        self._flush()

    def _say_half(self, message: bytes) -> None:
        self._protocol.send_text(message)
        frame = b"".join(self._protocol.data_to_send())
        self._transport.write(frame[: len(frame) - len(message) + len(message) // 2])

    def _flush(self) -> None:
        """Write what the protocol has to say, unless the socket is frozen."""
        mute = not self._sockets.vendor.keepalive.answers_pings
        for data in self._protocol.data_to_send():
            if self._frozen is not None or (mute and data[:1] == PONG):
                continue
            if data == SEND_EOF:
                self._transport.close()
            else:
                self._transport.write(data)

    # Time.

    def _travel(self, way: str, act: Callable[[], None]) -> None:
        """Do something when it has travelled, never before what went the same way earlier."""
        time, queue = self._sockets.travel_time(), self._travelling[way]
        if not time and not queue:
            act()
            return
        now = self._loop.time()
        self._due[way] = due = max(self._due[way], now + time)
        queue.append(act)
        # Timers for the same time fire in any order: each takes what is first.
        self._later(due - now, lambda: queue.popleft()())

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            act()
            if self._lost and not self._timers:
                self._sockets.forget(self)

        timer = self._loop.call_later(delay, fire)
        self._timers.add(timer)

    def _watch(self) -> None:
        """Ping, give the socket up, or wait for the time to do either."""
        self._stop_watching()
        if not self.is_open or self._frozen is not None:
            return
        rules, now = self._sockets.vendor.keepalive, self._loop.time()
        if any(due <= now for due in self._deadlines(rules)):
            self._give_up(rules)
            return
        dues = list(self._deadlines(rules))
        if rules.ping_interval is not None:
            if self._pinged + rules.ping_interval <= now:
                self._ping(now)
            dues.append(self._pinged + rules.ping_interval)
        if dues:
            self._watcher = self._loop.call_at(min(dues), self._watch)

    def _deadlines(self, rules: Keepalive) -> Iterator[float]:
        """Yield when the socket is given up, unless something is heard before."""
        if rules.idle_timeout is not None:
            yield self._heard + rules.idle_timeout
        if rules.pong_timeout is not None and self._pings:
            yield next(iter(self._pings.values())) + rules.pong_timeout

    def _ping(self, now: float) -> None:
        self._ping_count += 1
        payload = b"ping %d" % self._ping_count
        self._pings[payload] = self._pinged = now
        self._protocol.send_ping(payload)
        self._flush()

    def _give_up(self, rules: Keepalive) -> None:
        if rules.close_code is None:
            self.cut(reset=False)
        else:
            self.close(rules.close_code, "idle")

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


def _addressed(text: bytes, field: str, address: bytes, *, keep: bool = False) -> bytes:
    """Return a JSON object with an address, in its first place; any other text as it is."""
    try:
        message = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text
    if keep and field in message:
        return text
    ordered: Mapping[str, msgspec.Raw] = {field: msgspec.Raw(address), **message}
    return msgspec.json.encode({**ordered, field: msgspec.Raw(address)})
