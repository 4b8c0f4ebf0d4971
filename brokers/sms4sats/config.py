"""sms4sats' host, calls, clocks and limits, each with the page that documents it (docs.sms4sats.com, api-reference)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from tronsave_async.limiter import RateLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "API_KEY_VARIABLE",
    "AUTO_CANCEL_AFTER",
    "BASE_URL",
    "CANCEL_AFTER",
    "CREATION_TIME",
    "LONGEST_ID",
    "PATHS",
    "RATE_LIMIT",
    "REMEMBERED",
    "VENUE",
]

VENUE: Final = "sms4sats"

BASE_URL: Final = "https://api2.sms4sats.com"
"""Introduction. The vendor's newer API (api.sms4sats.com/v2/l402) has orders of its own and is another one."""

API_KEY_VARIABLE: Final = "SMS4SATS_API_KEY"

PATHS: Final[Mapping[str, str]] = {
    "cancel": "/cancelorder",
    "status": "/orderstatus",
    "create": "/createorder",
    "price": "/price",
    "countries": "/getCountries",
    "services": "/getnumbersstatus",
    "balance": "/balance",
}
"""Pages: cancel-order, get-order-status, create-receive-order, price, countries, numbers-status, balance."""

RATE_LIMIT: Final = RateLimit(5, per=1.0, margin=0.05)
"""No page documents a limit: this is what a considerate client does. All calls count together."""

CANCEL_AFTER: Final = timedelta(minutes=2)
"""An order can be canceled after two minutes, if no code arrived (cancel-order). From which moment they count, creation
or payment, is not documented: counted from creation, the vendor may still find it too early."""
CREATION_TIME: Final = timedelta(seconds=30)
"""By so much an order may be older than is known: its creation is noted when it is answered, and told by clocks."""
AUTO_CANCEL_AFTER: Final = timedelta(minutes=21)
"""An order without a code is canceled by the vendor after 21 minutes (cancel-order)."""

LONGEST_ID: Final = 128
"""Characters of an order id that are sent at most; the vendor's ids have 64."""

REMEMBERED: Final = 10_000
"""Orders created by a gateway whose time of creation it remembers."""
