"""Is what decides, starts and ends tasks tested in every branch?

Reads the measurement of `scripts/test`.  The core must be covered whole.  In
the tick and the wrapper some branches need a broken kernel or a full disk at
one exact moment: each has to stand in tests/uncovered.toml with its reason, and
has to go from there once a test reaches it.

    [[uncovered]]
    file = "wrapper.py"
    function = "beat"               # Class.method for a method
    source = "except OSError:"      # the line that was never run, or that always went one way
    to = "return"                   # only in the second case: where it never went ("exit": the end)
    reason = "utime on an open descriptor fails only if the file system breaks."

Lines are named by their text, so that an edit above them changes nothing.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "src" / "tinyscheduler"
LISTED_FILE = TOP / "tests" / "uncovered.toml"
MAY_LIST = ("tick/", "wrapper.py")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Gap:
    """One place that no test reaches, named without line numbers."""

    file: str
    function: str
    source: str
    to: str | None

    def __str__(self) -> str:
        """Write the entry that would list this gap."""
        fields = {"file": self.file, "function": self.function, "source": self.source}
        if self.to is not None:
            fields["to"] = self.to
        body = "\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
        return f'[[uncovered]]\n{body}\nreason = ""\n'


class SourceFile:
    """The text of one file, by line number."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._functions = sorted(_functions(ast.parse(text), prefix=""))

    def line(self, number: int) -> str:
        """Return the text of a line; a number below zero leaves the function."""
        return "exit" if number < 0 else self._lines[number - 1].strip()

    def function(self, number: int) -> str:
        """Return the name of the innermost function around a line."""
        around = [name for first, last, name in self._functions if first <= number <= last]
        return around[-1] if around else "module"


def _functions(tree: ast.AST, *, prefix: str) -> list[tuple[int, int, str]]:
    found = []
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}".lstrip(".")
            found.append((node.lineno, node.end_lineno or node.lineno, name))
        found.extend(_functions(node, prefix=name))
    return found


def find_gaps(name: str, text: str, measured: dict[str, Any]) -> set[Gap]:
    """Return where tests stop: branches never taken, and lines that no such branch leads to."""
    source = SourceFile(text)
    missing_lines = set(measured["missing_lines"])
    gaps = set()
    explained = set()
    for start, end in measured["missing_branches"]:
        # Branches inside code that never ran are explained by what leads there.
        if start not in missing_lines:
            explained.add(end)
            gaps.add(_gap(name, source, start, to=source.line(end)))
    for number in sorted(missing_lines):
        if number in explained or _statement_before(number, measured) in missing_lines:
            continue
        gaps.add(_gap(name, source, number, to=None))
    return gaps


def _gap(name: str, source: SourceFile, number: int, *, to: str | None) -> Gap:
    return Gap(file=name, function=source.function(number), source=source.line(number), to=to)


def _statement_before(number: int, measured: dict[str, Any]) -> int:
    statements = [*measured["missing_lines"], *measured["executed_lines"]]
    return max((line for line in statements if line < number), default=0)


def read_listed() -> dict[Gap, str]:
    """Read the list of known gaps and their reasons."""
    entries = tomllib.loads(LISTED_FILE.read_text()).get("uncovered", [])
    return {
        Gap(
            file=entry["file"],
            function=entry["function"],
            source=entry["source"],
            to=entry.get("to"),
        ): entry["reason"]
        for entry in entries
    }


def measure() -> dict[str, Any]:
    """Return coverage's own findings by file name inside the package."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        data = coverage.Coverage()
        data.load()
        data.json_report(outfile=str(report))
        files: dict[str, Any] = json.loads(report.read_text())["files"]
    return {os.path.relpath(TOP / name, PACKAGE): measured for name, measured in files.items()}


def core_faults(files: dict[str, Any]) -> list[str]:
    """Say what of the core is not covered."""
    gaps = (
        gap
        for name, measured in files.items()
        if name.startswith("core" + os.sep)
        for gap in find_gaps(name, (PACKAGE / name).read_text(), measured)
    )
    return [f"not covered:\n{gap}" for gap in sorted(gaps, key=str)]


def listed_faults(found: set[Gap], listed: dict[Gap, str]) -> list[str]:
    """Say where the list and the measurement differ."""
    file = LISTED_FILE.relative_to(TOP)
    return [
        *(
            f"not covered, and not in {file}:\n{gap}"
            for gap in sorted(found - set(listed), key=str)
        ),
        *(f"in {file}, but covered by now:\n{gap}" for gap in sorted(set(listed) - found, key=str)),
        *(f"in {file} without a reason:\n{gap}" for gap in listed if not listed[gap].strip()),
    ]


def main() -> int:
    """Print what is wrong and return 1, or one line of figures and 0."""
    files = measure()
    found = {
        gap
        for name, measured in files.items()
        if name.startswith(MAY_LIST)
        for gap in find_gaps(name, (PACKAGE / name).read_text(), measured)
    }
    faults = [
        *core_faults(files),
        *(
            f"{place}: not measured"
            for place in MAY_LIST
            if not any(name.startswith(place) for name in files)
        ),
        *listed_faults(found, read_listed()),
    ]
    if faults:
        print("\n".join(faults))
        return 1
    print(f"core covered whole; tick and wrapper: {len(found)} gaps, each listed with its reason")
    return 0


if __name__ == "__main__":
    sys.exit(main())
