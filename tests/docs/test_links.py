"""Links between pages lead somewhere; those inside `docs/` stay there, as the site needs it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "src").rglob("README.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


def prose(path):
    """The page without its fenced blocks and its code spans."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path):
    """The anchors of a page's headings, as both renderers make them for plain words."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\s-]", "", h.lower()).strip().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(path):
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{link} leads nowhere"
        if DOCS in path.parents:
            assert DOCS in found.parents, f"{link} leaves docs/"
        if anchor:
            assert anchor in anchors(found), f"{link}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    for word in ("/home/", "/root" + "/", "/opt" + "/"):
        assert word not in text


def test_every_page_is_in_the_navigation():
    import yaml

    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")}
    assert (
        yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["theme"]["font"] is False
    )
