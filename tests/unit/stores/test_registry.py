"""Models of completed runs: found by a word, checked by their digest, promoted and rolled back."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from choral.core.errors import CorruptBlob, StoreError, UnknownName
from choral.core.params import Params
from choral.core.tensors import encode_tensors
from choral.stores import registry

AT = datetime(2030, 1, 1, tzinfo=UTC)


def put(root, run_id, value, created="2030-01-01"):
    """Lay down what a completed run leaves."""
    params = Params({"w": np.full(2, value, np.float32)})
    folder = root / run_id
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"".join(encode_tensors(params)))
    lineage = {"run_id": run_id, "model_sha256": params.sha256, "created": created}
    (folder / "model.json").write_text(json.dumps(lineage))
    return params.sha256


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def three(root):
    return [put(root, f"r{i}", float(i), f"2030-01-0{i}") for i in (1, 2, 3)]


def promote(root, word, **more):
    return registry.promote(root, registry.find(root, word), by="ruth", at=AT, **more)


def rollback(root):
    return registry.rollback(root, by="otto", at=AT)


def test_completed_runs_are_listed_oldest_first_and_damaged_ones_apart(root, three):
    put(root, "r0.partial", 9.0)
    (root / "uploads").mkdir()
    (root / "bad").mkdir()
    (root / "bad" / "model.json").write_text("{}")
    found, bad = registry.models(root)
    assert [m.run_id for m in found] == ["r1", "r2", "r3"]
    assert [m.sha256 for m in found] == three
    assert len(bad) == 1
    assert "bad" in bad[0].message
    with pytest.raises(StoreError, match="no folder"):
        registry.models(root / "elsewhere")


def test_a_word_names_a_run_a_digest_or_the_one_in_use(root, three):
    assert registry.find(root, "r2").sha256 == three[1]
    assert registry.find(root, three[2][:8]).run_id == "r3"
    with pytest.raises(UnknownName, match="no model"):
        registry.find(root, three[2][:3])  # too short to be a digest
    with pytest.raises(StoreError, match="in use"):
        registry.find(root, "current")
    promote(root, "r1")
    assert registry.find(root, "current").run_id == "r1"


def test_equal_models_have_one_name_and_different_ones_do_not(root):
    put(root, "a", 1.0, "2030-01-01")
    digest = put(root, "b", 1.0, "2030-01-02")
    assert registry.find(root, digest[:10]).run_id == "b"
    letter, value = digest[:4], 2.0
    lineage = root / "c" / "model.json"
    put(root, "c", value)
    lineage.write_text(json.dumps({"run_id": "c", "model_sha256": letter + "0" * 60}))
    with pytest.raises(UnknownName, match="names 3 models"):
        registry.find(root, letter)


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_model_that_is_not_its_runs_own_is_never_used(root, three, damage):
    promote(root, "r1")
    path = root / "r2" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if damage == "gone":
        path.unlink()
    with pytest.raises(CorruptBlob):
        registry.load(registry.find(root, "r2"))
    with pytest.raises(CorruptBlob):
        promote(root, "r2")
    assert [d.run_id for d in registry.history(root)] == ["r1"]


def test_rolling_back_goes_back_step_by_step_and_the_log_only_grows(root, three):
    for name in ("r1", "r2", "r3"):
        promote(root, name, note=f"try {name}")
    before = (root / registry.LOG).read_bytes()
    assert rollback(root).run_id == "r2"
    assert rollback(root).run_id == "r1"
    with pytest.raises(StoreError, match="before the present one"):
        rollback(root)
    promote(root, "r3")
    assert rollback(root).run_id == "r1"
    log = registry.history(root)
    assert (root / registry.LOG).read_bytes().startswith(before)
    assert [d.sequence for d in log] == [1, 2, 3, 4, 5, 6, 7]
    assert [d.previous for d in log[1:]] == [d.sha256 for d in log[:-1]]
    assert (log[0].previous, log[0].by, log[0].note) == (None, "ruth", "try r1")
    assert (log[3].action, log[3].by) == ("rollback", "otto")


def test_the_same_model_is_not_promoted_twice_in_a_row(root, three):
    promote(root, "r1")
    with pytest.raises(StoreError, match="in use already"):
        promote(root, "r1")
    assert len(registry.history(root)) == 1


def test_a_rollback_to_a_model_that_is_gone_is_refused(root, three):
    promote(root, "r1")
    promote(root, "r2")
    (root / "r1" / "model.json").unlink()
    with pytest.raises(StoreError, match="is not in"):
        rollback(root)
    assert len(registry.history(root)) == 2


@pytest.mark.parametrize("line", ["", "{}", "[]", "no json", '{"sequence": 1}'])
def test_a_log_that_was_edited_is_refused_with_its_line(root, three, line):
    promote(root, "r1")
    with (root / registry.LOG).open("a") as log:
        log.write(line + "\n")
    with pytest.raises(StoreError, match="line 2"):
        promote(root, "r2")


def test_differences_of_tensors_by_hand():
    a = {"w": np.array([3.0, 4.0]), "gone": np.array([1.0]), "s": np.zeros(2)}
    b = {"w": np.array([0.0, 0.0]), "new": np.array([2.0]), "s": np.zeros(3)}
    found = {d.name: (d.a, d.b, d.difference) for d in registry.differences(a, b)}
    assert found == {
        "w": (5.0, 0.0, 5.0),
        "gone": (1.0, None, None),
        "s": (0.0, 0.0, None),
        "new": (None, 2.0, None),
    }
