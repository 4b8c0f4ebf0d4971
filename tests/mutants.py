"""
Does the suite notice when a decision changes? Each *mutant* is one small change of a module that decides something:
the module's own tests must fail, or the type checker.

    make mutants                        # every module, about an hour on two processors
    make mutants ARGS='limiter retry'   # the modules whose path has one of these words
    make mutants ARGS='--every 10'      # every tenth mutant, evenly spread; and with --first 3 the fourth, and so on

The changes are those of mutmut (mutmut.readthedocs.io), and a few more: an element of a table is left out, or an
alternative of a pattern, or a statement; a condition is turned round; a member of an enumeration takes another's
place. mutmut itself changes nothing outside of plain functions, and what is decided here is decided by tables,
patterns and properties as well; so it lends its changes, and this runs them. Not changed: assertions, documentation,
annotations, decorators, imports, the values of enumerations.

Nothing here touches the checkout: the tests run in a copy, and a mutant is planted in the memory of the process that
tests it. Property tests draw the same examples in every run. A test that takes twice as long as all tests of the
original (at least 8 seconds) waits for ever: the mutant counts as caught by the clock. Survivors are shown as
differences; those that `MUTANTS.md` explains are only counted. Exit code 1: some are not explained, or some
explanations are of no use any more.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import libcst as cst
from mutmut.mutation.mutators import mutation_operators

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType

ROOT: Final = Path(__file__).parent.parent
EXPLANATIONS: Final = ROOT / "tests" / "MUTANTS.md"
COPIED: Final = ("tronsave_async", "brokers", "tests", "pyproject.toml")

MODULES: Final = {
    "tronsave_async/outcomes.py": "tests/test_outcomes.py",
    "tronsave_async/retry.py": "tests/test_retry.py",
    "tronsave_async/quota.py": "tests/test_quota.py",
    "tronsave_async/correlation.py": "tests/test_correlation.py",
    "tronsave_async/limiter.py": "tests/test_limiter.py",
    "tronsave_async/settlement.py": "tests/test_settlement.py",
    "brokers/tronsave/verdict.py": "tests/test_tronsave_verdict.py",
    "brokers/ripio/verdict.py": "tests/test_ripio_verdict.py",
    "brokers/ripio/auth.py": "tests/test_ripio_auth.py",
    "brokers/sms4sats/verdict.py": "tests/test_sms4sats_verdict.py",
}
"""What is changed, and the only tests that may notice: its own."""

LEAST: Final = 8.0
PROCESSES: Final = 2
HUNG, NOT_RUN, NO_TESTS = 9, 70, 5
"""Exit codes: a test waited for ever; the tests could not be run; there are none."""

OPTIONS: Final = (
    *("-x", "-q", "--tb=no", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # Hypothesis was imported before
)
"""Stop at the first failure."""

KILLED, TYPES, CLOCK, EXPLAINED, SURVIVED = "killed", "types", "clock", "explained", "survived"
VERDICTS: Final = (KILLED, TYPES, CLOCK, EXPLAINED, SURVIVED)


# -- changes -------------------------------------------------------------------------------------------------------


Difference: TypeAlias = tuple[str, ...]
"""The lines left out and put in, with their signs."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    path: str
    text: str
    """The whole module."""
    difference: Difference
    line: int

    def __str__(self) -> str:
        return "\n    ".join([f"{self.path}:{self.line}", *self.difference])


def nodes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Yield what may be changed: a node and all below it, but for what decides nothing."""
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Assert | cst.ImportFrom | cst.Import):
        return
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString):
        return
    if isinstance(node, cst.If) and _is_name(node.test, "TYPE_CHECKING"):
        return
    if isinstance(node, cst.Assign | cst.AnnAssign) and _is_declaration(node):
        return
    if isinstance(node, cst.ClassDef) and any(_is_enumeration(base.value) for base in node.bases):
        for method in node.body.body:
            if isinstance(method, cst.FunctionDef):
                yield from nodes(method)
        return
    yield node
    for child in node.children:
        yield from nodes(child)


def _is_declaration(node: cst.Assign | cst.AnnAssign) -> bool:
    """Whether it names a type, what is exported, or the attributes."""
    if isinstance(node, cst.AnnAssign):
        return _is_name(node.annotation.annotation, "TypeAlias")
    if isinstance(node.value, cst.Call) and _is_name(node.value.func, "TypeVar"):
        return True
    target = node.targets[0].target
    return isinstance(target, cst.Name) and (
        target.value in ("__all__", "__slots__") or isinstance(node.value, cst.Subscript)
    )


def _is_name(node: cst.CSTNode | None, name: str) -> bool:
    return isinstance(node, cst.Name) and node.value == name


def changes(node: cst.CSTNode, members: dict[tuple[str, str], str]) -> Iterator[cst.CSTNode]:
    """Yield what may stand in a node's place."""
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            # Of a text, one other is enough.
            yield from islice(operator(node), 1 if isinstance(node, cst.SimpleString) else None)
    if isinstance(node, cst.Dict | cst.Set | cst.List | cst.Tuple):
        yield from _without_an_element(node)
    elif isinstance(node, cst.SimpleString) and "r" in node.prefix:
        yield from _without_an_alternative(node)
    elif isinstance(node, cst.SimpleStatementLine) and _acts(node.body[0]):
        yield node.with_changes(body=[cst.Pass()])
    elif isinstance(node, cst.If | cst.While | cst.CompIf):
        yield from (node.with_changes(test=test) for test in _negated(node.test))
    elif isinstance(node, cst.BooleanOperation):
        yield from (node.with_changes(left=left) for left in _negated(node.left))
        yield from (node.with_changes(right=right) for right in _negated(node.right))
    elif isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name):
        other = members.get((node.value.value, node.attr.value))
        yield from [node.with_changes(attr=cst.Name(other))] if other else []


