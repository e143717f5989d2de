"""The page of a run: everything is on it, nothing gets out of its place."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import choral
from choral.core.errors import RunFailed
from choral.tasks.numpy import LinearTask
from choral.telemetry.report import render
from choral.telemetry.report.clients import CLIENTS, FAILURES
from choral.telemetry.report.rounds import ROWS
from choral.telemetry.text import BLANK

EVIL = "\"><script>alert('x')</script><img src=x onerror=y>&\u202e\x00"
SHOWN = EVIL.replace("\u202e", "\ufffd").replace("\x00", "\ufffd")


def captions(tree) -> list[str]:
    return [n.children[0] for n in tree.all("figcaption")]


def tile(tree, name: str) -> list[str]:
    """Return value and note of a tile."""
    box = next(n for n in tree.all("div") if n.all("dt") and n.one("dt").text == name)
    return [n.text for n in box.all("dd")]


def rows(tree, section: str) -> list[list[str]]:
    body = tree.one("section", **{"aria-labelledby": section}).one("tbody")
    return [[c.text for c in line.children if not isinstance(c, str)] for line in body.all("tr")]


def told(tree) -> str:
    """Return the text of the page and of every attribute in it."""
    main = tree.one("main")
    return " ".join([main.text, *(v or "" for n in main.walk() for v in n.attrs.values())])


# --- what is on it --------------------------------------------------------------------------------


def test_every_metric_has_a_chart(run, read) -> None:
    tree = read(render(run()))
    assert captions(tree) == [
        "accuracy",
        "loss and train_loss",
        "clients per round",
        "update norm",
        "bytes per round",
        "time per round",
        "accuracy by client",
    ]
    loss = tree.all("figure")[1]
    assert [n.text for n in loss.one("ul").all("li")] == ["loss", "train_loss"]
    assert loss.all("title")[0].text == "round 1: loss 0.7000, train_loss 0.7200"
    assert len(tree.all("svg", role="img")) == 7
    assert all(n.attrs.get("aria-label") for n in tree.all("svg", role="img"))


def test_key_figures(run, read) -> None:
    tree = read(render(run()))
    assert tree.one("h1").text == "lab completed"
    assert tree.one("head").one("title").text == "lab: completed"
    assert tile(tree, "accuracy") == ["0.7500", "0.5000 at first"]
    assert tile(tree, "rounds") == ["3", "committed"]
    assert tile(tree, "clients") == ["2", "2 completed a round"]
    assert tile(tree, "privacy loss ε") == ["no mechanism ran", "nothing bounds it"]
    assert tile(tree, "privacy level") == ["L0", "the coordinator sees every update"]
    assert tile(tree, "seed")[0] == "7"
    assert tile(tree, "SHA-256") == ["ab" * 32, "of the final model"]
    assert tile(tree, "time") == ["3.2 s", "1.0 s for the median round"]


def test_rounds_have_a_table(run, read) -> None:
    tree = read(render(run()))
    table = tree.one("section", **{"aria-labelledby": "table"})
    assert [n.text for n in table.all("th", scope="col")] == [
        *("round", "attempt", "selected", "completed", "dropped"),
        *("accuracy", "loss", "train_loss", "norm, mean", "norm, max", "up", "down", "time"),
    ]
    assert rows(tree, "table")[1] == [
        *("2", "1", "2", "1", "1"),
        *("0.6000", "0.6000", "0.6200", "0.0400", "0.0500", "384 B", "224 B", "1.0 s"),
    ]
    assert not table.all("details")


def test_many_rounds_are_folded_and_then_left_out(run, read) -> None:
    one = run()["rounds"][0]
    tree = read(render(run(rounds=[{**one, "round": r} for r in range(1, 31)])))
    folded = tree.one("section", **{"aria-labelledby": "table"}).one("details")
    assert folded.one("summary").text == "Table of 30 rounds"
    tree = read(render(run(rounds=[{**one, "round": r} for r in range(1, ROWS + 4)])))
    shown = [row[0] for row in rows(tree, "table")]
    assert len(shown) == ROWS + 1
    assert shown[ROWS // 2 - 1 : ROWS // 2 + 2] == ["500", BLANK, "504"]
    assert shown[-1] == "1,003"


def test_clients_are_sorted(run, read) -> None:
    metrics = {"b": {"loss": 0.1}, "a": {"loss": 0.3, "accuracy": 0.5}, "c": {"accuracy": 0.9}}
    tree = read(render(run(client_metrics=metrics)))
    assert rows(tree, "clients") == [["c", "0.9000", BLANK], ["a", "0.5000", "0.3000"]]
    assert captions(tree)[-2:] == ["accuracy by client", "loss by client"]
    note = tree.all("figcaption")[-2].one("small").text
    assert note == "median 0.7000, from 0.5000 to 0.9000; dashed: the run's own, 0.7500"


def test_of_many_clients_both_ends_are_shown(run, read) -> None:
    metrics = {f"c{i:04d}": {"accuracy": i / 1000} for i in range(1001)}
    tree = read(render(run(client_metrics=metrics)))
    shown = [row[0] for row in rows(tree, "clients")]
    assert len(shown) == CLIENTS + 1
    assert (shown[0], shown[CLIENTS // 2], shown[-1]) == ("c1000", BLANK, "c0000")
    assert "median 0.5000, from 0.0000 to 1.0000; 951 clients" in tree.text


def test_without_client_metrics_there_is_no_such_section(run, read) -> None:
    tree = read(render(run(client_metrics={})))
    assert not tree.all("section", **{"aria-labelledby": "clients"})


def test_coverage(run, read) -> None:
    strata = {
        "north": {
            "clients": 1,
            "participations": 3,
            "population_share": 0.5,
            "participation_share": 0.6,
        },
        "south": {
            "clients": 1,
            "participations": 2,
            "population_share": 0.5,
            "participation_share": None,
        },
    }
    tree = read(render(run(coverage=run()["coverage"] | {"strata": strata})))
    assert tile(tree, "Jain index") == [
        "0.962",
        "1 = all equally often; 0.5 = always the same client",
    ]
    assert tile(tree, "clients reached") == ["2 of 2", "0 never seen"]
    assert tile(tree, "participations") == ["5", "2.5 for each client on average"]
    assert tile(tree, "rounds since last seen") == ["0.5", "on average; 1 at most"]
    assert rows(tree, "coverage") == [
        ["north", "1", "50.0 %", "3", "60.0 %"],
        ["south", "1", "50.0 %", "2", BLANK],
    ]
    assert captions(tree)[-1] == "share of each stratum"


# --- privacy --------------------------------------------------------------------------------------


def test_no_mechanism_is_said_in_words(run, read) -> None:
    cards = [n.text for n in read(render(run())).all("div", class_="card")]
    assert "Every client's update, in the clear." in cards[0]
    assert "No bound." in cards[1]


@pytest.mark.parametrize(
    ("level", "threat_model", "words"),
    [
        ("L1", None, "The coordinator is trusted"),
        ("L2", "semi_honest", "as long as it follows the protocol"),
        ("L2", "active", "even where it departs from the protocol"),
        ("L3", "active", "even where it departs from the protocol"),
        ("L9", None, "The result does not say."),
    ],
)
def test_what_the_coordinator_sees(run, read, level, threat_model, words) -> None:
    privacy = {"mode": "record", "epsilon": 2.1, "delta": 1e-5, "unit": "record", "level": level}
    aggregation = {"kind": "secure", "threat_model": threat_model}
    tree = read(render(run(privacy=privacy, aggregation=aggregation, engine="grpc")))
    cards = [n.text for n in tree.all("div", class_="card")]
    assert words in cards[0]
    assert "At most ε = 2.1 with δ = 1e-05 for each record" in cards[1]
    assert tile(tree, "privacy loss ε") == ["2.1", "at most, δ 1e-05, per record"]
    assert "simulat" not in tree.text.lower()


def test_epsilon_over_the_rounds_has_a_chart(run, read) -> None:
    spent = [{**r, "epsilon": 0.5 * r["round"]} for r in run()["rounds"]]
    tree = read(render(run(rounds=spent)))
    assert "privacy loss ε" in captions(tree)
    assert tile(tree, "privacy loss ε")[0] == "1.5"


def test_a_largest_norm_that_cannot_be_seen_is_said(run, read) -> None:
    hidden = [{**r, "update_norm": {"mean": 0.1, "max": None}} for r in run()["rounds"]]
    tree = read(render(run(rounds=hidden)))
    assert "their max could not be seen" in tree.text
    assert "norm, max" not in tree.text


# --- runs that failed -----------------------------------------------------------------------------

FAILURE = {"round": 1, "attempt": 1, "client": "a", "code": "client_error", "message": "no disk"}


def test_a_run_that_failed_at_once(run, read) -> None:
    body = run(
        status="failed",
        reason="no_quorum",
        rounds=[],
        metrics={},
        client_metrics={},
        failures=[FAILURE],
        coverage=dict.fromkeys(run()["coverage"]) | {"clients": 2, "seen": 0},
    )
    tree = read(render(body))
    banner = tree.one("p", class_="banner").text
    assert banner.startswith("The run failed: too few clients completed a round (no_quorum).")
    assert tree.one("span", class_="status failed").text == "failed"
    assert tile(tree, "metrics") == [BLANK, "nothing was measured"]
    assert tile(tree, "SHA-256")[1] == "of the first model, before any training"
    assert "before any training" in tree.all("div", class_="card")[1].text
    assert not tree.all("svg")
    assert "nothing to plot" in tree.text
    order = [n.attrs["aria-labelledby"] for n in tree.all("section")]
    assert order.index("failures") == 1
    assert rows(tree, "failures") == [["a", "1", "1", "client_error", "no disk"]]


def test_a_run_that_failed_later_keeps_its_rounds(run, read) -> None:
    tree = read(render(run(status="failed", reason="disk on fire")))
    assert "disk on fire. What follows are the figures of the 3 rounds" in tree.text
    assert "accuracy" in captions(tree)


def test_a_stopped_run_says_so(run, read) -> None:
    tree = read(render(run(status="stopped", reason="enough")))
    assert "The run was stopped: enough." in tree.one("p", class_="banner").text


def test_a_completed_run_has_no_banner(run, read) -> None:
    assert not read(render(run())).all("p", class_="banner")


def test_failures_are_counted_and_capped(run, read) -> None:
    many = [{**FAILURE, "client": f"c{i % 7}", "code": f"e{i % 2}"} for i in range(FAILURES + 5)]
    tree = read(render(run(failures=many)))
    part = tree.one("section", **{"aria-labelledby": "failures"})
    assert part.one("p").text == "205 failures of 7 clients: e0 (103), e1 (102)."
    assert len(rows(tree, "failures")) == FAILURES
    assert "5 later ones not shown" in part.text


# --- hostile and missing values -------------------------------------------------------------------


def poison(value, leaf):
    """Return the JSON with every leaf replaced."""
    if isinstance(value, dict):
        return {key: poison(inner, leaf) for key, inner in value.items()}
    if isinstance(value, list):
        return [poison(inner, leaf) for inner in value]
    return leaf


@pytest.mark.parametrize("place", ["client", "code", "message", "name", "reason", "metric", "id"])
def test_text_of_a_run_stays_text(run, read, place: str) -> None:
    changes = {
        "name": {"name": EVIL},
        "reason": {"status": "stopped", "reason": EVIL},
        "metric": {"rounds": [{"round": 1, "metrics": {EVIL: 1.0}}], "metrics": {EVIL: 1.0}},
        "id": {"client_metrics": {EVIL: {EVIL: 0.5}}},
    }.get(place) or {"failures": [FAILURE | {place: EVIL}]}
    html = render(run(**changes))
    html.encode()
    tree = read(html)
    assert SHOWN in tree.text
    usual = read(render(run(failures=[FAILURE], status="stopped", reason="enough")))
    known = {n.tag for n in usual.walk()}
    assert {n.tag for n in tree.walk()} <= known
    assert not [a for n in tree.walk() for a in n.attrs if a.startswith("on")]


LEAVES = {
    "none": None,
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "text": EVIL,
    "list": [],
    "object": {},
    "true": True,
    "huge": 10**400,
    "large": -1e308,
    "tiny": 1e-320,
    "negative": -1,
}


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_any_leaf_renders(run, read, leaf) -> None:
    html = render(poison(run(failures=[FAILURE]), leaf))
    html.encode()
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", told(read(html)))


@pytest.mark.parametrize("key", ["rounds", "metrics", "client_metrics", "coverage", "privacy"])
def test_parts_may_be_missing(run, read, key: str) -> None:
    body = run()
    del body[key]
    read(render(body))
    read(render(run(**{key: None})))


def test_nothing_at_all_renders(read) -> None:
    assert read(render({})).one("h1").text == "run unknown"
    read(render({"rounds": [{}, {}]}))


def test_nothing_is_loaded_from_outside(run, read) -> None:
    html = render(run(failures=[FAILURE]))
    assert not re.search(r"https?:|//\w|url\(|@import|javascript:", html)
    tree = read(html)
    banned = {"script", "link", "img", "iframe", "object", "embed", "a", "form", "image", "use"}
    assert not banned & {n.tag for n in tree.walk()}
    assert not [n for n in tree.walk() if {"src", "href", "style"} & n.attrs.keys()]


def test_drawings_are_xml_and_ids_are_unique(run, read) -> None:
    html = render(run(client_metrics={EVIL: {"loss": 0.5}}))
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) > 7
    for drawing in drawings:
        ET.fromstring(drawing)  # noqa: S314 - our own drawing
    ids = [n.attrs["id"] for n in read(html).walk() if "id" in n.attrs]
    assert len(ids) == len(set(ids))


def test_a_page_has_a_bounded_size(run) -> None:
    body = run()
    body["rounds"] = [{**body["rounds"][0], "round": r} for r in range(1, 10_001)]
    body["failures"] = [
        FAILURE | {"client": f"{EVIL}{i}", "message": "m" * 9999} for i in range(9999)
    ]
    body["client_metrics"] = {f"c{i}": {"loss": float(i)} for i in range(9999)}
    body["coverage"]["strata"] = {f"s{i}": {"clients": 1} for i in range(9999)}
    assert len(render(body)) < 2_500_000


# --- real runs ------------------------------------------------------------------------------------


def clients(count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    x = np.eye(4, dtype=np.float32)
    return {f"c{i}": (x, np.arange(4, dtype=np.float32) + i) for i in range(count)}


def test_a_simulated_run_writes_its_page(read, tmp_path: Path) -> None:
    task = LinearTask(kind="linear", input_dim=4)
    result = choral.simulate(task, clients=clients(3), rounds=2, seed=1, name="small")
    path = result.report(tmp_path / "run.html")
    tree = read(path.read_text(encoding="utf-8"))
    assert tree.one("h1").text == "small completed"
    assert tile(tree, "SHA-256")[0] == result.model_sha256
    shown = " ".join(captions(tree))
    assert all(name in shown for r in result.rounds for name in r["metrics"])


def test_a_failed_run_has_a_page(read) -> None:
    class Broken(LinearTask):
        def train(self, *_args, **_named):
            raise ValueError(EVIL)

    task = Broken(kind="linear", input_dim=4)
    with pytest.raises(RunFailed) as caught:
        choral.simulate(task, clients=clients(2), rounds=2, seed=1)
    tree = read(render(caught.value.result.to_json()))
    assert tree.one("span", class_="status failed")
    assert SHOWN in tree.text
