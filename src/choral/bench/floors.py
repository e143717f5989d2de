"""The primitives of secure aggregation by hand: what no implementation of the protocol can avoid.

Nothing here is of `choral.crypto`: a floor that called the code beside it would measure itself.
`Floors` samples all of them again and again while an attempt runs, so that whatever slows the
machine for a while slows both.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BUFFER: Final = 256 << 10
"""Bytes of key stream at a time."""
P: Final = 2**31 - 1
COLUMNS: Final = 18
"""Two secrets of nine limbs."""
_ZEROS: Final = bytes(BUFFER)
_SEALED: Final = 136
_STATEMENT: Final = 160
_DTYPES: Final = {16: "<u2", 24: "<u4", 32: "<u4", 64: "<u8"}
_LARGE: Final = 4 << 20

Vector: TypeAlias = npt.NDArray[Any]
Ints: TypeAlias = npt.NDArray[np.int64]
Doubles: TypeAlias = npt.NDArray[np.float64]


def add_mask(vector: Vector, key: bytes, *, modulus_bits: int, buffer: Vector) -> None:
    """Add one AES-256-CTR key stream to a vector in place; `buffer` has `BUFFER` + 16 bytes."""
    width, step = modulus_bits // 8, BUFFER // vector.itemsize
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    zeros = memoryview(_ZEROS)
    for at in range(0, vector.size, step):
        part = vector[at : at + step]
        stream.update_into(zeros[: part.size * width], buffer.data)
        mask = np.ndarray((part.size,), vector.dtype, buffer=buffer, strides=(width,))
        np.add(part, mask, out=part)
        if modulus_bits == 24:
            np.bitwise_and(part, 0xFFFFFF, out=part)


def split(matrix: Ints) -> Doubles:
    """Return the high 15 bits of a matrix above its low 16."""
    return np.concatenate([matrix >> 16, matrix & 0xFFFF]).astype(np.float64)


def powers(holders: int, threshold: int) -> Doubles:
    """Return x^j modulo p for the positions x = 1 to `holders`, split."""
    x, rows = np.arange(1, holders + 1, dtype=np.int64), [np.ones(holders, np.int64)]
    for _ in range(threshold - 1):
        rows.append(rows[-1] * x % P)
    return split(np.stack(rows, axis=1))


def product(left: Doubles, right: Ints) -> Ints:
    """Return a split matrix times residues modulo p: one exact product of doubles."""
    width = right.shape[1]
    pieces = np.concatenate([right >> 16, right & 0xFFFF], axis=1).astype(np.float64)
    both = (left @ pieces).astype(np.int64)
    half = len(both) // 2
    middle = both[:half, width:] + both[half:, :width]
    high, low = both[:half, :width] % P << 1, both[half:, width:]
    found: Ints = (high + (middle % P << 16) + low) % P
    return found


def weights(positions: Ints) -> Ints:
    """Return the Lagrange weights at 0: the product of all x, over x times that of y - x."""
    factors = (positions[None, :] - positions[:, None]) % P
    np.fill_diagonal(factors, positions)
    while factors.shape[1] > 1:
        half = factors.shape[1] // 2
        rest = factors[:, 2 * half :]
        factors = np.concatenate([factors[:, :half] * factors[:, half : 2 * half] % P, rest], 1)
    whole = 1
    for x in positions.tolist():
        whole = whole * x % P
    return np.array([whole * pow(f, -1, P) % P for f in factors[:, 0].tolist()], np.int64)


class Floors:
    """CPU seconds of each primitive, sampled on demand.

    Args:
        size: Elements of a vector.
        modulus_bits: m.
        holders: Holders of one client's shares.
        threshold: t.
    """

    def __init__(self, *, size: int, modulus_bits: int, holders: int, threshold: int) -> None:
        few = 1 if size > _LARGE else 3
        self._calls = {
            **_vector_calls(size, modulus_bits, few),
            **_key_calls(),
            **_share_calls(holders, threshold),
        }
        self._seen: dict[str, list[float]] = {name: [] for name in self._calls}

    def sample(self) -> None:
        """Measure each primitive, after one call that is not counted."""
        for name, (call, times) in self._calls.items():
            call()
            started = time.thread_time()
            for _ in range(times):
                call()
            self._seen[name].append((time.thread_time() - started) / times)

    def seconds(self) -> dict[str, float]:
        """Return the mean of each primitive; means, since what stands beside them are sums."""
        return {name: fmean(seen) for name, seen in self._seen.items()}


_Calls: TypeAlias = dict[str, tuple[Callable[[], object], int]]


def _vector_calls(size: int, modulus_bits: int, times: int) -> _Calls:
    # Ones: pages of zeros that nobody wrote to are one and the same page.
    total, other = np.ones((2, size), _DTYPES[modulus_bits])
    packed = memoryview(bytearray(b"\1") * (size * modulus_bits // 8))
    key, buffer = os.urandom(32), np.ones(BUFFER + 16, np.uint8)
    return {
        "mask": (
            lambda: add_mask(total, key, modulus_bits=modulus_bits, buffer=buffer),
            times,
        ),
        "add": (lambda: np.add(total, other, out=total), times),
        "hash": (lambda: hashlib.sha256(packed).digest(), times),
    }


def _key_calls() -> _Calls:
    mine, peer = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = peer.public_key().public_bytes_raw()
    signer, what = Ed25519PrivateKey.generate(), os.urandom(_STATEMENT)
    verify_key, signature = signer.public_key().public_bytes_raw(), signer.sign(what)
    key, aad, plain = os.urandom(32), os.urandom(_STATEMENT), os.urandom(_SEALED)
    sealed = AESGCM(key).encrypt(bytes(12), plain, aad)

    def make_key() -> bytes:
        return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()

    return {
        "make_key": (make_key, 4),
        "agree": (lambda: mine.exchange(X25519PublicKey.from_public_bytes(public)), 4),
        "sign": (lambda: signer.sign(what), 4),
        "verify": (
            lambda: Ed25519PublicKey.from_public_bytes(verify_key).verify(signature, what),
            4,
        ),
        "seal": (lambda: AESGCM(key).encrypt(bytes(12), plain, aad), 8),
        "open": (lambda: AESGCM(key).decrypt(bytes(12), sealed, aad), 8),
    }


def _share_calls(holders: int, threshold: int) -> _Calls:
    table = powers(holders, threshold)
    positions = np.arange(holders - threshold + 1, holders + 1, dtype=np.int64)
    row = split(weights(positions)[None, :])
    shares = np.frombuffer(os.urandom(4 * threshold * COLUMNS // 2), "<u4").astype(np.int64) % P
    shares = shares.reshape(threshold, COLUMNS // 2)

    def deal() -> Ints:
        drawn = np.frombuffer(os.urandom(4 * threshold * COLUMNS), "<u4").astype(np.int64) % P
        return product(table, drawn.reshape(threshold, COLUMNS))

    return {
        "deal": (deal, 1),
        "weights": (lambda: weights(positions), 1),
        "join": (lambda: product(row, shares), 4),
    }
