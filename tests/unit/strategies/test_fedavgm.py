"""FedAvgM, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.plan import Terms
from choral.core.strategy import Aggregate
from choral.strategies import FedAvg, FedAvgM


def change(*delta: float, at: int = 1) -> Aggregate:
    return Aggregate(at, np.array(delta, np.float32), 30.0, 2, {})


def test_three_rounds_by_hand() -> None:
    fedavgm = FedAvgM(server_lr=0.5, momentum=0.5)
    state = fedavgm.init(np.array([1.0, 0.0], np.float32))
    assert state.velocity.tolist() == [0.0, 0.0]

    state = fedavgm.step(state, change(2.0, -4.0))
    assert state.velocity.tolist() == [2.0, -4.0]
    assert state.params.tolist() == [2.0, -2.0]

    state = fedavgm.step(state, change(1.0, 1.0, at=2))
    assert state.velocity.tolist() == [2.0, -1.0]  # 0.5 * 2 + 1, 0.5 * -4 + 1
    assert state.params.tolist() == [3.0, -2.5]

    state = fedavgm.step(state, change(0.0, 0.0, at=3))
    assert state.velocity.tolist() == [1.0, -0.5]
    assert state.params.tolist() == [3.5, -2.75], "momentum carries on without a change"


def test_without_momentum_it_is_fedavg() -> None:
    params = np.array([0.3, -0.7], np.float32)
    fedavgm, fedavg = FedAvgM(momentum=0, server_lr=0.7), FedAvg(server_lr=0.7)
    ours, theirs = fedavgm.init(params), fedavg.init(params)
    for at, delta in enumerate([(0.1, 0.2), (-0.3, 0.4)], start=1):
        ours = fedavgm.step(ours, change(*delta, at=at))
        theirs = fedavg.step(theirs, change(*delta, at=at))
    assert ours.params.tolist() == theirs.params.tolist()


def test_a_constant_change_ends_at_its_terminal_speed() -> None:
    fedavgm = FedAvgM(server_lr=0.1, momentum=0.9)
    state = fedavgm.init(np.zeros(1, np.float32))
    for at in range(1, 201):
        before, state = state, fedavgm.step(state, change(1.0, at=at))
    # 0.1 * 1 / (1 - 0.9) a round
    assert float(state.params[0] - before.params[0]) == pytest.approx(1.0, rel=1e-4)


def test_the_weighting_is_asked_of_the_clients() -> None:
    state = FedAvgM().init(np.zeros(1, np.float32))
    assert FedAvgM(weighting="uniform").plan(state, 1) == Terms("uniform", 0.0)


def test_a_bad_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fedavgm\.momentum 1.0: expected .* in \[0, 1\)"):
        FedAvgM(momentum=1.0)
    with pytest.raises(ConfigError, match=r"fedavgm\.server_lr -1"):
        FedAvgM(server_lr=-1)
    with pytest.raises(ConfigError, match="weighting"):
        FedAvgM(weighting="size")
