"""Values of the core do not change."""

from choral.core.exact import Contribution, Encoding
from choral.core.keys import Key
from choral.core.params import Params, Spec
from choral.core.plan import Plan
from choral.core.release import ReleaseEvent
from choral.core.update import Update


def change(params: Params, update: Update, plan: Plan, event: ReleaseEvent) -> None:
    """Try to change each of them."""
    params["w"] = update.delta  # expect: index
    del params["w"]  # expect: attr-defined
    update.weight = 2.0  # expect: misc
    update.metrics["loss"] = 0.0  # expect: index
    plan.round = 2  # expect: misc
    plan.local.lr = 0.1  # expect: misc
    event.epsilon = 0.0  # expect: misc


def change_more(spec: Spec, encoding: Encoding, sent: Contribution, key: Key) -> None:
    """Try to change the others."""
    spec.tensors = ()  # expect: misc
    encoding.range = 1.0  # expect: misc
    sent.weight = 1  # expect: misc
    sent.metrics["loss"] = 1  # expect: index
    key.state = b""  # expect: misc
