"""One privacy ledger and many processes: its limit holds on every database."""

import json
import subprocess
import sys

import pytest
import sqlalchemy as sa

from choral.core.errors import TamperedLedger
from choral.privacy import (
    Limit,
    Mechanism,
    PrivacyLedger,
    PrivacyUnit,
    Relation,
    Release,
    RunTerms,
)
from choral.stores.database import open_database

WORKERS = 8
PROGRAM = f"""
import json, os, sys
from choral.core.errors import BudgetExhausted
from choral.privacy import (
    Limit, Mechanism, PrivacyLedger, PrivacyUnit, Relation, Release, RunTerms, epsilon_of
)
from choral.stores.database import open_database

url, folder = sys.argv[1:]
one = Release(Mechanism.GAUSSIAN, 3.0, 1.0)
limit = Limit(6.0, 1e-5, PrivacyUnit.USER, Relation.ADD_REMOVE)
epsilon_of([one], delta=1e-5, relation=limit.relation, accountant="rdp")  # what is slow to import


def work(worker):
    database = open_database(url)
    ledger = PrivacyLedger(database, "people")
    ledger.open(limit)
    ledger.open_run(RunTerms("run", (one,), 1, "uniform"))
    made = []
    while True:
        try:
            held = ledger.reserve("run", round=len(made) + 1, attempt=worker)
        except BudgetExhausted:
            break
        made.append(held.number)
        if len(made) % 3 == 0:
            ledger.spend(held)
    with open(os.path.join(folder, str(worker)), "w") as file:
        json.dump(made, file)


for worker in range(1, {WORKERS} + 1):
    if os.fork() == 0:
        try:
            work(worker)
        finally:
            os._exit(0)
for _ in range({WORKERS}):
    os.wait()
"""


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


on_both = pytest.mark.parametrize(
    "place",
    ["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.xdist_group("postgres"))],
)


@pytest.mark.parametrize(
    "place",
    [
        "sqlite_url",
        pytest.param(
            "postgres_url", marks=[pytest.mark.xdist_group("postgres"), pytest.mark.nightly]
        ),
    ],
)
def test_eight_processes_never_pass_the_limit(place, request, tmp_path):
    """Together they reserve exactly what fits, and no two of them the same."""
    url, folder = request.getfixturevalue(place), tmp_path / "made"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", PROGRAM, url, str(folder)], check=True, timeout=300)
    made = [json.loads(path.read_text()) for path in folder.iterdir()]
    assert len(made) == WORKERS
    numbers = [number for some in made for number in some]
    database = open_database(url)
    ledger = PrivacyLedger(database, "people")
    standing = ledger.standing()
    assert len(numbers) == len(set(numbers)) == standing.reserved + standing.spent
    assert standing.spent == sum(len(some) // 3 for some in made)
    assert standing.epsilon.value <= 6.0
    (run,) = ledger.runs()
    assert ledger.rounds_left(run.releases) == 0
    assert len(numbers) > WORKERS
    ledger.verify()
    database.close()


@on_both
def test_an_edited_row_is_found_on_every_database(place, request):
    database = open_database(request.getfixturevalue(place))
    ledger, one = PrivacyLedger(database, "people"), Release(Mechanism.GAUSSIAN, 4.0, 1.0)
    ledger.open(Limit(8.0, 1e-5, PrivacyUnit.USER, Relation.ADD_REMOVE))
    ledger.open_run(RunTerms("run", (one,), 1, "uniform"))
    ledger.spend(ledger.reserve("run", round=1, attempt=1))
    ledger.verify()
    with database.backend.transaction(write=True) as db:
        edit = "UPDATE log_records SET body = replace(body, '4.0', '40.0') WHERE seq = 1"
        assert db.execute(sa.text(edit)).rowcount == 1
    with pytest.raises(TamperedLedger):
        ledger.verify()
    database.close()
