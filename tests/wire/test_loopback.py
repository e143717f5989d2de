"""The bulk path over a real connection, beside a plain stream of the same bytes.

`pytest tests/wire/test_loopback.py -s` prints what it measured.
"""

import asyncio
import contextlib
import hashlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc import aio

from choral.core.errors import OutOfOrder, Refused, TooLarge
from choral.wire.errors import from_rpc_error, to_status
from choral.wire.frames import MIB, Header, Kind
from choral.wire.receipts import Receipt, receipt_to_proto
from choral.wire.rpc import CHANNEL_OPTIONS, CoordinatorCalls, coordinator_handler
from choral.wire.transfer import Blocks, Complete, Limits, MemorySink, Receiving, Sending
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import coordinator_pb2_grpc as generated
from choral.wire.v1 import transfer_pb2

SIZE = 64 * MIB
TOKEN = b"token"
MODEL = frozenset({Kind.MODEL})
UPDATE = frozenset({Kind.CONTRIBUTION})
PLAIN = "choral.test.Plain"


def header_of(blocks, kind=Kind.MODEL, **fields):
    return Header(kind, TOKEN, blocks.sha256(), blocks.size, **fields)


async def take(receiving, frames, threads):
    """Feed a receiver; checksum and hash of a frame run while the next one arrives."""
    loop = asyncio.get_running_loop()
    work = None
    async for raw in frames:
        if work is not None:
            await work
        work = loop.run_in_executor(threads, receiving.receive, raw)
    if work is not None:
        await work
    return receiving.finish()


class Hospital:
    """A coordinator with one model, and one place for uploads by their digest."""

    def __init__(self, blocks, threads):
        self.blocks, self.threads = blocks, threads
        self.header = header_of(blocks)
        self.limits = Limits(UPDATE, 2 * SIZE)
        self.sinks = {}

    def sink_of(self, header):
        if header.token != TOKEN:
            raise Refused("an unknown token")
        return self.sinks.setdefault(header.sha256, MemorySink(header.size_bytes))

    async def get_global_model(self, request, context):
        header = header_of(self.blocks, offset=request.offset)
        for frame in Sending(header, self.blocks):
            yield frame

    async def send_update(self, frames, context):
        receiving = Receiving(self.limits, self.sink_of)
        try:
            header = await take(receiving, frames, self.threads)
        except (Refused, TooLarge, OutOfOrder) as error:
            status, metadata = to_status(error)
            await context.abort(status, error.message, metadata)
        receipt = Receipt("run", 1, 1, "a", header.sha256, header.size_bytes)
        return pb.UpdateAck(protocol_version=1, receipt=receipt_to_proto(receipt))

    async def get_upload(self, request, context):
        held = self.sinks[request.sha256].held() if request.sha256 in self.sinks else 0
        return pb.UploadStatus(protocol_version=1, offset=held)

    async def join_round(self, request, context):
        return pb.JoinResponse(protocol_version=1, come_back=pb.ComeBack(after_s=1))

    async def exchange(self, request, context):
        return request

    async def report_failure(self, request, context):
        return pb.Ack(protocol_version=1)

    async def report_evaluation(self, request, context):
        return pb.Ack(protocol_version=1)


def plain_handler(data):
    """Streams of raw bytes in 1 MiB pieces with nothing around them: the floor."""

    async def down(request, context):
        for start in range(0, len(data), MIB):
            yield data[start : start + MIB]

    async def up(frames, context):
        held = bytearray(len(data))
        at = 0
        async for raw in frames:
            held[at : at + len(raw)] = raw
            at += len(raw)
        return b"%d" % at

    return grpc.method_handlers_generic_handler(
        PLAIN,
        {
            "Down": grpc.unary_stream_rpc_method_handler(down),
            "Up": grpc.stream_unary_rpc_method_handler(up),
        },
    )


@contextlib.asynccontextmanager
async def loopback(data):
    """A server, a channel to it, and the coordinator behind it."""
    with ThreadPoolExecutor(2) as threads:
        hospital = Hospital(Blocks([data]), threads)
        server = aio.server(options=CHANNEL_OPTIONS)
        server.add_generic_rpc_handlers((coordinator_handler(hospital), plain_handler(data)))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}", CHANNEL_OPTIONS) as channel:
                yield hospital, channel, CoordinatorCalls(channel)
        finally:
            await server.stop(None)


def some_bytes(size):
    return np.random.default_rng(3).bytes(size)


async def download(hospital, calls, sink, offset=0):
    request = pb.GetModelRequest(protocol_version=1, token=TOKEN, offset=offset)
    receiving = Receiving(Limits(MODEL, SIZE), lambda header: sink)
    return await take(receiving, calls.get_global_model(request), hospital.threads)


def upload(calls, blocks, offset=0):
    header = header_of(blocks, Kind.CONTRIBUTION, offset=offset)
    return calls.send_update(iter(Sending(header, blocks)))


async def seconds(work):
    start = time.perf_counter()
    result = await work
    return result, time.perf_counter() - start


async def plain_down(channel):
    held = bytearray(SIZE)
    at = 0
    async for raw in channel.unary_stream(f"/{PLAIN}/Down")(b""):
        held[at : at + len(raw)] = raw
        at += len(raw)
    return at


async def plain_up(channel, data):
    pieces = (data[start : start + MIB] for start in range(0, SIZE, MIB))
    return int(await channel.stream_unary(f"/{PLAIN}/Up")(pieces))


