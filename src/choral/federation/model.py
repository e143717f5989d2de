"""The global model between rounds: the coordinator's arithmetic, without storage or time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from choral.core.errors import NotFinite, StoreError
from choral.core.exact import Total
from choral.core.params import Array, Params, Spec, Vector
from choral.core.release import Released
from choral.core.strategy import Aggregate, AnyStrategy
from choral.core.tensors import decode_tensors, encode_tensors
from choral.strategies.state import load, save

_STATE = "strategy."
_BUFFERS = "buffers"
_BASE = "base."
_BLOCK = 1 << 18
"""Elements of a model that are moved at a time."""


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """Everything that a round changes, and what it starts from.

    Attributes:
        spec: Schema of the model.
        base: What no round changes: frozen and personal tensors, and buffers of whole numbers.
        state: The strategy's state; `state.params` are the shared tensors.
        buffers: float32, the aggregated buffers in the order of the spec.
    """

    spec: Spec
    base: Params
    state: Any
    buffers: Vector

    @staticmethod
    def start(strategy: AnyStrategy, spec: Spec, params: Params) -> GlobalModel:
        """Return the model before round 1."""
        vector = spec.flatten(params)
        shared, buffers = vector[: spec.shared_size], vector[spec.shared_size :]
        return GlobalModel(spec, _rest(spec, params), strategy.init(shared), buffers)

    def params(self) -> Params:
        """Return the model's arrays: views of the state, where they are float32."""
        return self.spec.unflatten(self.state.params, self.base, buffers=self.buffers)

    def step(
        self, strategy: AnyStrategy, released: Released[Total], *, round: int
    ) -> Released[GlobalModel]:
        """Return the model after a round.

        Shared tensors move as the strategy says, buffers by their weighted mean. The sum is of no
        use afterwards: the new model may take its memory.

        Raises:
            NotFinite: The strategy's step left NaN or infinity in the model.
        """
        return released.map(lambda total: self._step(strategy, total, round))

    def _step(self, strategy: AnyStrategy, total: Total, round: int) -> GlobalModel:
        cut = self.spec.shared_size
        aggregate = Aggregate(round, total.mean[:cut], total.weight, total.count, total.metrics)
        if getattr(strategy, "elementwise", False):
            state = _step_by_blocks(strategy, self.state, aggregate)
        else:
            state = strategy.step(self.state, aggregate)
        if not all(np.isfinite(block).all() for block in _blocks(state.params)):
            raise NotFinite(
                f"the model holds NaN or infinity after round {round}",
                hint=f"a smaller learning rate for `{strategy.name}` or for the clients",
            )
        return GlobalModel(self.spec, self.base, state, self.buffers + total.mean[cut:])

    def encode(self) -> Iterator[memoryview]:
        """Yield the blocks of a file that `decode` reads back bit for bit."""
        arrays: dict[str, Array] = {_BASE + n: a for n, a in self.base.items()}
        arrays |= {_STATE + n: a for n, a in save(self.state).items()}
        arrays[_BUFFERS] = self.buffers
        return encode_tensors(arrays)

    @staticmethod
    def decode(
        data: bytes | memoryview, strategy: AnyStrategy, spec: Spec, first: Params
    ) -> GlobalModel:
        """Return the model stored in `data`.

        Args:
            data: What `encode` gave.
            strategy: The strategy it was stored under.
            spec: The schema it was stored under.
            first: A model of that schema, for the shapes.

        Raises:
            StoreError: The file holds another model or another strategy's state.
        """
        arrays = decode_tensors(data)
        fresh = GlobalModel.start(strategy, spec, first)
        stored = {n.removeprefix(_STATE): a for n, a in arrays.items() if n.startswith(_STATE)}
        state = load(fresh.state, stored)
        buffers = arrays.get(_BUFFERS)
        if buffers is None or buffers.shape != fresh.buffers.shape:
            raise StoreError("stored state holds another model's buffers")
        base = {n: arrays.get(_BASE + n, a) for n, a in first.items()}
        spec.check(base)
        return GlobalModel(spec, _rest(spec, base), state, buffers)


def _rest(spec: Spec, params: Mapping[str, Array]) -> Params:
    """Return the tensors that are not aggregated."""
    gone = {t.name for t in spec.aggregated}
    return Params({name: array for name, array in params.items() if name not in gone})


def _blocks(vector: Vector) -> Iterator[Vector]:
    return (vector[at : at + _BLOCK] for at in range(0, vector.size, _BLOCK))


def _step_by_blocks(strategy: AnyStrategy, state: Any, aggregate: Aggregate) -> Any:
    """Return the state after a round, block by block; the aggregate's memory becomes the model.

    A strategy that says it is `elementwise` has a state of `params` alone, and what it does to an
    element does not depend on the others.
    """
    for at in range(0, aggregate.delta.size, _BLOCK):
        part = aggregate.delta[at : at + _BLOCK]
        before = replace(state, params=state.params[at : at + _BLOCK])
        part[...] = strategy.step(before, replace(aggregate, delta=part)).params
    return replace(state, params=aggregate.delta)
