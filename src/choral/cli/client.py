"""`choral client`: the agent near private data."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from choral.core.errors import ConfigError, RunFailed
from choral.system import SystemClock, SystemRand, arm_failpoint
from choral.telemetry.log import log_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from choral.client.agent import Agent, Ended
    from choral.client.policy import Policy

LOG: Final = logging.getLogger("choral.client")


def command(
    config: Annotated[
        Path | None, typer.Option(envvar="CHORAL_CONFIG", help="The client's file, in YAML.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(envvar=["CHORAL_COORDINATOR", "COORDINATOR"], help="HOST:PORT to call."),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option("--id", envvar=["CHORAL_CLIENT_ID", "CLIENT_ID"], help="Its id.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            envvar=["CHORAL_DATA", "DATA_PATH"], help="A CSV or Parquet file, or module:function."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(envvar="CHORAL_TARGET", help="Column to predict; default last.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(envvar="CHORAL_POLICY", help="The site's policy, in YAML.")
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CHORAL_CREDENTIALS",
            help="Folder of `choral pki request`, with what was sent back.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(envvar="CHORAL_STATE", help="Folder of keys and answers that must survive."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text, to a loopback address.")
    ] = False,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when a run has ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Log JSON lines.")] = False,
) -> None:
    """Take part in a federation with the data of this site."""
    log_to(as_json=as_json)
    arm_failpoint(os.environ)
    given = {
        "id": client_id,
        "coordinator": coordinator,
        "data": data,
        "target": target,
        "policy": None if policy is None else str(policy),
        "state": None if state is None else str(state),
    }
    agent, name = _agent(config, credentials, given, insecure=insecure)
    ended = asyncio.run(_work(agent, name, until_done=until_done))
    if ended is not None and not ended.completed:
        raise RunFailed(f"run {ended.run_id} did not complete: {ended.reason}")


def _agent(
    config: Path | None,
    credentials: Path | None,
    given: Mapping[str, str | None],
    *,
    insecure: bool,
) -> tuple[Callable[[], Agent], str]:
    """Return what makes the agent that files and flags describe, and its id."""
    from choral.client.agent import Agent
    from choral.client.settings import ClientFile, read_client_file, settle
    from choral.client.who import Certified, Unverified, Who
    from choral.pki.files import private_folder

    file = ClientFile() if config is None else read_client_file(config)
    if credentials is not None:
        # instead of all that the file says, whose relative paths start elsewhere
        said = dict.fromkeys(("tls", "signing_key", "federation", "enrolment"))
        file = file.model_copy(update={**said, "credentials": str(credentials.absolute())})
    settings = settle(
        file,
        home=Path() if config is None else config.parent,
        given={name: value for name, value in given.items() if value},
        insecure=insecure,
    )
    local, rules = settings.local, _policy(settings.policy, insecure=insecure)
    private_folder(local.state)
    who: Who
    if settings.files is None:
        who = Unverified(local.client, settings.coordinators, local.state)
        LOG.warning("plain text: neither side's identity is verified")
    else:
        who = Certified(local.client, settings.files, settings.authority)
    clock, rand = SystemClock(), SystemRand()
    agent = partial(Agent, settings, who=who, policy=rules, clock=clock, rand=rand)
    return agent, local.client


def _policy(path: Path | None, *, insecure: bool) -> Policy:
    """Return the site's policy; without one there is a trial on this machine, or nothing."""
    from choral.client.policy import OPEN, read_policy

    if path is not None:
        return read_policy(path)
    if not insecure:
        raise ConfigError(
            "no site policy", hint="`policy: policy.yaml`; what it does not allow is refused"
        )
    LOG.warning("no site policy: everything is allowed, as for a trial on one machine")
    return OPEN


async def _work(make: Callable[[], Agent], client: str, *, until_done: bool) -> Ended | None:
    """Work until a signal, or until a run has ended."""
    task = asyncio.ensure_future(make().run(until_done=until_done))
    loop = asyncio.get_running_loop()
    interrupted: list[int] = []

    def stop(number: int) -> None:
        interrupted.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        LOG.info("%s: stopped", client)
        if signal.SIGINT in interrupted:
            raise KeyboardInterrupt from None
        return None
