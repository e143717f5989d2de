"""The agent against a scripted coordinator: rounds, refusals and failures."""

import asyncio
import importlib.util
import os
import pathlib
import signal
import socket
import stat
from dataclasses import replace

import pytest

from choral.client.policy import OPEN, PolicyFile, policy_of
from choral.client.work import personal_files
from choral.core.errors import (
    ChoralError,
    DataError,
    Refused,
    SchemaMismatch,
    VersionMismatch,
)
from choral.core.tensors import decode_tensors
from choral.data import Schema
from choral.federation.audit import Head
from choral.wire.joining import Blob
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2

TASK = """
import numpy as np
from choral.core.update import Update
from choral.tasks.numpy import LinearTask


class Task(LinearTask):
    def train(self, params, data, plan, key):
        {train}


task = Task(input_dim=3)
"""


def own_task(federation, name, train, **changes):
    """Write a task of the site's own; return a plan for it."""
    (federation.folder / f"{name}.py").write_text(TASK.format(train=train))
    return replace(federation.plan, task=f"{name}:task", arguments="", **changes)


def ended(pid):
    """Return whether a process has ended, or only waits for whoever inherited it."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def only(script):
    (found,) = script.failures.values()
    return found


# --- rounds ---------------------------------------------------------------------------------------


def test_a_plain_contribution_is_the_participants_bit_for_bit(federation, meet):
    script = federation.script
    token = script.assign("a", federation.plan)
    (ended,) = meet(federation, "a")
    assert ended.completed
    assert script.uploads[token] == federation.expected_bytes("a")
    assert not script.failures


def test_the_child_gives_the_same_bits_and_goes_on_between_rounds(federation, meet):
    script = federation.script
    plans = [federation.plan, replace(federation.plan, round=2, split_seed=8)]
    tokens = [script.assign("a", plan) for plan in plans]
    meet(federation, "a", child=True)
    for token, plan in zip(tokens, plans, strict=True):
        assert script.uploads[token] == federation.expected_bytes("a", plan)


def test_a_coordinator_that_was_set_back_gets_no_work(federation, meet, caplog):
    script = federation.script
    script.head = Head(5, "ab" * 32).encode()
    script.assign("a", federation.plan)
    meet(federation, "a")
    assert not script.failures
    later = replace(federation.plan, round=2)
    for head in (Head(4, "ab" * 32), Head(5, "cd" * 32)):
        script.head = head.encode()
        token = script.assign("a", later, token=head.encode())
        meet(federation, "a")
        assert script.failures[token][0] == "rolled_back_audit"
        assert token not in script.uploads
    assert "set back to an older state" in caplog.text
    script.head = Head(6, "ef" * 32).encode()
    token = script.assign("a", later)
    meet(federation, "a")
    assert token in script.uploads


def test_a_failed_run_ends_it_with_what_happened(federation, meet):
    federation.script.farewell = run_pb2.RUN_STATUS_FAILED
    (ended,) = meet(federation, "a")
    assert not ended.completed


def test_nothing_but_the_state_is_left(federation, meet):
    federation.script.assign("a", federation.plan)
    meet(federation, "a")
    state = federation.folder / "state-a"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    private = {p.name: stat.S_IMODE(p.stat().st_mode) for p in state.iterdir() if p.is_file()}
    assert set(private.values()) == {0o600}, private
    assert not [name for name in private if "contribution" in name or "masked" in name]


def test_metrics_that_must_not_leave_do_not(federation, meet):
    policy = policy_of(
        PolicyFile(secure_aggregation="off", tasks=["model:linear"], metrics=["accuracy"])
    )
    token = federation.script.assign("a", federation.plan)
    meet(federation, "a", policy=policy)
    whole = federation.expected("a").contribution
    assert "train_loss" in whole.metrics
    sent = federation.script.uploads[token]
    assert b"train_loss" not in sent
    assert sent[: whole.vector.nbytes] == whole.vector.tobytes()


PERSONAL = """
import numpy as np
from choral.core.params import Params
from choral.core.update import Update
from choral.tasks.numpy import LinearTask


class Task(LinearTask):
    roles = {"bias": "personal"}

    def train(self, params, data, plan, key):
        kept = Params({"bias": params["bias"] + np.float32(1)})
        return Update(np.full(3, float(params["bias"][0]), np.float32), 4.0, {}, kept)


