"""
TLS through the public gateways, over real sockets: certificates are verified, a failed handshake proves that nothing
left, and no redirect and no environment leads a credential elsewhere.
"""

from __future__ import annotations

import asyncio
import re
import ssl as tls
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import aiohttp
import pytest
import trustme

from support import tally
from support.canary import CANARY, WatchedGateway, WatchedRipio, WatchedSms4Sats, sightings
from support.raw_server import RawServer, Reply, http
from support.ripio_wire import CANCELED, ORDER_ID, RESULT, encoded
from support.sms4sats import NOWHERE
from support.socket_server import Peer, SocketServer
from support.tronsave_wire import A
from tronsave_async import (
    BadReply,
    Canceled,
    ConnectFailed,
    ConnectionLost,
    Evidence,
    GatewayError,
    NotSent,
    RateLimit,
    RateLimiter,
    RetryPolicy,
    Unknown,
    UsageError,
    Wire,
    WrongEndpoint,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from brokers.ripio import RipioGateway
    from brokers.sms4sats import Sms4SatsGateway
    from brokers.tronsave import TronSaveGateway
    from support.socket_server import Asked
    from tronsave_async import CancelOutcome

pytestmark = pytest.mark.proof

ATTEMPTS = 3
QUICK = RetryPolicy(attempts=ATTEMPTS, base=0.0, cap=0.0)
UNMETERED = RateLimit(100_000, per=1.0, margin=0.0)

SECRETS = (CANARY.encode(), NOWHERE.encode())
"""What no stranger may see: every credential of the suite, and the order id that is one."""

OPEN_ORDER = encoded({"data": {**RESULT, "status": "open"}, "error_code": None, "message": None})


class Vendor(NamedTuple):
    """A vendor's gateway for these tests.

    Attributes:
        name: the vendor.
        order: an order of its kind.
        open: a gateway at two servers, HTTP and WebSocket, with options.
        success: the body, by HTTP, of a cancel's success, or of the record of an order where cancels take the socket.
    """

    name: str
    order: str
    open: Callable[..., Any]
    success: bytes

    @property
    def cancels_by_http(self) -> bool:
        """Whether cancels take HTTP; else they take the socket, and reads take HTTP."""
        return self.name != "ripio"


def tronsave(rest: str, socket: str, **options: Any) -> TronSaveGateway:
    return WatchedGateway(CANARY, base_url=rest, **options)


def sms4sats(rest: str, socket: str, **options: Any) -> Sms4SatsGateway:
    return WatchedSms4Sats(CANARY, base_url=rest, **options)


def ripio(rest: str, socket: str, **options: Any) -> RipioGateway:
    return WatchedRipio(
        f"token-{CANARY}", f"secret-{CANARY}", rest_url=rest, ws_url=socket, **options
    )


VENDORS = [
    Vendor(
        "tronsave",
        A,
        tronsave,
        encoded({"cancel_results": [{"order_id": A, "is_success": True, "fail_reason": None}]}),
    ),
    Vendor("sms4sats", NOWHERE, sms4sats, b'{"status":"OK"}'),
    Vendor("ripio", ORDER_ID, ripio, OPEN_ORDER),
]

each_vendor = pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)


def carry_out(peer: Peer, asked: Asked) -> None:
    """Answer a socket's cancel with the documented success."""
    peer.send({**CANCELED, "id": asked["id"]})


class Servers:
    """A vendor's two servers, and what they saw."""

    def __init__(self, vendor: Vendor, context: tls.SSLContext | None) -> None:
        self.rest = RawServer([Reply(http(body=vendor.success))], ssl=context)
        self.socket = SocketServer(carry_out, ssl=context)

    @property
    def seen(self) -> int:
        """Requests and messages that arrived."""
        return len(self.rest.requests) + len(self.socket.messages)


@asynccontextmanager
async def opened(
    vendor: Vendor, context: tls.SSLContext | None, /, **options: Any
) -> AsyncIterator[tuple[Servers, Any]]:
    """Yield a vendor's servers with a TLS context, and a quick gateway at them."""
    servers = Servers(vendor, context)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(servers.rest)
        await stack.enter_async_context(servers.socket)
        gateway = gateway_at(vendor, servers.rest.url, servers.socket.url, **options)
        yield servers, await stack.enter_async_context(gateway)


@asynccontextmanager
async def gateway_at(vendor: Vendor, rest: str, socket: str, **options: Any) -> AsyncIterator[Any]:
    """Yield a quick gateway."""
    usual: dict[str, Any] = {
        "limiter": RateLimiter(),
        "rate_limit": UNMETERED,
        "retry": QUICK,
        "telemetry": sightings.event,
    }
    async with vendor.open(rest, socket, **(usual | options)) as gateway:
        yield gateway


