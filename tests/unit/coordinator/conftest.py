"""A real coordinator over mutual TLS on loopback, and callers who can misbehave."""

import asyncio
import contextlib
import hashlib
import logging
import shutil
import struct
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio

from choral.config.build import Place
from choral.config.federation import parse
from choral.coordinator.server import Server, Settings
from choral.core.params import ClientId
from choral.pki.credentials import ClientFiles, ServerFiles, load_client, load_server
from choral.pki.names import Role
from choral.pki.requests import load_request, make_request
from choral.pki.tls import open_tls, revoke_certificates, sign
from choral.pki.trial import trial_federation
from choral.system import SystemClock, SystemRand
from choral.wire.contributions import contribution_blocks
from choral.wire.errors import DETAIL_KEY
from choral.wire.frames import Header, Kind, chunk_frame, end_frame, header_frame
from choral.wire.joining import Join, assignment_from_proto, join_to_proto
from choral.wire.rpc import CHANNEL_OPTIONS, CoordinatorCalls
from choral.wire.v1 import admin_pb2_grpc
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1.error_pb2 import ErrorDetail

CLIENTS = ("a", "b", "c", "d")
PARTIES = {"oz": Role.OPERATOR, "ruth": Role.RESEARCHER, "rolf": Role.RESEARCHER,
           "audrey": Role.AUDITOR}  # fmt: skip
SIZE = 3
"""Elements of the model: two weights and a bias."""


def federation(**changes):
    """A federation file of the smallest model."""
    body = {
        "name": "tiny",
        "model": {"type": "linear", "input_dim": 2},
        "rounds": 1,
        "clients_per_round": 2,
        "round": {"quorum": 2, "backoff_s": 0.05},
        "start": {"wait_s": 10.0},
        "evaluation": {"clients": False},
        "seed": 1,
    }
    return parse(body | changes, where="test")


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """All certificates of a federation, made once."""
    folder = tmp_path_factory.mktemp("pki")
    trial_federation(folder, name="test", clients=[*CLIENTS, "gone"])
    tls, now = open_tls(folder / "operator"), datetime.now(UTC)
    for name, role in PARTIES.items():
        make_request(folder / name, id=name, role=role)
        sign(tls, load_request(folder / name / "request.json"), at=now, role=role)
        shutil.copy(tls.folder / "issued" / f"{name}.pem", folder / name / "certificate.pem")
        shutil.copy(folder / "coordinator" / "federation.json", folder / name)
    revoke_certificates(tls, "gone", at=now)
    shutil.copy(tls.folder / "revoked.pem", folder / "coordinator" / "revoked.pem")
    trial_federation(folder / "strangers", name="test", clients=["a"])
    return folder


class Caller:
    """One party's connection, with the calls as they are on the wire."""

    def __init__(self, address, name, channel):
        self.address, self.name, self.channel = address, name, channel
        self.calls = CoordinatorCalls(channel)
        self.admin = admin_pb2_grpc.AdminStub(channel)

    async def join(self, *, tasks=("*",), wait_s=5.0, **fields):
        join = Join(ClientId(self.name), tuple(tasks), wait_s=wait_s, **fields)
        return await self.calls.join_round(join_to_proto(join))

    async def work(self, **fields):
        """Ask until there is an assignment."""
        while True:
            answer = await self.join(**fields)
            if answer.HasField("assignment"):
                return assignment_from_proto(answer.assignment)
            assert not answer.HasField("goodbye"), answer

    async def model(self, assignment, offset=0):
        request = pb.GetModelRequest(
            protocol_version=1,
            token=assignment.token,
            sha256=assignment.plan.model_sha256,
            offset=offset,
        )
        return [frame async for frame in self.calls.get_global_model(request)]

    async def send(self, frames):
        return await self.calls.send_update(iter(frames))

    async def contribute(self, assignment, raw=None):
        return await self.send(upload(assignment.token, contribution() if raw is None else raw))

    async def goodbye(self):
        while True:
            answer = await self.join()
            if answer.HasField("goodbye"):
                return answer.goodbye


