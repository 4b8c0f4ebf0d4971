"""What TronSave's replies mean: every documented one, and everything else the cautious way."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.tronsave import wire
from brokers.tronsave.verdict import (
    cancel_verdicts,
    read_error,
    read_reply,
    snapshot_in_doubt,
    snapshot_of_row,
    snapshot_of_word,
    state_of_word,
    statuses,
)
from support.tronsave_wire import (
    HOSTILE_VALUES,
    LITERALS,
    NOT_TRONSAVE,
    A,
    B,
    C,
    encoded,
    error_of,
    literal,
)
from tronsave_async.coalescing import Divide
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    InvalidRequest,
    OrderNotFound,
    PermissionDenied,
    RateLimited,
    VendorError,
    VendorFailure,
    WrongEndpoint,
)
from tronsave_async.orders import OrderRef, OrderState
from tronsave_async.outcomes import Wire
from tronsave_async.settlement import Meaning, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDER = OrderRef(id=A)

# -- errors ----------------------------------------------------------------------------------------


def app(message: str, **fields: object) -> bytes:
    """Return an error of the application's shape."""
    return encoded({"error": True, "message": message, **fields})


def fastify(status: int, error: str, message: str, **fields: object) -> bytes:
    """Return an error of the web framework's shape."""
    return encoded({"statusCode": status, **fields, "error": error, "message": message})


ErrorCase = tuple[int, bytes, type[VendorError], str | None, int | None, str]

WORDS_OF_107 = ("INVALID_API_KEY", 107, "x")

