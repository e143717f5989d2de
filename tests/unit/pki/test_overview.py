"""What `choral pki show` shows, as rows."""

from datetime import timedelta

import pytest

from choral.core.errors import CertificateError
from choral.pki import authorities
from choral.pki.names import Role
from choral.pki.overview import Status, overview


def rows(heart, at):
    return [
        (r.kind, r.id, r.role, str(r.status), r.days_left)
        for r in overview(heart.authorities, at=at)
    ]


def test_rows_in_order(heart, now):
    heart.party("hospital-a")
    heart.party("ruth", role=Role.RESEARCHER, days=20)
    assert rows(heart, now) == [
        ("TLS authority", "heart", "", "valid", 3650),
        ("certificate", "coordinator", "coordinator", "valid", 365),
        ("certificate", "hospital-a", "client", "valid", 365),
        ("certificate", "ruth", "researcher", "expires soon", 20),
        ("enrolment authority", "", "", "valid", None),
        ("enrolment", "hospital-a", "client", "valid", None),
    ]


def test_expired_and_revoked_are_marked(heart, now):
    heart.party("hospital-a", days=10)
    heart.party("hospital-b")
    authorities.revoke(heart.authorities, "hospital-b", at=now)
    found = rows(heart, now + timedelta(days=11))
    assert found[2:] == [
        ("certificate", "hospital-a", "client", "expired", -1),
        ("certificate", "hospital-b", "client", "revoked", 354),
        ("enrolment authority", "", "", "valid", None),
        ("enrolment", "hospital-a", "client", "valid", None),
        ("enrolment", "hospital-b", "client", "revoked", None),
    ]


@pytest.mark.parametrize(
    ("days", "status"), [(-1, Status.EARLY), (3640, Status.SOON), (3651, Status.EXPIRED)]
)
def test_the_authoritys_own_dates(heart, now, days, status):
    assert overview(heart.authorities, at=now + timedelta(days=days))[0].status == status


def test_fingerprints_are_those_that_others_see(heart, now):
    from choral.pki.certificates import fingerprint

    party = heart.party()
    found = overview(heart.authorities, at=now)
    assert found[0].fingerprint == fingerprint(heart.tls.certificate)
    assert found[2].fingerprint == fingerprint(party.certificate)
    assert found[3].fingerprint == heart.enrolment.key.public.hex()
    assert found[4].fingerprint == party.request.verify_key.hex()


def test_private_keys_are_not_needed(heart, now):
    for key in heart.authorities.rglob("key.pem"):
        key.unlink()
    assert len(overview(heart.authorities, at=now)) == 3


def test_json_is_plain(heart, now):
    import json

    first = overview(heart.authorities, at=now)[0].as_json()
    assert json.loads(json.dumps(first)) == first
    assert first["end"] == "2039-12-30T00:00:00Z"
    assert first["status"] == "valid"


def test_a_folder_without_authorities_is_named(tmp_path, now):
    with pytest.raises(CertificateError, match="holds no authority"):
        overview(tmp_path, at=now)
