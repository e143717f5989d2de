"""The pieces of a page that needs nothing beside it: frame, style, tiles, figures, tables.

Whatever is called `text` in here is escaped; whatever is called `html` is markup already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from choral.telemetry.text import BLANK, plain

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing. A script that got in would not run."""

_LIGHT: Final = (
    "--page:#f3f5f8;--card:#ffffff;--edge:#d0d4da;--text:#1f2328;--soft:#59636e;--grid:#e4e7eb;"
    "--axis:#a4acb6;--accent:#24557f;--s0:#2f6ea8;--s1:#d0622b;--bad:#b3261e;--badbg:#fdecea;"
    "--good:#1a7037;--goodbg:#e5f4ea;--calm:#59636e;--calmbg:#e9ecf0;--hover:#2f6ea81f"
)
_DARK: Final = (
    "--page:#0d1116;--card:#15191f;--edge:#333b46;--text:#e6eaef;--soft:#9aa5b1;--grid:#262d36;"
    "--axis:#59636e;--accent:#8fc1ee;--s0:#6caee6;--s1:#f0935a;--bad:#ff9a92;--badbg:#3a1a19;"
    "--good:#7ddb98;--goodbg:#14301f;--calm:#b3bcc6;--calmbg:#262d36;--hover:#6caee62e"
)

