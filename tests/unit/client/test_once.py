"""What a client must never do twice is on disk when it is done, whatever ends the process."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from choral.client.once import NAME, DurableOnce
from choral.core.errors import StoreError
from choral.secagg.ports import MemoryOnce


@pytest.fixture(params=["memory", "durable"])
def once(request, tmp_path):
    """Return a store of each kind: they keep one contract."""
    if request.param == "memory":
        yield MemoryOnce()
        return
    found = DurableOnce(tmp_path)
    yield found
    found.close()


def test_the_first_answer_stays(once):
    assert once.read("slot") is None
    assert once.claim("slot", b"one") == b"one"
    assert once.claim("slot", b"two") == b"one"
    assert once.claim("slot", b"one") == b"one"
    assert once.read("slot") == b"one"
    assert once.read("other") is None


def test_an_empty_answer_is_an_answer(once):
    assert once.claim("slot", b"") == b""
    assert once.claim("slot", b"one") == b""
    assert once.read("slot") == b""


def test_a_counter_only_goes_up(once):
    assert once.latest("c") is None
    assert once.advance("c", 0)
    assert not once.advance("c", 0)
    assert once.advance("c", 7)
    assert not once.advance("c", 6)
    assert not once.advance("c", 7)
    assert (once.latest("c"), once.latest("d")) == (7, None)


def test_slots_and_counters_of_one_name_are_two(once):
    once.advance("x", 3)
    assert once.read("x") is None
    assert once.claim("x", b"a") == b"a"
    assert once.latest("x") == 3


def test_it_is_there_when_it_is_opened_again(tmp_path):
    first = DurableOnce(tmp_path)
    first.claim("slot", b"one")
    first.advance("c", 5)
    first.close()
    again = DurableOnce(tmp_path)
    assert again.claim("slot", b"two") == b"one"
    assert not again.advance("c", 5)
    again.close()


def test_its_owner_alone_may_read_it(tmp_path):
    once = DurableOnce(tmp_path)
    once.claim("slot", b"one")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    once.close()


def test_it_waits_for_the_disk_at_every_commit(tmp_path):
    once = DurableOnce(tmp_path)
    assert once._base.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    once.close()


def test_one_process_holds_it(tmp_path):
    once = DurableOnce(tmp_path)
    with pytest.raises(StoreError, match="another process"):
        DurableOnce(tmp_path)
    once.close()
    DurableOnce(tmp_path).close()


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / NAME).write_bytes(b"something else, and long enough to be read as a page" * 50)
    with pytest.raises(StoreError, match="cannot be used"):
        DurableOnce(tmp_path)


CHILD = """
import sys
from pathlib import Path
from choral.client.once import DurableOnce
once = DurableOnce(Path(sys.argv[1]))
for i in range(10_000):
    once.claim(f"slot {i}", str(i).encode())
    once.advance("c", i)
    print(i, flush=True)
"""


def test_what_was_said_outlives_a_kill(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    said = [int(child.stdout.readline()) for _ in range(30)]
    os.kill(child.pid, signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().splitlines() if line]
    child.wait()
    once = DurableOnce(tmp_path)
    for i in said:
        assert once.claim(f"slot {i}", b"another") == str(i).encode()
    assert once.latest("c") >= said[-1]
    once.close()
