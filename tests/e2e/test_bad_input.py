"""What goes wrong around a real coordinator and real clients, and the honest ones' round commits.

One coordinator over mutual TLS for all cases: each has an answer with a name, a line in a log, a
number in the metrics.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import grpc
import pytest
from typer.testing import CliRunner

from choral.cli.app import app
from choral.core.errors import ConfigError
from choral.pki.names import Role
from choral.pki.requests import load_request, make_request
from choral.pki.tls import open_tls, sign
from choral.pki.trial import trial_federation
from choral.wire.errors import from_rpc_error
from choral.wire.v1 import admin_pb2, admin_pb2_grpc, coordinator_pb2_grpc
from choral.wire.v1 import coordinator_pb2 as pb

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(240),
]

FEDERATION = """
name: bad
model: {type: linear, input_dim: 2}
rounds: 2
clients_per_round: 3
local: {epochs: 3}
round: {quorum: 2, backoff_s: 0.05}
start: {manual: true}
evaluation: {clients: false}
seed: 3
"""
POLICY = "secure_aggregation: preferred\nmin_cohort: 2\ntasks: ['%s']\nmetrics: ['*']\n"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(look, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError


def ended_before(now):
    """Let certificates be issued that are over: half an hour ago."""
    over = now - timedelta(minutes=30)
    return patch("choral.pki.certificates.days_from", lambda at, days: over)


class Scene:
    """A coordinator to come, sites, and whoever calls."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}
        self.port, self.metrics_port = free_port(), free_port()
        pki = self.pki = folder / "pki"
        trial_federation(pki, name="test", clients=["a", "b", "nan", "picky"])
        trial_federation(pki / "strangers", name="test", clients=["a"])
        tls, now = open_tls(pki / "operator"), datetime.now(UTC)
        for name, role in (
            ("oz", Role.OPERATOR),
            ("rolf", Role.RESEARCHER),
            ("old", Role.CLIENT),
        ):
            make_request(pki / name, id=name, role=role)
            with ended_before(now) if name == "old" else nullcontext():
                sign(tls, load_request(pki / name / "request.json"), at=now, role=role)
            shutil.copy(tls.folder / "issued" / f"{name}.pem", pki / name / "certificate.pem")
        for i, name in enumerate(("a", "b", "nan", "picky")):
            scale = 8e37 if name == "nan" else 1
            rows = [
                f"{(j * 7 + i) % 5 * scale},{(j * 3 + i) % 4 * scale},{(j + i) % 2}"
                for j in range(20)
            ]
            (folder / f"{name}.csv").write_text("x1,x2,y\n" + "\n".join(rows) + "\n")
            task = "other:task" if name == "picky" else "model:linear"
            (folder / f"{name}.yaml").write_text(POLICY % task)
        (folder / "federation.yaml").write_text(FEDERATION)

    def start(self, name, *words):
        with (
            (self.folder / f"{name}.log").open("w") as log,
            (self.folder / f"{name}.out").open("w") as out,
        ):
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "choral", *map(str, words)],
                cwd=self.folder,
                stdout=out,
                stderr=log,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )

    def coordinator(self, name, *words):
        self.start(
            name, "coordinator", "--config", "federation.yaml", "--json", "--listen",
            f"127.0.0.1:{self.port}", "--credentials", self.pki / "coordinator", *words,
        )  # fmt: skip

    def client(self, name):
        self.start(
            name, "client", "--id", name, "--data", f"{name}.csv", "--policy", f"{name}.yaml",
            "--state", f"state-{name}", "--credentials", self.pki / name, "--until-done",
            "--coordinator", f"localhost:{self.port}",
        )  # fmt: skip

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def says(self, name, pattern):
        """Wait for a line in a log."""
        return until(lambda: re.search(pattern, self.log(name)))

    def metric(self, name, **labels):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            text = answer.read().decode()
        said = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        found = re.search(rf"^{name}{{{re.escape(said)}}} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def channel(self, folder):
        trusted = (self.pki / "operator" / "tls" / "authority.pem").read_bytes()
        pair = (None, None)
        if folder is not None:
            pair = tuple((folder / f"{n}.pem").read_bytes() for n in ("key", "certificate"))
        credentials = grpc.ssl_channel_credentials(trusted, *pair)
        return grpc.secure_channel(f"localhost:{self.port}", credentials)

    def join_error(self, name, folder):
        """The error of a join with some certificate."""
        request = pb.JoinRequest(
            protocol_version=1, min_protocol_version=1, client_id=name, tasks=["*"]
        )
        with self.channel(folder) as channel, pytest.raises(grpc.RpcError) as caught:
            coordinator_pb2_grpc.CoordinatorStub(channel).JoinRound(request, timeout=20)
        return from_rpc_error(caught.value)

    def end(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(20)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    for name in ("CHORAL_COORDINATOR", "COORDINATOR", "CHORAL_CREDENTIALS", "CHORAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    found = Scene(tmp_path)
    yield found
    found.end()


def test_a_coordinator_among_bad_callers(scene, monkeypatch):
    monkeypatch.chdir(scene.folder)
    check_missing_files(scene)

    scene.client("a")  # a coordinator that is not there yet: the client waits
    scene.says("a", "is not there: .*UNAVAILABLE")
    scene.coordinator("coordinator", "--metrics", f"127.0.0.1:{scene.metrics_port}")
    scene.says("coordinator", "listening on")
    scene.coordinator("second", "--set", "storage.path=elsewhere")
    scene.coordinator("unread", "--listen", "127.0.0.1:0", "--set", "strategy=fedawg")
    scene.client("picky")
    scene.client("nan")
    scene.client("b")
    check_certificates(scene)
    check_port_in_use(scene)
    check_file_that_is_refused(scene)
    scene.says("a", "connected to")
    check_task_that_is_not_allowed(scene)
    check_nan_and_commit(scene)
    for name in ("coordinator", "a", "b"):
        assert scene.running[name].wait(60) == 0, scene.log(name)
    result = json.loads((scene.folder / "coordinator.out").read_text())
    assert [r["completed"] for r in result["rounds"]] == [2, 2]
    assert {(f["client"], f["code"]) for f in result["failures"]} == {("nan", "not_finite")}
    for name in scene.running:
        assert "Traceback" not in scene.log(name), scene.log(name)


def check_missing_files(scene):
    """No certificate at all is a setting to mend, before anybody is called."""
    words = ["client", "--id", "a", "--data", "a.csv", "--policy", "a.yaml"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert "no certificates" in str(done.exception)


def check_certificates(scene):
    for name, folder in (
        ("a", scene.pki / "strangers" / "a"),
        ("old", scene.pki / "old"),
        ("a", None),
    ):
        error = scene.join_error(name, folder)
        assert error.code == "unavailable"
        assert "certificate" in error.hint
    error = scene.join_error("rolf", scene.pki / "rolf")
    assert (error.code, error.exit_code) == ("refused", 3)
    assert "has the role researcher" in error.message
    scene.says("coordinator", "JoinRound refused: refused: `rolf` has the role researcher")
    assert scene.metric("choral_rejected_calls_total", call="JoinRound", code="refused") >= 1


def check_port_in_use(scene):
    assert scene.running["second"].wait(60) == 2
    assert "is the port in use" in scene.log("second")
    assert "listening on" not in scene.log("second")


def check_file_that_is_refused(scene):
    assert scene.running["unread"].wait(60) == 2
    assert "fedawg" in scene.log("unread")
    assert "listening on" not in scene.log("unread")


def check_task_that_is_not_allowed(scene):
    why = "its site does not allow the task `model:linear`"
    scene.says("picky", f"refused: run bad-[0-9a-f]+: refused: {why}")
    scene.says("coordinator", f"picky does not suit run .*{why}")
    assert scene.metric("choral_rejected_calls_total", call="JoinRound", code="refused") >= 2


def check_nan_and_commit(scene):
    with scene.channel(scene.pki / "oz") as channel:
        stub = admin_pb2_grpc.AdminStub(channel)
        (run,) = stub.ListRuns(admin_pb2.ListRunsRequest(protocol_version=1)).runs
        show = admin_pb2.GetRunRequest(protocol_version=1, run_id=run.run_id)

        def shown():
            return json.loads(stub.GetRun(show).result_json)

        assert shown()["refusals"]["picky"].startswith("its site does not allow")
        listed = admin_pb2.ListClientsRequest(protocol_version=1)
        until(lambda: len(stub.ListClients(listed).clients) == 4)
        stub.OpenRound(admin_pb2.OpenRoundRequest(protocol_version=1, run_id=run.run_id))
        until(lambda: len(shown()["rounds"]) == 1)
        scene.says("nan", "the round failed: not_finite")
        assert scene.metric("choral_failures_total", code="not_finite") == 1
        assert scene.metric("choral_rounds_total", outcome="committed") == 1
        stub.OpenRound(admin_pb2.OpenRoundRequest(protocol_version=1, run_id=run.run_id))
