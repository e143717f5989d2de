"""The README's new strategy, written down and run as a newcomer would."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import choral.strategies
from choral.core.strategy import Aggregate
from choral.strategies import STRATEGIES, build
from choral.strategies.state import load, save

README = Path(choral.strategies.__file__).with_name("README.md").read_text()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "fedavgn.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("fedavgn", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fedavgn", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(STRATEGIES, "fedavgn", module.FedAvgN)
    return module


def test_one_file_and_one_line_make_a_strategy(module: ModuleType) -> None:
    strategy = build("fedavgn", momentum=0.5)
    state = strategy.init(np.array([1.0], np.float32))
    state = strategy.step(state, Aggregate(1, np.array([2.0], np.float32), 9.0, 3, {}))
    assert state.params.tolist() == [4.0]  # 1 + 0.5 * 2 + 2
    state = strategy.step(state, Aggregate(2, np.array([1.0], np.float32), 9.0, 3, {}))
    assert state.params.tolist() == [6.0]  # v = 0.5 * 2 + 1 = 2;  4 + 0.5 * 2 + 1
    assert state.params.dtype == np.float32
    assert load(strategy.init(np.zeros(1, np.float32)), save(state)).velocity.tolist() == [2.0]


def test_the_readme_shows_the_line_and_names_the_tests() -> None:
    assert '"fedavgn": FedAvgN,' in README
    assert "tests/conformance/strategies/test_strategies.py" in README
