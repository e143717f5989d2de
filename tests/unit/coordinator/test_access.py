"""Who may do what: every call, every role, one's own object and another's."""

import asyncio

import pytest
from grpc import aio

from choral.coordinator.access import RULES, Caller, check, check_owner
from choral.core.errors import Refused
from choral.pki.names import Role
from choral.wire.frames import Kind
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb

CLIENT_CALLS = {
    "JoinRound": lambda c, token: c.calls.join_round(
        pb.JoinRequest(
            protocol_version=1, min_protocol_version=1, client_id=c.name, tasks=["none:none"]
        )
    ),
    "GetGlobalModel": lambda c, token: c.calls.get_global_model(
        pb.GetModelRequest(protocol_version=1, token=token, sha256="ab" * 32)
    ).read(),
    "Exchange": lambda c, token: c.calls.exchange(
        pb.ProtocolMessage(protocol_version=1, token=token)
    ),
    "SendUpdate": lambda c, token: c.send([b""]),
    "GetUpload": lambda c, token: c.calls.get_upload(
        pb.UploadRequest(protocol_version=1, token=token, sha256="ab" * 32)
    ),
    "ReportFailure": lambda c, token: c.calls.report_failure(
        pb.FailureReport(protocol_version=1, token=token, code="x")
    ),
    "ReportEvaluation": lambda c, token: c.calls.report_evaluation(
        pb.Evaluation(protocol_version=1, token=token)
    ),
}
ADMIN_CALLS = {
    "CreateRun": lambda c, run: c.admin.CreateRun(
        admin.CreateRunRequest(protocol_version=1, federation_json=b"{}", request_id="r")
    ),
    "ListRuns": lambda c, run: c.admin.ListRuns(admin.ListRunsRequest(protocol_version=1)),
    "ListClients": lambda c, run: c.admin.ListClients(admin.ListClientsRequest(protocol_version=1)),
    "GetRun": lambda c, run: c.admin.GetRun(admin.GetRunRequest(protocol_version=1, run_id=run)),
    "WatchRun": lambda c, run: c.admin.WatchRun(
        admin.WatchRunRequest(protocol_version=1, run_id=run)
    ).read(),
    "OpenRound": lambda c, run: c.admin.OpenRound(
        admin.OpenRoundRequest(protocol_version=1, run_id=run)
    ),
    "StopRun": lambda c, run: c.admin.StopRun(
        admin.StopRunRequest(protocol_version=1, run_id=run, reason="test")
    ),
}

READERS = {"oz", "ruth", "audrey"}
WRITERS = {"oz", "ruth"}
ALLOWED = {
    # call: (who may on their own, who may on another's)
    **{name: ({"a"}, set()) for name in CLIENT_CALLS},
    "CreateRun": (WRITERS, WRITERS),
    "ListRuns": (READERS, READERS),
    "ListClients": ({"oz", "audrey"}, {"oz", "audrey"}),
    "GetRun": (READERS, {"oz", "audrey"}),
    "WatchRun": (READERS, {"oz", "audrey"}),
    "OpenRound": (WRITERS, {"oz"}),
    "StopRun": (WRITERS, {"oz"}),
}
"""Written out here, and not taken from the code. `ruth` is a researcher, `oz` an operator, `audrey`
an auditor, `a` a client. A client's object is its token; a run of `ruth`'s is another's for all
others, and an operator or auditor has runs of nobody in particular."""

FORBIDDEN = "is not for it"


async def outcome(call):
    """What became of a call: `refused` by role, `hidden` as another's, or `through`."""
    try:
        await call
    except aio.AioRpcError as error:
        words = error.details()
        if FORBIDDEN in words:
            return "refused"
        if "of yours" in words or "in the name of" in words:
            return "hidden"
    return "through"


