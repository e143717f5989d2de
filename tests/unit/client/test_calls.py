"""Bulk transfers that are cut: they go on where they were, and end whole."""

import asyncio
import hashlib

import numpy as np
import pytest

from choral.client import calls as calls_module
from choral.client.cache import ModelCache
from choral.client.calls import Calls, check_receipt
from choral.client.line import Line
from choral.core.errors import Refused, WrongDigest
from choral.system import SystemClock
from choral.wire.frames import Kind
from choral.wire.rpc import CHANNEL_OPTIONS

MIB = 1 << 20
TOKEN = b"token"


@pytest.fixture
def raw():
    return np.random.default_rng(3).bytes(3 * MIB + 5)


@pytest.fixture
def tls():
    """Whether the client takes its line for one over TLS."""
    return False


@pytest.fixture
def transfer(federation, serve, raw, tls):
    """Return a function that runs a coroutine of `Calls` against the script."""
    script = federation.script
    script.models[hashlib.sha256(raw).hexdigest()] = raw
    script.plans[TOKEN] = ("a", federation.plan)

    def run(work):
        async def main():
            from grpc import aio

            async with (
                serve(script) as address,
                aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
            ):
                clock = SystemClock()
                calls = Calls(Line(lambda _: channel, ("",)), (), clock, tls=tls)
                return await work(calls, clock.monotonic() + 30.0)

        return asyncio.run(main())

    return run


def download(raw, folder):
    cache = ModelCache(folder, 1 << 30)
    digest = hashlib.sha256(raw).hexdigest()
    return lambda calls, until: calls.download(TOKEN, digest, len(raw), cache=cache, until=until)


def test_a_cut_download_goes_on(federation, transfer, raw, tmp_path):
    federation.script.cut_download = MIB + 100
    path = transfer(download(raw, tmp_path / "cache"))
    assert path.read_bytes() == raw
    assert federation.script.offsets == [0, MIB]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_download_goes_on_after_the_process_has_ended(federation, transfer, raw, tmp_path):
    folder = tmp_path / "cache"
    ModelCache(folder, 1 << 30)
    (folder / f"{hashlib.sha256(raw).hexdigest()}.part").write_bytes(raw[: MIB + 7])
    path = transfer(download(raw, folder))
    assert path.read_bytes() == raw
    assert federation.script.offsets == [MIB + 7]


def test_a_part_of_something_else_is_thrown_away(federation, transfer, raw, tmp_path):
    folder = tmp_path / "cache"
    ModelCache(folder, 1 << 30)
    part = folder / f"{hashlib.sha256(raw).hexdigest()}.part"
    part.write_bytes(bytes(2 * MIB))
    with pytest.raises(WrongDigest):
        transfer(download(raw, folder))
    assert not part.exists()
    assert transfer(download(raw, folder)).read_bytes() == raw


def test_a_model_that_is_here_is_not_asked_for(federation, transfer, raw, tmp_path):
    for _ in range(2):
        transfer(download(raw, tmp_path / "cache"))
    assert federation.script.offsets == [0]


