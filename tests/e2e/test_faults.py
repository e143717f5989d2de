"""What else goes wrong around real processes: each run ends with a commit, or says why not."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from choral.pki.tls import open_tls, revoke_certificates
from choral.pki.trial import trial_federation

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def counts(site):
    """Return in how many rounds each client is, as the model says."""
    result = site.result()
    rounds = len(result["rounds"])
    return [round(rounds * result["metrics"][f"w{i}"], 3) for i in range(4)]


# --- processes that stand still, or are gone ------------------------------------------------------


def test_a_client_that_stands_still_misses_rounds_and_comes_back(site):
    few = {"quorum": 3, "deadline_s": 3, "backoff_s": 0.1}
    site.write(rounds=6, round=few, pause_s=0.5, start={"wait_s": 1})
    site.coordinator()
    site.clients()
    site.until(lambda: site.committed() >= 1)
    site.running["a"].send(signal.SIGSTOP)
    site.until(lambda: site.committed() >= 3)
    site.running["a"].send(signal.SIGCONT)
    assert site.ended() == 0
    completed = [r["completed"] for r in site.result()["rounds"]]
    assert len(completed) == 6
    assert min(completed) == 3
    assert completed[-1] == 4


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_a_coordinator_that_stands_still_goes_on(site, aggregation):
    """It stands still for longer than any call of a client waits for its answer: 35 s."""
    site.write(
        aggregation=aggregation, rounds=3, pause_s=0.5,
        round={"quorum": 4, "deadline_s": 120, "backoff_s": 0.1, "step_s": 10},
    )  # fmt: skip
    coordinator = site.coordinator()
    site.clients()
    site.until(lambda: site.committed() >= 1)
    coordinator.send(signal.SIGSTOP)
    time.sleep(40)
    coordinator.send(signal.SIGCONT)
    assert site.ended() == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 4, 4]


def test_all_clients_are_gone_and_come_back(site):
    site.write(pause_s=0.5)
    site.coordinator()
    site.clients()
    site.until(lambda: site.committed() >= 1)
    for name in "abcd":
        site.running[name].kill()
    time.sleep(3)
    site.clients()
    assert site.ended() == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 4, 4, 4]


def test_half_of_the_clients_are_gone_for_good(site):
    few = {"quorum": 2, "deadline_s": 3, "backoff_s": 0.1}
    site.write(round=few, pause_s=0.3, start={"wait_s": 1})
    site.coordinator()
    site.clients()
    site.until(lambda: site.committed() >= 1)
    for name in "cd":
        site.running[name].kill()
    assert site.ended() == 0
    completed = [r["completed"] for r in site.result()["rounds"]]
    assert len(completed) == 4
    assert completed[-1] == 2


def test_a_secure_round_that_cannot_be_tried_again_ends_with_a_reason(site):
    """Two clients are lost while masks are taken off; the others may help no second attempt."""
    site.write(
        rounds=2,
        aggregation="secure",
        round={"quorum": 3, "deadline_s": 20, "backoff_s": 0.1, "step_s": 2, "retries": 2},
    )
    site.coordinator()
    site.clients("ab")
    for name in "cd":
        site.client(name, CHORAL_FAILPOINT="client.secure.heard:5")  # asked to take masks off
    site.until(lambda: all(site.running[name].code is not None for name in "cd"))
    site.clients("cd")
    assert site.ended() == 1
    assert site.said("failed: round_spent") == 1


# --- storage --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(site):
    """Mount a disk of 16 MB where the runs are, with room for nothing; return what fills it."""
    path = site.folder / "runs"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only who may mount can make a small disk")
    yield path / "full"
    site.close()
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path):
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_a_full_disk_is_waited_for(site, small_disk, aggregation):
    site.write(
        aggregation=aggregation, pause_s=0.3,
        round={"quorum": 4, "deadline_s": 60, "backoff_s": 0.1, "step_s": 10, "retries": 8},
    )  # fmt: skip
    site.coordinator()
    site.clients()
    site.until(lambda: site.committed() >= 1)
    fill(small_disk)
    time.sleep(4)
    committed = site.committed()
    assert committed < 4
    small_disk.unlink()
    assert site.ended() == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 4, 4, 4]


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_a_database_that_is_gone_is_waited_for(site, postgres_server, postgres_url, aggregation):
    site.write(
        aggregation=aggregation, pause_s=0.3,
        round={"quorum": 4, "deadline_s": 60, "backoff_s": 0.1, "step_s": 10, "retries": 8},
    )  # fmt: skip
    site.coordinator(CHORAL_DATABASE=postgres_url)
    site.clients()
    site.until(lambda: site.committed() >= 1)
    postgres_server.stop()
    time.sleep(5)
    postgres_server.start()
    assert site.ended() == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 4, 4, 4]


# --- network and time -----------------------------------------------------------------------------


class Relay:
    """Carries bytes between clients and a coordinator; either direction can be cut.

    What a cut direction holds is lost: the connection ends when the cut does.
    """

    def __init__(self, to):
        self._to = to
        self._cut = None
        self._lock = threading.Lock()
        self._pairs = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, direction):
        """Carry nothing `up` (to the coordinator) or `down`, until `heal`."""
        self._cut = direction

    def heal(self):
        """Carry everything again, over new connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        self._cut = None
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listening.close()
        self.heal()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            host, _, port = self._to.rpartition(":")
            try:
                server = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for ends in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, one, other, direction):
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if self._cut == direction:
                    continue
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(site):
    made = Relay(site.address)
    yield made
    made.close()


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_line_that_is_cut_in_one_direction_is_used_again(site, relay, direction, aggregation):
    site.write(
        aggregation=aggregation, pause_s=0.3,
        round={"quorum": 4, "deadline_s": 60, "backoff_s": 0.1, "step_s": 15, "retries": 8},
    )  # fmt: skip
    site.coordinator()
    site.clients("bcd")
    site.client("a", to=relay.address)
    site.until(lambda: site.committed() >= 1)
    relay.cut(direction)
    time.sleep(5)
    relay.heal()
    assert site.ended() == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 4, 4, 4]


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("moved", ["-3600", "+3600"])
@pytest.mark.parametrize("who", ["coordinator", "a"])
def test_a_clock_that_jumps_by_an_hour_changes_nothing(site, who, moved):
    clock = site.folder / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    site.write(
        aggregation="secure", pause_s=0.3,
        round={"quorum": 4, "deadline_s": 60, "backoff_s": 0.1, "step_s": 15},
    )  # fmt: skip
    site.coordinator(afresh=True, **(faked if who == "coordinator" else {}))
    site.clients("bcd")
    site.client("a", afresh=True, **(faked if who == "a" else {}))
    site.until(lambda: site.committed() >= 1, 120)
    clock.write_text(moved)
    assert site.ended(150) == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 4, 4, 4]
    if who == "coordinator":
        hours = {line["time"][:13] for line in site.log() if "time" in line}
        assert len(hours) >= 2


