"""`choral pki`, command by command, as a federation is set up."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from choral.cli import pki
from choral.core.errors import CertificateError, ConfigError, Refused, UnknownName
from choral.pki.credentials import ClientFiles, ServerFiles, load_client, load_server
from choral.pki.names import Role

RUN = CliRunner()


class Folder:
    """Runs commands in a folder; `at` is the time that they see."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.at = datetime(2030, 1, 1, tzinfo=UTC)
        monkeypatch.chdir(path)
        monkeypatch.setattr(pki, "_now", lambda: self.at)

    def __call__(self, words):
        done = RUN.invoke(pki.app, words.split())
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done

    def json(self, words):
        return json.loads(self(words + " --json").stdout)


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Folder(tmp_path, monkeypatch)


@pytest.fixture
def heart(run):
    run("init a --name heart")
    run("coordinator a --name localhost --out server")
    run("request site --id hospital-a")
    return run


def test_a_federation_from_nothing(heart):
    heart("sign a site/request.json --out site/certificate.pem")
    heart("enroll a site/request.json --out site/enrolment.json")
    shutil.copy("server/federation.json", "site")
    server = load_server(ServerFiles.inside(heart.path / "server"), at=heart.at)
    client = load_client(ClientFiles.inside(heart.path / "site"), at=heart.at)
    assert server.federation == client.federation
    assert (client.tls.identity.id, client.federation.name) == ("hospital-a", "heart")


def test_authorities_on_two_machines(run):
    """Nothing of either authority but public files is where the other one is."""
    run("init ops --name heart --only tls")
    run("init trustee --only enrolment")
    with pytest.raises(CertificateError, match="no enrolment authority is known") as caught:
        run("coordinator ops --name localhost")
    assert "--enrolment" in caught.value.hint
    assert not (run.path / "ops" / "coordinator").exists()
    shutil.copy("trustee/enrolment/authority.pem", "public.pem")
    run("coordinator ops --name localhost --enrolment public.pem")
    run("request site --id hospital-a")
    run("sign ops site/request.json --out site/certificate.pem")
    run("enroll trustee site/request.json --out site/enrolment.json")
    shutil.copy("ops/coordinator/federation.json", "site")
    assert load_client(ClientFiles.inside(run.path / "site"), at=run.at).enrolment
    for words in ("enroll ops site/request.json", "sign trustee site/request.json"):
        with pytest.raises(CertificateError, match="holds no"):
            run(words)
    found = run.json("revoke ops hospital-a")
    assert (len(found["certificates"]), found["enrolments"]) == (1, [])
    found = run.json("revoke trustee hospital-a")
    assert (found["certificates"], len(found["enrolments"])) == ([], 1)
    assert found["revocation_list"] is None


@pytest.mark.parametrize(
    "words",
    [
        "coordinator a --name fl.example.org 10.0.0.7 ::1",
        "coordinator a --name fl.example.org --name 10.0.0.7 --name ::1",
    ],
)
def test_hosts_may_follow_one_name_or_have_one_each(run, words):
    run("init a")
    assert run.json(words)["hosts"] == ["fl.example.org", "10.0.0.7", "::1"]


def test_a_coordinator_needs_a_host(run):
    run("init a")
    done = RUN.invoke(pki.app, ["coordinator", "a"])
    assert done.exit_code == 2
    assert "--name" in done.output


def test_roles_are_given_by_name(heart):
    heart("request ruth --id ruth --role researcher")
    with pytest.raises(Refused, match="asks for the role researcher, not client"):
        heart("sign a ruth/request.json")
    found = heart.json("sign a ruth/request.json --role researcher --out ruth/certificate.pem")
    assert (found["id"], found["role"]) == ("ruth", "researcher")
    shutil.copy("server/federation.json", "ruth")
    files = ClientFiles.inside(heart.path / "ruth")
    assert load_client(files, at=heart.at, role=Role.RESEARCHER).tls.identity.id == "ruth"
    with pytest.raises(ConfigError, match="known: client, operator, researcher, auditor"):
        heart("request eve --id eve --role king")


