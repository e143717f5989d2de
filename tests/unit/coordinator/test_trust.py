"""Trust over time: the trail that clients witness, revoked and renewed certificates, the roster."""

import asyncio
import json
import shutil
import socket
import ssl
from datetime import UTC, datetime

import pytest

from choral.client.witness import Witness
from choral.coordinator.roster import LiveRoster
from choral.core.errors import ConfigError, RolledBackAudit
from choral.core.ports import Record
from choral.federation.audit import CHECKPOINT, Head, check
from choral.pki.coordinator import issue_coordinator
from choral.pki.credentials import ServerFiles, load_server
from choral.pki.federation import load_federation
from choral.pki.names import Role
from choral.pki.requests import load_request, make_request
from choral.pki.tls import open_tls, revoke_certificates, sign
from choral.pki.trial import trial_federation
from choral.stores.audit import read_trail
from choral.wire.receipts import receipt_from_proto
from choral.wire.v1 import admin_pb2 as admin


def kinds(records: list[Record]) -> list[str]:
    return [r.kind for r in records if r.kind != CHECKPOINT]


def key_of(pki):
    files = ServerFiles.inside(pki / "coordinator")
    return load_server(files, at=datetime.now(UTC)).federation.coordinator


# --- the trail ------------------------------------------------------------------------------------


def test_the_trail_tells_what_happened_and_names_no_client(served, pki, tmp_path, tools):
    async def test(site):
        run = site.submit(rounds=2, owner="ruth")
        a, b = await site.caller("a"), await site.caller("b")
        with tools.refused("refused"):
            await a.calls.join_round(join_of("b"))
        await together(a, b)
        await together(a, b)
        return await site.ended(run)

    result = served(test)
    records = read_trail(tmp_path / "runs")
    found = check(records, keys=[key_of(pki)])
    assert found.faults == ()
    assert found.signed == len(records) - 1
    told = [k for k in kinds(records) if k != "calls.refused"]
    opened = ["round.opened", "round.released", "round.committed"]
    assert told == [
        "coordinator.started", "run.created", *opened, *opened, "run.ended", "coordinator.stopped",
    ]  # fmt: skip
    (refused,) = (r.body for r in records if r.kind == "calls.refused")
    assert refused["counts"] == {"JoinRound refused": 1}
    committed = [r.body for r in records if r.kind == "round.committed"]
    assert [(c["survivors"], c["failed"]) for c in committed] == [(2, {}), (2, {})]
    assert committed[-1]["model_sha256"] == result["model_sha256"]
    assert next(r.body["by"] for r in records if r.kind == "run.created") == "ruth"
    assert next(r.body["cohort"] for r in records if r.kind == "round.opened") == 2
    words = {w for r in records for w in json.dumps(r.body).split('"')}
    assert not words & {"a", "b"}


async def together(*clients):
    """Let clients do a round: a contribution is answered once the round has it."""

    async def one(client):
        await client.contribute(await client.work())

    await asyncio.gather(*map(one, clients))


def join_of(name):
    from choral.core.params import ClientId
    from choral.wire.joining import Join, join_to_proto

    return join_to_proto(Join(ClientId(name), ("*",), wait_s=0.0))


def test_receipts_and_assignments_carry_the_head_and_it_grows(served, pki, tmp_path):
    witness = Witness(tmp_path / "audit.jsonl")

    async def test(site):
        run = site.submit(rounds=2)
        a, b = await site.caller("a"), await site.caller("b")
        heads = []
        for _ in range(2):
            work, other = await asyncio.gather(a.work(), b.work())
            heads.append(witness.check(work.audit_head))
            one = asyncio.ensure_future(b.contribute(other))
            receipt = receipt_from_proto((await a.contribute(work)).receipt)
            witness.remember(receipt)
            heads.append(Head.decode(receipt.audit_head))
            await one
        await site.ended(run)
        return heads

    heads = served(test)
    lengths = [head.length for head in heads]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    found = check(read_trail(tmp_path / "runs"), keys=[key_of(pki)], witnessed=heads)
    assert found.faults == ()
    assert found.witnessed == lengths[-1]


