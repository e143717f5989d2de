"""Hashes, trees, graphs, shares, masks and the grid, as the page of the wire format reads.

Written from docs/reference/secure-aggregation-wire.md, to be slow and plain: Python integers, the
standard library and the `cryptography` package. Not one line comes from Choral.
"""

import hashlib
import hmac
import math
from fractions import Fraction

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

P = 2**31 - 1
FIELD = 2**255 - 19


class Refusal(Exception):
    """A check failed; `reason` is the word that travels in a complaint."""

    def __init__(self, reason, about=""):
        super().__init__(reason, about)
        self.reason = reason
        self.about = about


def check(holds, reason, about=""):
    if not holds:
        raise Refusal(reason, about)


# --- framing and hashes ---------------------------------------------------------------------------


def number(i):
    return i.to_bytes(8, "little")


def frame(*parts):
    out = b""
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        out += number(len(raw)) + raw
    return out


def unframe(raw):
    parts = []
    while raw:
        check(len(raw) >= 8, "malformed_message")
        size = int.from_bytes(raw[:8], "little")
        check(len(raw) >= 8 + size, "malformed_message")
        parts.append(raw[8 : 8 + size])
        raw = raw[8 + size :]
    return parts


def sha256(raw):
    return hashlib.sha256(raw).digest()


def hashed(label, *fields):
    return sha256(frame(label, *fields))


def statement(label, *fields):
    return frame("choral statement v1", label, *fields)


# --- X25519, Ed25519, HKDF, AES-256-GCM -----------------------------------------------------------


def public_of(private):
    return x25519.X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def canonical(public):
    """A key of 32 bytes with one spelling whose order does not divide 8."""
    u = int.from_bytes(public, "little")
    return len(public) == 32 and u < FIELD and not order_divides_8(u)


def order_divides_8(u):
    x, z = u, 1  # doubled three times by RFC 7748; z = 0 is infinity
    for _ in range(3):
        plus, minus = (x + z) ** 2, (x - z) ** 2
        x, z = plus * minus % FIELD, (plus - minus) * (plus + 121665 * (plus - minus)) % FIELD
    return z == 0


def exchange(private, public, about=""):
    check(canonical(public), "bad_public_key", about)
    mine = x25519.X25519PrivateKey.from_private_bytes(private)
    try:
        return mine.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError:  # 32 zero bytes
        raise Refusal("bad_public_key", about) from None


def signing_public_of(seed):
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed, what):
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed).sign(what)


ORDER_8 = int("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16)
LOW_ORDER = (0, 1, FIELD - 1, ORDER_8, FIELD - ORDER_8)


def verifies(public, what, signature):
    y = int.from_bytes(public, "little") % 2**255
    if len(public) != 32 or len(signature) != 64 or y >= FIELD or y in LOW_ORDER:
        return False
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, what)
    except (InvalidSignature, ValueError):
        return False
    return True


