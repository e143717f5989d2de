"""A run to show, and a strict reader of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pytest

VOID = {"meta"}


@dataclass
class Node:
    """An element: its tag, attributes, and children, which are elements and text."""

    tag: str
    attrs: dict[str, str | None] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, **attrs: str) -> list[Node]:
        """Return the elements below with this tag and these attributes."""
        return [
            n
            for n in self.walk()
            if n.tag == tag and all(n.attrs.get(k.rstrip("_")) == v for k, v in attrs.items())
        ]

    def one(self, tag: str, **attrs: str) -> Node:
        """Return the only such element."""
        (found,) = self.all(tag, **attrs)
        return found

    def walk(self) -> Iterator[Node]:
        """Yield all elements below."""
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    @property
    def text(self) -> str:
        """The text in it."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class _Strict(HTMLParser):
    """Builds the tree; an element that is not closed where it must be is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


@pytest.fixture
def read() -> Callable[[str], Node]:
    def parse(html: str) -> Node:
        reader = _Strict()
        reader.feed(html)
        reader.close()
        (root,) = reader.open
        return root

    return parse


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Return a run of three rounds by two clients; keywords replace its parts."""

    def build(**changes: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            "run_id": "lab-1",
            "name": "lab",
            "status": "completed",
            "reason": "",
            "engine": "inline",
            "seed": 7,
            "strategy": "fedavg",
            "selection": "uniform",
            "aggregation": {"kind": "plain"},
            "rounds": [round_of(1, 0.70, 0.5), round_of(2, 0.60, 0.6), round_of(3, 0.55, 0.75)],
            "metrics": {"loss": 0.55, "accuracy": 0.75},
            "client_metrics": {"north": {"accuracy": 0.8}, "south": {"accuracy": 0.7}},
            "coverage": {
                "clients": 2,
                "seen": 2,
                "never_seen": 0,
                "participations": 5,
                "jain": 25 / (2 * 13),
                "rounds_since_mean": 0.5,
                "rounds_since_max": 1,
                "strata": None,
            },
            "privacy": {
                "mode": "none",
                "epsilon": None,
                "delta": None,
                "unit": None,
                "level": "L0",
            },
            "model_sha256": "ab" * 32,
            "model_path": None,
            "duration_s": 3.2,
            "failures": [],
        }
        return body | changes

    return build


def round_of(number: int, loss: float, accuracy: float) -> dict[str, Any]:
    lost = int(number == 2)
    return {
        "selected": 2,
        "completed": 2 - lost,
        "dropped": lost,
        "round": number,
        "attempt": 1,
        "weight": 64.0,
        "update_norm": {"mean": 0.04, "max": 0.05},
        "bytes_up": 384,
        "bytes_down": 224,
        "mechanism": "none",
        "epsilon": None,
        "metrics": {"train_loss": loss + 0.02, "loss": loss, "accuracy": accuracy},
        "duration_s": 1.0,
        "model_sha256": "cd" * 32,
    }
