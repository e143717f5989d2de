"""`choral run` and `choral doctor` against a coordinator process: plain text, and mutual TLS."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from choral.cli.app import app
from choral.core.errors import ChoralError
from choral.pki import authorities, coordinator, requests, tls
from choral.pki.names import Role

RUN = CliRunner()
FEDERATION = """
name: small
model: {type: linear, input_dim: 2}
rounds: 2
clients_per_round: 2
start: {manual: true}
seed: 3
"""


def call(*words):
    """Run a command here; return its exit code, as the process would have it, and its stdout."""
    done = RUN.invoke(app, [str(word) for word in words])
    if isinstance(done.exception, ChoralError):
        return done.exception.exit_code, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def good(*words):
    code, text = call(*words)
    assert code == 0, text
    return text


class Processes:
    """Processes of one test, ended behind it."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, *words):
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "choral", *map(str, words)],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self.running.append(process)
        return process

    def coordinator(self, *words):
        """Start a coordinator; return where it listens."""
        process = self.start("coordinator", "coordinator", "--json", *words)
        log = self.folder / "coordinator.log"
        return wait_for(lambda: _address(log), process)

    def end(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(20)


def _address(log):
    found = re.search(r'"address": "([^"]+)"', log.read_text())
    return found and found.group(1)


def wait_for(look, process, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        assert process.poll() is None, "the process has ended"
        time.sleep(0.05)
    raise TimeoutError


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.end()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CHORAL_COORDINATOR", "COORDINATOR", "CHORAL_CREDENTIALS", "CHORAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for i, name in enumerate("ab"):
        rows = [f"{(j * 7 + i) % 5},{(j * 3 + i) % 4},{(j + i) % 2}" for j in range(20)]
        (tmp_path / f"{name}.csv").write_text("x1,x2,y\n" + "\n".join(rows) + "\n")
    (tmp_path / "federation.yaml").write_text(FEDERATION)
    return tmp_path


def test_a_run_from_its_submission_to_its_model(site, processes):
    address = processes.coordinator("--insecure", "--listen", "127.0.0.1:0")
    at = ("--insecure", "--coordinator", address)
    for name in "ab":
        words = ("--id", name, "--data", f"{name}.csv", "--state", f"state-{name}")
        processes.start(name, "client", *words, *at)
    run = json.loads(good("run", "submit", "federation.yaml", *at, "--json"))["run_id"]
    assert run in good("run", "list", *at)

    def waits_after(count):
        listed = json.loads(good("run", "list", *at, "--json"))["runs"]
        return listed[0]["round"] == count and "operator" in listed[0]["reason"]

    for count in (0, 1):
        wait_for(lambda count=count: waits_after(count), processes.running[0])
        if count == 0:
            assert "running" in good("run", "show", run, *at)
        good("run", "open", run, *at)
    watched = good("run", "watch", run, *at)
    assert watched.count("Committed") == 2
    assert watched.splitlines()[-1].split()[1:] == ["Finish", "status", "completed"]
    shown = json.loads(good("run", "show", run, *at, "--json"))
    assert shown["status"] == "completed"
    assert [r["completed"] for r in shown["rounds"]] == [2, 2]
    assert shown["model_sha256"] in good("run", "show", run, *at)
    listed = json.loads(good("models", "list", "--path", site / "runs", "--json"))["models"]
    assert [m["model_sha256"] for m in listed] == [shown["model_sha256"]]


def test_a_run_that_is_stopped_and_calls_that_go_wrong(site, processes):
    address = processes.coordinator("--insecure", "--listen", "127.0.0.1:0")
    at = ("--insecure", "--coordinator", address)
    run = good("run", "submit", "federation.yaml", *at).strip()
    # Nobody is there: the run waits, and stopping it ends whoever watches it with 1.
    assert "stopped" in good("run", "stop", run, "--reason", "enough of it", *at)
    code, text = call("run", "watch", run, *at)
    assert code == 1
    assert "was stopped: enough of it" in text
    code, text = call("run", "watch", run, "--json", *at)
    assert code == 1
    assert json.loads(text)["status"] == "stopped"
    assert call("run", "show", "nothing", *at)[0] == 2
    (site / "bad.yaml").write_text("rounds: 2\nmodel: {type: lineal}\n")
    code, text = call("run", "submit", "bad.yaml", *at)
    assert code == 2
    assert "linear" in text
    checked = json.loads(good("doctor", *at, "--json"))["checks"]
    assert {c["name"] for c in checked if c["name"].startswith("coordinator")} == {
        f"coordinator: {step}" for step in ("name", "port", "health", "version")
    }


def test_without_a_coordinator_or_a_certificate(site):
    code, text = call("run", "list", "--insecure", "--coordinator", "127.0.0.1:1")
    assert code == 1
    assert "127.0.0.1:1" in text
    assert call("run", "list")[0] == 2
    code, text = call("run", "list", "--insecure", "--coordinator", "192.0.2.1:50051")
    assert code == 3
    assert "loopback" in text


def party(folder, at, *, name, role):
    made = requests.make_request(folder / name, id=name, role=role)
    tls.sign(tls.open_tls(folder / "authority"), made, at=at, days=90, role=role, renew=False)
    issued = folder / "authority" / tls.FOLDER / tls.ISSUED / f"{name}.pem"
    shutil.copy(issued, folder / name / "certificate.pem")
    shutil.copy(folder / "server" / "federation.json", folder / name)
    return folder / name


def federation(folder, at):
    """Make authorities and the coordinator's folder."""
    authorities.init(folder / "authority", federation="heart", at=at, days=365, only=None)
    enrolment = authorities_key(folder / "authority")
    coordinator.issue_coordinator(
        tls.open_tls(folder / "authority"),
        folder / "server",
        names=["127.0.0.1"],
        enrolment_authority=enrolment,
        at=at,
        days=90,
        renew=False,
    )


def authorities_key(folder):
    from choral.pki import enrolment, keys

    return keys.load_verify_key(folder / enrolment.FOLDER / tls.AUTHORITY)


def test_roles_and_the_doctor_over_mutual_tls(site, processes):
    at = datetime.now(UTC)
    federation(site, at)
    ruth = party(site, at, name="ruth", role=Role.RESEARCHER)
    otto = party(site, at, name="otto", role=Role.AUDITOR)
    site_a = party(site, at, name="hospital-a", role=Role.CLIENT)
    (site / "served.yaml").write_text("tls: {folder: server}\n")
    address = processes.coordinator("--config", "served.yaml", "--listen", "127.0.0.1:0")
    here = ("--coordinator", address)
    as_ruth, as_otto = (*here, "--credentials", ruth), (*here, "--credentials", otto)
    run = good("run", "submit", "federation.yaml", *as_ruth).strip()
    assert run in good("run", "list", *as_otto)
    code, text = call("run", "submit", "federation.yaml", *as_otto)
    assert code == 3
    assert "auditor" in text
    assert call("run", "stop", run, *as_otto)[0] == 3
    assert call("run", "list", *here, "--credentials", site_a)[0] == 3
    good("run", "stop", run, *as_ruth)
    for folder in (ruth, site_a):
        text = good("doctor", *here, "--credentials", folder)
        assert "✓ coordinator: TLS" in text
        assert "✓ coordinator: version" in text
    other = site / "elsewhere"
    other.mkdir()
    federation(other, at)
    eve = party(other, at, name="eve", role=Role.RESEARCHER)
    code, text = call("doctor", *here, "--credentials", eve)
    assert code == 2
    assert "✗ coordinator: TLS" in text
    code, text = call("doctor", "--insecure", *here)
    assert code == 2
    assert "✗ coordinator: health" in text
    assert call("run", "list", *here, "--credentials", eve)[0] == 1
