"""Two coordinators on one PostgreSQL have one budget, and one release for each round."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from choral.privacy.ledger import PrivacyLedger
from choral.stores.database import open_database

pytestmark = [
    pytest.mark.xdist_group("postgres"),
    pytest.mark.timeout(400),
    pytest.mark.nightly,
]

CLIENTS = ("a", "b", "c", "d")
ROUNDS = 4
TASK = """
import time

import choral
import numpy as np
from choral.core.update import Update


class Constant:
    def init(self, key):
        return {"w": np.zeros(64, np.float32)}

    def train(self, params, data, plan, key):
        time.sleep(1.0)
        return Update(np.full(64, 0.01, np.float32), 1.0, {})

    def evaluate(self, params, data):
        return {"w0": float(params["w"][0])}


task = Constant()


def data(client):
    return choral.ClientData([1], [1])
"""
FILE = f"""
name: relay
task: constant:task
rounds: {ROUNDS}
clients_per_round: 4
privacy:
  noise_multiplier: 2.0
  max_norm: 1.0
  budget: {{epsilon: 1000, population: people}}
round: {{quorum: 4, deadline_s: 120, backoff_s: 0.1, step_s: 30, retries: 8}}
start: {{wait_s: 60}}
evaluation: {{clients: false}}
storage: {{path: runs}}
seed: 1
"""


@pytest.fixture
def start(tmp_path, postgres_url):
    """Return what starts a `choral` process; all are killed at the end."""
    (tmp_path / "constant.py").write_text(TASK)
    (tmp_path / "file.yaml").write_text(FILE)
    running = []

    def begin(name, *words):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHORAL_")}
        with (tmp_path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "choral", *words],
                cwd=tmp_path, stdout=log, stderr=log,
                env=environment | {"CHORAL_DATABASE": postgres_url},
            )  # fmt: skip
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(10)


def address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_a_coordinator_that_takes_over_spends_the_same_budget(start, tmp_path, postgres_url):
    """The first one is stopped without a word in the middle of a round, and wakes up later."""

    def lines(name):
        text = (tmp_path / f"{name}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def until(true):
        ends = time.monotonic() + 120
        while not true():
            assert time.monotonic() < ends, {n: lines(n)[-5:] for n in ("left", "right")}
            time.sleep(0.05)

    def committed(name):
        return sum(1 for line in lines(name) if line.get("event") == "committed")

    where = {"left": address(), "right": address()}

    def coordinator(name):
        flags = ["--config", "file.yaml", "--listen", where[name], "--insecure", "--json"]
        return start(name, "coordinator", *flags)

    left = coordinator("left")
    until(lambda: lines("left"))
    right = coordinator("right")
    for name in CLIENTS:
        flags = ["--id", name, "--coordinator", ",".join(where.values()), "--insecure"]
        flags += ["--data", "constant:data", "--state", f"state-{name}", "--until-done"]
        start(name, "client", *flags)
    until(lambda: committed("left") >= 1)
    left.send_signal(signal.SIGSTOP)
    until(lambda: committed("right") >= 1)
    left.send_signal(signal.SIGCONT)  # it believes that it leads
    assert right.wait(120) == 0, lines("right")[-5:]
    assert left.wait(60) == 0, lines("left")[-5:]
    assert not (tmp_path / "runs" / "ledger.db").exists()
    (path,) = (tmp_path / "runs").glob("relay-*/result.json")
    result = json.loads(path.read_text())
    assert [r["round"] for r in result["rounds"]] == list(range(1, ROUNDS + 1))
    ledger = PrivacyLedger(open_database(postgres_url), "people")
    ledger.verify()
    for row in result["rounds"]:
        at = {"round": row["round"], "attempt": row["attempt"]}
        assert ledger.reservation(result["run_id"], **at).state == "spent"
    standing = ledger.standing()
    assert ROUNDS <= standing.spent + standing.reserved <= ROUNDS + 2
    shown = subprocess.run(
        [sys.executable, "-m", "choral", "ledger", "verify", "--database", postgres_url],
        cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "people" in shown.stdout
