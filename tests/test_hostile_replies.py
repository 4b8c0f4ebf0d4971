"""Malformed and hostile replies: no decoder breaks, none makes a gateway lie, and the next request is served."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import sys
import time
import tracemalloc
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from brokers.ripio import RipioGateway
from brokers.ripio import verdict as ripio
from brokers.ripio import wire as ripio_wire
from brokers.ripio.clock import VendorClock
from brokers.ripio.timekeeper import _time_of
from brokers.sms4sats import Sms4SatsGateway
from brokers.sms4sats import verdict as sms4sats
from brokers.sms4sats import wire as sms4sats_wire
from brokers.tronsave import TronSaveGateway, history
from brokers.tronsave import verdict as tronsave
from brokers.tronsave import wire as tronsave_wire
from contract.play import playing
from contract.scenario import STAGES
from support import ripio_wire as ripio_says
from support import sms4sats as sms4sats_says
from support import tally
from support import tronsave_wire as tronsave_says
from support.canary import (
    CANARY,
    WatchedGateway,
    WatchedRipio,
    WatchedSms4Sats,
    sightings,
)
from support.effort import THOROUGH, either, sampled
from support.hostile import (
    BODIES,
    DOOR_FLOODS,
    FLOODS,
    FRAME_FLOODS,
    FRAMES,
    REPLIES,
    VALUES,
    Flood,
    Mutant,
    Rude,
    SocketFlood,
    encoded,
    mutants,
    plain,
)
from support.raw_server import Reply, http
from support.socket_server import Asked, Peer, SocketServer, frame
from tronsave_async import (
    AlreadyClosed,
    BadReply,
    Canceled,
    ConnectionLost,
    Disconnected,
    GatewayError,
    NotSent,
    OrderNotFound,
    OrderRef,
    OrderSnapshot,
    OrderState,
    OutcomeUnknown,
    RateLimit,
    RateLimiter,
    Refused,
    RequestTimeout,
    RetryPolicy,
    Unknown,
    VendorFailure,
    Wire,
    connection,
)
from tronsave_async.blot import Blot
from tronsave_async.coalescing import Divide
from tronsave_async.duplicates import has_unique_names
from tronsave_async.http import HttpReply
from tronsave_async.sandbox import replaced
from tronsave_async.settlement import Meaning, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from tronsave_async import CancelOutcome, Event, TelemetryHook

pytestmark = pytest.mark.proof

# -- the decoders, and what a reply must say before they may say it ------------------------------------------------

ID = tronsave_says.C
RIPIO_DECIDES: Final = frozenset(
    {"id", "external_id", "status", "executed_amount", "remaining_amount", "requested_amount"}
)
ORDER, EXTERNAL = ripio_says.ORDER_ID, ripio_says.EXTERNAL_ID
SECRET_ID = sms4sats_says.NOWHERE

PROOFS: Final = frozenset({Meaning.CANCELED, Meaning.ALREADY_CLOSED, Meaning.NOT_FOUND})


class Decoder(NamedTuple):
    """A decoder of replies.

    Attributes:
        name: the vendor, and the call.
        literals: the vendor's own messages for it, and the status that each comes with.
        read: from a status and a body to a result.
        is_said: whether a result is what a body plainly says: given the result, and the body as `plain` reads it. What
            it cannot find raises LookupError, TypeError or ValueError.
        passed_over: names by which nothing is decided, and for which no time is spent.
    """

    name: str
    literals: Sequence[tuple[int, Any]]
    read: Callable[[int, bytes], Any]
    is_said: Callable[[Any, Any], bool]
    passed_over: frozenset[str] = frozenset()

    @property
    def vendor(self) -> str:
        """Whose reply it is."""
        return self.name.partition(" ")[0]


def tronsave_cancel(result: dict[str, Verdict], said: Any) -> bool:
    return all(tronsave_proof(order_id, verdict, said) for order_id, verdict in result.items())


def tronsave_proof(order_id: str, verdict: Verdict, said: Any) -> bool:
    if verdict.meaning not in PROOFS:
        return True
    if verdict.meaning is Meaning.NOT_FOUND:
        return re.search("invalid orderid$", said["message"], re.IGNORECASE) is not None
    about = [item for item in said["cancel_results"] if item.get("order_id") == order_id]
    done = all(item["is_success"] is True and not item.get("fail_reason") for item in about)
    is_canceled = verdict.meaning is Meaning.CANCELED
    return is_canceled and about != [] and done and not bool(said.get("error"))


def tronsave_track(result: dict[str, str], said: Any) -> bool:
    rows = [item for item in said["results"] if isinstance(item, dict)]
    told = [(row.get("order_id"), row["status"]) for row in rows if row.get("status") is not None]
    return all(
        [w for name, w in told if name == order_id] == [word] for order_id, word in result.items()
    )


def tronsave_row(snapshot: OrderSnapshot, row: Any) -> bool:
    word = str(row.get("status")).casefold()
    match snapshot.state:
        case OrderState.FILLED:
            plainly = said_of(row, "is_matched")
            return plainly or (plainly is None and word in ("completed", "matched"))
        case OrderState.CANCELED:
            given_back = said_of(row, "is_matched") is False and float(row["repay_amount"]) > 0
            return given_back or word in ("canceled", "cancelled")
        case state:
            return not state.is_closed


def said_of(row: Any, name: str) -> bool | None:
    """What a field says of a yes or no, as far as it says it in a plain way."""
    words = {"true": True, "1": True, '"true"': True, '"1"': True}
    words |= {"false": False, "0": False, '"false"': False, '"0"': False}
    return words.get(json.dumps(row.get(name)).casefold())


def tronsave_history(result: tuple[list[OrderSnapshot], Any], said: Any) -> bool:
    rows = [row for row in said["results"] if isinstance(row, dict)]
    told = {s.order.id: [row for row in rows if row.get("_id") == s.order.id] for s in result[0]}
    return all(tronsave_row(snapshot, told[snapshot.order.id][0]) for snapshot in result[0])


def read_history(status: int, body: bytes) -> tuple[list[OrderSnapshot], Any]:
    pages = history.Pages()
    page = history.read_page(status, body)
    rows = list(pages.take(page))
    history.periods([row.id for row in rows], now=datetime.now(UTC))
    return [tronsave.snapshot_of_row(OrderRef(id=row.id), row) for row in rows if row.id], page


def tronsave_create(result: tronsave_wire.CreateReply, said: Any) -> bool:
    return bool(result.order_ids == said["order_ids"])


def tronsave_confirm(result: tronsave_wire.ConfirmReply, said: Any) -> bool:
    pairs = zip(result.confirmation_results, said["confirmation_results"], strict=True)
    return all(said_of(item, "is_success") is told.is_success for told, item in pairs)


def tronsave_estimate(result: tronsave_wire.Estimate, said: Any) -> bool:
    return float(said["charge_amount"]) in (result.charge_amount, math.inf)


def sms4sats_cancel(result: Verdict, said: Any) -> bool:
    if result.meaning is Meaning.NOT_FOUND:
        return said["status"].casefold() == "error" and "order" in str(said).casefold()
    if result.meaning is not Meaning.CANCELED:
        return result.meaning not in PROOFS
    objections = [said.get(name) for name in ("error", "reason", "code")]
    return said["status"].casefold() == "ok" and all(_says_nothing(each) for each in objections)


def _says_nothing(value: Any) -> bool:
    return value in (None, False, 0, "0", [], {}) or (isinstance(value, str) and not value.strip())


def sms4sats_status(result: list[OrderSnapshot], said: Any) -> bool:
    if said["status"].casefold() != "ok":
        return False
    for snapshot in result:
        if snapshot.state is OrderState.FILLED:
            word = str(said.get("smsStatus")).casefold()
            told = has_digits(said.get("code")) and _says_nothing(said.get("error"))
            if not told and word not in ("sent", "delivered"):
                return False
        if snapshot.state is OrderState.CANCELED:
            end = re.search("cancel|return|refund|expired", str(said.get("error")))
            if not end and str(said.get("smsStatus")).casefold() != "failed":
                return False
    return True


def has_digits(code: Any) -> bool:
    return code == math.inf or re.search("[0-9]", str(code)) is not None


def read_status(status: int, body: bytes) -> list[OrderSnapshot]:
    told = sms4sats.order_status(SECRET_ID, status, body)
    order = OrderRef(id=SECRET_ID)
    return [sms4sats.snapshot_of(order, told, overdue=overdue) for overdue in (False, True)]


def sms4sats_create(result: sms4sats_wire.CreatedOrder, said: Any) -> bool:
    named = said["orderId"] == math.inf or result.order_id == str(said["orderId"])
    return said["status"].casefold() == "ok" and named


def ripio_cancel(result: list[Verdict] | str, said: Any) -> bool:
    if isinstance(result, str):
        return True
    by_id, by_external_id = result
    is_named = by_id.meaning is not Meaning.CANCELED or _same(said["result"]["id"], ORDER)
    is_called = by_external_id.meaning is not Meaning.CANCELED or said["result"].get(
        "external_id"
    ) in (None, EXTERNAL)
    return is_named and is_called and all(ripio_proof(verdict, said) for verdict in result)


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def ripio_proof(verdict: Verdict, said: Any) -> bool:
    if verdict.meaning not in PROOFS:
        return True
    if verdict.meaning is Meaning.CANCELED:
        order = said["result"]
        dead = _same(order["status"], "canceled") and said["status"] == 200
        return dead and said.get("error") is None and _amount(verdict.executed, order)
    words = f"{said.get('error')} {said.get('error_code')} {said.get('message')}".casefold()
    if verdict.meaning is Meaning.NOT_FOUND:
        return "4040" in words and said.get("result") is None and said["status"] in (400, 404)
    closed = "40408" in words or "4002" in words
    return closed and said.get("result") is None and said["status"] == 400


def _amount(executed: Decimal | None, order: Any) -> bool:
    return executed is None or float(executed) == float(order["executed_amount"])


def read_socket(status: int, body: bytes) -> list[Verdict] | str:
    read = ripio_wire.read_message(body)
    if isinstance(read, str):
        return read
    _, frame = read
    for meaning in (ripio.created_order, partial(ripio.updated, order_id=ORDER)):
        try:
            meaning(frame)
        except GatewayError:
            pass
    ripio.is_daily(frame.status, frame.message)
    if frame.timestamp is not None:
        heard(frame.timestamp)
    names = ((ORDER, None), (None, EXTERNAL))
    return [ripio.cancel_verdict(frame, *name) for name in names]


def ripio_record(result: tuple[OrderSnapshot, Any], said: Any) -> bool:
    order, snapshot = said["data"], result[0]
    if not snapshot.state.is_closed:
        return True
    words = {
        OrderState.CANCELED: ("canceled", "cancelled"),
        OrderState.FILLED: ("executed_completely",),
    }
    named = order["id"].casefold() == ripio_says.OTHER_ID.casefold()
    return named and order["status"].casefold() in words[snapshot.state]


def read_record(status: int, body: bytes) -> tuple[OrderSnapshot, Any]:
    record = ripio.order_record(status, body)
    return ripio.snapshot_of(OrderRef(id=ripio_says.OTHER_ID), record), record


def ripio_list(result: ripio_wire.OrdersPage, said: Any) -> bool:
    rows = said["data"]["orders"]
    return len(result.orders) + result.unreadable == len(rows)


def read_time(status: int, body: bytes) -> datetime:
    stamp = ripio.server_time(status, body)
    heard(stamp)
    return _time_of(stamp)


def heard(stamp: int) -> None:
    """Tell a clock a time, and see that it tells one that the vendor could have now or has heard."""
    clock = VendorClock(wall=lambda: 1.7e9, monotonic=lambda: 50.0)
    clock.heard(stamp, 49.0, 50.0)
    clock.told(stamp, 49.0, 50.0, rejected=True)
    assert 1_262_304_000_000 <= clock.timestamp(b"text") <= 4_102_444_860_000


def says_anything(result: object, said: Any) -> bool:
    """No order is concerned."""
    return True


def tronsave_reply(endpoint: str) -> list[tuple[int, Any]]:
    return [(200, tronsave_says.LITERALS[endpoint]["reply_200"])]


_NO_ORDER = (400, {"error": True, "message": "TSAS:408 INVALID_PARAMS Invalid orderId"})
_NO_NUMBER = (500, {"status": "error", "reason": "order not found"})

DECODERS: Final = [
    Decoder(
        "tronsave cancel",
        [*tronsave_reply("cancel"), _NO_ORDER],
        partial(tronsave.cancel_verdicts, [ID]),
        tronsave_cancel,
    ),
    Decoder(
        "tronsave track",
        tronsave_reply("track"),
        partial(tronsave.statuses, [ID]),
        tronsave_track,
    ),
    Decoder("tronsave history", tronsave_reply("history"), read_history, tronsave_history),
    *(
        Decoder(
            f"tronsave {call}",
            tronsave_reply(call),
            partial(tronsave.read_reply, call, reply_type=kind),
            is_said,
        )
        for call, kind, is_said in (
            ("create", tronsave_wire.CreateReply, tronsave_create),
            ("confirm", tronsave_wire.ConfirmReply, tronsave_confirm),
            ("estimate", tronsave_wire.Estimate, tronsave_estimate),
        )
    ),
    Decoder(
        "sms4sats cancel",
        [
            (200, sms4sats_says.LITERALS["cancel"]),
            (500, sms4sats_says.LITERALS["cancel failed"]),
            _NO_NUMBER,
        ],
        partial(sms4sats.cancel_verdict, SECRET_ID),
        sms4sats_cancel,
    ),
    Decoder(
        "sms4sats status",
        [
            (200, sms4sats_says.LITERALS["code received"]),
            (200, sms4sats_says.LITERALS["no number"]),
        ],
        read_status,
        sms4sats_status,
    ),
    *(
        Decoder(
            f"sms4sats create{', prepaid' * prepaid}",
            [(200, sms4sats_says.LITERALS["created"])],
            partial(sms4sats.created_order, prepaid=prepaid),
            sms4sats_create,
        )
        for prepaid in (False, True)
    ),
    Decoder(
        "sms4sats balance",
        [(200, {"status": "OK", "balance": 1000})],
        sms4sats.balance,
        says_anything,
    ),
    Decoder(
        "sms4sats price",
        [(200, {"receive": "1500", "send": 3000, "rent": 15000, "s4s": "4000"})],
        sms4sats.price,
        says_anything,
    ),
    Decoder(
        "sms4sats countries",
        [(200, [{"id": 187, "eng": "USA", "visible": 1, "rent": 0}])],
        sms4sats.countries,
        says_anything,
    ),
    Decoder(
        "sms4sats services",
        [(200, [{"key": "vk", "text": "VK", "value": "vk", "count": "12"}])],
        sms4sats.services,
        says_anything,
    ),
    Decoder(
        "ripio cancel",
        [
            (0, ripio_says.CANCELED | {"timestamp": 1700000000000}),
            (0, ripio_says.NOT_FOUND),
            (0, ripio_says.ALREADY_CLOSED),
        ],
        read_socket,
        ripio_cancel,
        frozenset(ripio_says.RESULT) - RIPIO_DECIDES | {"timestamp"},
    ),
    Decoder("ripio order", [(200, ripio_says.RECORD)], read_record, ripio_record),
    Decoder(
        "ripio orders",
        [
            (
                200,
                {
                    "data": {
                        "orders": [ripio_says.RESULT],
                        "pagination": {"current_page": 1, "registers_count": 1},
                    }
                },
            )
        ],
        partial(ripio.orders_page, "orders"),
        ripio_list,
    ),
    Decoder(
        "ripio server-time",
        [(200, {"error_code": None, "message": None, "data": {"timestamp": 1700000000000}})],
        read_time,
        says_anything,
    ),
]

# -- the judge -----------------------------------------------------------------------------------------------------


def judge(decoder: Decoder, status: int, mutant: Mutant) -> None:
    """Let a decoder read a mutant, with a status where that is not in the message. What comes out is sound and true,
    what is raised is the SDK's, and it is counted."""
    body = mutant.body
    status = status if decoder.literals[0][0] else 0
    told = f"{decoder.name}, {mutant.name}, status {status}: {body[:300]!r}"
    try:
        result = decoder.read(status, body)
    except Divide:
        result = "divided"
    except GatewayError as error:
        result = error
    if isinstance(result, GatewayError):
        assert len(str(result)) < len(body) + 5_000, told
        assert not isinstance(result, OrderNotFound) or is_not_found_plainly(body), told
    else:
        assert_sound(result)
        assert is_plainly_said(decoder, result, body), f"{result!r:.500} of {told}"
        is_success = status == 0 or 200 <= status < 300
        assert is_success or name_of(result) in HARMLESS, f"{result!r:.500} of {told}"
    tally.count(f"hostile replies, {decoder.vendor}", name_of(result))


