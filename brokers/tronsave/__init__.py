"""TronSave Fast Charge (docs.tronsave.io)."""

from .config import MAINNET, NILE
from .gateway import TronSaveGateway
from .wire import ConfirmResult, Estimate, HistoryPage, HistoryRow, OrderOptions

__all__ = [
    "MAINNET",
    "NILE",
    "ConfirmResult",
    "Estimate",
    "HistoryPage",
    "HistoryRow",
    "OrderOptions",
    "TronSaveGateway",
]
