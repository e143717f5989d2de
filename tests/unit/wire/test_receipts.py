"""A receipt is signed over every field."""

from dataclasses import fields, replace

import pytest

from choral.core.errors import Refused
from choral.crypto.signatures import SigningKey, verify
from choral.testing import SeededRand
from choral.wire.receipts import Receipt, receipt_from_proto, receipt_to_proto

RECEIPT = Receipt("run", 2, 1, "hospital-a", "a1" * 32, 77, b"head", b"signature")
OTHER = {
    "run_id": "runh",
    "round": 3,
    "attempt": 2,
    "client": "ospital-a",
    "sha256": "b2" * 32,
    "size_bytes": 78,
    "audit_head": b"",
}


def test_a_receipt_comes_back():
    assert receipt_from_proto(receipt_to_proto(RECEIPT)) == RECEIPT


def test_every_field_but_the_signature_is_covered():
    assert OTHER.keys() == {f.name for f in fields(Receipt)} - {"signature"}
    stated = {replace(RECEIPT, **{name: value}).stated() for name, value in OTHER.items()}
    assert len(stated | {RECEIPT.stated()}) == len(OTHER) + 1
    assert replace(RECEIPT, signature=b"").stated() == RECEIPT.stated()


def test_it_can_be_signed_and_verified():
    key = SigningKey.random(SeededRand(1))
    signed = replace(RECEIPT, signature=key.sign(RECEIPT.stated()))
    verify(key.public, signed.stated(), signed.signature)
    with pytest.raises(Refused):
        verify(key.public, replace(signed, round=3).stated(), signed.signature)
