"""The HTTP transport: exactly one request per attempt, and the truth about whether it left."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
import traceback
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme

from support.canary import CANARY
from support.cutter import Cut, Cutter, Direction, How
from support.raw_server import RawServer, Reply, http
from tronsave_async.credentials import Secret
from tronsave_async.errors import (
    BadReply,
    ConnectFailed,
    ConnectionLost,
    GatewayClosed,
    GatewayError,
    RequestFailed,
    RequestTimeout,
    UsageError,
)
from tronsave_async.exchange import Revoked
from tronsave_async.http import KNOWN_PATHS, HttpReply, HttpTransport
from tronsave_async.outcomes import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

SECRET = CANARY


class Departures:
    """Counts how often the transport said that a request is about to leave."""

    def __init__(self, refuse: GatewayError | None = None) -> None:
        self.count = 0
        self._refuse = refuse

    def __call__(self, seen: bool) -> None:
        if self._refuse is not None:
            raise self._refuse
        self.count += 1


def transport(url: str, **options: object) -> HttpTransport:
    """Return a transport with short timeouts."""
    defaults: dict[str, object] = {
        "headers": {"apikey": SECRET},
        "blot": (SECRET,),
        "timeout": 5.0,
        "connect_timeout": 2.0,
    }
    return HttpTransport("venue", url, **(defaults | options))  # type: ignore[arg-type]


async def send(
    client: HttpTransport,
    departures: Callable[[bool], None] | None = None,
    *,
    method: str = "POST",
    body: bytes | None = b'{"a":1}',
) -> HttpReply:
    """Send one request."""
    departing = departures if departures is not None else Departures()
    return await client.send("call", method, "/path", departing=departing, body=body)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def kept_alive() -> AsyncIterator[tuple[RawServer, HttpTransport]]:
    """Yield a server that drops the second request of a kept-alive connection unanswered."""
    script = [Reply(http()), Reply(then="close"), Reply(http(body=b"later"))]
    async with RawServer(script) as server:
        client = transport(server.url)
        await send(client)
        yield server, client
        await client.aclose()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_one_request_per_attempt(
    kept_alive: tuple[RawServer, HttpTransport], method: str
) -> None:
    """A kept-alive connection that drops a request gets that request once, for every verb."""
    server, client = kept_alive
    departures = Departures()
    with pytest.raises(ConnectionLost) as caught:
        await send(client, departures, method=method, body=None)
    assert caught.value.wire is Wire.MAYBE_SENT
    assert len(server.requests) == 2
    assert departures.count == 1
    assert server.connections == 1


async def test_aiohttp_alone_would_repeat(kept_alive: tuple[RawServer, HttpTransport]) -> None:
    """The server of the test above does provoke aiohttp's own repeat of a GET."""
    server, _ = kept_alive
    async with aiohttp.ClientSession() as session:
        await (await session.get(server.url)).read()
        before = len(server.requests)
        server._script.insert(0, Reply(then="close"))
        await (await session.get(server.url)).read()
    assert len(server.requests) == before + 2


async def test_one_request_per_attempt_on_a_foreign_session() -> None:
    """A session of the caller's own repeats nothing either, and stays open."""
    script = [Reply(http()), Reply(then="close"), Reply(http(body=b"later"))]
    async with RawServer(script) as server, aiohttp.ClientSession() as session:
        client = transport(server.url, session=session)
        await send(client)
        with pytest.raises(ConnectionLost):
            await send(client, method="GET", body=None)
        assert len(server.requests) == 2
        await client.aclose()
        assert not session.closed


async def test_connection_refused_is_never_sent() -> None:
    """A refused connection proves that nothing left: the request never departs."""
    client = transport(f"http://127.0.0.1:{free_port()}")
    departures = Departures()
    with pytest.raises(ConnectFailed) as caught:
        await send(client, departures)
    assert caught.value.wire is Wire.NOT_SENT
    assert departures.count == 0
    await client.aclose()


async def test_connection_refused_on_a_foreign_session_is_never_sent() -> None:
    """The errors of connecting prove "never sent" also where the departure cannot be seen."""
    async with aiohttp.ClientSession() as session:
        client = transport(f"http://127.0.0.1:{free_port()}", session=session)
        with pytest.raises(ConnectFailed) as caught:
            await send(client)
        assert caught.value.wire is Wire.NOT_SENT


