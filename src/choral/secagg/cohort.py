"""U1 and its graph as the server holds them, and what each client must see of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from choral.crypto.encoding import length
from choral.crypto.merkle import Tree
from choral.crypto.signatures import SigningKey
from choral.secagg import statements
from choral.secagg.context import Context, h1
from choral.secagg.graph import Graph, graph_seed
from choral.secagg.messages import (
    ADVERTISE,
    Advertise,
    Bundle,
    Consent,
    Consents,
    Deliveries,
    Member,
    Roster,
    Standing,
    Survivors,
    delivery_head,
    pack_delivery,
)
from choral.secagg.roster import standings


class Cohort:
    """U1, fixed.

    Args:
        context: Of the attempt.
        adverts: Client to keys.
        key: The server's signing key; None in `semi_honest`.
        beacon: Public value, or empty.

    Attributes:
        ids: U1, ascending.
        h1: Salt of every key from now on.
    """

    __slots__ = (
        "_closed",
        "_graph",
        "_index",
        "_members",
        "_places",
        "_signature",
        "_threshold",
        "_tree",
        "_whole",
        "adverts",
        "beacon",
        "h1",
        "ids",
    )

    def __init__(
        self,
        context: Context,
        adverts: Mapping[str, Advertise],
        *,
        key: SigningKey | None,
        beacon: bytes,
    ) -> None:
        self.ids = tuple(sorted(adverts))
        self.adverts = dict(adverts)
        self.beacon = beacon
        self._threshold = context.parameters.t
        self._index = {name: i for i, name in enumerate(self.ids)}
        self._closed: dict[str, tuple[str, ...]] = {}
        self._places: dict[str, dict[str, int]] = {}
        self._members: dict[int, Member] = {}
        self._whole: Roster | None = None
        self._tree = Tree([ADVERTISE.write(adverts[name]) for name in self.ids])
        count, root = len(self.ids), self._tree.root
        seed = graph_seed(context.h0, count=count, root=root, beacon=beacon)
        self._graph = Graph(count, context.parameters.k, seed=seed)
        self.h1 = h1(context.h0, count=count, root=root, beacon=beacon)
        what = statements.roster(context.h0, count=count, root=root, beacon=beacon)
        self._signature = statements.signature(key, what)

    def closed(self, client: str) -> tuple[str, ...]:
        """Return the holders of a client's shares, in order; position is the place plus 1."""
        if self._graph.complete:
            return self.ids
        found = self._closed.get(client)
        if found is None:
            near = self._graph.closed(self._index[client])
            found = self._closed[client] = tuple(self.ids[i] for i in near)
        return found

    def places(self, client: str) -> dict[str, int]:
        """Return the holders of a client's shares with their places, from 0."""
        if self._graph.complete:
            return self._index
        found = self._places.get(client)
        if found is None:
            found = {name: i for i, name in enumerate(self.closed(client))}
            self._places[client] = found
        return found

    def neighbours(self, client: str) -> tuple[str, ...]:
        """Return the neighbours of a client."""
        return tuple(name for name in self.closed(client) if name != client)

    def roster(self, client: str) -> Roster:
        """Return U1 as a client must see it; on the complete graph the same object for all."""
        if self._whole is not None:
            return self._whole
        members = tuple(self._member(i) for i in self._graph.closed(self._index[client]))
        made = Roster(len(self.ids), self._tree.root, self.beacon, members, self._signature)
        if self._graph.complete:
            self._whole = made
        return made

    def _member(self, index: int) -> Member:
        """Return an entry of U1; the same object for all who see it."""
        found = self._members.get(index)
        if found is None:
            proof = () if self._graph.complete else self._tree.proof(index)
            found = Member(index, self.adverts[self.ids[index]], proof)
            self._members[index] = found
        return found

    def deliveries(
        self, bundles: Mapping[str, Bundle], trees: Mapping[str, Tree]
    ) -> dict[str, Deliveries]:
        """Return for each client in U2 the shares that its neighbours in U2 dealt for it."""
        found: dict[str, bytearray] = {name: bytearray() for name in sorted(bundles)}
        for dealer in found:
            bundle, tree = bundles[dealer], trees[dealer]
            head = delivery_head(dealer, bundle.signature)
            common = (bundle.commitment, tree.root, bundle.signature)
            proofs, sealed = tree.proofs(), iter(bundle.sealed)
            for place, holder in enumerate(self.closed(dealer)):
                if holder == dealer:  # it seals nothing for itself
                    continue
                content, given = next(sealed), found.get(holder)
                if given is not None:
                    one = pack_delivery(
                        place,
                        head=head,
                        common=common,
                        hashes=bundle.hashes[place],
                        proof=proofs[place],
                        sealed=content,
                    )
                    given += length(len(one))
                    given += one
        # popped, so that no more than one client's bytes are there twice
        return {name: Deliveries.packed(found.pop(name)) for name in sorted(found)}

    def consents(self, consents: Mapping[str, Consent]) -> dict[str, Consents]:
        """Return consents of each one's closed neighbourhood, as many as it wants to see."""
        names = sorted(consents)
        if self._graph.complete:
            first = tuple(consents[name] for name in names[: self._threshold])
            return dict.fromkeys(names, Consents(first))
        return {name: self._near_consents(name, consents) for name in names}

    def _near_consents(self, client: str, consents: Mapping[str, Consent]) -> Consents:
        near = (consents[name] for name in self.closed(client) if name in consents)
        return Consents(tuple(itertools.islice(near, self._threshold)))

    def survivors(self, alive: frozenset[str]) -> dict[str, Survivors]:
        """Return U3 as each survivor must see it."""
        tree, entries = standings(self.ids, alive)
        whole = Survivors(len(alive), tree.root, entries)
        if self._graph.complete:
            return dict.fromkeys(sorted(alive), whole)
        pairs = zip(entries, tree.proofs(), strict=True)
        proven = [Standing(s.index, s.alive, proof) for s, proof in pairs]
        return {
            name: Survivors(
                len(alive),
                tree.root,
                tuple(proven[i] for i in self._graph.closed(self._index[name])),
            )
            for name in sorted(alive)
        }
