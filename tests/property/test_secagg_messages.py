"""Every message has one encoding, and no other bytes are read as a message."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from choral.secagg import messages as msg
from choral.secagg.context import Context, RingEncoding
from choral.secagg.parameters import Parameters, Suite
from choral.secagg.refusals import Breach, Reason

natural = st.integers(0, 2**64 - 1)
real = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
text = st.text(max_size=20).filter(lambda s: len(s.encode()) <= 256 and s.isprintable())
digest = st.binary(min_size=32, max_size=32)
signature = st.just(b"") | st.binary(min_size=64, max_size=64)
key = st.just(b"") | digest
proof = st.lists(digest, max_size=2).map(tuple)


def many(item):
    return st.lists(item, max_size=2).map(tuple)


parameters = st.builds(
    Parameters,
    st.sampled_from(Suite),
    natural,
    natural,
    natural,
    real,
    real,
    natural,
    st.booleans(),
)
encoding = st.builds(RingEncoding, natural, natural, natural, real, natural, natural, natural)
context = st.builds(
    Context, natural, text, natural, natural, many(digest), digest, encoding, natural, parameters,
    digest, natural,
)  # fmt: skip
advertise = st.builds(msg.Advertise, text, digest, digest, key, signature, signature)
member = st.builds(msg.Member, natural, advertise, proof)
hashes = st.builds(msg.ShareHashes, digest, digest)
sealed = st.binary(min_size=msg.SEALED_SIZE, max_size=msg.SEALED_SIZE)
delivery = st.builds(msg.Delivery, text, natural, digest, digest, hashes, proof, sealed, signature)
standing = st.builds(msg.Standing, natural, st.booleans(), proof)
consent = st.builds(msg.Consent, text, signature)
share = st.binary(min_size=36, max_size=36)
revealed = st.builds(msg.Revealed, text, st.sampled_from(msg.Kind), digest, share)
messages = st.one_of(
    st.builds(msg.Invitation, context, signature),
    advertise,
    st.builds(msg.Roster, natural, digest, st.binary(max_size=256), many(member), signature),
    st.builds(msg.Bundle, text, digest, many(hashes), many(sealed), signature),
    st.builds(msg.Deliveries, many(delivery)),
    st.builds(msg.Masked, text, digest, digest, signature),
    st.builds(msg.Survivors, natural, digest, many(standing)),
    consent,
    st.builds(msg.Consents, many(consent)),
    st.builds(msg.Unmask, text, many(revealed), signature),
    st.builds(msg.Result, digest, digest, natural, natural, digest, signature),
    st.builds(msg.Complaint, text, st.sampled_from(Reason), text, st.booleans(), signature),
)


@given(messages)
def test_round_trip(message):
    raw = msg.encode(message)
    assert msg.decode(raw) == message
    assert dataclasses.is_dataclass(message)


@given(messages, messages)
def test_one_encoding_for_one_message(first, second):
    assert (msg.encode(first) == msg.encode(second)) == (first == second)


def read(raw):
    """Return the message, or None where the bytes are refused as malformed; nothing else raises."""
    try:
        return msg.decode(raw)
    except Breach as breach:
        if breach.reason is not Reason.MALFORMED:
            raise
        return None


@given(messages, st.data())
@settings(max_examples=300)
def test_changed_bytes_are_another_message_or_malformed(message, data):
    raw = bytearray(msg.encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    other = read(bytes(raw))
    assert other != message
    assert other is None or msg.encode(other) == bytes(raw)


@given(messages, st.data())
def test_cut_and_longer_bytes_are_malformed(message, data):
    raw = msg.encode(message)
    assert read(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None
    assert read(raw + data.draw(st.binary(min_size=1, max_size=9))) is None


@given(st.binary(max_size=200))
def test_any_bytes(raw):
    message = read(raw)
    assert message is None or msg.encode(message) == raw
