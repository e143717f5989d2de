"""The coordinator and its clients are killed at every named place, and nothing is lost.

Each client's update is one-hot, so the model counts how often each client is in it: every round
needs all of them, and the final model must be that of a run that nobody disturbed, bit for bit.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from choral.core.failpoints import FAILPOINTS

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]

CLIENTS = ("a", "b", "c", "d")
TASK = '''
import choral
import numpy as np
from choral.core.update import Update

NAMES = ("a", "b", "c", "d")


class OneHot:
    """A client's update counts that client once."""

    def init(self, key):
        return {"w": np.zeros(4, np.float32)}

    def train(self, params, data, plan, key):
        return Update(np.eye(4, dtype=np.float32)[data[0]], 1.0, {"train_loss": 0.5})

    def evaluate(self, params, data):
        return {"w0": float(params["w"][0])}


task = OneHot()


def data(client):
    return choral.ClientData([NAMES.index(client)], [NAMES.index(client)])
'''
FILE = """
name: crash
task: onehot:task
rounds: 3
clients_per_round: 4
aggregation: {aggregation}
round: {{quorum: 4, deadline_s: 60, backoff_s: 0.1, step_s: 4, retries: 8}}
start: {{wait_s: 60}}
evaluation: {{clients: true}}
storage: {{path: runs}}
seed: 1
"""
SECURE_ONLY = {"coordinator.said.taken", "coordinator.said.stored", "client.secure.heard",
               "client.secure.acted", "client.secure.masked"}  # fmt: skip
PLAIN_ONLY = {"client.trained", "client.sent"}
AT_START = {"coordinator.restored"}
"""Reached only by a coordinator that goes on; the matrix kills it twice."""
QUICK = ["coordinator.sealed.stored", "client.secure.acted:4"]


class Process:
    """A `choral` process that is started again when it was killed by its failpoint."""

    def __init__(self, folder, name, arguments, failpoints=()):
        self.folder, self.name, self.arguments = folder, name, arguments
        self.failpoints = list(failpoints)
        self.kills, self.started_at, self.code = 0, [], None
        self.process = None
        self.thread = threading.Thread(target=self._supervise, daemon=True)
        self._over = False
        self.thread.start()

    def _supervise(self):
        while not self._over:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("CHORAL_")}
            if self.kills < len(self.failpoints):
                environment["CHORAL_FAILPOINT"] = self.failpoints[self.kills]
            with (self.folder / f"{self.name}.log").open("ab") as log:
                self.started_at.append(time.monotonic())
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "choral", *self.arguments],
                    cwd=self.folder, env=environment, stdout=log, stderr=log,
                )  # fmt: skip
                self.code = self.process.wait()
            if self.code != -signal.SIGKILL or self._over:
                return
            self.kills += 1

    def ended(self, timeout_s):
        self.thread.join(timeout_s)
        return self.code if not self.thread.is_alive() else None

    def stop(self):
        self._over = True
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        self.thread.join(10)


@pytest.fixture
def federation(tmp_path):
    """Return what runs a federation with failpoints; what still runs at its end is killed."""
    started = []

    def run(aggregation, coordinator=(), client=(), where=None):
        folder = where or tmp_path
        folder.mkdir(exist_ok=True)
        (folder / "onehot.py").write_text(TASK)
        (folder / "file.yaml").write_text(FILE.format(aggregation=aggregation))
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{found.getsockname()[1]}"
        serving = Process(
            folder,
            "coordinator",
            ["coordinator", "--config", "file.yaml", "--listen", address, "--insecure", "--json"],
            coordinator,
        )
        started.append(serving)
        for name in CLIENTS:
            flags = ["--id", name, "--coordinator", address, "--data", "onehot:data"]
            flags += ["--state", f"state-{name}", "--insecure"]
            points = client if name == "a" else ()
            started.append(Process(folder, name, ["client", *flags], points))
        code = serving.ended(150)
        result = next((folder / "runs").glob("crash-*/result.json"), None)
        for process in started:
            process.stop()
        logs = (folder / "coordinator.log").read_text()[-6000:]
        assert code == 0, logs
        assert result is not None, logs
        return json.loads(result.read_text()), serving, started[1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def undisturbed():
    """The models of runs that nobody disturbed, by aggregation."""
    return {}


def check(result, aggregation, undisturbed, federation, folder):
    """Hold a run against one that nobody disturbed."""
    if aggregation not in undisturbed:
        undisturbed[aggregation] = federation(aggregation, where=folder / "undisturbed")[0]
    assert result["model_sha256"] == undisturbed[aggregation]["model_sha256"]
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3]
    assert [r["completed"] for r in result["rounds"]] == [4, 4, 4]
    assert result["metrics"]["w0"] == pytest.approx(0.75)


def cases():
    """Every failpoint under every aggregation that reaches it; the quick ones always run."""
    for name in FAILPOINTS:
        if name in AT_START:
            continue
        for aggregation in ("plain", "secure"):
            if name in (SECURE_ONLY if aggregation == "plain" else PLAIN_ONLY):
                continue
            reaches = ("", ":2", ":4") if "secure" in name or "said" in name else ("",)
            for reach in reaches:
                yield aggregation, name + reach


def marked():
    for aggregation, point in cases():
        quick = aggregation == "secure" and point in QUICK
        yield pytest.param(
            aggregation, point, marks=() if quick else pytest.mark.nightly,
            id=f"{point}-{aggregation}",
        )  # fmt: skip


@pytest.mark.parametrize(("aggregation", "point"), list(marked()))
def test_a_kill_changes_nothing(aggregation, point, federation, undisturbed, tmp_path):
    of_client = point.startswith("client.")
    result, coordinator, client = federation(
        aggregation,
        coordinator=() if of_client else (point,),
        client=(point,) if of_client else (),
    )
    assert (client if of_client else coordinator).kills == 1
    check(result, aggregation, undisturbed, federation, tmp_path)
