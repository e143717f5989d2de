"""What takes a value out of a run, and is given one that the ledger has not released."""

from typing import Any

from choral.coordinator.world import World
from choral.core.exact import Total
from choral.core.params import Params
from choral.core.release import Private
from choral.federation.conductor import Attempt, Conductor
from choral.federation.journal import Journal
from choral.federation.model import GlobalModel
from choral.stores.folder import RunFolder


def keep(journal: Journal, model: GlobalModel, private: Private[GlobalModel]) -> None:
    """The store of a run's states."""
    journal.put_state(model)  # expect: arg-type
    journal.put_state(private)  # expect: arg-type


def leave(folder: RunFolder, params: Params, private: Private[Params]) -> None:
    """The folder that a completed run leaves, which the registry reads."""
    folder.complete({}, params, {})  # expect: arg-type
    folder.complete({}, private, {})  # expect: arg-type


def download(world: World, conductor: Conductor, private: Private[Params]) -> None:
    """What clients can download."""
    world.publish(conductor.params)  # expect: arg-type
    world.publish(private)  # expect: arg-type


def step(model: GlobalModel, strategy: Any, private: Private[Total], attempt: Attempt) -> None:
    """What moves the global model, and the sum of an attempt that has not been released."""
    model.step(strategy, private, round=1)  # expect: arg-type
    attempt.released = private  # expect: assignment
    attempt.released = attempt.total  # expect: assignment
    attempt.total = private.map(lambda total: total.mean)  # expect: arg-type, return-value
