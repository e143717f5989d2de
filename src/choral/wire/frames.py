"""Frames of the bulk path: a header, chunks, an end.

A frame is a protobuf `Frame`, so any language's generated code reads it. Chunks are written and
read here by hand, since a protobuf library would copy their bytes once more on either side:

    0x12 LENGTH | 0x0d CRC (4) | 0x11 OFFSET (8) | 0x1a LENGTH DATA

with lengths as varints and numbers little endian (protobuf encoding, "Message structure"), and
without the checksum where the receiver has said that its line keeps bytes whole. A chunk that is
written in another way, such as with a field of a later version, is left to the library.
"""

from __future__ import annotations

import enum
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from choral.core.errors import CorruptChunk, Malformed
from choral.wire.v1 import transfer_pb2 as pb
from choral.wire.versions import PROTOCOL_VERSION, check_version

MIB: Final = 1 << 20
CHUNK_LEAST: Final = MIB
CHUNK_MOST: Final = 4 * MIB
MAX_TOKEN: Final = 1024
MAX_FRAME_BYTES: Final = CHUNK_MOST + 4096

_CHUNK_TAG: Final = b"\x12"
_FIXED: Final = struct.Struct("<BIBQB")
_BARE: Final = struct.Struct("<BQB")
_TAGS: Final = (0x0D, 0x11, 0x1A)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

Part: TypeAlias = bytes | memoryview


class Kind(enum.IntEnum):
    """What is transferred; the values of `TransferKind`."""

    MODEL = pb.TRANSFER_KIND_MODEL
    CONTRIBUTION = pb.TRANSFER_KIND_CONTRIBUTION
    MASKED = pb.TRANSFER_KIND_MASKED