def test_another_model_than_named_is_refused(federation, transfer, raw, tmp_path):
    digest = hashlib.sha256(raw).hexdigest()
    federation.script.models[digest] = raw[:-1] + bytes([raw[-1] ^ 1])
    with pytest.raises(WrongDigest):
        transfer(download(raw, tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("frames", [3, 6], ids=["in the middle", "before its receipt"])
def test_an_upload_that_does_not_move_is_begun_anew(
    frames, federation, transfer, raw, tmp_path, monkeypatch
):
    monkeypatch.setattr(calls_module, "STALL_S", 0.3)
    path = tmp_path / "contribution"
    path.write_bytes(raw)
    federation.script.stall_upload = frames
    receipt = transfer(
        lambda calls, until: calls.upload(TOKEN, path, Kind.CONTRIBUTION, until=until)
    )
    assert receipt.sha256 == hashlib.sha256(raw).hexdigest()
    assert federation.script.uploads[TOKEN] == raw
    assert federation.script.stall_upload is None
    assert len(federation.script.upload_offsets) == 2


def test_a_cut_upload_goes_on(federation, transfer, raw, tmp_path):
    path = tmp_path / "contribution"
    path.write_bytes(raw)
    federation.script.cut_upload = 3  # the header and two chunks
    receipt = transfer(
        lambda calls, until: calls.upload(TOKEN, path, Kind.CONTRIBUTION, until=until)
    )
    assert federation.script.uploads[TOKEN] == raw
    assert federation.script.upload_offsets == [0, 2 * MIB]
    assert receipt.sha256 == hashlib.sha256(raw).hexdigest()
    check_receipt(receipt, server=federation.script.key.public, expected=receipt)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("taken", [False, True])
def test_an_upload_has_checksums_unless_both_ends_can_do_without(
    federation, transfer, raw, tmp_path, monkeypatch, tls, taken
):
    path = tmp_path / "contribution"
    path.write_bytes(raw)
    sent, sending = [], calls_module.Sending

    def seen(*args, **kwargs):
        sent.append(kwargs["crc"])
        return sending(*args, crc=True)  # the script takes no others

    monkeypatch.setattr(calls_module, "Sending", seen)
    transfer(
        lambda calls, until: calls.upload(
            TOKEN, path, Kind.CONTRIBUTION, until=until, without_crc=taken
        )
    )
    assert sent == [not (tls and taken)]


def test_an_upload_that_had_arrived_is_not_sent_again(federation, transfer, raw, tmp_path):
    path = tmp_path / "contribution"
    path.write_bytes(raw)
    script = federation.script
    arrived, lost = script.arrived, []

    async def losing(header, body):
        receipt = await arrived(header, body)
        if not lost:
            lost.append(receipt)
            from choral.core.errors import Unavailable

            raise Unavailable("the answer is lost")
        return receipt

    script.arrived = losing
    receipt = transfer(
        lambda calls, until: calls.upload(TOKEN, path, Kind.CONTRIBUTION, until=until)
    )
    assert receipt == lost[0]
    assert script.upload_offsets == [0]


@pytest.mark.parametrize("field", ["run_id", "round", "attempt", "client", "sha256", "size_bytes"])
def test_a_receipt_for_something_else_is_refused(field):
    from dataclasses import replace

    from choral.crypto.signatures import SigningKey
    from choral.system import SystemRand
    from choral.wire.receipts import Receipt

    key = SigningKey.random(SystemRand())
    mine = Receipt("run", 1, 1, "a", "ab" * 32, 10)
    other = {"run_id": "x", "client": "b", "sha256": "cd" * 32}.get(field, 7)
    theirs = replace(mine, **{field: other})
    signed = replace(theirs, signature=key.sign(theirs.stated()))
    with pytest.raises(Refused, match=field):
        check_receipt(signed, server=key.public, expected=mine)


def test_a_receipt_that_somebody_else_signed_is_refused():
    from dataclasses import replace

    from choral.crypto.signatures import SigningKey
    from choral.system import SystemRand
    from choral.wire.receipts import Receipt

    key, other = (SigningKey.random(SystemRand()) for _ in range(2))
    mine = Receipt("run", 1, 1, "a", "ab" * 32, 10)
    signed = replace(mine, signature=other.sign(mine.stated()))
    with pytest.raises(Refused):
        check_receipt(signed, server=key.public, expected=mine)


def test_a_model_that_a_crash_has_cut_is_fetched_again(federation, transfer, raw, tmp_path):
    path = transfer(download(raw, tmp_path / "cache"))
    path.write_bytes(raw[:-1])
    assert transfer(download(raw, tmp_path / "cache")).read_bytes() == raw
    assert federation.script.offsets == [0, 0]
