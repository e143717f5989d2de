"""Answer times: what is taken, and what it does."""

import math

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.simulation.availability import Availability

KEYS = [Key.root(1).fold(i) for i in range(400)]


def test_everyone_answers_at_once_by_default():
    assert {Availability()(key) for key in KEYS} == {0.0}


def test_losses_and_times_follow_the_settings():
    answers = [Availability(dropout=0.25, latency_s=10, spread=1)(key) for key in KEYS]
    came = [a for a in answers if a is not None]
    assert abs(len(came) / len(KEYS) - 0.75) < 0.1
    assert 8 < float(np.median(came)) < 12


def test_numbers_become_floats():
    assert repr(Availability(0, np.float32(2), np.int64(1))) == (
        "Availability(dropout=0.0, latency_s=2.0, spread=1.0)"
    )


@pytest.mark.parametrize("name", ["dropout", "latency_s", "spread"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.5", True, None])
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=rf"simulation\.{name} .*: expected a"):
        Availability(**{name: value})


def test_nobody_may_be_lost_for_certain():
    with pytest.raises(ConfigError, match=r"simulation\.dropout 1: expected a number in \[0, 1\)"):
        Availability(dropout=1)
