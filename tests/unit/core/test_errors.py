"""The error tree: one code, one exit code and one gRPC status per class, all of them drawn."""

import copy
import re

import pytest

from choral.core import errors
from choral.core.errors import (
    GRPC_STATUS,
    ChoralError,
    ConfigError,
    Fenced,
    NoQuorum,
    NotFinite,
    by_code,
    did_you_mean,
    grpc_status,
)

TABLE = {
    # class: (parent, code, exit code, gRPC status)
    "ChoralError": ("Exception", "error", 1, "UNKNOWN"),
    "ConfigError": ("ChoralError", "config", 2, "INVALID_ARGUMENT"),
    "UnknownKey": ("ConfigError", "unknown_key", 2, "INVALID_ARGUMENT"),
    "UnknownName": ("ConfigError", "unknown_name", 2, "INVALID_ARGUMENT"),
    "TaskNotFound": ("ConfigError", "task_not_found", 2, "INVALID_ARGUMENT"),
    "PlanError": ("ConfigError", "plan", 2, "INVALID_ARGUMENT"),
    "NotBuilt": ("ConfigError", "not_built", 2, "INVALID_ARGUMENT"),
    "MissingExtra": ("ConfigError", "missing_extra", 2, "INVALID_ARGUMENT"),
    "CertificateError": ("ConfigError", "certificate", 2, "INVALID_ARGUMENT"),
    "DataError": ("ChoralError", "data", 2, "FAILED_PRECONDITION"),
    "CorruptRow": ("DataError", "corrupt_row", 2, "FAILED_PRECONDITION"),
    "SchemaMismatch": ("DataError", "schema_mismatch", 2, "FAILED_PRECONDITION"),
    "EmptyClient": ("DataError", "empty_client", 2, "FAILED_PRECONDITION"),
    "UpdateRejected": ("ChoralError", "update_rejected", 1, "INVALID_ARGUMENT"),
    "WrongShape": ("UpdateRejected", "wrong_shape", 1, "INVALID_ARGUMENT"),
    "NotFinite": ("UpdateRejected", "not_finite", 1, "INVALID_ARGUMENT"),
    "OutOfRange": ("UpdateRejected", "out_of_range", 1, "INVALID_ARGUMENT"),
    "ClientError": ("ChoralError", "client_error", 1, "ABORTED"),
    "WorkerLost": ("ClientError", "worker_lost", 1, "ABORTED"),
    "RunFailed": ("ChoralError", "run_failed", 1, "ABORTED"),
    "NoQuorum": ("RunFailed", "no_quorum", 1, "ABORTED"),
    "RoundSpent": ("RunFailed", "round_spent", 1, "ABORTED"),
    "StoreError": ("ChoralError", "store", 2, "FAILED_PRECONDITION"),
    "RunExists": ("StoreError", "run_exists", 2, "ALREADY_EXISTS"),
    "NothingToResume": ("StoreError", "nothing_to_resume", 2, "NOT_FOUND"),
    "ResumeMismatch": ("StoreError", "resume_mismatch", 2, "FAILED_PRECONDITION"),
    "Fenced": ("StoreError", "fenced", 1, "ABORTED"),
    "Conflict": ("StoreError", "conflict", 1, "ABORTED"),
    "StoreUnavailable": ("StoreError", "store_unavailable", 1, "UNAVAILABLE"),
    "TamperedLedger": ("StoreError", "tampered_ledger", 1, "DATA_LOSS"),
    "RolledBackLedger": ("TamperedLedger", "rolled_back_ledger", 1, "DATA_LOSS"),
    "TamperedAudit": ("StoreError", "tampered_audit", 1, "DATA_LOSS"),
    "CorruptBlob": ("StoreError", "corrupt_blob", 1, "DATA_LOSS"),
    "TransferError": ("ChoralError", "transfer", 1, "INVALID_ARGUMENT"),
    "Malformed": ("TransferError", "malformed", 1, "INVALID_ARGUMENT"),
    "TooLarge": ("TransferError", "too_large", 1, "RESOURCE_EXHAUSTED"),
    "WrongDigest": ("TransferError", "wrong_digest", 1, "DATA_LOSS"),
    "Truncated": ("TransferError", "truncated", 1, "ABORTED"),
    "OutOfOrder": ("TransferError", "out_of_order", 1, "OUT_OF_RANGE"),
    "CorruptChunk": ("TransferError", "corrupt_chunk", 1, "DATA_LOSS"),
    "Unavailable": ("ChoralError", "unavailable", 1, "UNAVAILABLE"),
    "Refused": ("ChoralError", "refused", 3, "PERMISSION_DENIED"),
    "BudgetExhausted": ("Refused", "budget_exhausted", 3, "FAILED_PRECONDITION"),
    "RolledBackAudit": ("Refused", "rolled_back_audit", 3, "PERMISSION_DENIED"),
    "Stale": ("Refused", "stale", 3, "PERMISSION_DENIED"),
    "VersionMismatch": ("Refused", "version_mismatch", 3, "FAILED_PRECONDITION"),
}


