"""The steps of an open attempt, as its log keeps them, and how an attempt is rebuilt from them.

A secure sum follows from what was put into it, in order: so what was put in is written down before
anybody hears what came out, and a coordinator that crashed puts it in again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from choral.coordinator.spool import SpoolFile
from choral.coordinator.sums import RemoteSum, SpooledSum
from choral.core.errors import StoreError
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.wire.plans import plan_from_json, plan_to_json

Step = dict[str, Any]
Find = Callable[[str, int], SpoolFile | None]
"""From digest and size to a kept upload."""


def opened(plan: Plan, *, deadline: int, model_bytes: int) -> Step:
    """Return the first step: clients are invited on these terms.

    Args:
        plan: The terms.
        deadline: Seconds since 1970 in a signed context.
        model_bytes: Size of the model's file.
    """
    body = plan_to_json(plan).decode()
    return {"step": "opened", "plan": body, "deadline": deadline, "model_bytes": model_bytes}


def took(client: ClientId, sha256: str, size_bytes: int) -> Step:
    """Return the step of an upload that was put into the sum."""
    return {"step": "took", "client": client, "sha256": sha256, "size": size_bytes}


def said(client: ClientId, body: bytes) -> Step:
    """Return the step of a client's message."""
    return {"step": "said", "client": client, "body": base64.b64encode(body).decode()}


def lost(client: ClientId) -> Step:
    """Return the step of a client that is expected no more."""
    return {"step": "lost", "client": client}


def hurried(*, give_up: bool) -> Step:
    """Return the step of a time that was over."""
    return {"step": "hurried", "give_up": give_up}


def closed(survivors: Sequence[ClientId]) -> Step:
    """Return the step by which the survivors were fixed."""
    return {"step": "closed", "survivors": list(survivors)}


def plan_of(steps: Sequence[Step]) -> Plan | None:
    """Return the terms of the attempt that the steps are of, None where there are none."""
    if not steps or steps[0].get("step") != "opened":
        return None
    return plan_from_json(steps[0]["plan"].encode())


def redo_plain(
    total: SpooledSum, steps: Sequence[Step], accepted: Sequence[ClientId], *, find: Find
) -> tuple[ClientId, ...]:
    """Add the accepted contributions that are still there; return whose they are."""
    uploads = {s["client"]: s for s in steps if s["step"] == "took"}
    held = []
    for client in accepted:
        step = uploads.get(client)
        upload = None if step is None else find(step["sha256"], step["size"])
        if upload is not None and total.take(client, upload) is None:
            total.accept(client)
            held.append(client)
    return tuple(held)


def redo_secure(total: RemoteSum, steps: Sequence[Step], *, find: Find) -> None:
    """Put everything into a new sum again, in the same order.

    Raises:
        StoreError: Something of it is missing.
        ChoralError: It does not fit.
    """
    for step in steps:
        _REDO[step["step"]](total, step, find)


def _took(total: RemoteSum, step: Step, find: Find) -> None:
    upload = find(step["sha256"], step["size"])
    if upload is None:
        raise StoreError(f"the masked vector of {step['client']} is not there any more")
    total.take(ClientId(step["client"]), upload)


def _said(total: RemoteSum, step: Step, _: Find) -> None:
    total.said(ClientId(step["client"]), base64.b64decode(step["body"]))


_REDO: Final[Mapping[str, Callable[[RemoteSum, Step, Find], Any]]] = {
    "opened": lambda total, step, find: total.open((), ()),
    "took": _took,
    "said": _said,
    "lost": lambda total, step, find: total.lose(ClientId(step["client"])),
    "hurried": lambda total, step, find: total.hurry(give_up=step["give_up"]),
    "closed": lambda total, step, find: total.close([ClientId(c) for c in step["survivors"]]),
}
"""Kind of step to how it is done once more."""