def test_a_coordinator_that_was_set_back_is_refused_before_any_work(served, tmp_path):
    """A copy of the storage, restored after more has happened."""
    runs, copy = tmp_path / "runs", tmp_path / "copy"
    witness = Witness(tmp_path / "audit.jsonl")

    async def one_run(site):
        run = site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        work, other = await asyncio.gather(a.work(), b.work())
        witness.check(work.audit_head)
        one = asyncio.ensure_future(b.contribute(other))
        witness.remember(receipt_from_proto((await a.contribute(work)).receipt))
        await one
        await site.ended(run)

    served(one_run)
    shutil.copytree(runs, copy)
    served(one_run)
    served(one_run)
    shutil.rmtree(runs)
    copy.rename(runs)
    with pytest.raises(RolledBackAudit, match="set back"):
        served(one_run)
    again = Witness(tmp_path / "audit.jsonl")  # a client that was started anew remembers it
    assert again.last == witness.last
    with pytest.raises(RolledBackAudit):
        again.check(b"")


def test_a_round_that_failed_says_why(served, tmp_path):
    async def test(site):
        run = site.submit(round={"quorum": 2, "backoff_s": 0.05, "retries": 0})
        a, b = await site.caller("a"), await site.caller("b")
        from choral.wire.v1 import coordinator_pb2 as pb

        for client, work in zip((a, b), await asyncio.gather(a.work(), b.work()), strict=True):
            report = pb.FailureReport(
                protocol_version=1, token=work.token, code="rolled_back_audit", message="a says no"
            )
            await client.calls.report_failure(report)
        await asyncio.to_thread(run.ended.wait, 20)

    served(test)
    bodies = {r.kind: r.body for r in read_trail(tmp_path / "runs")}
    assert bodies["round.aborted"]["failed"] == {"rolled_back_audit": 1}
    assert bodies["run.ended"]["status"] == "failed"


def test_what_an_operator_does_is_on_the_trail_by_name(served, tmp_path):
    async def test(site):
        run = site.submit()
        oz = await site.caller("oz")
        stop = admin.StopRunRequest(protocol_version=1, run_id=run.id, reason="enough")
        await oz.admin.StopRun(stop)

    served(test)
    (body,) = (r.body for r in read_trail(tmp_path / "runs") if r.kind == "run.stop")
    assert (body["by"], body["reason"]) == ("oz", "enough")


# --- certificates ---------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """Certificates of one test alone, which it may revoke and renew."""
    folder = tmp_path / "pki"
    trial_federation(folder, name="test", clients=["a", "b", "c"])
    return folder


def revoke(folder, name):
    tls = open_tls(folder / "operator")
    revoke_certificates(tls, name, at=datetime.now(UTC))
    shutil.copy(tls.folder / "revoked.pem", folder / "coordinator" / "revoked.pem")


def renew(folder, name, where):
    """A new key and certificate for a name that was there before."""
    tls = open_tls(folder / "operator")
    make_request(where, id=name, role=Role.CLIENT)
    sign(tls, load_request(where / "request.json"), at=datetime.now(UTC), renew=True)
    shutil.copy(tls.folder / "issued" / f"{name}.pem", where / "certificate.pem")
    shutil.copy(folder / "coordinator" / "federation.json", where)


def renew_coordinator(folder):
    """A new certificate in the coordinator's folder; its keys stay."""
    out = folder / "coordinator"
    enrolment = load_federation(out / "federation.json", at=datetime.now(UTC)).enrolment_authority
    tls = open_tls(folder / "operator")
    names = ["localhost", "127.0.0.1"]
    issue_coordinator(
        tls, out, names=names, enrolment_authority=enrolment, at=datetime.now(UTC), renew=True
    )


def served_by(folder):
    files = ServerFiles.inside(folder / "coordinator")
    return {"credentials": lambda: load_server(files, at=datetime.now(UTC))}


async def refused_soon(call):
    """The error that a call ends with."""
    with pytest.raises(Exception, match="revoked") as caught:
        await asyncio.wait_for(call, 10)
    return caught


def test_work_of_a_revoked_client_is_lost_and_the_round_is_tried_again(served, own, tmp_path):
    async def test(site):
        site.pki = own
        run = site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        await asyncio.gather(a.work(), b.work())
        revoke(own, "a")
        await refused_soon(a.join())
        await site.server.watch.look()
        c = await site.caller("c")
        other = asyncio.ensure_future(c.work())
        while (mine := await b.work()).plan.attempt == 1:
            await asyncio.sleep(0.01)  # the run has not heard of it yet
        await asyncio.gather(b.contribute(mine), c.contribute(await other))
        result = await site.ended(run)
        assert run.status == "completed", run.reason
        assert result["rounds"][0]["attempt"] == 2

    served(test, **served_by(own))
    records = read_trail(tmp_path / "runs")
    assert {"client.revoked", "round.aborted", "round.committed"} <= set(kinds(records))


