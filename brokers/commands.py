"""What the commands ``cancel``, ``status`` and ``sandbox`` do, without the command line around it."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tronsave_async import (
    AlreadyClosed,
    AuthenticationRejected,
    BearerRef,
    Canceled,
    CancelOutcome,
    Evidence,
    GatewayClosed,
    GatewayError,
    OrderGateway,
    OrderNotFound,
    OrderRef,
    OrderSnapshot,
    OrderState,
    PermissionDenied,
    TooEarly,
    Unknown,
    UsageError,
    WrongEndpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "ALIVE",
    "CLOSED",
    "DISCREET",
    "PASTED",
    "REJECTIONS",
    "SANDBOXES",
    "UNKNOWN",
    "Answer",
    "Failure",
    "Served",
    "cancel",
    "describe",
    "encode",
    "exit_code",
    "ids_in",
    "introduce",
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

DISCREET: Final = frozenset({"sms4sats"})
"""Vendors whose order ids are secrets."""

REJECTIONS: Final = (AuthenticationRejected, PermissionDenied, WrongEndpoint)
"""Errors of the account or the address: they say nothing about an order."""


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


# --- orders ---------------------------------------------------------------------------------------


def ids_in(text: str) -> list[str]:
    """The ids in a file: one a line; blank lines and lines that begin with ``#`` are left out."""
    names = (line.strip() for line in text.splitlines())
    return [name for name in names if name and not name.startswith("#")]


def refs_of(ids: Iterable[str], *, client_ids: bool, discreet: bool) -> list[OrderRef]:
    """The orders of these names, each once.

    Args:
        ids: the names, verbatim.
        client_ids: they are the client's own.
        discreet: they are secrets, and shown masked.

    Raises:
        UsageError: there is none, or one that is not valid text.
    """
    kind = BearerRef if discreet else OrderRef
    names = list(dict.fromkeys(ids))
    if not names:
        raise UsageError("no order was named")
    if client_ids:
        return [kind(client_id=name) for name in names]
    return [kind(id=name) for name in names]


async def cancel(
    gateway: OrderGateway,
    orders: Sequence[OrderRef],
    timeout: float | None,
    tell: Callable[[Answer], object],
) -> int:
    """Cancel orders, tell each outcome as soon as it is known, and return the exit code.

    Canceling the call tells what was proved of the others.

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
    """Read orders, tell each answer as soon as it is known, and return the exit code.

    Canceling the call tells that the others were not read.

    Raises:
        GatewayError: the account's error; the orders that were not told were not read.
    """
    unread = dict.fromkeys(orders)

    def answer_with(order: OrderRef, answer: Answer) -> Answer:
        del unread[order]
        tell(answer)
        return answer

    async def read(order: OrderRef) -> Answer:
        try:
            return answer_with(order, await gateway.get_order(order, timeout=timeout))
        except (*REJECTIONS, GatewayClosed):
            raise
        except GatewayError as error:
            return answer_with(order, _failure(gateway, order, type(error).__name__, str(error)))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(order)) for order in orders]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # one is enough: they are about the account
    except asyncio.CancelledError:
        for order in list(unread):
            answer_with(order, _failure(gateway, order, "Interrupted", "interrupted"))
        raise
    return exit_code(task.result() for task in tasks)


def _failure(gateway: OrderGateway, order: OrderRef, kind: str, text: str) -> Failure:
    return Failure(order=order, venue=gateway.venue, error=kind, message=text)


# --- answers --------------------------------------------------------------------------------------


def exit_code(answers: Iterable[Answer]) -> int:
    """`CLOSED` only if every order is proved closed; `UNKNOWN` if one is unknown; else `ALIVE`."""
    return max(map(_exit_code, answers), default=CLOSED)


def _exit_code(answer: Answer) -> int:
    match answer:
        case OrderSnapshot(state=state):
            closed, unknown = state.is_closed, state is OrderState.UNKNOWN
        case Failure(error=kind):
            closed, unknown = False, kind != OrderNotFound.__name__
        case _:
            closed, unknown = answer.closed, isinstance(answer, Unknown)
    return UNKNOWN if unknown else CLOSED if closed else ALIVE


def encode(item: Answer | Served) -> str:
    """One line of JSON. Ids are in it as they are, also those that are secrets."""
    return msgspec.json.encode(item).decode()


def describe(answer: Answer) -> tuple[str, str, str]:
    """The order, what is known of it, and the details: visible text of one line each, secret ids masked."""
    details: list[str] = []
    match answer:
        case Canceled():
            word = "canceled"
        case AlreadyClosed(state=state):
            word = f"already {state.value}"
        case TooEarly(retry_at=retry_at):
            word = "too early"
            details.append(f"may be canceled at {retry_at:%Y-%m-%d %H:%M:%S} UTC")
        case Unknown(last_state=last_state):
            word = "unknown"
            details += [f"last seen {last_state.value}"] if last_state else []
        case OrderSnapshot(state=state, vendor_state=said):
            word = state.value.replace("_", " ")
            details += [f"the vendor says {said!r}"] if said is not None else []
        case Failure(error=kind, message=text):
            word = "not found" if kind == OrderNotFound.__name__ else "not read"
            details.append(text)
        case _:  # NotFound, NotSent, Refused
            word = _spaced(type(answer).__name__)
    details += [
        f"{name} {amount}"
        for name in ("executed", "remaining")
        if (amount := getattr(answer, name, None)) is not None
    ]
    if not isinstance(answer, OrderSnapshot | Failure):
        details += ["read back"] if answer.evidence is Evidence.READ_BACK else []
        details += [answer.message] if answer.message else []
        details += [f"code {answer.code}"] if answer.code else []
    text = "; ".join(details)
    if isinstance(answer.order, BearerRef):
        for name in filter(None, answer.order.name):
            text = text.replace(name, str(answer.order))
    return _visible(str(answer.order)), word, _visible(text)


def _spaced(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _visible(text: str) -> str:
    """What a vendor says, or a file names, must not move the terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


