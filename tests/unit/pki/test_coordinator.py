"""The coordinator's folder, and `federation.json`, by which everybody knows it."""

import json
import stat
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from choral.core.errors import CertificateError, ConfigError, Refused
from choral.pki import files, register
from choral.pki.credentials import load_server
from choral.pki.federation import load_federation, parse_federation


def body(heart):
    return json.loads((heart.coordinator / "federation.json").read_bytes())


def parse(fields):
    return parse_federation(json.dumps(fields).encode(), where="federation.json")


def test_the_folder(heart):
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in heart.coordinator.iterdir()}
    assert modes == {
        "certificate.pem": 0o644,
        "key.pem": 0o600,
        "signing_key.pem": 0o600,
        "revoked.pem": 0o644,
        "federation.json": 0o644,
    }
    assert stat.S_IMODE(heart.coordinator.stat().st_mode) == 0o700


def test_the_federation_file_holds_public_facts_alone(heart, now):
    found = load_federation(heart.coordinator / "federation.json", at=now)
    assert found == heart.federation
    assert found.name == "heart"
    assert found.tls_authority == heart.tls.certificate
    assert found.enrolment_authority == heart.enrolment.key.public
    assert found.coordinator == load_server(heart.server_files, at=now).signing_key.public
    assert "PRIVATE" not in (heart.coordinator / "federation.json").read_text()
    assert x509.load_pem_x509_certificate(found.authority) == heart.tls.certificate


def test_a_second_coordinator_needs_renew(heart, tmp_path):
    before = {p.name: p.read_bytes() for p in heart.coordinator.iterdir()}
    with pytest.raises(CertificateError, match=r"key\.pem exists already"):
        heart.issue_coordinator()
    with pytest.raises(Refused, match="'coordinator' has had a certificate"):
        heart.issue_coordinator(out=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert {p.name: p.read_bytes() for p in heart.coordinator.iterdir()} == before


def test_renewal_keeps_the_keys_and_the_federation_file(heart, now):
    before = {p.name: p.read_bytes() for p in heart.coordinator.iterdir()}
    at = now + timedelta(days=300)
    federation, certificate = heart.issue_coordinator(renew=True, at=at)
    assert certificate.not_valid_after_utc == at + timedelta(days=365)
    assert federation == heart.federation
    for name in ("key.pem", "signing_key.pem", "federation.json"):
        assert (heart.coordinator / name).read_bytes() == before[name]
    assert load_server(heart.server_files, at=at).tls.identity.serial == certificate.serial_number


def test_renewal_elsewhere_makes_new_keys(heart, tmp_path):
    federation, _ = heart.issue_coordinator(renew=True, out=tmp_path / "new")
    assert federation.coordinator != heart.federation.coordinator
    assert federation.enrolment_authority == heart.federation.enrolment_authority


@pytest.mark.parametrize("hosts", [(), ("*",), ("localhost", "bad host")])
def test_bad_hosts_make_nothing(heart, tmp_path, hosts):
    lines = register.read(heart.tls.register)
    with pytest.raises(ConfigError, match="host"):
        heart.issue_coordinator(renew=True, hosts=hosts, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert register.read(heart.tls.register) == lines


def test_who_enrols_is_not_the_coordinator(heart):
    fields = body(heart)
    with pytest.raises(CertificateError, match="the coordinator enrols its own clients"):
        parse({**fields, "enrolment_authority": fields["coordinator"]})


@pytest.mark.parametrize("name", ["enrolment_authority", "coordinator"])
@pytest.mark.parametrize("value", [bytes(32), b"\xff" * 32, bytes(31)])
def test_what_is_no_key_is_named(heart, name, value):
    with pytest.raises(CertificateError, match=f"`{name}`"):
        parse({**body(heart), name: value.hex()})


def test_another_name_than_the_authoritys_is_named(heart):
    with pytest.raises(CertificateError, match="name different federations"):
        parse({**body(heart), "name": "lung"})


def test_what_is_no_authority_is_named(heart):
    leaf = (heart.coordinator / "certificate.pem").read_text()
    for pem, words in (
        (leaf, "is no TLS authority"),
        ("", "no certificate in PEM form"),
        (body(heart)["tls_authority"] * 2, "holds 2 certificates, expected one"),
    ):
        with pytest.raises(CertificateError, match=words):
            parse({**body(heart), "tls_authority": pem})


def test_an_authority_that_did_not_sign_itself_is_named(heart):
    der = bytearray(heart.tls.certificate.public_bytes(Encoding.DER))
    der[-1] ^= 1
    spoiled = x509.load_der_x509_certificate(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(CertificateError, match="is no TLS authority"):
        parse({**body(heart), "tls_authority": spoiled})


@pytest.mark.parametrize(("days", "words"), [(3651, "expired"), (-1, "is not valid before")])
def test_an_authority_that_is_not_valid_is_named(heart, now, days, words):
    with pytest.raises(CertificateError, match=f"the TLS authority {words}"):
        load_federation(heart.coordinator / "federation.json", at=now + timedelta(days=days))


def test_a_missing_file_is_named(tmp_path, now):
    with pytest.raises(CertificateError, match=r"federation\.json is missing"):
        load_federation(tmp_path / "federation.json", at=now)


def test_the_fingerprint_changes_with_any_byte(heart):
    data = (heart.coordinator / "federation.json").read_bytes()
    other = parse_federation(data + b"\n", where="x")
    assert other.fingerprint != heart.federation.fingerprint
    assert len(other.fingerprint) == 64


def test_a_revoked_list_goes_into_the_folder_when_it_is_renewed(heart, now):
    from choral.pki import authorities

    serial = heart.party().certificate.serial_number
    authorities.revoke(heart.authorities, "hospital-a", at=now)
    assert load_server(heart.server_files, at=now).revoked == frozenset()
    data = files.read(heart.tls.folder / "revoked.pem")
    files.write(heart.coordinator / "revoked.pem", data)
    assert load_server(heart.server_files, at=now).revoked == {serial}