task = Task(input_dim=3)
"""


def personal_plan(federation, make_plan):
    """Return a plan for a task whose update is its personal bias, which grows by 1 a round."""
    (federation.folder / "personal_task.py").write_text(PERSONAL)
    plan = federation.with_model(make_plan(), load_task(federation), federation.params)
    return replace(plan, task="personal_task:task", arguments="")


def load_task(federation):
    path = federation.folder / "personal_task.py"
    found = importlib.util.spec_from_file_location("personal_here", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.task


def test_personal_tensors_stay_and_come_back(federation, meet, make_plan):
    plan = personal_plan(federation, make_plan)
    tokens = [federation.script.assign("a", replace(plan, round=r)) for r in (1, 2)]
    meet(federation, "a")
    first, second = (federation.script.uploads[t] for t in tokens)
    task = load_task(federation)
    assert first == federation.expected_bytes("a", plan, task=task)
    assert first != second
    found = personal_files(federation.folder / "state-a", plan.run_id)
    kept = {r: float(decode_tensors(p.read_bytes())["bias"][0]) for r, p in found.items()}
    assert kept == {1: 1.0, 2: 2.0}


def test_a_round_that_is_tried_again_starts_from_the_same_personal_tensors(
    federation, meet, make_plan
):
    plan = personal_plan(federation, make_plan)
    again = [replace(plan, round=r, attempt=n) for r, n in ((1, 1), (2, 1), (2, 2), (3, 1))]
    tokens = [federation.script.assign("a", p) for p in again]
    meet(federation, "a")
    first, second, repeated, third = (federation.script.uploads[t] for t in tokens)
    assert second == repeated
    assert len({first, second, third}) == 3
    assert sorted(personal_files(federation.folder / "state-a", plan.run_id)) == [2, 3]


# --- evaluation -----------------------------------------------------------------------------------


def test_it_measures_on_its_own_held_out_part(federation, meet):
    federation.script.ask_evaluation("a", federation.plan)
    meet(federation, "a")
    (found,) = federation.script.evaluations
    assert found.examples == 4  # a fifth of 20
    assert found.metrics["loss"] > 0


def test_what_is_no_finite_number_is_not_reported(federation, meet):
    plan = own_task(
        federation,
        "unmeasured_task",
        "return None\n\n    def evaluate(self, params, data):\n"
        "        return {'loss': float('nan'), 'accuracy': 0.5}",
    )
    federation.script.ask_evaluation("a", plan)
    meet(federation, "a")
    (found,) = federation.script.evaluations
    assert found.metrics == {"accuracy": 0.5}


def test_alone_metrics_leave_only_where_the_policy_says_so(federation, meet, caplog):
    caplog.set_level("INFO", "choral.client")
    policy = policy_of(PolicyFile(secure_aggregation="off", tasks=["*"]))
    federation.script.ask_evaluation("a", federation.plan)
    meet(federation, "a", policy=policy)
    assert not federation.script.evaluations
    assert only(federation.script)[0] == "refused"
    (said,) = [r for r in caplog.records if "no metrics of this client alone" in r.message]
    assert said.message.startswith("a: refused: the site's policy")
    assert said.levelname == "INFO"
    assert "failed" not in caplog.text


# --- refusals and failures ------------------------------------------------------------------------


def test_a_plan_outside_the_policy_is_refused_before_anything_is_downloaded(federation, meet):
    policy = policy_of(PolicyFile(secure_aggregation="off", tasks=["heart_task:task"]))
    federation.script.assign("a", federation.plan)
    meet(federation, "a", policy=policy)
    code, message = only(federation.script)
    assert code == "refused"
    assert "`model:linear` is not among its `tasks`" in message
    assert not federation.script.offsets
    assert not federation.script.uploads


def test_it_offers_the_tasks_that_its_site_allows(federation, meet):
    policy = policy_of(PolicyFile(tasks=["heart_task:task", "model:linear"]))
    meet(federation, "a", policy=policy)
    assert list(federation.script.joins[0].tasks) == ["heart_task:task", "model:linear"]
    assert federation.script.joins[0].examples_bucket == 6  # 20 examples


def test_errors_of_the_sites_own_code_stay_in_its_own_log(federation, meet, caplog):
    plan = own_task(federation, "raising_task", "raise ValueError('patient 17')")
    federation.script.assign("a", plan)
    with caplog.at_level("WARNING", "choral.client"):
        meet(federation, "a")
    code, message = only(federation.script)
    assert code == "client_error"
    assert "patient" not in message
    assert "patient 17" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("leaving", ["raise SystemExit(3)", "return 'nothing'"])
def test_odd_ends_of_the_sites_own_code_are_failures_of_one_round(federation, meet, leaving):
    name = f"leaving_{len(leaving)}"
    federation.script.assign("a", own_task(federation, name, leaving))
    token = federation.script.assign("a", replace(federation.plan, round=2))
    meet(federation, "a")
    assert len(federation.script.failures) == 1
    assert token in federation.script.uploads


def test_nan_is_refused_at_the_site(federation, meet):
    plan = own_task(
        federation, "nan_task", "return Update(np.full(4, np.nan, np.float32), 1.0, {})"
    )
    federation.script.assign("a", plan)
    meet(federation, "a")
    code, message = only(federation.script)
    assert code == "not_finite"
    assert "NaN" in message


SCHEMA = """version: 2
target: y
columns:
  - {name: a, type: number, unit: cm}
  - {name: b, type: number}
  - {name: c, type: number}
  - {name: y, type: number}
