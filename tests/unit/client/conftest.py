"""A coordinator that follows a script, over real gRPC on loopback, and sites to meet it."""

import asyncio
import contextlib
import hashlib
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from grpc import aio

from choral.client.agent import Agent
from choral.client.policy import OPEN
from choral.client.settings import Local, Settings
from choral.client.who import Unverified
from choral.client.work import _Desk
from choral.core.canonical import canonical_json
from choral.core.errors import ChoralError, Refused, Stale, Unavailable
from choral.core.keys import Key
from choral.core.task import spec_of
from choral.core.tensors import encode_tensors
from choral.core.transform import Chain
from choral.crypto.signatures import SigningKey
from choral.data import FolderSource
from choral.federation.participant import Participant
from choral.pki import authorities, coordinator, enrolment, requests, tls
from choral.pki.certificates import pem
from choral.pki.credentials import ClientFiles, ServerFiles, load_server
from choral.pki.files import private_folder
from choral.secagg.enrolment import Authority
from choral.system import SystemClock, SystemRand
from choral.tasks.zoo import build
from choral.wire.contributions import contribution_blocks
from choral.wire.errors import to_status
from choral.wire.frames import Header, Kind
from choral.wire.joining import (
    Assignment,
    EvaluationTask,
    assignment_to_proto,
    evaluation_from_proto,
    task_to_proto,
)
from choral.wire.receipts import Receipt, receipt_to_proto
from choral.wire.rpc import CHANNEL_OPTIONS, coordinator_handler
from choral.wire.transfer import Blocks, Limits, MemorySink, Receiving, Sending
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2

MIB = 1 << 20


