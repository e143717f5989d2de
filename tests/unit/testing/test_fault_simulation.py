"""The simulation of faults: no invariant breaks, seeds repeat, schedules shrink."""

import json
import os
from contextlib import contextmanager

import pytest

from choral.coordinator.outbox import Outbox
from choral.testing.faults import Fault, explore, minimise, run_schedule, schedule_of
from choral.testing.faults.__main__ import main
from choral.testing.faults.draws import Draws
from choral.testing.faults.schedule import KINDS

NIGHTLY = int(os.environ.get("CHORAL_FAULT_SCHEDULES", "200000"))
"""Schedules of a night, over all modes."""
CHUNKS = 16
SHARES = {
    ("plain", "safety"): 0.4,
    ("plain", "liveness"): 0.4,
    ("secure", "safety"): 0.1,
    ("secure", "liveness"): 0.1,
}


@pytest.mark.parametrize(
    ("aggregation", "mode", "first", "count"),
    [
        ("plain", "safety", 0, 150),
        ("plain", "liveness", 0, 150),
        ("secure", "safety", 0, 25),
        ("secure", "liveness", 0, 25),
    ],
)
def test_no_invariant_breaks(aggregation, mode, first, count):
    report = explore(range(first, first + count), aggregation=aggregation, mode=mode)

    assert not report.failed, report.as_json()["failed"]
    assert report.schedules == count
    assert report.completed > 0.6 * count


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize(("aggregation", "mode"), SHARES)
def test_no_invariant_breaks_in_a_night(aggregation, mode, chunk):
    count = int(NIGHTLY * SHARES[aggregation, mode]) // CHUNKS
    first = 1_000_000 + chunk * count
    report = explore(range(first, first + count), aggregation=aggregation, mode=mode, most=5)

    assert not report.failed, report.as_json()["failed"]


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_a_seed_gives_the_same_run_again(aggregation):
    once, again = (run_schedule(11, aggregation=aggregation, trace=True) for _ in range(2))

    assert once == again
    assert once.trace == again.trace
    assert len(once.trace) > 50


def test_a_trace_changes_nothing():
    bare, traced = run_schedule(5), run_schedule(5, trace=True)

    assert (bare.steps, bare.virtual_s, bare.status) == (
        traced.steps,
        traced.virtual_s,
        traced.status,
    )


def test_all_kinds_of_faults_are_drawn():
    drawn = {fault.kind for seed in range(300) for fault in schedule_of(seed).faults}

    assert drawn == set(KINDS)


@contextmanager
def early_receipts():
    def flush(self):
        self.send()
        if self._journal.waits:
            self.insist(self._journal.flush)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outbox, "flush", flush)
        yield


CRASHES = (
    Fault("jump", 2.0, 30.0, "clients"),
    Fault("delay", 3, 0.05),
    Fault("takeover", 2.5, 5.0),
    Fault("duplicate", 5, 0.05),
    Fault("delay", 9, 0.05),
)


def test_a_failing_schedule_keeps_only_the_faults_that_it_needs():
    with early_receipts():
        failing = next(
            schedule
            for tenth in range(60)
            if not run_schedule(
                schedule := schedule_of(0).having(
                    tuple(
                        Fault("takeover", tenth / 10, 5.0) if f.kind == "takeover" else f
                        for f in CRASHES
                    )
                )
            ).holds
        )
        smallest = minimise(failing)

    assert smallest.violation
    assert [fault.kind for fault in smallest.schedule.faults] == ["takeover"]


def test_a_schedule_that_holds_is_not_made_smaller():
    outcome = minimise(3)

    assert outcome.holds
    assert outcome.schedule == schedule_of(3)


def test_a_client_that_ended_before_it_spoke_has_joined_all_the_same():
    outcome = run_schedule(801903, mode="liveness", aggregation="secure")

    assert outcome.holds, outcome.detail
    assert outcome.status == "paused"


def test_the_command_replays_a_seed(capsys):
    assert main(["--seed", "4", "--mode", "liveness"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith("completed: ")

    assert main(["--seed", "4", "--mode", "liveness", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "completed"
    assert len(found["trace"]) == len(told) - 1


def test_the_command_tells_what_breaks_and_how_to_see_it_again(capsys):
    with early_receipts():
        assert main(["--seeds", "30"]) == 1
    told = capsys.readouterr().out

    assert "violated: no receipt before the log" in told
    assert "replay: python -m choral.testing.faults --seed " in told


def test_draws_are_spread_and_apart():
    one, other = Draws(1, "wire"), Draws(1, "disk")
    values = [one.real() for _ in range(2000)]

    assert 0.47 < sum(values) / len(values) < 0.53
    assert values[:5] != [other.real() for _ in range(5)]
    assert {Draws(1, i).below(3) for i in range(50)} == {0, 1, 2}
    assert len(one.token(100)) == 100
