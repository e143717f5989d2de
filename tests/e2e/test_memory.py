"""A coordinator's memory: that of its model, whatever the number of clients."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grpc import aio

from choral.core.params import ClientId
from choral.wire.frames import MIB, Header, Kind, chunk_frame, end_frame, header_frame
from choral.wire.joining import Join, join_to_proto
from choral.wire.rpc import CHANNEL_OPTIONS, CoordinatorCalls
from choral.wire.v1 import coordinator_pb2 as pb

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(1500),
]

TASK = """
import numpy as np
from choral.core.update import Update

class Nothing:
    def init(self, key):
        return {{"w": np.full({mb} << 18, 0.5, np.float32)}}
    def train(self, params, data, plan, key):
        raise AssertionError
    def evaluate(self, params, data):
        return {{"loss": 0.0}}

task = Nothing()
"""

ONES = b"\x01\0\0\0" * (MIB // 4)
"""A mebibyte of a contribution: every coordinate one step of the grid."""
WEIGHT = (1 << 30).to_bytes(8, "little")
"""What comes after it: weight 1, no metrics."""


def memory_mib(process, name):
    """What the system says of a process's memory: `VmHWM` is the most so far."""
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(s.split()[1]) >> 10 for s in status if s.startswith(name)), 0)


def start(folder, *, mb, clients):
    (folder / "nothing.py").write_text(TASK.format(mb=mb))
    body = {
        "task": "nothing:task",
        "rounds": 1,
        "clients_per_round": clients,
        "evaluation": {"clients": False, "every": 0},
        "strategy": {"name": "fedavg", "weighting": "uniform"},
        "start": {"wait_s": 600},
    }
    (folder / "federation.yaml").write_text(json.dumps(body))
    return subprocess.Popen(
        [sys.executable, "-m", "choral", "coordinator", "--config", "federation.yaml",
         "--insecure", "--listen", "127.0.0.1:0", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=(folder / "log").open("w"),
    )  # fmt: skip


def address_in(log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            found = json.loads(line)
            if "address" in found:
                return found["address"]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


class Client:
    """A client that keeps next to nothing: it reads a model, and says one all over."""

    def __init__(self, address, number):
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        self.channel = aio.insecure_channel(address, options=options)
        self.calls = CoordinatorCalls(self.channel)
        self.name = f"client-{number}"
        self.metadata = (("choral-client-id", self.name),)

    async def take_part(self, mb, sha256):
        join = join_to_proto(Join(ClientId(self.name), ("*",), wait_s=30.0))
        while True:
            answer = await self.calls.join_round(join, metadata=self.metadata)
            if answer.WhichOneof("answer") == "assignment":
                break
        assignment = answer.assignment
        request = pb.GetModelRequest(
            protocol_version=1, token=assignment.token, sha256=assignment.model_sha256
        )
        size = 0
        async for frame in self.calls.get_global_model(request, metadata=self.metadata):
            size += len(frame)
        assert size > mb * MIB
        ack = await self.calls.send_update(
            self.frames(assignment.token, mb, sha256), metadata=self.metadata
        )
        assert ack.receipt.size_bytes == mb * MIB + len(WEIGHT)
        await self.channel.close()

    @staticmethod
    async def frames(token, mb, sha256):
        yield header_frame(Header(Kind.CONTRIBUTION, token, sha256, mb * MIB + len(WEIGHT)))
        for at in range(mb):
            yield chunk_frame(at * MIB, [ONES])
        yield chunk_frame(mb * MIB, [WEIGHT])
        yield end_frame(sha256)


def round_of(folder, *, mb, clients):
    """Let clients take part in one round; return the result, and the most memory in MiB."""
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256()
    for _ in range(mb):
        digest.update(ONES)
    digest.update(WEIGHT)
    coordinator = start(folder, mb=mb, clients=clients)

    async def everybody():
        address = address_in(folder / "log")
        work = [Client(address, n).take_part(mb, digest.hexdigest()) for n in range(clients)]
        await asyncio.gather(*work)

    try:
        asyncio.run(everybody())
        peak = 0
        while coordinator.poll() is None:
            peak = max(peak, memory_mib(coordinator, "VmHWM"))
            time.sleep(0.05)
        result = json.loads(coordinator.communicate(timeout=60)[0])
    finally:
        coordinator.kill()
        coordinator.wait()
        shutil.rmtree(folder)
    assert result["status"] == "completed"
    assert [r["completed"] for r in result["rounds"]] == [clients]
    return result, peak


def test_memory_does_not_grow_with_the_number_of_clients(tmp_path):
    mb = 128
    few, many = (round_of(tmp_path / str(n), mb=mb, clients=n)[1] for n in (2, 8))
    print(f"{few} MiB for 2 clients, {many} MiB for 8")
    # what is on its way, a few chunks a client: less than one contribution for six more clients
    assert many - few < mb


def test_a_model_beyond_two_gibibytes(tmp_path):
    """Neither a message of 2 GiB, which protobuf does not have, nor a 32-bit number on the way."""
    mb = 2253
    free = shutil.disk_usage(tmp_path).free >> 20
    memory = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
    if free < 10 * mb or int(memory) >> 10 < 5 * mb:
        pytest.skip("a model of 2.2 GiB needs 22 GiB of disk and 11 GiB of memory")
    started = time.monotonic()
    result, peak = round_of(tmp_path / "large", mb=mb, clients=2)
    seconds = time.monotonic() - started
    print(
        f"{seconds:.0f} s, a round of {result['rounds'][0]['duration_s']:.0f} s, {peak} MiB at "
        f"most: {peak / mb:.2f} x the model"
    )
    assert peak < 5 * mb