HARMLESS: Final = frozenset(meaning.value for meaning in Meaning) - {"canceled"} | {"divided"}
"""What a refusal may be read as."""


def is_plainly_said(decoder: Decoder, result: Any, body: bytes) -> bool:
    """Whether a result is what the body says; one that claims nothing needs no words."""
    if decoder.is_said is says_anything or claims_nothing(result):
        return True
    try:
        return decoder.is_said(result, plain(body, decoder.passed_over))
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def is_not_found_plainly(body: bytes) -> bool:
    """Whether a body says, once, that there is no such order."""
    try:
        return "order" in str(plain(body)).casefold()
    except ValueError:
        return False


def claims_nothing(result: Any) -> bool:
    """Whether a result claims nothing of any order."""
    match result:
        case str() | datetime():
            return True
        case Verdict(meaning=meaning):
            return meaning not in PROOFS
        case dict():
            return all(isinstance(v, Verdict) and claims_nothing(v) for v in result.values())
        case list() if result and all(isinstance(each, Verdict) for each in result):
            return all(map(claims_nothing, result))
        case list() if result and all(isinstance(each, OrderSnapshot) for each in result):
            return not any(each.state.is_closed for each in result)
        case (OrderSnapshot(state=state), _):
            return not state.is_closed
        case _:
            return False