def assert_not_sent(outcome: CancelOutcome, *, attempts: int = ATTEMPTS) -> None:
    """Nothing left, and it was tried as often as the policy says."""
    assert isinstance(outcome, NotSent)
    assert (outcome.wire, outcome.evidence) == (Wire.NOT_SENT, Evidence.NONE)
    assert outcome.attempts == attempts
    assert not outcome.closed
    tally.count(f"TLS that fails, {outcome.venue}", type(outcome).__name__)


# -- certificates --------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, and servers and clients that go by it."""

    def __init__(self, path: Path) -> None:
        self._ca = trustme.CA()
        self.file = str(path / "authority.pem")
        self._ca.cert_pem.write_to_path(self.file)
        self.trusted = tls.create_default_context(cafile=self.file)
        """A client's context."""

    def serving(
        self,
        host: str = "127.0.0.1",
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> tls.SSLContext:
        """Return a server's context with a certificate for a host."""
        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        certificate = self._ca.issue_cert(host, not_before=not_before, not_after=not_after)
        certificate.configure_cert(context)
        return context

    def serving_itself(self, path: Path) -> tls.SSLContext:
        """Return a server's context with a certificate that signed itself."""
        pem = path / "itself.pem"
        pem.write_bytes(self._ca.private_key_pem.bytes() + self._ca.cert_pem.bytes())
        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority of the user's own."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def bad(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return servers' contexts whose certificates are to be refused, by what is wrong with them."""
    path = tmp_path_factory.mktemp("elsewhere")
    stranger, now, day = Authority(path), datetime.now(UTC), timedelta(days=1)
    return {
        "unknown authority": stranger.serving(),
        "self-signed": stranger.serving_itself(path),
        "another host": authority.serving("elsewhere.example"),
        "another address": authority.serving("127.0.0.2"),
        "expired": authority.serving(not_before=now - 3 * day, not_after=now - day),
        "not yet valid": authority.serving(not_before=now + day, not_after=now + 3 * day),
    }


WORDS = {
    "unknown authority": "unable to get local issuer certificate",
    "self-signed": "self.signed certificate",
    "another host": "certificate is not valid for '127.0.0.1'",
    "another address": "certificate is not valid for '127.0.0.1'",
    "expired": "certificate has expired",
    "not yet valid": "certificate is not yet valid",
}
"""How the error names what is wrong."""


@pytest.fixture
def broken_handshakes(loop_errors: list[str]) -> Iterator[None]:
    """Forgive the servers, which share the loop, that they report the handshakes which the clients break off."""
    yield
    told = (
        "SSL handshake failed",
        "SSL error in data received",
        "Error on transport creation for incoming connection",
    )
    loop_errors[:] = [each for each in loop_errors if not each.startswith(told)]


@pytest.mark.usefixtures("broken_handshakes")
@pytest.mark.parametrize("wrong", WORDS)
@each_vendor
async def test_a_bad_certificate_proves_that_nothing_left(
    vendor: Vendor, wrong: str, authority: Authority, bad: dict[str, tls.SSLContext]
) -> None:
    """HTTP and the socket name what is wrong with it, and the servers saw no request. It is tried as often as any
    failure to connect: the vendor's next machine may have a better one."""
    async with opened(vendor, bad[wrong], ssl=authority.trusted) as (servers, gateway):
        outcome = await gateway.cancel(vendor.order, timeout=20)
        assert_not_sent(outcome)
        with pytest.raises(ConnectFailed) as caught:
            await gateway.get_order(vendor.order, timeout=20)
        assert caught.value.wire is Wire.NOT_SENT
        for text in (outcome.message, caught.value.reason):
            assert re.search(WORDS[wrong], text)
            assert "Cert" in text
        assert servers.seen == 0


@pytest.mark.usefixtures("broken_handshakes")
@each_vendor
async def test_certificates_are_verified_by_default(vendor: Vendor, authority: Authority) -> None:
    """The default trusts the system's authorities and nobody else."""
    async with opened(vendor, authority.serving()) as (servers, gateway):
        outcome = await gateway.cancel(vendor.order, timeout=20)
        assert_not_sent(outcome)
        assert "unable to get local issuer certificate" in outcome.message
        with pytest.raises(ConnectFailed, match="unable to get local issuer certificate"):
            await gateway.get_order(vendor.order, timeout=20)
        assert servers.seen == 0


@pytest.mark.usefixtures("broken_handshakes")
@pytest.mark.parametrize("attempts", [1, 5])
@each_vendor
async def test_a_bad_certificate_takes_as_many_attempts_as_the_policy_says(
    vendor: Vendor, attempts: int, authority: Authority
) -> None:
    """And then it is over."""
    retry = RetryPolicy(attempts=attempts, base=0.0, cap=0.0)
    async with opened(vendor, authority.serving(), retry=retry) as (_, gateway):
        assert_not_sent(await gateway.cancel(vendor.order, timeout=20), attempts=attempts)


@each_vendor
async def test_an_authority_of_ones_own_is_trusted(vendor: Vendor, authority: Authority) -> None:
    """A context that knows it carries cancels and reads, by HTTP and over the socket; the docstring says how."""
    async with opened(vendor, authority.serving(), ssl=authority.trusted) as (servers, gateway):
        assert isinstance(await gateway.cancel(vendor.order, timeout=20), Canceled)
        assert servers.seen == 1
        if not vendor.cancels_by_http:
            assert (await gateway.get_order(vendor.order, timeout=20)).state.is_open
            assert servers.seen == 2
    assert "``ssl.create_default_context(cafile=...)``" in (type(gateway).__mro__[1].__doc__ or "")


@each_vendor
async def test_an_authority_of_ones_own_by_name(vendor: Vendor, authority: Authority) -> None:
    """Names are compared as well as addresses."""
    servers = Servers(vendor, authority.serving("localhost"))
    async with servers.rest, servers.socket:
        rest, socket = (
            url.replace("127.0.0.1", "localhost") for url in (servers.rest.url, servers.socket.url)
        )
        async with gateway_at(vendor, rest, socket, ssl=authority.trusted) as gateway:
            assert isinstance(await gateway.cancel(vendor.order, timeout=20), Canceled)


@each_vendor
async def test_a_session_brings_its_own_context(vendor: Vendor, authority: Authority) -> None:
    """By HTTP; the socket goes by the gateway's ``ssl``, also beside a session."""
    connector = aiohttp.TCPConnector(ssl=authority.trusted)
    options: dict[str, Any] = {} if vendor.cancels_by_http else {"ssl": authority.trusted}
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        opened(vendor, authority.serving(), session=session, **options) as (servers, gateway),
    ):
        assert isinstance(await gateway.cancel(vendor.order, timeout=20), Canceled)
        if not vendor.cancels_by_http:
            assert (await gateway.get_order(vendor.order, timeout=20)).state.is_open
        assert len(servers.rest.requests) == 1


