"""Three agents and the real machine of secure aggregation's server, over real calls."""

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from choral.client.policy import OPEN, PolicyFile, policy_of
from choral.core.aggregation import Secure
from choral.core.errors import Unavailable
from choral.core.task import spec_of
from choral.crypto.ring import Ring
from choral.crypto.signatures import SigningKey
from choral.federation import secure
from choral.secagg import commands as cmd
from choral.secagg.enrolment import authority_id
from choral.secagg.messages import Masked, decode, encode
from choral.secagg.server import Phase, Server
from choral.system import SystemRand
from choral.wire.mailbox import Mailbox

COHORT = ("a", "b", "c")
FOUR = (*COHORT, "d")
"""The fewest clients of which one may be lost."""
TERMS = Secure()
METRICS = {"train_loss": 64.0}


def secure_plan(federation, *, clients=3, **changes):
    grid = secure.grid_of(TERMS, clients, range=4.0, weight_cap=64.0, metrics=METRICS)
    return replace(federation.plan, aggregation=TERMS, encoding=grid, **changes)


@pytest.fixture
def scripted(federation):
    """Return a function that makes a script with one secure sum."""

    class SecureScript(type(federation.script)):
        """One secure sum of one attempt, as soon as everybody has come."""

        def begin(self, plan, *, deadline_s=60.0, clients=COHORT):
            spec = spec_of(federation.task, federation.params)
            encoding = secure.ring_encoding(plan.encoding, spec.vector_size)
            self.context = secure.context_of(
                plan,
                encoding,
                len(clients),
                terms=plan.aggregation,
                authority=authority_id(self.authority.public),
                deadline=int(time.time() + 60),
            )
            self.server = Server(
                self.context, clients, key=self.key, authority=self.authority.public
            )
            self.ring = encoding.ring
            self.clients = {
                self.assign(c, plan, deadline_s=deadline_s): SimpleNamespace(
                    id=c, mailbox=Mailbox(), bell=asyncio.Event(), masked=None, cuts=1, heard=[]
                )
                for c in clients
            }
            self.of = {client.id: client for client in self.clients.values()}
            self.summed = self.abandoned = None
            self.notes, self.steps = [], defaultdict(int)

        def feed(self, event):
            if self.server.phase is Phase.PLANNED:
                self.do(self.server.receive(cmd.Start()))
            self.do(self.server.receive(event))

        def do(self, commands):
            for command in commands:
                if isinstance(command, cmd.Tell):
                    client = self.of[command.client]
                    client.mailbox.post(encode(command.message))
                    client.bell.set()
                elif isinstance(command, cmd.Summed):
                    self.summed = command
                elif isinstance(command, cmd.Abandon):
                    self.abandoned = command.reason
                else:
                    self.notes.append(command)
            if self.server.phase in {Phase.DONE, Phase.ABORTED}:
                for client in self.clients.values():
                    client.bell.set()

        async def exchange(self, request, context):
            client = self.clients[request.token]
            if self.server.phase is Phase.PLANNED:
                self.do(self.server.receive(cmd.Start()))
            for body in client.mailbox.take(request):
                message = decode(body)
                client.heard.append(type(message).__name__)
                if isinstance(message, Masked):
                    client.masked = message
                else:
                    self.feed(cmd.Received(client.id, body))
            if self.lose_answer(client, request):
                await self.abort_lost(context)
            over = self.server.phase in {Phase.DONE, Phase.ABORTED}
            if not (client.mailbox.waiting or over):
                client.bell.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.bell.wait(), min(request.wait_s, 0.3))
            over = self.server.phase in {Phase.DONE, Phase.ABORTED}
            ended = over and not client.mailbox.waiting
            return client.mailbox.message(request.token, ended=ended)

        def lose_answer(self, client, request):
            """Say whether the answer to a message of ours is lost: once for each client."""
            lost = bool(request.sequence and client.cuts)
            client.cuts -= lost
            return lost

        async def abort_lost(self, context):
            await self.abort(context, Unavailable("the answer is lost"))

        async def arrived(self, header, raw):
            receipt = await super().arrived(header, raw)
            client = self.clients[header.token]
            assert client.masked is not None, "a masked vector before its message"
            chunks = [self.ring.unpack(raw)]
            self.feed(cmd.Uploaded(client.id, client.masked, lambda: chunks))
            return receipt

        async def report_failure(self, request, context):
            self.feed(cmd.Lost(self.clients[request.token].id))
            return await super().report_failure(request, context)

    federation.script = SecureScript()
    federation.script.models = {}
    federation.script.model(federation.params)
    return federation.script


