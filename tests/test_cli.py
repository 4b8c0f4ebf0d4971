"""The console script, run as a user runs it: in a pipe, on a terminal, interrupted, without its extra."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from brokers import cli, cli_orders
from brokers.commands import Served
from brokers.demo import Plan, Record, Report, Stage
from brokers.demo_ripio import RipioStage
from brokers.demo_tronsave import TronSaveStage
from brokers.ripio.sandbox import RipioSandbox
from brokers.sms4sats.sandbox import Sms4SatsSandbox
from brokers.tronsave.sandbox import OrderState as BookState
from brokers.tronsave.sandbox import TronSaveSandbox
from support.canary import CANARY
from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    CredentialsMissing,
    NotSent,
    OrderSnapshot,
    OrderState,
    Unknown,
    __version__,
    registry,
)
from tronsave_async.sandbox import drop_after, hang_after, hang_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from anyio.from_thread import BlockingPortal

    Typed = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parent.parent
SCRIPT = Path(sys.executable).with_name("tronsave-async")
# Without an installation the module is run from the checkout.
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "brokers.cli"]

QUICK = ["demo", "--orders", "6", "--pace", "0.1"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of another kind")
# What would change the picture; what is left makes the stream UTF-8.
MEDDLERS = {"COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TERM", "TTY_COMPATIBLE"}
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in MEDDLERS}
ENVIRONMENT |= {"PYTHONIOENCODING": "utf-8", "TERM": "xterm"}

pytestmark = pytest.mark.timeout(60)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a pipe."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=ENVIRONMENT | environment,
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def begin(*arguments: str) -> subprocess.Popen[str]:
    """Start the command in a pipe, and wait until the first cancel has been answered."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    while " cancel " not in process.stdout.readline():
        assert process.poll() is None
    return process


# --- the demo in a pipe ---------------------------------------------------------------------------


def test_the_demo_in_a_pipe_is_plain_text() -> None:
    """Whole lines without control characters, a row for every order, and the truth at the end."""
    result = run(*QUICK)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.replace("\n", "").isprintable()
    assert len(re.findall(r"^  [0-9a-f]{24}  .* ✓$", result.stdout, flags=re.MULTILINE)) == 6
    assert "created 6 orders" in result.stdout
    assert "6 outcomes, 0 lies" in result.stdout
    assert "0.6 s  6 \u00d7 0.1 s, without any faults" in result.stdout


def test_the_demo_without_faults() -> None:
    """It says so."""
    result = run(*QUICK, "--no-faults", "--seed", "3")
    assert result.returncode == 0
    assert "faults off · seed 3" in result.stdout
    assert "no reply" not in result.stdout