async def measured(repeats):
    """Seconds of each way, ours and plain, in turn, and the check that the bytes are right."""
    data = some_bytes(SIZE)
    rows = []
    async with loopback(data) as (hospital, channel, calls):
        for _ in range(repeats):
            sink = MemorySink(SIZE)
            _, ours_down = await seconds(download(hospital, calls, sink))
            assert hashlib.sha256(sink.view()).hexdigest() == hospital.header.sha256
            arrived, floor_down = await seconds(plain_down(channel))
            assert arrived == SIZE
            hospital.sinks.clear()
            ack, ours_up = await seconds(upload(calls, hospital.blocks))
            assert ack.receipt.sha256 == hospital.header.sha256
            arrived, floor_up = await seconds(plain_up(channel, data))
            assert arrived == SIZE
            rows.append((ours_down, floor_down, ours_up, floor_up))
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def test_64_mib_each_way_beside_a_plain_stream(capsys):
    ours_down, floor_down, ours_up, floor_up = asyncio.run(measured(3))
    with capsys.disabled():
        for way, ours, floor in (("down", ours_down, floor_down), ("up", ours_up, floor_up)):
            print(
                f"\n{way}: {SIZE / MIB / ours:.0f} MiB/s, plain {SIZE / MIB / floor:.0f} MiB/s, "
                f"ratio {floor / ours:.2f}",
                end="",
            )


def test_an_upload_that_was_cut_goes_on_where_it_was():
    data = some_bytes(5 * MIB + 3)
    blocks = Blocks([data[:100], data[100:]])

    async def scenario():
        async with loopback(data) as (hospital, _, calls):
            header = header_of(blocks, Kind.CONTRIBUTION)
            frames = list(Sending(header, blocks))
            with pytest.raises(aio.AioRpcError):
                await calls.send_update(iter(frames[:3]))  # the header and two chunks, no end
            request = pb.UploadRequest(protocol_version=1, token=TOKEN, sha256=header.sha256)
            status = await calls.get_upload(request)
            assert status.offset == 2 * MIB
            ack = await upload(calls, blocks, status.offset)
            assert ack.receipt.size_bytes == len(data)
            assert hospital.sinks[header.sha256].view() == data

    asyncio.run(scenario())


def test_a_download_goes_on_from_an_offset():
    data = some_bytes(3 * MIB)

    async def scenario():
        async with loopback(data) as (hospital, _, calls):
            sink = MemorySink(len(data))
            sink.write(0, memoryview(data)[: MIB + 5])
            header = await download(hospital, calls, sink, offset=MIB + 5)
            assert header.offset == MIB + 5
            assert sink.view() == data

    asyncio.run(scenario())


def test_a_refusal_comes_back_as_what_it_was():
    data = some_bytes(MIB)
    blocks = Blocks([data])

    async def scenario():
        async with loopback(data) as (hospital, _, calls):
            hospital.limits = Limits(UPDATE, MIB - 1)
            with pytest.raises(aio.AioRpcError) as caught:
                await upload(calls, blocks)
            error = from_rpc_error(caught.value)
            assert type(error) is TooLarge
            assert error.message == f"a transfer of {MIB} bytes, expected at most {MIB - 1}"

    asyncio.run(scenario())


def test_the_largest_chunk_passes():
    data = some_bytes(4 * MIB)
    blocks = Blocks([data])

    async def scenario():
        async with loopback(data) as (_hospital, _, calls):
            header = header_of(blocks, Kind.CONTRIBUTION, chunk_bytes=4 * MIB)
            ack = await calls.send_update(iter(Sending(header, blocks)))
            assert ack.receipt.sha256 == header.sha256

    asyncio.run(scenario())


def test_generated_code_reads_and_writes_the_same_frames():
    """Another language has no raw methods: it sees the messages of the schema."""
    data = some_bytes(2 * MIB + 1)
    blocks = Blocks([data])

    async def scenario():
        async with loopback(data) as (hospital, channel, _):
            stub = generated.CoordinatorStub(channel)
            request = pb.GetModelRequest(protocol_version=1, token=TOKEN)
            frames = [frame async for frame in stub.GetGlobalModel(request)]
            assert b"".join(frame.chunk.data for frame in frames) == data
            header = header_of(blocks, Kind.CONTRIBUTION)
            sent = map(transfer_pb2.Frame.FromString, Sending(header, blocks))
            ack = await stub.SendUpdate(sent)
            assert ack.receipt.sha256 == header.sha256
            assert hospital.sinks[header.sha256].view() == data

    asyncio.run(scenario())


def test_every_call_of_the_service_arrives():
    async def scenario():
        async with loopback(b"") as (_, _, calls):
            answer = await calls.join_round(pb.JoinRequest(protocol_version=1))
            assert answer.come_back.after_s == 1
            message = pb.ProtocolMessage(token=TOKEN, sequence=2, body=b"x")
            assert await calls.exchange(message) == message
            assert await calls.report_failure(pb.FailureReport()) == pb.Ack(protocol_version=1)
            assert await calls.report_evaluation(pb.Evaluation()) == pb.Ack(protocol_version=1)
            assert (await calls.get_upload(pb.UploadRequest())).offset == 0

    asyncio.run(scenario())


def test_a_transfer_of_nothing():
    async def scenario():
        async with loopback(b"") as (hospital, _, calls):
            ack = await upload(calls, Blocks([]))
            assert ack.receipt.sha256 == hashlib.sha256(b"").hexdigest()
            receiving = Receiving(Limits(MODEL, 0), lambda header: MemorySink(0))
            events = [receiving.receive(f) for f in Sending(hospital.header, hospital.blocks)]
            assert isinstance(events[-1], Complete)

    asyncio.run(scenario())
