"""Building what a federation file names: one table of names, one set of messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from choral.core.errors import ConfigError, UnknownKey, UnknownName, did_you_mean

T = TypeVar("T")


def build_named(
    table: Mapping[str, Callable[..., T]], name: Any, arguments: Mapping[str, Any], *, what: str
) -> T:
    """Return `table[name](**arguments)`.

    Args:
        table: Name to a class or function.
        name: A key of it.
        arguments: Keyword arguments, as a file gave them.
        what: What messages call an entry, such as `strategy`.

    Raises:
        UnknownName: `name` is not in the table; the hint names the nearest.
        UnknownKey: An argument that the entry does not take.
        ConfigError: An argument is missing; or whatever the entry says of its values.

    >>> build_named({"range": lambda *, size=3: size}, "range", {"size": 4}, what="thing")
    4
    """
    make = table.get(name) if isinstance(name, str) else None
    if make is None:
        raise UnknownName(f"unknown {what} `{name}`", hint=did_you_mean(str(name), table))
    parameters = inspect.signature(make).parameters
    for key in arguments:
        if key not in parameters:
            raise UnknownKey(
                f"{what} `{name}` has no argument `{key}`", hint=did_you_mean(str(key), parameters)
            )
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in arguments]
    if missing:
        raise ConfigError(
            f"{what} `{name}` needs `{missing[0]}`", hint="takes " + ", ".join(parameters)
        )
    return make(**arguments)
