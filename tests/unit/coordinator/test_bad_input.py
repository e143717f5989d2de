"""What is wrong gets an answer with a name, is logged and counted, and spoils nobody's round."""

import asyncio
import hashlib

import grpc
import pytest
from grpc import aio

from choral.core.errors import ConfigError
from choral.system import SystemClock
from choral.wire.errors import from_rpc_error
from choral.wire.frames import Kind, chunk_frame, end_frame
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import transfer_pb2

BIG = 1 << 20


def oversized(tools, token):
    return tools.upload(token, bytes(BIG))


def longer_than_declared(tools, token):
    frames = tools.upload(token, tools.contribution())
    return [frames[0], chunk_frame(0, [bytes(1000)]), frames[-1]]


def truncated(tools, token):
    raw = tools.contribution()
    return [tools.upload(token, raw)[0], chunk_frame(0, [raw[:-1]]), end_frame("0" * 64)]


def no_end(tools, token):
    return tools.upload(token, tools.contribution())[:-1]


def reordered(tools, token):
    raw = tools.contribution()
    head, *_, end = tools.upload(token, raw)
    return [head, chunk_frame(5, [raw[5:]]), chunk_frame(0, [raw[:5]]), end]


def chunk_first(tools, token):
    head, chunk, end = tools.upload(token, tools.contribution())
    return [chunk, head, end]


def spoiled_chunk(tools, token):
    head, chunk, end = tools.upload(token, tools.contribution())
    return [head, chunk[:-1] + bytes([chunk[-1] ^ 1]), end]


def other_digest(tools, token):
    return tools.upload(token, tools.contribution(), sha256="ab" * 32)


def no_frame(tools, token):
    return [b"\xff\xff\xff"]


def nothing(tools, token):
    return []


def masked_in_a_plain_round(tools, token):
    return tools.upload(token, tools.contribution(), kind=Kind.MASKED)


def compressed(tools, token):
    frame = transfer_pb2.Frame.FromString(tools.upload(token, tools.contribution())[0])
    frame.header.encoding = 7
    return [frame.SerializeToString()]


def other_version(tools, token):
    frame = transfer_pb2.Frame.FromString(tools.upload(token, tools.contribution())[0])
    frame.header.protocol_version = 99
    return [frame.SerializeToString()]


def no_token(tools, token):
    return tools.upload(b"", tools.contribution())


def strange_token(tools, token):
    return tools.upload(b"x" * 16, tools.contribution())


TRANSFERS = [
    (oversized, "too_large"),
    (longer_than_declared, "too_large"),
    (truncated, "truncated"),
    (no_end, "truncated"),
    (reordered, "out_of_order"),
    (chunk_first, "out_of_order"),
    (spoiled_chunk, "corrupt_chunk"),
    (other_digest, "wrong_digest"),
    (no_frame, "malformed"),
    (nothing, "truncated"),
    (masked_in_a_plain_round, "malformed"),
    (compressed, "malformed"),
    (other_version, "version_mismatch"),
    (no_token, "stale"),
    (strange_token, "stale"),
]


