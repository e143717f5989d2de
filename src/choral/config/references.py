"""`module:attribute` references, resolved with the file's folder first on the Python path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from choral.core.errors import ChoralError, MissingExtra, TaskNotFound, did_you_mean


def is_reference(text: str) -> bool:
    """Return whether a setting names something in a Python module.

    >>> is_reference("heart_data:hospitals"), is_reference("data/")
    (True, False)
    """
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(p.isidentifier() for p in (*module.split("."), attribute))


def resolve(reference: str, folder: Path, *, what: str) -> Any:
    """Return the object that `module:attribute` names.

    Args:
        reference: Such as `heart_task:task`.
        folder: The federation file's folder; it comes first on the Python path.
        what: What messages call it, such as `task`.

    Raises:
        TaskNotFound: The module or the attribute is not there; the message says where it looked.
        MissingExtra: The module is there, and needs a package that is not installed.
    """
    if not is_reference(reference):
        raise TaskNotFound(
            f"{what} `{reference}` is not a reference", hint="expected `module:attribute`"
        )
    module_name, _, attribute = reference.partition(":")
    home = str(folder.resolve())
    if home not in sys.path:
        sys.path.insert(0, home)
    module = _import(module_name, home, what=what, reference=reference)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise TaskNotFound(
            f"{what} `{reference}`: {module.__file__} has no `{attribute}`",
            hint=did_you_mean(attribute, [n for n in vars(module) if not n.startswith("_")]),
        ) from None


def _import(name: str, home: str, *, what: str, reference: str) -> Any:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.partition(".")[0] == error.name.partition(".")[0]:
            near = [p.stem for p in Path(home).glob("*.py")]
            raise TaskNotFound(
                f"{what} `{reference}`: no module `{name}`; looked in {home}, then on the Python "
                "path",
                hint=did_you_mean(name, near),
            ) from None
        raise MissingExtra(
            f"{what} `{reference}` imports `{error.name}`, which is not installed",
            hint="install it, such as by `pip install 'choral[torch]'`",
        ) from None
    except ChoralError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskNotFound(
            f"{what} `{reference}`: importing `{name}` raised {type(error).__name__}: {error}",
            hint=f"try `python -c 'import {name}'` in {home}",
        ) from error