ERRORS: dict[str, ErrorCase] = {
    # the documented literals
    "no key": (
        *error_of("apikey header absent"),
        AuthenticationRejected,
        "API_KEY_REQUIRED",
        106,
        "",
    ),
    "bad key": (*error_of("apikey not valid"), AuthenticationRejected, "INVALID_API_KEY", 107, ""),
    "no key, v2": (
        *error_of("v2: apikey header absent"),
        AuthenticationRejected,
        "API_KEY_REQUIRED",
        106,
        "",
    ),
    "validation": (
        *error_of("required property missing"),
        InvalidRequest,
        "FST_ERR_VALIDATION",
        None,
        "body must have required property 'order_ids'",
    ),
    "balance": (
        *error_of("business rule (number not published)"),
        BusinessRefusal,
        "INTERNAL_BALANCE_ACCOUNT_TOO_LOW",
        None,
        "",
    ),
    "wrong path": (
        *error_of("wrong path, not: unknown order"),
        WrongEndpoint,
        None,
        None,
        "Route POST:/v2/... not found",
    ),
    "rate limit": (*error_of("rate limit"), RateLimited, None, None, "Rate limit reached"),
    # the other documented codes
    "forbidden": (
        403,
        app("TSAS:108 FORBIDDEN Forbidden", data=None),
        PermissionDenied,
        "FORBIDDEN",
        108,
        "Forbidden",
    ),
    "no such order": (
        400,
        app("TSAS:408 INVALID_PARAMS Invalid orderId", data=None),
        OrderNotFound,
        "INVALID_PARAMS",
        408,
        "Invalid orderId",
    ),
    **{
        code: (400, app(f"TSAS:xxx {code}"), kind, code, None, "")
        for code, kind in {
            "MISSING_PARAMS": InvalidRequest,
            "INVALID_PARAMS": InvalidRequest,
            "MIN_PRICE_INVALID": InvalidRequest,
            "INTERNAL_ACCOUNT_NOT_FOUND": BusinessRefusal,
            "CANNOT_FULFILLED": BusinessRefusal,
            "PRICE_EXCEED_MAX_PRICE_REQUIRED": BusinessRefusal,
            "MUST_BE_WAIT_PREVIOUS_ORDER_FILLED": BusinessRefusal,
            "SOME_DELEGATE_CANNOT_EXTEND": BusinessRefusal,
            "A_NEW_ONE_2": BusinessRefusal,
        }.items()
    },
    **{
        f"{code} with another status": (400, app(f"TSAS:{number} {code}"), kind, code, number, "")
        for number, code, kind in (
            (106, "API_KEY_REQUIRED", AuthenticationRejected),
            (107, "INVALID_API_KEY", AuthenticationRejected),
            (108, "FORBIDDEN", PermissionDenied),
        )
    },
    # undocumented words
    "plain text": (400, app("Something is off"), InvalidRequest, None, None, "Something is off"),
    "empty text": (400, app(""), InvalidRequest, None, None, ""),
    "text over lines": (
        400,
        app(" TSAS:408  INVALID_PARAMS\ta\nb "),
        InvalidRequest,
        "INVALID_PARAMS",
        408,
        "a\nb",
    ),
    "lower case": (400, app("TSAS:408 invalid"), InvalidRequest, None, None, "TSAS:408 invalid"),
    "foreign digits": (400, app("TSAS:٤٠٨ X"), InvalidRequest, None, None, "TSAS:٤٠٨ X"),
    "huge number": (
        400,
        app(f"TSAS:{'9' * 5000} X"),
        InvalidRequest,
        None,
        None,
        f"TSAS:{'9' * 5000} X",
    ),
    "odd statusCode": (
        400,
        b'{"error":true,"message":"no","statusCode":"400"}',
        InvalidRequest,
        None,
        None,
        "no",
    ),
    "statusCode of 5000 digits": (
        422,
        b'{"error":true,"message":"no","statusCode":' + b"9" * 5000 + b"}",
        InvalidRequest,
        None,
        None,
        "no",
    ),
    # the other statuses of a malformed request
    "too large": (
        413,
        fastify(413, "Payload Too Large", "big", code="FST_ERR_CTP_BODY_TOO_LARGE"),
        InvalidRequest,
        "FST_ERR_CTP_BODY_TOO_LARGE",
        None,
        "big",
    ),
    "no such order, 422": (
        422,
        app("TSAS:408 INVALID_PARAMS Invalid orderId"),
        OrderNotFound,
        "INVALID_PARAMS",
        408,
        "Invalid orderId",
    ),
    "refusal, 413": (413, app("TSAS:xxx NOPE now"), BusinessRefusal, "NOPE", None, "now"),
    "other code": (
        415,
        fastify(415, "Unsupported", "no", code="FST_ERR_CTP_INVALID_MEDIA_TYPE"),
        InvalidRequest,
        "FST_ERR_CTP_INVALID_MEDIA_TYPE",
        None,
        "no",
    ),
    "wrong method": (
        405,
        fastify(405, "Method Not Allowed", "m"),
        WrongEndpoint,
        None,
        None,
        "m",
    ),
    # in the vendor's shape the status outranks an unknown code
    "401 of another code": (401, app("TSAS:xxx NOPE"), AuthenticationRejected, "NOPE", None, ""),
    "401 of the framework": (
        401,
        fastify(401, "Unauthorized", "who"),
        AuthenticationRejected,
        None,
        None,
        "who",
    ),
    "403 of the framework": (
        403,
        fastify(403, "Forbidden", "you", code="FST_X"),
        PermissionDenied,
        "FST_X",
        None,
        "you",
    ),
    # in any shape: what the status alone says
    **{
        f"{status} with words": (status, app("TSAS:107 INVALID_API_KEY x"), kind, *WORDS_OF_107)
        for status, kind in {
            301: WrongEndpoint,
            404: WrongEndpoint,
            405: WrongEndpoint,
            429: RateLimited,
            500: VendorFailure,
            503: VendorFailure,
        }.items()
    },
    **{
        f"{status} in HTML": (status, b"<html>", kind, None, None, "")
        for status, kind in {
            301: WrongEndpoint,
            307: WrongEndpoint,
            308: WrongEndpoint,
            404: WrongEndpoint,
            405: WrongEndpoint,
            429: RateLimited,
            500: VendorFailure,
            502: VendorFailure,
            503: VendorFailure,
            520: VendorFailure,
        }.items()
    },
    "failure with words": (500, app("TSAS:500 OOPS x"), VendorFailure, "OOPS", 500, "x"),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is_typed_and_quoted(case: ErrorCase) -> None:
    """Each documented error has its type, with the vendor's code, number and text verbatim."""
    status, body, kind, code, number, text = case
    error = read_error("cancel", status, body, 7.5)
    assert type(error) is kind
    assert isinstance(error, VendorError)
    assert (error.code, error.number, error.text) == (code, number, text)
    assert (error.venue, error.endpoint, error.status) == ("tronsave", "cancel", status)
    assert error.retry_after == 7.5


ENVELOPES: dict[str, tuple[bytes, str]] = {
    "no such order": (app("TSAS:408 INVALID_PARAMS Invalid orderId"), "INVALID_PARAMS"),
    "bad key": (app("TSAS:107 INVALID_API_KEY", data=None), "INVALID_API_KEY"),
    "refusal": (app("TSAS:xxx NOPE now"), "NOPE"),
    "text": (app("Rate limit reached"), "Rate limit reached"),
    "last field": (b'{"message":"TSAS:xxx NOPE","error":true}', "NOPE"),
    "escaped": (b'{"\\u0065rror":true,"message":"TSAS:xxx NOPE"}', "NOPE"),
    "spaced": (b'\n{ "error" : true , "message" : "TSAS:xxx NOPE" }', "NOPE"),
    "framework": (
        fastify(400, "Bad Request", "must be array", code="FST_ERR_VALIDATION"),
        "FST_ERR_VALIDATION",
    ),
    "framework, no code": (fastify(409, "Conflict", "busy"), "busy"),
}
"""Errors of each of the vendor's shapes, and what is quoted of them."""


@pytest.mark.parametrize(("body", "quoted"), ENVELOPES.values(), ids=ENVELOPES.keys())
@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_an_error_inside_a_success_is_a_bad_reply(status: int, body: bytes, quoted: str) -> None:
    """Whatever the error is, and whoever seems to be blamed: it contradicts its status, and proves nothing."""
    error = read_error("cancel", status, body, 7.5)
    assert isinstance(error, BadReply)
    assert error.reason == f"an error inside HTTP {status}: {quoted}"
    assert (error.venue, error.endpoint) == ("tronsave", "cancel")
    assert (error.status, error.wire) == (status, Wire.ANSWERED)
    with pytest.raises(BadReply, match=f"an error inside HTTP {status}"):
        read_reply("create", status, body, wire.CreateReply)
    with pytest.raises(BadReply, match=f"an error inside HTTP {status}"):
        statuses([A, B], status, body)


UNDOCUMENTED = [101, 199, 402, 406, 408, 409, 410, 414, 421, 423, 451, 499]


@pytest.mark.parametrize(("body", "quoted"), ENVELOPES.values(), ids=ENVELOPES.keys())
@pytest.mark.parametrize("status", UNDOCUMENTED)
def test_the_vendor_s_words_with_an_undocumented_status_are_a_bad_reply(
    status: int, body: bytes, quoted: str
) -> None:
    """Only the statuses of a malformed request say that nothing was done: with any other, words prove nothing."""
    error = read_error("cancel", status, body, 7.5)
    assert isinstance(error, BadReply)
    assert (error.venue, error.endpoint) == ("tronsave", "cancel")
    assert (error.status, error.wire) == (status, Wire.ANSWERED)
    assert error.reason == f"HTTP {status}: {quoted}"
    with pytest.raises(BadReply):
        statuses([A, B], status, body)


UNREADABLE: dict[str, bytes] = {
    **NOT_TRONSAVE,
    "documentation's notation": b'{"INTERNAL_ACCOUNT_NOT_FOUND":"no such account"}',
    "no error field": b'{"message":"no","statusCode":400}',
    "not an error": b'{"error":false,"message":"Success","data":[]}',
    "error is null": b'{"error":null,"message":"no"}',
    "no message": b'{"error":true}',
    "message is null": b'{"error":true,"message":null}',
    "message is an object": b'{"error":true,"message":{"text":"no"}}',
    "message is a list": b'{"error":true,"message":["no"]}',
    "error is a number": b'{"error":1,"message":"no"}',
    "code is a number": b'{"error":true,"message":"no","code":107}',
    "lone surrogate in the message": b'{"error":true,"message":"\\udc00"}',
    "message not utf-8": b'{"error":true,"message":"\xff"}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize(
    "status",
    [300, 302, 303, 304, 399, 400, 401, 402, 403, 408, 409, 413, 415, 422, 451, 499, 101],
)
def test_an_error_that_is_not_tronsave_s_is_a_bad_reply(status: int, body: bytes) -> None:
    """Where something else answered, nobody knows whether the request was processed."""
    error = read_error("cancel", status, body)
    assert isinstance(error, BadReply)
    assert (error.status, error.wire) == (status, Wire.ANSWERED)
    assert str(status) in str(error)
    assert error.reason == f"HTTP {status} in a shape that is not TronSave's"


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_success_is_no_error(status: int) -> None:
    """Whatever a 2xx carries, only an object that flags an error makes it one, with or without words."""
    for endpoint in ("cancel", "confirm", "create", "track", "estimate", "history"):
        assert read_error(endpoint, status, literal(endpoint)) is None
    no_envelopes = [UNREADABLE[name] for name in ("not an error", "error is null")]
    for body in (b'{"error":true', b'["error"]', *no_envelopes, *NOT_TRONSAVE.values()):
        assert read_error("cancel", status, body) is None
    for body in (b'{"error":true}', b'{"error":1,"cancel_results":[]}', b'{"code":7,"error":"x"}'):
        error = read_error("cancel", status, body)
        assert isinstance(error, BadReply)
        assert error.reason == f"an error inside HTTP {status}: no words"


def test_an_error_that_names_a_field_twice_is_a_bad_reply() -> None:
    """Nobody knows which of the two messages is meant, and whether the request was processed."""
    error = read_error("cancel", 400, b'{"error":true,"message":"a","message":"TSAS:107 B"}')
    assert isinstance(error, BadReply)


# -- successes of the calls that are not read per order --------------------------------------------


def test_a_success_is_decoded() -> None:
    """The documented replies are read, numbers in text as numbers."""
    assert read_reply("create", 200, literal("create"), wire.CreateReply).order_ids == [B, C]
    estimate = read_reply("estimate", 200, literal("estimate"), wire.Estimate)
    assert estimate.internal_balance == 117_505_470
    (confirmed,) = read_reply(
        "confirm", 200, literal("confirm"), wire.ConfirmReply
    ).confirmation_results
    assert confirmed.is_success


def test_an_error_instead_of_a_success_is_raised() -> None:
    """The vendor's error comes out as it is, with the pause it asks for."""
    with pytest.raises(BusinessRefusal, match="INTERNAL_BALANCE_ACCOUNT_TOO_LOW"):
        read_reply("create", *error_of("business rule (number not published)"), wire.CreateReply)
    with pytest.raises(RateLimited) as caught:
        read_reply("create", *error_of("rate limit"), wire.CreateReply, 3.0)
    assert caught.value.retry_after == 3.0


def check_bad(error: BadReply, endpoint: str, reason: str) -> None:
    """Assert that an unreadable reply says whose it was, to which call, and that it was a reply."""
    assert (error.venue, error.endpoint, error.reason) == ("tronsave", endpoint, reason)
    assert (error.status, error.wire) == (200, Wire.ANSWERED)


@pytest.mark.parametrize("body", NOT_TRONSAVE.values(), ids=NOT_TRONSAVE.keys())
def test_a_foreign_success_is_a_bad_reply(body: bytes) -> None:
    """A 200 that does not fit proves nothing: after a create it may have been executed."""
    with pytest.raises(BadReply) as caught:
        read_reply("create", 200, body, wire.CreateReply)
    check_bad(caught.value, "create", "the reply is not TronSave's")


def test_a_number_in_text_is_a_number() -> None:
    """Amounts may come either way."""
    estimate = read_reply("estimate", 200, b'{"charge_amount":"5200000"}', wire.Estimate)
    assert estimate.charge_amount == 5_200_000


# -- what a reply to a cancel means ----------------------------------------------------------------


def item(order_id: str, is_success: object = True, fail_reason: object = None) -> dict[str, Any]:
    """Return the result of one order."""
    return {"order_id": order_id, "is_success": is_success, "fail_reason": fail_reason}


def reply(*items: object, **fields: object) -> bytes:
    """Return a reply to a cancel."""
    return encoded({**fields, "cancel_results": items})


CANCELED = Verdict(meaning=Meaning.CANCELED, executed=Decimal(0))


def declined(reason: str) -> Verdict:
    """Return the verdict on an order that was not canceled."""
    return Verdict(meaning=Meaning.UNPROVED, message=reason)


def ambiguous(reason: str) -> Verdict:
    """Return the verdict on an order that may or may not have been canceled."""
    return Verdict(meaning=Meaning.AMBIGUOUS, message=reason)


CONTRADICTION = ambiguous("the reply contradicts itself")
FOREIGN = ambiguous("the reply is not TronSave's")
UNSAID = ambiguous("the reply does not say whether the order was canceled")


def test_the_documented_success_proves_the_cancel() -> None:
    """The literal reply cancels its order, and nothing of it was executed."""
    (asked,) = LITERALS["cancel"]["request"]["order_ids"]
    assert cancel_verdicts([asked], 200, literal("cancel")) == {asked: CANCELED}


ITEMS: dict[str, tuple[list[object], Verdict | None]] = {
    "canceled": ([item(A)], CANCELED),
    "canceled, no reason field": ([{"order_id": A, "is_success": True}], CANCELED),
    "canceled, empty reason": ([item(A, fail_reason="")], CANCELED),
    "canceled, with new fields": ([{**item(A), "refund": 5, "x": {"y": []}}], CANCELED),
    "said twice": ([item(A), item(A)], CANCELED),
    "declined": ([item(A, False, "Order was matched")], declined("Order was matched")),
    "declined, no reason": ([item(A, False)], declined("no reason given")),
    "declined, empty reason": ([item(A, False, "")], declined("no reason given")),
    "declined, odd reason": ([item(A, False, {"code": 7})], declined('{"code":7}')),
    "declined twice": ([item(A, False, "x")] * 2, declined("x")),
    # free text is never interpreted
    "declined as canceled": ([item(A, False, "already canceled")], declined("already canceled")),
    "declined as unknown": ([item(A, False, "order not found")], declined("order not found")),
    # contradictions
    "success with a reason": ([item(A, True, "matched")], ambiguous("matched")),
    "success with an odd reason": ([item(A, True, 0)], ambiguous("0")),
    "yes and no": ([item(A), item(A, False, "x")], CONTRADICTION),
    "no and yes": ([item(A, False, "x"), item(A)], CONTRADICTION),
    "yes and no and yes": ([item(A), item(A, False), item(A)], CONTRADICTION),
    "yes and no and no": ([item(A), item(A, False), item(A, False)], CONTRADICTION),
    "two reasons": ([item(A, False, "x"), item(A, False, "y")], CONTRADICTION),
    "yes and unreadable": ([item(A), item(A, "no")], CONTRADICTION),
    "unreadable and yes": ([item(A, None, "matched"), item(A)], CONTRADICTION),
    # unreadable mentions
    "success is text": ([item(A, "true")], UNSAID),
    "success is a number": ([item(A, 1)], UNSAID),
    "success is null": ([item(A, None, "matched")], ambiguous("matched")),
    "success is missing": ([{"order_id": A}], UNSAID),
    # no mention: the caller makes it ambiguous
    "not mentioned": ([], None),
    "another order": ([item(B)], None),
    "another case": ([item(A.upper())], None),
    "with a space": ([item(A + " ")], None),
    "no id": ([{"is_success": True}], None),
    "id is a list": ([{"order_id": [A], "is_success": True}], None),
}


@pytest.mark.parametrize(("items", "verdict"), ITEMS.values(), ids=ITEMS.keys())
@pytest.mark.parametrize("noise", [[], [None], [item(B, False, "x")], [1, item(C, "x", [])]])
def test_what_an_item_means(
    items: list[object], verdict: Verdict | None, noise: list[object]
) -> None:
    """The outcome is per order: an odd neighbor, or one that was not asked for, changes nothing for the others."""
    for body in (reply(*noise, *items), reply(*items, *noise)):
        if verdict is None:
            assert A not in cancel_verdicts([A], 200, body)
        else:
            assert cancel_verdicts([A], 200, body)[A] == verdict


@pytest.mark.parametrize("body", NOT_TRONSAVE.values(), ids=NOT_TRONSAVE.keys())
def test_a_foreign_success_is_ambiguous(body: bytes) -> None:
    """A 200 that does not fit proves nothing for any of its orders."""
    assert cancel_verdicts([A, B], 200, body) == {A: FOREIGN, B: FOREIGN}


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
@pytest.mark.parametrize("field", ["order_id", "is_success", "fail_reason", "extra"])
def test_an_odd_field_proves_nothing_and_hides_nobody(field: str, value: bytes) -> None:
    """A value that no page promises never makes a success, and its neighbor's success stays one."""
    fields = {"order_id": b'"%s"' % A.encode(), "is_success": b"true", "fail_reason": b"null"}
    fields[field] = value
    odd = b",".join(b'"%s":%s' % (name.encode(), text) for name, text in fields.items())
    body = b'{"cancel_results":[{%s},{"order_id":"%s","is_success":true}]}' % (odd, B.encode())
    verdicts = cancel_verdicts([A, B], 200, body)
    if verdicts[B] == FOREIGN:
        assert len(value) >= 5000, "only numbers of thousands of digits spoil the whole"
        return
    assert verdicts[B] == CANCELED
    untouched = (
        field == "extra"
        or (field == "is_success" and value == b"true")
        or (field == "fail_reason" and value in (b"null", b'""'))
    )
    if field == "order_id":
        assert A not in verdicts
    else:
        assert verdicts[A].meaning is (Meaning.CANCELED if untouched else Meaning.AMBIGUOUS)


@pytest.mark.parametrize("depth", [50, 400, 900, 950, 980, 990, 995, 1000, 1010])
@pytest.mark.parametrize("spoiled", [False, True])
def test_a_deep_reason_never_crashes(depth: int, spoiled: bool) -> None:
    """However deep a reason is nested, it is quoted or the reply is foreign."""
    reason = b"[" * depth + b"]" * depth
    other = b'{"order_id":5},' if spoiled else b""
    body = b'{"cancel_results":[%s{"order_id":"%s","is_success":false,"fail_reason":%s}]}'
    verdict = cancel_verdicts([A], 200, body % (other, A.encode(), reason))[A]
    assert verdict in (declined(reason.decode()), FOREIGN)


@pytest.mark.parametrize(("opened", "inside", "closed"), [("[", "", "]"), ('{"a":', "1", "}")])
def test_no_depth_is_between_what_is_read_and_what_is_not(
    opened: str, inside: str, closed: str
) -> None:
    """Also where a reason can just be read, and no deeper: what is done with it may take a step more."""
    for depth in range(850, 1000):
        reason = opened * depth + inside + closed * depth
        body = (
            f'{{"cancel_results":[{{"order_id":"{A}","is_success":false,"fail_reason":{reason}}}]}}'
        )
        assert cancel_verdicts([A], 200, body.encode())[A] in (declined(reason), FOREIGN)


@pytest.mark.parametrize(
    "item",
    [
        '"order_id":"x","order_id":"%s","is_success":true',
        '"order_id":"%s","is_success":false,"is_success":true',
        '"order_id":"%s","is_success":true,"is_success":false',
        '"order_id":"%s","is_succes\\u0073":false,"is_success":true',
        '"order_id":"%s","is_success":true,"fail_reason":"matched","fail_reason":null',
        '"order_id":"%s","is_success":true,"fail_reason":null,"fail_reason":"matched"',
        '"order_id":"%s","is_success":true}],"cancel_results":[{"order_id":"%s","is_success":true',
    ],
)
def test_a_field_that_is_named_twice_proves_nothing(item: str) -> None:
    """Nobody knows which of the two values is meant, in whatever spelling, and however they follow each other."""
    body = b'{"cancel_results":[{%s},{"order_id":"%s","is_success":true}]}'
    body %= (item.replace("%s", A).encode(), B.encode())
    assert cancel_verdicts([A, B], 200, body) == dict.fromkeys([A, B], FOREIGN)
    body = (
        b'{"cancel_results":[],"cancel_results":[{"order_id":"%s","is_success":true}]}' % A.encode()
    )
    assert cancel_verdicts([A], 200, body) == {A: FOREIGN}
    with pytest.raises(BadReply):
        statuses([A], 200, b'{"results":[],"results":[{"order_id":"x","status":"Canceled"}]}')
    with pytest.raises(BadReply) as caught:
        read_reply("create", 200, b'{"order_ids":["a"],"order_ids":["b"]}', wire.CreateReply)
    check_bad(caught.value, "create", "the reply names a field twice")


def test_an_odd_neighbor_does_not_hide_a_field_that_is_named_twice() -> None:
    """Read item by item, a reply is looked through as well."""
    said = f'{{"order_id":5}},{{"order_id":"{A}","is_success":false,"is_success":true}}'
    assert cancel_verdicts([A], 200, f'{{"cancel_results":[{said}]}}'.encode()) == {A: FOREIGN}
    said = f'{{"order_id":5}},{{"order_id":"{A}","status":"Pending","status":"Canceled"}}'
    with pytest.raises(BadReply):
        statuses([A], 200, f'{{"results":[{said}]}}'.encode())


def test_a_reply_as_the_page_shows_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written as we would write it cannot name a field twice: it is not looked for."""
    monkeypatch.setattr("brokers.tronsave.verdict.has_unique_names", None)
    said = f'{{"order_id":"{A}","is_success":true,"fail_reason":null}}'
    assert cancel_verdicts([A], 200, f'{{"cancel_results":[{said}]}}'.encode()) == {A: CANCELED}
    said = f'{{"order_id":"{A}","status":"Pending"}}'
    assert statuses([A], 200, f'{{"results":[{said}]}}'.encode()) == {A: "Pending"}


def test_a_large_reply_is_read_whole() -> None:
    """Tens of thousands of results do not hide the one that was asked for."""
    others = [item(f"{number:024x}", False, "x" * 80) for number in range(50_000)]
    body = reply(*others, item(A))
    assert len(body) > 5_000_000
    assert cancel_verdicts([A], 200, body)[A] == CANCELED


REPLIES_WITH_ERRORS: dict[str, tuple[int, bytes, Meaning, str | None, str | None]] = {
    "no key": (
        *error_of("apikey header absent"),
        Meaning.ACCOUNT,
        "API_KEY_REQUIRED",
        None,
    ),
    "bad key": (*error_of("apikey not valid"), Meaning.ACCOUNT, "INVALID_API_KEY", None),
    "forbidden": (
        403,
        app("TSAS:108 FORBIDDEN Forbidden"),
        Meaning.ACCOUNT,
        "FORBIDDEN",
        "Forbidden",
    ),
    "forbidden, not said by the vendor": (
        403,
        b"",
        Meaning.AMBIGUOUS,
        None,
        "HTTP 403 in a shape that is not TronSave's",
    ),
    "unauthorized, not said by the vendor": (
        401,
        b"<html>",
        Meaning.AMBIGUOUS,
        None,
        "HTTP 401 in a shape that is not TronSave's",
    ),
    "wrong path": (
        *error_of("wrong path, not: unknown order"),
        Meaning.ACCOUNT,
        None,
        "Route POST:/v2/... not found",
    ),
    "redirect": (308, b"", Meaning.ACCOUNT, None, None),
    "rate limit": (
        *error_of("rate limit"),
        Meaning.NOT_PROCESSED,
        None,
        "Rate limit reached",
    ),
    "validation": (
        *error_of("required property missing"),
        Meaning.UNPROVED,
        "FST_ERR_VALIDATION",
        "body must have required property 'order_ids'",
    ),
    "no such order": (
        400,
        app("TSAS:408 INVALID_PARAMS Invalid orderId"),
        Meaning.NOT_FOUND,
        "INVALID_PARAMS",
        "Invalid orderId",
    ),
    "failure": (500, b"<html>", Meaning.AMBIGUOUS, None, None),
    "bad gateway": (502, b"", Meaning.AMBIGUOUS, None, None),
    "foreign error": (
        400,
        b"<html>",
        Meaning.AMBIGUOUS,
        None,
        "HTTP 400 in a shape that is not TronSave's",
    ),
    # words that no page documents are quoted and the order is read back: it may be filled
    "business": (
        *error_of("business rule (number not published)"),
        Meaning.UNPROVED,
        "INTERNAL_BALANCE_ACCOUNT_TOO_LOW",
        None,
    ),
    "plain text": (
        400,
        app("Order was already matched"),
        Meaning.UNPROVED,
        None,
        "Order was already matched",
    ),
    "other parameters": (
        400,
        app("TSAS:408 INVALID_PARAMS orderId was already matched"),
        Meaning.UNPROVED,
        "INVALID_PARAMS",
        "orderId was already matched",
    ),
    "failure with words": (500, app("TSAS:500 OOPS x"), Meaning.AMBIGUOUS, "OOPS", "x"),
    "refusal in a success": (
        200,
        app("TSAS:xxx NOPE"),
        Meaning.AMBIGUOUS,
        None,
        "an error inside HTTP 200: NOPE",
    ),
}


@pytest.mark.parametrize("case", REPLIES_WITH_ERRORS.values(), ids=REPLIES_WITH_ERRORS.keys())
def test_what_an_error_means_for_an_order(
    case: tuple[int, bytes, Meaning, str | None, str | None],
) -> None:
    """Only what the vendor documents proves something; the vendor's words are quoted, and a status is no code."""
    status, body, meaning, code, message = case
    verdict = cancel_verdicts([A], status, body, 7.5)[A]
    assert (verdict.meaning, verdict.code, verdict.message) == (meaning, code, message)
    assert (verdict.executed, verdict.remaining) == (None, None)
    if meaning is Meaning.ACCOUNT:
        assert isinstance(verdict.error, VendorError)
    assert isinstance(verdict.error, VendorError | BadReply)
    assert (verdict.error.venue, verdict.error.endpoint) == ("tronsave", "cancel")
    assert verdict.error.status == status
    if isinstance(verdict.error, VendorError):
        assert verdict.error.retry_after == 7.5


@pytest.mark.parametrize("status", UNDOCUMENTED)
@pytest.mark.parametrize(
    "body",
    [
        fastify(409, "Conflict", "Order was already matched"),
        app("Order was already matched"),
        app("TSAS:408 INVALID_PARAMS Invalid orderId"),
        fastify(400, "Bad Request", "must be array", code="FST_ERR_VALIDATION"),
    ],
)
def test_the_vendor_s_words_with_an_undocumented_status_are_ambiguous(
    status: int, body: bytes
) -> None:
    """Such a reply blames no id, so nothing is divided: any of the orders may have been canceled."""
    verdicts = cancel_verdicts([A, B], status, body)
    assert set(verdicts) == {A, B}
    for verdict in verdicts.values():
        assert (verdict.meaning, verdict.code) == (Meaning.AMBIGUOUS, None)
        assert f"HTTP {status}" in (verdict.message or "")
        assert isinstance(verdict.error, BadReply)


BLAMING_IDS = [
    error_of("required property missing"),
    (400, app("TSAS:408 INVALID_PARAMS Invalid orderId")),
    (400, app("TSAS:408 INVALID_PARAMS")),
    (400, app("Something is off")),
    (413, app("Something is off")),
    (415, app("Something is off")),
    (422, app("TSAS:408 INVALID_PARAMS Invalid orderId")),
]


@pytest.mark.parametrize(("status", "body"), BLAMING_IDS)
def test_an_error_that_one_id_may_have_caused_divides_the_batch(status: int, body: bytes) -> None:
    """A request of several that was refused as malformed is divided: one bad id must not harm the others."""
    with pytest.raises(Divide) as caught:
        cancel_verdicts([A, B], status, body)
    assert isinstance(caught.value.__cause__, VendorError)
    with pytest.raises(Divide):
        statuses([A, B], status, body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        error_of("apikey not valid"),
        error_of("rate limit"),
        error_of("business rule (number not published)"),
        (502, b""),
        (400, b"<html>"),
        (401, b"<html>"),
        (404, app("TSAS:408 INVALID_PARAMS Invalid orderId")),
        (409, app("TSAS:408 INVALID_PARAMS Invalid orderId")),
        (200, app("TSAS:408 INVALID_PARAMS Invalid orderId")),
    ],
)
def test_any_other_error_means_the_same_for_all(status: int, body: bytes) -> None:
    """What no id can have caused is not divided: it would cost requests and prove nothing more."""
    verdicts = cancel_verdicts([A, B, C], status, body, 4.0)
    assert set(verdicts) == {A, B, C}
    assert len({(verdict.meaning, verdict.code) for verdict in verdicts.values()}) == 1