@pytest.mark.usefixtures("broken_handshakes")
@each_vendor
async def test_a_bad_certificate_on_a_session_of_ones_own(
    vendor: Vendor, authority: Authority
) -> None:
    """There the moment of departure is not seen, and the error of the handshake proves all the same that nothing
    left."""
    async with (
        aiohttp.ClientSession() as session,
        opened(vendor, authority.serving(), session=session) as (servers, gateway),
    ):
        assert_not_sent(await gateway.cancel(vendor.order, timeout=20))
        with pytest.raises(ConnectFailed, match="unable to get local issuer certificate"):
            await gateway.get_order(vendor.order, timeout=20)
        assert servers.seen == 0


@each_vendor
def test_verification_cannot_be_turned_off_in_passing(vendor: Vendor) -> None:
    """aiohttp's ``False``, or anything else that is no context, is a usage error."""
    for ssl in (False, True, 0, tls.CERT_NONE):
        with pytest.raises(UsageError, match=r"^ssl must be"):
            vendor.open("https://127.0.0.1:1", "wss://127.0.0.1:1", ssl=ssl)


# -- handshakes ----------------------------------------------------------------------------------------------------


class Stranger:
    """A TCP server that answers whatever comes first with the same bytes.

    Args:
        answer: bytes; None for no answer at all.
    """

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.heard: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.read(65_536))
        if self._answer is None:
            await reader.read()
        else:
            writer.write(self._answer)
        writer.close()


CLIENT_HELLO = b"\x16\x03"
"""How TLS begins."""

