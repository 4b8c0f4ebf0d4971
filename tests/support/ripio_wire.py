"""Ripio's literal messages for tests, and messages that no vendor should send."""

from __future__ import annotations

import json
from typing import Any

ORDER_ID = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
OTHER_ID = "8DE12108-4643-4E9F-8425-0172F1B96876"
EXTERNAL_ID = "my-order-123"

RESULT: dict[str, Any] = {
    "id": "7155ED34-9EC4-4733-8B32-1E4319CB662F",
    "create_date": "2024-03-27T13:27:19.853Z",
    "update_date": "2024-03-27T13:30:45.123Z",
    "executed_amount": 0,
    "remaining_amount": 0.001,
    "remaining_value": 100,
    "requested_amount": 0.001,
    "requested_value": 100,
    "total_value": 100,
    "status": "canceled",
    "type": "limit",
    "price": 100000,
    "pair": "BTC_BRL",
    "external_id": "my-order-123",
}
CANCELED: dict[str, Any] = {"id": "req-003", "status": 200, "result": RESULT}
"""The documented success of a cancel."""

NOT_FOUND: dict[str, Any] = {
    "id": "req-003",
    "status": 404,
    "result": None,
    "error": {"error_code": 40401, "message": "Order not found."},
}
ALREADY_CLOSED: dict[str, Any] = {
    "id": "req-003",
    "status": 400,
    "result": None,
    "error": {
        "error_code": 40408,
        "message": "Cannot cancel an already canceled or fully executed order.",
    },
}

RECORD: dict[str, Any] = {
    "data": {
        "average_execution_price": 42600,
        "create_date": "2017-12-08T23:42:54.960Z",
        "external_id": "C90796F2-2CC3-4797-9AC3-A16BCC6936F0",
        "executed_amount": 0.02347418,
        "id": "8DE12108-4643-4E9F-8425-0172F1B96876",
        "remaining_amount": 0,
        "requested_amount": 0.02347418,
        "requested_value": 1000,
        "remaining_value": 0,
        "pair": "BTC_BRL",
        "price": 42600,
        "side": "buy",
        "status": "executed_completely",
        "fee": 0.002,
        "total_value": 1000,
        "type": "limit",
        "update_date": "2017-12-13T21:48:48.817Z",
        "transactions": [],
    },
    "error_code": None,
    "message": None,
}
"""The documented reply to get-order."""

EVENT: dict[str, Any] = {
    "id": 7,
    "topic": "order_status",
    "timestamp": 1675708481219,
    "body": {"id": ORDER_ID, "status": "canceled", "executed_amount": 0},
}
"""An event of the stream."""

TOO_MANY = b'{"message":"Too many requests"}'
LIMIT_EXCEEDED = b'{"message":"Limit Exceeded"}'


def encoded(value: object) -> bytes:
    """Return a value as compact JSON, as JavaScript prints it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def failed(
    status: object, code: object = None, message: object = None, **fields: object
) -> dict[str, Any]:
    """Return the reply to a request that failed."""
    error = {"error_code": code, "message": message}
    return {"id": "req-003", "status": status, "result": None, "error": error, **fields}


def canceled(**changes: object) -> dict[str, Any]:
    """Return the documented success with other values in its result."""
    return {**CANCELED, "result": {**RESULT, **changes}}


def with_value(field: str, value: bytes) -> bytes:
    """Return the documented success with raw JSON as the value of a field of its result."""
    return encoded(canceled(**{field: "@@@"})).replace(b'"@@@"', value)


DEEP = 100_000

NO_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n",
    "html": b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>",
    "text": b"upstream connect error",
    "truncated": b'{"id":"req-003","status":200,"result":{"id":"7155',
    "truncated success": encoded(CANCELED)[:-1],
    "trailing garbage": encoded(CANCELED) + b" x",
    "two replies": encoded(CANCELED) * 2,
    "not a number": b'{"id":"req-003","status":NaN}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"id":"req-003"}'.encode("utf-16"),
    "lone surrogate": b'{"id":"req-003","status":200,"x":"\\ud800"}',
    "zero bytes": b"\0" * 64,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep status": b'{"id":"req-003","status":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep and open": b'{"result":' + b"[" * DEEP,
    "ten megabytes of spaces": b" " * 10_000_000,
}
"""What is no JSON, or cannot be read as such."""

NO_OBJECT: dict[str, bytes] = {
    "array": b"[]",
    "array of a reply": b"[" + encoded(CANCELED) + b"]",
    "number": b"1",
    "text in quotes": b'"OK"',
    "true": b"true",
    "null": b"null",
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "ten megabytes of text": b'"' + b"x" * 10_000_000 + b'"',
}
"""What is JSON, and no object."""

HOSTILE_VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "false": b"false",
    "text": b'"?"',
    "empty text": b'""',
    "exponent": b"1e308",
    "huge exponent": b"1e999999999",
    "tiny": b"1e-999999999",
    "zero of a huge exponent": b"0e999999999",
    "huge exponent in text": b'"1e999999999"',
    "exponent beyond all": b"1e99999999999999999999",
    "5000 digits": b"9" * 5000,
    "5000 digits in text": b'"' + b"9" * 5000 + b'"',
    "NaN in text": b'"NaN"',
    "signaling NaN in text": b'"sNaN"',
    "infinity in text": b'"-Infinity"',
    "comma": b'"0,5"',
    "array": b"[]",
    "object": b"{}",
    "object of a number": b'{"value":1}',
    "nested": b"[" * 300 + b"]" * 300,
    "not utf-8": b'"\xff"',
}
"""JSON values that are no amount, no date, no word and no order."""
