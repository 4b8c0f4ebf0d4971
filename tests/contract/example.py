"""The vendor that `brokers/README.md` builds, on the stage: its blocks are put together as they stand there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .stage import Stage

__all__ = ["PACKAGE", "README", "STAGE", "blocks"]

README: Final = Path(__file__).parents[2] / "brokers" / "README.md"
PACKAGE: Final = "acme_orders"

FILE: Final = re.compile(r"# (\S+)\.py\n")


def blocks(language: str) -> list[tuple[int, str]]:
    """The README's blocks of a language, each with the number of lines before it."""
    text = README.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in found]


def _module(name: str) -> ModuleType:
    """The module of a name, in its package's namespace; the package knows it, as if it had been imported."""
    if name in sys.modules:
        return sys.modules[name]
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(README)
    package, _, own = name.rpartition(".")
    if package:
        setattr(sys.modules[package], own, module)
        module.__package__ = package
    else:
        module.__path__, module.__package__ = [], name
    return module


def _built() -> dict[str, ModuleType]:
    """Every module of the README's package."""
    modules = {PACKAGE: _module(PACKAGE)}
    for line, code in blocks("python"):
        named = FILE.match(code)
        assert named is not None, "a block's first line names its file"
        name = named[1].replace("/", ".").removesuffix(".__init__")
        modules[name] = _module(name)
        # Lines as in the README, for tracebacks.
        exec(compile("\n" * line + code, str(README), "exec"), modules[name].__dict__)
    return modules


MODULES: Final = _built()
STAGE: type[Stage] = MODULES[f"{PACKAGE}.stage"].STAGE
