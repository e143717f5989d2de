"""Writers in processes of their own, some of them killed: what was acknowledged is there."""

import os
import signal
import subprocess
import sys

import pytest

from choral.stores.database import open_database

PARTS = 5
THREADS = 4

# Several threads, so that appends are also killed while they share a transaction.
WRITER = f"""
import sys, threading
from choral.core.ports import Record
from choral.stores.database import open_database

database = open_database(sys.argv[1])

def write(run_id):
    lease = database.acquire(run_id)
    count = sum(1 for _ in database.read(run_id))
    while True:
        lines = [Record("Noted", {{"n": count + part}}) for part in range({PARTS})]
        count = database.append(lease, lines, expect=count)
        sys.stdout.write(f"{{run_id}} {{count}}\\n")
        sys.stdout.flush()

for run_id in database.runs():
    threading.Thread(target=write, args=(run_id,), daemon=True).start()
threading.Event().wait()
"""

APPENDER = """
import sys
from choral.core.errors import Conflict
from choral.core.ports import Record
from choral.stores.database import open_database

database, who, done = open_database(sys.argv[1]), sys.argv[2], 0
while done < 15:
    seen = len(database.read_log("a"))
    try:
        database.append_log("a", [Record("Noted", {"seen": seen, "who": who})], expect=seen)
        done += 1
    except Conflict:
        pass
"""


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/run.db"


on_both = pytest.mark.parametrize(
    "place",
    ["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.xdist_group("postgres"))],
)


def start(program, *words):
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True
    )


def kill_after(url, acknowledgements):
    """Let a writer run until so many appends are acknowledged, kill it, return all it has said."""
    with start(WRITER, url) as writer:
        said = [writer.stdout.readline() for _ in range(acknowledgements)]
        os.kill(writer.pid, signal.SIGKILL)
        said += [line for line in writer.stdout if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    return dict(line.split() for line in said)  # the last one of each run stays


@on_both
def test_a_killed_writer_leaves_whole_transactions(place, request):
    url = request.getfixturevalue(place)
    database = open_database(url)
    runs = [f"r{n}" for n in range(THREADS)]
    for run_id in runs:
        database.create(run_id, {})
    for acknowledgements in (9, 26):  # the second one goes on where the first one was killed
        last = kill_after(url, acknowledgements)
        assert last
        for run_id in runs:
            found = [record.body["n"] for record in database.read(run_id)]
            assert found == list(range(len(found)))
            assert len(found) % PARTS == 0
            assert len(found) >= int(last.get(run_id, 0))
    database.close()


@on_both
def test_processes_that_append_at_once_lose_nothing(place, request):
    url = request.getfixturevalue(place)
    writers = [start(APPENDER, url, str(who)) for who in range(2)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    database = open_database(url)
    log = [record.body for record in database.read_log("a")]
    database.close()
    assert [line["seen"] for line in log] == list(range(30))
    assert sorted(line["who"] for line in log) == sorted("01" * 15)
