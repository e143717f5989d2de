"""Attempts in which nobody cheats: an implementation that refuses everything is no good either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from choral.secagg.client import Client
from choral.secagg.refusals import Reason
from choral.secagg.server import Server
from choral.testing.secagg.attack import GRAPH, GRAPH_CLIENTS, sum_faults
from choral.testing.secagg.monitor import Monitor
from choral.testing.secagg.network import Network
from choral.testing.secagg.parties import ClientFactory, ServerFactory
from choral.testing.secagg.schedule import STEPS, Loss, Schedule


@dataclass(frozen=True, slots=True)
class Honest:
    """One attempt without a cheat.

    Attributes:
        name: What it is called.
        tries: What is special about it.
        missing: Clients whose vector is not in the sum.
        clients: Size of the cohort.
        options: More arguments of `Network`.
    """

    name: str
    tries: str
    missing: tuple[str, ...] = ()
    clients: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expects(self) -> str:
        """What must come of it, in words."""
        return f"an exact sum of {self.clients - len(self.missing)}"

    def network(self, *, client: ClientFactory = Client, server: ServerFactory = Server) -> Network:
        """Return the network that it is played in."""
        monitor = Monitor(halt=False)
        return Network(self.clients, client=client, server=server, monitor=monitor, **self.options)

    def play(self, net: Network) -> None:
        """Run the attempt."""
        net.run()

    def found(self, net: Network) -> str:
        """Say how it ended."""
        refused = sorted({b.reason for b in net.stopped.values()} | _told(net))
        end = f"a sum of {len(net.summed.survivors)}" if net.summed else f"{net.abandoned}"
        return ", ".join([end, *refused])

    def faults(self, net: Network) -> list[str]:
        """Return what is not as it must be."""
        faults = [*net.monitor.faults, *sum_faults(net, needed=True)]
        if net.stopped or _told(net):
            faults.append("somebody was refused")
        if net.summed and set(net.summed.survivors) != set(net.ids) - set(self.missing):
            faults.append("others are counted than expected")
        return faults


def _told(net: Network) -> set[Reason]:
    """Return every check that somebody named."""
    return {reason for _, reason, _ in (*net.rejected, *net.accused)}


HONEST: Final[tuple[Honest, ...]] = (
    Honest("nobody cheats", "runs the whole protocol"),
    Honest(
        "nobody cheats on a graph",
        "runs it on a random graph",
        clients=GRAPH_CLIENTS,
        options=GRAPH,
    ),
    Honest("nobody cheats, unsigned", "runs the semi-honest suite", options={"semi_honest": True}),
    *(
        Honest(
            f"lost at R{step}",
            "loses one client before its message",
            missing=("c001",) if step < 3 else (),
            options={"losses": (Loss("c001", kind, noticed=bool(step % 2)),)},
        )
        for step, kind in enumerate(STEPS)
    ),
    *(
        Honest(
            f"disorder {seed}",
            "brings messages in another order, some of them twice",
            options={"schedule": Schedule(seed, duplicates=0.3)},
        )
        for seed in range(5)
    ),
)
"""Every attempt without a cheat."""
