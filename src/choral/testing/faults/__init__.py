"""A whole federation in one thread on a virtual clock, and all that can go wrong in it."""

from choral.testing.faults.schedule import Fault, Schedule, schedule_of
from choral.testing.faults.search import Report, explore, minimise
from choral.testing.faults.simulation import Outcome, Parts, run_schedule

__all__ = [
    "Fault",
    "Outcome",
    "Parts",
    "Report",
    "Schedule",
    "explore",
    "minimise",
    "run_schedule",
    "schedule_of",
]
