import pytest

from choral.core.errors import PlanError
from choral.secagg.graph import Graph, graph_seed

SEED = bytes(range(32))
FROZEN = [(1, 3, 4, 7), (4, 6, 7, 8)]


def reachable(graph):
    seen, waiting = {0}, [0]
    while waiting:
        for other in graph.neighbours(waiting.pop()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return len(seen)


@pytest.mark.parametrize(("clients", "k"), [(3, 2), (5, 2), (12, 4), (13, 4), (200, 36), (5, 4)])
def test_regular_symmetric_connected(clients, k):
    graph = Graph(clients, k, seed=SEED)
    for node in range(clients):
        near = graph.neighbours(node)
        assert len(set(near)) == len(near) == k
        assert node not in near
        assert list(near) == sorted(near)
        assert all(node in graph.neighbours(other) for other in near)
    assert reachable(graph) == clients


def test_another_seed_gives_another_graph():
    first, second = (Graph(100, 6, seed=bytes([i]) * 32) for i in (1, 2))
    assert sum(first.neighbours(i) == second.neighbours(i) for i in range(100)) < 5


def test_frozen_neighbours():
    graph = Graph(10, 4, seed=SEED)
    assert graph.closed(3) == tuple(sorted((*graph.neighbours(3), 3)))
    assert [graph.neighbours(i) for i in (0, 9)] == FROZEN


def test_more_neighbours_than_clients_is_the_complete_graph():
    graph = Graph(4, 78, seed=SEED)
    assert graph.complete
    assert graph.closed(2) == (0, 1, 2, 3)


def test_refusals():
    with pytest.raises(PlanError, match="even"):
        Graph(10, 3, seed=SEED)
    with pytest.raises(PlanError):
        Graph(1, 2, seed=SEED)
    with pytest.raises(PlanError):
        Graph(10, 4, seed=SEED).neighbours(10)


def test_the_seed_depends_on_everything():
    given = {"h0": SEED, "count": 5, "root": SEED, "beacon": b""}
    changes = ({"h0": bytes(32)}, {"count": 6}, {"root": bytes(32)}, {"beacon": b"x"})
    seeds = {graph_seed(g.pop("h0"), **g) for g in ({**given, **c} for c in ({}, *changes))}
    assert len(seeds) == 5
