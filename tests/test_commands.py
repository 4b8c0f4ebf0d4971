"""What the commands do: orders canceled and read at simulated vendors, and what is said about them."""

from __future__ import annotations

import asyncio
import shlex
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from brokers import commands
from brokers.commands import ALIVE, CLOSED, SANDBOXES, UNKNOWN, Failure, Served
from brokers.sms4sats import Sms4SatsGateway
from brokers.sms4sats.sandbox import Sms4SatsSandbox
from brokers.tronsave import TronSaveGateway
from brokers.tronsave.sandbox import TronSaveSandbox
from support.canary import CANARY
from tronsave_async import (
    AlreadyClosed,
    AuthenticationRejected,
    BearerRef,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    OrderGateway,
    OrderRef,
    OrderSnapshot,
    OrderState,
    RateLimit,
    Refused,
    TooEarly,
    Unknown,
    UsageError,
    Wire,
)
from tronsave_async.sandbox import hang_before, server_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from brokers.commands import Answer

FACTS: dict[str, Any] = {
    "order": OrderRef(id="a1"),
    "venue": "here",
    "attempts": 1,
    "elapsed": 0.5,
    "wire": Wire.ANSWERED,
    "evidence": Evidence.REPLY,
}
SEEN: dict[str, Any] = {"order": OrderRef(id="a1"), "venue": "here"}
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
SECRET_ID = "deadbeefcafe0123"


@pytest.fixture
async def sandbox() -> AsyncIterator[TronSaveSandbox]:
    """A vendor that is not slow."""
    async with TronSaveSandbox(api_key=CANARY, window=0.01) as sandbox:
        yield sandbox


def gateway_to(sandbox: TronSaveSandbox, api_key: str = CANARY) -> TronSaveGateway:
    """Open a gateway that is not slow either."""
    limit = RateLimit(1, per=0.01, margin=0.01)
    return TronSaveGateway(api_key, base_url=sandbox.url, rate_limit=limit)


def refs(*ids: str) -> list[OrderRef]:
    """Name orders as the command line does."""
    return commands.refs_of(ids, client_ids=False, discreet=False)


# --- names ----------------------------------------------------------------------------------------


def test_a_file_has_one_id_a_line() -> None:
    """Comments are whole lines: an id may have a # in it, and spaces, but not at its ends."""
    text = "a1\r\n\n  # of yesterday\n\t b 2#x \n#c\n"
    assert commands.ids_in(text) == ["a1", "b 2#x"]


def test_an_order_is_named_once() -> None:
    """In the order of the first mention; arguments are taken as they are."""
    assert refs("b", "a", "b", "#c", "") == [OrderRef(id=n) for n in ("b", "a", "#c", "")]


@pytest.mark.parametrize("discreet", [False, True])
def test_the_clients_own_ids(discreet: bool) -> None:
    """They stay what they are where ids are secrets; only they are masked then."""
    (ref,) = commands.refs_of([SECRET_ID], client_ids=True, discreet=discreet)
    assert (ref.id, ref.client_id) == (None, SECRET_ID)
    assert (SECRET_ID in str(ref)) is not discreet


@pytest.mark.parametrize("ids", [[], ["\udcff"]])
def test_what_names_no_order(ids: list[str]) -> None:
    """Nothing at all is more likely a mistake than a wish; what is not text cannot be sent."""
    with pytest.raises(UsageError):
        commands.refs_of(ids, client_ids=False, discreet=False)


# --- what the exit code says ----------------------------------------------------------------------

