"""The global model between rounds: the coordinator's arithmetic, without storage or time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """Everything that a round changes, and what it starts from.

    Attributes:
        spec: Schema of the model.
        base: The first model; frozen and personal tensors keep these values.
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
        return GlobalModel(spec, params, strategy.init(shared), buffers)

    def params(self) -> Params:
        """Return the model's arrays."""
        return self.spec.unflatten(np.concatenate([self.state.params, self.buffers]), self.base)

    def step(
        self, strategy: AnyStrategy, released: Released[Total], *, round: int
    ) -> Released[GlobalModel]:
        """Return the model after a round.

        Shared tensors move as the strategy says, buffers by their weighted mean.

        Raises:
            NotFinite: The strategy's step left NaN or infinity in the model.
        """
        return released.map(lambda total: self._step(strategy, total, round))

    def _step(self, strategy: AnyStrategy, total: Total, round: int) -> GlobalModel:
        cut = self.spec.shared_size
        aggregate = Aggregate(round, total.mean[:cut], total.weight, total.count, total.metrics)
        state = strategy.step(self.state, aggregate)
        if not np.isfinite(state.params).all():
            raise NotFinite(
                f"the model holds NaN or infinity after round {round}",
                hint=f"a smaller learning rate for `{strategy.name}` or for the clients",
            )
        return GlobalModel(self.spec, self.base, state, self.buffers + total.mean[cut:])

    def encode(self) -> Iterator[memoryview]:
        """Yield the blocks of a file that `decode` reads back bit for bit."""
        arrays: dict[str, Array] = {_BASE + n: a for n, a in self._base().items()}
        arrays |= {_STATE + n: a for n, a in save(self.state).items()}
        arrays[_BUFFERS] = self.buffers
        return encode_tensors(arrays)

    def _base(self) -> Mapping[str, Array]:
        kept = {t.name for t in self.spec.tensors} - {t.name for t in self.spec.aggregated}
        return {name: self.base[name] for name in self.base if name in kept}

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
        restored = Params(base)
        spec.check(restored)
        return GlobalModel(spec, restored, state, buffers)
