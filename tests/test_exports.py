"""The public surface: complete, unique, documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from enum import Enum
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

import brokers
import tronsave_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# Imported by everybody, whatever it is: what DESIGN calls the things that a caller sees.
CALLERS_NAMES = {
    "AlreadyClosed",
    "CancelOutcome",
    "Canceled",
    "Evidence",
    "GatewayError",
    "NotFound",
    "NotSent",
    "OrderGateway",
    "OrderRef",
    "OrderSnapshot",
    "OrderState",
    "RateLimit",
    "RateLimiter",
    "Refused",
    "RetryPolicy",
    "TooEarly",
    "Unknown",
    "Wire",
    "open_gateway",
}
# The contract's page shows these beside the protocol; they are defined in `orders`.
SHOWN_TWICE = {"tronsave_async.gateway": {"OrderRef", "OrderSnapshot", "OrderState"}}


def names_below(package: ModuleType) -> list[str]:
    """Return a package's name and those of the modules in it."""
    walk = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    return [package.__name__, *(module.name for module in walk)]


SDK = names_below(tronsave_async)
MODULES = [*SDK, *names_below(brokers)]


def module_of(name: str) -> ModuleType:
    """Import a module; one that needs an extra which is not installed is left out."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] in {"click", "rich"}:
            pytest.skip(f"{error.name} is not installed")
        raise


def exported(module: ModuleType) -> list[str]:
    """Return a module's `__all__`; a package without code may have none."""
    return list(getattr(module, "__all__", []))


def defined(module: ModuleType) -> set[str]:
    """Return the public classes and functions that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and isinstance(value, type | FunctionType)
        and value.__module__ == module.__name__
    }


def is_package(module: ModuleType) -> bool:
    """Return whether a module is a package's face."""
    return hasattr(module, "__path__")


def public_parts(owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods and properties that a class defines and shows."""
    for name, value in vars(owner).items():
        part = getattr(value, "__func__", value)
        if not name.startswith("_") and isinstance(part, FunctionType | property):
            yield name, part


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete(name: str) -> None:
    """`__all__` names every public class and function that a module defines."""
    module = module_of(name)
    assert defined(module) - set(exported(module)) == set()


@pytest.mark.parametrize("name", MODULES)
def test_all_is_true_and_in_order(name: str) -> None:
    """Every exported name exists, once; constants, then classes, then functions, each sorted."""
    module = module_of(name)
    names = exported(module)
    assert [n for n in names if not hasattr(module, n)] == []
    assert len(names) == len(set(names))
    ranks = [(0 if n.isupper() else 1 if n[0].isupper() else 2, n) for n in names]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("name", MODULES)
def test_modules_export_what_is_theirs(name: str) -> None:
    """Only a package's face shows what other modules define: each name has one home."""
    module = module_of(name)
    if not is_package(module):
        foreign = {
            n
            for n in exported(module)
            if isinstance(thing := getattr(module, n), type | FunctionType)
            and thing.__module__ != name
        }
        assert foreign == SHOWN_TWICE.get(name, set())


def test_what_a_caller_sees_is_at_the_top() -> None:
    """One import is enough for what the documentation of the contract names."""
    assert CALLERS_NAMES - set(tronsave_async.__all__) == set()


@pytest.mark.parametrize("module", ["credentials", "errors", "gateway", "orders", "outcomes"])
def test_the_contract_is_at_the_top_as_a_whole(module: str) -> None:
    """Every outcome, every error and every part of an order is exported at the top."""
    names = exported(module_of(f"tronsave_async.{module}"))
    assert set(names) - set(tronsave_async.__all__) == set()


def test_every_name_at_the_top_has_one_home() -> None:
    """The same name never means two things: it is one module's, and the very same object."""
    for name in tronsave_async.__all__:
        homes = [
            module
            for module in map(module_of, SDK)
            if not is_package(module)
            and name in exported(module)
            and name not in SHOWN_TWICE.get(module.__name__, set())
        ]
        assert len(homes) == 1, name
        assert getattr(tronsave_async, name) is getattr(homes[0], name)


def test_the_version_is_said_once() -> None:
    """The package knows its version."""
    assert tronsave_async.__version__.count(".") == 2


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name: str) -> None:
    """Every module, public class, function, method and property has a docstring of its own."""
    module = module_of(name)
    silent = [] if module.__doc__ else [name]
    for public in sorted(defined(module)):
        value = getattr(module, public)
        silent += [] if documented(value) else [public]
        if inspect.isclass(value):
            parts = public_parts(value)
            silent += [f"{public}.{part}" for part, code in parts if not documented(code)]
    assert silent == []


def documented(value: Any) -> bool:
    """Return whether somebody wrote a docstring; the ones that Python makes up do not count."""
    text = value.__doc__ or ""
    made_up = isinstance(value, type) and (
        text.startswith(f"{value.__name__}(")
        or (issubclass(value, Enum) and text in {"An enumeration.", Enum.__doc__})
    )
    return bool(text.strip()) and not made_up
