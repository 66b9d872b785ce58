"""What agents do to tasks, people see: who took one, what was written, which parts it has."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import LIMIT_S, Place, settle_text
from tests.mcp_server.clients import answers_at, call, refuse

from tinyscheduler.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "base")
    yield place
    place.clean_up()


def test_show_and_why_tell_who_took_a_task_and_what_was_written_about_it(place: Place):
    answers = answers_at(place.base)
    call(answers, "create_task", title="Fix it", created_by="ann", assigned_to="bob")
    call(answers, "create_subtask", parent_task_id=1, title="First look", created_by="ann")
    call(answers, "add_comment", task_id=1, content="one\n\x1b[31mtwo", created_by="bob")
    call(answers, "add_link", task_id=1, url="notes.md", description="what I saw")
    call(answers, "update_task", id=2, assigned_to="eve", status="working")

    whole = settle_text(place.run("show", "1").out, place)
    why = place.run("why", "2").out

    facts = ("asked for by: ann", "parts:  2 (held)", "link:  notes.md  what I saw")
    assert set(facts) <= set(whole.splitlines())
    assert "comments:\n  bob, AGE ago:\n    one\n    \\x1b[31mtwo\n" in whole
    assert "taken by:  eve, AGE" in settle_text(place.run("show", "2").out, place)
    assert "eve took it" in why
    assert "tinyscheduler --base-path" in why
    assert place.run("why", "2", "--json").json["taken_by"] == "eve"
    shown = place.run("show", "1", "--json").json
    assert (shown["created_by"], shown["parts"], shown["parent"]) == ("ann", ["2"], None)
    assert [one["content"] for one in shown["comments"]] == ["one\n\x1b[31mtwo"]

    assert place.run("release", "2").code == 0
    assert place.run("show", "2", "--json").json["taken_by"] is None


def test_typed_at_a_terminal_it_says_what_it_is_for_and_ctrl_c_ends_it(place: Place):
    master, terminal = pty.openpty()
    with subprocess.Popen(
        place.argv("mcp"),
        env=place.environment(),
        cwd=place.base,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        screen = b""
        while b"Ctrl-C ends it" not in screen:
            screen += os.read(master, 4096)
        # Loaded by now, or soon: whichever, nothing holds it up.
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=LIMIT_S / 4)
    os.close(master)

    assert code == 130
    assert b"Traceback" not in screen


def test_a_client_that_goes_away_ends_it_without_a_word(place: Place):
    with subprocess.Popen(
        place.argv("-q", "mcp"),
        env=place.environment(),
        cwd=place.base,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        code, told = process.wait(timeout=LIMIT_S / 4), process.stderr.read()

    assert (code, told) == (141, b"")


def test_without_its_package_it_says_how_to_get_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delenv("TINYSCHEDULER_BASE_PATH")

    code = main(["--base-path", str(place.base), "mcp"])

    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert "error: mcp needs the package mcp" in err
    assert "pip install 'tinyscheduler[mcp]'" in err


def test_a_long_line_is_told_to_a_model_in_part(place: Place):
    answers = answers_at(place.base)
    lines = "\n".join(f'{{"agent": "shell", "command": ["true", "{one}"]}}' for one in range(60))
    assert place.run("add", "--from", "-", stdin=lines.encode()).code == 0

    told = call(answers, "status")

    assert len(told["waiting"]) + told["left_out"].get("waiting", 0) == 58
    assert len(told["waiting"]) == 50


def test_what_people_ask_for_is_described_to_agents_by_its_prompt(place: Place):
    (place.base / "agents.yaml").write_text("agents: {coder: {command: [cat, '{prompt_file}']}}\n")
    task_id = place.add("--agent", "coder", "--prompt", "do it", "--label", "team=red", "--hold")

    task = call(answers_at(place.base), "get_task", id=task_id)

    assert (task["title"], task["description"], task["tags"]) == ("do it", "do it", ["team=red"])
    assert (task["status"], task["state"], task["assigned_to"]) == ("idle", "held", "coder")


def test_what_people_hold_and_cancel_agents_neither_take_nor_complete(place: Place):
    answers = answers_at(place.base)
    held = place.add("--hold", "--", "true")
    cancelled = place.add("--", "true")
    place.run("cancel", cancelled)

    for status in ("working", "complete"):
        assert "who holds one releases it" in refuse(answers, "update_task", id=held, status=status)
        assert "is cancelled" in refuse(answers, "update_task", id=cancelled, status=status)
    assert call(answers, "list_tasks")["count"] == 1
    assert call(answers, "list_tasks", include_archived=True)["count"] == 2
