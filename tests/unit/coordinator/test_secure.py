"""Secure rounds of real agents over mutual TLS: everybody, one lost, one that sends garbage."""

import asyncio
import contextlib
import hashlib
import json
from functools import partial

import numpy as np
import pytest

from choral.client.agent import Agent
from choral.client.calls import Calls
from choral.client.policy import PolicyFile, policy_of
from choral.client.settings import Local, Settings
from choral.client.who import Certified
from choral.client.work import Train, _Desk
from choral.coordinator.spool import SpoolFile
from choral.coordinator.sums import RemoteSum, SpooledSum
from choral.core.errors import BudgetExhausted
from choral.pki.credentials import ClientFiles
from choral.pki.files import private_folder
from choral.privacy.ledger import PrivacyLedger
from choral.secagg.commands import Accused
from choral.secagg.refusals import Reason
from choral.stores.ledgers import LEDGER, ledger_store
from choral.system import SystemClock, SystemRand
from choral.wire.v1 import admin_pb2 as admin

ALL = ("a", "b", "c", "d")
ROUND = {"quorum": 3, "deadline_s": 20.0, "step_s": 0.5, "backoff_s": 0.05}
POLICY = PolicyFile(
    tasks=["model:linear"], metrics=["*"], per_client_metrics=True, min_cohort=3,
    secure_aggregation="preferred", max_sums=64,
)  # fmt: skip


class InProcess:
    """A trainer without a child; `lost` is what happens instead of training."""

    def __init__(self, local, lost=None):
        self.desk, self.lost = _Desk(local), lost

    async def ask(self, request):
        if isinstance(request, Train) and self.lost is not None:
            self.lost()
            await asyncio.Event().wait()
        return await asyncio.to_thread(self.desk.answer, request)

    def end(self):
        """Nothing to end."""


@pytest.fixture
def agents(pki, tmp_path):
    """Return a function that lets agents work until their run has ended."""

    def agent(site, name, lost=None, max_epsilon=None):
        state = tmp_path / f"state-{name}"
        private_folder(state)
        draws = np.random.default_rng(ord(name))
        x = draws.normal(size=(20, 2))
        rows = [f"{u:.6f},{v:.6f},{u - 2 * v:.6f}" for u, v in x]
        data = tmp_path / f"{name}.csv"
        data.write_text("u,v,y\n" + "\n".join(rows) + "\n")
        local = Local(name, tmp_path, str(data), None, "raise", None, state)
        address = site.server.address.replace("127.0.0.1", "localhost")
        return Agent(
            Settings(local, (address,), None, None, {}, 1 << 30),
            who=Certified(name, ClientFiles.inside(pki / name)),
            policy=policy_of(POLICY.model_copy(update={"max_epsilon": max_epsilon})),
            clock=SystemClock(),
            rand=SystemRand(),
            trainer=InProcess(local, lost),
        )

    async def work(site, run, names, *, lost=(), max_epsilon=None, until=None):
        tasks = {}

        def end(name):
            tasks[name].cancel()

        for name in names:
            gone = partial(end, name) if name in lost else None
            one = agent(site, name, gone, max_epsilon)
            tasks[name] = asyncio.ensure_future(one.run(until_done=True))
        try:
            while until is not None and not until():
                await asyncio.sleep(0.02)
            return None if until is not None else await site.ended(run)
        finally:
            for task in tasks.values():
                task.cancel()
            for task in tasks.values():
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    return work


def submit(site, **changes):
    fields = {"clients_per_round": 4, "round": ROUND, "aggregation": "secure"}
    return site.submit(**fields | changes)


def assert_near(served, agents, run, *names, rounds=1):
    """Hold a secure round's model against that of the same clients' plain round."""

    async def plain(site):
        few = {"quorum": 2, "backoff_s": 0.05}
        run = site.submit(clients_per_round=len(names), round=few, rounds=rounds)
        await agents(site, run, names)
        assert run.status == "completed", run.reason
        return run.actor.conductor.params

    found, expected = run.actor.conductor.params, served(plain)
    assert max(np.abs(array).max() for array in expected.values()) > 0.01  # they have learnt
    for name in expected:
        assert np.allclose(found[name], expected[name], atol=2e-3), name


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.REPLAYED, "secagg_breach"), (Reason.JOINED, "round_spent")],
)
def test_who_leaves_a_sum_has_failed_and_who_accuses_has_not(reason, code):
    total = object.__new__(RemoteSum)
    total._refused, total._note = {}, lambda _: None
    total._blame(Accused("a", Reason.BAD_TAG, "b"))
    total._blame(Accused("b", reason, "", ends=True))
    assert [(f.client, f.code) for f in total._refused.values()] == [("b", code)]


def test_everybody(served, agents):
    async def test(site):
        run = submit(site, rounds=2)
        result = await agents(site, run, ALL)
        assert run.status == "completed", run.reason
        assert [r["completed"] for r in result["rounds"]] == [4, 4]
        assert result["aggregation"]["kind"] == "secure"
        assert result["aggregation"]["threat_model"] == "active"
        assert (result["identity"], result["privacy"]["level"]) == ("verified", "L2")
        assert not result["failures"]
        return run

    assert_near(served, agents, served(test), *ALL, rounds=2)


