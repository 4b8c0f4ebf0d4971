"""One WebSocket connection against a scripted peer: what its owner is told, and how it lives and ends."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import WebSocketException
from websockets.frames import Opcode
from websockets.uri import parse_uri

from support.socket_server import Peer, SocketServer, closing, frame, until
from tronsave_async.connection import STEADY, Connection, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from websockets.typing import BytesLike


class Diary:
    """An owner that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.waits = False
        """Whether a message is what it waited for."""

    def stands(self, connection: Connection) -> None:
        """The upgrade is through."""
        self.told.append(("stands", connection.opened.done()))

    def received(self, message: BytesLike) -> bool:
        """A message came."""
        self.told.append(("received", bytes(message)))
        return self.waits

    def stray(self, kind: str) -> None:
        """Something else came."""
        self.told.append(("stray", kind))

    def writable(self) -> None:
        """It takes more."""
        self.told.append(("writable", None))

    def lost(self, connection: Connection, reason: str) -> None:
        """It is of no more use."""
        self.told.append(("lost", reason))


Line = tuple[Connection, Diary, SocketServer]


async def connected(server: SocketServer, quiet: float = 10.0) -> tuple[Connection, Diary]:
    """Connect to a server; return the connection, which need not stand yet."""
    diary = Diary()
    connection = Connection(diary, parse_uri(server.url), quiet)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: connection, "127.0.0.1", server.port)
    return connection, diary


@asynccontextmanager
async def standing(quiet: float = 10.0) -> AsyncIterator[Line]:
    """Yield a connection that stands, its owner, who has been told so, and its server."""
    async with SocketServer(lambda *_: None) as server:
        connection, diary = await connected(server, quiet)
        await connection.opened
        assert diary.told == [("stands", True)]
        diary.told.clear()
        yield connection, diary, server
        connection.abort()
        await connection.gone


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


# -- messages --------------------------------------------------------------------------------------

MESSAGES: dict[str, tuple[bytes, list[tuple[str, object]]]] = {
    "text": (frame("a"), [("received", b"a")]),
    "empty text": (frame(""), [("received", b"")]),
    "two in one piece": (frame("a") + frame("b"), [("received", b"a"), ("received", b"b")]),
    "medium": (frame("x" * 300), [("received", b"x" * 300)]),
    "one mebibyte": (frame("x" * (1 << 20)), [("received", b"x" * (1 << 20))]),
    "in parts": (
        frame("a", fin=False) + frame("b", Opcode.CONT, fin=False) + frame("c", Opcode.CONT),
        [("received", b"abc")],
    ),
    "in parts, with a ping": (
        frame("a", fin=False) + frame("?", Opcode.PING) + frame("", Opcode.CONT),
        [("received", b"a")],
    ),
    "binary": (frame(b"a", Opcode.BINARY), [("stray", "binary")]),
    "binary in parts": (
        frame(b"a", Opcode.BINARY, fin=False)
        + frame(b"b", Opcode.CONT, fin=False)
        + frame(b"c", Opcode.CONT)
        + frame("d"),
        [("stray", "binary"), ("received", b"d")],
    ),
    "text, then binary, both in parts": (
        frame("a", fin=False)
        + frame("b", Opcode.CONT)
        + frame("x", Opcode.BINARY, fin=False)
        + frame("y", Opcode.CONT),
        [("received", b"ab"), ("stray", "binary")],
    ),
    "pong": (frame("?", Opcode.PONG), []),
}


