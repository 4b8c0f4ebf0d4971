"""The HTTP transport on aiohttp: one attempt in; a reply, or an error that says whether bytes left.

Connections are aiohttp's: its connector opens, encrypts and pools them, its parser reads what comes. Its session and
its requests are left out: what they prepare anew for each request is the same here, and costs more than all the rest.

*Exactly one request per attempt.* aiohttp's session sends GET, PUT and DELETE a second time by itself when a kept-alive
connection drops; here nobody does.

*Evidence of "never sent".* What fails before a connection stands was never sent; everything after it may have arrived.

*A session of the caller's own* sends its requests itself. There a client middleware turns the first failure into an
error of ours, which aiohttp passes on and does not repeat; and the moment in which a connection stands is not visible:
only the errors of connecting prove "never sent".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import aiohttp
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tronsave_async.arguments import tls_context, within
from tronsave_async.blot import Blot
from tronsave_async.credentials import Secret
from tronsave_async.deadlines import Deadlines
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
from tronsave_async.outcomes import Wire
from tronsave_async.retry import parse_retry_after
from tronsave_async.tasks import clock

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Sequence
    from types import TracebackType

    from aiohttp import ClientRequest, ClientResponse, StreamReader
    from aiohttp.client_middlewares import ClientHandlerType
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

__all__ = ["Departing", "HttpReply", "HttpTransport"]

MAX_BODY: Final = 1 << 20
"""Bytes of a reply that are read at most; the vendors' largest are a few kilobytes."""

KNOWN_PATHS: Final = 64
"""Paths whose URL is kept; more of them means that they name orders."""

_NEVER_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)
"""Errors that aiohttp raises only before a request can be written."""

_BROKEN: Final = (aiohttp.ClientError, OSError, HttpProcessingError, UnicodeError)
"""All that aiohttp raises for a connection or a reply that is not what HTTP promises."""


class HttpReply:
    """A whole reply, whatever it says.

    Attributes:
        status: HTTP status.
        body: the body, with every known secret blotted out.
        headers: the reply's headers.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: CIMultiDictProxy[str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    def retry_after(self) -> float | None:
        """Seconds that the vendor asks to wait, or None. A date is read against the vendor's own clock."""
        wanted = self.headers.get(hdrs.RETRY_AFTER)
        if wanted is None:
            return None
        return parse_retry_after(wanted, self.date() or datetime.now(UTC))

    def date(self) -> datetime | None:
        """When the reply was made, by the clock of whoever made it, in whole seconds; None where it does not say."""
        try:
            return parsedate_to_datetime(self.headers[hdrs.DATE]).astimezone(UTC)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError):
            return None


Departing = Callable[[bool], Mapping[str, str] | None]
"""Called in the moment in which a connection stands and nothing has been written, with True; or, over a session of the
caller's own, before that moment, with False. It may return headers that must not be older (a signature). What it raises
ends the attempt before anything is sent."""


class _Attempt:
    """One request, and whether it left. What it asks for is not shown: it may hold secrets."""

    __slots__ = ("_departing", "body", "departed", "endpoint", "method", "path", "query")

    def __init__(
        self,
        endpoint: str,
        method: str,
        path: str,
        departing: Departing,
        body: bytes | None,
        query: Mapping[str, str] | None,
    ) -> None:
        self.endpoint = endpoint
        self.method = method
        self.path = path
        self.body = body
        self.query = query
        self.departed = False
        self._departing = departing

    def depart(self, seen: bool) -> Mapping[str, str]:
        """It leaves now; the headers that must not be older."""
        headers = self._departing(seen)
        self.departed = True
        return headers or {}