def test_noise_of_the_clients_until_the_budget_is_spent(served, agents, tmp_path):
    """Four agents noise and mask; to the round that would pass the budget nobody is asked."""
    noise = {"noise_multiplier": 4.2, "max_norm": 1.0}
    slow = {**ROUND, "step_s": 10.0}  # the accountant's library is read within the first step

    async def test(site):
        run = submit(site, rounds=9, round=slow, privacy={**noise, "budget": {"epsilon": 3.3}})
        await agents(site, run, ALL, max_epsilon=99.0)
        return run

    run = served(test)
    assert run.status == "failed"
    assert isinstance(run.error, BudgetExhausted)
    assert run.error.exit_code == 3
    view = run.actor.conductor.view
    assert [r["completed"] for r in view.rounds] == [4, 4]
    assert [r["mechanism"] for r in view.rounds] == ["skellam", "skellam"]
    ledger = PrivacyLedger(ledger_store(tmp_path / "runs" / LEDGER), run.name)
    assert (ledger.standing().spent, ledger.standing().reserved) == (2, 0)
    of_a_site = ledger_store(tmp_path / "state-a" / LEDGER)
    assert len(of_a_site.read_log(of_a_site.logs()[0])) == 2 + 2  # limit, run, an attempt a round


def test_a_site_that_allows_less_takes_no_part(served, agents, caplog):
    async def test(site):
        privacy = {"noise_multiplier": 6.0, "max_norm": 1.0}
        run = submit(site, privacy=privacy, round={**ROUND, "deadline_s": 1.0, "retries": 0})
        await agents(site, run, ALL, max_epsilon=0.5, until=lambda: "max_epsilon" in caplog.text)
        assert not run.actor.conductor.view.rounds

    served(test)


def test_one_that_is_lost_while_it_trains(served, agents):
    """Its shares are with the others, and its vector is nowhere."""

    async def test(site):
        run = submit(site, round=ROUND | {"deadline_s": 3.0})
        result = await agents(site, run, ALL, lost=("d",))
        assert run.status == "completed", run.reason
        (only,) = result["rounds"]
        assert (only["selected"], only["completed"]) == (4, 3)
        assert only["dropped"] == 1
        return run

    assert_near(served, agents, served(test), "a", "b", "c")


def test_one_that_uploads_garbage(served, agents, monkeypatch, caplog):
    """Random bytes under their own digest: not what the client has announced and signed."""
    honest = Calls.upload

    async def upload(calls, token, path, kind, **options):
        if "state-d" in str(path):
            raw = SystemRand().token(path.stat().st_size)
            path.write_bytes(raw)
            options["sha256"] = hashlib.sha256(raw).hexdigest()
        return await honest(calls, token, path, kind, **options)

    monkeypatch.setattr(Calls, "upload", upload)

    async def test(site):
        run = submit(site)
        result = await agents(site, run, ALL)
        assert run.status == "completed", run.reason
        (only,) = result["rounds"]
        assert (only["attempt"], only["completed"], only["dropped"]) == (1, 3, 1)
        (failure,) = result["failures"]
        assert failure["client"] == "d"
        assert "wrong_vector" in failure["message"]
        code = failure["code"]
        assert site.counted("choral_failures_total")[(code,)] == 1
        assert site.counted("choral_rejected_calls_total")["SendUpdate", code] == 1
        oz = await site.caller("oz")
        shown = await oz.admin.GetRun(admin.GetRunRequest(protocol_version=1, run_id=run.id))
        assert json.loads(shown.result_json)["failures"] == result["failures"]
        return run

    assert_near(served, agents, served(test), "a", "b", "c")
    assert "Traceback" not in caplog.text


# --- a disk that fails ----------------------------------------------------------------------------


def broken(monkeypatch, *, attempts):
    """Let a disk fail under the first upload that is read for a sum."""
    honest, left = SpoolFile.blocks, [attempts]

    def blocks(self, start, stop, **options):
        if stop - start > 4 and left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        yield from honest(self, start, stop, **options)

    monkeypatch.setattr(SpoolFile, "blocks", blocks)


def test_a_secure_attempt_fails_with_the_disk_and_the_next_one_commits(
    served, agents, monkeypatch, caplog
):
    broken(monkeypatch, attempts=1)

    async def test(site):
        run = submit(site)
        result = await agents(site, run, ALL)
        assert run.status == "completed", run.reason
        (only,) = result["rounds"]
        assert (only["attempt"], only["completed"]) == (2, 4)
        (failure,) = result["failures"]
        assert (failure["attempt"], failure["code"]) == (1, "store")
        assert site.counted("choral_rounds_total")[("store",)] == 1

    served(test)
    assert "Traceback" not in caplog.text


def test_a_plain_attempt_fails_with_the_disk_and_the_next_one_commits(
    served, agents, monkeypatch, caplog
):
    honest, left = SpooledSum.accept, [1]

    def accept(self, client):
        if left[0]:
            left[0] -= 1
            self._waiting[client][0].path.unlink()
        honest(self, client)

    monkeypatch.setattr(SpooledSum, "accept", accept)

    async def test(site):
        run = submit(site, aggregation="plain", clients_per_round=3)
        result = await agents(site, run, ("a", "b", "c"))
        assert run.status == "completed", run.reason
        (only,) = result["rounds"]
        assert (only["attempt"], only["completed"]) == (2, 3)
        assert site.counted("choral_rounds_total")[("store",)] == 1

    served(test)
    assert "Traceback" not in caplog.text


def test_an_upload_that_cannot_be_checked_costs_its_client_alone(served, tools, monkeypatch):
    async def test(site):
        run = site.submit(clients_per_round=3)
        callers = [await site.caller(name) for name in "abc"]
        works = await asyncio.gather(*(c.work() for c in callers))

        def tail(self, start):
            monkeypatch.undo()
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(SpoolFile, "tail", tail)
        with tools.refused("store"):
            await callers[0].contribute(works[0])
        for client, work in zip(callers[1:], works[1:], strict=True):
            await client.contribute(work)
        result = await site.ended(run)
        assert (run.status, result["rounds"][0]["completed"]) == ("completed", 2)
        assert [(f["client"], f["code"]) for f in result["failures"]] == [("a", "store")]

    served(test)
