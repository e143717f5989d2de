"""The TLS authority: what it issues, what it refuses, what it records and revokes."""

import fcntl
import stat
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from choral.core.errors import CertificateError, ConfigError, Refused, UnknownName
from choral.pki import authorities, enrolment, files, register, requests, tls
from choral.pki.certificates import fingerprint
from choral.pki.names import REQUESTED, Role
from choral.pki.register import Event


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def crl(heart):
    return x509.load_pem_x509_crl((heart.tls.folder / "revoked.pem").read_bytes())


def serials(heart):
    return {entry.serial_number for entry in crl(heart)}


def test_the_folders_and_their_modes(heart):
    folders = [heart.authorities, *(p for p in heart.authorities.rglob("*") if p.is_dir())]
    assert {stat.S_IMODE(p.stat().st_mode) for p in folders} == {0o700}
    private = list(heart.folder.rglob("*key.pem"))
    assert len(private) == 4
    assert {stat.S_IMODE(p.stat().st_mode) for p in private} == {0o600}
    assert not list(heart.folder.rglob(".*"))


def test_the_authority_is_one_and_no_more(heart):
    found = heart.tls.certificate
    constraints, usage = extension(found, x509.BasicConstraints), extension(found, x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert not usage.value.digital_signature
    assert found.public_key().curve.name == "secp256r1"
    assert heart.tls.federation == "heart"


def test_the_authorities_have_nothing_in_common(heart):
    assert heart.tls.key.public_key() != heart.enrolment.key.public
    names = {p.name for p in heart.authorities.iterdir()}
    assert names == {"tls", "enrolment"}


@pytest.mark.parametrize("only", ["tls", "enrolment"])
def test_one_authority_alone(tmp_path, now, only):
    made = authorities.init(tmp_path / "a", federation="heart", at=now, only=only)
    assert [p.name for p in (tmp_path / "a").iterdir()] == [only]
    assert [one is None for one in made] == [only != "tls", only != "enrolment"]


def test_an_authority_is_never_overwritten(tmp_path, now):
    authorities.init(tmp_path / "a", federation="heart", at=now, only="enrolment")
    before = (tmp_path / "a" / "enrolment" / "key.pem").read_bytes()
    with pytest.raises(CertificateError, match="enrolment exists already"):
        authorities.init(tmp_path / "a", federation="heart", at=now)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["enrolment"]
    assert (tmp_path / "a" / "enrolment" / "key.pem").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [{"federation": "a/b"}, {"federation": ""}, {"days": 0}, {"days": 36_501}, {"only": "both"}],
)
def test_bad_arguments_make_nothing(tmp_path, now, options):
    with pytest.raises(ConfigError):
        authorities.init(tmp_path / "a", **{"federation": "heart", "at": now, **options})
    assert not (tmp_path / "a" / "tls").exists()


