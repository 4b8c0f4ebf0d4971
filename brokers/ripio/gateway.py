"""Ripio Trade: orders created, updated and canceled over one signed WebSocket, and read back over REST.

Pages: apidocs.ripio.com, trade/websocket_api and trade/orders; the older apidocs.ripiotrade.co (v4). The vendor has two
generations of codes, and which of them the socket speaks today is not documented: both are understood.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote

from tronsave_async.adapter import Adapter
from tronsave_async.admission import Meter
from tronsave_async.arguments import (
    check_type,
    quantity,
    several_texts,
    timeout_seconds,
    whole_number,
)
from tronsave_async.blot import Blot
from tronsave_async.coalescing import Batch, Delivery
from tronsave_async.credentials import Secret
from tronsave_async.dispatch import Dispatcher
from tronsave_async.errors import (
    BadReply,
    GatewayError,
    OutcomeUnknown,
    UsageError,
    VendorFailure,
)
from tronsave_async.http import HttpTransport
from tronsave_async.limiter import Lane, RateLimit, RateLimiter, Scope
from tronsave_async.orders import OrderRef, OrderSnapshot
from tronsave_async.posting import Posted
from tronsave_async.quota import shared_quota
from tronsave_async.retry import Repeatable, RetryPolicy
from tronsave_async.settlement import Meaning, Name
from tronsave_async.tasks import clock
from tronsave_async.telemetry import emitter
from tronsave_async.websocket import WebSocketTransport

from . import config, verdict, wire
from .auth import JsonValue, Signer, business_json
from .config import VENUE
from .creation import Creation
from .signed import SignedRequests
from .timekeeper import Timekeeper

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    import aiohttp

    from tronsave_async.admission import Admission
    from tronsave_async.creations import NewOrder
    from tronsave_async.exchange import Exchange
    from tronsave_async.settlement import Verdict
    from tronsave_async.telemetry import TelemetryHook

__all__ = ["RipioGateway"]

T = TypeVar("T")
_LOOK_AT_ORDER: Final = "Look with order() and compare price and requested_amount."

_name: Callable[[OrderRef], Name] = attrgetter("name")


class RipioGateway(Adapter):
    """An `OrderGateway` for Ripio Trade, and the vendor's own calls.

    Cancels, creates and updates travel over one WebSocket, which is opened on first use or by `warm_up`; reads over
    REST. Both draw on one budget. Use it as an async context manager, or call `aclose`. One gateway serves any number
    of tasks of one event loop.

    What is particular about Ripio's outcomes: a partly filled order is `Canceled` with ``executed`` above zero. The
    newer generation does not tell a canceled order from a filled one when it refuses to cancel: the gateway reads the
    order back, and where REST does not answer, the outcome is ``AlreadyClosed(CLOSED)``. Orders are named by ``id``, or
    by the ``external_id`` chosen at creation: ``OrderRef(client_id=...)``; use one of the two for an order, since doubt
    about it is remembered by the name. Amounts are in the pair's base currency. The socket takes no HTTP proxy, and
    none is taken from the environment.

    Args:
        api_token, secret: the API credentials (page: authentication).
        ws_url, rest_url: the vendor's hosts, or a sandbox's. The REST URL has the prefix: ``/trade``, formerly ``/v4``.
        profile: the account's documented limits: `BASIC` or `APPROVED`.
        rate_limit: in place of the profile's limit per second.
        token_field: how socket requests name the token: ``"api_token"``, formerly ``"apiToken"``.
        limiter: share budgets with others; by default all gateways of the event loop on this token and host do.
        retry: how often and how long to try again, and to connect again.
        telemetry: who listens.
        session: an aiohttp session of your own for REST; it is not closed, and brings its own TLS context. Its requests
            are signed before their connection stands.
        ssl: a TLS context in place of the verifying default, for the socket and, without a session of your own, for
            REST; for an authority of your own, ``ssl.create_default_context(cafile=...)``.
        request_timeout: seconds for one request. The vendor takes up to 10.
        connect_timeout: seconds for a connection to stand.

    Raises:
        UsageError: an argument is out of its range.
    """

    def __init__(
        self,
        api_token: str | Secret,
        secret: str | Secret,
        *,
        ws_url: str = config.WS_URL,
        rest_url: str = config.REST_URL,
        profile: config.Profile = config.BASIC,
        rate_limit: RateLimit | None = None,
        token_field: str = "api_token",
        limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        telemetry: TelemetryHook | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl: tls.SSLContext | None = None,
        request_timeout: float = 15.0,
        connect_timeout: float = 5.0,
    ) -> None:
        token, key = Secret.of(api_token), Secret.of(secret)
        policy = RetryPolicy() if retry is None else retry
        check_type("profile", profile, config.Profile)
        signer = Signer(token, key, token_field=token_field)
        self._http = HttpTransport(
            VENUE,
            rest_url,
            headers={"Content-Type": "application/json"},
            blot=(token.reveal(), key.reveal()),
            session=session,
            ssl=ssl if session is None else None,
            timeout=request_timeout,
            connect_timeout=connect_timeout,
        )
        self._socket: WebSocketTransport[wire.Frame] = WebSocketTransport(
            VENUE,
            ws_url,
            read=partial(_read_message, Blot((token.reveal(), key.reveal()))),
            retry=policy,
            ssl=ssl,
            timeout=request_timeout,
            connect_timeout=connect_timeout,
            emit=emitter(telemetry),
        )
        account = f"{token.account}@{self._http.host}"
        metered = Meter(
            Scope(VENUE, account, "all"),
            profile.rate_limit if rate_limit is None else rate_limit,
            shared_quota(f"{VENUE} {account}", profile.daily_quota),
        )
        meters = dict.fromkeys((*config.METHODS, *config.PATHS), metered)
        meters["server_time"] = Meter(
            Scope(VENUE, self._http.host, "public"), config.PUBLIC_RATE_LIMIT
        )
        dispatcher = Dispatcher(
            VENUE,
            meters=meters,
            transports=(self._socket, self._http),
            limiter=limiter,
            retry=policy,
            telemetry=telemetry,
        )
        super().__init__(dispatcher)
        self._timekeeper = Timekeeper(dispatcher, self._http, account)
        self._signed = SignedRequests(
            dispatcher, signer, self._timekeeper, self._socket, self._http
        )
        cancels = self._dispatch.batcher(
            "cancel",
            maximum=1,
            send=self._send_cancel,
            join_departed=True,
            post=self._post_cancel,
            may_post=self._timekeeper.may_sign,
            is_reusable=_is_chosen,
        )
        self._records = self._dispatch.batcher(
            "order", maximum=1, send=self._fetch_record, join_departed=False
        )
        self._dispatch.settle_with(cancels, self._read_back, _name, read_first=False)

    @classmethod
    def from_env(
        cls,
        api_token: str | Secret | None = None,
        secret: str | Secret | None = None,
        **options: Any,
    ) -> Self:
        """Take the token from ``RIPIO_API_TOKEN`` and the secret from ``RIPIO_SECRET``, unless they are given; the
        options are the constructor's.

        Raises:
            CredentialsMissing: a variable is not set.
        """
        if api_token is None:
            api_token = Secret.from_env(VENUE, config.API_TOKEN_VARIABLE)
        if secret is None:
            secret = Secret.from_env(VENUE, config.SECRET_VARIABLE)
        return cls(api_token, secret, **options)

    def _why_unusable(self, order: OrderRef) -> str | None:
        """The vendor's ids are UUIDs, echoed verbatim; external ids are free text."""
        name, longest = order.id, config.LONGEST_ID
        if name is None:
            name, longest = order.client_id or "", config.LONGEST_EXTERNAL_ID
        if not name:
            return "an order's id must not be empty"
        if len(name) > longest:
            return f"an order's id of more than {longest} characters"
        if name in {".", ".."} or not name.isprintable():
            return "an order's id must be visible characters, and no dots alone"
        if order.id is not None and order.id in config.NO_IDS:
            return "this is a name of the vendor's, and no order's"
        return None

    # -- the vendor's own calls -----------------------------------------------------------------------------------

    async def warm_up(self, *, timeout: float | None = 10.0) -> None:
        """Open the socket and compare clocks ahead of the first cancel.

        Args:
            timeout: seconds, or None.

        Raises:
            ConnectFailed: the socket cannot be opened now; attempts go on.
            RequestTimeout: time ran out; attempts go on.
            GatewayClosed: the gateway is closed.

        Canceling the call is safe.
        """
        self._dispatch.lifetime.check_open()
        async with self._calls.deadline("connect", timeout):
            asking = self._timekeeper.ask(rejected=False)
            await self._socket.warm_up()
            await asyncio.wait([asking], timeout=config.CLOCK_PATIENCE)

    async def server_time(self, *, timeout: float | None = 10.0) -> datetime:
        """The vendor's clock (page: server-time), aware, in UTC. The vendor caches the answer for up to 30 seconds.

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        return await self._calls.call(
            "server_time",
            self._timekeeper.fetch,
            lane=Lane.READ,
            repeatable=Repeatable.ALWAYS,
            timeout=timeout,
        )

    async def create(
        self,
        *,
        pair: str,
        side: str,
        type: str,
        amount: Decimal | int | None = None,
        price: Decimal | int | None = None,
        value: Decimal | int | None = None,
        stop_price: Decimal | int | None = None,
        distance: Decimal | int | None = None,
        step_amount: Decimal | int | None = None,
        external_id: str | None = None,
        post_only: bool | None = None,
        expiration: datetime | None = None,
        immediate_or_cancel: bool | None = None,
        fill_or_kill: bool | None = None,
        timeout: float | None = 30.0,
    ) -> wire.Order:
        """Create an order (page: order.create).

        Never sent twice once bytes may have left. With an ``external_id``, an order whose reply was lost is looked up
        by it: at once, and again when the vendor's 10 seconds of processing are over, or else shortly before the
        timeout, whose last second (or half, of a short one) is kept for that. A reply that comes late counts as well.
        Use a fresh ``external_id`` for each order: what the vendor answers to one that was used before is not
        documented.

        Args:
            pair: such as ``"BTC_BRL"``.
            side: ``"buy"`` or ``"sell"``.
            type: ``"limit"``, ``"market"``, ``"stop_limit"``, ``"trailing"``, ``"ceiling"`` or ``"iceberg"``.
            amount: in the base currency.
            price, stop_price: of one unit, in the quote currency.
            value: in the quote currency, for market and ceiling orders.
            distance: of a trailing order.
            step_amount: of an iceberg order, in the base currency.
            external_id: the caller's own id, 36 characters at most.
            post_only, immediate_or_cancel, fill_or_kill: as the vendor defines them.
            expiration: aware; sent in whole seconds, as in the vendor's example.
            timeout: seconds for the whole call, the look-up included, or None.

        Returns:
            The order as the vendor recorded it, from the reply or from the look-up.

        Raises:
            OutcomeUnknown: the order may or may not exist; it says how to look.
            BusinessRefusal: for example insufficient funds; nothing was created.
            VendorError: nothing was created.
            RequestFailed, GatewayClosed, UsageError: nothing was created; nothing was sent, but what was rejected for
                the time of its signature (then ``wire`` is ANSWERED).

        Canceling the call may leave an order behind if the request had left.
        """
        if external_id is not None:
            self._usable(OrderRef(client_id=external_id))
        if expiration is not None:
            _moment("expiration", expiration)
        params: dict[str, JsonValue] = {
            "pair": pair,
            "side": side,
            "type": type,
            "amount": quantity("amount", amount),
            "price": quantity("price", price),
            "value": quantity("value", value),
            "stop_price": quantity("stop_price", stop_price),
            "distance": quantity("distance", distance),
            "step_amount": quantity("step_amount", step_amount),
            "external_id": external_id,
            "post_only": post_only,
            "expiration": None if expiration is None else int(expiration.timestamp()),
            "immediate_or_cancel": immediate_or_cancel,
            "fill_or_kill": fill_or_kill,
        }
        creation, creations = Creation(params), self._dispatch.cancels.creations
        name = creation.order
        new = None if name is None else creations.new_order(name, config.CREATION_TIME)
        seconds = timeout_seconds(timeout)
        deadline = math.inf if seconds is None else clock() + seconds
        try:
            created = await self._call(
                "create",
                creation.business,
                creation.read,
                creation.time_to_answer(seconds),
                creation.how_to_check,
                late=partial(_hear_late_creation, creation, new),
                departs=None if new is None else new.departs,
            )
        except OutcomeUnknown as unknown:
            lifetime = self._dispatch.lifetime
            found = await creation.search(self._look, unknown.sent_at, deadline, lifetime)
            if found is None:
                raise
            created = found
        except GatewayError:  # it was not created
            if new is not None:
                new.is_refused()
            raise
        if new is not None:
            new.is_there()
        return created

    async def update(
        self,
        order_id: str,
        *,
        price: Decimal | int | None = None,
        amount: Decimal | int | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Change an order's price or amount; it loses its place in the queue (page: order.update).

        Never sent twice once bytes may have left: the vendor applies each. Where the vendor's pages contradict each
        other, this follows the newer ones: the order is named by ``order_id``, and amounts are numbers.

        Args:
            order_id: the vendor's id.
            price: of one unit, in the quote currency.
            amount: in the base currency.
            timeout: seconds for the whole call, or None.

        Raises:
            OutcomeUnknown: the order may or may not have been changed; it says how to look.
            OrderNotFound, BusinessRefusal: the order is not open; nothing was changed.
            VendorError: nothing was changed.
            RequestFailed, GatewayClosed, UsageError: nothing was changed; nothing was sent, but what was rejected for
                the time of its signature (then ``wire`` is ANSWERED).

        Canceling the call may leave the order changed if the request had left.
        """
        if price is None and amount is None:
            raise UsageError("an update changes the price, the amount, or both")
        self._usable(OrderRef(id=order_id))
        params: dict[str, JsonValue] = {
            "order_id": order_id,
            "price": quantity("price", price),
            "amount": quantity("amount", amount),
        }
        business = business_json({name: v for name, v in params.items() if v is not None})
        read = partial(verdict.updated, order_id=order_id)
        await self._call("update", business, read, timeout, _LOOK_AT_ORDER)

    async def order(self, order: OrderRef | str, *, timeout: float | None = 30.0) -> wire.Order:
        """The vendor's whole record of an order (page: get-order), by id or by external id.

        Raises:
            OrderNotFound: the vendor's own words.
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        name = _name(self._usable(order))
        return await self._read("order", partial(self._record, name), timeout)

    async def orders(
        self,
        pair: str,
        *,
        status: Iterable[str] = (),
        side: str | None = None,
        type: str | None = None,
        ids: Iterable[str] = (),
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        page_size: int = 200,
        current_page: int = 1,
        timeout: float | None = 30.0,
    ) -> wire.OrdersPage:
        """One page of the account's orders (page: list-orders).

        Args:
            pair: such as ``"BTC_BRL"``.
            status: the vendor's words, such as ``"open"``; all of them by default.
            side, type: only such orders.
            ids: only these orders, 10 at most.
            start_date, end_date: the period of creation, aware; 6 months at most. By default the last 6 months, since
                the vendor's pages contradict each other about theirs.
            page_size: orders per page, 1 to 1000.
            current_page: from 1.
            timeout: seconds for the whole call, or None.

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        # No end by default: it would be this machine's time, and hide what is newer by the vendor's.
        end = "" if end_date is None else _moment("end_date", end_date)
        start = start_date or _before(end_date or datetime.now(UTC), config.LONGEST_PERIOD)
        query = {
            "pair": pair,
            "status": ",".join(several_texts("status", status)),
            "side": side or "",
            "type": type or "",
            "ids": ",".join(several_texts("ids", ids)),
            "start_date": _moment("start_date", start),
            "end_date": end,
        } | _page(page_size, current_page)
        return await self._list("orders", query, timeout)

    async def open_orders(
        self,
        pair: str | None = None,
        *,
        side: str | None = None,
        page_size: int = 200,
        current_page: int = 1,
        timeout: float | None = 30.0,
    ) -> wire.OrdersPage:
        """One page of the account's open orders (page: open-orders).

        Args:
            pair: only this pair's.
            side: only this side's.
            page_size: orders per page, 1 to 1000.
            current_page: from 1.
            timeout: seconds for the whole call, or None.

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        query = {"pair": pair or "", "side": side or ""} | _page(page_size, current_page)
        return await self._list("open_orders", query, timeout)

    # -- how a cancel is sent, and an order read back -------------------------------------------------------------

    async def _send_cancel(
        self, names: Sequence[Name], exchange: Exchange
    ) -> Mapping[Name, Verdict]:
        name = names[0]
        reply = await self._signed.ask(
            exchange, _naming(name), partial(self._hear_late, name, exchange)
        )
        return {name: self._cancel_verdict(name, exchange, reply)}

    def _post_cancel(self, name: Name, batch: Batch[Name, Verdict]) -> None:
        """The same without a task: the reply is read in the step in which it comes."""
        cancel = _Cancel(self, self._admission, name, batch)
        batch.withdraw = partial(self._socket.leave, cancel)
        self._socket.post(cancel)

    def _cancel_verdict(self, name: Name, exchange: Exchange, reply: wire.Frame) -> Verdict:
        """What the reply to a cancel says; whoever is in doubt about the order is told."""
        said = verdict.cancel_verdict(reply, *name)
        if said.meaning is Meaning.STALE:
            self._timekeeper.rejected(exchange)
        self._dispatch.cancels.resolve(name, said, exchange)
        return said

    def _hear_late(self, name: Name, exchange: Exchange, reply: wire.Frame) -> None:
        """The reply to a cancel came after its end."""
        self._dispatch.cancels.resolve(name, verdict.cancel_verdict(reply, *name), exchange)

    async def _read_back(self, order: OrderRef, lane: Lane) -> Delivery[OrderSnapshot]:
        record = await self._calls.fetch(self._records, _name(order), lane)
        snapshot = None if record.value is None else verdict.snapshot_of(order, record.value)
        return Delivery(record.exchange, snapshot, record.failure)

    async def _fetch_record(
        self, names: Sequence[Name], exchange: Exchange
    ) -> Mapping[Name, wire.Order]:
        return {names[0]: await self._signed.fresh(exchange, partial(self._record, names[0]))}

    async def _record(self, name: Name, exchange: Exchange) -> wire.Order:
        order_id, external_id = name
        if order_id is not None:
            path = config.PATHS["order"].format(id=quote(order_id, safe=""))
        else:
            external_id = quote(external_id or "", safe="")
            path = config.PATHS["order_by_external_id"].format(external_id=external_id)
        reply = await self._signed.get(exchange, path)
        return verdict.order_record(reply.status, reply.body, reply.retry_after())

    async def _look(self, order: OrderRef, deadline: float) -> wire.Order | None:
        """The vendor's record of an order by a deadline (monotonic seconds), or None."""
        left = None if deadline == math.inf else deadline - clock()
        try:
            return await self.order(order, timeout=left)
        except GatewayError:
            return None

    # -- the vendor's own calls, carried ----------------------------------------------------------------------------

    async def _call(
        self,
        endpoint: str,
        business: bytes,
        read: Callable[[wire.Frame], T],
        timeout: float | None,
        how_to_check: str,
        *,
        late: Callable[[wire.Frame], object] | None = None,
        departs: Callable[[], object] | None = None,
    ) -> T:
        """A call over the socket that must not be sent twice once it may have been processed."""

        async def attempt(exchange: Exchange) -> T:
            return read(await self._signed.ask(exchange, business, late, departs))

        return await self._calls.call(
            endpoint,
            partial(self._signed.fresh, attempt=attempt),
            lane=Lane.CREATE,
            repeatable=Repeatable.UNLESS_SENT,
            timeout=timeout,
            how_to_check=how_to_check,
        )

    async def _read(
        self,
        endpoint: str,
        attempt: Callable[[Exchange], Awaitable[T]],
        timeout: float | None,
    ) -> T:
        return await self._calls.call(
            endpoint,
            partial(self._signed.fresh, attempt=attempt),
            lane=Lane.READ,
            repeatable=Repeatable.ALWAYS,
            timeout=timeout,
        )

    async def _list(
        self, endpoint: str, query: Mapping[str, str], timeout: float | None
    ) -> wire.OrdersPage:
        wanted = {name: value for name, value in query.items() if value}

        async def attempt(exchange: Exchange) -> wire.OrdersPage:
            reply = await self._signed.get(exchange, config.PATHS[endpoint], wanted)
            return verdict.orders_page(endpoint, reply.status, reply.body, reply.retry_after())

        return await self._read(endpoint, attempt, timeout)