@pytest.mark.parametrize(("data", "told"), MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("bite", [1 << 30, 7], ids=["whole", "in bites"])
async def test_what_the_owner_is_told_of_a_message(
    data: bytes, told: list[tuple[str, object]], bite: int
) -> None:
    """Text comes whole, however it was cut on its way; what is no text is told by its kind, once."""
    async with standing() as (connection, diary, server):
        if len(data) > 1000 and bite < 100:
            bite = 10_007
        for at in range(0, len(data), bite):
            server.peer.raw(data[at : at + bite])
            await asyncio.sleep(0)
        server.peer.send("the end")
        await until(lambda: ("received", b"the end") in diary.told)
        assert diary.told[:-1] == told
        assert not connection.ended.done()


async def test_a_message_leaves_when_it_is_written() -> None:
    """What is said waits for the write; what is said together is written together, in order."""
    async with standing() as (connection, _, server):
        for n in range(3):
            connection.say(b'{"n":%d}' % n)
        await asyncio.sleep(0.002)
        assert server.messages == []
        connection.write()
        connection.write()
        await until(lambda: len(server.messages) == 3)
        assert [asked["n"] for asked in server.messages] == [0, 1, 2]


async def test_a_choked_connection_says_so() -> None:
    """While the peer does not read, nothing more is taken; when it does, the owner is told."""
    async with standing() as (connection, diary, server):
        server.peer.transport.pause_reading()
        taken = 0
        while connection.takes_more:
            connection.say(b'"' + b"x" * 500_000 + b'"')
            connection.write()
            taken += 1
        assert (taken > 0, diary.told) == (True, [])
        server.peer.transport.resume_reading()
        await until(lambda: diary.told == [("writable", None)])
        assert (connection.takes_more, len(server.messages) > 0) == (True, True)


# -- signs of life ---------------------------------------------------------------------------------


async def test_pings_are_answered_with_their_payload() -> None:
    """A server that watches its clients finds this one alive."""
    async with standing() as (_, _, server):
        for payload in ("", "a", "x" * 125):
            server.peer.raw(frame(payload, Opcode.PING))
        await until(lambda: len(server.peer.pongs) == 3)
        assert server.peer.pongs == [b"", b"a", b"x" * 125]


@pytest.mark.virtual_time
async def test_a_silent_peer_is_pinged_and_then_lost() -> None:
    """After ``quiet`` seconds of silence comes a ping, and after as many again the end."""
    async with standing(quiet=10.0) as (connection, diary, server):
        server.peer.answers_pings = False
        started = now()
        await asyncio.sleep(9.9)
        assert server.peer.pings == 0
        await asyncio.sleep(0.2)
        assert server.peer.pings == 1
        await connection.ended
        assert now() - started == pytest.approx(20.0)
        assert diary.told == [("lost", "no sign of life")]
        assert server.peer.pings == 1


@pytest.mark.virtual_time
async def test_a_peer_that_answers_pings_stays() -> None:
    """A pong is a sign of life: an idle connection lives, on one ping per ``quiet`` of silence."""
    async with standing(quiet=10.0) as (connection, diary, server):
        await asyncio.sleep(600.0)
        assert not connection.ended.done()
        assert diary.told == []
        assert 50 <= server.peer.pings <= 60


@pytest.mark.virtual_time
@pytest.mark.parametrize("every", [3.0, 9.99, 10.0, 10.01, 19.9, 12.345678])
async def test_a_peer_that_sends_but_never_pongs_stays(every: float) -> None:
    """Any frame is a sign of life."""
    async with standing(quiet=10.0) as (connection, diary, server):
        server.peer.answers_pings = False
        for _ in range(15):
            await asyncio.sleep(every)
            server.peer.send("news")
            await asyncio.sleep(0.001)
        assert not connection.ended.done()
        assert diary.told == [("received", b"news")] * 15
        assert (server.peer.pings == 0) == (every < 10.0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("every", [3.0, 9.99, 12.345678])
async def test_a_frame_that_never_ends_is_no_life(every: float) -> None:
    """A peer that declares more than it sends takes every later message, and every pong, for the rest of it."""
    async with standing(quiet=10.0) as (connection, diary, server):
        started = now()
        server.peer.raw(frame("x" * 100_000)[:50])
        while not connection.ended.done() and now() < started + 60.0:
            server.peer.send("news")
            await asyncio.wait([connection.ended], timeout=every)
        assert diary.told == [("lost", "no sign of life")]
        assert now() == pytest.approx(started + 20.0, abs=0.1)


@pytest.mark.virtual_time
async def test_a_connection_proves_itself() -> None:
    """By a message that was waited for, or by standing for a while; other messages prove nothing."""
    async with standing() as (connection, diary, server):
        server.peer.send("news")
        await until(lambda: diary.told)
        proved = [connection.proved_itself]
        diary.waits = True
        server.peer.send("reply")
        await until(lambda: len(diary.told) == 2)
        assert [*proved, connection.proved_itself] == [False, True]
    async with standing() as (connection, _, _):
        proved = [connection.proved_itself]
        await asyncio.sleep(STEADY)
        assert [*proved, connection.proved_itself] == [False, True]


# -- the end ---------------------------------------------------------------------------------------

ENDS: dict[str, tuple[Callable[[Peer], None], str]] = {
    "FIN": (Peer.cut, "closed by the peer"),
    "RST": (Peer.reset, "connection broken"),
    "close 1001": (lambda peer: peer.close(1001), "closed by the peer (1001)"),
    "close 4321": (lambda peer: peer.close(4321), "closed by the peer (4321)"),
    "close without a code": (lambda peer: peer.raw(frame("", 8)), "closed by the peer (1005)"),
    "close with a reason": (
        lambda peer: peer.raw(closing(1008, "a text of the peer's")),
        "closed by the peer (1008)",
    ),
    "protocol error": (lambda peer: peer.raw(frame("", 5)), "ProtocolError"),
    "too big": (lambda peer: peer.raw(frame("x" * ((1 << 20) + 1))), "PayloadTooBig"),
    "half a frame": (
        lambda peer: (peer.raw(frame("abc")[:3]), peer.cut())[1],  # type: ignore[func-returns-value]
        "closed by the peer",
    ),
}


@pytest.mark.parametrize(("end", "reason"), ENDS.values(), ids=ENDS)
async def test_the_owner_is_told_once_that_it_is_over(
    end: Callable[[Peer], None], reason: str
) -> None:
    """However it ends, the owner hears one reason, without a text of the peer's, after what came before it."""
    async with standing() as (connection, diary, server):
        if end is not Peer.reset:
            server.peer.send("last words")
        await asyncio.sleep(0)
        end(server.peer)
        await connection.ended
        await connection.gone
        assert diary.told[-1] == ("lost", reason)
        assert [kind for kind, _ in diary.told].count("lost") == 1
        if end is not Peer.reset:
            assert diary.told[0] == ("received", b"last words")
        assert not connection.takes_more
        connection.close("twice")
        connection.abort()
        assert diary.told[-1] == ("lost", reason)


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4000])
async def test_a_close_frame_is_answered_and_the_connection_closed(code: int) -> None:
    """The close is confirmed with its own code, and the client hangs up."""
    async with standing() as (_, _, server):
        server.peer.close(code)
        await until(lambda: server.peer.is_gone)
        assert server.peer.closed_with == code


