"""Ways to deal one dataset out to clients. Pure: labels and a key in, indices out.

Every function here gives each example to exactly one client and leaves no client empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.checks import real, whole
from choral.core.errors import ConfigError
from choral.core.keys import Key

Indices: TypeAlias = npt.NDArray[np.int64]
Labels: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Which examples each client holds: one array for all of them, so that clients cost nothing.

    Attributes:
        indices: int64, shape `[n]`: the examples of client 0, then of client 1, …, each ascending.
        offsets: int64, shape `[clients + 1]`: where each client's part starts.
        names: One name per client, or None where they are numbered.
    """

    indices: Indices
    offsets: Indices
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, client: int) -> Indices:
        """Return the examples of one client, a view."""
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> Indices:
        """Examples per client, shape `[clients]`."""
        return np.diff(self.offsets)


def iid(size: int, *, clients: int, key: Key) -> Partition:
    """Deal examples out at random, the same number to everyone (up to one).

    Args:
        size: Number of examples.
        clients: 1 to `size`.
        key: Where the order comes from.

    Raises:
        ConfigError: More clients than examples, or none.
    """
    clients = _clients(clients, size)
    owner = np.repeat(np.arange(clients), even_sizes(size, clients))
    return _owned(_order(size, key), owner, clients)


def shards(labels: Labels, *, clients: int, per_client: int = 2, key: Key) -> Partition:
    """Sort by label, cut into shards of one size (up to one), deal out `per_client` to everyone.

    McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized
    data", section 3: 200 shards of 300 examples, two for each of 100 clients. Examples of one label
    are in random order before the cut.

    Args:
        labels: Shape `[n]`.
        clients: At least 1.
        per_client: Shards for each client, at least 1.
        key: Where the order and the dealing come from.

    Raises:
        ConfigError: More shards than examples, or an argument out of range.
    """
    clients = _clients(clients, len(labels))
    per_client = whole("per_client", per_client, least=1)
    total = clients * per_client
    if total > len(labels):
        raise ConfigError(f"{total} shards of {len(labels)} examples, expected at most one each")
    by_label = _sorted_by_label(_codes(labels)[0], key.fold("order"))
    dealt = _order(total, key.fold("deal"))
    client_of_shard = np.empty(total, np.int64)
    client_of_shard[dealt] = np.arange(total) // per_client
    return _owned(by_label, np.repeat(client_of_shard, even_sizes(len(labels), total)), clients)


