"""Markers of interactive pressure on a real disk, with real owners, and what meddlers leave."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import SteppedClock
from tests.contract.places import importing, paths_in

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.pressure_files import MOST_MARKERS, PressureFiles
from tinyscheduler.errors import BusyError, StoreError, UsageError
from tinyscheduler.procfs import read_start_ticks

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.ports import Clock


@dataclass(kw_only=True)
class Desk:
    """A state folder with markers; what is warned of is kept."""

    base: Path
    clock: Clock = field(default_factory=SystemClock)
    warnings: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.base / "state" / "pressure"

    def files(self, *, may_write: bool = True) -> PressureFiles:
        paths = paths_in(self.base)
        return PressureFiles(paths, self.clock, warn=self.warnings.append, may_write=may_write)

    def press(self, name: str = "chat", *, pid: int | None = None) -> None:
        self.files().set(name, ttl_s=60, pid=pid, by="ann")

    def names(self, *, may_write: bool = True) -> list[str]:
        return [one.name for one in self.files(may_write=may_write).live()]

    def on_disk(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir() if one.name != ".lock")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "state").mkdir()
    return Desk(base=tmp_path)


def test_a_marker_is_for_its_owner_alone_and_lies_there_whole(desk: Desk):
    desk.press()

    assert desk.folder.stat().st_mode & 0o777 == 0o700
    (marker,) = desk.folder.glob("*.json")
    assert marker.stat().st_mode & 0o777 == 0o600
    document = json.loads(marker.read_text())
    assert (document["version"], document["name"], document["by"]) == (1, "chat", "ann")


def test_with_its_owner_a_marker_is_over_and_swept(desk: Desk):
    with subprocess.Popen(["sleep", "60"]) as owner:
        desk.press(pid=owner.pid)
        assert desk.names() == ["chat"]
        owner.kill()
        # Dead, and not waited for: a zombie is nobody at work.
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)

        assert desk.names(may_write=False) == []
        assert desk.on_disk() == ["chat.json"]
        assert desk.names() == []
        assert desk.on_disk() == []


def test_another_process_with_the_number_of_the_owner_is_not_the_owner(desk: Desk):
    with subprocess.Popen(["sleep", "60"]) as owner:
        desk.press(pid=owner.pid)
        marker = desk.folder / "chat.json"
        document = json.loads(marker.read_text())
        assert document["owner"]["start_ticks"] == read_start_ticks(owner.pid)
        document["owner"]["start_ticks"] -= 1
        marker.write_text(json.dumps(document))

        assert desk.names() == []
        owner.kill()


def test_of_an_owner_in_another_namespace_the_time_counts(desk: Desk):
    desk.press(pid=os.getpid())
    marker = desk.folder / "chat.json"
    document = json.loads(marker.read_text())
    document["owner"] |= {"pid_ns": 1, "pid": 4_000_000}
    marker.write_text(json.dumps(document))

    assert desk.names() == ["chat"]


def test_nobody_is_at_work_who_was_before_the_machine_restarted(desk: Desk):
    desk.press()
    marker = desk.folder / "chat.json"
    document = json.loads(marker.read_text())
    marker.write_text(json.dumps({**document, "boot_id": "another"}))

    assert desk.names() == []


@pytest.mark.parametrize("step_s", [-3600, 3600 * 24 * 400])
def test_setting_the_clock_makes_no_marker_last_longer_or_less_long(desk: Desk, step_s: float):
    clock = SteppedClock()
    desk.clock = clock
    desk.press()
    before = clock.now().wall

    clock.advance(59)
    clock.wall = before.replace(year=before.year + 1 if step_s > 0 else before.year - 1)
    assert desk.names() == ["chat"]
    clock.advance(1)
    assert desk.names() == []


@pytest.mark.parametrize("pid", [4_194_303, 1 << 22])
def test_a_process_that_is_not_there_cannot_own_one(desk: Desk, pid: int):
    with pytest.raises(UsageError, match=f"there is no process {pid}"):
        desk.press(pid=pid)

    assert desk.names() == []


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "in").write_text("x")


def a_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere.json"
    target.write_text("{}")
    path.symlink_to(target)


BROKEN = {
    "folder": a_folder,
    "link": a_link,
    "dangling link": lambda path: path.symlink_to("/nowhere"),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "empty": lambda path: path.write_bytes(b""),
    "huge": lambda path: path.write_bytes(b"[" * (32 << 20)),
    "nul": lambda path: path.write_bytes(b"\0" * 100),
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "deep": lambda path: path.write_bytes(b"[" * 4000),
    "list": lambda path: path.write_text("[]"),
    "version 0": lambda path: path.write_text('{"version": 0}'),
    "no version": lambda path: path.write_text('{"name": "x"}'),
    "another's name": lambda path: path.write_text(
        '{"version":1,"name":"y","since":"2026-01-01T00:00:00Z","by":"","boot_id":"","ends_ns":1}'
    ),
    "wrong end": lambda path: path.write_text(
        '{"version":1,"name":"x","since":"2026-01-01T00:00:00Z","by":"","boot_id":"","ends_ns":1e400}'
    ),
    "no time": lambda path: path.write_text(
        '{"version":1,"name":"x","since":"soon","by":"","boot_id":"","ends_ns":1}'
    ),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_what_is_no_marker_is_told_once_and_set_aside_and_the_others_count(desk: Desk, kind: str):
    desk.press()
    BROKEN[kind](desk.folder / "x.json")

    assert desk.names(may_write=False) == ["chat"]
    assert (desk.folder / "x.json").is_symlink() or (desk.folder / "x.json").exists()
    desk.warnings.clear()
    assert desk.names() == ["chat"]

    (warning,) = desk.warnings
    assert warning.startswith(f"{desk.folder}/x.json does not count and is set aside: ")
    assert desk.on_disk() == ["chat.json"]
    assert len(list((desk.base / "state" / "quarantine").iterdir())) == 1
    assert desk.names() == ["chat"]
    assert len(desk.warnings) == 1


def test_one_of_a_newer_version_stays_and_does_not_count(desk: Desk):
    desk.press()
    (desk.folder / "x.json").write_text('{"version": 2}')

    assert desk.names() == ["chat"]
    assert desk.warnings == [
        f"{desk.folder}/x.json does not count: it was written by a newer TinyScheduler"
    ]
    assert desk.on_disk() == ["chat.json", "x.json"]


def test_a_file_in_the_place_of_the_folder_keeps_nobody_from_looking(desk: Desk):
    desk.folder.write_text("x")

    assert desk.names() == []
    with pytest.raises(StoreError, match="pressure: "):
        desk.press()


def test_files_beside_the_markers_are_left_alone(desk: Desk):
    desk.press()
    for name in (".chat.json.17.tmp", "notes.txt"):
        (desk.folder / name).write_text("x")

    assert desk.names() == ["chat"]
    assert desk.warnings == []


def test_no_more_are_at_work_than_one_look_can_tell(desk: Desk):
    for number in range(MOST_MARKERS):
        desk.press(f"n{number}")

    with pytest.raises(BusyError, match="have said that they are at work"):
        desk.press("one-more")
    desk.press("n0")
    assert len(desk.names()) == MOST_MARKERS
    desk.files().lift("n0")
    desk.press("one-more")


def test_what_was_not_said_cannot_be_taken_back_and_that_is_no_failure(desk: Desk):
    assert desk.files().lift("chat") is None
    desk.press("other")
    assert desk.files().lift("chat") is None
    lifted = desk.files().lift("other")
    assert lifted is not None
    assert lifted.name == "other"
    assert desk.on_disk() == []


def test_while_somebody_is_at_them_a_look_waits_for_nothing_and_clears_nothing_away(desk: Desk):
    clock = SteppedClock()
    desk.clock = clock
    desk.press()
    clock.advance(61)
    with (desk.folder / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert desk.names() == []
        assert desk.on_disk() == ["chat.json"]
        with pytest.raises(BusyError, match="is held by another command"):
            desk.press()

    assert desk.names() == []
    assert desk.on_disk() == []


def test_where_nothing_can_be_written_a_look_tells_it_and_goes_on(desk: Desk):
    clock = SteppedClock()
    desk.clock = clock
    desk.press("a")
    desk.press("chat")
    clock.advance(61)
    (desk.folder / ".lock").unlink()
    (desk.folder / ".lock").mkdir()

    assert desk.names() == []
    assert desk.on_disk() == ["a.json", "chat.json"]
    (warning,) = desk.warnings
    assert warning.startswith(f"what is over in {desk.folder} could not be removed: ")
    with pytest.raises(StoreError, match="Is a directory"):
        desk.press()


_CRASHING = """
import sys
from pathlib import Path
from tests.contract.places import paths_in
from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.pressure_files import PressureFiles
files = PressureFiles(paths_in(Path(sys.argv[1])), SystemClock(), warn=print, may_write=True)
if sys.argv[2] == "set":
    files.set("chat", ttl_s=60, pid=None, by="ann")
