"""The WebSocket transport over real sockets: every request ends once, and says truly whether it may have arrived."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import socket
import ssl as tls
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from websockets.frames import Opcode

from support.canary import CANARY, sightings
from support.socket_server import Asked, Peer, SocketServer, closing, frame, until
from tronsave_async import websocket
from tronsave_async.errors import (
    ConnectFailed,
    ConnectionLost,
    GatewayClosed,
    GatewayError,
    RequestFailed,
    RequestTimeout,
    UsageError,
)
from tronsave_async.exchange import Revoked
from tronsave_async.outcomes import Wire
from tronsave_async.retry import RetryPolicy
from tronsave_async.telemetry import Connected, Disconnected, Event, Stray
from tronsave_async.websocket import BITE, WebSocketTransport, _Awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from websockets.typing import BytesLike

QUICK = RetryPolicy(base=0.001, cap=0.002)
STEADY = RetryPolicy(base=1.0, cap=8.0)

Transport = WebSocketTransport[Any]


def read(message: BytesLike) -> tuple[str, Any] | str:
    """Read a message as a vendor's module would."""
    value = json.loads(bytes(message))
    if not isinstance(value, dict):
        return "odd"
    if "id" not in value:
        return "uninvited"
    return value["id"], value["echo"]


def transport(url: str, **options: Any) -> Transport:
    """Return a transport that is quick to try again."""
    defaults: dict[str, Any] = {"read": read, "retry": QUICK}
    return WebSocketTransport("venue", url, **(defaults | options))


class Call:
    """One request, and all that its caller can know of it."""

    def __init__(
        self, client: Transport, n: object = 0, refusal: BaseException | None = None
    ) -> None:
        self.n = n
        self.keys: list[str] = []
        """One for each time it was said to leave."""
        self.late: list[Any] = []
        self.in_flight: list[int] = []
        self._client = client
        self._refusal = refusal
        self.task = asyncio.create_task(client.request("call", self.departing, self.late.append))

    def departing(self, key: str) -> bytes:
        """Make the message."""
        self.keys.append(key)
        self.in_flight.append(self._client.in_flight)
        if self._refusal is not None:
            raise self._refusal
        return json.dumps({"id": key, "n": self.n}).encode()

    async def error(self) -> GatewayError:
        """Return the error with which it ends."""
        with pytest.raises(GatewayError) as caught:
            await self.task
        sightings.error(caught.value)
        return caught.value

    async def failure(self) -> tuple[type[GatewayError], Wire]:
        """Return the kind of error with which it ends, and how far it got."""
        error = await self.error()
        assert isinstance(error, RequestFailed)
        assert (error.venue, error.endpoint) == ("venue", "call")
        return type(error), error.wire

    async def canceled(self) -> None:
        """Wait until its cancellation arrived."""
        with pytest.raises(asyncio.CancelledError):
            await self.task


def calls(client: Transport, numbers: Iterable[int]) -> list[Call]:
    """Send requests in one step."""
    return [Call(client, n) for n in numbers]


async def answers(sent: Iterable[Call]) -> list[Any]:
    """Return all replies."""
    return [await call.task for call in sent]


def silent(_peer: Peer, _asked: Asked) -> None:
    """Answer nothing."""


def reply_to(call: Call, echo: object = None) -> Asked:
    """Return the reply to a request that left."""
    return {"id": call.keys[0], "echo": call.n if echo is None else echo}


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