async def test_host_that_never_accepts_is_never_sent() -> None:
    """A connection that does not stand in time proves that nothing left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        client = transport(f"http://127.0.0.1:{address[1]}", connect_timeout=0.05)
        with pytest.raises(ConnectFailed) as caught:
            await send(client)
        assert caught.value.wire is Wire.NOT_SENT
        await client.aclose()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(then="close"), id="no reply"),
        pytest.param(Reply(then="abort"), id="reset"),
        pytest.param(Reply(b"HTTP/1.1 200 O", then="close"), id="cut in the status line"),
        pytest.param(Reply(b"HTTP/1.1 200 OK\r\nConte", then="close"), id="cut in the head"),
        pytest.param(Reply(http(body=b'{"a', length=50), then="close"), id="cut in the body"),
        pytest.param(Reply(b"\x16\x03\x01 not http\r\n\r\n", then="close"), id="not HTTP"),
        pytest.param(
            Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", then="close"),
            id="bad chunk",
        ),
    ],
)
async def test_broken_reply_may_have_arrived(reply: Reply) -> None:
    """Whatever breaks after the request departed, the request may have arrived."""
    async with RawServer([reply]) as server:
        client = transport(server.url)
        with pytest.raises(ConnectionLost) as caught:
            await send(client)
        assert caught.value.wire is Wire.MAYBE_SENT
        assert len(server.requests) == 1
        await client.aclose()


@pytest.mark.virtual_time
async def test_hanging_reply_times_out_as_maybe_sent() -> None:
    """A reply that does not come in time leaves the request in doubt."""
    async with RawServer([Reply(then="hang")]) as server:
        client = transport(server.url, timeout=30.0)
        with pytest.raises(RequestTimeout) as caught:
            await send(client)
        assert caught.value.wire is Wire.MAYBE_SENT
        assert isinstance(caught.value, TimeoutError)
        await client.aclose()


@pytest.mark.virtual_time
async def test_a_deadline_cancels_nobody_but_its_request() -> None:
    """The cancellation by which it ends a wait is taken back; an earlier deadline around it is another one."""
    async with RawServer([Reply(then="hang")]) as server:
        client = transport(server.url, timeout=3.0)
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(RequestTimeout):
            await send(client)
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(2):
                await send(client)
        assert not isinstance(caught.value, RequestTimeout)
        assert task.cancelling() == 0
        await client.aclose()


@pytest.mark.virtual_time
@pytest.mark.parametrize("deadline_first", [False, True])
async def test_a_caller_who_goes_at_the_deadline_is_canceled(deadline_first: bool) -> None:
    """A cancellation in the same tick as the deadline, before it or after it, is not swallowed."""
    async with RawServer([Reply(then="hang")]) as server:
        client = transport(server.url, timeout=3.0)
        task = asyncio.create_task(send(client))
        await server.received(1)
        [bound] = client._deadlines._queues[3.0]
        ends: list[Callable[[], object]] = [bound.expire, task.cancel]
        for end in ends if deadline_first else reversed(ends):
            end()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1
        assert len(client._deadlines) == 0
        await client.aclose()


async def test_revoked_before_departure_sends_nothing() -> None:
    """A departure that is refused writes no byte, and the connection serves the next request."""
    async with RawServer() as server:
        client = transport(server.url)
        with pytest.raises(Revoked):
            await send(client, Departures(refuse=Revoked()))
        assert server.requests == []
        await send(client)
        assert (len(server.requests), server.connections) == (1, 1)
        await client.aclose()


async def test_connections_are_kept_alive() -> None:
    """Requests one after the other share one connection."""
    async with RawServer() as server:
        client = transport(server.url)
        for _ in range(5):
            await send(client)
        assert (server.connections, len(server.requests)) == (1, 5)
        await client.aclose()


async def test_a_reply_that_nobody_asked_for_answers_nothing() -> None:
    """What came on an idle connection is not read as the answer to the next request: that goes over another one."""
    async with RawServer([Reply(http(), then="again"), Reply(http(body=b"new"))]) as server:
        client = transport(server.url)
        assert (await send(client)).body == b"{}"
        await asyncio.sleep(0.01)
        assert (await send(client)).body == b"new"
        assert (server.connections, len(server.requests)) == (2, 2)
        await client.aclose()


async def test_canceled_caller_closes_its_connection() -> None:
    """Canceling a request closes its connection, and the next request works."""
    async with RawServer([Reply(then="hang"), Reply(http())]) as server:
        client = transport(server.url)
        task = asyncio.create_task(send(client))
        await server.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await send(client)).status == 200
        await client.aclose()


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_is_bounded(chunked: bool) -> None:
    """A reply of more bytes than allowed is refused while it is read, not after."""
    body = b"x" * 5000
    data = http(body=body)
    if chunked:
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        data += b"1388\r\n" + body + b"\r\n0\r\n\r\n"
    async with RawServer([Reply(data)]) as server:
        client = transport(server.url, max_body=4096)
        with pytest.raises(BadReply) as caught:
            await send(client)
        assert (caught.value.status, caught.value.wire) == (200, Wire.ANSWERED)
        await client.aclose()


async def test_chunked_body_within_the_bound_is_read() -> None:
    """A reply without a length is read to its end."""
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with RawServer([Reply(data)]) as server:
        client = transport(server.url)
        assert (await send(client)).body == b"{}"
        await client.aclose()


async def test_redirects_are_not_followed() -> None:
    """A redirect is a reply: the credential goes nowhere else."""
    async with RawServer() as elsewhere:
        redirect = http(302, b"", f"Location: {elsewhere.url}/path")
        async with RawServer([Reply(redirect)]) as server:
            client = transport(server.url)
            assert (await send(client)).status == 302
            assert elsewhere.requests == []
            await client.aclose()


async def test_request_bytes() -> None:
    """Method, path with the base's prefix, query, headers and body leave as given."""
    async with RawServer() as server:
        client = transport(server.url + "/prefix/")
        await client.send(
            "call", "GET", "/path", departing=Departures(), query={"from": "1", "q": "a b&c"}
        )
        request = server.requests[0].decode()
        assert request.startswith("GET /prefix/path?from=1&q=a+b%26c HTTP/1.1\r\n")
        assert f"apikey: {SECRET}\r\n" in request
        assert "Accept-Encoding: identity\r\n" in request
        await send(client, body=b'{"b":2}')
        assert server.requests[1].endswith(b'\r\n\r\n{"b":2}')
        await client.aclose()


