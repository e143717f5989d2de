"""U1 and U3 as a client sees them, checked. Source: Bell et al. 2020, section 4, for the graph."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from choral.core.errors import Refused
from choral.crypto.agreement import AgreementKey, check_public_key
from choral.crypto.merkle import Tree, verify_inclusion
from choral.crypto.secret import Secret
from choral.secagg import statements
from choral.secagg.context import Context, h1
from choral.secagg.enrolment import check_enrolled
from choral.secagg.graph import Graph, graph_seed
from choral.secagg.messages import ADVERTISE, Advertise, Roster, Standing, Survivors
from choral.secagg.refusals import Breach, Reason, check


@dataclass(frozen=True)
class View:
    """What a client knows of U1 after it has checked it.

    Attributes:
        h1: Salt of every key from now on.
        count: |U1|.
        own: The client's index.
        complete: Whether `members` is all of U1.
        members: Index to keys: the closed neighbourhood, ascending.
        holders: The ids of the closed neighbourhood, in the order of their shares.
        sides: The ids on either side of the client's place on the circle; of a complete graph none.
    """

    h1: bytes
    count: int
    own: int
    complete: bool
    members: Mapping[int, Advertise]
    holders: tuple[str, ...]
    sides: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    @cached_property
    def by_id(self) -> Mapping[str, Advertise]:
        """The members by their ids."""
        return {m.client: m for m in self.members.values()}


def check_advertise(context: Context, m: Advertise, *, authority: bytes) -> None:
    """Check a client's keys: well formed, enrolled and signed.

    Raises:
        Breach: They are not.
    """
    check(bool(m.client), Reason.MALFORMED, "an empty client id")
    for public in (m.transport, m.mask):
        try:
            check_public_key(public)
        except Refused as error:
            raise Breach(Reason.BAD_KEY, error.message, about=m.client) from None
    if context.signed:
        check_enrolled(authority, client=m.client, verify_key=m.verify_key, enrolment=m.enrolment)
    else:
        given = m.verify_key or m.enrolment
        check(not given, Reason.BAD_SIGNATURE, "keys of a suite that has none", about=m.client)
    what = statements.advertise(context.h0, m)
    statements.check_signature(
        context.signed,
        m.verify_key,
        what,
        m.signature,
        reason=Reason.BAD_SIGNATURE,
        about=m.client,
    )


def exchange(mine: AgreementKey, public: bytes, *, client: str) -> Secret:
    """Return the secret shared with a client.

    Raises:
        Breach: `BAD_KEY`: its key has low order or is no key.
    """
    try:
        return mine.exchange(public)
    except Refused as error:
        raise Breach(Reason.BAD_KEY, error.message, about=client) from None


def check_distinct(members: Sequence[Advertise]) -> None:
    """Check that ids ascend and that no key is there twice.

    Raises:
        Breach: `REPEATED_ID` or `REPEATED_KEY`.
    """
    for before, after in itertools.pairwise(members):
        check(
            before.client < after.client,
            Reason.REPEATED_ID,
            "ids do not ascend",
            about=after.client,
        )
    keys: set[bytes] = set()
    for m in members:
        mine = {m.transport, m.mask, m.verify_key} - {b""}
        fresh = len(mine) == (3 if m.verify_key else 2) and not keys & mine
        check(fresh, Reason.REPEATED_KEY, "a public key is there twice", about=m.client)
        keys |= mine


def check_roster(
    context: Context, m: Roster, *, own: Advertise, authority: bytes, server: bytes, beacon: bytes
) -> View:
    """Return what U1 looks like from a client that takes part.

    Args:
        context: Of the attempt.
        m: What the server sent.
        own: What this client advertised.
        authority: Verification key of the enrolment authority.
        server: Verification key of the server.
        beacon: The value that must seed the graph; empty without a beacon.

    Raises:
        Breach: Anything in it is wrong.
    """
    statements.check_signature(
        context.signed,
        server,
        statements.roster(context.h0, count=m.count, root=m.root, beacon=m.beacon),
        m.signature,
        reason=Reason.BAD_SERVER_SIGNATURE,
    )
    check(m.beacon == beacon, Reason.WRONG_BEACON, "the roster has another beacon value")
    found = f"{m.count} clients"
    p = context.parameters
    floor = max(context.quorum, p.least_listed)
    check(m.count >= floor, Reason.SMALL_COHORT, f"{found}, floor {floor}")
    check(m.count <= p.clients, Reason.TOO_MANY, f"{found}, invited {p.clients}")
    indices = [entry.index for entry in m.members]
    ascending = all(a < b for a, b in itertools.pairwise(indices))
    check(ascending and indices[:1] >= [0], Reason.MALFORMED, "members do not ascend")
    mine = [entry.index for entry in m.members if entry.advertise == own]
    check(len(mine) == 1, Reason.NOT_LISTED, f"own entry {len(mine)} times, expected once")
    seed = graph_seed(context.h0, count=m.count, root=m.root, beacon=m.beacon)
    graph = Graph(m.count, p.k, seed=seed)
    _check_proofs(m, complete=graph.complete)
    check(mine[0] < m.count, Reason.MALFORMED, "own index is outside the roster")
    closed = graph.closed(mine[0])
    check(tuple(indices) == closed, Reason.WRONG_GRAPH, "not the neighbourhood that the seed gives")
    adverts = [entry.advertise for entry in m.members]
    check_distinct(adverts)
    for advertise in adverts:
        if advertise != own:
            check_advertise(context, advertise, authority=authority)
    members = dict(zip(indices, adverts, strict=True))
    holders = tuple(a.client for a in adverts)
    salt = h1(context.h0, count=m.count, root=m.root, beacon=m.beacon)
    before, after = graph.sides(mine[0])
    sides = (
        frozenset(members[i].client for i in before),
        frozenset(members[i].client for i in after),
    )
    return View(salt, m.count, mine[0], graph.complete, members, holders, sides)


def _check_proofs(m: Roster, *, complete: bool) -> None:
    """Check that the entries are those under the root."""
    leaves = [ADVERTISE.write(entry.advertise) for entry in m.members]
    if complete:
        check(len(leaves) == m.count, Reason.WRONG_GRAPH, "a complete roster with entries missing")
        check(Tree(leaves).root == m.root, Reason.BAD_PROOF, "the root is not that of the entries")
        return
    for entry, leaf in zip(m.members, leaves, strict=True):
        _include(leaf, (entry.index, m.count), entry.proof, m.root)


def _include(leaf: bytes, place: tuple[int, int], proof: Sequence[bytes], root: bytes) -> None:
    """Check an inclusion proof."""
    try:
        verify_inclusion(leaf, index=place[0], size=place[1], proof=proof, root=root)
    except Refused as error:
        raise Breach(Reason.BAD_PROOF, error.message) from None


def check_survivors(
    context: Context, view: View, m: Survivors, *, dealers: frozenset[str]
) -> frozenset[str]:
    """Return who of the closed neighbourhood is in U3.

    Args:
        context: Of the attempt.
        view: U1.
        m: What the server sent.
        dealers: U2 within the closed neighbourhood, with the client itself.

    Raises:
        Breach: U3 is not within U2, is too small, leaves the client out, is not under the root, or
            looks like a stretch of the circle that was cut off.
    """
    indices = tuple(s.index for s in m.standings)
    check(indices == tuple(view.members), Reason.BAD_PROOF, "survivors of another neighbourhood")
    leaves = [
        statements.standing_leaf(view.members[s.index].client, alive=s.alive) for s in m.standings
    ]
    alive = frozenset(view.members[s.index].client for s in m.standings if s.alive)
    if view.complete:
        check(Tree(leaves).root == m.root, Reason.BAD_PROOF, "the root is not that of the list")
        check(len(alive) == m.count, Reason.BAD_PROOF, f"{len(alive)} survivors, told {m.count}")
    else:
        for standing, leaf in zip(m.standings, leaves, strict=True):
            _include(leaf, (standing.index, view.count), standing.proof, m.root)
    strangers = alive - dealers
    check(not strangers, Reason.NOT_A_DEALER, f"{len(strangers)} without shares")
    check(view.members[view.own].client in alive, Reason.LEFT_OUT, "this client is not counted")
    t = context.parameters.t
    large = context.quorum <= m.count <= view.count and len(alive) >= t
    check(
        large,
        Reason.TOO_FEW_SURVIVORS,
        f"{m.count} in all and {len(alive)} here, floors {context.quorum} and {t}",
    )
    if not view.complete:
        fewest, floor = min(len(side & alive) for side in view.sides), context.parameters.side_floor
        check(fewest >= floor, Reason.ONE_SIDED, f"{fewest} on one side, floor {floor}")
    return alive


def standings(ids: Sequence[str], alive: frozenset[str]) -> tuple[Tree, tuple[Standing, ...]]:
    """Return the tree over U1 that says who is in U3, and the entries without proofs."""
    tree = Tree([statements.standing_leaf(name, alive=name in alive) for name in ids])
    return tree, tuple(Standing(i, name in alive, ()) for i, name in enumerate(ids))
