"""Requests: keys that stay, proofs that both keys mean one id, and everything else refused."""

import json
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from choral.core.errors import CertificateError, ConfigError, Refused
from choral.pki import keys, requests
from choral.pki.names import Role
from choral.pki.requests import load_request, make_request, parse_request


@pytest.fixture
def site(tmp_path):
    make_request(tmp_path / "site", id="hospital-a")
    return tmp_path / "site"


def body(folder):
    return json.loads((folder / "request.json").read_bytes())


def parse(fields):
    return parse_request(json.dumps(fields).encode(), where="request.json")


def csr_pem(key):
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_the_files_and_their_modes(site):
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in site.iterdir()}
    assert modes == {"key.pem": 0o600, "signing_key.pem": 0o600, "request.json": 0o644}
    assert stat.S_IMODE(site.stat().st_mode) == 0o700


def test_a_request_speaks_of_the_keys_in_its_folder(site):
    found = load_request(site / "request.json")
    assert (found.id, found.role) == ("hospital-a", Role.CLIENT)
    assert found.public == keys.load_tls_key(site / "key.pem").public_key()
    assert found.verify_key == keys.load_signing_key(site / "signing_key.pem").public


def test_no_private_key_is_in_a_request(site):
    text = (site / "request.json").read_text()
    assert "PRIVATE" not in text
    secret = serialization.load_pem_private_key((site / "signing_key.pem").read_bytes(), None)
    assert secret.private_bytes_raw().hex() not in text
    number = keys.load_tls_key(site / "key.pem").private_numbers().private_value
    assert f"{number:x}" not in text


def test_the_fingerprint_is_that_of_sha256sum(site):
    import hashlib

    data = (site / "request.json").read_bytes()
    expected = hashlib.sha256(data).hexdigest()
    assert load_request(site / "request.json").fingerprint == expected


def test_keys_are_fresh_and_never_overwritten(site, tmp_path):
    other = make_request(tmp_path / "other", id="hospital-a")
    mine = load_request(site / "request.json")
    assert other.public != mine.public
    assert other.verify_key != mine.verify_key
    before = {p.name: p.read_bytes() for p in site.iterdir()}
    with pytest.raises(CertificateError, match=r"key\.pem exists already"):
        make_request(site, id="hospital-b")
    (site / "key.pem").rename(site / "moved")
    with pytest.raises(CertificateError, match=r"signing_key\.pem exists already"):
        make_request(site, id="hospital-b")
    (site / "moved").rename(site / "key.pem")
    assert {p.name: p.read_bytes() for p in site.iterdir()} == before


@pytest.mark.parametrize("id", ["../up", "a/b", "", "coordinator", "a" * 129])
def test_a_bad_id_makes_no_folder(tmp_path, id):
    with pytest.raises(ConfigError, match="id"):
        make_request(tmp_path / "site", id=id)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("role", ["coordinator", "root", ""])
def test_a_bad_role_makes_no_folder(tmp_path, role):
    with pytest.raises(ConfigError, match="cannot be requested"):
        make_request(tmp_path / "site", id="a", role=role)
    assert not (tmp_path / "site").exists()


def test_a_long_id_fits(tmp_path):
    assert make_request(tmp_path / "site", id="a" * 128).id == "a" * 128


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "hospital-b"), ("role", "operator"), ("verify_key", "other"), ("tls_proof", "30" * 70)],
)
def test_a_changed_field_is_refused(site, field, value):
    if value == "other":
        value = keys.signing_key(keys.new_signing_key()).public.hex()
    with pytest.raises(Refused, match="its keys did not sign what it says"):
        parse({**body(site), field: value})


def test_a_changed_proof_is_refused(site):
    fields = body(site)
    for name in ("tls_proof", "signing_proof"):
        for at in (0, 10, -1):
            proof = bytearray.fromhex(fields[name])
            proof[at] ^= 1
            with pytest.raises(Refused, match="did not sign"):
                parse({**fields, name: proof.hex()})


@pytest.mark.parametrize("taken", ["TLS key", "signing key"])
def test_somebody_elses_key_cannot_be_claimed(site, tmp_path, taken):
    """A thief has one key of its own, and the public part and the proof of another's."""
    make_request(tmp_path / "thief", id="hospital-a")
    true, mine = body(site), body(tmp_path / "thief")
    names = {
        "TLS key": ("certificate_request", "tls_proof"),
        "signing key": ("verify_key", "signing_proof"),
    }[taken]
    mixed = mine | {name: true[name] for name in names}
    with pytest.raises(Refused, match="did not sign"):
        parse(mixed)
    what = requests._proof(
        id="hospital-a",
        role=Role.CLIENT,
        verify_key=bytes.fromhex(mixed["verify_key"]),
        csr=x509.load_pem_x509_csr(mixed["certificate_request"].encode()),
    )
    if taken == "TLS key":
        signing = keys.load_signing_key(tmp_path / "thief" / "signing_key.pem")
        mixed["signing_proof"] = signing.sign(what).hex()
    else:
        tls = keys.load_tls_key(tmp_path / "thief" / "key.pem")
        mixed["tls_proof"] = tls.sign(what, ec.ECDSA(hashes.SHA256())).hex()
    with pytest.raises(Refused, match="did not sign"):
        parse(mixed)


def test_a_key_of_low_order_is_refused(site):
    with pytest.raises(Refused, match="did not sign"):
        parse({**body(site), "verify_key": bytes(32).hex()})


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP384R1()),
        keys.new_signing_key(),
    ],
    ids=["RSA", "P-384", "Ed25519"],
)
def test_another_kind_of_key_is_refused(site, key):
    if hasattr(key, "curve") or hasattr(key, "key_size"):
        pem = csr_pem(key)
    else:
        builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
        pem = builder.sign(key, None).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(Refused, match="not one for ECDSA over P-256"):
        parse({**body(site), "certificate_request": pem})


def test_a_certificate_request_that_its_key_did_not_sign_is_refused(site):
    csr = x509.load_pem_x509_csr(body(site)["certificate_request"].encode())
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    bad = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(Refused, match="did not sign its certificate request"):
        parse({**body(site), "certificate_request": bad})


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\n"])
def test_a_malformed_certificate_request_is_named(site, text):
    with pytest.raises(CertificateError, match="malformed `certificate_request`"):
        parse({**body(site), "certificate_request": text})


@pytest.mark.parametrize("field", ["id", "role", "tls_proof", "verify_key"])
def test_a_missing_field_is_named(site, field):
    fields = body(site)
    del fields[field]
    with pytest.raises(CertificateError, match=f"unknown fields: {field}"):
        parse(fields)


def test_ids_and_roles_that_no_command_makes_are_refused(site):
    for field, value in (("id", "../a"), ("id", "coordinator"), ("role", "coordinator")):
        with pytest.raises(Refused, match=r"request\.json"):
            parse({**body(site), field: value})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CertificateError, match=r"request\.json is missing"):
        load_request(tmp_path / "request.json")
