"""Uploads and downloads of a deployment, beside a plain gRPC stream of the same bytes.

Both go over mutual TLS on loopback, between two processes, in turn. Ours is the very code of a
coordinator and a client: checksums, digests, disk on both sides. The floor sends chunks of one
mebibyte and throws them away.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from grpc import aio

from choral.bench.machine import machine, row
from choral.client.cache import ModelCache
from choral.client.calls import Calls, sha256_of
from choral.client.line import Line
from choral.coordinator.callers import by_certificate
from choral.coordinator.desk import Desk
from choral.coordinator.server import SERVER_OPTIONS, tls_of
from choral.coordinator.service import Service
from choral.coordinator.tickets import Arrived, Message, Ticket, Use
from choral.coordinator.transfers import Uploads
from choral.core.aggregation import Plain
from choral.core.exact import Encoding
from choral.core.params import ClientId, Spec
from choral.core.plan import Local, Plan
from choral.pki.credentials import ClientFiles, ServerFiles, load_client, load_server
from choral.pki.trial import trial_federation
from choral.system import SystemClock
from choral.wire.frames import MIB, Kind
from choral.wire.receipts import Receipt
from choral.wire.rpc import CHANNEL_OPTIONS, coordinator_handler

CLIENT: Final = "site"
_RAW: Final = "choral.bench.Raw"
_HOUR_S: Final = 3600.0

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Job:
    """What the process of the server is told."""

    folder: Path
    model: Path
    sha256: str
    mb: int
    tokens: tuple[bytes, ...]


def bench_transfer(*, mb: int, repeat: int, watch: Watch) -> dict[str, Any]:
    """Return MB/s of both ways, ours and the floor's.

    Args:
        mb: Mebibytes of a transfer.
        repeat: Measurements of each, in turn.
        watch: Called with the stage, how far it is, and of how many.
    """
    with tempfile.TemporaryDirectory(prefix="choral-bench-") as name:
        folder = Path(name)
        trial_federation(folder, name="bench", clients=[CLIENT])
        model = folder / "model.bin"
        _write_random(model, mb)
        tokens = tuple(f"up-{i}".encode() for i in range(2 * (repeat + 1)))
        job = _Job(folder, model, sha256_of(model), mb, tokens)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        server = spawn.Process(target=_serve, args=(theirs, job), daemon=True)
        server.start()
        try:
            port = int(ours.recv())
            times = asyncio.run(_measure(job, port, repeat, watch))
        finally:
            ours.close()
            server.join(5)
            server.kill()
    rows = []
    for way in ("up", "down"):
        pairs = [(mb / a, mb / b) for a, b in zip(times[way], times[f"raw {way}"], strict=True)]
        rows.append(row(f"{way}load of {mb} MiB", pairs, unit="MiB/s"))
    return {"name": "transfer", "machine": machine(), "rows": rows}


def _write_random(path: Path, mb: int) -> None:
    rng = np.random.default_rng(7)
    with path.open("wb") as file:
        for _ in range(mb):
            file.write(rng.bytes(MIB))


# --- the process of the server --------------------------------------------------------------------


def _serve(pipe: Connection, job: _Job) -> None:
    asyncio.run(_serve_until_closed(pipe, job))


async def _serve_until_closed(pipe: Connection, job: _Job) -> None:
    credentials = load_server(ServerFiles.inside(job.folder / "coordinator"), at=datetime.now(UTC))
    server = aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((coordinator_handler(_service(job, credentials)), _raw(job)))
    port = server.add_secure_port("127.0.0.1:0", tls_of(credentials))
    await server.start()
    pipe.send(port)
    while True:
        try:
            if pipe.poll(0):
                break
        except (EOFError, BrokenPipeError):
            break
        await asyncio.sleep(0.1)
    await server.stop(grace=0)


def _service(job: _Job, credentials: Any) -> Service:
    """Return the calls of a real coordinator, whose run gives a receipt for everything."""
    clock, pool = SystemClock(), ThreadPoolExecutor(4)
    desk = Desk(asyncio.get_running_loop(), clock)
    spec = Spec.of({"w": np.broadcast_to(np.float32(0), (job.mb * MIB // 4,))})
    plan = Plan(
        run_id="bench",
        round=1,
        attempt=1,
        task="bench",
        model_sha256=job.sha256,
        spec_digest=spec.digest,
        local=Local(),
        mu=0.0,
        weighting="uniform",
        aggregation=Plain(),
        encoding=Encoding(),
        goal=1,
        quorum=1,
        deadline_s=_HOUR_S,
    )

    def receipted(message: Message) -> None:
        if isinstance(message, Arrived):
            header = message.header
            message.upload.discard()
            message.reply(Receipt("bench", 1, 1, CLIENT, header.sha256, header.size_bytes))

    desk.assign(
        [
            Ticket(
                token,
                ClientId(CLIENT),
                Use.TRAIN,
                plan,
                job.sha256,
                job.mb * MIB,
                clock.monotonic() + _HOUR_S,
                receipted,
                keep=lambda upload, sha256: None,
            )
            for token in job.tokens
        ]
    )
    uploads = job.folder / "uploads"
    uploads.mkdir()
    return Service(
        desk,
        callers=by_certificate(lambda: credentials, clock),
        welcome=None,
        uploads=Uploads(uploads, clock, pool, without_crc=True),
        model=lambda run_id, sha256: job.model,
        spec=lambda run_id: spec,
        clock=clock,
        pool=pool,
        tls=True,
    )


def _raw(job: _Job) -> grpc.GenericRpcHandler:
    block = os.urandom(MIB)

    async def up(frames: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in frames:
            pass
        return b""

    async def down(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(job.mb):
            yield block

    return grpc.method_handlers_generic_handler(
        _RAW,
        {
            "Up": grpc.stream_unary_rpc_method_handler(up),
            "Down": grpc.unary_stream_rpc_method_handler(down),
        },
    )


# --- this process: the client ---------------------------------------------------------------------


async def _measure(job: _Job, port: int, repeat: int, watch: Watch) -> dict[str, list[float]]:
    tls = load_client(ClientFiles.inside(job.folder / CLIENT), at=datetime.now(UTC)).tls
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    clock = SystemClock()
    until = clock.monotonic() + _HOUR_S
    times: dict[str, list[float]] = {n: [] for n in ("up", "down", "raw up", "raw down")}
    async with aio.secure_channel(
        f"localhost:{port}", credentials, options=CHANNEL_OPTIONS
    ) as channel:
        calls = Calls(Line(lambda _: channel, ("",)), (), clock, tls=True)
        raw_up: Any = channel.stream_unary(f"/{_RAW}/Up")
        raw_down: Any = channel.unary_stream(f"/{_RAW}/Down")
        block = os.urandom(MIB)

        async def upload(turn: int) -> None:
            await calls.upload(
                job.tokens[turn],
                job.model,
                Kind.CONTRIBUTION,
                until=until,
                sha256=job.sha256,
                without_crc=True,
            )

        async def download(turn: int) -> None:
            cache = ModelCache(job.folder / f"cache-{turn}", 1 << 40)
            path = await calls.download(
                job.tokens[-1 - turn], job.sha256, job.mb * MIB, cache=cache, until=until
            )
            path.unlink()

        async def send(_: int) -> None:
            await raw_up(iter([block] * job.mb))

        async def fetch(_: int) -> None:
            async for _frame in raw_down(b""):
                pass

        for turn in range(repeat + 1):
            watch("measuring", turn, repeat + 1)
            for name, work in (
                ("raw up", send),
                ("up", upload),
                ("raw down", fetch),
                ("down", download),
            ):
                started = time.perf_counter()
                await work(turn)
                if turn:  # the first one warms up
                    times[name].append(time.perf_counter() - started)
    return times