async def turn(times: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(times):
        await asyncio.sleep(0)


LOST = (ConnectionLost, Wire.MAYBE_SENT)
NOT_CONNECTED = (ConnectFailed, Wire.NOT_SENT)


# -- many requests, one connection -----------------------------------------------------------------


async def test_replies_come_in_any_order() -> None:
    """Hundreds of requests share one connection, and each gets its own reply."""
    async with SocketServer(silent) as server, aclosing(transport(server.url)) as client:
        sent = calls(client, range(300))
        await until(lambda: len(server.messages) == 300)
        assert client.in_flight == 300
        asked = server.messages
        random.Random(7).shuffle(asked)
        server.peer.reply(*asked)
        assert await answers(sent) == list(range(300))
        assert (client.in_flight, client.connections, client.strays) == (0, 1, {})


async def test_a_request_is_known_before_it_leaves() -> None:
    """When the message is made, the table holds its key: a reply cannot come too early. Keys are never used twice."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        sent = calls(client, range(BITE + 10))
        assert await answers(sent) == list(range(BITE + 10))
        assert [call.in_flight for call in sent] == [[n + 1] for n in range(BITE + 10)]
        assert len({call.keys[0] for call in sent}) == BITE + 10
        assert client.strays == {}


async def test_at_most_so_many_are_in_flight() -> None:
    """More requests wait, unsigned; each that is answered, canceled or refused makes room for the next."""
    server, client_options = SocketServer(silent), {"max_in_flight": 3}
    async with server, aclosing(transport(server.url, **client_options)) as client:
        sent = calls(client, range(6))
        sent.append(Call(client, 6, ZeroDivisionError()))
        sent.append(Call(client, 7))
        await until(lambda: len(server.messages) == 3)
        await turn()
        assert [len(call.keys) for call in sent] == [1, 1, 1, 0, 0, 0, 0, 0]
        server.peer.reply(server.messages[1])
        await until(lambda: len(server.messages) == 4)
        assert await sent[1].task == 1
        sent[0].task.cancel()
        await until(lambda: len(server.messages) == 5)
        assert client.in_flight == 3
        server.peer.reply(*server.messages[2:])
        await until(lambda: len(server.messages) == 7)
        server.peer.reply(*server.messages[5:])
        assert await answers(sent[2:6]) == [2, 3, 4, 5]
        with pytest.raises(ZeroDivisionError):
            await sent[6].task
        assert await sent[7].task == 7
        await sent[0].canceled()


async def test_a_server_that_does_not_read_holds_up_the_signatures() -> None:
    """While the system takes no more, nothing else is made; when the server reads again, nothing was lost."""
    async with SocketServer() as server, aclosing(transport(server.url, timeout=60)) as client:
        await client.warm_up()
        await until(lambda: server.peers)
        server.peer.transport.pause_reading()
        sent = [Call(client, f"{n}" + "x" * 100_000) for n in range(400)]
        await turn(50)
        made = sum(len(call.keys) for call in sent)
        assert 0 < made < 400
        late = Call(client, "the last")
        await turn(50)
        assert (sum(len(call.keys) for call in sent), late.keys) == (made, [])
        server.peer.transport.resume_reading()
        assert await answers(sent) == [call.n for call in sent]
        assert await late.task == "the last"
        assert all(len(call.keys) == 1 for call in sent)
        assert client.connections == 1


# -- callers that go -------------------------------------------------------------------------------


async def test_a_canceled_caller_disturbs_nobody() -> None:
    """The connection stays, the others are served; the late reply is handed over once, whatever comes after it."""
    async with SocketServer(silent) as server, aclosing(transport(server.url)) as client:
        goes, stays = calls(client, "ab")  # type: ignore[arg-type]
        await until(lambda: len(server.messages) == 2)
        goes.task.cancel()
        await goes.canceled()
        assert client.in_flight == 1
        server.peer.reply(server.messages[1])
        assert await stays.task == "b"
        for _ in range(3):
            server.peer.reply(server.messages[0])
        server.peer.reply(server.messages[1])
        await until(lambda: client.strays == {"late": 1, "duplicate": 3})
        assert (goes.late, stays.late) == (["a"], [])
        server.answer = Peer.reply
        assert await Call(client, "c").task == "c"
        assert client.connections == 1


@pytest.mark.virtual_time
async def test_a_caller_out_of_time_disturbs_nobody() -> None:
    """A deadline around one call is a cancellation of that call only."""
    async with SocketServer(silent) as server, aclosing(transport(server.url)) as client:
        stays = Call(client, 1)
        keys: list[str] = []

        def departing(key: str) -> bytes:
            keys.append(key)
            return json.dumps({"id": key}).encode()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):
                await client.request("call", departing)
        server.peer.send({"id": keys[0], "echo": None})
        server.peer.reply(server.messages[1])
        assert await stays.task == 1
        assert (client.strays, client.connections) == ({"late": 1}, 1)


class Trap:
    """A reader that cancels a call the moment it reads a certain reply."""

    def __init__(self) -> None:
        self.spring: Callable[[], object] | None = None
        self.at: object = None

    def __call__(self, message: BytesLike) -> tuple[str, Any] | str:
        found = read(message)
        if self.spring is not None and found[1] == self.at:
            self.spring()
        return found


@pytest.mark.parametrize("before", [True, False], ids=["canceled first", "answered first"])
async def test_a_reply_in_the_tick_of_the_cancellation(before: bool) -> None:
    """Whichever came first in that tick: the call is canceled, and the reply is handed over as a late one, once."""
    trap, events = Trap(), list[Event]()
    async with SocketServer(silent) as server:
        client = transport(server.url, read=trap, emit=events.append)
        async with aclosing(client):
            goes, stays = calls(client, [1, 2])
            await until(lambda: len(server.messages) == 2)
            trap.spring, trap.at = goes.task.cancel, 1 if before else 2
            server.peer.reply(*server.messages)
            assert await stays.task == 2
            await goes.canceled()
            assert (goes.late, client.strays) == ([1], {"late": 1})
            assert (stays.late, client.in_flight) == ([], 0)
            server.peer.reply(server.messages[0])
            await until(lambda: client.strays == {"late": 1, "duplicate": 1})
            assert goes.late == [1]
            assert [event.kind for event in events if isinstance(event, Stray)] == [
                "late",
                "duplicate",
            ]


async def test_a_caller_that_goes_before_a_connection_stands_sends_nothing() -> None:
    """What was canceled in the queue is never made; the others go."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        sent = calls(client, range(5))
        await turn(1)
        sent[2].task.cancel()
        await sent[2].canceled()
        assert len(client._outbox) == 4
        assert await answers(sent[:2] + sent[3:]) == [0, 1, 3, 4]
        assert sent[2].keys == []
        assert [asked["n"] for asked in server.messages] == [0, 1, 3, 4]
        assert client.in_flight == 0


async def test_a_caller_that_goes_in_the_tick_of_the_write_sends_nothing() -> None:
    """Between its cancellation and its last step a call is in the queue still: it is passed over."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        await client.warm_up()
        first, goes, stays = calls(client, [0, 1, 2])
        await asyncio.sleep(0)  # the first is written; the others are queued: their write is next
        goes.task.cancel()
        assert await first.task == 0
        assert await stays.task == 2
        await goes.canceled()
        assert goes.keys == []
        assert [asked["n"] for asked in server.messages] == [0, 2]


async def test_the_first_request_is_written_in_the_step_in_which_it_is_asked() -> None:
    """Where none is under way; those that come meanwhile are written together, at the end of the loop's turn."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        await client.warm_up()
        asked = calls(client, [1, 2, 3])
        for _ in range(2):
            await asyncio.sleep(0)
            assert [call.keys != [] for call in asked] in ([True, False, False], [True] * 3)
            assert client.in_flight in (1, 3)
        assert [await call.task for call in asked] == [1, 2, 3]
        assert [message["n"] for message in server.messages] == [1, 2, 3]


async def test_a_late_reply_s_reader_that_raises_harms_nobody(loop_errors: list[str]) -> None:
    """What the taker of a late reply raises goes to the event loop's exception handler."""
    async with SocketServer(silent) as server, aclosing(transport(server.url)) as client:

        def late(_: object) -> None:
            raise ZeroDivisionError("the taker's own bug")

        task = asyncio.create_task(
            client.request("call", lambda key: b'{"id":"%b"}' % key.encode(), late)
        )
        await until(lambda: server.messages)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.peer.reply(*server.messages)
        await until(lambda: client.strays == {"late": 1})
        server.answer = Peer.reply
        assert await Call(client, 2).task == 2
        assert "the taker's own bug" in loop_errors.pop()


@pytest.mark.parametrize(
    "refusal",
    [Revoked(), UsageError("no"), ZeroDivisionError(), StopIteration(), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
async def test_a_departure_that_is_refused_sends_nothing(refusal: Exception) -> None:
    """Its caller gets the exception, nothing is pending, and the others of the same write go."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        sent = [Call(client, 0), Call(client, 1, refusal), Call(client, 2)]
        assert (await sent[0].task, await sent[2].task) == (0, 2)
        with pytest.raises((type(refusal), RuntimeError)):
            await sent[1].task
        assert [asked["n"] for asked in server.messages] == [0, 2]
        assert client.in_flight == 0
        server.peer.send(reply_to(sent[1]))
        await until(lambda: client.strays == {"unknown": 1})
        assert sent[1].late == []


# -- what else arrives -----------------------------------------------------------------------------

STRAYS: dict[str, tuple[bytes, str]] = {
    "malformed": (frame("{"), "malformed"),
    "empty": (frame(""), "malformed"),
    "not utf-8": (frame(b'{"id":"\xff"}'), "malformed"),
    "too deep": (frame("[" * 100_000), "malformed"),
    "no echo": (frame('{"id":"1"}'), "malformed"),
    "not an object": (frame("[]"), "odd"),
    "uninvited": (frame('{"news":1}'), "uninvited"),
    "unknown": (frame('{"id":"1","echo":1}'), "unknown"),
    "binary": (frame(b'{"id":"1","echo":1}', Opcode.BINARY), "binary"),
}


@pytest.mark.parametrize(("data", "kind"), STRAYS.values(), ids=STRAYS)
async def test_a_stray_message_is_counted_and_survived(data: bytes, kind: str) -> None:
    """Whatever comes in place of a reply is told once, and requests go on over the same connection."""
    events: list[Event] = []
    server = SocketServer(silent)
    async with server, aclosing(transport(server.url, emit=events.append)) as client:
        waits = Call(client, 1)
        await until(lambda: server.messages)
        server.peer.raw(data + data)
        server.peer.reply(*server.messages)
        assert await waits.task == 1
        assert client.strays == {kind: 2}
        assert events[1:] == [Stray(venue="venue", kind=kind)] * 2
        server.answer = Peer.reply
        assert await Call(client, 2).task == 2
        assert client.connections == 1


async def test_a_reader_that_raises_anything_is_survived() -> None:
    """Also running out of stack or memory on one message ends nothing but that message."""
    errors: list[Exception] = [RecursionError(), MemoryError(), KeyError("x"), StopIteration()]

    def reader(message: BytesLike) -> tuple[str, Any] | str:
        if errors:
            raise errors.pop()
        return read(message)

    server = SocketServer(silent)
    async with server, aclosing(transport(server.url, read=reader)) as client:
        waits = Call(client, 1)
        await until(lambda: server.messages)
        server.peer.reply(*server.messages * 5)
        assert await waits.task == 1
        assert client.strays == {"malformed": 4}


async def test_messages_are_not_logged() -> None:
    """No line of any logger shows what a message carries, whatever happens to it."""
    logging.getLogger().setLevel(logging.DEBUG)  # until the end of this test
    seen_before = sightings.read
    logging.getLogger("websockets.client").debug("the watch is on")
    assert sightings.read == seen_before + 1
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        assert await Call(client, CANARY).task == CANARY
        server.answer = silent
        goes, lost = calls(client, [CANARY, CANARY])  # type: ignore[list-item]
        await until(lambda: len(server.messages) == 3)
        goes.task.cancel()
        await goes.canceled()
        server.peer.reply(*server.messages)
        server.peer.send(CANARY)
        server.peer.raw(frame(CANARY.encode(), Opcode.BINARY) + closing(1008, CANARY))
        assert await lost.task == CANARY
        await until(lambda: client.connections == 2)
        server.peer.raw(frame(CANARY, 5))
        await until(lambda: client.connections == 3)
    assert not sightings.seen


# -- the connection is lost ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Peer.cut, Peer.reset], ids=["FIN", "RST"])
@pytest.mark.virtual_time
async def test_a_cut_connection_tells_all_at_once(cut: Callable[[Peer], None]) -> None:
    """Who was in flight knows at once that the reply is lost; who had not left goes with the next connection."""
    events: list[Event] = []
    server = SocketServer(silent)
    options: dict[str, Any] = {"max_in_flight": 100, "emit": events.append, "retry": STEADY}
    async with server, aclosing(transport(server.url, **options)) as client:
        served = Call(client, "served")
        await until(lambda: server.messages)
        server.peer.reply(*server.messages)
        await served.task
        sent = calls(client, range(110))
        await until(lambda: len(server.messages) == 101)
        moment = now()
        server.answer = Peer.reply
        cut(server.peer)
        assert [await call.failure() for call in sent[:100]] == [LOST] * 100
        assert await answers(sent[100:]) == list(range(100, 110))
        assert now() == moment
        assert [len(call.keys) for call in sent] == [1] * 110
        assert client.connections == len(server.peers) == 2
        reason = "closed by the peer" if cut is Peer.cut else "connection broken"
        assert events == [
            Connected(venue="venue", connections=1),
            Disconnected(venue="venue", reason=reason, pending=100),
            Connected(venue="venue", connections=2),
        ]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000])
@pytest.mark.virtual_time
async def test_a_planned_close_loses_nobody_who_had_not_left(code: int) -> None:
    """Replies before the close frame are delivered, the rest in flight is told, and what waited goes on."""
    server = SocketServer(silent)
    async with server, aclosing(transport(server.url, max_in_flight=4)) as client:
        sent = calls(client, range(6))
        await until(lambda: len(server.messages) == 4)
        moment = now()
        server.answer = Peer.reply
        server.peer.reply(*server.messages[:2])
        server.peer.close(code)
        assert await answers(sent[:2]) == [0, 1]
        assert [str(await call.error()) for call in sent[2:4]] == [
            f"venue call: closed by the peer ({code}) (maybe sent)"
        ] * 2
        assert await answers(sent[4:]) == [4, 5]
        assert now() == moment
        assert server.peers[0].closed_with == code
        assert client.connections == 2


async def test_what_a_reply_gives_rise_to_is_not_written_to_a_closed_connection() -> None:
    """A reply and the end may come in one segment, and whoever hears the reply may ask for more in that very step."""
    server = SocketServer(silent)
    async with server, aclosing(transport(server.url)) as client:
        further: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        keys: list[str] = []

        def departing(key: str) -> bytes:
            keys.append(key)
            return json.dumps({"id": key, "n": 7}).encode()

        def ask_again(_reply: object) -> None:
            client.post(_Awaited("call", departing, None, further))

        first = asyncio.create_task(client.request("call", departing, ask_again))
        await until(lambda: len(server.messages) == 1)
        first.cancel()
        await asyncio.wait([first])
        server.answer = Peer.reply
        reply = frame(json.dumps({"id": keys[0], "echo": None}))
        server.peer.raw(reply + closing(1001))
        assert await further == 7
        assert (client.connections, len(keys)) == (2, 2)


async def test_a_close_together_with_the_upgrade_is_a_failed_connect() -> None:
    """A server that closes in the very segment of its welcome never gets the request."""
    server = SocketServer(door=lambda _: closing(1013))
    async with server, aclosing(transport(server.url)) as client:
        call = Call(client)
        assert await call.failure() == NOT_CONNECTED
        assert call.keys == []
        assert client.connections == 0
        server.door = lambda _: b""
        assert await Call(client, 2).task == 2


async def test_a_dead_socket_takes_no_further_requests() -> None:
    """When a write finds the connection broken, the requests that wait behind it are not signed for it."""
    count = BITE * 3
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        assert await Call(client).task == 0
        # An abort closes the socket in the next step, and the RST is there before the client can write.
        server.peer.reset()
        sent = calls(client, range(count))
        ends = await asyncio.gather(*(call.task for call in sent), return_exceptions=True)
        assert [type(end) for end in ends[BITE:]] == [int] * (count - BITE)
        assert all(isinstance(end, ConnectionLost | int) for end in ends)
        assert client.connections == 2


BROKEN_FRAMES: dict[str, tuple[bytes, str]] = {
    "reserved bit": (frame("{}", reserved=True), "ProtocolError"),
    "masked": (frame("{}", masked=True), "ProtocolError"),
    "unknown opcode": (frame("{}", 3), "ProtocolError"),
    "bad close code": (closing(999), "ProtocolError"),
    "close of one byte": (frame(b"x", Opcode.CLOSE), "ProtocolError"),
    "close in bad text": (frame(b"\x03\xe8\xff", Opcode.CLOSE), "UnicodeDecodeError"),
    "ping in parts": (frame("", Opcode.PING, fin=False), "ProtocolError"),
    "ping too long": (frame("x" * 126, Opcode.PING), "ProtocolError"),
    "part of nothing": (frame("{}", Opcode.CONT), "ProtocolError"),
    "text within text": (frame("{", fin=False) + frame("}"), "ProtocolError"),
    "close within text": (frame("{", fin=False) + closing(1000), "closed by the peer (1000)"),
    "two mebibytes": (frame("x" * (2 << 20)), "PayloadTooBig"),
    "two mebibytes in parts": (
        frame("x" * 600_000, fin=False) + frame("x" * 600_000, Opcode.CONT),
        "PayloadTooBig",
    ),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN_FRAMES.values(), ids=BROKEN_FRAMES)
async def test_a_broken_frame_ends_the_connection_and_nothing_else(
    data: bytes, reason: str
) -> None:
    """Who was in flight is told, and the next request goes over a new connection."""
    async with SocketServer(silent) as server, aclosing(transport(server.url)) as client:
        sent = calls(client, range(3))
        await until(lambda: len(server.messages) == 3)
        server.answer = Peer.reply
        server.peer.raw(data)
        for call in sent:
            error = await call.error()
            assert isinstance(error, ConnectionLost)
            assert (error.reason, error.wire) == (reason, Wire.MAYBE_SENT)
        assert await Call(client, 9).task == 9
        assert client.connections == 2


# -- no connection ---------------------------------------------------------------------------------


def http(head: str, *headers: str) -> bytes:
    """Return a refused upgrade that carries the secret wherever it can."""
    return "\r\n".join([head, f"Server: {CANARY}", *headers, "", CANARY]).encode()


DOORS: dict[str, tuple[bytes, str]] = {
    "503": (http(f"HTTP/1.1 503 {CANARY}"), "HTTP 503 to the upgrade"),
    "302": (http("HTTP/1.1 302 Found", f"Location: ws://{CANARY}/"), "HTTP 302 to the upgrade"),
    "200": (http("HTTP/1.1 200 OK"), "HTTP 200 to the upgrade"),
    "no upgrade": (http("HTTP/1.1 101 Switching", f"Upgrade: {CANARY}"), "InvalidUpgrade"),
    "bad key": (
        http(
            "HTTP/1.1 101 Switching",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {CANARY}",
        ),
        "InvalidHeaderValue",
    ),
    "garbage": (CANARY.encode() + b"\r\n\r\n", "InvalidMessage"),
    "endless line": (CANARY.encode() * 3000, "StatusLineTooLong"),
    "cut in the head": (b"HTTP/1.1 101 Swi", "InvalidMessage"),
    "nothing": (b"", "InvalidMessage"),
}


@pytest.mark.parametrize(("door", "reason"), DOORS.values(), ids=DOORS)
async def test_a_refused_upgrade_is_never_sent(door: bytes, reason: str) -> None:
    """Whatever answers the upgrade: nothing left, the reason has no word of the peer's, and it is tried again."""
    async with SocketServer(door=door) as server, aclosing(transport(server.url)) as client:
        call = Call(client)
        error = await call.error()
        assert isinstance(error, ConnectFailed)
        assert (error.wire, call.keys) == (Wire.NOT_SENT, [])
        assert error.reason == reason
        with pytest.raises(ConnectFailed):
            await client.warm_up()
        server.door = lambda _: b""
        await client.warm_up()
        assert await Call(client, 2).task == 2
        assert client.connections == 1


async def test_a_refused_connection_is_never_sent_and_is_tried_again() -> None:
    """Who waits is told at once; when the server is there, the next request finds it."""
    port = free_port()
    async with aclosing(transport(f"ws://127.0.0.1:{port}")) as client:
        sent = calls(client, range(3))
        errors = [await call.error() for call in sent]
        assert [type(error) for error in errors] == [ConnectFailed] * 3
        assert "refused" in str(errors[0]).lower() or "Connect call failed" in str(errors[0])
        assert all(call.keys == [] for call in sent)
        async with SocketServer(port=port) as server:
            await client.warm_up()
            assert await Call(client, 1).task == 1
            assert len(server.messages) == 1
            await client.aclose()


async def test_an_unknown_host_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be resolved is told in the system's words."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    async with aclosing(transport("ws://vendor.invalid/path")) as client:
        assert str(await Call(client).error()) == (
            "venue call: gaierror: Name or service not known (not sent)"
        )
        await client.aclose()


@pytest.mark.virtual_time
async def test_an_upgrade_that_hangs_is_given_up() -> None:
    """A connection that does not stand in time proves that nothing left."""
    async with SocketServer(door=None) as server:
        client = transport(server.url, connect_timeout=3.0)
        async with aclosing(client):
            started = now()
            call = Call(client)
            assert str(await call.error()) == "venue call: TimeoutError (not sent)"
            assert now() == pytest.approx(started + 3.0)
            assert call.keys == []
            server.door = lambda _: b""
            assert await Call(client, 2).task == 2


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an authority's certificate, and those that it issued for two names."""
    path = tmp_path_factory.mktemp("sockets")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(path / "authority"))
    for name in ("127.0.0.1", "elsewhere.example"):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(path / name))
    return {name: path / name for name in ("authority", "127.0.0.1", "elsewhere.example")}


def serving(certificate: Path) -> tls.SSLContext:
    """Return a server's context."""
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_tls_carries_requests(certificates: dict[str, Path]) -> None:
    """A context that trusts the server works, cuts are told, and closing is bounded."""
    trusting = tls.create_default_context(cafile=str(certificates["authority"]))
    server = SocketServer(ssl=serving(certificates["127.0.0.1"]))
    async with server, aclosing(transport(server.url, ssl=trusting)) as client:
        assert await answers(calls(client, range(100))) == list(range(100))
        server.answer = silent
        call = Call(client)
        await until(lambda: len(server.messages) == 101)
        server.answer = Peer.reply
        server.peer.transport.abort()
        assert await call.failure() == LOST
        assert await Call(client, 5).task == 5
        assert client.connections == 2


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [
        ("elsewhere.example", True, "SSLCertVerificationError: IP address mismatch"),
        ("127.0.0.1", False, "SSLCertVerificationError: unable to get local issuer certificate"),
    ],
)
async def test_a_certificate_that_fails_is_never_sent(
    certificates: dict[str, Path],
    name: str,
    trusted: bool,
    reason: str,
) -> None:
    """A certificate for another name, or of an unknown authority, proves that nothing left."""
    # The server shares the loop and reports the handshake that the client breaks off.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    cafile = str(certificates["authority"]) if trusted else None
    context = tls.create_default_context(cafile=cafile) if trusted else None
    server = SocketServer(ssl=serving(certificates[name]))
    async with server, aclosing(transport(server.url, ssl=context)) as client:
        call = Call(client)
        error = await call.error()
        assert isinstance(error, ConnectFailed)
        assert error.reason.startswith(reason)
        assert (error.wire, call.keys) == (Wire.NOT_SENT, [])


