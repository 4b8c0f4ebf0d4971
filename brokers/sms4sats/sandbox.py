"""
sms4sats on loopback, to test a bot without phone numbers, a Lightning wallet or a network.

    from brokers.sms4sats import Sms4SatsGateway
    from brokers.sms4sats.sandbox import OrderState, Sms4SatsSandbox
    from tronsave_async.sandbox import drop_after

    async def test_my_bot_survives_a_lost_reply() -> None:
        async with Sms4SatsSandbox() as sandbox:
            order_id = sandbox.add_order()
            sandbox.advance(120)
            sandbox.faults.add(drop_after("cancel"))
            async with Sms4SatsGateway(base_url=sandbox.url) as gateway:
                await my_bot_cancels(gateway, order_id)
            assert sandbox.orders[order_id].state is OrderState.CANCELED

`sandbox.orders` is the vendor's own truth, `sandbox.requests` what it saw, `sandbox.faults` what is
to go wrong, `Sms4SatsRules` what the documentation leaves open. The vendor's clock is the machine's
plus `sandbox.clock_offset`: a test jumps over the two minutes before a cancel, or over the twenty-one
to the end, with `sandbox.advance`.

Endpoints are called by the words of `ENDPOINTS`. A request is judged in this order, as far as it
gets: route (404), what stands before the vendor (a redirect, a cache), meter (429), scripted fault,
key, query or body, the order's own life. What is answered before the scripted fault leaves the
script as it is.

Who has an order's id can cancel it and read its code. The record of requests therefore shows an id
by its last digits only; `sandbox.requests_about` finds an order's requests.

Pages: docs.sms4sats.com, api-reference: create-receive-order, get-order-status, cancel-order,
create-send-order, price, fund, balance, history.
"""

from __future__ import annotations

import enum
import hashlib
import html
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import msgspec
from msgspec.structs import replace

from tronsave_async.sandbox import (
    Decision,
    Fault,
    FaultScript,
    HttpReply,
    HttpRequest,
    LoopbackServer,
    Processing,
    RecordedRequest,
    RequestLog,
    SlidingWindow,
    http_date,
    peak_in_window,
    replaced,
)
from tronsave_async.simulator import Simulator

if TYPE_CHECKING:
    import ssl
    from typing import TypeGuard

__all__ = [
    "COUNTRIES",
    "ENDPOINTS",
    "NO_NUMBER",
    "REASONS",
    "SERVICES",
    "UNABLE_TO_SAVE",
    "Blank",
    "CancelAnswer",
    "ClockStart",
    "Invoice",
    "OrderKind",
    "OrderState",
    "Problem",
    "Reading",
    "RetryAfter",
    "SandboxOrder",
    "Sms4SatsRules",
    "Sms4SatsSandbox",
    "SmsStatus",
    "WireType",
    "unable_to_save",
]

ENDPOINTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "availability": ("GET", "/"),
        "countries": ("GET", "/getCountries"),
        "rental_countries": ("GET", "/getRentalCountries"),
        "stock": ("GET", "/getnumbersstatus"),
        "price": ("GET", "/price"),
        "create": ("POST", "/createorder"),
        "status": ("GET", "/orderstatus"),
        "cancel": ("GET", "/cancelorder"),
        "send": ("POST", "/createsendorder"),
        "fund": ("POST", "/fund"),
        "balance": ("GET", "/balance"),
        "history": ("GET", "/history"),
    }
)
"""Method and path of each endpoint, by its word."""

ROUTES = {route: endpoint for endpoint, route in ENDPOINTS.items()}

COUNTRIES: Mapping[int, str] = MappingProxyType(
    {0: "Russia", 12: "USA virtual", 22: "India", 43: "Germany", 187: "USA", 999: "Auto select"}
)
"""Countries on offer. 0, 12, 187 and 999 are the vendor's; the other numbers are invented."""

SERVICES: Mapping[str, str] = MappingProxyType({"openAI": "OpenAI", "tg": "Telegram", "vk": "VK"})
"""Services in the lists. An order is taken for any service."""

UNABLE_TO_SAVE = "unable to save data"
"""The one documented reason of a failed cancel."""

NO_NUMBER = (
    "No available number, payment request is canceled. "
    "Your funds are returned to your wallet automatically."
)
"""The documented `error` of a paid order for which there is no number."""

CODE = "48010"
"""The code that is delivered when nobody says which."""

NUMBER = 12_345_678_901
"""The phone number that is assigned when nobody says which."""


# --- an order's life ------------------------------------------------------------------------------


class OrderKind(enum.Enum):
    """What was ordered."""

    RECEIVE = "receive"
    """A number that receives one code."""

    RENTAL = "rental"
    """A number for some time."""

    SEND = "send"
    """A message to be sent."""

    FUND = "fund"
    """Money for the prepaid balance."""


class OrderState(enum.Enum):
    """What an order really is: the sandbox's truth. The vendor itself has no word for it."""

    WAITING = "waiting"
    """For its payment, for a number or for a code; of a message, to be sent."""

    DELIVERED = "delivered"
    """The code arrived, the message was sent, the balance was funded: irreversible."""

    CANCELED = "canceled"
    EXPIRED = "expired"
    """No code in time: canceled by the clock."""

    NO_NUMBER = "no number"
    """Paid, but no number was available."""

    FAILED = "failed"
    """The message could not be sent."""


class Invoice(enum.Enum):
    """What has become of an order's hold invoice, or of the prepaid sats in its place."""

    UNPAID = "unpaid"
    HELD = "held"
    """Paid; the sats are locked, and can still go either way."""

    SETTLED = "settled"
    """The vendor has the sats: irreversible."""

    RELEASED = "released"
    """The payer has the sats back."""


class SmsStatus(enum.Enum):
    """How far a message is, in the vendor's words."""

    CREATED = "created"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"


SECRETS = frozenset({"id", "code", "preimage"})
"""What an order does not show."""


class SandboxOrder(msgspec.Struct, frozen=True, kw_only=True):
    """
    The vendor's own truth about an order. Amounts of money in sats, times aware UTC.

    Its `repr` masks what is secret: the id (but for its last digits), the code, the preimage.

    Attributes:
        id: 64 hexadecimal digits, the payment hash of its invoice: a bearer secret.
        kind: What was ordered.
        state: Its state.
        invoice: What has become of the money.
        price: What it costs.
        prepaid: Whether it was paid for from the prepaid balance.
        country: The country's name; of a message or a funding empty.
        service: The service; of a message or a funding empty.
        activation: The vendor's number for it, `id` in its status.
        number: The phone number that was assigned; None as long as there is none.
        code: The code that arrived, as it was sent, leading zeros included.
        sms: How far the message is; None for other kinds.
        created_at: When it was created.
        updated_at: When it last changed.
        paid_at: When it was paid.
        preimage: What the id is the hash of.
        recorded: Whether the vendor's record shows its end. It does not if the money was released
            and saving failed (`unable_to_save`).
        cancel_requests: How many cancels of it reached the vendor, lost and rejected ones included.
        cancels: How many of them were processed, whatever they achieved.
    """

    id: str
    kind: OrderKind
    state: OrderState
    invoice: Invoice
    price: int
    prepaid: bool
    country: str
    service: str
    activation: int
    created_at: datetime
    updated_at: datetime
    preimage: str
    number: int | None = None
    code: str | None = None
    sms: SmsStatus | None = None
    paid_at: datetime | None = None
    recorded: bool = True
    cancel_requests: int = 0
    cancels: int = 0

    def __repr__(self) -> str:
        """Mask what is secret."""
        return f"SandboxOrder({', '.join(f'{n}={v!r}' for n, v in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(n, _shown(v) if v is not None and n in SECRETS else v) for n, v in shown]

    @property
    def released(self) -> bool:
        """Whether the payer has the sats back."""
        return self.invoice is Invoice.RELEASED