async def test_closing_is_in_good_order() -> None:
    """The peer gets a close frame, and what was said before it."""
    async with standing() as (connection, diary, server):
        connection.say(b"{}")
        connection.close("enough")
        assert connection.ended.done()
        await connection.gone
        await until(lambda: server.peer.is_gone)
        assert (server.messages, server.peer.closed_with) == ([{}], 1000)
        assert diary.told == [("lost", "enough")]


@pytest.mark.virtual_time
async def test_closing_is_bounded() -> None:
    """A peer that takes nothing is hung up on after a second."""
    async with standing() as (connection, _, server):
        server.peer.transport.pause_reading()
        while connection.takes_more:
            connection.say(b"x" * 500_000)
            connection.write()
        started = now()
        connection.close("enough")
        await connection.gone
        assert now() - started == pytest.approx(1.0)


async def test_aborting_is_at_once() -> None:
    """No word is said to the peer."""
    async with standing() as (connection, diary, server):
        connection.abort()
        await connection.gone
        await until(lambda: server.peer.is_gone)
        assert server.peer.closed_with is None
        assert diary.told == [("lost", "aborted")]


@pytest.mark.parametrize(
    ("door", "error"),
    [
        (b"HTTP/1.1 503 no\r\n\r\n", "InvalidStatus"),
        (b"garbage\r\n\r\n", "InvalidMessage"),
        (b"", "InvalidMessage"),
        (lambda _: closing(1013), "ConnectionError"),
        (lambda _: frame("", 5), "ConnectionError"),
    ],
    ids=["503", "garbage", "nothing", "closed in the same breath", "broken in the same breath"],
)
async def test_an_upgrade_that_fails(door: Any, error: str) -> None:
    """The owner is never told that it stands; whoever waits for it gets the error."""
    async with SocketServer(door=door) as server:
        connection, diary = await connected(server)
        with pytest.raises((OSError, WebSocketException)) as caught:
            await connection.opened
        assert type(caught.value).__name__ == error
        await connection.gone
        assert [kind for kind, _ in diary.told] == ["lost"]


async def test_an_upgrade_that_nobody_waits_for(loop_errors: list[str]) -> None:
    """A connection whose upgrade comes too late, or fails unheard, stands for nobody and is no error of the loop's."""
    async with SocketServer() as server:
        connection, diary = await connected(server)
        connection.opened.cancel()
        await until(lambda: server.peer.transport.get_write_buffer_size() == 0)
        await asyncio.sleep(0.002)
        connection.abort()
        await connection.gone
        assert diary.told == [("lost", "aborted")]
    async with SocketServer(door=b"") as server:
        connection, diary = await connected(server)
        await connection.gone
        assert diary.told == [("lost", "closed by the peer")]
        del connection, diary
    assert loop_errors == []


async def test_a_connection_without_a_socket_can_be_aborted() -> None:
    """Where no socket ever was, there is nothing to wait for."""
    diary = Diary()
    connection = Connection(diary, parse_uri("ws://127.0.0.1:1/"), 1.0)
    connection.abort()
    connection.abort()
    assert connection.gone.done()
    assert not connection.takes_more
    assert diary.told == [("lost", "aborted")]


# -- the way there ---------------------------------------------------------------------------------


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, Any]) -> None:
    """Let every host have these addresses: family and socket address."""
    infos = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return infos

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


