import numpy as np
import pytest

from choral.core.errors import WrongShape
from choral.core.plan import Objective
from choral.tasks.objective import Pull


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_pull_by_hand():
    pull = Pull.of(Objective(mu=0.5, anchor=vector(1, 2), drift=vector(10, 20)), vector(0, 0))
    gradient = vector(1, 1)
    pull.add_to(gradient, vector(3, 4))
    assert gradient.tolist() == [1 + 0.5 * 2 + 10, 1 + 0.5 * 2 + 20]


def test_absent_anchor_is_the_received_model():
    pull = Pull.of(Objective(mu=2.0), vector(1, 1))
    gradient = vector(0, 0)
    pull.add_to(gradient, vector(3, 0))
    assert gradient.tolist() == [4, -2]


def test_an_anchor_without_mu_does_nothing():
    gradient = vector(1, 1)
    Pull.of(Objective(anchor=vector(9, 9)), vector(0, 0)).add_to(gradient, vector(3, 4))
    assert gradient.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["anchor", "drift"])
def test_wrong_length_is_named(name):
    with pytest.raises(WrongShape, match=rf"{name} of shape \[3\], expected \[2\]"):
        Pull.of(Objective(mu=1.0, **{name: vector(1, 2, 3)}), vector(0, 0))
