"""
Is each pure module covered by its own tests alone? Every line and every branch of it, whatever other tests do.

    python tests/own_coverage.py           # every module, about a minute
    python tests/own_coverage.py limiter   # the modules whose path has one of these words

Lines that are run by accident, while something else is tested, are not tested. Prints what is missing, and ends with
exit code 1 if anything is. Property tests draw the same examples in every run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT: Final = Path(__file__).parent.parent

SDK: Final = (
    *("arguments", "blot", "coalescing", "correlation", "credentials", "deadlines", "duplicates"),
    *("errors", "exchange"),
    *("limiter", "many", "orders", "outcomes", "quota", "registry", "retry", "settlement"),
    *("tasks", "telemetry"),
)
VENDORS: Final = ("ripio", "sms4sats", "tronsave")
MODULES: Final = {
    **{f"tronsave_async/{name}.py": f"tests/test_{name}.py" for name in SDK},
    **{
        f"brokers/{vendor}/{name}.py": f"tests/test_{vendor}_{name}.py"
        for vendor in VENDORS
        for name in ("verdict", "wire")
    },
    "brokers/ripio/auth.py": "tests/test_ripio_auth.py",
    "brokers/ripio/clock.py": "tests/test_ripio_clock.py",
    "brokers/tronsave/history.py": "tests/test_tronsave_history.py",
}
"""The modules that decide, and neither read nor write a socket or a file; and the tests of each."""


def measured(path: str) -> dict[str, Any]:
    """Run the tests of a module alone; return what coverage says about the module.

    Raises:
        SystemExit: a test fails, or none imports the module.
    """
    with tempfile.TemporaryDirectory(prefix="own-coverage-") as folder:
        report = Path(folder) / "report.json"
        command = [
            *(sys.executable, "-P", "-m", "pytest", MODULES[path], "-q", "--tb=short"),
            *("-p", "no:cacheprovider", "--timeout=300"),
            *("--cov", "--cov-branch", f"--cov-report=json:{report}"),
        ]
        environment = os.environ | {
            "CI": "1",  # Hypothesis draws the same examples in every run, and keeps none
            "COVERAGE_FILE": str(Path(folder) / "data"),
            "PYTHONASYNCIODEBUG": "",
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{MODULES[path]} fails:\n{done.stdout}{done.stderr}")
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    found = [facts for name, facts in files.items() if f"/{name}".endswith(f"/{path}")]
    if len(found) != 1:
        raise SystemExit(f"{MODULES[path]} measures {path} {len(found)} times")
    facts: dict[str, Any] = found[0]
    return facts


def missing(facts: dict[str, Any]) -> str:
    """Return the lines that were not run, and the branches that were not taken."""
    lines = [str(line) for line in facts["missing_lines"]]
    unseen = set(facts["missing_lines"])
    branches = [
        f"{start}->{'exit' if end < 0 else end}"
        for start, end in facts["missing_branches"]
        if unseen.isdisjoint((start, end))
    ]
    return ", ".join([*lines, *branches])


def rows(paths: Sequence[str], all_facts: Iterable[dict[str, Any]]) -> bool:
    """Print a row for each module; return whether all are covered."""
    show(f"{'module':<32}{'lines':>7}{'branches':>10}{'covered':>9}  missing")
    whole = True
    for path, facts in zip(paths, all_facts, strict=True):
        sums, left = facts["summary"], missing(facts)
        percent = sums["percent_covered"]
        figures = f"{sums['num_statements']:>7}{sums['num_branches']:>10}{percent:>8.1f}%"
        show(f"{path:<32}{figures}  {left}".rstrip())
        whole = whole and not left
    return whole


def show(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Measure what was asked for, two at a time."""
    paths = [path for path in MODULES if not words or any(word in path for word in words)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return 0 if paths and rows(paths, pool.map(measured, paths)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