# --- the simulators -------------------------------------------------------------------------------


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A simulator that runs, and how to reach it.

    Attributes:
        vendor: its name.
        gateway: the gateway's class, ``module:name``.
        credentials: what is given to the gateway's constructor, by name.
        environment: the same for its ``from_env``: the variables to set.
        options: what else is given to either.
        orders: open orders to try it with.
        client_ids: the client's own ids of the same orders, where the vendor has such.
        command: a line for the shell that cancels the orders, the first `PASTED` of them.
    """

    vendor: str
    gateway: str
    credentials: dict[str, str]
    environment: dict[str, str]
    options: dict[str, str]
    orders: list[str]
    client_ids: list[str]
    command: str


PASTED: Final = 10
"""Orders in a line that can still be pasted."""


def _served(
    vendor: str,
    gateway: str,
    credentials: dict[str, str],
    variables: dict[str, str],
    options: dict[str, str],
    orders: list[str],
    client_ids: Sequence[str] = (),
) -> Served:
    """``variables`` are the environment's, by the names of the credentials that they hold."""
    environment = {variable: credentials[name] for name, variable in variables.items()}
    words = [f"{variable}={shlex.quote(value)}" for variable, value in environment.items()]
    words += ["tronsave-async", "cancel", vendor]
    words += [f"-o {name}={shlex.quote(value)}" for name, value in options.items()]
    names = " ".join(map(shlex.quote, orders[:PASTED]))
    line = " ".join(words)
    return Served(
        vendor=vendor,
        gateway=f"{__package__}.{vendor}:{gateway}",
        credentials=credentials,
        environment=environment,
        options=options,
        orders=orders,
        client_ids=list(client_ids),
        command=f"printf '%s\\n' {names} | {line} -f -"
        if vendor in DISCREET
        else f"{line} {names}",
    )


async def _tronsave(stack: AsyncExitStack, orders: int) -> Served:
    from .tronsave import config
    from .tronsave.sandbox import TronSaveSandbox

    sandbox = await stack.enter_async_context(TronSaveSandbox(keep_deadlines=False))
    return _served(
        "tronsave",
        "TronSaveGateway",
        {"api_key": sandbox.api_key},
        {"api_key": config.API_KEY_VARIABLE},
        {"base_url": sandbox.url},
        [sandbox.add_order() for _ in range(orders)],
    )


async def _ripio(stack: AsyncExitStack, orders: int) -> Served:
    from .ripio import config
    from .ripio.sandbox import RipioSandbox

    sandbox = await stack.enter_async_context(RipioSandbox())
    client_ids = [f"bot-{number}" for number in range(1, orders + 1)]
    return _served(
        "ripio",
        "RipioGateway",
        {"api_token": sandbox.api_token, "secret": sandbox.secret},
        {"api_token": config.API_TOKEN_VARIABLE, "secret": config.SECRET_VARIABLE},
        {"ws_url": sandbox.ws_url, "rest_url": sandbox.rest_url},
        [sandbox.add_order(external_id=name) for name in client_ids],
        client_ids,
    )


async def _sms4sats(stack: AsyncExitStack, orders: int) -> Served:
    from .sms4sats import config
    from .sms4sats.sandbox import Sms4SatsSandbox

    sandbox = await stack.enter_async_context(Sms4SatsSandbox())
    ids = [sandbox.add_order() for _ in range(orders)]
    sandbox.advance(config.CANCEL_AFTER.total_seconds())  # else nothing could be canceled yet
    return _served(
        "sms4sats",
        "Sms4SatsGateway",
        {"api_key": sandbox.api_key},
        {"api_key": config.API_KEY_VARIABLE},
        {"base_url": sandbox.url},
        ids,
    )


SANDBOXES: Final[dict[str, Any]] = {"ripio": _ripio, "sms4sats": _sms4sats, "tronsave": _tronsave}
"""How to start the simulator of each vendor."""


async def serve(vendors: Iterable[str], orders: int, tell: Callable[[Served], object]) -> None:
    """Run simulators until canceled; tell each as soon as it runs."""
    async with AsyncExitStack() as stack:
        for vendor in vendors:
            tell(await SANDBOXES[vendor](stack, orders))
        await asyncio.Event().wait()


def introduce(served: Served) -> str:
    """How to point a bot at a simulator, as lines."""
    module, _, name = served.gateway.partition(":")
    given = served.credentials | served.options
    arguments = ", ".join(f'{key}="{value}"' for key, value in given.items())
    exports = [f"export {key}={shlex.quote(value)}" for key, value in served.environment.items()]
    parts = {
        "in code": [f"from {module} import {name}", f"gateway = {name}({arguments})"],
        "environment": exports,
        "open orders": served.orders,
        "client ids": served.client_ids,
    }
    lines = [f"{served.vendor}, simulated on this machine", ""]
    for title, body in parts.items():
        heads = [title, *[""] * len(body)]
        lines += [f"  {head:<11}  {line}" for head, line in zip(heads, body, strict=False)]
        lines += [""] if body else []
    return "\n".join([*lines, served.command, ""])
