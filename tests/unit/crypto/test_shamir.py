"""Shares against frozen vectors, Python integers and another library; what fewer shares tell."""

import itertools

import numpy as np
import pytest
import shamirs
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import ConfigError, PlanError, Refused, WrongShape
from choral.crypto import shamir
from choral.crypto.secret import Secret
from choral.crypto.shamir import (
    LIMBS,
    MAX_HOLDERS,
    PRIME,
    SHARE_SIZE,
    combine,
    pack_share,
    share,
    unpack_share,
)

SECRETS = [bytes(range(32)), b"\xff" * 32, bytes(32)]


def wrapped(secrets):
    return [Secret(s) for s in secrets]


def opened(secrets):
    return [None if s is None else bytes(s.expose()) for s in secrets]


def tokens_of(rows):
    """Return the bytes from which these coefficients, by degree from 1, are drawn."""
    return b"".join(int(c).to_bytes(4, "little") for row in rows for c in row)


# --- Known answers and other implementations -----------------------------------------------------


def test_frozen_shares(vectors, script):
    for v in vectors("shamir")["vectors"]:
        secrets = [bytes.fromhex(s) for s in v["secrets"]]
        found = share(
            wrapped(secrets),
            threshold=v["threshold"],
            holders=v["holders"],
            rand=script(bytes.fromhex(v["token"])),
        )
        assert found.shape == (v["holders"], len(secrets), LIMBS)
        assert found.reshape(v["holders"], -1).tolist() == v["shares"]


def test_by_hand(script):
    """Limb 0 is 5, its slope 7: shares 12, 19, 26. The other limbs are 0 with slope 0."""
    rand = script(tokens_of([[7, *[0] * 8]]))
    found = share(wrapped([b"\x05" + bytes(31)]), threshold=2, holders=3, rand=rand)
    assert found[:, 0, 0].tolist() == [12, 19, 26]
    assert not found[:, 0, 1:].any()


@settings(max_examples=30)
@given(data=st.data())
def test_the_slow_reference_agrees_both_ways(data, slow, stream):
    holders = data.draw(st.integers(2, 9))
    threshold = data.draw(st.integers(2, holders))
    secrets = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
    ours = share(wrapped(secrets), threshold=threshold, holders=holders, rand=stream("both ways"))
    chosen = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
    for column, secret in enumerate(secrets):
        limbs = [
            slow.at_zero([(x, int(ours[x - 1, column, limb])) for x in chosen])
            for limb in range(LIMBS)
        ]
        assert slow.secret(limbs) == secret
    draw = np.random.Generator(np.random.PCG64(len(secrets)))
    theirs = np.zeros((threshold, len(secrets), LIMBS), np.uint32)
    for column, secret in enumerate(secrets):
        for limb, constant in enumerate(slow.limbs(secret)):
            polynomial = [constant, *draw.integers(0, PRIME, threshold - 1).tolist()]
            for row, x in enumerate(chosen):
                theirs[row, column, limb] = slow.evaluate(polynomial, x)
    assert opened(combine(theirs, positions=chosen, threshold=threshold)) == secrets


def test_the_shamirs_package_agrees_both_ways(slow, stream):
    secret = SECRETS[0]
    ours = share(wrapped([secret]), threshold=4, holders=7, rand=stream("package"))
    limbs = [
        shamirs.interpolate(
            [shamirs.share(x, int(ours[x - 1, 0, limb]), PRIME) for x in (7, 2, 5, 3)],
            threshold=4,
        )
        for limb in range(LIMBS)
    ]
    assert slow.secret(limbs) == secret
    theirs = [
        shamirs.shares(limb, quantity=7, modulus=PRIME, threshold=4) for limb in slow.limbs(secret)
    ]
    rows = np.array([[[s[x - 1].value for s in theirs]] for x in (1, 6, 7, 4)], np.uint32)
    assert opened(combine(rows, positions=[1, 6, 7, 4], threshold=4)) == [secret]


# --- Which shares suffice ------------------------------------------------------------------------


@pytest.mark.parametrize(("holders", "threshold"), [(2, 2), (4, 3), (5, 2), (5, 5)])
def test_every_set_of_enough_shares_gives_the_secrets(holders, threshold, stream):
    made = share(wrapped(SECRETS), threshold=threshold, holders=holders, rand=stream("sets"))
    for size in range(threshold, holders + 1):
        for chosen in itertools.combinations(range(1, holders + 1), size):
            rows = made[[x - 1 for x in chosen]]
            assert opened(combine(rows, positions=chosen, threshold=threshold)) == SECRETS