SHOWN_DIGITS = 4
SECRET = re.compile(r"[0-9a-fA-F]{64,}")


def _shown(secret: str) -> str:
    """Return what may be shown of an id or another secret: the last digits of a long one."""
    return "***" + (secret[-SHOWN_DIGITS:] if SECRET.fullmatch(secret) else "")


def _hidden(text: str) -> str:
    """Return a text with everything masked in it that looks like an order's id, encoded or not."""
    plain = unquote_plus(text)
    return SECRET.sub(lambda found: _shown(found[0]), plain if SECRET.search(plain) else text)


# --- what the documentation leaves open -----------------------------------------------------------


class CancelAnswer(enum.Enum):
    """How the vendor answers a cancel that finds the order in some situation."""

    ACCEPTED = "accepted"
    """200 OK; whatever is still alive and not settled is canceled and its invoice released."""

    REFUSED = "refused"
    """`{status: 'error', reason}`; nothing is done."""

    IGNORED = "ignored"
    """200 OK; nothing is done."""

    OK_WITH_ERROR = "ok with error"
    """200 `{status: 'OK', error}`, as a failed order's status is worded; nothing is done."""


class Reading(enum.Enum):
    """What the status of a dead order says."""

    ERROR = "error"
    """`status` OK and an `error`, as documented for an order without a number."""

    SILENT = "silent"
    """The same as before its end: no `error`, no `code`."""

    UNPAID = "unpaid"
    """`paid` is false, as if there had never been a payment."""

    REFUSED = "refused"
    """`{status: 'error', reason}`."""

    GONE = "gone"
    """Whatever is answered about an unknown id."""


class Problem(enum.Enum):
    """Why a request is refused."""

    TOO_EARLY = "too early"
    DELIVERED = "delivered"
    CANCELED = "canceled"
    EXPIRED = "expired"
    NO_NUMBER = "no number"
    UNPAID = "unpaid"
    RENTAL = "rental"
    NOT_RECEIVE = "not a receive order"
    UNKNOWN = "unknown id"
    INVALID = "invalid request"
    KEY_MISSING = "key missing"
    KEY_INVALID = "key invalid"
    NO_FUNDS = "balance too low"
    TOO_MANY = "too many requests"


REASONS: Mapping[Problem, str | None] = MappingProxyType(
    {
        Problem.TOO_EARLY: "order can be canceled after 2 minutes",
        Problem.DELIVERED: "code already received",
        Problem.CANCELED: "order already canceled",
        Problem.EXPIRED: "order expired",
        Problem.NO_NUMBER: "order already canceled",
        Problem.UNPAID: "order not paid",
        Problem.RENTAL: "rental can not be canceled",
        Problem.NOT_RECEIVE: "order can not be canceled",
        Problem.UNKNOWN: "order not found",
        Problem.INVALID: "invalid parameters",
        Problem.KEY_MISSING: "api key required",
        Problem.KEY_INVALID: "invalid api key",
        Problem.NO_FUNDS: "insufficient balance",
        Problem.TOO_MANY: "too many requests",
    }
)
"""Invented `reason` texts: none is documented."""

ENDS: Mapping[OrderState, Problem] = MappingProxyType(
    {
        OrderState.DELIVERED: Problem.DELIVERED,
        OrderState.CANCELED: Problem.CANCELED,
        OrderState.EXPIRED: Problem.EXPIRED,
        OrderState.NO_NUMBER: Problem.NO_NUMBER,
    }
)
"""Why an order in this state cannot be canceled."""


class ClockStart(enum.Enum):
    """From when the two and the twenty-one minutes of an order count."""

    CREATED = "created"
    PAID = "paid"
    """An order that is not paid has no clock yet."""


class WireType(enum.Enum):
    """How a number is written."""

    NUMBER = "number"
    TEXT = "text"


class Blank(enum.Enum):
    """How a field without a value is written."""

    MISSING = "missing"
    NULL = "null"
    ZERO = "zero"
    EMPTY = "empty"


BLANKS: Mapping[Blank, Any] = MappingProxyType({Blank.NULL: None, Blank.ZERO: 0, Blank.EMPTY: ""})


class RetryAfter(enum.Enum):
    """Whether a 429 of the meter carries a Retry-After header, and in which form."""

    ABSENT = "absent"
    SECONDS = "seconds"
    DATE = "date"


