"""`deploy/compose/pki.sh` run for real, and a federation of processes over what it made."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from choral.pki.check import check
from choral.pki.credentials import ClientFiles, ServerFiles, load_client, load_server
from choral.pki.names import Role

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]

COMPOSE = Path(__file__).parents[3] / "deploy" / "compose"
SERVICES = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text())["services"]
CLIENTS = ["client-1", "client-2", "client-3"]

# The group `choral pki` without the other commands, whose imports take a second for each call.
CHORAL = f"""#!{sys.executable}
import sys
from choral.cli.pki import app
assert sys.argv.pop(1) == "pki"
app()
"""


def run_script(folder, **variables):
    tools = folder.parent / "tools"
    if not tools.exists():
        tools.mkdir()
        (tools / "choral").write_text(CHORAL)
        (tools / "choral").chmod(0o755)
    given = {k: v for k, v in SERVICES["pki"]["environment"].items() if k not in {"OWNER", "RENEW"}}
    return subprocess.run(
        ["bash", COMPOSE / "pki.sh"],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "PKI": str(folder), **given, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder that the script has filled; nobody may write to it."""
    folder = tmp_path_factory.mktemp("deploy") / "pki"
    done = run_script(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def pki(made, tmp_path):
    """Return a copy of such a folder."""
    return Path(shutil.copytree(made, tmp_path / "pki"))


def site(pki, client):
    return pki / "sites" / client / "credentials"


def test_everybody_gets_what_they_need_and_no_key_of_others(made):
    now = datetime.now(UTC)
    server = load_server(ServerFiles.inside(made / "coordinator" / "credentials"), at=now)
    assert server.federation.name == "article"
    for client in CLIENTS:
        folder = site(made, client)
        found = load_client(ClientFiles.inside(folder), at=now)
        assert found.tls.identity.id == client
        assert check(ClientFiles.inside(folder), at=now) == []
        keys = sorted((made / "sites" / client).rglob("*key.pem"))
        assert keys == [folder / "key.pem", folder / "signing_key.pem"]
        assert folder.stat().st_mode & 0o077 == 0
        assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    health = ClientFiles.inside(made / "coordinator" / "health")
    load_client(health, at=now, role=Role.AUDITOR, enrolled=False)


def test_a_second_run_changes_nothing(pki):
    before = digests(pki)
    assert run_script(pki).returncode == 0
    assert digests(pki) == before


def test_a_client_can_be_added(pki):
    before = digests(pki)
    assert run_script(pki, CLIENTS="client-1 client-2 client-3 client-4").returncode == 0
    load_client(ClientFiles.inside(site(pki, "client-4")), at=datetime.now(UTC))
    after = digests(pki)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"operator/tls/register.jsonl", "trustee/enrolment/register.jsonl"}


def test_renewal_gives_new_certificates_for_the_same_keys(pki):
    before = digests(pki)
    assert run_script(pki, RENEW="1").returncode == 0
    after = digests(pki)
    changed = {Path(name).name for name in before if after[name] != before[name]}
    issued = {f"{name}.pem" for name in (*CLIENTS, "coordinator", "health")}
    assert changed == {"certificate.pem", "register.jsonl", *issued}
    load_client(ClientFiles.inside(site(pki, "client-1")), at=datetime.now(UTC))


@pytest.mark.parametrize(
    "lost",
    [
        ["sites/client-2/credentials/certificate.pem", "sites/client-2/credentials/enrolment.json"],
        ["coordinator/credentials/federation.json"],
    ],
    ids=["answers", "coordinator"],
)
def test_what_was_interrupted_is_finished(pki, lost):
    for name in lost:
        (pki / name).unlink()
    done = run_script(pki)
    assert done.returncode == 0, done.stderr
    now = datetime.now(UTC)
    load_server(ServerFiles.inside(pki / "coordinator" / "credentials"), at=now)
    for client in CLIENTS:
        load_client(ClientFiles.inside(site(pki, client)), at=now)