async def test_secret_is_blotted_out_of_replies() -> None:
    """A vendor that echoes the key cannot make us show it."""
    async with RawServer([Reply(http(401, f'{{"message":"no {SECRET}"}}'.encode()))]) as server:
        client = transport(server.url)
        assert (await send(client)).body == b'{"message":"no ***"}'
        await client.aclose()


@pytest.mark.parametrize("then", ["close", "abort"])
async def test_failures_show_no_secret(then: str) -> None:
    """No traceback with all its causes, locals' repr included, shows the key."""
    async with RawServer([Reply(b"garbage\r\n\r\n", then=then)]) as server:
        client = transport(server.url)
        with pytest.raises(ConnectionLost) as caught:
            await send(client)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        text = "".join(shown.format())
        assert SECRET not in text
        assert "ConnectionLost" in text
        await client.aclose()


async def test_proxy_carries_requests_and_its_failure_is_never_sent() -> None:
    """An HTTP proxy is used; one that cannot be reached proves that nothing left."""
    async with RawServer() as proxy:
        client = transport("http://vendor.invalid", proxy=f"http://u:p@127.0.0.1:{proxy.port}")
        for request in range(2):
            assert (await send(client)).status == 200
            head, _, body = proxy.requests[request].partition(b"\r\n\r\n")
            line, *headers = head.split(b"\r\n")
            assert line == b"POST http://vendor.invalid/path HTTP/1.1"
            assert b"Host: vendor.invalid" in headers
            assert b"Proxy-Authorization: Basic dTpw" in headers
            assert body == b'{"a":1}'
        assert proxy.connections == 1
        await client.aclose()
    client = transport("http://vendor.invalid", proxy=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConnectFailed):
        await send(client)
    await client.aclose()


