r"""Secrets in t of n shares, over GF(2^31 - 1). Source: Shamir 1979.

A 32-byte secret, read as a little-endian number, is cut in 9 limbs of 30 bits (the last has 16), so
that each is below p = 2^31 - 1. Each limb is the constant term of a polynomial of its own, of
degree t - 1 and with uniform coefficients; a share is its values at one position x = 1, 2, …

Evaluation and interpolation are products of matrices modulo p, done in float64. Both operands are
split in 16 low and at most 15 high bits, so that a dot product of t terms is a whole number of at
most t (2^16 - 1)^2, below 2^53 for t up to 2^21: every partial sum is exact, in any order and with
or without fused steps. `MAX_HOLDERS` is far below that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import ConfigError, PlanError, Refused, WrongShape
from choral.core.ports import Rand
from choral.crypto.secret import SECRET_SIZE, Secret, draw

PRIME: Final = 2**31 - 1
LIMB_BITS: Final = 30
LIMBS: Final = 9
MAX_HOLDERS: Final = 4096
"""The powers of all positions take 16 n t bytes."""
SHARE_SIZE: Final = 4 * LIMBS
"""Bytes of one holder's share of one secret."""

Shares: TypeAlias = npt.NDArray[np.uint32]
"""Shape `[holders, secrets, LIMBS]`, elements below `PRIME`; row i is for position i + 1."""

_Residues: TypeAlias = npt.NDArray[np.int64]
_Split: TypeAlias = npt.NDArray[np.float64]
_COLUMN_CELLS: Final = 1 << 20


_DRAWS: Final = 64
"""Draws after which a source that gives p every time, of which the chance is 2^-31, is refused."""


def share(secrets: Sequence[Secret], *, threshold: int, holders: int, rand: Rand) -> Shares:
    """Return shares of some secrets, any `threshold` of which give them back.

    Guarantees: fewer than `threshold` shares have the same distribution whatever the secrets are.
    Not in here: that a dealer is honest; publish a salted hash of every share.

    Args:
        secrets: What to share; each is shared on its own.
        threshold: t, 2 to `holders`.
        holders: n, up to `MAX_HOLDERS`.
        rand: Source of the coefficients.

    Returns:
        uint32, shape `[holders, len(secrets), LIMBS]`.

    Raises:
        PlanError: Threshold or holders are out of range.
    """
    if not 2 <= threshold <= holders <= MAX_HOLDERS:
        raise PlanError(
            f"shares for {holders} holders with threshold {threshold}: "
            f"expected 2 <= threshold <= holders <= {MAX_HOLDERS}"
        )
    columns = len(secrets) * LIMBS
    coefficients = np.empty((threshold, columns), np.int64)
    coefficients[0] = _to_limbs(secrets)
    coefficients[1:] = _uniform((threshold - 1) * columns, rand).reshape(threshold - 1, columns)
    values = _multiply(_powers(holders, threshold), coefficients)
    coefficients.fill(0)
    shares = values.astype(np.uint32).reshape(holders, len(secrets), LIMBS)
    values.fill(0)
    return shares


def combine(shares: Shares, *, positions: Sequence[int], threshold: int) -> list[Secret | None]:
    """Return the secrets that the first `threshold` shares stand for; the others are not looked at.

    One changed share changes every secret it is part of. It is noticed here only where a limb
    leaves its range (all but about one in 2^23 random changes); who sent it is not. So check what
    comes out against a commitment or public key, and each share against its hash.

    Args:
        shares: Shape `[holders, secrets, LIMBS]`, of secrets that were all shared among the same
            positions; many clients' secrets cost little more than one.
        positions: x of each row, from 1.
        threshold: t, as they were shared.

    Returns:
        A secret for each column, None where the shares do not stand for any.

    Raises:
        PlanError: There are fewer than `threshold` shares.
        Refused: A position is out of range or there twice, or an element is not below `PRIME`.
        WrongShape: The array does not have this shape.
    """
    if shares.ndim != 3 or shares.shape[::2] != (len(positions), LIMBS):
        raise WrongShape(
            f"shares {list(shares.shape)}, expected [{len(positions)}, secrets, {LIMBS}]"
        )
    if not 2 <= threshold <= len(positions):
        raise PlanError(f"{len(positions)} shares with threshold {threshold}: too few")
    rows = shares[:threshold]
    if rows.size and int(rows.max()) >= PRIME:
        raise Refused(f"a share holds an element that is not below {PRIME}")
    weights = _lagrange(tuple(positions[:threshold]))
    limbs = _multiply(weights, rows.reshape(threshold, shares.shape[1] * LIMBS))
    limbs = limbs.reshape(shares.shape[1], LIMBS)
    found = _from_limbs(limbs)
    limbs.fill(0)
    return found


