"""Loading what a process needs: every fault has its name, and `check` finds what `load` refuses."""

import json
import os
from dataclasses import replace
from datetime import timedelta

import pytest

from choral.core.errors import CertificateError
from choral.pki import authorities, enrolment, files, keys, tls
from choral.pki.certificates import pem
from choral.pki.check import Level, check
from choral.pki.credentials import ClientFiles, load_client, load_server
from choral.pki.names import Role
from choral.secagg.enrolment import check_enrolled


def copy(source, target):
    files.write(target, source.read_bytes(), private="key" in target.name)


def test_a_client_is_who_its_files_say(heart, now):
    party = heart.party()
    mine = load_client(party.files, at=now)
    assert mine.federation == heart.federation
    assert (mine.tls.identity.id, mine.tls.identity.role) == ("hospital-a", Role.CLIENT)
    assert mine.tls.certificate == pem(party.certificate)
    assert mine.tls.authority == pem(heart.tls.certificate)
    assert mine.tls.key == party.files.key.read_bytes()
    assert mine.signing_key.public == party.request.verify_key
    check_enrolled(
        mine.federation.enrolment_authority,
        client="hospital-a",
        verify_key=mine.signing_key.public,
        enrolment=mine.enrolment,
    )
    assert check(party.files, at=now) == []


def test_the_coordinator_is_who_its_files_say(heart, now):
    mine = load_server(heart.server_files, at=now)
    assert mine.tls.identity.role == Role.COORDINATOR
    assert mine.signing_key.public == heart.federation.coordinator
    assert mine.revoked == frozenset()
    assert check(heart.server_files, at=now) == []


def test_credentials_do_not_show_their_keys(heart, now):
    for mine in (
        load_server(heart.server_files, at=now),
        load_client(heart.party().files, at=now),
    ):
        assert "PRIVATE" not in repr(mine)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.RESEARCHER, Role.AUDITOR])
def test_other_roles_need_no_enrolment(heart, now, role):
    party = heart.party("ruth", role=role)
    mine = load_client(party.files, at=now, role=role)
    assert (mine.tls.identity.role, mine.signing_key, mine.enrolment) == (role, None, b"")
    assert check(party.files, at=now, role=role) == []


def test_a_client_may_do_without_an_enrolment_if_it_says_so(heart, now):
    party = heart.party()
    party.files.enrolment.unlink()
    assert load_client(party.files, at=now, enrolled=False).signing_key is None
    assert check(party.files, at=now, enrolled=False) == []


# --- a client's faults ----------------------------------------------------------------------------


def other_key(party, heart):
    copy(heart.party("hospital-b").files.key, party.files.key)


def other_signing_key(party, heart):
    copy(heart.party("hospital-b").files.signing_key, party.files.signing_key)


def other_enrolment(party, heart):
    copy(heart.party("hospital-b").files.enrolment, party.files.enrolment)


def replaced(party, heart):
    """The certificate of another id, with its own key."""
    other = heart.party("hospital-b").files
    copy(other.certificate, party.files.certificate)
    copy(other.key, party.files.key)


def both_roles(party, heart):
    other = heart.party("ruth", role=Role.RESEARCHER).files
    copy(other.certificate, party.files.certificate)
    copy(other.key, party.files.key)


def forged(party, heart):
    body = json.loads(party.files.enrolment.read_bytes())
    body["signature"] = bytes(64).hex()
    party.files.enrolment.write_text(json.dumps(body))


def encrypted(party, heart):
    from cryptography.hazmat.primitives import serialization as s

    key = keys.load_tls_key(party.files.key)
    locked = s.BestAvailableEncryption(b"secret")
    data = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked)
    files.write(party.files.key, data, private=True)


