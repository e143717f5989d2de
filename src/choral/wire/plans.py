"""Plans as they travel: canonical JSON, whose SHA-256 is the plan's digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final

from choral.core.aggregation import MODULI, Aggregation, Grid, Plain, RingGrid, Secure
from choral.core.canonical import canonical_json
from choral.core.checks import one_of, real, whole
from choral.core.errors import ConfigError, Malformed, WrongDigest
from choral.core.exact import Encoding
from choral.core.plan import WEIGHTINGS, Local, Objective, Plan, RecordPrivacy
from choral.core.protection import Protection
from choral.wire.frames import check_sha256

MAX_PLAN_BYTES: Final = 1 << 16
MAX_NAME: Final = 256
"""Characters of a name in a plan: run, task, metric."""
MAX_METRICS: Final = 256


def plan_to_json(plan: Plan) -> bytes:
    """Return a plan's canonical bytes; `hashlib.sha256` of them is `plan.digest`.

    The vectors of its objective are not in them: they travel as blobs of the assignment.
    """
    return canonical_json(plan.as_json())


def plan_from_json(raw: bytes, *, digest: str | None = None) -> Plan:
    """Return the plan of some bytes, and no other than exactly theirs.

    Guarantees: `plan_to_json` of the result is `raw`, so its digest is that of the bytes. A plan
    with a key that this version does not know is refused rather than followed in part.

    Args:
        raw: Canonical JSON.
        digest: The digest that was signed or agreed, or None where there is none to compare.

    Raises:
        WrongDigest: The bytes have another digest.
        Malformed: They are no plan in canonical form.
    """
    if len(raw) > MAX_PLAN_BYTES:
        raise Malformed(f"a plan of {len(raw)} bytes, expected up to {MAX_PLAN_BYTES}")
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise WrongDigest(f"a plan with the SHA-256 {found}, expected {digest}")
    try:
        plan = _plan(json.loads(raw))
        same = plan_to_json(plan) == raw
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"bytes that are no plan: {error}") from None
    if not same:
        raise Malformed("a plan that is not in canonical form")
    return plan


def _plan(body: Any) -> Plan:
    names = {f.name for f in fields(Plan)} - {"objective"}
    if isinstance(body, dict) and "privacy" not in body:
        names -= {"privacy"}  # a plan without it is the plan that it always was
    body = _object("plan", body, names)
    mu = real("plan.mu", body["mu"], least=0)
    aggregation = _aggregation(body["aggregation"])
    goal = whole("plan.goal", body["goal"], least=1)
    return Plan(
        run_id=_name("plan.run_id", body["run_id"]),
        round=whole("plan.round", body["round"], least=1, most=2**32 - 1),
        attempt=whole("plan.attempt", body["attempt"], least=1, most=2**32 - 1),
        task=_name("plan.task", body["task"]),
        model_sha256=check_sha256("plan.model_sha256", body["model_sha256"]),
        spec_digest=check_sha256("plan.spec_digest", body["spec_digest"]),
        local=_local(body["local"]),
        mu=mu,
        weighting=one_of("plan.weighting", body["weighting"], WEIGHTINGS),
        aggregation=aggregation,
        encoding=_grid(body["encoding"], aggregation),
        goal=goal,
        quorum=whole("plan.quorum", body["quorum"], least=1, most=goal),
        deadline_s=real("plan.deadline_s", body["deadline_s"], above=0),
        arguments=_arguments(body["arguments"]),
        test_fraction=real("plan.test_fraction", body["test_fraction"], least=0, below=1),
        split_seed=whole("plan.split_seed", body["split_seed"], least=0, most=2**63 - 1),
        key=check_sha256("plan.key", body["key"]) if body["key"] != "" else "",
        privacy=_privacy(body["privacy"]) if "privacy" in body else None,
        objective=Objective(mu=mu),
    )


def _local(body: Any) -> Local:
    """Return local terms; `record` is a key only where records are protected."""
    keys = _names(Local) - {"record"}
    if not isinstance(body, Mapping) or "record" not in body:
        return Local(**_object("plan.local", body, keys))
    known = _object("plan.local", body, keys | {"record"})
    record = _object("plan.local.record", known["record"], _names(RecordPrivacy))
    return Local(**known | {"record": RecordPrivacy(**record)})


def _privacy(body: Any) -> Protection:
    names = _names(Protection)
    if isinstance(body, Mapping) and "quantile" not in body:
        names -= {"quantile", "count_sigma"}  # keys of an adaptive clip alone
    known = _object("plan.privacy", body, names)
    for name in ("unit", "relation", "selection"):
        _name(f"plan.privacy.{name}", known[name])
    return Protection(**known)


def _arguments(text: Any) -> str:
    """Return a built-in model's arguments: nothing, or a JSON object in canonical form."""
    if not isinstance(text, str):
        raise ConfigError("plan.arguments: expected a text")
    found = json.loads(text) if text else {}
    if not isinstance(found, dict) or (text and canonical_json(found).decode() != text):
        raise ConfigError("plan.arguments: expected a JSON object in canonical form, or nothing")
    return text