def test_a_revoked_client_that_waits_is_let_go_and_is_asked_no_more(served, own):
    async def test(site):
        site.pki = own
        a = await site.caller("a")
        held = asyncio.ensure_future(a.join(wait_s=30.0))
        while not site.server._desk.presences():
            await asyncio.sleep(0.01)
        await site.server.watch.look()
        revoke(own, "a")
        await site.server.watch.look()
        assert (await asyncio.wait_for(held, 5)).HasField("come_back")
        assert site.server._desk.offers() == []
        await refused_soon(a.join())

    served(test, **served_by(own))


def test_a_renewed_certificate_with_a_new_key_goes_on_with_open_work(served, own, tmp_path):
    async def test(site):
        site.pki = own
        run = site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        work, other = await asyncio.gather(a.work(), b.work())
        renew(own, "a", own / "anew")
        again = await site.caller("a", own / "anew")
        one = asyncio.ensure_future(b.contribute(other))
        await again.contribute(work)
        await one
        await site.ended(run)
        assert run.status == "completed", run.reason

    served(test, **served_by(own))
    assert "certificate.renewed" in kinds(read_trail(tmp_path / "runs"))


def test_nobody_comes_in_while_the_revocation_list_cannot_be_read(served, own, tools):
    async def test(site):
        site.pki = own
        a = await site.caller("a")
        await a.join(wait_s=0.0)
        path = own / "coordinator" / "revoked.pem"
        kept = path.read_bytes()
        path.write_bytes(b"")
        with tools.refused("unavailable"):
            await a.join(wait_s=0.0)
        await site.server.watch.look()
        path.write_bytes(kept)
        await a.join(wait_s=0.0)

    served(test, **served_by(own))


# --- the list of clients --------------------------------------------------------------------------


def write(path, *names):
    path.write_text(json.dumps([{"id": name} for name in names]))


def test_a_changed_list_of_clients_holds_from_the_next_round_on(served, tmp_path):
    path = tmp_path / "clients.json"
    write(path, "a", "b")

    async def test(site):
        run = site.submit(rounds=2)
        a, b = await site.caller("a"), await site.caller("b")
        c = await site.caller("c")
        works = await asyncio.gather(a.work(), b.work())
        said = await c.join(wait_s=0.0)
        assert "not on the coordinator's list" in str(said.come_back.refusals)
        write(path, "a", "c")
        await site.server.watch.look()
        await asyncio.gather(a.contribute(works[0]), b.contribute(works[1]))
        works = await asyncio.gather(a.work(), c.work())
        assert [w.plan.round for w in works] == [2, 2]
        told = await b.join(wait_s=0.0)
        assert "not on the coordinator's list" in str(told.come_back.refusals)
        await asyncio.gather(a.contribute(works[0]), c.contribute(works[1]))
        await site.ended(run)
        assert run.status == "completed", run.reason

    served(test, roster=LiveRoster(path))
    (body,) = (r.body for r in read_trail(tmp_path / "runs") if r.kind == "roster.changed")
    assert (body["clients"], len(body["added"]), len(body["removed"])) == (2, 1, 1)
    assert body["added"][0].startswith("client-")


def test_a_list_that_was_broken_leaves_the_last_good_one(tmp_path):
    path = tmp_path / "clients.json"
    write(path, "a")
    roster = LiveRoster(path)
    assert not roster.refresh()
    path.write_text("[")
    with pytest.raises(ConfigError):
        roster.refresh()
    assert set(roster) == {"a"}
    write(path, "a", "bb")
    assert roster.refresh()
    assert set(roster) == {"a", "bb"}
    assert len(roster) == 2


def test_the_coordinators_own_certificate_is_renewed_by_a_restart(served, own, caplog):
    def shown(address):
        host, port = address.rsplit(":", 1)
        context = ssl.create_default_context(cafile=own / "operator" / "tls" / "authority.pem")
        context.load_cert_chain(own / "a" / "certificate.pem", own / "a" / "key.pem")
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            return secure.getpeercert()["serialNumber"]

    seen = []

    async def test(site):
        site.pki = own
        seen.append(await asyncio.to_thread(shown, site.server.address))
        await site.server.watch.look()
        if len(seen) == 1:
            renew_coordinator(own)
            for _ in range(2):
                await site.server.watch.look()
            seen.append(await asyncio.to_thread(shown, site.server.address))
        a = await site.caller("a")
        await a.join(wait_s=0.0)

    served(test, **served_by(own))
    served(test, **served_by(own))
    first, renewed, restarted = seen
    assert first == renewed != restarted
    assert sum("a restart shows it" in m for m in caplog.messages) == 1
