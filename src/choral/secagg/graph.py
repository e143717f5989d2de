"""Who neighbours whom: a Harary graph over a seeded permutation.

Source: Bell et al. 2020 (eprint 2020/704), section 3: clients stand on a circle in random order
and each neighbours the k / 2 before it and the k / 2 after it. Such a graph is k-regular and
k-connected (Harary 1962). Places on the circle are those of the clients' hashes under the seed, so
that whoever knows the seed and the number of clients gets the same graph.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Final

from choral.core.errors import PlanError
from choral.crypto.encoding import DIGEST_SIZE, digest

_PLACE: Final = b"choral secagg place v1"


def graph_seed(h0: bytes, *, count: int, root: bytes, beacon: bytes) -> bytes:
    """Return the seed of the graph over a signed roster.

    Args:
        h0: Hash of the context.
        count: |U1|.
        root: Merkle root of U1.
        beacon: Public value, empty where none is configured.
    """
    return digest("choral secagg graph v1", h0, count.to_bytes(8, "little"), root, beacon)


class Graph:
    """Neighbours by index in U1.

    Guarantees: symmetric, connected, without loops; every degree is exactly `degree`.

    Args:
        clients: Number of nodes.
        k: Degree asked for; from `clients` - 1 on, the graph is complete. Otherwise even.
        seed: 32 bytes; not looked at by a complete graph.

    Raises:
        PlanError: An odd degree below `clients` - 1, or none.

    >>> Graph(4, 9, seed=bytes(32)).neighbours(1)
    (0, 2, 3)
    """

    __slots__ = ("_circle", "_closed", "_place", "_seed", "clients", "degree")

    def __init__(self, clients: int, k: int, *, seed: bytes) -> None:
        if clients < 2 or k < 1 or len(seed) != DIGEST_SIZE:
            raise PlanError(
                f"a graph of {clients} clients and degree {k}: expected 2 and 1 or more"
            )
        if k < clients - 1 and k % 2:
            raise PlanError(f"degree {k} among {clients} clients: expected an even one")
        self.clients = clients
        self.degree = min(k, clients - 1)
        self._seed = seed
        self._circle: tuple[int, ...] = ()
        self._place: dict[int, int] = {}
        self._closed: dict[int, tuple[int, ...]] = {}

    @property
    def complete(self) -> bool:
        """Whether everybody neighbours everybody."""
        return self.degree == self.clients - 1

    def neighbours(self, node: int) -> tuple[int, ...]:
        """Return the neighbours of a node in ascending order, without itself."""
        if not 0 <= node < self.clients:
            raise PlanError(f"node {node}: expected 0 to {self.clients - 1}")
        if self.complete:
            return (*range(node), *range(node + 1, self.clients))
        return tuple(sorted(itertools.chain(*self.sides(node))))

    def sides(self, node: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the neighbours before and after a node on the circle; none on a complete graph."""
        if self.complete:
            return (), ()
        self._arrange()
        at, half = self._place[node], self.degree // 2
        before = (self._circle[(at - step) % self.clients] for step in range(1, half + 1))
        after = (self._circle[(at + step) % self.clients] for step in range(1, half + 1))
        return tuple(before), tuple(after)

    def closed(self, node: int) -> tuple[int, ...]:
        """Return the neighbours and the node itself, ascending: the holders of its shares."""
        found = self._closed.get(node)
        if found is None:
            found = self._closed[node] = tuple(sorted((*self.neighbours(node), node)))
        return found

    def _arrange(self) -> None:
        """Put everybody on the circle, once."""
        if self._circle:
            return
        start = hashlib.sha256(_PLACE + self._seed)
        keys = []
        for node in range(self.clients):
            place = start.copy()
            place.update(node.to_bytes(8, "little"))
            keys.append(place.digest())
        self._circle = tuple(sorted(range(self.clients), key=keys.__getitem__))
        self._place = {node: at for at, node in enumerate(self._circle)}
