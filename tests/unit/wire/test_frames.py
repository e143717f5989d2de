"""A frame is a protobuf message, written and read by hand."""

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import CorruptChunk, Malformed, TransferError, VersionMismatch
from choral.wire.frames import (
    CHUNK_MOST,
    MAX_FRAME_BYTES,
    Chunk,
    End,
    Header,
    Kind,
    chunk_frame,
    end_frame,
    header_frame,
    read_frame,
)
from choral.wire.v1 import transfer_pb2 as pb

DIGEST = "5a" * 32
HEADER = Header(Kind.MASKED, b"token", DIGEST, size_bytes=9, offset=4, chunk_bytes=1 << 20)


def changed(**fields):
    frame = pb.Frame.FromString(header_frame(HEADER))
    for name, value in fields.items():
        setattr(frame.header, name, value)
    return frame.SerializeToString()


def library_chunk(offset, data):
    return pb.Frame(chunk=pb.Chunk(crc32=zlib.crc32(data), offset=offset, data=data))


def test_kinds_are_those_of_the_schema():
    assert {f"TRANSFER_KIND_{k.name}": k.value for k in Kind} == {
        name: number for name, number in pb.TransferKind.items() if number
    }


def test_a_header_and_an_end_come_back():
    assert read_frame(header_frame(HEADER)) == HEADER
    assert read_frame(end_frame(DIGEST)) == End(DIGEST)


@given(st.integers(0, 2**64 - 1), st.lists(st.binary(max_size=300), max_size=4))
def test_a_chunk_is_the_librarys_message_byte_for_byte(offset, parts):
    raw = chunk_frame(offset, parts)
    data = b"".join(parts)
    assert raw == library_chunk(offset, data).SerializeToString(deterministic=True)
    found = read_frame(raw)
    assert (found.offset, bytes(found.data)) == (offset, data)


@pytest.mark.parametrize("size", [127, 128, 16383, 16384, (1 << 21) - 1, 1 << 21, CHUNK_MOST])
def test_lengths_at_the_edges_of_varints(size):
    data = bytes(size)
    raw = chunk_frame(0, [data])
    assert raw == library_chunk(0, data).SerializeToString(deterministic=True)
    assert read_frame(raw).data.nbytes == size
    assert len(raw) <= MAX_FRAME_BYTES


def test_a_chunk_is_not_copied_when_read():
    raw = chunk_frame(0, [b"data"])
    assert read_frame(raw).data.obj is raw


@given(st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_a_chunk_without_a_checksum_is_read_only_where_that_was_said(offset, data):
    raw = chunk_frame(offset, [data], crc=False)
    library = pb.Frame(chunk=pb.Chunk(offset=offset, data=data))
    assert raw == library.SerializeToString(deterministic=True)
    found = read_frame(raw, without_crc=True)
    assert found == Chunk(offset, memoryview(data))
    assert found.data.obj is raw
    with pytest.raises(Malformed, match="without its checksum"):
        read_frame(raw)


def test_a_checksum_that_is_there_counts_where_none_is_needed():
    raw = chunk_frame(3, [b"some"])
    assert read_frame(raw, without_crc=True) == Chunk(3, memoryview(b"some"))
    with pytest.raises(CorruptChunk):
        read_frame(raw[:-1] + b"x", without_crc=True)


def test_a_bare_chunk_with_a_field_of_a_later_version_is_read_by_the_library():
    frame = pb.Frame(chunk=pb.Chunk(offset=7, data=b"data"))
    frame.chunk.MergeFromString(b"\xa0\x06\x01")
    raw = frame.SerializeToString()
    assert read_frame(raw, without_crc=True) == Chunk(7, memoryview(b"data"))
    with pytest.raises(Malformed, match="without its checksum or its offset"):
        read_frame(pb.Frame(chunk=pb.Chunk(data=b"x")).SerializeToString(), without_crc=True)


def test_a_chunk_with_a_field_of_a_later_version_is_read_by_the_library():
    frame = library_chunk(7, b"data")
    frame.chunk.MergeFromString(b"\xa0\x06\x01")  # field 100, a varint
    assert read_frame(frame.SerializeToString()) == Chunk(7, memoryview(b"data"))


def test_a_header_with_a_field_of_a_later_version_is_read():
    frame = pb.Frame.FromString(header_frame(HEADER))
    frame.header.MergeFromString(b"\xa0\x06\x01")
    assert read_frame(frame.SerializeToString()) == HEADER


@pytest.mark.parametrize("at", range(22))
def test_any_bit_that_turns_is_noticed(at):
    raw = bytearray(chunk_frame(3, [b"some"]))
    assert len(raw) == 22
    raw[at] ^= 0x10
    try:
        found = read_frame(bytes(raw))
    except TransferError:
        return
    # The offset has no checksum: the order of chunks and the last digest stand for it.
    assert bytes(found.data) == b"some"
    assert found.offset != 3


def test_a_wrong_checksum_is_named():
    raw = bytearray(chunk_frame(3, [b"some"]))
    raw[-1] ^= 1
    with pytest.raises(CorruptChunk, match="the chunk at byte 3 has the checksum"):
        read_frame(bytes(raw))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "a frame without header, chunk or end"),
        (b"\xa0\x06\x01", "a frame without header, chunk or end"),
        (b"\x12", "1 bytes that are no frame"),
        (b"\x12\xff\xff\xff\xff\xff", "6 bytes that are no frame"),
        (b"hello", "5 bytes that are no frame"),
        (b"\x12\x00", "a chunk without its checksum or its offset"),
        (pb.Frame(chunk=pb.Chunk(data=b"x")).SerializeToString(), "without its checksum"),
        (changed(kind=0), "the unknown kind 0"),
        (changed(kind=77), "the unknown kind 77"),
        (changed(encoding=0), "the unknown encoding 0"),
        (changed(encoding=2), "the unknown encoding 2"),
        (changed(token=bytes(1025)), "a token of 1025 bytes"),
        (changed(offset=10), "a transfer of 9 bytes from byte 10"),
        (changed(sha256="5A" * 32), "expected 64 hexadecimal digits"),
        (changed(sha256="../" * 30), "expected 64 hexadecimal digits"),
        (changed(sha256=""), "expected 64 hexadecimal digits"),
    ],
)
def test_what_is_no_frame_is_malformed(raw, message):
    with pytest.raises(Malformed, match=message):
        read_frame(raw)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused(version):
    with pytest.raises(VersionMismatch):
        read_frame(changed(protocol_version=version))


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"\x12" + tail))
def test_arbitrary_bytes_never_raise_anything_else(raw):
    with contextlib.suppress(TransferError, VersionMismatch):
        read_frame(raw)
