"""House rules that a machine can check."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import tinyscheduler.core
import tinyscheduler.errors
import tinyscheduler.model

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "src" / "tinyscheduler"
LONGEST_FUNCTION = 60
CATCHES_ALL = ("tick/", "wrapper.py", "cli/")  # the three outermost places


def tracked_files() -> list[Path]:
    """Return the files of the project, new ones that git does not ignore included."""
    if not (TOP / ".git").exists():
        built = {".venv", ".venv-dev", "state", "__pycache__"}
        files = (path for path in TOP.rglob("*") if not built.intersection(path.parts))
        return [path for path in files if path.is_file()]
    # The checkout may belong to someone else, as in a container.
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        check=True,
        text=True,
    )
    paths = (TOP / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def tracked_text() -> list[tuple[Path, str]]:
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found.append((path, content.decode(errors="replace")))
    return found


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def shown(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(TOP)}" + (f":{line}" if line is not None else "")


def test_every_function_fits_on_a_screen():
    too_long = [
        f"{shown(path, node.lineno)}: {node.name} has {lines} lines"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        # A command's parameters are a table of its options; what must fit is what it does.
        if (lines := (node.end_lineno or 0) - node.body[0].lineno + 1) > LONGEST_FUNCTION
    ]

    assert not too_long


def test_every_module_says_what_it_is_for():
    silent = [
        shown(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert not silent


def test_no_module_is_named_after_nothing_in_particular():
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}

    assert not [shown(path) for path in sources() if vague & {path.stem, path.parent.name}]


def test_nothing_is_left_for_later():
    # In two halves, or this line would be the first to be found.
    later = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")

    assert not [
        shown(path, number)
        for path, text in tracked_text()
        for number, line in enumerate(text.splitlines(), start=1)
        if later.search(line)
    ]


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    # In two halves, or these lines would be the first to be found.
    hosts = [
        "pypi" + ".org",
        "files.python" + "hosted.org",
        "registry.npm" + "js.org",
        "deb.debian" + ".org",
    ]
    # The documented default of the base path is the one home folder that may be named.
    paths = r"(?<![\w./-])/(?:root|work|farm|home/(?!user/workspace/calypso)\w+)/\w"
    wrong = re.compile("|".join([*map(re.escape, hosts), paths]))

    assert not [
        f"{shown(path, number)}: {line.strip()}"
        for path, text in tracked_text()
        for number, line in enumerate(text.splitlines(), start=1)
        if wrong.search(line)
    ]


def test_only_the_three_outermost_places_catch_every_exception():
    broad = {"Exception", "BaseException", None}

    found = [
        shown(path, node.lineno)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        if broad & set(caught_names(node)) and not raises_again(node)
        if not str(path.relative_to(PACKAGE)).startswith(CATCHES_ALL)
    ]

    assert not found


def caught_names(handler: ast.ExceptHandler) -> list[str | None]:
    """Return the names an except clause catches; None for a bare one."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return [
        kind.id if isinstance(kind, ast.Name) else None
        for kind in kinds
        if not isinstance(kind, ast.Attribute)
    ]


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Say whether an except clause only cleans up: its last word is a bare raise."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_the_wrapper_imports_the_standard_library_only():
    tree = ast.parse((PACKAGE / "wrapper.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | {"__future__"}


def test_what_must_be_covered_is_never_excused_in_the_code():
    must = [
        path
        for path in sources()
        if path.parent.name in {"core", "tick"} or path.name == "wrapper.py"
    ]

    # In two halves, so that coverage does not read it here.
    assert not [shown(path) for path in must if "pragma: no " + "cover" in path.read_text()]


def test_every_silenced_check_has_its_reason_beside_it():
    silencer = re.compile(r"#\s*(?:noqa|type:\s*ignore|fmt:|ruff:\s*noqa)")
    reasoned = re.compile(
        r"#\s*(?:noqa: [A-Z0-9, ]+?|type: ignore\[[a-z, -]+\])\s+(?:#|-|--)\s*\S+"
    )

    without = []
    for path in python_files():
        with path.open("rb") as file:
            comments = [
                token
                for token in tokenize.tokenize(file.readline)
                if token.type == tokenize.COMMENT
            ]
        without += [
            shown(path, token.start[0])
            for token in comments
            if silencer.match(token.string) and not reasoned.match(token.string)
        ]

    assert not without


def test_every_rule_that_is_switched_off_has_its_reason_beside_it():
    text = (TOP / "pyproject.toml").read_text()
    rules = re.findall(r'^    "(?!ALL)[A-Z]+[0-9]*",.*$', text, re.MULTILINE)

    assert rules
    assert not [rule for rule in rules if not re.search(r"# \w", rule)]


def test_every_refusal_of_a_command_names_the_way_out():
    # Faults in a batch get theirs where the line is known.
    files = [path for path in (PACKAGE / "cli").glob("*.py") if path.name != "batch.py"]
    without = [
        shown(path, node.lineno)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and re.fullmatch(r"[A-Z]\w*Error", getattr(node.func, "id", ""))
        and hasattr(tinyscheduler.errors, getattr(node.func, "id", ""))
        and "hint" not in {keyword.arg for keyword in node.keywords}
    ]

    assert files
    assert not without


def test_every_example_in_a_docstring_is_true():
    attempted = 0
    for package in (tinyscheduler.core, tinyscheduler.model):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            result = doctest.testmod(importlib.import_module(info.name))
            assert result.failed == 0, info.name
            attempted += result.attempted

    assert attempted


@pytest.mark.parametrize(
    "page", [path for path in tracked_files() if path.suffix == ".md"], ids=shown
)
def test_every_link_leads_somewhere(page: Path):
    prose = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for target in re.findall(r"\]\(<?([^)\s>]+)", prose):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, heading = target.partition("#")
        leads_to = page.parent / name if name else page
        if not leads_to.exists() or (heading and heading not in headings(leads_to)):
            dead.append(target)

    assert not dead


def headings(page: Path) -> set[str]:
    """Return the anchors that a Markdown page gets for its headings."""
    titles = re.findall(r"^#+ +(.*?) *$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "LICENSE", ".env.tinyscheduler.example"]
)
def test_what_a_stranger_looks_for_first_is_there(name: str):
    assert (TOP / name).stat().st_size > 0


@pytest.mark.parametrize(
    "name", ["tinyscheduler", "scripts/test", "scripts/fmt", "scripts/lock", ".ci/run"]
)
def test_what_is_meant_to_be_run_can_be_run(name: str):
    assert os.access(TOP / name, os.X_OK)
    assert (TOP / name).read_text().startswith("#!")
