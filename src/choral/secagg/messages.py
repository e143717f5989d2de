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
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from choral.crypto.shamir import SHARE_SIZE
from choral.secagg.codec import (
    DIGEST,
    FLAG,
    NATURAL,
    SIGNATURE,
    TEXT,
    Many,
    Raw,
    Record,
    Wire,
    Word,
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


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of U1, with its proof where the receiver does not see all of them."""

    index: int
    advertise: Advertise
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Roster:
    """R1: U1, whole or as a root and the receiver's closed neighbourhood; signed by the server."""

    count: int
    root: bytes
    beacon: bytes
    members: tuple[Member, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class ShareHashes:
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


@dataclass(frozen=True, slots=True)
class Deliveries:
    """R2: the shares of all dealers in the receiver's neighbourhood: U2 ∩ N(u)."""

    deliveries: tuple[Delivery, ...]


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


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the member at an index of U1 is in U3, with its proof."""

    index: int
    alive: bool
    proof: tuple[bytes, ...]


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


_SHARE: Final = Raw((SHARE_SIZE,))
_KEY: Final = Raw((0, 32))
_BEACON: Final = Raw(tuple(range(257)))
ADVERTISE: Final = Record(
    "secagg advertise", Advertise, (TEXT, DIGEST, DIGEST, _KEY, SIGNATURE, SIGNATURE)
)
_MEMBER: Final = Record("member", Member, (NATURAL, ADVERTISE, Many(DIGEST)))
HASHES: Final = Record("hashes", ShareHashes, (DIGEST, DIGEST))
_SEALED: Final = Raw((SEALED_SIZE,))
_DELIVERY: Final = Record(
    "delivery", Delivery, (TEXT, NATURAL, DIGEST, DIGEST, HASHES, Many(DIGEST), _SEALED, SIGNATURE)
)
_STANDING: Final = Record("standing", Standing, (NATURAL, FLAG, Many(DIGEST)))
_CONSENT: Final = Record("secagg consent", Consent, (TEXT, SIGNATURE))
_REVEALED: Final = Record("revealed", Revealed, (TEXT, Word(Kind), Raw((SALT_SIZE,)), _SHARE))

_RECORDS: Final = (
    Record("secagg invitation", Invitation, (CONTEXT, SIGNATURE)),
    ADVERTISE,
    Record("secagg roster", Roster, (NATURAL, DIGEST, _BEACON, Many(_MEMBER), SIGNATURE)),
    Record("secagg bundle", Bundle, (TEXT, DIGEST, Many(HASHES), Many(_SEALED), SIGNATURE)),
    Record("secagg deliveries", Deliveries, (Many(_DELIVERY),)),
    Record("secagg masked", Masked, (TEXT, DIGEST, DIGEST, SIGNATURE)),
    Record("secagg survivors", Survivors, (NATURAL, DIGEST, Many(_STANDING))),
    _CONSENT,
    Record("secagg consents", Consents, (Many(_CONSENT),)),
    Record("secagg unmask", Unmask, (TEXT, Many(_REVEALED), SIGNATURE)),
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
    return _BY_KIND[type(message)].write(message)


def decode(raw: bytes) -> Message:
    """Return the message of some bytes.

    Raises:
        Breach: `MALFORMED`, whatever is wrong with them.
    """
    parts = split(raw)
    record: Wire | None = _BY_LABEL.get(parts[0]) if parts else None
    if record is None:
        raise malformed("bytes that are no message of secure aggregation")
    message: Message = record.read(raw)
    return message