AROUND: dict[str, bytes] = {
    "no results": b"",
    "empty": b',"cancel_results":[]',
    "a success": b',"cancel_results":[%s]' % encoded(item(A)),
    "two successes": b',"cancel_results":[%s,%s]' % (encoded(item(A)), encoded(item(B))),
    "a refusal": b',"cancel_results":[%s]' % encoded(item(A, False, "matched")),
    "another order": b',"cancel_results":[%s]' % encoded(item(C)),
    "odd": b',"cancel_results":[null,{"order_id":5}]',
}


@pytest.mark.parametrize("results", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize(("envelope", "quoted"), ENVELOPES.values(), ids=ENVELOPES.keys())
@pytest.mark.parametrize("status", [200, 201, 299])
def test_an_error_around_results_contradicts_itself(
    status: int, envelope: bytes, quoted: str, results: bytes
) -> None:
    """An error in a success, with results inside or without, proves nothing for any order, and divides no batch."""
    body = envelope.rstrip().removesuffix(b"}") + results + b"}"
    verdicts = cancel_verdicts([A, B], status, body)
    assert set(verdicts) == {A, B}
    for verdict in verdicts.values():
        assert (verdict.meaning, verdict.code) == (Meaning.AMBIGUOUS, None)
        assert verdict.message == f"an error inside HTTP {status}: {quoted}"
        assert (verdict.executed, verdict.remaining) == (None, None)
        assert isinstance(verdict.error, BadReply)


def test_what_only_resembles_an_error_hides_no_result() -> None:
    """A success may say that there is no error: its results stand."""
    for said in (b'"error":false,"message":"Success"', b'"error":null,"message":"no"'):
        body = b'{%s,"cancel_results":[%s]}' % (said, encoded(item(A)))
        assert cancel_verdicts([A], 200, body) == {A: CANCELED}


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    items=st.lists(
        ANYTHING
        | st.fixed_dictionaries(
            {"order_id": st.sampled_from([A, B, C]) | ANYTHING},
            optional={"is_success": st.booleans() | ANYTHING, "fail_reason": ANYTHING},
        ),
        max_size=5,
    ),
    status=st.sampled_from([200, 201, 400, 404, 500]),
)
def test_canceled_is_said_only_of_an_undisputed_success(items: list[Any], status: int) -> None:
    """Whatever the reply is, CANCELED stands only where every mention of the order is the same plain success."""
    verdicts: Mapping[str, Verdict] = cancel_verdicts([A], status, reply(*items))
    mentions = [one for one in items if isinstance(one, dict) and one.get("order_id") == A]
    undisputed = mentions and all(
        one.get("is_success") is True and one.get("fail_reason") in (None, "") for one in mentions
    )
    canceled = A in verdicts and verdicts[A].meaning is Meaning.CANCELED
    assert canceled == bool(undisputed and status < 300)


