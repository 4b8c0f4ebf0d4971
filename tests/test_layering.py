"""The shape of the code, read from its syntax trees: who imports whom, and what is never done."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SDK, BROKERS = ROOT / "tronsave_async", ROOT / "brokers"
VENDORS = sorted(path.parent.name for path in BROKERS.glob("*/__init__.py"))
MODULES = sorted([*SDK.rglob("*.py"), *BROKERS.rglob("*.py")])
SDK_MODULES = [path for path in MODULES if path.is_relative_to(SDK)]
BROKER_MODULES = [path for path in MODULES if path.is_relative_to(BROKERS)]

# A vendor's name; the SDK's own (tronsave_async, tronsave-async) is not one.
VENDOR_NAME = re.compile(r"tronsave(?![-_ ]?async)|ripio|sms4sats", re.IGNORECASE)
NAMELESS = {"utils", "util", "helpers", "helper", "common", "base", "misc", "shared", "tools"}

# Broad handlers that do not re-raise: "file:function" -> the reason why nothing is lost.
SWALLOWING = {
    "tronsave_async/calls.py:call": "raises what it caught, or OutcomeUnknown from it",
    "tronsave_async/tasks.py:guarded": "a user's callback; reported to the loop's handler",
    "tronsave_async/websocket.py:_connect": "an attempt to connect; told as ConnectFailed",
    "tronsave_async/websocket.py:_depart": "told to the caller of the request, who was not sent",
    "tronsave_async/websocket.py:received": "a vendor's reader; its message counts as malformed",
    "tronsave_async/posting.py:set_result": "a posted request is broken off by whatever its reply does to its reader",
}


def named(path: Path) -> str:
    """Return a module's name for a test's id or a message."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path, *, relative: bool = True) -> Iterator[str]:
    """Yield every module and name that a module imports; relative imports in full, or not."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (relative or not node.level):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def documentation(module: ast.Module) -> set[int]:
    """Return the identities of the strings that are documentation: they stand alone."""
    return {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def words(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every identifier and every string of a module with its line, documentation left out."""
    skipped = documentation(module)
    for node in ast.walk(module):
        if id(node) in skipped:
            continue
        line = getattr(node, "lineno", 0)
        for _, value in ast.iter_fields(node):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, bytes):
                    yield line, item.decode(errors="replace")
                elif isinstance(item, str):
                    yield line, item


def broad_handlers(path: Path) -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Yield each handler of everything, with the function it is in."""
    owners: list[tuple[ast.AST, str]] = [(tree(path), "<module>")]
    while owners:
        parent, owner = owners.pop()
        for node in ast.iter_child_nodes(parent):
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            owners.append((node, getattr(node, "name", owner) if inside else owner))
            if isinstance(node, ast.ExceptHandler) and catches_all(node):
                yield owner, node


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Return whether a handler is bare or names Exception or BaseException."""
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(k, ast.Name) and k.id in {"Exception", "BaseException"} for k in kinds)


def reraises(handler: ast.ExceptHandler) -> bool:
    """Return whether the last thing a handler does is to raise."""
    return isinstance(handler.body[-1], ast.Raise)


def test_there_is_code_to_look_at() -> None:
    """The rules below are about these packages: an empty list would prove nothing."""
    assert SDK_MODULES
    assert BROKER_MODULES
    assert "tronsave" in VENDORS


@pytest.mark.parametrize("path", SDK_MODULES, ids=named)
def test_the_sdk_does_not_import_vendors(path: Path) -> None:
    """`tronsave_async` never imports `brokers`: vendors are found through entry points."""
    assert [name for name in imported(path) if name.split(".")[0] == "brokers"] == []


@pytest.mark.parametrize("path", BROKER_MODULES, ids=named)
def test_vendors_import_themselves_relatively(path: Path) -> None:
    """`brokers` never imports itself by name: the user's project may have a package so named."""
    assert [n for n in imported(path, relative=False) if n.split(".")[0] == "brokers"] == []


@pytest.mark.parametrize("path", BROKER_MODULES, ids=named)
def test_a_vendor_does_not_import_another(path: Path) -> None:
    """A vendor's package stands alone: what two vendors share belongs to the SDK."""
    own = path.relative_to(BROKERS).parts[0]
    others = {vendor for vendor in VENDORS if vendor != own}
    if own in VENDORS:
        assert [
            n for n in imported(path) if n.startswith("brokers.") and n.split(".")[1] in others
        ] == []


@pytest.mark.parametrize("path", SDK_MODULES, ids=named)
def test_the_sdk_knows_no_vendor(path: Path) -> None:
    """No identifier and no string of the SDK names a vendor; documentation may."""
    assert [(line, word) for line, word in words(tree(path)) if VENDOR_NAME.search(word)] == []


def test_importing_the_sdk_loads_no_transport() -> None:
    """`import tronsave_async` is cheap: HTTP and WebSocket libraries load with the first vendor."""
    code = "import sys, tronsave_async; assert {'aiohttp', 'websockets'}.isdisjoint(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_has_a_name_that_says_what_it_is(path: Path) -> None:
    """No drawer that collects everything: utils, helpers, common, base, misc."""
    assert NAMELESS.isdisjoint(
        part.strip("_") for part in path.relative_to(ROOT).with_suffix("").parts
    )


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_nothing_is_printed_but_by_the_command_line(path: Path) -> None:
    """A library writes to nobody's terminal."""
    calls = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert calls == [] or path == BROKERS / "cli.py"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_time_is_bounded_by_scopes_only(path: Path) -> None:
    """`asyncio.wait_for` wraps a coroutine in a scope of its own: one idiom, `asyncio.timeout`."""
    attributes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
    assert "asyncio.wait_for" not in {ast.unparse(node) for node in attributes}
    assert "asyncio.wait_for" not in imported(path)


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_broad_handlers_raise_again(path: Path) -> None:
    """Who catches everything raises it again, or is listed above with the reason."""
    swallowing = [f"{named(path)}:{owner}" for owner, h in broad_handlers(path) if not reraises(h)]
    assert [place for place in swallowing if place not in SWALLOWING] == []


def test_the_list_of_exceptions_is_current() -> None:
    """Each listed handler exists and gives a reason: the list does not outlive its code."""
    places = {f"{named(path)}:{owner}" for path in MODULES for owner, _ in broad_handlers(path)}
    assert SWALLOWING.keys() <= places
    assert all(SWALLOWING.values())