ANSWERS: list[tuple[Answer, int, str, str]] = [
    (Canceled(**FACTS), CLOSED, "canceled", ""),
    (
        Canceled(**FACTS, executed=Decimal(2), remaining=Decimal("0.5")),
        CLOSED,
        "canceled",
        "executed 2; remaining 0.5",
    ),
    (
        AlreadyClosed(**FACTS | {"evidence": Evidence.READ_BACK}, state=OrderState.FILLED),
        CLOSED,
        "already filled",
        "read back",
    ),
    (NotFound(**FACTS, message="no such order", code="40402"), ALIVE, "not found", "no such order"),
    (TooEarly(**FACTS, retry_at=NOON), ALIVE, "too early", "at 2026-01-02 12:00:00 UTC"),
    (Refused(**FACTS, code="40009"), ALIVE, "refused", "code 40009"),
    (NotSent(**FACTS, message="out of time"), ALIVE, "not sent", "out of time"),
    (Unknown(**FACTS, message="no answer"), UNKNOWN, "unknown", "no answer"),
    (Unknown(**FACTS, last_state=OrderState.OPEN), UNKNOWN, "unknown", "last seen open"),
    (OrderSnapshot(**SEEN, state=OrderState.EXPIRED), CLOSED, "expired", ""),
    (
        OrderSnapshot(**SEEN, state=OrderState.PARTIALLY_FILLED, executed=Decimal(1)),
        ALIVE,
        "partially filled",
        "executed 1",
    ),
    (
        OrderSnapshot(**SEEN, state=OrderState.UNKNOWN, vendor_state="Frozen"),
        UNKNOWN,
        "unknown",
        "the vendor says 'Frozen'",
    ),
    (Failure(**SEEN, error="OrderNotFound", message="gone"), ALIVE, "not found", "gone"),
    (Failure(**SEEN, error="RequestTimeout", message="late"), UNKNOWN, "not read", "late"),
]


@pytest.mark.parametrize(("answer", "code", "word", "details"), ANSWERS)
def test_every_answer_has_its_words_and_its_exit_code(
    answer: Answer, code: int, word: str, details: str
) -> None:
    """Only what is proved closed is 0."""
    assert commands.exit_code([answer]) == code
    name, said, more = commands.describe(answer)
    assert (name, said) == ("a1", word)
    assert details in more
    assert bool(details) == bool(more)


def test_the_worst_answer_is_the_exit_code() -> None:
    """Unknown before alive before closed, in whatever order they come."""
    closed, alive, unknown = ANSWERS[0][0], ANSWERS[5][0], ANSWERS[7][0]
    assert commands.exit_code([closed, closed]) == CLOSED
    assert commands.exit_code([closed, alive, closed]) == ALIVE
    assert commands.exit_code([unknown, alive, closed]) == UNKNOWN


def test_what_a_vendor_says_stays_on_its_line() -> None:
    """Neither a vendor's text nor an id can draw on the terminal."""
    nasty = FACTS | {"order": OrderRef(id="a\x1b[2Jb"), "message": "one\r\ntwo\x1b[31m\u202e"}
    assert all(text.isprintable() for text in commands.describe(Refused(**nasty)))


@pytest.mark.parametrize("name", ["id", "client_id"])
def test_a_secret_id_is_masked_wherever_it_is(name: str) -> None:
    """Also where the vendor repeats it."""
    order = BearerRef(**{name: SECRET_ID})  # type: ignore[arg-type]
    text = f"no order {SECRET_ID} here"
    for answer in (
        Refused(**FACTS | {"order": order, "message": text}),
        Failure(order=order, venue="here", error="VendorFailure", message=text),
    ):
        assert SECRET_ID not in " ".join(commands.describe(answer))


# --- cancel ---------------------------------------------------------------------------------------


async def test_cancel_tells_each_outcome(sandbox: TronSaveSandbox) -> None:
    """One that was open, one that was filled, one of which the vendor only says what proves nothing."""
    opened, filled = sandbox.add_order(), sandbox.add_order()
    sandbox.match(filled)
    nobody = "f" * 24
    told: list[Answer] = []
    async with gateway_to(sandbox) as gateway:
        code = await commands.cancel(gateway, refs(opened, filled, nobody), 5, told.append)
    assert code == UNKNOWN
    by_order = {str(answer.order): type(answer) for answer in told}
    assert by_order == {opened: Canceled, filled: AlreadyClosed, nobody: Unknown}
    lines = [msgspec.json.decode(commands.encode(t), type=CancelOutcome) for t in told]
    assert lines == told


