"""A secret's text reaches the wire and nothing else."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
import pprint
import subprocess
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from tronsave_async.credentials import Secret
from tronsave_async.errors import CredentialsMissing, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

# Made at run time, so that no source line that a traceback quotes contains it.
PLAIN = "-".join(["hunter2", "K3Y", "0xC0FFEE"])


class Holder(msgspec.Struct):
    """Something of a user's with a secret inside."""

    secret: object


def logged(secret: Secret) -> str:
    """Return what a log handler writes of a secret."""
    stream = io.StringIO()
    logger = logging.getLogger("tests.credentials")
    logger.propagate = False
    logger.addHandler(handler := logging.StreamHandler(stream))
    logger.warning("%s %r %10s", secret, secret, secret)
    logger.warning("%s", {"apikey": secret.reveal()})
    logger.removeHandler(handler)
    return stream.getvalue()


def locals_of_a_traceback(secret: Secret) -> str:
    """Return a traceback that shows the local variables."""

    def fail(secret: Secret) -> None:
        key = secret.reveal()
        headers = {"apikey": key}
        raise LookupError(len(headers))

    try:
        fail(secret)
    except LookupError as error:
        return "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )
    raise AssertionError


SHOWING: list[Callable[[Secret], str]] = [
    repr,
    str,
    ascii,
    format,
    logged,
    locals_of_a_traceback,
    pprint.pformat,
    lambda secret: f"{secret} {secret!r} {secret!s} {secret!a} {secret:>10}",
    lambda secret: "%s %r %a" % (secret, secret, secret),  # noqa: UP031
    lambda secret: "{} {!r} {:^20}".format(secret, secret, secret),  # noqa: UP032
    lambda secret: repr(secret.reveal()),
    lambda secret: ascii(secret.reveal()),
    lambda secret: "%r" % secret.reveal(),  # noqa: UP031
    lambda secret: repr({"apikey": secret.reveal(), "secret": secret}),
    lambda secret: str([secret.reveal(), (secret,)]),
    lambda secret: pprint.pformat({"apikey": secret.reveal()}, width=1),
    lambda secret: repr(LookupError(secret, secret.reveal())),
    lambda secret: repr(Holder(secret)) + repr(Holder(secret.reveal())),
    lambda secret: repr(secret.__getstate__()),
    lambda secret: secret.account,
]


@pytest.mark.parametrize("show", SHOWING, ids=map(str, range(len(SHOWING))))
def test_whatever_shows_a_secret_shows_nothing(show: Callable[[Secret], str]) -> None:
    """No way of printing a secret, or the headers made of it, shows its text or a part of it."""
    shown = show(Secret(PLAIN))
    assert shown
    assert not [part for part in (PLAIN, *PLAIN.split("-")) if part in shown]


def test_a_secret_looks_like_one() -> None:
    """Its text and its repr are fixed, whatever its length; a format's width is kept."""
    secret = Secret(PLAIN)
    assert (str(secret), repr(secret), f"{secret:>6}") == ("***", "Secret('***')", "   ***")
    assert repr(secret.reveal()) == "'***'"
    assert repr(Secret("x")) == repr(secret)


