"""The article's files and environment variables, unchanged: a coordinator and five clients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(400)]

ARTICLE = Path(__file__).parents[2] / "examples" / "article"
CLIENTS = [f"client-{i}" for i in range(1, 6)]
BLOCK = "privacy:\n  dp_enabled: true\n  noise_multiplier: 1.1\n  max_grad_norm: 1.0\n"


def environment(**variables):
    """Return this process's environment without Choral's variables, and with these."""
    ours = ("CHORAL_", "CLIENT", "ROUNDS", "AGGREGATION", "DATA_PATH", "COORDINATOR")
    rest = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return rest | variables


@pytest.fixture
def start(tmp_path):
    """Return what starts `choral` in the test's folder; what still runs at its end is killed."""
    started = []

    def begin(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "choral", *arguments],
            cwd=tmp_path,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


PATIENT = ("--set", "start.wait_s=100")
"""On a busy machine the last client may be late; the run is not to start without it."""


def address_of(coordinator):
    """Return where a coordinator listens, once it says so."""
    for line in coordinator.stderr:
        found = json.loads(line)
        if found["message"].startswith("listening on"):
            return found["address"]
    raise AssertionError("it never listened")


def working_in(folder):
    """Return processes that still run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_the_files_are_the_article_s():
    text = (ARTICLE / "config.yaml").read_text()
    assert yaml.safe_load(text) == {
        "rounds": 10,
        "clients_per_round": 5,
        "aggregation": "secure",
        "privacy": {"dp_enabled": True, "noise_multiplier": 1.1, "max_grad_norm": 1.0},
        "model": {"type": "linear", "input_dim": 10},
        "storage": {"path": "/models/global"},
    }
    assert BLOCK in text
    roster = json.loads((ARTICLE / "clients.json").read_text())
    assert [entry["id"] for entry in roster] == CLIENTS
    assert all(set(entry) == {"id", "endpoint", "region"} for entry in roster)


def test_the_data_is_what_its_script_writes(tmp_path):
    script = tmp_path / "make_data.py"
    script.write_bytes((ARTICLE / "make_data.py").read_bytes())
    subprocess.run([sys.executable, script], check=True)
    for client in CLIENTS:
        made = np.loadtxt(tmp_path / "data" / f"{client}.csv", delimiter=",", skiprows=1)
        kept = np.loadtxt(ARTICLE / "data" / f"{client}.csv", delimiter=",", skiprows=1)
        assert kept.shape == (240, 11)
        np.testing.assert_allclose(made, kept, atol=1.1e-3)


def begin_clients(start, address):
    """Start the article's five clients, by environment variables alone."""
    return [
        start(
            "client", "--insecure", "--until-done",
            CLIENT_ID=client,
            DATA_PATH=str(ARTICLE / "data" / f"{client}.csv"),
            COORDINATOR=address,
        )
        for client in CLIENTS
    ]  # fmt: skip