ANSWERS: dict[str, tuple[bytes, str]] = {
    "too old": (b"\x15\x03\x01\x00\x02\x02\x46", "alert protocol version"),
    "no common cipher": (b"\x15\x03\x03\x00\x02\x02\x28", "alert handshake failure"),
    "unknown name": (b"\x15\x03\x03\x00\x02\x02\x70", "unrecognized name"),
    "plain HTTP": (http(400, b"plain"), "wrong version number|record layer failure"),
    "zeros": (bytes(500), "wrong version number|record layer failure"),
    "half a record": (b"\x16\x03\x03\x40\x00\x02", "ConnectionResetError|UNEXPECTED_EOF"),
    "nothing": (b"", "ConnectionResetError|UNEXPECTED_EOF"),
}
"""What may answer a handshake, and how the error names it."""


@pytest.mark.parametrize("answer", ANSWERS)
@each_vendor
async def test_a_handshake_that_fails_proves_that_nothing_left(vendor: Vendor, answer: str) -> None:
    """Old servers, servers without TLS and servers that hang up heard the beginning of a handshake and no more."""
    data, words = ANSWERS[answer]
    async with Stranger(data) as stranger:
        rest, socket = f"https://127.0.0.1:{stranger.port}", f"wss://127.0.0.1:{stranger.port}"
        async with gateway_at(vendor, rest, socket) as gateway:
            outcome = await gateway.cancel(vendor.order, timeout=20)
            assert_not_sent(outcome)
            with pytest.raises(ConnectFailed, match=words):
                await gateway.get_order(vendor.order, timeout=20)
            assert re.search(words, outcome.message)
    assert len(stranger.heard) >= 2 * ATTEMPTS
    assert all(heard.startswith(CLIENT_HELLO) for heard in stranger.heard if heard)
    assert not any(secret in heard for secret in SECRETS for heard in stranger.heard)


@pytest.mark.virtual_time
@each_vendor
async def test_a_handshake_that_hangs_is_given_up(vendor: Vendor) -> None:
    """After the time for a connection to stand, and nothing left."""
    async with Stranger(None) as stranger:
        rest, socket = f"https://127.0.0.1:{stranger.port}", f"wss://127.0.0.1:{stranger.port}"
        async with gateway_at(vendor, rest, socket, connect_timeout=2.0) as gateway:
            started = asyncio.get_running_loop().time()
            outcome = await gateway.cancel(vendor.order, timeout=None)
            assert_not_sent(outcome)
            assert "Timeout" in outcome.message
            assert asyncio.get_running_loop().time() - started < ATTEMPTS * 2.5


@pytest.mark.usefixtures("broken_handshakes")
@each_vendor
async def test_plain_text_to_a_server_with_tls(vendor: Vendor, authority: Authority) -> None:
    """By HTTP the request has left when the server hangs up: what became of it nobody knows. The socket is refused
    before anything was asked. The server took neither for a request."""
    servers = Servers(vendor, authority.serving())
    async with servers.rest, servers.socket:
        rest = servers.rest.url.replace("https:", "http:")
        socket = servers.socket.url.replace("wss:", "ws:")
        async with gateway_at(vendor, rest, socket) as gateway:
            outcome = await gateway.cancel(vendor.order, timeout=20)
            if vendor.cancels_by_http:
                assert isinstance(outcome, Unknown)
                assert (outcome.wire, outcome.attempts) == (Wire.MAYBE_SENT, ATTEMPTS)
                tally.count(f"TLS that fails, {vendor.name}", type(outcome).__name__)
            else:
                assert_not_sent(outcome)
            with pytest.raises(ConnectionLost) as caught:
                await gateway.get_order(vendor.order, timeout=20)
            assert caught.value.wire is Wire.MAYBE_SENT
        assert servers.seen == 0


# -- redirects -----------------------------------------------------------------------------------------------------

REDIRECTS = [300, 301, 302, 303, 305, 307, 308]


@asynccontextmanager
async def elsewhere(authority: Authority) -> AsyncIterator[list[tuple[str, RawServer]]]:
    """Yield servers to which redirects lead, by URL schemes: plain, and with a certificate that is trusted."""
    async with RawServer() as plain, RawServer(ssl=authority.serving()) as secret:
        yield [("http", plain), ("https", secret)]


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("secure", [False, True], ids=["from http", "from https"])
@each_vendor
async def test_a_redirect_takes_no_credential_elsewhere(
    vendor: Vendor, status: int, secure: bool, authority: Authority
) -> None:
    """To another host, another scheme, or another path of the same host: nobody there hears of the request, and a
    cancel that was answered so is neither done nor undone."""
    context = authority.serving() if secure else None
    async with AsyncExitStack() as stack:
        others = await stack.enter_async_context(elsewhere(authority))
        servers, gateway = await stack.enter_async_context(
            opened(vendor, context, ssl=authority.trusted if secure else None)
        )
        targets = [f"{other.url}/path" for _, other in others]
        targets += [f"//127.0.0.1:{others[0][1].port}/path", "/elsewhere", "elsewhere?a=b"]
        for target in targets:
            redirect = http(status, b"{}", f"Location: {target}", f"Refresh: 0; url={target}")
            servers.rest._script = [Reply(redirect)]
            await assert_nothing_claimed(vendor, gateway, status)
        assert [other.connections for _, other in others] == [0, 0]
        assert servers.rest.requests
        assert not any(b"elsewhere" in request for request in servers.rest.requests)