class Dials:
    """Stands in for the loop's `sock_connect`: notes who is called when, and hangs on some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hanging: set[str]) -> None:
        self.called: list[tuple[str, float]] = []
        self.sockets: list[socket.socket] = []
        self._started = now()
        self._hanging = hanging
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", self)

    async def __call__(self, own: socket.socket, address: tuple[str, int]) -> None:
        """Connect, or do not."""
        self.called.append((address[0], round(now() - self._started, 6)))
        self.sockets.append(own)
        if address[0] in self._hanging:
            await asyncio.Event().wait()
        if address[0] == "refused":
            raise ConnectionRefusedError(111, "refused")
        if address[0] == "reset":
            raise ConnectionResetError(104, "reset")

    @property
    def open(self) -> int:
        """How many sockets are open."""
        return sum(own.fileno() >= 0 for own in self.sockets)


V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.virtual_time
async def test_families_take_turns_and_a_dead_address_costs_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address that hangs has a short head start; the first that answers wins, and the others are closed."""
    resolving(monkeypatch, (V6, ("a", 1)), (V6, ("b", 1)), (V4, ("c", 1)), (V4, ("d", 1)))
    dials = Dials(monkeypatch, {"a", "c"})
    own = await dial("vendor.example", 1)
    assert dials.called == [("a", 0.0), ("c", 0.25), ("b", 0.5)]
    await asyncio.sleep(0.01)
    assert (dials.open, own.fileno() >= 0) == (1, True)
    own.close()


@pytest.mark.virtual_time
async def test_a_refused_address_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails waits for nobody; if all fail, each failure is told."""
    resolving(monkeypatch, (V4, ("refused", 1)), (V4, ("reset", 1)), (V4, ("refused", 2)))
    dials = Dials(monkeypatch, set())
    with pytest.raises(OSError, match=r"refused.*reset.*refused"):
        await dial("vendor.example", 1)
    assert [at for _, at in dials.called] == [0.0, 0.0, 0.0]
    assert dials.open == 0


async def test_a_family_that_the_system_lacks_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address without a socket for it is a failure like any other."""
    resolving(monkeypatch, (99, ("a", 1)), (V4, ("b", 1)))
    dials = Dials(monkeypatch, set())
    (await dial("vendor.example", 1)).close()
    assert [host for host, _ in dials.called] == ["b"]
    resolving(monkeypatch, (99, ("a", 1)))
    with pytest.raises(OSError, match="not supported"):
        await dial("vendor.example", 1)


@pytest.mark.virtual_time
async def test_a_failure_among_the_last_leaves_the_others_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When every address is being tried, one that fails ends nothing but itself."""
    resolving(monkeypatch, (V4, ("slow", 1)), (V4, ("fails", 1)))

    async def sock_connect(_: socket.socket, address: tuple[str, int]) -> None:
        await asyncio.sleep(3.0 if address[0] == "slow" else 1.0)
        if address[0] == "fails":
            raise ConnectionResetError

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    started = now()
    own = await dial("vendor.example", 1)
    assert now() - started == pytest.approx(3.0)
    own.close()


@pytest.mark.virtual_time
async def test_two_winners_leave_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two addresses answer in one moment, or one answers while the other fails, one socket stays."""
    resolving(monkeypatch, (V4, ("a", 1)), (V4, ("b", 1)), (V4, ("reset", 1)))
    gate = asyncio.Event()
    sockets: list[socket.socket] = []

    async def sock_connect(own: socket.socket, address: tuple[str, int]) -> None:
        sockets.append(own)
        await gate.wait()
        if address[0] == "reset":
            raise ConnectionResetError

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    task = asyncio.create_task(dial("vendor.example", 1))
    await asyncio.sleep(1.0)
    gate.set()
    own = await task
    await asyncio.sleep(0.01)
    assert [other.fileno() >= 0 for other in sockets].count(True) == 1
    own.close()


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_canceled_dial_leaves_no_socket(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever step it is canceled, also in the moment in which it is won."""
    async with SocketServer() as server:
        resolving(monkeypatch, (V4, ("127.0.0.1", server.port)))
        task = asyncio.create_task(dial("vendor.example", server.port))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(end, socket.socket):
            end.close()
        await until(lambda: all(peer.is_gone for peer in server.peers))


class Foreign:
    """A transport that does all that an `asyncio.Transport` does, and is none: uvloop's are such."""

    def __init__(self, own: asyncio.BaseTransport) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        """Do it with the own one."""
        return getattr(self._own, name)


async def test_another_event_loop_may_bring_transports_of_its_own() -> None:
    """What a transport can do counts, not its class."""

    class OnForeign(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            foreign: Any = Foreign(transport)
            super().connection_made(foreign)

    async with SocketServer() as server:
        diary = Diary()
        connection = OnForeign(diary, parse_uri(server.url), quiet=10.0)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, "127.0.0.1", server.port)
        await connection.opened
        connection.say(b'{"id":"a"}')
        connection.write()
        await until(lambda: ("received", b'{"id": "a", "echo": null}') in diary.told)
        connection.abort()
        await connection.gone