CLIENT_FAULTS = {
    "no federation": (lambda p, h: p.files.federation.unlink(), "federation.json is missing"),
    "no certificate": (lambda p, h: p.files.certificate.unlink(), "certificate.pem is missing"),
    "no key": (lambda p, h: p.files.key.unlink(), "key.pem is missing"),
    "no signing key": (lambda p, h: p.files.signing_key.unlink(), "signing_key.pem is missing"),
    "no enrolment": (lambda p, h: p.files.enrolment.unlink(), "enrolment.json is missing"),
    "a folder": (
        lambda p, h: (p.files.key.unlink(), p.files.key.mkdir(mode=0o700)),
        "key.pem is not a file",
    ),
    "a link to nowhere": (
        lambda p, h: (p.files.key.unlink(), p.files.key.symlink_to("nowhere")),
        "key.pem is missing",
    ),
    "open key": (lambda p, h: p.files.key.chmod(0o644), "/key.pem is a private key that others"),
    "group key": (lambda p, h: p.files.key.chmod(0o640), "mode 0640, expected 0600"),
    "open signing key": (
        lambda p, h: p.files.signing_key.chmod(0o604),
        "signing_key.pem is a private key that others may read",
    ),
    "encrypted key": (encrypted, "key.pem is encrypted"),
    "no PEM": (
        lambda p, h: files.write(p.files.key, b"secret", private=True),
        "key.pem holds no private key in PEM form",
    ),
    "the wrong kind of key": (
        lambda p, h: copy(p.files.signing_key, p.files.key),
        "key.pem holds no ECDSA key over P-256",
    ),
    "the wrong kind of signing key": (
        lambda p, h: copy(p.files.key, p.files.signing_key),
        "signing_key.pem holds no Ed25519 key",
    ),
    "no certificate in it": (
        lambda p, h: files.write(p.files.certificate, b"x"),
        "holds no certificate in PEM form",
    ),
    "the authority's certificate": (
        lambda p, h: copy(h.tls.folder / "authority.pem", p.files.certificate),
        "certificate.pem: the certificate",
    ),
    "another key": (other_key, "key.pem is not the key of .*certificate.pem"),
    "another signing key": (other_signing_key, "enrols another key than"),
    "another's enrolment": (other_enrolment, "enrols another key than"),
    "another's certificate": (replaced, "is of 'hospital-a', the certificate of 'hospital-b'"),
    "another role": (both_roles, "has the role researcher in 'heart', expected client"),
    "a forged enrolment": (forged, "did not sign it"),
}


@pytest.mark.parametrize("fault", CLIENT_FAULTS)
def test_a_clients_fault_has_its_name(heart, now, fault):
    party = heart.party()
    spoil, words = CLIENT_FAULTS[fault]
    spoil(party, heart)
    with pytest.raises(CertificateError, match=words) as caught:
        load_client(party.files, at=now)
    assert caught.value.hint or fault in {"a folder", "no PEM", "no certificate in it"}
    assert "secret" not in str(caught.value)
    found = check(party.files, at=now)
    assert caught.value.message in [f.message for f in found if f.level == Level.ERROR]


@pytest.mark.parametrize("name", ["certificate", "federation", "enrolment"])
def test_a_file_of_a_twin_federation_has_its_name(heart, make, now, name):
    """Another authority of the same name: a wrong copy, or somebody who pretends."""
    party, twin = heart.party(), make("twin", name="heart").party()
    copy(getattr(twin.files, name), getattr(party.files, name))
    words = {
        "certificate": "certificate.pem was not issued by this federation's TLS authority",
        "federation": "certificate.pem was not issued by this federation's TLS authority",
        "enrolment": "enrolment.json is of another enrolment authority",
    }
    with pytest.raises(CertificateError, match=words[name]):
        load_client(party.files, at=now)
    assert words[name] in " ".join(f.message for f in check(party.files, at=now))


def test_a_coordinator_that_swaps_the_enrolment_authority_is_found_out(heart, make, now):
    """The site's own enrolment, from the true authority, does not fit the swapped file."""
    party = heart.party()
    body = json.loads(party.files.federation.read_bytes())
    body["enrolment_authority"] = make("evil").enrolment.key.public.hex()
    party.files.federation.write_text(json.dumps(body))
    with pytest.raises(CertificateError, match="another enrolment authority") as caught:
        load_client(party.files, at=now)
    assert "not the coordinator's" in caught.value.hint


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (366, "certificate.pem expired at 2031-01-01"),
        (-1, "TLS authority is not valid before 2029-12-31"),
        (4000, "the TLS authority expired"),
    ],
)
def test_dates_have_their_names(heart, now, days, words):
    party, at = heart.party(), now + timedelta(days=days)
    for load, where in ((load_client, party.files), (load_server, heart.server_files)):
        with pytest.raises(CertificateError, match=words):
            load(where, at=at)
        assert words.split("/")[-1] in " ".join(f.message for f in check(where, at=at))


def test_a_certificate_that_begins_later_is_named(heart, now):
    party = heart.party(at=now + timedelta(days=10))
    with pytest.raises(CertificateError, match=r"certificate\.pem is not valid before 2030-01-10"):
        load_client(party.files, at=now)


# --- the coordinator's faults ---------------------------------------------------------------------


