"""No command and no option is forgotten: help, example, document, reference, manual, test."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from tinyscheduler.cli.command_tree import read_command, read_commands, read_program
from tinyscheduler.cli.examples import epilog_of
from tinyscheduler.cli.main import COMMANDS, Commands, app
from tinyscheduler.cli.manual import pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer, Place

TOP = Path(__file__).resolve().parents[2]
NAMES = tuple(COMMANDS)
# What these print is for a shell, for a person's eye, a protocol, or the bytes of a log.
WITHOUT_A_DOCUMENT = {"logs", "completion", "help", "mcp"}
# The document of each command that can be had in an empty place, and what it ends with.
# What doctor and service find depends on the machine.
DOCUMENTS: dict[str, tuple[list[str], int | set[int]]] = {
    "run": (["run", "--dry-run"], 0),
    "add": (["add", "--json", "--", "true"], 0),
    "status": (["status"], 0),
    "list": (["list"], 0),
    "show": (["show", "1"], 0),
    "why": (["why", "1"], 0),
    "ps": (["ps"], 0),
    "wait": (["wait", "1", "--timeout", "0"], 124),
    "top": (["top", "-n", "1"], 0),
    "parked": (["parked"], 0),
    "history": (["history"], 0),
    "report": (["report"], 0),
    "events": (["events", "-n", "1"], 0),
    "health": (["health"], 0),
    "gpu": (["gpu"], 3),  # no machine of a test has one
    "snapshot": (["snapshot"], 0),
    "replay": (["replay", "--list"], 0),
    "policy": (["policy", "show"], 0),
    "schedule": (["schedule", "list"], 0),
    "pressure": (["pressure", "list"], 0),
    "agent": (["agent", "list"], 0),
    "hold": (["hold", "1"], 0),
    "release": (["release", "1"], 0),
    "cancel": (["cancel", "1"], 0),
    "retry": (["retry", "1"], 0),
    "edit": (["edit", "1", "--priority", "2"], 0),
    "pause": (["pause", "agent:shell"], 0),
    "resume": (["resume", "agent:shell"], 0),
    "drain": (["drain"], 0),
    "undrain": (["undrain"], 0),
    "prune": (["prune"], 0),
    "config": (["config"], 0),
    "validate-config": (["validate-config", "--fix"], 0),
    "init": (["init", "--yes"], 0),
    "doctor": (["doctor"], {0, 1}),
    "service": (["service", "status"], {0, 3}),
    "reset": (["reset", "--yes"], 0),
}
# Those that take long have tests of their own, which look at the same.
ELSEWHERE = {"demo", "selftest"}


@pytest.mark.parametrize("name", NAMES)
def test_each_command_and_option_has_a_help_text_and_an_example(name: str):
    command = read_command(name)

    assert command.text
    assert command.text[0].endswith(".")
    assert len(command.summary) < 90, "the first sentence stands alone in the list of commands"
    for option in command.options:
        assert option.help, option.spellings
        assert re.search(r"[.\]]$", option.help), option.help
    assert command.examples
    assert "xample" not in " ".join(command.text), "examples stand below, and once"


@pytest.mark.parametrize("name", NAMES)
def test_each_help_names_its_arguments_once_and_as_the_usage_does(
    here: Callable[..., Answer], name: str
):
    shown = here(name, "--help").out

    usage, _, rest = shown.partition("\n\n")
    assert not re.search(r"[{}]|<(str|int|list)\b", shown)
    assert max(map(len, shown.splitlines())) <= 80
    for argument in read_command(name).arguments:
        assert re.search(rf" \[?(-- )?{argument.name}(\.\.\.)?\]?(?= |$)", usage), usage
    section = re.search(r"^Arguments:\n((?:  .*\n)*)", rest, re.MULTILINE)
    assert (section is not None) == bool(read_command(name).arguments)
    lines = section[1].splitlines() if section else []
    columns = {match.end() for line in lines if (match := re.match(r" *\S+  +", line))}
    assert len(columns) <= 1, "aligned"


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_shown_by_the_help_and_is_a_command_line(
    here: Callable[..., Answer], name: str
):
    shown = here(name, "--help").out

    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    for example in read_command(name).examples:
        assert example in shown
        words = shlex.split(re.sub(r" [>|] .*", "", example))
        assert words[0] == "tinyscheduler"
        # Global options first, then exactly this command, and nothing that it would refuse.
        rest = words[1:]
        while rest[0].startswith("-"):
            rest = rest[1:]
        assert rest[0] == name
        parent = typer.Context(group, info_name="tinyscheduler")
        command = group.get_command(parent, name)
        assert command is not None
        command.make_context(name, rest[1:], parent=parent)


def test_a_command_without_examples_has_no_empty_heading():
    assert epilog_of("nonsense") is None


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_A_DOCUMENT])
def test_each_command_that_prints_data_can_print_a_document(name: str):
    assert "--json" in {one for option in read_command(name).options for one in option.spellings}


def test_each_document_has_its_version_and_each_ends_as_the_table_says(place: Place):
    place.run("add", "--", "true")
    missing = set(NAMES) - set(DOCUMENTS) - ELSEWHERE - WITHOUT_A_DOCUMENT
    assert not missing, f"say in DOCUMENTS how these are asked for theirs: {missing}"

    for name, (arguments, code) in DOCUMENTS.items():
        if name not in NAMES:
            continue
        json_option = [] if "--json" in arguments else ["--json"]
        answer = place.run(*arguments, *json_option)

        assert answer.code in (code if isinstance(code, set) else {code}), (name, answer)
        assert answer.json["schema_version"] == 1, name
        assert "\n" not in answer.out.rstrip("\n"), name


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_in_the_reference_and_in_a_test(name: str):
    reference = (TOP / "docs" / "reference" / "commands.md").read_text()
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/reference/commands.md has no section on {name}"
    tests = "\n".join(path.read_text() for path in (TOP / "tests").rglob("test_*.py"))

    for option in read_command(name).options:
        for spelling in option.spellings:
            if spelling not in {"--help", "-h"}:
                assert f"`{spelling}" in section[1], spelling
        words = [re.escape(one) for one in option.spellings]
        # As an argument of a command line, in a list of them, or as one word of a text.
        assert re.search(rf"""["'\s]({"|".join(words)})(["'\s=]|$)""", tests, re.MULTILINE), (
            f"no test names {option.spellings} of {name}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_is_none_ends_with_2_and_so_does_a_word_too_many(
    here: Callable[..., Answer], name: str
):
    answer = here(name, "--no-such-option")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: no such option: --no-such-option\n")
    if not read_command(name).arguments:
        assert here(name, "stray").code == 2


