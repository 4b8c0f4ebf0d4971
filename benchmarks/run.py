"""Run every benchmark, one after the other, and write RESULTS.md and the charts.

Each script runs in a process of its own. Where a goal is not reached, its script runs again with --profile, and the
excerpt that shows where the time goes is linked. A quick run writes into a temporary folder: it is a try, no result.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from charts import svg
from measure import HERE
from report import Report, document, verdicts

SCRIPTS = (
    *("ws_cancel", "rest_cancel", "coalescing", "limiter", "cancel_latency"),
    *("retry_policy", "signing", "lost_reply", "imports", "memory"),
)
PROFILED = ("ws_cancel", "rest_cancel", "coalescing", "limiter", "signing", "imports", "memory")
PATIENCE = 600
"""Seconds for one script."""


def run(script: str, *arguments: str) -> Report | None:
    """Run a script; what it prints is shown as it comes. None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        command = [sys.executable, str(HERE / f"{script}.py"), "--output", str(output), *arguments]
        try:
            subprocess.run(command, check=True, timeout=PATIENCE)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{script}: failed: {error}", file=sys.stderr)
            return None
        return msgspec.json.decode(output.read_bytes(), type=Report)


def with_profiles(report: Report, into: Path, quick: list[str]) -> Report:
    """Profile what missed a goal."""
    missed = any(verdict.reached is False for verdict in report.verdicts)
    if missed and report.script in PROFILED:
        profiled = run(report.script, "--profile", str(into / "profiles"), *quick)
        report.profiles = profiled.profiles if profiled is not None else []
    return report


def main(argv: list[str] | None = None) -> int:
    """Run all, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few and small blocks: a try, no result"
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)}")
    given = parser.parse_args(argv)
    if unknown := set(given.scripts) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    wanted = given.scripts or SCRIPTS
    quick = ["--quick"] if given.quick else []
    into = Path(tempfile.mkdtemp(prefix="bench-")) if quick or given.scripts else HERE
    started = time.perf_counter()
    reports, failed = [], []
    for script in wanted:
        report = run(script, *quick)
        if report is None:
            failed.append(script)
        else:
            reports.append(with_profiles(report, into, quick))
            print(f"({script}: {report.seconds:.0f} s)", flush=True)
    seconds = time.perf_counter() - started
    (into / "charts").mkdir(exist_ok=True)
    for chart in [chart for report in reports for chart in report.charts]:
        (into / "charts" / f"{chart.name}.svg").write_text(svg(chart), encoding="utf-8")
    command = " ".join(["make bench", *(["ARGS=--quick"] if quick else [])])
    (into / "RESULTS.md").write_text(document(reports, command, seconds), encoding="utf-8")
    print(f"\n{verdicts(reports)}\n\n{into / 'RESULTS.md'}: {seconds / 60:.1f} minutes")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