async def test_a_server_without_tls_is_never_sent() -> None:
    """Plain bytes in answer to a handshake are a failed connect, in the library's words."""
    async with SocketServer() as server:
        server.door = b""
        client = transport(server.url.replace("ws:", "wss:"))
        async with aclosing(client):
            call = Call(client)
            await until(lambda: server.peers)
            server.peer.is_deaf = True
            server.peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert await call.failure() == NOT_CONNECTED


@pytest.mark.virtual_time
async def test_a_handshake_that_hangs_is_given_up() -> None:
    """A server that accepts and says nothing to TLS is a failed connect when time is up."""
    async with SocketServer() as server:
        client = transport(server.url.replace("ws:", "wss:"), connect_timeout=2.0)
        async with aclosing(client):
            call = Call(client)
            await until(lambda: server.peers)
            server.peer.is_deaf = True
            assert str(await call.error()) == "venue call: TimeoutError (not sent)"
            assert call.keys == []


# -- pauses between attempts -----------------------------------------------------------------------


@pytest.fixture
def full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every pause as long as the policy allows."""
    monkeypatch.setattr(random, "random", lambda: 1.0)


def gaps(server: SocketServer) -> list[float]:
    """Return the seconds between a server's connections."""
    came = [peer.came_at for peer in server.peers]
    return [round(later - earlier, 6) for earlier, later in itertools.pairwise(came)]


