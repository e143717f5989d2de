"""What travels, with one encoding each. S → C from the server, C → S from a client.

| step | S → C | C → S |
|---|---|---|
| R0 | `Invitation` | `Advertise` |
| R1 | `Roster` | `Bundle` |
| R2 | `Deliveries` | `Masked`, then the vector's bytes |
| R3 | `Survivors` | `Consent` |
| R4 | `Consents` | `Unmask` |
| end | `Result` | |
| any | | `Complaint` |
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

from choral.crypto.encoding import DIGEST_SIZE, framed, length
from choral.crypto.shamir import SHARE_SIZE
from choral.secagg.codec import (
    DIGEST,
    DIGESTS,
    FLAG,
    NATURAL,
    SIGNATURE,
    TEXT,
    Block,
    Many,
    Raw,
    Record,
    Word,
    alone,
    malformed,
    split,
)
from choral.secagg.context import CONTEXT, Context
from choral.secagg.refusals import Reason

SALT_SIZE: Final = 32
SEALED_SIZE: Final = 2 * SHARE_SIZE + 2 * SALT_SIZE + 16


class Kind(enum.StrEnum):
    """Which secret a share is of; a holder reveals one kind for each dealer, never both."""

    SELF_MASK = "b"
    MASK_KEY = "s"


@dataclass(frozen=True, slots=True)
class Invitation:
    """R0: the context, signed by the server."""

    context: Context
    signature: bytes


@dataclass(frozen=True, slots=True)
class Advertise:
    """R0: a client's keys of this attempt.

    Attributes:
        client: Its id.
        transport: X25519 public key c.
        mask: X25519 public key s.
        verify_key: Its enrolled Ed25519 key; empty in `semi_honest`.
        enrolment: The authority's signature over id and key; empty in `semi_honest`.
        signature: Over h0 and all of these.
    """

    client: str
    transport: bytes
    mask: bytes
    verify_key: bytes
    enrolment: bytes
    signature: bytes


@dataclass(frozen=True)
class Member:
    """An entry of U1, with its proof where the receiver does not see all of them."""

    index: int
    advertise: Advertise
    proof: tuple[bytes, ...]

    @cached_property
    def raw(self) -> bytes:
        """How it travels; one entry goes to many clients."""
        return _MEMBER.write(self)


@dataclass(frozen=True, slots=True)
class Roster:
    """R1: U1, whole or as a root and the receiver's closed neighbourhood; signed by the server."""

    count: int
    root: bytes
    beacon: bytes
    members: tuple[Member, ...]
    signature: bytes


class ShareHashes(NamedTuple):
    """Salted hashes of one holder's two shares."""

    self_mask: bytes
    mask_key: bytes


@dataclass(frozen=True, slots=True)
class Bundle:
    """R1: a client's shares, sealed for their holders.

    Attributes:
        client: The dealer.
        commitment: To its self-mask seed b.
        hashes: Of the shares, in the order of its closed neighbourhood.
        sealed: For each of these but itself, in the same order.
        signature: Over h1, the dealer, the commitment and the root of the hashes.
    """

    client: str
    commitment: bytes
    hashes: tuple[ShareHashes, ...]
    sealed: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """R2: one dealer's shares for the receiver, with the proof that its signed root holds them.

    Attributes:
        dealer: Whose.
        place: The receiver's place in the dealer's closed neighbourhood, from 0.
        commitment: To the dealer's b.
        root: Merkle root of the hashes of all its shares.
        hashes: Of the receiver's two.
        proof: That they are at that place.
        sealed: The shares.
        signature: The dealer's, over h1, its id, the commitment and the root.
    """

    dealer: str
    place: int
    commitment: bytes
    root: bytes
    hashes: ShareHashes
    proof: tuple[bytes, ...]
    sealed: bytes
    signature: bytes


@dataclass(frozen=True)
class Deliveries:
    """R2: the shares of all dealers in the receiver's neighbourhood: U2 ∩ N(u).

    The server makes bytes at once, and has no use for the values: `packed` reads them when asked.
    """

    deliveries: tuple[Delivery, ...]

    @classmethod
    def packed(cls, parts: bytes | bytearray) -> Deliveries:
        """Return the deliveries that `pack_delivery` packed, each after its length."""
        made = object.__new__(cls)
        made.__dict__["raw"] = framed((_DELIVERIES.label.encode(), bytes(parts)))
        return made

    def __getattr__(self, name: str) -> Any:
        if name != "deliveries" or "raw" not in self.__dict__:
            raise AttributeError(name)
        found = _DELIVERIES.read(self.__dict__["raw"]).deliveries
        self.__dict__[name] = found
        return found


