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

CATEGORIES = {2: (2.0, 3.0, 4.0), 6: (1.0, 2.0)}
"""Where in `KEPT` the chest pain type and the resting electrocardiogram are, counted from 0, and
their values without the first: the sites agree on them, so that none has to see another's table."""

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
    return {name: hospital(name) for name in COUNTRIES}


def hospital(name: str) -> ClientData:
    """Return one hospital's parts, from its own file alone."""
    found = _hospital(name)
    scale = Scale.of(found.x[found.train])
    return ClientData(
        (scale(found.x[found.train]), found.y[found.train]),
        (scale(found.x[found.test]), found.y[found.test]),
        {"country": COUNTRIES[name]},
    )


def pooled_test() -> tuple[Array, Array]:
    """Return all held-out patients, standardised by all training parts together."""
    every = [_hospital(name) for name in COUNTRIES]
    scale = Scale.of(np.concatenate([h.x[h.train] for h in every]))
    x = np.concatenate([h.x[h.test] for h in every])
    return scale(x), np.concatenate([h.y[h.test] for h in every])


def features() -> tuple[str, ...]:
    """Return the names of the 13 features in their order."""
    plain = [n for i, n in enumerate(KEPT) if i not in CATEGORIES]
    hot = [f"{KEPT[i]}={value:g}" for i, values in CATEGORIES.items() for value in values]
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
def _hospital(name: str) -> Hospital:
    """Return a hospital with its features and its parts."""
    x, y = _table(name)
    plain = [i for i in range(len(KEPT)) if i not in CATEGORIES]
    hot = [x[:, i, None] == np.array(values) for i, values in CATEGORIES.items()]
    wide = np.concatenate([x[:, plain], *hot], axis=1).astype(np.float32)
    return Hospital(wide, y, *_parts(y))


def _table(name: str) -> tuple[Array, Array]:
    """Return the ten columns and the label of every patient without a missing value."""
    table = read_table(DATA / f"processed.{name}.data", header=False)
    x = np.column_stack([table.numbers(i) for i in range(len(KEPT))])
    ill = table.numbers(len(table.names) - 1) > 0
    complete = ~np.isnan(x).any(axis=1)
    return x[complete], ill[complete].astype(np.int64)


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
