"""Names: what may stand in a certificate and in a file's name."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509

from choral.core.errors import ConfigError, Refused
from choral.data import client_id
from choral.pki.names import (
    REQUESTED,
    Role,
    federation_name,
    hosts,
    parse_uri,
    party_id,
    uri_of,
    utc,
    when,
)

GOOD = ("a", "0", "hospital-a", "St_Mary.2", "-x", "a" * 128, "a..b")
BAD = (
    "",
    ".",
    "..",
    ".a",
    "a/b",
    "../a",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "a" * 129,
    "a:b",
    "a\\b",
    "%2e",
)


@pytest.mark.parametrize("value", GOOD)
def test_good_ids(value):
    assert party_id(value) == federation_name(value) == client_id(value) == value


@pytest.mark.parametrize("value", BAD)
def test_bad_ids_are_refused_as_they_are_for_data(value):
    for rule in (party_id, federation_name, client_id):
        with pytest.raises(ConfigError, match=r"id|federation name"):
            rule(value)


@pytest.mark.parametrize("value", ["coordinator", "Coordinator"])
def test_the_coordinators_id_is_its_own(value):
    with pytest.raises(ConfigError, match="is the coordinator's"):
        party_id(value)


@pytest.mark.parametrize("role", REQUESTED)
def test_a_uri_is_read_back(role):
    uri = uri_of(federation="heart", role=role, id="hospital-a")
    assert parse_uri(uri) == ("heart", role, "hospital-a")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "choral://heart/client",
        "choral://heart/client/a/b",
        "choral://heart/client/a/",
        "choral://heart//a",
        "choral:///client/a",
        "choral://heart/client/",
        "choral://heart/client/..",
        "choral://heart/client/a%2Fb",
        "choral://heart/Client/a",
        "choral://heart/root/a",
        "choral://heart/authority",
        "choral://heart/client/coordinator",
        "choral://heart/coordinator/a",
        "CHORAL://heart/client/a",
        "https://heart/client/a",
        "choral://heart/client/a?b",
        "choral://heart/client/a\n",
        "choral://choral://heart/client/a",
    ],
)
def test_any_other_uri_is_refused(uri):
    with pytest.raises(Refused, match="names no party"):
        parse_uri(uri)


def test_hosts_are_names_or_addresses_each_once():
    found = hosts(["FL.example.org", "localhost", "10.0.0.7", "::1", "localhost"])
    assert [type(name) for name in found] == [
        x509.DNSName,
        x509.DNSName,
        x509.IPAddress,
        x509.IPAddress,
    ]
    assert [str(name.value) for name in found] == ["fl.example.org", "localhost", "10.0.0.7", "::1"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "*.example.org",
        "example.org:50051",
        "http://example.org",
        "10.0.0.256",
        "10.0.0",
        "fe80::1%eth0",
        "a..b",
        "-a.org",
        "a_b",
        "bücher.de",
        "a" * 64 + ".org",
        ".".join(["a" * 60] * 5),
    ],
)
def test_what_is_no_host_is_refused(value):
    with pytest.raises(ConfigError, match="neither a DNS name nor an IP address"):
        hosts([value])


def test_no_host_is_refused():
    with pytest.raises(ConfigError, match="no host name"):
        hosts([])


def test_times_are_utc_in_whole_seconds():
    east = datetime(2030, 1, 1, 2, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert utc(east) == datetime(2030, 1, 1, tzinfo=UTC)
    assert when(east) == "2030-01-01T00:00:00Z"
    with pytest.raises(ConfigError, match="no time zone"):
        utc(datetime(2030, 1, 1))


def test_roles_are_those_of_the_design():
    assert {*REQUESTED} == {Role.CLIENT, Role.OPERATOR, Role.RESEARCHER, Role.AUDITOR}
