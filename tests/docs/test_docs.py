"""What the documentation says is what the program does."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import typer
from tests.builders import a_lease
from tests.cli.loaded import standing_in
from tests.docs.pages import (
    LONGEST_S,
    TOP,
    Exchange,
    agrees,
    exchanges,
    refill,
    run,
    typed,
    without_passing,
)

from tinyscheduler import errors
from tinyscheduler.cli.demo_stage import processes_of
from tinyscheduler.cli.main import COMMANDS, Commands, app
from tinyscheduler.config import agents_file
from tinyscheduler.config.inputs import InputFile
from tinyscheduler.core.command_line import PLACEHOLDERS
from tinyscheduler.model.config import ALWAYS_ALLOWED
from tinyscheduler.model.documents import encode_lease
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.plan import Reason
from tinyscheduler.model.tasks import FailureReason, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DOCS = TOP / "docs"
RUN = (
    "README.md",
    "docs/quick-start.md",
    "docs/guides/budgets.md",
    "docs/guides/deploy-a-policy.md",
    "docs/guides/gpus.md",
    "docs/guides/models-and-quotas.md",
    "docs/guides/policies-in-yaml.md",
    "docs/guides/provider-limits.md",
    "docs/guides/install-and-upgrade.md",
    "docs/guides/living-with-it.md",
    "docs/guides/run-it-every-minute.md",
    "docs/guides/schedules.md",
    "docs/guides/test-a-policy.md",
    "docs/guides/try-a-policy.md",
    "docs/guides/what-is-it-doing.md",
)
# Who begins starts the program itself, and so does who sends it signals; elsewhere starting takes
# longer than all that is done.
STARTED = ("README.md", "docs/quick-start.md", "docs/guides/run-it-every-minute.md")
PACKAGE = TOP / "src" / "tinyscheduler"


def page(name: str) -> str:
    return (TOP / name).read_text()


def code_in(text: str) -> set[str]:
    """Return everything that stands between backticks on one line."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder as a reader's checkout; what is started in it ends with the test."""
    with standing_in(tmp_path / "tinyscheduler"):
        yield tmp_path
    # Another user's processes, or the test's own, never name this path.
    for pid in processes_of(str(tmp_path)):
        with suppress(ProcessLookupError):  # it may have ended since
            os.kill(pid, signal.SIGKILL)


# -- commands that are run ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)  # thirty starts of the program, on a machine that has others to serve
@pytest.mark.parametrize("name", RUN)
def test_every_command_of_the_page_prints_what_the_page_says(name: str, folder: Path):
    conversation = exchanges(page(name))
    if name in STARTED:
        (folder / "tinyscheduler").unlink()

    assert conversation
    for exchange in conversation:
        printed = run(exchange.command, folder).splitlines()
        assert agrees(exchange.answer, tuple(printed)), (
            f"$ {exchange.command}\nthe page says:\n"
            + "\n".join(exchange.answer)
            + "\nit prints:\n"
            + "\n".join(printed)
            + f"\nif that is right: python tests/docs/pages.py {name}"
        )


@pytest.mark.parametrize("name", RUN)
def test_a_page_that_adds_tasks_says_in_which_queue_they_have_these_numbers(name: str):
    text = page(name)
    adds = [one for one in exchanges(text) if "tinyscheduler add" in one.command]

    assert not adds or re.search(r"fresh (queue|checkout)|mktemp -d", text)


# Not to be done on the machine that tests: they ask somebody, or are for the machine's owner.
ONLY_PARSED = re.compile(r"sudo|service (install|uninstall)|demo|selftest")
NEVER_ENDING = re.compile(r"run --daemon|logs -f|events -f|top|status --watch")
# A command that is right is done, is not so now, finds nothing, or no such task, or is too late.
ANSWERS = {0, 1, 3, 5, 124}
# Some would ask, and nobody is there; others are right for a task in another state.
REFUSES = re.compile(r"service|init|reset|retry|edit|release")
MISTYPED = re.compile(
    r"--help` shows what there is|there is no command|did you mean|internal error"
)
WITH_SHELL_LINES = sorted(
    str(path.relative_to(TOP))
    for path in [TOP / "README.md", *DOCS.rglob("*.md")]
    if typed(path.read_text())
)


