"""A thousand clients at one coordinator: memory of held calls, idle work, and whole rounds."""

import asyncio
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from choral.core.params import ClientId
from choral.wire.frames import Header, Kind, chunk_frame, end_frame, header_frame
from choral.wire.joining import Join, join_to_proto
from choral.wire.rpc import CHANNEL_OPTIONS, CoordinatorCalls
from choral.wire.v1 import coordinator_pb2 as pb

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(1500),
]

CLIENTS = 1000
SIZE = 1 << 18
"""Elements of the model: 1 MiB."""
ROUNDS = 13

TASK = f"""
import numpy as np
from choral.core.update import Update

class Nothing:
    def init(self, key):
        return {{"w": np.zeros({SIZE}, np.float32)}}
    def train(self, params, data, plan, key):
        raise AssertionError
    def evaluate(self, params, data):
        return {{"loss": 0.0}}

task = Nothing()
"""

BYTES = b"\x01\0\0\0" * SIZE + struct.pack("<q", 1 << 30)
"""A contribution: every coordinate one step of the grid, weight 1, no metrics."""
HEADER = {"sha256": hashlib.sha256(BYTES).hexdigest(), "size_bytes": len(BYTES)}


class Coordinator:
    """A real coordinator process, and what the system says of it."""

    def __init__(self, folder, rounds):
        (folder / "nothing.py").write_text(TASK)
        body = {
            "task": "nothing:task",
            "rounds": rounds,
            "clients_per_round": CLIENTS,
            "evaluation": {"clients": False, "every": 0},
            "strategy": {"name": "fedavg", "weighting": "uniform"},
            "start": {"wait_s": 600},
        }
        (folder / "federation.yaml").write_text(json.dumps(body))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "choral", "coordinator", "--config", "federation.yaml",
             "--insecure", "--listen", "127.0.0.1:0", "--json"],
            cwd=folder, stdout=subprocess.PIPE, stderr=(folder / "log").open("w"),
        )  # fmt: skip
        self.log = folder / "log"

    def address(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                found = json.loads(line)
                if "address" in found:
                    return found["address"]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def rss_kib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = (int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        return next(found, math.inf)  # one that has just ended has none

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def committed(self):
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line.get("event") == "committed"]


class Client:
    """A connection of its own that joins, and answers each assignment with the same bytes."""

    def __init__(self, address, number):
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        self.channel = aio.insecure_channel(address, options=options)
        self.calls = CoordinatorCalls(self.channel)
        self.name = f"client-{number:04d}"
        self.metadata = (("choral-client-id", self.name),)

    async def join(self, wait_s):
        join = Join(ClientId(self.name), ("*",), wait_s=wait_s)
        return await self.calls.join_round(join_to_proto(join), metadata=self.metadata)

    async def work(self, gate):
        """Take part until the run is over."""
        while True:
            answer = await self.join(30.0)
            kind = answer.WhichOneof("answer")
            if kind == "goodbye":
                return
            if kind == "assignment":
                async with gate:
                    await self.contribute(answer.assignment)

    async def contribute(self, assignment):
        request = pb.GetModelRequest(
            protocol_version=1, token=assignment.token, sha256=assignment.model_sha256
        )
        size = 0
        async for frame in self.calls.get_global_model(request, metadata=self.metadata):
            size += len(frame)
        assert size > 4 * SIZE
        header = Header(Kind.CONTRIBUTION, assignment.token, **HEADER, chunk_bytes=2 << 20)
        frames = [header_frame(header), chunk_frame(0, [BYTES]), end_frame(header.sha256)]
        await self.calls.send_update(iter(frames), metadata=self.metadata)


async def held_calls(coordinator):
    """Return memory per held call in kB, and the share of a core that holding them takes."""
    address = coordinator.address()
    one = Client(address, 0)
    await one.join(0.0)
    before = coordinator.rss_kib()
    clients = [Client(address, number) for number in range(CLIENTS - 1)]
    # one fewer than the run wants: it waits, and so do they
    calls = [asyncio.ensure_future(client.join(30.0)) for client in clients]
    await asyncio.sleep(12)
    after = coordinator.rss_kib()
    assert not any(call.done() for call in calls)
    cpu, started = coordinator.cpu_s(), time.monotonic()
    await asyncio.sleep(8)
    busy = (coordinator.cpu_s() - cpu) / (time.monotonic() - started)
    assert not any(call.done() for call in calls)
    for call in calls:
        call.cancel()
    for client in (*clients, one):
        await client.channel.close()
    return (after - before) * 1.024 / len(clients), busy


async def rounds(coordinator):
    """Let all clients take part in all rounds; return the least memory of each, in KiB.

    The least, since what is on its way comes and goes, and what is kept stays.
    """
    address = coordinator.address()
    gate = asyncio.Semaphore(32)  # of this process, which stands for a thousand machines
    clients = [Client(address, number) for number in range(CLIENTS)]
    work = [asyncio.ensure_future(client.work(gate)) for client in clients]
    memory, least, seen = [], math.inf, 0
    while coordinator.process.poll() is None and not all(task.done() for task in work):
        await asyncio.sleep(0.2)
        done = len(coordinator.committed())
        if done > seen:
            memory.append(least)
            least, seen = math.inf, done
        least = min(least, coordinator.rss_kib())
    await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 60)
    for client in clients:
        await client.channel.close()
    return memory


@pytest.fixture
def start(tmp_path):
    begun = []

    def begin(count):
        begun.append(Coordinator(tmp_path, count))
        return begun[-1]

    yield begin
    for coordinator in begun:
        coordinator.process.kill()
        coordinator.process.wait()


def test_held_calls_cost_little(start, record_property):
    each_kb, busy = asyncio.run(held_calls(start(1)))
    record_property("kB per held call", each_kb)
    record_property("idle share of a core", busy)
    print(f"{each_kb:.1f} kB a held call, idle {100 * busy:.1f} % of a core")
    assert each_kb <= 60
    assert busy < 0.05


def test_a_thousand_clients_finish_rounds_in_flat_memory(start):
    coordinator = start(ROUNDS)
    memory = asyncio.run(rounds(coordinator))
    out, _ = coordinator.process.communicate(timeout=60)
    result = json.loads(out)
    assert result["status"] == "completed"
    assert [r["completed"] for r in result["rounds"]] == [CLIENTS] * ROUNDS
    settled = np.array(memory[-10:]) / 1024  # the first rounds fill buffers and pools
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    seconds = sorted(r["duration_s"] for r in result["rounds"])[ROUNDS // 2]
    print(
        f"{seconds:.1f} s a round, {slope:.2f} MiB a round, {memory[-1] / 1024:.0f} MiB at the end"
    )
    assert slope < 1
    assert settled.max() < 400  # a quarter of a mebibyte a client, of a model of one