def plain_sum(federation, plan, clients=COHORT):
    ring = Ring(plan.encoding.modulus_bits)
    vectors = [federation.expected(c, plan).contribution.vector for c in clients]
    total = ring.zeros(vectors[0].size)
    for vector in vectors:
        ring.add(total, vector)
    return total


@pytest.mark.parametrize("child", [False, True])
def test_three_agents_give_the_sum_of_their_contributions(federation, scripted, meet, child):
    plan = secure_plan(federation)
    scripted.begin(plan)
    meet(federation, *COHORT, child=child)
    assert scripted.summed.survivors == COHORT
    assert np.array_equal(scripted.summed.total, plain_sum(federation, plan))
    assert not scripted.failures
    assert not scripted.notes
    for token, client in scripted.clients.items():
        seen = scripted.ring.unpack(scripted.uploads[token])
        mine = federation.expected(client.id, plan).contribution.vector
        assert not np.array_equal(seen, mine)
        assert client.heard == ["Advertise", "Bundle", "Masked", "Consent", "Unmask"]
        state = federation.folder / f"state-{client.id}"
        assert not [p.name for p in state.iterdir() if p.suffix in {".bin", ".kept"}]


def test_keys_and_shares_are_exchanged_while_the_clients_train(federation, scripted, meet):
    """Nobody is done with training before everybody has said that the shares have arrived."""
    plan = secure_plan(federation)
    scripted.begin(plan)
    release, told = asyncio.Event(), set()
    make, exchange = federation.agent, scripted.exchange

    async def slow(ask, request):
        if type(request).__name__ == "Train":
            await release.wait()
        return await ask(request)

    def agent(client, address, **options):
        made = make(client, address, **options)
        ask = made._trainer.ask
        made._trainer.ask = lambda request: slow(ask, request)
        return made

    async def watching(request, context):
        if request.received == 3:  # invitation, roster, deliveries
            told.add(request.token)
        if len(told) == 3:
            release.set()
        return await exchange(request, context)

    federation.agent, scripted.exchange = agent, watching
    meet(federation, *COHORT)
    assert np.array_equal(scripted.summed.total, plain_sum(federation, plan))
    assert not scripted.failures


def test_a_client_that_cannot_train_is_left_out_and_the_others_go_on(federation, scripted, meet):
    (federation.folder / "one_fails.py").write_text(
        "from choral.tasks.numpy import LinearTask\n"
        "class Task(LinearTask):\n"
        "    def train(self, params, data, plan, key):\n"
        "        if len(data[1]) < 12:\n"
        "            raise ValueError('too few')\n"
        "        return super().train(params, data, plan, key)\n"
        "task = Task(input_dim=3)\n"
    )
    plan = secure_plan(federation, clients=4, task="one_fails:task", arguments="")
    scripted.begin(plan, clients=FOUR)
    write = federation.write_data
    federation.write_data = lambda client: write(client, rows=12 if client == "c" else 20)
    meet(federation, *FOUR)
    assert scripted.summed.survivors == ("a", "b", "d")
    assert [code for code, _ in scripted.failures.values()] == ["client_error"]
    assert np.array_equal(scripted.summed.total, plain_sum(federation, plan, ("a", "b", "d")))


