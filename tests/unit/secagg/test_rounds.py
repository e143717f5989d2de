import itertools
from dataclasses import replace

import numpy as np
import pytest

from choral.secagg import messages as msg
from choral.secagg.parameters import Parameters, Suite, find
from choral.testing.secagg.attack import thin_graph

NEVER = 9


def expected(n, t, pattern, *, signed):
    """Return who must be in the sum, or None for an abort."""
    counts = [sum(step > last for step in pattern) for last in range(5)]
    needed = counts if signed else [*counts[:3], counts[4]]
    if any(count < t for count in needed):
        return None
    return [i for i in range(n) if pattern[i] > 2]


def check_pattern(world, n, pattern, *, semi_honest=False):
    w = world(n, semi_honest=semi_honest)
    w.drop(dict(zip(w.ids, pattern, strict=True))).run()
    wanted = expected(n, w.parameters.t, pattern, signed=not semi_honest)
    if wanted is None:
        assert w.summed is None
        assert w.abandoned is not None
    else:
        w.assert_exact()
        assert w.summed.survivors == tuple(w.ids[i] for i in wanted)


@pytest.mark.parametrize("semi_honest", [False, True])
@pytest.mark.parametrize(
    "n",
    [2, 3, 4, pytest.param(5, marks=[pytest.mark.nightly, pytest.mark.timeout(1200)])],
)
def test_every_pattern_of_losses(world, n, semi_honest):
    steps = (0, 1, 2, 4, NEVER) if semi_honest else (0, 1, 2, 3, 4, NEVER)
    for pattern in itertools.product(steps, repeat=n):
        check_pattern(world, n, pattern, semi_honest=semi_honest)


@pytest.mark.parametrize("semi_honest", [False, True])
def test_everybody_stays(world, semi_honest):
    w = world(5, semi_honest=semi_honest).run()
    w.assert_exact()
    assert w.summed.survivors == w.ids
    assert w.counted == set(w.ids)
    assert not w.rejected
    assert not w.stopped


CURIOUS = Parameters(Suite.SEMI_HONEST, 12, 8, 5, 0.0, 0.2, 80)


@pytest.mark.parametrize("parameters", [CURIOUS, thin_graph()], ids=lambda p: p.suite)
@pytest.mark.parametrize("lost", [(3,), (0, 11)])
@pytest.mark.parametrize("step", [0, 1, 2, 4])
def test_graph_sums_exactly_or_stops(world, parameters, lost, step):
    w = world(parameters.clients, parameters=parameters)
    w.drop({w.ids[i]: step for i in lost}).run()
    if w.summed is not None:
        w.assert_exact()
        gone = {w.ids[i] for i in lost} if step < 3 else set()
        assert set(w.summed.survivors) == set(w.ids) - gone
    else:
        assert w.abandoned or w.stopped
    if len(lost) < 2:
        assert w.summed is not None


def test_real_graph_with_losses_at_every_step(world):
    parameters = find(130, dropout=0.2, corrupt=0.02)
    assert parameters.suite is Suite.GRAPH
    assert not parameters.complete
    w = world(130, parameters=parameters)
    w.drop({name: step for step, name in enumerate(w.ids[10:15])}).run()
    w.assert_exact()
    assert len(w.summed.survivors) == 127


@pytest.mark.parametrize(("lost", "reached"), [(0, True), (1, True), (2, True), (3, False)])
@pytest.mark.parametrize("step", range(5))
def test_edges_of_the_threshold(world, lost, reached, step):
    w = world(7)
    w.drop(dict.fromkeys(w.ids[:lost], step)).run()
    assert (w.summed is not None) is reached
    if reached:
        w.assert_exact()


def test_a_cohort_floor_above_the_threshold_holds(world):
    w = world(4, min_cohort=4).drop({"c001": 2}).run()
    assert w.abandoned.reason == "too_few_vectors"


@pytest.mark.parametrize("modulus", [16, 24, 32, 64])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7])
def test_lengths_around_a_chunk_in_every_ring(world, size, modulus):
    w = world(3, size=size, chunk=3, modulus=modulus, bits=12).run()
    w.assert_exact()


def test_a_masked_vector_is_not_the_vector(world):
    w = world(3, size=1000, chunk=1000).run()
    for name, spool in w.spools.items():
        assert np.count_nonzero(spool.chunks[0] == w.vectors[name]) < 5


def test_messages_twice_give_the_same_answers_and_one_contribution(world):
    w = world(4)
    answers = []
    inner = w.tell

    def twice(client, message):
        inner(client, message)
        if w.clients[client].phase != "stopped":
            first = w.clients[client].receive(msg.encode(message))
            again = w.clients[client].receive(msg.encode(message))
            assert first == again
            answers.append(first)
            w.client_does(client, again)

    w.tell = twice
    w.run().assert_exact()
    assert w.summed.survivors == w.ids
    assert len(answers) > 20
    assert not w.rejected


def test_late_and_early_messages_change_nothing(world):
    w = world(3)
    client = w.client("c000")
    assert client.receive(msg.Deliveries(())) == ()
    assert client.receive(msg.Consents(())) == ()
    assert client.phase == "waiting"
    w.run().assert_exact()
    advert = next(raw for way, who, raw in w.log if way == "<")
    assert w.server.receive(w.event("c000", msg.decode(advert))) == ()


def test_a_new_attempt_after_an_abort(world):
    w = world(3).drop({"c001": 2}).run()
    assert w.abandoned
    w.drop({}).begin(attempt=2)
    w.run().assert_exact()
    assert w.counted == set(w.ids)


def test_the_weight_of_the_sum_stands_in_the_result(world):
    w = world(3, size=5)
    encoding = replace(w.encoding, weight_at=4)
    w.encoding, w.expected = encoding, replace(w.expected, encoding=encoding)
    w.context = replace(w.context, encoding=encoding)
    w.begin()
    w.run()
    assert w.summed.result.weight == int(w.total(w.ids)[4])


def test_the_server_goes_on_from_its_log(world):
    """The same events give a new server machine the same state and the same sum."""
    w = world(4).drop({"c003": 2})
    events, receive = [], w.server.receive

    def noted(event):
        events.append(event)
        return receive(event)

    w.server.receive = noted
    w.run()
    first = w.summed
    w.begin()
    commands = [c for event in events for c in w.server.receive(event)]
    again = next(c for c in commands if type(c) is type(first))
    assert again.result == first.result
    np.testing.assert_array_equal(again.total, first.total)
