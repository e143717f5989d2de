"""Reading docstrings: their first line, their text, and their sections."""

from __future__ import annotations

import inspect
import re
from typing import Any

HEADINGS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Guarantees")


def first_line(value: Any) -> str:
    """Return the first line of a docstring, fit for a table."""
    return cell((inspect.getdoc(value) or "").partition("\n")[0])


def cell(text: str) -> str:
    """Return text without the bars that would end a table's cell."""
    return text.replace("|", "/")


def body(value: Any) -> str:
    """Return a docstring without its lists of arguments and its examples."""
    kept: list[str] = []
    skipping = example = False
    for line in (inspect.getdoc(value) or "").splitlines():
        example = line.startswith(">>>") or (example and bool(line.strip()))
        if line and not line.startswith(" "):
            skipping = line.endswith(":") and line.rstrip(":") in HEADINGS
        if not skipping and not example:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def paragraph(value: Any, heading: str) -> str:
    """Return one section of a docstring as a single line; empty where it has none."""
    inside, words = False, []
    for line in (inspect.getdoc(value) or "").splitlines():
        if line and not line.startswith(" "):
            inside = line == f"{heading}:"
        elif inside:
            words.append(line.strip())
    return " ".join(words).strip()


def entries(value: Any, heading: str) -> dict[str, str]:
    """Return name to text of one section of a docstring."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if line and not line.startswith(" "):
            inside = line == f"{heading}:"
        elif inside and (match := re.match(r"    (\w+): (.*)", line)):
            name = match.group(1)
            found[name] = match.group(2)
        elif inside and line.strip() and name:
            found[name] += " " + line.strip()
    return found


def sentence(text: str | None) -> str:
    """Return text on one line, with a full stop."""
    words = cell(" ".join((text or "").split()))
    return words if not words or words.endswith((".", "…")) else words + "."


def upper(text: str) -> str:
    """Return text with a capital letter."""
    return text[:1].upper() + text[1:]
