"""Whether a client suits a run, by what it says of itself; a client that does not is told why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from choral.core.errors import ChoralError, ConfigError, Malformed, Refused, SchemaMismatch
from choral.core.selection import Strata
from choral.data import Schema
from choral.wire.joining import Join

ANY_TASK: Final = "*"
"""What a client offers whose site allows every task."""
SHOWN: Final = 8
"""Differences between two schemas that are spelled out."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run asks of its clients.

    Attributes:
        task: Its task.
        roster: Clients that may take part, with the operator's labels; None for all.
        by: Label by which clients are chosen, or None.
        schema: Schema of their data; None for any.
    """

    task: str
    roster: Mapping[str, Strata] | None = None
    by: str | None = None
    schema: Schema | None = None

    def refusal(self, join: Join) -> ChoralError | None:
        """Return why a client does not suit, None where it does."""
        labels = (self.roster or {}).get(join.client, {})
        if self.roster is not None and join.client not in self.roster:
            return Refused("it is not on the coordinator's list of clients")
        if self.task not in join.tasks and ANY_TASK not in join.tasks:
            return Refused(f"its site does not allow the task `{self.task}`")
        if self.by is not None and self.by not in {**join.strata, **labels}:
            return Refused(f"it has no label `{self.by}`, and clients are chosen by it")
        apart = differences(self.schema, join)
        if apart:
            return SchemaMismatch(
                "its data schema differs: " + "; ".join(apart),
                hint="`schema` in client.yaml names the file that must be that of the federation",
            )
        return None


def differences(expected: Schema | None, join: Join) -> list[str]:
    """Return how a client's data schema differs from the expected one; empty where it does not.

    Args:
        expected: What the run asks for; None for any.
        join: The client's offer, whose schema `schema_in` has read before.
    """
    if expected is None or join.schema_fingerprint == expected.fingerprint:
        return []
    wanted = f"version {expected.version}, {expected.fingerprint[:12]}…"
    if not join.schema_fingerprint:
        return [f"it declares none, expected {wanted}"]
    if not join.schema_json:
        said = f"version {join.schema_version}, {join.schema_fingerprint[:12]}…"
        return [f"{said}, expected {wanted}; it does not say its columns"]
    found = schema_in(join.schema_json).diff(expected)
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"{more} more"] if more > 0 else [])


@lru_cache(maxsize=64)
def schema_in(raw: bytes) -> Schema:
    """Return the schema that a client sent.

    Raises:
        Malformed: It is none.
    """
    try:
        return Schema.from_json(raw)
    except ConfigError as error:
        raise Malformed(f"schema_json: {error.message}") from None


@dataclass(frozen=True, slots=True)
class Told:
    """Why a run does not ask a client."""

    run_id: str
    error: ChoralError

    @property
    def text(self) -> str:
        """In one line, for the client and for the log."""
        return f"run {self.run_id}: {self.error.code}: {self.error.message}"


def refusals(runs: Iterable[tuple[str, Wanted]], join: Join) -> tuple[list[Told], bool]:
    """Return which runs do not ask a client and why, and whether another one would.

    Args:
        runs: Runs that go on: the id, and what the run asks for.
        join: The client's offer.
    """
    found, fits = [], False
    for run_id, wanted in runs:
        error = wanted.refusal(join)
        if error is None:
            fits = True
        else:
            found.append(Told(run_id, error))
    return found, fits
