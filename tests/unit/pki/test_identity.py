"""From a peer's certificate to an id and a role; whatever is odd lets nobody in."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.oid import NameOID

from choral.core.errors import Refused
from choral.pki import authorities, keys
from choral.pki.certificates import fingerprint, load_revoked, pem
from choral.pki.identity import admit, identity_of
from choral.pki.names import REQUESTED, Role

URI = "choral://heart/client/hospital-a"


def odd(
    *,
    uris=(URI,),
    dns=(),
    purposes=(Purpose.CLIENT_AUTH,),
    ca=False,
    leave_out=(),
    signer=None,
    issuer=None,
):
    """Return a certificate with whatever is asked for, in PEM form."""
    key = keys.new_tls_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital-a")])
    start = datetime(2029, 12, 31, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=365))
    )
    names = [x509.UniformResourceIdentifier(u) for u in uris] + [x509.DNSName(d) for d in dns]
    extensions = {
        "constraints": x509.BasicConstraints(ca=ca, path_length=None),
        "names": x509.SubjectAlternativeName(names) if names else None,
        "purposes": x509.ExtendedKeyUsage(purposes) if purposes else None,
    }
    for which, extension in extensions.items():
        if extension is not None and which not in leave_out:
            builder = builder.add_extension(extension, critical=which == "constraints")
    return pem(builder.sign(signer or key, hashes.SHA256()))


def test_the_odd_one_is_good_where_nothing_is_odd():
    assert identity_of(odd()).id == "hospital-a"


@pytest.mark.parametrize("role", REQUESTED)
def test_who_and_what(heart, now, role):
    found = heart.party("hospital-a", role=role).certificate
    who = identity_of(pem(found))
    assert (who.federation, who.role, who.id) == ("heart", role, "hospital-a")
    assert (who.serial, who.fingerprint) == (found.serial_number, fingerprint(found))
    assert (who.start, who.end) == (now - timedelta(hours=1), now + timedelta(days=365))


def test_the_coordinator(heart):
    who = identity_of(pem(heart.certificate))
    assert (who.role, who.id) == (Role.COORDINATOR, "coordinator")


ODD = {
    "no URI": {"uris": (), "dns": ("hospital-a",)},
    "no names": {"uris": ()},
    "two URIs": {"uris": (URI, "choral://heart/operator/hospital-a")},
    "one URI twice": {"uris": (URI, URI)},
    "another URI beside": {"uris": ("https://example.org", URI)},
    "a host beside": {"dns": ("localhost",)},
    "a foreign URI": {"uris": ("spiffe://heart/client/hospital-a",)},
    "an unknown role": {"uris": ("choral://heart/root/hospital-a",)},
    "a path": {"uris": ("choral://heart/client/../operator/a",)},
    "the coordinator's id": {"uris": ("choral://heart/client/coordinator",)},
    "no purpose": {"purposes": ()},
    "a server's purpose": {"purposes": (Purpose.SERVER_AUTH,)},
    "both purposes": {"purposes": (Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH)},
    "any purpose": {"purposes": (Purpose.ANY_EXTENDED_KEY_USAGE,)},
    "an authority": {"ca": True},
    "no constraints": {"leave_out": ("constraints",)},
    "a coordinator without hosts": {
        "uris": ("choral://heart/coordinator/coordinator",),
        "purposes": (Purpose.SERVER_AUTH,),
    },
    "a coordinator that is a client": {
        "uris": ("choral://heart/coordinator/coordinator",),
        "dns": ("localhost",),
    },
}


@pytest.mark.parametrize("which", ODD)
def test_odd_certificates_name_nobody(which):
    with pytest.raises(Refused):
        identity_of(odd(**ODD[which]))


@pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\xff"])
def test_what_is_no_certificate_names_nobody(data):
    with pytest.raises(Refused, match="no certificate in PEM form"):
        identity_of(data)


def test_two_certificates_name_nobody(heart):
    mine = pem(heart.party().certificate)
    with pytest.raises(Refused, match="holds 2 certificates"):
        identity_of(mine + mine)


@pytest.fixture
def let_in(heart, now):
    def admitted(certificate, **options):
        given = {"federation": heart.federation, "revoked": frozenset(), "at": now, **options}
        return admit(certificate, **given)

    return admitted


def test_who_has_a_certificate_is_let_in(heart, let_in):
    party = heart.party()
    assert let_in(pem(party.certificate)) == identity_of(pem(party.certificate))


def test_who_was_revoked_is_not(heart, let_in, now):
    mine, other = heart.party("a").certificate, heart.party("b").certificate
    authorities.revoke(heart.authorities, "a", at=now)
    data = (heart.tls.folder / "revoked.pem").read_bytes()
    revoked = load_revoked(data, authority=heart.tls.certificate, where="revoked.pem")
    with pytest.raises(Refused, match="the certificate of 'a' was revoked"):
        let_in(pem(mine), revoked=revoked)
    assert let_in(pem(other), revoked=revoked).id == "b"


@pytest.mark.parametrize(("days", "words"), [(366, "expired"), (-1, "is not valid before")])
def test_who_comes_too_late_or_early_is_not(heart, let_in, now, days, words):
    party = heart.party()
    with pytest.raises(Refused, match=words):
        let_in(pem(party.certificate), at=now + timedelta(days=days))


def test_who_comes_from_an_authority_of_the_same_name_is_not(heart, make, let_in):
    twin = make("twin", name="heart")
    with pytest.raises(Refused, match="not issued by this federation's TLS authority"):
        let_in(pem(twin.party().certificate))


def test_who_signed_its_own_is_not(let_in):
    with pytest.raises(Refused, match="not issued by"):
        let_in(odd())


def test_who_has_a_certificate_for_another_federation_is_not(heart, let_in):
    """The authority itself would have to issue it, so this is a second lock."""
    signed = {"signer": heart.tls.key, "issuer": heart.tls.certificate}
    with pytest.raises(Refused, match="belongs to the federation 'lung'"):
        let_in(odd(uris=("choral://lung/client/a",), **signed))
    assert let_in(odd(**signed)).id == "hospital-a"


def test_a_coordinator_is_nobodys_client(heart, let_in):
    with pytest.raises(Refused, match="lets nobody in"):
        let_in(pem(heart.certificate))
