"""Four hospitals' patients, prepared as in FLamby's Fed-Heart-Disease.

FLamby: du Terrail et al. 2022, "FLamby: Datasets and benchmarks for cross-silo federated learning
in realistic healthcare settings", section 4. The data and its licence are in `data/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from choral.core.errors import MissingExtra
from choral.core.task import ClientData
from choral.data import read_table

DATA = Path(__file__).parent / "data"

COUNTRIES = {
    "cleveland": "united-states",
    "hungarian": "hungary",
    "switzerland": "switzerland",
    "va": "united-states",
}

KEPT = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
"""The first ten columns of the files; the others are missing in most rows of three hospitals."""

CATEGORIES = (2, 6)
"""Where in `KEPT` the chest pain type and the resting electrocardiogram are, counted from 0."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Hospital:
    """One hospital's patients before they are standardised.

    Attributes:
        x: float32, shape `[n, 13]`, in the order of `features()`.
        y: int64, shape `[n]`: 1 where the patient has the disease.
        train: Rows of the training part, ascending.
        test: Rows of the held-out part, ascending.
    """

    x: Array
    y: Array
    train: Array
    test: Array


def hospitals() -> dict[str, ClientData]:
    """Return each hospital's training and test part, standardised by its own training part."""
    found = {}
    for name, hospital in _hospitals().items():
        scale = Scale.of(hospital.x[hospital.train])
        found[name] = ClientData(
            (scale(hospital.x[hospital.train]), hospital.y[hospital.train]),
            (scale(hospital.x[hospital.test]), hospital.y[hospital.test]),
            {"country": COUNTRIES[name]},
        )
    return found


def pooled_test() -> tuple[Array, Array]:
    """Return all held-out patients, standardised by all training parts together."""
    every = _hospitals().values()
    scale = Scale.of(np.concatenate([h.x[h.train] for h in every]))
    x = np.concatenate([h.x[h.test] for h in every])
    return scale(x), np.concatenate([h.y[h.test] for h in every])


def features() -> tuple[str, ...]:
    """Return the names of the 13 features in their order."""
    plain = [n for i, n in enumerate(KEPT) if i not in CATEGORIES]
    values = _category_values([x for x, _ in _tables().values()])
    hot = [f"{KEPT[i]}={value:g}" for i in CATEGORIES for value in values[i]]
    return (*plain, *hot)


@dataclass(frozen=True)
class Scale:
    """Mean and sample standard deviation of each feature, shape `[13]`."""

    mean: Array
    deviation: Array

    @staticmethod
    def of(x: Array) -> Scale:
        """Return the scale of the rows of `x`."""
        x = x.astype(np.float64)
        return Scale(x.mean(axis=0), x.std(axis=0, ddof=1))

    def __call__(self, x: Array) -> Array:
        """Return `x` standardised, as float32.

        The small number keeps a constant feature at zero: in Switzerland every recorded
        cholesterol is 0.
        """
        return ((x - self.mean) / (self.deviation + 1e-9)).astype(np.float32)


@cache
def _hospitals() -> dict[str, Hospital]:
    """Return all hospitals with their features and their parts."""
    tables = _tables()
    values = _category_values([x for x, _ in tables.values()])
    plain = [i for i in range(len(KEPT)) if i not in CATEGORIES]
    found = {}
    for name, (x, y) in tables.items():
        hot = [(x[:, i, None] == values[i]) for i in CATEGORIES]
        wide = np.concatenate([x[:, plain], *hot], axis=1).astype(np.float32)
        found[name] = Hospital(wide, y, *_parts(y))
    return found


def _tables() -> dict[str, tuple[Array, Array]]:
    """Return the ten columns and the label of every patient without a missing value."""
    found = {}
    for name in COUNTRIES:
        table = read_table(DATA / f"processed.{name}.data", header=False)
        x = np.column_stack([table.numbers(i) for i in range(len(KEPT))])
        ill = table.numbers(len(table.names) - 1) > 0
        complete = ~np.isnan(x).any(axis=1)
        found[name] = (x[complete], ill[complete].astype(np.int64))
    return found


def _category_values(tables: list[Array]) -> dict[int, Array]:
    """Return the values of each category over all hospitals, ascending, without the first."""
    rows = np.concatenate(tables)
    return {i: np.unique(rows[:, i])[1:] for i in CATEGORIES}


def _parts(y: Array) -> tuple[Array, Array]:
    """Return the rows of the training and of the test part, ascending."""
    try:
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingExtra(
            "the heart example needs scikit-learn", hint="pip install 'choral[sklearn]'"
        ) from error
    _, sizes = np.unique(y, return_counts=True)
    train, test = train_test_split(
        np.arange(len(y)),
        test_size=0.34,
        random_state=43,
        stratify=y if (sizes > 2).all() else None,
    )
    return np.sort(train), np.sort(test)