def test_five_clients_by_environment_alone(start, tmp_path):
    """Ten secure rounds with differential privacy; the files are as they are in the article."""
    coordinator = start(
        "coordinator", "--config", str(ARTICLE / "config.yaml"),
        "--insecure", "--listen", "127.0.0.1:0", "--json", *PATIENT,
        CLIENTS_CONFIG=str(ARTICLE / "clients.json"),
        ROUNDS="10",
        AGGREGATION="secure",
        CHORAL_STORAGE_PATH=str(tmp_path / "models"),
    )  # fmt: skip
    clients = begin_clients(start, address_of(coordinator))
    out, err = coordinator.communicate(timeout=300)
    said = [client.communicate(timeout=60)[1] for client in clients]
    assert coordinator.returncode == 0, err
    assert [client.returncode for client in clients] == [0] * 5, said
    assert "Traceback" not in "".join([err, *said])

    result = json.loads(out)
    assert (result["status"], result["identity"]) == ("completed", "unverified")
    assert result["aggregation"]["kind"] == "secure"
    assert result["failures"] == []
    assert [r["completed"] for r in result["rounds"]] == [5] * 10
    assert result["metrics"] == {}  # what clients measure is not noised, and nobody asked for it
    assert err.splitlines()[-1].count(f"run {result['run_id']} completed") == 1

    model = tmp_path / "models" / result["run_id"] / "model.safetensors"
    assert result["model_path"] == str(model)
    states = [f"state-{client}" for client in CLIENTS]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["models", *states])
    assert working_in(tmp_path) == []

    privacy = result["privacy"]
    assert (privacy["mode"], privacy["unit"], privacy["relation"], privacy["level"]) == (
        "record", "record", "add_remove", "L2",
    )  # fmt: skip
    assert (privacy["noise_multiplier"], privacy["max_grad_norm"]) == (1.1, 1.0)
    # 192 records train: 10 rounds of 6 steps, each of which draws a sixth. Nobody told how many
    # there are but by a power of two, so the coordinator's bound is for 103.
    assert 7.8 < privacy["epsilon"] < 12.5
    grown = [r["epsilon"] for r in result["rounds"]]
    assert grown == sorted(grown)
    assert grown[-1] == privacy["epsilon"]
    assert all("has lost at most epsilon" in text for text in said)
    assert privacy["evaluation"] == "public"

    lineage = json.loads(model.with_suffix(".json").read_text())
    assert lineage["privacy"] == privacy


def test_the_same_file_in_a_simulation(start, tmp_path):
    simulation = start(
        "simulate", str(ARTICLE / "config.yaml"), "--data", str(ARTICLE / "data"), "--json",
        "--set", "evaluation.clients=true",
        CHORAL_STORAGE_PATH=str(tmp_path / "models"),
    )  # fmt: skip
    out, err = simulation.communicate(timeout=300)
    assert simulation.returncode == 0, err
    result = json.loads(out)
    assert [r["completed"] for r in result["rounds"]] == [5] * 10
    privacy = result["privacy"]
    assert (privacy["mode"], privacy["level"], privacy["evaluation"]) == ("record", "L3", "none")
    assert [note for note in privacy["notes"] if "without noise" not in note] == []
    losses = [r["metrics"]["loss"] for r in result["rounds"]]
    assert losses[-1] < losses[0]
    assert privacy["epsilon"] == pytest.approx(7.82, abs=0.01)
    assert privacy["planned_epsilon"] == privacy["epsilon"]


