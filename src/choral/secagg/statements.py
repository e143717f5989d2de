"""What each signature covers: always h0 or h1, and every field that matters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from choral.core.errors import Refused
from choral.crypto.encoding import DIGEST_SIZE, digest, frame, length
from choral.crypto.merkle import Tree
from choral.crypto.signatures import SigningKey, Statement, statement, verify
from choral.secagg.messages import (
    SHARES,
    Advertise,
    Bundle,
    Complaint,
    Delivery,
    Kind,
    Result,
    ShareHashes,
    Unmask,
)
from choral.secagg.refusals import Breach, Reason

_LEAF: Final = "choral secagg standing v1"
_SHARE_HASH: Final = frame("choral secagg share hash v1") + length(DIGEST_SIZE)
_ONE: Final = length(1)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def invitation(h0: bytes) -> Statement:
    """Return what the server signs at R0."""
    return statement("secagg invitation", h0)


def enrolment(client: str, verify_key: bytes) -> Statement:
    """Return what the enrolment authority signs about a client."""
    return statement("secagg enrolment", client.encode(), verify_key)


def advertise(h0: bytes, m: Advertise) -> Statement:
    """Return what a client signs at R0."""
    return statement(
        "secagg advertise", h0, m.client.encode(), m.transport, m.mask, m.verify_key, m.enrolment
    )


def roster(h0: bytes, *, count: int, root: bytes, beacon: bytes) -> Statement:
    """Return what the server signs at R1."""
    return statement("secagg roster", h0, _number(count), root, beacon)


def hash_leaf(hashes: ShareHashes) -> bytes:
    """Return the Merkle leaf of one holder's share hashes."""
    return b"".join(hashes)


def hashes_root(m: Bundle) -> bytes:
    """Return the root of a bundle's share hashes."""
    return Tree([hash_leaf(h) for h in m.hashes]).root


def shares(h1: bytes, m: Delivery | Bundle) -> Statement:
    """Return what a dealer signs at R1."""
    if isinstance(m, Bundle):
        return dealt(h1, m.client, commitment=m.commitment, root=hashes_root(m))
    return dealt(h1, m.dealer, commitment=m.commitment, root=m.root)


def dealt(h1: bytes, dealer: str, *, commitment: bytes, root: bytes) -> Statement:
    """Return what a dealer signs at R1, from its parts."""
    return statement("secagg shares", h1, dealer.encode(), commitment, root)


def dealers(h1: bytes, names: Iterable[str]) -> bytes:
    """Return the digest of the dealers that a client masked with in this attempt."""
    return digest("choral secagg dealers v1", h1, *(name.encode() for name in sorted(names)))


def masked(h1: bytes, *, client: str, content: bytes, dealers: bytes) -> Statement:
    """Return what a client signs about its masked vector."""
    return statement("secagg masked", h1, client.encode(), content, dealers)


def survivors(h1: bytes, *, count: int, root: bytes) -> Statement:
    """Return what a client signs at R3."""
    return statement("secagg survivors", h1, _number(count), root)


def standing_leaf(client: str, *, alive: bool) -> bytes:
    """Return the Merkle leaf that says whether a member of U1 is in U3."""
    return frame(_LEAF, client.encode(), b"\1" if alive else b"\0")


def unmask(h1: bytes, m: Unmask) -> Statement:
    """Return what a client signs at R4."""
    revealed = hashlib.sha256(SHARES.write(m.revealed)).digest()
    return statement("secagg unmask", h1, m.client.encode(), revealed)


def result(m: Result) -> Statement:
    """Return what the server signs at the end."""
    return statement("secagg result", m.h1, m.root, _number(m.count), _number(m.weight), m.total)


def complaint(h0: bytes, m: Complaint) -> Statement:
    """Return what a client signs about a failed check."""
    return statement(
        "secagg complaint",
        h0,
        m.client.encode(),
        m.reason.encode(),
        m.about.encode(),
        b"\1" if m.ends else b"\0",
    )


def share_hash(
    h1: bytes, *, dealer: str, holder: str, kind: Kind, salt: bytes, share: bytes
) -> bytes:
    """Return the salted hash that a dealer publishes of a share."""
    of, to, what = dealer.encode(), holder.encode(), kind.encode()
    fields = (
        *(_SHARE_HASH, h1, length(len(of)), of, length(len(to)), to, _ONE, what),
        *(length(len(salt)), salt, length(len(share)), share),
    )
    return hashlib.sha256(b"".join(fields)).digest()


def commitment(h1: bytes, seed: bytes | memoryview) -> bytes:
    """Return the commitment to a self-mask seed."""
    return digest("choral secagg b v1", h1, bytes(seed))


def signature(key: SigningKey | None, what: Statement) -> bytes:
    """Return a signature, or nothing where there are no keys: `semi_honest`."""
    return b"" if key is None else key.sign(what)


def check_signature(
    signed: bool, public: bytes, what: Statement, given: bytes, *, reason: Reason, about: str = ""
) -> None:
    """Check a signature, or that there is none where the suite has none.

    Raises:
        Breach: With the given reason.
    """
    if not signed:
        if given:
            raise Breach(reason, "a signature in a suite that has none", about=about)
        return
    try:
        verify(public, what, given)
    except Refused as error:
        raise Breach(reason, error.message, about=about) from None
