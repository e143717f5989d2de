"""`choral doctor`: finds what must be mended, says how, and exits with 2."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from choral.cli import doctor
from choral.cli.app import app
from choral.pki import authorities, coordinator, enrolment, keys, requests, tls
from choral.pki.names import Role

RUN = CliRunner()
NOW = datetime.now(UTC)
CLIENT = """
id: hospital-a
coordinator: 127.0.0.1:1
data: data.csv
credentials: site
policy: policy.yaml
"""


def make(folder, *, at=NOW, days=90):
    """Make authorities, a coordinator and a client with all that it needs."""
    root = folder / "authority"
    authorities.init(root, federation="heart", at=at, days=365, only=None)
    coordinator.issue_coordinator(
        tls.open_tls(root),
        folder / "server",
        names=["127.0.0.1"],
        enrolment_authority=keys.load_verify_key(root / enrolment.FOLDER / tls.AUTHORITY),
        at=at,
        days=days,
        renew=False,
    )
    made = requests.make_request(folder / "site", id="hospital-a", role=Role.CLIENT)
    tls.sign(tls.open_tls(root), made, at=at, days=days, role=Role.CLIENT, renew=False)
    enrolment.enrol(enrolment.open_enrolment(root), made, at=at, replace=False)
    issued = root / tls.FOLDER / tls.ISSUED / "hospital-a.pem"
    shutil.copy(issued, folder / "site" / "certificate.pem")
    enrolled = root / enrolment.FOLDER / tls.ISSUED / "hospital-a.json"
    shutil.copy(enrolled, folder / "site" / "enrolment.json")
    shutil.copy(folder / "server" / "federation.json", folder / "site")


def write_settings(folder):
    (folder / "client.yaml").write_text(CLIENT)
    (folder / "policy.yaml").write_text("tasks: [heart_task:task]\n")
    (folder / "data.csv").write_text("x,y\n1,0\n2,1\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CHORAL_COORDINATOR", "COORDINATOR", "CHORAL_CREDENTIALS", "CHORAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    make(tmp_path)
    write_settings(tmp_path)
    return tmp_path


def look(*words):
    """Return the exit code and the checks, those of installed packages left out."""
    done = RUN.invoke(app, ["doctor", *map(str, words), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    body = json.loads(done.stdout)
    assert body["ok"] == (done.exit_code == 0)
    names = ("settings", "certificates", "policy", "data", "state", "federation", "storage")
    return done.exit_code, [c for c in body["checks"] if c["name"].startswith(names)]


def errors(checks):
    return [f"{c['name']}: {c['message']}" for c in checks if c["status"] == "error"]


def of_client():
    """Look at the client's file; nothing listens at its coordinator's address."""
    code, checks = look("--config", "client.yaml")
    assert code == 2
    return errors(checks), checks


def test_what_is_installed_and_how_to_get_the_rest(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "onnx" else "1")
    done = RUN.invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "✓ Python" in done.stdout
    assert "pip install 'choral[onnx]'" in done.stdout
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert RUN.invoke(app, ["doctor"]).exit_code == 2


def test_a_client_in_order(site):
    found, checks = of_client()
    assert found == []
    said = {c["name"]: c["message"] for c in checks}
    assert "client hospital-a in heart, until" in said["certificates"]
    assert "2 examples with 1 features" in said["data"]
    assert "will be made" in said["state"]


def test_credentials_of_a_client_and_of_a_coordinator(site):
    for folder, who in (("site", "client hospital-a"), ("server", "coordinator coordinator")):
        code, checks = look("--credentials", folder)
        assert (code, errors(checks)) == (0, [])
        assert who in checks[0]["message"]
    code, checks = look("--credentials", "nowhere")
    assert code == 2
    assert "no folder" in checks[0]["message"]


@pytest.mark.parametrize(
    ("ago", "status", "word"), [(100, "error", "expired"), (80, "warning", "expires in")]
)
def test_certificates_that_have_expired_or_will_soon(tmp_path, monkeypatch, ago, status, word):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, at=NOW - timedelta(days=ago))
    _, checks = look("--credentials", "site")
    assert word in checks[0]["message"]
    assert checks[0]["status"] == status
    assert checks[0]["hint"]


def test_a_key_that_others_may_read(site):
    (site / "site" / "key.pem").chmod(0o644)
    code, checks = look("--credentials", "site")
    assert code == 2
    assert "key.pem" in errors(checks)[0]


def test_an_enrolment_of_another_authority(site):
    other = site / "other"
    other.mkdir()
    make(other)
    shutil.copy(other / "site" / "enrolment.json", site / "site")
    found, _ = of_client()
    assert any("enrolment.json" in line for line in found)


def test_a_client_without_an_enrolment_is_warned(site):
    (site / "site" / "enrolment.json").unlink()
    found, checks = of_client()
    assert found == []
    assert any("joins no secure sum" in c["message"] for c in checks)


def test_a_certificate_of_another_id(site):
    (site / "client.yaml").write_text(CLIENT.replace("id: hospital-a", "id: hospital-b"))
    found, _ = of_client()
    assert len(found) == 1
    assert "'hospital-b'" in found[0]


def test_a_policy_that_is_wrong_missing_open_to_others_or_empty(site):
    policy = site / "policy.yaml"
    policy.write_text("min_cohort: many\n")
    assert of_client()[0][0].startswith("policy: ")
    policy.write_text("min_cohort: 4\n")
    found, checks = of_client()
    assert found == []
    assert any("allows no task" in c["message"] for c in checks)
    policy.chmod(0o666)
    assert "others may write" in of_client()[0][0]
    (site / "client.yaml").write_text(CLIENT.replace("policy: policy.yaml", ""))
    assert "no site policy" in of_client()[0][0]


def test_data_that_cannot_be_read_or_is_not_as_declared(site):
    (site / "data.csv").write_text("x,y\n1,0\nsecond,1\n")
    assert "second" in of_client()[0][0]
    (site / "data.csv").unlink()
    assert of_client()[0][0].startswith("data: ")
    (site / "data.csv").write_text("x,y\n1,0\n")
    (site / "schema.yaml").write_text(
        "version: 1\ntarget: y\ncolumns:\n  - {name: age, type: number}\n"
        "  - {name: y, type: integer}\n"
    )
    (site / "client.yaml").write_text(CLIENT + "schema: schema.yaml\n")
    assert "age" in of_client()[0][0]


def test_a_state_folder_that_is_open_to_others(site):
    (site / "client.yaml").write_text(CLIENT + "state: kept\n")
    state = site / "kept"
    state.mkdir(mode=0o700)
    assert of_client()[0] == []
    key = state / "signing_key.pem"
    key.write_text("secret")
    key.chmod(0o644)
    assert "others may read it" in of_client()[0][0]
    key.chmod(0o600)
    state.chmod(0o777)
    assert "others may write" in of_client()[0][0]


def test_a_federation_file(site):
    file = site / "federation.yaml"
    file.write_text("rounds: 2\nmodel: {type: linear, input_dim: 2}\ntls: {folder: server}\n")
    code, checks = look("--config", file)
    assert (code, errors(checks)) == (0, [])
    assert {c["name"] for c in checks} == {
        "settings",
        "federation",
        "certificates",
        "storage",
        "storage: room",
        "storage: speed",
    }
    (site / "server" / "revoked.pem").unlink()
    code, checks = look("--config", file)
    assert code == 2
    assert "revoked.pem" in errors(checks)[0]
    file.write_text("rounds: 2\nmodel: {type: lineal}\n")
    code, checks = look("--config", file)
    assert code == 2
    assert [line.split(":")[0] for line in errors(checks)] == ["federation", "certificates"]
    assert look("--config", "nowhere.yaml")[0] == 2


def test_a_coordinator_that_is_not_there():
    for address, step in (("127.0.0.1:1", "port"), ("nowhere.invalid:1", "name")):
        done = RUN.invoke(app, ["doctor", "--coordinator", address, "--json"])
        last = json.loads(done.stdout)["checks"][-1]
        assert (done.exit_code, last["status"]) == (2, "error")
        assert last["name"] == f"coordinator: {step}"
        assert last["hint"]
