"""`tronsave_async.sandbox_socket`: faults, keep-alive and control of sockets, without a vendor."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
)

from support.cutter import Cut, Cutter, Direction, How
from tronsave_async.sandbox import (
    Decision,
    Fault,
    FaultScript,
    HttpReply,
    HttpRequest,
    LoopbackServer,
    Processing,
    Reply,
    drop_after,
    drop_before,
    empty_body,
    hang_after,
    hang_before,
    html_page,
    huge_body,
    json_array,
    late,
    malformed_json,
    partial_fill_in_the_race,
    rate_limited,
    replaced,
    retyped,
    server_error,
    too_slow,
    truncated,
    wrong_types,
)
from tronsave_async.sandbox_socket import (
    Keepalive,
    LoopbackSockets,
    SocketDecision,
    SocketMessage,
    SocketReply,
    SocketRequest,
    binary_frame,
    closing,
    contradicted,
    duplicated,
    reordered,
    unaddressed,
    uninvited,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Counter:
    """A vendor that counts, on sockets and by HTTP: the smallest `SocketVendor`."""

    credentials: frozenset[str] = frozenset()
    address_field = "id"

    def __init__(self) -> None:
        self.faults = FaultScript()
        self.keepalive = Keepalive()
        self.count = 0
        self.delay = 0.0

    def route(self, method: str, path: str) -> str | None:
        return "count"

    def error_body(self, status: int) -> bytes:
        return b'{"status":%d}' % status

    def decide(self, request: HttpRequest) -> Decision:
        fault = self.faults.take("count")
        self.count += 1
        return Decision(reply=HttpReply(status=200, body=b"by HTTP"), fault=fault, processed=True)

    def read(self, raw: bytes, *, binary: bool) -> SocketMessage:
        try:
            message = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            return SocketMessage(endpoint=None, shown=b"?")
        shown = raw.replace(b"s3cret", b"***")
        return SocketMessage(
            endpoint="binary" if binary else "count",
            shown=shown,
            body=msgspec.json.decode(shown),
            content=message,
        )

    def hear(self, request: SocketRequest) -> SocketDecision:
        if request.message.endpoint is None:
            return SocketDecision()
        address = msgspec.json.encode(request.message.content["id"])
        fault = self.faults.take(request.message.endpoint, socket=True)
        if fault is not None and fault.processing is Processing.SKIPPED:
            return SocketDecision(fault=fault, address=address)
        self.count += 1
        text = b'{"id":%s,"status":200,"count":%d}' % (address, self.count)
        return SocketDecision(
            reply=SocketReply(status=200, text=text),
            address=address,
            fault=fault,
            caller="somebody",
            processed=True,
            delay=self.delay,
            signature_age=0.5,
        )

    def error_text(self, status: int, address: bytes) -> bytes:
        return b'{"id":%s,"status":%d}' % (address, status)


class Served:
    """A counter, its server and its sockets."""

    def __init__(self, **options: Any) -> None:
        context = options.pop("ssl_context", None)
        self.vendor = Counter()
        # The record belongs to the HTTP server, which is made last: it needs the sockets.
        self.server = LoopbackServer(
            self.vendor, now=lambda: NOON, ssl_context=context, upgrade=self._upgrade
        )
        self.sockets = LoopbackSockets(
            self.vendor, log=self.server.log, now=lambda: NOON, **options
        )

    def _upgrade(self, request: Any, gone: asyncio.Event) -> Any:
        return self.sockets.upgrade(request, gone)

    @property
    def log(self) -> Any:
        return self.server.log

    @property
    def url(self) -> str:
        return self.server.url.replace("http", "ws", 1) + "/path?query=1"

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    async def aclose(self) -> None:
        self.sockets.end()
        await self.server.aclose()


@asynccontextmanager
async def counting(*faults: Fault, **options: Any) -> AsyncIterator[Served]:
    """Serve a counter with these faults ahead."""
    served = Served(**options)
    served.vendor.faults.add(*faults)
    await served.server.start()
    try:
        yield served
    finally:
        await served.aclose()


@asynccontextmanager
async def talking(
    *faults: Fault, keepalive: Keepalive | None = None, **options: Any
) -> AsyncIterator[tuple[Served, ClientConnection]]:
    """Serve a counter to a client that neither pings nor waits when it leaves."""
    async with counting(*faults, **options) as served:
        served.vendor.keepalive = keepalive or Keepalive()
        async with connected(served) as client:
            yield served, client


def connected(served: Served, **options: Any) -> connect:
    """Connect a client that neither pings nor waits when it leaves."""
    usual = {"ping_interval": None, "close_timeout": 0.01, "compression": None, "max_size": None}
    return connect(served.url, **{**usual, **options})


def ask(request_id: Any) -> str:
    """Return a request."""
    return json.dumps({"id": request_id})


async def heard(client: ClientConnection) -> Any:
    """Return the next message, decoded."""
    return json.loads(await client.recv())


async def turns(count: int = 10) -> None:
    """Let the loop run, so that bytes on loopback arrive."""
    for _ in range(count):
        await asyncio.sleep(0.0005)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


# --- the fault model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "processing", "reply"),
    [
        (duplicated(), Processing.NORMAL, Reply.DUPLICATED),
        (contradicted(), Processing.NORMAL, Reply.DUPLICATED),
        (contradicted(first=True), Processing.NORMAL, Reply.PRECEDED),
        (uninvited(body=b"{}"), Processing.NORMAL, Reply.PRECEDED),
        (reordered(), Processing.NORMAL, Reply.REORDERED),
        (binary_frame(), Processing.NORMAL, Reply.BINARY),
        (unaddressed(), Processing.NORMAL, Reply.UNADDRESSED),
        (closing(), Processing.SKIPPED, Reply.HANG),
        (closing(processed=True), Processing.NORMAL, Reply.HANG),
        (closing(replied=True), Processing.NORMAL, Reply.NORMAL),
    ],
)
def test_each_constructor_says_what_was_processed_and_replied(
    fault: Fault, processing: Processing, reply: Reply
) -> None:
    """The two parts of a fault are independent, and each constructor sets both."""
    assert (fault.processing, fault.reply) == (processing, reply)
    assert fault.needs_socket


def test_the_races_and_the_limit_are_for_vendors_to_play() -> None:
    """Processing that only the vendor can play says so, on sockets and by HTTP."""
    assert partial_fill_in_the_race("a").processing is Processing.PARTIAL_RACE
    assert too_slow("a", times=2).processing is Processing.TOO_SLOW
    assert not too_slow().needs_socket


@pytest.mark.parametrize(
    "parts",
    [
        {"reply": Reply.REORDERED},
        {"reply": Reply.DUPLICATED, "processing": Processing.SKIPPED},
        {"reply": Reply.UNADDRESSED, "processing": Processing.SKIPPED},
    ],
)
def test_contradictory_faults_are_rejected(parts: dict[str, Any]) -> None:
    """A reply that never is cannot be changed, and one is not held back for no time."""
    with pytest.raises(ValueError, match=r"delay|processed"):
        Fault(**parts)


def test_a_fault_for_sockets_waits_for_a_socket() -> None:
    """A request by HTTP leaves what only a socket can play in the script, and chaos, too."""
    script = FaultScript()
    script.add(duplicated(), drop_before())
    assert script.take("a") == drop_before()
    assert script.take("a", socket=True) == duplicated()
    script.chaos([closing(), reordered()], rate=1, seed=0)
    assert script.take("a") is None
    assert script.take("a", socket=True) in [closing(), reordered()]


def test_retyped_keeps_one_field() -> None:
    """The address stays: a reply of other types is a reply to the same request."""
    assert retyped(b'{"id":"r","n":[1]}', kept="id") == b'{"id":"r","n":["1"]}'
    assert retyped(b'{"n":1}', kept="id") == b'{"n":"1"}'


# --- serving --------------------------------------------------------------------------------------


async def test_messages_are_answered_in_order_and_recorded() -> None:
    """Each message is decided on arrival; the record says when, what and on which socket."""
    async with talking() as (served, client):
        before = now()
        await client.send('{"id": "a", "key": "s3cret"}')
        await client.send(ask(2))
        assert await heard(client) == {"id": "a", "status": 200, "count": 1}
        assert await heard(client) == {"id": 2, "status": 200, "count": 2}
        async with connected(served) as other:
            await other.send(ask(3))
            await heard(other)
        first = served.log[0]
        assert before <= first.arrived <= now()
    assert (first.number, first.endpoint, first.method) == (0, "count", "MESSAGE")
    assert (first.path, first.query) == ("/path", "query=1")
    assert (first.received_at, first.status, first.processed) == (NOON, 200, True)
    assert (first.caller, first.signature_age, first.fault) == ("somebody", 0.5, None)
    assert (first.raw, first.body) == (b'{"id": "a", "key": "***"}', {"id": "a", "key": "***"})
    assert [entry.connection for entry in served.log] == [1, 1, 2]
    assert served.sockets.opened == 2


async def test_http_and_sockets_share_a_port_and_a_record() -> None:
    """An ordinary request to the same server is answered by HTTP."""
    async with talking() as (served, client), aiohttp.ClientSession() as session:
        await client.send(ask(1))
        await heard(client)
        served.vendor.faults.add(duplicated())
        async with session.post(served.server.url) as reply:
            assert await reply.read() == b"by HTTP"
        assert len(served.vendor.faults) == 1
        assert [entry.connection for entry in served.log] == [1, None]


async def test_a_kept_alive_connection_may_become_a_socket() -> None:
    """A client may ask for a WebSocket on a connection that was used before."""
    async with counting() as served, aiohttp.ClientSession() as session:
        async with session.get(served.server.url):
            pass
        async with session.ws_connect(served.url) as client:
            await client.send_str(ask("a"))
            assert json.loads((await client.receive()).data)["count"] == 2
        assert served.server.accepted == 1


async def test_fragments_and_pings_between_them_are_one_message() -> None:
    """A message in parts is read when it is whole; a ping may come in between."""
    async with talking() as (served, client):

        async def parts() -> AsyncIterator[str]:
            yield '{"id":'
            await (await client.ping())
            assert len(served.log) == 0
            yield '"a"}'

        await client.send(parts())
        assert (await heard(client))["id"] == "a"
        await client.send(b'{"id":"b"}')
        assert (await heard(client))["id"] == "b"
        assert [entry.endpoint for entry in served.log] == ["count", "binary"]


async def test_what_is_no_request_may_be_ignored() -> None:
    """A vendor may say nothing; the socket lives on."""
    async with talking() as (served, client):
        await client.send("nonsense")
        await client.send(ask(1))
        assert (await heard(client))["count"] == 1
        assert (served.log[0].endpoint, served.log[0].status) == (None, None)


async def test_a_client_may_close() -> None:
    """The client's close frame is answered, and what came before it is carried out."""
    async with counting() as served, connected(served, close_timeout=10) as client:
        await client.send(ask(1))
        await client.close(1000, "bye")
        assert (client.close_code, client.close_reason) == (1000, "bye")
        await turns()
        assert (served.vendor.count, len(served.sockets)) == (1, 0)


