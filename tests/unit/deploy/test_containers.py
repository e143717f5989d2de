"""Dockerfiles and the compose file: what can be seen without building or running them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from choral.client.policy import read_policy
from choral.config.federation import read_file

DEPLOY = Path(__file__).parents[3] / "deploy"
COMPOSE = DEPLOY / "compose"
FILE = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text())
SERVICES = FILE["services"]
CLIENTS = [name for name in SERVICES if name.startswith("client-")]
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def instructions(path):
    """Return the instructions of the last stage, by name."""
    text = path.read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    found = {}
    for line in text.splitlines()[1:]:
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def volumes(service):
    """Return what a service mounts: source, target, mode."""
    return [(*volume.split(":"), "rw")[:3] for volume in SERVICES[service]["volumes"]]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_an_image_runs_as_nobody_and_holds_nothing_of_the_build(path):
    said = instructions(path)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["USER"][-1])
    assert said["STOPSIGNAL"] == ["SIGTERM"]
    assert said["ENTRYPOINT"] == ['["choral"]']
    assert said["COPY"] == ["--from=build /opt/choral /opt/choral"]
    assert "HEALTHCHECK" in said
    assert "VOLUME" in said


def test_the_two_images_are_built_alike():
    stages = [p.read_text().partition("ENV PIP_NO_CACHE_DIR")[2] for p in DOCKERFILES]
    builds = {stage.partition("\nFROM ")[0] for stage in stages}
    assert len(DOCKERFILES) == 2
    assert len(builds) == 1


def test_nothing_is_sent_to_the_build_that_is_not_named():
    lines = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((DEPLOY.parent / name).exists() for name in named)
    assert not {"runs", ".git", "tests", "deploy"} & set(named)


def test_every_file_that_is_mounted_is_there_and_read_only():
    for service in SERVICES:
        for source, _, mode in volumes(service):
            if source.startswith("."):
                assert (COMPOSE / source).is_file(), source
                assert mode == "ro"
            else:
                assert source in FILE["volumes"]


def test_a_client_has_its_own_keys_data_and_state_alone():
    for client in CLIENTS:
        sources = {target: source for source, target, _ in volumes(client)}
        assert sources == {
            f"/data/{client}.csv": f"../../examples/article/data/{client}.csv",
            "/etc/choral/policy.yaml": f"./policies/{client}.yaml",
            "/certificates": f"{client}-certificates",
            "/state": f"{client}-state",
        }
        assert SERVICES[client]["environment"] == {
            "CLIENT_ID": client,
            "DATA_PATH": f"/data/{client}.csv",
            "COORDINATOR": "coordinator:50051",
        }


def test_authorities_are_with_the_one_shot_service_alone():
    for service in SERVICES:
        mounted = {source for source, *_ in volumes(service)}
        assert ({"operator", "trustee"} <= mounted) == (service == "pki")
    assert SERVICES["pki"]["network_mode"] == "none"


def test_all_speak_of_the_same_clients():
    assert len(CLIENTS) == 3
    assert SERVICES["pki"]["environment"]["CLIENTS"].split() == CLIENTS
    assert [entry["id"] for entry in json.loads((COMPOSE / "clients.json").read_text())] == CLIENTS
    file = read_file(COMPOSE / "config.yaml")
    assert file.clients_per_round == 3
    assert file.name == SERVICES["pki"]["environment"]["FEDERATION"]
    for client in CLIENTS:
        policy = read_policy(COMPOSE / "policies" / f"{client}.yaml")
        assert policy.file.secure_aggregation == "required"
        assert policy.file.tasks == ["model:linear"]


def test_services_start_in_order_and_start_again():
    for client in CLIENTS:
        waits = SERVICES[client]["depends_on"]
        assert waits["coordinator"]["condition"] == "service_healthy"
        assert waits["pki"]["condition"] == "service_completed_successfully"
        assert SERVICES[client]["restart"] == "unless-stopped"
    assert SERVICES["coordinator"]["restart"].startswith("on-failure")
    hosts = SERVICES["pki"]["environment"]["HOSTS"].split()
    assert {"coordinator", "127.0.0.1"} <= set(hosts)


def test_everything_is_hardened():
    for service in SERVICES.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
