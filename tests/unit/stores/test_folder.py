"""Run folders: complete or absent, recognised when resumed."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import choral
from choral.core.errors import Fenced, NothingToResume, ResumeMismatch, RunExists, StoreError
from choral.federation.conductor import Conductor
from choral.stores.folder import RunFolder
from choral.stores.sqlite import SqliteRunStore
from choral.tasks.numpy import LinearTask


def run(counting, numbered_clients, path, **options):
    return choral.simulate(
        counting(**options.pop("task", {})),
        clients=numbered_clients(3),
        **{"rounds": 3, "seed": 7, "out": path, "round_policy": {"retries": 0}, **options},
    )


def test_what_a_run_leaves(counting, numbered_clients, tmp_path):
    result = run(counting, numbered_clients, tmp_path / "a")
    model = tmp_path / "a" / "model.safetensors"
    assert result.model_path == model
    assert hashlib.sha256(model.read_bytes()).hexdigest() == result.model_sha256
    assert load_file(model)["w"].tolist() == result.params["w"].tolist()
    stored = json.loads((tmp_path / "a" / "result.json").read_text())
    assert stored == json.loads(json.dumps(result.to_json()))
    lineage = json.loads((tmp_path / "a" / "model.json").read_text())
    assert lineage["model_sha256"] == result.model_sha256
    assert lineage["parent_sha256"] != result.model_sha256
    assert lineage["spec"]["tensors"] == [
        {"name": "w", "shape": [3], "dtype": "float32", "role": "shared"}
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_that_exists_is_left_alone(counting, numbered_clients, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(RunExists, match="exists already"):
        run(counting, numbered_clients, tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_a_run_that_fails_at_once_leaves_nothing(counting, numbered_clients, tmp_path):
    with pytest.raises(choral.RunFailed):
        run(counting, numbered_clients, tmp_path / "a", task={"fail": [0.0, 1.0, 2.0]})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_later_can_be_resumed(counting, numbered_clients, tmp_path):
    fail = [(value, 2) for value in (0.0, 1.0)]
    with pytest.raises(choral.RunFailed, match="round 2"):
        run(counting, numbered_clients, tmp_path / "a", task={"fail": fail})
    with pytest.raises(RunExists, match="unfinished run"):
        run(counting, numbered_clients, tmp_path / "a")
    result = run(counting, numbered_clients, tmp_path / "a", resume=True)
    assert result.model_sha256 == run(counting, numbered_clients, None).model_sha256
    assert [r["attempt"] for r in result.rounds] == [1, 2, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 4}, "rounds was 3 and is 4"),
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"local": {"lr": 0.5}}, "local.lr was 0.01 and is 0.5"),
        ({"strategy": choral.FedProx(mu=0.5)}, "strategy.name"),
    ],
    ids=str,
)
def test_another_configuration_is_refused(counting, numbered_clients, tmp_path, change, words):
    fail = [(value, 2) for value in (0.0, 1.0)]
    with pytest.raises(choral.RunFailed):
        run(counting, numbered_clients, tmp_path / "a", task={"fail": fail})
    before = (tmp_path / "a.partial" / "run.db").read_bytes()
    with pytest.raises(ResumeMismatch, match=words):
        run(counting, numbered_clients, tmp_path / "a", resume=True, **change)
    assert (tmp_path / "a.partial" / "run.db").read_bytes() == before


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"test_fraction": 0.5}, "test_fraction was 0.2 and is 0.5"),
        ({}, {"clients": "abd"}, "client_ids"),
        ({}, {"clients": "abcd"}, "clients was 3 and is 4"),
        ({}, {"l2": 0.5}, "task.l2 was 0.0 and is 0.5"),
        ({}, {"input_dim": 3}, "spec"),
        ({}, {"selection": {"name": "hybrid", "by": "x", "min_share": {"a": 0.1}}}, "selection"),
        ({}, {"arrival": choral.Availability(latency_s=5)}, "arrival"),
    ],
    ids=str,
)
def test_another_federation_is_not_resumed(tmp_path, before, after, words):
    class Stop(Exception):
        pass

    def stop(item):
        if type(item).__name__ == "Evaluated":
            raise Stop

    def start(*, clients="abc", l2=0.0, input_dim=2, **options):
        rng = np.random.default_rng(0)
        data = {c: (rng.standard_normal((9, input_dim)), rng.integers(0, 2, 9)) for c in clients}
        task = LinearTask("logistic", input_dim=input_dim, l2=l2)
        return choral.simulate(task, clients=data, rounds=3, seed=7, out=tmp_path / "a", **options)

    with pytest.raises(Stop):
        start(**before, observers=[stop])
    with pytest.raises(ResumeMismatch, match=words):
        start(**before, **after, resume=True)
    assert start(**before, resume=True).status == "completed"


def test_nothing_but_the_run_s_own_files_is_removed(counting, numbered_clients, tmp_path):
    def note(item):
        if type(item).__name__ == "CohortChosen":
            (tmp_path / "a.partial" / "notes.txt").write_text("mine")

    with pytest.raises(choral.RunFailed):
        run(
            counting,
            numbered_clients,
            tmp_path / "a",
            task={"fail": [0.0, 1.0, 2.0]},
            observers=[note],
        )
    assert [p.name for p in (tmp_path / "a.partial").iterdir()] == ["notes.txt"]


def test_files_are_for_their_owner_alone(counting, numbered_clients, tmp_path):
    run(counting, numbered_clients, tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    for name in ("model.safetensors", "model.json", "result.json"):
        assert (tmp_path / "a" / name).stat().st_mode & 0o077 == 0
    for blob in (tmp_path / "a" / "blobs").iterdir():
        assert blob.stat().st_mode & 0o077 == 0


def test_nothing_to_resume(counting, numbered_clients, tmp_path):
    with pytest.raises(NothingToResume, match="holds no run"):
        run(counting, numbered_clients, tmp_path / "a", resume=True)
    run(counting, numbered_clients, tmp_path / "a")
    with pytest.raises(NothingToResume, match="completed run"):
        run(counting, numbered_clients, tmp_path / "a", resume=True)


def test_old_states_are_removed(counting, numbered_clients, tmp_path):
    run(counting, numbered_clients, tmp_path / "a", rounds=9)
    assert len(list((tmp_path / "a" / "blobs").iterdir())) <= 2


def test_a_changed_state_is_noticed(counting, numbered_clients, tmp_path):
    fail = [(value, 2) for value in (0.0, 1.0)]
    with pytest.raises(choral.RunFailed):
        run(counting, numbered_clients, tmp_path / "a", task={"fail": fail})
    for blob in (tmp_path / "a.partial" / "blobs").iterdir():
        blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    with pytest.raises(choral.ChoralError, match="does not match"):
        run(counting, numbered_clients, tmp_path / "a", resume=True)


def test_a_run_is_for_its_owner_alone(counting, numbered_clients, tmp_path):
    run(counting, numbered_clients, tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0


def test_a_place_that_cannot_be_written_is_named(counting, numbered_clients, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(choral.ChoralError, match="cannot make"):
        run(counting, numbered_clients, tmp_path / "file" / "a")
    result = run(counting, numbered_clients, None)
    with pytest.raises(choral.ChoralError, match="cannot write"):
        result.report(tmp_path / "nowhere" / "page.html")


def test_a_process_that_lost_the_run_leaves_the_folder_alone(counting, numbered_clients, tmp_path):
    def take_over(item):
        if type(item).__name__ == "CohortChosen":
            store = SqliteRunStore(tmp_path / "a.partial" / "run.db")
            store.acquire(store.runs()[0])
            store.close()

    with pytest.raises(Fenced):
        run(counting, numbered_clients, tmp_path / "a", observers=[take_over])
    assert (tmp_path / "a.partial" / "run.db").exists()


@pytest.mark.parametrize("name", ["", ".", "file/run"])
def test_a_folder_that_cannot_be_made_is_an_error_of_ours(
    counting, numbered_clients, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        run(counting, numbered_clients, name)


def test_a_header_that_cannot_be_stored_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path / "a").create("a-1", {"config": {"range": float("nan")}})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_run_by_another_process_is_left_alone(
    counting, numbered_clients, tmp_path
):
    seen = []

    def intrude(item):
        if type(item).__name__ == "Evaluated" and not seen:
            seen.append(item)
            for resume in (False, True):
                with pytest.raises(StoreError) as caught:
                    run(counting, numbered_clients, tmp_path / "a", resume=resume)
                seen.append(caught.value.message)

    result = run(counting, numbered_clients, tmp_path / "a", observers=[intrude])
    assert result.status == "completed"
    assert "unfinished run" in seen[1]
    assert "is run by another process" in seen[2]


def test_a_folder_without_a_run_is_taken(counting, numbered_clients, tmp_path):
    (tmp_path / "a.partial").mkdir()
    assert run(counting, numbered_clients, tmp_path / "a").status == "completed"


def test_leftovers_of_a_crash_are_removed(counting, numbered_clients, tmp_path):
    (tmp_path / "a.partial" / "blobs").mkdir(parents=True)
    (tmp_path / "a.partial" / "blobs" / ".0123.tmp").write_bytes(b"half")
    run(counting, numbered_clients, tmp_path / "a")
    assert not list(tmp_path.rglob(".*.tmp"))
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("name", ["x" * 300, "."])
def test_a_folder_that_cannot_be_is_named(counting, numbered_clients, tmp_path, name):
    with pytest.raises(StoreError, match="cannot"):
        run(counting, numbered_clients, tmp_path / name if name != "." else name)


def test_a_link_to_nowhere_is_left_alone(counting, numbered_clients, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunExists):
        run(counting, numbered_clients, tmp_path / "a")


def test_a_full_disk_is_named_and_the_run_can_be_resumed(
    counting, numbered_clients, tmp_path, monkeypatch
):
    real, count = os.fsync, [0]

    def full(handle):
        count[0] += 1
        if count[0] > 12:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        run(counting, numbered_clients, tmp_path / "a", rounds=20)
    monkeypatch.setattr(os, "fsync", real)
    resumed = run(counting, numbered_clients, tmp_path / "a", rounds=20, resume=True)
    assert resumed.model_sha256 == run(counting, numbered_clients, None, rounds=20).model_sha256


def test_a_folder_is_held_until_its_run_has_ended(
    counting, numbered_clients, tmp_path, monkeypatch
):
    """Whoever comes while it is renamed or removed must not begin in it."""
    refused = []
    rename = Path.replace

    def intrude():
        if (tmp_path / "a.partial").exists():
            with pytest.raises(StoreError, match="run by another process"):
                RunFolder(tmp_path / "a")._lock()
            refused.append(True)

    def renamed(self, target):
        if self.name == "a.partial":
            intrude()
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", renamed)
    run(counting, numbered_clients, tmp_path / "a")
    assert refused
    with pytest.raises(choral.RunFailed):
        run(counting, numbered_clients, tmp_path / "b", task={"fail": [0.0, 1.0, 2.0]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    assert not (tmp_path / "a" / "run.lock").exists()
    with pytest.raises(RunExists):
        run(counting, numbered_clients, tmp_path / "a")


def test_a_resumed_model_keeps_the_record_of_its_release(counting, numbered_clients, tmp_path):
    seen = []
    fail = [(value, 2) for value in (0.0, 1.0)]
    with pytest.raises(choral.RunFailed):
        run(counting, numbered_clients, tmp_path / "a", task={"fail": fail})
    real = Conductor.begin

    def begin(self):
        commands = real(self)
        seen.append(self.released.event)
        return commands

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conductor, "begin", begin)
        run(counting, numbered_clients, tmp_path / "a", resume=True)
    assert (seen[0].what, seen[0].round, seen[0].mechanism) == ("model", 1, "none")