SERIALIZING: list[Callable[[Secret], object]] = [
    pickle.dumps,
    copy.copy,
    copy.deepcopy,
    json.dumps,
    msgspec.json.encode,
    msgspec.msgpack.encode,
    msgspec.to_builtins,
    lambda secret: msgspec.json.encode({"key": [secret]}),
    lambda secret: msgspec.json.encode(Holder(secret)),
    lambda secret: copy.deepcopy({"key": [secret]}),
    *(partial(pickle.dumps, protocol=p) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
]


@pytest.mark.parametrize("serialize", SERIALIZING, ids=map(str, range(len(SERIALIZING))))
def test_whatever_serializes_a_secret_fails(serialize: Callable[[Secret], object]) -> None:
    """A secret is not pickled, copied or encoded: the attempt fails and shows nothing."""
    with pytest.raises(TypeError) as caught:
        serialize(Secret(PLAIN))
    assert PLAIN not in str(caught.value)


def test_json_with_a_fallback_to_text_shows_nothing() -> None:
    """An encoder that turns the unknown into text writes the mask."""
    assert json.dumps({"key": Secret(PLAIN)}, default=str) == '{"key": "***"}'
    assert msgspec.json.encode({"key": Secret(PLAIN)}, enc_hook=str) == b'{"key":"***"}'


def test_the_wire_gets_the_plain_text() -> None:
    """`reveal` is the very text: equal, as long, and the same bytes in a header."""
    plain = Secret(PLAIN).reveal()
    assert isinstance(plain, str)
    assert plain == PLAIN
    assert plain.encode() == PLAIN.encode()
    assert f"Bearer {plain}" == f"Bearer {PLAIN}"


def test_equal_secrets_are_equal() -> None:
    """Equality and hash go by the text; a secret equals no plain text."""
    assert Secret(PLAIN) == Secret(PLAIN)
    assert Secret(PLAIN) != Secret(PLAIN + "x")
    assert Secret(PLAIN) != PLAIN
    assert Secret(PLAIN) != PLAIN
    assert len({Secret(PLAIN), Secret(PLAIN), Secret(PLAIN + "x")}) == 2


def test_the_account_names_the_secret_inside_this_process() -> None:
    """Equal secrets share an account, others do not, and it tells nothing outside the process."""
    account = Secret(PLAIN).account
    assert account == Secret(PLAIN).account
    assert account != Secret(PLAIN + "x").account
    code = (
        "import os; from tronsave_async.credentials import Secret;"
        "print(Secret(os.environ['PLAIN']).account)"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PLAIN": PLAIN, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(elsewhere.stdout.strip()) == len(account) == 12
    assert elsewhere.stdout.strip() != account


def test_of_wraps_text_and_passes_a_secret_through() -> None:
    """A constructor takes either."""
    secret = Secret(PLAIN)
    assert Secret.of(secret) is secret
    assert Secret.of(PLAIN) == secret


@pytest.mark.parametrize("value", ["", None, 7, b"bytes", ["list"], object()])
def test_what_is_no_text_is_refused(value: object) -> None:
    """A credential is a non-empty string."""
    with pytest.raises(UsageError, match=r"^a credential must be a non-empty string$"):
        Secret(value)  # type: ignore[arg-type]


UNSENDABLE = [
    "two words",
    " leading",
    "trailing ",
    "line\n",
    "a\r\nX-Header: injected",
    "tab\t",
    "nul\0",
    "del\x7f",
    "no\xa0break",
    "caf\xe9",
    "\u20bf",
    "\ud800",
]


@pytest.mark.parametrize("value", UNSENDABLE)
def test_what_no_header_can_carry_is_refused(value: str) -> None:
    """Spaces, control characters and anything beyond ASCII are a usage error that shows nothing."""
    with pytest.raises(UsageError, match=r"^a credential must be printable ASCII without spaces$"):
        Secret(value)


def test_every_visible_character_is_accepted() -> None:
    """All of printable ASCII but the space."""
    visible = "".join(map(chr, range(33, 127)))
    assert Secret(visible).reveal() == visible


# --- the environment ------------------------------------------------------------------------------


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's value becomes the secret."""
    monkeypatch.setenv("VENDOR_KEY", PLAIN)
    assert Secret.from_env("vendor", "VENDOR_KEY") == Secret(PLAIN)


@pytest.mark.parametrize("value", [None, ""])
def test_missing_in_the_environment(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """A variable that is not set, or empty, is named."""
    if value is None:
        monkeypatch.delenv("VENDOR_KEY", raising=False)
    else:
        monkeypatch.setenv("VENDOR_KEY", value)
    with pytest.raises(CredentialsMissing, match=r"^no credentials for vendor: set VENDOR_KEY$"):
        Secret.from_env("vendor", "VENDOR_KEY")


def test_a_bad_value_in_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a line end is refused, and a traceback with local variables does not show it."""
    monkeypatch.setenv("VENDOR_KEY", PLAIN + "\n")
    with pytest.raises(UsageError) as caught:
        Secret.from_env("vendor", "VENDOR_KEY")
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(report.format())
    assert "in from_env" in shown
    assert PLAIN not in shown


def test_a_bad_value_is_not_shown_by_the_constructor() -> None:
    """What the constructor refuses does not stay in its local variables."""
    with pytest.raises(UsageError) as caught:
        Secret("".join([PLAIN, "\n"]))
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(report.format())
    assert "in __init__" in shown
    assert PLAIN not in shown


def test_text_and_bytes_can_be_masked() -> None:
    """What is derived from a secret is what it is on the wire, and shows nothing."""
    text, data = Secret.masked(PLAIN), Secret.masked_bytes(f"{PLAIN}ü")
    assert (text, data) == (PLAIN, f"{PLAIN}ü".encode())
    assert (type(text).__mro__[1], type(data).__mro__[1]) == (str, bytes)
    assert (repr(text), repr(data), f"{[text, data]}") == ("'***'", "'***'", "['***', '***']")
