"""Queues in a folder, what must hold of any of them, and programs that use one."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.contract.builders import SteppedClock

import tinyscheduler
from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.model.tasks import FailureReason, Finish, Requeue, TaskSpec, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LIMIT_S = 60
A_SPEC = TaskSpec(command=("true",))
DONE = Finish(state=TaskState.DONE, reason=None, failures=0)
PARKED = Finish(state=TaskState.PARKED, reason=FailureReason.COMMAND_FAILED, failures=3)
AGAIN = Requeue(attempt=1, failures=0, launches=1, backing_off_until=None, reason=None)


@dataclass(kw_only=True)
class Opened:
    """A queue, its ledger, and all beneath them."""

    database: Database
    clock: SteppedClock
    queue: LocalQueue
    ledger: SqliteLedger

    def add(self, *specs: TaskSpec) -> list[str]:
        return self.queue.add([(None, spec) for spec in specs])

    def claim(self, task_id: str, *, lease_id: str = "lease") -> bool:
        attempt = self.queue.task(task_id).attempt
        return self.queue.claim(
            task_id, lease_id=lease_id, agent="shell", queue="work", attempt=attempt
        )

    def end(self, task_id: str, ending: Finish | Requeue) -> None:
        assert self.claim(task_id, lease_id=f"ends-{task_id}")
        assert self.queue.settle(task_id, lease_id=f"ends-{task_id}", ending=ending)


def open_queue(
    path: Path,
    access: Access = Access.WRITE,
    *,
    busy_timeout_s: float = 5,
    max_queue_depth: int = 0,
) -> Opened:
    """Open a queue; whoever calls closes its database."""
    clock = SteppedClock()
    database = Database(str(path), access, busy_timeout_s=busy_timeout_s)
    return Opened(
        database=database,
        clock=clock,
        queue=LocalQueue(database, clock, max_queue_depth=max_queue_depth),
        ledger=SqliteLedger(database),
    )


def contents(folder: Path) -> Mapping[str, tuple[int, bytes]]:
    """Return mode and bytes of every file, but for SQLite's shared memory."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


# Each counter beside what it counts: no row of these may differ.
_WRONG_COUNTERS = {
    "blockers_left": """
        SELECT id FROM tasks WHERE blockers_left <> (
            SELECT count(*) FROM dependencies JOIN tasks AS blocker ON blocker.id = blocker_id
            WHERE task_id = tasks.id AND blocker.state <> 'done')
    """,
    "blocks": """
        SELECT id FROM tasks WHERE blocks <> (
            SELECT count(*) FROM dependencies JOIN tasks AS other ON other.id = task_id
            WHERE blocker_id = tasks.id
                AND other.state NOT IN ('done', 'failed', 'parked', 'cancelled'))
    """,
    "counts": """
        SELECT * FROM (
            SELECT state, agent, queue, count(*) AS tasks FROM tasks GROUP BY 1, 2, 3
            EXCEPT SELECT state, agent, queue, tasks FROM counts)
        UNION ALL SELECT * FROM (
            SELECT state, agent, queue, tasks FROM counts
            EXCEPT SELECT state, agent, queue, count(*) FROM tasks GROUP BY 1, 2, 3)
    """,
    # What has parts comes after each of them, and who took a task holds it.
    "parts": """
        SELECT task_id FROM shared_tasks AS part
        WHERE parent_id IS NOT NULL AND archived_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM dependencies
            WHERE dependencies.task_id = part.parent_id AND blocker_id = part.task_id)
    """,
    "taken": """
        SELECT id FROM shared_tasks JOIN tasks ON id = task_id
        WHERE taken_by IS NOT NULL AND state <> 'held'
    """,
    # Nothing would ever end it.
    "stuck": """
        SELECT id FROM shared_tasks AS whole JOIN tasks ON id = task_id
        WHERE has_succeeded AND state IN ('waiting', 'held') AND NOT EXISTS (
            SELECT 1 FROM shared_tasks AS part JOIN tasks AS other ON other.id = part.task_id
            WHERE part.parent_id = whole.task_id AND part.archived_at IS NULL
                AND other.state <> 'done')
    """,
    "specs": "SELECT id FROM tasks WHERE id NOT IN (SELECT task_id FROM task_specs)",
    "ended_at": """
        SELECT id FROM tasks WHERE (ended_at IS NOT NULL)
            <> (state IN ('done', 'failed', 'parked', 'cancelled'))
    """,
}


def assert_sound(path: Path) -> None:
    """Fail unless the file is whole and every counter is what it counts."""
    assert path.exists()  # or connecting would create it
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for name, wrong in _WRONG_COUNTERS.items():
            assert (name, connection.execute(wrong).fetchall()) == (name, [])


def start_program(text: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Start a Python program of its own that can import the package and these tests."""
    top = Path(__file__).resolve().parents[2]
    source = Path(tinyscheduler.__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{source}:{top}", **variables},
    )


def run_program(
    text: str, *arguments: object, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run such a program to its end."""
    with start_program(text, *arguments, **variables) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_killed(point: str, text: str, path: Path, *arguments: object) -> None:
    """Run such a program, with the path of a queue, until it dies at that crash point."""
    mark = path.parent.parent / "died"
    killed = run_program(text, path, *arguments, TINYSCHEDULER_CRASH_AT=f"{point} {mark}")
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")
    mark.unlink()


@contextmanager
def folder_open_to_all() -> Iterator[Path]:
    """Make a folder that other users can reach, unlike pytest's own."""
    places = [Path(name) for name in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")]
    reachable = next(place for place in places if _is_open_to_all(place))
    with tempfile.TemporaryDirectory(dir=reachable) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _is_open_to_all(place: Path) -> bool:
    folders = [place, *place.parents]
    return place.is_dir() and all(one.stat().st_mode & stat.S_IXOTH for one in folders)