def test_every_call_of_every_role_on_own_and_others_objects(served, tools):
    """One coordinator, one table."""

    async def test(site):
        mine = site.submit(owner="ruth", clients_per_round=4)
        theirs = site.submit(owner="rolf", clients_per_round=4)
        parties = {name: await site.caller(name) for name in ("a", "oz", "ruth", "audrey")}
        wrong = []
        for call, (own, others) in ALLOWED.items():
            for name, caller in parties.items():
                if call in CLIENT_CALLS:
                    # no client has this token: it is another's for whoever shows it
                    found = await outcome(CLIENT_CALLS[call](caller, b"t" * 16))
                    allowed = name in own
                    expected = {"hidden", "through"} if allowed else {"refused"}
                    if found not in expected:
                        wrong.append((call, name, "token", found))
                    continue
                if call == "StopRun":
                    continue
                for run, may in ((mine, own), (theirs, others)):
                    found = (
                        await outcome(ADMIN_CALLS[call](caller, run.id))
                        if (call != "WatchRun")
                        else await watched(caller, run.id)
                    )
                    role_may = name in own
                    expected = "through" if name in may else "hidden" if role_may else "refused"
                    if found != expected:
                        wrong.append((call, name, run.owner, found, expected))
        for name, caller in parties.items():
            if name == "oz":
                continue  # at the end: it would work
            found = await outcome(ADMIN_CALLS["StopRun"](caller, theirs.id))
            expected = "hidden" if name == "ruth" else "refused"
            if found != expected:
                wrong.append(("StopRun", name, "rolf", found, expected))
        assert not wrong
        assert (mine.status, theirs.status) == ("running", "running")
        assert await outcome(ADMIN_CALLS["StopRun"](parties["ruth"], mine.id)) == "through"
        assert await outcome(ADMIN_CALLS["StopRun"](parties["oz"], theirs.id)) == "through"
        assert (mine.status, theirs.status) == ("stopped", "stopped")

    async def watched(caller, run_id):
        """Watching does not end by itself: the first event, or the error, tells."""
        request = admin.WatchRunRequest(protocol_version=1, run_id=run_id)
        call = caller.admin.WatchRun(request)
        try:
            return await outcome(asyncio.wait_for(call.read(), 2.0))
        except TimeoutError:
            return "through"
        finally:
            call.cancel()

    served(test)


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_another_client_s_token_is_nobody_s(served, tools, aggregation):
    """Every call, with the real token of open work of another client."""

    async def test(site):
        run = site.submit(
            clients_per_round=3, aggregation=aggregation, round={"quorum": 3, "deadline_s": 600}
        )
        owners = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(*(owner.work() for owner in owners))
        thief = await site.caller("d")
        await thief.join(wait_s=0.0)
        token, digest = works[0].token, works[0].plan.model_sha256
        kind = Kind.MASKED if aggregation == "secure" else Kind.CONTRIBUTION
        calls = {
            "GetGlobalModel": lambda c: c.model(works[0]),
            "Exchange": lambda c: c.calls.exchange(
                pb.ProtocolMessage(protocol_version=1, token=token, sequence=1, body=b"x")
            ),
            "SendUpdate": lambda c: c.send(tools.upload(token, tools.contribution(), kind=kind)),
            "GetUpload": lambda c: c.calls.get_upload(
                pb.UploadRequest(protocol_version=1, token=token, sha256=digest)
            ),
            "ReportFailure": lambda c: c.calls.report_failure(
                pb.FailureReport(protocol_version=1, token=token, code="refused")
            ),
            "ReportEvaluation": lambda c: c.calls.report_evaluation(
                pb.Evaluation(protocol_version=1, token=token)
            ),
        }
        assert {"JoinRound", *calls} == CLIENT_CALLS.keys()
        for name, call in calls.items():
            for caller in (thief, owners[1]):
                with tools.refused("stale"):
                    await call(caller)
            assert site.counted("choral_rejected_calls_total")[name, "stale"] == 2
        for name in ("oz", "ruth", "audrey"):
            other = await site.caller(name)
            for call in calls.values():
                with tools.refused("refused"):
                    await call(other)
        round_ = run.actor.conductor.machine.round
        assert (run.status, dict(round_.accepted), dict(round_.failed)) == ("running", {}, {})
        await owners[0].model(works[0])
        if aggregation == "plain":
            for owner, work in zip(owners, works, strict=True):
                await owner.contribute(work)
            await site.ended(run)
            assert run.status == "completed"

    served(test)


def test_the_table_has_every_call_of_both_services():
    from choral.wire.v1 import admin_pb2, coordinator_pb2

    calls = {
        method.name
        for module, service in ((admin_pb2, "Admin"), (coordinator_pb2, "Coordinator"))
        for method in module.DESCRIPTOR.services_by_name[service].methods
    }
    assert calls == RULES.keys() == ALLOWED.keys()


def test_a_list_shows_one_s_own_runs(served):
    async def test(site):
        site.submit(owner="ruth", clients_per_round=4)
        site.submit(owner="rolf", clients_per_round=4)
        seen = {}
        for name in ("oz", "ruth", "audrey"):
            caller = await site.caller(name)
            answer = await caller.admin.ListRuns(admin.ListRunsRequest(protocol_version=1))
            seen[name] = len(answer.runs)
        assert seen == {"oz": 2, "ruth": 1, "audrey": 2}

    served(test)


def test_a_call_that_nobody_has_heard_of_is_refused():
    for role in Role:
        with pytest.raises(Refused):
            check("DropTables", Caller("oz", role))
    with pytest.raises(Refused, match="no run of yours"):
        check_owner("GetRun", Caller("ruth", Role.RESEARCHER), "rolf", what="run")


def test_a_run_that_is_not_there_is_named(served, tools):
    async def test(site):
        caller = await site.caller("oz")
        with tools.refused("unknown_name"):
            await caller.admin.GetRun(admin.GetRunRequest(protocol_version=1, run_id="none"))

    served(test)