class _Bound:
    """`asyncio.timeout`, on a timer that all requests share: one of its own would cost a tenth of a request."""

    __slots__ = ("_canceled", "_deadlines", "_is_over", "_seconds", "_task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._task = task
        self._canceled = task.cancelling()
        self._is_over = False
        self._deadlines = deadlines
        self._seconds = seconds

    def __enter__(self) -> None:
        self._deadlines.enter(self, self._seconds, clock())

    def expire(self) -> None:
        """Time is over."""
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.leave(self, self._seconds)
        if not self._is_over:
            return
        is_ours = self._task.uncancel() <= self._canceled  # and nobody else's as well
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error


class _Pool:
    """Connections of the transport's own to one host. They live on one event loop, the running one."""

    def __init__(
        self,
        base: URL,
        headers: Mapping[str, str],
        *,
        proxy: URL | None,
        proxy_headers: Mapping[str, str] | None,
        ssl: tls.SSLContext | None,
        timeout: float,
    ) -> None:
        self.connector = aiohttp.TCPConnector(limit=0, ssl=True if ssl is None else ssl)
        self._timeout = aiohttp.ClientTimeout(connect=timeout)
        if proxy_headers is not None:
            # As aiohttp completes them itself, which would make each connection another one.
            proxy_headers = {**proxy_headers, hdrs.HOST: base.host_port_subcomponent or ""}
        self._target = aiohttp.ClientRequest(
            "GET",
            base,
            headers=headers,
            proxy=proxy,
            proxy_headers=proxy_headers,
            loop=asyncio.get_running_loop(),
        )
        """Where connections lead to. It is never sent itself, but has the headers that aiohttp adds."""
        self._is_forwarded = proxy is not None and base.scheme == "http"
        """By a proxy that reads it: it is told the whole URL, and in a header of its own who asks."""
        self._headers = _lines(self._target.headers)
        self._served: WeakSet[ResponseHandler] = WeakSet()
        """What a request was sent over before."""

    async def connect(self) -> Connection:
        """Wait for a connection on which nothing has been said that was not asked for.

        Raises:
            aiohttp.ClientConnectionError: there is none: the peer speaks first, or hangs up on whoever connects.
        """
        try:
            connection = await self.connector.connect(self._target, [], self._timeout)
            # A reply that nobody asked for would be read as the answer to the next request.
            while connection.protocol is not None and connection.protocol.should_close:
                is_new = connection.protocol not in self._served
                connection.close()
                if is_new:  # the next would be no better: the retry policy says when to try again
                    raise aiohttp.ClientConnectionError
                connection = await self.connector.connect(self._target, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        return connection

    def send(self, attempt: _Attempt, url: URL, connection: Connection) -> ResponseHandler:
        """Let a request depart, and write all of it. No frame keeps what it says.

        Returns:
            What the reply is read from.
        """
        signed = attempt.depart(seen=True)
        protocol, transport = connection.protocol, connection.transport
        assert protocol is not None, "not given back"
        assert transport is not None, "it stands"
        protocol.set_response_params(read_until_eof=True)
        self._served.add(protocol)
        target = _with_query(url, attempt.query)
        transport.write(
            b"%b %b HTTP/1.1\r\n%b%b"
            % (
                attempt.method.encode(),
                (str(target) if self._is_forwarded else target.raw_path_qs).encode(),
                self._headers_with(signed),
                _body_of(attempt),
            )
        )
        return protocol

    def _headers_with(self, signed: Mapping[str, str]) -> bytes:
        if not signed and not self._is_forwarded:
            return self._headers
        headers = self._target.headers.copy()
        headers.update(signed)
        return _lines(headers)


def _lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent.

    Raises:
        UsageError: one of them would be read as several.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if not all(line[:-2].isprintable() for line in lines):
        raise UsageError("a header must be visible characters")
    return Secret.masked_bytes("".join(lines))


def _body_of(attempt: _Attempt) -> bytes:
    """The end of a request: the length of its body, and that."""
    if attempt.body is None and attempt.method == "GET":
        return b"\r\n"
    body = attempt.body or b""
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class _Broken(Exception):
    """Carries aiohttp's first failure past aiohttp's own repeat."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


async def _exactly_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    try:
        return await handler(request)
    except _BROKEN as error:
        raise _Broken(error) from error


class HttpTransport:
    """Requests to one vendor, over kept-alive connections.

    Args:
        venue: the gateway's name, for errors.
        base_url: ``https://host[:port][/prefix]``.
        headers: sent with every request.
        blot: texts that no reply may echo into logs, errors or outcomes.
        session: the caller's own session: used as it is, never closed, its own middlewares are not run.
        proxy: an HTTP proxy, ``http://[user:password@]host:port``.
        ssl: a TLS context; by default certificates are verified against the system's.
        timeout: seconds for one request, from the connection to the whole reply.
        connect_timeout: seconds for a connection to stand.
        max_body: bytes of a reply read at most.
        discreet: queries hold secrets: errors are raised without aiohttp's as their cause, whose frames know the URL.

    Raises:
        UsageError: the base URL is not an HTTP URL, or ``ssl`` is no TLS context, or was given with a session of the
            caller's own.
    """

    def __init__(
        self,
        venue: str,
        base_url: str,
        *,
        headers: Mapping[str, str],
        blot: Sequence[str] = (),
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        timeout: float = 15.0,
        connect_timeout: float = 5.0,
        max_body: int = MAX_BODY,
        discreet: bool = False,
    ) -> None:
        if session is not None and ssl is not None:
            raise UsageError("a session of your own brings its own TLS context: leave ssl out")
        self._venue = venue
        self._base = _checked_base(base_url)
        self._prefix = self._base.raw_path.rstrip("/")
        self._headers: CIMultiDict[str] = CIMultiDict(headers)
        self._headers.setdefault(hdrs.ACCEPT_ENCODING, "identity")
        self._blot = Blot(blot)
        self._given = session
        self._pool: _Pool | None = None
        self._deadlines = Deadlines()
        self._closed = False
        self._proxy, self._proxy_headers = _checked_proxy(proxy)
        self._ssl = tls_context(ssl)
        self._timeout = within("request_timeout", timeout)
        self._connect_timeout = within("connect_timeout", connect_timeout)
        self._max_body = max_body
        self._discreet = discreet
        self._urls: dict[str, URL] = {}

    @property
    def host(self) -> str:
        """Host and port: part of what a vendor meters."""
        return f"{self._base.host}:{self._base.port}"

    async def send(
        self,
        endpoint: str,
        method: str,
        path: str,
        *,
        departing: Departing,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Send one request, once.

        Args:
            endpoint: the vendor's call, for errors.
            method, path: of the request; the path is relative to the base URL, starts with a slash, and is
                percent-encoded.
            departing: see `Departing`.
            body: JSON bytes.
            query: query parameters.

        Raises:
            ConnectFailed: no connection stood; nothing was sent.
            ConnectionLost: the connection broke, or was closed; the request may have arrived.
            RequestTimeout: time ran out; ``wire`` says whether the request may have arrived.
            BadReply: the reply is too large.
            GatewayClosed: it is closed, or the caller's own session.
            UsageError: the path, or a header, is not fit to be sent.

        Canceling the call closes the connection; the request may have arrived if ``departing`` was called.
        """
        self._check_open()
        attempt = _Attempt(endpoint, method, path, departing, body, query)
        try:
            with _Bound(self._deadlines, self._timeout):
                if self._given is None:
                    return await self._exchange(attempt)
                return await self._exchange_over(self._given, attempt)
        except GatewayError:
            raise
        except _Broken as broken:
            raise self._mapped(attempt, broken.cause) from self._shown(broken.cause)
        except _NEVER_SENT as error:
            raise self._mapped(attempt, error) from self._shown(error)
        except TimeoutError as error:
            if self._closed:
                raise self._cut_off(attempt) from None
            wire = Wire.MAYBE_SENT if attempt.departed else Wire.NOT_SENT
            failure = RequestTimeout(self._venue, endpoint, "timed out", wire=wire)
            raise failure from self._shown(error)
        except _BROKEN as error:
            raise self._mapped(attempt, error) from self._shown(error)

    async def aclose(self) -> None:
        """End the requests under way, and close the connections, but not a session of the caller's own. Nothing is sent
        afterwards."""
        self._closed = True
        if len(self._deadlines):
            self._deadlines.close()
            # Before aiohttp closes their connections: it does not tell whoever waits for the rest of a body.
            await asyncio.sleep(0)
        if self._pool is not None:
            await self._pool.connector.close()

    async def _exchange(self, attempt: _Attempt) -> HttpReply:
        pool, url = self._open_pool(), self._url(attempt.path)
        connection = await pool.connect()
        try:
            protocol = pool.send(attempt, url, connection)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            received = await self._read(attempt, message.code, message.headers, content)
        except BaseException:
            if attempt.departed:
                _break_off(connection)
            else:
                connection.release()
            raise
        connection.release()
        return HttpReply(message.code, self._blot(received), message.headers)

    async def _exchange_over(self, session: aiohttp.ClientSession, attempt: _Attempt) -> HttpReply:
        signed = attempt.depart(seen=False)
        async with session.request(
            attempt.method,
            _with_query(self._url(attempt.path), attempt.query),
            data=attempt.body,
            headers=self._with(signed) if signed else self._headers,
            allow_redirects=False,
            raise_for_status=False,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
            middlewares=(_exactly_once,),
        ) as reply:
            received = await self._read(attempt, reply.status, reply.headers, reply.content)
            return HttpReply(reply.status, self._blot(received), reply.headers)

    def _with(self, signed: Mapping[str, str]) -> CIMultiDict[str]:
        headers = self._headers.copy()
        headers.update(signed)
        return headers

    async def _read(
        self, attempt: _Attempt, status: int, headers: Mapping[str, str], content: StreamReader
    ) -> bytes:
        length = headers.get(hdrs.CONTENT_LENGTH)
        if (
            length is not None
            and int(length) <= self._max_body
            and hdrs.CONTENT_ENCODING not in headers
        ):
            return await content.read()
        received = bytearray()
        while chunk := await content.readany():
            received += chunk
            if len(received) > self._max_body:
                reason = f"reply of more than {self._max_body} bytes"
                raise BadReply(
                    self._venue, attempt.endpoint, reason, wire=Wire.ANSWERED, status=status
                )
        return bytes(received)

    def _mapped(self, attempt: _Attempt, error: BaseException) -> RequestFailed:
        """Foreign exceptions in our words, by what they prove."""
        reason = _reason(error)
        # Of an own connection the departure was seen, and no kind of error says more than that.
        is_early = self._given is not None and isinstance(error, _NEVER_SENT)
        if is_early or not attempt.departed:
            return ConnectFailed(self._venue, attempt.endpoint, reason, wire=Wire.NOT_SENT)
        return ConnectionLost(self._venue, attempt.endpoint, reason, wire=Wire.MAYBE_SENT)

    def _cut_off(self, attempt: _Attempt) -> RequestFailed:
        reason = "gateway closed"
        if attempt.departed:
            return ConnectionLost(self._venue, attempt.endpoint, reason, wire=Wire.MAYBE_SENT)
        return ConnectFailed(self._venue, attempt.endpoint, reason, wire=Wire.NOT_SENT)

    def _shown(self, cause: BaseException) -> BaseException | None:
        """Without frames: those of the event loop hold the bytes that it wrote. And discreetly without a cause: its
        attributes know the URL."""
        if self._discreet:
            return None
        each: BaseException | None = cause
        while each is not None:
            each.__traceback__ = None
            each = each.__cause__ or each.__context__
        return cause

    def _check_open(self) -> None:
        if self._closed or (self._given is not None and self._given.closed):
            raise GatewayClosed(self._venue)

    def _open_pool(self) -> _Pool:
        if self._pool is None:
            self._pool = _Pool(
                self._base,
                self._headers,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
                ssl=self._ssl,
                timeout=self._connect_timeout,
            )
        return self._pool

    def path_of(self, path: str) -> str:
        """A percent-encoded path as it is sent: with the base URL's prefix, without a query."""
        return self._prefix + path

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            if not path.isprintable() or " " in path:
                raise UsageError("a path must be percent-encoded")
            url = self._base.with_path(self.path_of(path), encoded=True)
            if len(self._urls) < KNOWN_PATHS:
                self._urls[path] = url
        return url


def _with_query(url: URL, query: Mapping[str, str] | None) -> URL:
    return url if query is None else url.with_query(query)


def _break_off(connection: Connection) -> None:
    """End a connection at once. To close it in good order would take another 30 seconds under TLS where the peer has
    fallen silent, and could still send what waits to be written."""
    assert connection.protocol is not None, "not given back"
    connection.protocol.abort()
    connection.close()


def _reason(error: BaseException) -> str:
    """The kind of a failure, and the system's word for it. Never a URL: it may hold a secret."""
    name = type(error).__name__
    os_error = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    detail = os_error.strerror if isinstance(os_error, OSError) else None
    if os_error is not error and not detail:
        detail = type(os_error).__name__
    return f"{name}: {detail}" if detail else name


def _checked_base(base_url: str) -> URL:
    try:
        url = URL(base_url)
    except (ValueError, TypeError):
        raise UsageError("base_url is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise UsageError("base_url must be http(s)://host")
    if url.user or url.password or url.query_string or url.fragment:
        raise UsageError("base_url must not carry credentials, a query or a fragment")
    return url


def _checked_proxy(proxy: str | None) -> tuple[URL | None, dict[str, str] | None]:
    """The proxy without its password, and the headers for it, which cannot be printed."""
    if proxy is None:
        return None, None
    try:
        url = URL(proxy)
    except (ValueError, TypeError):
        raise UsageError("proxy is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise UsageError("proxy must be http(s)://[user:password@]host:port")
    if url.user is None:
        return url, None
    credentials = aiohttp.encode_basic_auth(url.user, url.password or "")
    return url.with_user(None), {hdrs.AUTHORIZATION: Secret.masked(credentials)}