async def test_proxy_of_a_tls_connection_learns_nothing_but_the_host(certificate: Path) -> None:
    """The proxy's password goes to the proxy, and what is said through the tunnel does not."""
    asked: list[bytes] = []

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(4096):
            assert SECRET.encode() not in chunk
            writer.write(chunk)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        there = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pour(reader, there[1]), pour(there[0], writer))

    server_side = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    trusting = tls.create_default_context(cafile=str(certificate.with_name("ca.pem")))
    async with (
        RawServer(ssl=server_side) as server,
        await asyncio.start_server(tunnel, "127.0.0.1", 0) as proxy,
    ):
        at = f"http://u:p@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        client = transport(server.url, proxy=at, ssl=trusting)
        for _ in range(2):
            assert (await send(client)).status == 200
        await client.aclose()
        [head] = asked
        assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
        assert b"Proxy-Authorization: Basic dTpw\r\n" in head
        assert len(server.requests) == 2
        for request in server.requests:
            assert request.startswith(b"POST /path HTTP/1.1\r\n")
            assert b"proxy-" not in request.lower()


async def test_closed_transport_and_closed_foreign_session() -> None:
    """A closed session of the caller's own is told as such; closing twice is fine."""
    session = aiohttp.ClientSession()
    client = transport("http://127.0.0.1:1", session=session)
    await session.close()
    departures = Departures()
    with pytest.raises(GatewayClosed):
        await send(client, departures)
    assert departures.count == 0
    await client.aclose()
    await client.aclose()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ((), None),
        (("Retry-After: 7",), 7.0),
        (("Retry-After: soon",), None),
        (
            (
                "Retry-After: Sat, 21 Nov 2026 10:00:30 GMT",
                "Date: Sat, 21 Nov 2026 10:00:00 GMT",
            ),
            30.0,
        ),
    ],
)
async def test_retry_after(header: tuple[str, ...], seconds: float | None) -> None:
    """Retry-After is read in seconds, and as a date against the vendor's own clock."""
    async with RawServer([Reply(http(429, b"{}", *header))]) as server:
        client = transport(server.url)
        assert (await send(client)).retry_after() == seconds
        await client.aclose()


async def test_retry_after_date_without_the_vendors_clock() -> None:
    """A date without a Date header is read against the local clock."""
    reply = http(429, b"{}", "Retry-After: Sat, 21 Nov 2020 10:00:30 GMT")
    async with RawServer([Reply(reply)]) as server:
        client = transport(server.url)
        assert (await send(client)).retry_after() == 0.0
        await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vendor.example",
        "ftp://vendor.example",
        "http://",
        "http://user:pw@vendor.example",
        "http://vendor.example/?key=1",
        "http://vendor.example/#x",
        "http://vendor.example:99999",
        None,
    ],
)
def test_unusable_base_url(url: str) -> None:
    """A base URL that is not an HTTP URL, or that carries more than a prefix, is a usage error."""
    with pytest.raises(UsageError):
        transport(url)


@pytest.mark.parametrize("proxy", ["127.0.0.1:8080", "socks5://127.0.0.1", "http://[", 5])
def test_unusable_proxy(proxy: str) -> None:
    """A proxy that is not an HTTP URL is a usage error."""
    with pytest.raises(UsageError):
        transport("http://vendor.example", proxy=proxy)


async def test_tls_context_and_foreign_session_exclude_each_other() -> None:
    """A foreign session brings its own TLS context."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(UsageError):
            transport("https://vendor.example", session=session, ssl=tls.create_default_context())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate for 127.0.0.1, with its key."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    authority.cert_pem.write_to_path(str(path.with_name("ca.pem")))
    return path


async def test_tls_is_verified_and_a_custom_context_is_used(certificate: Path) -> None:
    """An unknown certificate proves that nothing left; a context that trusts it works."""
    # The server shares the loop and reports the handshake that the client breaks off.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    server_side = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    async with RawServer(ssl=server_side) as server:
        client = transport(server.url)
        departures = Departures()
        with pytest.raises(ConnectFailed) as caught:
            await send(client, departures)
        assert (caught.value.wire, departures.count) == (Wire.NOT_SENT, 0)
        await client.aclose()
        trusting = tls.create_default_context(cafile=str(certificate.with_name("ca.pem")))
        client = transport(server.url, ssl=trusting)
        assert (await send(client)).status == 200
        await client.aclose()


async def test_a_handshake_that_breaks_off_says_how() -> None:
    """A server that hangs up in the middle of it gives no reason: the error names what the system saw."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        client = transport(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(ConnectFailed, match="ClientConnectorError: ConnectionResetError"):
            await send(client)
        await client.aclose()