def dirichlet(
    labels: Labels, *, clients: int, alpha: float, min_examples: int = 1, key: Key
) -> Partition:
    """Give everyone the same number of examples (up to one) and a mix of labels of their own.

    Hsu, Qi and Brown 2019, "Measuring the effects of non-identical data distribution for federated
    visual classification": client k draws its mix q from Dir(alpha * K * p), where p is the mix of
    the whole dataset and K the number of labels, then its labels from q, without replacement; once
    a label is used up, q is renormalised over the others. Since part of a Dirichlet vector,
    renormalised, is a Dirichlet vector too, clients after that draw q over the labels that are
    left. Clients draw in a random order. Since nothing is left over, the last few take what the
    others left, whatever their q.

    Args:
        labels: Shape `[n]`.
        clients: At least 1.
        alpha: Above 0. Small: one label for each client; large: everyone has the mix p. It is the
            parameter of one label where all are equally frequent, as most libraries have it; the
            paper's own alpha is the sum of the parameters, K times this one.
        min_examples: Examples that every client must get, at least 1.
        key: Where the draws come from.

    Raises:
        ConfigError: `clients * min_examples` is above `n`, or an argument is out of range.
    """
    clients = _clients(clients, len(labels))
    _minimum(min_examples, clients, len(labels))
    alpha = real("alpha", alpha, above=0)
    codes, kinds = _codes(labels)
    left = np.bincount(codes, minlength=len(kinds))
    weights = np.maximum(alpha * len(kinds) * left / len(labels), 1e-12)
    place = np.cumsum(left) - left
    owner = np.empty(len(labels), np.int64)
    sizes = even_sizes(len(labels), clients)
    block = max(1, min(4096, (1 << 18) // len(kinds)))
    rng = key.fold("mixes").rng()
    first = 0
    while first < clients:
        counts = _draw_mixes(weights, left, sizes[first : first + block], rng)
        some = np.arange(first, first + len(counts))
        used = counts.sum(axis=0)
        at = np.arange(used.sum()) + np.repeat(place - (np.cumsum(used) - used), used)
        owner[at] = np.repeat(np.tile(some, len(kinds)), counts.T.reshape(-1))
        place, left, first = place + used, left - used, first + len(counts)
    turn = _order(clients, key.fold("turns"))
    return _owned(_sorted_by_label(codes, key.fold("order")), turn[owner], clients)


def labels_per_client(labels: Labels, *, clients: int, count: int, key: Key) -> Partition:
    """Give each client examples of exactly `count` labels; each label is shared out evenly.

    Each client draws its labels among those with the fewest holders so far, so that the numbers of
    holders of two labels differ by one at most.

    Args:
        labels: Shape `[n]`.
        clients: At least 1; `clients * count` is at least the number of labels.
        count: Labels of each client, 1 to the number of labels.
        key: Where the draws come from.

    Raises:
        ConfigError: A label would stay without a client, or has fewer examples than holders.
    """
    clients = _clients(clients, len(labels))
    count = whole("count", count, least=1)
    codes, kinds = _codes(labels)
    if count > len(kinds):
        raise ConfigError(f"count {count}, and the dataset has {len(kinds)} labels")
    if clients * count < len(kinds):
        raise ConfigError(
            f"{clients} clients with {count} of {len(kinds)} labels each leave labels out",
            hint="more clients, or a higher `count`",
        )
    held = _draw_labels(len(kinds), clients, count, key.fold("labels"))
    label_of_pair = held.reshape(-1)
    by_label = np.argsort(label_of_pair, kind="stable")
    holders = np.bincount(label_of_pair, minlength=len(kinds))
    available = np.bincount(codes, minlength=len(kinds))
    if (holders > available).any():
        scarce = int(np.argmax(holders > available))
        raise ConfigError(
            f"label {kinds[scarce]} has {available[scarce]} examples for {holders[scarce]} clients",
            hint="fewer clients, or a lower `count`",
        )
    rank = np.arange(len(by_label)) - np.repeat(np.cumsum(holders) - holders, holders)
    share = np.repeat(available // holders, holders)
    share += rank < np.repeat(available % holders, holders)
    owner = np.repeat(by_label // count, share)
    return _owned(_sorted_by_label(codes, key.fold("order")), owner, clients)


def by_column(values: Labels) -> Partition:
    """Make one client of the examples with each distinct value: a natural partition.

    Args:
        values: Shape `[n]`, such as each example's hospital.

    Returns:
        Clients in ascending order of their value, named after it.

    Raises:
        ConfigError: There are no values.
    """
    if not len(values):
        raise ConfigError("no examples to partition")
    kinds, codes = np.unique(values, return_inverse=True)
    names = tuple(_name(k) for k in kinds.tolist())
    return _owned(np.arange(len(values)), codes.reshape(-1), len(kinds), names)


def by_quantity(
    size: int,
    *,
    clients: int,
    exponent: float | None = None,
    alpha: float | None = None,
    min_examples: int = 1,
    key: Key,
) -> Partition:
    """Deal examples out at random, in different numbers.

    Args:
        size: Number of examples.
        clients: At least 1.
        exponent: Power law: the client of rank r (in a random order) gets a share proportional to
            r^-exponent, at least 0; 1 where neither it nor `alpha` is given.
        alpha: Shares drawn from a symmetric Dirichlet distribution instead, above 0; the smaller,
            the less equal.
        min_examples: Examples that every client has before the rest is shared out, at least 1.
        key: Where the draws come from.

    Raises:
        ConfigError: `clients * min_examples` is above `size`, or an argument is out of range.
    """
    clients = _clients(clients, size)
    min_examples = _minimum(min_examples, clients, size)
    if exponent is not None and alpha is not None:
        raise ConfigError("by_quantity takes `exponent` or `alpha`, not both")
    if alpha is not None:
        alpha = real("alpha", alpha, above=0)
        share = key.fold("sizes").rng().dirichlet(np.full(clients, alpha))
    else:
        power = 1.0 if exponent is None else real("exponent", exponent, least=0)
        share = np.arange(1, clients + 1, dtype=np.float64) ** -power
        share = share[_order(clients, key.fold("sizes"))]
    sizes = min_examples + _apportion(size - clients * min_examples, share / share.sum())
    owner = np.repeat(np.arange(clients), sizes)
    return _owned(_order(size, key.fold("order")), owner, clients)


def even_sizes(size: int, parts: int) -> Indices:
    """Return `parts` sizes that differ by one at most.

    >>> even_sizes(7, 3).tolist()
    [3, 2, 2]
    """
    return size // parts + (np.arange(parts) < size % parts).astype(np.int64)


def _owned(
    order: Indices, owner: Indices, clients: int, names: tuple[str, ...] | None = None
) -> Partition:
    """Return the partition in which `owner[i]` holds example `order[i]`."""
    size = len(order)
    merged = owner.astype(np.int64) * size + order
    merged.sort()
    offsets = np.zeros(clients + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=clients), out=offsets[1:])
    return Partition(merged % size, offsets, names)


def _order(size: int, key: Key) -> Indices:
    """Return a random order of `size` items, from raw bits that no NumPy version changes."""
    return np.argsort(key.bits().random_raw(size), kind="stable").astype(np.int64)


def _codes(labels: Labels) -> tuple[Indices, Labels]:
    """Return labels as numbers from 0, and the distinct labels."""
    labels = np.asarray(labels)
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.floor(labels)):
        raise ConfigError(
            "the target is a real number, and this partition needs labels",
            hint="use `iid` or `by_quantity`",
        )
    kinds, codes = np.unique(labels, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), kinds


def _sorted_by_label(codes: Indices, key: Key) -> Indices:
    """Return examples in the order of their labels, those of one label in random order."""
    order = _order(len(codes), key)
    return order[np.argsort(codes[order], kind="stable")]


def _draw_mixes(
    weights: npt.NDArray[np.float64], left: Indices, sizes: Indices, rng: np.random.Generator
) -> Indices:
    """Return how many examples of each label the next clients take, shape `[some, labels]`.

    It stops after the first client that uses a label up, for the others must draw without it.
    """
    live = np.flatnonzero(left)
    mixes = rng.dirichlet(weights[live], size=len(sizes))
    counts = np.zeros((len(sizes), len(left)), np.int64)
    counts[:, live] = rng.multinomial(sizes, mixes)
    over = (np.cumsum(counts, axis=0) > left).any(axis=1)
    if not over.any():
        return counts
    at = int(np.argmax(over))
    mix = np.zeros(len(left))
    mix[live] = mixes[at]
    room = left - counts[:at].sum(axis=0)
    counts[at] = _fit(counts[at], mix, room, rng)
    return counts[: at + 1]


def _fit(
    wanted: Indices, mix: npt.NDArray[np.float64], room: Indices, rng: np.random.Generator
) -> Indices:
    """Return a client's counts within `room`; what does not fit is drawn again from the rest."""
    counts = np.minimum(wanted, room)
    missing = int(wanted.sum() - counts.sum())
    while missing:
        free = room - counts
        chance = mix * (free > 0)
        if chance.sum() < 1e-9:
            chance = free.astype(np.float64)
        more = np.minimum(rng.multinomial(missing, chance / chance.sum()), free)
        counts += more
        missing -= int(more.sum())
    return counts


def _draw_labels(kinds: int, clients: int, count: int, key: Key) -> Indices:
    """Return the labels of each client, shape `[clients, count]`."""
    holders = np.zeros(kinds)
    held = np.empty((clients, count), np.int64)
    bits = key.bits()
    for client in range(clients):
        tie_break = (bits.random_raw(kinds) >> np.uint64(11)) * 2.0**-53
        held[client] = np.argsort(holders + tie_break)[:count]
        holders[held[client]] += 1
    return held


def _apportion(total: int, share: npt.NDArray[np.float64]) -> Indices:
    """Return integers with sum `total` next to `total * share`, largest remainders first."""
    exact = share * total
    sizes = np.floor(exact).astype(np.int64)
    left = total - int(sizes.sum())
    first = np.argsort(sizes - exact, kind="stable")[:left]
    sizes[first] += 1
    return sizes


def _name(value: Any) -> str:
    """Return a client's name for a value; a whole number has no point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _clients(value: Any, size: int) -> int:
    """Return the number of clients; raise unless it is 1 to the number of examples."""
    clients = whole("clients", value, least=1)
    if clients > size:
        raise ConfigError(f"{clients} clients and {size} examples, expected one each at least")
    return clients


def _minimum(value: Any, clients: int, size: int) -> int:
    """Return the least number of examples of a client; raise unless everyone can have it."""
    minimum = whole("min_examples", value, least=1)
    if clients * minimum > size:
        raise ConfigError(
            f"min_examples {minimum} for {clients} clients, and there are {size} examples"
        )
    return minimum
