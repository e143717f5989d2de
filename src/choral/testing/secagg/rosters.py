"""R1: rosters that are not those of the cohort, and graphs that the server chose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from choral.crypto.agreement import FIELD
from choral.crypto.merkle import Tree
from choral.crypto.signatures import SigningKey
from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.cohort import Cohort
from choral.secagg.refusals import Reason
from choral.testing.fakes import SeededRand
from choral.testing.secagg.attack import (
    GRAPH,
    GRAPH_CLIENTS,
    VICTIM,
    Attack,
    Play,
    alter,
    beside,
    relist,
)
from choral.testing.secagg.network import Network

LOW_ORDER: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""The canonical X25519 keys of order 1, 2, 4 and 8: with any of them every private key gives a
secret of zeros, which everybody knows. Source: RFC 7748, sections 6.1 and 7."""


def _roster(change: Any) -> Play:
    return alter(msg.Roster, change)


def _with(net: Network, m: msg.Roster, index: int, advertise: msg.Advertise) -> msg.Roster:
    members = list(m.members)
    members[index] = replace(members[index], advertise=advertise)
    return relist(net, m, members)


def forged(index: int, **changes: Any) -> Play:
    """Change what a client advertised, without its signature."""
    return _roster(
        lambda net, m: _with(net, m, index, replace(m.members[index].advertise, **changes))
    )


def _colluding(**changes: Any) -> Play:
    """Change what a client advertised, with its signature: it colludes."""

    def change(net: Network, m: msg.Roster) -> msg.Roster:
        return _with(net, m, 1, resigned(net, replace(m.members[1].advertise, **changes)))

    return _roster(change)


def resigned(net: Network, m: msg.Advertise, *, key: SigningKey | None = None) -> msg.Advertise:
    """Return keys under a new signature, by default the client's own."""
    what = statements.advertise(net.context.h0, m)
    return replace(m, signature=(key or net.keys[m.client]).sign(what))


def _chosen(*places: int) -> Play:
    """List these members of the true roster."""
    return _roster(lambda net, m: relist(net, m, [m.members[i] for i in places]))


def _sybil(net: Network, m: msg.Roster) -> msg.Roster:
    key = SigningKey.random(SeededRand(99))
    made = replace(m.members[1].advertise, verify_key=key.public, transport=bytes([9]) * 32)
    return _with(net, m, 1, resigned(net, made, key=key))


def _swapped(net: Network, m: msg.Roster) -> msg.Roster:
    a, b = m.members[1].advertise, m.members[2].advertise
    first = replace(m.members[1], advertise=replace(a, transport=b.transport))
    second = replace(m.members[2], advertise=replace(b, transport=a.transport))
    return relist(net, m, [m.members[0], first, second, *m.members[3:]])


def _shared(net: Network, m: msg.Roster) -> msg.Roster:
    made = replace(m.members[1].advertise, transport=m.members[2].advertise.transport)
    return _with(net, m, 1, resigned(net, made))


def _other_root(net: Network, m: msg.Roster) -> msg.Roster:
    what = statements.roster(net.context.h0, count=m.count, root=bytes(32), beacon=m.beacon)
    return replace(m, root=bytes(32), signature=net.server_key.sign(what))


def _old_roster(net: Network) -> None:
    """Restart the victim with an empty store and show it the roster with its earlier keys."""
    net.run()
    old = net.told[VICTIM]
    type(net.once[VICTIM]).__init__(net.once[VICTIM])
    net.begin()
    net.deliver(VICTIM, old[msg.Invitation])
    net.deliver(VICTIM, old[msg.Roster])


def _second(net: Network) -> msg.Roster:
    return relist(net, net.told[VICTIM][msg.Roster], list(net.told[VICTIM][msg.Roster].members[:3]))


# --- graph ----------------------------------------------------------------------------------------


def _other_graph(net: Network, m: msg.Roster) -> msg.Roster:
    """Show entries that are under the root, but not those that the seed gives."""
    adverts = [net.said[name][msg.Advertise] for name in net.ids]
    tree = Tree([msg.ADVERTISE.write(a) for a in adverts])
    mine = next(x for x in m.members if x.advertise.client == VICTIM)
    others = [i for i in range(m.count) if i not in {x.index for x in m.members}][:4]
    chosen = [msg.Member(i, adverts[i], tree.proof(i)) for i in others]
    return replace(m, members=tuple(sorted([mine, *chosen], key=lambda x: x.index)))


def _turned(_: Network, m: msg.Roster) -> msg.Roster:
    return replace(m, members=tuple(replace(x, proof=x.proof[::-1]) for x in m.members))


def _few(net: Network, _: msg.Roster) -> msg.Roster:
    """List a hundred of the cohort."""
    adverts = {name: net.said[name][msg.Advertise] for name in net.ids[:100]}
    cohort = Cohort(net.context, adverts, key=net.server_key, beacon=b"")
    return cohort.roster(VICTIM)


def _on_graph(name: str, tries: str, change: Any, reason: Reason) -> Attack:
    return Attack(name, tries, _roster(change), (reason,), clients=GRAPH_CLIENTS, options=GRAPH)


