"""A run's driver that fails in the middle: what people and clients hear of it, and what not."""

import hashlib
from dataclasses import replace

import pytest

from choral.coordinator.actor import Actor
from choral.coordinator.gate import Trigger
from choral.coordinator.population import Population
from choral.coordinator.spool import SpoolFile
from choral.coordinator.tickets import Arrived, Drain, Stop
from choral.coordinator.world import Keys, World
from choral.core.errors import ClientError, Fenced, StoreError
from choral.core.params import ClientId
from choral.federation import events as ev
from choral.federation.journal import STEP, Journal
from choral.federation.setup import Evaluation
from choral.stores.memory import MemoryBlobStore, MemoryRunStore
from choral.system import SystemClock, SystemRand
from choral.testing.faults import schedule_of
from choral.testing.faults.stage import key_of, stage_of, with_source
from choral.wire.frames import Header, Kind
from choral.wire.joining import Join

STAGE = stage_of(schedule_of(0).having(()))
NAMES = tuple(ClientId(name) for name in "abcdefgh"[: STAGE.setup.population])


class Nothing:
    """Takes any call, and does nothing."""

    def __getattr__(self, name):
        return lambda *arguments, **named: None


class Desk(Nothing):
    """Clients that are there, and the work that they were given."""

    def __init__(self, names=NAMES):
        self.joins = [Join(name, ("*",)) for name in names]
        self.given = []

    def offers(self):
        return self.joins

    def presences(self):
        return {}

    def assign(self, tickets):
        self.given += tickets


class Site:
    """A run on a store in memory, what its observers saw, and what its clients heard."""

    def __init__(self, folder):
        self.folder = folder
        self.store, self.blobs = MemoryRunStore(), MemoryBlobStore()
        self.store.create("run", {})
        self.seen, self.heard = [], []

    def actor(self, desk, *, setup=STAGE.setup, observer=None):
        population = Population()
        keys = Keys(key_of("coordinator"), key_of("authority").public)
        world = World(
            desk, SystemClock(), SystemRand(), keys, lambda model: 100, Nothing(), lambda s: None
        )
        return Actor(
            with_source(setup, population),
            population=population,
            trigger=Trigger(wait_s=0.0, settle_s=0.0),
            participant=STAGE.participant,
            first=STAGE.first,
            journal=Journal(self.store, self.blobs, self.store.acquire("run")),
            world=world,
            suits=lambda join: "",
            observers=(observer or self.seen.append,),
        )

    def uploads(self, desk):
        """Return what clients send for the work that they were given."""
        found = []
        for ticket in desk.given:
            body = STAGE.body(ticket.client, ticket.plan)
            spool = SpoolFile(self.folder / ticket.token.hex())
            spool.write(0, memoryview(body))
            digest = hashlib.sha256(body).hexdigest()
            header = Header(Kind.CONTRIBUTION, ticket.token, digest, len(body))
            ticket.upload = spool, header
            found.append(
                Arrived(
                    ticket, spool, header, lambda answer, t=ticket: self.heard.append((t, answer))
                )
            )
        desk.given = []
        return found

    def log(self):
        return [record.kind for record in self.store.read("run") if record.kind != STEP]

    def shown(self):
        return [type(item).__name__ for item in self.seen if type(item).__name__ in ev.EVENTS]

    def first_answers(self):
        """Return the kind of the first answer to each client: a call has one."""
        first = {}
        for ticket, answer in self.heard:
            first.setdefault(ticket.client, type(answer).__name__)
        return first


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.mark.parametrize("error", [Fenced("taken over"), StoreError("no space is left")])
def test_nobody_hears_of_a_start_that_was_not_stored(site, error, monkeypatch):
    site.actor(Desk(())).start()  # a process that ends before there are clients
    before, desk = site.log(), Desk()
    site.seen.clear()
    actor = site.actor(desk)

    def refuse():
        raise error

    monkeypatch.setattr(actor._journal, "flush", refuse)
    monkeypatch.setattr("choral.coordinator.outbox.PATIENCE_S", -1.0)
    with pytest.raises(type(error)):
        actor.run(ready=lambda: None)

    assert site.log() == before
    assert (site.seen, desk.given) == ([], [])


def test_what_is_durable_is_heard_though_its_turn_fails(site, monkeypatch):
    def measure(self, params, data, *, who):
        raise ClientError("the held-out set is no use")

    monkeypatch.setattr(type(STAGE.participant), "measure", measure)
    desk = Desk()
    actor = site.actor(desk, setup=replace(STAGE.setup, evaluation=Evaluation([1], clients=False)))
    actor.start()
    with pytest.raises(ClientError):
        actor.turn(site.uploads(desk))
    actor.leave()

    assert site.log()[-1] == "Committed"
    assert site.shown() == site.log()
    receipts = [who for who, answer in site.first_answers().items() if answer == "Receipt"]
    assert len(receipts) == site.log().count("UpdateReceived")


def test_an_observer_that_fails_takes_nothing_with_it(site, caplog):
    def observe(item):
        site.seen.append(item)
        if isinstance(item, ev.UpdateReceived | ev.Finish):
            raise RuntimeError("the log's disk is full")

    desk = Desk()
    actor = site.actor(desk, observer=observe)
    actor.start()
    while not actor.over:
        actor.turn(site.uploads(desk))
    actor.leave()

    assert site.log().count("Committed") == STAGE.setup.policy.rounds
    assert site.shown() == site.log()
    assert "an observer failed at UpdateReceived" in caplog.text


@pytest.mark.parametrize(
    ("message", "answer"), [(Drain(), "Unavailable"), (Stop("enough"), "Stale")]
)
def test_messages_beside_the_last_one_are_answered(site, message, answer):
    desk = Desk()
    actor = site.actor(desk)
    actor.start()
    first, *rest = site.uploads(desk)
    actor.turn([first, message, *rest])
    actor.leave()

    assert actor.over
    answers = site.first_answers()
    assert set(answers) == {upload.ticket.client for upload in (first, *rest)}
    assert {answers[upload.ticket.client] for upload in rest} == {answer}