# -- what leaves with the request --------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["the transport's session", "a session of ours"])
async def test_headers_that_must_not_be_older(own: bool) -> None:
    """What ``departing`` returns leaves with this request alone, in place of what the transport sends by itself."""
    seen: list[bool] = []

    def departing(at_the_moment: bool) -> Mapping[str, str] | None:
        seen.append(at_the_moment)
        return {"X-Signature": f"s{len(seen)}", "APIKEY": "other"} if len(seen) < 3 else None

    async with RawServer() as server, aiohttp.ClientSession() as session:
        client = transport(server.url, session=session if own else None)
        for _ in range(3):
            await client.send("call", "POST", "/path", departing=departing, body=b"{}")
        await client.aclose()
        heads = [request.decode().lower().split("\r\n") for request in server.requests]
        signatures = [[line for line in head if line.startswith("x-signature")] for head in heads]
        assert signatures == [["x-signature: s1"], ["x-signature: s2"], []]
        keys = [[line for line in head if line.startswith("apikey")] for head in heads]
        assert keys == [["apikey: other"], ["apikey: other"], [f"apikey: {SECRET}"]]
        assert all("accept-encoding: identity" in head for head in heads)
    assert seen == [not own] * 3


@pytest.mark.parametrize("own", [False, True], ids=["the transport's session", "a session of ours"])
async def test_departing_that_raises_ends_the_attempt_before_a_byte_leaves(own: bool) -> None:
    """Whatever making the last headers raises, nothing was sent, and the next request is sent in full."""

    def departing(_: bool) -> Mapping[str, str] | None:
        raise UsageError("no signature")

    async with RawServer() as server, aiohttp.ClientSession() as session:
        client = transport(server.url, session=session if own else None)
        with pytest.raises(UsageError, match="no signature"):
            await client.send("call", "GET", "/path", departing=departing)
        assert server.requests == []
        assert (await send(client)).status == 200
        await client.aclose()


@pytest.mark.parametrize("prefix", ["", "/", "/v1", "/v1/", "/a%20b"])
@pytest.mark.parametrize("path", ["/orders/a%2Fb%3Fc", "/orders/%25", "/orders/%C3%A9", "/o+p"])
async def test_percent_encoded_path_leaves_as_it_is(prefix: str, path: str) -> None:
    """The path on the wire is ``path_of``, byte for byte: what was encoded is not decoded, nor encoded again."""
    async with RawServer() as server:
        client = transport(server.url + prefix)
        expected = prefix.rstrip("/") + path
        assert client.path_of(path) == expected
        await client.send("call", "GET", path, departing=Departures(), query={"q": "%2F&"})
        await client.send("call", "GET", path, departing=Departures())
        lines = [request.split(b"\r\n")[0].decode() for request in server.requests]
        assert lines == [f"GET {expected}?q=%252F%26 HTTP/1.1", f"GET {expected} HTTP/1.1"]
        await client.aclose()


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/a\x00"])
async def test_path_that_would_be_read_as_more_than_a_path(path: str) -> None:
    """What is not percent-encoded is not sent."""
    async with RawServer() as server:
        client = transport(server.url)
        departures = Departures()
        with pytest.raises(UsageError, match="percent-encoded"):
            await client.send("call", "GET", path, departing=departures)
        assert (departures.count, server.connections) == (0, 0)
        await client.aclose()


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "a\x00"])
async def test_header_that_would_be_read_as_several(value: str) -> None:
    """It is not sent, and the next request is."""
    async with RawServer() as server:
        client = transport(server.url)
        with pytest.raises(UsageError, match="visible"):
            await client.send("call", "GET", "/path", departing=lambda seen: {"X-Made": value})
        assert server.requests == []
        assert (await send(client)).status == 200
        await client.aclose()


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", None, []),
        ("POST", None, ["content-length: 0"]),
        ("DELETE", None, ["content-length: 0"]),
        ("POST", b"{}", ["content-length: 2"]),
    ],
)
async def test_length_of_a_body(method: str, body: bytes | None, length: list[str]) -> None:
    """A request says once how long its body is; only one that never has a body says nothing."""
    async with RawServer() as server:
        client = transport(server.url)
        await send(client, method=method, body=body)
        head = server.requests[0].decode().lower().split("\r\n")
        assert [line for line in head if "length" in line or "encoding:" in line] == [
            "accept-encoding: identity",
            *length,
        ]
        await client.aclose()


