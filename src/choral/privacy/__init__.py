"""Differential privacy: words, noise, clips, mechanisms, accountants and the ledger.

Nothing heavy is imported here: dp-accounting and SciPy (the extra `dp`) come with the first epsilon
that is asked for.
"""

from __future__ import annotations

from choral.privacy.accounting import epsilon_of, noise_multiplier_for, smallest_noise
from choral.privacy.adaptive import AdaptiveClip, noised_fraction
from choral.privacy.central import Central, noised_mean, noised_total
from choral.privacy.clip import Clip, check_private_tensors, clip_l2, clip_layers
from choral.privacy.distributed import Distributed
from choral.privacy.entries import Head, Limit, RunTerms
from choral.privacy.ledger import PrivacyLedger, run_ledger
from choral.privacy.noise import discrete_gaussian, skellam
from choral.privacy.standing import Reservation, Standing
from choral.privacy.terms import Budget, Privacy, privacy_of
from choral.privacy.vocabulary import (
    DEFAULT_DELTA,
    UNSAMPLED,
    Epsilon,
    Mechanism,
    MinSeparation,
    NoSampling,
    Poisson,
    PrivacyUnit,
    Relation,
    Release,
    Sampling,
    WithoutReplacement,
    check_delta,
    check_epsilon,
    check_selection,
    delta_warning,
    release_of,
    sampling_json,
    sampling_of,
)

__all__ = [
    "DEFAULT_DELTA",
    "UNSAMPLED",
    "AdaptiveClip",
    "Budget",
    "Central",
    "Clip",
    "Distributed",
    "Epsilon",
    "Head",
    "Limit",
    "Mechanism",
    "MinSeparation",
    "NoSampling",
    "Poisson",
    "Privacy",
    "PrivacyLedger",
    "PrivacyUnit",
    "Relation",
    "Release",
    "Reservation",
    "RunTerms",
    "Sampling",
    "Standing",
    "WithoutReplacement",
    "check_delta",
    "check_epsilon",
    "check_private_tensors",
    "check_selection",
    "clip_l2",
    "clip_layers",
    "delta_warning",
    "discrete_gaussian",
    "epsilon_of",
    "noise_multiplier_for",
    "noised_fraction",
    "noised_mean",
    "noised_total",
    "privacy_of",
    "release_of",
    "run_ledger",
    "sampling_json",
    "sampling_of",
    "skellam",
    "smallest_noise",
]
