"""Checks of what callers pass. Pure; each names the argument that it refuses."""

from __future__ import annotations

import math
import ssl as tls
from collections.abc import Iterable
from decimal import Decimal

from tronsave_async.errors import UsageError

__all__ = [
    "check_type",
    "quantity",
    "several_texts",
    "timeout_seconds",
    "tls_context",
    "whole_number",
    "within",
]


def timeout_seconds(timeout: object) -> float | None:
    """Seconds above 0, or None for no bound.

    Raises:
        UsageError: it is zero, negative, not a number, or no number at all.
    """
    if timeout is None or timeout == math.inf:
        return None
    if isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout > 0:
        return float(timeout) if timeout < _FOREVER else None
    raise UsageError("timeout must be a number of seconds above 0, or None")


_FOREVER = 1e9
"""Seconds that no event loop lives: 30 years."""


def tls_context(ssl: object) -> tls.SSLContext | None:
    """A TLS context, or None for the default, which verifies. There is no short way to do without: ``False`` would be
    one elsewhere.

    Raises:
        UsageError: it is neither.
    """
    if ssl is None or isinstance(ssl, tls.SSLContext):
        return ssl
    raise UsageError("ssl must be an ssl.SSLContext, or None for one that verifies")


def within(name: str, value: object, *, above: float = 0.0, inclusive: bool = False) -> float:
    """A finite number above a bound, or at least the bound.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        fits = value >= above if inclusive else value > above
        if fits and value < math.inf:
            return value
    bound = f"{above:g} or more" if inclusive else f"above {above:g}"
    raise UsageError(f"{name} must be a finite number, {bound}")


def whole_number(name: str, value: object, *, least: int) -> int:
    """An int (no bool, no float) of at least ``least``.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise UsageError(f"{name} must be a whole number, {least} or more")


def quantity(name: str, value: object) -> Decimal | int | None:
    """An exact number or None: a float is none, and neither is text, which vendors may take for something else.

    Raises:
        UsageError: it is neither.
    """
    if value is None or (isinstance(value, Decimal | int) and not isinstance(value, bool)):
        return value
    raise UsageError(f"{name} must be a Decimal or an int, not {type(value).__name__}")


def check_type(name: str, value: object, kind: type) -> None:
    """Find out here what would only be found out in the middle of an order.

    Raises:
        UsageError: the value is of another type.
    """
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")


def several_texts(name: str, values: Iterable[str]) -> list[str]:
    """A list of texts out of any iterable but a text itself, which is iterable by accident.

    Raises:
        UsageError: it is text or bytes, or has an item that is not text.
    """
    given: object = values
    if isinstance(given, str | bytes | bytearray):
        raise UsageError(f"{name} must be several texts, not one")
    if not isinstance(given, Iterable):
        raise UsageError(f"{name} must be several texts")
    texts = list(values)
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{name} must hold texts only")
    return texts