@pytest.mark.parametrize("interim", [b"100 Continue", b"103 Early Hints\r\nLink: </a>"])
async def test_what_comes_before_the_reply_is_passed_over(interim: bytes) -> None:
    """Interim replies are no reply."""
    said = (b"HTTP/1.1 " + interim + b"\r\n\r\n") * 2
    async with RawServer([Reply(said + http(409, b"{}"))]) as server:
        client = transport(server.url)
        assert (await send(client)).status == 409
        await client.aclose()


async def test_many_paths_are_not_all_kept() -> None:
    """Paths that name orders do not fill the memory."""
    async with RawServer() as server:
        client = transport(server.url)
        for number in range(KNOWN_PATHS + 10):
            await client.send("call", "GET", f"/orders/{number}", departing=Departures())
        assert len(client._urls) == KNOWN_PATHS
        assert server.requests[-1].startswith(b"GET /orders/73 HTTP/1.1\r\n")
        await client.aclose()


# -- queries that hold secrets -----------------------------------------------------------------------------------

FAILURES = {
    "closed": Reply(then="close"),
    "reset": Reply(then="abort"),
    "garbage": Reply(b"garbage\r\n\r\n", then="close"),
    "cut": Reply(http(body=b"{", length=9), then="close"),
    "hangs": Reply(then="hang"),
}


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that are shown with one."""
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    if cause is not None:
        yield cause
        yield from causes(cause)


@pytest.mark.virtual_time
@pytest.mark.parametrize("discreet", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
async def test_discreet_failures_show_no_query(failure: str, discreet: bool) -> None:
    """A discreet transport's errors come without aiohttp's, whose frames hold the URL; they say as much themselves."""
    query = {"orderId": Secret.masked(f"order-{SECRET}")}
    async with RawServer([FAILURES[failure]]) as server:
        client = transport(server.url, discreet=discreet)
        with pytest.raises(RequestFailed) as caught:
            await client.send("call", "GET", "/path", departing=Departures(), query=query)
        assert f"orderId=order-{SECRET}".encode() in server.requests[0]
        assert caught.value.wire is Wire.MAYBE_SENT
        assert caught.value.reason
        assert bool(list(causes(caught.value))) is not discreet
        if discreet:
            shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            assert SECRET not in "".join(shown.format())
        await client.aclose()


@pytest.mark.parametrize("own", [False, True], ids=["the transport's session", "a session of ours"])
async def test_discreet_failure_to_connect(own: bool) -> None:
    """Where nobody listens the error says why, and neither it nor its frames say what was asked."""
    query = {"orderId": Secret.masked(f"order-{SECRET}")}
    async with aiohttp.ClientSession() as session:
        client = transport(
            f"http://127.0.0.1:{free_port()}", discreet=True, session=session if own else None
        )
        with pytest.raises(ConnectFailed) as caught:
            await client.send("call", "GET", "/path", departing=Departures(), query=query)
        assert caught.value.wire is Wire.NOT_SENT
        assert "connect call failed" in caught.value.reason.lower()
        assert list(causes(caught.value)) == []
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert SECRET not in "".join(shown.format())
        await client.aclose()


# -- what is left of a failed attempt ----------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["time runs out", "the caller goes"])
async def test_a_failed_attempt_leaves_no_connection(certificate: Path, end: str) -> None:
    """A TLS connection on which the peer fell silent is not closed in good order, which would outlive the transport."""
    server_side = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    trusting = tls.create_default_context(cafile=str(certificate.with_name("ca.pem")))
    hangs = RawServer([Reply(http()), Reply(then="hang")], ssl=server_side)
    async with hangs as server, Cutter(server.port) as cutter:
        client = transport(f"https://127.0.0.1:{cutter.port}", ssl=trusting, timeout=3.0)
        assert (await send(client)).status == 200
        [link] = cutter.links
        sending = asyncio.create_task(send(client))
        await server.received(2)
        link.cut(Cut(Direction.TO_CLIENT, 0, How.STALL))
        if end == "the caller goes":
            sending.cancel()
        with pytest.raises((RequestTimeout, asyncio.CancelledError)):
            await sending
        await client.aclose()
        await asyncio.sleep(0.01)
        assert link.client_left


async def test_a_write_that_fails_shows_no_request() -> None:
    """The event loop's error for it comes with a frame that holds the request's bytes, credentials included."""
    async with RawServer() as server, Cutter(server.port) as cutter:
        client = transport(f"http://127.0.0.1:{cutter.port}")
        assert (await send(client)).status == 200
        cutter.links[0].cut(Cut(Direction.TO_CLIENT, 0, How.RESET))
        with pytest.raises(ConnectionLost) as caught:
            await send(client)
        assert caught.value.__cause__ is not None
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert SECRET not in "".join(shown.format())
        await client.aclose()


# -- closing, and peers that speak first --------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("data", [b"", http(length=5)])
async def test_closing_ends_a_request_under_way(own: bool, data: bytes) -> None:
    """Also one whose reply has begun: aiohttp leaves whoever waits for the rest of a body waiting."""
    async with RawServer([Reply(data, "hang")]) as server, aiohttp.ClientSession() as session:
        client = transport(server.url, session=None if own else session)
        sending = asyncio.create_task(send(client))
        await server.received(1)
        await asyncio.sleep(0.01)
        await client.aclose()
        await asyncio.wait([sending], timeout=1.0)
        assert sending.done()
        with pytest.raises(ConnectionLost, match="gateway closed"):
            await sending


@pytest.mark.parametrize("turns", range(24))
async def test_closing_at_any_step_of_a_request(turns: int) -> None:
    """The request ends with its reply or with an error that says whether it left."""
    async with RawServer() as server:
        client = transport(server.url)
        departures = Departures()
        sending = asyncio.create_task(send(client, departures))
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.aclose()
        await asyncio.wait([sending], timeout=1.0)
        assert sending.done()
        if (error := sending.exception()) is not None:
            kind = ConnectionLost if departures.count else (ConnectFailed, GatewayClosed)
            assert isinstance(error, kind), error


async def test_what_fails_after_departing_is_never_called_unsent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever kind of error it is: the departure was seen."""

    async def fails(_: object) -> None:
        raise aiohttp.ConnectionTimeoutError

    monkeypatch.setattr("aiohttp.client_proto.ResponseHandler.read", fails)
    async with RawServer([Reply(then="hang")]) as server:
        client = transport(server.url)
        with pytest.raises(ConnectionLost) as caught:
            await send(client)
        assert caught.value.wire is Wire.MAYBE_SENT
        await client.aclose()


