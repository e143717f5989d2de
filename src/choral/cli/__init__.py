"""The command `choral`: one file per command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from choral.cli.app import run

    run()
