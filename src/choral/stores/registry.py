"""Models of completed runs, where each comes from, and which one is in use.

Every folder of a completed run in the storage folder holds a model and its lineage. Which model is
`current` is said by `registry.jsonl` beside them: one JSON line for each decision, oldest first,
never changed and never removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from choral.core.errors import CorruptBlob, StoreError, UnknownName, did_you_mean
from choral.core.params import Params
from choral.core.tensors import decode_tensors
from choral.stores.files import write_durably
from choral.stores.folder import LINEAGE, MODEL

LOG: Final = "registry.jsonl"
LOCK: Final = ".registry.lock"
CURRENT: Final = "current"
PROMOTE: Final = "promote"
ROLLBACK: Final = "rollback"
SHORTEST: Final = 4
"""Letters of a digest that are enough to name it, where they name one alone."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class Model:
    """The model of a completed run.

    Attributes:
        run_id: The run that made it.
        sha256: Digest of its file.
        folder: The run's folder.
        lineage: Where it comes from; `choral.telemetry.result.lineage` describes it.
    """

    run_id: str
    sha256: str
    folder: Path
    lineage: Mapping[str, Any] = field(repr=False)

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.folder / MODEL


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the registry's log.

    Attributes:
        sequence: Its number, from 1.
        action: `promote` or `rollback`.
        run_id: The run whose model is in use from here on.
        sha256: That model's digest.
        previous: Digest of the model that was in use before; None where there was none.
        by: Who decided it.
        at: When, ISO 8601 in UTC.
        note: Why; empty where nobody said.
    """

    sequence: int
    action: str
    run_id: str
    sha256: str
    previous: str | None
    by: str
    at: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How one tensor differs between two models.

    Attributes:
        name: The tensor.
        a: L2 norm in the first model; None where it is not there.
        b: L2 norm in the second.
        difference: L2 norm of the difference; None where the shapes differ.
    """

    name: str
    a: float | None
    b: float | None
    difference: float | None


# --- models ---------------------------------------------------------------------------------------


def models(root: Path) -> tuple[list[Model], list[StoreError]]:
    """Return the models in a storage folder, oldest first, and what is wrong with the others.

    Raises:
        StoreError: There is no such folder.
    """
    if not root.is_dir():
        raise StoreError(
            f"there is no folder {root}", hint="`--path DIR` with the runs, or CHORAL_STORAGE_PATH"
        )
    found, bad = [], []
    for path in sorted(root.glob(f"*/{LINEAGE}")):
        if path.parent.name.endswith(".partial") or path.parent.name.startswith("."):
            continue
        try:
            found.append(_read(path))
        except StoreError as error:
            bad.append(error)
    return sorted(found, key=lambda m: (str(m.lineage.get("created", "")), m.run_id)), bad


def _read(path: Path) -> Model:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    run_id = body.get("run_id") if isinstance(body, dict) else None
    sha256 = body.get("model_sha256") if isinstance(body, dict) else None
    if not isinstance(run_id, str) or not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256):
        raise StoreError(f"{path} is no lineage of a model", hint="restore the run's folder")
    return Model(run_id, sha256, path.parent, body)


def find(root: Path, word: str) -> Model:
    """Return the model that a word names.

    Args:
        root: The storage folder.
        word: A run's id or folder, a prefix of one digest, or `current`. Where several runs made
            the very same model, it is the newest of them.

    Raises:
        UnknownName: It names none, or several.
        StoreError: No model is in use, or the one in use is gone.
    """
    all_, _ = models(root)
    if word == CURRENT:
        return _current(root, all_)
    named = [m for m in all_ if word in (m.run_id, m.folder.name)]
    if not named and _PREFIX.fullmatch(word):
        named = [m for m in all_ if m.sha256.startswith(word)]
    if not named:
        raise UnknownName(
            f"no model {word[:80]!r} in {root}",
            hint=did_you_mean(word[:80], [m.run_id for m in all_])
            or "a completed run has one; `choral models list` shows them",
        )
    if len({m.sha256 for m in named}) > 1:
        raise UnknownName(
            f"{word!r} names {len(named)} models",
            hint="they are of " + ", ".join(m.run_id for m in named[:5]),
        )
    return named[-1]


def _current(root: Path, all_: Sequence[Model]) -> Model:
    last = current(history(root))
    if last is None:
        raise StoreError(
            f"no model in {root} is in use", hint="`choral models promote MODEL` names one"
        )
    same = [m for m in all_ if m.sha256 == last.sha256]
    by_run = [m for m in same if m.run_id == last.run_id]
    if not same:
        raise StoreError(
            f"the model in use, {last.sha256[:12]}… of {last.run_id}, is not in {root}",
            hint="restore the run's folder, or `choral models promote` another one",
        )
    return (by_run or same)[-1]