def _without_an_element(node: cst.Dict | cst.Set | cst.List | cst.Tuple) -> Iterator[cst.CSTNode]:
    least = 1 if isinstance(node, cst.Set | cst.Tuple) else 0
    if len(node.elements) <= least or (isinstance(node, cst.Tuple) and not node.lpar):
        return
    for index in range(len(node.elements)):
        left = [*node.elements[:index], *node.elements[index + 1 :]]
        if isinstance(node, cst.Tuple) and len(left) == 1:
            left[0] = left[0].with_changes(comma=cst.Comma())
        yield node.with_changes(elements=left)


def _without_an_alternative(node: cst.SimpleString) -> Iterator[cst.CSTNode]:
    pattern, quoted = node.raw_value, f"{node.prefix}{node.quote}"
    for start, end in alternatives(pattern):
        yield node.with_changes(value=f"{quoted}{pattern[:start]}{pattern[end:]}{node.quote}")


def alternatives(pattern: str) -> Iterator[tuple[int, int]]:
    """Yield where the alternatives of a regular expression (or of a part of one) begin and end, each with one bar."""
    groups = [[0]]
    tokens = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]|\(\?[:=!]|[(|)]")
    for token in tokens.finditer(pattern):
        if token[0].startswith("("):
            groups.append([token.end()])
        elif token[0] == "|":
            groups[-1].append(token.end())
        elif token[0] == ")" and len(groups) > 1:
            yield from _with_bars(groups.pop(), token.start())
    yield from _with_bars(groups[0], len(pattern))


def _with_bars(starts: list[int], end: int) -> Iterator[tuple[int, int]]:
    for here, following in pairwise(starts):
        if following - here > 1:
            yield here, following
    if len(starts) > 1 and end > starts[-1]:
        yield starts[-1] - 1, end


def _acts(statement: cst.CSTNode) -> bool:
    """Whether a statement is there for what it does, and not for a value."""
    if isinstance(statement, cst.Expr):
        return isinstance(statement.value, cst.Call | cst.Await)
    return isinstance(statement, cst.Raise | cst.Del)


def _negated(test: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """Yield the opposite of a condition that has no other change."""
    if isinstance(test, cst.Name | cst.Attribute | cst.Call | cst.NamedExpr):
        bare = test.lpar or not isinstance(test, cst.NamedExpr)
        brackets = {} if bare else {"lpar": [cst.LeftParen()], "rpar": [cst.RightParen()]}
        yield cst.UnaryOperation(
            operator=cst.Not(),
            expression=test.with_changes(**brackets),
            lpar=[cst.LeftParen()],
            rpar=[cst.RightParen()],
        )


def members_of_enumerations(folder: Path) -> dict[tuple[str, str], str]:
    """Return for each member of an enumeration in the SDK the one that follows."""
    followed: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("*.py")):
        for node in cst.parse_module(path.read_text(encoding="utf-8")).body:
            if isinstance(node, cst.ClassDef) and any(_is_enumeration(b.value) for b in node.bases):
                names = list(_members(node))
                following = [*names[1:], *names[:1]]
                followed |= {(node.name.value, a): b for a, b in zip(names, following, strict=True)}
    return followed


def _is_enumeration(kind: cst.BaseExpression) -> bool:
    return isinstance(kind, cst.Attribute) and _is_name(kind.value, "enum")


def _members(node: cst.ClassDef) -> Iterator[str]:
    for line in node.body.body:
        for statement in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            if isinstance(statement, cst.Assign):
                target = statement.targets[0].target
                assert isinstance(target, cst.Name), "an enumeration has plain members"
                yield target.value


def mutants_of(path: str, copy: Path, every: int, first: int) -> Iterator[Mutant]:
    """Yield every mutant of a module, or one of so many, from the first on (counted from 0)."""
    text = (copy / path).read_text(encoding="utf-8")
    members = members_of_enumerations(copy / "tronsave_async")
    module = cst.parse_module(text)
    triples = [
        (index, old, new)
        for index, statement in enumerate(module.body)
        for old in nodes(statement)
        for new in changes(old, members)
    ]
    seen = {text}
    for index, old, new in triples[first::every]:
        body = list(module.body)
        body[index] = new if old is body[index] else body[index].deep_replace(old, new)
        changed = module.with_changes(body=body).code
        if changed not in seen and _is_python(changed):
            seen.add(changed)
            yield Mutant(path, changed, *_difference(text, changed))


def _is_python(text: str) -> bool:
    try:
        compile(text, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _difference(old: str, new: str) -> tuple[Difference, int]:
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]
    first = int(lines[0].split()[1].split(",")[0].lstrip("-"))
    signed = (f"{line[0]} {line[1:].strip()}" for line in lines if not line.startswith("@@"))
    return tuple(signed), first


# -- runs ----------------------------------------------------------------------------------------------------------


class Planted(SourceFileLoader):
    """Loads a module from a text in memory."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        """Compile the text."""
        code: CodeType = compile(self._text, self.path, "exec", dont_inherit=True)
        return code


class Planter:
    """Finds the module that is to be loaded from memory."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.path.removesuffix(".py").replace("/", ".")
        self.text = mutant.text

    def find_spec(self, name: str, path: Sequence[str] | None, _: object = None) -> Any:
        """Find it where it is, and load another text."""
        if name != self.name:
            return None
        spec: ModuleSpec | None = PathFinder.find_spec(name, path)
        assert spec is not None, "the module exists"
        assert spec.origin is not None, "it is a file"
        spec.loader = Planted(name, spec.origin, self.text)
        return spec


class Plugin:
    """For pytest: quick tests come first, by the times of the original; and was it the clock that failed a test?"""

    def __init__(self, copy: Path) -> None:
        self.hung = False
        self._file = copy / "durations.json"
        self._durations: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Put the quickest first; tests of about the same length stay in order."""
        if self._file.exists():
            known = json.loads(self._file.read_text(encoding="utf-8"))
            items.sort(key=lambda item: round(known.get(item.nodeid, 0.0), 2))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note how long a test took."""
        total = self._durations.get(report.nodeid, 0.0) + report.duration
        self._durations[report.nodeid] = total

    def pytest_sessionfinish(self) -> None:
        """Keep the times of the original, which comes first."""
        if not self._file.exists():
            self._file.write_text(json.dumps(self._durations), encoding="utf-8")

    def pytest_exception_interact(self, call: Any) -> None:
        """Look for the words of pytest-timeout."""
        self.hung = self.hung or str(call.excinfo.value).startswith("Timeout (>")


def warm_up() -> None:
    """Import what every run needs, and nothing of this project, so that it is there in each process forked."""
    os.environ["CI"] = "1"  # Hypothesis draws the same examples in every run, and keeps none
    os.environ["PYTHONASYNCIODEBUG"] = ""
    import aiohttp  # noqa: F401
    import hypothesis.stateful
    import hypothesis.strategies  # noqa: F401
    import pytest  # noqa: F401
    import websockets  # noqa: F401


def tested(mutant: Mutant, tests: str, copy: Path, patience: float) -> int:
    """Run the tests of a mutant in a process of its own, each for so many seconds at most; return that process."""
    process = os.fork()
    if process:
        return process
    code = NOT_RUN
    complaints = os.dup(2)
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        os.chdir(copy)
        sys.path[:0] = [str(copy), str(copy / "tests")]
        sys.meta_path.insert(0, Planter(mutant))
        import pytest

        plugin = Plugin(copy)
        code = int(pytest.main([tests, f"--timeout={patience}", *OPTIONS], plugins=[plugin]))
        code = HUNG if plugin.hung else code
    except BaseException:
        os.write(complaints, traceback.format_exc().encode())
        raise
    finally:
        os._exit(code)


@dataclass
class Run:
    """A mutant that is being tested."""

    mutant: Mutant
    until: float


def judge(
    mutants: Iterable[Mutant], tests: str, copy: Path, patience: float
) -> Iterator[tuple[Mutant, str]]:
    """Test mutants, a few at a time, and yield what became of each. One that even pytest cannot end is ended."""
    left = iter(mutants)
    running: dict[int, Run] = {}
    try:
        while True:
            while len(running) < PROCESSES and (mutant := next(left, None)) is not None:
                process = tested(mutant, tests, copy, patience)
                running[process] = Run(mutant, time.monotonic() + 5 * patience)
            if not running:
                return
            time.sleep(0.01)
            for process in list(running):
                if (verdict := _ended(process, running[process])) is not None:
                    yield running.pop(process).mutant, verdict
    finally:
        for process in running:
            os.killpg(process, signal.SIGKILL)


def _ended(process: int, run: Run) -> str | None:
    """Return what a process says of its mutant, or None while it runs."""
    done, status = os.waitpid(process, os.WNOHANG)
    if done:
        return _verdict(os.waitstatus_to_exitcode(status))
    if time.monotonic() < run.until:
        return None
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return CLOCK


def _verdict(code: int) -> str:
    """What an exit code says: whatever else than a pass ends the tests, also pytest itself, has noticed the mutant."""
    if code in (NOT_RUN, NO_TESTS):
        raise SystemExit(f"pytest ended with code {code}, which says nothing about the mutant")
    return {0: SURVIVED, HUNG: CLOCK}.get(code, KILLED)


def time_of_original(path: str, tests: str, copy: Path) -> float:
    """Test the original as if it were a mutant: it must pass. Return how many seconds that took."""
    text = (copy / path).read_text(encoding="utf-8")
    (copy / "durations.json").unlink(missing_ok=True)
    began = time.monotonic()
    ((_, verdict),) = judge([Mutant(path, text, (), 0)], tests, copy, 120.0)
    if verdict != SURVIVED:
        raise SystemExit(f"{tests} does not pass")
    return time.monotonic() - began


class TypeChecker:
    """mypy, strict, on the modules of the copy; what it rejects cannot be committed."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy

    def rejects(self, mutant: Mutant) -> bool:
        """Whether it rejects a mutant."""
        path = self._copy / mutant.path
        original = path.read_bytes()
        path.write_text(mutant.text, encoding="utf-8")
        try:
            command = [sys.executable, "-m", "mypy", "--no-error-summary", mutant.path]
            return subprocess.run(command, cwd=self._copy, capture_output=True).returncode != 0
        finally:
            path.write_bytes(original)


# -- the whole -----------------------------------------------------------------------------------------------------


class Row:
    """What became of a module's mutants."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.verdicts: Counter[str] = Counter()
        self.seconds = 0.0
        self.complaints: list[str] = []
        """Survivors that nothing explains, and explanations of what did not survive."""

    def __str__(self) -> str:
        figures = "".join(f"{self.verdicts[verdict]:>11,}" for verdict in VERDICTS)
        return f"{self.path:<32}{self.verdicts.total():>8,}{figures}{self.seconds:>9.0f} s"


HEADER: Final = f"{'module':<32}{'mutants':>8}{''.join(f'{v:>11}' for v in VERDICTS)}{'time':>11}"


def run_module(path: str, copy: Path, every: int, first: int) -> Row:
    """Test the mutants of a module."""
    began = time.monotonic()
    tests = MODULES[path]
    patience = max(LEAST, 2 * time_of_original(path, tests, copy))
    row, checker = Row(path), TypeChecker(copy)
    explained, seen = explanations(path), set[Difference]()
    for mutant, verdict in judge(mutants_of(path, copy, every, first), tests, copy, patience):
        if verdict == SURVIVED:
            seen.add(mutant.difference)
            if mutant.difference in explained:
                verdict = EXPLAINED
            elif checker.rejects(mutant):
                verdict = TYPES
            else:
                row.complaints.append(str(mutant))
        row.verdicts[verdict] += 1
    if (every, first) == (1, 0):
        idle = sorted(explained - seen)
        row.complaints += ["\n    ".join([f"{path}: noticed, so not to explain", *d]) for d in idle]
    row.seconds = time.monotonic() - began
    return row


def explanations(path: str) -> set[Difference]:
    """Return the survivors of a module that are explained: those in the ``diff`` blocks of its section."""
    text = EXPLANATIONS.read_text(encoding="utf-8")
    section = text.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```diff\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    changes = [change for block in blocks for change in block.strip().split("\n\n")]
    return {tuple(change.splitlines()) for change in changes}


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="mutants", description="Do tests notice changes?")
    parser.add_argument("words", nargs="*", help="of the paths of modules; all without one")
    parser.add_argument("--every", type=int, default=1, help="one mutant of so many")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, from 0")
    asked = parser.parse_args(arguments)
    paths = [p for p in MODULES if not asked.words or any(word in p for word in asked.words)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, and leave no process behind
    warm_up()
    whole = Row("all")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copied(Path(folder))
        show(HEADER)
        for path in paths:
            row = run_module(path, copy, asked.every, asked.first)
            show(row)
            whole.verdicts += row.verdicts
            whole.seconds += row.seconds
            whole.complaints += row.complaints
    show(whole)
    for complaint in whole.complaints:
        show(f"\n{complaint}")
    return 1 if whole.complaints or not paths else 0


def show(line: object) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def copied(folder: Path) -> Path:
    """Copy what the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            made = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=made)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
