"""The step of DP-SGD: its clip, its grid, its sampling, and what it costs."""

import math

import numpy as np
import pytest

from choral.core.errors import EmptyClient, PlanError
from choral.core.plan import Local, RecordPrivacy
from choral.crypto.secret import Secret
from choral.privacy import Poisson, Relation, epsilon_of, noise_multiplier_for
from choral.privacy.noise import discrete_gaussian
from choral.privacy.record import (
    SIGMA_STEPS,
    RecordStep,
    drawn_rows,
    multiplier_of,
    noise_multiplier_for_record,
    record_epsilon,
    record_releases,
    round_releases,
    worst_record_epsilon,
)

SEED = Secret(bytes(range(32)))
ADVERSARIAL = {
    "huge": [3e38, -3e38, 3e38],
    "infinite": [math.inf, 0.0, 0.0],
    "not a number": [math.nan, 1.0, 1.0],
    "just above": [1.0 + 1e-6, 0.0, 0.0],
    "half a step off": [0.3 + 1e-9, 0.3, 0.3],
    "tiny": [1e-45, 0.0, 0.0],
}


@pytest.mark.parametrize("multiplier", [0.0, 0.3, 1.1, 50.0])
@pytest.mark.parametrize("row", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_no_row_moves_the_sum_by_more_than_the_sensitivity(row, multiplier):
    terms = RecordStep(1.0, multiplier, 8.0, 3)
    others = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    with_it = np.vstack([others[:2], np.array([row], np.float32), others[2:]])
    moved = (terms.total([with_it]) - terms.total([others])) * terms.step
    assert np.linalg.norm(moved) <= terms.sensitivity


def test_the_sum_does_not_depend_on_order_or_cuts():
    terms = RecordStep(1.0, 1.1, 8.0, 4)
    rows = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    whole = terms.total([rows])
    assert np.array_equal(whole, terms.total([rows[:4], rows[4:]]))
    assert np.array_equal(whole, terms.total(iter(rows[::-1][:, None, :])))
    assert np.array_equal(whole, terms.total([np.asfortranarray(rows)]))


def test_short_gradients_are_not_changed():
    terms = RecordStep(10.0, 1.0, 2.0, 2)
    zero = np.zeros(2, np.int64)
    found = terms.gradient(terms.total([np.array([[1.0, 2.0], [3.0, -4.0]])]), zero)
    assert found == pytest.approx([2.0, -1.0], rel=1e-6)


@pytest.mark.parametrize("multiplier", [0.5, 1.1, 4.0])
def test_the_noise_has_the_standard_deviation_that_was_asked_for(multiplier):
    terms = RecordStep(2.0, multiplier, 8.0, 20_000)
    assert terms.step * SIGMA_STEPS == pytest.approx(multiplier * terms.sensitivity)
    noise = discrete_gaussian(SEED, sigma=SIGMA_STEPS, size=20_000)
    found = terms.gradient(terms.total([]), noise)
    assert found.std() == pytest.approx(multiplier * 2.0 / 8.0, rel=0.02)
    assert found.mean() == pytest.approx(0.0, abs=4 * float(found.std()) / math.sqrt(20_000))


def test_rounding_that_drowns_the_gradient_is_refused():
    with pytest.raises(PlanError, match="rounding"):
        RecordStep(1.0, 1e6, 1.0, 10**6)


def test_each_record_is_drawn_by_its_own_coin():
    drawn = [drawn_rows(SEED, q=0.1, count=200, step=s) for s in range(400)]
    times = np.bincount(np.concatenate(drawn), minlength=200)
    sizes = np.array([len(d) for d in drawn])
    assert times.mean() == pytest.approx(40, rel=0.05)
    assert times.var() == pytest.approx(36, rel=0.4)
    assert sizes.var() == pytest.approx(18, rel=0.3)  # a fixed batch size would have none
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[3], drawn_rows(SEED, q=0.1, count=200, step=3))
    other = Secret(bytes(32))
    assert not np.array_equal(drawn[0], drawn_rows(other, q=0.1, count=200, step=0))


def test_a_batch_may_be_empty():
    sizes = [len(drawn_rows(SEED, q=0.01, count=20, step=s)) for s in range(50)]
    assert 0 in sizes
    assert max(sizes) > 0


def test_the_release_is_what_the_accountants_know():
    ((one, times),) = record_releases(1000, 50, 300, 1.1).items()
    assert (one.multiplier, one.sampling, times) == (1.1, Poisson(0.05), 300)
    ((full, _),) = record_releases(10, None, 1, 1.1).items()
    assert full.sampling == Poisson(1.0)


@pytest.mark.nightly
def test_calibration_meets_its_target():
    z = noise_multiplier_for_record(2.0, 1e-5, 1000, 50, 100)
    found = epsilon_of(
        record_releases(1000, 50, 100, z), delta=1e-5, relation=Relation.ADD_REMOVE
    ).value
    assert 1.98 < found <= 2.0
    assert z == noise_multiplier_for(epsilon=2.0, delta=1e-5, rounds=100, sampling=Poisson(0.05))


def test_a_client_finds_the_noise_that_meets_its_epsilon():
    local = Local(steps=2, record=RecordPrivacy(1.0, epsilon=2.0, delta=1e-3, rounds=3))
    found = record_epsilon(local, 20, 3)
    assert 1.98 < found.value <= 2.0
    assert found.delta == 1e-3
    assert record_epsilon(local, 20, 1).value < 1.5


@pytest.mark.nightly
def test_each_client_finds_its_own_noise():
    local = Local(
        steps=10, batch_size=4, record=RecordPrivacy(1.0, epsilon=2.0, delta=1e-3, rounds=3)
    )
    few, many = (multiplier_of(local, n) for n in (20, 200))
    assert few > many
    assert record_epsilon(local, 20, 3).value == pytest.approx(2.0, rel=0.02)
    assert record_epsilon(local, 20, 1).value < 2.0


def test_the_worst_client_is_reported():
    local = Local(steps=10, batch_size=4, record=RecordPrivacy(1.0, 1.1))
    found = worst_record_epsilon(local, {"a": (20, 2), "b": (200, 2)}, delta=1e-3)
    assert found == record_epsilon(local, 20, 2, delta=1e-3)
    assert (found.unit, found.relation) == ("record", "add_remove")
    with pytest.raises(PlanError):
        worst_record_epsilon(local, {})


def test_no_noise_is_an_infinite_epsilon():
    local = Local(steps=1, record=RecordPrivacy(1.0, 0.0))
    assert record_epsilon(local, 100, 1).value == math.inf


def test_a_client_without_records():
    with pytest.raises(EmptyClient):
        round_releases(Local(record=RecordPrivacy(1.0, 1.0)), 0)