_KINDS: Final = frozenset(int(kind) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Header:
    """What will come.

    Attributes:
        kind: What it is.
        token: Of the assignment that it belongs to.
        sha256: Of all bytes, in hexadecimal.
        size_bytes: All bytes, those before `offset` included.
        offset: Where the first chunk starts.
        chunk_bytes: Most bytes of a chunk.
    """

    kind: Kind
    token: bytes
    sha256: str
    size_bytes: int
    offset: int = 0
    chunk_bytes: int = CHUNK_LEAST


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that match their checksum, where there is one.

    Attributes:
        offset: Where they start.
        data: A view of the frame that they came in.
    """

    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more will come."""

    sha256: str


Frame: TypeAlias = Header | Chunk | End


def header_frame(header: Header) -> bytes:
    """Return a header's frame."""
    body = pb.TransferHeader(
        protocol_version=PROTOCOL_VERSION,
        kind=pb.TransferKind.ValueType(header.kind),
        token=header.token,
        sha256=header.sha256,
        size_bytes=header.size_bytes,
        offset=header.offset,
        chunk_bytes=header.chunk_bytes,
        encoding=pb.TRANSFER_ENCODING_IDENTITY,
    )
    return pb.Frame(header=body).SerializeToString(deterministic=True)


def chunk_frame(offset: int, parts: Sequence[Part], *, crc: bool = True) -> bytes:
    """Return the frame of a chunk; its bytes are copied once, into the frame.

    Args:
        offset: Where they start.
        parts: They, in order; views must be of single bytes.
        crc: Whether it has a checksum; without, where the receiver has said that it needs none.
    """
    size, found = 0, 0
    for part in parts:
        size += len(part)
        if crc:
            found = zlib.crc32(part, found)
    first, second, third = _TAGS
    if crc:
        inner = _FIXED.pack(first, found, second, offset, third) + _varint(size)
    else:
        inner = _BARE.pack(second, offset, third) + _varint(size)
    return b"".join((_CHUNK_TAG, _varint(len(inner) + size), inner, *parts))


def end_frame(sha256: str) -> bytes:
    """Return the frame that ends a transfer."""
    return pb.Frame(end=pb.TransferEnd(sha256=sha256)).SerializeToString(deterministic=True)


def read_frame(raw: bytes, *, without_crc: bool = False) -> Frame:
    """Return what a frame says.

    Args:
        raw: The frame.
        without_crc: Whether a chunk may come without its checksum.

    Raises:
        Malformed: It is no frame, or its header says what cannot be.
        CorruptChunk: Its bytes do not match their checksum.
        VersionMismatch: Its header is of a version that is not spoken here.
    """
    if without_crc and (bare := _split_bare(raw)) is not None:
        return bare
    chunk = _split(raw)
    if chunk is not None:
        return _checked(*chunk)
    try:
        message = pb.Frame.FromString(raw)
    except DecodeError:
        raise Malformed(f"{len(raw)} bytes that are no frame") from None
    if message.HasField("header"):
        return _header(message.header)
    if message.HasField("chunk"):
        body = message.chunk
        if not (body.HasField("crc32") or without_crc) or not body.HasField("offset"):
            raise Malformed("a chunk without its checksum or its offset")
        if not body.HasField("crc32"):
            return Chunk(body.offset, memoryview(body.data))
        return _checked(body.crc32, body.offset, memoryview(body.data))
    if message.HasField("end"):
        return End(message.end.sha256)
    raise Malformed("a frame without header, chunk or end")


def check_sha256(name: str, value: str) -> str:
    """Return a digest if it is one.

    Raises:
        Malformed: It is not 64 small hexadecimal digits.
    """
    if not _SHA256.fullmatch(value):
        raise Malformed(f"{name} {value[:80]!r}: expected 64 hexadecimal digits")
    return value


def _header(body: pb.TransferHeader) -> Header:
    check_version(body.protocol_version)
    if body.kind not in _KINDS:
        raise Malformed(f"a transfer of the unknown kind {body.kind}")
    if body.encoding != pb.TRANSFER_ENCODING_IDENTITY:
        raise Malformed(f"a transfer in the unknown encoding {body.encoding}")
    if len(body.token) > MAX_TOKEN:
        raise Malformed(f"a token of {len(body.token)} bytes, expected up to {MAX_TOKEN}")
    if body.offset > body.size_bytes:
        raise Malformed(f"a transfer of {body.size_bytes} bytes from byte {body.offset}")
    return Header(
        kind=Kind(body.kind),
        token=body.token,
        sha256=check_sha256("sha256", body.sha256),
        size_bytes=body.size_bytes,
        offset=body.offset,
        chunk_bytes=body.chunk_bytes,
    )


def _checked(crc: int, offset: int, data: memoryview) -> Chunk:
    found = zlib.crc32(data)
    if found != crc:
        raise CorruptChunk(
            f"the chunk at byte {offset} has the checksum {found:08x}, expected {crc:08x}"
        )
    return Chunk(offset, data)


def _split(raw: bytes) -> tuple[int, int, memoryview] | None:
    """Return checksum, offset and bytes of a chunk as `chunk_frame` writes it, else None."""
    if raw[:1] != _CHUNK_TAG:
        return None
    size, at = _read_varint(raw, 1)
    if at + size != len(raw) or size < _FIXED.size:
        return None
    first, crc, second, offset, third = _FIXED.unpack_from(raw, at)
    size, start = _read_varint(raw, at + _FIXED.size)
    if (first, second, third) != _TAGS or start + size != len(raw):
        return None
    return crc, offset, memoryview(raw)[start:]


def _split_bare(raw: bytes) -> Chunk | None:
    """Return a chunk as `chunk_frame` writes it without a checksum, else None."""
    if raw[:1] != _CHUNK_TAG:
        return None
    size, at = _read_varint(raw, 1)
    if at + size != len(raw) or size < _BARE.size:
        return None
    second, offset, third = _BARE.unpack_from(raw, at)
    size, start = _read_varint(raw, at + _BARE.size)
    if (second, third) != _TAGS[1:] or start + size != len(raw):
        return None
    return Chunk(offset, memoryview(raw)[start:])


def _varint(value: int) -> bytes:
    """Return a whole number in groups of seven bits, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return a number of up to four bytes and where it ends; -1 where there is none."""
    value = 0
    for place, byte in enumerate(raw[at : at + 4]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return -1, at