def welcome_and_close(data: bytes) -> Callable[[Peer], bytes]:
    """Return a door that lets in and closes in the next step."""

    def door(peer: Peer) -> bytes:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(peer.close, 1013))
        return data

    return door


CLOSED_DOORS: dict[str, Any] = {
    "refused": http("HTTP/1.1 503 no"),
    "closed with the upgrade": lambda _: closing(1013),
    "closed after the upgrade": welcome_and_close(b""),
    "greeting, then closed": welcome_and_close(frame('{"error":"too many connections"}')),
}


@pytest.mark.parametrize("door", CLOSED_DOORS.values(), ids=CLOSED_DOORS)
@pytest.mark.virtual_time
@pytest.mark.usefixtures("full_jitter")
async def test_pauses_grow_while_no_connection_serves(
    door: bytes | Callable[[Peer], bytes],
) -> None:
    """Each attempt that served nobody doubles the pause, up to the cap: there is no hot loop."""
    async with SocketServer(door=door) as server:
        client = transport(server.url, retry=STEADY)
        async with aclosing(client):
            try:
                await client.warm_up()
            except ConnectFailed:
                pass
            await asyncio.sleep(31.5)
            assert gaps(server) == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@pytest.mark.virtual_time
async def test_a_policy_without_pauses_makes_no_hot_loop() -> None:
    """Requests may be repeated at once; connections are not."""
    async with SocketServer(door=http("HTTP/1.1 503 no")) as server:
        client = transport(server.url, retry=RetryPolicy(base=0.0, cap=0.0))
        async with aclosing(client):
            with pytest.raises(ConnectFailed):
                await client.warm_up()
            await asyncio.sleep(1.01)
            assert 50 < len(gaps(server)) <= 101


