"""What can go wrong with one request: faults that mean the same at every vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tronsave_async.sandbox import (
    drop_after,
    drop_before,
    empty_body,
    hang_after,
    hang_before,
    html_page,
    huge_body,
    json_array,
    malformed_json,
    rate_limited,
    server_error,
    truncated,
    wrong_types,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tronsave_async.sandbox import Fault

    Weather = Callable[[str], Fault]

__all__ = ["LOST_REPLIES", "LOST_REQUESTS"]

LOST_REPLIES: Final[Mapping[str, Weather]] = {
    "reply dropped": drop_after,
    "reply reset": lambda call: drop_after(call, reset=True),
    "reply truncated": truncated,
    "reply never": hang_after,
    "500": lambda call: server_error(call, status=500, processed=True),
    "503": lambda call: server_error(call, status=503, processed=True),
    "HTML 502": lambda call: html_page(call, status=502, processed=True),
    "HTML 200": lambda call: html_page(call, status=200, processed=True),
    "malformed": malformed_json,
    "empty": empty_body,
    "array": json_array,
    "other types": wrong_types,
    "huge": lambda call: huge_body(call, size=3_000_000),
}
"""The vendor carried the request out, and its answer is of no use."""

LOST_REQUESTS: Final[Mapping[str, Weather]] = {
    "request dropped": drop_before,
    "request reset": lambda call: drop_before(call, reset=True),
    "request never": hang_before,
    "500": lambda call: server_error(call, status=500),
    "503": lambda call: server_error(call, status=503),
    "HTML 502": html_page,
    "HTML 200": lambda call: html_page(call, status=200),
    "empty": lambda call: empty_body(call, processed=False),
    "429": rate_limited,
}
"""The vendor did nothing, and does not say so; or it says so."""
