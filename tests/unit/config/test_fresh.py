"""Seeds: given, drawn, or refused."""

import numpy as np
import pytest

from choral.config.fresh import new_run_id, seed_or_drawn
from choral.core.errors import ConfigError


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, np.int64(7), np.uint32(7)])
def test_a_given_seed_stays_and_is_an_int(seed):
    assert type(seed_or_drawn(seed)) is int
    assert seed_or_drawn(seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "7"])
def test_a_seed_out_of_range_is_named(seed):
    with pytest.raises(ConfigError, match=r"seed .*: expected a whole number from 0 to 2\^63 - 1"):
        seed_or_drawn(seed)


def test_a_seed_is_drawn_where_none_is_given():
    drawn = {seed_or_drawn(None) for _ in range(8)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_run_ids_differ():
    assert new_run_id("heart").startswith("heart-")
    assert new_run_id("heart") != new_run_id("heart")
