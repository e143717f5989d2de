"""Programs that the type checker must accept, and programs that it must refuse.

Each file in `cases/` is one program. A line that must be refused ends in `# expect: CODE`, with
mypy's error code; several codes are separated by a comma. Every other line must pass, so a file
without such a comment is a program that must type-check.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = sorted((HERE / "cases").glob("*.py"))

Errors = set[tuple[int, str]]
"""Pairs of a line and an error code."""


def expected(path: Path) -> Errors:
    """Return the errors that a case asks for."""
    found: Errors = set()
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        comment = re.search(r"# expect: ([a-z, -]+)$", line)
        if comment:
            found.update((number, code.strip()) for code in comment[1].split(","))
    return found


def parse(report: str) -> dict[str, Errors]:
    """Return the errors of a mypy report by file name."""
    found: dict[str, Errors] = {}
    for line in report.splitlines():
        error = re.match(r"(.+?):(\d+): error: .*\[([a-z-]+)\]$", line)
        if error:
            found.setdefault(Path(error[1]).name, set()).add((int(error[2]), error[3]))
    return found


@pytest.fixture(scope="module")
def report() -> dict[str, Errors]:
    """Check all cases in one run; what is wrong in the package itself is not asked here."""
    command = [
        *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"),
        *("--show-error-codes", "--hide-error-context", "--no-color-output", "--warn-unreachable"),
        *("--follow-imports", "silent", "--config-file", ""),
        *("--cache-dir", str(ROOT / ".mypy_cache" / "typing-cases")),
        *map(str, CASES),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return parse(done.stdout)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_case(path: Path, report: dict[str, Errors]) -> None:
    assert report.get(path.name, set()) == expected(path)


def test_names_of_cases_say_what_they_are() -> None:
    for path in CASES:
        assert path.name.startswith("refuses_" if expected(path) else "accepts_")


def test_there_are_cases_of_both_kinds() -> None:
    kinds = Counter(path.name.partition("_")[0] for path in CASES)
    assert kinds["accepts"] >= 2
    assert kinds["refuses"] >= 7


def test_reading_expectations_and_reports() -> None:
    text = (
        "a/b.py:3: error: Bad thing [x]  [arg-type]\na/b.py:3: note: see\nc.py:1: error: N  [misc]"
    )
    assert parse(text) == {"b.py": {(3, "arg-type")}, "c.py": {(1, "misc")}}
