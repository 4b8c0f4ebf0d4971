"""The console script ``tronsave-async``. It needs the extra ``cli``, and says so.

What takes time to import is imported by the functions that need it: ``--help`` comes at once, a missing extra is a
message, and an impatient Ctrl-C finds `main` ready for it.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

    import click

    from .demo import Progress, Report, Stage

__all__ = ["main"]

T = TypeVar("T")

NAME: Final = "tronsave-async"
EXTRA: Final = ("click", "rich")
EXTRA_MISSING: Final = (
    f"{NAME}: the command line needs its extra: pip install 'tronsave-async[cli]'"
)

FAILED: Final = 1
USAGE: Final = 2


def main() -> int:
    """Run the command line; return the exit code."""
    code = FAILED
    try:
        code = _run()
    except* KeyboardInterrupt:
        code = _complain("interrupted", 128 + signal.SIGINT)
    except* BrokenPipeError:
        from .cli_orders import abandon_output

        abandon_output()
    return code


def _run() -> int:
    try:
        import click
        import rich  # noqa: F401 - to know that it is there
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(EXTRA_MISSING, file=sys.stderr)
        return USAGE
    from .cli_orders import CommandFailed

    try:
        code: int = _commands().main(prog_name=NAME, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CommandFailed as error:
        return _complain(error.text, error.code)
    except click.Abort:  # click's name for it
        raise KeyboardInterrupt from None
    except SystemExit:  # the same
        raise BrokenPipeError from None
    return code


def _complain(text: str, code: int) -> int:
    with suppress(OSError):  # nobody can be told: the exit code is what is left
        print(f"{NAME}: {text}", file=sys.stderr)
    return code


# --- the commands ---------------------------------------------------------------------------------


def _commands() -> click.Group:
    import click

    from .cli_orders import EXIT_CODES, order_commands

    return click.Group(
        NAME,
        help="Cancel orders at several vendors, and know what happened to each of them.",
        epilog=EXIT_CODES,
        commands=[*order_commands(_perform), _demo_command()],
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_version,
                help="Show the version and exit.",
            )
        ],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 88},
    )


def _version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from tronsave_async import __version__

    print(f"{NAME}, version {__version__}")
    context.exit()


def _demo_command() -> click.Command:
    import click

    options: list[click.Parameter] = [
        click.Argument(["vendor"], type=click.Choice(VENDORS), default=VENDORS[0]),
        click.Option(
            ["--orders"],
            type=click.IntRange(1, 500),
            help="How many orders to cancel: by default 60 at TronSave, 36 at Ripio.",
        ),
        click.Option(
            ["--seed"],
            type=click.IntRange(0),
            default=7,
            show_default=True,
            help="Decides which faults strike when, and which orders end early.",
        ),
        click.Option(["--no-faults"], is_flag=True, help="Let every request arrive and return."),
        click.Option(["--pace"], type=click.FloatRange(0.05), hidden=True),
    ]
    short = "Cancel orders at a simulated vendor while things go wrong."
    return click.Command("demo", callback=_demo, params=options, help=DEMO_HELP, short_help=short)


VENDORS: Final = ("tronsave", "ripio")

DEMO_HELP: Final = """\
Cancel orders at a simulated vendor (by default TronSave) while things go wrong.

The vendor's API is simulated on this machine, with its documented limits: TronSave's, over HTTP,
many orders by one request; or Ripio Trade's, signed and over one WebSocket, read back by HTTP.
Orders are created, some of them are filled or closed behind the client's back, and all are
canceled at the same time, while replies are lost, late or garbled, connections break and clocks
differ. In the end every outcome is compared with the vendor's own record.

Nothing leaves this machine; no account and no key is needed. It takes about 20 seconds.

The exit code is 0 only if no outcome told a lie.
"""


def _demo(
    *, vendor: str, orders: int | None, seed: int, no_faults: bool, pace: float | None
) -> int:
    import random

    from .demo import Plan, Progress
    from .demo_screen import Screen, open_console, show

    random.seed(seed)  # the client's back-off has a random part, too
    stage_of = _stage_of(vendor)
    plan = Plan(orders or stage_of.usual_orders, seed, faults=not no_faults, pace=pace)
    progress = Progress(plan.orders)
    stage = stage_of(plan, progress.hear)
    work = show(stage, plan, progress, Screen(open_console()))
    return _exit_code(_perform(work), progress)


def _stage_of(vendor: str) -> type[Stage[Any, Any]]:
    """The vendor's part of the demo; the others are not loaded."""
    if vendor == "ripio":
        from .demo_ripio import RipioStage

        return RipioStage
    from .demo_tronsave import TronSaveStage

    return TronSaveStage


def _exit_code(ended: Report | signal.Signals, progress: Progress) -> int:
    if isinstance(ended, signal.Signals):
        word = "interrupted" if ended is signal.SIGINT else "terminated"
        settled = f"{progress.settled} of {progress.total} orders were settled"
        return _complain(f"{word}: {settled}; everything is closed", 128 + ended)
    return FAILED if ended.lies else 0


# --- signals --------------------------------------------------------------------------------------


def _perform(work: Coroutine[Any, Any, T]) -> T | signal.Signals:
    """Run ``work`` on an event loop of its own and return its result; or the signal that ended it."""
    import asyncio

    return asyncio.run(_until_signal(work))


async def _until_signal(work: Coroutine[Any, Any, T]) -> T | signal.Signals:
    """Await ``work`` and return its result; or cancel it when SIGINT or SIGTERM comes, and return the signal.

    What ``work`` does at its end is waited for, and cut short by a second signal.
    """
    import asyncio

    caught: list[signal.Signals] = []
    task = asyncio.current_task()
    assert task is not None, "this is a coroutine"

    def stop(number: int) -> None:
        caught.append(signal.Signals(number))
        task.cancel()

    with _handling(stop):
        try:
            return await work
        except asyncio.CancelledError:
            if not caught:
                raise
    return caught[0]


@contextmanager
def _handling(stop: Callable[[int], None]) -> Iterator[None]:
    """Call ``stop`` on the running event loop for each SIGINT and SIGTERM, as long as the block lasts."""
    import asyncio

    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop, number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
