"""Event file and daily log stay within their bounds, and no line is lost on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.contract.places import importing, paths_in

from tinyscheduler.adapters.events_file import KEPT, DailyLog, EventsFile
from tinyscheduler.model.events import Event, EventName

if TYPE_CHECKING:
    from collections.abc import Iterable

AT = datetime(2026, 3, 1, tzinfo=UTC)


def an_event(number: int) -> Event:
    return Event(at=AT, name=EventName.TASK_ADDED, task_id=str(number))


def numbers(paths: Iterable[Path]) -> list[int]:
    return sorted(
        int(json.loads(line)["task_id"]) for path in paths for line in path.read_text().splitlines()
    )


def test_a_large_file_is_set_aside_and_the_next_line_begins_a_new_one(tmp_path):
    paths = paths_in(tmp_path)
    events = Path(paths.events)
    observer = EventsFile(paths, max_bytes=250)

    for number in range(4):
        observer.notice(an_event(number))

    # A line has about a hundred bytes: the third goes beyond the bound.
    assert numbers([events]) == [3]
    assert numbers([events.with_name("events.jsonl.1")]) == [0, 1, 2]


def test_no_more_than_some_are_kept_and_the_newest_are(tmp_path):
    paths = paths_in(tmp_path)
    folder = Path(paths.events).parent
    observer = EventsFile(paths, max_bytes=1)

    for number in range(10):
        observer.notice(an_event(number))

    assert sorted(path.name for path in folder.iterdir()) == [
        f"events.jsonl.{number}" for number in range(1, KEPT + 1)
    ]
    assert numbers(folder.iterdir()) == [7, 8, 9]


def test_the_daily_log_is_bounded_alike(tmp_path):
    paths = paths_in(tmp_path)
    log = DailyLog(paths, level="INFO", max_bytes=1)

    log.notice(an_event(1))
    log.notice(an_event(2))

    assert sorted(os.listdir(paths.logs)) == [
        "scheduler_20260301.log.1",
        "scheduler_20260301.log.2",
    ]


def test_many_processes_that_write_and_set_aside_at_once_lose_no_line(tmp_path):
    program = """
import sys
from pathlib import Path
from tests.contract.places import paths_in
from tests.contract.test_set_aside import an_event
from tinyscheduler.adapters.events_file import EventsFile
observer = EventsFile(paths_in(Path(sys.argv[1])), max_bytes=20_000)
for number in range(200):
    observer.notice(an_event(int(sys.argv[2]) * 1000 + number))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(one)], env=importing())
        for one in range(3)
    ]
    for process in processes:
        assert process.wait(timeout=60) == 0

    # Fewer files than are kept: 600 lines of a hundred bytes.
    found = numbers(Path(paths_in(tmp_path).events).parent.iterdir())
    assert found == [one * 1000 + number for one in range(3) for number in range(200)]