def test_a_stream_that_is_not_utf_8() -> None:
    """It gets ASCII."""
    result = run(*QUICK, "--no-faults", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.isascii()
    assert "ok 6 outcomes, 0 lies" in result.stdout


def test_the_demo_of_the_exchange() -> None:
    """The other vendor, by its name: its own limits, its own ids, and its socket."""
    result = run("demo", "ripio", "--orders", "12", "--pace", "0.1")
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 requests per 0.3 s, socket and REST · faults on" in result.stdout
    assert (
        len(
            re.findall(
                r"^  [0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}  .* ✓$", result.stdout, re.M
            )
        )
        == 12
    )
    assert "nothing: signed 20 s ago" in result.stdout
    assert re.search(r"socket +lost, \d in flight +connection broken", result.stdout)
    assert "12 outcomes, 0 lies" in result.stdout


def test_the_demo_of_the_exchange_without_faults() -> None:
    """Nothing is lost, and the clocks agree."""
    result = run("demo", "ripio", "--orders", "6", "--pace", "0.05", "--no-faults")
    assert result.returncode == 0
    assert "faults off" in result.stdout
    assert not re.search("no reply|lost|stray|signed 20 s ago", result.stdout)


@pytest.mark.parametrize(("vendor", "other"), [("tronsave", "ripio"), ("ripio", "tronsave")])
def test_only_the_vendor_that_is_shown_is_loaded(vendor: str, other: str) -> None:
    """The other's modules are not even imported."""
    arguments = ["tronsave-async", "demo", vendor, "--orders", "1", "--pace", "0.05"]
    code = (
        f"import sys; sys.argv = {arguments}; from brokers.cli import main; code = main(); "
        f"sys.exit(code or any(name.startswith('brokers.{other}') for name in sys.modules))"
    )
    assert python(code).returncode == 0


@pytest.mark.parametrize(("vendor", "orders"), [([], 60), (["tronsave"], 60), (["ripio"], 36)])
def test_each_vendor_has_its_usual_number_of_orders(
    vendor: list[str], orders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TronSave is the default; what is asked for comes first."""
    shown: list[tuple[str, int]] = []

    async def show(stage: Stage[Any, Any], plan: Plan, *_: object) -> Report:
        shown.append((stage.vendor.split()[0].lower(), plan.orders))
        return Report((), 0, 0, 0.0, stage.pace, stage.yardstick, 0)

    monkeypatch.setattr("brokers.demo_screen.show", show)
    assert call(monkeypatch, "demo", *vendor) == 0
    assert call(monkeypatch, "demo", *vendor, "--orders", "5") == 0
    name = vendor[0] if vendor else "tronsave"
    assert shown == [(name, orders), (name, 5)]


def test_an_unknown_vendor_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the names of those that are known."""
    assert call(monkeypatch, "demo", "binance") == 2
    assert "'binance' is not one of 'tronsave', 'ripio'" in capsys.readouterr().err


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Call the entry point in this process."""
    monkeypatch.setattr(sys, "argv", ["tronsave-async", *arguments])
    return cli.main()


@pytest.mark.parametrize("stage_of", [TronSaveStage, RipioStage])
def test_a_lie_is_the_exit_code(
    stage_of: type[Stage[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the vendor's record contradicted the outcomes, the command would fail."""

    def contradict(stage: Stage[Any, Any], order: str) -> Record:
        none = Decimal(0)
        return Record(OrderState.OPEN, "pending", "", none, none, ours=False, asked=True)

    monkeypatch.setattr(stage_of, "record", contradict)
    vendor = "ripio" if stage_of is RipioStage else "tronsave"
    assert call(monkeypatch, "demo", vendor, *QUICK[1:]) == 1


# --- how it ends early ----------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_ends_it_with_one_line(number: signal.Signals, word: str) -> None:
    """No traceback; the exit code is the shell's for the signal."""
    process = begin("demo", "--orders", "60")
    process.send_signal(number)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert re.fullmatch(
        rf"tronsave-async: {word}: \d+ of 60 orders were settled; everything is closed\n", error
    )


@POSIX
def test_a_reader_that_goes_away() -> None:
    """What `| head` does: the command ends soon, and silently."""
    process = begin("demo", "--orders", "60", "--pace", "0.2")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait(timeout=10) == 1


def interrupt(*_: object, **__: object) -> None:
    """Do what Ctrl-C does where nobody handles the signal."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["_commands", "_demo"])
def test_an_interrupt_before_the_demo_runs(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Imports may be interrupted, too."""
    monkeypatch.setattr(cli, where, interrupt)
    assert call(monkeypatch, "demo") == 130
    assert capsys.readouterr().err.strip() == "tronsave-async: interrupted"


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_this_process(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo is canceled, and the handlers are those from before."""
    before = signal.getsignal(number)
    meant = TronSaveStage.open_orders

    async def interrupted(stage: TronSaveStage) -> list[str]:
        signal.raise_signal(number)
        return await meant(stage)

    monkeypatch.setattr(TronSaveStage, "open_orders", interrupted)
    assert call(monkeypatch, *QUICK) == 128 + number
    assert "0 of 6 orders were settled" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_broken_pipe_leaves_nothing_to_flush(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is written later goes nowhere."""

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    path = tmp_path / "out"
    with path.open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(cli, "_commands", broken)
        assert call(monkeypatch, "demo") == 1
        stream.write("too late")
    assert path.read_text(encoding="utf-8") == ""


# --- on a terminal --------------------------------------------------------------------------------


def on_terminal(
    *arguments: str, stop: str = "", answer: str = "", **environment: str
) -> tuple[str, int]:
    """Run the command on a terminal of 80 columns; press Ctrl-C when `stop` is seen, give the answer to a prompt."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    options: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "cwd": ROOT}
    options["start_new_session"] = True  # the terminal of whoever runs the tests is not asked
    process = subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT | environment, **options)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
            if stop and stop.encode() in seen:
                process.send_signal(signal.SIGINT)
                stop = ""
            if answer and seen.endswith(b": "):
                os.write(ours, f"{answer}\n".encode())
                answer = ""
    except OSError:
        pass  # Linux's way of saying that nobody writes any more
    os.close(ours)
    return seen.decode(), process.wait(timeout=10)


@POSIX
def test_on_a_terminal_the_strip_moves_and_goes() -> None:
    """The cursor is hidden meanwhile, and given back."""
    text, code = on_terminal(*QUICK)
    assert code == 0
    assert "queued" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "queued" not in text[text.rindex("\x1b[?25h") :]
    assert "\x1b[32mCanceled" in text


@POSIX
def test_ctrl_c_on_a_terminal_gives_the_cursor_back() -> None:
    """And the line that says so is the last one."""
    text, code = on_terminal("demo", stop=" cancel ")
    assert code == 130
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.rstrip().endswith("everything is closed")
    assert "Traceback" not in text


@POSIX
def test_no_color() -> None:
    """NO_COLOR is respected: weights may remain, hues do not."""
    text, _ = on_terminal(*QUICK, "--no-faults", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)


@POSIX
def test_a_dumb_terminal_gets_no_strip() -> None:
    """Nothing is drawn twice where nothing can be erased."""
    text, code = on_terminal(*QUICK, "--no-faults", TERM="dumb")
    assert code == 0
    assert "\x1b[" not in text


# --- cancel and status ----------------------------------------------------------------------------

GROUP = registry.GROUP
VENDORS = {
    "ripio": "brokers.ripio:RipioGateway",
    "sms4sats": "brokers.sms4sats:Sms4SatsGateway",
    "tronsave": "brokers.tronsave:TronSaveGateway",
}
NOBODY = "f" * 24


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce the three vendors, whether or not a wheel is installed, and give the account's key."""
    points = [EntryPoint(name, value, GROUP) for name, value in VENDORS.items()]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in points if point.group == group and name in (None, point.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    for variable in ("TRONSAVE_API_KEY", "RIPIO_API_TOKEN", "RIPIO_SECRET"):
        monkeypatch.setenv(variable, CANARY)
    monkeypatch.delenv("SMS4SATS_API_KEY", raising=False)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in another thread, for the vendors: the command has its own."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def tronsave(portal: BlockingPortal) -> Iterator[TronSaveSandbox]:
    """The vendor most tests talk to."""
    sandbox = TronSaveSandbox(api_key=CANARY, window=0.01)
    with portal.wrap_async_context_manager(sandbox):
        yield sandbox


@pytest.fixture
def ripio(portal: BlockingPortal) -> Iterator[RipioSandbox]:
    """One with client ids."""
    sandbox = RipioSandbox(api_token=CANARY, secret=CANARY, window=0.01)
    with portal.wrap_async_context_manager(sandbox):
        yield sandbox


@pytest.fixture
def sms4sats(portal: BlockingPortal) -> Iterator[Sms4SatsSandbox]:
    """One whose ids are secrets."""
    sandbox = Sms4SatsSandbox()
    with portal.wrap_async_context_manager(sandbox):
        yield sandbox


def at(sandbox: TronSaveSandbox | Sms4SatsSandbox) -> list[str]:
    """Return the option that leads to a simulator."""
    return ["-o", f"base_url={sandbox.url}"]


def at_ripio(sandbox: RipioSandbox) -> list[str]:
    """Return those for two addresses."""
    return ["-o", f"ws_url={sandbox.ws_url}", "--option", f"rest_url={sandbox.rest_url}"]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Call the command in this process; return its exit code, its output and its complaints, without secrets."""

    def typed(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = call(monkeypatch, *arguments)
        out, err = capsys.readouterr()
        assert CANARY not in out + err
        assert "Traceback" not in err
        return code, out, err

    return typed


def test_cancel_in_a_pipe_is_plain_text(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """A line for each order, aligned; 0, for both are proved closed."""
    opened, filled = tronsave.add_order(), tronsave.add_order()
    tronsave.match(filled)
    code, out, err = typed("cancel", "tronsave", opened, filled, *at(tronsave))
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [
        f"{opened}  canceled          executed 0",
        f"{filled}  already filled    read back; Order is already matched",
    ]


def test_cancel_as_json(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """One serialised outcome a line."""
    opened, filled = tronsave.add_order(), tronsave.add_order()
    tronsave.match(filled)
    code, out, err = typed("cancel", "tronsave", "--json", opened, filled, *at(tronsave))
    assert (code, err) == (0, "")
    decode = msgspec.json.Decoder(CancelOutcome).decode
    outcomes = {outcome.order.id: outcome for outcome in map(decode, out.splitlines())}
    assert isinstance(outcomes[opened], Canceled)
    assert isinstance(outcomes[filled], AlreadyClosed)
    assert len(outcomes) == 2


def test_ids_from_standard_input_and_arguments(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """Each once, comments and a byte order mark left out."""
    first, second = tronsave.add_order(), tronsave.add_order()
    text = f"\ufeff# mine\r\n\r\n  {first}\r\n{second}\r\n".encode()
    code, out, _ = typed("cancel", "tronsave", first, "--file", "-", *at(tronsave), stdin=text)
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()) == [first, second]


def test_ids_from_a_file(tronsave: TronSaveSandbox, typed: Typed, tmp_path: Path) -> None:
    """And what the vendor says about the orders."""
    opened, filled = tronsave.add_order(), tronsave.add_order()
    tronsave.match(filled)
    path = tmp_path / "ids"
    path.write_text(f"{opened}\n# done\n{filled}\n", encoding="utf-8")
    code, out, err = typed("status", "tronsave", "-f", str(path), *at(tronsave))
    assert (code, err) == (3, "")
    assert [line.split()[1] for line in sorted(out.splitlines())] == ["open", "filled"]


def test_status_as_json(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """One snapshot a line."""
    filled = tronsave.add_order()
    tronsave.match(filled)
    code, out, _ = typed("status", "tronsave", "--json", filled, *at(tronsave))
    assert code == 0
    snapshot = msgspec.json.decode(out, type=OrderSnapshot)
    assert (snapshot.order.id, snapshot.state) == (filled, OrderState.FILLED)


def test_the_clients_own_ids(ripio: RipioSandbox, portal: BlockingPortal, typed: Typed) -> None:
    """They name the same order; the token goes into the field that is asked for."""
    portal.call(lambda: ripio.add_order(external_id="bot-1"))
    field = ["-o", "token_field=apiToken"]
    code, out, _ = typed("cancel", "ripio", "--client-id", "bot-1", *at_ripio(ripio), *field)
    assert (code, out.split()[:2]) == (0, ["client_id=bot-1", "canceled"])


def test_an_id_that_is_a_secret_is_masked(sms4sats: Sms4SatsSandbox, typed: Typed) -> None:
    """In text; whatever the outcome is, and however the order was named."""
    order = sms4sats.add_order()
    sms4sats.advance(120)
    for arguments in (["cancel"], ["status"], ["cancel", "--client-id"], ["status", "--client-id"]):
        text = f"{order}\n".encode()
        _, out, err = typed(*arguments, "sms4sats", "-f", "-", *at(sms4sats), stdin=text)
        assert order not in out + err
        assert out.count("\n") == 1


def test_what_the_vendor_finds_too_early(sms4sats: Sms4SatsSandbox, typed: Typed) -> None:
    """May be dead, for all that the vendor's record tells: 4."""
    order = sms4sats.add_order()
    code, out, _ = typed("cancel", "sms4sats", order, *at(sms4sats), "-o", "early=send")
    assert code == 4
    assert order not in out
    assert sms4sats.orders[order].state.value == "pending" or not sms4sats.orders[order].released


def test_an_order_in_doubt(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """The reply is lost, and so is every look at the order: 4, whatever became of the others."""
    order = tronsave.add_order()
    tronsave.faults.add(hang_after("cancel"))
    tronsave.faults.add(hang_before("track", times=9))
    arguments = ["cancel", "tronsave", "--json", order, *at(tronsave), "--timeout", "0.3"]
    code, out, _ = typed(*arguments)
    assert code == 4
    assert isinstance(msgspec.json.decode(out, type=CancelOutcome), Unknown)


def test_a_lost_reply_is_no_doubt_where_the_order_can_be_read(
    tronsave: TronSaveSandbox, typed: Typed
) -> None:
    """As long as it takes: "none"."""
    order = tronsave.add_order()
    tronsave.faults.add(drop_after("cancel"))
    code, out, _ = typed("cancel", "tronsave", order, *at(tronsave), "--timeout", "none")
    assert code == 0
    assert "read back" in out


def test_nothing_was_sent(typed: Typed) -> None:
    """Nobody listens there: 3, for the order is as it was."""
    arguments = ["--json", NOBODY, "-o", "base_url=http://127.0.0.1:9", "--timeout", "0.1"]
    code, out, _ = typed("cancel", "tronsave", *arguments)
    assert code == 3
    assert isinstance(msgspec.json.decode(out, type=CancelOutcome), NotSent)


def test_an_empty_id_is_not_passed_over(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """An unset variable of a script: the order that was meant is not closed."""
    code, out, _ = typed("cancel", "tronsave", tronsave.add_order(), "", *at(tronsave))
    assert code == 3
    assert "an order id must not be empty" in out


@pytest.mark.parametrize("command", ["cancel", "status"])
def test_a_rejected_key(command: str, tronsave: TronSaveSandbox, typed: Typed) -> None:
    """2, with the vendor's words in one line."""
    tronsave.revoke_keys("another")
    code, _, err = typed(command, "tronsave", tronsave.add_order(), NOBODY, *at(tronsave))
    assert code == 2
    assert re.fullmatch(r"tronsave-async: tronsave \w+: HTTP 401 INVALID_API_KEY .*\n", err)


def test_an_address_that_is_not_the_vendors(tronsave: TronSaveSandbox, typed: Typed) -> None:
    """2 as well."""
    code, _, err = typed("cancel", "tronsave", NOBODY, "-o", f"base_url={tronsave.url}/nowhere")
    assert code == 2
    assert err.startswith("tronsave-async: tronsave cancel: HTTP 404")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nobody", "a"], "'nobody' is not an installed gateway (installed: ripio, sms4sats, tr"),
        (["tronsave"], "no order was named"),
        (["tronsave", "-f", "-"], "no order was named"),
        (["tronsave", "a\udcff"], "must be valid Unicode text"),
        (["tronsave", "a", "--timeout", "0"], "'0' is neither a number above 0 nor \"none\""),
        (["tronsave", "a", "--timeout", "nan"], "'nan' is neither"),
        (["tronsave", "a", "--timeout", "inf"], "'inf' is neither"),
        (["tronsave", "a", "--timeout", "soon"], "'soon' is neither"),
        (["tronsave", "-f", "/no/such/file"], "/no/such/file cannot be read: "),
        (["tronsave", "-f", "."], ". cannot be read: "),
        (["tronsave", "a", "-o", "ws_url=ws://x"], "the tronsave gateway has no option ws_url"),
        (["tronsave", "a", "-o", "base_url=nowhere"], "base_url must be http(s)://host"),
        (["sms4sats", "a", "-o", "early=soon"], 'early must be "hold" or "send"'),
        (["tronsave", "a", "-o", f"base_url=http://u:{CANARY}@x"], "must not carry credentials"),
        (["tronsave", "a", "-o", f"api_key={CANARY}"], "Credentials are never arguments"),
        (["tronsave", "a", "-o", CANARY], "Credentials are never arguments"),
        (["tronsave", "a", "-o", f"{CANARY}="], "Credentials are never arguments"),
        (["tronsave", "a", f"--api-key={CANARY}"], "No such option"),
        (["tronsave", "a", "-o", "request_timeout=3"], "what can be set is base_url, early, pro"),
        (["ripio", "a", "-o", "profile=pro"], "a profile is approved or basic."),
        (["tronsave", "a", "-o", "profile=approved"], "the tronsave gateway has no option profile"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], reason: str, typed: Typed) -> None:
    """With exit code 2, and without what should not have been typed."""
    code, out, err = typed("cancel", *arguments)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())


@pytest.mark.parametrize("source", ["-", "file"])
def test_a_file_that_is_not_text(source: str, typed: Typed, tmp_path: Path) -> None:
    """Says which."""
    path = tmp_path / "ids"
    path.write_bytes(b"\xff\xfe")
    name = "-" if source == "-" else str(path)
    code, _, err = typed("cancel", "tronsave", "-f", name, stdin=b"\xff\xfe")
    assert code == 2
    shown = "standard input" if source == "-" else str(path)
    assert f"{shown} is not UTF-8 text" in " ".join(err.split())


def test_a_standard_input_that_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a shell does with `<&-`."""
    monkeypatch.setattr(sys, "stdin", None)
    assert call(monkeypatch, "cancel", "tronsave", "-f", "-") == 2
    reason = os.strerror(errno.EBADF)
    assert f"standard input cannot be read: {reason}" in " ".join(capsys.readouterr().err.split())


def test_a_gateway_that_cannot_be_loaded(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's package lacks something: 1."""
    points = [EntryPoint("broken", "no_such_module:Gateway", GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    code, _, err = typed("status", "broken", "a")
    assert code == 1
    assert (
        err
        == "tronsave-async: the broken gateway cannot be loaded: No module named 'no_such_module'\n"
    )


def test_a_type_error_of_a_gateway_is_not_hidden(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a bug, and looks like one."""
    monkeypatch.setattr(registry, "open_gateway", None)
    monkeypatch.setattr("tronsave_async.open_gateway", lambda *_, **__: len(7))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no len"):
        typed("status", "tronsave", "a", "-o", "early=hold")


# --- when it cannot be written --------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_orders_are_canceled_also_where_nobody_hears_of_it(
    number: int, tronsave: TronSaveSandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The lines go nowhere; how it ended is in the complaint, and in the exit code unless all are closed: then 1."""

    def echo(text: object, *, err: bool = False, **_: object) -> None:
        assert not err
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(click, "echo", echo)
    complaints = io.StringIO()
    monkeypatch.setattr(sys, "stderr", complaints)
    for strangers, exit_code in (([], 1), (["f" * 24], 4)):
        opened = [tronsave.add_order() for _ in range(3)]
        with (tmp_path / "out").open("w", encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            arguments = [*opened, *strangers, *at(tronsave), "--timeout", "5"]
            assert call(monkeypatch, "cancel", "tronsave", *arguments) == exit_code
            stream.write("too late")
        if number == errno.EPIPE:  # there is nothing to flush, and to complain of, at the end
            assert (tmp_path / "out").read_text(encoding="utf-8") == ""
        assert {tronsave.orders[order].state for order in opened} == {BookState.CANCELED}
        many = len(opened) + len(strangers)
        told = f"cannot write: {os.strerror(number)}; 3 of {many} orders are proved closed\n"
        assert complaints.getvalue().endswith(told)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_line_that_cannot_be_written_ends_the_reading(
    number: int, tronsave: TronSaveSandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full disk is told, a reader that has gone is not; the rest of the orders is not read: 1."""
    tronsave.faults.add(hang_before("history", times=9))
    told: list[str] = []
    real = click.echo

    def echo(text: object, *, err: bool = False, **_: object) -> None:
        if not err:
            raise OSError(number, os.strerror(number))
        told.append(str(text))
        real(text, err=True)

    monkeypatch.setattr(click, "echo", echo)
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        arguments = [tronsave.add_order(), "f" * 24, *at(tronsave), "--timeout", "5"]
        started = time.monotonic()
        code = call(monkeypatch, "status", "tronsave", *arguments)
    assert code == 1
    assert told == []
    assert time.monotonic() - started < 4


def test_a_full_disk(
    tronsave: TronSaveSandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, no traceback."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no full disk")
    with full.open("w", encoding="utf-8", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code = call(monkeypatch, "cancel", "tronsave", tronsave.add_order(), *at(tronsave))
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    assert code == 1
    complaint = f"cannot write: {os.strerror(errno.ENOSPC)}; 1 of 1 orders are proved closed"
    assert capsys.readouterr().err == f"tronsave-async: {complaint}\n"


# --- signals --------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_tells_what_was_proved(
    number: signal.Signals,
    word: str,
    tronsave: TronSaveSandbox,
    portal: BlockingPortal,
    typed: Typed,
) -> None:
    """The order that was canceled, the one in doubt; and the exit code is the shell's."""
    opened, filled = tronsave.add_order(), tronsave.add_order()
    tronsave.match(filled)
    tronsave.faults.add(hang_before("track", times=9))

    async def kill() -> None:
        await tronsave.arrived(1, "track")
        os.kill(os.getpid(), number)

    portal.start_task_soon(kill)
    arguments = ["cancel", "tronsave", "--json", opened, filled, *at(tronsave)]
    code, out, err = typed(*arguments, "--timeout", "none")
    assert code == 128 + number
    assert err == f"tronsave-async: {word}: 1 of 2 orders are proved closed\n"
    outcomes = [json.loads(line) for line in out.splitlines()]
    assert [outcome["order"]["id"] for outcome in outcomes] == [opened, filled]
    assert [outcome["outcome"] for outcome in outcomes] == ["canceled", "unknown"]


# --- credentials ----------------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        """It is not."""
        return True

    @property
    def text(self) -> str:
        """What was written."""
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


def test_missing_credentials_away_from_a_terminal(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is named, and nobody is asked."""
    monkeypatch.delenv("RIPIO_SECRET")
    monkeypatch.setattr("getpass.getpass", None)
    code, _, err = typed("cancel", "ripio", "a")
    assert (code, err) == (2, "tronsave-async: no credentials for ripio: set RIPIO_SECRET\n")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person at the terminal is asked for; each answer is the canary."""
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return f" {CANARY} "

    monkeypatch.setattr("getpass.getpass", answer)
    monkeypatch.setattr(cli_orders, "_is_interactive", lambda: True)
    return prompts


def test_credentials_are_asked_for_on_a_terminal(
    ripio: RipioSandbox,
    portal: BlockingPortal,
    typed: Typed,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that is missing, once; this process keeps it, and shows it nowhere."""
    monkeypatch.delenv("RIPIO_API_TOKEN")
    monkeypatch.delenv("RIPIO_SECRET")
    order = portal.call(ripio.add_order)
    code, _, _ = typed("cancel", "ripio", order, *at_ripio(ripio), "-o", "profile=approved")
    assert code == 0
    assert asked == ["RIPIO_API_TOKEN (not shown): ", "RIPIO_SECRET (not shown): "]
    assert os.environ["RIPIO_SECRET"] == CANARY


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "TRONSAVE_API_KEY: a credential must be a non-empty string"),
        ("a b", "TRONSAVE_API_KEY: a credential must be printable ASCII without spaces"),
        (EOFError(), "no credentials for tronsave: set TRONSAVE_API_KEY"),
    ],
)
def test_an_answer_that_is_no_credential(
    answer: str | Exception,
    reason: str,
    typed: Typed,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not asked for again."""

    def give(prompt: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.delenv("TRONSAVE_API_KEY")
    monkeypatch.setattr("getpass.getpass", give)
    code, _, err = typed("cancel", "tronsave", "a")
    assert (code, err) == (2, f"tronsave-async: {reason}\n")


def test_a_gateway_that_finds_no_credential_is_asked_for_it_once(
    typed: Typed, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it says that it is missing."""

    def missing(*_: object, **__: object) -> None:
        raise CredentialsMissing("tronsave", "TRONSAVE_API_KEY")

    monkeypatch.setattr("tronsave_async.open_gateway", missing)
    assert typed("cancel", "tronsave", "a")[0] == 2
    assert len(asked) == 1


# --- cancel on a terminal -------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False])
def test_long_work_shows_how_far_it_is(
    is_terminal: bool, tronsave: TronSaveSandbox, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, one line that goes away; nothing on what is no terminal."""
    tronsave.faults.add(hang_before("cancel"))
    monkeypatch.setattr(cli_orders._Meter, "PATIENCE", 0)
    monkeypatch.setattr(cli_orders._Meter, "TICK", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    if is_terminal:  # the lines go there, too
        monkeypatch.setattr(sys, "stdout", stream)
    order = tronsave.add_order()
    code, _, _ = typed("cancel", "tronsave", order, *at(tronsave), "--timeout", "0.3")
    assert code == 4
    if isinstance(stream, Terminal):
        assert "\r\x1b[2K0 of 1 orders, 0 s\r" in stream.text
        assert f"\r\x1b[2K{order}  " in stream.text
        assert stream.text[stream.text.index(order) :].count("\n") == 1
    else:
        assert stream.getvalue() == ""


@POSIX
def test_a_person_at_a_terminal(tronsave: TronSaveSandbox) -> None:
    """Is asked for the key, which is not echoed, and gets colors."""
    order = tronsave.add_order()
    text, code = on_terminal(
        "cancel", "tronsave", order, *at(tronsave), answer=CANARY, TRONSAVE_API_KEY=""
    )
    assert code == 0
    assert "TRONSAVE_API_KEY (not shown): " in text
    assert CANARY not in text
    assert re.search(rf"{order}  \x1b\[32mcanceled *\x1b\[0m  executed 0", text)


def test_a_person_whose_stream_is_not_utf_8(
    sms4sats: Sms4SatsSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked id is written in ASCII."""
    order = sms4sats.add_order()
    sms4sats.deliver(order)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert call(monkeypatch, "status", "sms4sats", order, *at(sms4sats)) == 0
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    assert buffer.getvalue().decode("ascii").startswith(f"{order[:4]}..  filled ")


# --- sandbox --------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_the_simulators_run_until_a_signal(number: signal.Signals, word: str) -> None:
    """What they say is enough for the line to be pasted into a shell, while they run."""
    process = subprocess.Popen(
        [*COMMAND, "sandbox", "tronsave", "--orders", "2"],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert next(lines) == "tronsave, simulated on this machine\n"
    line = next(line for line in lines if "tronsave-async cancel" in line)
    line = line.replace("tronsave-async", " ".join(COMMAND), 1)
    pasted = subprocess.run(
        line, shell=True, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (pasted.returncode, pasted.stdout.count("canceled")) == (0, 2)
    process.send_signal(number)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert error == f"tronsave-async: {word}: the simulators are closed\n"


def test_all_simulators_as_json(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object a line, and each vendor once."""
    meant = click.echo
    seen: list[None] = []

    def echo(*arguments: Any, **options: Any) -> None:
        meant(*arguments, **options)
        seen.append(None)
        if len(seen) == 3:
            threading.Timer(0, os.kill, [os.getpid(), signal.SIGTERM]).start()

    monkeypatch.setattr(click, "echo", echo)
    code, out, _ = typed("sandbox", "--json", "--orders", "1")
    assert code == 143
    served = [msgspec.json.decode(line, type=Served) for line in out.splitlines()]
    assert [one.vendor for one in served] == ["ripio", "sms4sats", "tronsave"]
    assert all(len(one.orders) == 1 for one in served)


@pytest.mark.parametrize("arguments", [["nobody"], ["--orders", "0"], ["tronsave", "ripi"]])
def test_a_simulator_that_is_not_there(arguments: list[str], typed: Typed) -> None:
    """Wrong usage."""
    code, _, err = typed("sandbox", *arguments)
    assert code == 2
    assert "Invalid value" in err


def test_a_simulator_that_is_named_twice(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs once; they start as they are named."""
    started: list[str] = []

    async def serve(vendors: Iterable[str], *_: object) -> None:
        started.extend(vendors)
        raise OSError(errno.EADDRINUSE, "no port is left")

    monkeypatch.setattr("brokers.commands.serve", serve)
    assert typed("sandbox", "tronsave", "ripio", "tronsave")[0] == 1
    assert started == ["tronsave", "ripio"]


def test_nobody_reads_what_a_simulator_says(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It does not run on."""

    def echo(*_: object, **__: object) -> None:
        raise OSError(errno.EPIPE, "broken")

    monkeypatch.setattr(click, "echo", echo)
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert typed("sandbox", "tronsave") == (1, "", "")


def test_a_simulator_that_cannot_run(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """No port is left, say."""

    async def start(_: object) -> None:
        raise OSError(errno.EADDRINUSE, "no port is left")

    monkeypatch.setattr(TronSaveSandbox, "start", start)
    code, _, err = typed("sandbox", "tronsave")
    assert (code, err) == (1, "tronsave-async: a simulator cannot run: no port is left\n")


# --- the rest -------------------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_said_in_one_line(missing: str) -> None:
    """In an interpreter without the package; the line names the command that helps."""
    code = f"import sys; sys.modules[{missing!r}] = None; from brokers.cli import main; sys.exit(main())"
    result = python(code)
    assert result.returncode == 2
    assert "pip install 'tronsave-async[cli]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_only_the_extra_is_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another missing module is a bug, and looks like one."""
    monkeypatch.setitem(sys.modules, "click", None)
    assert call(monkeypatch, "demo") == 2
    assert capsys.readouterr().err == f"{cli.EXTRA_MISSING}\n"
    monkeypatch.setattr(cli, "EXTRA", ("rich",))
    with pytest.raises(ModuleNotFoundError):
        call(monkeypatch, "demo")


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the package's."""
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"tronsave-async, version {__version__}\n"


HEAVY = ["aiohttp", "anyio", "asyncio", "msgspec", "rich.console", "tronsave_async", "websockets"]


@pytest.mark.parametrize("command", ["", "cancel", "demo", "sandbox", "status"])
def test_help(command: str) -> None:
    """It comes at once: without the SDK, its transports and its dependencies; and it fits 80 columns."""
    arguments = ["tronsave-async", *command.split(), "-h" if command == "demo" else "--help"]
    code = (
        f"import sys; sys.argv = {arguments}; from brokers.cli import main; code = main(); "
        f"sys.exit(code or ' '.join(set({HEAVY}) & set(sys.modules)) or 0)"
    )
    result = python(code)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: tronsave-async {command}".strip())
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "--pace" not in result.stdout
    if command in ("", "cancel", "status"):
        documented = re.findall(r"^    (\d+)(?:\+N)?  ", result.stdout, re.MULTILINE)
        assert documented == ["0", "1", "2", "3", "4", "128"]
    if command in ("cancel", "status"):
        assert "At sms4sats an id is a secret" in result.stdout
        assert "give such ids by --file" in " ".join(result.stdout.split())


def test_the_module_is_the_command() -> None:
    """Where no script is installed."""
    result = subprocess.run(
        [sys.executable, "-m", "brokers.cli", "cancel", "nobody", "a"],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 2
    assert "'nobody' is not an installed gateway" in " ".join(result.stderr.split())


@pytest.mark.parametrize("orders", ["0", "501", "many"])
def test_a_wrong_option_is_explained(
    orders: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Click's way, and its exit code."""
    assert call(monkeypatch, "demo", "--orders", orders) == 2
    assert "Invalid value for '--orders'" in capsys.readouterr().err
