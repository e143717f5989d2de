"""Documented commands that this version does not have yet: each says so, by name."""

from __future__ import annotations

import typer

from choral.core.errors import NotBuilt

_ALLOW = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

UNBUILT = {
    "new": "copy a folder of `examples/` instead",
    "report": "`choral simulate FILE --report PAGE.html` writes the page of a run",
}
"""Command to what to do until it is there."""


def add_to(app: typer.Typer) -> None:
    """Add every command that is not built yet."""
    for name, instead in UNBUILT.items():
        app.command(name, hidden=True, context_settings=_ALLOW)(_refusal(name, instead))


def _refusal(name: str, instead: str):  # type: ignore[no-untyped-def]  # typer reads the signature
    def command() -> None:
        raise NotBuilt(f"`choral {name}` is not built yet", hint=instead)

    command.__doc__ = "Not built yet."
    return command
