"""Replaying a run's log: the same events rebuild the same machine, and show the same commands."""

from __future__ import annotations

from collections.abc import Iterable

from choral.core.ports import Observer, Record
from choral.federation.events import Commands, from_record
from choral.federation.policy import RunPolicy
from choral.federation.run import RunMachine


def replay(
    records: Iterable[Record], policy: RunPolicy, *, observers: Iterable[Observer] = ()
) -> tuple[RunMachine, Commands]:
    """Return the machine after `records`, and the commands that its last event gave.

    Args:
        records: A run's log, oldest first.
        policy: The policy that the run was started with.
        observers: Called with every event, then with the commands that it gave.

    Raises:
        StoreError: A line of the log is not an event.
    """
    machine = RunMachine(policy)
    commands: Commands = ()
    watching = tuple(observers)
    for record in records:
        event = from_record(record)
        commands = machine.receive(event)
        for observe in watching:
            observe(event)
            for command in commands:
                observe(command)
    return machine, commands
