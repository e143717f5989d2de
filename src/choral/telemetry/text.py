"""Values as people read them on a page: escaped text, and numbers among which NaN is a dash."""

from __future__ import annotations

import math
import re
from html import escape
from typing import Any, Final

BLANK: Final = "\u2013"
"""What stands where there is no value."""

LARGEST: Final = 1e300
"""Numbers beyond it are shown as no value: an axis could not hold them."""

_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, of which XML knows none
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # would turn the text after them around
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # cannot be encoded, or are no characters
)
_SIZES: Final = ("B", "kB", "MB", "GB", "TB")


def plain(value: object, *, limit: int = 400) -> str:
    """Return any value as text that is safe in HTML, in SVG and in a quoted attribute.

    Args:
        value: What to show; client ids and messages may be hostile.
        limit: Characters before it is cut.

    Guarantees: no markup, no quote, no character that XML forbids, that UTF-8 cannot encode or
    that turns the direction of the text around it.

    >>> plain('<b> & "quotes"')
    '&lt;b&gt; &amp; &quot;quotes&quot;'
    """
    text = _UNSAFE.sub("\ufffd", str(value))
    return escape(text if len(text) <= limit else text[: limit - 1] + "…", quote=True)


def finite(value: Any) -> float | None:
    """Return a number that an axis can hold, or None for anything else.

    >>> finite(2), finite(float("nan")), finite(None), finite(True)
    (2.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None


def whole(value: Any) -> int:
    """Return a count; 0 where there is none.

    >>> whole(4), whole(None)
    (4, 0)
    """
    found = finite(value)
    return 0 if found is None else int(found)


def number(value: Any) -> str:
    """Return a number for a table: whole ones with commas, others with four decimals.

    >>> number(12345), number(0.75197), number(0.00001234), number(None)
    ('12,345', '0.7520', '1.23e-05', '–')
    """
    found = finite(value)
    if found is None:
        return BLANK
    if isinstance(value, int) and abs(value) < 1e15:
        return f"{value:,}"
    size = abs(found)
    if found and not 1e-3 <= size < 1e7:
        return f"{found:.3g}"
    return f"{found:,.1f}" if size >= 1000 else f"{found:.4f}"


def percent(value: Any) -> str:
    """Return a share in [0, 1] as a percentage.

    >>> percent(0.25), percent(None)
    ('25.0 %', '–')
    """
    found = finite(value)
    return BLANK if found is None else f"{100 * found:.1f} %"


def size_unit(most: float) -> tuple[str, float]:
    """Return the unit in which sizes up to `most` bytes read well, and its bytes.

    >>> size_unit(384), size_unit(2_500_000)
    (('B', 1.0), ('MB', 1000000.0))
    """
    step = 0 if most < 1000 else min(int(math.log10(most) + 1e-12) // 3, len(_SIZES) - 1)
    return _SIZES[step], 1000.0**step


def size(value: Any) -> str:
    """Return a number of bytes for people.

    >>> size(384), size(1234), size(None)
    ('384 B', '1.23 kB', '–')
    """
    found = finite(value)
    if found is None:
        return BLANK
    unit, factor = size_unit(abs(found))
    if unit == "B":
        return f"{found:.0f} B"
    scaled = found / factor
    decimals = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:,.{decimals}f} {unit}"


def duration(value: Any) -> str:
    """Return seconds for people.

    >>> duration(0.0123), duration(3.14), duration(192), duration(7500), duration(None)
    ('12 ms', '3.1 s', '3 min 12 s', '2 h 5 min', '–')
    """
    found = finite(value)
    if found is None:
        return BLANK
    if found < 0.9995:
        return f"{found * 1000:.0f} ms"
    if found < 59.95:
        return f"{found:.1f} s"
    seconds = round(found)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600:,} h {seconds % 3600 // 60} min"
