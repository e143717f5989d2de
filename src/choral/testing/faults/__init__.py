"""A whole federation in one thread on a virtual clock, and all that can go wrong in it."""

from choral.testing.faults.schedule import Fault, Schedule, schedule_of
from choral.testing.faults.simulation import Outcome, Parts, run_schedule

__all__ = ["Fault", "Outcome", "Parts", "Schedule", "run_schedule", "schedule_of"]
