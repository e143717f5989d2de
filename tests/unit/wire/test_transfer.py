"""Both ends of a bulk transfer: every violation by name, and any cut and split the same bytes."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import (
    ChoralError,
    ConfigError,
    CorruptChunk,
    Malformed,
    OutOfOrder,
    Refused,
    TooLarge,
    Truncated,
    WrongDigest,
)
from choral.core.params import Params
from choral.core.tensors import encode_tensors
from choral.wire.frames import Header, Kind, chunk_frame, end_frame, header_frame, read_frame
from choral.wire.transfer import (
    Began,
    Blocks,
    Complete,
    Limits,
    MemorySink,
    Phase,
    Progress,
    Receiving,
    Repeated,
    Sending,
)

DATA = b"0123456789"
LIMITS = Limits(frozenset({Kind.MODEL}), 1000, chunk_least=1, chunk_most=100)


def header_of(data, **fields):
    fields = {"chunk_bytes": 4} | fields
    return Header(Kind.MODEL, b"token", hashlib.sha256(data).hexdigest(), len(data), **fields)


HEADER = header_of(DATA)
END = end_frame(HEADER.sha256)


class Held(MemorySink):
    """A sink that notes its writes, and starts from a prefix."""

    def __init__(self, size, prefix=b""):
        super().__init__(size)
        self.writes = []
        self.discarded = False
        if prefix:
            super().write(0, memoryview(prefix))

    def write(self, offset, data):
        assert offset == self.held()
        self.writes.append(bytes(data))
        super().write(offset, data)

    def discard(self):
        self.discarded = True
        super().discard()


def receiver(sink, *, header=HEADER, limits=LIMITS):
    """A receiver that has taken a header."""
    receiving = Receiving(limits, lambda _: sink)
    receiving.receive(header_frame(header))
    return receiving


# --- the sender ----------------------------------------------------------------------------------


def test_blocks_are_read_as_one_without_a_copy():
    numbers = np.arange(3, dtype="<u2")
    blocks = Blocks([b"ab", b"", numbers.data, memoryview(b"cde")])
    whole = b"ab" + numbers.tobytes() + b"cde"
    assert blocks.size == len(whole)
    assert blocks.sha256() == hashlib.sha256(whole).hexdigest()
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            assert b"".join(blocks.parts(start, stop)) == whole[start:stop]
    numbers[0] = 0xFFFF
    assert b"".join(blocks.parts(2, 4)) == b"\xff\xff"


def test_a_model_is_sent_from_its_own_arrays():
    params = Params({"w": np.arange(6, dtype=np.float32), "n": np.array(3)})
    blocks = Blocks(encode_tensors(params))
    assert blocks.sha256() == params.sha256


def test_a_sender_says_header_chunks_and_end():
    frames = [read_frame(raw) for raw in Sending(replace(HEADER, offset=1), Blocks([DATA]))]
    assert frames[0] == replace(HEADER, offset=1)
    assert [(c.offset, bytes(c.data)) for c in frames[1:-1]] == [
        (1, b"1234"),
        (5, b"5678"),
        (9, b"9"),
    ]
    assert frames[-1].sha256 == HEADER.sha256


def test_a_sender_can_be_asked_twice():
    sending = Sending(HEADER, Blocks([DATA]))
    assert list(sending) == list(sending)


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, size_bytes=9),
        replace(HEADER, offset=11),
        replace(HEADER, offset=-1),
        replace(HEADER, chunk_bytes=0),
    ],
)
def test_a_header_that_does_not_fit_its_bytes(header):
    with pytest.raises(ConfigError, match="10 bytes to send"):
        Sending(header, Blocks([DATA]))


# --- the receiver --------------------------------------------------------------------------------


def test_a_whole_transfer():
    sink = Held(10)
    receiving = Receiving(LIMITS, lambda _: sink)
    events = [receiving.receive(raw) for raw in Sending(HEADER, Blocks([DATA]))]
    assert events == [Began(HEADER, 0), Progress(4), Progress(8), Progress(10), Complete(HEADER)]
    assert receiving.finish() == HEADER
    assert sink.view() == DATA


def test_a_resumed_transfer_hashes_what_is_held():
    sink = Held(10, DATA[:7])
    header = replace(HEADER, offset=7)
    receiving = Receiving(LIMITS, lambda _: sink)
    events = [receiving.receive(raw) for raw in Sending(header, Blocks([DATA]))]
    assert events == [Began(header, 7), Progress(10), Complete(header)]
    assert sink.writes == [b"789"]


def test_a_held_prefix_of_other_bytes_is_found_out():
    sink = Held(10, b"x" + DATA[1:7])
    receiving = receiver(sink, header=replace(HEADER, offset=7))
    receiving.receive(chunk_frame(7, [b"789"]))
    with pytest.raises(WrongDigest):
        receiving.receive(END)
    assert sink.discarded


def test_what_is_known_is_not_written_again():
    sink = Held(10, DATA[:6])
    receiving = receiver(sink)
    assert receiving.receive(chunk_frame(0, [b"0123"])) == Repeated(6)
    assert receiving.receive(chunk_frame(4, [b"4567"])) == Progress(8)
    assert receiving.receive(chunk_frame(4, [b"4567"])) == Repeated(8)
    assert receiving.receive(chunk_frame(8, [b"89"])) == Progress(10)
    assert sink.writes == [b"67", b"89"]
    assert receiving.receive(END) == receiving.receive(END) == Complete(HEADER)
    assert receiving.receive(chunk_frame(8, [b"89"])) == Repeated(10)


@pytest.mark.parametrize(
    ("frame", "kind", "message"),
    [
        (chunk_frame(5, [b"5"]), OutOfOrder, "a chunk from byte 5, expected 4"),
        (chunk_frame(4, [b"45678"]), Malformed, "a chunk of 5 bytes, expected 1 to 4"),
        (chunk_frame(4, []), Malformed, "a chunk of 0 bytes, expected 1 to 4"),
        (chunk_frame(8, [b"89x"]), TooLarge, "a chunk up to byte 11, expected at most 10"),
        (chunk_frame(2**64 - 1, [b"x"]), TooLarge, "expected at most 10"),
        (chunk_frame(4, [b"4567"])[:-1] + b"x", CorruptChunk, "the chunk at byte 4"),
        (END, Truncated, "a transfer ended after 4 bytes, expected 10"),
        (header_frame(HEADER), OutOfOrder, "the frame `header` in the phase `receiving`"),
        (b"junk", Malformed, "no frame"),
    ],
)
def test_a_violation_is_named_and_ends_the_transfer(frame, kind, message):
    sink = Held(10)
    receiving = receiver(sink)
    receiving.receive(chunk_frame(0, [b"0123"]))
    with pytest.raises(kind, match=message) as caught:
        receiving.receive(frame)
    assert receiving.phase is Phase.FAILED
    with pytest.raises(Malformed, match="after the transfer has failed"):
        receiving.receive(chunk_frame(4, [b"4567"]))
    with pytest.raises(kind) as again:
        receiving.finish()
    assert again.value is caught.value
    assert sink.view() == b"0123"
    assert not sink.discarded


@pytest.mark.parametrize("frame", [chunk_frame(0, [b"0123"]), END])
def test_the_header_comes_first(frame):
    with pytest.raises(OutOfOrder, match="in the phase `awaiting`"):
        Receiving(LIMITS, lambda _: Held(10)).receive(frame)


@pytest.mark.parametrize(
    ("header", "kind", "message"),
    [
        (replace(HEADER, kind=Kind.MASKED), Malformed, "a transfer of a masked, expected: model"),
        (replace(HEADER, size_bytes=1001), TooLarge, "of 1001 bytes, expected at most 1000"),
        (replace(HEADER, chunk_bytes=101), Malformed, "up to 101 bytes, expected 1 to 100"),
        (replace(HEADER, chunk_bytes=0), Malformed, "up to 0 bytes, expected 1 to 100"),
        (replace(HEADER, offset=5), OutOfOrder, "a transfer from byte 5, expected 4"),
        (replace(HEADER, size_bytes=3), Malformed, "3 bytes are declared, and 4 are held"),
    ],
)
def test_a_header_beyond_the_limits(header, kind, message):
    receiving = Receiving(LIMITS, lambda _: Held(10, b"0123"))
    with pytest.raises(kind, match=message):
        receiving.receive(header_frame(header))


def test_usual_limits_are_those_of_the_protocol():
    limits = Limits(frozenset({Kind.MODEL}), 10)
    for size in (1 << 20, 4 << 20):
        limits.check(replace(HEADER, chunk_bytes=size))
    for size in ((1 << 20) - 1, (4 << 20) + 1):
        with pytest.raises(Malformed):
            limits.check(replace(HEADER, chunk_bytes=size))


def test_whoever_opens_the_sink_may_refuse():
    def closed(header):
        raise Refused("an unknown token")

    receiving = Receiving(LIMITS, closed)
    with pytest.raises(Refused):
        receiving.receive(header_frame(HEADER))
    with pytest.raises(Refused):
        receiving.finish()


def test_a_sink_that_fails_ends_the_transfer():
    class Full(Held):
        def write(self, offset, data):
            raise OSError("no space left")

    receiving = receiver(Full(10))
    with pytest.raises(OSError, match="no space"):
        receiving.receive(chunk_frame(0, [b"0123"]))
    with pytest.raises(Truncated):
        receiving.finish()


def test_other_bytes_than_announced_are_let_go_of():
    sink = Held(10)
    receiving = receiver(sink)
    for at in (0, 4, 8):
        receiving.receive(chunk_frame(at, [b"xxxx"[: 10 - at]]))
    with pytest.raises(WrongDigest, match=f"expected {HEADER.sha256}"):
        receiving.receive(END)
    assert sink.discarded
    assert sink.held() == 0


def test_an_end_for_other_bytes_keeps_what_is_held():
    sink = Held(10, DATA)
    receiving = receiver(sink, header=replace(HEADER, offset=10))
    with pytest.raises(WrongDigest, match="an end for"):
        receiving.receive(end_frame("0" * 64))
    assert not sink.discarded


def test_a_stream_without_its_end_is_truncated():
    receiving = receiver(Held(10))
    receiving.receive(chunk_frame(0, [b"0123"]))
    with pytest.raises(Truncated, match="ended after 4 bytes, without its end"):
        receiving.finish()
    with pytest.raises(Truncated, match="after 0 bytes"):
        Receiving(LIMITS, lambda _: Held(10)).finish()


# --- laws ----------------------------------------------------------------------------------------

data = st.binary(max_size=120)
chunk = st.integers(1, 40)


@given(data, st.lists(st.integers(0, 120)), chunk, st.lists(st.integers(0, 8), max_size=6))
def test_cuts_and_resumptions_give_the_same_bytes(data, seams, chunk_bytes, cuts):
    """Each connection passes some frames and is cut; the next one goes on from what is held."""
    edges = sorted({min(seam, len(data)) for seam in seams} | {0, len(data)})
    blocks = Blocks([data[a:b] for a, b in itertools.pairwise(edges)])
    sink = Held(len(data))
    limits = replace(LIMITS, chunk_most=40)
    sent = 0
    for passing in [*cuts, None]:
        header = header_of(data, offset=sink.held(), chunk_bytes=chunk_bytes)
        receiving = Receiving(limits, lambda _: sink)
        frames = list(Sending(header, blocks))
        # The frame after those that passed was sent as well: it was lost under way.
        lost = frames[: len(frames) if passing is None else passing + 1]
        sent += sum(read_frame(raw).data.nbytes for raw in lost[1:] if raw[:1] == b"\x12")
        for raw in frames[:passing]:
            receiving.receive(raw)
        if passing is not None and receiving.phase is not Phase.COMPLETE:
            with pytest.raises(Truncated):
                receiving.finish()
    assert receiving.finish() == header
    assert sink.view() == data
    assert b"".join(sink.writes) == data
    assert sent <= len(data) + len(cuts) * chunk_bytes


@st.composite
def repeated_splits(draw):
    """Some bytes, and chunks of them in which none starts behind the next byte that is due."""
    data = draw(st.binary(min_size=1, max_size=60))
    chunks, held = [], 0
    while held < len(data):
        start = draw(st.integers(0, held))
        stop = draw(st.integers(start + 1, min(start + 40, len(data))))
        chunks.append((start, stop))
        held = max(held, stop)
        if len(chunks) > 40:
            chunks += [(at, at + 1) for at in range(held, len(data))]
            break
    return data, chunks


@given(repeated_splits())
def test_any_split_with_any_repetition_gives_the_same_bytes(case):
    data, chunks = case
    sink = Held(len(data))
    receiving = receiver(sink, header=header_of(data, chunk_bytes=40))
    for start, stop in chunks:
        receiving.receive(chunk_frame(start, [data[start:stop]]))
    receiving.receive(end_frame(hashlib.sha256(data).hexdigest()))
    assert sink.view() == data
    assert b"".join(sink.writes) == data


frame = st.one_of(
    st.binary(max_size=20),
    st.just(header_frame(HEADER)),
    st.just(END),
    st.just(end_frame("0" * 64)),
    st.tuples(st.integers(0, 12), st.integers(0, 6), st.booleans()).map(
        lambda t: chunk_frame(t[0], [DATA[t[0] : t[0] + t[1]] if t[2] else b"x" * t[1]])
    ),
)


@given(st.lists(frame, max_size=12), st.integers(0, 10))
def test_whatever_comes_the_sink_holds_no_more_than_declared(frames, held):
    """Only errors on purpose are raised, and `Complete` is said of the right bytes alone."""
    sink = Held(10, DATA[:held])
    receiving = Receiving(LIMITS, lambda _: sink)
    for raw in [header_frame(HEADER), *frames]:
        try:
            event = receiving.receive(raw)
        except ChoralError:
            assert receiving.phase is Phase.FAILED
        else:
            assert isinstance(event, Began | Progress | Repeated | Complete)
        assert sink.held() <= 10
        if receiving.phase is Phase.COMPLETE:
            assert sink.view() == DATA
