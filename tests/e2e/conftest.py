"""Processes that tests may kill, stop and start again."""

import json
import os
import signal
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

    def start(self, name, arguments, *, folder, **environment):
        """Start `choral ARGUMENTS` in a folder; its log is NAME.log there."""
        wish = {
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