async def test_a_bad_handshake_is_refused() -> None:
    """A version or key that is none ends the connection with an HTTP error."""
    async with counting() as served, aiohttp.ClientSession() as session:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "1"}
        async with session.get(served.server.url, headers=headers) as reply:
            assert reply.status in {400, 426}
        assert served.sockets.opened == 0


async def test_an_upgrade_is_asked_for_with_get() -> None:
    """Any other method ends the connection without a socket."""
    async with counting() as served:
        client = Mute()
        client.handshake = client.handshake.replace(b"GET", b"PUT")
        await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", served.port)
        await client.lost
        assert b"101 Switching" not in client.received
        assert served.sockets.opened == 0


async def test_a_protocol_error_closes_the_socket() -> None:
    """A frame that is not masked is answered with close code 1002."""
    async with counting() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        key = base64.b64encode(b"k" * 16).decode()
        writer.write(
            f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x02{}")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer[:1] == b"\x88"
    assert int.from_bytes(answer[2:4], "big") == 1002


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's TLS context and that of a client who trusts it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return context, trust


async def test_tls_is_served_and_cut() -> None:
    """Sockets work through TLS, and so does every end of them."""
    context, trust = certified()
    async with counting(ssl_context=context) as served:
        assert served.url.startswith("wss://")
        for reset in (False, True):
            async with connected(served, ssl=trust) as client:
                await client.send(ask(1))
                await heard(client)
                served.sockets.cut(reset=reset)
                with pytest.raises(ConnectionClosedError):
                    await client.recv()


@pytest.mark.virtual_time
async def test_no_socket_is_opened_for_a_client_who_has_gone() -> None:
    """One whose TLS connection is reset when it has just asked for a socket: none is kept, or it would be pinged."""
    context, trust = certified()
    async with counting(ssl_context=context) as served, Cutter(served.port) as cutter:
        served.vendor.keepalive = Keepalive(ping_interval=20.0)
        url = f"wss://127.0.0.1:{cutter.port}/path"
        async with connect(url, ssl=trust, ping_interval=None, compression=None):
            asked = cutter.links[0].passed[Direction.TO_VENDOR]
        cutter.next(Cut(Direction.TO_VENDOR, asked, How.RESET))
        with pytest.raises((InvalidMessage, OSError)):
            await connect(url, ssl=trust, ping_interval=None, compression=None)
        assert cutter.cuts == 1
        await asyncio.sleep(60)
        assert len(served.sockets) == 0, "whether it was opened for a moment is up to the system"


# --- faults on a socket ---------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("fault", "count"), [(drop_before, 0), (drop_after, 1)])
async def test_a_drop_cuts_the_connection(fault: Any, count: int, reset: bool) -> None:
    """No close frame and no reply come; the record says what was done."""
    async with talking(fault(reset=reset)) as (served, client):
        await client.send(ask(1))
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is None
        assert served.vendor.count == count
        assert (served.log[0].status, served.log[0].processed) == (None, bool(count))
        assert len(served.sockets) == 0


@pytest.mark.parametrize(("fault", "count"), [(hang_before(), 1), (hang_after(), 2)])
async def test_a_hung_reply_never_comes_but_others_do(fault: Fault, count: int) -> None:
    """Only this reply is missing: the socket lives on."""
    async with talking(fault) as (served, client):
        await client.send(ask("a"))
        await client.send(ask("b"))
        assert await heard(client) == {"id": "b", "status": 200, "count": count}
        assert served.log[0].status is None


@pytest.mark.virtual_time
async def test_a_late_reply_is_overtaken() -> None:
    """The work is done at once, and other replies pass the late one."""
    async with talking(late(delay=30)) as (served, client):
        before = now()
        await client.send(ask("a"))
        await client.send(ask("b"))
        assert await heard(client) == {"id": "b", "status": 200, "count": 2}
        assert served.log[0].status is None
        assert now() - before < 1
        assert await heard(client) == {"id": "a", "status": 200, "count": 1}
        assert 30 <= now() - before < 31
        assert served.log[0].status == 200


@pytest.mark.virtual_time
async def test_a_vendor_may_take_its_time() -> None:
    """The vendor's own delay and the fault's add up."""
    async with talking(late(delay=30)) as (served, client):
        served.vendor.delay = 10.0
        before = now()
        await client.send(ask("a"))
        await heard(client)
        assert 40 <= now() - before < 41


@pytest.mark.virtual_time
async def test_a_late_reply_to_nobody_is_not_recorded_as_answered() -> None:
    """If the socket has gone before the reply is due, nothing was put on the wire."""
    async with talking(late(delay=30)) as (served, client):
        await client.send(ask("a"))
        await served.log.until(1)
        await client.close()
        await asyncio.sleep(60)
        assert (served.log[0].processed, served.log[0].status) == (True, None)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_truncated_reply_breaks_off_within_the_frame(reset: bool) -> None:
    """Half a frame is no message: the client sees the end of the connection."""
    async with talking(truncated(reset=reset)) as (served, client):
        await client.send(ask(1))
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is None
        assert (served.vendor.count, served.log[0].status) == (1, 200)


async def test_replies_may_have_other_types() -> None:
    """Everything but the address changes its type."""
    async with talking(wrong_types()) as (_, client):
        await client.send(ask("a"))
        assert await heard(client) == {"id": "a", "status": "200", "count": "1"}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (rate_limited(), '{"id":"a","status":429}'),
        (server_error(status=503), '{"id":"a","status":503}'),
        (server_error(processed=True), '{"id":"a","status":500}'),
        (malformed_json(), '{"results":[{"order_id":'),
        (json_array(), "[]"),
        (empty_body(), ""),
        (html_page(), "<html><head><title>502</title></head><body>proxy</body></html>"),
        (replaced(status=200, body=b'{"result":1.10}'), '{"id":"a","result":1.10}'),
        (replaced(status=200, body=b'{"result":1,"id":null}'), '{"result":1,"id":null}'),
    ],
)
async def test_replies_are_replaced(fault: Fault, text: str) -> None:
    """The vendor's errors and objects are addressed to the request, other texts are as they are."""
    async with talking(fault) as (served, client):
        await client.send(ask("a"))
        assert await client.recv() == text
        assert served.log[0].status == fault.status
        assert served.vendor.count == (fault.processing is Processing.NORMAL)
        await client.send(ask("b"))
        assert (await heard(client))["id"] == "b"