@given(body=st.binary(max_size=60), status=st.integers(100, 599))
def test_no_bytes_crash(body: bytes, status: int) -> None:
    """Any bytes with any status are an answer: a verdict, or a typed error."""
    assert all(
        verdict.meaning is not Meaning.CANCELED
        for verdict in cancel_verdicts([A], status, body).values()
    )
    with pytest.raises((VendorError, BadReply)):
        statuses([A], status, body)


# -- tracking --------------------------------------------------------------------------------------


def tracked(*items: object) -> bytes:
    """Return a reply to a tracking request."""
    return encoded({"results": items})


def test_the_documented_words() -> None:
    """The literal reply tells the word of each order."""
    ids = LITERALS["track"]["request"]["order_ids"]
    assert statuses(ids, 200, literal("track")) == {B: "Completed", C: "Pending"}


WORDS: dict[str, tuple[list[object], dict[str, str]]] = {
    "unknown word": ([{"order_id": A, "status": "On Hold"}], {A: "On Hold"}),
    "twice the same": ([{"order_id": A, "status": "Pending"}] * 2, {A: "Pending"}),
    "contradiction": (
        [
            {"order_id": A, "status": "Pending"},
            {"order_id": B, "status": "Matched"},
            {"order_id": A, "status": "Matched"},
            {"order_id": A, "status": "Pending"},
        ],
        {B: "Matched"},
    ),
    "no word": ([{"order_id": A}, {"order_id": A, "status": None}], {}),
    "odd word": (
        [{"order_id": A, "status": 1}, {"order_id": B, "status": "Pending"}],
        {B: "Pending"},
    ),
    "odd item": ([None, {"order_id": A, "status": "Pending"}, {"status": "x"}], {A: "Pending"}),
    "nothing": ([], {}),
}


