"""What is raised: every text, every field, and the tree."""

from __future__ import annotations

import copy
import pickle
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tronsave_async import errors
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    ConnectFailed,
    ConnectionLost,
    CredentialsMissing,
    GatewayClosed,
    GatewayError,
    InvalidRequest,
    OrderNotFound,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    RequestFailed,
    RequestTimeout,
    UsageError,
    VendorError,
    VendorFailure,
    WrongEndpoint,
)
from tronsave_async.outcomes import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUEST_FAILURES = [RequestFailed, ConnectFailed, ConnectionLost, RequestTimeout, BadReply]
VENDOR_ERRORS = [
    VendorError,
    AuthenticationRejected,
    PermissionDenied,
    InvalidRequest,
    WrongEndpoint,
    BusinessRefusal,
    OrderNotFound,
    RateLimited,
    VendorFailure,
]


def defined() -> dict[str, type[BaseException]]:
    """Return the exceptions that the module defines."""
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, BaseException)
        and kind.__module__ == errors.__name__
    }


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Return the tree of the module's docstring: name -> its parent and its second base."""
    parents: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    line = re.compile(r"^ {4}((?:│   |    )*(?:├── |└── )?)(\w+)(?: \((\w+)\))?(?: {2}|$)")
    for match in filter(None, map(line.match, (errors.__doc__ or "").splitlines())):
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        parents[match[2]] = (path[depth - 1] if depth else None, match[3])
    return parents


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    """Every exception is drawn under its first base, with its second one in parentheses."""
    real: dict[str, tuple[str | None, str | None]] = {}
    for name, kind in defined().items():
        first, *others = (base.__name__ for base in kind.__bases__)
        real[name] = (None if name == "GatewayError" else first, others[0] if others else None)
    assert drawn() == real
    assert GatewayError.__bases__ == (Exception,)


def test_the_tree_says_what_each_error_means() -> None:
    """No branch of the drawing is without a word, other than its root."""
    tree = (errors.__doc__ or "").split("::")[1].split("Every error")[0]
    assert not re.findall(r"── \w+(?: \(\w+\))?$", tree, re.MULTILINE)


def test_one_root() -> None:
    """`except GatewayError` catches whatever the SDK raises, and `__all__` names all of it."""
    assert all(issubclass(kind, GatewayError) for kind in defined().values())
    assert sorted(defined()) == sorted(errors.__all__)


TEXTS: list[tuple[GatewayError, str]] = [
    (GatewayError("anything"), "anything"),
    (UsageError("the timeout is negative"), "the timeout is negative"),
    (GatewayClosed("tronsave"), "the tronsave gateway is closed"),
    (
        CredentialsMissing("tronsave", "TRONSAVE_API_KEY"),
        "no credentials for tronsave: set TRONSAVE_API_KEY",
    ),
    (
        ConnectFailed("ripio", "order.cancel", "connection refused", wire=Wire.NOT_SENT),
        "ripio order.cancel: connection refused (not sent)",
    ),
    (
        ConnectionLost("ripio", "order.cancel", "closed by the vendor", wire=Wire.MAYBE_SENT),
        "ripio order.cancel: closed by the vendor (maybe sent)",
    ),
    (
        RequestTimeout("tronsave", "cancel", "no reply within 15 s", wire=Wire.MAYBE_SENT),
        "tronsave cancel: no reply within 15 s (maybe sent)",
    ),
    (
        BadReply("tronsave", "cancel", "HTML", wire=Wire.ANSWERED, status=502),
        "tronsave cancel: HTML (answered)",
    ),
    (VendorError("v", "cancel", status=500), "v cancel: HTTP 500"),
    (VendorError("v", "cancel", status=400, code="BAD"), "v cancel: HTTP 400 BAD"),
    (VendorError("v", "cancel", status=400, number=0), "v cancel: HTTP 400 (0)"),
    (VendorError("v", "cancel", status=400, text="no"), "v cancel: HTTP 400: no"),
    (VendorError("v", "cancel", status=400, code=""), "v cancel: HTTP 400"),
    (
        InvalidRequest("v", "cancel", status=400, code="BAD", number=40001, text="bad id"),
        "v cancel: HTTP 400 BAD (40001): bad id",
    ),
    (
        RateLimited("v", "cancel", status=429, text="slow down", retry_after=2.0),
        "v cancel: HTTP 429: slow down",
    ),
    (
        OutcomeUnknown("v", "create", sent_at=AT, how_to_check="Call history()."),
        "v create: sent at 2026-01-02T03:04:05+00:00 and not answered; it may have taken effect"
        " and was not repeated. Call history().",
    ),
    (
        OutcomeUnknown(
            "v", "create", sent_at=AT, how_to_check="Look.", reason="answered by HTTP 500"
        ),
        "v create: sent at 2026-01-02T03:04:05+00:00 and answered by HTTP 500; it may have taken effect"
        " and was not repeated. Look.",
    ),
]


