"""The command `choral`: one file per command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    try:
        from choral.cli.app import run
    except KeyboardInterrupt:  # Ctrl-C in the first second
        raise SystemExit(130) from None
    run()
