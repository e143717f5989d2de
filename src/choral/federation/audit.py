"""The audit trail: entries that each carry the hash of the one before, and signed heads of them.

Hashes find an edit, a gap or a swap. Who can write the whole trail can also write another one that
is consistent: a checkpoint, which the coordinator signs, finds that for what came before it. Who
can cut the trail behind a checkpoint, or has the coordinator's key, is found by a witness: a client
that remembers a head it was shown.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from choral.core.canonical import digest_of
from choral.core.errors import Refused, TamperedAudit
from choral.core.ports import Record
from choral.crypto.signatures import SigningKey, Statement, statement, verify

LOG: Final = "audit"
"""Name of the log."""
CHECKPOINT: Final = "checkpoint"
HASH_BYTES: Final = 32
HEAD_BYTES: Final = 8 + HASH_BYTES


@dataclass(frozen=True, slots=True)
class Head:
    """How far a trail has come: all that a witness must remember.

    Attributes:
        length: Number of entries.
        digest: Hash of the last one, 64 hexadecimal digits; zeros where there is none.
    """

    length: int = 0
    digest: str = "0" * (2 * HASH_BYTES)

    def encode(self) -> bytes:
        """Return the head as 40 bytes: the length, little-endian, and the hash."""
        return self.length.to_bytes(8, "little") + bytes.fromhex(self.digest)

    @classmethod
    def decode(cls, raw: bytes) -> Head:
        """Return the head of 40 bytes.

        Raises:
            TamperedAudit: They are none.

        >>> Head.decode(Head(3, "ab" * 32).encode()) == Head(3, "ab" * 32)
        True
        """
        if len(raw) != HEAD_BYTES:
            raise TamperedAudit(f"a head of {len(raw)} bytes, expected {HEAD_BYTES}")
        return cls(int.from_bytes(raw[:8], "little"), raw[8:].hex())


def entry(head: Head, kind: str, fields: Mapping[str, Any]) -> tuple[Record, Head]:
    """Return the entry that follows a head, and the head after it.

    Args:
        head: What is there.
        kind: What happened, such as `round.committed`.
        fields: JSON values; `number`, `previous` and `hash` are taken.
    """
    body = {**fields, "number": head.length, "previous": head.digest}
    digest = digest_of([kind, body])
    return Record(kind, {**body, "hash": digest}), Head(head.length + 1, digest)


def follow(head: Head, record: Record) -> Head:
    """Return the head after an entry that follows another head.

    Raises:
        TamperedAudit: It does not follow, or was edited.
    """
    body = dict(record.body)
    digest = body.pop("hash", None)
    if body.get("number") != head.length or body.get("previous") != head.digest:
        raise TamperedAudit(f"entry {head.length} does not follow the one before")
    if digest_of([record.kind, body]) != digest:
        raise TamperedAudit(f"entry {head.length} was edited")
    return Head(head.length + 1, str(digest))


# --- checkpoints ----------------------------------------------------------------------------------


def stated(head: Head) -> Statement:
    """Return what the signature of a checkpoint covers."""
    return statement("choral audit checkpoint v1", head.encode())


def checkpoint(head: Head, key: SigningKey) -> dict[str, str]:
    """Return the fields of an entry by which the coordinator vouches for all entries before it."""
    return {"key": key.public.hex(), "signature": key.sign(stated(head)).hex()}


def check_signed(head: Head, record: Record, *, keys: Collection[bytes]) -> None:
    """Check the signature of a checkpoint.

    Args:
        head: The head before it.
        record: The checkpoint.
        keys: Verification keys that are believed; none for whichever the entry names.

    Raises:
        TamperedAudit: No such key signed this head.
    """
    number = head.length
    try:
        key = bytes.fromhex(record.body["key"])
        signature = bytes.fromhex(record.body["signature"])
        verify(key, stated(head), signature)
    except (KeyError, TypeError, ValueError, Refused):
        raise TamperedAudit(f"entry {number}: the signature of the checkpoint is wrong") from None
    if keys and key not in keys:
        raise TamperedAudit(
            f"entry {number}: the checkpoint is signed by {key.hex()[:16]}…, "
            "which is no key of this coordinator"
        )


# --- looking at a whole trail ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a trail has found.

    Attributes:
        head: How far it goes.
        signed: How many entries a checkpoint vouches for.
        checkpoints: How many checkpoints there are.
        witnessed: How many entries a witness has seen.
        faults: What is wrong, in order; empty where nothing is.
    """

    head: Head
    signed: int
    checkpoints: int
    witnessed: int
    faults: tuple[str, ...]


def check(
    records: Sequence[Record], *, keys: Collection[bytes] = (), witnessed: Iterable[Head] = ()
) -> Checked:
    """Look for edits, gaps, swaps and cuts in a trail.

    Args:
        records: All its entries.
        keys: Verification keys of the coordinator; none to believe those that checkpoints name.
        witnessed: Heads that witnesses were shown.

    Guarantees: where there is no fault, the entries before the last valid checkpoint are those
    that a holder of one of `keys` signed, and all witnessed heads are heads of this trail.
    """
    faults: list[str] = []
    head, signed, checkpoints = Head(), 0, 0
    at = [head.digest]
    for record in records:
        try:
            after = follow(head, record)
            if record.kind == CHECKPOINT:
                check_signed(head, record, keys=keys)
                checkpoints, signed = checkpoints + 1, head.length if not faults else signed
        except TamperedAudit as error:
            faults.append(error.message)
            after = Head(head.length + 1, str(record.body.get("hash")))
        head = after
        at.append(head.digest)
    seen = 0
    for one in witnessed:
        seen = max(seen, one.length)
        if one.length >= len(at):
            faults.append(f"a witness saw {one.length} entries, and there are {head.length}")
        elif at[one.length] != one.digest:
            faults.append(f"the first {one.length} entries are not those that a witness saw")
    return Checked(head, signed, checkpoints, seen, tuple(dict.fromkeys(faults)))


# --- names ----------------------------------------------------------------------------------------


def pseudonym(key: bytes, client: str) -> str:
    """Return what a trail calls a client: the same each time, and telling only with the key.

    Args:
        key: Secret; `pseudonym_key` derives it.
        client: The client's id.
    """
    return "client-" + hmac.new(key, client.encode(), hashlib.sha256).hexdigest()[:16]


def pseudonym_key(key: SigningKey) -> bytes:
    """Return the key of the pseudonyms, which follows from the coordinator's signing key."""
    return hashlib.sha256(key.sign(statement("choral audit pseudonyms v1"))).digest()
