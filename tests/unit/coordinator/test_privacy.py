"""Budgets and refusals of a coordinator that serves: who said no is shown, and ends a run so."""

import asyncio
import json
import logging

from choral.core.errors import BudgetExhausted, RolledBackLedger
from choral.privacy.ledger import PrivacyLedger
from choral.stores.ledgers import LEDGER, ledger_store
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb


def budget(epsilon, **more):
    people = {"epsilon": epsilon, "population": "people"}
    return {"privacy": {"noise_multiplier": 2.0, "max_norm": 1.0, "budget": people}, **more}


async def shown(site, run):
    oz = await site.caller("oz")
    found = await oz.admin.GetRun(admin.GetRunRequest(protocol_version=1, run_id=run.id))
    return json.loads(found.result_json)


def test_a_round_that_would_pass_the_budget_ends_the_run_and_says_so(served, tmp_path):
    async def test(site):
        run = site.submit(rounds=9, **budget(3.0))
        for _ in range(9):
            if run.ended.is_set():
                break
            works = [(c, c.work()) for c in [await site.caller(n) for n in ("a", "b")]]
            done = asyncio.gather(*(work for _, work in works))
            ended = asyncio.ensure_future(site.ended(run))
            await asyncio.wait({done, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                done.cancel()
                break
            ended.cancel()
            for (client, _), work in zip(works, done.result(), strict=True):
                await client.contribute(work)
        await site.ended(run)
        assert isinstance(run.error, BudgetExhausted)
        body = await shown(site, run)
        assert (body["status"], body["code"]) == ("failed", "budget_exhausted")
        assert "has used epsilon" in body["reason"]
        return len(body["rounds"])

    rounds = served(test)
    standing = PrivacyLedger(ledger_store(tmp_path / "runs" / LEDGER), "people").standing()
    assert 0 < rounds == standing.spent < 9
    assert standing.epsilon.value <= 3.0


def test_a_site_whose_own_budget_is_used_up_is_shown_and_not_asked_again(served, caplog):
    caplog.set_level(logging.INFO)

    async def test(site):
        run = site.submit(round={"quorum": 2, "retries": 3, "backoff_s": 0.05})
        a, b = await site.caller("a"), await site.caller("b")
        first, _ = await asyncio.gather(a.work(), b.work())
        await a.calls.report_failure(
            pb.FailureReport(
                protocol_version=1,
                token=first.token,
                code="budget_exhausted",
                message="the site's ledger: population `r` has used epsilon 3 of 3",
            )
        )
        for _ in range(200):
            if "a" in (await shown(site, run))["refusals"]:
                break
            await asyncio.sleep(0.02)
        body = await shown(site, run)
        assert "the site's ledger" in body["refusals"]["a"]
        (failure,) = body["failures"]
        assert (failure["client"], failure["code"]) == ("a", "budget_exhausted")
        answer = await a.join(wait_s=0.3)
        assert not answer.HasField("assignment"), "it is not asked again"

    served(test)


def test_a_ledger_older_than_the_audit_trail_has_seen_runs_nothing(served, tmp_path):
    async def first(site):
        run = site.submit(rounds=1, **budget(30.0))
        await site.commits(run, "a", "b")
        await site.ended(run)

    async def second(site):
        run = site.submit(rounds=1, **budget(30.0))
        callers = [await site.caller(name) for name in ("a", "b")]
        joins = asyncio.gather(*(client.join(wait_s=1.0) for client in callers))
        await asyncio.to_thread(run.ended.wait, 20)
        await joins
        assert isinstance(run.error, RolledBackLedger)
        assert (await shown(site, run))["code"] == "rolled_back_ledger"

    served(first)
    path = tmp_path / "runs" / LEDGER
    before = ledger_store(path)
    assert PrivacyLedger(before, "people").standing().spent == 1
    before.close()
    for found in [*(tmp_path / "runs").glob("*/result.json")]:
        found.unlink()  # the audit trail alone remembers
    for left in path.parent.glob(f"{LEDGER}*"):
        left.unlink()
    served(second)
