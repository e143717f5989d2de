"""The pieces of a page: escaped, labelled, and closed to anything outside."""

from __future__ import annotations

import pytest

from choral.telemetry.page import (
    POLICY,
    STYLE,
    Column,
    Tile,
    figure,
    fold,
    page,
    section,
    table,
    tiles,
)
from choral.telemetry.text import BLANK

EVIL = "</td><script>\"x\"&'y'"


def test_the_page_allows_nothing_from_outside(read) -> None:
    tree = read(page(title=EVIL, header="<p>top</p>", sections=["", "<p>a</p>"], footer="<p>z</p>"))
    policy = tree.all("meta")[1]
    assert policy.attrs == {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert POLICY == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert tree.one("title").text == EVIL
    assert tree.one("html").attrs["lang"] == "en-GB"
    assert [p.text for p in tree.all("p")] == ["top", "a", "z"]
    assert not tree.all("script")


def test_the_style_loads_nothing_and_knows_light_dark_narrow_and_paper() -> None:
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert "prefers-color-scheme:dark" in STYLE
    assert "@media print" in STYLE
    assert "max-width:560px" in STYLE
    assert STYLE.count("{") == STYLE.count("}")


def test_sections_are_named_by_their_heading(read) -> None:
    tree = read(section("a", "Part <1>", "", "<p>x</p>"))
    heading = tree.one("h2")
    assert heading.text == "Part <1>"
    assert tree.one("section").attrs["aria-labelledby"] == heading.attrs["id"] == "a"
    assert section("a", "Part", "", "") == ""


def test_tiles(read) -> None:
    tree = read(tiles([Tile("loss", "0.5", "at first 1"), Tile(EVIL, EVIL, look="code")]))
    assert [n.text for n in tree.all("dt")] == ["loss", EVIL]
    assert [n.text for n in tree.all("dd")] == ["0.5", "at first 1", EVIL]
    assert tree.all("div")[1].attrs["class"] == "tile code"


@pytest.mark.parametrize(("boxes", "swatch"), [(False, "line"), (True, "rect")])
def test_figures_have_captions_and_a_key(read, boxes: bool, swatch: str) -> None:
    tree = read(figure(EVIL, "<svg></svg>", note="of <all>", key=["a", "b"], boxes=boxes))
    caption = tree.one("figure").one("figcaption")
    assert caption.text == EVIL + "of <all>" + "ab"
    assert [n.attrs["class"].split()[-1] for n in caption.all(swatch)] == ["s0", "s1"]


def test_tables_have_a_caption_and_headings_with_scope(read) -> None:
    columns = [Column("client", "text"), Column("loss"), Column("message", "long")]
    tree = read(table("All", columns, [[EVIL, "0.5", EVIL], ["b", "", "fine"]]))
    assert tree.one("caption").text == "All"
    assert [n.text for n in tree.all("th", scope="col")] == ["client", "loss", "message"]
    assert [n.text for n in tree.all("th", scope="row")] == [EVIL, "b"]
    assert [n.text for n in tree.all("td")] == ["0.5", EVIL, BLANK, "fine"]
    assert len(tree.all("th")) == 5
    region = tree.one("div", role="region")
    assert (region.attrs["tabindex"], region.attrs["aria-label"]) == ("0", "All")


def test_a_row_that_does_not_fit_its_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        table("All", [Column("a"), Column("b")], [["1"]])


def test_what_is_folded_is_closed(read) -> None:
    tree = read(fold("Table of <3>", "<p>x</p>"))
    assert tree.one("summary").text == "Table of <3>"
    assert "open" not in tree.one("details").attrs