EXIT_CODES: tuple[tuple[int, list[str], dict[str, str]], ...] = (
    (0, ["show", "1"], {}),
    (1, ["wait", "1", "2"], {}),
    (1, ["health"], {"MEMORY_WARNING": "0.000001", "MEMORY_CRITICAL": "0.000001"}),
    (2, ["list", "--limit", "none"], {}),
    (2, ["history", "--since", "whenever"], {}),
    (3, ["cancel", "1"], {}),
    (3, ["logs", "3"], {}),
    (4, ["status"], {"AGENT_LIMITS": "="}),
    (5, ["why", "99"], {}),
    (5, ["wait", "3", "99"], {}),
    (5, ["replay", "1999"], {}),
    (69, ["list"], {"BREAK": "1"}),
    (75, ["add", "--", "true"], {"MAX_QUEUE_DEPTH": "1"}),
    (124, ["wait", "3", "--timeout", "0"], {}),
)


def test_exit_codes_are_those_of_the_table(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    place.add("--", "true")
    place.add("--", "false")
    place.run("run")
    place.run("wait", "1", "2")
    place.add("--hold", "--", "true")
    settings = dict(place.settings)

    for code, arguments, more in EXIT_CODES:
        place.settings = settings | more
        database = place.state / "tinyscheduler.db"
        kept = database.read_bytes()
        if place.settings.pop("BREAK", None):
            for name in ("", "-wal", "-shm"):
                database.with_name(database.name + name).unlink(missing_ok=True)
            database.write_bytes(b"no database" * 999)
        answer = place.run(*arguments)
        if "BREAK" in more:
            database.write_bytes(kept)

        assert answer.code == code, (arguments, answer)
        assert "Traceback" not in answer.err
        if code in {2, 4, 5, 69, 75}:
            assert answer.err.startswith("error: "), (arguments, answer)


# -- the manual -----------------------------------------------------------------------


def test_the_man_pages_are_those_of_the_commands():
    written = {path.name: path.read_text() for path in (TOP / "man").glob("*")}

    assert written == pages(), "scripts/man writes them anew"
    assert set(written) == {"tinyscheduler.1", *(f"tinyscheduler-{name}.1" for name in NAMES)}


def test_the_manual_names_every_command_and_every_option():
    manual = pages()

    for command in (read_program(), *read_commands()):
        name = command.name if command.name == "tinyscheduler" else f"tinyscheduler-{command.name}"
        text = manual[f"{name}.1"].replace("\\-", "-")
        for option in command.options:
            assert all(f"\\fB{one}\\fR" in text for one in option.spellings), name
        assert f"tinyscheduler-{command.name}" in manual["tinyscheduler.1"].replace("\\-", "-") or (
            command.name == "tinyscheduler"
        )


@pytest.mark.parametrize(
    ("program", "arguments", "allowed"),
    [
        ("groff", ["-man", "-ww", "-Tutf8", "-z"], "(?!)"),
        ("mandoc", ["-Tlint", "-W", "warning"], "missing date"),
        ("man", ["--warnings", "-E", "UTF-8", "-l"], "(?!)"),
    ],
)
def test_formatters_find_nothing_wrong(program: str, arguments: list[str], allowed: str):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    for path in sorted((TOP / "man").glob("*.1")):
        done = subprocess.run(
            [program, *arguments, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told = done.stderr + (done.stdout if program == "mandoc" else "")
        assert [line for line in told.splitlines() if not re.search(allowed, line)] == []


def test_text_that_roff_would_take_for_a_request_is_kept_as_text():
    from tinyscheduler.cli.manual import _line

    assert _line(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert _line("'x \\n -y") == "\\(aqx \\en \\-y"
