"""Clients that are killed again and again: rounds commit, clients come back, memory stays flat.

A client's update is one-hot and every round is a mean, so the elements of the model sum to the
number of rounds: whoever were lost or counted twice would show.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(3600),
]

FILE = """
name: churn
task: onehot:task
rounds: {rounds}
clients_per_round: {count}
aggregation: {aggregation}
strategy: {{name: fedavg, weighting: uniform}}
round: {{quorum: {quorum}, deadline_s: 10, step_s: 4, backoff_s: 0.1, retries: 5}}
start: {{wait_s: 120}}
evaluation: {{clients: true, every: 0}}
storage: {{path: runs}}
seed: 1
"""


def port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Client:
    """A client that is started again whenever it was killed, as an init system would."""

    def __init__(self, folder, name, address):
        self.folder, self.name = folder, name
        self.words = ["client", "--id", name, "--coordinator", address, "--data", "onehot:data"]
        self.words += ["--state", f"state-{name}", "--insecure", "--until-done"]
        self.process, self.back_s, self.kills = None, [], 0
        self._over = False
        self.thread = threading.Thread(target=self._supervise, daemon=True)
        self.thread.start()

    def _supervise(self):
        while not self._over:
            started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "choral", *self.words],
                cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            for line in self.process.stderr:
                if "connected to" in line:
                    self.back_s.append(time.monotonic() - started)
            if self.process.wait() != -signal.SIGKILL:
                return

    @property
    def here(self):
        """Whether it is back, and has not been killed again."""
        return len(self.back_s) > self.kills and self.process.poll() is None

    def kill(self):
        """Kill it, unless it is not back yet."""
        if self.here:
            self.kills += 1
            self.process.kill()

    def stop(self):
        self._over = True
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        self.thread.join(10)


class Federation:
    """A coordinator process and its clients."""

    def __init__(self, folder, *, rounds, count, quorum, aggregation="plain"):
        (folder / "file.yaml").write_text(
            FILE.format(rounds=rounds, count=count, quorum=quorum, aggregation=aggregation)
        )
        address, self.metrics = f"127.0.0.1:{port()}", f"127.0.0.1:{port()}"
        self.folder, self.log = folder, folder / "log"
        with self.log.open("w") as log:
            self.coordinator = subprocess.Popen(
                [sys.executable, "-m", "choral", "coordinator", "--config", "file.yaml",
                 "--insecure", "--listen", address, "--metrics", self.metrics, "--json"],
                cwd=folder, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self.clients = [Client(folder, str(n), address) for n in range(count)]
        self._read, self._events = 0, []

    def events(self, kind):
        with self.log.open() as log:
            log.seek(self._read)
            text = log.read()
        whole = text.rpartition("\n")[0]
        self._read += len(whole.encode()) + bool(whole)
        self._events += [json.loads(line) for line in whole.splitlines()]
        return [e for e in self._events if e.get("event") == kind]

    def numbers(self):
        """Open files, sockets, tasks, threads and resident bytes of the coordinator."""
        with urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = dict(re.findall(r"^(\w+) ([\d.e+]+)$", text, re.MULTILINE))
        process = Path(f"/proc/{self.coordinator.pid}")
        threads = len(list((process / "task").iterdir()))
        open_ = []
        for one in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                open_.append(str(one.readlink()))
        sockets = sum(name.startswith("socket:") for name in open_)
        tasks, resident = (
            float(found[n]) for n in ("choral_tasks", "process_resident_memory_bytes")
        )
        return len(open_) - sockets, sockets, tasks, threads, resident

    def running(self):
        return self.coordinator.poll() is None

    def result(self):
        assert self.coordinator.wait(60) == 0, self.log.read_text()[-4000:]
        return json.loads(next((self.folder / "runs").glob("churn-*/result.json")).read_text())

    def stop(self):
        for client in self.clients:
            client.stop()
        if self.running():
            self.coordinator.kill()
        self.coordinator.wait(10)


@pytest.fixture
def federation(tmp_path, onehot):
    made = []

    def make(*, pause_s=0.0, **options):
        onehot(tmp_path, names=map(str, range(options["count"])), pause_s=pause_s)
        made.append(Federation(tmp_path, **options))
        return made[0]

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize(
    ("aggregation", "rounds", "quorum"),
    [("plain", 200, 5), ("secure", 60, 7)],
)
def test_a_third_of_the_clients_is_killed_in_every_round(
    aggregation, rounds, quorum, federation, record_property
):
    """In every round; of a secure sum, in every round that begins with all of them."""
    chance = np.random.default_rng(7)
    found = federation(rounds=rounds, count=10, quorum=quorum, aggregation=aggregation, pause_s=0.2)
    seen = 0
    while found.running():
        opened = found.events("cohort_chosen")
        if len(opened) > seen:
            seen = len(opened)
            if aggregation == "secure" and not all(c.here for c in found.clients):
                continue  # it takes seven of ten, and those that were killed count
            for at in chance.choice(10, 3, replace=False):
                time.sleep(chance.uniform(0, 0.2))
                found.clients[at].kill()
        time.sleep(0.02)
    result = found.result()
    kills = sum(c.kills for c in found.clients)
    back = sorted(s for c in found.clients for s in c.back_s[1:])
    tried = [r["attempt"] for r in result["rounds"]]
    print(
        f"{len(tried)} of {rounds} rounds, {kills} kills, {sum(t > 1 for t in tried)} rounds tried "
        f"again, back after {back[len(back) // 2]:.1f} s (median), {back[-1]:.1f} s (most)"
    )
    record_property("seconds until back, 95 %", back[int(0.95 * len(back))])
    assert result["status"] == "completed"
    assert [r["round"] for r in result["rounds"]] == list(range(1, rounds + 1))
    assert all(quorum <= r["completed"] <= 10 for r in result["rounds"])
    assert result["metrics"]["sum"] == pytest.approx(rounds, rel=1e-3)
    # 3 a round, but for those that were not back yet.
    assert kills >= (rounds if aggregation == "plain" else rounds / 3)
    # A client says that it is back once it is given work. A secure round waits step by step for
    # those that were killed, so there the next work may come late to one that is back for long.
    if aggregation == "plain":
        assert back[int(0.95 * len(back))] < 5


def test_two_thousand_rounds_leave_nothing_behind(federation, record_property):
    rounds, chance = int(os.environ.get("CHORAL_SOAK_ROUNDS", "2000")), np.random.default_rng(8)
    found = federation(rounds=rounds, count=20, quorum=10)
    samples, killed = [], 0
    while found.running():
        done = len(found.events("committed"))
        if done >= 10 * (killed + 1):
            killed += 1
            found.clients[chance.integers(20)].kill()
        if done >= 20 * (len(samples) + 1):
            try:
                samples.append((done, *found.numbers()))
            except OSError:
                break  # it has ended
        time.sleep(0.05)
    result = found.result()
    assert len(result["rounds"]) == rounds
    assert result["metrics"]["sum"] == pytest.approx(rounds, rel=1e-3)
    # By the middle, threads have begun, pools are full and the newest events are as many as ever.
    done, *numbers, resident = np.array(samples[len(samples) // 2 :]).T
    slope = np.polyfit(done, resident, 1)[0] * 1000 / 1e6
    record_property("MB per 1000 rounds", slope)
    print(f"{slope:.2f} MB per 1000 rounds, {resident[-1] / 1e6:.0f} MB at the end")
    for name, values in zip(("files", "sockets", "tasks", "threads"), numbers, strict=True):
        half = len(values) // 2
        print(f"{name}: {values.min():.0f} to {values.max():.0f}")
        assert np.median(values[half:]) <= np.median(values[:half]) + 2, name
    assert slope <= 1