@pytest.mark.parametrize(("lie", "code"), TRANSFERS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_transfer_that_lies_is_refused_and_can_be_mended(served, tools, lie, code, caplog):
    """Whatever was wrong, the same client's honest upload is taken afterwards."""

    async def test(site):
        run = site.submit()
        client = await site.caller("a")
        asking = asyncio.ensure_future(client.work())
        other = await site.caller("b")
        await other.contribute(await other.work())
        assignment = await asking
        with tools.refused(code):
            await client.send(lie(tools, assignment.token))
        await client.contribute(assignment)
        result = await site.ended(run)
        assert (run.status, result["rounds"][0]["completed"]) == ("completed", 2)
        assert site.counted("choral_rejected_calls_total")["SendUpdate", code] == 1

    served(test)
    assert f"SendUpdate refused: {code}" in caplog.text
    assert "Traceback" not in caplog.text


CONTRIBUTIONS = [
    ("a short vector", lambda t: t.contribution()[:10], "wrong_shape"),
    ("a long vector", lambda t: t.contribution((1, 2, 3, 4)), "out_of_range"),
    ("10^12 examples", lambda t: t.contribution(weight=(10**12) << 20), "out_of_range"),
    ("a negative weight", lambda t: t.contribution(weight=-1), "out_of_range"),
    ("a weight of 2^63", lambda t: t.contribution(weight=2**63), "out_of_range"),
    ("a torn metric", lambda t: t.contribution() + b"\x05\x00ab", "update_rejected"),
    ("twice", lambda t: t.contribution() + (b"\x01\x00a" + bytes(8)) * 2, "update_rejected"),
    ("a hostile name", lambda t: t.contribution() + b"\x02\x00\x1b[" + bytes(8), "update_rejected"),
    ("no UTF-8", lambda t: t.contribution() + b"\x01\x00\xff" + bytes(8), "update_rejected"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "code"), CONTRIBUTIONS, ids=lambda v: str(v)[:20])
def test_a_contribution_that_cannot_be_costs_its_client_alone(
    served, tools, what, make, code, caplog
):
    async def test(site):
        run = site.submit(clients_per_round=3)
        bad = await site.caller("a")
        asking = asyncio.ensure_future(bad.work())
        honest = [await site.caller(name) for name in ("b", "c")]
        works = await asyncio.gather(*(client.work() for client in honest))
        with tools.refused(code):
            await bad.contribute(await asking, make(tools))
        for client, work in zip(honest, works, strict=True):
            await client.contribute(work)
        result = await site.ended(run)
        assert run.status == "completed"
        assert result["rounds"][0]["completed"] == 2
        (failure,) = result["failures"]
        assert (failure["client"], failure["code"]) == ("a", code)
        assert site.counted("choral_failures_total")[(code,)] == 1

    served(test)
    assert "Traceback" not in caplog.text


def test_the_sum_is_that_of_the_honest(served, tools):
    async def test(site):
        run = site.submit(clients_per_round=3)
        bad = await site.caller("a")
        asking = asyncio.ensure_future(bad.work())
        callers = [await site.caller(name) for name in ("b", "c")]
        works = await asyncio.gather(*(client.work() for client in callers))
        with tools.refused("out_of_range"):
            await bad.contribute(await asking, tools.contribution((2**31 - 1,) * 3, weight=-5))
        for client, work in zip(callers, works, strict=True):
            await client.contribute(work, tools.contribution((1 << 20,) * 3))
        await site.ended(run)
        return works[0].plan, run.actor.conductor.params

    plan, params = served(test)
    moved = plan.encoding.grid * (1 << 20)
    assert [float(v) for v in params["weight"].ravel()] == [moved, moved]


# --- who calls ------------------------------------------------------------------------------------


def test_nobody_without_the_right_certificate_gets_in(served, pki, tools):
    async def test(site):
        run = site.submit()
        outsider = await site.caller("a", pki / "strangers" / "a")
        with pytest.raises(aio.AioRpcError) as caught:
            await outsider.join()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "certificate" in from_rpc_error(caught.value).hint
        nobody = await site.caller("a", certificate=False)
        with pytest.raises(aio.AioRpcError) as caught:
            await nobody.join()
        assert "A missing one looks the same" in from_rpc_error(caught.value).hint
        gone = await site.caller("gone")
        with tools.refused("refused") as caught:
            await gone.join()
        assert "was revoked" in caught.value.details()
        await site.commits(run, "a", "b")

    served(test)


def test_a_certificate_that_expires_is_refused_on_an_open_connection(served, tools):
    class Later(SystemClock):
        def wall(self):
            return super().wall() + 366 * 86400

    async def test(site):
        client = await site.caller("a")
        with tools.refused("refused") as caught:
            await client.join()
        assert "expired" in caught.value.details()

    served(test, clock=Later())


@pytest.mark.parametrize("name", ["b", "../../etc/passwd", "a\x00", "ä" * 300, ""])
def test_nobody_joins_in_another_name(served, tools, name):
    async def test(site):
        client = await site.caller("a")
        with pytest.raises(aio.AioRpcError) as caught:
            await client.calls.join_round(
                pb.JoinRequest(
                    protocol_version=1, min_protocol_version=1, client_id=name, tasks=["*"]
                )
            )
        assert tools.code_of(caught.value) in {"refused", "malformed"}

    served(test)


def test_a_version_that_is_not_spoken_is_refused_by_name(served, tools):
    async def test(site):
        client = await site.caller("a")
        with tools.refused("version_mismatch") as caught:
            await client.join(versions=(7, 9))
        assert "7 to 9" in caught.value.details()
        with tools.refused("malformed"):
            await client.join(versions=(0, 0))

    served(test)


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_its_client_s_and_ends_with_its_round(served, tools):
    async def test(site):
        run = site.submit(rounds=2)
        a, b, thief = [await site.caller(name) for name in ("a", "b", "c")]
        first = await asyncio.gather(a.work(), b.work())
        with tools.refused("stale"):
            await thief.contribute(first[0])
        with tools.refused("stale"):
            await thief.model(first[0])
        for client, work in zip((a, b), first, strict=True):
            await client.contribute(work)
        second = await asyncio.gather(a.work(), b.work())
        assert [work.plan.round for work in second] == [2, 2]
        with tools.refused("stale"):
            await a.contribute(first[0])
        for client, work in zip((a, b), second, strict=True):
            await client.contribute(work)
        await site.ended(run)
        assert run.status == "completed"
        with tools.refused("stale"):
            await a.contribute(second[0])

    served(test)


def test_the_same_bytes_again_get_the_same_receipt(served, tools):
    async def test(site):
        site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        work, _ = await asyncio.gather(a.work(), b.work())
        first = await a.contribute(work)
        assert await a.contribute(work) == first
        with tools.refused("stale"):
            await a.contribute(work, tools.contribution((9, 9, 9)))
        status = await a.calls.get_upload(
            pb.UploadRequest(protocol_version=1, token=work.token, sha256=first.receipt.sha256)
        )
        assert (status.complete, status.receipt) == (True, first.receipt)

    served(test)


def test_a_cut_upload_goes_on_where_it_was(served, tools):
    async def test(site):
        run = site.submit(model={"type": "linear", "input_dim": 3 << 18})
        a, b = await site.caller("a"), await site.caller("b")
        work, other = await asyncio.gather(a.work(), b.work())
        raw = tools.contribution(range((3 << 18) + 1))
        frames = tools.upload(work.token, raw)
        with tools.refused("truncated"):
            await a.send(frames[:3])
        digest = transfer_pb2.Frame.FromString(frames[0]).header.sha256
        status = await a.calls.get_upload(
            pb.UploadRequest(protocol_version=1, token=work.token, sha256=digest)
        )
        assert status.offset == 2 << 20
        await a.send(tools.upload(work.token, raw, offset=status.offset))
        await b.contribute(other, raw)
        await site.ended(run)
        assert run.status == "completed"
        assert list((site.server._settings.storage / "uploads").iterdir()) == []

    served(test)


def test_chunks_over_tls_need_no_checksum_and_an_upload_in_pieces_is_the_same(served, tools):
    async def test(site):
        run = site.submit(model={"type": "linear", "input_dim": 3 << 18})
        a, b = await site.caller("a"), await site.caller("b")
        work, other = await asyncio.gather(a.work(), b.work())
        assert work.without_crc
        raw = tools.contribution(range((3 << 18) + 1))
        header, *chunks, end = tools.upload(work.token, raw)
        bare = [chunk_frame(at << 20, [raw[at << 20 : (at + 1) << 20]], crc=False) for at in (0, 1)]
        first = await a.send([header, *bare, *chunks[2:], end])
        assert first.receipt.sha256 == hashlib.sha256(raw).hexdigest()
        found = {}
        for without_crc in (False, True):
            request = pb.GetModelRequest(
                protocol_version=1,
                token=other.token,
                sha256=other.plan.model_sha256,
                without_crc=without_crc,
            )
            frames = [frame async for frame in b.calls.get_global_model(request)][1:-1]
            read = [transfer_pb2.Frame.FromString(frame).chunk for frame in frames]
            assert [chunk.HasField("crc32") for chunk in read] == [not without_crc] * len(read)
            found[without_crc] = b"".join(chunk.data for chunk in read)
        assert found[False] == found[True]
        await b.contribute(other, raw)
        await site.ended(run)
        assert run.status == "completed"

    served(test)


# --- slowness -------------------------------------------------------------------------------------


def test_a_slow_loris_is_cut_and_a_slow_line_is_not(served, tools, monkeypatch):
    """A window of 2 s and 64 KiB stands for the real one."""
    monkeypatch.setattr("choral.coordinator.transfers.WINDOW_S", 2.0)
    monkeypatch.setattr("choral.coordinator.transfers.WINDOW_BYTES", 64 << 10)
    size = (1 << 18) - 1

    async def drip(frames, pause_s):
        for frame in frames:
            yield frame
            await asyncio.sleep(pause_s)

    async def test(site):
        run = site.submit(model={"type": "linear", "input_dim": size}, clients_per_round=3)
        loris, slow, quick = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(*(c.work() for c in (loris, slow, quick)))
        raw = tools.contribution(range(size + 1))
        head = tools.upload(works[0].token, raw)[0]
        bytewise = [head, *(chunk_frame(at, [raw[at : at + 1]]) for at in range(100))]
        began = asyncio.get_running_loop().time()
        cutting = asyncio.ensure_future(loris.calls.send_update(drip(bytewise, 0.1)))
        whole = tools.upload(works[1].token, raw, chunk=1 << 20)
        pieces = [chunk_frame(at, [raw[at : at + 65536]]) for at in range(0, len(raw), 65536)]
        slowly = asyncio.ensure_future(
            slow.calls.send_update(drip([whole[0], *pieces, whole[-1]], 0.2))
        )
        await quick.contribute(works[2], raw)
        with tools.refused("unavailable"):
            await cutting
        assert asyncio.get_running_loop().time() - began < 3.0
        await slowly
        assert run.actor.conductor.machine.round.accepted.keys() >= {"b", "c"}

    served(test)


# --- the rest -------------------------------------------------------------------------------------


def test_a_task_that_the_site_does_not_allow_is_seen_by_the_operator(served):
    async def test(site):
        run = site.submit()
        picky, operator = await site.caller("a"), await site.caller("oz")
        await picky.join(tasks=("other:task",), wait_s=0.0)
        clients = (
            await operator.admin.ListClients(admin.ListClientsRequest(protocol_version=1))
        ).clients
        why = "its site does not allow the task `model:linear`"
        for _ in range(50):
            if any(c.refusal for c in clients):
                break
            await asyncio.sleep(0.05)
            clients = (
                await operator.admin.ListClients(admin.ListClientsRequest(protocol_version=1))
            ).clients
        assert [(c.client_id, c.refusal) for c in clients] == [("a", why)]
        await site.commits(run, "b", "c")

    served(test)


def test_a_refusal_of_the_plan_is_a_failure_with_its_words(served):
    async def test(site):
        run = site.submit(clients_per_round=3)
        a = await site.caller("a")
        asking = asyncio.ensure_future(a.work())
        others = [await site.caller(name) for name in ("b", "c")]
        works = await asyncio.gather(*(client.work() for client in others))
        work = await asking
        await a.calls.report_failure(
            pb.FailureReport(
                protocol_version=1, token=work.token, code="refused", message="min_cohort\x1b[31m"
            )
        )
        for client, mine in zip(others, works, strict=True):
            await client.contribute(mine)
        result = await site.ended(run)
        (failure,) = result["failures"]
        assert (failure["client"], failure["code"]) == ("a", "refused")
        assert failure["message"] == "min_cohort [31m"

    served(test)


def test_a_port_in_use_is_a_setting_to_mend(served, pki, tmp_path):
    async def test(site):
        from choral.coordinator.server import Server

        settings = site.server._settings
        other = type(settings)(
            site.server.address, tmp_path / "other", settings.place, settings.credentials
        )
        second = Server(other, clock=site.server._clock, rand=site.server._rand)
        with pytest.raises(ConfigError, match="is the port in use"):
            await second.start()

    served(test)


def test_a_plain_message_in_a_plain_round_is_no_secure_one(served, tools):
    async def test(site):
        site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        work, _ = await asyncio.gather(a.work(), b.work())
        with tools.refused("malformed"):
            await a.calls.exchange(
                pb.ProtocolMessage(protocol_version=1, token=work.token, sequence=1, body=b"x")
            )
        with tools.refused("malformed"):
            await a.calls.report_evaluation(
                pb.Evaluation(protocol_version=1, token=work.token, metrics={"loss": 1.0})
            )
        with tools.refused("malformed"):
            await a.calls.report_evaluation(
                pb.Evaluation(protocol_version=1, token=work.token, metrics={"l": float("nan")})
            )
        with tools.refused("refused"):
            await a.calls.get_global_model(
                pb.GetModelRequest(protocol_version=1, token=work.token, sha256="ab" * 32)
            ).read()

    served(test)
