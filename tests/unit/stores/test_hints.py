"""Hints: they wake who waits, and nothing depends on them."""

import pytest
import sqlalchemy as sa

from choral.stores.database import open_database
from choral.stores.hints import Hints

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture
def database(postgres_url):
    database = open_database(postgres_url)
    yield database
    database.close()


@pytest.fixture
def hints(database):
    made = []

    def make(*channels):
        made.append(Hints(database, *channels))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_hint_reaches_those_who_wait_for_its_channel(hints):
    waiting, sender = hints("runs", "logs"), hints()
    assert not waiting.wait(0)
    sender.notify("other")
    assert not waiting.wait(0.05)
    for channel in ("runs", "logs"):
        sender.notify(channel)
        assert waiting.wait(10)
    assert not waiting.wait(0.05)


def test_a_lost_connection_costs_a_hint_and_no_more(hints, database, postgres_server):
    waiting, sender = hints("runs"), hints()
    pid = waiting._connection.info.backend_pid
    postgres_server.psql(f"SELECT pg_terminate_backend({pid}, 5000);")
    assert not waiting.wait(0.05)
    assert not waiting.wait(0)  # listens again
    sender.notify("runs")
    assert waiting.wait(10)


def test_a_server_that_is_away_is_no_error_of_a_hint(hints, database, monkeypatch):
    def away(*_, **__):
        raise sa.exc.OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(database._engine, "raw_connection", away)
    monkeypatch.setattr(database._engine, "connect", away)
    waiting = hints("runs")
    waiting.notify("runs")
    assert not waiting.wait(0.01)


def test_without_a_server_a_wait_is_a_wait(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/run.db")
    hints = Hints(database, "runs")
    assert not hints.wait(0.01)
    hints.notify("other")
    assert not hints.wait(0)
    hints.notify("runs")
    assert hints.wait(10)
    assert not hints.wait(0)
    hints.close()
    database.close()
