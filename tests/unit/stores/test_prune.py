"""Old runs go; promoted and unfinished ones never do."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from choral.core.params import Params
from choral.core.tensors import encode_tensors
from choral.stores import registry
from choral.stores.prune import DOOMED, prune


@pytest.fixture
def root(tmp_path):
    for number in range(5):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        params = Params({"w": np.array([float(number)], np.float32)})
        (folder / "model.safetensors").write_bytes(b"".join(encode_tensors(params)))
        created = f"2026-01-0{number + 1}"
        line = {"run_id": folder.name, "model_sha256": params.sha256, "created": created}
        (folder / "model.json").write_text(json.dumps(line))
        (folder / "result.json").write_text("{}")
    (tmp_path / "run-9.partial").mkdir()
    (tmp_path / "uploads").mkdir()
    return tmp_path


def left(root):
    return sorted(p.name for p in root.iterdir() if p.is_dir())


def test_the_oldest_go_and_what_was_ever_in_use_stays(root):
    for name in ("run-0", "run-2"):
        registry.promote(root, registry.find(root, name), by="oz", at=datetime.now(UTC))
    dry = prune(root, keep=1, dry_run=True)
    assert (dry.removed, dry.promoted, dry.kept) == (
        ("run-1", "run-3"), ("run-0", "run-2"), ("run-4",)
    )  # fmt: skip
    assert len(left(root)) == 7
    assert prune(root, keep=1, dry_run=False) == dry
    assert left(root) == ["run-0", "run-2", "run-4", "run-9.partial", "uploads"]
    assert dry.freed_bytes > 0
    assert prune(root, keep=0, dry_run=False).removed == ("run-4",)


def test_what_a_crash_left_of_a_removal_goes_the_next_time(root):
    (root / "run-0").rename(root / f"{DOOMED}run-0")
    found = prune(root, keep=9, dry_run=False)
    assert (found.removed, left(root)[0]) == ((), "run-1")
