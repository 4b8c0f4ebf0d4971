"""The commands ``cancel``, ``status`` and ``sandbox`` on the command line; what they do is in ``commands``.

Importing this takes click and nothing else: help comes at once.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from tronsave_async import CredentialsMissing, OrderGateway, OrderRef

    from .commands import Answer, Served

__all__ = ["EXIT_CODES", "CommandFailed", "Perform", "abandon_output", "order_commands"]

T = TypeVar("T")


class Perform(Protocol):
    """Runs a coroutine to its end on an event loop of its own; a signal cancels it, and is returned."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T | signal.Signals:
        """Run it."""


FAILED: Final = 1
USAGE: Final = 2

OPTIONS: Final = ("base_url", "early", "profile", "rest_url", "token_field", "ws_url")
"""What a gateway can be told on the command line. Nothing among it is secret."""

EXIT_CODES: Final = """\
\b
Exit codes:
  0      every order is proved closed
  1      anything else went wrong
  2      wrong usage, or the account or address is rejected: no order
         was touched
  3      some orders are not closed (alive, refused, too early, not sent,
         not found), and none is unknown
  4      of some orders nobody knows whether they are closed
  128+N  ended by signal N (130: Ctrl-C); what was proved by then is
         written
"""

COMMON_HELP: Final = """\
VENDOR is an installed gateway: ripio, sms4sats, tronsave, or one that another package brings.
Orders are named by IDs, by the lines of a FILE, or both; a name given twice counts once.

\b
Credentials come from the environment or, on a terminal, from a prompt:
  ripio     RIPIO_API_TOKEN and RIPIO_SECRET
  sms4sats  SMS4SATS_API_KEY, if there is one; cancel and status need none
  tronsave  TRONSAVE_API_KEY

At sms4sats an id is a secret: who has it has the order. Arguments are seen by every process of the
machine and kept by the shell, so give such ids by --file or standard input. The text shows them
masked; --json has them in full.
"""

CANCEL_HELP: Final = f"""\
Cancel orders, and say what became of each of them.

One line for each order is written as soon as its outcome is known: the order, the outcome, details.
"canceled" and "already ..." are proved by the vendor; "unknown" means look before you act. Orders
are canceled also if the lines cannot be written any more; then the error output says how it ended.

{COMMON_HELP}"""

STATUS_HELP: Final = f"""\
Read orders, and say what the vendor says about each of them.

One line for each order is written as soon as it was read: the order, its state, details.

{COMMON_HELP}"""

SANDBOX_HELP: Final = """\
Run simulated vendors on this machine, until Ctrl-C.

VENDOR is ripio, sms4sats or tronsave; by default all of them run. Each listens on free ports of
127.0.0.1, with the vendor's documented messages, authentication and limits, and has open orders.
What a bot needs to reach it is written once it runs.

Nothing leaves this machine, and nothing is kept. It ends with 130 after Ctrl-C, and with 143 after
a SIGTERM.
"""


class CommandFailed(Exception):
    """Ends a command with one line and an exit code.

    Attributes:
        text: the line.
        code: the exit code.
    """

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text, code)
        self.text = "".join(c if c.isprintable() else " " for c in text)
        self.code = code


# --- what is typed --------------------------------------------------------------------------------


