"""The small parts: the gate, the population, the list of clients, the spool, events, metrics."""

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest

from choral.coordinator.events import KEPT, EventLog
from choral.coordinator.gate import Scene, Trigger, may_open
from choral.coordinator.metrics import Metrics
from choral.coordinator.opening import Opening
from choral.coordinator.population import Population
from choral.coordinator.roster import read_roster
from choral.coordinator.server import own_key
from choral.coordinator.spool import SpoolFile
from choral.coordinator.sums import SpooledSum
from choral.core.errors import ConfigError, DataError, StoreError, Truncated
from choral.core.exact import Contribution, ExactSum
from choral.federation import events as ev
from choral.federation.participant import Failed
from choral.pki.keys import new_signing_key
from choral.wire.contributions import contribution_blocks
from choral.wire.joining import Join

# --- the gate -------------------------------------------------------------------------------------

ENOUGH = {"available": 4, "wanted": 4, "quorum": 3, "examples": 0, "enough_s": 0.0}
GATE = [
    # trigger, what is known, whether it opens, a word of the reason, when to look again
    ({}, {}, True, "", None),
    ({}, {"available": 2, "enough_s": None}, False, "2 of 4", None),
    ({}, {"available": 3, "enough_s": 4.0}, False, "enough for a quorum", 6.0),
    ({}, {"available": 3, "enough_s": 10.0}, True, "", None),
    ({"wait_s": 0}, {"available": 3}, True, "", None),
    ({"manual": True}, {}, False, "an operator", None),
    ({"manual": True}, {"asked": True}, True, "", None),
    ({"manual": True}, {"asked": True, "available": 0, "enough_s": None}, False, "0 of 4", None),
    ({"every_s": 60}, {"opened_s": 45.0}, False, "in 15 s", 15.0),
    ({"every_s": 60}, {"opened_s": 60.0}, True, "", None),
    ({"every_s": 60}, {"opened_s": math.inf}, True, "", None),
    ({"examples": 10}, {"examples": 9}, False, "9 of 10 examples", None),
    ({"examples": 10}, {"examples": 10}, True, "", None),
]


@pytest.mark.parametrize(("trigger", "scene", "opens", "word", "again"), GATE)
def test_when_a_round_may_open(trigger, scene, opens, word, again):
    verdict = may_open(Trigger(**trigger), Scene(**(ENOUGH | scene)))
    assert (verdict.open, verdict.again_s) == (opens, again)
    assert word in verdict.reason
    assert bool(verdict.reason) is not opens


@pytest.mark.parametrize(
    "bad",
    [{"wait_s": -1}, {"every_s": math.inf}, {"settle_s": "x"}, {"examples": -1}, {"manual": 1}],
)
def test_a_trigger_that_cannot_be(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Trigger(**bad)


# --- who takes part -------------------------------------------------------------------------------


def test_a_population_is_who_is_here_and_remembers_who_was():
    people = Population({"b": {"region": "south"}})
    people.update([Join("b", ("*",), examples_bucket=4, strata={"region": "n", "size": "s"})])
    people.update([Join("c", ("*",)), Join("a", ("*",), examples_bucket=1)])
    assert people.ids == ("a", "c")
    assert [people.examples(c) for c in ("a", "b", "c", "x")] == [1, 8, 0, None]
    assert people.strata("b") == {"region": "south", "size": "s"}
    assert people.strata("x") == {}
    with pytest.raises(DataError, match="stays where it is"):
        people.load("a")


def test_a_list_of_clients_gives_labels(tmp_path):
    path = tmp_path / "clients.json"
    path.write_text(json.dumps([{"id": "a", "endpoint": "h:1", "beds": 3}, {"id": "b"}]))
    assert read_roster(path) == {"a": {"endpoint": "h:1", "beds": "3"}, "b": {}}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[", "no JSON"),
        ("[]", "expected a list"),
        ('{"id": "a"}', "expected a list"),
        ('["a"]', "has no `id`"),
        ('[{"id": "a"}, {"id": "a"}]', "twice"),
        ('[{"id": "../a"}]', "../a"),
        ("\xff", "cannot read"),
    ],
)
def test_a_list_of_clients_that_is_none(tmp_path, text, word):
    path = tmp_path / "clients.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=word):
        read_roster(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_roster(tmp_path / "none.json")


# --- uploads --------------------------------------------------------------------------------------


def test_a_spool_gives_back_what_was_written(tmp_path):
    spool = SpoolFile(tmp_path / "x")
    raw = bytes(range(250)) * 3
    for at in range(0, len(raw), 100):
        spool.write(at, memoryview(raw)[at : at + 100])
    assert spool.held() == 750
    assert b"".join(spool.prefix()) == raw
    assert spool.tail(740) == raw[740:]
    assert b"".join(spool.packed(249, 3, size=7)) == raw[:747]
    numbers = np.concatenate(list(spool.numbers(187, "<i4", size=10)))
    assert numbers.tobytes() == raw[:748]
    with pytest.raises(Truncated):
        list(spool.blocks(0, 751))
    spool.discard()
    assert (spool.held(), (tmp_path / "x").exists()) == (0, False)
    spool.write(0, memoryview(b"again"))
    assert b"".join(spool.prefix()) == b"again"


def test_a_disk_that_says_no_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="cannot write"):
        SpoolFile(tmp_path / "none" / "x").write(0, memoryview(b"1"))