@pytest.mark.parametrize(("holders", "threshold"), [(100, 67), (1000, 667), (MAX_HOLDERS, 2)])
def test_large_cohorts(holders, threshold, stream):
    made = share(wrapped(SECRETS), threshold=threshold, holders=holders, rand=stream("large"))
    chosen = list(range(holders - threshold + 1, holders + 1))
    rows = made[[x - 1 for x in chosen]]
    assert opened(combine(rows, positions=chosen, threshold=threshold)) == SECRETS
    fewer = rows[:-1]
    if threshold > 2:
        found = combine(fewer, positions=chosen[:-1], threshold=threshold - 1)
        assert not set(SECRETS) & set(opened(found))


def test_no_secrets_have_empty_shares(stream):
    made = share([], threshold=2, holders=3, rand=stream("none"))
    assert made.shape == (3, 0, LIMBS)
    assert combine(made[:2], positions=[1, 2], threshold=2) == []


def test_secrets_of_many_clients_come_back_at_once(stream):
    secrets = [bytes([i]) * 32 for i in range(200)]
    made = share(wrapped(secrets), threshold=3, holders=4, rand=stream("many"))
    assert opened(combine(made[1:], positions=[2, 3, 4], threshold=3)) == secrets


def test_columns_in_blocks_are_the_same(monkeypatch, stream):
    def made():
        return share(wrapped(SECRETS), threshold=3, holders=4, rand=stream("blocks"))

    whole = made()
    monkeypatch.setattr(shamir, "_COLUMN_CELLS", 12)
    np.testing.assert_array_equal(made(), whole)


# --- Exactness -----------------------------------------------------------------------------------


def test_the_largest_products_stay_exact():
    """Every operand p - 1, as many terms as there can be."""
    assert MAX_HOLDERS * (2**16 - 1) ** 2 < 2**53
    left = np.full((3, MAX_HOLDERS), PRIME - 1, np.int64)
    right = np.full((MAX_HOLDERS, 5), PRIME - 1, np.int64)
    found = shamir._multiply(shamir._split(left), right)
    assert (found == MAX_HOLDERS * (PRIME - 1) ** 2 % PRIME).all()
    low = np.full((MAX_HOLDERS, 1), 0x7FFEFFFF, np.int64)
    found = shamir._multiply(shamir._split(low.T), low)
    assert found.item() == MAX_HOLDERS * 0x7FFEFFFF**2 % PRIME


@given(st.data())
def test_products_agree_with_python_integers(data):
    rows, terms, columns = (data.draw(st.integers(1, 5)) for _ in range(3))
    edge = st.sampled_from([0, 1, 0xFFFF, 0x10000, PRIME - 1, 2**30]) | st.integers(0, PRIME - 1)

    def matrix(height, width):
        cells = data.draw(st.lists(edge, min_size=height * width, max_size=height * width))
        return np.array(cells, np.int64).reshape(height, width)

    left, right = matrix(rows, terms), matrix(terms, columns)
    expected = left.astype(object) @ right.astype(object) % PRIME
    assert (shamir._multiply(shamir._split(left), right) == expected).all()


# --- What fewer shares tell ----------------------------------------------------------------------


@pytest.mark.parametrize(("prime", "threshold"), [(5, 2), (5, 3), (7, 3)])
def test_fewer_shares_tell_nothing_in_a_small_field(prime, threshold, slow):
    """All polynomials: t - 1 shares take every value equally often, whatever the secret."""
    for positions in itertools.combinations(range(1, prime), threshold - 1):
        for secret in range(prime):
            seen = [
                tuple(slow.evaluate([secret, *rest], x, prime) for x in positions)
                for rest in itertools.product(range(prime), repeat=threshold - 1)
            ]
            assert len(set(seen)) == len(seen) == prime ** (threshold - 1)


def test_fewer_shares_fit_every_other_secret_equally(slow, script, stream):
    """For t - 1 shares and any secret there is exactly one choice of coefficients: try it."""
    threshold, holders, known = 4, 6, [1, 3, 6]
    made = share(wrapped([SECRETS[0]]), threshold=threshold, holders=holders, rand=stream("fit"))
    for other in (SECRETS[1], SECRETS[2]):
        polynomials = [
            slow.coefficients([(0, constant), *((x, int(made[x - 1, 0, limb])) for x in known)])
            for limb, constant in enumerate(slow.limbs(other))
        ]
        rows = [[c[degree] for c in polynomials] for degree in range(1, threshold)]
        rand = script(tokens_of(rows))
        same = share(wrapped([other]), threshold=threshold, holders=holders, rand=rand)
        for x in known:
            np.testing.assert_array_equal(same[x - 1], made[x - 1])
        assert not np.array_equal(same[1], made[1])


@pytest.mark.parametrize("secret", SECRETS)
def test_one_share_of_two_is_uniform(secret, stream):
    """Chi-square of 64 bins over 9 000 elements; 63 degrees, false alarm below 1e-6."""
    made = share(wrapped([secret] * 1000), threshold=2, holders=2, rand=stream("uniform"))
    for row in made:
        counts = np.bincount((row >> 25).ravel(), minlength=64)
        expected = row.size / 64
        assert ((counts - expected) ** 2 / expected).sum() < 130


