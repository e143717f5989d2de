"""R3, R4 and the end: survivor sets, consents and results that are not those of the sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.graph import Graph, graph_seed
from choral.secagg.refusals import Reason
from choral.secagg.roster import standings
from choral.testing.secagg.attack import (
    GRAPH,
    GRAPH_CLIENTS,
    VICTIM,
    Attack,
    Ending,
    Play,
    alter,
    beside,
    consent,
    prepared,
    survivors,
)
from choral.testing.secagg.network import Network

_SIX: Final = tuple(f"c{i:03}" for i in range(6))


def _survivors(change: Callable[[Network, msg.Survivors], Any]) -> Play:
    return alter(msg.Survivors, change)


def _consents(change: Callable[[msg.Consents], Any]) -> Play:
    return alter(msg.Consents, lambda _, m: change(m))


def _without(net: Network, *dead: str) -> msg.Survivors:
    return survivors(net, tuple(name for name in net.ids if name not in dead))


def _lose(**steps: int) -> Play:
    def move(net: Network) -> None:
        net.drop(steps)

    return move


# --- two sets -------------------------------------------------------------------------------------


def two_sides(net: Network, *, dead: str, side: frozenset[str], colluders: tuple[str, ...]) -> None:
    """Name one client dead to one side and alive to the other; colluders sign both sets.

    The server keeps the consents to itself until all are there, then forwards to each side what
    was signed about its set.
    """
    shown: dict[str, msg.Survivors] = {}
    signed: dict[str, msg.Consent] = {}
    honest = [name for name in net.ids if name not in colluders]

    def toward(client: str, m: Any) -> Any:
        if not isinstance(m, msg.Survivors):
            return m
        if client in colluders:
            return None
        shown[client] = _without(net, dead) if client in side else m
        return shown[client]

    def forward(client: str, m: Any) -> Any:
        if isinstance(m, msg.Consent):
            signed[client] = m
            if len(signed) == len(honest):
                _answer_both(net, shown=shown, signed=signed, colluders=colluders)
            return None
        return m

    net.toward, net.forward = toward, forward
    net.run()


def _answer_both(
    net: Network,
    *,
    shown: dict[str, msg.Survivors],
    signed: dict[str, msg.Consent],
    colluders: tuple[str, ...],
) -> None:
    for client, seen in sorted(shown.items()):
        same = [signed[name] for name in signed if shown[name].root == seen.root]
        made = [consent(net, name, seen) for name in colluders]
        net.deliver(client, msg.Consents((*same, *made)))


def _halves(net: Network) -> None:
    two_sides(net, dead="c005", side=frozenset(net.ids[:3]), colluders=())


def _halves_with_colluders(net: Network) -> None:
    two_sides(net, dead="c001", side=frozenset({"c002", "c005"}), colluders=("c003", "c004"))


def _consents_to_the_other(net: Network) -> None:
    """Tell the victim that a client is dead, then forward consents to a set where it is not."""

    def toward(client: str, m: Any) -> Any:
        if client == VICTIM and isinstance(m, msg.Survivors):
            return _without(net, "c003")
        if client == VICTIM and isinstance(m, msg.Result):
            names = net.ids[:3]
            net.deliver(client, msg.Consents(tuple(net.said[n][msg.Consent] for n in names)))
        return m

    net.toward = toward
    net.run()


def _dead_then_alive(net: Network) -> None:
    """Tell everybody that a client is lost although its vector came; afterwards that it is not."""

    def toward(client: str, m: Any) -> Any:
        if isinstance(m, msg.Survivors):
            return None if client == "c003" else _without(net, "c003")
        return m

    def forward(client: str, m: Any) -> Any:
        return None if isinstance(m, msg.Consent) else m

    net.toward, net.forward = toward, forward
    net.run()
    others = net.ids[:3]
    given = msg.Consents(tuple(net.said[name][msg.Consent] for name in others))
    for name in others:
        net.deliver(name, given)
    for name in others:
        net.deliver(name, survivors(net, net.ids))


def _dead_consent(net: Network, m: msg.Consents) -> msg.Consents:
    made = consent(net, "c004", net.told[VICTIM][msg.Survivors])
    return msg.Consents((made, *m.consents[:3]))


def _foreign(net: Network, m: msg.Consents) -> msg.Consents:
    near = {x.advertise.client for x in net.told[VICTIM][msg.Roster].members}
    others = [name for name in net.ids if name not in near]
    return msg.Consents(tuple(net.said[name][msg.Consent] for name in others[: net.parameters.t]))


def _cut_off(net: Network, m: msg.Survivors) -> msg.Survivors:
    """Name all dead that stand on one side of the victim, on the circle of the graph."""
    roster = net.told[VICTIM][msg.Roster]
    seed = graph_seed(net.context.h0, count=roster.count, root=roster.root, beacon=roster.beacon)
    graph = Graph(roster.count, net.parameters.k, seed=seed)
    dead = {net.ids[i] for i in graph.sides(net.ids.index(VICTIM))[0]}
    alive = frozenset(net.ids) - dead
    tree, entries = standings(net.ids, alive)
    near = tuple(replace(entries[s.index], proof=tree.proof(s.index)) for s in m.standings)
    return msg.Survivors(len(alive), tree.root, near)


def _ask_again(net: Network) -> msg.Consents:
    first = net.told[VICTIM][msg.Consents]
    net.deliver(VICTIM, first)
    return msg.Consents(first.consents[:3])


def _result(**changes: Any) -> Play:
    """Sign another result."""

    def change(net: Network, m: msg.Result) -> msg.Result:
        made = replace(m, **changes)
        return replace(made, signature=net.server_key.sign(statements.result(made)))

    return alter(msg.Result, change)


UNMASKING: Final = (
    Attack(
        "victim named dead to itself",
        "shows the victim survivors without it",
        _survivors(lambda net, _: survivors(net, net.ids[1:])),
        (Reason.LEFT_OUT,),
    ),
    Attack(
        "two survivors",
        "names fewer survivors than t: a lie about dropouts",
        _survivors(lambda net, _: survivors(net, net.ids[:2])),
        (Reason.TOO_FEW_SURVIVORS,),
    ),
    Attack(
        "survivors miscounted",
        "says a larger number of survivors than it lists",
        _survivors(lambda net, _: survivors(net, net.ids[:3], count=4)),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "root of no survivors",
        "shows survivors under another root",
        _survivors(lambda _, m: replace(m, root=bytes(32))),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "standing withheld",
        "leaves out whether one client survived",
        _survivors(lambda _, m: replace(m, standings=m.standings[:3])),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "standings turned round",
        "lists standings from the last to the first",
        _survivors(lambda _, m: replace(m, standings=m.standings[::-1])),
        (Reason.BAD_PROOF,),
    ),
    Attack(
        "survivor without shares",
        "names a client alive that never dealt its shares",
        prepared(_lose(c003=1), _survivors(lambda net, _: survivors(net, net.ids))),
        (Reason.NOT_A_DEALER,),
        sums=False,
    ),
    Attack(
        "alive and dead by halves",
        "names a client alive to one half and dead to the other",
        _halves,
        (Reason.TOO_FEW_CONSENTS,),
        victims=_SIX,
        clients=6,
        sums=False,
    ),
    Attack(
        "alive and dead with a colluding third",
        "names a client alive to some and dead to others; a third of the cohort signs both",
        _halves_with_colluders,
        (Reason.TOO_FEW_CONSENTS,),
        victims=("c000", "c001", "c002", "c005"),
        clients=6,
        sums=False,
    ),
    Attack(
        "alive and dead by forwarded consents",
        "forwards consents to a set in which a client lives to one that was told it is dead",
        _consents_to_the_other,
        (Reason.BAD_SIGNATURE,),
    ),
    Attack(
        "dead, then alive",
        "asks all for the shares of a client that was lost, then that it was not",
        _dead_then_alive,
        (Reason.TWO_SURVIVOR_SETS,),
        victims=("c000", "c001", "c002"),
        sums=False,
    ),
    *(
        Attack(
            f"two survivor sets before the {name}",
            "shows the victim another survivor set after the first",
            beside(kind, lambda net: survivors(net, net.ids[:3])),
            (Reason.TWO_SURVIVOR_SETS,),
        )
        for name, kind in (("consents", msg.Consents), ("result", msg.Result))
    ),
    Attack(
        "two consents",
        "forwards fewer consents than t",
        _consents(lambda m: replace(m, consents=m.consents[:2])),
        (Reason.TOO_FEW_CONSENTS,),
    ),
    Attack(
        "one consent four times",
        "forwards one consent for many",
        _consents(lambda m: replace(m, consents=m.consents[:1] * 4)),
        (Reason.REPEATED_ID,),
    ),
    Attack(
        "stranger's consent",
        "forwards a consent of nobody in the cohort",
        _consents(
            lambda m: replace(m, consents=(replace(m.consents[0], client="x"), *m.consents[1:]))
        ),
        (Reason.FOREIGN_CONSENT,),
    ),
    Attack(
        "consent in another's name",
        "forwards one client's consent as another's",
        _consents(
            lambda m: replace(m, consents=(replace(m.consents[1], client=VICTIM), *m.consents[1:]))
        ),
        (Reason.BAD_SIGNATURE,),
    ),
    Attack(
        "consent of the dead",
        "forwards the consent of a colluding client that is named dead",
        prepared(_lose(c004=2), alter(msg.Consents, _dead_consent)),
        (Reason.FOREIGN_CONSENT,),
        clients=5,
        sums=False,
    ),
    Attack(
        "consents from elsewhere",
        "forwards consents from outside the victim's neighbourhood",
        alter(msg.Consents, _foreign),
        (Reason.FOREIGN_CONSENT,),
        clients=GRAPH_CLIENTS,
        options=GRAPH,
    ),
    Attack(
        "stretch cut off",
        "names all dead on one side of the victim, on the circle of the graph",
        _survivors(_cut_off),
        (Reason.ONE_SIDED,),
        clients=GRAPH_CLIENTS,
        options=GRAPH,
    ),
    Attack(
        "two unmask requests",
        "asks for the shares again, with other consents",
        beside(msg.Result, _ask_again),
        (),
        Ending.REPEATS,
    ),
    Attack(
        "result of three",
        "signs a result that counts fewer clients",
        _result(count=3),
        (Reason.NOT_COUNTED,),
    ),
    Attack(
        "result of others",
        "signs a result over other survivors",
        _result(root=bytes(32)),
        (Reason.NOT_COUNTED,),
    ),
    Attack(
        "result of another attempt",
        "signs a result of other keys",
        _result(h1=bytes(32)),
        (Reason.NOT_COUNTED,),
    ),
    Attack(
        "forged result",
        "changes the result after it signed",
        alter(msg.Result, lambda _, m: replace(m, total=bytes(32))),
        (Reason.BAD_SERVER_SIGNATURE,),
    ),
)
"""Attacks on R3, R4 and the end."""