@pytest.mark.virtual_time
@pytest.mark.usefixtures("full_jitter")
async def test_a_request_cuts_the_pause_short() -> None:
    """Who wants a connection waits for half of the policy's pause only, and hears at once that there is none."""
    async with SocketServer(door=http("HTTP/1.1 503 no")) as server:
        client = transport(server.url, retry=STEADY)
        async with aclosing(client):
            with pytest.raises(ConnectFailed):
                await client.warm_up()
            await asyncio.sleep(15.5)
            assert gaps(server) == [1.0, 2.0, 4.0, 8.0]
            started = now()
            assert await Call(client).failure() == NOT_CONNECTED
            assert now() - started == pytest.approx(3.5)
            await asyncio.sleep(3.0)
            server.door = lambda _: b""
            assert await Call(client, 7).task == 7
            assert now() - started == pytest.approx(7.5)


@pytest.mark.virtual_time
@pytest.mark.usefixtures("full_jitter")
@pytest.mark.parametrize("served", [True, False])
async def test_a_connection_that_proved_itself_is_replaced_at_once(served: bool) -> None:
    """After a connection that answered a request, or stood for a while, no pause is due."""
    async with SocketServer() as server:
        client = transport(server.url, retry=STEADY)
        async with aclosing(client):
            await client.warm_up()
            if served:
                assert await Call(client, 1).task == 1
            else:
                await asyncio.sleep(6.0)
            moment = now()
            server.peer.close(1001)
            await until(lambda: client.connections == 2)
            assert now() == moment


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_request_without_a_reply_is_given_up() -> None:
    """Each that left is told at its own time that it may have arrived; the connection stays, late replies count."""
    async with SocketServer(silent) as server:
        client = transport(server.url, timeout=15.0, quiet=100.0)
        async with aclosing(client):
            await client.warm_up()
            first = Call(client, 1)
            await asyncio.sleep(4.0)
            second = Call(client, 2)
            started = now()
            assert await first.failure() == (RequestTimeout, Wire.MAYBE_SENT)
            assert now() - started == pytest.approx(11.0)
            assert await second.failure() == (RequestTimeout, Wire.MAYBE_SENT)
            assert now() - started == pytest.approx(15.0)
            server.peer.reply(*server.messages)
            await until(lambda: client.strays == {"late": 2})
            assert (first.late, second.late, client.in_flight) == ([1], [2], 0)
            assert client.connections == 1


