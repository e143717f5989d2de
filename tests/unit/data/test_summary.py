import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.task import ClientData
from choral.data import MappingSource, iid, shards, summary
from choral.data.plot import CHARACTER, COLOURS, WIDTH, Bars, axis_ticks, svg


def _clients():
    return MappingSource(
        {
            "a": ClientData((np.zeros((4, 1)), np.array([0, 0, 2, 2])), (np.zeros((1, 1)), [2])),
            "b": ClientData((np.zeros((2, 1)), np.array([5, 5]))),
        }
    )


def test_counts_by_hand():
    found = summary(_clients())
    assert found.clients == 2
    assert found.shown == ("a", "b")
    assert found.train.tolist() == [4, 2]
    assert found.test.tolist() == [1, 0]
    assert found.labels == ("0", "2", "5")
    assert found.counts.tolist() == [[2, 3, 0], [0, 0, 2]]


def test_text_by_hand():
    lines = [re.sub(r"\s+", " ", line).strip() for line in str(summary(_clients())).splitlines()]
    assert lines[0] == "2 clients; training examples per client: 2 to 4, median 3"
    assert "client train test 0 2 5" in lines
    assert "a 4 1 2 3 0" in lines
    assert "b 2 0 0 0 2" in lines
    assert "all shown 6 1 2 3 2" in lines


def test_many_clients_are_sampled_and_all_sizes_counted():
    x = np.zeros((1000, 1))
    source = iid((x, np.arange(1000) % 4), clients=300, test_fraction=0)
    found = summary(source, clients=3)
    assert found.shown == ("000", "100", "200")
    assert len(found.sizes) == 300
    assert "3 of 300 clients" in str(found)
    with pytest.raises(ConfigError):
        summary(source, clients=0)


def test_many_labels_are_grouped():
    y = np.repeat(np.arange(40), np.arange(40) + 1)
    found = summary(iid((np.zeros((len(y), 1)), y), clients=2, test_fraction=0))
    text = str(found)
    assert len(found.labels) == 40
    assert "31 others" in text
    train, _, *counts = (int(n) for n in re.search(r"all shown(.*)", text)[1].split())
    assert train == sum(counts) == 820


def test_real_targets_have_no_labels(tmp_path):
    found = summary(MappingSource({"a": (np.zeros((3, 1)), np.array([0.5, 1, 2]))}))
    assert found.labels == ()
    assert "a" in str(found)
    found.plot(tmp_path / "a.svg")
    assert ">examples</text>" in (tmp_path / "a.svg").read_text()


def _elements(text, tag):
    return list(_root(text).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def _root(text):
    return ET.fromstring(text)  # noqa: S314 -- our own drawing


def test_plot_is_a_file_of_its_own(tmp_path):
    y = np.repeat(np.arange(10), 100)
    source = shards((np.zeros((1000, 1)), y), clients=50, test_fraction=0)
    summary(source).plot(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert re.findall(r"https?://[^\"' )]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme:dark" in text
    pieces = [e for e in _elements(text, "rect") if len(e)]
    want = sum(len(np.unique(source.load(c).train[1])) for c in source.ids)
    assert len(pieces) == want
    with pytest.raises(ConfigError, match="suffix"):
        summary(source).plot(tmp_path / "a.png")


def test_pieces_are_as_long_as_their_counts():
    text = svg(Bars("t", ["a"], ["x", "y"], np.array([[300, 100]])))
    pieces = [e for e in _elements(text, "rect") if len(e)]
    wide = [float(p.get("width")) + 0.5 for p in pieces]
    assert wide[0] / wide[1] == pytest.approx(3, abs=0.02)
    assert float(pieces[1].get("x")) == pytest.approx(float(pieces[0].get("x")) + wide[0], abs=0.02)


def _boxes(text):
    """Return the box of every text, with a generous width for each character."""
    boxes = []
    for element in _elements(text, "text"):
        size = 15 if element.get("class") == "title" else 12
        wide = len(element.text) * CHARACTER * size / 12
        x, y = float(element.get("x")), float(element.get("y"))
        shift = {"end": wide, "middle": wide / 2, None: 0}[element.get("text-anchor")]
        boxes.append((x - shift, y - 0.75 * size, x - shift + wide, y + 0.2 * size))
    return boxes


HARD = [f"hospital of the holy number {i}" for i in range(50)]


@pytest.mark.parametrize(
    ("names", "labels", "scale"),
    [
        (["0"], ["0"], 1),
        (HARD, [f"a rather long label, {i}" for i in range(10)], 10_000_000),
        ([f"{i:03}" for i in range(50)], [str(i) for i in range(10)], 60),
        (["<&>"], ["a & b", "<b>"], 7),
    ],
)
def test_texts_do_not_overlap_and_stay_inside(names, labels, scale):
    counts = (np.arange(len(names) * len(labels)) % 7 + 1).reshape(len(names), -1) * scale
    text = svg(Bars("Examples per client", names, labels, counts))
    height = float(_root(text).get("height"))
    boxes = _boxes(text)
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert right <= WIDTH
        assert top >= 0
        assert bottom <= height
        for other in boxes[:i]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("card", ["#ffffff", "#15191f"])
def test_colours_stand_out_on_light_and_dark(card):
    """WCAG 2.1, 1.4.11: graphics have a contrast of at least 3."""
    for colour in COLOURS:
        light, dark = sorted((_luminance(colour), _luminance(card)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3
    assert len(set(COLOURS)) == len(COLOURS)


@pytest.mark.parametrize("most", [0, 1, 5, 6, 11, 99, 101, 600, 7321, 60_000, 123_456_789])
def test_axis_ticks_cover_the_bars(most):
    ticks = axis_ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] >= most
    assert 2 <= len(ticks) <= 6
    assert len(set(np.diff(ticks))) == 1


def test_data_without_labels_has_sizes():
    found = summary(MappingSource({"a": [1.0, 2.0, 3.0]}, test_fraction=0))
    assert (found.labels, found.train.tolist()) == ((), [3])