async def assert_nothing_claimed(vendor: Vendor, gateway: Any, status: int) -> None:
    """A read is an error. A cancel by HTTP is in doubt, unless it was sent to the wrong address: 302 and 303 may follow
    a request that was carried out."""
    with pytest.raises(GatewayError) as caught:
        await gateway.get_order(vendor.order, timeout=20)
    assert isinstance(caught.value, WrongEndpoint | BadReply)
    if vendor.cancels_by_http:
        try:
            answer: object = await gateway.cancel(vendor.order, timeout=20)
        except WrongEndpoint as error:
            answer = error
        moved = status in (301, 307, 308)
        assert isinstance(answer, Unknown | WrongEndpoint if moved else Unknown)
        tally.count(f"redirects, {vendor.name}", type(answer).__name__)


@each_vendor
async def test_a_session_of_ones_own_follows_no_redirect(vendor: Vendor) -> None:
    """Its requests are the gateway's."""
    async with RawServer() as other, aiohttp.ClientSession() as session:
        async with opened(vendor, None, session=session) as (servers, gateway):
            for status in REDIRECTS:
                redirect = http(status, b"{}", f"Location: {other.url}/path")
                servers.rest._script = [Reply(redirect)]
                await assert_nothing_claimed(vendor, gateway, status)
        assert other.connections == 0


@pytest.mark.parametrize("status", REDIRECTS)
async def test_an_upgrade_follows_no_redirect(status: int) -> None:
    """A socket that is sent elsewhere does not stand: nothing was asked, here or there."""
    vendor = VENDORS[-1]
    async with SocketServer(carry_out) as other, opened(vendor, None) as (servers, gateway):
        location = f"Location: {other.url}"
        servers.socket.door = f"HTTP/1.1 {status} Elsewhere\r\n{location}\r\n\r\n".encode()
        outcome = await gateway.cancel(vendor.order, timeout=20)
        assert_not_sent(outcome)
        assert outcome.message == f"HTTP {status} to the upgrade"
        tally.count(f"redirects, {vendor.name}", type(outcome).__name__)
        assert other.peers == []
        assert servers.seen == 0
        servers.socket.door = lambda _: b""
        assert isinstance(await gateway.cancel(vendor.order, timeout=20), Canceled)


# -- the environment -----------------------------------------------------------------------------------------------

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY", "SOCKS_PROXY")


@pytest.fixture
async def proxied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RawServer]:
    """Yield a server to which every variable of the environment points, with a password for it in a file."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with RawServer() as proxy:
        for variable in PROXY_VARIABLES:
            monkeypatch.setenv(variable, proxy.url)
            monkeypatch.setenv(variable.lower(), proxy.url)
        yield proxy


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@each_vendor
async def test_the_environment_s_proxy_is_not_used(
    vendor: Vendor, secure: bool, authority: Authority, proxied: RawServer
) -> None:
    """A proxy sees what it carries: it is named by the program, or there is none. Nor is a password looked up."""
    context = authority.serving() if secure else None
    trusted = authority.trusted if secure else None
    async with opened(vendor, context, ssl=trusted) as (servers, gateway):
        assert isinstance(await gateway.cancel(vendor.order, timeout=20), Canceled)
        if not vendor.cancels_by_http:
            await gateway.get_order(vendor.order, timeout=20)
        assert proxied.connections == 0
        assert servers.rest.requests
        for request in servers.rest.requests:
            assert b"authorization: basic" not in request.lower()
    assert "none is taken from the environment" in " ".join(
        (type(gateway).__mro__[1].__doc__ or "").split()
    )


async def test_the_environment_s_proxy_would_be_found(proxied: RawServer) -> None:
    """A session that is told to trust the environment goes there: the test above could fail."""
    vendor = VENDORS[0]
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        opened(vendor, None, session=session) as (servers, gateway),
    ):
        await gateway.cancel(vendor.order, timeout=20)
        assert proxied.requests
        assert servers.seen == 0