def tree(kind: type[ChoralError] = ChoralError) -> list[type[ChoralError]]:
    """Every class of the core's tree, parents first."""
    below = [c for c in kind.__subclasses__() if c.__module__ == errors.__name__]
    return [kind] + [found for child in below for found in tree(child)]


def drawn() -> list[tuple[str, str | None, int | None]]:
    """Class, parent and stated exit code of each line of the docstring's drawing."""
    lines: list[tuple[str, str | None, int | None]] = []
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)  ", line)
        if found:
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            stated = re.search(r"\(exit (\d)\)$", line)
            lines.append(
                (found[2], path[-2] if depth else None, int(stated[1]) if stated else None)
            )
    return lines


def test_the_table_lists_every_class_and_no_other() -> None:
    assert sorted(TABLE) == sorted(kind.__name__ for kind in tree())


@pytest.mark.parametrize("name", TABLE)
def test_class_has_its_parent_code_exit_code_and_status(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("what was wrong")
    assert isinstance(error, ChoralError)
    assert (
        kind.__base__.__name__,
        error.code,
        error.exit_code,
        grpc_status(error),
    ) == TABLE[name]


def test_what_may_succeed_later() -> None:
    """A broken transfer, a lost race for a log, and what is out of reach; nothing else."""
    retryable = {kind.__name__ for kind in tree() if kind.retryable}
    transfers = {"Truncated", "OutOfOrder", "CorruptChunk"}
    assert retryable == transfers | {"Conflict", "StoreUnavailable", "Unavailable"}


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in tree()]
    assert len(set(codes)) == len(codes) == len(TABLE)


def test_the_docstring_draws_the_tree() -> None:
    expected = {
        name: None if parent == "Exception" else parent for name, (parent, *_) in TABLE.items()
    }
    lines = drawn()
    assert {name: parent for name, parent, _ in lines} == expected
    assert len(lines) == len(expected)


def test_exit_codes_in_the_docstring_are_true() -> None:
    stated = {name: code for name, _, code in drawn() if code is not None}
    assert len(stated) == 9
    assert stated == {name: TABLE[name][2] for name in stated}


def test_every_class_says_what_it_is() -> None:
    assert all(kind.__doc__ and kind.__doc__ != Exception.__doc__ for kind in tree())


@pytest.mark.parametrize("name", TABLE)
def test_a_code_finds_its_class(name: str) -> None:
    assert by_code(TABLE[name][1]) is getattr(errors, name)


def test_an_unknown_code_finds_the_root() -> None:
    assert by_code("") is by_code("nosuch") is ChoralError


def test_a_failed_run_may_carry_what_it_had_reached() -> None:
    error = NoQuorum("1 of 3 clients")
    assert error.result is None
    error.result = {"rounds": 2}
    assert copy.copy(error).result == {"rounds": 2}


def test_message_and_hint() -> None:
    plain, hinted = ConfigError("rounds is 0"), ConfigError("rounds is 0", hint="at least 1")
    assert str(plain) == "rounds is 0"
    assert str(hinted) == "rounds is 0 (at least 1)"
    assert (hinted.message, hinted.hint) == ("rounds is 0", "at least 1")


def test_an_error_survives_the_way_to_another_process() -> None:
    """`copy` uses the same protocol that carries an exception between processes."""
    there = copy.copy(NotFinite("tensor `w` holds NaN", hint="a smaller learning rate"))
    assert type(there) is NotFinite
    assert str(there) == "tensor `w` holds NaN (a smaller learning rate)"
    assert there.hint == "a smaller learning rate"


def test_a_subclass_from_another_room_has_its_ancestors_status() -> None:
    class Elsewhere(NotFinite):
        code = "elsewhere"

    assert grpc_status(Elsewhere("x")) == "INVALID_ARGUMENT"
    assert Elsewhere("x").exit_code == 1


def test_a_status_of_its_own_goes_before_the_branch() -> None:
    class Stolen(Fenced):
        code = "stolen"

    assert grpc_status(Stolen("x")) == "ABORTED"


def test_every_status_is_one_that_grpc_has_for_an_error() -> None:
    """The status codes of gRPC's specification, without OK."""
    assert set(GRPC_STATUS.values()) <= {
        *("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
        *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
        *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
        "UNAUTHENTICATED",
    }
    assert GRPC_STATUS.keys() <= {kind.code for kind in tree()}


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("roundz", ["seed", "rounds"], "did you mean `rounds`?"),
        ("xyz", ["seed", "rounds"], "known: rounds, seed"),
        ("xyz", [], ""),
        ("rounds", iter(["rounds"]), "did you mean `rounds`?"),
        ("", ["seed"], "known: seed"),
    ],
)
def test_did_you_mean(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint
