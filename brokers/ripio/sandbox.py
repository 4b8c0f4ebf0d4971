"""
Ripio Trade's WebSocket API and REST API on loopback, on one order book, to test a bot without an
account, money or a network.

    from brokers.ripio.sandbox import OrderState, RipioSandbox
    from tronsave_async.sandbox import drop_after

    async def test_my_bot_survives_a_lost_reply() -> None:
        async with RipioSandbox(requests_per_window=100, window=0.1) as sandbox:
            order_id = sandbox.add_order(amount="0.5")
            sandbox.faults.add(drop_after("cancel"))
            async with RipioGateway(
                sandbox.api_token,
                sandbox.secret,
                ws_url=sandbox.ws_url,
                rest_url=sandbox.rest_url,
                rate_limit=RateLimit(100, per=0.1),
            ) as gateway:
                await my_bot_cancels(gateway, order_id)
            assert sandbox.orders[order_id].state is OrderState.CANCELED

The limit is the sandbox's and the gateway's: a test need not take as long as the vendor's does.

`sandbox.orders` is the vendor's own truth, `sandbox.requests` what it saw, `sandbox.faults` what is
to go wrong, `RipioRules` what the documentation leaves open. `sandbox.clock_offset` makes the
vendor's clock differ, `close_sockets`, `cut_sockets`, `freeze`, `refuse_upgrades`, `close_ws` and
`close_rest` (each with its opposite) take the one or the other way to the vendor away.

Methods on the socket are called "create", "cancel" and "update"; calls by HTTP "order",
"order_by_external_id", "orders", "open_orders", "rest_cancel", "ticket" and "server_time". A
request is judged in this order, as far as it gets: readable and known, token, meter, scripted
fault, signature and timestamp, permission, parameters, the order's own life. The documentation is
silent on the order. Requests without a valid token are neither metered nor befallen by faults; a
request that the meter rejects leaves the script as it is.

Signatures are verified as a JavaScript server would: the message is parsed (every number becomes an
IEEE double, keys that are integers come first), the credentials are taken out, and what is left is
printed again by the rules of `JSON.stringify`.

Not simulated: order.create and order.update by HTTP, cancel-all, prices, trades of an order, fees,
and the WebSocket stream as a service of its own: `order_status` messages come uninvited on the
sockets of the API, if at all (`broadcast`, `RipioRules.announce_orders`). The shape of the list in
GET /orders is the older documentation's, as far as it is known.

Pages: apidocs.ripio.com, trade: websocket_api (general information, authentication, create, update
and cancel order) and orders; apidocs.ripiotrade.co for the older generation.
"""

from __future__ import annotations

import asyncio
import base64
import enum
import hashlib
import hmac
import json
import math
import random
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from tronsave_async.sandbox import (
    Decision,
    Fault,
    FaultScript,
    HttpReply,
    HttpRequest,
    LoopbackServer,
    Processing,
    Reply,
    RequestLog,
    Serve,
    SlidingWindow,
    http_date,
)
from tronsave_async.sandbox_socket import (
    Keepalive,
    LoopbackSockets,
    SocketDecision,
    SocketMessage,
    SocketReply,
    SocketRequest,
)
from tronsave_async.simulator import Simulator

if TYPE_CHECKING:
    import ssl

__all__ = [
    "ENDPOINTS",
    "SOCKET_METHODS",
    "Amounts",
    "Announce",
    "Generation",
    "OrderState",
    "RetryAfter",
    "RipioRules",
    "RipioSandbox",
    "SandboxOrder",
    "SlowReply",
    "TooMany",
]

SOCKET_METHODS: Mapping[str, str] = MappingProxyType(
    {"order.cancel": "cancel", "order.create": "create", "order.update": "update"}
)
"""The word for each method of the WebSocket API."""

ENDPOINTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("GET", "/orders"): "orders",
        ("GET", "/orders/open"): "open_orders",
        ("POST", "/orders/cancel"): "rest_cancel",
        ("POST", "/orders/cancel-by-external-id"): "rest_cancel",
        ("DELETE", "/orders"): "rest_cancel",
        ("DELETE", "/orders/by-external-id"): "rest_cancel",
        ("POST", "/ticket"): "ticket",
        ("GET", "/public/server-time"): "server_time",
    }
)
"""The word for each method and path by HTTP, without prefix; two with an id in them are left out."""

WORDS = frozenset({*SOCKET_METHODS.values(), *ENDPOINTS.values(), "order", "order_by_external_id"})
"""The words for all endpoints, over the socket and by HTTP."""

PREFIXES = ("/trade", "/v4")
BY_EXTERNAL_ID = "/orders/by-external-id/"
BY_ID = "/orders/"

CREDENTIALS = frozenset({"api_token", "apiToken", "timestamp", "signature"})
"""What is not a business parameter."""

ORDER_TYPES = frozenset({"limit", "market", "stop_limit", "trailing", "ceiling", "iceberg"})

EXACT = Context(prec=200)
"""Wide enough for every product of two amounts."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- JSON as JavaScript reads and prints it -------------------------------------------------------


def _number_text(number: float) -> str:
    """Return a number as ECMAScript's Number::toString prints it; null if it is not finite."""
    if not math.isfinite(number):
        return "null"
    if number == 0:
        return "0"  # also minus zero
    sign = "-" if number < 0 else ""
    # Python's shortest digits are ECMAScript's: the same number, and the fewest digits.
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _string_text(text: str) -> str:
    """Return a text as JSON.stringify prints it."""
    quoted = json.dumps(text, ensure_ascii=False)
    return LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _is_index(key: str) -> bool:
    """Return whether JavaScript takes a key for an array index, and so puts it first."""
    short = key.isascii() and key.isdigit() and len(key) <= 10
    return short and str(int(key)) == key and int(key) < 2**32 - 1


def _stringify(value: Any) -> str:
    """Return a value, parsed by `_parse`, as JSON.stringify prints it."""
    match value:
        case str():
            return _string_text(value)
        case None | True | False:
            return json.dumps(value)
        case float():
            return _number_text(value)
        case list():
            return f"[{','.join(map(_stringify, value))}]"
        case _:
            keys = list(value)
            indices = sorted(filter(_is_index, keys), key=int)
            if indices:
                keys = [*indices, *(key for key in keys if not _is_index(key))]
            return f"{{{','.join(f'{_string_text(k)}:{_stringify(value[k])}' for k in keys)}}}"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


PARSER = json.JSONDecoder(parse_int=float, parse_float=float, parse_constant=_no_constant)