# --- trust ----------------------------------------------------------------------------------------


def test_a_certificate_that_is_revoked_in_a_round_ends_its_client_alone(site):
    folder = site.folder / "pki"
    trial_federation(folder, name="faults", clients=["a", "b", "c", "d"])
    few = {"quorum": 3, "deadline_s": 20, "backoff_s": 0.1}
    site.write(round=few, pause_s=2.0, start={"wait_s": 1})
    site.coordinator("--credentials", "pki/coordinator")
    (site.folder / "policy.yaml").write_text(
        "{secure_aggregation: 'off', tasks: ['*'], metrics: ['*'], per_client_metrics: true}"
    )
    address = site.address.replace("127.0.0.1", "localhost")
    for name in "abcd":
        flags = ["--credentials", f"pki/{name}", "--policy", "policy.yaml"]
        site.client(name, *flags, to=address)
    site.until(lambda: site.said("round 2/4: 4 clients are invited") == 1)
    tls = open_tls(folder / "operator")
    revoke_certificates(tls, "a", at=datetime.now(UTC))
    shutil.copy(tls.folder / "revoked.pem", folder / "coordinator" / "revoked.new")
    (folder / "coordinator" / "revoked.new").rename(folder / "coordinator" / "revoked.pem")
    assert site.ended() == 0
    assert [r["completed"] for r in site.result()["rounds"]] == [4, 3, 3, 3]
    assert site.running["a"].wait(30) == 3
    assert site.said("revoked", "a") >= 1
