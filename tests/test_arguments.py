"""What callers pass is checked before anything is sent."""

from __future__ import annotations

import math
import ssl
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from brokers.ripio import RipioGateway
from brokers.sms4sats import Sms4SatsGateway
from brokers.tronsave import TronSaveGateway
from tronsave_async import UsageError
from tronsave_async.arguments import (
    check_type,
    quantity,
    several_texts,
    timeout_seconds,
    tls_context,
    whole_number,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(5, 5.0), (0.1, 0.1), (None, None), (math.inf, None), (10**400, None), (1e9, None)],
)
def test_timeouts(given: Any, seconds: float | None) -> None:
    """A timeout is seconds above 0; none, endless, and beyond any life are no bound."""
    assert timeout_seconds(given) == seconds


@pytest.mark.parametrize("given", [0, -1, -math.inf, math.nan, "5", True, Decimal(5), [5]])
def test_unusable_timeouts(given: Any) -> None:
    """Anything else is a usage error."""
    with pytest.raises(UsageError, match=r"^timeout must be"):
        timeout_seconds(given)


def test_numbers_within_bounds() -> None:
    """Finite numbers above the bound pass as they are, and the bound itself where it is included."""
    assert within("x", 0.5) == 0.5
    assert within("x", 3, above=2.0) == 3
    assert within("x", 0, inclusive=True) == 0


@pytest.mark.parametrize("given", [0, -1, math.inf, math.nan, "1", None, True])
def test_numbers_beyond_bounds(given: Any) -> None:
    """Everything else names the argument and its bound."""
    with pytest.raises(UsageError, match=r"^margin must be a finite number, above 0$"):
        within("margin", given)
    if given not in (0, "1", None):
        with pytest.raises(UsageError, match=r"0 or more$"):
            within("margin", given if given is not True else math.nan, inclusive=True)


def test_quantities() -> None:
    """Exact numbers pass as they are, and so does none."""
    assert quantity("x", Decimal("0.10")) == Decimal("0.10")
    assert quantity("x", -3) == -3
    assert quantity("x", None) is None


@pytest.mark.parametrize("given", [0.1, "1", True, [1], b"2"])
def test_no_quantities(given: Any) -> None:
    """Everything else is named, with its type."""
    with pytest.raises(
        UsageError, match=rf"^price must be a Decimal or an int, not {type(given).__name__}$"
    ):
        quantity("price", given)


def test_instances() -> None:
    """A value of its type passes; another is named with its type."""
    check_type("x", True, int)
    with pytest.raises(UsageError, match=r"^limit must be a int, not str$"):
        check_type("limit", "1", int)


@pytest.mark.parametrize("name", ["limiter", "retry", "rate_limit", "telemetry", "ssl"])
@pytest.mark.parametrize(
    "opened", [TronSaveGateway, Sms4SatsGateway, partial(RipioGateway, "token")]
)
async def test_gateways_check_their_options(opened: Callable[..., object], name: str) -> None:
    """What would only be found out in the middle of an order is refused by name when the gateway is made."""
    for given in (3, 0, "1"):
        with pytest.raises(UsageError, match=rf"^{name} must be "):
            opened("secret", **{name: given})


async def test_ripio_checks_the_profile() -> None:
    """A profile is one of the account's, and not its name."""
    with pytest.raises(UsageError, match=r"^profile must be a Profile, not str$"):
        RipioGateway("token", "secret", profile="approved")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [0, -1, 1.0, "1", None, True, math.nan])
def test_whole_numbers(given: Any) -> None:
    """Only ints of at least the least pass."""
    assert whole_number("n", 7, least=1) == 7
    with pytest.raises(UsageError, match=r"^n must be a whole number, 1 or more$"):
        whole_number("n", given, least=1)


def test_several_texts() -> None:
    """Any iterable of texts is a list of texts; one text, bytes, and other items are not."""
    assert several_texts("ids", (text for text in "ab")) == ["a", "b"]
    assert several_texts("ids", []) == []
    wrong: list[Any] = ["ab", b"ab", bytearray(b"ab"), [1], [b"a"], [None]]
    for values in wrong:
        with pytest.raises(UsageError, match=r"^ids must"):
            several_texts("ids", values)


def test_a_tls_context_or_none() -> None:
    """A context passes as it is; none means the default."""
    context = ssl.create_default_context()
    assert tls_context(context) is context
    assert tls_context(None) is None


@pytest.mark.parametrize("given", [False, True, "ca.pem", ssl.CERT_NONE])
def test_no_tls_context(given: Any) -> None:
    """Nothing else turns verification off, or passes unseen."""
    with pytest.raises(UsageError, match=r"^ssl must be"):
        tls_context(given)


@pytest.mark.parametrize("given", [7, None, 1.5, object()])
def test_what_cannot_be_gone_through_is_not_several_texts(given: Any) -> None:
    """Something that is no iterable is refused by name, not with an error of Python's."""
    with pytest.raises(UsageError, match=r"^ids must be several texts$"):
        several_texts("ids", given)
