"""The coordinator and its clients are killed at every named place, and nothing is lost.

Each client's update is one-hot, so the model counts how often each client is in it: every round
needs all of them, and the final model must be that of a run that nobody disturbed, bit for bit.
"""

import json
import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path

import grpc
import pytest

from choral.core.failpoints import FAILPOINTS
from choral.wire import names
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.versions import PROTOCOL_VERSION

pytestmark = pytest.mark.timeout(240)

CLIENTS = ("a", "b", "c", "d")
FILE = """
name: crash
task: onehot:task
rounds: 2
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
FIRST = {"coordinator.restored": "coordinator.sealed.fixed"}
"""Reached only by a coordinator that goes on: it is killed somewhere else before."""
REACHES = {
    "coordinator.said.taken": ("", ":2", ":4"),
    "coordinator.said.stored": ("", ":2", ":4"),
    "client.secure.heard": ("", ":2", ":4"),
    "client.secure.acted": ("", ":2", ":4"),
    "client.secure.masked": ("", ":2"),
}
"""Of messages, the first, one in the middle and one on the survivors; of a vector, each round's."""
STORES = ("sqlite", "postgresql")
QUICK = {
    ("coordinator.sealed.stored", "secure", "sqlite"),
    ("client.secure.acted:4", "secure", "sqlite"),
}
RECORD = Path(__file__).with_name("crashes.json")
SERVING_S = 2.0
"""From a coordinator's first line to its first answer; Python has read its modules before."""


class Process:
    """A `choral` process that is started again when it was killed by its failpoint.

    Attributes:
        kills: How often it was.
        serving_s: Seconds from its first line, after the last kill, to an answered call.
    """

    def __init__(self, nursery, folder, name, arguments, *, failpoints, address, environment):
        self.kills, self.serving_s, self.code = 0, None, None
        self._failpoints = dict(enumerate(failpoints))
        self._begin = partial(nursery.start, name, arguments, folder=folder, **environment)
        self._address = address
        self._over = False
        self._child = self._start()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def _start(self):
        point = self._failpoints.get(self.kills)
        return self._begin() if point is None else self._begin(CHORAL_FAILPOINT=point)

    def _supervise(self):
        while True:
            self.code = self._child.wait()
            if self.code != -signal.SIGKILL or self._over:
                return
            self.kills += 1
            self._child = self._start()
            if self._address is not None:
                self.serving_s = seconds_to_answer(self._address, self._child)

    def ended(self, timeout_s):
        self._thread.join(timeout_s)
        return self.code if not self._thread.is_alive() else None

    def stop(self):
        self._over = True
        self._child.kill()
        self._thread.join(10)


def seconds_to_answer(address, child):
    """Return the seconds until a coordinator takes calls, and knows the work of its runs again."""
    request = pb.UploadRequest(
        protocol_version=PROTOCOL_VERSION, token=b"no such token", sha256="0" * 64
    )
    while child.code is None and time.monotonic() < child.since + 60:
        with grpc.insecure_channel(address) as channel:  # a channel waits a second after a failure
            ask = channel.unary_unary(
                "/choral.v1.Coordinator/GetUpload",
                request_serializer=pb.UploadRequest.SerializeToString,
                response_deserializer=pb.UploadStatus.FromString,
            )
            try:
                ask(request, timeout=5, metadata=((names.CLIENT_ID, "probe"),))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return time.monotonic() - child.since
        time.sleep(0.01)
    return None


@pytest.fixture
def federation(tmp_path, nursery, onehot):
    """Return what runs a federation with a failpoint; what still runs at its end is killed."""
    started = []

    def run(aggregation, *, coordinator=(), client=(), database="", where=None):
        folder = where or tmp_path
        folder.mkdir(exist_ok=True)
        onehot(folder)
        (folder / "file.yaml").write_text(FILE.format(aggregation=aggregation))
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{found.getsockname()[1]}"
        serving = Process(
            nursery, folder, "coordinator",
            ["coordinator", "--config", "file.yaml", "--listen", address, "--insecure", "--json"],
            failpoints=coordinator, address=address,
            environment={"CHORAL_DATABASE": database} if database else {},
        )  # fmt: skip
        started.append(serving)
        for name in CLIENTS:
            flags = ["--id", name, "--coordinator", address, "--data", "onehot:data"]
            flags += ["--state", f"state-{name}", "--insecure"]
            started.append(
                Process(
                    nursery, folder, name, ["client", *flags],
                    failpoints=client if name == "a" else (), address=None, environment={},
                )
            )  # fmt: skip
        code = serving.ended(100)
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
    assert [r["round"] for r in result["rounds"]] == [1, 2]
    assert [r["completed"] for r in result["rounds"]] == [4, 4]
    assert (result["coverage"]["clients"], result["coverage"]["seen"]) == (4, 4)
    assert [r["metrics"]["w0"] for r in result["rounds"]] == pytest.approx([0.25, 0.5])


def cases():
    """Every failpoint under every aggregation that reaches it, on each store."""
    for name in FAILPOINTS:
        for aggregation in ("plain", "secure"):
            if name in (SECURE_ONLY if aggregation == "plain" else PLAIN_ONLY):
                continue
            for reach in REACHES.get(name, ("",)):
                for store in STORES:
                    yield name + reach, aggregation, store


def marked():
    for case in cases():
        marks = [pytest.mark.xdist_group("postgres" if case[2] == "postgresql" else "processes")]
        if case not in QUICK:
            marks.append(pytest.mark.nightly)
        yield pytest.param(*case, marks=marks, id="-".join(case))


@pytest.mark.parametrize(("point", "aggregation", "store"), list(marked()))
def test_a_kill_changes_nothing(
    point, aggregation, store, *, federation, undisturbed, tmp_path, request
):
    of_client = point.startswith("client.")
    database = request.getfixturevalue("postgres_url") if store == "postgresql" else ""
    first = FIRST.get(point, point)
    result, coordinator, client = federation(
        aggregation,
        coordinator=() if of_client else tuple(dict.fromkeys((first, point))),
        client=(point,) if of_client else (),
        database=database,
    )
    killed = client if of_client else coordinator
    assert killed.kills == (1 if first == point else 2)
    check(result, aggregation, undisturbed, federation, tmp_path)
    busy = max(1.0, os.getloadavg()[0] / os.cpu_count())
    assert of_client or coordinator.serving_s < SERVING_S * busy
    record(f"{point}-{aggregation}-{store}", result, coordinator.serving_s)


def record(case, result, serving_s):
    """Write down what came of a case, where somebody asks for it; the documentation shows it."""
    if "RECORD_CRASHES" not in os.environ:
        return
    rounds = result["rounds"]
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known[case] = {
        "attempts": sum(r["attempt"] for r in rounds),
        "rounds": len(rounds),
        "serving_s": None if serving_s is None else round(serving_s, 2),
    }
    body = {c: known[c] for c in ("-".join(case) for case in cases()) if c in known}
    RECORD.write_text(json.dumps(body, indent=1) + "\n")


def test_the_record_has_every_case():
    """A new failpoint is run with `RECORD_CRASHES=1`, which adds it to the documentation."""
    assert list(json.loads(RECORD.read_text())) == ["-".join(case) for case in cases()]