"""


def test_the_data_s_schema_is_told_without_a_value(federation, meet, tmp_path):
    path = tmp_path / "schema.yaml"
    path.write_text(SCHEMA)
    meet(federation, "a", schema=path)
    (join,) = federation.script.joins
    schema = Schema.from_yaml(path)
    assert join.schema_json == schema.to_json()
    assert (join.schema_version, join.schema_fingerprint) == ("2", schema.fingerprint)


def test_a_refused_schema_is_said_and_asked_again_later(federation, meet, caplog, monkeypatch):
    """Others may begin a run that takes it."""
    monkeypatch.setattr("choral.client.agent.BACKOFF_S", (0.01, 0.01))
    federation.script.fail_joins = 3
    federation.script.refuse_joins = SchemaMismatch("its data schema differs: column `b`")
    (ended,) = meet(federation, "a")
    assert ended.completed
    assert len(federation.script.joins) == 4
    assert caplog.text.count("refused: schema_mismatch: its data schema differs: column `b`") == 1
    assert "is not there" not in caplog.text


def test_runs_that_do_not_ask_the_client_are_in_its_log(federation, meet, caplog):
    back = pb.ComeBack(refusals=["run tiny: refused: its site does not allow \x1b[31mit"])
    federation.script.answers["a"] += 2 * [pb.JoinResponse(protocol_version=1, come_back=back)]
    meet(federation, "a")
    assert caplog.text.count("refused: run tiny: refused: its site does not allow [31mit") == 1


def test_another_schema_is_named(federation, meet):
    federation.script.assign("a", replace(federation.plan, spec_digest="ab" * 32))
    meet(federation, "a")
    code, message = only(federation.script)
    assert code == VersionMismatch.code
    assert "abababababab" in message


def test_a_task_that_is_not_there_is_named(federation, meet):
    federation.script.assign("a", replace(federation.plan, task="no_such_module:task"))
    meet(federation, "a")
    assert only(federation.script)[0] == "task_not_found"


def test_blobs_that_this_version_does_not_know_are_refused(federation, meet):
    federation.script.assign("a", federation.plan, states=(Blob("drift", "ab" * 32, 10),))
    meet(federation, "a")
    assert only(federation.script)[0] == VersionMismatch.code
    assert not federation.script.uploads


def test_a_child_that_was_killed_is_started_again(federation, meet):
    train = (
        "import os, signal, pathlib; mark = pathlib.Path(__file__ + '.mark')\n"
        "        if not mark.exists():\n"
        "            mark.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().train(params, data, plan, key)"
    )
    plan = own_task(federation, "dying_task", train)
    federation.script.assign("a", plan)
    token = federation.script.assign("a", replace(plan, round=2))
    meet(federation, "a", child=True)
    assert only(federation.script)[0] == "worker_lost"
    assert token in federation.script.uploads


def test_training_ends_with_its_time_and_so_does_the_child(federation, meet):
    train = (
        "import os, pathlib, subprocess, threading\n"
        "        other = subprocess.Popen(['sleep', '600'])\n"
        "        pids = f'{os.getpid()} {other.pid}'\n"
        "        pathlib.Path(__file__ + '.pid').write_text(pids)\n"
        "        threading.Event().wait()"
    )
    plan = own_task(federation, "endless_task", train)
    federation.script.assign("a", plan, deadline_s=3.0)
    token = federation.script.assign("a", replace(federation.plan, round=2))
    meet(federation, "a", child=True)
    assert len(federation.script.failures) == 1
    assert token in federation.script.uploads
    for pid in (federation.folder / "endless_task.py.pid").read_text().split():
        assert ended(int(pid))


def test_data_that_cannot_be_used_ends_it_at_once(federation, meet):
    with pytest.raises(DataError, match="no such file"):
        meet(federation, "a", data="/nowhere/a.csv")


def test_a_receipt_that_the_coordinator_did_not_sign_settles_nothing(federation, meet):
    from choral.crypto.signatures import SigningKey
    from choral.system import SystemRand

    federation.script.receipt_key = SigningKey.random(SystemRand())
    federation.script.assign("a", federation.plan)
    meet(federation, "a")
    assert only(federation.script)[0] == "refused"


# --- the connection -------------------------------------------------------------------------------


def test_it_tries_until_the_coordinator_is_ready(federation, meet):
    federation.script.fail_joins = 2
    token = federation.script.assign("a", federation.plan)
    meet(federation, "a")
    assert token in federation.script.uploads


def test_it_tries_until_the_coordinator_is_there(federation, serve):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    token = federation.script.assign("a", federation.plan)

    async def main():
        agent = federation.agent("a", address)
        missed, pause = asyncio.Event(), agent._pause

        async def noting(why, address):
            missed.set()
            await pause(why, address)

        agent._pause = noting
        work = asyncio.ensure_future(agent.run(until_done=True))
        await missed.wait()
        async with serve(federation.script, address):
            return await asyncio.wait_for(work, 60)

    assert asyncio.run(main()).completed
    assert token in federation.script.uploads


def test_a_coordinator_that_lets_it_not_in_ends_it(federation, meet):
    federation.script.refuse_joins = Refused("the certificate was revoked")
    with pytest.raises(Refused, match="revoked"):
        meet(federation, "a")


def test_a_fault_of_the_coordinators_is_waited_out(federation, meet):
    federation.script.refuse_joins = ChoralError("the coordinator failed on this call")
    federation.script.fail_joins = 1
    (ended,) = meet(federation, "a")
    assert ended.completed
    assert len(federation.script.joins) == 2


def test_it_comes_back_when_it_is_told_to(federation, serve):
    back = pb.ComeBack(after_s=100.0, window_s=50.0, reason="a crowd")
    federation.script.answers["a"].append(pb.JoinResponse(protocol_version=1, come_back=back))
    rests = []

    async def main():
        async with serve(federation.script) as address:
            agent = federation.agent("a", address)

            async def rest(seconds):
                rests.append(seconds)

            agent._rest = rest
            await agent.run(until_done=True)

    asyncio.run(main())
    (rest,) = rests
    assert 100.0 <= rest <= 150.0


def test_its_key_is_enrolled_and_the_coordinator_pinned(federation, meet):
    meet(federation, "a")
    assert federation.script.metadata["choral-client-id"] == "a"
    key = federation.script.metadata["choral-signing-key-bin"]
    meet(federation, "a")
    assert federation.script.metadata["choral-signing-key-bin"] == key


def test_another_coordinator_than_the_first_is_refused(federation, meet, make_plan):
    meet(federation, "a")
    from choral.crypto.signatures import SigningKey
    from choral.system import SystemRand

    federation.script.key = SigningKey.random(SystemRand())
    with pytest.raises(Refused, match="another coordinator") as caught:
        meet(federation, "a")
    assert "remove" in caught.value.hint


def test_plain_text_goes_to_this_machine_alone(federation, monkeypatch):
    monkeypatch.delenv("CHORAL_ALLOW_INSECURE", raising=False)
    with pytest.raises(Refused, match="plain text"):
        federation.agent("a", "192.0.2.1:50051")


def test_it_does_not_ask_for_work_out_of_hours(federation, serve):
    noon, asked = 1_700_000_000.0, []

    class Clock:
        now = noon

        def monotonic(self):
            return self.now

        def wall(self):
            return self.now

    from datetime import datetime

    start = datetime.fromtimestamp(noon).replace(minute=0)
    opening = f"{(start.hour + 2) % 24:02}:00-{(start.hour + 3) % 24:02}:00"
    clock = Clock()
    policy = policy_of(replace_file(OPEN.file, hours=opening))

    async def main():
        async with serve(federation.script) as address:
            agent = federation.agent("a", address, policy=policy, clock=clock)

            async def rest(seconds):
                asked.append(len(federation.script.joins))
                clock.now += seconds

            agent._rest = rest
            return await asyncio.wait_for(agent.run(until_done=True), 30)

    assert asyncio.run(main()).completed
    assert asked
    assert set(asked) == {0}
    assert datetime.fromtimestamp(clock.now).hour == (start.hour + 2) % 24


def replace_file(file, **changes):
    return file.model_copy(update=changes)


def test_cancelling_ends_the_child(federation, serve):
    async def main():
        async with serve(federation.script) as address:
            agent = federation.agent("a", address, child=True)
            work = asyncio.ensure_future(agent.run())
            while not federation.script.joins:
                await asyncio.sleep(0.01)
            pid = agent._trainer.pid
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            return pid

    pid = asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
