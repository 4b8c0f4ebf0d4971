"""The console script, run as a user runs it: in a pipe, on a terminal, interrupted, without its extra."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers import cli
from brokers.demo import Plan, Record, Report, Stage
from brokers.demo_ripio import RipioStage
from brokers.demo_tronsave import TronSaveStage
from tronsave_async import OrderState, __version__

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
    result = run(*QUICK, PYTHONIOENCODING="ascii")
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


def on_terminal(*arguments: str, stop: str = "", **environment: str) -> tuple[str, int]:
    """Run the command on a terminal of 80 columns; press Ctrl-C when `stop` is seen."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    options: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "cwd": ROOT}
    process = subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT | environment, **options)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
            if stop and stop.encode() in seen:
                process.send_signal(signal.SIGINT)
                stop = ""
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
    text, _ = on_terminal(*QUICK, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)


@POSIX
def test_a_dumb_terminal_gets_no_strip() -> None:
    """Nothing is drawn twice where nothing can be erased."""
    text, code = on_terminal(*QUICK, TERM="dumb")
    assert code == 0
    assert "\x1b[" not in text


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


def test_the_version() -> None:
    """It is the package's."""
    assert run("--version").stdout == f"tronsave-async, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["demo", "-h"]])
def test_help(arguments: list[str]) -> None:
    """It comes without the SDK's transports and fits 80 columns."""
    result = run(*arguments)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: tronsave-async ")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "--pace" not in result.stdout


@pytest.mark.parametrize("orders", ["0", "501", "many"])
def test_a_wrong_option_is_explained(
    orders: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Click's way, and its exit code."""
    assert call(monkeypatch, "demo", "--orders", orders) == 2
    assert "Invalid value for '--orders'" in capsys.readouterr().err
