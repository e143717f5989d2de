"""FLamby's heart benchmark with record-level privacy: mean over five seeds, pooled test set.

Usage: record_privacy.py EPSILON DELTA. Each hospital finds its own noise by its number of patients.
"""

from __future__ import annotations

import sys
from statistics import mean

import heart_data
from heart_task import task

import choral

ROUNDS = 15


def accuracy(*, epsilon: float, delta: float, seed: int) -> float:
    """Return the accuracy on the pooled test set after all rounds."""
    record = {"max_grad_norm": 1.1, "epsilon": epsilon, "delta": delta, "rounds": ROUNDS}
    result = choral.simulate(
        task,
        clients=heart_data.hospitals(),
        rounds=ROUNDS,
        local={"steps": 100, "batch_size": 4, "lr": 0.001, "record": record},
        evaluate=heart_data.pooled_test(),
        evaluate_every=0,
        evaluate_clients=False,
        seed=seed,
    )
    return float(result.metrics["accuracy"])


def mean_accuracy(*, epsilon: float, delta: float) -> float:
    """Return the mean over the seeds 42 to 46."""
    found = [accuracy(epsilon=epsilon, delta=delta, seed=seed) for seed in range(42, 47)]
    return mean(found)


if __name__ == "__main__":
    found = mean_accuracy(epsilon=float(sys.argv[1]), delta=float(sys.argv[2]))
    sys.stdout.write(f"{found:.3f}\n")