def name_of(result: Any) -> str:
    """What came of it, in a word."""
    match result:
        case GatewayError():
            return type(result).__name__
        case Verdict(meaning=meaning):
            return meaning.value
        case dict() if isinstance(result.get(ID), Verdict):
            return name_of(result[ID])
        case [Verdict() as first, *_]:
            return name_of(first)
        case str():
            return result if result == "divided" else "stray"
        case _:
            return "read"


def assert_sound(value: Any) -> None:
    """A value can be shown, serialized, compared and calculated with, and none of that takes more than a moment."""
    match value:
        case Verdict(error=error):
            assert error is None or str(error)
            for field in (value.executed, value.remaining, value.code, value.message):
                assert_sound(field)
            assert (value.executed or 0) >= 0
            assert (value.remaining or 0) >= 0
        case OrderSnapshot(executed=executed, remaining=remaining):
            for amount in (executed, remaining):
                assert amount is None or amount >= 0
                assert_sound(amount)
            assert msgspec.json.encode(value)
        case Decimal():
            assert value.is_finite()
            assert abs(value.adjusted()) < 5_000
            assert value >= 0 or value < 0
            assert int(value) <= value + 1
        case datetime():
            assert value.utcoffset() is not None
            assert value > datetime(1970, 1, 1, tzinfo=UTC) or value.year < 1971
        case msgspec.Struct():
            assert msgspec.json.encode(value)
            assert repr(value)
            for field in value.__struct_fields__:
                assert_sound(getattr(value, field))
        case dict():
            for item in value.values():
                assert_sound(item)
        case list() | tuple():
            for item in value:
                assert_sound(item)
        case bool():
            pass
        case int():
            assert value.bit_length() < 20_000
        case str():
            assert value.encode() is not None
        case _:
            assert value is None or value is msgspec.UNSET or isinstance(value, float)