@pytest.mark.parametrize(("items", "words"), WORDS.values(), ids=WORDS.keys())
def test_the_words_of_a_reply(items: list[object], words: dict[str, str]) -> None:
    """Words are verbatim; an order with two different ones has none; one odd item hides no other."""
    assert statuses([A, B], 200, tracked(*items)) == words


@pytest.mark.parametrize("body", NOT_TRONSAVE.values(), ids=NOT_TRONSAVE.keys())
def test_a_foreign_tracking_reply_is_not_silence(body: bytes) -> None:
    """What is not a tracking reply is an error, not the absence of orders."""
    with pytest.raises(BadReply) as caught:
        statuses([A], 200, body)
    check_bad(caught.value, "track", "the reply is not TronSave's")


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
def test_a_tracking_error_is_raised_as_what_it_is(case: ErrorCase) -> None:
    """A single order's error comes out typed, with the pause that the vendor asks for."""
    status, body, kind, *_ = case
    with pytest.raises(kind) as caught:
        statuses([A], status, body, 9.0)
    assert type(caught.value) is kind
    assert (caught.value.endpoint, caught.value.retry_after) == ("track", 9.0)


# -- states and snapshots --------------------------------------------------------------------------

STATES = {
    "Pending": OrderState.OPEN,
    "Completed": OrderState.FILLED,
    "Matched": OrderState.FILLED,
    "Canceled": OrderState.CANCELED,
    "Cancelled": OrderState.CANCELED,
    "Expired": OrderState.EXPIRED,
}


