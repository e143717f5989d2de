"""Clients by id, loaded when they are asked for.

Every source here is a `ClientSource`: its ids are in an order that does not depend on how it was
built, and each client's split into a training and a test part hangs on the seed and its id alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from choral.core.errors import ConfigError, DataError, did_you_mean
from choral.core.params import Array, ClientId
from choral.core.selection import Strata
from choral.core.task import ClientData, ClientSource, is_columns
from choral.data.examples import Missing, read_examples
from choral.data.ids import NumberedIds, client_id, id_for
from choral.data.partition import Partition
from choral.data.schema import Schema
from choral.data.split import check_fraction, check_seed, count, split, take
from choral.data.tables import CSV_SUFFIXES, PARQUET_SUFFIXES

TEST_FRACTION: Final = 0.2
"""A client's own test part, where nothing else is said."""

NO_STRATA: Final[Strata] = {}


def as_source(clients: Any, *, test_fraction: float = TEST_FRACTION, seed: int = 0) -> ClientSource:
    """Return what a user gave as clients as a source.

    Args:
        clients: A mapping of client id to data, a sequence with one client's data per item, or a
            source, which is returned as it is and keeps its own split.
        test_fraction: Share of each client's examples to hold out, in [0, 1).
        seed: Seed of the splits.

    Raises:
        ConfigError: It is none of these, it has no clients, or it is one dataset.
    """
    if all(hasattr(clients, name) for name in ("ids", "load", "strata", "examples")):
        return cast(ClientSource, clients)
    if hasattr(clients, "shape") or (isinstance(clients, tuple) and is_columns(clients)):
        raise ConfigError(
            "clients are one dataset, expected one per client",
            hint="deal it out: choral.data.iid((X, y), clients=10)",
        )
    if isinstance(clients, Mapping):
        return MappingSource(clients, test_fraction=test_fraction, seed=seed)
    lengthy = hasattr(clients, "__len__") and hasattr(clients, "__getitem__")
    if lengthy and not isinstance(clients, str | bytes):
        return SequenceSource(clients, test_fraction=test_fraction, seed=seed)
    raise ConfigError(
        f"clients of type {type(clients).__name__}",
        hint="expected a mapping of client id to data, a sequence, or a source",
    )


class MappingSource:
    """Clients from a mapping.

    Args:
        clients: Id (or an integer from 0) to data: columns such as `(X, y)`, a dataset, or a
            `ClientData`, which is split already.
        test_fraction: Share of each client's examples to hold out, in [0, 1).
        seed: Seed of the splits.

    Raises:
        ConfigError: A bad id, two keys with one id, or no clients.

    >>> import numpy as np
    >>> source = MappingSource({"b": (np.eye(4), np.arange(4)), "a": (np.eye(2), np.arange(2))})
    >>> source.ids, len(source.load(source.ids[1]).train[1]), source.examples(source.ids[1])
    (('a', 'b'), 3, 4)
    """

    def __init__(
        self,
        clients: Mapping[Any, Any],
        *,
        test_fraction: float = TEST_FRACTION,
        seed: int = 0,
    ) -> None:
        self._fraction = check_fraction(test_fraction)
        self._seed = check_seed(seed)
        self._clients = clients
        self._keys: dict[ClientId, Any] = {}
        for key in clients:
            client = client_id(key)
            if client in self._keys:
                raise ConfigError(f"client id `{client}` is used twice")
            self._keys[client] = key
        _some(len(self._keys))
        self._ids = tuple(sorted(self._keys))

    @property
    def ids(self) -> Sequence[ClientId]:
        """Ids, sorted."""
        return self._ids

    def load(self, client: ClientId) -> ClientData:
        """Return the client's data."""
        return split(
            self._clients[self._key(client)],
            client,
            test_fraction=self._fraction,
            seed=self._seed,
        )

    def strata(self, client: ClientId) -> Strata:
        """Return the labels of a `ClientData`; other data has none."""
        data = self._held(client)
        return data.strata if isinstance(data, ClientData) else NO_STRATA

    def examples(self, client: ClientId) -> int | None:
        """Return its number of examples; None for a mapping that loads by itself."""
        data = self._held(client)
        return None if data is None else examples_of(data, client)

    def _key(self, client: ClientId) -> Any:
        if client not in self._keys:
            raise _unknown(client)
        return self._keys[client]

    def _held(self, client: ClientId) -> Any:
        """Return data that is in memory anyway, else None."""
        key = self._key(client)
        return self._clients[key] if isinstance(self._clients, dict) else None


