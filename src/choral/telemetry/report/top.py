"""The top of the page: what ran, how it ended, its key figures, and what its privacy is worth."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from choral.telemetry.page import Column, Tile, table, tiles
from choral.telemetry.report.reading import (
    SIMULATED,
    Run,
    client_count,
    epsilon_of,
    items,
    known,
    metric_names,
    part,
    plural,
    text,
    values_of,
)
from choral.telemetry.text import BLANK, duration, finite, number, plain, whole

_STATUS: Final = {
    "completed": "completed",
    "failed": "failed",
    "stopped": "was stopped",
    "running": "is running",
}
_REASONS: Final = {
    "no_quorum": "too few clients completed a round",
    "round_spent": "clients helped to unmask an attempt that failed, and join no other one",
    "empty_cohort": "no client was chosen for a round",
}
_SEES: Final = {
    "L0": "Every client's update, in the clear.",
    "L1": "Every client's update, in the clear. The coordinator is trusted with them.",
    "L2": "Only sums over several clients, as long as it follows the protocol.",
    "L3": "Only sums over several clients, even where it departs from the protocol.",
}
_SEES_SHORT: Final = {
    "L0": "the coordinator sees every update",
    "L1": "the coordinator sees every update",
    "L2": "the coordinator sees sums",
    "L3": "the coordinator sees sums",
}
_LEVELS: Final = (
    "Levels: L0, neither the updates nor the model are protected; L1, differential privacy with a "
    "trusted coordinator; L2, secure aggregation; L3, secure aggregation against a coordinator "
    "that departs from the protocol, with noise added by the clients."
)


def header(result: Run, name: str) -> str:
    """Return title, status, one sentence, and why a run did not complete."""
    status = text(result, "status") or "unknown"
    look = status if status in _STATUS else "running"
    return (
        '<p class="over">Federated training report</p>\n'
        f'<h1>{plain(name)} <span class="status {look}">{plain(status)}</span></h1>\n'
        f'<p class="lead">{plain(_lead(result))}</p>\n{_banner(result, status)}'
    )


def _lead(result: Run) -> str:
    done, clients = len(items(result, "rounds")), client_count(result)
    who = "Its clients" if clients is None else plural(clients, "client")
    what = (
        f"{who} trained one model together in {plural(done, 'round')}."
        if done
        else f"{who} set out to train one model together. No round was committed."
    )
    return what + (" This was a simulation." if text(result, "engine") in SIMULATED else "")


def _banner(result: Run, status: str) -> str:
    """Return why a run failed or stopped; nothing where it did not."""
    reason = text(result, "reason")
    if status == "completed" or not (reason or status == "failed"):
        return ""
    why = _REASONS.get(reason, reason) or "the result gives no reason"
    code = f" ({reason})" if reason in _REASONS else ""
    done = len(items(result, "rounds"))
    kept = (
        f"What follows are the figures of the {plural(done, 'round')} before."
        if done
        else "The model is the first one, untrained."
    )
    told = f"The run {_STATUS.get(status, 'ended')}: {why}{code}."
    return f'<p class="banner" role="note"><strong>{plain(told)}</strong> {plain(kept)}</p>'


# --- key figures ----------------------------------------------------------------------------------


def key_figures(result: Run) -> str:
    """Return the figures that matter most, side by side."""
    return tiles([*_metrics(result), *_sizes(result), *_privacy_tiles(result), *_identity(result)])


def _metrics(result: Run) -> Iterator[Tile]:
    metrics = part(result, "metrics")
    if not metrics:
        yield Tile("metrics", BLANK, "nothing was measured")
    for name in metric_names([metrics]):
        curve = known(values_of(items(result, "rounds"), name, within="metrics"))
        note = f"{number(curve[0])} at first" if len(curve) > 1 else ""
        yield Tile(name, number(metrics.get(name)), note)


def _sizes(result: Run) -> Iterator[Tile]:
    rounds = items(result, "rounds")
    again = sum(1 for r in rounds if whole(r.get("attempt")) > 1)
    note = f"{again:,} of them took more than one attempt" if again else "committed"
    yield Tile("rounds", number(len(rounds)), note)
    seen = finite(part(result, "coverage").get("seen"))
    note = "" if seen is None else f"{int(seen):,} completed a round"
    yield Tile("clients", number(client_count(result)), note)


def _privacy_tiles(result: Run) -> Iterator[Tile]:
    privacy, epsilon = part(result, "privacy"), epsilon_of(result)
    if epsilon is None:
        yield Tile("privacy loss ε", "no mechanism ran", "nothing bounds it", "words")
    else:
        delta, unit = finite(privacy.get("delta")), text(privacy, "unit")
        told = [
            "at most",
            f"δ {delta:g}" if delta is not None else "",
            f"per {unit}" if unit else "",
        ]
        yield Tile("privacy loss ε", f"{epsilon:.3g}", ", ".join(filter(None, told)))
    level = text(privacy, "level")
    yield Tile("privacy level", level or BLANK, _SEES_SHORT.get(level, ""))


def _identity(result: Run) -> Iterator[Tile]:
    rounds = items(result, "rounds")
    times = known(values_of(rounds, "duration_s"))
    note = f"{duration(median(times))} for the median round" if times else ""
    yield Tile("time", duration(result.get("duration_s")), note)
    seed = text(result, "seed") or BLANK
    look = "figure" if len(seed) < 10 else "digits"
    yield Tile("seed", seed, "of every reproducible draw", look)
    note = "of the final model" if rounds else "of the first model, before any training"
    yield Tile("SHA-256", text(result, "model_sha256") or BLANK, note, "code")


# --- privacy and settings -------------------------------------------------------------------------


def privacy(result: Run) -> str:
    """Return in plain words who sees what."""
    level = text(part(result, "privacy"), "level")
    active = part(result, "aggregation").get("threat_model") == "active"
    sees = _SEES.get("L3" if level == "L2" and active else level, "The result does not say.")
    where = (
        "In a simulation all data is in one place; the level is that of a "
        "deployment with the same settings. "
        if text(result, "engine") in SIMULATED
        else ""
    )
    return (
        '<div class="columns">\n'
        f'<div class="card"><h3>What the coordinator sees</h3><p>{sees}</p></div>\n'
        f'<div class="card"><h3>What the model reveals</h3><p>{plain(_reveals(result))}</p></div>\n'
        f'</div>\n<p class="note">This run: level {plain(level or BLANK)}. {where}{_LEVELS}</p>'
    )


def _reveals(result: Run) -> str:
    terms, epsilon = part(result, "privacy"), epsilon_of(result)
    if not items(result, "rounds"):
        return "Nothing about any client: it is the first model, before any training."
    if epsilon is None:
        return (
            "No bound. No privacy mechanism ran, so nothing limits what can be inferred from the "
            "model about the examples it was trained on."
        )
    delta = finite(terms.get("delta"))
    also = "" if delta is None else f" with δ = {delta:g}"
    unit, mode = text(terms, "unit"), text(terms, "mode")
    whom = f" for each {unit}" if unit else ""
    how = f" (mode {mode})" if mode else ""
    return f"At most ε = {epsilon:.3g}{also}{whom}, by differential privacy{how}."


def settings(result: Run) -> str:
    """Return what was run, as a table."""
    aggregation = part(result, "aggregation")
    terms = part(result, "privacy")
    rows = [
        ("run", text(result, "run_id")),
        ("strategy", text(result, "strategy")),
        ("selection", text(result, "selection")),
        *((f"aggregation {key}", text(aggregation, key)) for key in aggregation),
        ("privacy mode", text(terms, "mode")),
        ("engine", text(result, "engine")),
    ]
    columns = [Column("setting", "text"), Column("value", "long")]
    return table("Names and settings", columns, [row for row in rows if row[1]])