@pytest.mark.parametrize(("word", "state"), STATES.items())
def test_a_known_word_is_a_state_in_any_case(word: str, state: OrderState) -> None:
    """Two words mean filled, two spellings mean canceled, and their case does not matter."""
    assert {state_of_word(form) for form in (word, word.upper(), word.lower())} == {state}
    snapshot = snapshot_of_word(ORDER, word)
    assert (snapshot.state, snapshot.vendor_state) == (state, word)


@pytest.mark.parametrize("word", [None, "", " ", "Failed", "Confirmed", "not pending", "Pending."])
def test_an_unknown_word_is_not_known(word: str | None) -> None:
    """No word is guessed from another, and none crashes."""
    assert state_of_word(word) is OrderState.UNKNOWN


@given(word=st.text(max_size=12))
def test_any_word_survives_in_the_snapshot(word: str) -> None:
    """Tracking tells a word, verbatim, and no amounts."""
    snapshot = snapshot_of_word(ORDER, word)
    assert (snapshot.order, snapshot.venue, snapshot.vendor_state) == (ORDER, "tronsave", word)
    assert (snapshot.executed, snapshot.remaining) == (None, None)
    assert (snapshot.state is not OrderState.UNKNOWN) == (word.title() in STATES)


def test_silence_is_an_unknown_state() -> None:
    """An order that tracking does not mention has no word and no state."""
    snapshot = snapshot_of_word(ORDER, None)
    assert (snapshot.state, snapshot.vendor_state) == (OrderState.UNKNOWN, None)


