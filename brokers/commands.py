"""What the commands ``cancel``, ``status`` and ``sandbox`` do, without the command line around it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    GatewayClosed,
    GatewayError,
    NotFound,
    OrderGateway,
    OrderNotFound,
    OrderRef,
    OrderSnapshot,
    OrderState,
    TooEarly,
    Unknown,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "ALIVE",
    "CLOSED",
    "SANDBOXES",
    "UNKNOWN",
    "Answer",
    "Failure",
    "Served",
    "cancel",
    "describe",
    "encode",
    "exit_code",
    "refs_of",
    "serve",
    "status",
]

CLOSED: Final = 0
"""Exit code: every order is proved closed."""
ALIVE: Final = 3
"""Exit code: some orders are not closed, and none is unknown."""
UNKNOWN: Final = 4
"""Exit code: of some orders nobody knows whether they are closed."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An order that could not be read.

    Attributes:
        order: the order as it was named.
        venue: the vendor.
        error: the kind of the error.
        message: its text.
    """

    order: OrderRef
    venue: str
    error: str
    message: str


Answer = CancelOutcome | OrderSnapshot | Failure
"""What is told of one order."""


def refs_of(ids: Iterable[str], *, by_client_id: bool) -> list[OrderRef]:
    """The orders named by lines or arguments, each once; blank ones and those after ``#`` are left out.

    Raises:
        UsageError: there is none.
    """
    names = [name for line in ids if (name := line.strip()) and not name.startswith("#")]
    if not names:
        raise UsageError("no order was named")
    unique = dict.fromkeys(names)
    if by_client_id:
        return [OrderRef(client_id=name) for name in unique]
    return [OrderRef(id=name) for name in unique]


async def cancel(
    gateway: OrderGateway,
    orders: Sequence[OrderRef],
    timeout: float | None,
    tell: Callable[[Answer], object],
) -> int:
    """Cancel orders, tell each outcome as soon as it is known, and return the exit code.

    Raises:
        GatewayError: the account's error, if no order was reached.
    """
    outcomes = await gateway.cancel_many(orders, timeout=timeout, on_outcome=tell)
    return exit_code(outcomes)


async def status(
    gateway: OrderGateway,
    orders: Sequence[OrderRef],
    timeout: float | None,
    tell: Callable[[Answer], object],
) -> int:
    """Read orders, tell each answer as soon as it is known, and return the exit code."""

    async def read(order: OrderRef) -> Answer:
        answer: Answer
        try:
            answer = await gateway.get_order(order, timeout=timeout)
        except GatewayClosed:
            raise
        except GatewayError as error:
            kind, text = type(error).__name__, str(error)
            answer = Failure(order=order, venue=gateway.venue, error=kind, message=text)
        tell(answer)
        return answer

    return exit_code(await asyncio.gather(*map(read, orders)))


def exit_code(answers: Iterable[Answer]) -> int:
    """0 only if every order is proved closed; 4 if one is unknown; else 3."""
    code = CLOSED
    for answer in answers:
        match answer:
            case OrderSnapshot(state=state):
                closed, unknown = state.is_closed, state is OrderState.UNKNOWN
            case Failure(error=kind):
                closed, unknown = False, kind != OrderNotFound.__name__
            case _:
                closed, unknown = answer.closed, isinstance(answer, Unknown)
        if unknown:
            return UNKNOWN
        if not closed:
            code = ALIVE
    return code


def encode(answer: Answer) -> str:
    """One line of JSON."""
    return msgspec.json.encode(answer).decode()


def describe(answer: Answer) -> tuple[str, str, str]:
    """The order, what is known of it, and the details, as text to show."""
    details: list[str] = []
    match answer:
        case Canceled(executed=executed, remaining=remaining):
            word = "canceled"
            details += _amount("executed", executed) + _amount("remaining", remaining)
        case AlreadyClosed(state=state, executed=executed):
            word = f"already {state.value}"
            details += _amount("executed", executed)
        case TooEarly(retry_at=retry_at):
            word = "too early"
            details.append(f"may be canceled at {retry_at:%Y-%m-%d %H:%M:%S} UTC")
        case OrderSnapshot(state=state, vendor_state=said, executed=executed, remaining=remaining):
            word = state.value.replace("_", " ")
            details += [f"the vendor says {said!r}"] if said is not None else []
            details += _amount("executed", executed) + _amount("remaining", remaining)
        case Failure(error=kind, message=text):
            word = "not found" if kind == OrderNotFound.__name__ else "not read"
            details.append(text)
        case NotFound():
            word = "not found"
        case _:
            word = _spaced(type(answer).__name__)
    if not isinstance(answer, OrderSnapshot | Failure):
        details += [answer.message] if answer.message else []
        details += [f"code {answer.code}"] if answer.code else []
    return str(answer.order), word, "; ".join(details)


def _amount(name: str, amount: object) -> list[str]:
    return [] if amount is None else [f"{name} {amount}"]


def _spaced(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


# --- the simulators -------------------------------------------------------------------------------


class Served(NamedTuple):
    """A simulator that runs, and how to reach it.

    Attributes:
        vendor: its name.
        environment: what a gateway's ``from_env`` reads.
        options: what is given to the gateway's constructor.
        orders: orders to try it with.
    """

    vendor: str
    environment: dict[str, str]
    options: dict[str, str]
    orders: list[str]


async def _tronsave(stack: AsyncExitStack, orders: int) -> Served:
    from .tronsave.sandbox import TronSaveSandbox

    sandbox = await stack.enter_async_context(TronSaveSandbox(keep_deadlines=False))
    return Served(
        "tronsave",
        {"TRONSAVE_API_KEY": sandbox.api_key},
        {"base_url": sandbox.url},
        [sandbox.add_order() for _ in range(orders)],
    )


async def _ripio(stack: AsyncExitStack, orders: int) -> Served:
    from .ripio.sandbox import RipioSandbox

    sandbox = await stack.enter_async_context(RipioSandbox())
    return Served(
        "ripio",
        {"RIPIO_API_TOKEN": sandbox.api_token, "RIPIO_SECRET": sandbox.secret},
        {"ws_url": sandbox.ws_url, "rest_url": sandbox.rest_url},
        [sandbox.add_order() for _ in range(orders)],
    )


async def _sms4sats(stack: AsyncExitStack, orders: int) -> Served:
    from .sms4sats.sandbox import Sms4SatsSandbox

    sandbox = await stack.enter_async_context(Sms4SatsSandbox())
    ids = [sandbox.add_order() for _ in range(orders)]
    sandbox.advance(120)  # past the two minutes in which nothing can be canceled
    return Served("sms4sats", {}, {"base_url": sandbox.url}, ids)


SANDBOXES: Final[dict[str, Any]] = {"ripio": _ripio, "sms4sats": _sms4sats, "tronsave": _tronsave}
"""How to start the simulator of each vendor."""


async def serve(vendors: Sequence[str], orders: int, tell: Callable[[Served], object]) -> None:
    """Run simulators until canceled; tell each as soon as it runs."""
    async with AsyncExitStack() as stack:
        for vendor in vendors:
            tell(await SANDBOXES[vendor](stack, orders))
        await asyncio.Event().wait()
