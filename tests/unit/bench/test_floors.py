import numpy as np
import pytest

from choral.bench import floors
from choral.crypto import shamir
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.testing.fakes import SeededRand

KEY = bytes(range(32))


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
@pytest.mark.parametrize("size", [1, 65_536, 140_001])
def test_the_bare_mask_is_the_mask(bits, size):
    ring = Ring(bits)
    ours = ring.zeros(size)
    by_hand = ours.copy()
    Mask(Generator.AES_256_CTR, Secret(KEY), ring=ring).add_into(ours, start=0, sign=1)
    buffer = np.empty(floors.BUFFER + 16, np.uint8)
    floors.add_mask(by_hand, KEY, modulus_bits=bits, buffer=buffer)
    np.testing.assert_array_equal(by_hand, ours)


@pytest.mark.parametrize(("holders", "threshold"), [(2, 2), (7, 4), (100, 67), (300, 200)])
def test_sharing_by_hand_is_exact(holders, threshold):
    rng = np.random.default_rng(1)
    coefficients = rng.integers(0, floors.P, (threshold, floors.COLUMNS))
    coefficients[-1] = floors.P - 1
    shares = floors.product(floors.powers(holders, threshold), coefficients)
    for x in (1, holders):
        value = 0
        for row in coefficients[::-1].astype(object):
            value = (value * x + row) % floors.P
        assert shares[x - 1].tolist() == value.tolist()
    positions = rng.permutation(holders)[:threshold] + 1
    row = floors.split(floors.weights(positions)[None, :])
    found = floors.product(row, shares[positions - 1])
    assert found[0].tolist() == coefficients[0].tolist()


def test_joining_by_hand_gives_the_secret_that_was_shared():
    secrets = [Secret(KEY), Secret(bytes(32))]
    dealt = shamir.share(secrets, threshold=4, holders=7, rand=SeededRand(1))
    positions = np.array([7, 2, 3, 5])
    shares = dealt[positions - 1].reshape(4, floors.COLUMNS).astype(np.int64)
    limbs = floors.product(floors.split(floors.weights(positions)[None, :]), shares)[0]
    number = sum(int(limb) << 30 * i for i, limb in enumerate(limbs[: shamir.LIMBS]))
    assert number.to_bytes(32, "little") == KEY


def test_every_primitive_is_sampled():
    found = floors.Floors(size=1000, modulus_bits=24, holders=5, threshold=3)
    found.sample()
    found.sample()
    seconds = found.seconds()
    assert set(seconds) == {
        "mask", "add", "hash", "make_key", "agree", "sign", "verify", "seal", "open", "deal",
        "weights", "join",
    }  # fmt: skip
    assert all(0 < value < 1 for value in seconds.values())