@pytest.mark.parametrize(("error", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_the_text(error: GatewayError, text: str) -> None:
    """The text is built from the fields."""
    assert str(error) == text


@pytest.mark.parametrize("kind", REQUEST_FAILURES)
@pytest.mark.parametrize("wire", Wire)
def test_a_failed_request_says_how_far_it_got(kind: type[RequestFailed], wire: Wire) -> None:
    """Whatever the kind, the fields are what was given, and the text names the wire."""
    error = kind("v", "cancel", "gone", wire=wire)
    assert (error.venue, error.endpoint, error.reason, error.wire) == ("v", "cancel", "gone", wire)
    assert str(error) == f"v cancel: gone ({wire.value.replace('_', ' ')})"
    assert isinstance(error, RequestFailed)
    assert not isinstance(error, VendorError)


@pytest.mark.parametrize("kind", VENDOR_ERRORS)
def test_a_vendor_error_keeps_the_vendors_words(kind: type[VendorError]) -> None:
    """Status, code, number, text and time to wait are what the vendor said."""
    error = kind("v", "cancel", status=418, code="C", number=7, text="t", retry_after=1.5)
    fields = (error.venue, error.endpoint, error.status, error.code, error.number, error.text)
    assert fields == ("v", "cancel", 418, "C", 7, "t")
    assert error.retry_after == 1.5
    assert str(error) == "v cancel: HTTP 418 C (7): t"


@pytest.mark.parametrize("kind", VENDOR_ERRORS)
def test_a_vendor_error_invents_nothing(kind: type[VendorError]) -> None:
    """What the vendor did not say is None, or no text."""
    error = kind("v", "cancel", status=500)
    assert (error.code, error.number, error.retry_after, error.text) == (None, None, None, "")


def test_a_bad_reply_has_a_status_where_there_was_one() -> None:
    """A reply that is no HTTP has none."""
    assert BadReply("v", "cancel", "empty", wire=Wire.ANSWERED).status is None
    assert BadReply("v", "cancel", "HTML", wire=Wire.ANSWERED, status=502).status == 502


def test_the_other_errors_have_typed_fields() -> None:
    """Closed gateways, missing credentials and unknown outcomes tell their facts as attributes."""
    assert GatewayClosed("v").venue == "v"
    missing = CredentialsMissing("v", "V_KEY")
    assert (missing.venue, missing.variable) == ("v", "V_KEY")
    exhausted = QuotaExhausted("v", "cancel", "used up", wire=Wire.NOT_SENT, retry_at=AT)
    assert (exhausted.reason, exhausted.retry_at) == ("used up", AT)
    unknown = OutcomeUnknown("v", "create", sent_at=AT, how_to_check="look")
    assert (unknown.venue, unknown.endpoint) == ("v", "create")
    assert (unknown.sent_at, unknown.how_to_check) == (AT, "look")


def test_errors_are_also_what_python_calls_them() -> None:
    """A caller who knows only Python's own names catches the right ones."""
    assert issubclass(UsageError, ValueError)
    assert issubclass(GatewayClosed, RuntimeError)
    assert issubclass(RequestTimeout, TimeoutError)
    assert not issubclass(ConnectionLost, ConnectionError)


@pytest.mark.parametrize("name", sorted(defined()))
def test_the_repr_names_the_kind(name: str) -> None:
    """A list of errors tells them apart."""
    kind = defined()[name]
    if kind is QuotaExhausted:
        error: BaseException = QuotaExhausted("v", "*", "", wire=Wire.NOT_SENT, retry_at=AT)
    elif issubclass(kind, RequestFailed):
        error = kind("v", "cancel", "gone", wire=Wire.ANSWERED)
    elif issubclass(kind, VendorError):
        error = kind("v", "cancel", status=500)
    elif kind is OutcomeUnknown:
        error = OutcomeUnknown("v", "create", sent_at=AT, how_to_check="look")
    else:
        error = kind(*["v"] * (2 if kind is CredentialsMissing else 1))
    assert repr(error).startswith(f"{name}('v'")


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
@pytest.mark.parametrize(
    "error",
    [
        UsageError("empty id"),
        GatewayClosed("v"),
        BadReply("v", "cancel", "HTML", wire=Wire.ANSWERED, status=502),
        RateLimited("v", "cancel", status=429, code="C", number=1, text="t", retry_after=2.0),
        QuotaExhausted("v", "cancel", "used up", wire=Wire.NOT_SENT, retry_at=AT),
        OutcomeUnknown("v", "create", sent_at=AT, how_to_check="look"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_be_copied_and_pickled(
    again: Callable[[GatewayError], GatewayError], error: GatewayError
) -> None:
    """Another process gets the same error: its kind, its text and its fields."""
    copied = again(error)
    assert type(copied) is type(error)
    assert copied is not error
    assert (str(copied), copied.args, vars(copied)) == (str(error), error.args, vars(error))
