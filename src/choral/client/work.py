"""What runs in the process that trains: the task, the data, and nothing of the network."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import signature
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, Final

import numpy as np

from choral.client.records import Allowance, RecordLedger, open_record_ledger
from choral.client.settings import Local
from choral.config.references import is_reference, resolve
from choral.core.checks import one_of
from choral.core.errors import (
    ChoralError,
    ClientError,
    ConfigError,
    DataError,
    VersionMismatch,
)
from choral.core.exact import Contribution
from choral.core.keys import Key
from choral.core.params import ClientId, Params
from choral.core.plan import Plan
from choral.core.task import ClientData, ClientSource, Task, count_examples, spec_of
from choral.core.tensors import decode_tensors, encode_tensors
from choral.core.transform import Chain
from choral.data import MappingSource, Schema, read_examples
from choral.data.sources import examples_of
from choral.federation.participant import (
    NORM,
    Failed,
    Participant,
    check_record_privacy,
    overlay,
    own_code,
)
from choral.federation.recorded import trained_size
from choral.privacy.clip import UNCLIPPED
from choral.privacy.standing import Reservation
from choral.stores.files import sync_folder, write_durably
from choral.system import SystemRand
from choral.tasks.threads import one_thread
from choral.tasks.zoo import build as build_model
from choral.wire.contributions import contribution_blocks
from choral.wire.plans import plan_from_json

NO_ALLOWANCE: Final = Allowance()
_TERMS: Final = frozenset({NORM, UNCLIPPED})
MODEL: Final = "model:"
PERSONAL: Final = "personal"
_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask how much data there is, and of what kind."""


@dataclass(frozen=True, slots=True)
class Described:
    """The data, without a value of it.

    Attributes:
        examples: How many there are, at most, to train on.
        schema_version: Version of the declared schema; empty without one.
        schema_fingerprint: Its digest; empty without one.
        schema_json: What the digest is over: column names, types, units, classes, target.
    """

    examples: int
    schema_version: str = ""
    schema_fingerprint: str = ""
    schema_json: bytes = b""


@dataclass(frozen=True, slots=True)
class Train:
    """Ask for a contribution.

    Attributes:
        plan: The round's terms, as canonical JSON.
        model: File of the global model.
        out: Where the contribution goes: the bytes to upload, or the ring's elements to be masked.
        metrics: Names of metrics that may leave, None for all; a plain contribution leaves out
            the others.
        allowance: What may be learnt of a record.
    """

    plan: bytes
    model: Path
    out: Path
    metrics: frozenset[str] | None = None
    allowance: Allowance = NO_ALLOWANCE


@dataclass(frozen=True, slots=True)
class Trained:
    """A contribution is in its file.

    Attributes:
        kept: Personal tensors lie beside it.
        lost: What a record here has lost at most, over all runs, in words; empty where the plan
            protects no records.
    """

    kept: bool = False
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """Ask for the metrics of a model on the held-out part."""

    plan: bytes
    model: Path


@dataclass(frozen=True, slots=True)
class Measurements:
    """Means over the held-out examples; empty where there are none."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    examples: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """Ask whether the task is the one that made a model, and how long its vector is."""

    plan: bytes
    model: Path


@dataclass(frozen=True, slots=True)
class Looked:
    """The model is one of the task's.

    Attributes:
        vector_size: Elements of its vector.
    """

    vector_size: int


Request = Describe | Look | Train | Measure
Answer = Described | Looked | Trained | Measurements | Failed


def serve(pipe: Connection, local: Local) -> None:
    """Answer requests until the parent closes the pipe or dies.

    An answer is what was asked for, or a `Failed`; this process goes on after a failure.
    """
    os.setsid()
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr
    desk = _Desk(local)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), one_thread():
        while True:
            request: Request = pipe.recv()
            pipe.send(desk.answer(request))


def _die_with_parent() -> None:
    """End this process with its parent, even where somebody's code is busy and reads no pipe."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os.killpg(0, signal.SIGKILL)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