def agents_files(text: str) -> list[str]:
    """Return the blocks of a page that show an agents file, or a part of one."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [one for one in blocks if re.search(r"^(agents|profiles):", one, re.MULTILINE)]


WITH_AGENTS = sorted(
    str(path.relative_to(TOP))
    for path in [TOP / "README.md", *DOCS.rglob("*.md")]
    if agents_files(path.read_text())
)


@pytest.fixture
def furnished(folder: Path) -> Path:
    """Return a folder with all that the guides take for granted: programs, recipes, notes."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("goose", "claude", "my-agent", "make"):
        (programs / name).write_text("#!/bin/sh\ncat\n")
        (programs / name).chmod(0o755)
    (programs / "tinyscheduler").symlink_to("../tinyscheduler")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "fix-tests.yaml").write_text("title: fix\n")
    for name in ("project", "state", ".zfunc", ".config/fish/completions"):
        (folder / name).mkdir(parents=True)
    (folder / ".local/share/bash-completion/completions").mkdir(parents=True)
    (folder / "notes.txt").write_text("sum this up\n")
    (folder / "tasks.jsonl").write_text('{"command": ["true"]}\n')
    (folder / ".env.tinyscheduler").write_text("TINYSCHEDULER_STAGGER_DELAY_MS=0\n")
    guide = page("docs/guides/run-commands-and-agents.md")
    (agents,) = re.findall(r"^```yaml\n(.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)
    (folder / "agents.yaml").write_text(agents)
    guide = page("docs/guides/schedules.md")
    (schedules,) = re.findall(r"^```yaml\n(.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL)
    (folder / "schedules.yaml").write_text(schedules)
    (folder / "prompts").mkdir()
    (folder / "prompts" / "review.md").write_text("review what is open\n")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(10 * LONGEST_S)
@pytest.mark.parametrize("name", WITH_SHELL_LINES)
def test_every_command_of_the_page_does_what_it_is_shown_for(name: str, furnished: Path):
    lines = typed(page(name))
    script = "".join(f'{as_tested(line)}\necho "exit code $?"\n' for line in lines)

    prologue = 'PATH="$PWD/bin:$PATH"; tinyscheduler validate-config --fix >/dev/null'
    # Dozens of commands, on a machine that may be busy.
    printed = run(f"{prologue}\n{script}", furnished, limit_s=9 * LONGEST_S)

    codes = [int(code) for code in re.findall(r"^exit code (\d+)$", printed, flags=re.MULTILINE)]
    assert len(codes) == len(lines), printed
    for line, code in zip(lines, codes, strict=True):
        wanted = {0} if " add " in line and " wait " not in line else ANSWERS
        if REFUSES.search(line):
            wanted = wanted | {2}
        assert code in wanted, f"{line}\n{printed}"
    assert not MISTYPED.search(printed), printed


def as_tested(line: str) -> str:
    """Return a line of a page as a test may type it: it ends, and asks for nothing."""
    command = line.partition("  #")[0].rstrip().replace(" wait ", " wait --timeout 1s ")
    # Of the shell that tests, which is not everybody's.
    command = re.sub(r"^source <\((.*)\)$", r"\1", command)
    if NEVER_ENDING.search(command):
        return f"timeout 1 {command} || true"
    if ONLY_PARSED.search(command):
        return re.sub(r"^.*?(\S*tinyscheduler .*)", r"\1 --help", command)
    return command


@pytest.mark.parametrize("name", WITH_AGENTS)
def test_each_agents_file_of_a_page_is_read_without_a_word(name: str):
    for text in agents_files(page(name)):
        source = InputFile(path="agents.yaml", content=text.encode())
        found = agents_file.parse_agents_file(source, path="agents.yaml", goose="goose")
        assert found.problems == [], text


def test_the_lines_that_use_the_program_are_found():
    block = "cd x\nts=$(./tinyscheduler ps)\ntinyscheduler add \\\n-- true\nls # tinyscheduler x\n"
    text = f"before\n```sh\n{block}```\n"

    assert typed(text) == ["ts=$(./tinyscheduler ps)", "tinyscheduler add  -- true"]


def test_the_pages_run_with_the_settings_a_reader_has(tmp_path: Path):
    assert run("env | grep -o '^TINYSCHEDULER_[A-Z_]*'", tmp_path) == "TINYSCHEDULER_BASE_PATH\n"


def test_a_page_is_read_as_a_conversation():
    text = "```console\n$ cat > f <<'END'\n> one\n> END\n$ cat f\none\n```\n"

    assert exchanges(text) == [
        Exchange(command="cat > f <<'END'\none\nEND", answer=()),
        Exchange(command="cat f", answer=("one",)),
    ]


def test_a_page_is_refilled_with_what_comes_back(tmp_path: Path):
    text = "before\n```console\n$ echo one\nzero\n$ cat <<END\n> two\n> END\n```\nafter\n"

    new = refill(text, tmp_path)

    assert (
        new == "before\n```console\n$ echo one\none\n$ cat <<END\n> two\n> END\ntwo\n```\nafter\n"
    )


def test_what_passes_is_forgotten_and_the_rest_is_compared():
    assert agrees(("task 7  3s ago", "in 12 ms"), ("task 7   12s ago", "in 9 ms"))
    assert not agrees(("task 7 done",), ("task 7 parked",))
    assert not agrees(("1 started",), ("2 started",))
    assert agrees(("a", "…", "z"), ("a", "b", "c", "z"))
    assert not agrees(("a", "…", "z"), ("a", "b"))
    assert without_passing("2026-11-21T06:05:34.130Z, 5 s from now") == "TIME, N s from now"


@pytest.mark.slow
def test_every_file_that_a_run_leaves_is_described(folder: Path):
    (folder / "agents.yaml").write_text("agents: {reader: {command: [cat, '{prompt_file}']}}")
    run("./tinyscheduler add --prompt-file tinyscheduler --agent reader --start", folder)
    assert run("./tinyscheduler wait 1", folder) == "task 1 done\n"
    run("./tinyscheduler add --start -- sleep 600", folder)
    run("./tinyscheduler cancel 2; timeout 1 ./tinyscheduler run --daemon", folder)
    described = [
        re.compile(
            re.escape(name)
            .replace("LEASE_ID", "[0-9a-f]+")
            .replace("YYYYMMDD", r"\d{8}")
            .replace("ATTEMPT", r"\d+")
            .replace("TICK", r"\d{8}T\d{6}\.\d{6}Z")
            .replace("ROUND", r"\d+")
            .replace("V", r"\d+")
            .replace("ID", r"\d+")
            + ("(-wal|-shm)?" if name.endswith(".db") else "")
        )
        for name in code_in(page("docs/reference/files.md"))
        if name.startswith("state/")
    ]

    left = [str(path.relative_to(folder)) for path in folder.glob("state/**/*") if path.is_file()]

    assert len(left) > 8
    assert not [name for name in left if not any(one.fullmatch(name) for one in described)]


@pytest.mark.parametrize(("name", "stroke"), [("light", "#d0d7de"), ("dark", "rgba(255,255,255")])
def test_the_pictures_have_an_edge_and_name_no_folder_of_somebody(name: str, stroke: str):
    demo, gpus = (page(f"docs/images/{kind}-{name}.svg") for kind in ("demo", "gpus"))

    for picture in (demo, gpus):
        assert f'stroke="{stroke}' in picture
        assert "font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace" in picture
    assert re.findall(r"/tmp/tinyscheduler-demo[^<]*", demo) == ["/tmp/tinyscheduler-demo"]
    assert "/tmp" not in gpus


def test_the_pictures_are_told_to_those_who_do_not_see_them():
    demo, gpus = re.findall(r'alt="([^"]+)"', page("README.md"))

    for word in ("killed", "reclaimed", "cancelled", "parked", "every promise kept"):
        assert word in demo
    for word in ("two GPUs", "reserved", "whole GPU"):
        assert word in gpus


# -- reference ------------------------------------------------------------------------


def sections(text: str) -> dict[str, str]:
    """Return the second-level sections of a page by their titles."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options(parameters: Sequence[Any]) -> set[str]:
    return {
        spelling
        for parameter in parameters
        if not getattr(parameter, "hidden", False)
        for spelling in parameter.opts
        if spelling.startswith("-")
    }


def words_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text, re.IGNORECASE))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_in_its_section(name: str):
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    command = group.get_command(typer.Context(group, info_name="tinyscheduler"), name)
    assert command is not None

    described = words_of(sections(page("docs/reference/commands.md"))[name])

    assert options(command.params) - described == set()


def test_no_section_describes_an_option_that_is_none():
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    known = {*options(group.params), "--help", "-h", "-vv"}
    for name, text in sections(page("docs/reference/commands.md")).items():
        command = group.get_command(
            typer.Context(group, info_name="tinyscheduler", resilient_parsing=True), name
        )
        known |= options(command.params) if command is not None else set()
        listed = {
            word
            for row in re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
            for word in words_of(row)
        }

        assert listed - known == set(), name


def test_every_global_option_is_described():
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)

    described = words_of(sections(page("docs/reference/commands.md"))["Global options"])

    assert options(group.params) - described == set()


def test_every_setting_is_described_with_its_default():
    example = dict(
        re.findall(r"^#(TINYSCHEDULER_\w+)=(.*)$", page(".env.tinyscheduler.example"), re.MULTILINE)
    )
    rows = re.findall(
        r"^\| `(TINYSCHEDULER_\w+)` \| (?:`([^`]*)`)? ?\|",
        page("docs/reference/configuration.md"),
        re.MULTILINE,
    )

    assert len(rows) == len({name for name, _ in rows})
    assert dict(rows) == example


def test_every_key_of_an_agent_and_every_placeholder_is_described():
    described = code_in(page("docs/reference/configuration.md"))

    assert set(agents_file._AGENT_FIELDS) - described == set()
    assert {f"{{{name}}}" for name in PLACEHOLDERS} - described == set()


def test_what_every_command_sees_of_the_environment_is_named_alike_on_each_page():
    in_files = re.search(r"Besides these it sees (.*?), what", page("docs/reference/files.md"))
    others = [
        re.search(r"`(PATH HOME [A-Z_ ]+)`", page(name))
        for name in ("docs/reference/configuration.md", "docs/guides/run-commands-and-agents.md")
    ]

    for found in (in_files, *others):
        assert found is not None
        assert set(re.findall(r"[A-Z_]+", found[1])) == set(ALWAYS_ALLOWED)


def test_every_exit_code_is_described():
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}

    rows = re.findall(r"^\| (\d+) \|", page("docs/reference/exit-codes.md"), re.MULTILINE)

    assert codes - {int(code) for code in rows} == set()


def test_every_reason_a_person_may_meet_is_explained():
    trouble = code_in(page("docs/guides/troubleshooting.md"))
    how = code_in(page("docs/how-it-works.md"))
    # Nothing gives them yet; and who is told of a cancel has asked for it.
    to_come = {"out_of_memory", "cancelled", "source_down"}

    assert set(Reason) - to_come - trouble == set()
    assert set(FailureReason) - to_come - trouble == set()
    assert set(ReclaimReason) - how == set()
    assert set(TaskState) - how == set()


def test_every_event_that_is_told_is_listed():
    told = {
        name
        for name in EventName
        if any(
            f"EventName.{name.name}" in path.read_text()
            for path in PACKAGE.rglob("*.py")
            if path.name != "events.py"
        )
    }

    assert told - code_in(page("docs/reference/files.md")) == set()


def test_the_lease_in_the_reference_has_the_keys_of_a_real_one():
    block = re.search(r"```json\n(.*?)```", page("docs/reference/files.md"), re.DOTALL)
    assert block is not None
    shown = json.loads(block.group(1))

    real = encode_lease(a_lease())

    assert shown.keys() == real.keys()
    for name in ("monotonic", "needs"):
        assert shown[name].keys() == real[name].keys()


def test_every_message_that_is_explained_can_be_met():
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    messages = re.findall(r"^### `(.+)`$", page("docs/guides/troubleshooting.md"), re.MULTILINE)

    assert messages
    for message in messages:
        longest = max(re.split(r"…", message), key=len)
        # In the source a message may be written in two pieces.
        half = longest.strip(" ,();:")[: max(12, len(longest) // 2)]
        assert half in code, message


# -- decisions ------------------------------------------------------------------------


def test_decisions_are_numbered_and_have_one_form():
    records = sorted((DOCS / "decisions").glob("*.md"))

    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text()
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.search(r"^Status: \w+\nDate: \d{4}-\d\d-\d\d$", text, re.MULTILINE), path.name
        assert list(sections(text)) == ["Context", "Decision", "Consequences"], path.name
        assert len(text.splitlines()) <= 70, f"{path.name} is longer than a page"
