"""What an attack is, what must come of it, and the moves that attacks are made of."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from choral.crypto.merkle import Tree
from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.client import Client
from choral.secagg.context import Context
from choral.secagg.parameters import Parameters, find
from choral.secagg.refusals import Reason
from choral.secagg.roster import standings
from choral.secagg.server import Server
from choral.testing.secagg.monitor import Monitor
from choral.testing.secagg.network import Network
from choral.testing.secagg.parties import ClientFactory, ServerFactory

VICTIM: Final = "c000"
Play: TypeAlias = Callable[[Network], None]
Change: TypeAlias = Callable[[Network, Any], "msg.FromServer | bytes | None"]


class Trial(Protocol):
    """One thing that is tried on an implementation."""

    @property
    def name(self) -> str:
        """What it is called in a report."""
        ...

    @property
    def tries(self) -> str:
        """What it is, in one line."""
        ...

    @property
    def expects(self) -> str:
        """What must come of it."""
        ...

    def network(self, *, client: ClientFactory, server: ServerFactory) -> Network:
        """Return the network that it is played in."""
        ...

    def play(self, net: Network) -> None:
        """Do it."""
        ...

    def found(self, net: Network) -> str:
        """Say what came of it."""
        ...

    def faults(self, net: Network) -> list[str]:
        """Return what came of it and must not."""
        ...


class Ending(enum.StrEnum):
    """How a victim answers an attack."""

    STOPS = "stops"
    REPORTS = "reports it and goes on"
    REPEATS = "gives its first answer again"


@dataclass(frozen=True, slots=True)
class Attack:
    """One thing that a cheating server may try on clients.

    Attributes:
        name: What it is called.
        tries: What the server does.
        move: Does it, and runs the attempt to its end.
        refusals: Names of the checks that may find it; the first one is that of Choral's client.
        ending: What the victims do.
        victims: Who must refuse.
        clients: Size of the cohort.
        options: More arguments of `Network`.
        sums: Whether the others still get their sum.
    """

    name: str
    tries: str
    move: Play
    refusals: tuple[Reason, ...]
    ending: Ending = Ending.STOPS
    victims: tuple[str, ...] = (VICTIM,)
    clients: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)
    sums: bool = True

    @property
    def expects(self) -> str:
        """What the victims must do, in words."""
        return ": ".join(
            [self.ending, " or ".join(self.refusals)] if self.refusals else [self.ending]
        )

    def network(self, *, client: ClientFactory = Client, server: ServerFactory = Server) -> Network:
        """Return the network that it is played in."""
        monitor = Monitor(halt=False)
        return Network(self.clients, client=client, server=server, monitor=monitor, **self.options)

    def play(self, net: Network) -> None:
        """Play it to the end."""
        self.move(net)

    def found(self, net: Network) -> str:
        """Say what the victims refused."""
        named = {net.stopped[v].reason for v in self.victims if v in net.stopped}
        reported = {why for who, why, _ in net.accused if who in self.victims}
        if not named | reported and self.ending is Ending.REPEATS:
            return f"{len(answers(net, self.victims[0]))} answers"
        return ", ".join(sorted(named | reported)) or "no refusal"

    def faults(self, net: Network) -> list[str]:
        """Return what is not as it must be."""
        faults = [f"{v} {fault}" for v in self.victims if (fault := self._fault(net, v))]
        return [*net.monitor.faults, *faults, *sum_faults(net, needed=self.sums)]

    def _fault(self, net: Network, victim: str) -> str:
        stop = net.stopped.get(victim)
        if self.ending is Ending.STOPS:
            if stop is None:
                return "did not stop"
            return "" if stop.reason in self.refusals else f"stopped with {stop.reason}"
        if stop is not None:
            return f"stopped with {stop.reason}"
        if self.ending is Ending.REPORTS:
            told = {why for who, why, _ in net.accused if who == victim}
            return "" if told & set(self.refusals) else "did not report"
        return "" if len(answers(net, victim)) > 1 else "did not answer again"


def sum_faults(net: Network, *, needed: bool) -> list[str]:
    """Return what is wrong with the sum."""
    if net.summed is None:
        return ["the others lost their sum"] if needed else []
    exact = np.array_equal(net.summed.total, net.total(net.summed.survivors))
    return [] if exact else ["a wrong sum"]


def answers(net: Network, client: str) -> list[msg.Unmask]:
    """Return every answer at the end that a client gave, of those the server received."""
    found = [msg.decode(raw) for way, who, raw in net.log if (way, who) == ("<", client)]
    return [m for m in found if isinstance(m, msg.Unmask)]


# --- moves ----------------------------------------------------------------------------------------


def alter(kind: type[Any], change: Change) -> Play:
    """Return the play that changes one kind of message on its way to the victim."""

    def move(net: Network) -> None:
        def toward(client: str, message: Any) -> msg.FromServer | bytes | None:
            if client == VICTIM and isinstance(message, kind):
                return change(net, message)
            return message  # type: ignore[no-any-return]

        net.toward = toward
        net.run()

    return move


def beside(kind: type[Any], say: Callable[[Network], Any]) -> Play:
    """Return the play that sends the victim one message more, before one of this kind."""

    def move(net: Network) -> None:
        def toward(client: str, message: Any) -> msg.FromServer | bytes | None:
            if client == VICTIM and isinstance(message, kind):
                net.deliver(VICTIM, say(net))
            return message  # type: ignore[no-any-return]

        net.toward = toward
        net.run()

    return move


def prepared(prepare: Play, move: Play) -> Play:
    """Return the play with something before it."""

    def both(net: Network) -> None:
        prepare(net)
        move(net)

    return both


def sign_context(net: Network, context: Context) -> msg.Invitation:
    """Return an invitation that the server signed."""
    key = net.server_key if context.signed else None
    what = statements.invitation(context.h0)
    return msg.Invitation(context, statements.signature(key, what))


def relist(net: Network, m: msg.Roster, members: list[msg.Member]) -> msg.Roster:
    """Return a roster over other members, with its root and the server's signature."""
    root, count = Tree([msg.ADVERTISE.write(x.advertise) for x in members]).root, len(members)
    what = statements.roster(net.context.h0, count=count, root=root, beacon=m.beacon)
    placed = tuple(replace(x, index=i) for i, x in enumerate(members))
    signature = statements.signature(net.server_key if net.signed else None, what)
    return msg.Roster(count, root, m.beacon, placed, signature)


def survivors(net: Network, alive: tuple[str, ...], *, count: int | None = None) -> msg.Survivors:
    """Return a survivor set over the whole cohort."""
    tree, entries = standings(net.ids, frozenset(alive))
    return msg.Survivors(len(alive) if count is None else count, tree.root, entries)


def consent(net: Network, client: str, m: msg.Survivors) -> msg.Consent:
    """Return a client's consent to a survivor set, as one that colludes signs it."""
    what = statements.survivors(net.h1, count=m.count, root=m.root)
    return msg.Consent(client, net.keys[client].sign(what))


GRAPH_CLIENTS: Final = 129
"""The smallest cohort on a random graph."""


def thin_graph(*, beacon: bool = False) -> Parameters:
    """Return parameters of a graph where nobody colludes: far too thin for use, and quick."""
    return find(GRAPH_CLIENTS, corrupt=0.0, dropout=0.01, beacon=beacon)


GRAPH: Final[Mapping[str, Any]] = {"parameters": thin_graph()}
"""Options of a network on a random graph."""