class _Desk:
    """The task and the data of one client, read when they are first needed."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._client = ClientId(local.client)
        self._raw: Any = None
        self._tasks: dict[tuple[str, str], Task] = {}
        self._records: RecordLedger | None = None
        self._sources: dict[tuple[float, int], ClientSource] = {}

    def answer(self, request: Request) -> Answer:
        """Do what is asked."""
        try:
            return self._answer(request)
        except ChoralError as error:
            return Failed(self._client, error.code, str(error), error.details)
        except OSError as error:
            return Failed(self._client, "store", f"{type(error).__name__}: {error}")
        except (Exception, SystemExit) as error:  # noqa: BLE001  # somebody's own code
            text = "".join(traceback.format_exception(error))
            line = f"{type(error).__name__}: {error}"
            return Failed(self._client, ClientError.code, line, text)

    def _answer(self, request: Request) -> Answer:
        if isinstance(request, Describe):
            return self._describe()
        plan = plan_from_json(request.plan)
        if isinstance(request, Look):
            return Looked(self._model(request.model, plan)[1].spec.vector_size)
        if isinstance(request, Train):
            return self._train(request, plan)
        return self._measure(request, plan)

    def _describe(self) -> Described:
        examples = examples_of(self._data(), self._client)
        if self._local.schema is None:
            return Described(examples)
        schema = Schema.from_yaml(self._local.schema)
        return Described(examples, str(schema.version), schema.fingerprint, schema.to_json())

    def _train(self, request: Train, plan: Plan) -> Answer:
        params, participant = self._model(request.model, plan)
        reserved = self._reserved(request, plan, participant)
        outcome = participant.attempt(
            self._client,
            overlay(params, self._personal(plan, before=plan.round)),
            self._source(plan).load,
            plan=plan,
            key=Key.of_state(plan.key).fold(self._client),
        )
        if isinstance(outcome, Failed):
            return outcome
        kept_beside(request.out).unlink(missing_ok=True)  # of a round that came to nothing
        contribution = outcome.contribution
        if isinstance(contribution, Contribution):
            sent = _allowed(contribution, request.metrics)
            write_durably(request.out, contribution_blocks(sent))
        else:
            write_durably(
                request.out, [np.ascontiguousarray(contribution.vector).view(np.uint8).data]
            )
        if reserved is not None:
            self._ledger(request.allowance).spend(reserved)
        if outcome.kept is not None:
            write_durably(kept_beside(request.out), encode_tensors(outcome.kept))
        lost = "" if reserved is None else str(reserved.epsilon)
        return Trained(kept=outcome.kept is not None, lost=lost)

    def _reserved(self, request: Train, plan: Plan, participant: Participant) -> Reservation | None:
        """Reserve what a training with record-level privacy releases; None without it."""
        if plan.local.record is None:
            return None
        check_record_privacy(participant.task, plan)
        records = count_examples(self._source(plan).load(self._client).train)
        size = trained_size(participant.spec)
        ledger = self._ledger(request.allowance)
        return ledger.reserve(plan, records=records, dimension=size)

    def _ledger(self, allowance: Allowance) -> RecordLedger:
        if self._records is None:
            self._records = open_record_ledger(self._local.state, allowance, SystemRand())
        return self._records

    def _measure(self, request: Measure, plan: Plan) -> Answer:
        params, participant = self._model(request.model, plan)
        test = self._source(plan).load(self._client).test
        examples = 0 if test is None else count_examples(test)
        if not examples:
            return Measurements()
        whole = overlay(params, self._personal(plan))
        found = participant.measure(whole, test, who=f"client `{self._client}`")
        return Measurements(found, examples)

    # --- the parts --------------------------------------------------------------------------------

    def _model(self, path: Path, plan: Plan) -> tuple[Params, Participant]:
        params = Params(decode_tensors(path.read_bytes()))
        task = self._task(plan)
        spec = spec_of(task, params)
        if spec.digest != plan.spec_digest:
            raise VersionMismatch(
                f"the model's schema is {plan.spec_digest[:12]}…, the task `{plan.task}` here "
                f"makes {spec.digest[:12]}… of its tensors",
                hint="both sides need the same version of the task: its roles differ",
            )
        return params, Participant(task, spec, Chain(), SystemRand())

    def _task(self, plan: Plan) -> Task:
        name = (plan.task, plan.arguments)
        if name not in self._tasks:
            if plan.task.startswith(MODEL):
                arguments = json.loads(plan.arguments) if plan.arguments else {}
                found = build_model(plan.task.removeprefix(MODEL), **arguments)
            else:
                found = resolve(plan.task, self._local.folder, what="task")
            self._tasks[name] = found
        return self._tasks[name]

    def _source(self, plan: Plan) -> ClientSource:
        name = (plan.test_fraction, plan.split_seed)
        if name not in self._sources:
            self._sources[name] = MappingSource(
                {self._client: self._data()}, test_fraction=name[0], seed=name[1]
            )
        return self._sources[name]

    def _data(self) -> Any:
        if self._raw is None:
            self._raw = load_data(self._local)
        return self._raw

    def _personal(self, plan: Plan, *, before: int | None = None) -> Params | None:
        """Return the newest personal tensors; those of the round itself are not its start."""
        found = personal_files(self._local.state, plan.run_id)
        rounds = [r for r in found if before is None or r < before]
        if not rounds:
            return None
        return Params(decode_tensors(found[max(rounds)].read_bytes()))


def load_data(local: Local) -> Any:
    """Return a client's data: columns, a dataset, or a `ClientData`.

    Raises:
        ConfigError: `data` is no file and no reference.
        DataError: It cannot be read, or is not this client's.
    """
    if is_reference(local.data):
        return _named(local)
    path = Path(local.data)
    if not path.is_file():
        raise DataError(f"data {path}: there is no such file", hint="`--data FILE`, or DATA_PATH")
    schema = None if local.schema is None else Schema.from_yaml(local.schema)
    missing: Any = one_of("missing", local.missing, ("raise", "drop"))
    return read_examples(path, target=local.target, schema=schema, missing=missing)


def _named(local: Local) -> Any:
    """Return what a `module:function` gives: this client's data, or everybody's by id."""
    found = resolve(local.data, local.folder, what="data")
    if callable(found):
        with own_code(f"data `{local.data}`"):
            takes_id = bool(signature(found).parameters)
            found = found(local.client) if takes_id else found()
    if isinstance(found, Mapping):
        if local.client not in found:
            raise DataError(f"data `{local.data}` has none of `{local.client}`")
        found = found[local.client]
    if not (isinstance(found, ClientData | tuple) or hasattr(found, "__len__")):
        raise ConfigError(
            f"data `{local.data}` gave {type(found).__name__}", hint="expected (X, y)"
        )
    return found


def _allowed(contribution: Contribution, metrics: frozenset[str] | None) -> Contribution:
    """Return a contribution without the metrics that must not leave.

    Whether a clip left the update as it was belongs to the plan's terms, and shows in its norm.
    """
    if metrics is None:
        return contribution
    kept = {n: v for n, v in contribution.metrics.items() if n in metrics or n in _TERMS}
    return Contribution(contribution.vector, contribution.weight, kept)


def personal_files(state: Path, run_id: str) -> dict[int, Path]:
    """Return the files of a run's personal tensors by the round that made them."""
    stem = _personal_stem(run_id)
    found = (state / PERSONAL).glob(f"{stem}-*{_SUFFIX}")
    return {int(path.stem.removeprefix(f"{stem}-")): path for path in found}


def _personal_stem(run_id: str) -> str:
    """Return what stands for a run in a file's name; the run's own name is no path."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:32]


def kept_beside(contribution: Path) -> Path:
    """Return where new personal tensors wait until the contribution is receipted."""
    return contribution.with_suffix(".kept")


def settle_kept(contribution: Path, state: Path, plan: Plan) -> None:
    """Take a round's personal tensors for the newest ones.

    Those of the round before stay: a round that is tried again starts from them.
    """
    waiting = kept_beside(contribution)
    if not waiting.exists():
        return
    before = personal_files(state, plan.run_id)
    folder = state / PERSONAL
    folder.mkdir(mode=0o700, exist_ok=True)
    os.replace(waiting, folder / f"{_personal_stem(plan.run_id)}-{plan.round}{_SUFFIX}")
    sync_folder(folder)
    last = max((r for r in before if r < plan.round), default=None)
    for round_, path in before.items():
        if round_ not in {last, plan.round}:
            path.unlink(missing_ok=True)
