"""The repository as a reader finds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUFFIXES = {
    "",
    ".cfg",
    ".ini",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".toml",
    ".txt",
    ".typed",
    ".yaml",
    ".yml",
}
# Made by the tools, and ignored by git.
MADE = {"__pycache__", "build", "dist", "node_modules"}
HIDDEN_BUT_OURS = {".ci", ".github", ".gitignore"}

# Built from pieces, so that this file does not contain what it forbids.
MACHINE_PATHS = re.compile(
    "|".join(rf"(?<![\w.]){root}/\w" for root in ("/ro" + "ot", "/wo" + "rk", "/ho" + "me"))
)
ABOUT_ITS_MAKING = re.compile(r"\b(ai|coding|llm|sub)[ -]?" + r"agents?\b", re.IGNORECASE)


def text_files() -> list[Path]:
    """Return the files of the checkout that somebody wrote."""
    return sorted(path for path in files_below(ROOT) if path.suffix in SUFFIXES)


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, leaving out what tools made."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.name in MADE or (path.name.startswith(".") and path.name not in HIDDEN_BUT_OURS):
            continue
        found += files_below(path) if path.is_dir() else [path]
    return found


def named(path: Path) -> str:
    """Return a file's name for a test's id."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", text_files(), ids=named)
def test_no_file_depends_on_the_machine_it_was_written_on(path: Path) -> None:
    """No file names a folder of its author's machine."""
    assert MACHINE_PATHS.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", text_files(), ids=named)
def test_files_speak_of_the_project_only(path: Path) -> None:
    """Files say what the project is, not how or by whom it was written."""
    assert ABOUT_ITS_MAKING.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("command", ["make test", "make demo"])
def test_the_readme_says_how_to_begin(command: str) -> None:
    """A reader finds the two commands that show the project at work."""
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