def pack_share(row: Shares) -> bytes:
    """Return one holder's shares, `[secrets, LIMBS]`, as 36 bytes a secret, little endian."""
    return row.astype("<u4").tobytes()


def unpack_shares(raws: Sequence[bytes], *, secrets: int) -> Shares:
    """Return the shares that `pack_share` packed, of one holder each: `[holders, secrets, LIMBS]`.

    Raises:
        Refused: Another length, or an element is not below `PRIME`.
    """
    size = secrets * SHARE_SIZE
    wrong = [raw for raw in raws if len(raw) != size]
    if wrong:
        raise Refused(f"a share of {len(wrong[0])} bytes, expected {size}")
    rows = np.frombuffer(b"".join(raws), "<u4").astype(np.uint32)
    if rows.size and int(rows.max()) >= PRIME:
        raise Refused(f"a share holds an element that is not below {PRIME}")
    return rows.reshape(len(raws), secrets, LIMBS)


def unpack_share(raw: bytes, *, secrets: int) -> Shares:
    """Return the shares of one holder, `[secrets, LIMBS]`.

    Raises:
        Refused: As `unpack_shares`.
    """
    row: Shares = unpack_shares([raw], secrets=secrets)[0]
    return row


def _to_limbs(secrets: Sequence[Secret]) -> _Residues:
    """Return the limbs of all secrets in a row."""
    raw = np.frombuffer(bytearray().join(s.expose() for s in secrets), np.uint8)
    bits = np.zeros((len(secrets), LIMBS * LIMB_BITS), np.uint8)
    bits[:, : 8 * SECRET_SIZE] = np.unpackbits(raw, bitorder="little").reshape(
        len(secrets), 8 * SECRET_SIZE
    )
    cells = np.zeros((len(secrets), LIMBS, 32), np.uint8)
    cells[..., :LIMB_BITS] = bits.reshape(len(secrets), LIMBS, LIMB_BITS)
    limbs = np.packbits(cells, axis=-1, bitorder="little").view("<u4").astype(np.int64)
    for used in (raw, bits, cells):
        used.fill(0)
    return limbs.ravel()  # no copy: the caller overwrites it


def _from_limbs(limbs: _Residues) -> list[Secret | None]:
    """Return the secret of each row of limbs, None where a limb has too many bits."""
    top = 8 * SECRET_SIZE - LIMB_BITS * (LIMBS - 1)
    valid = (limbs[:, :-1] >> LIMB_BITS == 0).all(axis=1) & (limbs[:, -1] >> top == 0)
    raw = limbs.astype("<u4").view(np.uint8).reshape(len(limbs), LIMBS, 4)
    bits = np.unpackbits(raw, axis=-1, bitorder="little")[..., :LIMB_BITS]
    flat = bits.reshape(len(limbs), LIMBS * LIMB_BITS)[:, : 8 * SECRET_SIZE]
    packed = np.packbits(flat, axis=-1, bitorder="little")
    found = [Secret(row.data) if ok else None for row, ok in zip(packed, valid, strict=True)]
    for used in (raw, bits, packed):
        used.fill(0)
    return found


