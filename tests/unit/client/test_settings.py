"""A client's file, the environment and flags, and which of them wins."""

from pathlib import Path

import pytest

from choral.client.settings import DEFAULT_ADDRESS, ClientFile, read_client_file, settle
from choral.core.errors import ConfigError, UnknownKey

WHOLE = """
id: hospital-a
coordinator: fl.example.org:50051
data: data/a.csv
target: outcome
missing: drop
schema: schema.yaml
tls: {certificate: pki/cert.pem, key: pki/key.pem, authority: pki/ca.pem}
signing_key: pki/sign.pem
federation: pki/federation.json
enrolment: pki/enrolment.json
state: ./state
policy: policy.yaml
strata: {region: north}
cache_bytes: 1_000_000
"""


def write(tmp_path, text):
    path = tmp_path / "client.yaml"
    path.write_text(text)
    return path


def settled(tmp_path, text=WHOLE, *, insecure=False, **given):
    file = read_client_file(write(tmp_path, text))
    return settle(file, home=tmp_path, given=given, insecure=insecure)


def test_a_whole_file(tmp_path):
    found = settled(tmp_path)
    local = found.local
    assert (local.client, found.coordinators) == ("hospital-a", ("fl.example.org:50051",))
    assert Path(local.data) == tmp_path / "data/a.csv"
    assert (local.target, local.missing) == ("outcome", "drop")
    assert local.schema == tmp_path / "schema.yaml"
    assert local.state == (tmp_path / "state").absolute()
    assert found.policy == tmp_path / "policy.yaml"
    assert found.strata == {"region": "north"}
    assert found.cache_bytes == 1_000_000
    assert found.authority == tmp_path / "pki/ca.pem"
    assert found.files.certificate == tmp_path / "pki/cert.pem"
    assert found.files.signing_key == tmp_path / "pki/sign.pem"
    assert found.files.enrolment == tmp_path / "pki/enrolment.json"


def test_what_is_given_wins_and_starts_at_the_working_folder(tmp_path):
    found = settled(
        tmp_path,
        id="b",
        coordinator="localhost:1",
        data="mine.csv",
        target="y",
        state="here",
        policy="p.yaml",
    )
    assert (found.local.client, found.coordinators, found.local.target) == (
        "b",
        ("localhost:1",),
        "y",
    )
    assert found.local.data == "mine.csv"
    assert found.local.state == Path("here").absolute()
    assert found.policy == Path("p.yaml")


@pytest.mark.parametrize("key", ["credentials: site", "tls: {folder: site}"])
def test_one_folder_stands_for_all_files(tmp_path, key):
    found = settled(tmp_path, f"id: a\ndata: a.csv\n{key}\n")
    names = {p.name for p in (getattr(found.files, n) for n in found.files.__slots__)}
    assert {p.parent for p in (found.files.key, found.files.federation)} == {tmp_path / "site"}
    assert "enrolment.json" in names


def test_a_file_of_a_folder_can_be_elsewhere(tmp_path):
    text = "id: a\ndata: a.csv\ncredentials: site\nfederation: other.json\n"
    assert settled(tmp_path, text).files.federation == tmp_path / "other.json"


def test_the_id_is_the_certificates_where_nothing_else_says_it(tmp_path, parties):
    parties.party("hospital-a")
    text = f"data: a.csv\ncredentials: {parties.folder / 'hospital-a'}\n"
    assert settled(tmp_path, text).local.client == "hospital-a"


def test_without_a_file(tmp_path):
    given = {"id": "a", "data": "heart_data:hospitals"}
    found = settle(ClientFile(), home=tmp_path, given=given, insecure=True)
    assert found.local.data == "heart_data:hospitals"
    assert found.coordinators == (DEFAULT_ADDRESS,)
    assert found.files is None
    assert found.local.folder == tmp_path.resolve()
    assert found.local.state.name == "state-a"


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("data: a.csv", {}, "no id"),
        ("id: a", {}, "no data"),
        ("id: a\ndata: a.csv", {"coordinator": "nowhere"}, "HOST:PORT"),
        ("id: ../a\ndata: a.csv", {}, "../a"),
    ],
)
def test_what_is_missing_is_said(tmp_path, text, given, words):
    with pytest.raises(ConfigError) as caught:
        settled(tmp_path, text, insecure=True, **given)
    assert words in caught.value.message
    assert caught.value.hint


def test_plain_text_is_asked_for_by_name(tmp_path):
    with pytest.raises(ConfigError, match="no certificates") as caught:
        settled(tmp_path, "id: a\ndata: a.csv")
    assert "--insecure" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("coordinater: x", UnknownKey, "did you mean `coordinator`?"),
        ("shema: x", UnknownKey, "did you mean `schema`?"),
        ("schema_: x", UnknownKey, "`schema_`"),
        ("tls: {certificat: x}", UnknownKey, "did you mean `certificate`?"),
        ("id: 7", ConfigError, "`id` is 7"),
        ("- a", ConfigError, "keys and values"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, kind, words):
    with pytest.raises(kind) as caught:
        read_client_file(write(tmp_path, text))
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_client_file(tmp_path / "client.yaml")