class SequenceSource:
    """Clients from a sequence, which may make each one when it is asked for.

    Args:
        clients: `clients[i]` is the data of client i: columns, a dataset or a `ClientData`.
        test_fraction: Share of each client's examples to hold out, in [0, 1).
        seed: Seed of the splits.
        strata: Labels by id; clients that are not in it have none.

    Raises:
        ConfigError: No clients.
    """

    def __init__(
        self,
        clients: Sequence[Any],
        *,
        test_fraction: float = TEST_FRACTION,
        seed: int = 0,
        strata: Mapping[str, Strata] | None = None,
    ) -> None:
        self._fraction = check_fraction(test_fraction)
        self._seed = check_seed(seed)
        self._clients = clients
        self._strata = strata or {}
        self._ids = NumberedIds(_some(len(clients)))

    @property
    def ids(self) -> Sequence[ClientId]:
        """Ids "0" to "N - 1", padded with zeros; they take no memory."""
        return self._ids

    def load(self, client: ClientId) -> ClientData:
        """Return the client's data."""
        return split(
            self._clients[_index(self._ids, client)],
            client,
            test_fraction=self._fraction,
            seed=self._seed,
            strata=self.strata(client),
        )

    def strata(self, client: ClientId) -> Strata:
        """Return the client's labels."""
        return self._strata.get(client, NO_STRATA)

    def examples(self, client: ClientId) -> int | None:
        """Return its number of examples for a list or tuple, else None."""
        at = _index(self._ids, client)
        if not isinstance(self._clients, list | tuple):
            return None
        return examples_of(self._clients[at], client)


class FolderSource:
    """A folder with one CSV or Parquet file per client; the id is the file's stem.

    Args:
        path: The folder. Other files and hidden files in it are left alone.
        target: Column to predict; the last one, or the schema's, by default.
        schema: What the columns are.
        missing: What a missing value does: `raise`, or `drop` the row.
        test_fraction: Share of each client's examples to hold out, in [0, 1).
        seed: Seed of the splits.
        strata: Labels by id; clients that are not in it have none.
        leave_out: A file in the folder that is no client's, such as the held-out set.
        cache_bytes: Arrays to keep, so that a client read a moment ago is not read again.

    Raises:
        DataError: No such folder, or no data files in it.
        ConfigError: A stem that is no client id, or two files with one stem.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        target: str | None = None,
        schema: Schema | None = None,
        missing: Missing = "raise",
        test_fraction: float = TEST_FRACTION,
        seed: int = 0,
        strata: Mapping[str, Strata] | None = None,
        leave_out: str | Path | None = None,
        cache_bytes: int = 256 << 20,
    ) -> None:
        self._fraction = check_fraction(test_fraction)
        self._seed = check_seed(seed)
        self._reading = (target, schema, missing)
        self._strata = strata or {}
        self._files = _data_files(Path(path), None if leave_out is None else Path(leave_out))
        self._ids = tuple(sorted(self._files))
        self._cache = _Cache(cache_bytes)
        for client in self._strata:
            if client not in self._files:
                hint = did_you_mean(client, self._ids)
                raise ConfigError(f"strata of `{client}`, which has no file in {path}", hint=hint)

    @property
    def ids(self) -> Sequence[ClientId]:
        """Ids, sorted."""
        return self._ids

    def load(self, client: ClientId) -> ClientData:
        """Return the client's data, read from its file."""
        if client not in self._files:
            raise _unknown(client)
        found = self._cache.get(client)
        if found is None:
            target, schema, missing = self._reading
            found = read_examples(
                self._files[client], target=target, schema=schema, missing=missing
            )
            self._cache.put(client, found)
        return split(
            found,
            client,
            test_fraction=self._fraction,
            seed=self._seed,
            strata=self.strata(client),
        )

    def strata(self, client: ClientId) -> Strata:
        """Return the client's labels."""
        return self._strata.get(client, NO_STRATA)

    def examples(self, client: ClientId) -> int | None:
        """Return its number of examples; its file is read, and kept for `load`."""
        data = self.load(client)
        test = 0 if data.test is None else count(data.test, f"client `{client}`")
        return count(data.train, f"client `{client}`") + test


