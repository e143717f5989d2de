"""Processes that tests may kill, stop and start again."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

NURSERY = Path(__file__).with_name("nursery.py")


class Child:
    """A `choral` process.

    Attributes:
        pid: Its id.
        since: When it was asked for, on `time.monotonic`.
        code: How it ended: an exit code, or minus a signal; None while it lives.
    """

    def __init__(self, name):
        self.name, self.since = name, time.monotonic()
        self.pid = self.code = None
        self.begun, self.ended = threading.Event(), threading.Event()

    def wait(self, timeout_s=None):
        """Return its exit code, None where it lives on."""
        self.ended.wait(timeout_s)
        return self.code

    def send(self, number):
        """Send it a signal, if it lives."""
        if self.code is None:
            os.kill(self.pid, number)

    def kill(self):
        """End it and what it has started."""
        if self.code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait(10)


class Nursery:
    """Starts `choral` processes quickly; see `nursery.py`."""

    def __init__(self):
        self._children = {}
        self._asked = []
        self._lock = threading.Lock()
        self._program = subprocess.Popen(
            [sys.executable, NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=clean() | {"OPENBLAS_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"},
        )  # fmt: skip
        assert json.loads(self._program.stdout.readline()) == {"ready": True}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._program.stdout:
            said = json.loads(line)
            if "begun" in said:
                child = self._asked.pop(0)
                child.pid = said["begun"]
                self._children[child.pid] = child
                child.begun.set()
            else:
                child = self._children.pop(said["ended"])
                child.code = said["code"]
                child.ended.set()

    def start(self, name, arguments, *, folder, afresh=False, **environment):
        """Start `choral ARGUMENTS` in a folder; its log is NAME.log there."""
        wish = {
            "afresh": afresh,
            "name": name, "arguments": list(arguments), "folder": str(folder),
            "log": str(folder / f"{name}.log"), "environment": clean() | environment,
        }  # fmt: skip
        child = Child(name)
        with self._lock:
            self._asked.append(child)
            self._program.stdin.write(json.dumps(wish).encode() + b"\n")
            self._program.stdin.flush()
        assert child.begun.wait(60), "the nursery does not answer"
        return child

    def close(self):
        """End it, and what still runs."""
        self._program.stdin.close()
        self._program.wait(30)


def clean():
    """Return the environment without what it says to `choral`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CHORAL_")}


@pytest.fixture(scope="session")
def nursery():
    """Return what starts `choral` processes quickly."""
    made = Nursery()
    yield made
    made.close()


# --- a small federation ---------------------------------------------------------------------------

CLIENTS = ("a", "b", "c", "d")
TASK = '''
import threading

import choral
import numpy as np
from choral.core.update import Update

NAMES = NAMES_


class OneHot:
    """A client's update counts that client once: the model says who was in how many rounds."""

    def init(self, key):
        return {"w": np.zeros(len(NAMES), np.float32)}

    def train(self, params, data, plan, key):
        threading.Event().wait(PAUSE_S)  # libfaketime has no `time.sleep`
        return Update(np.eye(len(NAMES), dtype=np.float32)[data[0]], 1.0, {"train_loss": 0.5})

    def evaluate(self, params, data):
        whole = {"sum": float(np.sum(params["w"], dtype=np.float64))}
        return whole | {f"w{i}": float(params["w"][i]) for i in range(4)}


task = OneHot()


def data(client):
    return choral.ClientData([NAMES.index(client)], [NAMES.index(client)])
'''


def write_task(folder, *, names=CLIENTS, pause_s=0.0):
    """Write the task `onehot:task` and its data `onehot:data`."""
    text = TASK.replace("NAMES_", repr(tuple(names))).replace("PAUSE_S", str(pause_s))
    (folder / "onehot.py").write_text(text)


@pytest.fixture(scope="session")
def onehot():
    """Return what writes a task with which a model tells who was in how many rounds."""
    return write_task


class Site:
    """A coordinator and its clients as processes that share a folder.

    Attributes:
        folder: Where they work.
        address: Of the coordinator.
        running: Each process by its name.
    """

    def __init__(self, folder, nursery):
        self.folder, self.address = folder, free_address()
        self.running = {}
        self._nursery = nursery

    def write(self, *, pause_s=0.0, **keys):
        """Write the federation file and the task."""
        file = {
            "name": "faults", "task": "onehot:task", "rounds": 4, "clients_per_round": 4,
            "aggregation": "plain", "seed": 1, "start": {"wait_s": 60},
            "round": {"quorum": 4, "deadline_s": 60, "backoff_s": 0.1},
            "evaluation": {"clients": True, "every": 0}, "storage": {"path": "runs"},
        }  # fmt: skip
        write_task(self.folder, pause_s=pause_s)
        (self.folder / "file.yaml").write_text(json.dumps(file | keys))

    def coordinator(self, *flags, **environment):
        """Start the coordinator, or start it again."""
        self.running["coordinator"] = self._nursery.start(
            "coordinator",
            ["coordinator", "--config", "file.yaml", "--listen", self.address, "--json",
             *(flags or ["--insecure"])],
            folder=self.folder, **environment,
        )  # fmt: skip
        return self.running["coordinator"]

    def client(self, name, *flags, to=None, **environment):
        """Start a client, or start it again; its line of log is JSON."""
        self.running[name] = self._nursery.start(
            name,
            ["client", "--id", name, "--coordinator", to or self.address, "--data", "onehot:data",
             "--state", f"state-{name}", "--json", *(flags or ["--insecure"])],
            folder=self.folder, **environment,
        )  # fmt: skip
        return self.running[name]

    def clients(self, names=CLIENTS):
        """Start clients."""
        for name in names:
            self.client(name)

    def log(self, name="coordinator"):
        """Return the lines that a process has logged."""
        path = self.folder / f"{name}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def said(self, words, name="coordinator"):
        """Return how many lines of a log hold some words."""
        return sum(words in line.get("message", "") for line in self.log(name))

    def committed(self):
        """Return how many rounds are committed."""
        return sum(line.get("event") == "committed" for line in self.log())

    def until(self, true, timeout_s=60):
        """Wait until something is true."""
        ends = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < ends, self.log()[-12:]
            time.sleep(0.02)

    def ended(self, timeout_s=90):
        """Return how the coordinator ended."""
        code = self.running["coordinator"].wait(timeout_s)
        assert code is not None, self.log()[-12:]
        return code

    def result(self):
        """Return what the run has come to."""
        return json.loads(next((self.folder / "runs").glob("faults-*/result.json")).read_text())

    def close(self):
        """Kill what still runs."""
        for child in self.running.values():
            child.kill()


def free_address():
    """Return an address on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture
def site(tmp_path, nursery):
    """Return a federation of processes, which end with the test."""
    made = Site(tmp_path, nursery)
    yield made
    made.close()
