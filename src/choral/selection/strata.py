"""Clients grouped by a declared label, and seats shared out among the groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from choral.core.checks import real, whole
from choral.core.errors import ConfigError, did_you_mean
from choral.core.keys import Key
from choral.core.selection import Population
from choral.selection.draws import integer, sample, shuffled

Groups = Mapping[str, list[int]]
"""Label to the places of its clients in the population; labels sorted."""


def grouped(population: Population, by: str) -> Groups:
    """Return the clients' places by their label `by`; reads the labels of the whole population.

    Raises:
        ConfigError: Clients without that label; the message names the first of them.
    """
    groups: dict[str, list[int]] = {}
    without = []
    for place, client in enumerate(population.ids):
        label = population.strata(client).get(by)
        if label is None:
            without.append(client)
        else:
            groups.setdefault(label, []).append(place)
    if without:
        named = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if without[5:] else "")
        raise ConfigError(
            f"no label `{by}` at {len(without)} of {len(population.ids)} clients: {named}",
            hint=f"declare it for them (`strata: {{{by}: …}}`)",
        )
    return {label: groups[label] for label in sorted(groups)}


def check_minimums(selector: Any, name: str) -> None:
    """Turn the minimums of a selector into floats and an int, or raise `ConfigError`."""
    share = selector.min_share
    if isinstance(share, Mapping):
        checked = {
            label: real(f"{name}.min_share.{label}", value, least=0, most=1)
            for label, value in share.items()
        }
        if math.fsum(checked.values()) > 1 + 1e-9:
            total = math.fsum(checked.values())
            raise ConfigError(f"{name}.min_share adds up to {total:g}: expected at most 1")
        object.__setattr__(selector, "min_share", checked)
    else:
        value = real(f"{name}.min_share", share, least=0, most=1)
        object.__setattr__(selector, "min_share", value)
    object.__setattr__(selector, "minimum", whole(f"{name}.minimum", selector.minimum, least=0))


def floors(
    groups: Groups, count: int, min_share: float | Mapping[str, float], minimum: int
) -> dict[str, int]:
    """Return the least number of clients of each stratum in a cohort of `count`.

    Raises:
        ConfigError: A stratum that does not exist or has fewer clients than its minimum.
    """
    shares = min_share if isinstance(min_share, Mapping) else dict.fromkeys(groups, min_share)
    for label in shares:
        if label not in groups:
            raise ConfigError(
                f"min_share names the stratum `{label}`, which no client has",
                hint=did_you_mean(str(label), groups),
            )
    found = {}
    for label, places in groups.items():
        # Without the small number, 0.07 of 100 would ask for 8, not 7: it is not exact in binary.
        by_share = math.ceil(shares.get(label, 0) * count - 1e-9)
        found[label] = max(minimum, by_share)
        if found[label] > len(places):
            raise ConfigError(
                f"stratum `{label}` has {len(places)} clients, its minimum in a cohort of {count} "
                f"is {found[label]}",
                hint="lower the minimum or `clients_per_round`",
            )
    return found


def seats_of(groups: Groups, seats: int, least: Mapping[str, int], key: Key) -> dict[str, int]:
    """Return how many of `seats` each stratum gets.

    A stratum whose proportional share is below its minimum gets the minimum; the others divide the
    rest in proportion to their clients. Each gets the whole part of its share; the seats that are
    left go to the fractions, at most one each, with a probability that equals the fraction
    (systematic sampling over the strata in random order). So no stratum is off its share by a seat
    or more, and over the rounds each gets its share exactly. Giving them to the largest fractions
    instead would never choose a small stratum where the cohort is small.

    Raises:
        ConfigError: The minimums add up to more than `seats`.
    """
    if sum(least.values()) > seats:
        raise ConfigError(
            f"the minimums of {len(least)} strata add up to {sum(least.values())} of {seats} "
            "clients",
            hint="lower the minimum, or raise `clients_per_round`",
        )
    sizes = {label: len(places) for label, places in groups.items()}
    given: dict[str, int] = {}
    while True:
        free = [label for label in sizes if label not in given]
        rest = seats - sum(given.values())
        clients = sum(sizes[label] for label in free)
        short = [label for label in free if rest * sizes[label] < least[label] * clients]
        if not short:
            break
        given |= {label: least[label] for label in short}
    offset = integer(key.fold("offset"), clients)
    passed = 0
    for label in shuffled(key.fold("order"), free):
        whole, fraction = divmod(rest * sizes[label], clients)
        before = (passed - 1 - offset) // clients
        passed += fraction
        given[label] = whole + (passed - 1 - offset) // clients - before
    return given


def seated(groups: Groups, seats: int, least: Mapping[str, int], key: Key) -> list[int]:
    """Return the places of `seats` clients: each stratum's number, uniformly from within it."""
    chosen: list[int] = []
    for label, number in sorted(seats_of(groups, seats, least, key.fold("seats")).items()):
        places = groups[label]
        drawn = sample(key.fold("stratum", label), len(places), number)
        chosen += [places[i] for i in drawn]
    return chosen