def test_a_client_with_new_keys_is_not_enrolled_by_itself(pki):
    shutil.rmtree(site(pki, "client-2"))
    done = run_script(pki)
    assert done.returncode != 0
    assert not (site(pki, "client-2") / "enrolment.json").exists()


def test_clients_must_be_named(tmp_path):
    done = run_script(tmp_path / "pki", CLIENTS="")
    assert done.returncode != 0
    assert "ids of the clients" in done.stderr
    assert not (tmp_path / "pki").exists()


# --- a federation of processes, as docker-compose.yml describes it --------------------------------


def mounts(service, pki, volumes):
    """Return container folder to a folder of this machine."""
    made_by = {
        volume.split(":")[0]: pki / volume.split(":")[1].removeprefix("/pki/")
        for volume in SERVICES["pki"]["volumes"]
        if volume.split(":")[1].startswith("/pki/")
    }
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, target, *_ = volume.split(":")
        own = COMPOSE / source if source.startswith(".") else made_by.get(source, volumes / source)
        found[target] = own.resolve()
    return found


def environment(service, pki, tmp_path):
    """Return a service's variables, its image's included, with the paths of this machine."""
    image = "coordinator" if service == "coordinator" else "client"
    text = (COMPOSE.parent / "docker" / f"{image}.Dockerfile").read_text().partition("EXPOSE")[0]
    words = text.rpartition("FROM")[2].replace("\\\n", " ").split()
    said = dict(word.split("=", 1) for word in words if word.startswith("CHORAL_"))
    said |= {k: v for k, v in SERVICES[service]["environment"].items() if "${" not in v}
    where = mounts(service, pki, tmp_path)

    def local(value):
        for target, own in where.items():
            if value == target or value.startswith(f"{target}/"):
                return str(own) + value[len(target) :]
        return value

    clean = {k: v for k, v in os.environ.items() if not k.startswith("CHORAL_")}
    return clean | {name: local(value) for name, value in said.items()}


@pytest.fixture
def start(made, tmp_path):
    """Return what starts the command of a service; what still runs at its end is killed."""
    started = []

    def begin(service, *arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "choral", *arguments],
            cwd=tmp_path,
            env=environment(service, made, tmp_path) | variables,
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


def test_the_compose_file_s_federation_runs_over_mutual_tls(start, made, tmp_path):
    coordinator = start(
        "coordinator", "coordinator", "--json", "--set", "start.wait_s=100",
        CHORAL_LISTEN="127.0.0.1:0", ROUNDS="3",
    )  # fmt: skip
    for line in coordinator.stderr:
        said = json.loads(line)
        if said["message"].startswith("listening on"):
            break
    assert "mutual TLS" in said["message"]
    port = said["address"].rpartition(":")[2]
    health = ("health", "--coordinator", f"127.0.0.1:{port}", "--credentials")
    well = start("coordinator", *health, str(made / "coordinator" / "health"))
    clients = [
        start(client, "client", "--until-done", COORDINATOR=f"localhost:{port}")
        for client in CLIENTS
    ]
    assert well.wait(60) == 0, well.stderr.read()
    out, err = coordinator.communicate(timeout=120)
    ends = [client.communicate(timeout=60)[1] for client in clients]
    assert coordinator.returncode == 0, err
    assert [client.returncode for client in clients] == [0] * 3, ends
    result = json.loads(out)
    assert (result["status"], result["identity"]) == ("completed", "verified")
    assert result["aggregation"]["kind"] == "secure"
    assert [r["completed"] for r in result["rounds"]] == [3] * 3
    losses = [r["metrics"]["train_loss"] for r in result["rounds"]]
    assert losses[-1] < 0.7 * losses[0]
    assert result["failures"] == []
    assert not result.get("client_metrics")
    assert Path(result["model_path"]).is_relative_to(tmp_path / "models" / "global")
    assert (tmp_path / "client-1-state" / "client").stat().st_mode & 0o077 == 0

    gone = start("coordinator", *health, str(made / "coordinator" / "health"), "--timeout", "1")
    _, err = gone.communicate(timeout=60)
    assert gone.returncode == 1
    assert "no answer from the coordinator" in err
    assert "Traceback" not in err