@pytest.mark.virtual_time
async def test_a_request_that_cannot_leave_is_given_up_as_never_sent() -> None:
    """Waiting for a connection, or for room, ends in time and proves that nothing left."""
    async with SocketServer(silent, door=None) as server:
        client = transport(server.url, timeout=15.0, connect_timeout=100.0, max_in_flight=1)
        async with aclosing(client):
            started = now()
            call = Call(client)
            assert await call.failure() == (RequestTimeout, Wire.NOT_SENT)
            assert now() - started == pytest.approx(15.0)
            assert call.keys == []
    async with SocketServer(silent) as server:
        client = transport(server.url, timeout=15.0, quiet=100.0, max_in_flight=1)
        async with aclosing(client):
            await client.warm_up()
            leaves = Call(client)
            await asyncio.sleep(4.0)
            waits = Call(client)
            last = Call(client, 3)
            assert await leaves.failure() == (RequestTimeout, Wire.MAYBE_SENT)
            server.answer = Peer.reply
            server.peer.reply(server.messages[0])
            assert await waits.task == 0
            assert await last.task == 3


@pytest.mark.virtual_time
async def test_a_request_behind_one_that_hangs_is_given_up_in_its_own_time() -> None:
    """The queue and the table are swept by one timer, each in its own order."""
    async with SocketServer(silent) as server:
        client = transport(server.url, timeout=15.0, quiet=100.0, max_in_flight=1)
        async with aclosing(client):
            await client.warm_up()
            sent = calls(client, range(3))
            await asyncio.sleep(10.0)
            sent[0].task.cancel()
            assert await sent[2].failure() == (RequestTimeout, Wire.NOT_SENT)
            started = now()
            assert await sent[1].failure() == (RequestTimeout, Wire.MAYBE_SENT)
            assert now() - started == pytest.approx(10.0)
            await sent[0].canceled()


@pytest.mark.virtual_time
async def test_an_idle_transport_has_no_timer_but_the_watch() -> None:
    """When all requests have ended, the sweep is not set again; the next request sets it."""
    async with SocketServer() as server:
        client = transport(server.url, timeout=15.0)
        async with aclosing(client):
            for _ in range(2):
                assert await Call(client, 1).task == 1
                assert client._sweeper is not None
                await asyncio.sleep(16.0)
                assert client._sweeper is None


@pytest.mark.virtual_time
async def test_the_sweep_comes_to_an_end_at_any_moment_of_time() -> None:
    """Whatever the digits of the clock, a sweep finds due what it was set for."""
    moments = random.Random(3)
    async with SocketServer(silent) as server:
        client = transport(server.url, timeout=0.3, quiet=0.7)
        async with aclosing(client):
            await client.warm_up()
            for _ in range(60):
                sent = []
                for _ in range(3):
                    sent.append(Call(client))
                    await asyncio.sleep(moments.random())
                assert {await call.failure() for call in sent} == {
                    (RequestTimeout, Wire.MAYBE_SENT)
                }


@pytest.mark.virtual_time
async def test_a_silent_peer_is_given_up() -> None:
    """A connection that stays silent after a ping is lost, and replaced."""
    async with SocketServer(silent) as server:
        client = transport(server.url, timeout=100.0, quiet=10.0)
        async with aclosing(client):
            await client.warm_up()
            started, first = now(), server.peer
            first.answers_pings = False
            call = Call(client)
            assert str(await call.error()) == "venue call: no sign of life (maybe sent)"
            assert now() - started == pytest.approx(20.0)
            assert first.pings == 1
            await until(lambda: client.connections == 2)


# -- warming up ------------------------------------------------------------------------------------


