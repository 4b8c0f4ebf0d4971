"""The HTTP transport on aiohttp: one attempt in; a reply, or an error that says whether bytes left.

*Exactly one request per attempt.* aiohttp sends GET, PUT and DELETE a second time by itself when a kept-alive
connection drops. Here a client middleware turns the first failure into an error of ours, which aiohttp passes on and
does not repeat.

*Evidence of "never sent".* The transport's own connector knows the moment in which a connection stands and nothing has
been written. What fails before that moment was never sent; everything after it may have arrived. With a session of the
caller's own that moment is not visible: there only the errors of connecting prove "never sent".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tronsave_async.arguments import tls_context, within
from tronsave_async.blot import Blot
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
from tronsave_async.outcomes import Wire
from tronsave_async.retry import parse_retry_after

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Sequence

    from aiohttp import ClientRequest, ClientResponse, ClientTimeout
    from aiohttp.client_middlewares import ClientHandlerType
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

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


class _Departure:
    """Calls back once, and knows the connection that the request left on."""

    __slots__ = ("_connection", "_departing", "_transport", "happened")

    def __init__(self, departing: Departing) -> None:
        self._departing = departing
        self.happened = False
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None

    def leave_on(self, connection: Connection) -> None:
        """The request leaves on this connection."""
        self._connection = connection
        self._transport = connection.transport

    def break_off(self) -> None:
        """The attempt failed: end its connection at once. To close it in good order would take another 30 seconds under
        TLS where the peer has fallen silent, and could still send what waits to be written."""
        if self._connection is None or self._transport is None:
            return
        went_back = self._connection.transport is None and not self._transport.is_closing()
        if not went_back:  # where the reply was whole, it may serve others already
            self._transport.abort()

    def went_well(self) -> None:
        """The reply is here."""
        self._connection = self._transport = None

    def happen(self, seen: bool) -> Mapping[str, str]:
        if self.happened:
            return {}
        headers = self._departing(seen)
        self.happened = True
        return headers or {}


_departure: ContextVar[_Departure] = ContextVar("tronsave_async_departure")


class _Connector(aiohttp.TCPConnector):
    """A connector that says when a request is about to be written."""

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        # A reply that nobody asked for waits on the connection: it would be read as the answer to this request.
        while connection.protocol is not None and connection.protocol.should_close:
            connection.close()
            connection = await super().connect(req, traces, timeout)
        departure = _departure.get()
        try:
            req.headers.update(departure.happen(seen=True))
        except BaseException:
            connection.release()
            raise
        departure.leave_on(connection)
        return connection


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
    """Requests to one vendor, over one session with kept-alive connections.

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
        self._session = session
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
            ConnectionLost: the connection broke; the request may have arrived.
            RequestTimeout: time ran out; ``wire`` says whether the request may have arrived.
            BadReply: the reply is too large.
            GatewayClosed: the session is closed.

        Canceling the call closes the connection; the request may have arrived if ``departing`` was called.
        """
        session = self._open_session()
        departure = _Departure(departing)
        signed = departure.happen(seen=False) if self._given is not None else None
        token = _departure.set(departure)
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._exchange(session, endpoint, method, path, body, query, signed)
                departure.went_well()
                return reply
        except GatewayError:
            raise
        except _Broken as broken:
            failure = self._mapped(endpoint, broken.cause, departure.happened)
            raise failure from self._shown(broken.cause)
        except TimeoutError as error:
            wire = Wire.MAYBE_SENT if departure.happened else Wire.NOT_SENT
            failure = RequestTimeout(self._venue, endpoint, "timed out", wire=wire)
            raise failure from self._shown(error)
        except _BROKEN as error:
            raise self._mapped(endpoint, error, departure.happened) from self._shown(error)
        finally:
            _departure.reset(token)
            departure.break_off()

    async def aclose(self) -> None:
        """Close the session, unless it is the caller's own. Nothing is sent afterwards."""
        self._closed = True
        if self._session is not None and self._given is None:
            await self._session.close()

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        method: str,
        path: str,
        body: bytes | None,
        query: Mapping[str, str] | None,
        signed: Mapping[str, str] | None,
    ) -> HttpReply:
        url = self._url(path)
        async with session.request(
            method,
            url if query is None else url.with_query(query),
            data=body,
            headers=self._with(signed) if signed else self._headers,
            allow_redirects=False,
            raise_for_status=False,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
            middlewares=(_exactly_once,),
        ) as response:
            content = await self._read(endpoint, response)
            return HttpReply(response.status, self._blot(content), response.headers)

    def _with(self, signed: Mapping[str, str]) -> CIMultiDict[str]:
        headers = self._headers.copy()
        headers.update(signed)
        return headers

    async def _read(self, endpoint: str, response: ClientResponse) -> bytes:
        length = response.content_length
        if (
            length is not None
            and length <= self._max_body
            and hdrs.CONTENT_ENCODING not in response.headers
        ):
            return await response.read()
        received = bytearray()
        while chunk := await response.content.readany():
            received += chunk
            if len(received) > self._max_body:
                response.close()
                reason = f"reply of more than {self._max_body} bytes"
                raise BadReply(
                    self._venue, endpoint, reason, wire=Wire.ANSWERED, status=response.status
                )
        return bytes(received)

    def _mapped(self, endpoint: str, error: BaseException, departed: bool) -> RequestFailed:
        """Foreign exceptions in our words, by what they prove."""
        reason = _reason(error)
        if isinstance(error, _NEVER_SENT) or not departed:
            return ConnectFailed(self._venue, endpoint, reason, wire=Wire.NOT_SENT)
        return ConnectionLost(self._venue, endpoint, reason, wire=Wire.MAYBE_SENT)

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

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed or (self._session is not None and self._session.closed):
            raise GatewayClosed(self._venue)
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        context: tls.SSLContext | bool = True if self._ssl is None else self._ssl
        return aiohttp.ClientSession(
            connector=_Connector(limit=0, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
        )

    def path_of(self, path: str) -> str:
        """A percent-encoded path as it is sent: with the base URL's prefix, without a query."""
        return self._prefix + path

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._base.with_path(self.path_of(path), encoded=True)
            if len(self._urls) < KNOWN_PATHS:
                self._urls[path] = url
        return url


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
