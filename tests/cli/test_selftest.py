"""``selftest``: rounds that keep every promise, and verdicts that can be bad."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.process.station import until

from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.cli import witness
from tinyscheduler.cli.demo_stage import processes_of
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import Page
from tinyscheduler.cli.scratch import scratch_folder
from tinyscheduler.cli.selftest import Verdict, _document, _lines, play_round
from tinyscheduler.cli.selftest_round import (
    NO_LIMIT_EXCEEDED,
    NOTHING_AGAIN,
    NOTHING_LEFT,
    NOTHING_LOST,
    NOTHING_TWICE,
    Round,
)
from tinyscheduler.model.tasks import FailureReason, Finish, TaskState
from tinyscheduler.simulator.chance import Chance

if TYPE_CHECKING:
    from tests.cli.place import Place


def broken(one: Round) -> dict[str, tuple[str, ...]]:
    return {promise.words: promise.broken for promise in one.judge() if promise.broken}


@pytest.mark.timeout(200)
def test_a_round_keeps_every_promise_and_leaves_nothing_behind(place: Place, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    answer = place.run("selftest", "--rounds", "1", "--seed", "7", "--json", TMPDIR=str(scratch))

    document = answer.json
    assert (answer.code, answer.err) == (0, "")
    assert (document["schema_version"], document["passed"]) == (1, True)
    assert (document["rounds"], document["seed"], document["base_path"]) == (1, 7, None)
    assert [one["kept"] for one in document["promises"]] == [True] * 5
    assert sum(document["kills"].values()) > 0
    assert list(scratch.iterdir()) == []
    assert processes_of(str(scratch)) == []
    # The user's own state is not even made.
    assert not place.state.exists()


@pytest.mark.timeout(200)
def test_people_get_a_table_and_the_seed(place: Place):
    answer = place.run("selftest", "--rounds", "1")

    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].split() == ["VERDICT", "PROMISE"]
    assert [line.split()[0] for line in lines[1:6]] == ["kept"] * 5
    assert lines[7].startswith("1 round in ")


@pytest.mark.timeout(100)
def test_interrupted_it_leaves_no_process_and_no_folder(place: Place, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    testing = place.start("selftest", TMPDIR=str(scratch))
    until(lambda: any(scratch.glob("*/round-1/journal")), "the first task to run", limit_s=60)

    testing.send_signal(signal.SIGINT)
    testing.communicate(timeout=60)

    assert testing.returncode == 130
    assert list(scratch.iterdir()) == []
    assert [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _names(pid, scratch)
    ] == []


def _names(pid: int, folder: Path) -> bool:
    try:
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_what_never_ran_is_lost(tmp_path: Path):
    one = Round(str(tmp_path / "base"), Chance(1))

    found = broken(one)

    assert set(found) == {NOTHING_LOST}
    assert len(found[NOTHING_LOST]) == len(one.task_ids)


def test_what_the_tasks_testify_is_believed(tmp_path: Path):
    one = Round(str(tmp_path / "base"), Chance(1))
    journal = Path(one.base) / "journal"

    journal.write_text("start 1 1 shell 5\nstart 1 1 shell 6\nbeside 1 1 shell 2 2 2\n")
    assert len(broken(one)[NOTHING_TWICE]) == 2

    journal.write_text("start 1 1 shell 5\nbeside 1 1 shell 1 4 4\nhalf a line")
    assert broken(one)[NO_LIMIT_EXCEEDED] == ("4 ran at once, of 3",)
    assert NOTHING_TWICE not in broken(one)


def test_a_witness_counts_those_beside_whom_it_starts_and_nobody_who_comes_later(tmp_path: Path):
    journal = tmp_path / "journal"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with start_witness(tmp_path, task="1", body=f"read _ < {gate}") as first:
        until(lambda: journal.exists() and "beside" in journal.read_text(), "the first to run")
        # While the second one counts, a third begins.
        shim = tmp_path / "bin" / "grep"
        shim.parent.mkdir()
        third = f"echo start 3 1 shell {first.pid} >> {journal}"
        shim.write_text(
            f'#!/bin/sh\nmkdir "$0.once" 2>&- && {third}\nPATH=${{PATH#*:}} exec grep "$@"\n'
        )
        shim.chmod(0o755)
        with start_witness(
            tmp_path, task="2", body="true", path=f"{shim.parent}:{os.environ['PATH']}"
        ):
            pass
        gate.write_text("\n")

    lines = journal.read_text().splitlines()
    assert f"start 3 1 shell {first.pid}" in lines
    assert [line for line in lines if line.startswith("beside")] == [
        "beside 1 1 shell 1 1 1",
        "beside 2 1 shell 1 2 2",
    ]


def start_witness(
    folder: Path, *, task: str, body: str, path: str = os.environ["PATH"]
) -> subprocess.Popen[bytes]:
    names = {"TASK_ID": task, "ATTEMPT": "1", "AGENT": "shell"}
    environment = {f"TINYSCHEDULER_{name}": value for name, value in names.items()}
    return subprocess.Popen(witness.testify(str(folder), body), env={"PATH": path, **environment})


@pytest.mark.timeout(200)
def test_only_a_corrupted_result_excuses_a_parked_task(tmp_path: Path):
    one = Round(str(tmp_path / "base"), Chance(2))
    one.queue.tasks.hold(one.task_ids[0])

    one._revive()

    assert one.queue.tasks.states(one.task_ids[:1]) == {one.task_ids[0]: TaskState.HELD}
    _park(one, one.task_ids[0])
    one._revive()
    assert "task 1 is parked" in broken(one)[NOTHING_LOST]
    one.damage.corruptions["result"] = 1
    one._revive()
    assert "task 1 is waiting" in broken(one)[NOTHING_LOST]
    assert one.settle()
    assert broken(one) == {}


def _park(one: Round, task_id: str) -> None:
    """Claim a task and give it up, as a tick does with a result that it cannot read."""
    tasks = one.queue.tasks
    assert isinstance(tasks, LocalQueue)
    tasks.release(task_id)
    assert tasks.claim(task_id, lease_id="lost", agent="shell", queue="work", attempt=1)
    ending = Finish(state=TaskState.PARKED, reason=FailureReason.ABORTED, failures=1)
    assert tasks.settle(task_id, lease_id="lost", ending=ending)


def test_a_task_that_is_done_and_ran_on_is_told(tmp_path: Path):
    one = Round(str(tmp_path / "base"), Chance(2))
    assert one.settle()
    assert broken(one) == {}

    with (Path(one.base) / "journal").open("a") as file:
        file.write(f"start {one.task_ids[0]} 9 shell 5\n")

    assert set(broken(one)) == {NOTHING_AGAIN}


def test_what_is_left_lying_about_is_told(tmp_path: Path):
    one = Round(str(tmp_path / "base"), Chance(2))
    assert one.settle()
    (Path(one.base) / "state" / "running" / "task_1.json").write_text("{")

    assert broken(one)[NOTHING_LEFT] == ("a lease or lock of task 1 is left",)


def test_a_broken_promise_is_told_with_its_round_and_its_folder():
    verdict = Verdict(seed=3, rounds=2)
    verdict.broken[NOTHING_LOST] = ["round 2: task 4 is gone"]

    text = "\n".join(_lines(verdict, "/scratch", Page(is_colored=False, width=80)))
    document = _document(verdict, "/scratch")

    assert "BROKEN   no task is lost" in text
    assert "round 2: task 4 is gone" in text
    assert text.endswith("everything that was written is kept in /scratch")
    assert (document["passed"], document["base_path"]) == (False, "/scratch")
    assert document["promises"][0]["details"] == ["round 2: task 4 is gone"]


def test_a_folder_that_is_to_be_kept_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for is_kept in (True, False):
        with scratch_folder(Invocation(), "test") as scratch:
            scratch.is_kept = is_kept
        assert os.path.exists(scratch.path) == is_kept


@pytest.mark.timeout(200)
def test_rounds_add_up(tmp_path: Path):
    verdict = Verdict(seed=5)

    for number in (1, 2):
        play_round(verdict, str(tmp_path / f"round-{number}"))

    assert verdict.rounds == 2
    assert verdict.is_kept, verdict.broken
    assert sum(verdict.damage.kills.values()) > 0


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--rounds", "x"], ["--seed", "-1"]])
def test_numbers_that_make_no_sense_are_refused(place: Place, options: list[str]):
    answer = place.run("selftest", *options)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {options[0]}: ")
