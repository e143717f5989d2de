"""The clients of a run as it sees them: by what they say of themselves, never by their data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from choral.core.errors import DataError
from choral.core.params import ClientId
from choral.core.selection import Strata
from choral.core.task import ClientData
from choral.data.split import held_out_size
from choral.wire.joining import Join, examples_in


@dataclass(frozen=True, slots=True)
class Everybody:
    """Clients of a run, those that have gone as well.

    Attributes:
        population: Knows their labels.
        ids: In alphabetical order.
    """

    population: Population
    ids: tuple[ClientId, ...]

    def strata(self, client: ClientId) -> Strata:
        """Return a client's labels."""
        return self.population.strata(client)


class Population:
    """A `ClientSource` whose clients come and go, and keep their data.

    Args:
        labels: Strata that the operator declares, by client; they win over a client's own.
    """

    def __init__(self, labels: Mapping[str, Strata] | None = None) -> None:
        self._labels = labels or {}
        self._known: dict[ClientId, Join] = {}
        self._ids: tuple[ClientId, ...] = ()

    def update(self, offers: Iterable[Join]) -> None:
        """Take these clients for those that could be asked now."""
        found = {join.client: join for join in offers}
        self._known |= found
        self._ids = tuple(sorted(found))

    @property
    def ids(self) -> Sequence[ClientId]:
        """Ids of those that could be asked now, in alphabetical order."""
        return self._ids

    def everybody(self, took_part: Iterable[ClientId] = ()) -> Everybody:
        """Return all clients so far: those that could be asked, and those on the operator's list.

        Args:
            took_part: Clients of earlier rounds, which this process may not have met.
        """
        ids = {*self._known, *map(ClientId, self._labels), *took_part}
        return Everybody(self, tuple(sorted(ids)))

    def load(self, client: ClientId) -> ClientData:
        """Refuse: nobody's data is here."""
        raise DataError(f"the data of `{client}` stays where it is")

    def strata(self, client: ClientId) -> Strata:
        """Return a client's labels."""
        join = self._known.get(client)
        own: Strata = {} if join is None else join.strata
        return {**own, **self._labels.get(client, {})}

    def examples(self, client: ClientId) -> int | None:
        """Return the most training examples that a client can have by its own account."""
        join = self._known.get(client)
        return examples_in(join.examples_bucket) if join is not None else None

    def training_records(self, client: ClientId, test_fraction: float) -> tuple[int, int]:
        """Return the fewest and the most records that a client can train on, by its own account.

        Args:
            client: One that has told its number of examples.
            test_fraction: Part that it holds out, unless its data says what is held out.
        """
        join = self._known.get(client)
        if join is None or not join.examples_bucket:
            raise DataError(f"client `{client}` has not told how many records it has")
        most = examples_in(join.examples_bucket)
        fewest = most // 2 + 1
        return max(1, fewest - held_out_size(fewest, test_fraction)), most
