"""Losses on random graphs, every pattern for few clients; samples of patterns for more clients.

`test_rounds.py` has every pattern on the complete graph for up to five clients.
"""

import itertools

import numpy as np
import pytest

from choral.secagg import commands as cmd
from choral.secagg import context as context_module
from choral.secagg import messages as msg
from choral.secagg.parameters import Parameters, Suite, find
from choral.secagg.refusals import Reason

NEVER = 9
DROPOUT = 0.4


@pytest.fixture(autouse=True)
def _small_graphs(monkeypatch):
    """Let graphs through that are too small to be safe: here only their arithmetic counts."""
    monkeypatch.setattr(context_module, "verify", lambda parameters: None)
    monkeypatch.setattr(Parameters, "side_floor", 1)


def ring_of(n, *, k, t, suite=Suite.GRAPH):
    return Parameters(suite, n, k, t, 0.0, DROPOUT, 80)


def over(w):
    """Run to the end; a server that would wait at R4 for those that are lost gives up."""
    w.run()
    if w.summed is None and w.abandoned is None:
        w.server_does(w.server.receive(cmd.GiveUp()))
    assert (w.summed is None) is not (w.abandoned is None)
    return w


def play(world, n, pattern, **options):
    """Lose client i from step `pattern[i]` on; the sum is exact or there is none, and say which."""
    w = world(n, **options)
    over(w.drop(dict(zip(w.ids, pattern, strict=True))))
    if w.summed is None:
        assert not w.counted
        return None
    w.assert_exact()
    landed = tuple(name for name, step in zip(w.ids, pattern, strict=True) if step > 2)
    assert set(w.summed.survivors) <= set(landed)
    short = set(landed) - set(w.summed.survivors)
    assert short <= set(w.stopped), "a client that sent its vector is not in the sum"
    assert w.counted <= set(w.summed.survivors)
    return w


def must_sum(n, pattern, *, t, signed):
    """Return whether a complete graph reaches its sum, by counting."""
    counts = [sum(step > last for step in pattern) for last in range(5)]
    return all(count >= t for count in (counts if signed else [*counts[:3], counts[4]]))


def steps_of(suite):
    """Return when a client may be lost; `semi_honest` has no step 3."""
    return (0, 1, 2, 3, 4, NEVER) if suite is Suite.GRAPH else (0, 1, 2, 4, NEVER)


def play_on_a_ring(world, patterns, suite):
    """Play patterns where each client has two neighbours; return how many had a sum.

    Any two of the three holders give a secret back.
    """
    sums = 0
    for pattern in patterns:
        n = len(pattern)
        done = play(world, n, pattern, parameters=ring_of(n, k=2, t=2, suite=suite))
        sums += done is not None
        if set(pattern) == {NEVER}:
            assert done.summed.survivors == done.ids
    return sums


@pytest.mark.parametrize("suite", [Suite.GRAPH, Suite.SEMI_HONEST])
def test_every_pattern_of_up_to_two_losses_on_a_ring(world, suite):
    patterns = itertools.product(steps_of(suite), repeat=4)
    mild = [pattern for pattern in patterns if pattern.count(NEVER) >= 2]
    assert 2 < play_on_a_ring(world, mild, suite) < len(mild)


@pytest.mark.nightly
@pytest.mark.parametrize("suite", [Suite.GRAPH, Suite.SEMI_HONEST])
@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, NEVER])
def test_every_pattern_of_losses_on_a_ring(world, n, suite, first):
    steps = steps_of(suite)
    if first not in steps:
        return
    patterns = [(first, *rest) for rest in itertools.product(steps, repeat=n - 1)]
    assert 0 < play_on_a_ring(world, patterns, suite) < len(patterns)


def one_lost(n):
    return [(i, step) for i in range(n) for step in range(5)]


@pytest.mark.parametrize(("lost", "step"), one_lost(5))
def test_one_client_lost_at_any_step_costs_nothing_else(world, lost, step):
    pattern = [NEVER] * 5
    pattern[lost] = step
    done = play(world, 5, pattern)
    gone = {f"c{lost:03}"} if step < 3 else set()
    assert set(done.summed.survivors) == set(done.ids) - gone


