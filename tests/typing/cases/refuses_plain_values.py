"""A value without a record where a released one is asked for."""

import numpy as np

from choral.core.params import Params
from choral.core.release import OpenLedger, Private, Released


def store(model: Released[Params]) -> None:
    """Stand for the store and the registry."""


params = Params({"w": np.zeros(2, np.float32)})
ledger = OpenLedger(print)
store(params)  # expect: arg-type
ledger.release(params, what="model", round=1, attempt=1)  # expect: arg-type
store(ledger.release(Private(1), what="model", round=1, attempt=1))  # expect: arg-type
ledger.release(Private(params))  # expect: call-arg
ledger.release(Private(params), what="model", round=1)  # expect: call-arg