def test_a_spooled_sum_is_the_sum_in_memory(tmp_path, served, tools):
    async def plan_of(site):
        run = site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        work, _ = await asyncio.gather(a.work(), b.work())
        return work.plan, run.actor.conductor.spec

    plan, spec = served(plan_of)
    total, expected = SpooledSum(plan, spec), ExactSum(spec.vector_size, plan.encoding)
    for client in ("a", "b", "late"):
        made = Contribution(np.array([1, -2, 2**31 - 1], np.int32), 5 << 30, {"loss": -7})
        spool = SpoolFile(tmp_path / client)
        spool.write(0, memoryview(b"".join(map(bytes, contribution_blocks(made)))))
        assert total.take(client, spool) is None
        if client == "late":
            total.discard(client)
        else:
            total.accept(client)
            expected.add(made)
    ours, theirs = total.close(("a", "b")).total, expected.total()
    assert np.array_equal(ours.mean, theirs.mean)
    assert (ours.count, ours.weight, ours.metrics) == (2, theirs.weight, theirs.metrics)


# --- what is seen ---------------------------------------------------------------------------------


def test_events_are_numbered_and_the_oldest_are_let_go():
    log = EventLog()
    for at in range(KEPT + 5):
        log(ev.TimerFired(at, 1, "deadline"))
    log(Failed("a", "data", "no event"))
    log(ev.Finish("completed", ""))
    numbers = [sequence for sequence, *_ in log.since(0)]
    assert (numbers[0], numbers[-1]) == (7, KEPT + 6)
    assert log.since(KEPT + 6) == [(KEPT + 6, "Finish", {"status": "completed", "reason": ""})]
    assert log.since(KEPT + 7) == []


def test_metrics_have_no_label_of_a_client():
    metrics = Metrics()
    observe = metrics.observer()
    for item in (
        ev.CohortChosen(1, 1, ("hospital-a", "hospital-b")),
        Failed("hospital-a", "data", "hospital-a has no rows"),
        ev.Abandon(1, 1, "no_quorum: hospital-a"),
        ev.Finish("failed", "hospital-a"),
    ):
        observe(item)
    metrics.refused("JoinRound", "refused")
    text = metrics.text().decode()
    assert "hospital" not in text
    for line in (
        'choral_clients_total{stage="selected"} 2.0',
        'choral_failures_total{code="data"} 1.0',
        'choral_rounds_total{outcome="no_quorum"} 1.0',
        'choral_runs_total{status="failed"} 1.0',
        'choral_rejected_calls_total{call="JoinRound",code="refused"} 1.0',
        "process_open_fds",
        "process_resident_memory_bytes",
    ):
        assert line in text


def test_metrics_count_the_tasks_of_the_loop():
    metrics = Metrics()

    async def test():
        metrics.on_loop(asyncio.get_running_loop())
        others = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
        assert b"choral_tasks 4.0" in metrics.text()
        for task in others:
            task.cancel()

    asyncio.run(test())


def test_a_client_whose_work_goes_on_over_a_restart_is_asked_to_measure():
    here = Join("a", ("*",))
    desk = SimpleNamespace(
        offers=lambda: [here], presences=lambda: {"a": None, "gone": None}, refuse=lambda *_: None
    )
    opening = Opening(
        None, Population(), Trigger(), world=SimpleNamespace(desk=desk), timers=None,
        suits=lambda _: "",
    )  # fmt: skip
    assert opening.to_measure(()) == ("a",)
    assert opening.to_measure(("gone", "b", "a")) == ("a", "b")


# --- a coordinator's own key ----------------------------------------------------------------------


def test_coordinators_that_start_together_have_one_key(tmp_path, monkeypatch):
    together, made = Barrier(8), new_signing_key

    def new():
        together.wait(10)  # nobody has written anything yet
        return made()

    monkeypatch.setattr("choral.coordinator.server.keys.new_signing_key", new)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: own_key(tmp_path / "keys" / "server.pem"), range(8)))

    assert len({key.public for key in found}) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["server.pem"]
