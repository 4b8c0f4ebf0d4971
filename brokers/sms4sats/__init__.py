"""sms4sats (docs.sms4sats.com)."""

from .config import BASE_URL
from .gateway import Sms4SatsGateway
from .wire import Country, CreatedOrder, OrderStatus, Price, Service

__all__ = [
    "BASE_URL",
    "Country",
    "CreatedOrder",
    "OrderStatus",
    "Price",
    "Service",
    "Sms4SatsGateway",
]
