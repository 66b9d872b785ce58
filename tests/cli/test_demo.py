"""The demo keeps its promises, says so when one is broken, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.cli.demo import play
from tinyscheduler.cli.demo_stage import CAST, Part, Stage, processes_of
from tinyscheduler.cli.demo_verdict import check_attempts, check_order, check_overlaps, judge
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.cli.demo_stage import Happening
    from tinyscheduler.cli.standing import Standing

DEMO = [sys.executable, "-I", "-m", "tinyscheduler"]
ENDED = {
    "1": ("done", 1),
    "2": ("done", 2),
    "3": ("parked", 3),
    "4": ("done", 2),
    "5": ("cancelled", 1),
    "6": ("done", 1),
    "7": ("done", 1),
    "8": ("done", 1),
}


def environment(scratch: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(scratch), "NO_COLOR": "", **more}


def table_in(text: str) -> dict[str, tuple[str, int]]:
    """Return state and attempt of each task in the last table of a text without colours."""
    rows = re.findall(r"^(\d)  .*?  (?:writer|reviewer|builder) +(\w+) +(\d) ?", text, re.MULTILINE)
    return {task_id: (state, int(attempt)) for task_id, state, attempt in rows}


@pytest.mark.slow
def test_in_a_pipe_it_tells_the_whole_story_in_plain_lines(tmp_path: Path):
    done = subprocess.run(
        [*DEMO, "demo"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert table_in(done.stdout) == ENDED
    assert "\x1b" not in done.stdout
    assert re.search(
        r"task 2 failed \(command_failed\).*killed wrapper of task 4 \(SIGKILL\)"
        r"|killed wrapper of task 4 \(SIGKILL\).*task 2 failed \(command_failed\)",
        done.stdout,
        re.DOTALL,
    )
    assert re.search(
        r"killed wrapper of task 4.*task 4 reclaimed: dead_pid, attempt 2 follows.*task 4 done",
        done.stdout,
        re.DOTALL,
    )
    assert "every promise kept" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_in_a_terminal_it_draws_over_its_table_and_no_line_wraps(tmp_path: Path):
    # What its user has set must not reach it: neither limits nor an attempt around it.
    hostile = environment(
        tmp_path,
        NO_COLOR="1",
        TERM="xterm",
        TINYSCHEDULER_BASE_PATH=str(tmp_path / "mine"),
        TINYSCHEDULER_LEASE_ID="0123",
        TINYSCHEDULER_TASK_ID="77",
        TINYSCHEDULER_MAX_ATTEMPTS="1",
        TINYSCHEDULER_AGENT_LIMITS="writer:0,builder:0",
        TINYSCHEDULER_DRY_RUN="true",
    )
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    with subprocess.Popen(
        [*DEMO, "demo"], env=hostile, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        text = read_all(master)
    os.close(master)

    assert process.returncode == 0, text
    assert text.count("\x1b[1A") > 20, "the table was not drawn over"
    assert set(re.findall(r"\x1b\[[0-9;]*m", text)) == set(), "coloured in spite of NO_COLOR"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", text).replace("\r", "\n")
    # The line that names the folder is as long as that name.
    ours = [line.rstrip() for line in plain.split("\n") if str(tmp_path) not in line]
    assert [line for line in ours if len(line) > 80] == []
    assert table_in(plain) == ENDED
    assert list(tmp_path.iterdir()) == []


def read_all(fd: int) -> str:
    """Read a terminal until nobody has it open any more."""
    chunks = []
    while True:
        try:
            chunk = os.read(fd, 65536)
        except OSError:  # how Linux says that the last user of a terminal has gone
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()


@pytest.mark.slow
def test_kept_its_scratch_folder_is_a_base_path_to_look_around_in(tmp_path: Path):
    done = subprocess.run(
        [*DEMO, "demo", "--keep", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    report = json.loads(done.stdout)

    assert done.returncode == 0, report
    assert report["passed"] is True
    assert report["duration_sec"] < 20
    assert Path(report["base_path"]).parent == tmp_path.resolve()
    listed = subprocess.run(
        [*DEMO, "--base-path", report["base_path"], "list", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    states = {one["task_id"]: one["state"] for one in json.loads(listed.stdout)["tasks"]}
    assert states == {task_id: state for task_id, (state, _) in ENDED.items()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_what_it_started_and_removes_its_folder(
    tmp_path: Path, number: signal.Signals
):
    with subprocess.Popen(
        [*DEMO, "demo"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not any("started" in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended before anything was started"
        base = lines[0].split()[-1]
        assert processes_of(base)
        process.send_signal(number)
        process.communicate(timeout=60)

    assert process.returncode == 130
    assert processes_of(base) == []
    assert list(tmp_path.iterdir()) == []


class Darkness:
    """A view that nobody watches."""

    def say(self, *happenings: Happening) -> None:
        pass

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        pass


def test_an_ending_that_was_not_planned_breaks_a_promise(tmp_path: Path):
    part = Part(title="fails", agent="writer", script="exit 3", ends=TaskState.DONE)
    stage = Stage(str(tmp_path), [part])

    play(stage, Darkness(), longest_s=10)
    stage.wind_up()

    broken = [check.words for check in judge(stage) if not check.is_kept]
    assert any("task 1 is" in words and "not done" in words for words in broken), broken
    assert any(words.startswith("task 1 ran as attempts [1, 2") for words in broken), broken


def test_a_process_of_an_earlier_attempt_is_noticed(tmp_path: Path):
    # We hold what a process that escaped every sweep would still hold: the demo's own lock.
    stage = Stage(str(tmp_path), [Part(title="fine", agent="writer", script="true")])
    holder = os.open(tmp_path / "alive-1", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        play(stage, Darkness(), longest_s=30)
    finally:
        os.close(holder)
        stage.wind_up()

    broken = [check.words for check in judge(stage) if not check.is_kept]
    assert "task 1: attempt 1 began while another lived" in broken


def test_an_attempt_that_runs_twice_is_noticed():
    journal = [("start", "1", 1), ("end", "1", 1), ("start", "1", 1), ("end", "1", 1)]

    check = check_attempts(journal, {"1": CAST[0]})

    assert not check.is_kept
    assert check.words == "task 1 ran as attempts [1, 1], not 1 to 1"


def test_an_attempt_that_never_ran_is_noticed():
    assert not check_attempts([], {"1": CAST[0]}).is_kept


def test_two_attempts_at_once_are_noticed():
    journal = [("start", "1", 1), ("overlap", "1", 2), ("start", "1", 2)]

    assert not check_overlaps(journal).is_kept
    assert check_overlaps([journal[0], journal[2]]).is_kept


@pytest.mark.parametrize(
    ("journal", "is_kept"),
    [
        ([("start", "1", 1), ("end", "1", 1), ("start", "2", 1)], True),
        ([("start", "1", 1), ("start", "2", 1), ("end", "1", 1)], False),
        ([("start", "2", 1)], False),
        ([("start", "1", 1), ("end", "1", 1), ("start", "1", 2), ("start", "2", 1)], True),
    ],
)
def test_a_start_before_its_blocker_has_ended_is_noticed(
    journal: list[tuple[str, str, int]],
    is_kept: bool,  # noqa: FBT001 - the expectation
):
    assert check_order(journal, {"2": ["1"]}).is_kept is is_kept


def test_only_processes_of_its_own_base_path_count(tmp_path: Path):
    mine, other = tmp_path / "mine", tmp_path / "mine-too"
    with subprocess.Popen(
        ["sleep", "60"], env={"PATH": os.environ["PATH"], "TINYSCHEDULER_BASE_PATH": str(mine)}
    ) as process:
        try:
            deadline = time.monotonic() + 10
            while not processes_of(str(mine)) and time.monotonic() < deadline:
                time.sleep(0.01)

            assert processes_of(str(mine)) == [process.pid]
            assert processes_of(str(other)) == []
        finally:
            process.kill()
