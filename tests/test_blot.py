"""What a vendor echoes is read without the account's secrets."""

from __future__ import annotations

import json

import pytest

from tronsave_async.blot import Blot

KEY = "k3y-" + "0f" * 8
TOKEN = 'to/"ken'
BLOT = Blot([KEY, TOKEN])


def escaped(text: str) -> str:
    """Return a text as JSON escapes that hide every character of it."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (f"bad key {KEY}", "bad key ***"),
        (f"{KEY}{KEY} and {KEY}", "****** and ***"),
        (f"{TOKEN}: {KEY}", "***: ***"),
        ("nothing of ours", "nothing of ours"),
        ("", ""),
        (f"almost {KEY[:-1]}", f"almost {KEY[:-1]}"),
    ],
)
def test_secrets_are_taken_out(said: str, read: str) -> None:
    """Every secret, as often as it comes; everything else stays as it is."""
    assert BLOT(said.encode()) == read.encode()


@pytest.mark.parametrize(
    "text",
    [
        f'{{"message":"{escaped(KEY)}"}}',
        f'{{"message":"{KEY[:3]}{escaped(KEY[3:])}"}}',
        f'{{"{escaped(KEY)}":1}}',
        json.dumps({"message": f"\n{KEY}"}),
        json.dumps({"message": [TOKEN]}).replace("/", "\\/"),
    ],
)
def test_escapes_do_not_hide_a_secret(text: str) -> None:
    """JSON has many ways to write the same text: the reply is still JSON, without the secret."""
    read = BLOT(text.encode())
    said = repr(json.loads(read))
    assert "***" in said
    assert KEY not in said
    assert TOKEN not in said


@pytest.mark.parametrize(
    "text",
    [
        f"<html>{escaped(KEY)}</html>",
        f'{{"message":"{escaped(KEY)}',
        f'{{"message":"\\{KEY}',
        "[" * 100_000 + f'"{escaped(KEY)}"',
    ],
    ids=["html", "truncated", "needless", "deep"],
)
def test_escapes_outside_of_json_do_not_hide_a_secret(text: str) -> None:
    """Half a reply, or a page that quotes one, is not read as JSON, and hides nothing either."""
    read = BLOT(text.encode())
    assert b"***" in read
    assert KEY.encode() not in read


@pytest.mark.parametrize(
    "content",
    [b'{"message":"caf\\u00e9 \\"quoted\\""}', b"C:\\temp\\new", b"\\", b"\\ud800", b"\\u12"],
)
def test_what_hides_nothing_stays_byte_for_byte(content: bytes) -> None:
    """Escapes are looked through, and rewritten only where they hid a secret."""
    assert BLOT(content) == content


def test_without_secrets_nothing_is_taken_out() -> None:
    """An account without a key has nothing to hide."""
    content = f'{{"message":"{escaped(KEY)} {KEY}"}}'.encode()
    assert Blot([])(content) == content


def test_it_shows_nothing_itself() -> None:
    """A traceback that shows attributes shows no secret."""
    assert KEY not in repr([getattr(BLOT, name) for name in BLOT.__slots__])
