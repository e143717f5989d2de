"""What a client's own code does wrong stays with that client."""

import sys

import numpy as np
import pytest

import choral
from choral.core.update import Update


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


FAULTS = {
    "exit": lambda: sys.exit(0),
    "mute": lambda: (_ for _ in ()).throw(Mute),
    "surrogate": lambda: (_ for _ in ()).throw(ValueError("\udcff")),
    "metric": lambda: Update(np.zeros(3, np.float32), 1.0, {1: 1.0}),
    "metric surrogate": lambda: Update(np.zeros(3, np.float32), 1.0, {"\udcff": 1.0}),
    "kept": lambda: Update(np.zeros(3, np.float32), 1.0, {}, {"x": object()}),
    "kept other": lambda: Update(
        np.zeros(3, np.float32), 1.0, {}, choral.Params({"zz": np.zeros(3, np.float32)})
    ),
}


class Faulty:
    def init(self, key):
        return {"w": np.zeros(3, np.float32)}

    def train(self, params, data, plan, key):
        return FAULTS[data[0]]() if data[0] in FAULTS else Update(np.ones(3, np.float32), 1.0)

    def evaluate(self, params, data):
        return {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_one_client(fault, tmp_path):
    clients = {c: choral.ClientData(["ok"]) for c in "abcd"} | {"e": choral.ClientData([fault])}
    result = choral.simulate(Faulty(), clients=clients, rounds=1, seed=1, out=tmp_path / "a")
    assert [f["client"] for f in result.failures] == ["e"]
    assert result.rounds[0]["completed"] == 4
