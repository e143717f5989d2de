"""`choral audit`, `choral backup` and what operators do, on the trail."""

import json
import sqlite3
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from choral.cli.app import app
from choral.client.witness import Witness
from choral.core.errors import ChoralError, NotBuilt, RolledBackAudit, StoreError, TamperedAudit
from choral.crypto.signatures import SigningKey
from choral.federation.audit import Head
from choral.pki import keys
from choral.stores.audit import open_trail
from choral.system import SystemRand
from choral.wire.receipts import Receipt

RUN = CliRunner()


def call(*words):
    done = RUN.invoke(app, [str(word) for word in words])
    if isinstance(done.exception, ChoralError):
        raise done.exception
    return done


def look(*words):
    done = call("audit", "verify", "--json", *words)
    return done.exit_code, json.loads(done.stdout)


def receipt(key, head):
    bare = Receipt("r", 1, 1, "a", "ab" * 32, 7, audit_head=head.encode())
    return replace(bare, signature=key.sign(bare.stated()))


@pytest.fixture
def storage(tmp_path):
    """A trail of a coordinator without certificates, and what a client has seen of it."""
    root = tmp_path / "runs"
    (root / "unverified").mkdir(parents=True)
    path = root / "unverified" / "server.pem"
    path.write_bytes(keys.private_pem(keys.new_signing_key()))
    path.chmod(0o600)
    key = keys.load_signing_key(path)
    trail, store = open_trail(root, key=key, now=lambda: 0.0)
    witness = Witness(tmp_path / "audit.jsonl")
    for number in range(4):
        trail.note("round.committed", run=f"r{number % 2}", round=number, sign=number == 1)
        witness.remember(receipt(key, trail.flush()))
    store.close()
    return root, key, tmp_path / "audit.jsonl"


def edit(root, statement):
    with sqlite3.connect(root / "audit.db") as db:
        db.execute(statement)


def test_a_good_trail_is_good(storage):
    root, _, witness = storage
    code, body = look("--storage", root, "--witness", witness)
    assert (code, body["ok"], body["faults"]) == (0, True, [])
    assert (body["entries"], body["signed"], body["witnessed"]) == (5, 2, 5)
    assert body["key_known"] is True
    assert "nothing was changed" in call("audit", "verify", "--storage", root).stdout


def test_an_edit_and_a_cut_are_found(storage):
    root, _, witness = storage
    edit(root, "delete from log_records where seq = 4")
    assert look("--storage", root)[0] == 0
    code, body = look("--storage", root, "--witness", witness)
    assert (code, body["faults"]) == (1, ["a witness saw 5 entries, and there are 4"])
    edit(root, "update log_records set kind = 'round.aborted' where seq = 0")
    with pytest.raises(TamperedAudit):
        call("audit", "verify", "--storage", root)
    assert look("--storage", root)[1]["faults"][0] == "entry 0 was edited"


def test_a_witness_must_hold_what_the_coordinator_signed(storage, tmp_path):
    root, _, _ = storage
    other = Witness(tmp_path / "other.jsonl")
    other.remember(receipt(SigningKey.random(SystemRand()), Head(3, "cd" * 32)))
    code, body = look("--storage", root, "--witness", tmp_path / "other.jsonl")
    assert code == 1
    assert "is not signed" in body["faults"][0]
    with pytest.raises(StoreError, match="there is no"):
        call("audit", "verify", "--storage", root, "--witness", tmp_path / "nobody.jsonl")


def test_entries_are_shown_of_one_run_or_all(storage):
    root, _, _ = storage
    body = json.loads(call("audit", "show", "--storage", root, "--run", "r1", "--json").stdout)
    assert [e["round"] for e in body["entries"]] == [1, 3]
    assert "round.committed  round=1" in call("audit", "show", "--storage", root).stdout


def test_attacks_on_a_model_are_not_built():
    with pytest.raises(NotBuilt):
        call("audit", "privacy", "heart-1")


def test_a_backup_is_made_and_what_an_operator_removes_is_noted(storage, tmp_path):
    root, _, _ = storage
    body = json.loads(call("backup", root, "--out", tmp_path / "b.tar", "--json").stdout)
    assert (body["files"], body["path"]) == (2, str(tmp_path / "b.tar"))
    found = json.loads(call("run", "prune", "--keep", 3, "--path", root, "--json").stdout)
    assert (found["removed"], found["dry_run"]) == ([], False)


# --- a client's memory ----------------------------------------------------------------------------


def test_a_witness_remembers_and_refuses_what_does_not_extend_it(tmp_path):
    key = SigningKey.random(SystemRand())
    path = tmp_path / "audit.jsonl"
    witness = Witness(path)
    assert witness.check(b"") is None
    assert not path.exists()
    witness.remember(receipt(key, Head(5, "ab" * 32)))
    again = Witness(path)
    assert again.last == Head(5, "ab" * 32)
    assert again.check(Head(5, "ab" * 32).encode()) == again.last
    assert again.check(Head(6, "00" * 32).encode()) == Head(6, "00" * 32)
    for bad in (Head(4, "ab" * 32).encode(), Head(5, "cd" * 32).encode(), b"", b"short"):
        with pytest.raises(RolledBackAudit, match="this client has seen 5"):
            again.check(bad)
    assert path.stat().st_mode & 0o077 == 0


def test_a_line_that_a_crash_cut_does_no_harm(tmp_path):
    key = SigningKey.random(SystemRand())
    path = tmp_path / "audit.jsonl"
    Witness(path).remember(receipt(key, Head(5, "ab" * 32)))
    with path.open("a") as file:
        file.write('{"run_id": "r", "rou')
    witness = Witness(path)
    witness.remember(receipt(key, Head(7, "ef" * 32)))
    assert Witness(path).last == Head(7, "ef" * 32)
    path.write_text("nonsense\n")
    with pytest.raises(StoreError, match="line 1 is no receipt"):
        Witness(path)
