"""What every observer must do, whatever it is made of: take note, and never raise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.contract.places import importing, paths_in

from tinyscheduler.adapters.events_file import DailyLog, EventsFile
from tinyscheduler.adapters.policy_trace_file import PolicyTraceFile
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.model.plan import TickError, TickReport, TickStats
from tinyscheduler.model.policy import PolicyCall
from tinyscheduler.simulator.observer import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinyscheduler.ports import Observer

NOON = datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=UTC)
FINISHED = Event(
    at=NOON,
    name=EventName.TASK_FINISHED,
    task_id="7",
    attempt=2,
    agent="coder",
    reason=None,
    details=(("exit_code", 0),),
)
ODD = Event(
    at=NOON,
    name=EventName.TASK_FAILED,
    task_id="7",
    reason='a "quoted"\nreason, \udce9 and ünïcode',
)
REPORT = TickReport(
    tick_id="20260301T120000.000000Z",
    started_at=NOON,
    duration_ms=3.5,
    dry_run=False,
    locked=False,
    holder=None,
    stats=TickStats(tasks_spawned=1, errors=1),
    reclaims=(),
    decisions=(),
    errors=(TickError(where="task 7", message="no room\nat all"),),
    warnings=("odd",),
    policy="platform",
    all_sources_down=False,
)


class Talking:
    """A policy that was asked once."""

    name = "mine.lua"
    calls = (PolicyCall(context="c0ffee", jobs=1, log=(("info", str(ODD.reason)),)),)


OBSERVERS: dict[str, Callable[[Path], Observer]] = {
    "events": lambda folder: EventsFile(paths_in(folder)),
    "log": lambda folder: DailyLog(paths_in(folder), level="INFO"),
    "policy trace": lambda folder: PolicyTraceFile(paths_in(folder), Talking()),
    "recording": lambda _folder: RecordingObserver(),
}


@pytest.fixture(params=list(OBSERVERS))
def build(request: pytest.FixtureRequest) -> Callable[[Path], Observer]:
    return OBSERVERS[request.param]


def written(folder: Path) -> list[str]:
    return [
        line
        for path in sorted((folder / "state").rglob("*"))
        if path.is_file()
        for line in path.read_text().splitlines()
    ]


def test_anything_can_be_told_to_an_observer(build, tmp_path):
    observer = build(tmp_path)

    for event in (FINISHED, ODD):
        observer.notice(event)
    observer.report(REPORT)


def test_an_observer_whose_disk_refuses_stays_silent(build, tmp_path):
    (tmp_path / "state").write_text("a file where a folder should be")
    observer = build(tmp_path)

    observer.notice(FINISHED)
    observer.report(REPORT)


def test_one_event_is_one_line_whatever_it_says(tmp_path):
    observer = EventsFile(paths_in(tmp_path))

    for event in (FINISHED, ODD):
        observer.notice(event)
    observer.report(REPORT)

    first, second = (json.loads(line) for line in written(tmp_path))
    assert first == {
        "ts": "2026-03-01T12:00:00.005Z",
        "event": "task.finished",
        "task_id": "7",
        "attempt": 2,
        "agent": "coder",
        "reason": None,
        "exit_code": 0,
    }
    assert second["reason"] == ODD.reason


def test_the_log_has_one_line_per_happening_and_its_level(tmp_path):
    log = DailyLog(paths_in(tmp_path), level="INFO")

    for event in (FINISHED, ODD):
        log.notice(event)
    log.report(REPORT)

    assert os.listdir(paths_in(tmp_path).logs) == ["scheduler_20260301.log"]
    levels = [line.split()[1] for line in written(tmp_path)]
    assert levels == ["level=info", "level=warning", "level=error", "level=warning", "level=info"]


def test_a_quieter_log_leaves_out_what_is_below_its_level(tmp_path):
    log = DailyLog(paths_in(tmp_path), level="ERROR")

    log.notice(FINISHED)
    log.report(REPORT)

    assert len(written(tmp_path)) == 1


def test_the_recording_observer_keeps_everything_in_order():
    observer = RecordingObserver()

    for event in (FINISHED, ODD):
        observer.notice(event)
    observer.report(REPORT)

    assert observer.events == [FINISHED, ODD]
    assert observer.reports == [REPORT]


@pytest.mark.parametrize("observer", ["EventsFile(paths)", "DailyLog(paths, level='INFO')"])
def test_a_line_cut_off_by_a_full_disk_spoils_no_other(observer, tmp_path):
    # The batch is one write, of which the limit lets only a part through (setrlimit(2)).
    program = f"""
import resource, sys
from pathlib import Path
from tests.contract.places import paths_in
from tests.contract.test_observer import FINISHED
from tinyscheduler.adapters.events_file import DailyLog, EventsFile
paths = paths_in(Path(sys.argv[1]))
observer = {observer}
resource.setrlimit(resource.RLIMIT_FSIZE, (200, -1))
observer.notice_all([FINISHED] * 3)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
observer.notice(FINISHED)
observer.notice(FINISHED)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=importing(), timeout=60, check=False
    )

    lines = written(tmp_path)
    whole = lines[-1]
    assert done.returncode == 0
    assert len(lines) == 200 // (len(whole) + 1) + 1 + 2
    assert [line for line in lines if not whole.startswith(line)] == []
    assert lines[-2] == whole