def test_renewal_and_revocation(heart):
    first = heart.json("sign a site/request.json --days 30")
    assert first["end"] == "2030-01-31T00:00:00Z"
    with pytest.raises(Refused, match="--renew"):
        heart("sign a site/request.json")
    heart.at += timedelta(days=29)
    second = heart.json("sign a site/request.json --renew")
    assert second["end"] == "2031-01-30T00:00:00Z"
    found = heart.json("revoke a hospital-a")
    assert found["certificates"] == [first["serial"], second["serial"]]
    done = heart("revoke a hospital-a")
    assert "was revoked before" in done.stderr
    with pytest.raises(UnknownName, match="hospital-b"):
        heart("revoke a hospital-b")


def test_another_key_is_enrolled_by_name(heart):
    heart("enroll a site/request.json")
    heart("request again --id hospital-a")
    with pytest.raises(Refused, match="--replace"):
        heart("enroll a again/request.json")
    assert heart.json("enroll a again/request.json --replace")["id"] == "hospital-a"


def test_fingerprints_agree_across_commands(heart):
    import hashlib

    site = (heart.path / "site" / "request.json").read_bytes()
    digest = hashlib.sha256(site).hexdigest()
    assert heart.json("sign a site/request.json")["request_fingerprint"] == digest
    assert heart.json("enroll a site/request.json")["request_fingerprint"] == digest
    public = heart.json("init other")
    shown = heart.json("show other")["rows"]
    assert shown[0]["fingerprint"] == public["tls_fingerprint"]
    assert shown[1]["fingerprint"] == public["enrolment_key"]


def test_show_marks_what_expired_and_was_revoked(heart):
    heart("sign a site/request.json --days 10")
    heart("enroll a site/request.json")
    heart("request b --id hospital-b")
    heart("sign a b/request.json")
    heart("revoke a hospital-b")
    heart.at += timedelta(days=11)
    lines = heart("show a").stdout.splitlines()
    (expired,) = [line for line in lines if "expired" in line]
    (revoked,) = [line for line in lines if "revoked" in line]
    assert "hospital-a" in expired
    assert "-1" in expired
    assert "hospital-b" in revoked
    assert any(line.startswith("TLS authority of heart: valid, until 2039") for line in lines)
    assert any(line.startswith("enrolment authority: valid") for line in lines)
    rows = heart.json("show a")["rows"]
    assert [row["status"] for row in rows if row["id"] == "hospital-a"] == ["expired", "valid"]


def test_stdout_is_one_document_and_advice_is_on_stderr(run):
    done = run("init a --json")
    assert set(json.loads(done.stdout)) == {
        "federation",
        "tls",
        "end",
        "tls_fingerprint",
        "enrolment",
        "enrolment_key",
    }
    assert "somebody else than the coordinator's operator" in done.stderr
    assert run("init b --only tls").stderr == ""


def test_nothing_is_issued_where_it_could_not_be_written(heart):
    for out in ("site", "nowhere/certificate.pem"):
        with pytest.raises(CertificateError, match="--out"):
            heart(f"sign a site/request.json --out {out}")
        with pytest.raises(CertificateError, match="--out"):
            heart(f"enroll a site/request.json --out {out}")
    rows = heart.json("show a")["rows"]
    assert [row["id"] for row in rows if row["role"]] == ["coordinator"]


def test_keys_are_never_overwritten(heart):
    for words in (
        "init a",
        "init a --only tls",
        "coordinator a --name localhost --out server",
        "request site --id hospital-b",
    ):
        with pytest.raises(CertificateError, match="exists already"):
            heart(words)


@pytest.mark.parametrize("words", ["--days 0", "--days -1", "--days 36501", "--name a/b"])
def test_bad_values_are_named_and_make_nothing(run, words):
    with pytest.raises(ConfigError):
        run(f"init a {words}")
    assert not (run.path / "a").exists()
