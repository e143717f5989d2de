"""The coordinator is killed at every step of its privacy ledger, which never under-counts.

Noise differs from run to run, so a model says nothing here; the ledger and the run's log do. What
was released is spent, once for each attempt that was committed, and what a kill left open counts.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from choral.core.failpoints import LEDGER_FAILPOINTS
from choral.privacy.ledger import PrivacyLedger
from choral.stores.ledgers import LEDGER, ledger_store

pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
    pytest.mark.nightly,
]

CLIENTS = ("a", "b", "c", "d")
ROUNDS = 3
TASK = """
from pathlib import Path

import choral
import numpy as np
from choral.core.update import Update

MARKER = Path("fails-once")


class Constant:
    def init(self, key):
        return {"w": np.zeros(64, np.float32)}

    def train(self, params, data, plan, key):
        if data[0] == "a" and MARKER.exists():
            MARKER.unlink()
            raise ValueError("for once")
        return Update(np.full(64, 0.01, np.float32), 1.0, {})

    def evaluate(self, params, data):
        return {"w0": float(params["w"][0])}


task = Constant()


def data(client):
    return choral.ClientData([client], [client])
"""
FILE = """
name: crash
task: constant:task
rounds: {rounds}
clients_per_round: 4
aggregation: {aggregation}
privacy:
  noise_multiplier: 2.0
  max_norm: 1.0
  budget: {{epsilon: {epsilon}, population: people}}
round: {{quorum: 4, deadline_s: 60, backoff_s: 0.1, step_s: 30, retries: 8}}
start: {{wait_s: 60}}
evaluation: {{clients: false}}
storage: {{path: runs}}
seed: 1
"""


class Process:
    """A `choral` process that is started again when it was killed by its failpoint."""

    def __init__(self, folder, name, arguments, failpoint=None):
        self.folder, self.name, self.arguments = folder, name, arguments
        self.failpoint, self.kills, self.code, self.process = failpoint, 0, None, None
        self.over = False
        self.thread = threading.Thread(target=self._supervise, daemon=True)
        self.thread.start()

    def _supervise(self):
        while not self.over:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("CHORAL_")}
            if self.failpoint and not self.kills:
                environment["CHORAL_FAILPOINT"] = self.failpoint
            with (self.folder / f"{self.name}.log").open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "choral", *self.arguments],
                    cwd=self.folder, env=environment, stdout=log, stderr=log,
                )  # fmt: skip
                self.code = self.process.wait()
            if self.code != -signal.SIGKILL or self.over:
                return
            self.kills += 1

    def ended(self, timeout_s):
        self.thread.join(timeout_s)
        return self.code if not self.thread.is_alive() else None

    def stop(self):
        self.over = True
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        self.thread.join(10)


@pytest.fixture
def federation(tmp_path):
    """Return what runs a federation; what still runs at its end is killed."""
    started = []

    def run(aggregation, *, failpoint=None, epsilon=1000, rounds=ROUNDS):
        (tmp_path / "constant.py").write_text(TASK)
        terms = {"aggregation": aggregation, "epsilon": epsilon, "rounds": rounds}
        (tmp_path / "file.yaml").write_text(FILE.format(**terms))
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{found.getsockname()[1]}"
        words = ["coordinator", "--config", "file.yaml", "--listen", address]
        started.append(
            Process(tmp_path, "coordinator", [*words, "--insecure", "--json"], failpoint)
        )
        for name in CLIENTS:
            flags = ["--id", name, "--coordinator", address, "--data", "constant:data"]
            words = ["client", *flags, "--state", f"state-{name}", "--insecure"]
            started.append(Process(tmp_path, name, words))
        code = started[0].ended(180)
        for process in started:
            process.stop()
        log = (tmp_path / "coordinator.log").read_text()[-6000:]
        return code, started, log

    yield run
    for process in started:
        process.stop()


def result_of(folder):
    return json.loads(next((folder / "runs").glob("crash-*/result.json")).read_text())


def cases():
    """Every kill that a run of three rounds reaches, in the first round and in a later one."""
    for name in LEDGER_FAILPOINTS:
        if name.startswith("ledger.voided"):
            continue  # below: nothing is given back where all goes well
        for count in ("", ":2") if name.startswith(("ledger.res", "ledger.sp")) else ("",):
            for aggregation in ("plain", "secure"):
                yield pytest.param(name + count, aggregation, id=f"{name}{count}-{aggregation}")


@pytest.mark.parametrize(("point", "aggregation"), list(cases()))
def test_a_kill_never_under_counts(point, aggregation, federation, tmp_path):
    code, (coordinator, *_), log = federation(aggregation, failpoint=point)
    assert code == 0, log
    assert coordinator.kills == 1
    result = result_of(tmp_path)
    assert [r["round"] for r in result["rounds"]] == list(range(1, ROUNDS + 1))
    ledger = PrivacyLedger(ledger_store(tmp_path / "runs" / LEDGER), "people")
    ledger.verify()
    run = result["run_id"]
    for row in result["rounds"]:
        held = ledger.reservation(run, round=row["round"], attempt=row["attempt"])
        assert held.state == "spent"
    standing = ledger.standing()
    assert standing.spent >= ROUNDS
    assert standing.spent + standing.reserved <= ROUNDS + 1, "one kill costs one attempt at most"
    assert result["privacy"]["ledger"]["entries"] == ledger.head().length
    assert subprocess.run(
        [sys.executable, "-m", "choral", "ledger", "verify", "--storage", "runs"],
        cwd=tmp_path, check=False, timeout=60,
    ).returncode == 0  # fmt: skip


@pytest.mark.parametrize(("when", "reserved", "voided"), [("made", 1, 0), ("stored", 0, 1)])
def test_a_kill_while_an_attempt_is_given_back(when, reserved, voided, federation, tmp_path):
    """It counts where the ledger does not say yet that nothing was released."""
    (tmp_path / "fails-once").touch()
    code, (coordinator, *_), log = federation("plain", failpoint=f"ledger.voided.{when}")
    assert code == 0, log
    assert coordinator.kills == 1
    standing = PrivacyLedger(ledger_store(tmp_path / "runs" / LEDGER), "people").standing()
    assert (standing.spent, standing.reserved, standing.voided) == (ROUNDS, reserved, voided)


def test_a_round_that_would_pass_the_budget_ends_a_coordinator_with_exit_code_3(
    federation, tmp_path
):
    code, _, log = federation("plain", epsilon=4.0, rounds=9)
    assert code == 3, log
    assert "has used epsilon" in log
    ledger = PrivacyLedger(ledger_store(tmp_path / "runs" / LEDGER), "people")
    assert 0 < ledger.standing().spent < 9
    assert ledger.standing().epsilon.value <= 4.0