def test_without_the_block_nothing_is_promised(start, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text((ARTICLE / "config.yaml").read_text().replace(BLOCK, ""))
    simulation = start(
        "simulate", str(config), "--data", str(ARTICLE / "data"), "--json",
        CHORAL_STORAGE_PATH=str(tmp_path / "models"),
    )  # fmt: skip
    out, err = simulation.communicate(timeout=300)
    assert simulation.returncode == 0, err
    result = json.loads(out)
    assert result["privacy"]["epsilon"] is None
    losses = [r["metrics"]["loss"] for r in result["rounds"]]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.nightly
def test_a_coordinator_that_stays_shows_its_epsilon(start, tmp_path):
    """The same file, handed to a coordinator that serves; `choral run show` says what was lost."""
    coordinator = start(
        "coordinator", "--insecure", "--listen", "127.0.0.1:0", "--json",
        CLIENTS_CONFIG=str(ARTICLE / "clients.json"),
        CHORAL_STORAGE_PATH=str(tmp_path / "models"),
    )  # fmt: skip
    address = address_of(coordinator)
    at = ("--insecure", "--coordinator", address, "--json")

    def run(*words):
        out, err = start("run", *words, *at).communicate(timeout=300)
        assert out, err
        return out

    submitted = json.loads(run("submit", str(ARTICLE / "config.yaml")))["run_id"]
    clients = begin_clients(start, address)
    for client in clients:
        client.communicate(timeout=300)
    shown = json.loads(run("show", submitted))
    assert shown["status"] == "completed"
    assert [r["completed"] for r in shown["rounds"]] == [5] * 10
    privacy = shown["privacy"]
    assert (privacy["mode"], privacy["unit"], privacy["delta"]) == ("record", "record", 1e-5)
    assert 7.8 < privacy["epsilon"] < 12.5
    listed, _ = start("models", "list", "--path", "models", "--json").communicate(timeout=60)
    assert "L2" in listed
    coordinator.terminate()
    coordinator.communicate(timeout=60)


@pytest.mark.nightly
def test_a_site_that_cannot_afford_it_leaves_and_both_ends_say_why(start, tmp_path):
    """One of five allows less than a round costs: it is left out, and never asked again.

    Both rounds wait for a fifth client as long as they may; it is not patience that is tested.
    """
    policy = tmp_path / "strict.yaml"
    policy.write_text(
        "secure_aggregation: preferred\ntasks: ['*']\nmin_cohort: 2\nmax_epsilon: 1.0\n"
        "suites: [full, graph, semi_honest]\n"
    )
    coordinator = start(
        "coordinator", "--config", str(ARTICLE / "config.yaml"),
        "--insecure", "--listen", "127.0.0.1:0", "--json",
        "--set", "rounds=2", "--set", "start.wait_s=25",
        CHORAL_STORAGE_PATH=str(tmp_path / "models"),
        CLIENTS_CONFIG=str(ARTICLE / "clients.json"),
    )  # fmt: skip
    address = address_of(coordinator)
    clients = []
    for client in CLIENTS:
        strict = ("--policy", str(policy)) if client == "client-3" else ()
        clients.append(
            start(
                "client", "--insecure", "--until-done", *strict,
                CLIENT_ID=client,
                DATA_PATH=str(ARTICLE / "data" / f"{client}.csv"),
                COORDINATOR=address,
            )
        )  # fmt: skip
    out, err = coordinator.communicate(timeout=300)
    said = [client.communicate(timeout=60)[1] for client in clients]
    assert coordinator.returncode == 0, err
    result = json.loads(out)
    assert [(f["client"], f["code"]) for f in result["failures"]] == [
        ("client-3", "budget_exhausted")
    ]
    assert "a record may lose epsilon 1" in result["failures"][0]["message"]
    assert "a record may lose epsilon 1" in said[2]
    assert [r["completed"] for r in result["rounds"]] == [4, 4]


@pytest.mark.nightly
def test_the_environment_wins_over_the_file_and_a_stranger_is_kept_out(start, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text((ARTICLE / "config.yaml").read_text().replace(BLOCK, ""))
    coordinator = start(
        "coordinator", "--config", "config.yaml", "--insecure", "--listen", "127.0.0.1:0", "--json",
        *PATIENT,
        CLIENTS_CONFIG=str(ARTICLE / "clients.json"),
        ROUNDS="2",
        AGGREGATION="plain",
        CHORAL_STORAGE_PATH=str(tmp_path / "models"),
    )  # fmt: skip
    address = address_of(coordinator)

    def client(name):
        data = str(ARTICLE / "data" / "client-1.csv")
        return start(
            "client", "--insecure", "--until-done",
            CLIENT_ID=name, DATA_PATH=data, COORDINATOR=address,
        )  # fmt: skip

    stranger = client("client-6")
    clients = [client(name) for name in CLIENTS]
    out, err = coordinator.communicate(timeout=300)
    for one in clients:
        one.communicate(timeout=60)
    assert coordinator.returncode == 0, err
    result = json.loads(out)
    assert result["aggregation"] == {"kind": "plain"}
    assert len(result["rounds"]) == 2
    assert set(result["client_metrics"]) == set(CLIENTS)
    stranger.terminate()
    stranger.communicate(timeout=60)
    assert stranger.returncode == 0