elif sys.argv[2] == "lift":
    files.lift("chat")
else:
    files.live()
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("act", ["set", "lift", "clear"])
def test_who_is_killed_at_a_marker_leaves_it_as_it_was_or_as_it_is_to_be(
    desk: Desk, act: str, moment: str
):
    if act != "set":
        desk.press()
    if act == "clear":
        marker = desk.folder / "chat.json"
        document = json.loads(marker.read_text())
        marker.write_text(json.dumps({**document, "ends_ns": 1}))
    mark = desk.base / "mark"
    done = subprocess.run(
        [sys.executable, "-c", _CRASHING, str(desk.base), act],
        env={**importing(), "TINYSCHEDULER_CRASH_AT": f"pressure.{act}:{moment} {mark}"},
        check=False,
        timeout=60,
    )

    assert done.returncode == -signal.SIGKILL
    assert mark.exists()
    expected = ["chat"] if (act, moment) in {("set", "after"), ("lift", "before")} else []
    assert desk.names() == expected
    desk.press()
    assert desk.names() == ["chat"]
    assert desk.warnings == []


def test_twenty_who_say_so_at_once_are_all_at_work(desk: Desk):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _CRASHING.replace('"chat"', f'"n{number}"'), *words],
            env=importing(),
        )
        for number in range(20)
        for words in [(str(desk.base), "set")]
    ]
    codes = [one.wait(timeout=60) for one in running]

    assert codes == [0] * 20
    assert sorted(desk.names()) == sorted(f"n{number}" for number in range(20))
    assert desk.warnings == []
