"""Receipts: what the coordinator signs when it holds a whole upload."""

from __future__ import annotations

from dataclasses import dataclass

from choral.crypto.signatures import Statement, statement
from choral.wire.v1 import transfer_pb2 as pb


@dataclass(frozen=True, slots=True)
class Receipt:
    """An upload that is held, and will be counted unless the attempt is aborted.

    Attributes:
        run_id: The run.
        round: Counted from 1.
        attempt: Counted from 1.
        client: Whose upload.
        sha256: Of its bytes, in hexadecimal.
        size_bytes: Their number.
        audit_head: Head of the audit trail's chain; empty where there is none.
        signature: Ed25519 over `stated`; empty where the coordinator has no signing key.
    """

    run_id: str
    round: int
    attempt: int
    client: str
    sha256: str
    size_bytes: int
    audit_head: bytes = b""
    signature: bytes = b""

    def stated(self) -> Statement:
        """Return what the signature covers: all other fields."""
        numbers = (self.round, self.attempt, self.size_bytes)
        return statement(
            "choral receipt v1",
            self.run_id.encode(),
            self.client.encode(),
            bytes.fromhex(self.sha256),
            *(number.to_bytes(8, "little") for number in numbers),
            self.audit_head,
        )


def receipt_to_proto(receipt: Receipt) -> pb.Receipt:
    """Return a receipt as a message."""
    return pb.Receipt(
        run_id=receipt.run_id,
        round=receipt.round,
        attempt=receipt.attempt,
        client_id=receipt.client,
        sha256=receipt.sha256,
        size_bytes=receipt.size_bytes,
        audit_head=receipt.audit_head,
        signature=receipt.signature,
    )


def receipt_from_proto(message: pb.Receipt) -> Receipt:
    """Return the receipt of a message; its signature is for the reader to verify."""
    return Receipt(
        run_id=message.run_id,
        round=message.round,
        attempt=message.attempt,
        client=message.client_id,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        audit_head=message.audit_head,
        signature=message.signature,
    )