def hkdf(secret, salt, info):
    """The first 32 bytes of HKDF-SHA256: one block of the expansion."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")


def derived(secret, purpose, h1, *ids):
    return hkdf(secret, h1, frame("choral key derivation v1", purpose, *ids))


def sealing_key(shared, h1, sender, receiver):
    return derived(shared, "share transport", h1, sender, receiver)


def pair_mask_key(shared, h1, one, other):
    return derived(shared, "pair mask", h1, *sorted((one, other), key=str.encode))


def self_mask_key(seed, h1, client):
    return derived(seed, "self mask", h1, client)


def seal(key, plain, h1, dealer, holder):
    aad = frame("choral secagg sealed v1", h1, dealer, holder)
    return AESGCM(key).encrypt(bytes(12), plain, aad)


def unseal(key, sealed, h1, dealer, holder):
    aad = frame("choral secagg sealed v1", h1, dealer, holder)
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, aad)
    except InvalidTag:
        raise Refusal("sealed_share_does_not_open", dealer) from None


# --- Merkle trees ---------------------------------------------------------------------------------


def tree_levels(leaves):
    """All levels, from the hashes of the leaves to the root."""
    level = [sha256(b"\0" + leaf) for leaf in leaves]
    levels = [level]
    while len(level) > 1:
        above = [sha256(b"\1" + level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
        levels.append(level)
    return levels


def tree_root(leaves):
    return tree_levels(leaves)[-1][0] if leaves else sha256(b"")


def tree_proof(levels, index):
    proof = []
    for level in levels[:-1]:
        beside = index - 1 if index % 2 else index + 1
        if beside < len(level):
            proof.append(level[beside])
        index //= 2
    return proof


def included(leaf, index, size, proof, root):
    """Climb level by level, as the tree was built."""
    if not 0 <= index < size:
        return False
    found, rest = sha256(b"\0" + leaf), list(proof)
    while size > 1:
        alone = index == size - 1 and size % 2 == 1
        if not alone:
            if not rest:
                return False
            beside = rest.pop(0)
            found = sha256(b"\1" + (beside + found if index % 2 else found + beside))
        index, size = index // 2, (size + 1) // 2
    return not rest and found == root


# --- graph ----------------------------------------------------------------------------------------


def sides_of(index, count, k, seed):
    """The neighbours before and after an index on the circle; None where all neighbour all."""
    degree = min(k, count - 1)
    if degree == count - 1:
        return None
    place = {i: sha256(b"choral secagg place v1" + seed + number(i)) for i in range(count)}
    circle = sorted(range(count), key=place.__getitem__)
    at, half = circle.index(index), degree // 2
    before = [circle[(at - step) % count] for step in range(1, half + 1)]
    return before, [circle[(at + step) % count] for step in range(1, half + 1)]


def holders_of(index, count, k, seed):
    """The closed neighbourhood of an index, ascending."""
    sides = sides_of(index, count, k, seed)
    return list(range(count)) if sides is None else sorted([*sides[0], *sides[1], index])


# --- Shamir ---------------------------------------------------------------------------------------


def limbs_of(secret):
    value = int.from_bytes(secret, "little")
    return [value >> (30 * i) & (2**30 - 1) for i in range(9)]


def secret_of(limbs):
    """The secret, or None where a limb has too many bits."""
    if any(limb >= 2**30 for limb in limbs) or limbs[8] >= 2**16:
        return None
    return sum(limb << (30 * i) for i, limb in enumerate(limbs)).to_bytes(32, "little")


def field_elements(count, draw):
    kept = []
    while len(kept) < count:
        raw = draw(4 * (count - len(kept)))
        words = [int.from_bytes(raw[i : i + 4], "little") % 2**31 for i in range(0, len(raw), 4)]
        kept += [word for word in words if word != P]
    return kept


def shares_of(secrets, t, holders, draw):
    """For each position from 1, the shares of all secrets, 36 bytes each."""
    constants = [limb for secret in secrets for limb in limbs_of(secret)]
    width = len(constants)
    drawn = field_elements(width * (t - 1), draw)
    polynomials = [[c, *drawn[i::width]] for i, c in enumerate(constants)]
    dealt = []
    for x in range(1, holders + 1):
        values = []
        for polynomial in polynomials:
            value = 0
            for coefficient in reversed(polynomial):
                value = (value * x + coefficient) % P
            values.append(value)
        rows = [values[i : i + 9] for i in range(0, width, 9)]
        dealt.append([b"".join(v.to_bytes(4, "little") for v in row) for row in rows])
    return dealt


def secret_from(points):
    """The secret behind {position: share}, or None; as many points as the threshold."""
    limbs = [0] * 9
    for x, share in points.items():
        weight = 1
        for y in points:
            if y != x:
                weight = weight * y * pow(y - x, -1, P) % P
        for i in range(9):
            value = int.from_bytes(share[4 * i : 4 * i + 4], "little")
            if value >= P:
                return None
            limbs[i] = (limbs[i] + weight * value) % P
    return secret_of(limbs)


# --- masks and vectors ----------------------------------------------------------------------------


def key_stream(generator, key, size):
    if generator == 1:
        # Counter mode written out: each counter is encrypted as a block of its own.
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        blocks = b"".join(i.to_bytes(16, "big") for i in range(-(-size // 16)))
        return cipher.update(blocks)[:size]
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return cipher.update(bytes(size))


def pack(elements, m):
    return b"".join(e.to_bytes(m // 8, "little") for e in elements)


def unpack(raw, m):
    width = m // 8
    return [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]


def mask_of(generator, key, m, size):
    return unpack(key_stream(generator, key, size * m // 8), m)


def added(vector, other, sign, m):
    return [(a + sign * b) % 2**m for a, b in zip(vector, other, strict=True)]


# --- fixed point ----------------------------------------------------------------------------------


def encoded(x, m, bits, clip, draw, weight=1.0):
    """A coordinate as an element; `draw` is 0 to 2^16 - 1."""
    check(math.isfinite(x), "wrong_vector")
    limit = float(2 ** (bits - 1) - 1)
    y = x * (limit / clip)
    y = max(-limit, min(limit, y))
    if weight != 1:
        y *= weight
    return math.floor(y + (draw + 0.5) / 2**16) % 2**m


def decoded(element, m, bits, clip):
    signed = element - 2**m if element >= 2 ** (m - 1) else element
    return signed * (clip / (2 ** (bits - 1) - 1))


# --- parameters -----------------------------------------------------------------------------------


def tail(population, marked, draws, x):
    """P(at least x marked among the drawn), exact."""
    ways = math.comb(population, draws)
    hit = sum(
        math.comb(marked, i) * math.comb(population - marked, draws - i)
        for i in range(max(x, 0), min(draws, marked) + 1)
    )
    return Fraction(hit, ways)


def log2(probability):
    if probability == 0:
        return -math.inf
    return math.log2(probability.numerator) - math.log2(probability.denominator)


def down(fraction, n):
    return math.floor(fraction * n + 1e-9)


def up(fraction, n):
    return min(n, math.ceil(fraction * n - 1e-9))


def least_listed(p):
    n = p["clients"]
    return 2 if p["k"] == n - 1 else n - down(p["dropout"], n)


def others(p):
    strict = p["suite"] == "graph" and not p["beacon"]
    return (least_listed(p) if strict else p["clients"]) - 1


def side_floor(p):
    n, k = p["clients"], p["k"]
    if p["suite"] == "semi_honest" or k == n - 1:
        return 0
    o = others(p)
    corrupt, g = up(p["corrupt"], n), 0
    while 2 * log2(n * tail(o, min(o, corrupt), k // 2, g)) - 1 > -p["sigma"] - 8:
        g += 1
    g = min(g, corrupt // 2 + 1)
    return max(g, 2 * g + 1 + k // 2 - p["t"])


def secure(p):
    """Whether t shares on a random graph keep what sigma promises.

    More shares are never less secure, so t is at least the smallest one if t itself is secure.
    """
    n, k, t, o = p["clients"], p["k"], p["t"], others(p)
    if k > o:
        return False
    corrupt = up(p["corrupt"], n)
    exposed = min(o, corrupt + up(p["dropout"], n))
    bad = tail(o, exposed, k, k) + tail(o, exposed, k // 2, k // 2) ** 2 * n / 2
    if p["suite"] == "semi_honest":
        bad += tail(n, corrupt, k + 1, t)
    else:
        bad += tail(o, min(corrupt, o), k, min(max(2 * t - k - 1, 0), k + 1))
    return log2(n * bad) <= -p["sigma"] + 1e-6 and side_floor(p) <= k // 2


def strong(p):
    """Whether parameters are as strong as they say."""
    n, k, t, gamma, delta = p["clients"], p["k"], p["t"], p["corrupt"], p["dropout"]
    suite, complete = p["suite"], p["k"] == p["clients"] - 1
    there = 2 <= n <= 100_000 and 1 <= k < min(n, 4096) and (complete or k % 2 == 0)
    there = there and 0 <= gamma < 1 and 0 <= delta < 1 and 2 <= t <= k + 1
    if not there or (suite == "graph" and n <= 128) or (suite == "full" and not complete):
        return False
    if suite != "semi_honest" and gamma + 2 * delta >= 1:
        return False
    if complete and suite == "semi_honest":
        return t >= n // 2 + 1 and down(gamma, n) <= t - 1
    if complete:
        return t >= (n + n // 3) // 2 + 1 and down(gamma, n) <= n // 3
    if p["sigma"] < (40 if suite == "semi_honest" or p["beacon"] else 80):
        return False
    return secure(p)