@dataclass(frozen=True, slots=True, eq=False)
class PartitionSource:
    """One dataset, dealt out to clients by index.

    A client is a slice of an index array until it is loaded: 100 000 clients are two arrays.

    Attributes:
        data: Columns such as `(X, y)`, arrays or tensors; or a dataset with a length and items.
        partition: Who holds which examples.
        test_fraction: Share of each client's examples to hold out, in [0, 1).
        seed: Seed of the splits.
        group: What the names of the partition are values of: each client then has the stratum
            `{group: name}`. Empty for none.
        ids: Ids in the order of the partition: numbers padded with zeros, or its names.
    """

    data: Any
    partition: Partition
    test_fraction: float = TEST_FRACTION
    seed: int = 0
    group: str = ""
    ids: Sequence[ClientId] = field(init=False, repr=False)
    _places: dict[ClientId, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "test_fraction", check_fraction(self.test_fraction))
        object.__setattr__(self, "seed", check_seed(self.seed))
        clients = _some(len(self.partition))
        size = count(self.data, "the dataset")
        if size != len(self.partition.indices):
            raise ConfigError(
                f"partition of {len(self.partition.indices)} examples for a dataset of {size}"
            )
        names = self.partition.names
        ids: Sequence[ClientId] = NumberedIds(clients) if names is None else _named(names)
        object.__setattr__(self, "ids", ids)
        places = {} if names is None else {name: at for at, name in enumerate(ids)}
        object.__setattr__(self, "_places", places)

    def load(self, client: ClientId) -> ClientData:
        """Return the client's examples."""
        return split(
            take(self.data, self.partition.part(self._place(client))),
            client,
            test_fraction=self.test_fraction,
            seed=self.seed,
            strata=self.strata(client),
        )

    def strata(self, client: ClientId) -> Strata:
        """Return the value that the client was made from, where the partition has names."""
        names = self.partition.names
        if names is None or not self.group:
            return NO_STRATA
        return {self.group: names[self._place(client)]}

    def examples(self, client: ClientId) -> int | None:
        """Return its number of examples."""
        at = self._place(client)
        return int(self.partition.offsets[at + 1] - self.partition.offsets[at])

    def _place(self, client: ClientId) -> int:
        if not self._places:
            return _index(self.ids, client)
        if client not in self._places:
            raise _unknown(client)
        return self._places[client]


class _Cache:
    """The arrays that were used last, up to a number of bytes."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._parts: OrderedDict[ClientId, tuple[Array, Array]] = OrderedDict()

    def get(self, client: ClientId) -> tuple[Array, Array] | None:
        found = self._parts.get(client)
        if found is not None:
            self._parts.move_to_end(client)
        return found

    def put(self, client: ClientId, found: tuple[Array, Array]) -> None:
        self._parts[client] = found
        self._size += sum(a.nbytes for a in found)
        while self._size > self._limit:
            _, old = self._parts.popitem(last=False)
            self._size -= sum(a.nbytes for a in old)


def _some(clients: int) -> int:
    """Return the number of clients, or raise where there is none."""
    if not clients:
        raise ConfigError("no clients, expected at least one")
    return clients


def _unknown(client: str) -> ConfigError:
    """Return the error for an id that a source does not have."""
    return ConfigError(f"no client `{client}` in this source")


def _index(ids: Sequence[ClientId], client: ClientId) -> int:
    """Return the position of an id."""
    try:
        return ids.index(client)
    except ValueError:
        raise _unknown(client) from None


def examples_of(data: Any, client: ClientId) -> int:
    """Return the most examples that a client can train on.

    Those of unsplit data, whatever part will be held out; of a `ClientData`, its training part.
    """
    return count(data.train if isinstance(data, ClientData) else data, f"client `{client}`")


def _named(names: Sequence[str]) -> tuple[ClientId, ...]:
    """Return the ids that stand for the names of a partition."""
    ids: dict[ClientId, str] = {}
    for name in names:
        one = id_for(name)
        if one in ids:
            raise ConfigError(f"values {ids[one]!r} and {name!r} both make client `{one}`")
        ids[one] = name
    return tuple(ids)


def _data_files(folder: Path, leave_out: Path | None) -> dict[ClientId, Path]:
    """Return the data files of a folder by the client's id."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint=f"looked in {folder.absolute().parent}")
    suffixes = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)
    files: dict[ClientId, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if leave_out is not None and leave_out.exists() and path.samefile(leave_out):
            continue
        client = client_id(path.stem)
        if client in files:
            raise ConfigError(f"{files[client].name} and {path.name} are both client `{client}`")
        files[client] = path
    if not files:
        raise DataError(
            f"{folder}: no data files", hint="one file per client: " + ", ".join(suffixes)
        )
    return files