async def test_a_closing_that_meets_a_timeout() -> None:
    """A request whose time is over in the same tick ends as well."""
    async with RawServer([Reply(then="hang")]) as server:
        client = transport(server.url, timeout=0.02)
        sending = asyncio.create_task(send(client))
        await server.received(1)
        for _ in range(1_000_000):  # until that tick
            if not len(client._deadlines):
                break
            await asyncio.sleep(0)
        assert not sending.done()
        await client.aclose()
        with pytest.raises(RequestFailed):
            await sending


async def test_a_peer_that_speaks_first_is_connected_to_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it says is no reply, nothing is sent, and it is for the retry policy when to try again."""
    connections: list[asyncio.BaseTransport] = []

    class Speaker(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            connections.append(transport)
            transport.write(http(503))

    connect = aiohttp.TCPConnector.connect

    async def slowly(*args: object) -> object:
        connection = await connect(*args)  # type: ignore[arg-type]
        await asyncio.sleep(0.01)  # uvloop reads before it tells that the connection stands
        return connection

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", slowly)
    server = await asyncio.get_running_loop().create_server(Speaker, "127.0.0.1", 0)
    async with server:
        client = transport(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        departures = Departures()
        with pytest.raises(ConnectFailed):
            await send(client, departures)
        assert (len(connections), departures.count) == (1, 0)
        await client.aclose()
        await asyncio.sleep(0.01)
