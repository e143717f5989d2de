"""Partitions as a user writes them: a dataset in, clients out; and by name, for a federation file.

To add one: write the function of indices in `partition.py`, its form for users here, and its line
in `PARTITIONERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from choral.core.checks import whole
from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.core.params import Array
from choral.core.registry import named
from choral.core.task import is_columns
from choral.data import partition as ways
from choral.data.examples import Missing, encode
from choral.data.schema import Schema
from choral.data.sources import TEST_FRACTION, PartitionSource
from choral.data.split import check_seed, count, labels_of
from choral.data.tables import read_table


def iid(
    data: Any, *, clients: int, seed: int = 0, test_fraction: float = TEST_FRACTION
) -> PartitionSource:
    """Deal a dataset out at random, the same number of examples to everyone (up to one).

    Args:
        data: Columns such as `(X, y)`, arrays or tensors; or a dataset with a length and items.
        clients: 1 to the number of examples.
        seed: Seed of the partition and of the splits, 0 to 2^64 - 1.
        test_fraction: Share of each client's examples to hold out, in [0, 1).

    Raises:
        ConfigError: An argument is out of range.
        DataError: `data` is neither columns of one length nor a dataset.

    >>> import numpy as np
    >>> source = iid((np.zeros((10, 2)), np.zeros(10)), clients=3, test_fraction=0)
    >>> source.ids[0], [source.examples(c) for c in source.ids]
    ('0', [4, 3, 3])
    """
    size = count(data, "the dataset")
    found = ways.iid(size, clients=clients, key=_key(seed, "iid"))
    return PartitionSource(data, found, test_fraction, seed)


def shards(
    data: Any,
    *,
    clients: int,
    per_client: int = 2,
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
) -> PartitionSource:
    """Sort by label, cut into shards, deal `per_client` shards to everyone (McMahan et al. 2017).

    Arguments and errors are those of `iid` and of `choral.data.partition.shards`.
    """
    found = ways.shards(
        labels_of(data), clients=clients, per_client=per_client, key=_key(seed, "shards")
    )
    return PartitionSource(data, found, test_fraction, seed)


def dirichlet(
    data: Any,
    *,
    clients: int,
    alpha: float,
    min_examples: int = 1,
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
) -> PartitionSource:
    """Give everyone a mix of labels drawn from a Dirichlet distribution (Hsu et al. 2019).

    Arguments and errors are those of `iid` and of `choral.data.partition.dirichlet`.

    >>> import numpy as np
    >>> source = dirichlet((np.zeros((60, 2)), np.arange(60) % 3), clients=10, alpha=0.3)
    >>> len(source.ids), source.examples(source.ids[0])
    (10, 6)
    """
    found = ways.dirichlet(
        labels_of(data),
        clients=clients,
        alpha=alpha,
        min_examples=min_examples,
        key=_key(seed, "dirichlet"),
    )
    return PartitionSource(data, found, test_fraction, seed)


def labels_per_client(
    data: Any,
    *,
    clients: int,
    count: int,
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
) -> PartitionSource:
    """Give each client examples of exactly `count` labels.

    Arguments and errors are those of `iid` and of `choral.data.partition.labels_per_client`.
    """
    found = ways.labels_per_client(
        labels_of(data), clients=clients, count=count, key=_key(seed, "labels_per_client")
    )
    return PartitionSource(data, found, test_fraction, seed)


def by_column(
    data: Any,
    *,
    column: int | Array,
    stratum: str = "group",
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
) -> PartitionSource:
    """Make one client of the examples with each distinct value: a natural partition.

    Args:
        data: Columns such as `(X, y)`, or a dataset.
        column: One value per example, shape `[n]`; or, for `(X, y)`, which feature holds it,
            counted from 0. In a federation file it is the name of a column of the data file, which
            is then no feature.
        stratum: What each client's value is called among its strata.
        seed: Seed of the splits.
        test_fraction: Share of each client's examples to hold out, in [0, 1).

    Returns:
        Clients named after their values.

    Raises:
        ConfigError: Not one value per example, no such feature, or two values make one id.
    """
    size = count(data, "the dataset")
    values = _feature(data, column) if np.ndim(column) == 0 else np.asarray(column).reshape(-1)
    if len(values) != size:
        raise ConfigError(f"column with {len(values)} values for a dataset of {size} examples")
    return PartitionSource(data, ways.by_column(values), test_fraction, seed, stratum)


def by_quantity(
    data: Any,
    *,
    clients: int,
    exponent: float | None = None,
    alpha: float | None = None,
    min_examples: int = 1,
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
) -> PartitionSource:
    """Deal examples out at random, in numbers by a power law or a Dirichlet distribution.

    Arguments and errors are those of `iid` and of `choral.data.partition.by_quantity`.
    """
    found = ways.by_quantity(
        count(data, "the dataset"),
        clients=clients,
        exponent=exponent,
        alpha=alpha,
        min_examples=min_examples,
        key=_key(seed, "by_quantity"),
    )
    return PartitionSource(data, found, test_fraction, seed)


PARTITIONERS: Final[dict[str, Callable[..., PartitionSource]]] = {
    "iid": iid,
    "shards": shards,
    "dirichlet": dirichlet,
    "labels_per_client": labels_per_client,
    "by_column": by_column,
    "by_quantity": by_quantity,
}
"""Name in a federation file to function."""


def partition_data(
    data: Any, spec: Mapping[str, Any], *, seed: int = 0, test_fraction: float = TEST_FRACTION
) -> PartitionSource:
    """Return the clients that a federation file's `partition` makes of a dataset.

    Args:
        data: Columns such as `(X, y)`, or a dataset.
        spec: `name` of a partition and its arguments, such as
            `{"name": "dirichlet", "alpha": 0.3, "clients": 100}`; its `seed` and `test_fraction`
            win over those below.
        seed: Seed of the partition and of the splits.
        test_fraction: Share of each client's examples to hold out, in [0, 1).

    Raises:
        UnknownName: No partition of that name.
        UnknownKey: An argument that the partition does not take.
        ConfigError: An argument is missing or out of range.
    """
    function = _named(spec)
    arguments = {"seed": seed, "test_fraction": test_fraction}
    arguments |= {k: v for k, v in spec.items() if k != "name"}
    return function(data, **arguments)


def partition_file(
    path: str | Path,
    spec: Mapping[str, Any],
    *,
    target: str | None = None,
    schema: Schema | None = None,
    missing: Missing = "raise",
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
) -> PartitionSource:
    """Return the clients that a federation file's `partition` makes of one CSV or Parquet file.

    Arguments and errors are those of `partition_data` and `read_examples`. For `by_column`,
    `column` names a column of the file; it is no feature.
    """
    _named(spec)
    group = str(spec.get("column")) if spec["name"] == "by_column" else None
    table = read_table(path, header=None if schema is None else schema.names)
    found = encode(table, target=target, schema=schema, missing=missing, group=group)
    if group is not None:
        values = np.array(found.groups, object)
        spec = {"stratum": group, **spec, "column": values}
    return partition_data((found.x, found.y), spec, seed=seed, test_fraction=test_fraction)


def _named(spec: Mapping[str, Any]) -> Callable[..., PartitionSource]:
    """Return the function that a spec names, once all its keys are known to be arguments."""
    arguments = {key: value for key, value in spec.items() if key != "name"}
    return named(PARTITIONERS, spec.get("name"), arguments, what="partition")


def _feature(data: Any, column: Any) -> Array:
    """Return one feature of `(X, y)`."""
    features = np.asarray(data[0]) if is_columns(data) else None
    if features is None or features.ndim != 2:
        raise ConfigError("a column's number needs (X, y) with X of shape [n, d]")
    at = whole("column", column, least=0, most=features.shape[1] - 1)
    return np.asarray(features[:, at])


def _key(seed: int, name: str) -> Key:
    """Return the key of a partition."""
    return Key.root(check_seed(seed)).fold("partition", name)