# --- Randomness ----------------------------------------------------------------------------------


def test_coefficients_are_drawn_by_rejection(script):
    """p itself, with or without the top bit, is drawn again; the top bit is dropped."""
    refused = (PRIME).to_bytes(4, "little"), (2**32 - 1).to_bytes(4, "little")
    kept = [(2**31 + i).to_bytes(4, "little") for i in range(1, 8)]
    rand = script(
        b"".join([refused[0], *kept, refused[1]]),
        refused[0] + (8).to_bytes(4, "little"),
        (9).to_bytes(4, "little"),
    )
    made = share(wrapped([bytes(32)]), threshold=2, holders=2, rand=rand)
    assert made[0, 0].tolist() == list(range(1, 10))
    assert not rand.tokens


def test_a_port_that_gives_too_little_is_refused(script):
    with pytest.raises(ConfigError, match="Rand port gave 5 bytes"):
        share(wrapped(SECRETS), threshold=2, holders=2, rand=script(bytes(5)))


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "holders"), [(1, 3), (0, 3), (4, 3), (2, 1), (2, MAX_HOLDERS + 1)]
)
def test_thresholds_out_of_range(threshold, holders, stream):
    with pytest.raises(PlanError, match="threshold"):
        share(wrapped(SECRETS), threshold=threshold, holders=holders, rand=stream("x"))


def test_too_few_shares(stream):
    made = share(wrapped(SECRETS), threshold=3, holders=4, rand=stream("few"))
    with pytest.raises(PlanError, match="2 shares with threshold 3"):
        combine(made[:2], positions=[1, 2], threshold=3)


@pytest.mark.parametrize("positions", [[1, 1], [0, 1], [-1, 2], [1, MAX_HOLDERS + 1]])
def test_positions_are_checked(positions, stream):
    made = share(wrapped(SECRETS), threshold=2, holders=2, rand=stream("x"))
    with pytest.raises(Refused, match="positions"):
        combine(made, positions=positions, threshold=2)


def test_shapes_are_checked(stream):
    made = share(wrapped(SECRETS), threshold=2, holders=2, rand=stream("x"))
    for wrong in (made[:1], made[0], made[..., :8]):
        with pytest.raises(WrongShape, match="shares"):
            combine(wrong, positions=[1, 2], threshold=2)


def test_elements_of_the_field_only(stream):
    made = share(wrapped(SECRETS), threshold=2, holders=2, rand=stream("x"))
    made[1, 0, 0] = PRIME
    with pytest.raises(Refused, match="not below"):
        combine(made, positions=[1, 2], threshold=2)
    with pytest.raises(Refused, match="not below"):
        unpack_share(pack_share(made[1]), secrets=3)


@given(column=st.integers(0, 2), limb=st.integers(0, LIMBS - 1), by=st.integers(1, PRIME - 1))
def test_a_changed_share_changes_its_secret_and_no_other(column, limb, by, stream):
    made = share(wrapped(SECRETS), threshold=3, holders=3, rand=stream("changed"))
    made[1, column, limb] = (int(made[1, column, limb]) + by) % PRIME
    found = opened(combine(made, positions=[1, 2, 3], threshold=3))
    assert found[column] != SECRETS[column]
    assert [f for i, f in enumerate(found) if i != column] == [
        s for i, s in enumerate(SECRETS) if i != column
    ]


def test_a_random_share_is_noticed_by_its_limbs(stream):
    """One in 2^23 would pass; these 500 do not."""
    made = share(wrapped([SECRETS[0]] * 500), threshold=3, holders=3, rand=stream("noticed"))
    noise = share(wrapped([SECRETS[1]] * 500), threshold=2, holders=2, rand=stream("noise"))
    made[0] = noise[0]
    assert combine(made, positions=[1, 2, 3], threshold=3) == [None] * 500


def test_a_row_travels_as_36_bytes_a_secret(stream):
    made = share(wrapped(SECRETS), threshold=2, holders=3, rand=stream("pack"))
    raw = pack_share(made[1])
    assert len(raw) == 3 * SHARE_SIZE == 108
    assert raw[:4] == int(made[1, 0, 0]).to_bytes(4, "little")
    np.testing.assert_array_equal(unpack_share(raw, secrets=3), made[1])
    for size in (0, 107, 109):
        with pytest.raises(Refused, match=f"{size} bytes, expected 108"):
            unpack_share(bytes(size), secrets=3)


def test_sharing_leaves_the_secrets_as_they_were(stream):
    secrets = wrapped(SECRETS)
    share(secrets, threshold=2, holders=2, rand=stream("kept"))
    assert opened(secrets) == SECRETS