class Sms4SatsRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the simulated vendor behaves where its documentation is silent or contradicts itself.

    A client that is right under every combination of these is right at the vendor.

    Attributes:
        cancel_after: Seconds after which a cancel is allowed. Documented; here to be shortened.
        cancel_counts_from: From when they count; undocumented.
        expire_after: Seconds after which an order without a code is canceled. 21 minutes are
            documented, a tutorial says 20.
        expire_counts_from: From when they count; undocumented.
        rentals_expire: Whether that applies to rentals, too; undocumented.
        early_cancel: How a cancel within `cancel_after` is answered; undocumented.
        unpaid_cancel: The same for an order that was never paid; undocumented. Unless the answer is
            ACCEPTED, it can still be paid.
        delivered_cancel: The same once the code was delivered; undocumented. ACCEPTED has no effect
            but the answer: the invoice is settled, and stays so.
        repeated_cancel: The same for an order that was canceled before; undocumented.
        expired_cancel: The same for an order that the clock canceled; undocumented.
        no_number_cancel: The same for an order that found no number; undocumented.
        rental_cancel: The same for a rental: the sources contradict each other. ACCEPTED treats it
            like any order, the two minutes included.
        send_cancel: The same for a message or a funding: "cancels a receive order" is all that the
            documentation says. ACCEPTED cancels it, as long as it waits.
        unknown_cancel: The same for an unknown id; undocumented.
        unknown_reads_unpaid: Whether the status of an unknown id is OK and `paid` false, or
            refused; undocumented.
        reasons: The `reason` texts, and the `error` texts of OK_WITH_ERROR. None of them is
            documented. One that is None, or left out, leaves the field out.
        refusal_status: HTTP status of a refusal. 500 is documented, 200 is seen at front ends.
        unknown_status: HTTP status of a refusal about an unknown id; undocumented.
        key_status: HTTP status of a refusal about a key; undocumented.
        canceled_reads: What the status of a canceled order says; undocumented.
        canceled_error: Its `error` under `Reading.ERROR`; undocumented.
        expired_reads: What the status of an order says that the clock canceled; undocumented.
        expired_error: Its `error` under `Reading.ERROR`; undocumented.
        unsaved_release_shows: Whether an order that was released and not saved (`unable_to_save`)
            reads as canceled, or as alive; undocumented.
        code_as: How a code is written: documented as a number, read as text by a client. As a number
            it loses its leading zeros; one that is not all digits is text anyway.
        number_as: How a phone number is written; both are seen.
        balance_as: How the balance is written; undocumented.
        prices_as: How prices are written; None: as documented, some so and some so.
        blank_code: How a code is written that has not arrived; undocumented.
        blank_number: How a number is written that is not assigned; clients expect 0.
        blank_error: How a live order's status says that there is no error. Documented are statuses
            without the field.
        timestamp_of_change: Whether a status' `timestamp` is of the last change, or of the creation;
            undocumented.
        country_names: Whether an order may name its country: typed a number, but said to work.
        message_limit: The most characters of a message: documented 140, on the website 1600.
        key_needed: Endpoints that need the key always. "create" and "send" need it for `immediate`.
        prepaid_refunded: Whether released sats go back to the prepaid balance they came from, or
            nowhere; undocumented.
        redirects_to: A base URL to which every request is redirected, unprocessed; None: no
            redirects. Redirects are undocumented.
        redirect_status: Their HTTP status.
        cached: Seconds by endpoint for which a proxy before the vendor answers GET requests again
            as it did, with an Age header; undocumented. Only successes are kept.
        cache_obeys: Whether the proxy obeys a request's Cache-Control and Pragma.
        retry_after: The Retry-After header of a 429; undocumented.
        rejected_count: Whether a request rejected with 429 counts against the limit.
    """

    cancel_after: float = 120.0
    cancel_counts_from: ClockStart = ClockStart.CREATED
    expire_after: float = 1260.0
    expire_counts_from: ClockStart = ClockStart.CREATED
    rentals_expire: bool = False
    early_cancel: CancelAnswer = CancelAnswer.REFUSED
    unpaid_cancel: CancelAnswer = CancelAnswer.ACCEPTED
    delivered_cancel: CancelAnswer = CancelAnswer.REFUSED
    repeated_cancel: CancelAnswer = CancelAnswer.REFUSED
    expired_cancel: CancelAnswer = CancelAnswer.REFUSED
    no_number_cancel: CancelAnswer = CancelAnswer.REFUSED
    rental_cancel: CancelAnswer = CancelAnswer.REFUSED
    send_cancel: CancelAnswer = CancelAnswer.REFUSED
    unknown_cancel: CancelAnswer = CancelAnswer.REFUSED
    unknown_reads_unpaid: bool = False
    reasons: Mapping[Problem, str | None] = REASONS
    refusal_status: int = 500
    unknown_status: int = 500
    key_status: int = 500
    canceled_reads: Reading = Reading.ERROR
    canceled_error: str = "Order canceled. Your funds are returned to your wallet automatically."
    expired_reads: Reading = Reading.ERROR
    expired_error: str = "Order expired. Your funds are returned to your wallet automatically."
    unsaved_release_shows: bool = False
    code_as: WireType = WireType.NUMBER
    number_as: WireType = WireType.NUMBER
    balance_as: WireType = WireType.NUMBER
    prices_as: WireType | None = None
    blank_code: Blank = Blank.MISSING
    blank_number: Blank = Blank.ZERO
    blank_error: Blank = Blank.MISSING
    timestamp_of_change: bool = False
    country_names: bool = True
    message_limit: int = 140
    key_needed: frozenset[str] = frozenset({"fund", "balance", "history"})
    prepaid_refunded: bool = True
    redirects_to: str | None = None
    redirect_status: int = 302
    cached: Mapping[str, float] = MappingProxyType({})
    cache_obeys: bool = True
    retry_after: RetryAfter = RetryAfter.ABSENT
    rejected_count: bool = False

    def answer(self, problem: Problem) -> CancelAnswer:
        """Return how a cancel is answered that meets this problem."""
        answers = {
            Problem.TOO_EARLY: self.early_cancel,
            Problem.UNPAID: self.unpaid_cancel,
            Problem.DELIVERED: self.delivered_cancel,
            Problem.CANCELED: self.repeated_cancel,
            Problem.EXPIRED: self.expired_cancel,
            Problem.NO_NUMBER: self.no_number_cancel,
            Problem.RENTAL: self.rental_cancel,
            Problem.NOT_RECEIVE: self.send_cancel,
            Problem.UNKNOWN: self.unknown_cancel,
        }
        return answers.get(problem, CancelAnswer.REFUSED)

    def status(self, problem: Problem) -> int:
        """Return the HTTP status of a refusal."""
        statuses = {
            Problem.UNKNOWN: self.unknown_status,
            Problem.KEY_MISSING: self.key_status,
            Problem.KEY_INVALID: self.key_status,
            Problem.TOO_MANY: 429,
        }
        return statuses.get(problem, self.refusal_status)

    def cancelable_at(self, order: SandboxOrder) -> datetime | None:
        """Return from when on an order can be canceled; None, if its clock has not started."""
        return _after(order, self.cancel_counts_from, self.cancel_after)

    def expires_at(self, order: SandboxOrder) -> datetime | None:
        """Return when the clock cancels an order; None, if it does not."""
        expiring = {OrderKind.RECEIVE} | ({OrderKind.RENTAL} if self.rentals_expire else set())
        if order.kind not in expiring:
            return None
        return _after(order, self.expire_counts_from, self.expire_after)


def _after(order: SandboxOrder, start: ClockStart, seconds: float) -> datetime | None:
    """Return the time so many seconds after an order's clock started."""
    started = order.created_at if start is ClockStart.CREATED else order.paid_at
    return None if started is None else started + timedelta(seconds=seconds)


# --- the book -------------------------------------------------------------------------------------


