"""`python -m choral.testing.faults`: look for a broken invariant, or replay one seed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from choral.testing.faults.schedule import AGGREGATIONS, MODES
from choral.testing.faults.search import explore, minimise, replay_of
from choral.testing.faults.simulation import Outcome, run_schedule


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate one schedule or many; return 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m choral.testing.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the seed, or the first of many")
    parser.add_argument("--seeds", type=int, default=1, help="how many, without a trace of each")
    parser.add_argument("--mode", choices=MODES, default="safety")
    parser.add_argument("--aggregation", choices=AGGREGATIONS, default="plain")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    given = parser.parse_args(arguments)
    if given.seeds > 1:
        seeds = range(given.seed, given.seed + given.seeds)
        report = explore(seeds, mode=given.mode, aggregation=given.aggregation, most=5)
        lines = [f"{report.schedules} schedules, {report.faults} faults, "]
        lines[0] += f"{report.committed} rounds committed, {len(report.failed)} violations"
        for outcome in report.failed:
            lines += _told(outcome)
        _say(json.dumps(report.as_json()) if given.json else "\n".join(lines))
        return bool(report.failed)
    smallest = minimise(given.seed, mode=given.mode, aggregation=given.aggregation)
    outcome = run_schedule(smallest.schedule, trace=True)
    _say(json.dumps(outcome.as_json()) if given.json else "\n".join(_whole(outcome)))
    return not outcome.holds


def _told(outcome: Outcome) -> list[str]:
    """Return a violation, the faults that it needs, and how to see it again."""
    faults = [f"  {fault}" for fault in outcome.schedule.faults]
    what = f"violated: {outcome.violation}: {outcome.detail}"
    return [what, *faults, f"  replay: {replay_of(outcome.schedule)}"]


def _whole(outcome: Outcome) -> list[str]:
    """Return everything that happened, and how it ended."""
    came = f"{outcome.committed} rounds, {outcome.processes} processes"
    end = [f"{outcome.status}: {came}, {outcome.virtual_s:g} virtual seconds"]
    return [*outcome.trace, *(end if outcome.holds else _told(outcome))]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
