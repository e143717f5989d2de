"""What a site checks and counts of the privacy of runs, whatever a coordinator says of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from choral.core.errors import Refused
from choral.core.plan import Plan
from choral.federation.protection import check_promise, release_in
from choral.privacy.entries import Limit, RunTerms
from choral.privacy.ledger import PrivacyLedger
from choral.privacy.vocabulary import Epsilon, PrivacyUnit, Relation
from choral.stores.ledgers import LEDGER, ledger_store


class Spent:
    """The site's own ledger: a log for each run, in its state folder.

    A site knows of an attempt that it took part, and not what became of it, so every attempt
    counts.

    Args:
        folder: The client's state folder.
        limit: Largest epsilon of a run; None counts nothing and checks promises alone.
    """

    def __init__(self, folder: Path, limit: float | None) -> None:
        self._path: Final = folder / LEDGER
        self._limit = limit
        self._promised: dict[tuple[str, str, int], Epsilon] = {}

    def allow(self, plan: Plan, dimension: int) -> None:
        """Check what a plan promises, and count its attempt before any work is done for it.

        Args:
            plan: A plan with `privacy`.
            dimension: Elements of the model's vector, of the model that the client has.

        Raises:
            Refused: The plan's noise does not keep its promise, or is made for more than it.
            BudgetExhausted: The run has asked for more than the site allows.
            TamperedLedger: The site's ledger has been edited.
            MissingExtra: dp-accounting is not installed, so nothing can be checked.
        """
        terms = plan.privacy
        if terms is None:
            return
        name = (plan.run_id, str(terms.as_json()), dimension)
        if name not in self._promised:
            self._promised[name] = check_promise(plan, dimension)
        if self._limit is None:
            return
        store = ledger_store(self._path)
        try:
            ledger = PrivacyLedger(store, hashlib.sha256(plan.run_id.encode()).hexdigest()[:32])
            limit = Limit(
                self._limit, terms.delta, PrivacyUnit(terms.unit), Relation(terms.relation)
            )
            ledger.open(limit)
            release = release_in(plan, dimension)
            ledger.open_run(RunTerms(plan.run_id, (release,), terms.rounds, terms.selection))
            ledger.reserve(plan.run_id, round=plan.round, attempt=plan.attempt)
        except Refused as error:
            error.message = f"the site's ledger: {error.message}"
            raise
        finally:
            store.close()