async def test_warming_up_opens_one_connection_for_all() -> None:
    """However many ask for it at once, or again, one connection is opened, and it serves the requests."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        await asyncio.gather(*(client.warm_up() for _ in range(5)), Call(client).task)
        await client.warm_up()
        assert await Call(client, 1).task == 1
        assert client.connections == len(server.peers) == 1


async def test_a_canceled_warm_up_leaves_the_connection_coming() -> None:
    """Who goes takes nothing from those who wait."""
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        goes, stays = (asyncio.create_task(client.warm_up()) for _ in range(2))
        await turn(1)
        goes.cancel()
        await stays
        assert goes.cancelled()
        assert client._expectant == set()
        assert client.connections == 1
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        alone = asyncio.create_task(client.warm_up())
        await turn(1)
        alone.cancel()
        await until(lambda: client.connections == 1)
        assert await Call(client, 1).task == 1


async def test_a_warm_up_canceled_in_the_tick_in_which_it_would_end() -> None:
    """A cancellation that comes just before the connection stands is passed over."""

    def hook(_: Event) -> None:
        task.cancel()

    async with SocketServer() as server:
        client = transport(server.url, emit=hook)
        async with aclosing(client):
            task = asyncio.create_task(client.warm_up())
            other = asyncio.create_task(client.warm_up())
            with pytest.raises(asyncio.CancelledError):
                await task
            await other
            assert await Call(client, 1).task == 1
            assert client.connections == 1


async def test_warming_up_after_a_loss_waits_for_the_next_connection() -> None:
    """A connection that is lost is no connection any more."""
    events: list[Event] = []
    async with SocketServer() as server:
        client = transport(server.url, emit=events.append)
        async with aclosing(client):
            await client.warm_up()
            server.peer.cut()
            await until(lambda: len(events) == 2)
            await client.warm_up()
            assert client.connections == 2


@pytest.mark.parametrize("stand", [True, False])
async def test_a_warm_up_canceled_in_the_tick_of_its_end(stand: bool) -> None:
    """A cancellation that meets the connection, or its failure, harms neither."""
    door: Any = (lambda _: b"") if stand else http("HTTP/1.1 503 no")
    async with SocketServer(door=door) as server, aclosing(transport(server.url)) as client:
        task = asyncio.create_task(client.warm_up())
        await until(lambda: any(future.done() for future in client._expectant))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.door = lambda _: b""
        await client.warm_up()
        assert await Call(client, 1).task == 1


# -- closing ---------------------------------------------------------------------------------------


async def closed_for_good(client: Transport) -> None:
    """Assert that a closed transport does nothing any more."""
    call = Call(client)
    assert isinstance(await call.error(), GatewayClosed)
    assert call.keys == []
    with pytest.raises(GatewayClosed):
        await client.warm_up()
    await client.aclose()
    assert client._sweeper is None or client._sweeper.cancelled()


async def test_closing_a_transport_that_was_never_opened() -> None:
    """There is nothing to close."""
    client = transport("ws://127.0.0.1:1")
    await client.aclose()
    await closed_for_good(client)


@pytest.mark.parametrize("turns", range(14))
@pytest.mark.parametrize("secure", [False, True])
async def test_closing_at_any_step_of_connecting(
    turns: int, secure: bool, certificates: dict[str, Path]
) -> None:
    """Whatever the connection has come to, closing leaves nothing behind, and whoever waits is told."""
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    server = SocketServer(ssl=serving(certificates["127.0.0.1"]) if secure else None)
    async with server:
        trusting = tls.create_default_context(cafile=str(certificates["authority"]))
        client = transport(server.url, ssl=trusting)
        call, warm = Call(client), asyncio.create_task(client.warm_up())
        await turn(turns + 1)
        await client.aclose()
        ends: list[object] = await asyncio.gather(call.task, warm, return_exceptions=True)
        end = ends[0]
        assert end == 0 or isinstance(end, GatewayClosed | ConnectionLost)
        assert isinstance(end, GatewayClosed) == (call.keys == [])
        await closed_for_good(client)
        await until(lambda: all(peer.is_gone for peer in server.peers))
        await turn(20)  # the server's side of a handshake


@pytest.mark.virtual_time
async def test_closing_while_the_upgrade_hangs() -> None:
    """Who waits for a connection is told that there will be none; nothing was sent."""
    async with SocketServer(door=None) as server:
        client = transport(server.url)
        call, warm = Call(client), asyncio.create_task(client.warm_up())
        await asyncio.sleep(1.0)
        await client.aclose()
        assert isinstance(await call.error(), GatewayClosed)
        with pytest.raises(GatewayClosed):
            await warm
        await closed_for_good(client)


@pytest.mark.virtual_time
@pytest.mark.usefixtures("full_jitter")
async def test_closing_between_two_attempts() -> None:
    """Closing does not wait for the pause."""
    client = transport(f"ws://127.0.0.1:{free_port()}", retry=STEADY)
    with pytest.raises(ConnectFailed):
        await client.warm_up()
    await asyncio.sleep(2.0)
    started, call = now(), Call(client)
    await turn()
    await client.aclose()
    assert isinstance(await call.error(), GatewayClosed)
    assert now() == started
    await closed_for_good(client)


async def test_closing_an_open_connection() -> None:
    """It ends in good order: a close frame, then the socket. Whoever is in flight is told; several may close."""
    events: list[Event] = []
    async with SocketServer(silent) as server:
        client = transport(server.url, emit=events.append, max_in_flight=1)
        flies, waits = calls(client, [1, 2])
        await until(lambda: server.messages)
        await asyncio.gather(client.aclose(), client.aclose(), client.aclose())
        assert str(await flies.error()) == "venue call: gateway closed (maybe sent)"
        assert isinstance(await waits.error(), GatewayClosed)
        await until(lambda: server.peer.is_gone)
        assert server.peer.closed_with == 1000
        assert events[1:] == [Disconnected(venue="venue", reason="gateway closed", pending=1)]
        await closed_for_good(client)


async def clogged(server: SocketServer, client: Transport) -> list[Call]:
    """Return calls that fill the connection of a server that does not read."""
    await client.warm_up()
    await until(lambda: server.peers)
    server.peer.transport.pause_reading()
    sent = [Call(client, "x" * 1_000_000) for _ in range(20)]
    await turn(50)
    return sent


@pytest.mark.virtual_time
async def test_closing_does_not_wait_for_a_peer_that_does_not_read() -> None:
    """What cannot be written in good order is broken off after a second."""
    async with SocketServer() as server:
        client = transport(server.url)
        sent = await clogged(server, client)
        started = now()
        await client.aclose()
        assert now() - started == pytest.approx(1.0)
        left, waiting = ([call for call in sent if bool(call.keys) is b] for b in (True, False))
        assert left
        assert {await call.failure() for call in left} == {LOST}
        assert {type(await call.error()) for call in waiting} == {GatewayClosed}
        await closed_for_good(client)


@pytest.mark.virtual_time
async def test_closing_that_is_canceled_can_be_repeated(loop_errors: list[str]) -> None:
    """Whoever closes after a canceled closing waits for what is left of it; nothing is reported to the loop."""
    async with SocketServer() as server:
        client = transport(server.url)
        sent = await clogged(server, client)
        started = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await client.aclose()
        await client.aclose()
        assert now() - started == pytest.approx(1.0)
        await asyncio.gather(*(call.task for call in sent), return_exceptions=True)
        await closed_for_good(client)
        assert loop_errors == []


@pytest.mark.virtual_time
async def test_closing_waits_for_a_connection_that_was_lost_before() -> None:
    """Also the socket of a connection that is of no more use is closed when closing ends."""
    async with SocketServer() as server:
        client = transport(server.url, quiet=1.0, timeout=60.0)
        sent = await clogged(server, client)
        first = client._connection
        assert first is not None
        await until_virtual(lambda: client._connection is not first)
        await client.aclose()
        assert first.gone.done()
        await asyncio.gather(*(call.task for call in sent), return_exceptions=True)


async def until_virtual(condition: Callable[[], object]) -> None:
    """Let time pass until something is so."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be so")