@pytest.mark.parametrize("role", REQUESTED)
def test_a_certificate_says_who_and_what_for(heart, role):
    found = heart.party("hospital-a", role=role).certificate
    purposes = extension(found, x509.ExtendedKeyUsage).value
    names = extension(found, x509.SubjectAlternativeName).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [name.value for name in names] == [f"choral://heart/{role}/hospital-a"]
    assert found.subject.rfc4514_string() == f"CN=hospital-a,OU={role},O=heart"
    assert not extension(found, x509.BasicConstraints).value.ca
    usage = extension(found, x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign


def test_the_coordinators_certificate_has_its_hosts(heart):
    names = extension(heart.certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    purposes = extension(heart.certificate, x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_dates(heart, now):
    found = heart.party(days=10).certificate
    assert found.not_valid_before_utc == now - timedelta(hours=1)
    assert found.not_valid_after_utc == now + timedelta(days=10)


def test_a_certificate_never_outlives_its_authority(heart, now):
    at = now + timedelta(days=3600)
    found = heart.party(at=at).certificate
    assert found.not_valid_after_utc == heart.tls.certificate.not_valid_after_utc
    assert found.not_valid_after_utc == now + timedelta(days=3650)


@pytest.mark.parametrize(("days", "words"), [(3651, "expired"), (-1, "is not valid before")])
def test_an_authority_that_is_not_valid_issues_nothing(heart, now, days, words):
    with pytest.raises(CertificateError, match=f"the TLS authority {words}"):
        heart.party(at=now + timedelta(days=days))
    assert not (heart.tls.folder / "issued" / "hospital-a.pem").exists()


def test_the_register_has_every_certificate(heart, now):
    found = heart.party().certificate
    first, second = register.read(heart.tls.register)
    assert (first.event, first.id, first.role) == (Event.ISSUED, "coordinator", "coordinator")
    assert (second.event, second.id, second.role) == (Event.ISSUED, "hospital-a", "client")
    assert second.serial == found.serial_number
    assert second.fingerprint == fingerprint(found)
    assert (second.at, second.end) == (now, found.not_valid_after_utc)
    kept = (heart.tls.folder / "issued" / "hospital-a.pem").read_bytes()
    assert x509.load_pem_x509_certificate(kept) == found


def test_the_record_comes_before_the_certificate(heart, monkeypatch):
    """After a crash there may be a line without a certificate, never the other way round."""
    request = heart.request("hospital-a")

    def crash(path, data, **_):
        raise CertificateError(f"no {path.name}")

    monkeypatch.setattr(files, "write", crash)
    with pytest.raises(CertificateError, match=r"no hospital-a\.pem"):
        tls.sign(heart.tls, request, at=heart.at)
    assert [e.id for e in register.read(heart.tls.register)] == ["coordinator", "hospital-a"]


def test_a_second_certificate_needs_renew(heart, now):
    request = heart.party().request
    with pytest.raises(Refused, match="'hospital-a' has had a certificate, valid until 2031"):
        tls.sign(heart.tls, request, at=now)
    again = tls.sign(heart.tls, request, at=now + timedelta(days=300), renew=True)
    assert again.not_valid_after_utc == now + timedelta(days=665)
    kept = (heart.tls.folder / "issued" / "hospital-a.pem").read_bytes()
    assert x509.load_pem_x509_certificate(kept) == again


def test_a_request_cannot_give_itself_a_role(heart, now):
    request = heart.request("eve", role=Role.OPERATOR)
    with pytest.raises(Refused, match="'eve' asks for the role operator, not client") as caught:
        tls.sign(heart.tls, request, at=now)
    assert "--role operator" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot be requested"):
        tls.sign(heart.tls, request, at=now, role=Role.COORDINATOR)
    assert [e.id for e in register.read(heart.tls.register)] == ["coordinator"]


def test_an_id_keeps_its_role(heart, now):
    heart.party("eve")
    request = heart.request("eve", role=Role.OPERATOR, folder=heart.folder / "eve2")
    with pytest.raises(Refused, match="'eve' has the role client, and cannot change to operator"):
        tls.sign(heart.tls, request, at=now, role=Role.OPERATOR, renew=True)


def test_ids_that_differ_by_case_alone_are_refused(heart, now):
    heart.party("hospital-a")
    request = heart.request("Hospital-A")
    with pytest.raises(Refused, match="by case alone"):
        tls.sign(heart.tls, request, at=now)


def test_one_key_is_one_partys(heart, now):
    key = requests.keys.load_tls_key(heart.party().files.key)
    with pytest.raises(Refused, match="that TLS key belongs to 'hospital-a'"):
        tls.issue_party(
            heart.tls,
            key.public_key(),
            role=Role.CLIENT,
            id="hospital-b",
            at=now,
            days=1,
            renew=False,
        )


def test_the_register_is_held_from_reading_to_writing(heart, now, monkeypatch):
    """Two commands at once cannot both find that an id has no certificate."""
    held = []

    def note(function):
        def wrapped(*arguments, **options):
            with heart_register.open("rb") as other:
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held.append(False)
                except BlockingIOError:
                    held.append(True)
            return function(*arguments, **options)

        return wrapped

    request = heart.request("hospital-a")
    for name in ("read", "append"):
        monkeypatch.setattr(register, name, note(getattr(register, name)))
    heart_register = heart.tls.register
    tls.sign(heart.tls, request, at=now)
    tls.revoke_certificates(heart.tls, "hospital-a", at=now)
    heart_register = heart.enrolment.register
    enrolment.enrol(heart.enrolment, request, at=now)
    enrolment.revoke_enrolment(heart.enrolment, "hospital-a", at=now)
    assert held == [True] * 8


def test_revoked_certificates_are_listed_and_signed(heart, now):
    assert serials(heart) == set()
    first = heart.party("hospital-a")
    other = heart.party("hospital-b").certificate
    again = tls.sign(heart.tls, first.request, at=now, renew=True)
    later = now + timedelta(days=5)
    done = authorities.revoke(heart.authorities, "hospital-a", at=later)
    assert [e.serial for e in done.certificates] == [
        first.certificate.serial_number,
        again.serial_number,
    ]
    assert [e.key for e in done.enrolments] == [first.request.verify_key.hex()]
    assert serials(heart) == {first.certificate.serial_number, again.serial_number}
    assert other.serial_number not in serials(heart)
    assert crl(heart).is_signature_valid(heart.tls.certificate.public_key())
    assert {e.revocation_date_utc for e in crl(heart)} == {later}
    assert crl(heart).next_update_utc == heart.tls.certificate.not_valid_after_utc


def test_lists_have_rising_numbers_and_keep_what_is_in_them(heart, now):
    gone = [heart.party(who).certificate.serial_number for who in ("a", "b")]
    numbers = [extension(crl(heart), x509.CRLNumber).value.crl_number]
    for who in ("a", "b"):
        authorities.revoke(heart.authorities, who, at=now)
        numbers.append(extension(crl(heart), x509.CRLNumber).value.crl_number)
    assert serials(heart) == set(gone)
    assert numbers == [1, 2, 3]


def test_revoking_again_writes_the_list_anew_and_no_line(heart, now):
    """A crash may come between the register and the list."""
    empty = (heart.tls.folder / "revoked.pem").read_bytes()
    serial = heart.party().certificate.serial_number
    authorities.revoke(heart.authorities, "hospital-a", at=now)
    lines = register.read(heart.tls.register)
    (heart.tls.folder / "revoked.pem").write_bytes(empty)
    done = authorities.revoke(heart.authorities, "hospital-a", at=now)
    assert done == authorities.Revocation([], [])
    assert serials(heart) == {serial}
    assert register.read(heart.tls.register) == lines


def test_a_revoked_key_is_never_certified_again(heart, now):
    party = heart.party()
    authorities.revoke(heart.authorities, "hospital-a", at=now)
    with pytest.raises(Refused, match="the key of 'hospital-a' was revoked at 2030-01-01"):
        tls.sign(heart.tls, party.request, at=now, renew=True)
    fresh = heart.request("hospital-a", folder=heart.folder / "fresh")
    with pytest.raises(Refused, match="--renew"):
        tls.sign(heart.tls, fresh, at=now)
    assert tls.sign(heart.tls, fresh, at=now, renew=True).serial_number not in serials(heart)


def test_revoking_nobody_is_named(heart, now, tmp_path):
    heart.party("hospital-a")
    before = register.read(heart.tls.register)
    with pytest.raises(UnknownName, match="no certificate of 'hospital-b'") as caught:
        authorities.revoke(heart.authorities, "hospital-b", at=now)
    assert "`hospital-a`" in caught.value.hint
    assert register.read(heart.tls.register) == before
    with pytest.raises(CertificateError, match="holds no TLS authority"):
        authorities.revoke(tmp_path / "elsewhere", "a", at=now)


def test_who_has_a_certificate_and_no_enrolment_can_be_revoked(heart, now):
    serial = heart.party("ruth", role=Role.RESEARCHER).certificate.serial_number
    done = authorities.revoke(heart.authorities, "ruth", at=now)
    assert ([e.serial for e in done.certificates], done.enrolments) == ([serial], [])


def test_an_authority_with_another_key_is_not_opened(heart, make):
    other = make("other")
    files.write(
        heart.tls.folder / "key.pem",
        (other.tls.folder / "key.pem").read_bytes(),
        private=True,
    )
    with pytest.raises(CertificateError, match=r"is not the key of authority\.pem"):
        tls.open_tls(heart.authorities)


def test_a_spoiled_register_is_named_and_stops_everything(heart, now):
    request = heart.request("hospital-a")
    with heart.tls.register.open("ab") as file:
        file.write(b'{"event": "issued"}\n')
    with pytest.raises(CertificateError, match=r"register\.jsonl, line 2: not a line"):
        tls.sign(heart.tls, request, at=now)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"1", b'{"event":"x"}', b"\xff", b"[" * 50_000])
def test_lines_that_make_no_sense_are_named(tmp_path, line):
    path = tmp_path / "register.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(CertificateError, match="line 1"):
        register.read(path)