def _vendor(context: click.Context, parameter: click.Parameter, value: str) -> str:
    from tronsave_async import available_gateways

    known = available_gateways()
    if value not in known:
        text = f"{value!r} is not an installed gateway (installed: {', '.join(known) or 'none'})."
        raise click.BadParameter(text, context, parameter)
    return value


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Seconds; infinity for no bound."""
    if value == "none":
        return math.inf
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        text = f'{value!r} is neither a number above 0 nor "none".'
        raise click.BadParameter(text, context, parameter)
    return seconds


def _settings(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    """What is refused is not shown: it may be what should never be an argument."""
    settings = {}
    for value in values:
        name, equals, settings[name] = value.partition("=")
        if not equals or name not in OPTIONS:
            text = (
                f"what can be set is {', '.join(OPTIONS)}. Credentials are never arguments: they "
                "come from the environment, or from a prompt."
            )
            raise click.BadParameter(text, context, parameter)
    return settings


def _ids_from(
    context: click.Context, parameter: click.Parameter, path: str | None
) -> Sequence[str]:
    """The ids in a file, or in the standard input."""
    if path is None:
        return ()
    from .commands import ids_in

    try:
        return ids_in(_content_of(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    shown = "standard input" if path == "-" else click.format_filename(path)
    raise click.BadParameter(f"{shown} {reason}.", context, parameter)


def _content_of(path: str) -> bytes:
    if path != "-":
        with open(path, "rb") as file:
            return file.read()
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return sys.stdin.buffer.read()


def abandon_output() -> None:
    """Whoever read the output has gone: the interpreter's last flush must not complain about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def order_commands(perform: Perform) -> list[click.Command]:
    """The commands, run by ``perform``."""

    def cancel(**typed: Any) -> int:
        from .commands import cancel

        # Orders that nobody hears of any more are to be canceled all the same.
        return _act(cancel, perform, goes_on_unheard=True, **typed)

    def status(**typed: Any) -> int:
        from .commands import status

        return _act(status, perform, goes_on_unheard=False, **typed)

    def sandbox(**typed: Any) -> int:
        return _sandbox(perform, **typed)

    return [
        _order_command("cancel", cancel, CANCEL_HELP),
        _order_command("status", status, STATUS_HELP),
        _sandbox_command(sandbox),
    ]


def _order_command(name: str, callback: Callable[..., int], help: str) -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["vendor"], callback=_vendor),
        click.Argument(["ids"], metavar="[ID]...", nargs=-1),
        click.Option(
            ["-f", "--file"],
            callback=_ids_from,
            help="Read ids from FILE, - for standard input: one a line; blank lines, and lines that "
            "begin with #, are left out.",
            metavar="FILE",
        ),
        click.Option(
            ["--client-id", "client_ids"],
            is_flag=True,
            help="The ids are the client's own, where the vendor has such (Ripio's external_id).",
        ),
        click.Option(
            ["--timeout"],
            callback=_seconds,
            default="60",
            show_default=True,
            metavar="SECONDS",
            help='For everything together; "none" for as long as it takes.',
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="Write one JSON object a line instead of text.",
        ),
        click.Option(
            ["-o", "--option", "options"],
            callback=_settings,
            multiple=True,
            metavar="NAME=VALUE",
            help=f"Set an option of the gateway: {', '.join(OPTIONS)}. Can be given several times.",
        ),
    ]
    return click.Command(name, callback=callback, params=params, help=help, epilog=EXIT_CODES)


def _sandbox_command(callback: Callable[..., int]) -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(
            ["vendors"],
            metavar="[VENDOR]...",
            nargs=-1,
            type=click.Choice(["ripio", "sms4sats", "tronsave"]),
        ),
        click.Option(
            ["--orders"],
            type=click.IntRange(1, 1000),
            default=3,
            show_default=True,
            metavar="N",
            help="How many open orders each of them has.",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="Write one JSON object a line for each of them instead of text.",
        ),
    ]
    return click.Command("sandbox", callback=callback, params=params, help=SANDBOX_HELP)


# --- cancel and status ----------------------------------------------------------------------------


