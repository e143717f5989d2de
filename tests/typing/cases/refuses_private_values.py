"""A private value where a released one is asked for, and attempts to look inside."""

import numpy as np

from choral.core.params import Params
from choral.core.release import Private, Released


def store(model: Released[Params]) -> None:
    """Stand for the store and the registry."""


def evaluate(params: Params) -> None:
    """Stand for anything that reads a model."""


private = Private(Params({"w": np.zeros(2, np.float32)}))
store(private)  # expect: arg-type
store(private.map(lambda params: params))  # expect: arg-type
evaluate(private)  # expect: arg-type
evaluate(private.map(lambda params: params))  # expect: arg-type
print(private.value)  # expect: attr-defined
print(private["w"])  # expect: index
print(list(private))  # expect: call-overload
with private as params:  # expect: attr-defined
    pass
