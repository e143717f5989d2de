"""Ids, roles and kinds are types of their own, and keys are folded with words and numbers."""

from choral.core.keys import Key
from choral.core.params import ClientId, TensorSpec
from choral.core.plan import Cohort
from choral.core.selection import History
from choral.core.transform import Declared

key = Key.root(1)
Cohort(("a", "b"), goal=2, quorum=1)  # expect: arg-type
History({"a": 1}, {ClientId("a"): 1})  # expect: dict-item
TensorSpec("w", (2,), "float32", "shared")  # expect: arg-type
Declared(needs="sum")  # expect: arg-type
key.fold(1.5)  # expect: arg-type
key.fold("a", None)  # expect: arg-type
Key.root("7")  # expect: arg-type