async def test_a_huge_reply_is_addressed() -> None:
    """Ten megabytes come whole, to the request that asked."""
    async with talking(huge_body()) as (_, client):
        await client.send(ask("a"))
        reply = await heard(client)
        assert (reply["id"], len(reply["padding"]) > 9_999_000) == ("a", True)


async def test_a_reply_may_come_twice() -> None:
    """The second is the same; the work was done once."""
    async with talking(duplicated()) as (served, client):
        await client.send(ask("a"))
        assert await client.recv() == await client.recv() == '{"id":"a","status":200,"count":1}'
        assert served.vendor.count == 1


@pytest.mark.parametrize("first", [False, True])
async def test_two_replies_may_contradict_each_other(first: bool) -> None:
    """The vendor's error comes after the true reply, or before it, to the same request."""
    async with talking(contradicted(status=404, first=first)) as (_, client):
        await client.send(ask("a"))
        statuses = [(await heard(client))["status"] for _ in range(2)]
        assert statuses == ([404, 200] if first else [200, 404])


async def test_a_second_reply_may_have_any_body() -> None:
    """A body of one's own is addressed to the request."""
    async with talking(contradicted(status=200, body=b'{"status":200,"count":7}')) as (_, client):
        await client.send(ask("a"))
        assert [(await heard(client))["count"] for _ in range(2)] == [1, 7]


