"""What does a long run take up: on disk by part, in rows, in memory, in descriptors?"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TABLES = ("tasks", "task_specs", "dependencies", "attempts", "counts", "switches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How many bytes and files one part of the state folder has."""

    bytes: int = 0
    files: int = 0

    def __str__(self) -> str:
        return f"{self.files} files {_size(self.bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state folder by part, and the tables by rows."""

    parts: dict[str, Part]
    rows: dict[str, int]

    @property
    def bytes(self) -> int:
        """All bytes below the state folder."""
        return sum(part.bytes for part in self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {part}" for name, part in sorted(self.parts.items()))
        rows = ", ".join(f"{number} {name}" for name, number in self.rows.items())
        return f"state {_size(self.bytes)}: {parts}; rows: {rows}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What one living process holds."""

    resident_bytes: int
    descriptors: int
    threads: int
    watches: int  # of inotify
    zombies: int  # children that ended and were not collected

    def __str__(self) -> str:
        return (
            f"{self.resident_bytes / 2**20:.1f} MiB resident, {self.descriptors} descriptors,"
            f" {self.threads} threads, {self.watches} watches, {self.zombies} zombies"
        )


def measure_state(state: Path) -> State:
    """Measure the folder; files that go meanwhile are not counted."""
    found: dict[str, Part] = {}
    for folder, _, names in os.walk(state):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                size = path.lstat().st_size
                part = _part_of(path.relative_to(state))
                before = found.get(part, Part())
                found[part] = Part(bytes=before.bytes + size, files=before.files + 1)
    return State(parts=found, rows=count_rows(state / "tinyscheduler.db"))


def count_rows(database: Path) -> dict[str, int]:
    """Return how many rows each table has."""
    if not database.exists():
        return {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {
            table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - a name of ours
            for table in _TABLES
        }


def measure_process(pid: int) -> Process:
    """Measure a living process of this machine."""
    proc = Path(f"/proc/{pid}")
    watches = descriptors = 0
    for name in os.listdir(proc / "fdinfo"):
        # One that was closed meanwhile, as the one that lists them, counts as none.
        with suppress(FileNotFoundError):
            text = (proc / "fdinfo" / name).read_text()
            descriptors += 1
            watches += sum(line.startswith("inotify ") for line in text.splitlines())
    return Process(
        resident_bytes=int((proc / "statm").read_text().split()[1]) * _PAGE_BYTES,
        descriptors=descriptors,
        threads=len(os.listdir(proc / "task")),
        watches=watches,
        zombies=sum(_is_zombie(child) for child in _children(pid)),
    )


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _is_zombie(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text[text.rindex(")") + 2] == "Z"


def _part_of(path: Path) -> str:
    """Name the part of the state that a file belongs to."""
    first = path.parts[0]
    if first.startswith("tinyscheduler.db"):
        return "database"
    if first != "logs":
        return first if len(path.parts) > 1 else "other"
    if path.parts[1] == "tasks":
        return "attempt logs"
    return "events" if path.name.startswith("events.jsonl") else "daily logs"


def _size(number: int) -> str:
    return f"{number / 2**20:.2f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"