def _parse(raw: bytes) -> Any:
    """
    Return a JSON text as JSON.parse reads it.

    Raises:
        ValueError: If it is none, or nested too deeply.
    """
    try:
        return PARSER.decode(raw.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


# --- an order's life ------------------------------------------------------------------------------


class OrderState(enum.Enum):
    """What an order really is: the sandbox's truth, not the vendor's word for it."""

    OPEN = "open"
    EXECUTED_PARTIALLY = "executed_partially"
    EXECUTED_COMPLETELY = "executed_completely"
    CANCELED = "canceled"


LIVE = frozenset({OrderState.OPEN, OrderState.EXECUTED_PARTIALLY})


class SandboxOrder(msgspec.Struct, frozen=True, kw_only=True):
    """
    The vendor's own truth about an order. Amounts in the base currency, prices and values in the
    quote currency, both exact; times aware UTC.

    Attributes:
        id: A UUID in upper case.
        pair: For example BTC_BRL: base and quote.
        side: "buy" or "sell".
        type: "limit", "market", "stop_limit", ...
        price: Of one unit.
        requested_amount: What was asked for.
        executed_amount: What was executed.
        external_id: The client's own id.
        state: Its state.
        created_at: When it was created.
        updated_at: When it last changed.
        cancels: How many cancels were processed on it, whatever they achieved.
        updates: How many updates were processed on it, whatever they achieved.
    """

    id: str
    pair: str
    side: str
    type: str
    price: Decimal
    requested_amount: Decimal
    executed_amount: Decimal
    external_id: str | None
    state: OrderState
    created_at: datetime
    updated_at: datetime
    cancels: int = 0
    updates: int = 0

    @property
    def is_live(self) -> bool:
        """Whether it can be canceled and executed."""
        return self.state in LIVE

    @property
    def remaining_amount(self) -> Decimal:
        """What was not executed."""
        return EXACT.subtract(self.requested_amount, self.executed_amount)

    @property
    def requested_value(self) -> Decimal:
        """What all of it is worth at its price."""
        return EXACT.multiply(self.requested_amount, self.price)

    @property
    def remaining_value(self) -> Decimal:
        """What the rest is worth at its price."""
        return EXACT.multiply(self.remaining_amount, self.price)


class _OrderBook(Mapping[str, SandboxOrder]):
    """
    The vendor's orders: every change of one is made here.

    As a mapping it shows the orders by id.

    Args:
        changed: Is told each order that was placed or has changed.
    """

    def __init__(self, changed: Callable[[SandboxOrder], None]) -> None:
        self._changed = changed
        self._orders: dict[str, SandboxOrder] = {}
        self._by_external_id: dict[str, str] = {}
        # What each order was, and since when on the event loop's clock; the newest last.
        self._past: dict[str, list[tuple[float, SandboxOrder]]] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[str]:
        return iter(self._orders)

    def __getitem__(self, order_id: str) -> SandboxOrder:
        return self._orders[order_id]

    def __repr__(self) -> str:
        return f"<OrderBook of {len(self)}>"

    def id_of(self, external_id: str) -> str | None:
        """Return the id of the newest order with an external id."""
        return self._by_external_id.get(external_id)

    def as_of(self, order_id: str, time: float) -> SandboxOrder | None:
        """Return an order as it was at a time on the event loop's clock."""
        for since, order in reversed(self._past.get(order_id, ())):
            if since <= time:
                return order
        return None

    def put(self, order: SandboxOrder) -> None:
        """Place an order, or another state of it."""
        self._orders[order.id] = order
        self._past.setdefault(order.id, []).append((_loop_time(), order))
        if order.external_id is not None:
            self._by_external_id[order.external_id] = order.id
        self._changed(order)

    def count(self, order_id: str, *, cancels: int = 0, updates: int = 0) -> None:
        """Count a cancel or update that was processed on an order."""
        order = self._orders[order_id]
        self._orders[order_id] = msgspec.structs.replace(
            order, cancels=order.cancels + cancels, updates=order.updates + updates
        )

    def fill(self, order_id: str, amount: Decimal | None, at: datetime) -> bool:
        """Execute so much of an order, or all of it; return whether it was live."""
        order = self._orders[order_id]
        if not order.is_live:
            return False
        executed = order.requested_amount
        if amount is not None:
            executed = min(executed, order.executed_amount + amount)
        done = executed == order.requested_amount
        state = OrderState.EXECUTED_COMPLETELY if done else OrderState.EXECUTED_PARTIALLY
        self._change(order, at, state=state, executed_amount=executed)
        return True

    def cancel(self, order_id: str, at: datetime) -> bool:
        """Cancel an order; return whether it was live."""
        order = self._orders[order_id]
        if order.is_live:
            self._change(order, at, state=OrderState.CANCELED)
        return order.is_live

    def update(self, order_id: str, at: datetime, price: Decimal, amount: Decimal) -> None:
        """Change a live order's terms; executed to the new amount it is complete."""
        order = self._orders[order_id]
        self._change(order, at, price=price, requested_amount=amount)
        if self._orders[order_id].remaining_amount <= 0:
            self.fill(order_id, None, at)

    def _change(self, order: SandboxOrder, at: datetime, **changes: Any) -> None:
        self.put(msgspec.structs.replace(order, updated_at=at, **changes))


def _loop_time() -> float:
    """Return the event loop's time; before any loop runs, the beginning of time."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return float("-inf")


# --- what the documentation leaves open -----------------------------------------------------------


class Generation(enum.Enum):
    """Which generation's error codes and envelope the vendor answers with."""

    NEW = "new"
    OLD = "old"


class Amounts(enum.Enum):
    """How amounts, prices and values are printed."""

    PLAIN = "plain"
    """As a JSON number with all digits of the decimal."""

    EXPONENT = "exponent"
    """As a JSON number; below a millionth as JavaScript does it: 1e-8."""

    TEXT = "text"
    """As a string with all digits of the decimal."""


class Announce(enum.Enum):
    """Whether an `order_status` message comes on all sockets when an order changes."""

    NEVER = "never"
    BEFORE = "before"
    """At once, and so before the reply to the request that changed it."""

    AFTER = "after"
    """Right after the reply to the request that changed it."""


class SlowReply(enum.Enum):
    """What a request on the socket answers that exceeds the processing time."""

    SILENCE = "silence"
    """Nothing."""

    ERROR = "error"
    """When the time is over: status 500, 50000."""

    LATE = "late"
    """When the time is over: its own reply, or the error if it was not carried out."""


class TooMany(enum.Enum):
    """How a 429 is worded."""

    MESSAGE = "message"
    """A message and no error_code, as the limits are documented."""

    CODE_42900 = "42900"
    """With error_code 42900, as in the table of errors."""

    CODE_429 = "429"
    """With error_code 429, as observed."""


class RetryAfter(enum.Enum):
    """Whether a 429 of the meter by HTTP carries a Retry-After header, and in which form."""

    ABSENT = "absent"
    SECONDS = "seconds"
    DATE = "date"


class RipioRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the simulated vendor behaves where its documentation is silent or contradicts itself.

    A client that is right under every combination of these is right at the vendor. Times in
    seconds, but for the two tolerances, which are in milliseconds as in the documentation.

    Attributes:
        generation: Whose error codes are used. Both are documented, and not which one the WebSocket
            API uses today.
        token_fields: In which parameters the token is taken. The call pages say api_token, the
            authentication page apiToken; neither is ever part of the signed text.
        signature_status: The status that goes with 40011 "Invalid signature": not documented.
        observed_auth_errors: Whether refused credentials get, by HTTP, what was observed: status
            and error_code 401 with "Invalid token", "Invalid timestamp" or "Invalid signature".
        tolerance_ms: How old a timestamp may be, where the request does not say; documented by
            HTTP, where Timestamp-tolerance may say up to 60000.
        ahead_ms: How far ahead of the vendor's clock a timestamp may be; undocumented. None: as far
            as it may be old.
        reject_replayed_signatures: Whether a signature is accepted once only; undocumented.
        signed_path_decoded: Whether the path in the signed text is percent-decoded; undocumented.
        frame_timestamp: Whether replies on the socket have a `timestamp`. The new documentation
            gives one to every response, but shows none on the socket.
        amounts: How amounts are printed; observed in both types.
        cancel_omits: Optional fields that the result of a cancel leaves out.
        state_words: `status` by state, where it is not the value of the state; the oldest
            generation says "waiting" for open.
        external_id_unique: Whether creating an order with an external id that is in use is refused
            with 40000, or makes a second order; undocumented.
        update_id_fields: In which parameters an update takes the order's id: "order_id" or "id".
        unreadable_answered: Whether a message that is no request gets an error with id null;
            undocumented.
        announce_orders: Whether changes of orders are announced on the sockets.
        slow_seconds: The documented processing time, for requests that `too_slow` befalls.
        slow_reply: What they answer; undocumented.
        slow_processed: Whether they are carried out; undocumented.
        socket_too_many: How a 429 is worded on the socket; undocumented.
        rest_too_many: The same by HTTP; documented and observed differently.
        retry_after: The Retry-After header of a 429; observed, not documented.
        rejected_count: Whether a request rejected with 429 counts against the limit.
        rest_lag: How far the orders' view by HTTP may be behind; undocumented.
        server_time_cache: For how long an answer of server-time is given again. 30 seconds are
            documented for public endpoints.
        idle_timeout: As in `Keepalive`, documented as 60 seconds; None for never, as below.
        ping_interval: As in `Keepalive`; undocumented.
        pong_timeout: As in `Keepalive`, documented as 60 seconds.
        idle_close_code: As `Keepalive.close_code`; undocumented.
        answers_pings: Whether the client's pings are answered.
        pings_count: Whether the client's pings keep a socket open; undocumented.
    """

    generation: Generation = Generation.NEW
    token_fields: frozenset[str] = frozenset({"api_token", "apiToken"})
    signature_status: int = 400
    observed_auth_errors: bool = False
    tolerance_ms: int = 5000
    ahead_ms: int | None = None
    reject_replayed_signatures: bool = False
    signed_path_decoded: bool = False
    frame_timestamp: bool = False
    amounts: Amounts = Amounts.PLAIN
    cancel_omits: frozenset[str] = frozenset({"side"})
    state_words: Mapping[OrderState, str] = MappingProxyType({})
    external_id_unique: bool = False
    update_id_fields: frozenset[str] = frozenset({"order_id", "id"})
    unreadable_answered: bool = True
    announce_orders: Announce = Announce.NEVER
    slow_seconds: float = 10.0
    slow_reply: SlowReply = SlowReply.SILENCE
    slow_processed: bool = True
    socket_too_many: TooMany = TooMany.MESSAGE
    rest_too_many: TooMany = TooMany.MESSAGE
    retry_after: RetryAfter = RetryAfter.ABSENT
    rejected_count: bool = False
    rest_lag: float = 0.0
    server_time_cache: float = 0.0
    idle_timeout: float | None = 60.0
    ping_interval: float | None = 20.0
    pong_timeout: float | None = 60.0
    idle_close_code: int | None = 1001
    answers_pings: bool = True
    pings_count: bool = False

    def word(self, state: OrderState) -> str:
        """Return the vendor's word for a state."""
        return self.state_words.get(state, state.value)


# --- error replies --------------------------------------------------------------------------------


class _Refusal(Exception):
    """A request is answered with an error; nothing was done."""

    def __init__(
        self,
        status: int,
        code: int | None,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    @property
    def error(self) -> dict[str, Any]:
        """Code and message; no code if there is none."""
        code = {} if self.code is None else {"error_code": self.code}
        return {**code, "message": self.message}


TOO_MANY_CODES = {TooMany.MESSAGE: None, TooMany.CODE_42900: 42900, TooMany.CODE_429: 429}


def _invalid(message: str = "Invalid parameters") -> _Refusal:
    """Return the error of a parameter that is not as it should be."""
    return _Refusal(400, 40000, message)


def _missing(rules: RipioRules, message: str = "Missing required parameters") -> _Refusal:
    """Return the error of a parameter that is not there."""
    return _Refusal(400, 40010, message) if _is_new(rules) else _invalid()


def _not_found(rules: RipioRules) -> _Refusal:
    """Return the error of an unknown order."""
    return _Refusal(404, 40401 if _is_new(rules) else 40400, "Order not found.")


def _closed(rules: RipioRules, state: OrderState, verb: str) -> _Refusal:
    """Return the error of an order whose life is over."""
    if _is_new(rules):
        return _Refusal(
            400,
            40408,
            f"Cannot {verb} {'an already' if verb == 'cancel' else 'a'} canceled or "
            "fully executed order.",
        )
    if state is OrderState.CANCELED:
        return _Refusal(400, 40020, "Order already canceled.")
    return _Refusal(400, 40021, "Order executed completely.")


def _is_new(rules: RipioRules) -> bool:
    return rules.generation is Generation.NEW


def _of_status(status: int, rules: RipioRules) -> _Refusal:
    """Return the vendor's words for an error of this status."""
    known = {
        400: (40000, "Invalid parameters"),
        401: (40100, "Not authorized"),
        403: (40300, "Forbidden"),
        500: (50000, "Internal error"),
        503: (503, "Maintenance"),
    }
    if status == 404:
        return _not_found(rules)
    named = status in HTTPStatus._value2member_map_
    phrase = HTTPStatus(status).phrase if named else "Unknown error"
    return _Refusal(status, *known.get(status, (status * 100, phrase)))


# --- reading a request ----------------------------------------------------------------------------


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request on the socket, as parsed."""

    address: bytes
    method: str
    params: Mapping[str, Any]
    business: Mapping[str, Any]
    signed: str


SECRET_IN_TEXT = re.compile(rb'("(?:api_token|apiToken|signature)"\s*:\s*)"(?:[^"\\]|\\.)*"')


def _read_message(raw: bytes) -> _Message | None:
    """Return the request in a message, or None if it is none."""
    try:
        value = _parse(raw)
    except ValueError:
        return None
    if not isinstance(value, dict) or isinstance(value.get("id"), dict | list | bool | None):
        return None
    method, params = value.get("method"), value.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        return None
    business = {name: part for name, part in params.items() if name not in CREDENTIALS}
    try:
        signed = _stringify(business)
    except RecursionError:
        return None
    return _Message(
        address=_stringify(value["id"]).encode(),
        method=method,
        params=params,
        business=business,
        signed=signed,
    )


def _json(raw: bytes) -> Any:
    """Return a text decoded as JSON, or None."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


DECIMAL = re.compile(r"\d{1,20}(\.\d{1,20})?")


def _positive(value: Any) -> Decimal:
    """Return an amount or price: a number, or a text of one."""
    if isinstance(value, float) and math.isfinite(value):
        number = Decimal(_number_text(value))
    elif isinstance(value, str) and DECIMAL.fullmatch(value):
        number = Decimal(value)
    else:
        raise _invalid()
    if number <= 0:
        raise _invalid()
    return number


def _milliseconds_of(value: Any) -> float | None:
    """Return a timestamp, a number or a text of one."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def _time_in(query: Mapping[str, str], name: str) -> datetime | None:
    """Return a query's time."""
    try:
        time = datetime.fromisoformat(query[name]) if name in query else None
    except ValueError:
        raise _invalid() from None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _count_in(query: Mapping[str, str], name: str, default: int, most: int | None = None) -> int:
    """Return a query's number from 1."""
    text = query.get(name, str(default))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if number < 1 or (most is not None and number > most):
        raise _invalid()
    return number


def _listed(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    """Return a query's values, separated by commas."""
    return frozenset(query[name].split(",")) if name in query else None


# --- writing an order -----------------------------------------------------------------------------


def _amount(value: Decimal, rules: RipioRules) -> Any:
    """Return an amount as it is printed: with all its digits."""
    text = format(value, "f")
    if rules.amounts is Amounts.TEXT:
        return text
    if rules.amounts is Amounts.EXPONENT and 0 < value < Decimal("0.000001"):
        digits = value.normalize().as_tuple()
        first, *rest = map(str, digits.digits)
        fraction = f".{''.join(rest)}" if rest else ""
        text = f"{first}{fraction}e{value.adjusted()}"
    return msgspec.Raw(text.encode())


def _value(value: Decimal, rules: RipioRules) -> Any:
    """Return a product as it is printed: without the zeros that multiplying leaves."""
    return _amount(EXACT.normalize(value), rules)


def _iso(moment: datetime) -> str:
    """Return a time as the vendor writes it: milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(moment: datetime) -> int:
    """Return a time in whole milliseconds since 1970."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _amounts(order: SandboxOrder, rules: RipioRules, *names: str) -> dict[str, Any]:
    """Return the named amounts and values of an order, as they are printed."""
    return {
        name: (_value if name.endswith("_value") else _amount)(getattr(order, name), rules)
        for name in names
    }


def _canceled(order: SandboxOrder, rules: RipioRules) -> dict[str, Any]:
    """Return the result of a cancel."""
    amounts = ("executed_amount", "remaining_amount", "remaining_value", "requested_amount")
    result = {
        "id": order.id,
        "create_date": _iso(order.created_at),
        "update_date": _iso(order.updated_at),
        **_amounts(order, rules, *amounts, "requested_value"),
        "total_value": _value(order.requested_value, rules),
        "status": rules.word(order.state),
        "type": order.type,
        "side": order.side,
        "price": _amount(order.price, rules),
        "pair": order.pair,
        "external_id": order.external_id,
    }
    if order.external_id is None:
        del result["external_id"]
    return {name: value for name, value in result.items() if name not in rules.cancel_omits}


def _created(order: SandboxOrder, rules: RipioRules) -> dict[str, Any]:
    """Return the result of a create."""
    amounts = ("executed_amount", "remaining_amount", "remaining_value", "requested_amount")
    return {
        "id": order.id,
        "status": rules.word(order.state),
        "create_date": _iso(order.created_at),
        **({} if order.external_id is None else {"external_id": order.external_id}),
        "pair": order.pair,
        "side": order.side,
        **_amounts(order, rules, *amounts, "requested_value"),
    }


def _detail(order: SandboxOrder, rules: RipioRules) -> dict[str, Any]:
    """Return an order as it is read by HTTP."""
    zero = Decimal(0)
    amounts = ("executed_amount", "remaining_amount", "requested_amount")
    return {
        "average_execution_price": _amount(order.price if order.executed_amount else zero, rules),
        "create_date": _iso(order.created_at),
        "external_id": order.external_id,
        "id": order.id,
        **_amounts(order, rules, *amounts, "requested_value", "remaining_value"),
        "pair": order.pair,
        "price": _amount(order.price, rules),
        "side": order.side,
        "status": rules.word(order.state),
        "fee": _amount(zero, rules),
        "total_value": _value(order.requested_value, rules),
        "type": order.type,
        "update_date": _iso(order.updated_at),
        "transactions": [],
    }


def _announcement(order: SandboxOrder, rules: RipioRules) -> dict[str, Any]:
    """Return the body of an `order_status` message."""
    return {
        "id": order.id,
        "status": rules.word(order.state),
        "type": order.type,
        "side": order.side,
        "pair": order.pair,
        "price": _amount(order.price, rules),
        "amount": _amount(order.requested_amount, rules),
        **_amounts(order, rules, "executed_amount", "remaining_amount"),
        "average_execution_price": _amount(
            order.price if order.executed_amount else Decimal(0), rules
        ),
        "external_id": order.external_id,
        "user_id": "00000000-0000-4000-8000-000000000001",
        "created_at": _iso(order.created_at),
        "updated_at": _iso(order.updated_at),
    }


def _wall_clock() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


# --- the vendor -----------------------------------------------------------------------------------


class RipioSandbox(Simulator):
    """
    Ripio Trade's WebSocket API and REST API, each on a port of 127.0.0.1, with one order book.

    Use it as an asynchronous context manager, or call `start` and `aclose`, from any tasks.

    Args:
        api_token: The token that is accepted.
        secret: The secret that requests are signed with.
        requests_per_window: How many requests the vendor admits in a window, on the sockets and by
            HTTP together.
        window: The window's length in seconds.
        daily_quota: How many requests it admits on one day (UTC); None: any number.
        public_requests_per_window: How many requests for the server's time it admits in a window;
            None: any number.
        jitter: Each request and each reply travels for a random time up to this, in seconds.
        seed: Of every random number: travel times and ids.
        funds: What is available by currency, for orders that are created; None: enough.
        min_amount: The smallest amount of an order that is created.
        rules: What the documentation leaves open.
        now: The vendor's wall clock, returning aware times; delays and the meter use `loop.time()`.
        ssl_context: Serve TLS with it.
        http_keepalive: Seconds after which an idle HTTP connection is closed.

    Attributes:
        faults: The script of what goes wrong.
        rules: May be set at any time; keep-alive follows at the next timer.
        clock_offset: Seconds by which the vendor's clock is ahead; may be set at any time.
        blocked: Whether the token is blocked; may be set at any time.
        forbidden: Words of the calls that the token is not permitted; may be set at any time.
        rejections: How many requests the meter has rejected. A scripted 429 is not one of them.
        signatures: Every signature that arrived with a known token, in order.
    """

    credentials = frozenset({"authorization", "signature"})
    address_field = "id"

    def __init__(
        self,
        *,
        api_token: str = "sandbox-token",
        secret: str = "sandbox-secret",
        requests_per_window: int = 1,
        window: float = 1.0,
        daily_quota: int | None = None,
        public_requests_per_window: int | None = None,
        jitter: float = 0.0,
        seed: int = 0,
        funds: Mapping[str, Decimal] | None = None,
        min_amount: Decimal = Decimal(0),
        rules: RipioRules | None = None,
        now: Callable[[], datetime] = _wall_clock,
        ssl_context: ssl.SSLContext | None = None,
        http_keepalive: float = 75.0,
    ) -> None:
        self.api_token = api_token
        self.secret = secret
        self.faults = FaultScript(WORDS)
        self.rules = rules or RipioRules()
        self.clock_offset = 0.0
        self.blocked = False
        self.forbidden: frozenset[str] = frozenset()
        self.rejections = 0
        self.signatures: list[str] = []
        self._seen: set[str] = set()
        self._window = window
        self._meter = SlidingWindow(requests_per_window, window)
        self._public_meter = (
            SlidingWindow(public_requests_per_window, window)
            if public_requests_per_window is not None
            else None
        )
        self._quota = daily_quota
        self._days: dict[date, int] = {}
        self._funds = None if funds is None else dict(funds)
        self._min_amount = min_amount
        self._now = now
        self._random = random.Random(seed)
        self._server_time: tuple[float, datetime] | None = None
        self._events = 0
        self._book = _OrderBook(self._order_changed)
        self._log = RequestLog()
        self._sockets = LoopbackSockets(
            self, log=self._log, now=self._clock, jitter=jitter, seed=seed
        )
        self._tls = ssl_context is not None

        def server(upgrade: Serve | None) -> LoopbackServer:
            return LoopbackServer(
                self,
                now=self._clock,
                jitter=jitter,
                seed=seed,
                ssl_context=ssl_context,
                keepalive=http_keepalive,
                log=self._log,
                upgrade=upgrade,
            )

        self._ws, self._rest = server(self._sockets.upgrade), server(None)
        super().__init__(self._log, [self._ws, self._rest], window=window)

    async def aclose(self) -> None:
        """Abort all connections, hung requests too, and stop listening. The record is kept."""
        self._sockets.end()
        await super().aclose()

    # What a test looks at.

    @property
    def ws_url(self) -> str:
        """The URL of the WebSocket API, for example "ws://127.0.0.1:1234/"."""
        return f"ws{self._ws.url.removeprefix('http')}/"

    @property
    def rest_url(self) -> str:
        """The base URL of the REST API, for example "http://127.0.0.1:1235/trade"."""
        return f"{self._rest.url}/trade"

    @property
    def orders(self) -> Mapping[str, SandboxOrder]:
        """The vendor's own truth, by order id: a live view of frozen records."""
        return self._book

    @property
    def funds(self) -> Mapping[str, Decimal] | None:
        """What is available by currency, if that matters."""
        return self._funds

    @property
    def sockets(self) -> int:
        """How many sockets are open."""
        return len(self._sockets)

    @property
    def sockets_opened(self) -> int:
        """How many sockets were opened."""
        return self._sockets.opened

    # What a test makes happen.

    def add_order(
        self,
        *,
        pair: str = "BTC_BRL",
        side: str = "buy",
        type: str = "limit",
        amount: Decimal | str = "0.001",
        price: Decimal | str = "100000",
        external_id: str | None = None,
        created_at: datetime | None = None,
        order_id: str | None = None,
    ) -> str:
        """
        Place an open order that was paid for earlier: the funds stay as they are.

        Args:
            pair: Base and quote currency.
            side: "buy" or "sell".
            type: Of the order.
            amount: In the base currency, exact.
            price: In the quote currency, exact.
            external_id: The client's own id.
            created_at: Aware; by default now.
            order_id: By default a new UUID in upper case.

        Returns:
            The order's id.
        """
        at = created_at or self._clock()
        order = SandboxOrder(
            id=order_id or self._next_id(),
            pair=pair,
            side=side,
            type=type,
            price=Decimal(price),
            requested_amount=Decimal(amount),
            executed_amount=Decimal(0),
            external_id=external_id,
            state=OrderState.OPEN,
            created_at=at,
            updated_at=at,
        )
        self._book.put(order)
        return order.id

    def fill(self, order_id: str, amount: Decimal | str | None = None) -> None:
        """
        Execute an order, or so much of it.

        Raises:
            ValueError: If it is neither open nor executed partially.
            KeyError: If it is unknown.
        """
        part = None if amount is None else Decimal(amount)
        self._demand_live(order_id, self._book.fill(order_id, part, self._clock()))

    def cancel_behind_back(self, order_id: str) -> None:
        """Cancel an order from elsewhere, say the website. Raises like `fill`."""
        self._demand_live(order_id, self._book.cancel(order_id, self._clock()))

    def broadcast(self, order_id: str) -> None:
        """Send an `order_status` message about an order on every open socket."""
        self._events += 1
        event = {
            "id": self._events,
            "topic": "order_status",
            "timestamp": _milliseconds(self._clock()),
            "body": _announcement(self._book[order_id], self.rules),
        }
        self._sockets.broadcast(msgspec.json.encode(event))

    def broadcast_raw(self, message: bytes, *, binary: bool = False) -> None:
        """Send any message on every open socket."""
        self._sockets.broadcast(message, binary=binary)

    def close_sockets(self, code: int = 1001, reason: str = "") -> None:
        """Close every socket with a close frame. Raises ValueError for a code that is never sent."""
        self._sockets.close(code, reason)

    def cut_sockets(self, *, reset: bool = False) -> None:
        """Cut the connection of every socket without a close frame: with FIN, or with RST."""
        self._sockets.cut(reset=reset)

    def freeze(self, *, reads: bool = False) -> None:
        """
        Fall silent on every open socket, with TCP still connected.

        Args:
            reads: Whether requests are carried out all the same; else they wait for `thaw`.
        """
        self._sockets.freeze(reads=reads)

    def thaw(self) -> None:
        """Go on with frozen sockets; what was not said meanwhile is lost."""
        self._sockets.thaw()

    def refuse_upgrades(self, how: int | Reply = 503, times: int | None = None) -> None:
        """
        Open no sockets until `accept_upgrades`.

        Args:
            how: An HTTP status; `Reply.DROP`: the connection is closed; `Reply.HANG`: no answer.
            times: How often; None: always.
        """
        self._sockets.refuse(how, times)

    def accept_upgrades(self) -> None:
        """Open sockets again."""
        self._sockets.accept()

    async def close_ws(self) -> None:
        """Abort all sockets, and refuse connections to the WebSocket API."""
        await self._ws.aclose()

    async def open_ws(self) -> None:
        """Accept connections to the WebSocket API again."""
        await self._ws.start()

    async def close_rest(self) -> None:
        """Abort all requests by HTTP, and refuse connections to the REST API."""
        await self._rest.aclose()

    async def open_rest(self) -> None:
        """Accept connections to the REST API again."""
        await self._rest.start()

    def _demand_live(self, order_id: str, was_live: bool) -> None:
        if not was_live:
            raise ValueError(f"{order_id} is {self._book[order_id].state.value}")

    def _next_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4)).upper()

    def _order_changed(self, order: SandboxOrder) -> None:
        how = self.rules.announce_orders
        if how is Announce.NEVER or not self.sockets:
            return
        if how is Announce.BEFORE:
            self.broadcast(order.id)
        else:
            asyncio.get_running_loop().call_soon(self.broadcast, order.id)

    def _clock(self, fault: Fault | None = None) -> datetime:
        """Return the vendor's time, as it serves a request that a fault befalls."""
        ahead = self.clock_offset + (fault.clock_offset if fault else 0.0)
        return self._now() + timedelta(seconds=ahead)

    # What the vendor does on sockets: `SocketVendor`.

    @property
    def keepalive(self) -> Keepalive:
        """How sockets are kept alive, by the rules."""
        return Keepalive(
            idle_timeout=self.rules.idle_timeout,
            ping_interval=self.rules.ping_interval,
            pong_timeout=self.rules.pong_timeout,
            close_code=self.rules.idle_close_code,
            answers_pings=self.rules.answers_pings,
            pings_count=self.rules.pings_count,
        )

    def read(self, raw: bytes, *, binary: bool) -> SocketMessage:
        """Read a message: a request, or nothing known."""
        message = None if binary else _read_message(raw)
        endpoint = None if message is None else SOCKET_METHODS.get(message.method)
        shown = SECRET_IN_TEXT.sub(rb'\1"***"', raw).replace(self.api_token.encode(), b"***")
        return SocketMessage(endpoint=endpoint, shown=shown, body=_json(shown), content=message)

    def error_text(self, status: int, address: bytes) -> bytes:
        """Return the text of an error with this status."""
        refusal = self._too_many({}, socket=True) if status == 429 else None
        return self._error_reply(refusal or _of_status(status, self.rules), address).text

    def hear(self, request: SocketRequest) -> SocketDecision:
        """Carry a message out, and say how it is answered."""
        message = request.message.content
        if message is None:
            unreadable = self._error_reply(_invalid(), b"null")
            return SocketDecision(reply=unreadable if self.rules.unreadable_answered else None)
        token = self._token_in(message.params)
        signed = _Signed(
            text=message.signed,
            signature=message.params.get("signature"),
            timestamp=message.params.get("timestamp"),
            socket=True,
        )
        try:
            endpoint = self._admit_message(request, token, signed)
        except _Refusal as refusal:
            return SocketDecision(
                reply=self._error_reply(refusal, message.address),
                address=message.address,
                caller="token" if token == self.api_token else None,
                signature_age=signed.age(self._clock()),
            )
        fault = self.faults.take(endpoint, socket=True)
        self._count(request.arrived, fault)
        at = self._clock(fault)
        decision = SocketDecision(
            address=message.address, fault=fault, caller="token", signature_age=signed.age(at)
        )
        if fault is not None and fault.processing is Processing.SKIPPED:
            return decision
        if fault is not None and fault.processing is Processing.TOO_SLOW:
            return self._hear_slowly(message, endpoint, signed, at, decision)
        return self._heard(message, endpoint, signed, at, decision)

    def _admit_message(self, request: SocketRequest, token: Any, signed: _Signed) -> str:
        """Return the endpoint of a message that may be processed."""
        endpoint = request.message.endpoint
        if endpoint is None:
            raise _Refusal(400, 40090, "Unsupported operation")
        if token is None:
            raise _missing(self.rules)
        self._demand_token(token, socket=True)
        self._remember(signed)
        self._demand_room(request.arrived, socket=True)
        return endpoint

    def _heard(
        self,
        message: _Message,
        endpoint: str,
        signed: _Signed,
        at: datetime,
        decision: SocketDecision,
    ) -> SocketDecision:
        """Process a message."""
        try:
            self._verify(signed, at)
            self._demand_permission(endpoint)
            result = self._process(endpoint, message.business, decision.fault, at)
        except _Refusal as refusal:
            reply = self._error_reply(refusal, message.address)
            return msgspec.structs.replace(decision, reply=reply)
        reply = self._frame(200, {"result": result}, message.address)
        return msgspec.structs.replace(decision, reply=reply, processed=True)

    def _hear_slowly(
        self,
        message: _Message,
        endpoint: str,
        signed: _Signed,
        at: datetime,
        decision: SocketDecision,
    ) -> SocketDecision:
        """Process a message, or not, and answer when the processing time is over, or not."""
        decision = msgspec.structs.replace(decision, delay=self.rules.slow_seconds)
        if self.rules.slow_processed:
            decision = self._heard(message, endpoint, signed, at, decision)
        own = self.rules.slow_reply is SlowReply.LATE and decision.reply is not None
        reply = decision.reply if own else None
        if reply is None and self.rules.slow_reply is not SlowReply.SILENCE:
            reply = self._error_reply(_of_status(500, self.rules), message.address)
        return msgspec.structs.replace(decision, reply=reply)

    def _process(
        self, endpoint: str, params: Mapping[str, Any], fault: Fault | None, at: datetime
    ) -> Any:
        if endpoint == "create":
            return self._create(params, at)
        if endpoint == "update":
            return self._update(params, fault, at)
        return self._cancel(params, fault, at)

    def _token_in(self, params: Mapping[str, Any]) -> Any:
        """Return the token that parameters have, from a field where it is taken."""
        for field in ("api_token", "apiToken"):
            if field in params and field in self.rules.token_fields:
                return params[field]
        return None

    def _error_reply(self, refusal: _Refusal, address: bytes) -> SocketReply:
        return self._frame(refusal.status, {"result": None, "error": refusal.error}, address)

    def _frame(self, status: int, parts: Mapping[str, Any], address: bytes) -> SocketReply:
        frame = {"id": msgspec.Raw(address), "status": status, **parts}
        if self.rules.frame_timestamp:
            frame["timestamp"] = _milliseconds(self._clock())
        return SocketReply(status=status, text=msgspec.json.encode(frame))

    # What the vendor does by HTTP: `HttpVendor`.

    def route(self, method: str, path: str) -> str | None:
        """Return the word for an endpoint, or None."""
        for prefix in PREFIXES:
            if path.startswith(f"{prefix}/"):
                path = path.removeprefix(prefix)
                break
        else:
            return None
        word = ENDPOINTS.get((method, path))
        if word is None and method == "GET" and path.startswith(BY_EXTERNAL_ID):
            return "order_by_external_id"
        if word is None and method == "GET" and path.startswith(BY_ID):
            return "order"
        return word

    def error_body(self, status: int) -> bytes:
        """Return the body of an error with this status."""
        refusal = self._too_many({}, socket=False) if status == 429 else None
        return self._error_of(refusal or _of_status(status, self.rules)).body

    def decide(self, request: HttpRequest) -> Decision:
        """Carry a request out, and say how it is answered."""
        if request.endpoint == "server_time":
            return self._decide_time(request)
        signed = self._signed_request(request)
        try:
            endpoint = self._admit_request(request, signed)
        except _Refusal as refusal:
            known = request.headers.get("authorization") == self.api_token
            return Decision(
                reply=self._error_of(refusal),
                caller="token" if known else None,
                signature_age=signed.age(self._clock()),
            )
        fault = self.faults.take(endpoint)
        self._count(request.arrived, fault)
        at = self._clock(fault)
        decision = Decision(fault=fault, caller="token", signature_age=signed.age(at))
        if fault is not None and fault.processing is Processing.SKIPPED:
            return decision
        try:
            self._verify(signed, at)
            self._demand_permission(endpoint)
            data = self._serve(endpoint, request, fault, at)
        except _Refusal as refusal:
            return msgspec.structs.replace(decision, reply=self._error_of(refusal))
        return msgspec.structs.replace(decision, reply=self._body_of(data), processed=True)

    def _signed_request(self, request: HttpRequest) -> _Signed:
        path, _, _ = request.target.partition("?")
        body = (request.raw or b"").decode("utf-8", "replace")
        path = unquote(path) if self.rules.signed_path_decoded else path
        tolerance = request.headers.get("timestamp-tolerance")
        return _Signed(
            text=f"{request.method}{path}{body}",
            signature=request.headers.get("signature"),
            timestamp=request.headers.get("timestamp"),
            tolerance=None if tolerance is None else _milliseconds_of(tolerance) or 0.0,
            socket=False,
        )

    def _admit_request(self, request: HttpRequest, signed: _Signed) -> str:
        """Return the endpoint of a request that may be processed."""
        if request.endpoint is None:
            raise _Refusal(404, 40400, "URL not found")
        self._demand_token(request.headers.get("authorization"), socket=False)
        self._remember(signed)
        self._demand_room(request.arrived, socket=False)
        return request.endpoint

    def _serve(self, endpoint: str, request: HttpRequest, fault: Fault | None, at: datetime) -> Any:
        path, _, _ = request.target.partition("?")
        path = next(path.removeprefix(p) for p in PREFIXES if path.startswith(f"{p}/"))
        if endpoint == "order":
            return self._read_order(unquote(path.removeprefix(BY_ID)), fault, at)
        if endpoint == "order_by_external_id":
            order_id = self._book.id_of(unquote(path.removeprefix(BY_EXTERNAL_ID)))
            return self._read_order(order_id, fault, at)
        if endpoint == "rest_cancel":
            field = "external_id" if path.endswith("by-external-id") else "id"
            return self._cancel_by(field, request.raw or b"", fault, at)
        if endpoint == "ticket":
            return {"ticket": self._next_id().lower()}
        return self._list(request.query, only_open=endpoint == "open_orders")

    def _decide_time(self, request: HttpRequest) -> Decision:
        meter = self._public_meter
        if meter is not None and not meter.admits(request.arrived):
            self.rejections += 1
            return Decision(reply=self._error_of(self._too_many({}, socket=False)))
        fault = self.faults.take("server_time")
        if meter is not None:
            meter.count(request.arrived)
        if fault is not None and fault.processing is Processing.SKIPPED:
            return Decision(fault=fault)
        if (
            self._server_time is None
            or self._server_time[0] + self.rules.server_time_cache <= request.arrived
        ):
            self._server_time = request.arrived, self._clock(fault)
        time = _milliseconds(self._server_time[1])
        body = {"message": None, "data": {"timestamp": time}}
        reply = HttpReply(status=200, body=msgspec.json.encode(body))
        return Decision(reply=reply, fault=fault, processed=True)

    def _body_of(self, data: Any) -> HttpReply:
        body = {"error_code": None, "message": None, "data": data, **self._stamp()}
        return HttpReply(status=200, body=msgspec.json.encode(body))

    def _error_of(self, refusal: _Refusal) -> HttpReply:
        body: dict[str, Any] = {**refusal.error}
        if refusal.status != 429:
            body |= {"data": None, **self._stamp()}
        return HttpReply(
            status=refusal.status, body=msgspec.json.encode(body), headers=refusal.headers
        )

    def _stamp(self) -> dict[str, int]:
        return {"timestamp": _milliseconds(self._clock())} if _is_new(self.rules) else {}

    # Who may, how often, and with which signature.

    def _demand_token(self, token: Any, *, socket: bool) -> None:
        observed = self.rules.observed_auth_errors and not socket
        if token != self.api_token:
            raise _Refusal(401, 401, "Invalid token") if observed else _of_status(401, self.rules)
        if self.blocked:
            raise _Refusal(401, 40100, "Blocked token")

    def _demand_permission(self, endpoint: str) -> None:
        if endpoint in self.forbidden:
            raise _of_status(403, self.rules)

    def _demand_room(self, arrived: float, *, socket: bool) -> None:
        """Refuse what is beyond the limit of the window or of the day."""
        today = self._days.get(self._clock().date(), 0)
        exhausted = self._quota is not None and today >= self._quota
        if not exhausted and self._meter.admits(arrived):
            return
        self.rejections += 1
        headers = {} if socket else self._retry_after(arrived, exhausted)
        if self.rules.rejected_count:
            self._meter.count(arrived)
        raise self._too_many(headers, socket=socket, daily=exhausted)

    def _count(self, arrived: float, fault: Fault | None) -> None:
        """Count a request against the limits, unless a scripted 429 is its answer."""
        scripted = fault is not None and fault.processing is Processing.SKIPPED
        if scripted and fault is not None and fault.status == 429 and not self.rules.rejected_count:
            return
        self._meter.count(arrived)
        today = self._clock().date()
        self._days[today] = self._days.get(today, 0) + 1

    def _retry_after(self, arrived: float, exhausted: bool) -> dict[str, str]:
        now = self._clock()
        seconds = max(1, math.ceil(self._meter.free_at() - arrived)) if not exhausted else 0
        if exhausted:
            midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            seconds = math.ceil((midnight - now).total_seconds())
        if self.rules.retry_after is RetryAfter.SECONDS:
            return {"Retry-After": str(seconds)}
        if self.rules.retry_after is RetryAfter.DATE:
            # An HTTP date has whole seconds: one more, so that it is not before the window's end.
            return {"Retry-After": http_date(now + timedelta(seconds=seconds + 1))}
        return {}

    def _too_many(
        self, headers: Mapping[str, str], *, socket: bool, daily: bool = False
    ) -> _Refusal:
        worded = self.rules.socket_too_many if socket else self.rules.rest_too_many
        message = "Limit Exceeded" if daily else "Too many requests"
        return _Refusal(429, TOO_MANY_CODES[worded], message, headers)

    def _remember(self, signed: _Signed) -> None:
        """Record a signature; note whether it was used before."""
        if isinstance(signed.signature, str):
            self.signatures.append(signed.signature)
            signed.replayed = signed.signature in self._seen
            self._seen.add(signed.signature)

    def _verify(self, signed: _Signed, at: datetime) -> None:
        """Refuse a request that is not signed, not now, or not with the secret."""
        age = signed.age(at)
        if not isinstance(signed.signature, str) or age is None:
            raise self._unsigned(signed)
        tolerance = self.rules.tolerance_ms if signed.tolerance is None else signed.tolerance
        if tolerance > 60_000:
            raise self._badly_signed(signed, "timestamp")
        ahead = tolerance if self.rules.ahead_ms is None else self.rules.ahead_ms
        if not -ahead / 1000 <= age <= tolerance / 1000:
            raise self._badly_signed(signed, "timestamp")
        text = f"{signed.timestamp_text}{signed.text}".encode("utf-8", "surrogatepass")
        expected = base64.b64encode(hmac.digest(self.secret.encode(), text, hashlib.sha256))
        if not hmac.compare_digest(expected, signed.signature.encode("utf-8", "replace")):
            raise self._badly_signed(signed, "signature")
        if signed.replayed and self.rules.reject_replayed_signatures:
            raise self._badly_signed(signed, "signature")

    def _unsigned(self, signed: _Signed) -> _Refusal:
        if signed.socket:
            return _missing(self.rules)
        return self._badly_signed(signed, "signature")

    def _badly_signed(self, signed: _Signed, what: str) -> _Refusal:
        if not signed.socket and self.rules.observed_auth_errors:
            return _Refusal(401, 401, f"Invalid {what}")
        if _is_new(self.rules):
            return _Refusal(self.rules.signature_status, 40011, "Invalid signature")
        return _of_status(401, self.rules)

    # The calls.

    def _create(self, params: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        for name in ("pair", "side", "type", "amount", "price"):
            if params.get(name) is None:
                raise _missing(self.rules)
        pair, side, kind = params["pair"], params["side"], params["type"]
        external_id = params.get("external_id")
        if not isinstance(pair, str) or pair.count("_") != 1:
            raise _invalid("Invalid pair")
        if side not in {"buy", "sell"} or kind not in ORDER_TYPES:
            raise _invalid()
        if external_id is not None and not (
            isinstance(external_id, str) and 0 < len(external_id) <= 36
        ):
            raise _invalid()
        if (
            self.rules.external_id_unique
            and external_id is not None
            and self._book.id_of(external_id)
        ):
            raise _invalid()
        amount, price = _positive(params["amount"]), _positive(params["price"])
        if amount < self._min_amount:
            raise (
                _invalid()
                if _is_new(self.rules)
                else _Refusal(400, 40010, "Order amount below minimum")
            )
        self._pay(pair, side, amount, price)
        order_id = self.add_order(
            pair=pair,
            side=side,
            type=kind,
            amount=amount,
            price=price,
            external_id=external_id,
            created_at=at,
        )
        return _created(self._book[order_id], self.rules)

    def _pay(self, pair: str, side: str, amount: Decimal, price: Decimal) -> None:
        """Take from the funds what an order needs."""
        if self._funds is None:
            return
        base, _, quote = pair.partition("_")
        currency, cost = (quote, amount * price) if side == "buy" else (base, amount)
        if self._funds.get(currency, Decimal(0)) < cost:
            raise _Refusal(400, 40011, "Insufficient funds")
        self._funds[currency] -= cost

    def _update(self, params: Mapping[str, Any], fault: Fault | None, at: datetime) -> None:
        given = [params[name] for name in ("order_id", "id") if name in params]
        fields = self.rules.update_id_fields & params.keys()
        if len(given) != 1 or len(fields) != 1:
            raise _missing(self.rules)
        if params.get("price") is None and params.get("amount") is None:
            raise _missing(self.rules, "At least one of price or amount must be provided")
        order = self._order_for(given[0], fault, at)
        self._book.count(order.id, updates=1)
        order = self._book[order.id]
        if not order.is_live:
            raise _closed(self.rules, order.state, "update")
        price = order.price if params.get("price") is None else _positive(params["price"])
        amount = params.get("amount")
        amount = order.requested_amount if amount is None else _positive(amount)
        if amount < order.executed_amount:
            raise _invalid()
        self._book.update(order.id, at, price, amount)

    def _cancel(
        self, params: Mapping[str, Any], fault: Fault | None, at: datetime
    ) -> dict[str, Any]:
        given = [name for name in ("id", "external_id") if params.get(name) is not None]
        if len(given) != 1:
            raise _missing(self.rules)
        named = params[given[0]]
        if given == ["external_id"]:
            named = self._book.id_of(named) if isinstance(named, str) else None
        order = self._order_for(named, fault, at)
        self._book.count(order.id, cancels=1)
        if not self._book.cancel(order.id, at):
            raise _closed(self.rules, self._book[order.id].state, "cancel")
        self._give_back(order)
        return _canceled(self._book[order.id], self.rules)

    def _give_back(self, order: SandboxOrder) -> None:
        """Free what the rest of a canceled order had taken from the funds."""
        if self._funds is not None:
            base, _, quote = order.pair.partition("_")
            buys = order.side == "buy"
            currency = quote if buys else base
            rest = order.remaining_value if buys else order.remaining_amount
            self._funds[currency] = self._funds.get(currency, Decimal(0)) + rest

    def _order_for(self, order_id: Any, fault: Fault | None, at: datetime) -> SandboxOrder:
        """Return the order that a request is about, after the race that a fault lets it lose."""
        if not isinstance(order_id, str) or order_id not in self._book:
            raise _not_found(self.rules)
        order = self._book[order_id]
        if fault is not None and fault.processing is Processing.RACE:
            self._book.fill(order_id, None, at)
        elif fault is not None and fault.processing is Processing.PARTIAL_RACE:
            self._book.fill(order_id, order.remaining_amount / 2, at)
        return self._book[order_id]

    def _cancel_by(
        self, field: str, raw: bytes, fault: Fault | None, at: datetime
    ) -> dict[str, Any]:
        try:
            body = _parse(raw)
        except ValueError:
            raise _invalid() from None
        if not isinstance(body, dict):
            raise _invalid()
        return self._cancel({field: body.get(field)}, fault, at)

    def _read_order(self, order_id: str | None, fault: Fault | None, at: datetime) -> Any:
        if order_id is not None and order_id in self._book:
            self._order_for(order_id, fault, at)
            order = self._book.as_of(order_id, _loop_time() - self.rules.rest_lag)
            if order is not None:
                return _detail(order, self.rules)
        raise _not_found(self.rules)

    def _list(self, query: Mapping[str, str], *, only_open: bool) -> dict[str, Any]:
        if "pair" not in query and not only_open:
            raise _missing(self.rules)
        size = _count_in(query, "page_size", 200, 1000)
        page = _count_in(query, "current_page", 1)
        start, end = _time_in(query, "start_date"), _time_in(query, "end_date")
        ids, words = _listed(query, "ids"), _listed(query, "status")
        if ids is not None and len(ids) > 10:
            raise _invalid()
        time = _loop_time() - self.rules.rest_lag
        seen = (self._book.as_of(order_id, time) for order_id in reversed(list(self._book)))
        found = [
            order
            for order in seen
            if order is not None
            and (not only_open or order.is_live)
            and query.get("pair", order.pair) == order.pair
            and query.get("side", order.side) == order.side
            and query.get("type", order.type) == order.type
            and (ids is None or order.id in ids)
            and (words is None or self.rules.word(order.state) in words)
            and (start is None or start <= order.created_at)
            and (end is None or order.created_at <= end)
        ]
        rows = found[(page - 1) * size : page * size]
        return {
            "orders": [_detail(order, self.rules) for order in rows],
            "pagination": {
                "current_page": page,
                "page_size": size,
                "registers_count": len(found),
                "total_pages": math.ceil(len(found) / size),
                "nc": None,
                "pc": None,
            },
        }


class _Signed(msgspec.Struct, kw_only=True):
    """
    What a request's signature is made of.

    Attributes:
        text: The signed text after the timestamp.
        signature: What was sent as signature, whatever it is.
        timestamp: What was sent as timestamp, whatever it is.
        tolerance: The tolerance that was asked for, in milliseconds.
        socket: Whether it came on a socket.
        replayed: Whether the signature was used before.
    """

    text: str
    signature: Any
    timestamp: Any
    socket: bool
    tolerance: float | None = None
    replayed: bool = False

    @property
    def timestamp_text(self) -> str:
        """The timestamp as a JavaScript server puts it into a text."""
        stamp = self.timestamp
        return _number_text(stamp) if isinstance(stamp, float) else str(stamp)

    def age(self, at: datetime) -> float | None:
        """Return how long ago it was signed, in seconds; None, if that cannot be told."""
        signed = _milliseconds_of(self.timestamp)
        return None if signed is None else (_milliseconds(at) - signed) / 1000
