"""Fashion-MNIST with noise at 1 000 clients, beside the same noise at a trusted coordinator."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import choral
from choral.core.keys import Key
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.privacy import distributed
from choral.privacy.distributed import rounded_norm
from choral.privacy.rotation import rotate
from choral.system import SystemRand
from choral.tasks.numpy import LinearTask

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]

CLIENTS, COHORT, ROUNDS = 1000, 100, 12
CLIP = 1.0
EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist" / "fashion_data.py"


@pytest.fixture(scope="module")
def fashion():
    """Return 1 000 clients with 60 images each, and the test set."""
    spec = importlib.util.spec_from_file_location("fashion_data", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    if not example.FOLDER.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    train, held_out = (pooled(*example._read(part)) for part in ("train", "t10k"))
    return choral.data.iid(train, clients=CLIENTS, seed=0, test_fraction=0), held_out


def pooled(images, labels):
    """Return images of 14 x 14: noise grows with the parameters, and a cohort of 100 is small."""
    return images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(images), -1), labels


def learn(fashion, **changes):
    clients, held_out = fashion
    return choral.simulate(
        LinearTask("logistic", input_dim=196, classes=10),
        clients=clients,
        rounds=ROUNDS,
        clients_per_round=COHORT,
        selection="uniform",
        local={"epochs": 1, "batch_size": 20, "lr": 0.2},
        evaluate=held_out,
        evaluate_every=0,
        evaluate_clients=False,
        seed=5,
        **changes,
    )


def test_noise_at_the_clients_costs_no_more_accuracy_than_at_the_coordinator(fashion):
    """Both have the noise of a whole cohort: that of the clients is made for fewer survivors."""
    wish = {
        "mode": "distributed", "relation": "zero_out", "noise_multiplier": 1.5, "max_norm": CLIP
    }  # fmt: skip
    apart = learn(
        fashion,
        aggregation={"secure": {"suite": "semi_honest"}},
        round_policy={"quorum": 95},
        privacy=wish,
    )
    assert [r["completed"] for r in apart.rounds] == [COHORT] * ROUNDS
    terms = apart.protection
    variance = COHORT * terms.variance / (terms.survivors - terms.corrupt) / terms.scale**2
    central = {
        "mode": "central", "noise_multiplier": float(np.sqrt(variance)) / CLIP, "max_norm": CLIP
    }  # fmt: skip
    runs = (apart, learn(fashion, privacy=central), learn(fashion))
    found = [result.metrics["accuracy"] for result in runs]
    print("distributed {:.4f}, central {:.4f}, without noise {:.4f}".format(*found))
    assert found[0] > 0.7
    assert abs(found[0] - found[1]) <= 0.02  # another seed moves either by 0.0034, one deviation


def test_the_decoded_noise_is_that_of_the_terms_and_on_the_grid():
    """200 sums of 100 clients, as the masks leave them: exact, so they are added in the clear."""
    size, rounds = 1 << 13, 200
    people = distributed.NoisedSum(
        bound=CLIP, dimension=size, cohort=COHORT, survivors=80, corrupt=10, ring_bits=32
    )
    terms = distributed.plan(people, multiplier=0.5, delta=1e-5, rounds=ROUNDS)
    ring, rand = Ring(32), SystemRand()
    updates = Key.root(3).rng().standard_normal((COHORT, size)).astype(np.float32)
    updates *= np.float32(0.99 * CLIP) / np.linalg.norm(updates, axis=1, keepdims=True)
    truth = updates.astype(np.float64).sum(axis=0)
    square, mean = 0.0, 0.0
    for number in range(rounds):
        rotation, total, exact = Key.root(number), ring.zeros(size), np.zeros(size, np.int64)
        for client in range(COHORT):
            sent = distributed.encode(
                updates[client],
                terms,
                rotation=rotation,
                rounding=Key.root(number).fold(client),
                seed=Secret.random(rand),
            )
            total += sent
            exact += ring.centred(sent).astype(np.int64)
        assert np.array_equal(ring.centred(total).astype(np.int64), exact), "the sum wrapped around"
        found = distributed.decode(total, terms, rotation=rotation, survivors=COHORT)
        on_grid = rotate(found, rotation) * terms.scale
        assert np.abs(on_grid - np.rint(on_grid)).max() < 1e-5
        noise = (found - truth) * terms.scale
        square += float(np.dot(noise, noise))
        mean += float(noise.sum())
    count = rounds * size
    variance = square / count
    theory = COHORT * (terms.client_variance + 1 / 6)  # a sixth: rounding of an even fraction
    print(f"variance {variance:.6g}, by the terms {theory:.6g}, ratio {variance / theory:.5f}")
    assert abs(variance / theory - 1) < 0.02
    assert abs(mean / count) < 5 * (theory / count) ** 0.5
    assert rounded_norm(terms.scale * CLIP, size) < 1.02 * terms.scale * CLIP
