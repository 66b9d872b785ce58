"""The diagram in the documentation says what the transition table says."""

from __future__ import annotations

import re
from pathlib import Path

from tinyscheduler.core.leases import TRANSITIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-it-works.md"
DIAGRAM = re.compile(r"^```mermaid\s+stateDiagram(?:-v2)?\s*$(.*?)^```", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"^\s*(\w+)\s*-->\s*(\w+)\s*:\s*(.+?)\s*$", re.MULTILINE)


def drawn_moves(page: str) -> set[tuple[str, str, str]]:
    """Return (state, event, next state) of each arrow; one arrow may bear several events."""
    diagrams = DIAGRAM.findall(page)
    assert len(diagrams) == 1, f"{PAGE.name} should hold one mermaid stateDiagram"
    return {
        (before, event.strip(), after)
        for before, after, events in ARROW.findall(diagrams[0])
        for event in events.split(",")
    }


def test_the_diagram_shows_exactly_the_moves_of_the_table():
    table = {
        (state.value, event.value, after.value) for (state, event), after in TRANSITIONS.items()
    }

    drawn = drawn_moves(PAGE.read_text())

    assert drawn - table == set(), "drawn, but not in the table"
    assert table - drawn == set(), "in the table, but not drawn"


def test_every_arrow_of_a_diagram_is_read():
    page = """
```mermaid
stateDiagram-v2
    [*] --> waiting
    waiting --> working: claim
    working-->waiting : requeue, lose
    done --> [*]
```
"""

    assert drawn_moves(page) == {
        ("waiting", "claim", "working"),
        ("working", "requeue", "waiting"),
        ("working", "lose", "waiting"),
    }
