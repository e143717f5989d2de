"""Events as lines of a log, and back."""

import json

import pytest

from choral.core.errors import StoreError
from choral.core.ports import Record
from choral.federation import events as ev
from choral.federation.log import replay
from choral.federation.policy import RoundPolicy, RunPolicy
from choral.federation.run import RunPhase

EVENTS = [
    ev.RunStarted("s", "m"),
    ev.CohortChosen(1, 1, ("a", "b")),
    ev.UpdateReceived(1, 1, "a"),
    ev.ClientFailed(1, 1, "b", "client_error", "boom"),
    ev.TimerFired(1, 1, "deadline"),
    ev.Aggregated(1, 1, 2, 1, 3.5, 10, 20, 0.25),
    ev.ModelReleased(1, 1, "none", None, None),
    ev.Committed(1, 1, "s2", "m2", {"train_loss": 0.5}, 0.125, None),
    ev.Evaluated(1, {"accuracy": 0.75}, {"a": {"accuracy": 1.0}}, "none"),
    ev.Restarted(("a",)),
    ev.StopRequested("enough"),
    ev.OverBudget(3, 1, "nothing is left"),
    ev.SumFailed(2, 1, "too_few_keys"),
    ev.Aggregated(2, 1, 2, 1, 3.5, 10, 20, None, ("b", "c")),
]


def test_the_table_holds_every_event():
    assert {type(event).__name__ for event in EVENTS} == set(ev.EVENTS)


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_event_survives_json(event):
    record = ev.to_record(event)
    assert ev.from_record(Record(record.kind, json.loads(json.dumps(record.body)))) == event


@pytest.mark.parametrize(
    "record",
    [
        Record("Nonsense", {}),
        Record("StopRequested", {}),
        Record("StopRequested", {"reason": "a", "x": 1}),
    ],
    ids=str,
)
def test_a_line_that_is_no_event_is_named(record):
    with pytest.raises(StoreError, match="not a known event"):
        ev.from_record(record)


def test_replay_rebuilds_the_machine_and_its_last_commands():
    log = [
        ev.RunStarted("s", "m"),
        ev.CohortChosen(1, 1, ("a", "b")),
        ev.UpdateReceived(1, 1, "b"),
        ev.UpdateReceived(1, 1, "a"),
    ]
    seen = []
    machine, commands = replay(
        map(ev.to_record, log), RunPolicy(1, RoundPolicy(clients=2)), observers=[seen.append]
    )
    assert machine.phase is RunPhase.ROUND
    assert commands == (ev.Accumulate(1, 1, "a"), ev.CloseSum(1, 1, ("b", "a")))
    assert [item for item in seen if type(item) in ev.EVENTS.values()] == log


def test_a_log_of_an_older_version_lacks_fields_that_have_defaults():
    body = {k: v for k, v in ev.to_record(EVENTS[7]).body.items() if k != "kept"}
    assert ev.from_record(Record("Committed", body)) == EVENTS[7]
    del body["state"]
    with pytest.raises(StoreError, match="not a known event"):
        ev.from_record(Record("Committed", body))