Row = dict[str, Any]
ALL, NONE_FILLED, UNTOLD = (Decimal(65), None), (Decimal(0), Decimal(65)), (None, None)

ROWS: dict[str, tuple[Row, OrderState, tuple[Decimal | None, Decimal | None]]] = {
    "matched": ({"status": "Completed", "is_matched": True}, OrderState.FILLED, ALL),
    "completed": ({"status": "Completed"}, OrderState.FILLED, ALL),
    "matched outranks an open word": (
        {"status": "Pending", "is_matched": True},
        OrderState.FILLED,
        ALL,
    ),
    "matched outranks an unknown word": (
        {"status": "Frozen", "is_matched": True, "repay_amount": 5},
        OrderState.FILLED,
        ALL,
    ),
    "matched, no word": ({"is_matched": True}, OrderState.FILLED, ALL),
    **{
        f"matched and {word}, given back {given_back}": (
            {"status": word, "is_matched": True, "repay_amount": given_back},
            OrderState.UNKNOWN,
            UNTOLD,
        )
        for word in ("Canceled", "cancelled", "Expired")
        for given_back in (None, 0, 5)
    },
    "matched and confirmed": (
        {"status": "Completed", "is_matched": True, "repay_amount": 357_500},
        OrderState.FILLED,
        ALL,
    ),
    "given back": (
        {"status": "x", "is_matched": False, "repay_amount": 5},
        OrderState.CANCELED,
        NONE_FILLED,
    ),
    "given back, the least there is": (
        {"status": "Pending", "is_matched": False, "repay_amount": 1},
        OrderState.CANCELED,
        NONE_FILLED,
    ),
    "pending and given back": (
        {"status": "Pending", "is_matched": False, "repay_amount": 5},
        OrderState.CANCELED,
        NONE_FILLED,
    ),
    "waiting": ({"status": "Pending", "is_matched": False}, OrderState.OPEN, UNTOLD),
    "waiting, nothing given back": (
        {"status": "Pending", "is_matched": False, "repay_amount": 0},
        OrderState.OPEN,
        UNTOLD,
    ),
    "charged again": (
        {"status": "Pending", "is_matched": False, "repay_amount": -5},
        OrderState.OPEN,
        UNTOLD,
    ),
    "given back, not told whether matched": (
        {"status": "Pending", "repay_amount": 5},
        OrderState.OPEN,
        UNTOLD,
    ),
    "canceled": (
        {"status": "Cancelled", "is_matched": False},
        OrderState.CANCELED,
        NONE_FILLED,
    ),
    "canceled, not told whether matched": ({"status": "Canceled"}, OrderState.CANCELED, UNTOLD),
    "expired": ({"status": "Expired", "is_matched": False}, OrderState.EXPIRED, NONE_FILLED),
    **{
        f"not matched and {word}, given back {given_back}": (
            {"status": word, "is_matched": False, "repay_amount": given_back},
            OrderState.UNKNOWN,
            UNTOLD,
        )
        for word in ("Completed", "matched")
        for given_back in (None, 0, 5)
    },
    "unknown word": ({"status": "Frozen", "is_matched": False}, OrderState.UNKNOWN, UNTOLD),
    "no word": ({}, OrderState.UNKNOWN, UNTOLD),
}


