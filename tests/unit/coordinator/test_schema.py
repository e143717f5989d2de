"""A client whose data differs from what a run asks for is refused, with the columns by name."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from choral.config.build import Place
from choral.coordinator.fit import Wanted, differences
from choral.core.errors import ConfigError, Refused, SchemaMismatch
from choral.core.params import ClientId
from choral.data import Column, Schema
from choral.wire.joining import Join
from choral.wire.v1 import admin_pb2 as admin

WANTED = Schema(
    (
        Column("age", "number", "years"),
        Column("sex", "category", None, ("f", "m")),
        Column("ill", "integer"),
    ),
    "ill",
    2,
)
OTHER = Schema(
    (
        Column("age", "number", "months"),
        Column("sex", "category", None, ("m", "f")),
        Column("weight", "number"),
        Column("ill", "boolean"),
    ),
    "ill",
    1,
)
APART = (
    "column `weight` is not expected",
    "column `age`: unit months, expected years",
    "column `sex`: classes m, f, expected f, m",
    "column `ill`: type boolean, expected integer",
    "version 1, expected 2",
)


def told(schema):
    """What an offer says of a schema."""
    return {
        "schema_version": str(schema.version),
        "schema_fingerprint": schema.fingerprint,
        "schema_json": schema.to_json(),
    }


def offer(**fields):
    return Join(ClientId("a"), ("*",), **fields)


def submit(site, tools, tmp_path, **changes):
    """Begin a run that asks for a schema."""
    WANTED.to_yaml(tmp_path / "schema.yaml")
    file = tools.federation(schema="schema.yaml", **changes)
    return site.runs.submit(file, Place(tmp_path), owner="oz")


async def shown(site, run):
    oz = await site.caller("oz")
    found = await oz.admin.GetRun(admin.GetRunRequest(protocol_version=1, run_id=run.id))
    return json.loads(found.result_json)


def test_a_mismatch_names_the_columns_everywhere(served, tools, tmp_path, caplog):
    async def test(site):
        run = submit(site, tools, tmp_path)
        other = await site.caller("c")
        for _ in range(100):
            if run.wanted is not None:
                break
            await asyncio.sleep(0.01)
        with tools.refused("schema_mismatch") as caught:
            await other.join(**told(OTHER))
        for line in APART:
            assert line in caught.value.details()
            assert line in (await shown(site, run))["refusals"]["c"]
        assert run.id in caught.value.details()
        assert site.counted("choral_rejected_calls_total")["JoinRound", "schema_mismatch"] == 1
        a, b = [await site.caller(name) for name in ("a", "b")]
        works = await asyncio.gather(*(c.work(**told(WANTED)) for c in (a, b)))
        for client, work in zip((a, b), works, strict=True):
            await client.contribute(work)
        await site.ended(run)
        assert run.status == "completed"
        return run

    run = served(test)
    assert "JoinRound refused: schema_mismatch" in caplog.text
    assert "column `weight` is not expected" in caplog.text
    lineage = json.loads((tmp_path / "runs" / run.id / "model.json").read_text())
    assert lineage["data_schema"] == {"version": 2, "fingerprint": WANTED.fingerprint}


def test_another_run_may_take_the_client_and_it_hears_of_the_first(served, tools, tmp_path):
    async def test(site):
        strict = submit(site, tools, tmp_path)
        free = site.submit()
        a, b = [await site.caller(name) for name in ("a", "b")]
        works = await asyncio.gather(*(c.work(**told(OTHER)) for c in (a, b)))
        assert {work.plan.run_id for work in works} == {free.id}
        c = await site.caller("c")
        answer = await c.join(wait_s=0.0, **told(OTHER))
        (why,) = answer.come_back.refusals
        assert why.startswith(f"run {strict.id}: schema_mismatch: its data schema differs")
        noted = site.counted("choral_rejected_calls_total")
        assert noted["JoinRound", "schema_mismatch"] == 1

    served(test)


@pytest.mark.parametrize("raw", [b"{}", WANTED.to_json() + b" "])
def test_a_schema_that_is_none_is_malformed(served, tools, raw):
    import hashlib

    async def test(site):
        a = await site.caller("a")
        with tools.refused("malformed"):
            await a.join(schema_json=raw, schema_fingerprint=hashlib.sha256(raw).hexdigest())

    served(test)


def test_a_client_that_does_not_say_its_columns():
    assert differences(None, offer()) == []
    assert differences(WANTED, offer(**told(WANTED))) == []
    assert differences(WANTED, offer()) == [
        f"it declares none, expected version 2, {WANTED.fingerprint[:12]}…"
    ]
    (line,) = differences(WANTED, replace(offer(**told(OTHER)), schema_json=b""))
    assert "it does not say its columns" in line
    assert OTHER.fingerprint[:12] in line


def test_a_long_list_of_differences_is_cut():
    wide = Schema(tuple(Column(f"c{i}", "text") for i in range(50)), "c0")
    found = differences(WANTED, offer(**told(wide)))
    assert len(found) == 9
    assert found[-1] == "47 more"


def test_what_else_a_run_asks_for():
    wanted = Wanted("model:linear", {ClientId("a"): {}}, by="region", schema=WANTED)
    fine = Join(ClientId("a"), ("model:linear",), strata={"region": "north"}, **told(WANTED))
    assert wanted.refusal(fine) is None
    for changes, kind in (
        ({"client": ClientId("b")}, Refused),
        ({"tasks": ("other:task",)}, Refused),
        ({"strata": {}}, Refused),
        (told(OTHER), SchemaMismatch),
    ):
        assert isinstance(wanted.refusal(replace(fine, **changes)), kind)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": "none.yaml"}, "none.yaml cannot be read"),
        ({"schema": "a.yaml", "simulation": {"schema": "b.yaml"}}, "`simulation.schema` is b.yaml"),
    ],
)
def test_a_schema_that_is_not_there_begins_no_run(served, tools, changes, match):
    async def test(site):
        with pytest.raises(ConfigError, match=match):
            site.runs.submit(tools.federation(**changes), Place(Path()), owner="oz")
        assert site.runs.all() == []

    served(test)


@pytest.mark.parametrize("path", ["/etc/passwd", "../schema.yaml"])
def test_a_submitted_schema_is_in_the_coordinator_s_folder(path):
    from choral.coordinator.submissions import submitted

    with pytest.raises(Refused, match="outside the coordinator's folder"):
        submitted(json.dumps({"name": "x", "schema": path}).encode())