def _act(
    act: Callable[..., Coroutine[Any, Any, int]],
    perform: Perform,
    *,
    goes_on_unheard: bool,
    vendor: str,
    ids: Sequence[str],
    file: Sequence[str],
    client_ids: bool,
    timeout: float,
    as_json: bool,
    options: Mapping[str, str],
) -> int:
    """``goes_on_unheard``: the work goes on where its lines cannot be written any more."""
    from tronsave_async import CredentialsMissing, GatewayError, UsageError

    from .commands import DISCREET, REJECTIONS, refs_of

    try:
        orders = refs_of([*ids, *file], client_ids=client_ids, discreet=vendor in DISCREET)
        gateway = _open(vendor, options)
    except UsageError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from None
    limit = None if math.isinf(timeout) else timeout
    journal = _Journal(orders, as_json=as_json, goes_on_unheard=goes_on_unheard)
    try:
        ended = perform(journal.follow(gateway, act, limit))
    except GatewayError as error:
        wrong = (UsageError, CredentialsMissing, *REJECTIONS)
        raise CommandFailed(str(error), USAGE if isinstance(error, wrong) else FAILED) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandFailed(f"cannot write: {error.strerror}") from None
    known = f"{journal.closed} of {len(orders)} orders are proved closed"
    if isinstance(ended, signal.Signals):
        word = "interrupted" if ended is signal.SIGINT else "terminated"
        raise CommandFailed(f"{word}: {known}", 128 + ended)
    if (failure := journal.failure) is not None:
        if isinstance(failure, BrokenPipeError):
            abandon_output()
        raise CommandFailed(f"cannot write: {failure.strerror}; {known}", ended or FAILED)
    return ended


def _open(vendor: str, options: Mapping[str, str]) -> OrderGateway:
    """The vendor's gateway; on a terminal its credentials are asked for where the environment has none."""
    from tronsave_async import CredentialsMissing, open_gateway

    given: dict[str, Any] = dict(options)
    if vendor == "ripio" and "profile" in given:
        from .ripio import APPROVED, BASIC

        profiles = {"approved": APPROVED, "basic": BASIC}
        if given["profile"] not in profiles:
            text = "a profile is approved or basic."
            raise click.UsageError(text, click.get_current_context())
        given["profile"] = profiles[given["profile"]]
    asked: set[str] = set()
    while True:
        try:
            return open_gateway(vendor, **given)
        except CredentialsMissing as missing:
            if missing.variable in asked or not _is_interactive():
                raise CommandFailed(str(missing), USAGE) from None
            asked.add(missing.variable)
            os.environ[missing.variable] = _ask(missing)
        except TypeError as error:
            foreign = [name for name in options if f"keyword argument '{name}'" in str(error)]
            if not foreign:
                raise
            text = f"the {vendor} gateway has no option {foreign[0]}."
            raise click.UsageError(text, click.get_current_context()) from None
        except ImportError as error:
            raise CommandFailed(f"the {vendor} gateway cannot be loaded: {error}") from None


def _is_interactive() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _ask(missing: CredentialsMissing) -> str:
    """Ask for a credential without showing it."""
    import getpass
    import warnings

    from tronsave_async import Secret, UsageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would be shown
            answer = getpass.getpass(f"{missing.variable} (not shown): ").strip()
        return Secret(answer).reveal()
    except (EOFError, getpass.GetPassWarning):
        raise CommandFailed(str(missing), USAGE) from None
    except UsageError as error:
        raise CommandFailed(f"{missing.variable}: {error}", USAGE) from None


class _Journal:
    """Writes one line for each order as soon as it is known.

    Args:
        orders: all of them.
        as_json: whether the lines are JSON.
        goes_on_unheard: the work goes on where they cannot be written any more; else it ends.
    """

    def __init__(self, orders: Sequence[OrderRef], *, as_json: bool, goes_on_unheard: bool) -> None:
        from .commands import CLOSED, encode, exit_code

        self.closed = 0
        """Orders that are proved closed."""
        self.failure: OSError | None = None
        """Why lines cannot be written any more."""
        self._goes_on_unheard = goes_on_unheard
        self._orders = orders
        self._is_closed: Callable[[Answer], bool] = lambda answer: exit_code([answer]) == CLOSED
        self._meter = _Meter(len(orders))
        self._line: Callable[[Answer], str | bytes] = (
            (lambda answer: f"{encode(answer)}\n".encode()) if as_json else _Columns(orders).line
        )
        self._stop: Callable[[], object] = lambda: None

    async def follow(
        self,
        gateway: OrderGateway,
        act: Callable[..., Coroutine[Any, Any, int]],
        timeout: float | None,
    ) -> int:
        """Do the work.

        Raises:
            GatewayError: as the work does.
            OSError: a line could not be written, and the work has ended for it.
        """
        import asyncio

        task = asyncio.current_task()
        assert task is not None, "this is a coroutine"
        self._stop = task.cancel
        ticking = asyncio.create_task(self._meter.tick())
        try:
            async with gateway:
                return await act(gateway, self._orders, timeout, self._tell)
        finally:
            ticking.cancel()
            self._meter.clear()
            if self.failure is not None and not self._goes_on_unheard:
                raise self.failure

    def _tell(self, answer: Answer) -> None:
        self.closed += self._is_closed(answer)
        self._meter.done += 1
        if self.failure is not None:
            return
        self._meter.clear()
        try:
            click.echo(self._line(answer), nl=False, color=True)
        except OSError as error:
            self.failure = error
            if not self._goes_on_unheard:
                self._stop()


