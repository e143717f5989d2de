"""The benches run, and what the framework costs stays small."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

import choral
from choral.core.update import Update


def test_bench_simulate_reports_ratios(tmp_path):
    pytest.importorskip("torch")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "choral", "bench", "simulate", "--json"),
            *("--clients", "20", "--per-round", "5", "--rounds", "2", "--repeat", "2"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=True,
    )
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert report["name"] == "simulate"
    assert {"workload", "ours", "floor", "unit", "ratio"} <= set(row)
    assert row["ratio"] > 0
    assert row["repeat"] == 2


def secagg(tmp_path, *options):
    words = ["--clients", "6", "--params", "3000", "--dropout", "0.2"]
    return subprocess.run(
        [sys.executable, "-m", "choral", "bench", "secagg", *words, *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=True,
    )


def test_bench_secagg_reports_ratios(tmp_path):
    report = json.loads(secagg(tmp_path, "--json").stdout)
    assert report["name"] == "secagg"
    assert report["workload"]["exact"] is True
    for row in report["rows"]:
        assert {"workload", "ours", "floor", "unit", "ratio"} <= set(row)
    ratios = {row["workload"]: row["ratio"] for row in report["rows"]}
    assert ratios["client, CPU"] > 0
    assert ratios["server, CPU"] > 0


def test_bench_secagg_shows_tables_and_says_how_far_it_is(tmp_path):
    done = secagg(tmp_path, "--suite", "semi_honest")
    assert "suite semi_honest" in done.stdout
    assert "is exact" in done.stdout
    assert "R2 vector" in done.stdout
    assert "taking the masks off" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (("aggregate",), "not built"),
        (("simulat",), "simulate"),
        (("secagg", "--rounds", "2"), "no --rounds"),
        (("simulate", "--params", "2"), "no --params"),
        (("secagg", "--suite", "ful"), "semi_honest"),
        (("secagg", "--clients", "3", "--dropout", "0.4"), "lost"),
    ],
)
def test_wrong_words_are_named(tmp_path, name, words):
    done = subprocess.run(
        [sys.executable, "-m", "choral", "bench", *name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr


class Nothing:
    """A task that does nothing, so that all time is the framework's."""

    def init(self, key):
        return {"w": np.zeros(4, np.float32)}

    def train(self, params, data, plan, key):
        return Update(np.zeros(4, np.float32), 1.0)

    def evaluate(self, params, data):
        return {}


class Million:
    """A population that costs nothing."""

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        return choral.ClientData(["nothing"])


@pytest.mark.nightly
def test_a_client_of_a_million_costs_little():
    def seconds(rounds):
        started = time.perf_counter()
        choral.simulate(
            Nothing(),
            clients=Million(),
            rounds=rounds,
            clients_per_round=1000,
            evaluate_clients=False,
            seed=1,
        )
        return time.perf_counter() - started

    seconds(1)
    per_client = (seconds(21) - seconds(1)) / 20_000
    assert per_client < 200e-6