def contribution(values=(1, 2, 3), weight=1 << 30, metrics=None):
    """The bytes of a contribution to the tiny model."""
    from choral.core.exact import Contribution

    vector = np.array(values, np.int32)
    if not -(2**63) <= weight < 2**63:
        return vector.tobytes() + struct.pack("<Q", weight)
    return b"".join(map(bytes, contribution_blocks(Contribution(vector, weight, metrics or {}))))


def upload(token, raw, *, kind=Kind.CONTRIBUTION, sha256=None, size=None, chunk=1 << 20, offset=0):
    """The frames of an upload, which may lie."""
    header = Header(
        kind,
        token,
        sha256 or hashlib.sha256(raw).hexdigest(),
        len(raw) if size is None else size,
        offset=offset,
        chunk_bytes=chunk,
    )
    chunks = [chunk_frame(at, [raw[at : at + chunk]]) for at in range(offset, len(raw), chunk)]
    return [header_frame(header), *chunks, end_frame(header.sha256)]


class Site:
    """A coordinator and whoever calls it."""

    def __init__(self, server, pki, channels):
        self.server, self.pki, self._channels = server, pki, channels
        self.runs = server.runs

    def submit(self, owner="oz", **changes):
        return self.runs.submit(federation(**changes), Place(Path()), owner=owner)

    async def caller(self, name, folder=None, *, certificate=True):
        tls = load_client(
            ClientFiles.inside(folder or self.pki / name),
            at=datetime.now(UTC),
            role=PARTIES.get(name, Role.CLIENT),
            enrolled=False,
        ).tls
        pair = (tls.key, tls.certificate) if certificate else (None, None)
        trusted = (self.pki / "operator" / "tls" / "authority.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(trusted, *pair)
        channel = aio.secure_channel(
            self.server.address.replace("127.0.0.1", "localhost"),
            credentials,
            options=CHANNEL_OPTIONS,
        )
        await self._channels.enter_async_context(channel)
        return Caller(self.server.address, name, channel)

    async def ended(self, run, timeout_s=20.0):
        assert await asyncio.to_thread(run.ended.wait, timeout_s), (run.status, run.reason)
        return run.result

    async def commits(self, run, *names, raw=None):
        """Let honest clients finish a run."""

        async def one(name):
            client = await self.caller(name)
            await client.contribute(await client.work(), raw)

        await asyncio.gather(*map(one, names))
        result = await self.ended(run)
        assert run.status == "completed", run.reason
        return result

    def counted(self, name):
        """A metric's samples: labels to value."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in self.server.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        }


@pytest.fixture
def served(pki, tmp_path):
    """Return what runs a coroutine with a coordinator that is there meanwhile."""

    def ours():
        return load_server(ServerFiles.inside(pki / "coordinator"), at=datetime.now(UTC))

    def run(test, clock=None, limit_s=60, **changes):
        async def whole():
            async with contextlib.AsyncExitStack() as channels:
                server = Server(
                    Settings(
                        listen="127.0.0.1:0",
                        storage=tmp_path / "runs",
                        place=Place(tmp_path),
                        **{"credentials": ours, **changes},
                    ),
                    clock=clock or SystemClock(),
                    rand=SystemRand(),
                )
                await server.start()
                try:
                    return await asyncio.wait_for(test(Site(server, pki, channels)), limit_s)
                finally:
                    await server.stop()

        return asyncio.run(whole())

    return run


def code_of(error):
    """The code of our detail in a failed call; None where it came from gRPC itself."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY:
            return ErrorDetail.FromString(value).code
    return None


@contextlib.contextmanager
def refused(code):
    """Expect a call to fail with one of our codes."""
    with pytest.raises(aio.AioRpcError) as caught:
        yield caught
    assert code_of(caught.value) == code, caught.value


@pytest.fixture
def tools():
    """What tests take from here besides the coordinator."""

    class Tools:
        pass

    found = Tools()
    for part in (contribution, upload, refused, code_of, federation, PARTIES, CLIENTS):
        found.__dict__[getattr(part, "__name__", "")] = part
    found.PARTIES, found.CLIENTS = PARTIES, CLIENTS
    return found


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, logger="choral")
