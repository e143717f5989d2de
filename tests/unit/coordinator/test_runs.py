"""Runs from their submission to their end: several at a time, stopped, resumed, by hand."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from choral.config.build import Place
from choral.coordinator.population import Population
from choral.coordinator.tickets import Stop
from choral.core.errors import ConfigError, PlanError
from choral.core.params import ClientId
from choral.wire.joining import Join, assignment_from_proto
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2


async def rounds(site, run, *names):
    """Let clients work until their run has ended."""

    async def one(name):
        client = await site.caller(name)
        while True:
            answer = await client.join(wait_s=2.0)
            if answer.HasField("goodbye"):
                return answer.goodbye
            if answer.HasField("assignment"):
                await client.contribute(assignment_from_proto(answer.assignment))

    return await asyncio.gather(*map(one, names))


def test_a_run_says_goodbye_and_leaves_its_model(served, tmp_path):
    async def test(site):
        run = site.submit(rounds=3)
        said = await rounds(site, run, "a", "b")
        assert [(g.run_id, g.status) for g in said] == 2 * [(run.id, run_pb2.RUN_STATUS_COMPLETED)]
        return await site.ended(run)

    result = served(test)
    assert [r["completed"] for r in result["rounds"]] == [2, 2, 2]
    assert (result["engine"], result["identity"]) == ("grpc", "verified")
    folder = tmp_path / "runs" / result["run_id"]
    kept = json.loads((folder / "result.json").read_text())
    assert kept["model_sha256"] == result["model_sha256"]
    assert (folder / "model.safetensors").exists()
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {
        folder.name,
        "uploads",
        "audit.db",
    }


def test_two_runs_at_a_time_do_not_mix(served):
    async def test(site):
        one, two = site.submit(rounds=2), site.submit(rounds=2, seed=2)
        callers = [await site.caller(name) for name in ("a", "b")]

        async def work(client):
            ended = set()
            while len(ended) < 2:
                answer = await client.join(wait_s=2.0)
                if answer.HasField("goodbye"):
                    ended.add(answer.goodbye.run_id)
                elif answer.HasField("assignment"):
                    await client.contribute(assignment_from_proto(answer.assignment))

        await asyncio.gather(*map(work, callers))
        for run in (one, two):
            result = await site.ended(run)
            assert [r["completed"] for r in result["rounds"]] == [2, 2]

    served(test)


def test_an_unfinished_run_goes_on_with_the_next_coordinator(served, tools):
    file, place = tools.federation(rounds=3), Place(Path())

    async def begin(site):
        run = site.runs.submit(file, place, owner="oz")
        a, b = await site.caller("a"), await site.caller("b")
        for client, work in zip((a, b), await asyncio.gather(a.work(), b.work()), strict=True):
            await client.contribute(work)
        for _ in range(100):
            if len(run.actor.conductor.view.rounds) == 1:
                break
            await asyncio.sleep(0.02)
        return run.id

    async def go_on(site):
        run = site.runs.resume(file, place, owner="oz")
        assert site.runs.resume(tools.federation(rounds=9), place, owner="oz") is None
        await rounds(site, run, "a", "b")
        return await site.ended(run)

    run_id = served(begin)
    result = served(go_on)
    assert result["run_id"] == run_id
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3]


@pytest.mark.parametrize("spoiled", [False, True])
def test_an_upload_goes_on_with_the_next_coordinator(served, tools, tmp_path, spoiled):
    raw = tools.contribution(range((3 << 18) + 1))
    sha256 = hashlib.sha256(raw).hexdigest()
    uploads = tmp_path / "runs" / "uploads"
    model = {"type": "linear", "input_dim": 3 << 18}

    async def begin(site):
        site.submit(model=model)
        a, b = await site.caller("a"), await site.caller("b")
        work, other = await asyncio.gather(a.work(), b.work())
        with tools.refused("truncated"):
            await a.send(tools.upload(work.token, raw)[:3])
        return work.token, other.token

    async def go_on(site):
        (run,) = site.runs.all()
        a, b = await site.caller("a"), await site.caller("b")
        request = pb.UploadRequest(protocol_version=1, token=token, sha256=sha256)
        await a.work()  # the run has taken its work up again
        assert (await a.calls.get_upload(request)).offset == 2 << 20
        rest = tools.upload(token, raw, offset=2 << 20)
        if spoiled:
            with tools.refused("truncated"):
                await a.send(rest)
            assert (await a.calls.get_upload(request)).offset == 0
            rest = tools.upload(token, raw)
        await a.send(rest)
        await b.send(tools.upload(theirs, raw))
        for _ in range(500):
            if not (uploads / stray.name).exists():
                break
            await asyncio.sleep(0.02)
        result = await site.ended(run)
        assert result["rounds"][0]["completed"] == 2
        assert list(uploads.iterdir()) == []

    token, theirs = served(begin)
    (part,) = uploads.iterdir()
    assert part.stat().st_size == 2 << 20
    stray = part.with_name(part.name.replace(token.hex(), "ab" * 16))
    stray.write_bytes(b"of a run that is over")
    (uploads / "something.upload").write_bytes(b"else")
    if spoiled:
        part.write_bytes(bytes(2 << 20))
    served(go_on)


def test_a_round_by_hand_waits_for_an_operator(served):
    async def test(site):
        run = site.submit(start={"manual": True})
        a, b, oz = [await site.caller(name) for name in ("a", "b", "oz")]
        joins = [asyncio.ensure_future(c.join(wait_s=1.0)) for c in (a, b)]
        assert not any(answer.HasField("assignment") for answer in await asyncio.gather(*joins))
        shown = await oz.admin.GetRun(admin.GetRunRequest(protocol_version=1, run_id=run.id))
        assert "operator" in json.loads(shown.result_json)["reason"]
        await oz.admin.OpenRound(admin.OpenRoundRequest(protocol_version=1, run_id=run.id))
        await site.commits(run, "a", "b")

    served(test)


def test_a_quorum_is_enough_after_a_while_and_at_the_deadline(served):
    async def test(site):
        run = site.submit(
            clients_per_round=4, round={"quorum": 2, "deadline_s": 1.0}, start={"wait_s": 2.0}
        )
        a, b, c = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(a.work(), b.work(), c.work())
        await a.contribute(works[0])
        await b.contribute(works[1])
        result = await site.ended(run)
        (only,) = result["rounds"]
        assert (only["selected"], only["completed"], only["dropped"]) == (3, 2, 1)

    served(test)


def test_a_round_without_quorum_is_tried_again_and_then_fails(served):
    async def test(site):
        run = site.submit(round={"quorum": 2, "deadline_s": 0.3, "retries": 1, "backoff_s": 0.05})
        a, b = await site.caller("a"), await site.caller("b")
        first = await asyncio.gather(a.work(), b.work())
        await a.contribute(first[0])
        second = await a.work()
        assert (first[0].plan.attempt, second.plan.attempt) == (1, 2)
        assert (await b.work()).token != first[1].token
        await site.ended(run)
        assert (run.status, run.reason) == ("failed", "no_quorum")

    served(test)


def test_a_client_that_asks_again_gets_the_same_work(served):
    async def test(site):
        site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        works = await asyncio.gather(a.work(), b.work())
        again = await a.work()
        assert again.token == works[0].token
        await a.contribute(again)
        answer = await a.join(wait_s=0.2)
        assert not answer.HasField("assignment")

    served(test)


def test_a_stopped_run_ends_here(served):
    async def test(site):
        run = site.submit(clients_per_round=4)
        oz = await site.caller("oz")
        answer = await oz.admin.StopRun(
            admin.StopRunRequest(protocol_version=1, run_id=run.id, reason="enough")
        )
        assert answer.status == run_pb2.RUN_STATUS_STOPPED
        assert (run.status, run.reason) == ("stopped", "enough")

    served(test)


def test_the_same_request_begins_one_run(served):
    async def test(site):
        oz = await site.caller("oz")
        body = json.dumps(
            {"model": {"type": "linear", "input_dim": 2}, "rounds": 1, "clients_per_round": 2}
        ).encode()
        request = admin.CreateRunRequest(
            protocol_version=1, federation_json=body, request_id="0f" * 16
        )
        first, again = [await oz.admin.CreateRun(request) for _ in range(2)]
        assert first.run_id == again.run_id
        assert len(site.runs.all()) == 1

    served(test)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"aggregation": "secure", "clients_per_round": 2}, PlanError),
        ({"privacy": {"epsilon": 1, "mode": "record", "mechanism": "skellam"}}, ConfigError),
        ({"privacy": {"noise_multiplier": 1}}, PlanError),
        ({"model": {"type": "nothing"}}, ConfigError),
        ({"rounds": None}, ConfigError),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_submitted(served, changes, kind):
    async def test(site):
        with pytest.raises(kind):
            site.submit(**changes)
        assert site.runs.all() == []

    served(test)


def test_a_list_of_clients_keeps_strangers_out(served):
    async def test(site):
        run = site.submit(clients_per_round=2)
        c = await site.caller("c")
        asking = asyncio.ensure_future(c.join(wait_s=1.0))
        await site.commits(run, "a", "b")
        assert not (await asking).HasField("assignment")
        (refusal,) = [p.refusal for n, p in site.server._desk.presences().items() if n == "c"]
        assert "list of clients" in refusal

    served(test, roster={"a": {"region": "north"}, "b": {}})


def keys(value):
    """The keys of a run's JSON, those of its objects as well."""
    nested = ("coverage", "privacy")
    return {*value, *(f"{name}.{key}" for name in nested for key in value[name])}