async def test_cancel_that_is_cut_off_tells_what_was_proved(sandbox: TronSaveSandbox) -> None:
    """An order whose request left is unknown."""
    order = sandbox.add_order()
    sandbox.faults.add(hang_before("cancel"))
    told = await cut_off(commands.cancel, sandbox, refs(order), "cancel")
    assert [type(answer) for answer in told] == [Unknown]


async def cut_off(
    act: Any, sandbox: TronSaveSandbox, orders: list[OrderRef], endpoint: str
) -> list[Answer]:
    """Cancel a command as a signal does, once a request has arrived; return what it told."""
    told: list[Answer] = []

    async def work() -> None:
        async with gateway_to(sandbox) as gateway:
            await act(gateway, orders, None, told.append)

    task = asyncio.create_task(work())
    await sandbox.arrived(1, endpoint)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    return told


# --- status ---------------------------------------------------------------------------------------


async def read(gateway: OrderGateway, *orders: OrderRef, timeout: float = 5) -> tuple[int, Any]:
    """Read orders; return the exit code, and what was told of each."""
    told: list[Answer] = []
    async with gateway:
        code = await commands.status(gateway, orders, timeout, told.append)
    return code, [next(a for a in told if a.order == order) for order in orders]


async def test_status_tells_each_state(sandbox: TronSaveSandbox) -> None:
    """Open is not closed."""
    opened, filled = sandbox.add_order(), sandbox.add_order()
    sandbox.match(filled)
    code, answers = await read(gateway_to(sandbox), *refs(opened, filled))
    assert code == ALIVE
    assert [answer.state for answer in answers] == [OrderState.OPEN, OrderState.FILLED]


async def test_status_of_closed_orders(sandbox: TronSaveSandbox) -> None:
    """All of them closed: 0."""
    filled, canceled = sandbox.add_order(), sandbox.add_order()
    sandbox.match(filled)
    sandbox.cancel_behind_back(canceled)
    code, _ = await read(gateway_to(sandbox), *refs(filled, canceled))
    assert code == CLOSED


async def test_an_order_that_cannot_be_read_disturbs_no_other(sandbox: TronSaveSandbox) -> None:
    """It is told with the reason, and the exit code says that nobody knows."""
    opened = sandbox.add_order()
    code, answers = await read(gateway_to(sandbox), OrderRef(client_id="x"), *refs(opened))
    assert code == UNKNOWN
    failure, snapshot = answers
    assert (failure.error, failure.venue) == ("UsageError", "tronsave")
    assert "no client ids" in failure.message
    assert snapshot.state is OrderState.OPEN
    assert msgspec.json.decode(commands.encode(failure), type=Failure) == failure


async def test_status_when_the_vendor_is_silent(sandbox: TronSaveSandbox) -> None:
    """The time is for all of them together."""
    orders = refs(sandbox.add_order(), sandbox.add_order())
    sandbox.faults.add(hang_before(times=9))
    code, answers = await read(gateway_to(sandbox), *orders, timeout=0.1)
    assert code == UNKNOWN
    assert [answer.error for answer in answers] == ["RequestTimeout"] * 2


async def test_status_with_a_rejected_key(sandbox: TronSaveSandbox) -> None:
    """The account's error ends it, alone and not in a group."""
    orders = refs(sandbox.add_order(), "f" * 24)
    with pytest.raises(AuthenticationRejected):
        await read(gateway_to(sandbox, "wrong-key"), *orders)