async def test_uninvited_messages_come_before_the_reply() -> None:
    """A message that nobody asked for is sent as it is."""
    async with talking(uninvited(body=b'{"topic":"news"}')) as (_, client):
        await client.send(ask("a"))
        assert await client.recv() == '{"topic":"news"}'
        assert (await heard(client))["id"] == "a"


@pytest.mark.virtual_time
async def test_a_reordered_reply_comes_after_the_next() -> None:
    """The reply is held back until another was sent, and comes once."""
    async with talking(reordered(within=60)) as (served, client):
        await client.send(ask("a"))
        await client.send(ask("b"))
        assert [(await heard(client))["id"] for _ in range(2)] == ["b", "a"]
        assert [entry.status for entry in served.log] == [200, 200]
        await asyncio.sleep(120)
        await client.send(ask("c"))
        assert (await heard(client))["id"] == "c"


@pytest.mark.virtual_time
async def test_a_reordered_reply_does_not_wait_for_ever() -> None:
    """Without a next reply it comes when its time is over, and only once."""
    async with talking(reordered(within=5), reordered(within=7)) as (_, client):
        before = now()
        await client.send(ask("a"))
        await client.send(ask("b"))
        assert (await heard(client))["id"] == "a"
        assert 5 <= now() - before < 6
        assert (await heard(client))["id"] == "b"
        assert 7 <= now() - before < 8
        await client.send(ask("c"))
        assert (await heard(client))["id"] == "c"


