"""Where populations' ledgers are: one budget, whoever drives the runs and wherever they did."""

import numpy as np
import pytest

from choral.core.errors import Refused, RolledBackLedger
from choral.data import as_source
from choral.federation.calibration import protected
from choral.federation.compose import compose
from choral.federation.spending import Witness
from choral.privacy.ledger import PrivacyLedger
from choral.stores.database import open_database
from choral.stores.ledgers import LEDGER, ledger_store, moved, spending_in
from choral.stores.memory import MemoryLogStore
from choral.system import SystemRand


class Task:
    def init(self, key):
        return {"w": np.zeros(8, np.float32)}

    def train(self, params, data, plan, key):
        raise NotImplementedError

    def evaluate(self, params, data):
        return {}


def spending(storage, run="r", epsilon=8, **where):
    budget = {"epsilon": epsilon, "population": "people"}
    setup = compose(
        Task(), as_source({f"c{i}": list(range(5)) for i in range(8)}, seed=1), run_id=run, seed=1,
        name="n", task_name="t", rounds=3,
        privacy={"noise_multiplier": 2.0, "max_norm": 1.0, "budget": budget},
    )  # fmt: skip
    participant, _ = setup.participant()
    setup = protected(setup, participant.spec)
    return spending_in(storage, setup, participant.spec, folder=None, rand=SystemRand(), **where)


def spent(store):
    return PrivacyLedger(store, "people").standing().spent


def test_coordinators_on_one_database_have_one_budget(tmp_path):
    """Each has a folder of its own, and what one has spent the other knows of."""
    shared = open_database(f"sqlite:///{tmp_path / 'shared.db'}")
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        here = spending(tmp_path / name, run=name, database=shared)
        here.reserve(1, 1)
        assert here.claim(1, 1)
        assert not (tmp_path / name / LEDGER).exists()
    assert spent(shared) == 2
    with pytest.raises(Refused, match="was opened with"):
        spending(tmp_path / "right", run="third", epsilon=9, database=shared)


def test_what_a_file_holds_is_taken_over_into_a_database_once(tmp_path):
    before = spending(tmp_path)
    before.reserve(1, 1)
    before.claim(1, 1)
    shared = MemoryLogStore()
    assert not shared.read_log("ledger/people")
    after = spending(tmp_path, run="after", database=shared)
    after.reserve(1, 1)
    after.claim(1, 1)
    spending(tmp_path, run="third", database=shared)
    assert spent(shared) == 2


def test_a_file_that_went_on_beside_the_database_is_refused(tmp_path):
    spending(tmp_path)
    shared = MemoryLogStore()
    moved(tmp_path / LEDGER, shared, "people")
    PrivacyLedger(shared, "people")
    spending(tmp_path, run="other").reserve(1, 1)
    with pytest.raises(RolledBackLedger, match="another ledger of `people`"):
        spending(tmp_path, run="third", database=shared)


def test_nothing_is_taken_over_where_there_is_nothing(tmp_path):
    shared = MemoryLogStore()
    moved(tmp_path / LEDGER, shared, "people")
    ledger_store(tmp_path / LEDGER).close()
    moved(tmp_path / LEDGER, shared, "people")
    assert shared.logs() == ()


def test_what_an_audit_trail_has_seen_must_be_there(tmp_path):
    spending(tmp_path).reserve(1, 1)
    seen = [Witness("people", 99, "ab" * 32, "gone"), Witness("others", 99, "ab" * 32, "gone")]
    with pytest.raises(RolledBackLedger, match="99 were seen"):
        spending(tmp_path, seen=seen)
    assert spending(tmp_path, seen=seen[1:]).witness.entries == 3
