"""``top`` and ``status --watch``: a screen that is left as it was, and plain text elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest
from tests.process.station import until

if TYPE_CHECKING:
    from tests.cli.place import Place

ENTER, LEAVE, HOME = "\x1b[?1049h", "\x1b[?1049l", "\x1b[H"
LIMIT_S = 40


class Screen:
    """A program at a terminal whose size can be changed and at which keys can be typed."""

    def __init__(self, place: Place, *arguments: str, columns: int = 80, lines: int = 24) -> None:
        self._master, terminal = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(terminal)
        self._terminal = terminal
        self.process = subprocess.Popen(
            place.argv(*arguments),
            env=place.environment(TERM="xterm"),
            cwd=place.base,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        self.text = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_until(self, words: str, *, times: int = 1) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.text.count(words) < times:
            assert time.monotonic() < deadline, self.text
            ready, _, _ = select.select([self._master], [], [], 1)
            if ready:
                self.text += os.read(self._master, 65536).decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        code = self.process.wait(timeout=LIMIT_S)
        self.read_until(LEAVE)
        assert termios.tcgetattr(self._terminal) == self.before
        os.close(self._master)
        os.close(self._terminal)
        return code

    def widest(self) -> int:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)
        return max(len(line) for line in re.split(r"[\r\n]", plain))


@pytest.fixture
def busy(place: Place) -> Place:
    """Return a place with one long task at work and one that waits."""
    place.settings |= {"AGENT_LIMITS": "shell:1", "MAX_CONCURRENT_SLOTS": "1"}
    place.add("--cwd", "/", "--title", "a long title " * 20, "--", "sleep", "1000")
    place.add("--cwd", "/", "--", "true")
    place.run("run")
    until(lambda: place.run("show", "1", "--json").json["state"] == "running", "task 1 to run")
    return place


@pytest.mark.parametrize("command", [["top"], ["status", "--watch"]])
def test_q_leaves_the_screen_as_it_was_and_ends_with_0(busy: Place, command: list[str]):
    screen = Screen(busy, *command, "--interval", "0.2s")
    screen.read_until("a long title")
    assert ENTER in screen.text

    screen.type(b"q")

    assert screen.end() == 0
    assert screen.widest() <= 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_screen_as_it_was_and_ends_with_0(busy: Place, number: int):
    screen = Screen(busy, "top")
    screen.read_until("q leaves")

    screen.process.send_signal(number)

    assert screen.end() == 0
    assert "Traceback" not in screen.text


def test_a_new_size_is_drawn_at_once_however_narrow(busy: Place):
    screen = Screen(busy, "top", "--interval", "1h", columns=80)
    screen.read_until("q leaves")

    screen.text = ""
    screen.resize(40, 8)
    screen.process.send_signal(signal.SIGWINCH)
    screen.read_until("q leaves")

    # The end of what was drawn for the old size may have come before it.
    _, home, screen.text = screen.text.rpartition(HOME)
    assert home
    assert screen.widest() <= 40
    screen.type(b"Q")
    assert screen.end() == 0


def test_in_a_pipe_it_prints_again_and_again(busy: Place):
    answer = busy.run("top", "-n", "2", "--interval", "0.1s")

    assert (answer.code, answer.err) == (0, "")
    assert "\x1b" not in answer.out
    assert answer.out.count("saturated, 1 of 1 slots in use") == 2
    assert answer.out.count("ID  AGENT  ATTEMPT  FOR") == 2


def test_each_look_is_one_line_of_json(busy: Place):
    answer = busy.run("top", "-n", "2", "--interval", "0.1s", "--json")

    first, second = (json.loads(line) for line in answer.out.splitlines())
    assert first["schema_version"] == second["schema_version"] == 1
    (attempt,) = second["running"]
    assert attempt["task_id"] == "1"
    assert attempt["processes"] == 2  # the wrapper and its command
    assert attempt["memory_bytes"] > 0
    assert attempt["cpu_percent"] >= 0
    assert second["waiting"] == [{"agent": "shell", "queue": None, "waiting": 1, "held": 0}]


def test_status_watched_in_a_pipe_goes_on_until_it_is_ended(busy: Place):
    watching = busy.start("status", "--watch", "--interval", "0.1s", "--json")
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline()) for _ in range(2)]

    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=LIMIT_S)

    assert watching.returncode == 0
    assert {line["load_state"] for line in lines} == {"saturated"}


def test_nothing_at_all_is_shown_too(place: Place):
    answer = place.run("top", "-n", "1")

    assert answer.code == 0
    assert "nothing is running" in answer.out
    assert not place.state.exists()


@pytest.mark.parametrize("interval", ["0", "0.01s", "2d", "often"])
def test_an_interval_that_makes_no_sense_is_refused(place: Place, interval: str):
    answer = place.run("top", "--interval", interval)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: --interval ")
