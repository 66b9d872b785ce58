"""What is typed wrongly is answered with what, where and the fix, and never with a traceback."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.cli import main as command_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer, Place

OPTIONS_OF_ADD = """
    --agent --queue --title --prompt --prompt-file --recipe --priority --class --gpus --vram
    --memory --model --seed --tenant --project --max-runtime --max-turns --max-attempts --after
    --not-before --label --cwd --env --hold --from --start --json
"""
OPTIONS_OF_RUN = """
    --once --daemon --dry-run --fail-if-locked --agent-limit --loop-interval
    --heartbeat-interval --max-runtime --running-dir --log-dir --recipes-dir --goose-bin
    --mcp-endpoint --disable-blocking --json
"""
COMMANDS_ON_TASKS = ("show", "logs", "wait", "cancel", "retry", "hold", "release")

NO_ROOM = b"error: cannot write the output: No space left on device\nhint: make room"


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (["lst"], "there is no command 'lst'", "did you mean list?"),
        (["frobnicate"], "there is no command 'frobnicate'", "--help"),
        (["start"], "there is no command 'start'", "did you mean run?"),
        (["help", "ad"], "there is no command 'ad'", "did you mean add?"),
        (["list", "--stat", "done"], "no such option: --stat", "did you mean --state?"),
        (["add", "--titel", "x", "ls"], "no such option: --titel", "did you mean --title?"),
        (["run", "--max-runtime"], "requires an argument", " run --help` shows"),
        (["--frob"], "no such option: --frob", "--help"),
        (["status", "--base-path", "x"], "no such option: --base-path", "before the command"),
        (["list", "--limit", "x"], "--limit: 'x' is not a whole number", "--help"),
        (["list", "--limit", "0"], "--limit: 0 is not in the range from 1 to ", "--help"),
        (
            ["list", "--limit", "9" * 20],
            "--limit: 99999999999999999999 is not in the range from 1 to ",
            "--help",
        ),
        (
            ["logs", "1", "-n", "9" * 5000],
            f"--lines / -n: {'9' * 37}... is not in the range",
            "--help",
        ),
        (["list", "--state", "ready"], "--state: 'ready' is not one of 'waiting'", "--help"),
        (["show"], "an argument is missing", "--help"),
        (["status", "x"], "error: too many arguments: x", "--help"),
        (["status", "-q"], "no such option: -q", "before the command: `tinyscheduler --base-path "),
        (["list", "-V"], "no such option: -V", "before the command"),
        (["--color"], "option '--color' requires an argument", "--help"),
        (["wait", "1", "--timeout", "soon"], "--timeout 'soon': expected a duration", ""),
        (["run", "--once", "--daemon"], "--daemon and --once cannot be given together", ""),
        (["run", "--daemon", "--dry-run"], "cannot be given together", ""),
        (["run", "--agent-limit", "shell"], "--agent-limit 'shell' is not AGENT=N", "coder=2"),
        (["run", "--agent-limit", "shell=-1"], "'shell=-1' is not AGENT=N", "coder=2"),
        (["run", "--agent-limit", "../x=1"], "--agent-limit", "coder=2"),
        (["run", "--max-runtime", "long"], "--max-runtime", "15m"),
        (["run", "--heartbeat-interval", "-1"], "--heartbeat-interval", "15m"),
        (["--log-level", "loud", "run"], "--log-level", "DEBUG, INFO"),
        (["--env-file", "/nonexistent", "run"], "--env-file", ""),
        (["--base-path", "/dev/null", "status"], "--base-path: /dev/null is not a folder", "set"),
        (["add", "--priority", "high", "--", "true"], "--priority: 'high'", "--help"),
        (["add", "--class", "urgent", "--", "true"], "--class: 'urgent'", "--help"),
        (["run", "--kicked"], "no such option: --kicked", "--help"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_how_to_mend_it(
    here: Callable[..., Answer], arguments: list[str], what: str, fix: str
):
    answer = here(*arguments)

    assert (answer.code, answer.out) == (2, "")
    first, *rest = answer.err.splitlines()
    assert first.startswith("error: ")
    assert what in first
    assert len(rest) == 1
    assert fix in rest[0]
    assert rest[0].startswith("hint: ")


@pytest.mark.parametrize("command", COMMANDS_ON_TASKS)
def test_texts_that_can_be_no_task_are_refused_and_never_reach_the_terminal(
    here: Callable[..., Answer], place: Place, command: str
):
    for text in ("../x", "a;b", "-x", "a\nb", "\x1b[2J", "x" * 100, "", "a..b", "é"):
        answer = here(command, "--", text)

        assert (answer.code, answer.out) == (5, ""), text
        first, hint = answer.err.splitlines()
        assert first.startswith("error: ")
        assert first.isprintable()
        assert len(first) < 160
        assert hint == f"hint: `{place.program} list` shows the tasks there are"
    assert not place.state.exists()


@pytest.mark.parametrize("command", COMMANDS_ON_TASKS)
def test_a_task_that_does_not_exist_ends_with_5(here: Callable[..., Answer], command: str):
    answer = here(command, "4711")

    assert (answer.code, answer.out) == (5, "")
    assert "error: there is no task '4711'\n" in answer.err


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_command_explains_itself(here: Callable[..., Answer], name: str):
    answer = here(name, "-h")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: tinyscheduler {name} ")
    assert answer.out == here(name, "--help").out
    assert max(map(len, answer.out.splitlines())) <= 80
    assert not re.search(r"<(str|int|list)[>[]", answer.out)
    assert "[default: 0]" not in here("--help").out.partition("--verbose")[2].splitlines()[0]


@pytest.mark.parametrize(("name", "options"), [("add", OPTIONS_OF_ADD), ("run", OPTIONS_OF_RUN)])
def test_every_documented_option_is_there(here: Callable[..., Answer], name: str, options: str):
    words = here(name, "--help").out.split()

    assert [option for option in options.split() if option not in words] == []


def test_the_help_names_every_command(here: Callable[..., Answer]):
    answer = here("--help")

    assert answer.code == 0
    commands = answer.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == list(command_line.COMMANDS)
    assert not [line for line in commands if line.endswith("...")]


def test_the_version_is_told_with_either_option(here: Callable[..., Answer]):
    assert here("-V").out == here("--version").out
    assert here("-V").out.startswith("tinyscheduler ")


def test_a_bug_ends_with_70_and_one_line_and_only_debug_shows_where(
    here: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
):
    # A command of the table that is no command at all: as wrong as a bug can be.
    monkeypatch.setitem(command_line.COMMANDS, "broken", "tinyscheduler.cli.render:SCHEMA_VERSION")

    answer = here("broken")

    assert (answer.code, answer.out) == (70, "")
    first, hint = answer.err.splitlines()
    assert first.startswith("error: internal error: ")
    assert "--debug" in hint
    assert "Traceback" in here("--debug", "broken").err


def test_ctrl_c_ends_a_wait_with_130_and_without_words(place: Place):
    task_id = place.add("--hold", "--", "true")
    waiting = place.start("wait", task_id)
    assert waiting.stderr is not None
    # It says that the task is held once it waits.
    assert b"is held" in waiting.stderr.readline()

    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)

    assert (waiting.returncode, out, err) == (130, b"", b"")


def test_closed_standard_streams_do_no_harm(place: Place):
    answer = place.run("add", "--", "true")
    assert answer.code == 0

    done = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&- <&-', "sh", *place.argv("add", "--", "true")],
        env=place.environment(),
        cwd=place.base,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    assert len(place.run("list", "--json").json["tasks"]) == 2


def test_a_full_disk_under_stdout_is_told_in_one_line(place: Place):
    place.state.mkdir(mode=0o700)
    done = subprocess.run(
        ["sh", "-c", '"$@" >/dev/full', "sh", *place.argv("status")],
        env=place.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith(
        b"error: cannot write the output: No space left on device\nhint: "
    )


@pytest.mark.parametrize("arguments", [["--help"], ["list", "-h"], ["--version"]])
def test_help_on_a_full_disk_is_told_in_one_line(place: Place, arguments: list[str]):
    done = subprocess.run(
        ["sh", "-c", '"$@" >/dev/full', "sh", *place.argv(*arguments)],
        env=place.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith(
        b"error: cannot write the output: No space left on device\nhint: "
    )


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["list", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(place: Place, arguments: list[str]):
    place.add("--", "true")
    done = subprocess.run(
        ["sh", "-c", '{ "$@"; echo $? >&2; } | true', "sh", *place.argv(*arguments)],
        env=place.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.stderr in {b"141\n", b"0\n"}


def test_an_error_at_a_terminal_is_wrapped_and_what_is_to_be_typed_stays_whole(place: Place):
    code, screen = place.type("frobnicate", columns=26)

    assert code == 2
    assert screen == (
        "\x1b[31merror:\x1b[0m there is no command\n    'frobnicate'\n"
        "\x1b[2mhint:\x1b[0m\n    `tinyscheduler --help`\n    lists the commands; to\n"
        "    queue a command of\n    yours: add -- COMMAND\n"
    )


def test_help_can_be_asked_for_in_words(here: Callable[..., Answer]):
    assert here("help") == here("--help")
    assert here("help", "add") == here("add", "--help")
    assert here("help", "help") == here("help", "--help")
