"""Axes by hand, and drawings that are XML, hold every value and escape every name."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.telemetry.charts import (
    BANDS,
    HEIGHT,
    WIDTH,
    Bars,
    Chart,
    Series,
    apart,
    axis_ticks,
    bars,
    lines,
    round_ticks,
    stacks,
    tick_labels,
)
from choral.telemetry.text import BLANK

EVIL = "<script>\"x\"&'y'</script>"
VALUES = st.floats(-1e300, 1e300)


def xml(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own drawing


def titles(svg: ET.Element) -> list[str]:
    return [t.text or "" for t in svg.iter("title")]


def numbers(element: ET.Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


# --- axes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((0.57, 0.76), [0.55, 0.6, 0.65, 0.7, 0.75, 0.8]),
        ((0, 0.05), [0, 0.01, 0.02, 0.03, 0.04, 0.05]),
        ((-3, 7), [-4, -2, 0, 2, 4, 6, 8]),
        ((0, 384), [0, 100, 200, 300, 400]),
        ((123, 123_456), [0, 50_000, 100_000, 150_000]),
        ((0, 0), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((5, 5), [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
    ],
)
def test_ticks_by_hand(ends: tuple[float, float], ticks: list[float]) -> None:
    assert axis_ticks(*ends, most=max(5, len(ticks) - 1)) == ticks


def test_ticks_have_no_rounding_noise() -> None:
    assert axis_ticks(0.1, 0.35) == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert axis_ticks(0, 3e-7) == [0, 1e-7, 2e-7, 3e-7]


@given(VALUES, VALUES, st.integers(4, 10))
def test_ticks_enclose_the_values_evenly(a: float, b: float, most: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = axis_ticks(low, high, most=most)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= most + 1
    assert all(x < y for x, y in pairwise(ticks))
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert ticks[-1] - ticks[0] == pytest.approx(step * (len(ticks) - 1))
    if high - low > 1e-3 * max(abs(low), abs(high)) > 1e-280:
        assert round(float(f"{step:e}".split("e")[0]), 6) in (1, 2, 5, 10)


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ((0.5, 0.75), (0.5, 0.75)),
        ((0.0, 3.0), (0.0, 3.0)),
        ((99.0, 101.0), (94.95, 105.05)),
        ((0.98, 1.0), (0.9, 1.0)),
        ((-1.0, -0.99), (-1.045, -0.945)),
        ((0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_small_changes_are_not_blown_up(
    ends: tuple[float, float], found: tuple[float, float]
) -> None:
    assert apart(*ends) == pytest.approx(found)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 1, 2], ["0", "1", "2"]),
        ([0, 0.2, 0.4], ["0.0", "0.2", "0.4"]),
        ([0.85, 0.9], ["0.85", "0.90"]),
        ([0, 500, 1000], ["0", "500", "1,000"]),
        ([0, 1e6, 2e6], ["0", "1e+06", "2e+06"]),
        ([0, 2e-7], ["0", "2e-07"]),
    ],
)
def test_tick_labels(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((1, 1), [1]),
        ((1, 6), [1, 2, 3, 4, 5, 6]),
        ((1, 15), [1, 5, 10, 15]),
        ((1, 100), [1, 20, 40, 60, 80, 100]),
        ((37, 52), [37, 40, 45, 50]),
    ],
)
def test_round_ticks(ends: tuple[int, int], ticks: list[int]) -> None:
    assert round_ticks(*ends) == ticks


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_goes_through_its_values() -> None:
    chart = Chart("loss", [1, 2, 3], [Series("loss", [3.0, 1.0, 2.0])], from_zero=True)
    svg = xml(lines(chart))
    (line,) = svg.iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    heights = [y for _, y in points]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    # ticks are 0, 1, 2, 3: the first value is at the top and the second a third of the way up
    assert heights[0] == 14.0
    assert heights[1] == pytest.approx(14 + (HEIGHT - 42 - 14) * 2 / 3, abs=0.1)
    assert heights[2] == pytest.approx((heights[0] + heights[1]) / 2, abs=0.1)
    assert titles(svg) == [
        "round 1: loss 3.0000",
        "round 2: loss 1.0000",
        "round 3: loss 2.0000",
    ]


def test_missing_values_are_bridged_and_said() -> None:
    svg = xml(lines(Chart("x", [1, 2, 3], [Series("x", [1.0, None, 2.0])])))
    (line,) = svg.iter("polyline")
    assert len(line.attrib["points"].split()) == 2
    assert titles(svg)[1] == f"round 2: x {BLANK}"
    assert svg.attrib["aria-label"].endswith("x 1.0000 in round 1, 2.0000 in round 3")


def test_one_round_is_a_marker_in_the_middle() -> None:
    svg = xml(lines(Chart("x", [4], [Series("x", [1.0])])))
    assert not list(svg.iter("polyline"))
    (marker,) = svg.iter("circle")
    band = next(r for r in svg.iter("rect") if r.attrib["class"] == "band")
    left, wide = numbers(band, "x", "width")
    assert float(marker.attrib["cx"]) == pytest.approx(left + wide / 2, abs=0.1)


def test_the_second_line_differs_without_colour() -> None:
    chart = Chart("x", [1, 2], [Series("a", [1.0, 2.0]), Series("b", [2.0, 1.0])])
    svg = xml(lines(chart))
    assert [p.attrib["class"] for p in svg.iter("polyline")] == ["line s0", "line s1"]
    assert len(list(svg.iter("circle"))) == 2
    assert len([r for r in svg.iter("rect") if r.attrib["class"] == "s1"]) == 2


def test_a_series_without_values_draws_nothing() -> None:
    svg = xml(lines(Chart("x", [1, 2], [Series("x", [None, None])])))
    assert not list(svg.iter("polyline"))
    assert "x is not known" in svg.attrib["aria-label"]


def test_many_rounds_keep_every_value_but_few_answers() -> None:
    rounds = range(1, 5001)
    svg = xml(lines(Chart("x", rounds, [Series("x", [float(r) for r in rounds])])))
    (line,) = svg.iter("polyline")
    assert len(line.attrib["points"].split()) == 5000
    assert len(titles(svg)) <= BANDS
    assert len(list(svg.iter("circle"))) == 1


@given(st.lists(st.none() | VALUES, min_size=1, max_size=30), st.booleans())
def test_lines_stay_inside_the_drawing(values: list[float | None], from_zero: bool) -> None:
    chart = Chart("x", range(1, len(values) + 1), [Series("x", values)], from_zero)
    text = lines(chart)
    assert "nan" not in text.lower()
    for line in xml(text).iter("polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


# --- stacks ---------------------------------------------------------------------------------------


def test_columns_stack() -> None:
    series = [Series("completed", [3.0, 4.0]), Series("dropped", [1.0, 0.0])]
    svg = xml(stacks(Chart("clients", [1, 2], series, from_zero=True)))
    first, lost, second = (r for r in svg.iter("rect") if r.attrib["class"].startswith("bar"))
    assert [r.attrib["class"] for r in (first, lost, second)] == ["bar s0", "bar s1", "bar s0"]
    y, height = numbers(first, "y", "height")
    top, above = numbers(lost, "y", "height")
    assert top + above == pytest.approx(y, abs=0.11)
    assert height == pytest.approx(3 * above, abs=0.2)
    assert numbers(second, "y")[0] == pytest.approx(top, abs=0.11)
    assert titles(svg)[0] == "round 1: completed 3, dropped 1"


def test_many_columns_are_means_of_neighbours() -> None:
    rounds = range(1, 2 * BANDS + 1)
    values = [float(r % 2) for r in rounds]
    svg = xml(stacks(Chart("clients", rounds, [Series("completed", values)], from_zero=True)))
    assert len(titles(svg)) == BANDS
    assert titles(svg)[0] == "mean of rounds 1 to 2: completed 0.5"


# --- bars -----------------------------------------------------------------------------------------


def test_bars_begin_at_zero() -> None:
    svg = xml(bars(Bars("x", ["a", "b", "c"], [Series("x", [2.0, 1.0, -1.0])])))
    a, b, c = (r for r in svg.iter("rect"))
    (left, wide), (other, half), (start, back) = (numbers(r, "x", "width") for r in (a, b, c))
    assert left == other == pytest.approx(start + back, abs=0.11)
    assert wide == pytest.approx(2 * half, abs=0.2)
    assert back == pytest.approx(half, abs=0.2)
    assert titles(svg) == ["a", "a, x: 2.0000", "b", "b, x: 1.0000", "c", "c, x: -1.0000"]


def test_rows_left_out_and_values_missing() -> None:
    svg = xml(bars(Bars("x", ["a", None, "b"], [Series("x", [1.0, None, None])], mark=0.5)))
    assert len(list(svg.iter("rect"))) == 1
    assert len([e for e in svg.iter("line") if e.attrib["class"] == "mark"]) == 1
    shown = [t.text for t in svg.iter("text")]
    assert "⋮" in shown
    assert shown[-1] == BLANK
    assert "2 bars" in svg.attrib["aria-label"]


def test_long_names_are_cut_and_kept_in_full_for_pointing() -> None:
    svg = xml(bars(Bars("x", ["h" * 40], [Series("x", [1.0])])))
    assert titles(svg)[0] == "h" * 40
    assert "h" * 17 + "…" in "".join(svg.itertext())
    left = numbers(next(svg.iter("rect")), "x")[0]
    assert left < WIDTH / 2


@pytest.mark.parametrize("draw", [lines, stacks])
def test_names_are_escaped_over_rounds(draw) -> None:
    text = draw(Chart(EVIL, [1], [Series(EVIL, [1.0])]))
    assert "<script" not in text
    assert EVIL in xml(text).attrib["aria-label"]


def test_names_are_escaped_in_bars() -> None:
    text = bars(Bars(EVIL, [EVIL], [Series(EVIL, [1.0])]))
    assert "<script" not in text
    assert titles(xml(text))[0] == EVIL


def test_colours_are_the_page_s() -> None:
    text = lines(Chart("x", [1, 2], [Series("x", [1.0, 2.0])]))
    assert not re.search(r"#[0-9a-f]{3}|rgb|style=|url", text)