async def test_closing_while_the_whole_loop_shuts_down(loop_errors: list[str]) -> None:
    """Where every task is canceled at once, as at the end of `asyncio.run`, closing still ends."""
    async with SocketServer(silent) as server:
        client = transport(server.url)
        others = asyncio.all_tasks()

        async def bot() -> None:
            async with aclosing(client):
                await asyncio.sleep(3600)

        owner, call = asyncio.create_task(bot()), Call(client)
        await until(lambda: server.messages)
        for task in asyncio.all_tasks() - others:
            task.cancel()
        async with asyncio.timeout(2.0):
            with pytest.raises(asyncio.CancelledError):
                await owner
        await call.canceled()
        await until(lambda: server.peer.is_gone)
        assert client.in_flight == 0
        assert loop_errors == []


# -- arguments, telemetry --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vendor.example",
        "http://vendor.example",
        "ws://",
        "ws://vendor.example/#x",
        f"wss://user:{CANARY}@vendor.example",
        "ws://vendor.example:99999",
        "ws://[::1",
        None,
    ],
)
def test_an_unusable_url(url: str) -> None:
    """A URL that is not a WebSocket URL, or that carries credentials, is a usage error that does not show it."""
    with pytest.raises(UsageError, match="ws_url") as caught:
        transport(url)
    sightings.look(str(caught.value))


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"connect_timeout": -1},
        {"quiet": float("inf")},
        {"max_in_flight": 0},
        {"max_in_flight": 1.5},
    ],
)
def test_a_number_out_of_range(options: dict[str, Any]) -> None:
    """A number that makes no sense is a usage error."""
    with pytest.raises(UsageError):
        transport("ws://vendor.example", **options)


def test_the_host_is_named() -> None:
    """Host and port, also where the URL leaves the port out."""
    assert transport("wss://vendor.example/v2").host == "vendor.example:443"
    assert transport("ws://127.0.0.1:81").host == "127.0.0.1:81"


@pytest.mark.virtual_time
async def test_nothing_is_built_without_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, no event is made."""

    def build(**_: object) -> None:
        raise AssertionError("an event was built for nobody")

    for name in ("Connected", "Disconnected", "Stray"):
        monkeypatch.setattr(websocket, name, build)
    async with SocketServer() as server, aclosing(transport(server.url)) as client:
        assert await Call(client, 1).task == 1
        server.peer.send("stray")
        server.peer.cut()
        await until(lambda: client.connections == 2)
        assert await Call(client, 2).task == 2
        assert client.strays == {"malformed": 1}


# -- everything at once ----------------------------------------------------------------------------


class Weather:
    """A server that answers late, twice, out of order, not at all, and with everything that is no answer."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.held: list[Asked] = []
        self.answered = 0

    def __call__(self, peer: Peer, asked: Asked) -> None:
        self.held.append(asked)
        if len(self.held) < 40:
            return
        self.chance.shuffle(self.held)
        while len(self.held) > 10:
            self._answer(peer, self.held.pop())

    def _answer(self, peer: Peer, asked: Asked) -> None:
        noise = [data for data, _ in STRAYS.values() if len(data) < 1000]
        match self.chance.randrange(12):
            case 0:
                return  # it is never answered
            case 1:
                peer.reply(asked, asked)
            case 2:
                peer.raw(self.chance.choice(noise))
                peer.reply(asked)
            case 3:
                text = json.dumps({"id": asked["id"], "echo": asked["n"]})
                peer.raw(frame(text[:5], fin=False))
                peer.raw(frame("?", Opcode.PING))
                peer.raw(frame(text[5:], Opcode.CONT))
            case 4:
                peer.raw(frame("x", Opcode.BINARY, fin=False) + frame("y", Opcode.CONT))
                peer.reply(asked)
            case _:
                peer.reply(asked)
        self.answered += 1


@pytest.mark.parametrize("cuts", [False, True], ids=["one connection", "connections that break"])
async def test_a_storm(cuts: bool) -> None:
    """Of thousands of calls each ends exactly once, with its own reply or a true error, and nothing is left."""
    asyncio.get_running_loop().set_debug(False)
    chance = random.Random(11)
    weather = Weather(chance)
    async with SocketServer(weather) as server:
        client = transport(server.url, max_in_flight=200)
        async with aclosing(client):
            sent: list[Call] = []
            for n in range(3000):
                sent.append(Call(client, n))
                if chance.random() < 0.2:
                    await turn(1)
                if chance.random() < 0.3:
                    chance.choice(sent[-300:]).task.cancel()
                if cuts and server.peers and n % 500 == 499:
                    chance.choice([Peer.cut, Peer.reset])(server.peer)
            # What is in flight unanswered, its callers give up.
            for _ in range(300):
                await turn(20)
                for call in sent:
                    if call.keys and not call.task.done() and chance.random() < 0.1:
                        call.task.cancel()
                if all(call.task.done() for call in sent):
                    break
            ends = await asyncio.gather(*(call.task for call in sent), return_exceptions=True)
            assert all(
                end == call.n or isinstance(end, asyncio.CancelledError | ConnectionLost)
                for call, end in zip(sent, ends, strict=True)
            )
            assert all(len(call.keys) <= 1 for call in sent)
            for call, end in zip(sent, ends, strict=True):
                assert len(call.late) + (end == call.n) <= 1
                assert call.late in ([], [call.n])
            assert cuts or not any(isinstance(end, ConnectionLost) for end in ends)
            assert (client.in_flight, len(client._outbox)) == (0, 0)
            assert (client.connections > 1) == cuts
            server.answer = Peer.reply
            assert await Call(client, "after").task == "after"
            left = {call.keys[0] for call in sent if call.keys}
            if not cuts:
                assert {asked["id"] for asked in server.messages} >= left
                assert client.strays["late"] == sum(len(call.late) for call in sent)


@pytest.mark.virtual_time
async def test_a_sweep_that_comes_early_is_not_repeated_until_it_is_due() -> None:
    """Event loops may call by the resolution of their clock too early: the sweep goes by what it was set for."""
    async with SocketServer(silent) as server:
        client = transport(server.url, timeout=0.3)
        async with aclosing(client):
            await client.warm_up()
            first = Call(client)
            await asyncio.sleep(0.01)
            second = Call(client)
            await asyncio.sleep(0.01)
            asyncio.get_running_loop()._clock_resolution = 0.016  # type: ignore[attr-defined]
            for call in (first, second):
                assert await call.failure() == (RequestTimeout, Wire.MAYBE_SENT)