class _OrderBook(Mapping[str, SandboxOrder]):
    """
    The vendor's orders and the prepaid balance: every change of either is made here.

    As a mapping it shows the orders by id. An order past its time expires when it is looked at.

    Args:
        balance: The prepaid balance, in sats.
        now: The vendor's clock.
        rules: What the documentation leaves open.
    """

    def __init__(self, *, balance: int, now: Callable[[], datetime], rules: Sms4SatsRules) -> None:
        self.balance = balance
        self.rules = rules
        self._now = now
        self._orders: dict[str, SandboxOrder] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[str]:
        return iter(self._orders)

    def __getitem__(self, order_id: str) -> SandboxOrder:
        order = self.look(order_id, self._now())
        if order is None:
            raise KeyError(_shown(order_id))
        return order

    def __repr__(self) -> str:
        return f"<OrderBook of {len(self)}>"

    def place(self, order: SandboxOrder) -> None:
        """Add an order."""
        self._orders[order.id] = order

    def look(self, order_id: str, at: datetime) -> SandboxOrder | None:
        """Return an order as it is at a time, or None."""
        order = self._orders.get(order_id)
        if order is None or order.state is not OrderState.WAITING:
            return order
        end = self.rules.expires_at(order)
        return order if end is None or at < end else self._end(order, OrderState.EXPIRED, end)

    def pay(self, order_id: str, at: datetime) -> bool:
        """Take the payment of an order that waits for it; return whether it did."""
        order = self.look(order_id, at)
        if not _is(order, Invoice.UNPAID):
            return False
        paid = self._change(order, at, invoice=Invoice.HELD, paid_at=at)
        if paid.kind is OrderKind.FUND:
            self._end(paid, OrderState.DELIVERED, at)
            self.balance += paid.price
        return True

    def assign(self, order_id: str, at: datetime, number: int) -> bool:
        """Assign a phone number to a paid order that waits; return whether it did."""
        order = self.look(order_id, at)
        if not _is(order, Invoice.HELD) or order.kind is OrderKind.SEND:
            return False
        self._change(order, at, number=number)
        return True

    def deliver(self, order_id: str, at: datetime, code: str) -> bool:
        """Deliver a code for a paid order that waits, and settle; return whether it did."""
        order = self.look(order_id, at)
        if not _is(order, Invoice.HELD) or order.kind is OrderKind.SEND:
            return False
        number = NUMBER if order.number is None else order.number
        self._end(order, OrderState.DELIVERED, at, code=code, number=number)
        return True

    def fail(self, order_id: str, at: datetime) -> bool:
        """End a paid order that waits because there is no number; return whether it waited."""
        order = self.look(order_id, at)
        if not _is(order, Invoice.HELD) or order.kind is OrderKind.SEND:
            return False
        self._end(order, OrderState.NO_NUMBER, at, number=None)
        return True

    def move(self, order_id: str, at: datetime, sms: SmsStatus) -> bool:
        """Move a paid message on; return whether it could be."""
        order = self.look(order_id, at)
        if order is None or (order.sms, sms) not in MESSAGE_MOVES:
            return False
        if order.invoice not in {Invoice.HELD, Invoice.SETTLED}:
            return False
        if order.state is OrderState.DELIVERED:
            self._change(order, at, sms=sms)
            return True
        failed = sms is SmsStatus.FAILED
        self._end(order, OrderState.FAILED if failed else OrderState.DELIVERED, at, sms=sms)
        return True

    def cancel(
        self,
        order_id: str,
        at: datetime,
        *,
        state: OrderState = OrderState.CANCELED,
        saved: bool = True,
    ) -> bool:
        """
        Cancel an order that waits, and release its money; return whether it waited.

        Args:
            order_id: The order.
            at: When.
            state: CANCELED, or EXPIRED.
            saved: Whether the vendor's record shows it. An order whose record does not show its
                end can be canceled again to make it so.
        """
        order = self.look(order_id, at)
        if order is None or (order.state is not OrderState.WAITING and order.recorded):
            return False
        if order.recorded:
            self._end(order, state, at, recorded=saved)
        else:
            self._change(order, at, recorded=saved)
        return True

    def count_request(self, order_id: str) -> None:
        """Count a cancel that reached the vendor."""
        if order_id in self._orders:
            order = self._orders[order_id]
            self._orders[order_id] = replace(order, cancel_requests=order.cancel_requests + 1)

    def count_cancel(self, order_id: str) -> None:
        """Count a cancel that was processed on an order."""
        order = self._orders[order_id]
        self._orders[order_id] = replace(order, cancels=order.cancels + 1)

    def fundings(self) -> list[SandboxOrder]:
        """Return the fundings that were paid."""
        orders = self._orders.values()
        return [o for o in orders if o.kind is OrderKind.FUND and o.invoice is Invoice.SETTLED]

    def _change(self, order: SandboxOrder, at: datetime, **changes: Any) -> SandboxOrder:
        self._orders[order.id] = changed = replace(order, updated_at=at, **changes)
        return changed

    def _end(
        self, order: SandboxOrder, state: OrderState, at: datetime, **changes: Any
    ) -> SandboxOrder:
        """End an order: what is held is settled if it was delivered, else released."""
        invoice = order.invoice
        if invoice is Invoice.HELD:
            delivered = state is OrderState.DELIVERED
            invoice = Invoice.SETTLED if delivered else Invoice.RELEASED
            if not delivered and order.prepaid and self.rules.prepaid_refunded:
                self.balance += order.price
        return self._change(order, at, state=state, invoice=invoice, **changes)


MESSAGE_MOVES = {
    (SmsStatus.CREATED, SmsStatus.SENT),
    (SmsStatus.CREATED, SmsStatus.DELIVERED),
    (SmsStatus.CREATED, SmsStatus.FAILED),
    (SmsStatus.SENT, SmsStatus.DELIVERED),
}
"""How a message can move on."""


def _is(order: SandboxOrder | None, invoice: Invoice) -> TypeGuard[SandboxOrder]:
    """Return whether an order waits, its invoice like this."""
    return order is not None and order.state is OrderState.WAITING and order.invoice is invoice


# --- the record -----------------------------------------------------------------------------------


class _MaskedLog(RequestLog):
    """A record of requests in which no order's id can be read."""

    def append(self, entry: RecordedRequest) -> None:
        """Record an arrival with its ids masked."""
        raw = SECRET_BYTES.sub(lambda found: b"***" + found[0][-SHOWN_DIGITS:], entry.raw)
        masked = replace(
            entry,
            path=_hidden(entry.path),
            query="&".join(map(_hidden_pair, entry.query.split("&"))),
            raw=raw,
            body=entry.body if raw == entry.raw else _json(raw),
            headers={name: _hidden(value) for name, value in entry.headers.items()},
        )
        super().append(masked)


SECRET_BYTES = re.compile(rb"[0-9a-fA-F]{64,}")


def _hidden_pair(pair: str) -> str:
    """Return a name and value of a query with everything masked that may be an order's id."""
    name, _, value = (unquote_plus(part) for part in pair.partition("="))
    return f"{name}={_shown(value)}" if name.lower() == "orderid" else _hidden(pair)


