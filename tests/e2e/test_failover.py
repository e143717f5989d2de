"""Two coordinators on one PostgreSQL: one leads, the other takes over, and nothing is lost."""

import json
import signal
import socket
import time

import pytest

from choral.federation.audit import check as check_trail
from choral.stores.database import open_database

pytestmark = [
    pytest.mark.xdist_group("postgres"),
    pytest.mark.timeout(300),
]

CLIENTS = ("a", "b", "c", "d")
FILE = """
name: relay
task: onehot:task
rounds: {rounds}
clients_per_round: 4
aggregation: {aggregation}
round: {{quorum: 4, deadline_s: 120, backoff_s: 0.1, step_s: 5, retries: 8}}
start: {{wait_s: 60}}
evaluation: {{clients: true, every: 0}}
storage: {{path: runs}}
seed: 1
"""


class Federation:
    """Coordinators on one database, and their clients, as processes."""

    def __init__(self, folder, database, nursery):
        self.folder, self.database, self._nursery = folder, database, nursery
        self.processes = {}
        self.addresses = {name: self._address() for name in ("left", "right")}

    @staticmethod
    def _address():
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{found.getsockname()[1]}"

    def start(self, name, *arguments):
        child = self._nursery.start(
            name, arguments, folder=self.folder, CHORAL_DATABASE=self.database
        )
        self.processes[name] = child
        return child

    def coordinator(self, name):
        flags = ["--config", "file.yaml", "--listen", self.addresses[name], "--insecure", "--json"]
        return self.start(name, "coordinator", *flags)

    def clients(self):
        where = ",".join(self.addresses.values())
        for name in CLIENTS:
            flags = ["--id", name, "--coordinator", where, "--data", "onehot:data", "--insecure"]
            self.start(name, "client", *flags, "--state", f"state-{name}", "--until-done")

    def log(self, name):
        path = self.folder / f"{name}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def committed(self, name):
        return sum(1 for line in self.log(name) if line.get("event") == "committed")

    def until(self, true, timeout_s=60):
        ends = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < ends, {n: self.log(n)[-5:] for n in self.addresses}
            time.sleep(0.05)

    def result(self):
        return json.loads(next((self.folder / "runs").glob("relay-*/result.json")).read_text())


@pytest.fixture
def federation(tmp_path, postgres_url, nursery, onehot):
    """Return what makes a federation; its processes are killed at the end."""
    made = []

    def make(rounds, aggregation, pause=0.0):
        onehot(tmp_path, pause_s=pause)
        (tmp_path / "file.yaml").write_text(FILE.format(rounds=rounds, aggregation=aggregation))
        made.append(Federation(tmp_path, postgres_url, nursery))
        return made[0]

    yield make
    for process in made[0].processes.values() if made else ():
        process.kill()


def check(federation, rounds):
    """Each client is once in each round, and each round is committed once."""
    result = federation.result()
    assert [r["round"] for r in result["rounds"]] == list(range(1, rounds + 1))
    assert {r["completed"] for r in result["rounds"]} == {4}
    assert result["metrics"]["w0"] == pytest.approx(rounds / 4, rel=1e-3)
    database = open_database(federation.database)
    trail = database.read_log("audit")
    database.close()
    assert not check_trail(trail).faults
    committed = [r.body["round"] for r in trail if r.kind == "round.committed"]
    assert sorted(set(committed)) == list(range(1, rounds + 1))


@pytest.mark.parametrize(
    "aggregation", ["secure", pytest.param("plain", marks=pytest.mark.nightly)]
)
def test_another_coordinator_takes_over(federation, aggregation):
    """One is stopped without a word (SIGSTOP), the other goes on; woken up, it is harmless."""
    rounds = 4
    site = federation(rounds, aggregation, pause=1.0)
    first = site.coordinator("left")
    site.until(lambda: any("is invited" in str(x) or "run" in x for x in site.log("left")))
    site.coordinator("right")
    site.clients()
    site.until(lambda: site.committed("left") >= 1)
    first.send(signal.SIGSTOP)
    stopped = time.monotonic()
    site.until(lambda: any("goes on" in x["message"] for x in site.log("right") if "message" in x))
    taken_over_s = time.monotonic() - stopped
    # A client that waits for a receipt of the one that stands still gives it up after a minute.
    site.until(lambda: site.committed("right") >= 1, 150)
    first.send(signal.SIGCONT)  # it believes that it leads
    assert site.processes["right"].wait(120) == 0, site.log("right")[-5:]
    assert first.wait(60) == 0, site.log("left")[-5:]
    check(site, rounds)
    assert site.committed("left") + site.committed("right") == rounds
    assert taken_over_s < 15 + 5, taken_over_s  # 15 s on a machine that is not busy


@pytest.mark.nightly
def test_a_rolling_restart_loses_no_round(federation):
    """Each coordinator in turn is told to end, and comes back, during 50 rounds."""
    rounds = 50
    site = federation(rounds, "plain")
    site.coordinator("left")
    site.until(lambda: site.log("left"))
    site.coordinator("right")
    site.clients()
    working = "left"
    for at in (8, 20, 32):
        site.until(lambda at=at: site.committed("left") + site.committed("right") >= at, 120)
        site.processes[working].send(signal.SIGTERM)
        site.processes[working].wait(30)
        site.coordinator(working)
        working = "right" if working == "left" else "left"
    codes = [site.processes[name].wait(180) for name in ("left", "right")]
    assert codes == [0, 0], [site.log(name)[-5:] for name in ("left", "right")]
    check(site, rounds)
