"""A federation that somebody submits: what a file on the coordinator's own disk need not be.

The operator's own file is trusted with the operator's machine. A submitted one comes over the
network, from somebody who may begin runs and nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import PurePosixPath
from typing import Any, Final

from choral.config.federation import FederationFile, parse
from choral.config.references import is_reference
from choral.core.errors import Malformed, Refused, TooLarge
from choral.tasks.zoo import build as build_model
from choral.tasks.zoo import elements

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32


MODEL_BYTES: Final = 1 << 30
"""Largest submitted model: the coordinator holds it in memory several times."""
_ELEMENT: Final = 4
"""Bytes of a float32."""


def submitted(raw: bytes, *, model_bytes: int = MODEL_BYTES) -> FederationFile:
    """Return the federation that some JSON describes.

    Args:
        raw: The JSON.
        model_bytes: Largest built-in model.

    Raises:
        Malformed: It is no JSON object, is too long or too deep, or holds what is no text.
        TooLarge: Its model is.
        ConfigError: It is no federation.
        Refused: It names what is not in the coordinator's folder.
    """
    if len(raw) > MAX_BYTES:
        raise Malformed(f"a federation of {len(raw)} bytes, expected up to {MAX_BYTES}")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Malformed("federation_json is no JSON") from None
    if not isinstance(body, dict):
        raise Malformed("federation_json is no JSON object")
    _check_values(body)
    file = parse(body, where="the submitted federation")
    _check_words(file)
    _check_model(file, model_bytes)
    return file


def _check_model(file: FederationFile, most: int) -> None:
    """Refuse a built-in model that is too large, before anything of it is made.

    A task of the operator's own is as large as the operator made it.
    """
    if file.model is None or not isinstance(file.model.get("type"), str):
        return  # whoever builds it says what is wrong
    build_model(**file.model)
    size = _ELEMENT * elements(**file.model)
    if size > most:
        raise TooLarge(
            f"a model of {min(size, 10**30):.3g} bytes, expected up to {most}",
            hint="the operator's limit is `--max-model-bytes`",
        )


def _check_values(body: Any) -> None:
    """Refuse nesting that exhausts readers, and halves of characters, which nobody can write."""
    waiting = [(body, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Malformed(f"a federation nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Malformed(f"{value[:80]!r} is no text") from None


def _check_words(file: FederationFile) -> None:
    """Refuse what would read or call something that is not the operator's."""
    held_out = file.evaluation.held_out
    for what, word in (("task", file.task), ("evaluation.held_out", held_out)):
        if word is None or not is_reference(word):
            continue
        if word.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
            raise Refused(f"{what} `{word}` is in Python's own library", hint="name your own")
    for what, word in (
        ("evaluation.held_out", held_out if held_out and not is_reference(held_out) else None),
        ("simulation.schema", file.simulation.schema_),
        ("schema", file.schema_),
    ):
        path = PurePosixPath(word or "")
        if path.is_absolute() or ".." in path.parts or "\0" in str(path):
            raise Refused(
                f"{what} {word!r} is outside the coordinator's folder",
                hint="give a path that begins there",
            )
