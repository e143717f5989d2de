"""JSON files: exactly the kind, the version and the fields that are expected."""

import json

import pytest

from choral.core.errors import CertificateError
from choral.pki.documents import from_hex, read_document, write_document

GOOD = {"choral": "thing", "version": 1, "name": "a"}


def read(data):
    return read_document(data, kind="thing", fields={"name": str}, where="x.json")


def test_a_document_is_read_back():
    assert read(write_document("thing", {"name": "a"})) == {"name": "a"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "is no thing"),
        ("thing", "is no thing"),
        (None, "is no thing"),
        ({}, "is no thing"),
        ({**GOOD, "choral": "other"}, "is no thing"),
        ({**GOOD, "version": 2}, "version 2, expected 1"),
        ({**GOOD, "version": "1"}, "version '1', expected 1"),
        ({"choral": "thing", "version": 1}, "missing or unknown fields: name"),
        ({**GOOD, "more": 1}, "missing or unknown fields: more"),
        ({**GOOD, "name": 1}, "`name` has the wrong type"),
        ({**GOOD, "name": None}, "`name` has the wrong type"),
    ],
)
def test_anything_else_is_named(body, words):
    with pytest.raises(CertificateError, match=words):
        read(json.dumps(body).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"choral"])
def test_what_is_no_json_is_named(data):
    with pytest.raises(CertificateError, match=r"x\.json is not JSON"):
        read(data)


@pytest.mark.parametrize("text", ["", "0", "zz", "AB", " ab", "ab ", "a b", "abcd", "äö"])
def test_hexadecimal_digits_are_strict(text):
    with pytest.raises(CertificateError, match="`k` is not 1 bytes in hexadecimal digits"):
        from_hex(text, size=1, name="k", where="x.json")


def test_hexadecimal_digits():
    assert from_hex("ab", size=1, name="k", where="x") == b"\xab"
    assert from_hex("abcd", size=0, name="k", where="x") == b"\xab\xcd"
