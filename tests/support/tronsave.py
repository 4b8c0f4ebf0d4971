"""TronSave for tests: a gateway at a sandbox, and the judge that compares outcomes with the vendor's own record."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from brokers.tronsave.sandbox import OrderState as Recorded
from brokers.tronsave.sandbox import TronSaveRules, TronSaveSandbox
from support.canary import CANARY, WatchedGateway, sightings
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
    from collections.abc import AsyncIterator

    from brokers.tronsave import TronSaveGateway

LIMIT = RateLimit(1, per=2.0, margin=0.075)
UNMETERED = RateLimit(10_000, per=1.0, margin=0.0)
QUICK = RetryPolicy(base=0.001, cap=0.002)

FILLED = frozenset({Recorded.MATCHED, Recorded.CONFIRMED})
DEAD_UNFILLED = frozenset({Recorded.CANCELED, Recorded.EXPIRED})


@asynccontextmanager
async def vendor(
    rules: TronSaveRules | None = None, **options: Any
) -> AsyncIterator[tuple[TronSaveSandbox, TronSaveGateway]]:
    """Yield a sandbox that meters nothing and a quick gateway at it; ``gateway_*`` options go to the gateway."""
    ours = {name[8:]: options.pop(name) for name in list(options) if name.startswith("gateway_")}
    settings: dict[str, Any] = {
        "api_key": CANARY,
        "requests_per_window": 10_000,
        "window": 1.0,
    } | options
    async with TronSaveSandbox(rules=rules, **settings) as sandbox:
        gateway_settings: dict[str, Any] = {
            "base_url": sandbox.url,
            "limiter": RateLimiter(),
            "rate_limit": UNMETERED,
            "retry": QUICK,
            "telemetry": sightings.event,
        }
        gateway = WatchedGateway(sandbox.api_key, **(gateway_settings | ours))
        async with gateway:
            yield sandbox, gateway


def lie(sandbox: TronSaveSandbox, outcome: CancelOutcome) -> str | None:
    """Say what an outcome claims that the vendor's record does not bear out; None if it told the truth."""
    order_id = outcome.order.id
    record = sandbox.orders.get(order_id or "")
    arrived = any(
        order_id in (request.body or {}).get("order_ids", ())
        for request in sandbox.requests_to("cancel")
    )
    state = None if record is None else record.state
    match outcome:
        case Canceled(executed=executed):
            true = state in DEAD_UNFILLED and executed in (None, 0)
        case AlreadyClosed(state=OrderState.FILLED, executed=executed):
            amount = None if record is None else record.amount
            true = state in FILLED and executed in (None, amount)
        case AlreadyClosed(executed=executed):
            true = state in DEAD_UNFILLED and executed in (None, 0)
        case NotFound():
            true = record is None
        case NotSent():
            true = not arrived
        case Refused():
            true = state is Recorded.PENDING or record is None
        case _:
            true = True
    return None if true else f"{outcome!r} but the vendor says {state}, arrived={arrived}"
