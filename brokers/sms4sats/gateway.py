"""sms4sats: phone numbers for one code each, paid by Lightning hold invoices; canceled by GET (docs.sms4sats.com).

The order id is a bearer secret: whoever knows it can read the code and cancel. It travels in the query of a GET, and is
shown masked everywhere else.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from tronsave_async.adapter import Adapter
from tronsave_async.admission import Meter
from tronsave_async.cancels import Opening
from tronsave_async.coalescing import Delivery
from tronsave_async.credentials import Secret
from tronsave_async.dispatch import Dispatcher
from tronsave_async.errors import BadReply, CredentialsMissing, UsageError
from tronsave_async.http import HttpReply, HttpTransport
from tronsave_async.limiter import Lane, RateLimit, RateLimiter, Scope
from tronsave_async.orders import BearerRef, OrderRef, OrderSnapshot
from tronsave_async.outcomes import Wire
from tronsave_async.retry import Repeatable, RetryPolicy
from tronsave_async.settlement import Step

from . import config, verdict, wire
from .config import VENUE

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from decimal import Decimal

    import aiohttp

    from tronsave_async.exchange import Exchange
    from tronsave_async.settlement import Verdict
    from tronsave_async.telemetry import TelemetryHook

__all__ = ["Sms4SatsGateway"]

T = TypeVar("T")

_LOOK_AT_BALANCE: Final = "Compare balance() with the one before: there is no list of orders."


class Sms4SatsGateway(Adapter):
    """An `OrderGateway` for sms4sats' receive orders, and the vendor's own calls.

    Use it as an async context manager, or call `aclose`. Constructing it opens nothing. One gateway serves any number
    of tasks of one event loop.

    What is particular about sms4sats' outcomes (pages: cancel-order, get-order-status): `Canceled` means that the hold
    invoice was released; ``AlreadyClosed(FILLED)`` that a code was delivered and the invoice settled. There are no
    amounts. An order may be canceled two minutes after its creation: where that moment is known (``created_at`` of the
    `OrderRef`, or the order was created by this gateway), an earlier cancel waits for it, or is `TooEarly` at once if
    the caller's timeout ends before. An order older than 21 minutes, which the vendor cancels by itself, is looked at
    before it is canceled. What the vendor reports of an order that was canceled is not documented: after a refusal one
    that seems to wait is ``Unknown(last_state=OPEN)``, and `Refused` only where it is too young to have been canceled.

    Args:
        api_key: only for prepaid orders and `balance`.
        base_url: the vendor's host, or a sandbox's URL.
        early: ``"hold"`` keeps the rule of two minutes, ``"send"`` tries at once.
        rate_limit: in place of the considerate default; the vendor documents none.
        limiter: share budgets with others; by default all gateways of the event loop on this host do.
        retry: how often and how long to try again.
        telemetry: who listens.
        session: an aiohttp session of your own; it is not closed, and brings its own TLS context.
        proxy: an HTTP proxy, ``http://[user:password@]host:port``; none is taken from the environment.
        ssl: a TLS context in place of the verifying default; for an authority of your own,
            ``ssl.create_default_context(cafile=...)``.
        request_timeout: seconds for one request.
        connect_timeout: seconds for a connection to stand.

    Raises:
        UsageError: an argument is out of its range.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = config.BASE_URL,
        early: Literal["hold", "send"] = "hold",
        rate_limit: RateLimit | None = None,
        limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        telemetry: TelemetryHook | None = None,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        request_timeout: float = 15.0,
        connect_timeout: float = 5.0,
    ) -> None:
        if early not in ("hold", "send"):
            raise UsageError('early must be "hold" or "send"')
        self._key = None if api_key is None else Secret.of(api_key)
        self._holds = early == "hold"
        self._created: OrderedDict[str, datetime] = OrderedDict()
        """When the orders that this gateway created were created."""
        self._http = HttpTransport(
            VENUE,
            base_url,
            headers={"Cache-Control": "no-store", "Content-Type": "application/json"},
            blot=() if self._key is None else (self._key.reveal(),),
            session=session,
            proxy=proxy,
            ssl=ssl,
            timeout=request_timeout,
            connect_timeout=connect_timeout,
            discreet=True,
        )
        limit = config.RATE_LIMIT if rate_limit is None else rate_limit
        meter = Meter(Scope(VENUE, self._http.host, "all"), limit)
        dispatcher = Dispatcher(
            VENUE,
            meters=dict.fromkeys(config.PATHS, meter),
            transports=(self._http,),
            limiter=limiter,
            retry=RetryPolicy() if retry is None else retry,
            telemetry=telemetry,
        )
        super().__init__(dispatcher)
        cancels = self._dispatch.batcher(
            "cancel", maximum=1, send=self._send_cancel, join_departed=True
        )
        self._statuses = self._dispatch.batcher(
            "status", maximum=1, send=self._fetch_status, join_departed=False
        )
        self._dispatch.settle_with(
            cancels,
            self._read_back,
            _key_of,
            opening=self._opening,
            tells_canceled=self._was_never_canceled,
        )

    @classmethod
    def from_env(cls, api_key: str | Secret | None = None, **options: Any) -> Self:
        """Take the API key from ``SMS4SATS_API_KEY`` where that is set, unless it is given; without one everything but
        prepaid orders and `balance` works. The options are the constructor's.
        """
        if api_key is None:
            try:
                api_key = Secret.from_env(VENUE, config.API_KEY_VARIABLE)
            except CredentialsMissing:
                pass
        return cls(api_key, **options)

    def _why_unusable(self, order: OrderRef) -> str | None:
        """Any visible text may be an id: the vendor decides."""
        if order.id is None:
            return "sms4sats has no client ids: an order is named by its id"
        if not order.id:
            return "an order id must not be empty"
        if len(order.id) > config.LONGEST_ID:
            return f"an order id of more than {config.LONGEST_ID} characters"
        if not order.id.isprintable() or " " in order.id:
            return "an order id must be visible characters without spaces"
        return None

    def _ref(self, order: object) -> OrderRef:
        """The id is a secret: whatever carries the order shows it masked."""
        ref = super()._ref(order)
        return ref if ref.id is None else BearerRef(id=ref.id, created_at=ref.created_at)

    # -- the vendor's own calls -----------------------------------------------------------------------------------

    async def createorder(
        self,
        *,
        country: int | str,
        service: str,
        immediate: bool = False,
        is_rental: bool | None = None,
        realphone: bool | None = None,
        ref: str | None = None,
        timeout: float | None = 30.0,
    ) -> wire.CreatedOrder:
        """Create a receive order (page: create-receive-order).

        An order to be paid costs nothing until its invoice is paid, so its creation is repeated like a read; a prepaid
        one (``immediate``) debits the balance, and is never sent twice once bytes may have left.

        Args:
            country: the vendor's number, 999 for any; the pages allow names as well.
            service: the vendor's word, such as ``"vk"``.
            immediate: pay from the prepaid balance; needs an API key.
            is_rental, realphone: as the vendor defines them.
            ref: a referral.
            timeout: seconds for the whole call, or None.

        Raises:
            OutcomeUnknown: a prepaid order may or may not exist; it says how to look.
            BusinessRefusal: the vendor's reason; nothing was created.
            CredentialsMissing: a prepaid order needs an API key; nothing was sent.
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call may leave an order behind if the request had left.
        """
        if not service or country == "":
            raise UsageError("country and service must not be empty")
        wanted = {
            "country": country,
            "service": service,
            "isRental": is_rental,
            "realphone": realphone,
            "ref": ref,
            "immediate": immediate or None,
        }
        body = wire.encode({name: value for name, value in wanted.items() if value is not None})
        headers = self._credentials() if immediate else {}

        async def attempt(exchange: Exchange) -> wire.CreatedOrder:
            reply = await self._send(exchange, "POST", body=body, headers=headers)
            return verdict.created_order(
                reply.status, reply.body, reply.retry_after(), prepaid=immediate
            )

        created = await self._calls.call(
            "create",
            attempt,
            lane=Lane.CREATE,
            repeatable=Repeatable.UNLESS_SENT if immediate else Repeatable.ALWAYS,
            timeout=timeout,
            how_to_check=_LOOK_AT_BALANCE,
        )
        # At the latest: it may have waited for its turn, or have been repeated.
        self._remember(created.order_id, datetime.now(UTC))
        return created

    async def orderstatus(
        self, order: OrderRef | str, *, timeout: float | None = 30.0
    ) -> wire.OrderStatus:
        """What the vendor says about an order: its number, and its code once that was delivered (page:
        get-order-status).

        Raises:
            OrderNotFound, VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        order = self._usable(order)
        key = _key_of(order)
        told = await self._calls.poll("status", self._statuses, [key], timeout)
        return told[key]

    async def price(
        self,
        *,
        country: int | str | None = None,
        service: str | None = None,
        timeout: float | None = 30.0,
    ) -> wire.Price:
        """What things cost now, in satoshis (page: price).

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        query = {"country": country, "service": service}
        return await self._get("price", query, verdict.price, timeout)

    async def countries(self, *, timeout: float | None = 30.0) -> list[wire.Country]:
        """The countries in which numbers can be had (page: countries).

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        return await self._get("countries", {}, verdict.countries, timeout)

    async def services(
        self, country: int | str, *, timeout: float | None = 30.0
    ) -> list[wire.Service]:
        """The services whose codes can be had in a country, with the numbers in stock (page: numbers-status).

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        return await self._get("services", {"country": country}, verdict.services, timeout)

    async def balance(self, *, timeout: float | None = 30.0) -> Decimal:
        """The prepaid balance in satoshis (page: balance).

        Raises:
            CredentialsMissing: it needs an API key; nothing was sent.
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        return await self._get("balance", {}, verdict.balance, timeout, self._credentials())

    # -- how a cancel begins, is sent, and an order read back -----------------------------------------------------

    def _opening(self, order: OrderRef) -> Opening:
        created_at = self._created_at(order)
        if created_at is None:
            return Opening()
        now = datetime.now(UTC)
        age = max(now - created_at, timedelta(0))  # what exists was not created later
        if age >= config.AUTO_CANCEL_AFTER:
            return Opening(Step.READ_BACK)
        held = self._holds and age < config.CANCEL_AFTER
        return Opening(not_before=now + (config.CANCEL_AFTER - age) if held else None)

    def _was_never_canceled(self, order: OrderRef) -> bool:
        """What the vendor says of an order that its buyer canceled is not documented. One that is too young to have
        been canceled, and seems to wait, is alive."""
        created_at = self._created_at(order)
        if created_at is None:
            return False
        # It may be older: what is remembered is when its creation was answered.
        age = datetime.now(UTC) - created_at
        return timedelta(0) <= age < config.CANCEL_AFTER - config.CREATION_TIME

    def _created_at(self, order: OrderRef) -> datetime | None:
        return order.created_at or self._created.get(order.id or "")

    def _remember(self, order_id: str, created_at: datetime) -> None:
        self._created[order_id] = created_at
        if len(self._created) > config.REMEMBERED:
            self._created.popitem(last=False)

    async def _send_cancel(self, ids: Sequence[str], exchange: Exchange) -> Mapping[str, Verdict]:
        order_id = ids[0]
        reply = await self._send(exchange, "GET", query={"orderId": order_id})
        said = verdict.cancel_verdict(order_id, reply.status, reply.body, reply.retry_after())
        return {order_id: said}

    async def _read_back(self, order: OrderRef, lane: Lane) -> Delivery[OrderSnapshot]:
        told = await self._calls.fetch(self._statuses, _key_of(order), lane)
        snapshot = None
        if told.value is not None:
            created_at = self._created_at(order)
            overdue = (
                created_at is not None
                and datetime.now(UTC) - created_at >= config.AUTO_CANCEL_AFTER
            )
            snapshot = verdict.snapshot_of(order, told.value, overdue=overdue)
        return Delivery(told.exchange, snapshot, told.failure)

    async def _fetch_status(
        self, ids: Sequence[str], exchange: Exchange
    ) -> Mapping[str, wire.OrderStatus]:
        order_id = ids[0]
        reply = await self._send(exchange, "GET", query={"orderId": order_id})
        told = verdict.order_status(order_id, reply.status, reply.body, reply.retry_after())
        return {order_id: told}

    # -- how anything is sent -------------------------------------------------------------------------------------

    async def _send(
        self,
        exchange: Exchange,
        method: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Send one admitted request.

        Raises:
            BadReply: the reply came out of a cache.
        """
        endpoint = exchange.endpoint

        def departing(seen: bool) -> Mapping[str, str] | None:
            exchange.depart(seen)
            return headers

        sending = self._http.send(
            endpoint, method, config.PATHS[endpoint], departing=departing, query=query, body=body
        )
        reply = await self._admission.carry(exchange, sending)
        if reply.headers.get("Age", "0").strip() != "0":
            reason = "the reply came out of a cache"
            raise BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=reply.status)
        return HttpReply(reply.status, wire.Unshown(reply.body), reply.headers)

    async def _get(
        self,
        endpoint: str,
        query: Mapping[str, object],
        read: Callable[[int, bytes, float | None], T],
        timeout: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        wanted = {name: str(value) for name, value in query.items() if value is not None}

        async def attempt(exchange: Exchange) -> T:
            reply = await self._send(exchange, "GET", query=wanted, headers=headers)
            return read(reply.status, reply.body, reply.retry_after())

        return await self._read(endpoint, attempt, timeout)

    async def _read(
        self,
        endpoint: str,
        attempt: Callable[[Exchange], Awaitable[T]],
        timeout: float | None,
    ) -> T:
        return await self._calls.call(
            endpoint, attempt, lane=Lane.READ, repeatable=Repeatable.ALWAYS, timeout=timeout
        )

    def _credentials(self) -> Mapping[str, str]:
        if self._key is None:
            raise CredentialsMissing(VENUE, config.API_KEY_VARIABLE)
        return {"X-API-Key": self._key.reveal()}


def _key_of(order: OrderRef) -> str:
    """The id, whose ``repr`` shows nothing."""
    assert order.id is not None, "checked before"
    return Secret.masked(order.id)
