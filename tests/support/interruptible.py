"""
An event loop that pytest's timeout can interrupt.

The timeout is a signal whose handler raises pytest's own failure, wherever the program happens to be;
while the loop waits, that is inside the loop. The test runner takes such a failure for the end of the
test although the test is still suspended in the loop, and then waits for ever to tear its fixtures
down. An exception that is not pytest's makes it cancel the test first, as Ctrl-C does.
"""

from __future__ import annotations

import asyncio

import pytest


class Hung(BaseException):
    """The test did not end in time."""


class InterruptibleLoop(asyncio.SelectorEventLoop):
    """A selector event loop that tells the end of its patience from the end of a test."""

    def run_forever(self) -> None:
        """Run until stopped; a failure that comes from outside of any task means that time is up."""
        try:
            super().run_forever()
        except pytest.fail.Exception as failure:
            raise Hung(str(failure)) from None
