"""
The interpreters that the suite runs on: one per version of Python from 3.11 on.

An interpreter counts only if it runs: the shims of version managers are on PATH and may fail.
Prereleases and free-threaded builds are left out: the dependencies need not have wheels for them.

Prints the two variables that tell tox what to do: `TOX_DISCOVER=<paths> TOX_ENV=<environments>`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OLDEST = 11
NEWEST = 19
PROBE = """
import platform, sys, sysconfig
usable = (
    platform.python_implementation() == "CPython"
    and sys.version_info.releaselevel == "final"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
sys.exit(None if usable and sys.stdout.write(f"{sys.version_info.minor} {sys.executable}") else 1)
"""


def folders() -> list[Path]:
    """Return where interpreters are looked for: PATH, then the places installers put them."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    return [
        *(Path(part) for part in os.get_exec_path()),
        *sorted(pyenv.glob("versions/*/bin")),
        *(home / ".pyenv/versions").glob("*/bin"),
        *home.glob(".local/share/uv/python/*/bin"),
        *map(Path, ("/usr/bin", "/usr/local/bin")),
        *Path("/opt").glob("*/bin"),
        *Path("/opt").glob("*/*/bin"),
    ]


def probe(executable: Path) -> tuple[int, str] | None:
    """Run an interpreter; return its minor version and true path, or None if it is of no use."""
    try:
        done = subprocess.run(
            [executable, "-c", PROBE], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    minor, path = done.stdout.split(maxsplit=1)
    return int(minor), path


def find() -> dict[int, str]:
    """Return the path of one usable interpreter per minor version; this one comes first."""
    found = {sys.version_info.minor: sys.executable}
    for minor in range(OLDEST, NEWEST + 1):
        for folder in folders():
            if minor in found:
                break
            candidate = folder / f"python3.{minor}"
            if candidate.exists() and (usable := probe(candidate)) and usable[0] == minor:
                found[minor] = usable[1]
    return dict(sorted(found.items()))


def environments(minors: list[int], factor: str) -> list[str]:
    """
    Return the environments for the versions found, oldest first.

    One alone runs everything in the event loop's debug mode or measuring coverage, or the disasters alone. Of several,
    the oldest and the newest run what may differ; what one answers for all is answered by one between them or else by
    the newest, and the contract in the event loop's debug mode by the oldest. Others between run the contract.
    """
    if len(minors) == 1:
        return [f"py3{minors[0]}-{factor}"]
    oldest, *between, newest = minors
    shared = [f"py3{oldest}-others", f"py3{oldest}-debug-contract"]
    if not between:
        return [f"py3{newest}", *shared]
    return [
        f"py3{between[-1]}-once",
        f"py3{newest}-most",
        *shared,
        *(f"py3{minor}-contract" for minor in between[:-1]),
    ]


def main(arguments: list[str]) -> None:
    """Print the variables for tox: `--all` interpreters, or this one, in debug mode or with `--cov` or `--proof`."""
    found = find() if "--all" in arguments else {sys.version_info.minor: sys.executable}
    factors = [factor for factor in ("cov", "proof") if f"--{factor}" in arguments]
    suites = environments(list(found), (factors or ["debug"])[0])
    discover = os.pathsep.join(found.values())
    sys.stdout.write(f"TOX_DISCOVER={discover} TOX_ENV={','.join(['lint', 'types', *suites])}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