class Scripted:
    """A coordinator whose answers are written down beforehand; it notes what it is told.

    Attributes:
        answers: Client to the answers that its calls get, in order; then it is told goodbye.
        models: Digest to bytes.
        cut_download: Bytes after which the next download breaks, once.
        cut_upload: Frames after which the next upload breaks, once.
        stall_upload: Frames after which the next upload is neither read nor answered, once.
        fail_joins: So many first calls are answered by an error.
        refuse_joins: That error; a refusal is for every call.
        head: Head of the audit trail in assignments and receipts.
        sign: Whether receipts are signed with the key that clients know.
    """

    def __init__(self):
        rand = SystemRand()
        self.key, self.authority = SigningKey.random(rand), Authority(SigningKey.random(rand))
        self.answers = defaultdict(list)
        self.farewell = run_pb2.RUN_STATUS_COMPLETED
        self.models = {}
        self.cut_download = self.cut_upload = self.stall_upload = None
        self.fail_joins = 0
        self.refuse_joins = None
        self.receipt_key = self.key
        self.joins, self.failures, self.evaluations = [], {}, []
        self.offsets, self.upload_offsets, self.frames = [], [], 0
        self.sinks, self.uploads, self.plans, self.receipts = {}, {}, {}, {}
        self.metadata = {}
        self.head = b""

    # --- the script -------------------------------------------------------------------------------

    def model(self, params):
        raw = b"".join(bytes(part) for part in encode_tensors(params))
        digest = hashlib.sha256(raw).hexdigest()
        assert digest == params.sha256
        self.models[digest] = raw
        return digest, len(raw)

    def assign(self, client, plan, *, token=None, deadline_s=60.0, states=()):
        token = token or f"{client}-{plan.round}-{plan.attempt}".encode()
        self.plans[token] = (client, plan)
        size = len(self.models.get(plan.model_sha256, b""))
        found = Assignment(token, plan, size, deadline_s, states, self.head)
        self.answers[client].append(
            pb.JoinResponse(protocol_version=1, assignment=assignment_to_proto(found))
        )
        return token

    def ask_evaluation(self, client, plan, *, final=True):
        token = f"{client}-evaluation".encode()
        self.plans[token] = (client, plan)
        task = EvaluationTask(
            token, plan, plan.model_sha256, len(self.models[plan.model_sha256]), final, 60.0
        )
        self.answers[client].append(
            pb.JoinResponse(protocol_version=1, evaluation=task_to_proto(task))
        )
        return token

    # --- the calls --------------------------------------------------------------------------------

    async def join_round(self, request, context):
        self.joins.append(request)
        self.metadata = dict(context.invocation_metadata() or ())
        if self.fail_joins or isinstance(self.refuse_joins, Refused):
            self.fail_joins -= 1
            await self.abort(context, self.refuse_joins or Unavailable("not ready"))
        key = self.metadata.get("choral-signing-key-bin")
        if key is not None:
            await context.send_initial_metadata(
                (
                    ("choral-enrolment-bin", self.authority.enrol(request.client_id, key)),
                    ("choral-authority-bin", self.authority.public),
                    ("choral-server-key-bin", self.key.public),
                )
            )
        waiting = self.answers[request.client_id]
        if waiting:
            return waiting.pop(0)
        goodbye = pb.Goodbye(run_id="heart-1", status=self.farewell, reason="")
        return pb.JoinResponse(protocol_version=1, goodbye=goodbye)

    async def get_global_model(self, request, context):
        raw = self.models[request.sha256]
        self.offsets.append(request.offset)
        header = Header(Kind.MODEL, request.token, request.sha256, len(raw), offset=request.offset)
        sent = 0
        for frame in Sending(header, Blocks([raw])):
            yield frame
            sent += len(frame)
            if self.cut_download is not None and sent >= self.cut_download:
                self.cut_download = None
                await self.abort(context, Unavailable("cut"))

    async def send_update(self, frames, context):
        def sink_of(header):
            if header.token not in self.plans:
                raise Stale("no such work")
            self.upload_offsets.append(header.offset)
            return self.sinks.setdefault(header.sha256, MemorySink(header.size_bytes))

        kinds = frozenset({Kind.CONTRIBUTION, Kind.MASKED})
        receiving = Receiving(Limits(kinds, 1 << 30), sink_of)
        count = 0
        try:
            async for frame in frames:
                receiving.receive(frame)
                self.frames, count = self.frames + 1, count + 1
                if self.cut_upload is not None and count >= self.cut_upload:
                    self.cut_upload = None
                    raise Unavailable("cut")
                if self.stall_upload is not None and count >= self.stall_upload:
                    self.stall_upload = None
                    await asyncio.sleep(60)
            header = receiving.finish()
            receipt = await self.arrived(header, bytes(self.sinks[header.sha256].view()))
        except ChoralError as error:
            await self.abort(context, error)
        return pb.UpdateAck(protocol_version=1, receipt=receipt_to_proto(receipt))

    async def arrived(self, header, raw):
        client, plan = self.plans[header.token]
        self.uploads[header.token] = raw
        bare = Receipt(
            plan.run_id,
            plan.round,
            plan.attempt,
            client,
            header.sha256,
            header.size_bytes,
            self.head,
        )
        receipt = replace(bare, signature=self.receipt_key.sign(bare.stated()))
        self.receipts[header.sha256] = receipt
        return receipt

    async def get_upload(self, request, context):
        sink = self.sinks.get(request.sha256)
        status = pb.UploadStatus(protocol_version=1, offset=sink.held() if sink else 0)
        if request.sha256 in self.receipts:
            status.complete = True
            status.receipt.CopyFrom(receipt_to_proto(self.receipts[request.sha256]))
        return status

    async def exchange(self, request, context):
        await self.abort(context, Stale("no such work"))

    async def report_failure(self, request, context):
        self.failures[request.token] = (request.code, request.message)
        return pb.Ack(protocol_version=1)

    async def report_evaluation(self, request, context):
        self.evaluations.append(evaluation_from_proto(request))
        return pb.Ack(protocol_version=1)

    @staticmethod
    async def abort(context, error):
        status, metadata = to_status(error)
        await context.abort(status, error.message, metadata)


@contextlib.asynccontextmanager
async def serving(script, address="127.0.0.1:0"):
    """Run the script's server; give its address."""
    server = aio.server(options=CHANNEL_OPTIONS)
    server.add_generic_rpc_handlers((coordinator_handler(script),))
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


class InProcess:
    """A trainer without a child: what the child does, here."""

    def __init__(self, local):
        self.desk = _Desk(local)
        self.asked = []

    async def ask(self, request):
        self.asked.append(request)
        return await asyncio.to_thread(self.desk.answer, request)

    def end(self):
        """Nothing to end."""