CASES = 60
NIGHTLY = 3000


def draw(number):
    """Return a cohort of 6 to 12 and a pattern, more often mild than not."""
    rng = np.random.default_rng([number, 12])
    n = int(rng.integers(6, 13))
    share = rng.choice([0.1, 0.2, 0.3, 0.5])
    pattern = [int(rng.integers(5)) if rng.random() < share else NEVER for _ in range(n)]
    kind = ("full", "semi_honest", "graph", "semi_honest graph")[int(rng.integers(4))]
    k = int(rng.choice(range(4, n - 1, 2))) if n > 5 else 2
    t = int(rng.integers(k // 2 + 1, k))
    return n, pattern, kind, (k, t)


def check_case(world, number):
    n, pattern, kind, (k, t) = draw(number)
    if kind in {"full", "semi_honest"}:
        p = find(n, semi_honest=kind == "semi_honest", dropout=0)
        if kind == "semi_honest":
            pattern = [step if step != 3 else 4 for step in pattern]
        done = play(world, n, pattern, parameters=p)
        assert (done is not None) is must_sum(n, pattern, t=p.t, signed=kind == "full")
        if done is not None:
            assert len(done.summed.survivors) == sum(step > 2 for step in pattern)
    else:
        suite = Suite.GRAPH if kind == "graph" else Suite.SEMI_HONEST
        done = play(world, n, pattern, parameters=ring_of(n, k=k, t=t, suite=suite))
    return done is not None


def check_cases(world, numbers):
    sums = 0
    for number in numbers:
        try:
            sums += check_case(world, number)
        except BaseException as error:
            error.add_note(f"case {number}: {draw(number)}")
            raise
    return sums


@pytest.mark.parametrize("first", range(0, CASES, 20))
def test_samples_of_losses_beyond_five(world, first):
    assert 0 < check_cases(world, range(first, first + 20)) < 20


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(CASES, CASES + NIGHTLY, 250))
def test_many_samples_of_losses_beyond_five(world, first):
    assert 0 < check_cases(world, range(first, first + 250)) < 250


def whole_neighbourhood(world, parameters):
    """Run once without losses; return a client and its closed neighbourhood in that graph."""
    w = world(parameters.clients, parameters=parameters).run()
    w.assert_exact()
    return w, w.ids[0], w.server._cohort.closed(w.ids[0])


@pytest.mark.parametrize("suite", [Suite.GRAPH, Suite.SEMI_HONEST])
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("step", [2, 4])
def test_edges_of_the_threshold_within_a_neighbourhood(world, suite, extra, step):
    """t - 1, t and t + 1 holders of one client's shares stay; the cohort is far above t."""
    parameters = ring_of(12, k=6, t=4, suite=suite)
    whole, centre, closed = whole_neighbourhood(world, parameters)
    lost = [name for name in closed if name != centre][: 7 - (4 + extra)]
    w = over(world(12, parameters=parameters).drop(dict.fromkeys(lost, step)))
    assert w.server._cohort.h1 == whole.server._cohort.h1
    if extra < 0:
        assert w.summed is None
    if w.summed is not None:
        w.assert_exact()
        return
    # The centre, or somebody whose neighbourhood overlaps with its own, has too few around it.
    closed_of, gone = w.server._cohort.closed, set(lost)
    one_sided = Reason.ONE_SIDED in {breach.reason for breach in w.stopped.values()}
    assert one_sided or any(len(set(closed_of(name)) - gone) < 4 for name in w.ids)


def test_losses_alone_blame_nobody(world):
    """Nobody accused anybody: the neighbourhood of some dealers fell below t, no more."""
    parameters = ring_of(7, k=2, t=3, suite=Suite.SEMI_HONEST)
    w = over(world(7, parameters=parameters).drop({"c000": 2}))
    assert w.abandoned.blamed == ()


def test_the_pattern_of_nobody_left(world):
    for step, kind in enumerate((msg.Advertise, msg.Bundle, msg.Masked, msg.Consent, msg.Unmask)):
        w = over(world(4).drop(dict.fromkeys([f"c{i:03}" for i in range(4)], step)))
        assert w.summed is None, kind
