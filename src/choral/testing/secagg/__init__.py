"""Judges implementations of secure aggregation: a network, a cheating server, cheating clients.

`judge` tries everything and returns a report. The tables behind it are `HONEST`, `ATTACKS` and
`CHEATS`; `NAIVE` holds variants that the attacks must break. The README of this package shows how.
"""

from choral.testing.secagg.attack import Attack, Ending, Trial
from choral.testing.secagg.cheat import Cheat
from choral.testing.secagg.clients import CHEATS
from choral.testing.secagg.honest import HONEST, Honest
from choral.testing.secagg.judge import TRIALS, Finding, Report, judge
from choral.testing.secagg.monitor import Monitor, Violation
from choral.testing.secagg.naive import NAIVE, Naive, play
from choral.testing.secagg.network import Network
from choral.testing.secagg.parties import (
    ClientFactory,
    ClientMachine,
    ServerFactory,
    ServerMachine,
)
from choral.testing.secagg.schedule import Loss, Schedule
from choral.testing.secagg.server import ATTACKS

__all__ = [
    "ATTACKS",
    "CHEATS",
    "HONEST",
    "NAIVE",
    "TRIALS",
    "Attack",
    "Cheat",
    "ClientFactory",
    "ClientMachine",
    "Ending",
    "Finding",
    "Honest",
    "Loss",
    "Monitor",
    "Naive",
    "Network",
    "Report",
    "Schedule",
    "ServerFactory",
    "ServerMachine",
    "Trial",
    "Violation",
    "judge",
    "play",
]