ROSTERS: Final = (
    Attack(
        "sybil",
        "lists a client of its own making",
        _roster(_sybil),
        (Reason.NOT_ENROLLED,),
    ),
    Attack("swapped keys", "swaps two clients' keys", _roster(_swapped), (Reason.BAD_SIGNATURE,)),
    Attack(
        "substituted mask key",
        "puts its own key in the place of a client's mask key",
        forged(1, mask=bytes([3]) * 32),
        (Reason.BAD_SIGNATURE,),
    ),
    Attack(
        "substituted transport key",
        "puts its own key in the place of a client's transport key",
        forged(1, transport=bytes([3]) * 32),
        (Reason.BAD_SIGNATURE,),
    ),
    Attack(
        "unsigned keys", "strips a signature", forged(1, signature=b""), (Reason.BAD_SIGNATURE,)
    ),
    Attack(
        "own key changed",
        "lists the victim under another key",
        forged(0, mask=bytes([3]) * 32),
        (Reason.NOT_LISTED,),
    ),
    *(
        Attack(
            f"small subgroup {i}, transport",
            "lists a colluding client under a transport key of small order",
            _colluding(transport=public),
            (Reason.BAD_KEY,),
        )
        for i, public in enumerate(LOW_ORDER)
    ),
    *(
        Attack(
            f"small subgroup {i}, mask",
            "lists a colluding client under a mask key of small order",
            _colluding(mask=public),
            (Reason.BAD_KEY,),
        )
        for i, public in enumerate(LOW_ORDER)
    ),
    Attack(
        "second spelling",
        "lists a colluding client under a key that is not canonical",
        _colluding(mask=(FIELD + 9).to_bytes(32, "little")),
        (Reason.BAD_KEY,),
    ),
    Attack(
        "key of another",
        "lists two clients under one key",
        _roster(_shared),
        (Reason.REPEATED_KEY,),
    ),
    Attack("renamed client", "lists one id twice", forged(1, client="c002"), (Reason.REPEATED_ID,)),
    Attack(
        "victim left out",
        "lists a cohort without the victim",
        _chosen(1, 2, 3),
        (Reason.NOT_LISTED,),
    ),
    Attack("two clients", "lists fewer clients than t", _chosen(0, 1), (Reason.SMALL_COHORT,)),
    Attack(
        "five clients", "lists more than it invited", _chosen(0, 1, 2, 3, 3), (Reason.TOO_MANY,)
    ),
    Attack("victim twice", "lists the victim twice", _chosen(0, 0, 1, 2), (Reason.NOT_LISTED,)),
    Attack("client twice", "lists a client twice", _chosen(0, 1, 1, 2), (Reason.REPEATED_ID,)),
    Attack(
        "other order", "lists clients in its own order", _chosen(0, 2, 1, 3), (Reason.REPEATED_ID,)
    ),
    Attack(
        "forged roster",
        "sends a roster under a signature that does not fit",
        _roster(lambda _, m: replace(m, signature=bytes(64))),
        (Reason.BAD_SERVER_SIGNATURE,),
    ),
    Attack("other root", "signs a root of nothing", _roster(_other_root), (Reason.BAD_PROOF,)),
    Attack(
        "entries withheld",
        "shows the complete graph with an entry missing",
        _roster(lambda _, m: replace(m, members=m.members[:3])),
        (Reason.WRONG_GRAPH,),
    ),
    Attack(
        "entries turned round",
        "shows entries from the last to the first",
        _roster(lambda _, m: replace(m, members=m.members[::-1])),
        (Reason.MALFORMED,),
    ),
    Attack(
        "beacon of its own",
        "adds a beacon value after it signed",
        _roster(lambda _, m: replace(m, beacon=b"chosen")),
        (Reason.BAD_SERVER_SIGNATURE,),
    ),
    Attack(
        "two rosters",
        "shows the victim another roster after the first",
        beside(msg.Deliveries, _second),
        (Reason.CHANGED_ROSTER,),
    ),
    Attack(
        "roster of earlier keys",
        "shows a client that lost its memory the roster with the keys it had before",
        _old_roster,
        (Reason.NOT_LISTED,),
        sums=False,
    ),
    _on_graph("chosen graph", "chooses the victim's neighbours", _other_graph, Reason.WRONG_GRAPH),
    _on_graph(
        "graph without the victim",
        "shows a neighbourhood that the victim is not in",
        lambda _, m: replace(
            m, members=tuple(x for x in m.members if x.advertise.client != VICTIM)
        ),
        Reason.NOT_LISTED,
    ),
    _on_graph(
        "a hundred of the cohort",
        "lists so few that the colluding ones weigh more",
        _few,
        Reason.SMALL_COHORT,
    ),
    _on_graph(
        "neighbour withheld",
        "shows the victim a neighbour less",
        lambda _, m: replace(m, members=m.members[:-1]),
        Reason.WRONG_GRAPH,
    ),
    _on_graph("broken proofs", "proves nothing", _turned, Reason.BAD_PROOF),
    _on_graph(
        "other count",
        "says another size of the cohort than it signed",
        lambda _, m: replace(m, count=11),
        Reason.BAD_SERVER_SIGNATURE,
    ),
)
"""Attacks on R1."""
