"""Ripio for tests: a gateway at a sandbox, and the judge that compares outcomes with the vendor's own record."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from brokers.ripio.sandbox import OrderState as Recorded
from brokers.ripio.sandbox import RipioRules, RipioSandbox
from support.canary import CANARY, WatchedRipio, sightings
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
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from brokers.ripio.gateway import RipioGateway

UNMETERED = RateLimit(100_000, per=1.0, margin=0.0)
QUICK = RetryPolicy(base=0.001, cap=0.002, quota=10_000, quota_refill=10_000)
PROMPT = RetryPolicy(base=0.0, cap=0.0, quota=10_000, quota_refill=10_000)
"""No pauses at all: on a clock that jumps, every moment is then a round number."""

STATES = {
    Recorded.OPEN: OrderState.OPEN,
    Recorded.EXECUTED_PARTIALLY: OrderState.PARTIALLY_FILLED,
    Recorded.EXECUTED_COMPLETELY: OrderState.FILLED,
    Recorded.CANCELED: OrderState.CANCELED,
}


def strict(**fields: Any) -> RipioRules:
    """Rules by which no signature is accepted twice."""
    return RipioRules(**({"reject_replayed_signatures": True} | fields))


def virtual_now() -> Callable[[], datetime]:
    """A wall clock that goes with the event loop's: for a sandbox whose loop jumps over the waiting."""
    loop = asyncio.get_running_loop()
    wall, start = datetime.now(UTC), loop.time()
    return lambda: wall + timedelta(seconds=loop.time() - start)


@asynccontextmanager
async def vendor(
    rules: RipioRules | None = None, **options: Any
) -> AsyncIterator[tuple[RipioSandbox, RipioGateway]]:
    """Yield a sandbox that meters nothing and a quick gateway at it; ``gateway_*`` options go to the gateway.

    By default the sandbox accepts no signature twice.
    """
    ours = {name[8:]: options.pop(name) for name in list(options) if name.startswith("gateway_")}
    settings: dict[str, Any] = {
        "api_token": f"token-{CANARY}",
        "secret": f"secret-{CANARY}",
        "requests_per_window": 100_000,
    } | options
    async with RipioSandbox(rules=rules or strict(), **settings) as sandbox:
        gateway_settings: dict[str, Any] = {
            "ws_url": sandbox.ws_url,
            "rest_url": sandbox.rest_url,
            "limiter": RateLimiter(),
            "rate_limit": UNMETERED,
            "retry": QUICK,
            "telemetry": sightings.event,
        }
        gateway = WatchedRipio(sandbox.api_token, sandbox.secret, **(gateway_settings | ours))
        async with gateway:
            yield sandbox, gateway


def record_of(sandbox: RipioSandbox, outcome: CancelOutcome) -> Any:
    """The vendor's record of the outcome's order, or None."""
    order_id, external_id = outcome.order.name
    if order_id is not None:
        return sandbox.orders.get(order_id)
    return next((o for o in sandbox.orders.values() if o.external_id == external_id), None)


def lie(
    sandbox: RipioSandbox, outcome: CancelOutcome, *, arrived: bool | None = None
) -> str | None:
    """Say what an outcome claims that the vendor's record does not bear out; None if it told the truth.

    Args:
        sandbox: the vendor.
        outcome: what the caller was told.
        arrived: whether a cancel for it arrived; looked up in the vendor's record by default.
    """
    record = record_of(sandbox, outcome)
    state = None if record is None else STATES[record.state]
    if arrived is None:
        arrived = outcome.order.name in names_asked(sandbox)
    match outcome:
        case Canceled(executed=executed, remaining=remaining):
            true = state is OrderState.CANCELED
            true = true and executed in (None, record.executed_amount)
            true = true and remaining in (None, record.remaining_amount)
        case AlreadyClosed(state=OrderState.CLOSED, executed=executed):
            true = state is not None and state.is_closed
            true = true and executed in (None, record.executed_amount)
        case AlreadyClosed(state=told, executed=executed):
            true = state is told and executed in (None, record.executed_amount)
        case NotFound():
            true = record is None
        case NotSent():
            true = not arrived
        case Refused():
            true = state is None or state.is_open
        case _:
            true = True
    return None if true else f"{outcome!r} but the vendor says {state}, arrived={arrived}"


def names_asked(sandbox: RipioSandbox) -> set[tuple[str | None, str | None]]:
    """The orders for which a cancel arrived."""
    params = (request.body["params"] for request in sandbox.requests_to("cancel"))
    return {(each.get("id"), each.get("external_id")) for each in params}
