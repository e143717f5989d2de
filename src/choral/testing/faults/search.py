"""Looks for a schedule that breaks an invariant, and takes away what it does not need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from choral.testing.faults.schedule import Fault, Schedule, schedule_of
from choral.testing.faults.simulation import Outcome, Parts, run_schedule


@dataclass(frozen=True, slots=True)
class Report:
    """What came of many schedules.

    Attributes:
        schedules: How many were simulated.
        committed: Rounds that were committed in all.
        completed: Runs that reached their end.
        faults: Faults in all schedules.
        failed: The first schedule of each violation, made as small as it gets.
    """

    schedules: int
    committed: int
    completed: int
    faults: int
    failed: tuple[Outcome, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "schedules": self.schedules,
            "committed": self.committed,
            "completed": self.completed,
            "faults": self.faults,
            "failed": [{**o.as_json(), "replay": replay_of(o.schedule)} for o in self.failed],
        }


def explore(
    seeds: Iterable[int | Schedule],
    *,
    mode: str = "safety",
    aggregation: str = "plain",
    parts: Parts = Parts(),  # noqa: B008  # a frozen value
    most: int = 1,
) -> Report:
    """Simulate the schedules of many seeds.

    Args:
        seeds: Seeds, or schedules.
        mode: `safety` or `liveness`; of seeds.
        aggregation: `plain` or `secure`; of seeds.
        parts: What the simulation is made of.
        most: End after so many different violations.

    >>> explore(range(3)).failed
    ()
    """
    found: dict[str, Outcome] = {}
    count = committed = completed = faults = 0
    for seed in seeds:
        outcome = run_schedule(seed, mode=mode, aggregation=aggregation, parts=parts)
        count += 1
        committed += outcome.committed
        completed += outcome.status == "completed"
        faults += len(outcome.schedule.faults)
        if outcome.violation and outcome.violation not in found:
            found[outcome.violation] = minimise(outcome.schedule, parts=parts)
            if len(found) >= most:
                break
    return Report(count, committed, completed, faults, tuple(found.values()))


def minimise(
    seed: int | Schedule,
    *,
    mode: str = "safety",
    aggregation: str = "plain",
    parts: Parts = Parts(),  # noqa: B008  # a frozen value
) -> Outcome:
    """Return the outcome of a failing schedule with as few faults as show the same violation.

    Faults are left out in ever smaller groups, as long as the violation stays: delta debugging.
    Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
    Transactions on Software Engineering 28(2), 2002.

    Args:
        seed: A seed, or a schedule. One that breaks nothing comes back as it is.
        mode: `safety` or `liveness`; of a seed.
        aggregation: `plain` or `secure`; of a seed.
        parts: What the simulation is made of.
    """
    schedule = seed
    if not isinstance(schedule, Schedule):
        schedule = schedule_of(schedule, mode=mode, aggregation=aggregation)
    best = run_schedule(schedule, parts=parts)
    if best.holds:
        return best
    size = max(1, len(schedule.faults) // 2)
    while True:
        smaller = _smaller(best, size, parts)
        if smaller is not None:
            best = smaller
            size = min(size, max(1, len(best.schedule.faults) // 2))
        elif size == 1:
            return best
        else:
            size = max(1, size // 2)


def _smaller(best: Outcome, size: int, parts: Parts) -> Outcome | None:
    """Return the same violation without some `size` faults, None where all are needed."""
    faults = best.schedule.faults
    for at in range(0, len(faults), size):
        left: tuple[Fault, ...] = faults[:at] + faults[at + size :]
        outcome = run_schedule(best.schedule.having(left), parts=parts)
        if outcome.violation == best.violation:
            return outcome
    return None


def replay_of(schedule: Schedule) -> str:
    """Return the command that shows a schedule's run again, reduced to the faults it needs."""
    return (
        f"python -m choral.testing.faults --seed {schedule.seed} --mode {schedule.mode} "
        f"--aggregation {schedule.aggregation}"
    )