async def test_status_that_is_cut_off_says_so(sandbox: TronSaveSandbox) -> None:
    """Of each order that was not read."""
    orders = refs(sandbox.add_order(), sandbox.add_order())
    sandbox.faults.add(hang_before(times=9))
    told = await cut_off(commands.status, sandbox, orders, "track")
    assert [answer.order for answer in told] == orders
    assert {getattr(answer, "error", None) for answer in told} == {"Interrupted"}


async def test_status_shows_no_secret_id() -> None:
    """An order that could not be read is masked like one that was."""
    async with Sms4SatsSandbox() as sandbox:
        order = sandbox.add_order()
        sandbox.faults.add(server_error(times=9))
        (ref,) = commands.refs_of([order], client_ids=False, discreet=True)
        code, (failure,) = await read(Sms4SatsGateway(base_url=sandbox.url), ref, timeout=0.2)
    assert code == UNKNOWN
    assert isinstance(failure, Failure)
    assert order not in " ".join(commands.describe(failure))
    assert order[:4] in commands.describe(failure)[0]


# --- the simulators -------------------------------------------------------------------------------


async def serving(*vendors: str, orders: int = 2) -> AsyncIterator[list[Served]]:
    """Run simulators, and yield what was told of them."""
    served: list[Served] = []
    told = asyncio.Event()

    def tell(one: Served) -> None:
        served.append(one)
        if len(served) == len(vendors):
            told.set()

    task = asyncio.create_task(commands.serve(vendors, orders, tell))
    await told.wait()
    yield served
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_there_is_a_simulator_for_every_vendor() -> None:
    """Whoever adds one is reminded here."""
    brokers = Path(commands.__file__).parent
    assert set(SANDBOXES) == {path.parent.name for path in brokers.glob("*/sandbox.py")}


@pytest.mark.parametrize("vendor", sorted(SANDBOXES))
async def test_a_bot_that_is_pointed_at_a_simulator_finds_it(vendor: str) -> None:
    """What is printed is run: the environment with the options, and the constructor call."""
    async for (served,) in serving(vendor):
        assert served.vendor == vendor
        namespace: dict[str, Any] = {}
        lines = commands.introduce(served).split("in code")[1].split("\n\n")[0]
        exec("\n".join(line.strip() for line in lines.splitlines()), namespace)
        async with namespace["gateway"] as gateway:
            code, answers = await read(gateway, OrderRef(id=served.orders[0]))
            assert (code, answers[0].state) == (ALIVE, OrderState.OPEN)


@pytest.mark.parametrize("vendor", sorted(SANDBOXES))
async def test_what_is_told_of_a_simulator(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment opens a gateway, and its orders can be canceled, also by the client's ids."""
    async for (served,) in serving(vendor):
        for variable, value in served.environment.items():
            monkeypatch.setenv(variable, value)
        module, _, name = served.gateway.partition(":")
        gateway_class = getattr(__import__(module, fromlist=[name]), name)
        (order, *_) = refs(*served.orders)
        if served.client_ids:
            order = OrderRef(client_id=served.client_ids[0])
        async with gateway_class.from_env(**served.options) as gateway:
            assert isinstance(await gateway.cancel(order, timeout=5), Canceled)
        assert msgspec.json.decode(commands.encode(served), type=Served) == served


async def test_a_line_to_paste() -> None:
    """Ids that are secrets are no arguments in it; of many orders it names some."""
    async for tronsave, sms4sats in serving("tronsave", "sms4sats", orders=12):
        words = shlex.split(tronsave.command)
        variable = f"TRONSAVE_API_KEY={tronsave.credentials['api_key']}"
        assert words[:4] == [variable, "tronsave-async", "cancel", "tronsave"]
        assert words[4:] == [
            "-o",
            f"base_url={tronsave.options['base_url']}",
            *tronsave.orders[:10],
        ]
        piped, command = sms4sats.command.split(" | ")
        assert shlex.split(piped) == ["printf", r"%s\n", *sms4sats.orders[:10]]
        assert command.endswith(" -f -")
        assert not any(order in command for order in sms4sats.orders)
