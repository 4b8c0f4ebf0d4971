"""Signed requests over both channels, and what every reply to one tells besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tronsave_async.errors import AuthenticationRejected

from . import config, verdict, wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tronsave_async.dispatch import Dispatcher
    from tronsave_async.exchange import Exchange
    from tronsave_async.http import HttpReply, HttpTransport
    from tronsave_async.websocket import WebSocketTransport

    from .auth import Signer
    from .timekeeper import Timekeeper

__all__ = ["SignedRequests"]

T = TypeVar("T")


class SignedRequests:
    """Sends one account's requests, each signed in the moment in which it leaves.

    Args:
        dispatcher: the gateway's.
        signer: signs them.
        timekeeper: tells with which time.
        socket, http: the channels.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        signer: Signer,
        timekeeper: Timekeeper,
        socket: WebSocketTransport[wire.Frame],
        http: HttpTransport,
    ) -> None:
        self._dispatch = dispatcher
        self._admission = dispatcher.admission
        self._signer = signer
        self._timekeeper = timekeeper
        self._socket = socket
        self._http = http

    async def ask(
        self,
        exchange: Exchange,
        business: bytes,
        late: Callable[[wire.Frame], object] | None = None,
        departs: Callable[[], object] | None = None,
    ) -> wire.Frame:
        """Send one admitted request over the socket.

        Args:
            exchange: the request.
            business: its parameters, as `business_json` gives them.
            late: takes a reply that comes after the call ended without one.
            departs: told of the moment in which it leaves.

        Raises:
            RequestFailed: as the transport does.
        """
        method = config.METHODS[exchange.endpoint]
        await self._timekeeper.is_right()

        def departing(request_id: str) -> bytes:
            message = self.depart(exchange, method, business, request_id)
            if departs is not None:
                departs()
            return message

        sending = self._socket.request(exchange.endpoint, departing, late)
        reply = await self._admission.carry(exchange, sending)
        self.note(exchange, reply)
        return reply

    def depart(self, exchange: Exchange, method: str, business: bytes, request_id: str) -> bytes:
        """A request over the socket leaves: its message, signed."""
        exchange.depart()
        stamp = self._timekeeper.timestamp(business)
        exchange.signed_at(stamp / 1000)
        return self._signer.frame(request_id, method, business, stamp)

    def note(self, exchange: Exchange, reply: wire.Frame) -> None:
        """What any reply over the socket tells besides: the vendor's time, and that the day's quota is used up."""
        if reply.timestamp is not None:
            self._timekeeper.hear(exchange, reply.timestamp)
        if reply.error is not None and verdict.is_daily(reply.status, reply.error.message):
            self._admission.exhausted(exchange.endpoint)

    async def get(
        self, exchange: Exchange, path: str, query: Mapping[str, str] | None = None
    ) -> HttpReply:
        """Send one admitted GET, signed when the connection stands.

        Raises:
            RequestFailed: as the transport does.
        """
        signed_path = self._http.path_of(path)
        await self._timekeeper.is_right()

        def departing(seen: bool) -> Mapping[str, str]:
            exchange.depart(seen)
            stamp = self._timekeeper.timestamp(signed_path.encode())
            return self._signer.rest_headers("GET", signed_path, b"", stamp)

        sending = self._http.send(exchange.endpoint, "GET", path, departing=departing, query=query)
        reply = await self._admission.carry(exchange, sending)
        words = wire.read_words(reply.body)
        self._timekeeper.hear(exchange, words.timestamp)
        if verdict.is_daily(reply.status, words.message):
            self._admission.exhausted(exchange.endpoint)
        return reply

    async def fresh(self, exchange: Exchange, attempt: Callable[[Exchange], Awaitable[T]]) -> T:
        """One attempt, and one more if the vendor rejects the time of its signature: it did not look at the first."""
        try:
            return await attempt(exchange)
        except AuthenticationRejected as error:
            if not verdict.clock_rejected(error):
                raise
        further: Exchange | None = None
        try:
            self._timekeeper.rejected(exchange)
            further = self._admission.open_exchange(exchange.endpoint, exchange.orders)
            return await self._dispatch.calls.admitted(further, exchange.lane, attempt)
        finally:
            exchange.replaced_by(further)
