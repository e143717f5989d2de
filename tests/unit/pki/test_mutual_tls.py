"""The issued files under real TLS, both ways, on loopback: who gets in and who does not.

OpenSSL reads the machine's own clock, so these federations are made now.
"""

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from choral.pki import authorities, certificates, keys
from choral.pki.credentials import load_server
from choral.pki.identity import admit

EXPIRED, UNTRUSTED, PURPOSE, REVOKED, INVALID_CA, OTHER_HOST = 10, {7, 20}, 26, 23, 79, 62
"""Results of verification. Source: OpenSSL, `X509_V_ERR_…` in x509_vfy.h."""


@dataclass
class Outcome:
    """What each side saw: an error, or the peer's certificate in PEM form."""

    server_error: Exception | None = None
    client_error: Exception | None = None
    peer: bytes = b""
    answer: bytes = b""


def context(side, *, certificate, key, authority, revoked=None):
    """Return a strict context that trusts one authority alone."""
    made = ssl.SSLContext(side)
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_cert_chain(certificate, key)
    made.load_verify_locations(cadata=authority.decode())
    if revoked is not None:
        made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        made.load_verify_locations(revoked)
    return made


def serve(listener, tls, outcome):
    try:
        connection, _ = listener.accept()
        with connection, tls.wrap_socket(connection, server_side=True) as secure:
            der = secure.getpeercert(binary_form=True)
            outcome.peer = ssl.DER_cert_to_PEM_cert(der).encode()
            secure.sendall(secure.recv(100).upper())
    except OSError as error:
        outcome.server_error = error


def call(server, client, *, host="localhost"):
    """Connect once and exchange one message."""
    outcome = Outcome()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=serve, args=(listener, server, outcome))
        thread.start()
        try:
            with contextlib.ExitStack() as stack:
                plain = stack.enter_context(
                    socket.create_connection(listener.getsockname(), timeout=20)
                )
                secure = stack.enter_context(client.wrap_socket(plain, server_hostname=host))
                secure.sendall(b"hello")
                outcome.answer = secure.recv(100)
        except OSError as error:
            outcome.client_error = error
        thread.join()
    return outcome


@pytest.fixture
def real(make):
    return make("real", at=datetime.now(UTC), hosts=("localhost", "127.0.0.1"))


def server_of(made, **options):
    where = made.server_files
    given = {
        "certificate": where.certificate,
        "key": where.key,
        "authority": made.federation.authority,
    }
    return context(ssl.PROTOCOL_TLS_SERVER, **{**given, **options})


def client_of(made, party, **options):
    given = {
        "certificate": party.files.certificate,
        "key": party.files.key,
        "authority": made.federation.authority,
    }
    return context(ssl.PROTOCOL_TLS_CLIENT, **{**given, **options})


def refused(outcome, side, codes):
    """Check that one side refused the other's certificate, and that nothing was said."""
    error = getattr(outcome, f"{side}_error")
    assert isinstance(error, ssl.SSLCertVerificationError), outcome
    assert error.verify_code in codes, error
    assert outcome.answer == b""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_both_sides_get_in_and_the_coordinator_knows_who(real, host):
    party = real.party()
    outcome = call(server_of(real), client_of(real, party), host=host)
    assert (outcome.server_error, outcome.client_error) == (None, None)
    assert outcome.answer == b"HELLO"
    mine = load_server(real.server_files, at=real.at)
    who = admit(outcome.peer, federation=mine.federation, revoked=mine.revoked, at=real.at)
    assert (who.id, who.role) == ("hospital-a", "client")


def test_another_host_is_refused(real):
    outcome = call(server_of(real), client_of(real, real.party()), host="example.org")
    refused(outcome, "client", {OTHER_HOST})


def test_a_client_without_a_certificate_is_refused(real):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=real.federation.authority.decode())
    outcome = call(server_of(real), bare)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(outcome.server_error)
    assert outcome.answer == b""


def test_a_client_of_an_unknown_authority_is_refused(real, make):
    """The stranger's authority has the same name; only the key differs."""
    stranger = make("stranger", at=real.at)
    client = client_of(stranger, stranger.party(), authority=real.federation.authority)
    refused(call(server_of(real), client), "server", UNTRUSTED)


def test_a_coordinator_of_an_unknown_authority_is_refused(real, make):
    stranger = make("stranger", at=real.at)
    server = server_of(stranger, authority=real.federation.authority)
    refused(call(server, client_of(real, real.party())), "client", UNTRUSTED)


def test_an_expired_client_is_refused(real, make):
    old = make("old", at=real.at - timedelta(days=400))
    party = old.party(days=30)
    old.issue_coordinator(renew=True, at=real.at)
    refused(call(server_of(old), client_of(old, party)), "server", {EXPIRED})


def test_an_expired_coordinator_is_refused(real, make):
    old = make("old", at=real.at - timedelta(days=400))
    party = old.party(at=real.at)
    refused(call(server_of(old), client_of(old, party)), "client", {EXPIRED})


def test_a_client_cannot_play_the_coordinator(real):
    """Its certificate has another purpose; that it has no host either is not what stops it."""
    eve, alice = real.party("eve"), real.party("alice")
    server = server_of(real, certificate=eve.files.certificate, key=eve.files.key)
    client = client_of(real, alice)
    client.check_hostname = False
    refused(call(server, client), "client", {PURPOSE})


def test_a_coordinator_cannot_play_a_client(real):
    where = real.server_files
    client = client_of(real, real.party(), certificate=where.certificate, key=where.key)
    refused(call(server_of(real), client), "server", {PURPOSE})


def test_a_leaf_cannot_issue(real, tmp_path):
    """A certificate that a client signs with its own key is worth nothing, chain or no chain."""
    eve = real.party("eve")
    chain, key = forge(eve, tmp_path)
    client = client_of(real, eve, certificate=chain, key=key)
    refused(call(server_of(real), client), "server", {INVALID_CA})


def forge(eve, folder):
    """Return a chain, a flawless certificate for an operator issued by Eve and hers, and a key."""
    key = keys.new_tls_key()
    made = certificates._builder(
        subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "boss")]),
        issuer=eve.certificate.subject,
        public=key.public_key(),
        start=eve.certificate.not_valid_before_utc,
        end=eve.certificate.not_valid_after_utc,
    )
    names = [x509.UniformResourceIdentifier("choral://heart/operator/boss")]
    made = (
        made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(eve.request.public), critical=False
        )
        .sign(keys.load_tls_key(eve.files.key), hashes.SHA256())
    )
    (folder / "chain.pem").write_bytes(certificates.pem(made) + certificates.pem(eve.certificate))
    (folder / "boss.pem").write_bytes(keys.private_pem(key))
    return folder / "chain.pem", folder / "boss.pem"


def test_openssl_reads_the_revocation_list(real):
    eve, alice = real.party("eve"), real.party("alice")
    authorities.revoke(real.authorities, "eve", at=real.at)
    listed = real.tls.folder / "revoked.pem"
    outcome = call(server_of(real, revoked=listed), client_of(real, eve))
    refused(outcome, "server", {REVOKED})
    assert call(server_of(real, revoked=listed), client_of(real, alice)).answer == b"HELLO"
