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
    """Return `table[name](**arguments)`; see `named` for what is checked first.

    >>> build_named({"range": lambda *, size=3: size}, "range", {"size": 4}, what="thing")
    4
    """
    return named(table, name, arguments, what=what)(**arguments)


def named(
    table: Mapping[str, Callable[..., T]], name: Any, arguments: Mapping[str, Any], *, what: str
) -> Callable[..., T]:
    """Return `table[name]`, once it is clear that it takes these keyword arguments.

    Args:
        table: Name to a class or function. A function whose first parameter is `data` is given
            that by its caller, and only its keyword-only parameters are a file's to set.
        name: A key of it.
        arguments: Keyword arguments, as a file gave them.
        what: What messages call an entry, such as `strategy`.

    Raises:
        UnknownName: `name` is not in the table; the hint names the nearest.
        UnknownKey: An argument that the entry does not take.
        ConfigError: The name or an argument is missing.
    """
    if name is None:
        raise ConfigError(f"{what} without a `name`", hint="known: " + ", ".join(sorted(table)))
    make = table.get(name) if isinstance(name, str) else None
    if make is None:
        raise UnknownName(f"unknown {what} `{name}`", hint=did_you_mean(str(name), table))
    every = inspect.signature(make).parameters
    keywords = {k: p for k, p in every.items() if p.kind is p.KEYWORD_ONLY}
    parameters = keywords if _takes_data(every) else every
    for key in arguments:
        if key not in parameters:
            raise UnknownKey(
                f"{what} `{name}` has no argument `{key}`", hint=did_you_mean(str(key), parameters)
            )
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in arguments]
    if missing:
        names = ", ".join(f"`{key}`" for key in missing)
        raise ConfigError(f"{what} `{name}` needs {names}", hint="takes " + ", ".join(parameters))
    return make


def _takes_data(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return next(iter(parameters), "") == "data"
