"""Ripio Trade's hosts, calls and limits, each with the page that documents it.

Pages: apidocs.ripio.com (called NEW here) and the older apidocs.ripiotrade.co, v4 (called OLD). Both are in force.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from tronsave_async.limiter import RateLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "API_TOKEN_VARIABLE",
    "APPROVED",
    "BASIC",
    "CLOCK_PATIENCE",
    "CORRECTION",
    "CREATION_TIME",
    "LAST_LOOK",
    "LEGACY_REST_URL",
    "LONGEST_EXTERNAL_ID",
    "LONGEST_ID",
    "LONGEST_PERIOD",
    "LONGEST_TOLERANCE",
    "METHODS",
    "NO_IDS",
    "PATHS",
    "PROCESSING_TIME",
    "PUBLIC_RATE_LIMIT",
    "REST_URL",
    "SECRET_VARIABLE",
    "SERVER_TIME_CACHE",
    "TOLERANCE",
    "VENUE",
    "WS_URL",
    "Profile",
]

VENUE: Final = "ripio"

WS_URL: Final = "wss://ws-api.ripio.com"
"""NEW, trade/websocket_api/general_api_information; OLD names the same host."""
REST_URL: Final = "https://api.ripio.com/trade"
"""NEW. The prefix is part of the path that is signed."""
LEGACY_REST_URL: Final = "https://api.ripiotrade.co/v4"
"""OLD. A replaced version is supported for three months at least (OLD, info)."""

API_TOKEN_VARIABLE: Final = "RIPIO_API_TOKEN"
SECRET_VARIABLE: Final = "RIPIO_SECRET"

METHODS: Final[Mapping[str, str]] = {
    "cancel": "order.cancel",
    "create": "order.create",
    "update": "order.update",
}
"""NEW, trade/websocket_api: cancel_order, create_order, update_order. There is no other method: neither a look at an
order nor a cancel of all of them."""

PATHS: Final[Mapping[str, str]] = {
    "order": "/orders/{id}",
    "order_by_external_id": "/orders/by-external-id/{external_id}",
    "orders": "/orders",
    "open_orders": "/orders/open",
    "server_time": "/public/server-time",
}
"""NEW, trade/orders; OLD, Orders and Public. Below the REST URL with its prefix."""


class Profile(msgspec.Struct, frozen=True):
    """What the vendor grants an account (OLD, Rate limits). Counted per user, over all of its calls.

    Attributes:
        rate_limit: requests at a time.
        daily_quota: requests a day.
    """

    rate_limit: RateLimit
    daily_quota: int


BASIC: Final = Profile(RateLimit(1, per=1.0), daily_quota=86_400)
"""Without approved documents: 1 request a second, 86,400 a day (OLD, Rate limits)."""
APPROVED: Final = Profile(RateLimit(3, per=1.0), daily_quota=302_400)
"""With approved documents: 3.5 requests a second, 302,400 a day (OLD, Rate limits). Kept as 3: there is no half
request, and the page does not say over how long a window the vendor meters; 3 in any second are within the limit
whatever that window is."""
PUBLIC_RATE_LIMIT: Final = RateLimit(1, per=1.0)
"""Public endpoints have a lower limit, without a number (OLD, Rate limits); 1 a second, for all of them together and
per address, is what clients see."""

TOLERANCE: Final = 5.0
"""Seconds after its timestamp for which a signature holds by default, and which are recommended at most (OLD,
Authentication). No other can be asked for over the socket."""
LONGEST_TOLERANCE: Final = 60.0
"""Seconds that the header ``Timestamp-tolerance`` can ask for at most (OLD, Authentication)."""
SERVER_TIME_CACHE: Final = 30.0
"""Seconds for which public endpoints are cached, the server's time among them (OLD, Rate limits)."""

CLOCK_PATIENCE: Final = 2.0
"""Seconds for which anything waits for the vendor's time."""
CORRECTION: Final = 1.0
"""Seconds by which an estimate of the vendor's clock must change to be worth a fresh signature."""
NO_IDS: Final = frozenset({"all", "by-external-id", "cancel", "open", "trades"})
"""What stands in paths in place of an order's id (NEW, trade/orders)."""

PROCESSING_TIME: Final = 10.0
"""Seconds after which the vendor gives up a request (NEW, trade/websocket_api/general_api_information). What such a
request is answered is not documented."""
CREATION_TIME: Final = TOLERANCE + PROCESSING_TIME
"""Seconds after which a creation that left has taken effect or never will: so late may it arrive with its signature,
and so long may it be processed."""
LAST_LOOK: Final = 1.0
"""Seconds before a caller's time is over in which an unanswered creation is looked for a last time."""

LONGEST_EXTERNAL_ID: Final = 36
"""Characters of an ``external_id`` at most (NEW, trade/websocket_api/create_order)."""
LONGEST_ID: Final = 128
"""Characters of an order id that are sent at most; the vendor's ids have 36. No page documents a maximum."""
LONGEST_PERIOD: Final = timedelta(days=180)
"""Of a list of orders; the vendor's maximum is six months (OLD, List orders), and the shortest six have 181 days."""
