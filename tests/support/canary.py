"""
The canary: a secret that all tests use, and that nothing they produce may show.

Watched are every log record at DEBUG, every telemetry event, every outcome, and every exception that leaves a gateway,
with the ``repr`` of all locals of its traceback.
"""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from brokers.ripio.gateway import RipioGateway
from brokers.sms4sats.gateway import Sms4SatsGateway
from brokers.tronsave import TronSaveGateway

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async import Event

CANARY = "canary-5f0c8a7e-41d2"


class Sightings(logging.Handler):
    """Collects what shows the canary. As a log handler it reads every record."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []
        self.read = 0

    def look(self, text: str) -> None:
        """Read a text."""
        self.read += 1
        if CANARY in text:
            self.seen.append(text)

    def emit(self, record: logging.LogRecord) -> None:
        """Read a log record, its arguments and its traceback."""
        self.look(f"{self.format(record)} {record.args!r}")

    def event(self, event: Event, /) -> None:
        """Read a telemetry event: the hook of every watched gateway."""
        self.value(event)

    def value(self, value: object) -> None:
        """Read an event, an outcome, a snapshot or whatever a call returns in all its forms."""
        self.look(f"{value!r} {value} {msgspec.json.encode(value)!r} {msgspec.to_builtins(value)}")

    def error(self, error: BaseException) -> None:
        """Read an exception with its causes and the locals of all their frames."""
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.look("".join(shown.format()))


sightings = Sightings()
"""One for the whole suite."""


def watched(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a coroutine method so that what it returns and raises is read."""

    @functools.wraps(method)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await method(*args, **kwargs)
        except (
            BaseException
        ) as error:  # also the cancellation of a call, with the locals on its way
            sightings.error(error)
            raise
        sightings.value(result)
        return result

    return wrapper


class WatchedGateway(TronSaveGateway):
    """A gateway whose every answer and exception is read."""


class WatchedRipio(RipioGateway):
    """The same for Ripio."""


class WatchedSms4Sats(Sms4SatsGateway):
    """The same for sms4sats."""


for gateway in (WatchedGateway, WatchedRipio, WatchedSms4Sats):
    for name, member in inspect.getmembers(gateway, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            setattr(gateway, name, watched(member))