def test_a_client_that_is_started_anew_in_an_attempt_says_so_and_stays_out(
    federation, scripted, serve
):
    scripted.begin(secure_plan(federation, clients=4), clients=FOUR)
    token, mine = next((t, c) for t, c in scripted.clients.items() if c.id == "c")
    assignment = scripted.answers["c"][0]
    shared = asyncio.Event()
    do = scripted.do

    def watching(commands):
        do(commands)
        if scripted.server.phase is Phase.MASKING:
            shared.set()

    scripted.do = watching

    async def main():
        async with serve(scripted) as address:
            agents = [federation.agent(c, address) for c in FOUR]
            ask = agents[2]._trainer.ask

            async def endless(request):
                if type(request).__name__ == "Train":
                    await asyncio.Event().wait()
                return await ask(request)

            agents[2]._trainer.ask = endless
            works = [asyncio.ensure_future(a.run(until_done=True)) for a in agents]
            await shared.wait()
            _, _, cut, _ = works
            others = [work for work in works if work is not cut]
            cut.cancel()
            await asyncio.wait([cut])
            scripted.answers["c"].append(assignment)
            again = federation.agent("c", address)
            await asyncio.wait_for(asyncio.gather(again.run(until_done=True), *others), 40)

    asyncio.run(main())
    assert token in scripted.failures
    assert scripted.summed.survivors == ("a", "b", "d")
    assert mine.heard == ["Advertise", "Bundle"]


def test_a_cohort_below_the_sites_floor_is_refused(federation, scripted, meet):
    plan = replace(secure_plan(federation), aggregation=replace(TERMS, min_cohort=2))
    scripted.begin(plan)
    policy = policy_of(PolicyFile(tasks=["*"], metrics=["*"]))
    meet(federation, *COHORT, policy=policy)
    assert {code for code, _ in scripted.failures.values()} == {"refused"}
    assert "min_cohort" in next(iter(scripted.failures.values()))[1]
    assert not scripted.uploads


def test_the_machine_refuses_what_the_plan_hides(federation, scripted, meet):
    """The server signs a lower floor than the plan that the site agreed to."""
    plan = secure_plan(federation)
    low = replace(plan, aggregation=replace(TERMS, min_cohort=2))
    scripted.begin(plan)
    scripted.server = Server(
        replace(scripted.context, min_cohort=2, plan=bytes.fromhex(low.digest)),
        COHORT,
        key=scripted.key,
        authority=scripted.authority.public,
    )
    policy = policy_of(PolicyFile(tasks=["*"], metrics=["*"]))
    meet(federation, *COHORT, policy=policy)
    assert scripted.summed is None
    assert not scripted.uploads


def test_an_attempt_that_was_entered_before_is_not_entered_again(federation, scripted, meet):
    plan = secure_plan(federation)
    scripted.begin(plan)
    meet(federation, *COHORT)
    assert scripted.summed is not None
    scripted.uploads.clear()
    scripted.begin(plan)
    meet(federation, *COHORT)
    assert scripted.summed is None
    assert not scripted.uploads
    assert {client.heard[0] for client in scripted.clients.values()} == {"Complaint"}


def test_a_site_without_secure_aggregation_refuses(federation, scripted, meet):
    scripted.begin(secure_plan(federation))
    off = policy_of(OPEN.file.model_copy(update={"secure_aggregation": "off"}))
    meet(federation, *COHORT, policy=off)
    assert len(scripted.failures) == 3
    assert not scripted.uploads


def test_a_sum_that_is_given_up_ends_the_training(federation, scripted, meet):
    plan = secure_plan(federation)
    scripted.begin(plan)
    make, ended = federation.agent, []

    async def endless(ask, request):
        if type(request).__name__ != "Train":
            return await ask(request)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(request)
            raise

    def agent(client, address, **options):
        made = make(client, address, **options)
        ask = made._trainer.ask
        made._trainer.ask = lambda request: endless(ask, request)
        return made

    federation.agent = agent
    do = scripted.do

    def giving_up(commands):
        do(commands)
        if scripted.server.phase is Phase.MASKING:
            do(scripted.server.receive(cmd.GiveUp()))

    scripted.do = giving_up
    meet(federation, *COHORT)
    assert scripted.abandoned
    assert len(ended) == 3


def test_a_masked_vector_wants_the_coordinators_receipt_too(federation, scripted, meet):
    scripted.receipt_key = SigningKey.random(SystemRand())
    scripted.begin(secure_plan(federation))
    meet(federation, *COHORT)
    assert {code for code, _ in scripted.failures.values()} == {"refused"}