class _Cancel(Posted[wire.Frame, "Verdict"]):
    """A cancel that is sent without a task."""

    __slots__ = ("_gateway", "_name")

    def __init__(
        self, gateway: RipioGateway, admission: Admission, name: Name, batch: Batch[Name, Verdict]
    ) -> None:
        super().__init__(admission, batch)
        self._gateway = gateway
        self._name = name

    def departing(self, key: str) -> bytes:
        """Sign it."""
        business = _naming(self._name)
        return self._gateway._signed.depart(self.exchange, "order.cancel", business, key)

    def read(self, reply: wire.Frame) -> Verdict:
        """What the vendor says."""
        self._gateway._signed.note(self.exchange, reply)
        return self._gateway._cancel_verdict(self._name, self.exchange, reply)

    def late(self, reply: wire.Frame) -> None:
        """What it says to those in doubt."""
        self._gateway._hear_late(self._name, self.exchange, reply)


def _is_chosen(name: Name) -> bool:
    """Whether the client chose the name, and may give it to another order."""
    return name[1] is not None


def _hear_late_creation(creation: Creation, new: NewOrder | None, reply: wire.Frame) -> None:
    """The reply to a creation came after its end."""
    try:
        order = creation.read(reply)
    except (BadReply, VendorFailure):
        return
    except GatewayError:
        if new is not None:
            new.is_refused()
        return
    creation.is_found(order)
    if new is not None:
        new.is_there()


def _naming(name: Name) -> bytes:
    """The parameters of a cancel."""
    order_id, external_id = name
    return business_json({"id": order_id} if order_id is not None else {"external_id": external_id})


def _read_message(
    blot: Blot, message: bytes | bytearray | memoryview
) -> tuple[str, wire.Frame] | str:
    return wire.read_message(blot(bytes(message)))


def _before(end: datetime, period: timedelta) -> datetime:
    return max(end.astimezone(UTC), datetime.min.replace(tzinfo=UTC) + period) - period


def _moment(name: str, moment: object) -> str:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise UsageError(f"{name} must be an aware datetime")
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"{name} is out of all calendars") from None
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _page(page_size: int, current_page: int) -> dict[str, str]:
    return {
        "page_size": str(whole_number("page_size", page_size, least=1)),
        "current_page": str(whole_number("current_page", current_page, least=1)),
    }