STYLE: Final = f"""
:root{{{_LIGHT}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--page);color:var(--text);overflow-wrap:anywhere;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}}
main{{max-width:1120px;margin:0 auto;padding:36px 24px 24px}}
header{{border-bottom:1px solid var(--edge);padding-bottom:20px;margin-bottom:24px}}
h1{{font-size:34px;line-height:1.15;margin:4px 0 10px;letter-spacing:-.01em;display:flex;
flex-wrap:wrap;gap:6px 14px;align-items:center}}
h2{{font-size:21px;line-height:1.25;margin:40px 0 12px;letter-spacing:-.005em}}
h3{{font-size:15px;margin:0 0 4px}}
p{{margin:0 0 12px;max-width:76ch}}
.over{{color:var(--accent);font-size:13px;font-weight:600;letter-spacing:.08em;
text-transform:uppercase;margin:0}}
.lead{{font-size:18px;margin:0}}
.soft,figcaption small,.note{{color:var(--soft)}}
.note{{font-size:14px;max-width:110ch}}
.status{{font-size:14px;font-weight:600;letter-spacing:0;border-radius:99px;padding:4px 12px;
color:var(--calm);background:var(--calmbg)}}
.status.completed{{color:var(--good);background:var(--goodbg)}}
.status.failed{{color:var(--bad);background:var(--badbg)}}
.banner{{max-width:none;border-left:4px solid var(--bad);background:var(--badbg);
padding:12px 16px;border-radius:6px;margin:20px 0 0}}
.tiles{{display:flex;flex-wrap:wrap;gap:14px;margin:0}}
.tile,.card,figure{{background:var(--card);border:1px solid var(--edge);border-radius:10px}}
.tile{{flex:1 1 220px;padding:14px 16px}}
.tile.code{{flex:3 1 560px}}
.tile dt{{font-size:13px;color:var(--soft)}}
.tile dd{{margin:0}}
.tile dd:not(.note){{font-size:28px;line-height:1.25;font-weight:600;letter-spacing:-.01em;
font-variant-numeric:tabular-nums}}
.tile.words dd:not(.note){{font-size:20px;line-height:1.75}}
.tile.digits dd:not(.note),.tile.code dd:not(.note){{
font:15px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
letter-spacing:0;padding:4px 0}}
.tile dd.note{{font-size:13px;line-height:1.4}}
.columns{{display:grid;gap:14px;grid-template-columns:1fr 1fr}}
.columns>*{{min-width:0}}
.columns>.scroll{{align-self:start}}
.columns+.scroll,.columns+details,.tiles+.columns,.columns+.note{{margin-top:14px}}
.card{{padding:16px 18px}}
.card p:last-child{{margin:0}}
figure{{margin:0;padding:14px 16px 8px;break-inside:avoid;display:flex;flex-direction:column}}
figcaption{{font-weight:600;font-size:15px;margin-bottom:6px}}
figcaption small{{display:block;font-weight:400;font-size:13px;line-height:1.45}}
.key{{display:flex;flex-wrap:wrap;gap:2px 16px;margin:0;padding:0;list-style:none;font-size:13px;
font-weight:400;color:var(--soft)}}
.key svg{{width:22px;height:10px;margin-right:6px;vertical-align:0}}
figure>svg{{display:block;width:100%;height:auto;margin-top:auto}}
svg text{{font-size:13px;fill:var(--text);font-variant-numeric:tabular-nums}}
svg text.soft{{fill:var(--soft)}}
.grid{{stroke:var(--grid)}}
.axis{{stroke:var(--axis)}}
.mark{{stroke:var(--text);stroke-dasharray:4 3;stroke-width:1.3}}
.halo{{stroke:var(--card);stroke-width:3.5}}
.s0{{fill:var(--s0);stroke:none}}
.s1{{fill:var(--s1);stroke:none}}
.line{{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}}
.line.s0{{stroke:var(--s0)}}
.line.s1{{stroke:var(--s1);stroke-dasharray:6 4}}
.band{{fill:transparent}}
.band:hover{{fill:var(--hover)}}
.bar:hover{{opacity:.8}}
.scroll{{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:10px}}
.scroll:focus-visible,summary:focus-visible{{outline:3px solid var(--s0);outline-offset:2px}}
table{{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}}
caption{{text-align:left;padding:12px 14px 6px;color:var(--soft);font-size:13px}}
th,td{{padding:6px 9px;text-align:right;border-top:1px solid var(--grid);white-space:nowrap;
vertical-align:baseline}}
th:first-child{{padding-left:14px}}
td:last-child,th:last-child{{padding-right:14px}}
thead th{{border-top:0;border-bottom:1px solid var(--edge);font-size:13px;vertical-align:bottom}}
tbody th{{font-weight:500}}
th.text,td.text{{text-align:left;white-space:normal}}
th.text,td.text{{min-width:11ch}}
td.long{{min-width:34ch}}
details{{margin-top:14px}}
summary{{cursor:pointer;color:var(--accent);font-weight:600;padding:4px 0;margin-bottom:8px;
width:fit-content}}
footer{{border-top:1px solid var(--edge);margin-top:44px;padding-top:14px;color:var(--soft);
font-size:13px}}
@media (max-width:860px){{
.columns{{grid-template-columns:1fr}}
}}
@media (max-width:560px){{
main{{padding:22px 14px}}
h1{{font-size:27px}}
h2{{margin-top:32px}}
.lead{{font-size:16px}}
.tiles,.columns{{gap:10px}}
.tile{{flex-basis:145px;padding:11px 13px}}
.tile.code{{flex-basis:100%}}
.tile dd:not(.note){{font-size:23px}}
.tile.words dd:not(.note){{font-size:17px}}
.tile.digits dd:not(.note),.tile.code dd:not(.note){{font-size:13px}}
figure{{padding:12px 10px 6px}}
svg text{{font-size:16px}}
}}
@media print{{
@page{{margin:14mm}}
:root{{--page:#ffffff}}
body{{font-size:10.5pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}}
main{{padding:0;max-width:none}}
.columns{{grid-template-columns:1fr 1fr}}
.tile{{flex-basis:145px;padding:8px 10px}}
.tile.code{{flex-basis:380px}}
.tile dd:not(.note){{font-size:16pt}}
.tile.words dd:not(.note){{font-size:11pt}}
.tile.digits dd:not(.note),.tile.code dd:not(.note){{font-size:8pt}}
.tile,.card,tr{{break-inside:avoid}}
h2,summary,caption{{break-after:avoid}}
.scroll{{overflow:visible}}
table,thead th{{font-size:7.5pt}}
thead th{{white-space:normal;overflow-wrap:normal}}
th,td{{padding:2px 5px}}
.columns>.scroll{{grid-column:1/-1}}
details::details-content{{content-visibility:visible;block-size:auto}}
}}
"""