def test_a_run_has_the_same_keys_from_its_beginning_to_its_end(served):
    async def test(site):
        oz = await site.caller("oz")

        async def shown(run):
            request = admin.GetRunRequest(protocol_version=1, run_id=run.id)
            return json.loads((await oz.admin.GetRun(request)).result_json)

        unknown = site.submit(clients_per_round=None, strategy={"name": "fedprox", "mu": 0.1})
        waiting = await shown(unknown)
        unknown.post(Stop("enough"))
        run = site.submit(rounds=2)
        a, b, c = [await site.caller(name) for name in ("a", "b", "c")]
        await c.join(tasks=("other:task",), wait_s=0.0)
        for client, work in zip((a, b), await asyncio.gather(a.work(), b.work()), strict=True):
            await client.contribute(work)
        works = await asyncio.gather(a.work(), b.work())
        going = await shown(run)
        for client, work in zip((a, b), works, strict=True):
            await client.contribute(work)
        await site.ended(run)
        finished = await shown(run)
        assert keys(waiting) == keys(going) == keys(finished)
        assert (waiting["status"], waiting["strategy"]) == ("waiting", "fedprox")
        assert (waiting["aggregation"], waiting["duration_s"]) == ({"kind": "plain"}, 0.0)
        assert "waiting for clients" in waiting["reason"]
        assert (going["status"], going["strategy"]) == ("running", "fedavg")
        assert (going["selection"], going["aggregation"]) == ("uniform", {"kind": "plain"})
        assert (going["finished"], going["model_path"], going["identity"]) == (
            None,
            None,
            "verified",
        )
        assert going["privacy"]["level"] == "L0"
        assert [r["round"] for r in going["rounds"]] == [1]
        assert (going["coverage"]["clients"], going["coverage"]["seen"]) == (2, 2)
        assert 0 < going["duration_s"] <= finished["duration_s"]
        assert finished["finished"] is not None
        assert finished["coverage"]["participations"] == 4

    served(test)


def test_coverage_counts_clients_that_have_gone():
    population = Population({"d": {"region": "north"}})
    population.update([Join(ClientId(c), ("*",)) for c in "abc"])
    population.update([Join(ClientId("a"), ("*",))])
    assert list(population.ids) == ["a"]
    assert population.everybody().ids == ("a", "b", "c", "d")
    assert population.everybody().strata(ClientId("d")) == {"region": "north"}
    assert population.everybody(["a", "gone"]).ids == ("a", "b", "c", "d", "gone")