def load(model: Model) -> Params:
    """Return a model's tensors, after their digest was checked.

    Raises:
        CorruptBlob: The file is gone, or is not the one that its run made.
    """
    try:
        data = model.path.read_bytes()
    except OSError as error:
        raise CorruptBlob(f"{model.path} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise CorruptBlob(
            f"{model.path} is not the model of run {model.run_id}: its SHA-256 is {found[:12]}…, "
            f"expected {model.sha256[:12]}…",
            hint="restore the run's folder from a copy",
        )
    return Params(decode_tensors(data))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[TensorDifference]:
    """Return how the tensors of two models differ, in the order of the first.

    >>> differences({"w": np.array([3.0])}, {"w": np.array([5.0])})
    [TensorDifference(name='w', a=3.0, b=5.0, difference=2.0)]
    """
    found = []
    for name in [*a, *(n for n in b if n not in a)]:
        x, y = a.get(name), b.get(name)
        both = x is not None and y is not None and x.shape == y.shape
        apart = _norm(np.asarray(x, np.float64) - np.asarray(y, np.float64)) if both else None
        found.append(TensorDifference(name, _norm(x), _norm(y), apart))
    return found


def _norm(array: Any) -> float | None:
    if array is None:
        return None
    return float(np.linalg.norm(np.asarray(array, np.float64).ravel()))


# --- which one is in use --------------------------------------------------------------------------


def history(root: Path) -> list[Decision]:
    """Return the decisions, oldest first.

    Raises:
        StoreError: The log cannot be read; the message names the line.
    """
    path = root / LOG
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    return [_decision(path, at, line) for at, line in enumerate(lines, 1)]


def _decision(path: Path, at: int, line: str) -> Decision:
    try:
        made = Decision(**json.loads(line))
    except (ValueError, TypeError):
        made = None
    good = made is not None and made.sequence == at and made.action in (PROMOTE, ROLLBACK)
    if made is None or not good:
        raise StoreError(
            f"{path}, line {at} is no decision number {at}",
            hint="the log is never edited by hand: restore it from a copy",
        )
    return made


def current(log: Sequence[Decision]) -> Decision | None:
    """Return the decision that holds now; None where no model is in use."""
    return log[-1] if log else None


def promote(root: Path, model: Model, *, by: str, at: datetime, note: str = "") -> Decision:
    """Put a model into use, after its digest was checked.

    Raises:
        CorruptBlob: Its file is not the one that its run made.
        StoreError: It is in use already, or the log cannot be written.
    """
    load(model)
    with _locked(root):
        log = history(root)
        last = current(log)
        if last is not None and (last.sha256, last.run_id) == (model.sha256, model.run_id):
            raise StoreError(f"the model of {model.run_id} is in use already")
        return _append(root, log, PROMOTE, model, by=by, at=at, note=note)


def rollback(root: Path, *, by: str, at: datetime, note: str = "") -> Decision:
    """Put the model back into use that was before the present one, after its digest was checked.

    Rolling back again goes one further back, to what was in use before that.

    Raises:
        CorruptBlob: Its file is not the one that its run made.
        StoreError: There is nothing to go back to, or it is gone.
    """
    with _locked(root):
        log = history(root)
        stack = in_use(log)
        if len(stack) < 2:
            raise StoreError(
                f"no model was in use in {root} before the present one"
                if stack
                else f"no model in {root} is in use",
                hint="`choral models promote MODEL` names one",
            )
        wanted = stack[-2]
        same = [m for m in models(root)[0] if m.sha256 == wanted.sha256]
        named = [m for m in same if m.run_id == wanted.run_id] or same
        if not named:
            raise StoreError(
                f"the model before, {wanted.sha256[:12]}… of {wanted.run_id}, is not in {root}",
                hint="restore the run's folder, or `choral models promote` another one",
            )
        load(named[-1])
        return _append(root, log, ROLLBACK, named[-1], by=by, at=at, note=note)


def in_use(log: Sequence[Decision]) -> list[Decision]:
    """Return the promotions that still stand, the present one last: a rollback takes one off."""
    stack: list[Decision] = []
    for decision in log:
        if decision.action == ROLLBACK:
            stack = stack[:-1]
        else:
            stack.append(decision)
    return stack


def _append(
    root: Path,
    log: Sequence[Decision],
    action: str,
    model: Model,
    *,
    by: str,
    at: datetime,
    note: str,
) -> Decision:
    last = current(log)
    made = Decision(
        len(log) + 1,
        action,
        model.run_id,
        model.sha256,
        None if last is None else last.sha256,
        by,
        at.isoformat(timespec="seconds"),
        note,
    )
    path = root / LOG
    try:
        before = path.read_bytes() if log else b""
        line = json.dumps(asdict(made), ensure_ascii=False).encode() + b"\n"
        write_durably(path, [before, line])
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    return made


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes from deciding at the same time."""
    try:
        handle = os.open(root / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write to {root}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