class _Columns:
    """The lines of text: the order, what is known of it, details."""

    WORD: Final = len("already canceled")

    def __init__(self, orders: Iterable[OrderRef]) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False)
        self._name = max(len(str(order)) for order in orders)

    def line(self, answer: Answer) -> str:
        """One line, in colors on a terminal."""
        from rich.text import Text

        from .commands import describe

        name, word, details = map(self._encodable, describe(answer))
        text = Text(f"{name:<{self._name}}  ")
        text.append(f"{word:<{self.WORD}}", self._hue(answer)).append(f"  {details}")
        text.rstrip()
        with self._console.capture() as captured:
            self._console.print(text, soft_wrap=True)
        return captured.get()

    def _hue(self, answer: Answer) -> str:
        from tronsave_async import Canceled

        from .commands import ALIVE, CLOSED, exit_code

        closed = "green" if isinstance(answer, Canceled) else "cyan"
        return {CLOSED: closed, ALIVE: "magenta"}.get(exit_code([answer]), "bold magenta")

    def _encodable(self, text: str) -> str:
        encoding = self._console.encoding
        if not encoding.startswith("utf"):
            text = text.replace("…", "..")
        return text.encode(encoding, "backslashreplace").decode(encoding)


class _Meter:
    """On a terminal, a line that says how far long work is; not in the way of what is written above it.

    Args:
        total: orders.
    """

    PATIENCE: Final = 1.0
    """Seconds after which work is long."""
    TICK: Final = 0.25
    """Seconds between two pictures."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self._total = total
        self._is_shown = False

    async def tick(self) -> None:
        """Draw it from time to time, until canceled."""
        import asyncio

        if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(self.PATIENCE)
        while True:
            seconds = asyncio.get_running_loop().time() - started
            self._draw(f"{self.done} of {self._total} orders, {seconds:.0f} s")
            await asyncio.sleep(self.TICK)

    def clear(self) -> None:
        """Take it away."""
        if self._is_shown:
            self._is_shown = False
            click.echo("\r\x1b[2K", nl=False, err=True)

    def _draw(self, text: str) -> None:
        self._is_shown = True
        click.echo(f"\r\x1b[2K{text}", nl=False, err=True)


# --- sandbox --------------------------------------------------------------------------------------


def _sandbox(perform: Perform, *, vendors: Sequence[str], orders: int, as_json: bool) -> int:
    from .commands import SANDBOXES, encode, introduce, serve

    def tell(served: Served) -> None:
        click.echo(encode(served) if as_json else introduce(served))

    chosen = dict.fromkeys(vendors or SANDBOXES)
    try:
        ended = perform(serve(chosen, orders, tell))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandFailed(f"a simulator cannot run: {error.strerror or error}") from None
    assert isinstance(ended, signal.Signals), "nothing else ends it"
    word = "interrupted" if ended is signal.SIGINT else "terminated"
    raise CommandFailed(f"{word}: the simulators are closed", 128 + ended)