def test_a_fill_in_doubt_takes_a_row_that_was_matched() -> None:
    """The word alone proves that the order is closed, and not how; a row decides whatever the word is."""
    for is_matched, repaid, state in (
        (True, None, OrderState.FILLED),
        (None, None, OrderState.CLOSED),
        (False, 5, OrderState.UNKNOWN),
        (False, None, OrderState.UNKNOWN),
    ):
        row = wire.HistoryRow(
            id="a", status="Completed", is_matched=is_matched, repay_amount=repaid, amount=7
        )
        told = snapshot_in_doubt(ORDER, "Completed", row)
        assert told.state is state
        assert told.executed == (7 if state is OrderState.FILLED else None)
    unlisted = snapshot_in_doubt(ORDER, "Completed", None)
    assert (unlisted.state, unlisted.vendor_state) == (OrderState.CLOSED, "Completed")
    strange = snapshot_in_doubt(ORDER, "Frozen", None)
    assert (strange.state, strange.vendor_state) == (OrderState.UNKNOWN, "Frozen")
    row = wire.HistoryRow(id="a", status="Canceled", is_matched=False, amount=7)
    assert snapshot_in_doubt(ORDER, "Completed", row).state is OrderState.CANCELED


@pytest.mark.parametrize(("row", "state", "amounts"), ROWS.values(), ids=ROWS.keys())
def test_what_a_history_row_says(
    row: Row, state: OrderState, amounts: tuple[Decimal | None, Decimal | None]
) -> None:
    """A row that contradicts itself says nothing, a refund tells a canceled order from a waiting one, and no amount is
    assumed."""
    snapshot = snapshot_of_row(ORDER, wire.HistoryRow(id=A, amount=65, **row))
    assert (snapshot.state, snapshot.vendor_state) == (state, row.get("status"))
    assert (snapshot.executed, snapshot.remaining) == amounts
    without = snapshot_of_row(ORDER, wire.HistoryRow(id=A, **row))
    assert without.state is state
    assert without.executed == (Decimal(0) if amounts == NONE_FILLED else None)
    assert without.remaining is None


@pytest.mark.parametrize("amount", [0, 1])
def test_nothing_is_an_amount(amount: int) -> None:
    """What the vendor tells is told, however little it is."""
    filled = snapshot_of_row(ORDER, wire.HistoryRow(id=A, amount=amount, is_matched=True))
    assert filled.executed == amount
    canceled = wire.HistoryRow(id=A, amount=amount, is_matched=False, repay_amount=5)
    assert snapshot_of_row(ORDER, canceled).remaining == amount


@pytest.mark.parametrize(("is_matched", "repay_amount"), [(True, None), (False, 5)])
def test_less_than_nothing_is_no_amount(is_matched: bool, repay_amount: int | None) -> None:
    """A negative amount is not told: neither as filled nor as left."""
    row = wire.HistoryRow(id=A, amount=-1, is_matched=is_matched, repay_amount=repay_amount)
    snapshot = snapshot_of_row(ORDER, row)
    assert snapshot.state.is_closed
    assert snapshot.executed == (None if is_matched else 0)
    assert snapshot.remaining is None
