"""Every place where the ledger's gate stands: without it, the type checker refuses the program.

The package's own files are checked with the gate taken out, one place at a time; what is not
written down here is refused by `cases/` alone.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "choral"

pytestmark = pytest.mark.nightly

GATES = [
    (
        "federation/conductor.py",
        r"ledger\.release\(\s*attempt\.total, what=\"model\"[^)]*\)",
        "attempt.total",
    ),
    (
        "federation/conductor.py",
        r"OpenLedger\(lambda _: None\)\.release\(\s*(Private\(\(.*?\)\))[^)]*\)",
        r"\1",
    ),
    ("federation/conductor.py", r"attempt\.released, round=", "attempt.total, round="),
    ("federation/conductor.py", r"attempt\.total = Private\(total\)", "attempt.total = total"),
    ("coordinator/actor.py", r"self\.conductor\.released", "self.conductor.params"),
    ("coordinator/runs.py", r"conductor\.released, origin", "conductor.params, origin"),
    ("simulation/launch.py", r"conductor\.released, origin", "conductor.params, origin"),
]


def checked(name: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Check one of the package's files as if this text were in it."""
    source = SOURCE / name
    shadow = folder / source.name
    shadow.write_text(text)
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty"),
            *("--shadow-file", str(source), str(shadow)),
            *("--cache-dir", str(ROOT / ".mypy_cache" / "gate"), str(source)),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted({name for name, *_ in GATES}))
def test_with_its_gates_the_program_is_accepted(name, tmp_path):
    done = checked(name, (SOURCE / name).read_text(), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "gate", "without"), GATES, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(GATES)]
)
def test_without_its_gate_the_program_is_refused(name, gate, without, tmp_path):
    text, count = re.subn(gate, without, (SOURCE / name).read_text())
    assert count >= 1, "the gate is elsewhere now: say where"
    done = checked(name, text, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert Path(name).name in done.stdout
