"""Why a party of a secure aggregation stops: one name for every check, with a hint."""

from __future__ import annotations

import enum
from typing import Final

from choral.core.errors import Refused


class Reason(enum.StrEnum):
    """What a check found; the value travels in complaints."""

    MALFORMED = "malformed_message"
    FAILED = "check_failed"
    OUT_OF_ORDER = "out_of_order"
    # R0: the context
    BAD_SERVER_SIGNATURE = "bad_server_signature"
    VERSION = "unknown_version"
    SUITE = "suite_not_allowed"
    OTHER_RUN = "other_run"
    OTHER_MODEL = "other_model"
    OTHER_PLAN = "other_plan"
    OTHER_ENCODING = "other_encoding"
    OTHER_AUTHORITY = "other_authority"
    OVERFLOW = "sum_could_overflow"
    SMALL_COHORT = "cohort_below_floor"
    WEAK_PARAMETERS = "weak_parameters"
    REPLAYED = "attempt_already_answered"
    JOINED = "another_attempt_was_joined"
    MODEL_CAP = "too_many_sums_on_one_model"
    CHANGED_CONTEXT = "changed_context"
    # R1: the roster
    NOT_ENROLLED = "not_enrolled"
    BAD_SIGNATURE = "bad_signature"
    BAD_KEY = "bad_public_key"
    REPEATED_ID = "repeated_id"
    REPEATED_KEY = "repeated_key"
    NOT_LISTED = "own_entry_missing_or_changed"
    BAD_PROOF = "bad_inclusion_proof"
    WRONG_GRAPH = "wrong_neighbourhood"
    WRONG_BEACON = "wrong_beacon"
    CHANGED_ROSTER = "changed_roster"
    TOO_MANY = "more_clients_than_invited"
    # R2: the shares
    TOO_FEW_SHARES = "too_few_share_dealers"
    NOT_A_NEIGHBOUR = "not_a_neighbour"
    BAD_TAG = "sealed_share_does_not_open"
    BAD_SHARE = "share_does_not_match_its_hash"
    CHANGED_DEALERS = "changed_dealers"
    SECOND_VECTOR = "second_masked_vector"
    WRONG_VECTOR = "wrong_vector"
    # R3 and R4: the survivors
    NOT_A_DEALER = "survivor_without_shares"
    LEFT_OUT = "own_vector_left_out"
    TOO_FEW_SURVIVORS = "too_few_survivors"
    ONE_SIDED = "too_few_survivors_on_one_side"
    SUPERSEDED = "a_later_attempt_was_entered"
    TWO_SURVIVOR_SETS = "two_survivor_sets"
    TOO_FEW_CONSENTS = "too_few_consents"
    FOREIGN_CONSENT = "consent_of_an_outsider"
    NOT_COUNTED = "not_counted"


HINTS: Final[dict[Reason, str]] = {
    Reason.MALFORMED: "the sender speaks another version, or bytes were changed on the way",
    Reason.REPLAYED: "a retry is a new attempt with new keys",
    Reason.JOINED: "two sums of one round would give one client away by their difference",
    Reason.MODEL_CAP: "the site's policy caps how many sums on one model it joins",
    Reason.OTHER_MODEL: "the server shows this client another model than it downloaded",
    Reason.OVERFLOW: "a larger modulus, a smaller cohort or fewer bits",
    Reason.SMALL_COHORT: "more clients, or a policy that allows so few by name",
    Reason.WEAK_PARAMETERS: "clients compute k and t themselves and accept no less",
    Reason.TWO_SURVIVOR_SETS: "the server may be trying to learn one update: leave this run",
    Reason.ONE_SIDED: "the server may be cutting a part of the cohort off",
    Reason.SUPERSEDED: "two open attempts of a round give updates away by their difference",
    Reason.SECOND_VECTOR: "one masked vector per key: send the stored bytes or drop out",
}
"""What the reader can do; most reasons say it by their name."""


class Breach(Refused):
    """A check of the protocol failed: a peer cheats, is broken, or speaks of something else.

    Args:
        reason: Which check.
        message: What was found and what was expected; never a secret.
        about: Whom it is about; empty for the server.
    """

    code = "secagg_breach"

    def __init__(self, reason: Reason, message: str, *, about: str = "") -> None:
        super().__init__(f"{reason}: {message}", hint=HINTS.get(reason, ""))
        self.reason = reason
        self.about = about


def check(holds: bool, reason: Reason, message: str, *, about: str = "") -> None:
    """Raise `Breach` unless `holds`."""
    if not holds:
        raise Breach(reason, message, about=about)