def _json(raw: bytes) -> Any:
    """Return a body decoded as JSON, or None."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# --- replies --------------------------------------------------------------------------------------


class _Refusal(Exception):
    """A request is answered with an error; nothing was done."""

    def __init__(self, reply: HttpReply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def _reply(status: int, body: Any, headers: Mapping[str, str] | None = None) -> HttpReply:
    """Return a reply with a JSON body."""
    return HttpReply(status=status, body=msgspec.json.encode(body), headers=headers or {})


def _no_route(request: HttpRequest) -> HttpReply:
    """Return the usual page of the vendor's kind of server for a path that does not exist."""
    path = html.escape(request.target.partition("?")[0])
    page = f"<!DOCTYPE html>\n<html><body><pre>Cannot {request.method} {path}</pre></body></html>\n"
    headers = {"Content-Type": "text/html; charset=utf-8"}
    return HttpReply(status=404, body=page.encode(), headers=headers)


def unable_to_save(*, released: bool, times: int = 1) -> Fault:
    """
    Answer a cancel with the documented 500 "unable to save data".

    The text does not say whether the invoice was released before saving failed.

    Args:
        released: Whether it was. Then the sats are back, while the vendor's record still says that
            the order waits; the next cancel saves it. Else nothing was done. A cancel that would
            not have been accepted releases nothing.
        times: How many cancels it befalls.
    """
    body = msgspec.json.encode({"status": "error", "reason": UNABLE_TO_SAVE})
    return replaced("cancel", status=500, body=body, times=times, processed=released)


def _saves(fault: Fault | None) -> bool:
    """Return whether what a request does is saved."""
    return fault is None or fault.body is None or UNABLE_TO_SAVE.encode() not in fault.body


def _written(value: int, kind: WireType) -> int | str:
    """Return a number as it is written."""
    return value if kind is WireType.NUMBER else str(value)


