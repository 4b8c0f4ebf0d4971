"""TronSave's literal messages for tests, and bodies that no vendor should send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data" / "tronsave.json"
LITERALS: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
"""The vendor's documented messages, verbatim."""

ENDPOINTS = ("cancel", "confirm", "create", "track", "estimate", "history")

A, B, C = (f"673c17a3129f1881382e98e{last}" for last in "123")


def literal(endpoint: str) -> bytes:
    """Return the documented reply of a call."""
    return encoded(LITERALS[endpoint]["reply_200"])


def error_of(when: str) -> tuple[int, bytes]:
    """Return the status and the body of a documented error."""
    (error,) = (error for error in LITERALS["errors"] if error["when"] == when)
    return error["status"], encoded(error["body"])


def encoded(value: object) -> bytes:
    """Return a value as compact JSON, as JavaScript prints it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


DEEP = 100_000

NOT_TRONSAVE: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n",
    "html": b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>",
    "text": b"upstream connect error",
    "truncated": b'{"cancel_results":[{"order_id":"673c17a3129f18',
    "truncated success": b'{"cancel_results":[{"order_id":"' + A.encode() + b'","is_success":true',
    "trailing garbage": b'{"cancel_results":[],"results":[]} x',
    "array": b"[]",
    "array of objects": b'[{"order_id":"x","is_success":true}]',
    "number": b"1",
    "text in quotes": b'"OK"',
    "true": b"true",
    "null": b"null",
    "empty object": b"{}",
    "other object": b'{"data":{"cancel_results":[]}}',
    "list is null": b'{"cancel_results":null,"results":null}',
    "list is an object": b'{"cancel_results":{},"results":{}}',
    "list is text": b'{"cancel_results":"none","results":"none"}',
    "not a number": b'{"cancel_results":NaN,"results":NaN}',
    "infinity": b'{"cancel_results":[1e999],"results":[1e999]}',
    "huge number": b'{"cancel_results":' + b"9" * 100_000 + b',"results":1}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"cancel_results":[]}'.encode("utf-16"),
    "not utf-8": b'{"cancel_results":"\xff\xfe","results":"\xff\xfe"}',
    "lone surrogate": b'{"cancel_results":"\\ud800","results":"\\ud800"}',
    "zero bytes": b"\0" * 64,
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep list": b'{"cancel_results":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep and open": b'{"results":' + b"[" * DEEP,
    "ten megabytes of spaces": b" " * 10_000_000,
    "ten megabytes of text": b'"' + b"x" * 10_000_000 + b'"',
}
"""Bodies that are not the reply of any call, whatever their status."""

HOSTILE_VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "text": b'"?"',
    "empty text": b'""',
    "negative": b"-1",
    "fraction": b"0.5",
    "exponent": b"1e308",
    "32 digits": b"9" * 32,
    "5000 digits": b"9" * 5000,
    "5000 digits in text": b'"' + b"9" * 5000 + b'"',
    "NaN in text": b'"NaN"',
    "array": b"[]",
    "object": b"{}",
    "nested": b"[" * 300 + b"]" * 300,
    "long text": b'"' + b"x" * 100_000 + b'"',
    "zero character": b'"\\u0000"',
    "emoji": '"\U0001f4a5"'.encode(),
}
"""JSON values that may stand where another was promised."""
