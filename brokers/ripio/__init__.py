"""Ripio Trade (apidocs.ripio.com)."""

from .config import APPROVED, BASIC, LEGACY_REST_URL, REST_URL, WS_URL, Profile
from .gateway import RipioGateway
from .wire import Order, OrdersPage, Pagination, Trade

__all__ = [
    "APPROVED",
    "BASIC",
    "LEGACY_REST_URL",
    "REST_URL",
    "WS_URL",
    "Order",
    "OrdersPage",
    "Pagination",
    "Profile",
    "RipioGateway",
    "Trade",
]