def _milliseconds(moment: datetime) -> int:
    """Return a time in whole milliseconds since 1970."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _wall_clock() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def _bypasses(request: HttpRequest) -> bool:
    """Return whether a request asks proxies not to answer it."""
    asked = f"{request.headers.get('cache-control', '')},{request.headers.get('pragma', '')}"
    return any(word in asked.lower() for word in ("no-cache", "no-store", "max-age=0"))


# --- the vendor -----------------------------------------------------------------------------------

DOCUMENTED_PRICES: Mapping[str, WireType] = MappingProxyType(
    {
        "receive": WireType.TEXT,
        "send": WireType.NUMBER,
        "rent": WireType.NUMBER,
        "s4s": WireType.TEXT,
    }
)
"""How the documented example writes each price."""

PRICES: Mapping[str, int] = MappingProxyType(
    {"receive": 1500, "send": 3000, "rent": 15_000, "s4s": 4000}
)
"""The prices of the documented example, in sats."""

PHONE = re.compile(r"\+[1-9]\d{6,14}")


class Sms4SatsSandbox(Simulator):
    """
    The sms4sats API, served on 127.0.0.1.

    Use it as an asynchronous context manager, or call `start` and `aclose`, from any tasks.

    Args:
        api_key: The `X-API-Key` that is accepted.
        requests_per_window: How many requests the vendor admits in a window; None: any number. No
            limit is documented.
        window: The window's length in seconds.
        shared_bucket: Whether all endpoints share one limit, or have one each. It is metered by
            address, and so for all clients together.
        jitter: Each request and each reply travels for a random time up to this, in seconds.
        seed: Of every random number: travel times, ids.
        balance: The prepaid balance, in sats.
        prices: In sats: receive, send, rent, s4s.
        rules: What the documentation leaves open.
        now: The wall clock, returning aware times; delays and the meter use `loop.time()`.
        ssl_context: Serve TLS with it.
        keepalive: Seconds after which an idle connection is closed.

    Attributes:
        faults: The script of what goes wrong.
        prices: May be set at any time.
        clock_offset: Seconds by which the vendor's clock is ahead of `now`; may be set at any time.
        rejections: How many requests the meter has rejected. A scripted 429 is not one of them.
    """

    credentials = frozenset({"x-api-key"})

    def __init__(
        self,
        *,
        api_key: str = "sandbox-key",
        requests_per_window: int | None = None,
        window: float = 1.0,
        shared_bucket: bool = True,
        jitter: float = 0.0,
        seed: int = 0,
        balance: int = 100_000,
        prices: Mapping[str, int] = PRICES,
        rules: Sms4SatsRules | None = None,
        now: Callable[[], datetime] = _wall_clock,
        ssl_context: ssl.SSLContext | None = None,
        keepalive: float = 75.0,
    ) -> None:
        self.api_key = api_key
        self.faults = FaultScript(ENDPOINTS)
        self.prices = prices
        self.clock_offset = 0.0
        self.rejections = 0
        self._limit = requests_per_window
        self._window = window
        self._shared_bucket = shared_bucket
        self._meters: dict[str, SlidingWindow] = {}
        # What the proxy has kept: when, and the reply, by path and query.
        self._kept: dict[str, tuple[datetime, HttpReply]] = {}
        # The numbers of the requests about each id, in order of arrival.
        self._about: dict[str, list[int]] = {}
        self._wall_clock = now
        self._random = random.Random(seed)
        self._book = _OrderBook(balance=balance, now=self.now, rules=rules or Sms4SatsRules())
        self._server = LoopbackServer(
            self,
            now=self.now,
            jitter=jitter,
            seed=seed,
            ssl_context=ssl_context,
            keepalive=keepalive,
            log=_MaskedLog(),
        )
        super().__init__(self._server.log, [self._server], window=window)

    # What a test looks at.

    @property
    def url(self) -> str:
        """The base URL, for example "http://127.0.0.1:1234"."""
        return self._server.url

    @property
    def orders(self) -> Mapping[str, SandboxOrder]:
        """The vendor's own truth, by order id: a live view of frozen records."""
        return self._book

    @property
    def rules(self) -> Sms4SatsRules:
        """What the documentation leaves open; may be set at any time."""
        return self._book.rules

    @rules.setter
    def rules(self, rules: Sms4SatsRules) -> None:
        self._book.rules = rules

    @property
    def balance(self) -> int:
        """The prepaid balance in sats; may be set."""
        return self._book.balance

    @balance.setter
    def balance(self, balance: int) -> None:
        self._book.balance = balance

    def requests_about(self, order_id: str) -> Sequence[RecordedRequest]:
        """Return the requests so far that named this id, which need not be an order's."""
        return tuple(self._server.log[number] for number in self._about.get(order_id, ()))

    def peak_in_window(self, endpoint: str | None = None) -> int:
        """
        Return the most requests that arrived within any window, rejected ones too.

        Args:
            endpoint: At this endpoint; None: at all together.
        """
        seen = self.requests if endpoint is None else self.requests_to(endpoint)
        return peak_in_window([entry.arrived for entry in seen], self._window)

    # What a test makes happen.

    def now(self) -> datetime:
        """Return the vendor's time."""
        return self._wall_clock() + timedelta(seconds=self.clock_offset)

    def advance(self, seconds: float) -> None:
        """
        Move the vendor's clock on. A gateway goes by its own, and holds the cancel of a young order
        back as before: give it ``OrderRef(id=..., created_at=...)``, or ``early="send"``.
        """
        self.clock_offset += seconds

    def add_order(
        self,
        *,
        kind: OrderKind = OrderKind.RECEIVE,
        paid: bool = True,
        prepaid: bool = False,
        created_at: datetime | None = None,
        paid_at: datetime | None = None,
        number: int | None = NUMBER,
        price: int | None = None,
        country: str = "India",
        service: str = "openAI",
        activation: int | None = None,
    ) -> str:
        """
        Place an order that waits.

        Args:
            kind: What was ordered.
            paid: Whether it was paid for earlier; the prepaid balance stays as it is, unless what
                was paid for is a funding.
            prepaid: Whether that was from the prepaid balance.
            created_at: Aware; by default now.
            paid_at: Aware; by default when it was created.
            number: The phone number of a paid order; None: none is assigned yet.
            price: In sats; by default the vendor's.
            country: The country's name.
            service: The service.
            activation: The vendor's number for it; by default random.

        Returns:
            The order's id.
        """
        at = created_at or self.now()
        order = self._place(kind, at, price=price, country=country, service=service)
        order_id = order.id
        if prepaid or activation is not None:
            activation = order.activation if activation is None else activation
            self._book.place(replace(order, prepaid=prepaid, activation=activation))
        if paid:
            self._book.pay(order_id, paid_at or at)
            if number is not None:
                self._book.assign(order_id, paid_at or at, number)
        return order_id

    def pay(self, order_id: str) -> None:
        """
        Pay an order's invoice.

        Raises:
            ValueError: If the order does not wait for it.
            KeyError: If there is no such order.
        """
        self._settled(order_id, self._book.pay(order_id, self.now()))

    def assign_number(self, order_id: str, number: int = NUMBER) -> None:
        """Assign a phone number to a paid order that waits. Raises like `pay`."""
        self._settled(order_id, self._book.assign(order_id, self.now(), number))

    def deliver(self, order_id: str, code: str = CODE) -> None:
        """Let the code of a paid order arrive: it is settled for good. Raises like `pay`."""
        self._settled(order_id, self._book.deliver(order_id, self.now(), code))

    def fail_number(self, order_id: str) -> None:
        """End a paid order because no number is available. Raises like `pay`."""
        self._settled(order_id, self._book.fail(order_id, self.now()))

    def move_message(self, order_id: str, sms: SmsStatus) -> None:
        """Move a paid message on: sent or delivered it is settled. Raises like `pay`."""
        self._settled(order_id, self._book.move(order_id, self.now(), sms))

    def cancel_behind_back(self, order_id: str) -> None:
        """Cancel an order from elsewhere, say the website, however old it is. Raises like `pay`."""
        self._settled(order_id, self._book.cancel(order_id, self.now()))

    def expire(self, order_id: str) -> None:
        """Let the clock cancel an order before its time. Raises like `pay`."""
        expired = self._book.cancel(order_id, self.now(), state=OrderState.EXPIRED)
        self._settled(order_id, expired)

    def stale_status(self, order_id: str, *, age: float = 60.0, times: int = 1) -> Fault:
        """
        Return a fault: a cache answers the next status as it would be answered now.

        Whatever order the request is about gets it, with an Age header; the vendor does not see the
        request.

        Args:
            order_id: The order whose status is answered.
            age: How old the answer says it is, in seconds.
            times: How many requests get it.
        """
        try:
            reply = _reply(200, self._status_of(order_id, self.now()))
        except _Refusal as refusal:
            reply = refusal.reply
        headers = {"Age": f"{age:.0f}"}
        status, body = reply.status, reply.body
        return replaced("status", status=status, body=body, headers=headers, times=times)

    def revoke_keys(self, api_key: str) -> None:
        """Accept only this key from now on."""
        self.api_key = api_key

    def _settled(self, order_id: str, could: bool) -> None:
        if not could:
            order = self._book[order_id]
            kind, state = order.kind.value, order.state.value
            shown = f"{kind} order {_shown(order_id)} ({state}, {order.invoice.value})"
            raise ValueError(f"{shown} is not where that can happen")

    # What the vendor does: `HttpVendor`.

    def route(self, method: str, path: str) -> str | None:
        """Return the word for an endpoint, or None."""
        return ROUTES.get((method, path))

    def error_body(self, status: int) -> bytes:
        """Return the body of an error: documented for 500 only; for others the same shape."""
        reasons = {500: UNABLE_TO_SAVE, 429: self.rules.reasons.get(Problem.TOO_MANY)}
        reason = reasons.get(status, HTTPStatus(status).phrase)
        return msgspec.json.encode({"status": "error", "reason": reason})

    def decide(self, request: HttpRequest) -> Decision:
        """Carry a request out, and say how it is answered."""
        order_id = request.query.get("orderId")
        if order_id is not None:
            self._about.setdefault(order_id, []).append(request.number)
        caller = "key 1" if request.headers.get("x-api-key") == self.api_key else None
        reply = self._before_the_vendor(request)
        if reply is not None or request.endpoint is None:
            return Decision(reply=reply, caller=caller)
        if order_id is not None and request.endpoint == "cancel":
            self._book.count_request(order_id)
        try:
            fault = self._admit(request, request.endpoint)
        except _Refusal as refusal:
            return Decision(reply=refusal.reply, caller=caller)
        if fault is not None and fault.processing is Processing.SKIPPED:
            return Decision(fault=fault, caller=caller)
        at = self.now() + timedelta(seconds=fault.clock_offset if fault else 0.0)
        try:
            if request.endpoint in self.rules.key_needed:
                self._authenticate(request)
            body = self._process(request.endpoint, request, fault, at)
        except _Refusal as refusal:
            return Decision(reply=refusal.reply, fault=fault, caller=caller)
        reply = _reply(200, body)
        if request.endpoint in self.rules.cached and fault is None:
            self._kept[request.target] = at, reply
        return Decision(reply=reply, fault=fault, caller=caller, processed=True)

    def _before_the_vendor(self, request: HttpRequest) -> HttpReply | None:
        """Return the reply to a request that does not reach the vendor."""
        if request.endpoint is None:
            return _no_route(request)
        if self.rules.redirects_to is not None:
            location = self.rules.redirects_to.rstrip("/") + request.target
            headers = {"Location": location}
            return HttpReply(status=self.rules.redirect_status, body=b"", headers=headers)
        if request.method != "GET" or request.target not in self._kept:
            return None
        if self.rules.cache_obeys and _bypasses(request):
            return None
        since, reply = self._kept[request.target]
        age = (self.now() - since).total_seconds()
        if age >= self.rules.cached.get(request.endpoint, 0.0):
            return None
        return replace(reply, headers={"Age": f"{age:.0f}"})

    def _admit(self, request: HttpRequest, endpoint: str) -> Fault | None:
        """Meter a request, and return the fault that befalls it."""
        meter = self._meter(endpoint)
        if meter is not None and not meter.admits(request.arrived):
            self.rejections += 1
            refusal = self._too_many(meter, request.arrived)
            if self.rules.rejected_count:
                meter.count(request.arrived)
            raise refusal
        fault = self.faults.take(endpoint)
        if meter is not None and (not _is_scripted_429(fault) or self.rules.rejected_count):
            meter.count(request.arrived)
        return fault

    def _meter(self, endpoint: str) -> SlidingWindow | None:
        """Return the meter of an endpoint, or of all of them."""
        if self._limit is None:
            return None
        scope = "every endpoint" if self._shared_bucket else endpoint
        if scope not in self._meters:
            self._meters[scope] = SlidingWindow(self._limit, self._window)
        return self._meters[scope]

    def _too_many(self, meter: SlidingWindow, now: float) -> _Refusal:
        headers = {}
        seconds = max(1, math.ceil(meter.free_at() - now))
        if self.rules.retry_after is RetryAfter.SECONDS:
            headers["Retry-After"] = str(seconds)
        elif self.rules.retry_after is RetryAfter.DATE:
            # An HTTP date has whole seconds: one more, so that it is not before the window's end.
            headers["Retry-After"] = http_date(self.now() + timedelta(seconds=seconds + 1))
        return self._refusal(Problem.TOO_MANY, headers)

    def _authenticate(self, request: HttpRequest) -> None:
        """Refuse a request without the key."""
        key = request.headers.get("x-api-key")
        if key is None:
            raise self._refusal(Problem.KEY_MISSING)
        if key != self.api_key:
            raise self._refusal(Problem.KEY_INVALID)

    def _refusal(self, problem: Problem, headers: Mapping[str, str] | None = None) -> _Refusal:
        """Return the vendor's refusal for a problem."""
        body = {"status": "error", **self._worded("reason", problem)}
        return _Refusal(_reply(self.rules.status(problem), body, headers))

    def _worded(self, name: str, problem: Problem) -> dict[str, str]:
        """Return the field that says what the problem is, if anything does."""
        reason = self.rules.reasons.get(problem)
        return {} if reason is None else {name: reason}

    def _process(
        self, endpoint: str, request: HttpRequest, fault: Fault | None, at: datetime
    ) -> Any:
        """Carry out a request that was let through; return the body of the reply."""
        if endpoint in {"cancel", "status"}:
            order_id = self._order_id(request)
            if fault is not None and fault.processing is Processing.RACE:
                self._book.deliver(order_id, at, CODE)
            if endpoint == "status":
                return self._status_of(order_id, at)
            return self._cancel(order_id, at, saved=_saves(fault))
        if request.method == "POST":
            calls = {"create": self._create, "send": self._send, "fund": self._fund}
            return calls[endpoint](request, self._json_object(request), at)
        reads = {
            "availability": self._availability,
            "countries": self._countries,
            "rental_countries": self._rental_countries,
            "stock": self._stock,
            "price": self._price,
            "balance": self._balance,
            "history": self._history,
        }
        return reads[endpoint](request.query)

    # The calls about one order.

    def _cancel(self, order_id: str, at: datetime, *, saved: bool) -> dict[str, Any]:
        order = self._book.look(order_id, at)
        if order is not None:
            self._book.count_cancel(order_id)
        problem = self._problem(order, at)
        answer = CancelAnswer.ACCEPTED if problem is None else self.rules.answer(problem)
        if problem is not None and answer is CancelAnswer.REFUSED:
            raise self._refusal(problem)
        if problem is not None and answer is CancelAnswer.OK_WITH_ERROR:
            return {"status": "OK", **self._worded("error", problem)}
        if answer is CancelAnswer.ACCEPTED:
            self._book.cancel(order_id, at, saved=saved)
        return {"status": "OK"}

    def _problem(self, order: SandboxOrder | None, at: datetime) -> Problem | None:
        """Return why an order cannot simply be canceled, or None."""
        if order is None:
            return Problem.UNKNOWN
        if order.kind in {OrderKind.SEND, OrderKind.FUND}:
            return Problem.NOT_RECEIVE
        if order.state is not OrderState.WAITING:
            return ENDS[order.state] if order.recorded else None
        if order.kind is OrderKind.RENTAL and self.rules.rental_cancel is not CancelAnswer.ACCEPTED:
            return Problem.RENTAL
        if order.invoice is Invoice.UNPAID:
            return Problem.UNPAID
        start = self.rules.cancelable_at(order)
        return Problem.TOO_EARLY if start is None or at < start else None

    def _status_of(self, order_id: str, at: datetime) -> dict[str, Any]:
        """Return what the vendor says about an id."""
        order = self._book.look(order_id, at)
        if order is None:
            return self._status_of_unknown()
        if order.state is OrderState.NO_NUMBER:
            return {"status": "OK", "paid": True, "error": NO_NUMBER}
        if order.state is OrderState.CANCELED:
            shows = order.recorded or self.rules.unsaved_release_shows
            reading = self.rules.canceled_reads if shows else Reading.SILENT
            return self._status_of_dead(order, reading, self.rules.canceled_error)
        if order.state is OrderState.EXPIRED:
            return self._status_of_dead(order, self.rules.expired_reads, self.rules.expired_error)
        return self._status_of_live(order)

    def _status_of_unknown(self) -> dict[str, Any]:
        if self.rules.unknown_reads_unpaid:
            return {"status": "OK", "paid": False}
        raise self._refusal(Problem.UNKNOWN)

    def _status_of_dead(self, order: SandboxOrder, reading: Reading, error: str) -> dict[str, Any]:
        if reading is Reading.GONE:
            return self._status_of_unknown()
        if reading is Reading.REFUSED:
            raise self._refusal(ENDS[order.state])
        if reading is Reading.ERROR:
            return {"status": "OK", "paid": order.paid_at is not None, "error": error}
        alive = self._status_of_live(order)
        return {**alive, "paid": False} if reading is Reading.UNPAID else alive

    def _status_of_live(self, order: SandboxOrder) -> dict[str, Any]:
        """Return what the vendor says about an order as long as it waits, or once it delivered."""
        moment = order.updated_at if self.rules.timestamp_of_change else order.created_at
        head = {"status": "OK", "paid": order.paid_at is not None}
        tail = {"timestamp": _milliseconds(moment)}
        if order.kind is OrderKind.FUND:
            return {**head, **tail}
        if order.sms is not None:
            sms_id = f"SM{hashlib.sha256(order.id.encode()).hexdigest()[:32]}"
            return {**head, "id": sms_id, "smsStatus": order.sms.value, **tail}
        return {
            **head,
            **self._code(order),
            "id": order.activation,
            **self._number(order),
            **tail,
            "country": order.country,
            "service": order.service,
            **_blank("error", self.rules.blank_error),
        }

    def _code(self, order: SandboxOrder) -> dict[str, Any]:
        if order.code is None:
            return _blank("code", self.rules.blank_code)
        digits = order.code.isascii() and order.code.isdigit()
        as_text = self.rules.code_as is WireType.TEXT or not digits
        return {"code": order.code if as_text else int(order.code)}

    def _number(self, order: SandboxOrder) -> dict[str, Any]:
        if order.number is None:
            return _blank("number", self.rules.blank_number)
        return {"number": _written(order.number, self.rules.number_as)}

    # The calls that make an order.

    def _create(
        self, request: HttpRequest, body: Mapping[str, Any], at: datetime
    ) -> dict[str, Any]:
        rental = body.get("isRental") is True
        country, service = self._country(body.get("country")), body.get("service")
        if not isinstance(service, str) or not service:
            raise self._refusal(Problem.INVALID)
        kind = OrderKind.RENTAL if rental else OrderKind.RECEIVE
        return self._order(request, body, kind, at, country=country, service=service)

    def _send(self, request: HttpRequest, body: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        message, phone = body.get("message"), body.get("phone")
        if not isinstance(message, str) or not 0 < len(message) <= self.rules.message_limit:
            raise self._refusal(Problem.INVALID)
        if not isinstance(phone, str) or not PHONE.fullmatch(phone):
            raise self._refusal(Problem.INVALID)
        return self._order(request, body, OrderKind.SEND, at)

    def _fund(self, _: HttpRequest, body: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        amount = body.get("amount")
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
            raise self._refusal(Problem.INVALID)
        order = self._place(OrderKind.FUND, at, price=amount)
        return {"status": "OK", "orderId": order.id, "payreq": _invoice(order)}

    def _order(
        self,
        request: HttpRequest,
        body: Mapping[str, Any],
        kind: OrderKind,
        at: datetime,
        country: str = "",
        service: str = "",
    ) -> dict[str, Any]:
        """Place an order, paid for at once where that is asked for."""
        if body.get("immediate") is not True:
            order = self._place(kind, at, country=country, service=service)
            return {"status": "OK", "orderId": order.id, "payreq": _invoice(order)}
        self._authenticate(request)
        if self.balance < self._price_of(kind):
            raise self._refusal(Problem.NO_FUNDS)
        order = self._place(kind, at, country=country, service=service)
        self.balance -= order.price
        self._book.place(replace(order, prepaid=True))
        self._book.pay(order.id, at)
        return {"status": "OK", "orderId": order.id, "payreq": "paid"}

    def _place(
        self,
        kind: OrderKind,
        at: datetime,
        *,
        price: int | None = None,
        country: str = "",
        service: str = "",
    ) -> SandboxOrder:
        preimage = self._random.randbytes(32)
        numbered = kind in {OrderKind.RECEIVE, OrderKind.RENTAL}
        order = SandboxOrder(
            id=hashlib.sha256(preimage).hexdigest(),
            kind=kind,
            state=OrderState.WAITING,
            invoice=Invoice.UNPAID,
            price=self._price_of(kind) if price is None else price,
            prepaid=False,
            country=country if numbered else "",
            service=service if numbered else "",
            activation=self._random.randrange(10**9, 2 * 10**9),
            sms=SmsStatus.CREATED if kind is OrderKind.SEND else None,
            created_at=at,
            updated_at=at,
            preimage=preimage.hex(),
        )
        self._book.place(order)
        return order

    def _price_of(self, kind: OrderKind) -> int:
        names = {OrderKind.RECEIVE: "receive", OrderKind.RENTAL: "rent", OrderKind.SEND: "send"}
        return self.prices[names.get(kind, "s4s")]

    # The other calls.

    def _availability(self, _: Mapping[str, str]) -> dict[str, Any]:
        return {"status": "OK"}

    def _countries(self, _: Mapping[str, str]) -> list[dict[str, Any]]:
        names = COUNTRIES.items()
        return [
            {"id": number, "eng": name, "visible": 1, "rent": int(number in RENTED)}
            for number, name in names
        ]

    def _rental_countries(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        return [row for row in self._countries(query) if row["rent"]]

    def _stock(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        self._country(query.get("country"))
        return [
            {"key": key, "text": name, "value": key, "count": 100, "image": f"{key}.png"}
            for key, name in SERVICES.items()
        ]

    def _price(self, query: Mapping[str, str]) -> dict[str, Any]:
        country = self._country(query.get("country", "999"))
        priced: dict[str, Any] = {
            name: _written(price, self.rules.prices_as or DOCUMENTED_PRICES[name])
            for name, price in self.prices.items()
        }
        description = query.get("service", "")
        computed = {
            "price": priced["receive"],
            "country": country,
            "description": description,
        }
        return {**priced, "query": dict(query), "computed": computed}

    def _balance(self, _: Mapping[str, str]) -> dict[str, Any]:
        return {"status": "OK", "balance": _written(self.balance, self.rules.balance_as)}

    def _history(self, _: Mapping[str, str]) -> dict[str, Any]:
        fundings = self._book.fundings()
        total = sum(order.price for order in fundings)
        return {"status": "OK", "totalAmount": total, "orders": [_funding(o) for o in fundings]}

    # Reading a request.

    def _order_id(self, request: HttpRequest) -> str:
        order_id = request.query.get("orderId")
        if not order_id:
            raise self._refusal(Problem.INVALID)
        return order_id

    def _json_object(self, request: HttpRequest) -> dict[str, Any]:
        body = _json(request.raw or b"")
        if not isinstance(body, dict):
            raise self._refusal(Problem.INVALID)
        return body

    def _country(self, value: Any) -> str:
        """Return the name of a country that a request names by number, digits or name."""
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return COUNTRIES.get(value, str(value))
        if isinstance(value, str) and self.rules.country_names:
            for name in COUNTRIES.values():
                if name.lower() == value.lower():
                    return name
        raise self._refusal(Problem.INVALID)


RENTED = frozenset({0, 187})
"""Countries with numbers for rent."""


def _blank(name: str, how: Blank) -> dict[str, Any]:
    """Return a field without a value: none at all, or one field."""
    return {} if how is Blank.MISSING else {name: BLANKS[how]}


def _invoice(order: SandboxOrder) -> str:
    """Return what stands for an order's Lightning invoice: its beginning says the amount."""
    # One sat is ten units of "n".
    return f"lnbc{order.price * 10}n1p{order.activation}pp5{order.id[:32]}"


def _funding(order: SandboxOrder) -> dict[str, Any]:
    """Return a funding as the history shows it."""
    return {
        "amount": order.price,
        "createdAt": _milliseconds(order.created_at),
        "desc": "fund",
        "description": "fund",
        "holdinvoice": False,
        "preimage": order.preimage,
        "preimageHash": order.id,
        "price": order.price,
        "userId": "sandbox-user",
    }


def _is_scripted_429(fault: Fault | None) -> bool:
    """Return whether a fault is the meter's own answer, scripted."""
    return fault is not None and fault.processing is Processing.SKIPPED and fault.status == 429
