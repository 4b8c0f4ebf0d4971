"""TronSave's hosts, calls and limits, each with the page that documents it (docs.tronsave.io)."""

from __future__ import annotations

from typing import Final

from tronsave_async.limiter import RateLimit

__all__ = ["MAINNET", "NILE", "PATHS", "RATE_LIMIT"]

VENUE: Final = "tronsave"

MAINNET: Final = "https://api.tronsave.io"
"""developers/environments"""
NILE: Final = "https://api-dev.tronsave.io"
"""The Nile testnet (developers/environments). Keys, balances and orders are separate; Shasta is not supported."""

API_KEY_VARIABLE: Final = "TRONSAVE_API_KEY"

PATHS: Final = {
    "estimate": "/v0/fast-charge-estimate-order-request",
    "create": "/v0/fast-charge-order-request",
    "track": "/v0/fast-charge-order-tracking",
    "cancel": "/v0/fast-charge-order-cancel",
    "confirm": "/v0/fast-charge-order-confirmation",
    "history": "/v0/fast-charge-order-history",
}
"""developers/api-reference/fast-charge: Fast Charge exists only under /v0."""

RATE_LIMIT: Final = RateLimit(requests=1, per=2.0, margin=0.09)
"""One request per two seconds for each call (stated on each of their pages). The margin lets two requests differ by
90 ms in their way to the vendor; it costs 4.3 % of the pace. Whether the calls share one bucket, and whether it is
metered by key or by address, is not documented."""

MAX_IDS: Final = 50
"""Orders per request. The vendor documents no maximum; a batch that it calls invalid is divided."""

LONGEST_ID: Final = 128
"""Characters of an order id that are sent at most; the vendor's ids have 24."""

HISTORY_PAGE: Final = 50
"""Rows per page when looking for orders. The vendor's maximum is not documented; its default is 10."""
HISTORY_PAGES: Final = 5
"""Pages read at most when looking for orders."""
HISTORY_SLACK: Final = 120.0
"""Seconds before and after an order's creation within which its history row is looked for."""
