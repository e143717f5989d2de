"""Who a client is: by certificates over real TLS, or by its word and a key that is pinned."""

import asyncio
import os

import grpc
import pytest
from grpc import aio

from choral.client.agent import Agent
from choral.client.policy import OPEN
from choral.client.who import PINNED, SIGNING_KEY_FILE, Certified, Unverified
from choral.core.errors import CertificateError, ConfigError, Refused
from choral.crypto.signatures import SigningKey
from choral.secagg.enrolment import Authority
from choral.system import SystemClock, SystemRand
from choral.wire.rpc import CHANNEL_OPTIONS, coordinator_handler

ADDRESS = "127.0.0.1:50051"


# --- with certificates ----------------------------------------------------------------------------


def test_its_files_say_who_it_is_and_whom_it_believes(parties):
    who = Certified("hospital-a", parties.party("hospital-a"))
    server = parties.server()
    assert who.metadata == ()
    assert who.server == server.signing_key.public
    assert who.enrolled.authority == parties.enrolment.key.public
    assert len(who.enrolled.enrolment) == 64


def test_another_id_than_the_certificates_is_refused(parties):
    files = parties.party("hospital-a")
    with pytest.raises(CertificateError, match="'hospital-a'"):
        Certified("hospital-b", files)


def test_without_an_enrolment_it_joins_no_secure_sum(parties):
    who = Certified("hospital-a", parties.party("hospital-a", enrolled=False))
    assert who.enrolled is None
    assert who.server == parties.server().signing_key.public


def test_an_authority_that_came_another_way_must_be_the_same(parties, tmp_path):
    files = parties.party("hospital-a")
    right = parties.folder / "authorities/tls/authority.pem"
    Certified("hospital-a", files, right)
    (tmp_path / "other").mkdir()
    other = type(parties)(tmp_path / "other")
    with pytest.raises(CertificateError, match="another TLS authority"):
        Certified("hospital-a", files, other.folder / "authorities/tls/authority.pem")


def run_over_tls(federation, server, files):
    """Run a client with these files against a script behind these credentials."""

    async def main():
        tls = server.tls
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)],
            root_certificates=tls.authority,
            require_client_auth=True,
        )
        listening = aio.server(options=CHANNEL_OPTIONS)
        listening.add_generic_rpc_handlers((coordinator_handler(federation.script),))
        port = listening.add_secure_port("127.0.0.1:0", credentials)
        await listening.start()
        try:
            address = f"127.0.0.1:{port}"
            who = Certified("hospital-a", files)
            settings = federation.settings("hospital-a", address)
            agent = Agent(
                settings,
                who=who,
                policy=OPEN,
                clock=SystemClock(),
                rand=SystemRand(),
                trainer=federation.trainer(settings.local),
            )
            failed = asyncio.Event()
            pause = agent._pause

            async def noting(why, address):
                failed.set()
                await pause(why, address)

            agent._pause = noting
            work = asyncio.ensure_future(agent.run(until_done=True))
            missed = asyncio.ensure_future(failed.wait())
            await asyncio.wait({work, missed}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            done = work.done()
            work.cancel()
            missed.cancel()
            return (await work) if done else None
        finally:
            await listening.stop(0)

    return asyncio.run(main())


def test_a_round_over_mutual_tls(federation, parties):
    script = federation.script
    script.key = script.receipt_key = parties.server().signing_key
    token = script.assign("hospital-a", federation.plan)
    ended = run_over_tls(federation, parties.server(), parties.party("hospital-a"))
    assert ended.completed
    assert script.uploads[token] == federation.expected_bytes("hospital-a")
    assert not script.failures
    assert "choral-client-id" not in script.metadata


def test_a_coordinator_of_another_authority_is_not_talked_to(federation, parties, tmp_path):
    (tmp_path / "other").mkdir()
    other = type(parties)(tmp_path / "other")
    assert run_over_tls(federation, other.server(), parties.party("hospital-a")) is None
    assert not federation.script.joins


# --- without --------------------------------------------------------------------------------------


def said(client, key, *, authority=None, server=None):
    """Return what a coordinator tells a client that comes for the first time."""
    authority = authority or SigningKey.random(SystemRand())
    server = server or SigningKey.random(SystemRand())
    return {
        "choral-enrolment-bin": Authority(authority).enrol(client, key),
        "choral-authority-bin": authority.public,
        "choral-server-key-bin": server.public,
    }


def key_of(who):
    return dict(who.metadata)["choral-signing-key-bin"]


def test_its_key_is_made_once_and_private(tmp_path):
    first = Unverified("a", (ADDRESS,), tmp_path)
    assert key_of(Unverified("a", (ADDRESS,), tmp_path)) == key_of(first)
    assert os.stat(tmp_path / SIGNING_KEY_FILE).st_mode & 0o777 == 0o600
    assert first.server is None


def test_the_first_coordinator_is_pinned(tmp_path):
    who = Unverified("a", (ADDRESS,), tmp_path)
    told = said("a", key_of(who))
    who.heard(told)
    assert who.enrolled.server == told["choral-server-key-bin"] == who.server
    again = Unverified("a", (ADDRESS,), tmp_path)
    assert again.enrolled.authority == told["choral-authority-bin"]
    again.heard(told)
    with pytest.raises(Refused, match="another coordinator"):
        again.heard(said("a", key_of(who)))
    (tmp_path / PINNED).unlink()
    fresh = Unverified("a", (ADDRESS,), tmp_path)
    fresh.heard(said("a", key_of(who)))
    assert fresh.enrolled is not None


def test_an_enrolment_for_somebody_else_is_not_pinned(tmp_path):
    who = Unverified("a", (ADDRESS,), tmp_path)
    with pytest.raises(Refused):
        who.heard(said("b", key_of(who)))
    assert not (tmp_path / PINNED).exists()
    assert who.enrolled is None


def test_a_coordinator_that_says_nothing_changes_nothing(tmp_path):
    who = Unverified("a", (ADDRESS,), tmp_path)
    who.heard({})
    assert who.enrolled is None


def test_a_pin_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / PINNED).write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        Unverified("a", (ADDRESS,), tmp_path)
