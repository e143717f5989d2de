"""Print the CPU time of the primitives beside the floors of the design; nothing is asserted.

Run by hand: python tests/unit/crypto/timing.py
"""

import hashlib
import time

import numpy as np
from threadpoolctl import threadpool_limits

from choral.core.keys import Key
from choral.crypto import shamir
from choral.crypto.agreement import AgreementKey
from choral.crypto.derivation import Purpose, derive_key
from choral.crypto.fixed_point import FixedPoint
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey, statement, verify

SIZE = 1_000_000


class Stream:
    """Repeatable bytes, fast enough not to be what is measured."""

    def token(self, size):
        return hashlib.shake_256(b"timing").digest(size)


RAND = Stream()


def show(name, floor_ms, call, *, times=1):
    """Print the median of nine measurements, each of `times` calls."""
    taken = []
    for _ in range(9):
        start = time.process_time()
        for _ in range(times):
            call()
        taken.append((time.process_time() - start) / times * 1e3)
    floor = f"{floor_ms:8.2f}" if floor_ms else "       -"
    print(f"{name:44s} {np.median(taken):8.3f} ms   floor {floor} ms")


def masks():
    for generator in Generator:
        for bits in (16, 24, 32, 64):
            ring = Ring(bits)
            out = ring.zeros(SIZE)

            def one(generator=generator, ring=ring, out=out):
                key = Secret(bytes(32))
                Mask(generator, key, ring=ring).add_into(out, start=0, sign=1)

            floor = 0.8 if bits == 32 and generator is Generator.AES_256_CTR else None
            show(f"mask of 1 M elements, {generator.name}, m = {bits}", floor, one)


def shares():
    for holders, threshold, floor in ((37, 19, None), (100, 67, 0.3), (1000, 667, 100.0)):
        secrets = [Secret.random(RAND), Secret.random(RAND)]

        def deal(secrets=secrets, holders=holders, threshold=threshold):
            return shamir.share(secrets, threshold=threshold, holders=holders, rand=RAND)

        def deal_anew(deal=deal):
            shamir._powers.cache_clear()
            deal()

        rows, positions = deal()[:threshold], range(1, threshold + 1)

        def join_anew(rows=rows, positions=positions, threshold=threshold):
            shamir._lagrange.cache_clear()
            shamir.combine(rows, positions=positions, threshold=threshold)

        show(f"shares of two secrets, n = {holders}, first", floor, deal_anew)
        show(f"shares of two secrets, n = {holders}", floor, deal, times=5)
        show(f"two secrets from {threshold} shares, first", None, join_anew)
    many = np.tile(rows[:, :1], (1, 100, 1))
    show(
        "100 secrets from 667 shares, same survivors",
        None,
        lambda: shamir.combine(many, positions=positions, threshold=667),
    )


def keys():
    mine, peer = AgreementKey.random(RAND), AgreementKey(Secret(bytes(32)))
    shared = mine.exchange(peer.public)
    show("X25519 exchange", 0.11, lambda: mine.exchange(peer.public), times=50)
    show("X25519 key pair", None, lambda: AgreementKey.random(RAND), times=50)

    def derive():
        derive_key(shared, purpose=Purpose.PAIR_MASK, transcript=bytes(32), ids=("a", "b"))

    show("key derivation", None, derive, times=50)
    signer, what = SigningKey.random(RAND), statement("timing", bytes(32))
    signature = signer.sign(what)
    show("Ed25519 verify", 0.15, lambda: verify(signer.public, what, signature), times=50)
    show("Ed25519 sign", None, lambda: signer.sign(what), times=50)


def grids():
    x = Key.root(1).rng().normal(size=SIZE).astype(np.float32)
    for bits, modulus in ((12, 16), (16, 24), (20, 32), (36, 64)):
        fixed = FixedPoint(Ring(modulus), bits, 4.0)
        out = fixed.ring.zeros(SIZE)

        def encode(fixed=fixed, out=out):
            fixed.encode_into(x, out, start=0, key=Key.root(1), weight=0.5)

        show(f"encode 1 M coordinates, m = {modulus}", 15.0, encode)
        show(
            f"decode 1 M coordinates, m = {modulus}",
            None,
            lambda fixed=fixed, out=out: fixed.decode(out, count=1, slack=0),
        )


if __name__ == "__main__":
    with threadpool_limits(1):
        masks()
        shares()
        keys()
        grids()