@dataclass(frozen=True, slots=True)
class Masked:
    """R2: what a client says about its masked vector before the bytes come.

    Attributes:
        client: Its id.
        digest: SHA-256 of the packed bytes.
        dealers: Digest of the ids it was told shares of, with whom it has masked.
        signature: Over h1 and all of these.
    """

    client: str
    digest: bytes
    dealers: bytes
    signature: bytes


@dataclass(frozen=True)
class Standing:
    """Whether the member at an index of U1 is in U3, with its proof."""

    index: int
    alive: bool
    proof: tuple[bytes, ...]

    @cached_property
    def raw(self) -> bytes:
        """How it travels; one standing goes to many clients."""
        return _STANDING.write(self)


@dataclass(frozen=True, slots=True)
class Survivors:
    """R3: U3 as a root over all of U1, and the part of it that the receiver must see."""

    count: int
    root: bytes
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Consent:
    """R3: a client's signature over U3."""

    client: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Consents:
    """R4: what others signed over the same U3."""

    consents: tuple[Consent, ...]


@dataclass(frozen=True, slots=True)
class Revealed:
    """R4: one share of one dealer."""

    dealer: str
    kind: Kind
    salt: bytes = field(repr=False)
    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unmask:
    """R4: exactly one kind of share for each dealer."""

    client: str
    revealed: tuple[Revealed, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """The end: who was counted; signed by the server.

    Attributes:
        h1: Of the attempt.
        root: Of U3.
        count: |U3|.
        weight: The ring element at the weight's place; 0 where it is withheld.
        total: SHA-256 of the sum, packed.
        signature: Over all of these.
    """

    h1: bytes
    root: bytes
    count: int
    weight: int
    total: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Complaint:
    """Any step: what a client found wrong.

    Attributes:
        client: Who complains.
        reason: Which check.
        about: Whose message; empty for the server's.
        ends: Whether it ends the client's part in the attempt.
        signature: Over h0 and all of these.
    """

    client: str
    reason: Reason
    about: str
    ends: bool
    signature: bytes


class _Kept:
    """Values that keep their bytes in `raw`."""

    def __init__(self, wire: Record) -> None:
        self._wire = wire

    def write(self, value: Sequence[Any]) -> bytes:
        return framed([each.raw for each in value])

    def read(self, raw: bytes) -> tuple[Any, ...]:
        return tuple(map(self._wire.read, split(raw)))


class _Deliveries:
    """Dealer, a body of fixed size, and proof of each delivery, as an unlabelled record."""

    def write(self, value: Sequence[Delivery]) -> bytes:
        return framed(
            [
                pack_delivery(
                    d.place,
                    head=delivery_head(d.dealer, d.signature, sealed=len(d.sealed)),
                    common=(d.commitment, d.root, d.signature),
                    hashes=d.hashes,
                    proof=d.proof,
                    sealed=d.sealed,
                )
                for d in value
            ]
        )

    def read(self, raw: bytes) -> tuple[Delivery, ...]:
        return tuple(self._of(part) for part in split(raw))

    def _of(self, raw: bytes) -> Delivery:
        parts = split(raw)
        if len(parts) != 3:
            raise malformed(f"a delivery of {len(parts)} fields, expected 3")
        dealer, body, proof = parts
        signature = SIGNATURE.read(body[_BODY:])
        if len(body) < _BODY:
            raise malformed(f"a delivery with a body of {len(body)} bytes, expected {_BODY}")
        return Delivery(
            TEXT.read(dealer),
            NATURAL.read(body[:8]),
            body[8:40],
            body[40:72],
            ShareHashes(body[72:104], body[104:136]),
            DIGESTS.read(proof),
            body[136:_BODY],
            signature,
        )


def delivery_head(dealer: str, signature: bytes, *, sealed: int = SEALED_SIZE) -> bytes:
    """Return how all deliveries of a dealer begin."""
    name = dealer.encode()
    return framed((name,)) + length(_BODY - SEALED_SIZE + sealed + len(signature))


def pack_delivery(
    place: int,
    *,
    head: bytes,
    common: tuple[bytes, bytes, bytes],
    hashes: ShareHashes,
    proof: tuple[bytes, ...],
    sealed: bytes,
) -> bytes:
    """Return the bytes of a delivery; `common` is commitment, root and signature."""
    commitment, root, signature = common
    start = (head, length(place), commitment, root)
    return b"".join((*start, *hashes, sealed, signature, length(DIGEST_SIZE * len(proof)), *proof))


class _Consents:
    """Consents as unlabelled records of id and signature."""

    _one: Final = Record("", Consent, (TEXT, SIGNATURE))

    def write(self, value: Sequence[Consent]) -> bytes:
        return framed([framed((c.client.encode(), c.signature)) for c in value])

    def read(self, raw: bytes) -> tuple[Consent, ...]:
        return tuple(map(self._one.read, split(raw)))


class _Shares:
    """What a client reveals: the dealers, then a block with the kind, salt and share of each."""

    def write(self, value: Sequence[Revealed]) -> bytes:
        return framed((_NAMES.write([r.dealer for r in value]), _OF_SHARES.write(value)))

    def read(self, raw: bytes) -> tuple[Revealed, ...]:
        parts = split(raw)
        if len(parts) != 2:
            raise malformed(f"shares in {len(parts)} fields, expected 2")
        names, shares = _NAMES.read(parts[0]), _OF_SHARES.read(parts[1])
        if len(names) != len(shares):
            raise malformed(f"{len(names)} dealers of {len(shares)} shares")
        return tuple(
            [
                Revealed(dealer, _kind(kind), salt, share)
                for dealer, (kind, salt, share) in zip(names, shares, strict=True)
            ]
        )


def _kind(raw: bytes) -> Kind:
    found = _KINDS.get(raw)
    if found is None:
        raise malformed("a share of no known kind")
    return found


_BODY: Final = 8 + 4 * 32 + SEALED_SIZE
"""Bytes of a delivery's body before the signature."""
_KINDS: Final = {kind.encode(): kind for kind in Kind}
_NAMES: Final = Many(TEXT)
_OF_SHARES: Final = Block(
    f"1s{SALT_SIZE}s{SHARE_SIZE}s",
    make=lambda *parts: parts,
    parts=lambda r: (r.kind.encode(), r.salt, r.share),
)
_KEY: Final = Raw((0, 32))
_BEACON: Final = Raw(tuple(range(257)))
ADVERTISE: Final = Record(
    "secagg advertise", Advertise, (TEXT, DIGEST, DIGEST, _KEY, SIGNATURE, SIGNATURE)
)
_MEMBER: Final = Record("", Member, (NATURAL, ADVERTISE, DIGESTS))
_HASHES: Final = Block("32s32s", make=ShareHashes, parts=lambda hashes: hashes)
_SEALED: Final = Block(f"{SEALED_SIZE}s", make=lambda value: value, parts=alone)
_STANDING: Final = Record("", Standing, (NATURAL, FLAG, DIGESTS))
_DELIVERIES: Final = Record("secagg deliveries", Deliveries, (_Deliveries(),))
SHARES: Final = _Shares()

_RECORDS: Final = (
    Record("secagg invitation", Invitation, (CONTEXT, SIGNATURE)),
    ADVERTISE,
    Record("secagg roster", Roster, (NATURAL, DIGEST, _BEACON, _Kept(_MEMBER), SIGNATURE)),
    Record("secagg bundle", Bundle, (TEXT, DIGEST, _HASHES, _SEALED, SIGNATURE)),
    _DELIVERIES,
    Record("secagg masked", Masked, (TEXT, DIGEST, DIGEST, SIGNATURE)),
    Record("secagg survivors", Survivors, (NATURAL, DIGEST, _Kept(_STANDING))),
    Record("secagg consent", Consent, (TEXT, SIGNATURE)),
    Record("secagg consents", Consents, (_Consents(),)),
    Record("secagg unmask", Unmask, (TEXT, SHARES, SIGNATURE)),
    Record("secagg result", Result, (DIGEST, DIGEST, NATURAL, NATURAL, DIGEST, SIGNATURE)),
    Record("secagg complaint", Complaint, (TEXT, Word(Reason), TEXT, FLAG, SIGNATURE)),
)
_BY_KIND: Final[dict[type[Any], Record]] = {r.kind: r for r in _RECORDS}
_BY_LABEL: Final[dict[bytes, Record]] = {r.label.encode(): r for r in _RECORDS}

FromClient: TypeAlias = Advertise | Bundle | Masked | Consent | Unmask | Complaint
FromServer: TypeAlias = Invitation | Roster | Deliveries | Survivors | Consents | Result
Message: TypeAlias = FromClient | FromServer


def encode(message: Message) -> bytes:
    """Return the one byte string of a message."""
    kept: bytes | None = message.__dict__.get("raw") if isinstance(message, Deliveries) else None
    return _BY_KIND[type(message)].write(message) if kept is None else kept


def decode(raw: bytes) -> Message:
    """Return the message of some bytes.

    Raises:
        Breach: `MALFORMED`, whatever is wrong with them.
    """
    parts = split(raw)
    record = _BY_LABEL.get(parts[0]) if parts else None
    if record is None:
        raise malformed("bytes that are no message of secure aggregation")
    message: Message = record.of(parts)
    return message