# -- every mutation of every literal message -----------------------------------------------------------------------

each_decoder = pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)

STATUSES: Final = [
    *(200, 0, 100, 201, 204, 206, 299, 300, 301, 302, 304, 307, 308),
    *(400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 599, 999),
]


@each_decoder
def test_the_literal_messages_say_something(decoder: Decoder) -> None:
    """The judge is not deaf: of each vendor's own messages, one at least claims something, and is believed."""
    results = []
    for status, literal in decoder.literals:
        try:
            results.append(decoder.read(status, encoded(literal)))
        except GatewayError:
            continue
    said = [
        each for each in results if decoder.is_said is says_anything or not claims_nothing(each)
    ]
    assert said
    for result in said:
        assert any(
            is_plainly_said(decoder, result, encoded(literal)) for _, literal in decoder.literals
        )


@each_decoder
def test_no_mutation_breaks_a_decoder_or_makes_it_lie(decoder: Decoder) -> None:
    """Whatever is changed in a vendor's own message: what is made of it is sound and true, or an error of the SDK's."""
    for status, literal in decoder.literals:
        changed = mutants(literal)
        for mutant in sampled(changed, 500):
            judge(decoder, status, mutant)


@each_decoder
def test_a_contradiction_within_an_object_is_not_believed(decoder: Decoder) -> None:
    """Where a name comes twice, in whatever spelling, neither value counts: each of them could be the lie."""
    for status, literal in decoder.literals:
        for mutant in mutants(literal):
            if ": twice" in mutant.name:
                judge(decoder, status, mutant)


@each_decoder
def test_no_status_makes_a_decoder_lie(decoder: Decoder) -> None:
    """A success in a reply that is none, and a refusal in a success, are not believed; the fewest of them claim."""
    for literal in (literal for _, literal in decoder.literals):
        changed = [Mutant("as it is", partial(encoded, literal)), *sampled(mutants(literal), 20)]
        for status in sampled(STATUSES, 7):
            for mutant in changed:
                judge(decoder, status, mutant)


@each_decoder
def test_no_body_breaks_a_decoder(decoder: Decoder) -> None:
    """Bodies that are nobody's claim nothing, however large or deep they are, whatever the status."""
    for name, body in BODIES.items():
        for status in sampled(STATUSES, 2 if len(body) > 1_000_000 else 4):
            judge(decoder, status, Mutant(name, partial(bytes, body)))


# -- what nobody thought of ----------------------------------------------------------------------------------------


def words_of(vendor: str) -> list[bytes]:
    """Every name and every value in a vendor's own messages, as JSON."""
    found: dict[bytes, None] = {}
    waiting = [literal for d in DECODERS if d.vendor == vendor for _, literal in d.literals]
    while waiting:
        match waiting.pop():
            case dict() as item:
                found |= dict.fromkeys(encoded(name) for name in item)
                waiting += item.values()
            case list() as items:
                waiting += items
            case value:
                found[encoded(value)] = None
    return list(found)


def replies_of(vendor: str) -> st.SearchStrategy[bytes]:
    """Objects of a vendor's own words in any order and depth, with hostile values among them."""
    words = st.sampled_from(words_of(vendor))
    small = [value for value in VALUES.values() if len(value) < 1_000]
    leaves = words | words | st.sampled_from(small)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]"),
            st.lists(st.tuples(words, inner), max_size=6).map(
                lambda pairs: b"{" + b",".join(b":".join(pair) for pair in pairs) + b"}"
            ),
        ),
        max_leaves=12,
    )


@pytest.mark.parametrize("vendor", ["tronsave", "sms4sats", "ripio"])
def test_no_words_of_the_vendor_s_make_a_decoder_lie(vendor: str) -> None:
    """Whatever they are put together to."""
    decoders = [decoder for decoder in DECODERS if decoder.vendor == vendor]

    @settings(max_examples=either(120, 5_000), suppress_health_check=list(HealthCheck))
    @given(replies_of(vendor), st.sampled_from(STATUSES))
    def fuzz(body: bytes, status: int) -> None:
        for decoder in decoders:
            judge(decoder, status, Mutant("words", lambda: body))

    fuzz()


@pytest.mark.parametrize("vendor", ["tronsave", "sms4sats", "ripio"])
def test_no_damage_to_the_bytes_makes_a_decoder_lie(vendor: str) -> None:
    """Bytes that are lost, changed or put in, at up to three places of a literal message."""
    decoders = [decoder for decoder in DECODERS if decoder.vendor == vendor]
    literals = [(status, encoded(each)) for d in decoders for status, each in d.literals]
    splice = st.tuples(
        st.integers(0, 1_200),
        st.integers(0, 9),
        st.binary(max_size=3) | st.sampled_from([*words_of(vendor), b"null", b"{", b"}", b"e9"]),
    )

    @settings(max_examples=either(120, 5_000), suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(literals), st.lists(splice, min_size=1, max_size=3))
    def fuzz(literal: tuple[int, bytes], splices: list[tuple[int, int, bytes]]) -> None:
        status, body = literal
        for at, lost, new in splices:
            body = body[: at % len(body)] + new + body[at % len(body) + lost :]
            body = body or b" "
        for decoder in decoders:
            judge(decoder, status, Mutant("damage", lambda: body))

    fuzz()


