"""One run as one HTML page: figures, curves, tables, and what its privacy is worth.

The page needs nothing beside it, runs no script and loads nothing. Whatever clients chose, such as
their names and messages, is shown as text.
"""

from __future__ import annotations

from choral.telemetry.page import page, section
from choral.telemetry.report import clients, rounds, top
from choral.telemetry.report.reading import Run, text

__all__ = ["render"]


def render(result: Run) -> str:
    """Return a run as a self-contained HTML page.

    Args:
        result: The JSON of a run, as `Result.to_json` gives it. A key that is missing, and a value
            that is None, NaN or infinite, is shown as a dash or left out.

    Guarantees: the text can be encoded as UTF-8; no script, and no address of anything outside the
    page; all text of the run is escaped and of bounded length; a bounded number of rows, bars and
    hints, however many rounds, clients and failures there are.

    >>> html = render({"name": "heart", "status": "completed", "rounds": []})
    >>> "<h1>heart" in html, "<script" in html
    (True, False)
    """
    name, failed = text(result, "name") or "run", result.get("status") == "failed"
    failures = section("failures", "Failures", *clients.failures(result))
    return page(
        title=f"{name}: {text(result, 'status') or 'unknown'}",
        header=top.header(result, name),
        sections=[
            section("figures", "Key figures", top.key_figures(result)),
            failures if failed else "",
            section("privacy", "Privacy", top.privacy(result)),
            section("rounds", "Over the rounds", *rounds.curves(result)),
            section("clients", "Client by client", *clients.clients(result)),
            section("coverage", "Who was reached", *clients.coverage(result)),
            "" if failed else failures,
            section("table", "Round by round", *rounds.round_table(result)),
            section("run", "What was run", top.settings(result)),
        ],
        footer="<p>Written by Choral from the result of the run, whose JSON has the same figures "
        "in full.</p>",
    )