@pytest.mark.parametrize(
    ("body", "message"),
    [(None, b'{"id":"a","status":200,"count":1}'), (b"\xff\xfe", b"\xff\xfe")],
)
async def test_a_reply_may_be_binary(body: bytes | None, message: bytes) -> None:
    """The reply itself, or garbage in its place, as a binary message."""
    async with talking(binary_frame(body=body)) as (_, client):
        await client.send(ask("a"))
        assert await client.recv() == message


@pytest.mark.parametrize("address", ["unknown", 7, 1.5, None])
async def test_a_reply_may_be_addressed_to_another_request(address: Any) -> None:
    """The reply's id is another one, a number, or null; the rest is as it was."""
    async with talking(unaddressed(address=address)) as (_, client):
        await client.send(ask("a"))
        assert await heard(client) == {"id": address, "status": 200, "count": 1}


@pytest.mark.parametrize(
    ("options", "count", "replies"),
    [({}, 0, 0), ({"processed": True}, 1, 0), ({"replied": True}, 1, 1)],
)
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012])
async def test_a_planned_close_comes_before_or_after_the_work(
    options: dict[str, Any], count: int, replies: int, code: int
) -> None:
    """The close frame says code and reason; the work was done or not, and answered or not."""
    async with talking(closing(code, reason="planned", **options)) as (served, client):
        await client.send(ask("a"))
        for _ in range(replies):
            assert (await heard(client))["id"] == "a"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "planned")
        assert served.vendor.count == count


