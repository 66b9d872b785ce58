"""What `policy check` and `policy deploy` say about a policy that was checked."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.render import escape

if TYPE_CHECKING:
    from tinyscheduler.app.policies import Checked


def checked_lines(checked: Checked) -> list[str]:
    """Return the findings, what the policy logged, and whether it could rule."""
    lines = []
    for one in checked.findings:
        where = f" (asked about {', '.join(one.contexts)})" if one.contexts else ""
        lines.append(f"{one.severity}: {escape(one.words)}{where}")
    lines += [f"log {level}: {escape(text)}" for level, text in checked.log]
    if checked.is_usable:
        took = f"at most {ceil(checked.slowest_ms)} ms" if checked.slowest_ms is not None else ""
        lines.append(f"{escape(checked.name)} can rule: {took} a question")
    return lines


def checked_json(checked: Checked) -> dict[str, Any]:
    """Return the same as values of JSON."""
    return {
        "name": checked.name,
        "version": checked.version,
        "is_usable": checked.is_usable,
        "slowest_ms": checked.slowest_ms,
        "findings": [
            {"severity": one.severity.value, "words": one.words, "contexts": list(one.contexts)}
            for one in checked.findings
        ],
        "log": [{"level": level, "text": text} for level, text in checked.log],
    }
