"""sms4sats for tests: a gateway at a sandbox, and the judge that compares outcomes with the vendor's own record."""

from __future__ import annotations

import asyncio
import json
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from brokers.sms4sats import gateway as gateway_module
from brokers.sms4sats.sandbox import Invoice, Sms4SatsRules, Sms4SatsSandbox
from brokers.sms4sats.sandbox import OrderState as Recorded
from support.canary import CANARY, WatchedSms4Sats, sightings
from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    NotFound,
    NotSent,
    OrderState,
    RateLimit,
    RateLimiter,
    Refused,
    RetryPolicy,
    TooEarly,
    admission,
    cancels,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import pytest

    from brokers.sms4sats import Sms4SatsGateway

UNMETERED = RateLimit(100_000, per=1.0, margin=0.0)
QUICK = RetryPolicy(base=0.001, cap=0.002, quota=10_000, quota_refill=10_000)

NOWHERE = "7dc6e6b61d8c54dff6b8d6ea2e3f08b018e57963df81d493a6f9728c4dc83318"
"""The documented id, which no sandbox has issued."""

LITERALS: dict[str, Any] = {
    "cancel": {"status": "OK"},
    "cancel failed": {"status": "error", "reason": "unable to save data"},
    "code received": {
        "status": "OK",
        "paid": True,
        "code": 48010,
        "id": 1125699791,
        "number": 12345678901,
        "timestamp": 1666613406969,
        "country": "India",
        "service": "openAI",
    },
    "no number": {
        "status": "OK",
        "paid": True,
        "error": "No available number, payment request is canceled. "
        "Your funds are returned to your wallet automatically.",
    },
    "created": {"status": "OK", "orderId": NOWHERE, "payreq": "lnbc30u1p34yef6pp5..."},
}
"""The vendor's documented messages, verbatim (cancel-order, get-order-status, create-receive-order)."""

DEAD = frozenset({Recorded.CANCELED, Recorded.EXPIRED, Recorded.NO_NUMBER, Recorded.FAILED})


def encoded(value: object) -> bytes:
    """Return a value as compact JSON, as JavaScript prints it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@asynccontextmanager
async def vendor(
    rules: Sms4SatsRules | None = None, **options: Any
) -> AsyncIterator[tuple[Sms4SatsSandbox, Sms4SatsGateway]]:
    """Yield a sandbox that meters nothing and a quick gateway at it; ``gateway_*`` options go to the gateway."""
    ours = {name[8:]: options.pop(name) for name in list(options) if name.startswith("gateway_")}
    async with Sms4SatsSandbox(rules=rules, **({"api_key": CANARY} | options)) as sandbox:
        settings: dict[str, Any] = {
            "api_key": sandbox.api_key,
            "base_url": sandbox.url,
            "limiter": RateLimiter(),
            "rate_limit": UNMETERED,
            "retry": QUICK,
            "telemetry": sightings.event,
        }
        gateway = WatchedSms4Sats(**(settings | ours))
        async with gateway:
            yield sandbox, gateway


def wall_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> Callable[[], datetime]:
    """Let the gateway's wall clock go with the event loop's; return that clock, for a sandbox."""
    loop = asyncio.get_running_loop()
    wall, start = datetime.now(UTC), loop.time()

    def now() -> datetime:
        return wall + timedelta(seconds=loop.time() - start)

    class Wall(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            """The time of the loop; a plain datetime, as `datetime.now` returns it."""
            return now().astimezone(tz)

    monkeypatch.setattr(gateway_module, "datetime", Wall)
    monkeypatch.setattr(admission, "datetime", Wall)
    monkeypatch.setattr(cancels, "datetime", Wall)
    return now


def cancels_of(sandbox: Sms4SatsSandbox, order_id: str | None) -> int:
    """How many cancels that name an order arrived, whatever became of them."""
    asked = sandbox.requests_about(order_id or "")
    return sum(request.endpoint == "cancel" for request in asked)


def lie(sandbox: Sms4SatsSandbox, outcome: CancelOutcome) -> str | None:
    """Say what an outcome claims that the vendor's record does not bear out; None if it told the truth."""
    order_id = outcome.order.id
    record = sandbox.orders.get(order_id or "")
    state = None if record is None else record.state
    back = record is not None and record.invoice in {Invoice.UNPAID, Invoice.RELEASED}
    arrived = cancels_of(sandbox, order_id) > 0
    match outcome:
        case Canceled():
            true = state in DEAD and back
        case AlreadyClosed(state=OrderState.FILLED):
            true = state is Recorded.DELIVERED
        case AlreadyClosed(state=told):
            true = told is OrderState.CANCELED and state in DEAD and back
        case NotFound():
            true = record is None
        case NotSent() | TooEarly():
            true = not arrived
        case Refused():
            true = state in {Recorded.WAITING, None}
        case _:
            true = True
    return None if true else f"{outcome!r} but the vendor says {state}, arrived={arrived}"


# -- what may not be shown -----------------------------------------------------------------------------------------


def shown(error: BaseException) -> str:
    """Return an exception with its causes, and the locals of all their frames but those of the tests' own."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "\n".join([repr(error), *_lines(told)])


def _lines(told: traceback.TracebackException | None) -> Iterator[str]:
    if told is None:
        return
    yield str(told)
    for frame in told.stack:
        if "/tests/" not in frame.filename.replace("\\", "/"):
            values = (frame.locals or {}).items()
            yield from (f"{frame.filename}:{frame.name}: {name}={value}" for name, value in values)
    yield from _lines(told.__cause__)
    if not told.__suppress_context__:
        yield from _lines(told.__context__)
