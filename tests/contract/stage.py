"""What one vendor needs to say so that every scenario can be played against it."""

from __future__ import annotations

import asyncio
import enum
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from tronsave_async import OrderState, RateLimit, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    from tronsave_async import OrderGateway
    from tronsave_async.sandbox import Fault, FaultScript, RecordedRequest

__all__ = [
    "QUICK",
    "UNMETERED",
    "Ability",
    "CancelsByOrder",
    "Record",
    "Sandbox",
    "Stage",
    "virtual_now",
]

UNMETERED = RateLimit(100_000, per=1.0, margin=0.0)
"""A gateway's limit where limits are not the point."""

QUICK = RetryPolicy(base=0.001, cap=0.002, quota=10_000, quota_refill=10_000)
"""A gateway's policy where pauses are not the point."""


class Ability(enum.Enum):
    """What not every vendor has. A scenario that needs it is not played where it is missing."""

    AGE_RULE = "an order cannot be canceled before it has some age"
    AMOUNTS = "replies tell amounts"
    EXPIRY = "the vendor ends an order by itself"
    PARTIAL_FILLS = "an order can be filled in parts"
    RETRY_AFTER = "a refused cancel can carry Retry-After"


class Record(NamedTuple):
    """The vendor's own truth about an order, in words that no vendor has to itself.

    Attributes:
        state: never CLOSED and never UNKNOWN: the simulator knows.
        executed, remaining: in the vendor's unit; None where an order has no amount.
    """

    state: OrderState
    executed: Decimal | None = None
    remaining: Decimal | None = None


class Sandbox(Protocol):
    """What the scenarios use of a vendor's sandbox: the shared part of all of them."""

    @property
    def faults(self) -> FaultScript:
        """What is to go wrong."""

    @property
    def rejections(self) -> int:
        """How many requests the vendor's meter has rejected."""

    async def start(self) -> None:
        """Listen; after `aclose`, where it listened before."""

    async def aclose(self) -> None:
        """Break everything off, and refuse connections."""

    def requests_to(self, endpoint: str) -> Sequence[RecordedRequest]:
        """The requests to one endpoint so far."""

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """All requests so far, in order: a live view."""

    async def arrived(self, count: int, endpoint: str | None = None) -> None:
        """Wait until so many requests have arrived."""

    def cancel_behind_back(self, order_id: str) -> None:
        """Cancel an order from elsewhere."""


class Stage(Protocol):
    """One vendor, simulated, and gateways at it. A vendor derives from it, and states what differs.

    Constructing one makes a sandbox that does not listen yet, goes by the clock `virtual_now`, and wherever the vendor
    leaves its behavior open plays it in the way in which its replies say most.

    Args:
        limit: requests and seconds: how the vendor meters (each of) its calls; None: practically not at all.
    """

    venue: ClassVar[str]
    """The gateway's name."""
    lacks: ClassVar[Mapping[Ability, str]]
    """What the vendor does not have, each with the reason."""
    cancel_call: ClassVar[str] = "cancel"
    """The word for a cancel: the fault script's, and the telemetry's."""
    read_calls: ClassVar[tuple[str, ...]]
    """The words for what a read-back calls, in the order in which it calls them."""
    cancels_per_request: ClassVar[int] = 1
    """How many orders can share a request."""
    repeats_first: ClassVar[bool] = False
    """After a lost reply the cancel is repeated before the order is read back."""
    cancelable_after: ClassVar[timedelta] = timedelta(0)
    """The age from which an order can be canceled."""
    lifetime: ClassVar[timedelta] = timedelta.max
    """The age at which the vendor ends an order by itself."""
    tells_canceled: ClassVar[bool] = True
    """Its record of an order that was canceled differs from that of one that waits, by its documentation."""
    expiry_reads_as: ClassVar[OrderState] = OrderState.EXPIRED
    """What a read-back makes of an order that the vendor ended by itself: EXPIRED or CANCELED."""

    sandbox: Sandbox
    """The vendor."""
    now: Callable[[], datetime]
    """Its clock."""

    def __init__(self, limit: tuple[int, float] | None = None) -> None: ...

    def gateway(self, **options: Any) -> OrderGateway:
        """Construct a gateway at the sandbox, always on the same account. The options are those that all gateways take:
        ``limiter``, ``rate_limit``, ``retry``, ``telemetry``."""

    def place(self, created_at: datetime | None = None) -> str:
        """Place an open order and return its id; by default one that can be canceled by its age."""

    def stranger(self) -> str:
        """An id of the vendor's kind that it never issued."""

    def fill(self, order_id: str) -> None:
        """Fill an open order wholly."""

    def fill_partly(self, order_id: str) -> None:
        """Fill an open order in part (`Ability.PARTIAL_FILLS`)."""
        raise AssertionError(
            "override `fill_partly`, or say in `lacks` why there are no PARTIAL_FILLS"
        )

    def expire(self, order_id: str) -> None:
        """End an open order as the vendor does by itself (`Ability.EXPIRY`)."""
        raise AssertionError("override `expire`, or say in `lacks` why there is no EXPIRY")

    def refusal(self, order_id: str) -> Fault:
        """The next cancel, of this order, is declined: the order stays as it is."""

    def record(self, order_id: str) -> Record | None:
        """The vendor's own truth about an order."""

    def cancels(self, order_id: str) -> Sequence[RecordedRequest]:
        """The cancel requests that arrived and name this order, whatever became of them; `CancelsByOrder` helps."""


class CancelsByOrder:
    """The cancel requests in a sandbox's record, by the orders that they name.

    Args:
        sandbox: the vendor.
        call: the word for a cancel.
        named: the ids of the orders that a cancel request names.
    """

    def __init__(
        self, sandbox: Sandbox, call: str, named: Callable[[RecordedRequest], Iterable[str]]
    ) -> None:
        self._log = sandbox.requests
        self._call = call
        self._named = named
        self._read = 0
        self._numbers: dict[str, list[int]] = {}

    def __getitem__(self, order_id: str) -> list[RecordedRequest]:
        for number in range(self._read, len(self._log)):
            if self._log[number].endpoint == self._call:
                for name in self._named(self._log[number]):
                    self._numbers.setdefault(name, []).append(number)
        self._read = len(self._log)
        return [self._log[number] for number in self._numbers.get(order_id, ())]


def virtual_now() -> Callable[[], datetime]:
    """A wall clock that goes with the event loop's, for a sandbox whose loop jumps over the waiting."""
    loop = asyncio.get_running_loop()
    wall, start = datetime.now(UTC), loop.time()
    return lambda: wall + timedelta(seconds=loop.time() - start)