async def test_nothing_is_read_after_the_close_frame() -> None:
    """A message that crosses the vendor's close frame is lost."""
    async with talking(closing()) as (served, client):
        await client.send(ask("a"))
        await client.send(ask("b"))
        with pytest.raises(ConnectionClosedOK):
            await client.recv()
        await turns()
        assert len(served.log) == 1


# --- control from the test ------------------------------------------------------------------------


async def test_all_sockets_close_in_the_planned_way() -> None:
    """Every client gets the close frame; new sockets are opened as before."""
    async with counting() as served, connected(served) as one, connected(served) as two:
        served.sockets.close(1012, "restart")
        for client in (one, two):
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "restart")
        assert len(served.sockets) == 0
        async with connected(served):
            assert len(served.sockets) == 1
            with pytest.raises(ValueError, match="1006"):
                served.sockets.close(1006)


@pytest.mark.virtual_time
async def test_a_close_frame_that_nobody_answers_ends_the_connection_all_the_same() -> None:
    """A client that does not read is not waited for."""
    async with counting() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        key = base64.b64encode(b"k" * 16).decode()
        writer.write(
            f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        before = now()
        served.sockets.close(1001)
        assert (await reader.read())[:1] == b"\x88"
        assert 4 < now() - before < 6
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("reset", [False, True])
async def test_all_sockets_are_cut(reset: bool) -> None:
    """A cut comes without a close frame."""
    async with counting() as served, connected(served) as one, connected(served) as two:
        served.sockets.cut(reset=reset)
        for client in (one, two):
            with pytest.raises(ConnectionClosedError) as closed:
                await client.recv()
            assert closed.value.rcvd is None


async def test_a_frozen_socket_reads_nothing_and_says_nothing() -> None:
    """No reply and no pong come while it is frozen; what waited is carried out afterwards."""
    async with talking() as (served, client):
        served.sockets.freeze()
        pong = await client.ping()
        await client.send(ask("a"))
        await turns()
        assert not asyncio.ensure_future(pong).done()
        assert (len(served.log), len(served.sockets)) == (0, 1)
        served.sockets.thaw()
        await pong
        assert (await heard(client))["count"] == 1


async def test_a_frozen_socket_may_read_in_silence() -> None:
    """What arrives is carried out, and its reply is lost."""
    async with talking() as (served, client):
        served.sockets.freeze(reads=True)
        pong = await client.ping()
        await client.send(ask("a"))
        await served.log.until(1)
        served.sockets.broadcast(b"lost")
        served.sockets.thaw()
        await client.send(ask("b"))
        assert await heard(client) == {"id": "b", "status": 200, "count": 2}
        assert (served.log[0].processed, served.log[0].status) == (True, None)
        assert not asyncio.ensure_future(pong).done()


async def test_a_socket_closed_while_it_is_frozen_ends_when_it_thaws() -> None:
    """A frozen socket does not even answer a close frame; thawed, it is gone."""
    async with talking() as (served, client):
        served.sockets.freeze(reads=True)
        await client.close()
        assert client.close_code == 1006
        other = await mute(served)
        served.sockets.freeze(reads=True)
        other.send(0x8, b"\x03\xe8")
        await turns()
        assert not other.lost.done()
        served.sockets.thaw()
        await other.lost
        assert len(served.sockets) == 0


async def test_closing_ends_frozen_and_hung_sockets() -> None:
    """The server's end is prompt, whatever its sockets are doing."""
    async with (
        counting(hang_after(), late(delay=60), reordered(within=60)) as served,
        connected(served) as one,
        connected(served) as two,
    ):
        for name in ("a", "b", "c"):
            await one.send(ask(name))
        await served.log.until(3)
        served.sockets.freeze()
        before = now()
        await served.aclose()
        assert now() - before < 0.5
        for client in (one, two):
            with pytest.raises(ConnectionClosedError):
                await client.recv()


async def test_broadcasts_reach_every_socket() -> None:
    """Any text or binary message, on all open sockets."""
    async with counting() as served, connected(served) as one, connected(served) as two:
        served.sockets.broadcast(b"news")
        served.sockets.broadcast(b"\x00", binary=True)
        for client in (one, two):
            assert [await client.recv(), await client.recv()] == ["news", b"\x00"]


async def test_upgrades_are_refused_with_a_status() -> None:
    """So often as was said, then sockets are opened again."""
    async with counting() as served:
        served.sockets.refuse(503, times=2)
        for _ in range(2):
            with pytest.raises(InvalidStatus) as refused:
                await connected(served)
            assert refused.value.response.status_code == 503
        async with connected(served):
            assert (served.sockets.opened, served.sockets.refused) == (1, 2)


async def test_upgrades_are_dropped_until_they_are_accepted() -> None:
    """The connection ends instead of the handshake, until the sandbox accepts again."""
    async with counting() as served:
        served.sockets.refuse(Reply.DROP)
        for _ in range(2):
            with pytest.raises((InvalidMessage, InvalidHandshake, ConnectionError, EOFError)):
                await connected(served)
        served.sockets.accept()
        async with connected(served):
            assert len(served.sockets) == 1
        with pytest.raises(ValueError, match="refused"):
            served.sockets.refuse(Reply.LATE)


@pytest.mark.virtual_time
async def test_upgrades_may_hang() -> None:
    """The handshake is never answered; closing the server ends it."""
    async with counting() as served:
        served.sockets.refuse(Reply.HANG)
        with pytest.raises(TimeoutError):
            await connected(served, open_timeout=5)
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        await turns()
        await served.aclose()
        writer.close()
        await writer.wait_closed()


# --- keep-alive -----------------------------------------------------------------------------------


def keeping(**changes: Any) -> Keepalive:
    """Return the documented kind of keep-alive."""
    usual: dict[str, Any] = {"idle_timeout": 60.0, "ping_interval": 20.0, "pong_timeout": 60.0}
    return Keepalive(**{**usual, **changes})


async def close_code(client: ClientConnection) -> int | None:
    """Wait for the end; return the code of the close frame, or None."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    return None if closed.value.rcvd is None else closed.value.rcvd.code


@pytest.mark.virtual_time
async def test_pongs_keep_a_socket_open() -> None:
    """A client that answers pings stays, however little it says."""
    async with talking(keepalive=keeping()) as (served, client):
        await asyncio.sleep(600)
        await client.send(ask("a"))
        assert (await heard(client))["id"] == "a"
        assert len(served.sockets) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_an_idle_socket_is_closed(code: int | None) -> None:
    """Without pings and pongs a silent socket is closed, with a close frame or without."""
    keepalive = keeping(ping_interval=None, close_code=code)
    async with talking(keepalive=keepalive) as (_, client):
        before = now()
        await asyncio.sleep(30)
        await client.send(ask("a"))
        await heard(client)
        assert await close_code(client) == code
        assert 90 <= now() - before < 91


class Mute(asyncio.Protocol):
    """A client that never answers a ping, but may send frames of its own."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self.received = b""
        self.opened = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self.handshake = (
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.handshake)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\r\n\r\n" in self.received:
            self.opened.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a masked frame, the mask being zero."""
        assert self.transport is not None
        self.transport.write(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)


async def mute(served: Served) -> Mute:
    """Connect a mute client."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Mute, "127.0.0.1", served.port)
    await client.opened.wait()
    return client


@pytest.mark.virtual_time
@pytest.mark.parametrize("opcode", [0x9, 0xA])
async def test_unsolicited_pongs_and_pings_do_not_keep_a_socket_open(opcode: int) -> None:
    """A pong that answers nothing is allowed, and proves nothing; nor does a ping."""
    async with counting() as served:
        served.vendor.keepalive = keeping(ping_interval=None, close_code=None)
        before = now()
        client = await mute(served)
        for _ in range(5):
            await asyncio.sleep(10)
            client.send(opcode, b"hello")
        await client.lost
        assert 60 <= now() - before < 62


@pytest.mark.virtual_time
async def test_pings_may_keep_a_socket_open() -> None:
    """By another rule a client's ping counts as something heard."""
    async with counting() as served:
        served.vendor.keepalive = keeping(ping_interval=None, pings_count=True)
        client = await mute(served)
        for _ in range(20):
            await asyncio.sleep(30)
            client.send(0x9, b"hello")
        assert len(served.sockets) == 1
        assert b"\x8a\x05hello" in client.received


@pytest.mark.virtual_time
async def test_a_missing_pong_closes_a_busy_socket() -> None:
    """Messages do not make up for the pong that is owed."""
    async with counting() as served:
        served.vendor.keepalive = keeping(close_code=None)
        before = now()
        client = await mute(served)
        for _ in range(7):
            await asyncio.sleep(10)
            client.send(0x1, b'{"id":1}')
        assert b"\x89\x06ping 1" in client.received
        await client.lost
        assert 80 <= now() - before < 82
        assert len(served.log) == 7


@pytest.mark.virtual_time
async def test_a_pong_answers_the_pings_before_it() -> None:
    """A pong with a ping's payload is worth all pings up to that one."""
    async with counting() as served:
        served.vendor.keepalive = keeping()
        client = await mute(served)
        for number in range(2, 40, 2):
            await asyncio.sleep(40.5)
            client.send(0xA, b"ping %d" % number)
        await turns()
        assert len(served.sockets) == 1


async def test_a_vendor_may_not_answer_pings() -> None:
    """Against RFC 6455 pings stay unanswered; everything else goes on."""
    async with talking(keepalive=Keepalive(answers_pings=False)) as (_, client):
        pong = await client.ping()
        await client.send(ask("a"))
        await heard(client)
        await turns()
        assert not asyncio.ensure_future(pong).done()


@pytest.mark.virtual_time
async def test_a_frozen_socket_is_not_given_up() -> None:
    """Frozen, the vendor's side neither pings nor closes; thawed, it does."""
    async with talking(keepalive=keeping(close_code=1000)) as (served, client):
        served.sockets.freeze()
        await asyncio.sleep(600)
        assert len(served.sockets) == 1
        served.sockets.thaw()
        assert await close_code(client) == 1000


# --- travel ---------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_jitter_delays_but_does_not_reorder() -> None:
    """Each way takes up to `jitter` seconds; nothing overtakes on one socket."""
    async with talking(jitter=10.0, seed=3) as (served, client):
        sent = now()
        for number in range(50):
            await client.send(ask(number))
        assert [(await heard(client))["id"] for _ in range(50)] == list(range(50))
        assert 10 < now() - sent < 21
        arrivals = [entry.arrived for entry in served.log]
        assert arrivals == sorted(arrivals)
        assert arrivals[0] > sent


@pytest.mark.virtual_time
async def test_a_message_on_its_way_arrives_though_its_socket_is_gone() -> None:
    """Leaving does not un-send: the vendor carries out what was sent completely."""
    async with talking(jitter=10.0) as (served, client):
        await client.send(ask("a"))
        await client.close()
        assert served.vendor.count == 0
        await asyncio.sleep(30)
        assert (served.vendor.count, served.log[0].status) == (1, None)


@pytest.mark.virtual_time
async def test_what_travels_to_a_socket_that_ends_is_lost() -> None:
    """A message that is not yet there when the connection is cut never comes."""
    async with talking(jitter=10.0) as (served, client):
        served.sockets.broadcast(b"lost")
        served.sockets.cut()
        served.sockets.cut(reset=True)
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        served.sockets.cut(reset=True)
        await asyncio.sleep(30)


@pytest.mark.virtual_time
async def test_nothing_is_carried_out_after_the_end() -> None:
    """Messages that still travel when the server closes never arrive."""
    async with talking(jitter=10.0) as (served, client):
        await client.send(ask("a"))
        await turns()
        await served.aclose()
        await asyncio.sleep(30)
        assert (served.vendor.count, len(served.log)) == (0, 0)


async def test_a_server_with_sockets_starts_again_on_the_same_port() -> None:
    """Closed and started again, it opens sockets and goes on counting them."""
    served = Served()
    for round_ in range(1, 3):
        await served.server.start()
        async with connected(served) as client:
            await client.send(ask("a"))
            await heard(client)
        await served.aclose()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port)).close()
        assert served.sockets.opened == round_