def _aggregation(body: Any) -> Aggregation:
    kind = body.get("kind") if isinstance(body, Mapping) else None
    if one_of("plan.aggregation.kind", kind, (Plain.kind, Secure.kind)) == Plain.kind:
        _object("plan.aggregation", body, {"kind"})
        return Plain()
    known = _object("plan.aggregation", body, {"kind"} | _names(Secure))
    rule = known["rule"]
    if isinstance(rule, Mapping):
        _name("plan.aggregation.rule", rule.get("name"))
    elif rule is not None:
        _name("plan.aggregation.rule", rule)
    return Secure(**{name: value for name, value in known.items() if name != "kind"})


def _grid(body: Any, aggregation: Aggregation) -> Grid:
    """Return a round's encoding: integers in a plain sum, elements of a ring in a secure one."""
    if isinstance(aggregation, Plain):
        return Encoding(**_object("plan.encoding", body, _names(Encoding)))
    known = _object("plan.encoding", body, _names(RingGrid))
    modulus = whole("plan.encoding.modulus_bits", known["modulus_bits"])
    if modulus not in MODULI or modulus != aggregation.modulus_bits:
        raise ConfigError(f"plan.encoding.modulus_bits {modulus}: expected that of the aggregation")
    whole("plan.encoding.bits", known["bits"], least=2, most=modulus - 1)
    return RingGrid(**known | {"metrics": _metrics(known["metrics"])})


def _metrics(body: Any) -> tuple[tuple[str, float], ...]:
    """Return the declared metrics with their bounds."""
    if not isinstance(body, list) or len(body) > MAX_METRICS:
        raise ConfigError(f"plan.encoding.metrics: expected a list of up to {MAX_METRICS} pairs")
    pairs = []
    for pair in body:
        name, bound = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        bounded = real("plan.encoding.metrics", bound, above=0)
        pairs.append((_name("plan.encoding.metrics", name), bounded))
    if len({name for name, _ in pairs}) != len(pairs):
        raise ConfigError("plan.encoding.metrics: a name comes twice")
    return tuple(pairs)


def _names(kind: type[Any]) -> set[str]:
    return {f.name for f in fields(kind)}


def _object(name: str, body: Any, keys: Collection[str]) -> dict[str, Any]:
    """Return a JSON object that has exactly these keys."""
    if not isinstance(body, dict):
        raise ConfigError(f"{name}: expected an object")
    odd = sorted(body.keys() ^ set(keys))
    if odd:
        state = "unknown" if odd[0] in body else "missing"
        raise ConfigError(f"{name}: the key {odd[0][:80]!r} is {state}")
    return body


def _name(name: str, value: Any) -> str:
    """Return a word that can be shown."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise ConfigError(f"{name}: expected a printable text of 1 to {MAX_NAME} characters")
    return value