def _uniform(count: int, rand: Rand) -> _Residues:
    """Return uniform elements of the field: 31 bits each, p itself drawn again."""
    out = np.empty(count, np.int64)
    done = 0
    for _ in range(_DRAWS):
        if done == count:
            return out
        words = np.frombuffer(draw(rand, 4 * (count - done)), "<u4") & np.uint32(PRIME)
        kept = words[words != PRIME]
        out[done : done + kept.size] = kept
        done += kept.size
    raise ConfigError("the Rand port is stuck: it gives p over and over")


def _modulo(x: _Residues) -> _Residues:
    """Return x mod p for 0 <= x < 2^62: 2^31 is 1 there, so high bits are added to low ones."""
    x = (x & PRIME) + (x >> 31)
    x = (x & PRIME) + (x >> 31)
    x[x >= PRIME] -= PRIME
    return x


def _split(matrix: _Residues) -> _Split:
    """Return the high parts of a matrix above its low parts."""
    out = np.empty((2, *matrix.shape))
    out[0] = matrix >> 16
    out[1] = matrix & 0xFFFF
    return out.reshape(2 * matrix.shape[0], matrix.shape[1])


def _multiply(left: _Split, right: npt.NDArray[np.integer]) -> _Residues:
    """Return a product modulo p.

    Args:
        left: `_split` of a `[rows, t]` matrix.
        right: `[t, columns]`, elements in 0 to p - 1.
    """
    terms, columns = right.shape
    out = np.empty((left.shape[0] // 2, columns), np.int64)
    step = max(1, _COLUMN_CELLS // terms)
    for first in range(0, columns, step):
        part = right[:, first : first + step]
        width = part.shape[1]
        pieces = np.empty((terms, 2 * width))
        pieces[:, :width] = part >> 16
        pieces[:, width:] = part & 0xFFFF
        products = (left @ pieces).astype(np.int64).reshape(2, -1, 2 * width)
        high, low = products[0, :, :width], products[1, :, width:]
        middle = products[0, :, width:] + products[1, :, :width]
        # 2^32 is 2 modulo p; each of the three is below 2^53 before its own reduction.
        total = (_modulo(high) << 1) + (_modulo(middle) << 16) + _modulo(low)
        out[:, first : first + step] = _modulo(total)
        pieces.fill(0)
    return out


@lru_cache(maxsize=4)
def _powers(holders: int, threshold: int) -> _Split:
    """Return x^j for x = 1 to `holders` and j below `threshold`, split."""
    table = np.ones((threshold, holders), np.int64)
    power = np.arange(1, holders + 1, dtype=np.int64)
    done = 1
    while done < threshold:
        more = min(done, threshold - done)
        table[done : done + more] = _modulo(table[:more] * power)
        power = _modulo(power * power)
        done += more
    return _split(np.ascontiguousarray(table.T))


@lru_cache(maxsize=256)
def _lagrange(positions: tuple[int, ...]) -> _Split:
    """Return the weights of these positions at 0, as one split row.

    The weight of x is the product of y / (y - x) over the other positions y: the product of all
    positions, over x times that of y - x.
    """
    if len(set(positions)) != len(positions) or not all(1 <= x <= MAX_HOLDERS for x in positions):
        raise Refused(f"share positions are not different numbers in 1 to {MAX_HOLDERS}")
    x = np.array(positions, np.int64)
    below = (x[None, :] - x[:, None]) % PRIME
    np.fill_diagonal(below, x)
    above = 1
    for position in positions:
        above = above * position % PRIME
    inverse = [pow(value, -1, PRIME) for value in _product(below).tolist()]
    return _split(_modulo(above * np.array(inverse, np.int64))[None, :])


def _product(matrix: _Residues) -> _Residues:
    """Return the product of each row modulo p."""
    while matrix.shape[1] > 1:
        half = matrix.shape[1] // 2
        folded = _modulo(matrix[:, :half] * matrix[:, half : 2 * half])
        matrix = np.concatenate([folded, matrix[:, 2 * half :]], axis=1)
    return matrix[:, 0]
