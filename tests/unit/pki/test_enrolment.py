"""The enrolment authority: one key for one client, as secure aggregation believes it."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from choral.core.errors import CertificateError, Refused, UnknownName
from choral.pki import authorities, enrolment, files, keys, register
from choral.pki.names import Role
from choral.pki.register import Event
from choral.secagg.enrolment import check_enrolled
from choral.secagg.refusals import Breach


@pytest.fixture
def enrol(heart, now):
    def enrolled(request, **options):
        return enrolment.enrol(heart.enrolment, request, at=options.pop("at", now), **options)

    return enrolled


def test_secure_aggregation_accepts_an_enrolment(heart, enrol):
    request = heart.request("hospital-a")
    made = enrol(request)
    authority = heart.federation.enrolment_authority
    given = {"verify_key": request.verify_key, "enrolment": made.signature}
    check_enrolled(authority, client="hospital-a", **given)
    with pytest.raises(Breach):
        check_enrolled(authority, client="hospital-b", **given)


def test_the_file_is_read_back(heart, enrol):
    made = enrol(heart.request("hospital-a"))
    path = heart.enrolment.folder / "issued" / "hospital-a.json"
    assert enrolment.load_enrolment(path, authority=heart.enrolment.key.public) == made


def test_the_register_has_every_enrolment(heart, enrol, now):
    request = heart.request("hospital-a")
    enrol(request)
    (entry,) = register.read(heart.enrolment.register)
    assert (entry.event, entry.id, entry.at) == (Event.ENROLLED, "hospital-a", now)
    assert (entry.key, entry.serial, entry.end) == (request.verify_key.hex(), 0, None)


def test_the_same_key_again_changes_nothing(heart, enrol):
    request = heart.request("hospital-a")
    first = enrol(request)
    path = heart.enrolment.folder / "issued" / "hospital-a.json"
    path.unlink()
    assert enrol(request) == first
    assert path.exists()
    assert len(register.read(heart.enrolment.register)) == 1


def test_another_key_needs_replace_and_ends_the_first(heart, enrol, now):
    first = heart.request("hospital-a")
    second = heart.request("hospital-a", folder=heart.folder / "again")
    enrol(first)
    with pytest.raises(Refused, match="was enrolled with another key at 2030-01-01") as caught:
        enrol(second)
    assert "--replace" in caught.value.hint
    assert len(register.read(heart.enrolment.register)) == 1
    later = now + timedelta(days=1)
    assert enrol(second, replace=True, at=later).verify_key == second.verify_key
    held = register.held(register.read(heart.enrolment.register))
    assert [(h.entry.key, h.revoked) for h in held] == [
        (first.verify_key.hex(), later),
        (second.verify_key.hex(), None),
    ]
    with pytest.raises(Refused, match="was revoked"):
        enrol(first, replace=True)


def test_a_revoked_key_is_never_enrolled_again(heart, enrol, now):
    request = heart.request("hospital-a")
    enrol(request)
    authorities.revoke(heart.authorities, "hospital-a", at=now)
    with pytest.raises(Refused, match="the signing key of 'hospital-a' was revoked"):
        enrol(request, replace=True)
    fresh = heart.request("hospital-a", folder=heart.folder / "fresh")
    with pytest.raises(Refused, match="--replace"):
        enrol(fresh)
    assert enrol(fresh, replace=True).id == "hospital-a"


def test_one_key_is_one_clients(heart, enrol):
    enrol(heart.request("hospital-a"))
    mine = heart.request("hospital-b")
    taken = register.read(heart.enrolment.register)[0].key
    thief = replace(mine, verify_key=bytes.fromhex(taken))
    with pytest.raises(Refused, match="that signing key belongs to 'hospital-a'"):
        enrol(thief)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.RESEARCHER, Role.AUDITOR])
def test_only_clients_are_enrolled(heart, enrol, role):
    with pytest.raises(Refused, match="only clients are enrolled"):
        enrol(heart.request("ruth", role=role))
    assert register.read(heart.enrolment.register) == []


def test_revoking_nobody_is_named(heart, now):
    with pytest.raises(UnknownName, match="no enrolment of 'a'"):
        enrolment.revoke_enrolment(heart.enrolment, "a", at=now)


def test_an_authority_with_another_key_is_not_opened(heart):
    files.write(
        heart.enrolment.folder / "key.pem", keys.private_pem(keys.new_signing_key()), private=True
    )
    with pytest.raises(CertificateError, match=r"is not the key of authority\.pem"):
        enrolment.open_enrolment(heart.authorities)


def test_the_file_of_another_authority_is_named(heart, make):
    party = heart.party()
    other = make("other").enrolment.key.public
    with pytest.raises(CertificateError, match="of another enrolment authority"):
        enrolment.load_enrolment(party.files.enrolment, authority=other)


@pytest.mark.parametrize("field", ["id", "verify_key", "signature"])
def test_a_changed_file_is_named(heart, field):
    party = heart.party()
    body = json.loads(party.files.enrolment.read_bytes())
    other = keys.signing_key(keys.new_signing_key()).public
    body[field] = {"id": "eve", "verify_key": other.hex(), "signature": bytes(64).hex()}[field]
    party.files.enrolment.write_text(json.dumps(body))
    with pytest.raises(CertificateError, match="did not sign it"):
        enrolment.load_enrolment(party.files.enrolment, authority=heart.enrolment.key.public)