def foreign_list(heart, make):
    copy(make("twin", name="heart").tls.folder / "revoked.pem", heart.server_files.revoked)


def client_certificate(heart, make):
    party = heart.party()
    copy(party.files.certificate, heart.server_files.certificate)
    copy(party.files.key, heart.server_files.key)


def new_signing_key(heart, make):
    key = keys.private_pem(keys.new_signing_key())
    files.write(heart.server_files.signing_key, key, private=True)


def revoked_itself(heart, make):
    authorities.revoke(heart.authorities, "coordinator", at=heart.at)
    copy(heart.tls.folder / "revoked.pem", heart.server_files.revoked)


SERVER_FAULTS = {
    "no list": (lambda h, m: h.server_files.revoked.unlink(), "revoked.pem is missing"),
    "no list in it": (
        lambda h, m: files.write(h.server_files.revoked, b"x"),
        "no revocation list in PEM form",
    ),
    "another's list": (foreign_list, "revocation list of another authority"),
    "a client's certificate": (client_certificate, "has the role client in 'heart', expected coor"),
    "another signing key": (new_signing_key, "is not the coordinator's key of"),
    "open key": (lambda h, m: h.server_files.key.chmod(0o644), "others may read"),
    "no federation": (lambda h, m: h.server_files.federation.unlink(), "federation.json is missi"),
    "revoked": (revoked_itself, "certificate.pem was revoked"),
}


@pytest.mark.parametrize("fault", SERVER_FAULTS)
def test_the_coordinators_fault_has_its_name(heart, make, now, fault):
    spoil, words = SERVER_FAULTS[fault]
    spoil(heart, make)
    with pytest.raises(CertificateError, match=words) as caught:
        load_server(heart.server_files, at=now)
    found = check(heart.server_files, at=now)
    assert caught.value.message in [f.message for f in found if f.level == Level.ERROR]


# --- check ----------------------------------------------------------------------------------------


def test_check_finds_several_faults_at_once(heart, now):
    party = heart.party()
    party.files.key.chmod(0o644)
    party.files.enrolment.unlink()
    at = now + timedelta(days=366)
    messages = " / ".join(f.message for f in check(party.files, at=at))
    for words in ("certificate.pem expired", "others may read", "enrolment.json is missing"):
        assert words in messages


def test_check_looks_at_keys_even_without_a_federation(heart, now):
    party = heart.party()
    party.files.federation.unlink()
    party.files.signing_key.chmod(0o644)
    found = [f.message for f in check(party.files, at=now)]
    assert len(found) == 2
    assert "signing_key.pem is a private key that others may read" in found[1]


@pytest.mark.parametrize(("left", "expected"), [(30, []), (29, [29]), (0, [0])])
def test_check_warns_before_an_expiry(heart, now, left, expected):
    party = heart.party()
    found = check(party.files, at=now + timedelta(days=365 - left))
    assert [f.level for f in found] == [Level.WARNING] * len(expected)
    for finding, days in zip(found, expected, strict=True):
        assert f"certificate.pem expires in {days} days, at 2031-01-01" in finding.message


def test_check_warns_of_the_authoritys_end(heart, now):
    party = heart.party(at=now + timedelta(days=3640))
    found = check(party.files, at=now + timedelta(days=3640))
    assert [f.level for f in found] == [Level.WARNING] * 2
    assert found[0].message.startswith("the TLS authority expires in 10 days")


def test_a_renewed_and_a_replaced_client_load(heart, now):
    """The way back after a revocation: new keys, --renew, --replace."""
    heart.party()
    authorities.revoke(heart.authorities, "hospital-a", at=now)
    folder = heart.folder / "fresh"
    request = heart.request("hospital-a", folder=folder)
    certificate = tls.sign(heart.tls, request, at=now, renew=True)
    made = enrolment.enrol(heart.enrolment, request, at=now, replace=True)
    files.write(folder / "certificate.pem", pem(certificate))
    files.write(folder / "enrolment.json", enrolment.write_enrolment(made))
    copy(heart.coordinator / "federation.json", folder / "federation.json")
    assert load_client(ClientFiles.inside(folder), at=now).tls.identity.id == "hospital-a"


def test_files_may_be_anywhere(heart, now, tmp_path):
    party = heart.party()
    elsewhere = tmp_path / "secrets"
    os.mkdir(elsewhere)
    party.files.key.rename(elsewhere / "tls")
    moved = replace(party.files, key=elsewhere / "tls")
    assert load_client(moved, at=now).tls.identity.id == "hospital-a"
