"""The strategy in the guide keeps the laws that the others keep."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "write-a-strategy.md"
LAWS = ROOT / "tests" / "conformance" / "strategies" / "test_strategies.py"

REGISTER = """
from choral.strategies import STRATEGIES
from fedmom import FedMom

STRATEGIES["fedmom"] = FedMom
"""


def code():
    (found,) = re.findall(
        r'```python title="fedmom.py"\n(.*?)```', GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
    return found


def keeps_the_laws(folder, text):
    (folder / "fedmom.py").write_text(text)
    (folder / "register_fedmom.py").write_text(REGISTER)
    options = ["-p", "register_fedmom", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "fedmom"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, LAWS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout


def test_one_file_and_one_line_keep_the_laws(tmp_path):
    passed, report = keeps_the_laws(tmp_path, code())
    assert passed, report
    assert int(re.search(r"(\d+) passed", report).group(1)) > 20


def test_the_laws_see_a_mistake(tmp_path):
    broken = code().replace("reached = state.params +", "reached = 2 * state.params +")
    passed, report = keeps_the_laws(tmp_path, broken)
    assert not passed
    assert "test_a_fresh_model_stays_where_nothing_changed" in report


def test_it_is_typed(tmp_path):
    """The file would pass the checks of the room that it is written for."""
    path = tmp_path / "fedmom.py"
    path.write_text(code())
    for tool in (["ruff", "check", "--config", ROOT / "pyproject.toml"], ["mypy", "--strict"]):
        if importlib.util.find_spec(tool[0]) is None:
            continue
        done = subprocess.run(
            [sys.executable, "-m", *tool, path],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
