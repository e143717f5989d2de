"""Tries everything on an implementation and says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from choral.secagg.client import Client
from choral.secagg.server import Server
from choral.testing.secagg.attack import Trial
from choral.testing.secagg.clients import CHEATS
from choral.testing.secagg.honest import HONEST
from choral.testing.secagg.parties import ClientFactory, ServerFactory
from choral.testing.secagg.server import ATTACKS

TRIALS: Final[tuple[Trial, ...]] = (*HONEST, *ATTACKS, *CHEATS)
"""Everything there is to try."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one trial.

    Attributes:
        name: The trial's.
        tries: What was tried.
        expected: What must come of it.
        found: What did.
        faults: What must not; empty where the implementation held.
    """

    name: str
    tries: str
    expected: str
    found: str
    faults: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether the implementation held."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all trials; `str` gives it as a table.

    Attributes:
        findings: In the order of the trials.
    """

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The trials in which the implementation did not hold."""
        return tuple(f for f in self.findings if not f.held)

    @property
    def held(self) -> bool:
        """Whether it held in all of them, and there was one at all."""
        return bool(self.findings) and not self.failed

    @property
    def summary(self) -> str:
        """How many were held, in one line."""
        good = len(self.findings) - len(self.failed)
        return f"held in {good} of {len(self.findings)} trials"

    def __str__(self) -> str:
        return "\n".join([*table(self.findings), self.summary])


def judge(
    client: ClientFactory = Client,
    *,
    server: ServerFactory = Server,
    trials: Iterable[Trial] = TRIALS,
    watch: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Try everything on an implementation of the client, the server or both.

    Whatever an implementation raises is a finding and ends that trial.

    Args:
        client: Makes each client, as `Client` does. It speaks the messages of `choral.secagg`.
        server: Makes the server, as `Server` does.
        trials: What is tried.
        watch: Hears of each finding as it comes, for a progress bar.

    Returns:
        What came of each trial.

    >>> judge(trials=HONEST[:1]).summary
    'held in 1 of 1 trials'
    """
    findings = []
    for trial in trials:
        findings.append(try_one(trial, client=client, server=server))
        watch(findings[-1])
    return Report(tuple(findings))


def try_one(trial: Trial, *, client: ClientFactory, server: ServerFactory) -> Finding:
    """Return what came of one trial."""
    try:
        net = trial.network(client=client, server=server)
        trial.play(net)
        found, faults = trial.found(net), trial.faults(net)
    except Exception as error:  # noqa: BLE001 - the code under judgement may raise anything
        found, faults = "it raised", [f"{type(error).__name__}: {error}"]
    return Finding(trial.name, trial.tries, trial.expects, found, tuple(faults))


def table(findings: Iterable[Finding]) -> list[str]:
    """Return findings as aligned lines: trial, verdict, what came of it and what is wrong."""
    rows = [("trial", "verdict", "found", "faults")]
    rows += [
        (f.name, "held" if f.held else "FAILED", f.found, "; ".join(f.faults)) for f in findings
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    ]