class Federation:
    """A linear model, its plan, and sites with three features each."""

    def __init__(self, folder, make_plan):
        self.folder = folder
        self.script, self.trainer = Scripted(), InProcess
        self.task = build("linear", input_dim=3)
        self.params = self.task.init(Key.root(1))
        self.data = folder / "data"
        self.data.mkdir()
        self.plan = self.with_model(make_plan(lr=0.1, batch_size=4), self.task, self.params)

    def with_model(self, plan, task, params, **changes):
        digest, _ = self.script.model(params)
        fields = {
            "run_id": "heart-1",
            "task": "model:linear",
            "arguments": canonical_json({"input_dim": 3}).decode(),
            "model_sha256": digest,
            "spec_digest": spec_of(task, params).digest,
            "goal": 3,
            "quorum": 2,
            "deadline_s": 60.0,
            "test_fraction": 0.2,
            "split_seed": 7,
            "key": Key.root(3).fold("client", 1).state.hex(),
            **changes,
        }
        return replace(plan, **fields)

    def write_data(self, client, *, rows=20):
        draws = np.random.default_rng(len(client) + rows)
        x = draws.normal(size=(rows, 3))
        y = x @ [1.0, -2.0, 0.5]
        lines = ["a,b,c,y", *(",".join(map(repr, map(float, r))) for r in np.c_[x, y])]
        path = self.data / f"{client}.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    def settings(self, client, address, **changes):
        state = self.folder / f"state-{client}"
        private_folder(state)
        fields = {
            "client": client,
            "folder": self.folder,
            "data": str(self.write_data(client)),
            "target": None,
            "missing": "raise",
            "schema": None,
            "state": state,
        }
        local = Local(**{k: changes.pop(k, v) for k, v in fields.items()})
        return Settings(local, (address,), None, None, {}, 1 << 30)

    def agent(self, client, address, *, policy=OPEN, child=False, clock=None, **changes):
        settings = self.settings(client, address, **changes)
        who = Unverified(client, (address,), settings.local.state)
        return Agent(
            settings,
            who=who,
            policy=policy,
            clock=clock or SystemClock(),
            rand=SystemRand(),
            trainer=None if child else InProcess(settings.local),
        )

    def expected(self, client, plan=None, *, task=None, params=None):
        """Return the contribution that a simulation makes for this client."""
        plan, task = plan or self.plan, task or self.task
        params = self.params if params is None else params
        source = FolderSource(self.data, test_fraction=plan.test_fraction, seed=plan.split_seed)
        participant = Participant(task, spec_of(task, params), Chain())
        key = Key.of_state(plan.key).fold(client)
        data = source.load(client)
        return participant.contribute(client, params, data.train, plan=plan, key=key)

    def expected_bytes(self, client, plan=None, **parts):
        contribution = self.expected(client, plan, **parts).contribution
        return b"".join(bytes(part) for part in contribution_blocks(contribution))


@pytest.fixture
def federation(tmp_path, make_plan):
    return Federation(tmp_path, make_plan)


@pytest.fixture
def meet():
    """Return a function that runs agents against a script until they are told goodbye."""

    def run(federation, *clients, within_s=60.0, script=None, **options):
        async def main():
            script_ = script or federation.script
            async with serving(script_) as address:
                agents = [federation.agent(client, address, **options) for client in clients]
                work = asyncio.gather(*(agent.run(until_done=True) for agent in agents))
                return await asyncio.wait_for(work, within_s)

        return asyncio.run(main())

    return run


@pytest.fixture
def serve():
    """Return the context manager that runs a script's server."""
    return serving


class Parties:
    """Two authorities, a coordinator and clients with their files, made now: TLS reads the time."""

    def __init__(self, folder):
        self.folder, self.now = folder, datetime.now(UTC)
        self.tls, self.enrolment = authorities.init(
            folder / "authorities", federation="heart", at=self.now
        )
        coordinator.issue_coordinator(
            self.tls,
            folder / "coordinator",
            names=["localhost", "127.0.0.1"],
            enrolment_authority=self.enrolment.key.public,
            at=self.now,
        )

    def party(self, id, *, enrolled=True):
        folder = self.folder / id
        request = requests.make_request(folder, id=id)
        certificate = tls.sign(self.tls, request, at=self.now)
        (folder / "certificate.pem").write_bytes(pem(certificate))
        if enrolled:
            made = enrolment.enrol(self.enrolment, request, at=self.now)
            (folder / "enrolment.json").write_bytes(enrolment.write_enrolment(made))
        federation = (self.folder / "coordinator/federation.json").read_bytes()
        (folder / "federation.json").write_bytes(federation)
        return ClientFiles.inside(folder)

    def server(self):
        return load_server(ServerFiles.inside(self.folder / "coordinator"), at=self.now)


@pytest.fixture
def parties(tmp_path):
    (tmp_path / "pki").mkdir()
    return Parties(tmp_path / "pki")
