"""One-hot contributions: whatever gets lost, repeated or delayed, each client counts once.

Client i contributes 1 at coordinate i. The sum then shows how often each client is in it.
"""

import numpy as np
import pytest

from choral.core.exact import Encoding, ExactSum, encode
from choral.core.keys import Key
from choral.core.params import Params, Spec
from choral.core.update import Update
from choral.federation import events as ev
from choral.federation.policy import RoundPolicy
from choral.federation.round import RoundMachine

N = 12
SPEC = Spec.of(Params({"w": np.zeros(N, np.float32)}))
ENCODING = Encoding(range=2, weight_unit=1, weight_cap=1)
CLIENTS = tuple(f"c{i:02d}" for i in range(N))


def one_hot(i):
    delta = np.zeros(N, np.float32)
    delta[i] = 1
    return encode(Update(delta, 1.0), SPEC, ENCODING, Key.root(i))


CONTRIBUTIONS = {client: one_hot(i) for i, client in enumerate(CLIENTS)}


def network(rng):
    """Return deliveries in a random order: some lost, some repeated, a deadline, a restart."""
    deliveries = [ev.UpdateReceived(1, 1, c) for c in CLIENTS if rng.random() > 0.2]
    deliveries += [d for d in deliveries if rng.random() < 0.5]
    deliveries += [ev.ClientFailed(1, 1, c, "lost", "") for c in CLIENTS if rng.random() < 0.2]
    deliveries += [ev.UpdateReceived(1, 2, CLIENTS[0]), ev.UpdateReceived(1, 1, "stranger")]
    order = [deliveries[i] for i in rng.permutation(len(deliveries))]
    return [*order, ev.TimerFired(1, 1, "deadline"), *order]


@pytest.mark.parametrize("block", range(10))
def test_each_completed_client_is_counted_once_in_1000_orders(block):
    committed = 0
    for seed in range(100 * block, 100 * block + 100):
        rng = np.random.default_rng(seed)
        goal = int(rng.integers(3, N + 1))
        machine = RoundMachine(1, 1, policy=RoundPolicy(clients=goal, quorum=3))
        total, survivors = ExactSum(SPEC.vector_size, ENCODING), None
        for event in [ev.CohortChosen(1, 1, CLIENTS), *network(rng)]:
            for command in machine.receive(event):
                if isinstance(command, ev.Accumulate):
                    total.add(CONTRIBUTIONS[command.client])
                if isinstance(command, ev.CloseSum):
                    survivors = command.survivors
        if survivors is None:
            continue
        committed += 1
        expected = np.array([float(c in survivors) for c in CLIENTS])
        decoded = total.total()
        assert total.count == len(survivors) == len(set(survivors)) >= 3
        np.testing.assert_array_equal(np.round(decoded.mean * decoded.count, 4), expected)
    assert committed > 50