def objects(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Objects with few names, of which one has two spellings; and lists of them."""
    names = st.sampled_from([b'"a"', b'"\\u0061"', b'"b"', b'"A"', b'""'])
    pairs = st.lists(st.tuples(names, inner), max_size=3)
    whole = pairs.map(lambda items: b"{" + b" , ".join(b" : ".join(item) for item in items) + b"}")
    return whole | st.lists(whole, max_size=2).map(lambda items: b"[" + b",".join(items) + b"]")


@given(st.recursive(st.sampled_from([b"1", b'"a"', b"null"]), objects))
def test_a_name_that_comes_twice_is_found_wherever_it_is(text: bytes) -> None:
    """The reader that looks for it and the strictest there is agree."""
    try:
        plain(text)
    except ValueError:
        assert not has_unique_names(text)
    else:
        assert has_unique_names(text)


# -- headers, and secrets taken out --------------------------------------------------------------------------------

TIMES: Final = [
    *("", " ", "0", "-0", "+5", "7", "1.5", "1e308", "1e309", "-1", "-1e308", "nan", "inf", "-inf"),
    *("1_000", "0x10", "9" * 5_000, "5, 6", "5;q=1", "soon", "\u0663", "\xb2", "1\xb2", "\udcff"),
    "Sat, 21 Nov 2026 10:00:30 GMT",
    "Sat, 21 Nov 99999 10:00:30 GMT",
    "Sat, 21 Nov -2026 10:00:30 GMT",
    "Sat, 21 Nov 2026 24:00:00 GMT",
    "Sat, 21 Nov 2026 23:59:60 GMT",
    "Sat, 00 Nov 2026 10:00:30 GMT",
    "Sat, 21 Nov 2026 10:00:30 +99999999999999",
    "Sat, 21 Nov 2026 10:00:30 -" + "9" * 5_000,
    "Sat, 21 Nov \xb2\xb2\xb2\xb2 10:00:30 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Fri, 31 Dec 9999 23:59:59 -0000",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Mon, 01 Jan 0001 00:00:00 -0000",
    *(
        ",,,,",
        ":::",
        "Nov",
        "1 2 3 4 5 6 7",
        "a:b:c",
        "Sat Nov 21 2026",
        "Sat, 99 Foo 2026 9:9:9 X",
    ),
]


@pytest.mark.parametrize("number", range(len(TIMES)))
def test_no_header_breaks_the_reading_of_times(number: int) -> None:
    """``Retry-After`` is a finite time from now or none, and ``Date`` an aware moment or none."""
    wanted = TIMES[number]
    for date in (None, "Sat, 21 Nov 2026 10:00:00 GMT", wanted, *TIMES):
        assert_times(wanted, date)


@settings(max_examples=either(60, 3_000))
@given(st.data())
def test_no_text_breaks_the_reading_of_times(data: st.DataObject) -> None:
    """Whatever comes in place of a time."""
    parts = st.lists(st.sampled_from([*TIMES, *" ".join(TIMES).split(" ")]), max_size=7)
    text = parts.map(" ".join) | st.text(max_size=30)
    assert_times(data.draw(text), data.draw(st.none() | text))


def assert_times(retry_after: str, date: str | None) -> None:
    """Whatever the headers say, nobody waits for ever, or for less than nothing."""
    headers = {"Retry-After": retry_after} | ({} if date is None else {"Date": date})
    reply = HttpReply(429, b"", CIMultiDictProxy(CIMultiDict(headers)))
    seconds, moment = reply.retry_after(), reply.date()
    assert seconds is None or 0.0 <= seconds < math.inf
    assert moment is None or moment.utcoffset() == timedelta(0)
    policy = RetryPolicy()
    penalty = policy.penalty(1, retry_after=seconds, minimum=2.0)
    assert 2.0 <= penalty <= policy.max_retry_after
    if moment is not None:
        heard(int(moment.timestamp() * 1000))
    tally.count("hostile replies, headers", "none" if seconds is None else "seconds")


@pytest.mark.parametrize("name", BODIES)
def test_no_body_breaks_the_blot(name: str) -> None:
    """What takes secrets out of replies survives all that the decoders survive, and takes them out."""
    blot, body = Blot([CANARY]), BODIES[name]
    assert blot(body) == body
    escaped = b"".join(b"\\u%04x" % ord(letter) for letter in CANARY)
    for secret in (CANARY.encode(), escaped, CANARY.encode()[:-1] + escaped[-6:]):
        for text in (body + secret, b'{"a":"' + secret + b'","b":' + body + b"}"):
            clean = blot(text)
            assert CANARY.encode() not in clean
            assert CANARY not in str(plain_or_none(clean))


def plain_or_none(body: bytes) -> Any:
    """What a body says plainly, if it says anything."""
    try:
        return plain(body)
    except ValueError:
        return None


# -- what it costs -------------------------------------------------------------------------------------------------

_ITEM: Final = b'{"order_id":"%s","is_success":true,"fail_reason":null}' % ID.encode()
_ROW: Final = encoded(ripio_says.RESULT)

GROWING: Final[dict[str, tuple[str, Callable[[int], bytes]]]] = {
    "items": ("tronsave cancel", lambda n: b'{"cancel_results":[%s]}' % b",".join([_ITEM] * n)),
    "odd items": (
        "tronsave cancel",
        lambda n: b'{"cancel_results":[%s]}' % b",".join([_ITEM.replace(b"true", b"1")] * n),
    ),
    "no items": ("tronsave cancel", lambda n: b'{"cancel_results":[%s]}' % b",".join([b"0"] * n)),
    "tracked": (
        "tronsave track",
        lambda n: (
            b'{"results":[%s]}' % b",".join(b'{"order_id":"%d","status":1}' % k for k in range(n))
        ),
    ),
    "rows": (
        "tronsave history",
        lambda n: (
            b'{"results":[%s]}' % b",".join(b'{"_id":"%d","amount":[]}' % k for k in range(n))
        ),
    ),
    "names": ("tronsave cancel", lambda n: b"{%s}" % b",".join(b'"%d":0' % k for k in range(n))),
    "one name": ("sms4sats cancel", lambda n: b"{%s}" % b",".join([b'"status":"OK"'] * n)),
    "clauses": (
        "sms4sats status",
        lambda n: b'{"status":"OK","error":"%s"}' % (b"order canceled by. " * n),
    ),
    "reasons": (
        "sms4sats cancel",
        lambda n: b'{"status":"error","reason":"%s"}' % (b"order failed to unable error " * n),
    ),
    "services": ("sms4sats services", lambda n: b"[%s]" % b",".join([b'{"key":1,"text":[]}'] * n)),
    "orders": ("ripio orders", lambda n: b'{"data":{"orders":[%s]}}' % b",".join([_ROW] * n)),
    "odd orders": (
        "ripio orders",
        lambda n: (
            b'{"data":{"orders":[%s]}}'
            % b",".join([_ROW.replace(b"BTC_BRL", b"\\u0000"), b"0"] * n)
        ),
    ),
    "transactions": (
        "ripio cancel",
        lambda n: encoded(
            {
                **ripio_says.CANCELED,
                "result": {**ripio_says.RESULT, "transactions": [{"fee": []}] * n},
            }
        ),
    ),
    "a message": (
        "ripio cancel",
        lambda n: encoded(ripio_says.failed(400, 40408, "the order was already canceled " * n)),
    ),
}
"""Bodies that grow, and who reads them."""


@pytest.mark.parametrize("what", GROWING)
def test_four_times_the_body_takes_no_more_than_four_times_the_steps(what: str) -> None:
    """Counted are the calls of functions, Python's and the libraries': no clock is asked."""
    name, grow = GROWING[what]
    [decoder] = (decoder for decoder in DECODERS if decoder.name == name)
    once, more = (steps(decoder, grow(number)) for number in (100, 400))
    assert more <= 4.5 * once + 100


@pytest.mark.skipif(not THOROUGH, reason="it asks the clock of the processor: part of `make proof`")
@pytest.mark.parametrize("what", GROWING)
def test_four_times_the_body_takes_no_sixteen_times_the_time(what: str) -> None:
    """What libraries do inside one call: sorting and searching is fine, and comparing each with each is not."""
    name, grow = GROWING[what]
    [decoder] = (decoder for decoder in DECODERS if decoder.name == name)
    small, large = grow(2_000), grow(8_000)
    once, more = (min(spent(decoder, body) for _ in range(5)) for body in (small, large))
    assert more < 10 * once + 0.005


def steps(decoder: Decoder, body: bytes) -> int:
    """How many functions are called to read a body."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        attempt(decoder, body)
    finally:
        sys.setprofile(None)
    return count


def spent(decoder: Decoder, body: bytes) -> float:
    """The processor's time for reading a body."""
    started = time.process_time()
    attempt(decoder, body)
    return time.process_time() - started


def attempt(decoder: Decoder, body: bytes) -> None:
    """Read a body, whatever comes of it."""
    try:
        decoder.read(200, body)
    except GatewayError:
        pass


# -- through the gateways: JSON ------------------------------------------------------------------------------------

QUICK: Final = RetryPolicy(attempts=2, base=0.0, cap=0.0, quota=1e9, quota_refill=1e9)
UNMETERED: Final = RateLimit(100_000, per=1.0, margin=0.0)


class Exchanged(NamedTuple):
    """What a vendor is asked for a cancel.

    Attributes:
        cancel: the decoder of its answer.
        read: the decoder of the first answer to a read-back.
        read_call: the call for that.
    """

    cancel: Decoder
    read: Decoder
    read_call: str


def decoder_of(name: str) -> Decoder:
    """Return the decoder of that name."""
    [found] = (decoder for decoder in DECODERS if decoder.name == name)
    return found


BY_HTTP: Final = {
    "tronsave": Exchanged(decoder_of("tronsave cancel"), decoder_of("tronsave track"), "track"),
    "sms4sats": Exchanged(decoder_of("sms4sats cancel"), decoder_of("sms4sats status"), "status"),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("processed", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("venue", BY_HTTP)
async def test_no_mutation_makes_a_gateway_lie(venue: str, processed: bool) -> None:
    """The vendor carried the cancel out, or not, and its answer is hostile, every other time to the look at the order
    as well: what the caller is told is what the vendor recorded, and the next cancel is as if nothing had been."""
    [kind] = (stage for stage in STAGES if stage.venue == venue)
    asked, state = BY_HTTP[venue], OrderState.CANCELED if processed else OrderState.OPEN
    answers = [(status, m) for status, each in asked.cancel.literals for m in mutants(each)]
    reads = [mutant for _, each in asked.read.literals for mutant in mutants(each)]
    async with playing(kind, retry=QUICK) as play:
        for number, (status, mutant) in enumerate(sampled(answers, 80)):
            body, look = mutant.body, reads[number * 7 % len(reads)].body
            if lies(asked.cancel, status, body, state):
                continue
            if lies(asked.read, 200, look, state):
                look = b"{}"
            order = play.stage.place()
            body, look = of_order(body, order), of_order(look, order)
            faults = play.stage.sandbox.faults
            faults.add(replaced("cancel", status=status, body=body, processed=processed, times=2))
            if number % 2:
                faults.add(replaced(asked.read_call, status=200, body=look, times=2))
            outcome = await play.cancel(order)
            tally.count(f"hostile cancels and looks, {venue}", type(outcome).__name__)
            faults.clear()
            assert isinstance(await play.cancel(play.stage.place()), Canceled)


def of_order(body: bytes, order: str) -> bytes:
    """A body about another order than the literal messages'."""
    for literal in (ID, SECRET_ID, ORDER):
        body = body.replace(literal.encode(), order.encode())
    return body


def lies(decoder: Decoder, status: int, body: bytes, state: OrderState) -> bool:
    """Whether a body says plainly what is not so of an order, which is open or canceled: then it is the vendor that
    lies."""
    try:
        told = told_by(decoder.read(status, body))
    except OrderNotFound:
        return True
    except (GatewayError, Divide):
        return False
    true = {OrderState.UNKNOWN, state}
    if state is OrderState.CANCELED:
        true.add(OrderState.CLOSED)
    return not true.issuperset(told)


def told_by(result: Any) -> set[OrderState | None]:
    """In which states an order is, by a cancel's answer or by a look at it; None is in none, for want of an order."""
    match result:
        case Verdict(meaning=Meaning.CANCELED):
            return {OrderState.CANCELED}
        case Verdict(meaning=Meaning.ALREADY_CLOSED, state=state):
            return {state}
        case Verdict(meaning=Meaning.NOT_FOUND):
            return {None}
        case OrderSnapshot(state=state):
            return {state}
        case dict():
            return {state for each in result.values() for state in told_by(each)}
        case list():
            return {state for each in result for state in told_by(each)}
        case str():
            return {tronsave.state_of_word(result)}
        case _:
            return {OrderState.UNKNOWN}


def good_frame(request_id: str) -> bytes:
    """The documented success of a cancel over the socket, to a request."""
    return encoded({**ripio_says.CANCELED, "id": request_id})


def record(state: str) -> bytes:
    """The reply to get-order for the order that is canceled, open or canceled."""
    data = {**ripio_says.RESULT, "status": state}
    return encoded({"data": data, "error_code": None, "message": None})


@asynccontextmanager
async def ripio_at(
    answer: Callable[[Peer, Asked], object],
    rest: bytes,
    telemetry: TelemetryHook = sightings.event,
) -> AsyncIterator[tuple[SocketServer, RipioGateway]]:
    """Yield a socket that answers as a test says, and a gateway at it and at REST that always says the same."""
    async with SocketServer(answer) as server, Rude([Reply(http(body=rest))]) as reads:
        gateway = WatchedRipio(
            f"token-{CANARY}",
            f"secret-{CANARY}",
            ws_url=server.url,
            rest_url=reads.url,
            limiter=RateLimiter(),
            rate_limit=UNMETERED,
            retry=QUICK,
            telemetry=telemetry,
        )
        async with gateway:
            yield server, gateway


@pytest.mark.virtual_time
@pytest.mark.parametrize("state", [OrderState.OPEN, OrderState.CANCELED])
async def test_no_mutation_makes_the_socket_s_gateway_lie(state: OrderState) -> None:
    """The same over the socket; what the order is, REST tells, and what is told of it is that. No message harms the
    connection."""
    literals = [literal for _, literal in decoder_of("ripio cancel").literals]
    changed = [mutant for literal in literals for mutant in mutants(literal)]
    answers: list[Callable[[str], bytes]] = [good_frame]

    def answer(peer: Peer, asked: Asked) -> None:
        peer.raw(frame(answers[-1](asked["id"])))

    events: list[Event] = []
    async with ripio_at(answer, record(state.value), events.append) as (_, gateway):
        for mutant in sampled(changed, 150):
            body = mutant.body
            if lies(decoder_of("ripio cancel"), 0, body, state):
                continue
            answers.append(partial(addressed, body))
            outcome = await gateway.cancel(ORDER, timeout=None)
            assert_true(outcome, state, mutant.name)
            tally.count("hostile cancels and looks, ripio", type(outcome).__name__)
            answers.append(good_frame)
            assert isinstance(await gateway.cancel(ORDER, timeout=None), Canceled), mutant.name
        lost = [event.reason for event in events if isinstance(event, Disconnected)]
        assert set(lost) <= {"no sign of life"}  # of the clock that jumps


def addressed(body: bytes, request_id: str) -> bytes:
    """A literal message as the answer to a request."""
    return body.replace(b"req-003", request_id.encode())


def assert_true(outcome: CancelOutcome, state: OrderState, mutant: str) -> None:
    """An order that is open is not called closed; one that was canceled is not called anything else."""
    match outcome:
        case Canceled(executed=executed):
            true = state is OrderState.CANCELED and executed in (None, 0)
        case AlreadyClosed(state=told, executed=executed):
            true = state is OrderState.CANCELED and told in (OrderState.CANCELED, OrderState.CLOSED)
            true = true and executed in (None, 0)
        case Refused():
            true = state is OrderState.OPEN
        case _:
            true = isinstance(outcome, Unknown)
    assert true, f"{mutant}: {outcome!r}, and the order is {state}"


# -- through the gateways: HTTP ------------------------------------------------------------------------------------


class Client(NamedTuple):
    """A gateway for what breaks HTTP.

    Attributes:
        venue: the vendor.
        kinds: the gateway, watched for secrets, and bare.
        options: for a gateway at a URL.
        ask: what is asked: a cancel, or where cancels do not take HTTP, a read.
        good: the answer that is a success.
        create: asks for what must not be asked twice; None where that does not take HTTP.
    """

    venue: str
    kinds: tuple[type[Any], type[Any]]
    options: Callable[[str], dict[str, Any]]
    ask: Callable[[Any], Awaitable[Any]]
    good: bytes
    create: Callable[[Any], Awaitable[Any]] | None


CLIENTS: Final = [
    Client(
        "tronsave",
        (WatchedGateway, TronSaveGateway),
        lambda url: {"api_key": CANARY, "base_url": url},
        lambda gateway: gateway.cancel(ID, timeout=30),
        encoded(tronsave_says.LITERALS["cancel"]["reply_200"]),
        lambda gateway: gateway.create(
            receivers=["T"], amount=1, max_price_accept=1, duration_sec=1, deadline=1
        ),
    ),
    Client(
        "sms4sats",
        (WatchedSms4Sats, Sms4SatsGateway),
        lambda url: {"api_key": CANARY, "base_url": url},
        lambda gateway: gateway.cancel(SECRET_ID, timeout=30),
        encoded(sms4sats_says.LITERALS["cancel"]),
        lambda gateway: gateway.createorder(country=187, service="vk", immediate=True),
    ),
    Client(
        "ripio",
        (WatchedRipio, RipioGateway),
        lambda url: {
            "api_token": f"token-{CANARY}",
            "secret": f"secret-{CANARY}",
            "rest_url": url,
            "ws_url": "ws://127.0.0.1:1",
        },
        lambda gateway: gateway.order(ORDER, timeout=30),
        record("open"),
        None,
    ),
]


def shared_out(names: Iterable[str]) -> list[Any]:
    """Every name with a client: one, since they share what reads HTTP; all of them in a thorough run."""
    return [
        pytest.param(client, name, id=f"{client.venue}-{name}")
        for number, name in enumerate(names)
        for turn, client in enumerate(CLIENTS)
        if THOROUGH or number % len(CLIENTS) == turn
    ]


@asynccontextmanager
async def client_at(
    client: Client, url: str, *, bare: bool = False, **options: Any
) -> AsyncIterator[Any]:
    """Yield a quick gateway; a bare one where memory is measured, since to watch takes some."""
    usual: dict[str, Any] = {
        "limiter": RateLimiter(),
        "rate_limit": UNMETERED,
        "retry": QUICK,
        "telemetry": sightings.event,
        "request_timeout": 5.0,
    }
    async with client.kinds[bare](**(usual | client.options(url) | options)) as gateway:
        yield gateway


CARRIES: Final = frozenset(
    {
        *("no length", "gzip", "gzip, cut", "deflate", "an unknown encoding"),
        *("only lines", "empty lines first", "100 before it", "100 many times", "103 before it"),
        *("two replies", "another transfer coding"),
    }
)
"""Replies that hold the vendor's whole answer: to find it is no lie."""


@pytest.mark.parametrize(("client", "name"), shared_out(REPLIES))
async def test_no_reply_breaks_http(client: Client, name: str) -> None:
    """Whatever breaks HTTP: a cancel is in doubt, a read is an error of the SDK's, a creation is not known, and the
    next request over the same gateway is served."""
    hostile = Reply(REPLIES[name](client.good), then="close")
    async with Rude([hostile]) as server, client_at(client, server.url) as gateway:
        answer = await answer_of(client.ask(gateway))
        assert is_doubt(answer) or (name in CARRIES and is_success(answer)), answer
        if client.create is not None:
            assert isinstance(await answer_of(client.create(gateway)), OutcomeUnknown)
        tally.count(f"broken HTTP, {client.venue}", type(answer).__name__)
        server._script = [Reply(http(body=client.good))]
        assert is_success(await answer_of(client.ask(gateway)))


async def answer_of(asking: Awaitable[Any]) -> Any:
    """What a call returns, or the SDK's error that it raises."""
    try:
        return await asking
    except GatewayError as error:
        return error


def is_doubt(answer: Any) -> bool:
    """Nothing is claimed but that nobody knows."""
    if isinstance(answer, Unknown):
        return answer.wire is not Wire.NOT_SENT
    return isinstance(answer, BadReply | ConnectionLost | RequestTimeout | VendorFailure)


def is_success(answer: Any) -> bool:
    """The good answer was read."""
    return isinstance(answer, Canceled | ripio_wire.Order)


@pytest.mark.parametrize(("client", "name"), shared_out(FLOODS))
async def test_no_flood_fills_the_memory(client: Client, name: str) -> None:
    """What never ends is cut off while it comes: long before the server is done, within a few megabytes."""
    flood = Flood(*FLOODS[name])
    listener = await asyncio.start_server(flood.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    options: dict[str, Any] = {"retry": RetryPolicy(attempts=1), "request_timeout": 60.0}
    async with listener, client_at(client, url, bare=True, **options) as gateway:
        tracemalloc.start()
        try:
            answer = await answer_of(client.ask(gateway))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert is_doubt(answer), answer
    assert peak < 10_000_000
    # Zeros before a number are passed over and not kept: the request's time ends them.
    assert flood.sent < 16_000_000 or name == "a chunk's size"
    tally.count(f"floods, {client.venue}", type(answer).__name__)


@pytest.mark.virtual_time
@pytest.mark.parametrize("wanted", TIMES)
async def test_no_header_makes_anybody_wait_for_ever(wanted: str) -> None:
    """After "too many requests" the policy's longest pause is the longest, whatever was asked for."""
    client = CLIENTS[0]
    refusal = encoded({"error": True, "message": "Rate limit reached"})
    head = http(429, refusal, "Retry-After: @", "Date: @").replace(
        b"@", wanted.encode(errors="surrogateescape")
    )
    script = [Reply(head), Reply(http(body=client.good))]
    retry = RetryPolicy(attempts=2, base=0.0, cap=0.0, max_retry_after=60.0)
    async with Rude(script) as server, client_at(client, server.url, retry=retry) as gateway:
        loop = asyncio.get_running_loop()
        started = loop.time()
        answer = await answer_of(gateway.cancel(ID, timeout=None))
        assert isinstance(answer, Canceled)
        assert loop.time() - started < 62.0
        assert len(server.requests) == 2


# -- through the gateways: the socket ------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", FRAMES)
async def test_no_frame_breaks_the_socket(name: str) -> None:
    """Whatever comes in place of a reply: the cancel is in doubt, or the reply was found; the next request over the
    same gateway is served, over this connection or the next."""
    answers: list[Callable[[bytes], bytes]] = [frame]

    def answer(peer: Peer, asked: Asked) -> None:
        if not peer.transport.is_closing():
            peer.raw(answers[-1](good_frame(asked["id"])))

    async with ripio_at(answer, record("open")) as (server, gateway):
        assert isinstance(await gateway.cancel(ORDER, timeout=None), Canceled)
        answers.append(FRAMES[name])
        outcome = await gateway.cancel(ORDER, timeout=None)
        assert isinstance(outcome, Canceled) == (name in REACHES), outcome
        assert isinstance(outcome, Canceled | Unknown)
        tally.count("broken frames, ripio", type(outcome).__name__)
        answers.append(frame)
        if name in ("a megabyte that does not come", "half a header"):
            await asyncio.sleep(25.0)  # it is noticed by the want of a sign of life
        assert isinstance(await gateway.cancel(ORDER, timeout=None), Canceled)
        assert len(server.peers) == gateway._socket.connections


REACHES: Final = frozenset(
    {
        *("in parts of one byte", "empty parts before it", "a length in more bytes than it takes"),
        *("a megabyte", "pings", "pongs", "pings within a text", "the reply, then closed"),
        *("empty texts before it", "strangers before it", "deep before it", "the reply twice"),
    }
)
"""Frames that hold the vendor's answer, whole and in order."""


@pytest.mark.parametrize("name", sampled(list(FRAME_FLOODS), 3))
async def test_no_flood_over_the_socket_fills_the_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never ends is cut off while it comes, and so is a peer that pings without end and reads no answer."""
    monkeypatch.setattr(connection, "BACKLOG", either(1 << 18, connection.BACKLOG))
    flood = SocketFlood(*FRAME_FLOODS[name])
    outcome, peak = await flooded(flood)
    assert isinstance(outcome, Unknown)
    assert outcome.wire is Wire.MAYBE_SENT
    assert peak < 16_000_000
    assert flood.sent < 16_000_000
    tally.count("floods, ripio", type(outcome).__name__)


@pytest.mark.parametrize("name", DOOR_FLOODS)
async def test_no_flood_at_the_door_fills_the_memory(name: str) -> None:
    """An upgrade that is never answered to its end is a connection that does not stand: nothing left."""
    flood = Flood(*DOOR_FLOODS[name])
    outcome, peak = await flooded(flood)
    assert isinstance(outcome, NotSent)
    assert peak < 8_000_000
    assert flood.sent < 16_000_000
    tally.count("floods, ripio", type(outcome).__name__)


async def flooded(flood: Flood) -> tuple[CancelOutcome, int]:
    """Cancel an order over a socket that is flooded; return the outcome, and the most memory that it took."""
    listening = socket.socket()
    listening.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16
    )  # who does not read is felt soon
    listening.bind(("127.0.0.1", 0))
    listener = await asyncio.start_server(flood.serve, sock=listening, limit=1 << 12)
    gateway = WatchedRipio(
        f"token-{CANARY}",
        f"secret-{CANARY}",
        ws_url=f"ws://127.0.0.1:{listening.getsockname()[1]}",
        rest_url="http://127.0.0.1:1",
        limiter=RateLimiter(),
        rate_limit=UNMETERED,
        retry=RetryPolicy(attempts=1),
        telemetry=sightings.event,
        request_timeout=60.0,
        connect_timeout=60.0,
    )
    async with listener, gateway:
        tracemalloc.start()
        try:
            outcome: CancelOutcome = await gateway.cancel(ORDER, timeout=None)
            return outcome, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
