"""Frames are one to one."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from choral.crypto.encoding import digest, frame

FIELDS = st.lists(st.binary(max_size=20), max_size=5)


def read(data):
    fields = []
    while data:
        size = int.from_bytes(data[:8], "little")
        fields.append(data[8 : 8 + size])
        data = data[8 + size :]
    return fields


@given(st.text(max_size=8), FIELDS)
def test_fields_can_be_read_back(label, fields):
    assert read(frame(label, *fields)) == [label.encode(), *fields]


def test_no_field_runs_into_the_next():
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), ()]
    assert len({frame("l", *fields) for fields in lists}) == len(lists)
    assert frame("la", b"") != frame("l", b"a")


def test_the_digest_is_that_of_the_frame():
    by_hand = b"\x01" + bytes(7) + b"l" + b"\x02" + bytes(7) + b"xy"
    assert digest("l", b"xy") == hashlib.sha256(by_hand).digest()
