"""TronSave Fast Charge: orders for TRON energy, created, tracked, canceled and confirmed with an API key.

Pages: docs.tronsave.io, developers/api-reference/fast-charge. One request per two seconds and call, so orders share
requests: whoever waits for the cancel call goes with the next one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from tronsave_async.adapter import Adapter
from tronsave_async.admission import Meter
from tronsave_async.arguments import several_texts, whole_number
from tronsave_async.coalescing import Delivery
from tronsave_async.credentials import Secret
from tronsave_async.dispatch import Dispatcher
from tronsave_async.errors import InvalidRequest, UsageError
from tronsave_async.http import HttpReply, HttpTransport
from tronsave_async.limiter import Lane, RateLimit, RateLimiter, Scope
from tronsave_async.orders import OrderRef, OrderSnapshot, OrderState
from tronsave_async.retry import Repeatable, RetryPolicy

from . import config, history, verdict, wire
from .config import MAINNET, VENUE

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    import aiohttp
    import msgspec

    from tronsave_async.exchange import Exchange
    from tronsave_async.settlement import Verdict
    from tronsave_async.telemetry import TelemetryHook

__all__ = ["TronSaveGateway"]

T = TypeVar("T")

_LOOK_IN_HISTORY: Final = (
    "Look with history(from_=<a little before that time>) for the receivers, amount and duration, and compare "
    "internal_balance in estimate() with the one before; a pending order may not be listed yet."
)
_LOOK_AT_CONFIRMATION: Final = (
    "Look with history() whether the orders have repay_by 'Confirmed' and a repay_at."
)


class TronSaveGateway(Adapter):
    """An `OrderGateway` for TronSave Fast Charge, and the vendor's own calls.

    Use it as an async context manager, or call `aclose`. Constructing it opens nothing. One gateway serves any number
    of tasks of one event loop.

    What is particular about TronSave's outcomes (page: cancel-order): ``Canceled.executed`` is zero where the reply
    proves the cancel, as only orders that are not matched can be canceled, and hardly ever told of other orders;
    ``Refused`` means that the vendor said no and tracking says that the order still waits. The reason that the vendor
    gives for an order is undocumented text, which proves nothing: an order that it calls unknown there, and that
    neither tracking nor the history mentions, is ``Unknown``. N orders take N / ``max_ids`` requests.

    Args:
        api_key: the API key of the prefunded internal account (page: authentication).
        base_url: `MAINNET` or `NILE`, or a sandbox's URL.
        rate_limit: in place of the documented one request per two seconds and call.
        shared_bucket: count all calls against one limit; whether the vendor does is not documented.
        max_ids: orders per request, at least 1. The vendor documents no maximum.
        limiter: share budgets with others; by default all gateways of the event loop on this key and host do.
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
        api_key: str | Secret,
        *,
        base_url: str = MAINNET,
        rate_limit: RateLimit | None = None,
        shared_bucket: bool = False,
        max_ids: int = config.MAX_IDS,
        limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        telemetry: TelemetryHook | None = None,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        request_timeout: float = 15.0,
        connect_timeout: float = 5.0,
    ) -> None:
        whole_number("max_ids", max_ids, least=1)
        key = Secret.of(api_key)
        self._http = HttpTransport(
            VENUE,
            base_url,
            headers={"apikey": key.reveal(), "Content-Type": "application/json"},
            blot=(key.reveal(),),
            session=session,
            proxy=proxy,
            ssl=ssl,
            timeout=request_timeout,
            connect_timeout=connect_timeout,
        )
        account = f"{key.account}@{self._http.host}"
        limit = config.RATE_LIMIT if rate_limit is None else rate_limit
        dispatcher = Dispatcher(
            VENUE,
            meters={
                endpoint: Meter(Scope(VENUE, account, "all" if shared_bucket else endpoint), limit)
                for endpoint in config.PATHS
            },
            transports=(self._http,),
            limiter=limiter,
            retry=RetryPolicy() if retry is None else retry,
            telemetry=telemetry,
        )
        super().__init__(dispatcher)
        cancels = self._dispatch.batcher(
            "cancel", maximum=max_ids, send=self._send_cancels, join_departed=True
        )
        self._tracks = self._dispatch.batcher(
            "track", maximum=max_ids, send=self._send_tracks, join_departed=False
        )
        self._rows = self._dispatch.batcher(
            "history", maximum=max_ids, send=self._find_rows, join_departed=False
        )
        self._dispatch.settle_with(
            cancels, self._read_back, _order_id, read_back_in_doubt=self._read_back_in_doubt
        )

    @classmethod
    def from_env(cls, api_key: str | Secret | None = None, **options: Any) -> Self:
        """Take the API key from ``TRONSAVE_API_KEY``, unless it is given; the options are the constructor's.

        Raises:
            CredentialsMissing: the variable is not set.
        """
        key = Secret.from_env(VENUE, config.API_KEY_VARIABLE) if api_key is None else api_key
        return cls(key, **options)

    async def get_order(
        self, order: OrderRef | str, *, timeout: float | None = 30.0
    ) -> OrderSnapshot:
        """Read an order by tracking, and where tracking does not tell, by its row in the history; see
        `OrderGateway.get_order` (pages: track-order, get-history).

        Tracking tells no amounts: ``executed`` and ``remaining`` are None then.
        """
        return await super().get_order(order, timeout=timeout)

    def _why_unusable(self, order: OrderRef) -> str | None:
        """Any visible text may be an id: the vendor decides."""
        if order.id is None:
            return "TronSave has no client ids: an order is named by its id"
        if not order.id:
            return "an order id must not be empty"
        if len(order.id) > config.LONGEST_ID:
            return f"an order id of more than {config.LONGEST_ID} characters"
        if not order.id.isprintable() or " " in order.id:
            return "an order id must be visible characters without spaces"
        return None

    # -- the vendor's own calls -----------------------------------------------------------------------------------

    async def estimate(
        self,
        *,
        receiver_count: int,
        amount: int,
        max_price_accept: int,
        duration_sec: int,
        resource_type: str = "ENERGY",
        timeout: float | None = 30.0,
    ) -> wire.Estimate:
        """What orders would cost now (page: estimate-trx).

        Args:
            receiver_count: how many receivers.
            amount: units of resource for each receiver.
            max_price_accept: SUN per unit of resource.
            duration_sec: seconds of the rental.
            resource_type: ``"ENERGY"``.
            timeout: seconds for the whole call, or None.

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        request = wire.EstimateRequest(
            receiver_count=whole_number("receiver_count", receiver_count, least=1),
            amount=whole_number("amount", amount, least=1),
            max_price_accept=whole_number("max_price_accept", max_price_accept, least=1),
            resource_type=resource_type,
            duration_sec=whole_number("duration_sec", duration_sec, least=1),
        )
        return await self._post(
            "estimate", request, wire.Estimate, Lane.READ, Repeatable.ALWAYS, timeout
        )

    async def create(
        self,
        *,
        receivers: Iterable[str],
        amount: int,
        max_price_accept: int,
        duration_sec: int,
        deadline: int,
        timeout: float | None = 30.0,
    ) -> list[str]:
        """Create one order for each receiver, and spend the internal account's TRX (page: create-order).

        Never repeated once bytes may have left: the vendor knows no client id that would make it safe.

        Args:
            receivers: TRON addresses.
            amount: units of resource for each receiver.
            max_price_accept: SUN per unit of resource; orders are created only below it.
            duration_sec: seconds of the rental.
            deadline: seconds for an order to be matched; then the vendor cancels and refunds it.
            timeout: seconds for the whole call, or None.

        Returns:
            The orders' ids. The vendor documents neither their order nor that there is one for each receiver: compare
            the number.

        Raises:
            OutcomeUnknown: the orders may or may not exist; it says how to look.
            BusinessRefusal: for example ``INTERNAL_BALANCE_ACCOUNT_TOO_LOW``; nothing was created.
            VendorError: nothing was created.
            RequestFailed, GatewayClosed, UsageError: nothing was sent.

        Canceling the call may leave orders behind if the request had left: look in the history.
        """
        addresses = several_texts("receivers", receivers)
        if not all(addresses) or not addresses:
            raise UsageError("receivers must be at least one address, none of them empty")
        request = wire.CreateRequest(
            max_price_accept=whole_number("max_price_accept", max_price_accept, least=1),
            amount=whole_number("amount", amount, least=1),
            duration_sec=whole_number("duration_sec", duration_sec, least=1),
            deadline=whole_number("deadline", deadline, least=1),
            receivers=addresses,
        )
        reply = await self._post(
            "create",
            request,
            wire.CreateReply,
            Lane.CREATE,
            Repeatable.UNLESS_SENT,
            timeout,
            _LOOK_IN_HISTORY,
        )
        return reply.order_ids

    async def track(
        self, order_ids: Iterable[str], *, timeout: float | None = 30.0
    ) -> dict[str, str]:
        """The vendor's word for each order (page: track-order).

        Returns:
            Order id to status, verbatim, in the order asked for. Orders that the vendor does not mention are missing.

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        ids = self._ids(order_ids)
        words = await self._calls.poll("track", self._tracks, ids, timeout)
        return {order_id: words[order_id] for order_id in ids if order_id in words}

    async def confirm(
        self, order_ids: Iterable[str], *, timeout: float | None = 30.0
    ) -> list[wire.ConfirmResult]:
        """End rentals early: unused energy is reclaimed, and the earlier the larger the refund (page: confirm-request).

        This is not a cancel, and it cannot be undone. Never repeated once bytes may have left.

        Returns:
            One result for each order that the reply mentions.

        Raises:
            OutcomeUnknown: the rentals may or may not have ended; it says how to look.
            VendorError: nothing was done.
            RequestFailed, GatewayClosed, UsageError: nothing was sent.

        Canceling the call may leave rentals ended if the request had left.
        """
        ids = self._ids(order_ids)
        if not ids:
            return []
        reply = await self._post(
            "confirm",
            wire.OrderIds(ids),
            wire.ConfirmReply,
            Lane.CREATE,
            Repeatable.UNLESS_SENT,
            timeout,
            _LOOK_AT_CONFIRMATION,
        )
        return reply.confirmation_results

    async def history(
        self,
        *,
        from_: datetime | None = None,
        to: datetime | None = None,
        page: int = 0,
        page_size: int = 10,
        timeout: float | None = 30.0,
    ) -> wire.HistoryPage:
        """One page of past orders, newest first (page: get-history).

        Args:
            from_, to: the period, aware; None for no bound.
            page: from 0.
            page_size: rows per page, at least 1. The vendor's maximum is not documented.
            timeout: seconds for the whole call, or None.

        Raises:
            VendorError, RequestFailed, GatewayClosed, UsageError.

        Canceling the call is safe.
        """
        query = history.query_of(from_, to, page, page_size)

        async def attempt(exchange: Exchange) -> wire.HistoryPage:
            return await self._page(exchange, query)

        return await self._calls.call(
            "history", attempt, lane=Lane.READ, repeatable=Repeatable.ALWAYS, timeout=timeout
        )

    async def iter_history(
        self,
        *,
        from_: datetime | None = None,
        to: datetime | None = None,
        page_size: int = 50,
        timeout: float | None = 30.0,
    ) -> AsyncIterator[wire.HistoryRow]:
        """All past orders of a period, newest first, page by page as they are consumed.

        The end of the period is fixed at the first page, so that orders created meanwhile shift nothing; a row that two
        pages repeat comes once. Arguments and errors as for `history`; the timeout is for each page.
        """
        to = to if to is not None else datetime.now(UTC) + timedelta(minutes=1)
        pages = history.Pages()
        while pages.go_on():
            page = await self.history(
                from_=from_, to=to, page=pages.next_page, page_size=page_size, timeout=timeout
            )
            for row in pages.take(page):
                yield row

    def _ids(self, order_ids: Iterable[str]) -> list[str]:
        """Each id once, in the order given."""
        ids = list(dict.fromkeys(several_texts("order_ids", order_ids)))
        for order_id in ids:
            self._usable(order_id)
        return ids

    # -- how it is sent -------------------------------------------------------------------------------------------

    async def _send(self, exchange: Exchange, request: msgspec.Struct) -> HttpReply:
        endpoint, body = exchange.endpoint, wire.encode(request)
        sending = self._http.send(
            endpoint, "POST", config.PATHS[endpoint], departing=exchange.depart, body=body
        )
        return await self._admission.carry(exchange, sending)

    async def _send_cancels(self, ids: Sequence[str], exchange: Exchange) -> Mapping[str, Verdict]:
        reply = await self._send(exchange, wire.OrderIds(ids))
        return verdict.cancel_verdicts(ids, reply.status, reply.body, reply.retry_after())

    async def _send_tracks(self, ids: Sequence[str], exchange: Exchange) -> Mapping[str, str]:
        reply = await self._send(exchange, wire.OrderIds(ids))
        return verdict.statuses(ids, reply.status, reply.body, reply.retry_after())

    async def _find_rows(
        self, ids: Sequence[str], exchange: Exchange
    ) -> Mapping[str, wire.HistoryRow]:
        """Look for orders in the history, which has no filter by id: by the time of creation that their ids carry."""
        missing = set(ids)
        found: dict[str, wire.HistoryRow] = {}
        for period in history.periods(ids, now=datetime.now(UTC)):
            pages = history.Pages()
            while missing and not exchange.is_unwanted and pages.go_on(config.HISTORY_PAGES):
                query = history.query_of(*period, pages.next_page, config.HISTORY_PAGE)
                try:
                    page = await self._next_page(exchange, query)
                except InvalidRequest:
                    break  # the vendor refuses this period; the others stand for themselves
                found |= {row.id: row for row in pages.take(page) if row.id in missing}
                missing -= found.keys()
        return found

    async def _next_page(self, exchange: Exchange, query: Mapping[str, str]) -> wire.HistoryPage:
        """The first page of a look-up goes with its admitted exchange, each further one with its own."""
        if exchange.departed_at is None:
            return await self._page(exchange, query)
        further = self._admission.open_exchange("history", exchange.orders)
        return await self._calls.admitted(further, exchange.lane, partial(self._page, query=query))

    async def _page(self, exchange: Exchange, query: Mapping[str, str]) -> wire.HistoryPage:
        sending = self._http.send(
            "history", "GET", config.PATHS["history"], departing=exchange.depart, query=query
        )
        reply = await self._admission.carry(exchange, sending)
        return history.read_page(reply.status, reply.body, reply.retry_after())

    async def _read_back(self, order: OrderRef, lane: Lane) -> Delivery[OrderSnapshot]:
        """Tracking first; the history where tracking does not tell."""
        tracked = await self._calls.fetch(self._tracks, _order_id(order), lane)
        snapshot = verdict.snapshot_of_word(order, tracked.value)
        if tracked.failure is not None or snapshot.state is not OrderState.UNKNOWN:
            return _told(tracked, snapshot)
        row = await self._calls.fetch(self._rows, _order_id(order), lane)
        return _told(row, verdict.snapshot_of_row(order, row.value) if row.value else snapshot)

    async def _read_back_in_doubt(self, order: OrderRef, lane: Lane) -> Delivery[OrderSnapshot]:
        """The same where a cancel may have been carried out: a fill takes the history's word, too."""
        tracked = await self._calls.fetch(self._tracks, _order_id(order), lane)
        snapshot = verdict.snapshot_of_word(order, tracked.value)
        unsure = snapshot.state in (OrderState.UNKNOWN, OrderState.FILLED)
        if tracked.failure is not None or not unsure:
            return _told(tracked, snapshot)
        row = await self._calls.fetch(self._rows, _order_id(order), lane)
        return _told(row, verdict.snapshot_in_doubt(order, tracked.value, row.value))

    async def _post(
        self,
        endpoint: str,
        request: msgspec.Struct,
        reply_type: type[T],
        lane: Lane,
        repeatable: Repeatable,
        timeout: float | None,
        how_to_check: str = "",
    ) -> T:
        async def attempt(exchange: Exchange) -> T:
            reply = await self._send(exchange, request)
            return verdict.read_reply(
                endpoint, reply.status, reply.body, reply_type, reply.retry_after()
            )

        return await self._calls.call(
            endpoint,
            attempt,
            lane=lane,
            repeatable=repeatable,
            timeout=timeout,
            how_to_check=how_to_check,
        )


def _told(of: Delivery[Any], snapshot: OrderSnapshot) -> Delivery[OrderSnapshot]:
    return Delivery(of.exchange, None if of.failure is not None else snapshot, of.failure)


def _order_id(order: OrderRef) -> str:
    assert order.id is not None, "checked before"
    return order.id
