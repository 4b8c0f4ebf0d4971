"""How the public names are used, for the type checker to read; nothing here is ever run.

`warn_unused_ignores` proves the counterexamples: were one of them no error, its comment would be.
"""

from __future__ import annotations

from typing import assert_never, assert_type

from brokers.tronsave import TronSaveGateway
from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    NotFound,
    NotSent,
    OrderGateway,
    OrderRef,
    OrderSnapshot,
    OrderState,
    RateLimit,
    RateLimiter,
    Refused,
    RetryPolicy,
    TooEarly,
    Unknown,
    open_gateway,
)


def every_outcome_is_matched(outcome: CancelOutcome) -> str:
    """Seven cases are all."""
    match outcome:
        case Canceled(executed=executed):
            return f"canceled, {executed} filled"
        case AlreadyClosed(state=OrderState.FILLED):
            return "filled"
        case AlreadyClosed(state=state):
            return state.value
        case TooEarly(retry_at=when):
            return when.isoformat()
        case NotFound() | Refused() | NotSent():
            return outcome.message or ""
        case Unknown(last_state=last):
            return "look" if last is None else last.value
        case _:
            assert_never(outcome)


def a_forgotten_outcome_is_an_error(outcome: CancelOutcome) -> str:
    """Without `Unknown` the rest is not nothing."""
    match outcome:
        case Canceled() | AlreadyClosed() | TooEarly() | NotFound() | Refused() | NotSent():
            return ""
        case _:
            assert_never(outcome)  # type: ignore[arg-type]


def a_forgotten_outcome_is_an_error_without_assert_never(outcome: CancelOutcome) -> None:
    """The checker says so by itself, where it was told to look."""
    match outcome:  # type: ignore[exhaustive-match]
        case Canceled() | AlreadyClosed() | TooEarly() | NotFound() | Refused() | NotSent():
            pass


def a_gateway_keeps_the_contract(api_key: str) -> OrderGateway:
    """A vendor's gateway is an `OrderGateway`, and so is one found by its name."""
    gateway: OrderGateway = open_gateway("tronsave", api_key=api_key)
    gateway = TronSaveGateway(api_key, rate_limit=RateLimit(1, per=2.0), retry=RetryPolicy())
    return gateway


def what_is_no_gateway_is_an_error() -> OrderGateway:
    """A class without the calls is none."""
    return RateLimiter()  # type: ignore[return-value]


async def what_the_calls_return(gateway: TronSaveGateway) -> None:
    """The types that a caller works with, also through the vendor's own class."""
    async with gateway as opened:
        assert_type(opened, TronSaveGateway)
        assert_type(await opened.cancel("1", timeout=10), CancelOutcome)
        assert_type(await opened.cancel(OrderRef(id="1"), timeout=None), CancelOutcome)
        assert_type(await opened.cancel_many(["1", OrderRef(id="2")]), list[CancelOutcome])
        assert_type(await opened.get_order("1"), OrderSnapshot)


async def what_a_call_does_not_take(gateway: OrderGateway) -> None:
    """Neither numbers for ids, nor a timeout by its place, nor a result that nobody looks at."""
    await gateway.cancel(1)  # type: ignore[arg-type]
    await gateway.cancel("1", 10.0)  # type: ignore[call-arg]
    gateway.cancel("1")  # type: ignore[unused-coroutine]


def an_outcome_cannot_be_rewritten(outcome: Canceled) -> None:
    """Frozen is known to the checker."""
    outcome.attempts = 0  # type: ignore[misc]
