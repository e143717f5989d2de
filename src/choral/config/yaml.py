"""YAML as people expect it: `1e-5` is a number, a repeated key is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from choral.core.errors import ConfigError

_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's numbers and without silent repeats."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; two equal keys are an error instead of the last one winning."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key `{key}` is there twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float) else id(key))
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:float"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load(text: str, *, where: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: It is not YAML; the message says where.

    >>> load("delta: 1e-5", where="here")
    {'delta': 1e-05}
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of the safe loader
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    except (ValueError, KeyError, AttributeError) as error:
        # PyYAML lets these out for a scalar that is none, such as `0x_` or the date 2020-13-45.
        raise ConfigError(f"{where} holds a value that cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
