"""What happened, as it happens: one frozen event per fact, one hook.

A hook is any callable that takes an `Event`. It is called synchronously on the event loop, so it must be quick; what it
raises goes to the loop's exception handler and never to an order. Without a hook no event is built.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import msgspec

from tronsave_async.errors import UsageError
from tronsave_async.outcomes import CancelOutcome, Unknown, Wire
from tronsave_async.tasks import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Answered",
    "Connected",
    "Disconnected",
    "Event",
    "LoggingHook",
    "Lost",
    "OutcomeReached",
    "Penalized",
    "Queued",
    "Retried",
    "Sent",
    "Stray",
    "TelemetryHook",
    "emitter",
]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every event carries.

    Attributes:
        venue: the gateway's name.
    """

    venue: str


class _RequestEvent(_Event, frozen=True, kw_only=True):
    """What every event about one request carries.

    Attributes:
        request: number of the request, unique within the gateway: the events of one request share it.
        endpoint: the vendor's call.
        orders: how many orders the request is about.
    """

    request: int
    endpoint: str
    orders: int


class Queued(_RequestEvent, frozen=True, kw_only=True, tag="queued"):
    """A request waits for its permit."""


class Sent(_RequestEvent, frozen=True, kw_only=True, tag="sent"):
    """A connection stands and the request leaves. Exactly one `Answered` or `Lost` follows.

    Attributes:
        queue: seconds from `Queued` until now: the wait for the permit and for the connection.
    """

    queue: float


class Answered(_RequestEvent, frozen=True, kw_only=True, tag="answered"):
    """A reply came, whatever it says.

    Attributes:
        status: HTTP (or HTTP-like) status.
        wire: seconds from `Sent` to the whole reply.
    """

    status: int
    wire: float


class Lost(_RequestEvent, frozen=True, kw_only=True, tag="lost"):
    """The request ended without a usable reply, or never left (then no `Sent` came before).

    Attributes:
        reason: what happened.
        reached: whether it may have arrived.
        wire: seconds from `Sent` until now; 0 if it never left.
    """

    reason: str
    reached: Wire
    wire: float


class Retried(_Event, frozen=True, kw_only=True, tag="retried"):
    """A call will try again.

    Attributes:
        endpoint: the vendor's call, or ``"cancel"``/``"read back"`` for the steps of a cancel.
        attempt: tries so far.
        delay: seconds until the next.
        reason: what went wrong.
    """

    endpoint: str
    attempt: int
    delay: float
    reason: str


class Penalized(_Event, frozen=True, kw_only=True, tag="penalized"):
    """The vendor asked for fewer requests: the scope is closed for all its users.

    Attributes:
        endpoint: the vendor's call.
        seconds: for how long.
    """

    endpoint: str
    seconds: float


class OutcomeReached(_Event, frozen=True, kw_only=True, tag="outcome"):
    """A cancel ended.

    Attributes:
        outcome: the very outcome that the caller gets.
        queue: seconds this order's requests waited for permits and connections.
        wire: seconds they were under way.
        read_back: seconds spent on reading the order back.
    """

    outcome: CancelOutcome
    queue: float
    wire: float
    read_back: float


class Connected(_Event, frozen=True, kw_only=True, tag="connected"):
    """A connection that carries many requests stands.

    Attributes:
        connections: how many stood so far, this one included.
    """

    connections: int


class Disconnected(_Event, frozen=True, kw_only=True, tag="disconnected"):
    """It is gone.

    Attributes:
        reason: what happened.
        pending: requests that had left and were not answered: a `Lost` follows for each.
    """

    reason: str
    pending: int


class Stray(_Event, frozen=True, kw_only=True, tag="stray"):
    """A message came that answers no pending request. It harms none.

    Attributes:
        kind: ``"late"``, ``"duplicate"``, ``"unknown"``, ``"binary"``, ``"malformed"``, or the vendor's kind.
    """

    kind: str


Event = (
    Queued
    | Sent
    | Answered
    | Lost
    | Retried
    | Penalized
    | Connected
    | Disconnected
    | Stray
    | OutcomeReached
)
"""Any of them."""


class TelemetryHook(Protocol):
    """Whoever listens."""

    def __call__(self, event: Event, /) -> None:
        """Take note of ``event``; return soon."""


def emitter(hook: TelemetryHook | None) -> Callable[[Event], None] | None:
    """What tells a hook, and lets nothing that it raises through; None where nobody listens, so that nothing is built
    in vain.

    Raises:
        UsageError: the hook cannot be called.
    """
    if hook is None:
        return None
    if not callable(hook):
        raise UsageError(f"telemetry must be callable, not {type(hook).__name__}")
    return lambda event: guarded(hook, event, "telemetry hook")


class LoggingHook:
    """Writes every event to a logger: `Unknown` outcomes and penalties as warnings; other outcomes, retries, lost
    requests, lost connections and stray messages as information; the rest as debug lines.

    Args:
        logger: where to; by default the logger ``tronsave_async``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger if logger is not None else logging.getLogger("tronsave_async")

    def __call__(self, event: Event, /) -> None:
        level = _level(event)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event)


def _level(event: Event) -> int:
    match event:
        case Penalized() | OutcomeReached(outcome=Unknown()):
            return logging.WARNING
        case OutcomeReached() | Retried() | Lost() | Disconnected() | Stray():
            return logging.INFO
        case _:
            return logging.DEBUG
