"""The canary of the whole suite works: it would see a secret in a log, an event, an outcome or a traceback."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from support.canary import CANARY, Sightings, WatchedGateway, sightings
from support.raw_server import RawServer, Reply, http
from support.tronsave import QUICK, UNMETERED, vendor
from tronsave_async import LoggingHook, RateLimiter, Secret
from tronsave_async import sandbox as faults
from tronsave_async.telemetry import Retried

if TYPE_CHECKING:
    from collections.abc import Callable


def in_a_log(cage: Sightings) -> None:
    """Log the secret."""
    record = logging.LogRecord("x", logging.DEBUG, "x", 1, "key %s", (CANARY,), None)
    cage.handle(record)


def in_an_event(cage: Sightings) -> None:
    """Tell the secret."""
    cage.event(Retried(venue="v", endpoint="e", attempt=1, delay=0.0, reason=CANARY))


def in_a_traceback(cage: Sightings) -> None:
    """Raise with the secret among the locals."""
    key = CANARY
    try:
        raise ValueError(len(key))
    except ValueError as error:
        cage.error(error)


@pytest.mark.parametrize("leak", [in_a_log, in_an_event, in_a_traceback])
def test_canary_is_seen(leak: Callable[[Sightings], None]) -> None:
    """Each kind of leak is seen."""
    cage = Sightings()
    leak(cage)
    assert cage.seen


async def test_debug_logs_of_a_whole_life() -> None:
    """With every logger at DEBUG and the logging hook on, a life with faults, errors and echoes shows no key."""
    async with vendor(gateway_telemetry=LoggingHook()) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_before("cancel"), faults.html_page("track"))
        await gateway.cancel_many([sandbox.add_order() for _ in range(3)], timeout=5)
    echo = http(401, f'{{"error":true,"message":"TSAS:107 INVALID_API_KEY {CANARY}"}}'.encode())
    async with (
        RawServer([Reply(echo)]) as server,
        WatchedGateway(
            CANARY,
            base_url=server.url,
            limiter=RateLimiter(),
            rate_limit=UNMETERED,
            retry=QUICK,
            telemetry=LoggingHook(),
        ) as gateway,
    ):
        with pytest.raises(Exception, match=r"INVALID_API_KEY .*\*\*\*"):
            await gateway.cancel("a")
        assert f"apikey: {CANARY}".encode() in server.requests[0]


def test_secret_reveals_itself_to_the_wire_only() -> None:
    """The revealed text equals the secret, and its repr does not show it."""
    assert Secret(CANARY).reveal() == CANARY
    assert CANARY not in repr({"apikey": Secret(CANARY).reveal()})


def test_debug_records_are_watched() -> None:
    """The canary reads what only a logger at DEBUG says, whatever level the runner keeps."""
    before = sightings.read
    logging.getLogger("any.library").debug("a detail")
    assert sightings.read == before + 1
