"""The positive control: attacks that read nothing from Choral read everything from the naive."""

import numpy as np
import pytest

from choral.testing.secagg import NAIVE, play
from choral.testing.secagg.attack import VICTIM
from choral.testing.secagg.twister import STATE, outputs, predict

by_name = pytest.mark.parametrize("variant", NAIVE, ids=lambda v: v.name)


@by_name
def test_a_naive_variant_loses_the_private_vector(variant):
    played = play(variant, naive=True)
    assert played.exact
    assert np.count_nonzero(played.read) > 1
    assert not played.net.stopped


@by_name
def test_the_same_attack_reads_nothing_from_the_machines(variant):
    played = play(variant, naive=False)
    assert played.read is None
    assert not played.exact
    assert not played.net.monitor.faults
    assert {b.reason for b in played.net.stopped.values()} == set(variant.refusals)


def test_an_honest_sum_of_the_naive_is_right_so_nobody_notices():
    """Where the attack is passive or comes after the sum, the sum is exact."""
    for variant in NAIVE[:2]:
        played = play(variant, naive=True)
        played.net.assert_exact()
        assert VICTIM in played.net.summed.survivors


def test_the_twister_masks_are_gone_afterwards():
    from choral.crypto.prg import Mask
    from choral.secagg import masking

    play(NAIVE[0], naive=True)
    assert masking.Mask is Mask


@pytest.mark.parametrize("seed", [0, 1, [7, 8, 9]])
def test_624_outputs_give_the_others_away(seed):
    stream = outputs(np.random.MT19937(seed), STATE + 2000)
    known = STATE + 4
    np.testing.assert_array_equal(predict(stream[:known], 2000 - 4), stream[known:])


def test_other_numbers_are_not_taken_for_a_twister():
    stream = np.random.SFC64(3).random_raw(STATE + 4).astype(np.uint32)
    assert predict(stream, 10) is None
    assert predict(outputs(np.random.MT19937(3), STATE), 10) is None  # nothing left to check