def page(*, title: str, header: str, sections: Iterable[str], footer: str) -> str:
    """Return the whole page.

    Args:
        title: Text for the window.
        header: HTML at the top.
        sections: HTML of each section; empty ones are left out.
        footer: HTML at the end.
    """
    body = "\n".join(s for s in sections if s)
    return (
        '<!doctype html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{plain(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n{header}\n</header>\n{body}\n<footer>\n{footer}\n</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def section(name: str, title: str, *parts: str) -> str:
    """Return a section with a heading; nothing where all its parts are empty.

    Args:
        name: Its id, unique on the page.
        title: Text of the heading.
        parts: HTML.
    """
    body = "\n".join(p for p in parts if p)
    if not body:
        return ""
    return (
        f'<section aria-labelledby="{plain(name)}">\n<h2 id="{plain(name)}">{plain(title)}</h2>\n'
        f"{body}\n</section>"
    )


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure, as text.

    Attributes:
        name: What it is.
        value: The figure.
        note: A line below it.
        look: `figure`, `words` for a value of words, `digits` for a long number, or `code` for one
            that needs a row.
    """

    name: str
    value: str
    note: str = ""
    look: str = "figure"


def tiles(items: Iterable[Tile]) -> str:
    """Return key figures side by side."""
    return '<dl class="tiles">\n' + "\n".join(map(_tile, items)) + "\n</dl>"


def _tile(item: Tile) -> str:
    note = f'<dd class="note">{plain(item.note)}</dd>' if item.note else ""
    return (
        f'<div class="tile {item.look}"><dt>{plain(item.name)}</dt>'
        f"<dd>{plain(item.value)}</dd>{note}</div>"
    )


def figure(
    title: str, html: str, *, note: str = "", key: Sequence[str] = (), boxes: bool = False
) -> str:
    """Return a drawing with its caption.

    Args:
        title: Text.
        html: The drawing.
        note: Text below the title.
        key: Names of the series, in the order of their colours.
        boxes: True where the series are areas, False where they are lines.
    """
    small = f"<small>{plain(note)}</small>" if note else ""
    items = "".join(
        f'<li><svg viewBox="0 0 22 10" aria-hidden="true">{_swatch(at, boxes)}</svg>'
        f"{plain(name)}</li>"
        for at, name in enumerate(key)
    )
    colours = f'<ul class="key">{items}</ul>' if items else ""
    return f"<figure>\n<figcaption>{plain(title)}{small}{colours}</figcaption>\n{html}\n</figure>"


def _swatch(at: int, boxes: bool) -> str:
    """Return a sample of a series' colour."""
    if boxes:
        return f'<rect class="s{at}" x="5" y="0" width="12" height="10" rx="2"/>'
    return f'<line class="line s{at}" x1="1" y1="5" x2="21" y2="5"/>'


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        kind: `number`, `text`, or `long` for sentences.
    """

    name: str
    kind: str = "number"


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls by itself where it is wide; the first cell names its row.

    Args:
        caption: Text.
        columns: Of the cells.
        rows: Text of each row's cells.
    """
    classes = ["" if c.kind == "number" else f' class="text {c.kind}"' for c in columns]
    head = "".join(
        f'<th scope="col"{look}>{plain(c.name)}</th>'
        for c, look in zip(columns, classes, strict=True)
    )
    lines = []
    for row in rows:
        first, *rest = (plain(cell) or BLANK for cell in row)
        cells = "".join(
            f"<td{look}>{cell}</td>" for cell, look in zip(rest, classes[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row"{classes[0]}>{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{plain(caption)}">\n<table>'
        f"<caption>{plain(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>\n</div>"
    )


def fold(title: str, html: str) -> str:
    """Return something long behind a line that opens it."""
    return f"<details><summary>{plain(title)}</summary>\n{html}\n</details>"
