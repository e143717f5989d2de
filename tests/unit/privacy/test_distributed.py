"""Distributed noise: rotation, conditional rounding, noise of survivors, no wrap of the ring."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from choral.core.errors import ConfigError, PlanError, Refused, WrongShape
from choral.core.keys import Key
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.privacy import distributed
from choral.privacy.accounting import epsilon_of
from choral.privacy.distributed import (
    Distributed,
    NoisedSum,
    client_noise,
    decode,
    encode,
    plan,
    round_within,
    rounded_norm,
)
from choral.privacy.rotation import padded, rotate, unrotate
from choral.privacy.vocabulary import NoSampling, Relation

ROTATION = Key.root(7)
TERMS = Distributed(
    bound=1.0, scale=400.0, variance=4.0 * 2500.0, dimension=200,
    cohort=6, survivors=5, corrupt=1, ring_bits=32,
)  # fmt: skip


def seed(*numbers: int) -> Secret:
    return Secret(b"".join(n.to_bytes(4, "little") for n in numbers).ljust(32, b"s"))


def summed(updates, terms: Distributed, number: int = 0) -> np.ndarray:
    """What secure aggregation gives: the sum in the ring."""
    ring = Ring(terms.ring_bits)
    total = ring.zeros(terms.size)
    for client, update in enumerate(updates):
        ring.add(
            total,
            encode(
                update,
                terms,
                rotation=ROTATION,
                rounding=Key.root(number).fold(client),
                seed=seed(number, client),
            ),
        )
    return total


# --- rotation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 64, 16_384, 20_000])
def test_a_rotation_keeps_norms_and_can_be_undone(size: int) -> None:
    x = np.random.default_rng(1).normal(size=size)
    y = rotate(x, ROTATION)
    assert y.shape == (padded(size),)
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    np.testing.assert_allclose(unrotate(y, size, ROTATION), x, atol=1e-12)


def test_a_rotation_is_linear_and_spreads_one_coordinate_over_its_block() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 300))
    both = rotate(x, ROTATION) + rotate(y, ROTATION)
    np.testing.assert_allclose(both, rotate(x + y, ROTATION), atol=1e-12)
    single = np.zeros(256)
    single[17] = 1.0
    np.testing.assert_allclose(abs(rotate(single, ROTATION)), 1 / 16, atol=1e-12)
    with pytest.raises(WrongShape):
        unrotate(np.zeros(7), 7, ROTATION)


def test_a_rotation_is_the_walsh_hadamard_matrix_times_signs() -> None:
    columns = np.stack([rotate(row, ROTATION) for row in np.eye(8)], axis=1)
    signs = columns[0] * math.sqrt(8)
    hadamard = columns * signs
    np.testing.assert_allclose(abs(signs), 1.0)
    expected = [[(-1) ** bin(i & j).count("1") for j in range(8)] for i in range(8)]
    np.testing.assert_allclose(hadamard * math.sqrt(8), expected, atol=1e-12)


# --- rounding -------------------------------------------------------------------------------------


def test_rounding_is_unbiased_and_within_its_bound() -> None:
    x = np.random.default_rng(3).normal(size=64) * 3
    bound = rounded_norm(float(np.linalg.norm(x)), 64)
    rounded = np.array([round_within(x, bound, Key.root(i)) for i in range(2000)])
    assert (np.linalg.norm(rounded.astype(float), axis=1) <= bound).all()
    assert set(np.unique(rounded - np.floor(x))) == {0.0, 1.0}
    bias = rounded.mean(axis=0) - x
    assert abs(bias).max() < 5 * 0.5 / math.sqrt(2000) + 0.02


def test_rounding_again_until_the_norm_is_within_the_bound() -> None:
    x = np.full(16, 0.5)
    tight = math.sqrt(6.0)  # at most 6 of 16 coins may be heads
    for i in range(20):
        assert np.linalg.norm(round_within(x, tight, Key.root(i))) <= tight
    with pytest.raises(Refused, match="cannot be rounded"):
        round_within(x + 5.0, tight, Key.root(0))


# --- what is decoded ------------------------------------------------------------------------------


def test_a_sum_is_decoded_with_little_noise_to_the_sum_of_clipped_updates() -> None:
    faint = replace(TERMS, scale=1e5, variance=1e-1)
    rng = np.random.default_rng(4)
    updates = [rng.normal(size=200) / 30 for _ in range(5)] + [np.full(200, 9.0)]
    exact = sum(u / max(1.0, np.linalg.norm(u)) for u in updates)
    decoded = decode(summed(updates, faint), faint, rotation=ROTATION, survivors=6)
    np.testing.assert_allclose(decoded, exact, atol=1e-4)


@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
def test_decoded_noise_has_its_variance_over_two_hundred_rounds(mechanism: str) -> None:
    """Within 2 %; each survivor adds V / (u - f), so that five of them make up 5/4 V."""
    terms = replace(TERMS, mechanism=mechanism)
    update = np.zeros(200)
    noise = [
        decode(summed([update] * 5, terms, number), terms, rotation=ROTATION, survivors=5)
        for number in range(200)
    ]
    expected = 5 * 2500.0 / 400.0**2
    # Less the padding: an orthogonal map of iid noise, cut to its first coordinates.
    assert np.var(noise) == pytest.approx(expected, rel=0.02)


def test_noise_of_the_honest_alone_makes_up_what_is_accounted() -> None:
    assert TERMS.client_variance * (TERMS.survivors - TERMS.corrupt) == TERMS.variance
    assert TERMS.release.sigma**2 == pytest.approx(TERMS.variance)


def test_encoded_updates_lie_on_the_ring_and_repeat_with_their_seed() -> None:
    update = np.full(200, 0.01)
    args = {"rotation": ROTATION, "rounding": Key.root(1)}
    first, again = (encode(update, TERMS, seed=seed(1), **args) for _ in range(2))
    other = encode(update, TERMS, seed=seed(2), **args)
    assert first.dtype == np.uint32
    assert (first == again).all(), "an upload that is sent again is the same"
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
def test_every_ring_gives_the_same_sum(bits: int) -> None:
    terms = replace(TERMS, ring_bits=bits)
    updates = [np.full(200, 0.02)] * 5
    decoded = decode(summed(updates, terms), terms, rotation=ROTATION, survivors=5)
    wide = decode(summed(updates, TERMS), TERMS, rotation=ROTATION, survivors=5)
    np.testing.assert_array_equal(decoded, wide)


@pytest.mark.parametrize("survivors", [0, 4, 7])
def test_fewer_survivors_than_the_noise_is_made_for_are_refused(survivors: int) -> None:
    with pytest.raises(Refused, match="survivors"):
        decode(Ring(32).zeros(TERMS.size), TERMS, rotation=ROTATION, survivors=survivors)


def test_an_update_of_another_length_is_refused() -> None:
    with pytest.raises(PlanError, match=r"expected \[200\]"):
        encode(np.zeros(199), TERMS, rotation=ROTATION, rounding=ROTATION, seed=seed(1))


# --- terms ----------------------------------------------------------------------------------------


def test_the_sensitivity_includes_rounding_in_both_norms() -> None:
    release = TERMS.release
    assert release.sensitivity > TERMS.scale * TERMS.bound
    assert release.sensitivity == rounded_norm(400.0, 256)
    assert release.l1 == math.sqrt(256) * release.sensitivity
    assert release.dimension == 256
    assert release.addends == 4


def test_no_credit_is_given_for_sampling_and_who_takes_part_is_known() -> None:
    assert TERMS.release.sampling == NoSampling()
    with pytest.raises(PlanError, match="add_remove"):
        planned(relation=Relation.ADD_REMOVE)


def test_a_sum_that_could_wrap_around_is_refused_by_calculation() -> None:
    with pytest.raises(PlanError, match="may reach"):
        replace(TERMS, ring_bits=16, scale=20_000.0)
    with pytest.raises(PlanError, match="may reach"):
        replace(TERMS, ring_bits=16, survivors=2, corrupt=1, variance=4000.0**2)


def test_no_coordinate_of_a_sum_reaches_what_is_calculated() -> None:
    rng = np.random.default_rng(5)
    direction = rng.normal(size=200)
    updates = [direction] * 6  # all the same way: the largest sum there is
    values = Ring(32).centred(summed(updates, TERMS))
    assert 0.1 * TERMS.reach < abs(values).max() < TERMS.reach


def test_without_a_block_to_spread_over_the_bound_is_the_plain_one() -> None:
    one = replace(TERMS, dimension=1)
    noise = distributed.skellam_end(6 * 2500.0, 42)
    assert one.reach == pytest.approx(6 * 400.0 + noise + 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": 0}, "distributed.bound"),
        ({"scale": math.inf}, "distributed.scale"),
        ({"variance": 0}, "distributed.variance"),
        ({"survivors": 7}, "distributed.survivors"),
        ({"corrupt": 5}, "distributed.corrupt"),
        ({"mechanism": "gaussian"}, "distributed.mechanism"),
        ({"ring_bits": 20}, "modulus"),
        ({"variance": 1e9}, "Skellam noise of"),
        ({"mechanism": "discrete_gaussian", "variance": 15.9}, "discrete Gaussian of"),
    ],
)
def test_terms_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TERMS, **changes)


def planned(**changes) -> Distributed:
    asked = {"epsilon": 4.0, "delta": 1e-5, "rounds": 10, "relation": Relation.REPLACE}
    cohort = {"bound": 1.0, "dimension": 500, "cohort": 20, "survivors": 15, "corrupt": 6,
              "ring_bits": 32}  # fmt: skip
    for name, value in changes.items():
        (asked if name in asked else cohort)[name] = value
    return plan(NoisedSum(**cohort), **asked)


@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("ring_bits", [16, 32])
def test_a_plan_keeps_its_epsilon_in_its_ring(mechanism: str, ring_bits: int) -> None:
    terms = planned(mechanism=mechanism, ring_bits=ring_bits)
    found = epsilon_of({terms.release: 10}, delta=1e-5, relation=Relation.REPLACE)
    assert 3.95 < found.value <= 4.0
    assert found.accountant == "rdp"
    assert terms.reach < 2 ** (ring_bits - 1)


def test_zero_out_needs_half_the_noise_of_replace() -> None:
    a, b = (planned(relation=r).release.multiplier for r in (Relation.REPLACE, Relation.ZERO_OUT))
    assert a == pytest.approx(2 * b, rel=0.02)


def test_noise_of_one_client_is_long_as_its_rotated_update() -> None:
    assert client_noise(TERMS, seed(3)).shape == (256,)
