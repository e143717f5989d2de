"""`choral ledger`: where a population stands, and every way in which its ledger was changed."""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import choral
from choral.cli.app import app
from choral.core.errors import (
    ChoralError,
    ConfigError,
    NothingToResume,
    RolledBackLedger,
    StoreUnavailable,
    TamperedLedger,
)
from choral.core.update import Update
from choral.federation.audit import LOG as TRAIL
from choral.federation.spending import Witness
from choral.stores.audit import open_trail
from choral.stores.database import open_database
from choral.stores.ledgers import LEDGER, ledger_store, seen_ledgers

RUN = CliRunner()
PRIVACY = {
    "noise_multiplier": 2.0,
    "max_norm": 1.0,
    "budget": {"epsilon": 5, "population": "people"},
}


class Zero:
    def init(self, key):
        return {"w": np.zeros(4, np.float32)}

    def train(self, params, data, plan, key):
        return Update(np.zeros(4, np.float32), float(len(data)), {})

    def evaluate(self, params, data):
        return {}


def call(*words, env=None):
    done = RUN.invoke(app, ["ledger", *map(str, words)], env=env)
    if isinstance(done.exception, ChoralError):
        raise done.exception
    return done.stdout


def simulate(out: Path, privacy=PRIVACY, rounds=2):
    return choral.simulate(
        Zero(),
        clients={f"c{i}": list(range(5)) for i in range(4)},
        rounds=rounds,
        seed=1,
        privacy=privacy,
        evaluate_clients=False,
        out=out,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the same people, and one with a ledger of its own."""
    root = tmp_path_factory.mktemp("storage")
    simulate(root / "one")
    simulate(root / "two", rounds=1)
    simulate(root / "own", privacy={"epsilon": 3}, rounds=1)
    return root


@pytest.fixture
def storage(runs, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(runs, tmp_path / "storage"))


def edit(root, statement):
    with sqlite3.connect(root / LEDGER) as db:
        db.execute(statement)


def test_show_says_what_was_spent_and_what_is_left(runs):
    (one,) = json.loads(call("show", "--storage", runs, "--json"))["populations"]
    assert (one["population"], one["limit"], one["unit"]) == ("people", 5, "user")
    assert (one["spent"], one["reserved"], one["voided"]) == (3, 0, 0)
    assert one["entries"] == 1 + 2 + 2 * 3
    assert one["left"] == pytest.approx(5 - one["epsilon"])
    assert one["rounds_left"] > 0
    assert len(one["runs"]) == 2
    said = " ".join(call("show", "--storage", runs, "--population", "people").split())
    assert f"epsilon {one['epsilon']:.4g} of 5 at delta 1e-05 (user, add_remove)" in said
    assert "3 spent, 0 reserved, 0 voided" in said
    assert f"{one['rounds_left']} more rounds" in said


def test_a_good_ledger_is_verified_beside_runs_that_have_one_of_their_own(runs):
    (one,) = json.loads(call("verify", "--storage", runs, "--json"))["populations"]
    assert (one["population"], one["entries"]) == ("people", 9)
    assert one["head"][:16] in call("verify", "--storage", runs / LEDGER)


def test_the_ledger_of_one_run_is_in_its_own_database(runs):
    (one,) = json.loads(call("show", "--storage", runs / "own", "--json"))["populations"]
    assert (one["spent"], one["kept_for"] is not None) == (1, True)
    assert "verified" in call("verify", "--storage", runs / "own")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_records SET body = replace(body, '2.0', '9.0') WHERE seq = 1",
        "UPDATE log_records SET kind = 'voided' WHERE seq = 3",
        "DELETE FROM log_records WHERE seq = 4",
        "UPDATE log_records SET seq = seq + 100 WHERE seq = 4",
    ],
)
def test_an_edited_ledger_is_found(storage, statement):
    edit(storage, statement)
    for command in ("verify", "show"):
        with pytest.raises(TamperedLedger):
            call(command, "--storage", storage)


def test_a_ledger_that_was_cut_is_found_by_a_run(storage):
    edit(storage, "DELETE FROM log_records WHERE seq > 3")
    with pytest.raises(RolledBackLedger, match="were seen"):
        call("verify", "--storage", storage)


def test_a_ledger_that_is_gone_is_found_by_a_run(storage):
    edit(storage, "DELETE FROM log_records")
    with pytest.raises(RolledBackLedger, match="`people` is gone"):
        call("verify", "--storage", storage)


def test_an_unfinished_run_is_a_witness_too(storage):
    (storage / "two").rename(storage / "two.partial")
    (storage / "two.partial" / "result.json").unlink()
    seen = [w for w in seen_ledgers(storage) if w.shared]
    assert {w.population for w in seen} == {"people"}
    assert max(w.entries for w in seen) == 9
    edit(storage, "DELETE FROM log_records WHERE seq > 6")
    with pytest.raises(RolledBackLedger, match="9 were seen"):
        call("verify", "--storage", storage)
    with pytest.raises(RolledBackLedger, match="9 were seen"):
        simulate(storage / "three")


def test_the_audit_trail_is_a_witness(storage):
    """Whoever restores an older ledger must also restore the trail, which clients have seen."""
    newest = max((w for w in seen_ledgers(storage) if w.shared), key=lambda w: w.entries)
    trail, store = open_trail(storage, key=None, now=lambda: 0.0)
    trail.note("round.released", run="r", population="people", entries=9, head=newest.head)
    trail.flush()
    assert store.read_log(TRAIL)
    store.close()
    for path in storage.glob("*/result.json"):
        path.unlink()
    assert "9 entries" in call("verify", "--storage", storage)
    edit(storage, "DELETE FROM log_records WHERE seq > 6")
    with pytest.raises(RolledBackLedger, match="9 were seen"):
        call("verify", "--storage", storage)


def test_ledgers_of_a_shared_database(runs, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = open_database(url)
    records = ledger_store(runs / LEDGER).read_log("ledger/people")
    shared.append_log("ledger/people", records, expect=0)
    words = ("--storage", tmp_path, "--json")
    body = json.loads(call("show", *words, env={"CHORAL_DATABASE": url}))
    assert body["populations"][0]["spent"] == 3
    assert body["ledger"] == str(tmp_path / "shared.db")
    body = json.loads(call("verify", *words, "--database", url))
    assert (body["verified"], body["populations"][0]["entries"]) == (True, 9)
    with pytest.raises(ConfigError, match="no ledger of `nobody`"):
        call("verify", *words, "--database", url, "--population", "nobody")


def test_a_password_is_not_said(tmp_path):
    url = "postgresql://oz:secret@127.0.0.1:1/none?connect_timeout=1"
    with pytest.raises(StoreUnavailable) as caught:
        call("show", "--storage", tmp_path, "--database", url)
    assert "secret" not in str(caught.value)


def test_where_there_is_no_ledger_it_says_so(runs, tmp_path):
    with pytest.raises(NothingToResume, match="no privacy ledger"):
        call("show", "--storage", tmp_path)
    with pytest.raises(ConfigError, match="it has: people"):
        call("show", "--storage", runs, "--population", "nobody")


def test_a_witness_of_a_run_of_its_own_is_of_no_population():
    assert Witness("r", 1, "h", "r").shared is False
    assert Witness("people", 1, "h", "r").shared is True
