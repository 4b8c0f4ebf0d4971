"""JSON objects that name a field twice.

What such an object says is unpredictable (RFC 8259, 4). msgspec, like JavaScript, takes the last value and is silent
about the others: ``{"is_success": false, "is_success": true}`` would read as a success. Where much hangs on a reply, it
is read once more for this.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["has_unique_names"]


class _Duplicate(Exception):
    """An object has a name twice."""


def _check(pairs: Sequence[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Duplicate


def _pass_over(_: str) -> None:
    """Numbers do not matter, however long they are."""


_read: Final = json.JSONDecoder(
    object_pairs_hook=_check,
    parse_int=_pass_over,
    parse_float=_pass_over,
    parse_constant=_pass_over,
).decode


def has_unique_names(text: str | bytes | bytearray | memoryview) -> bool:
    """Whether no object of a JSON text has a name twice, at any depth and in any spelling; False for what is no JSON.

    It takes about as long as `json.loads`.
    """
    try:
        _read(text if isinstance(text, str) else str(text, "utf-8", "replace"))
    except (_Duplicate, ValueError, RecursionError):
        return False
    return True
