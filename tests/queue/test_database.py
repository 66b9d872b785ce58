"""How the file is made, opened, read without a trace, and refused."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
from collections import UserList
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import START
from tests.queue.builders import (
    A_SPEC,
    AGAIN,
    LIMIT_S,
    Opened,
    assert_sound,
    contents,
    folder_open_to_all,
    open_queue,
    run_killed,
    run_program,
    start_program,
)

from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.schema import MIGRATIONS
from tinyscheduler.errors import (
    BusyError,
    NotFoundError,
    SourceError,
    StoreError,
    TinySchedulerError,
)
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.snapshot import SourceView
from tinyscheduler.model.tasks import Outcome, TaskSpec
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OTHER_MIGRATIONS = (*MIGRATIONS, ("ALTER TABLE tasks ADD COLUMN colour TEXT",))

USES: dict[str, Callable[[Opened], object]] = {
    "look": lambda opened: opened.queue.look(window=5),
    "describe": lambda opened: opened.queue.describe("1"),
    "task": lambda opened: opened.queue.task("1"),
    "tasks": lambda opened: opened.queue.tasks(),
    "counts": lambda opened: opened.queue.counts(),
    "states": lambda opened: opened.queue.states(["1"]),
    "attempts": lambda opened: opened.ledger.attempts("1"),
}
CHANGES: dict[str, Callable[[Opened], object]] = {
    "claim": lambda opened: opened.queue.claim(
        "1", lease_id="l", agent="a", queue="work", attempt=1
    ),
    "settle": lambda opened: opened.queue.settle("1", lease_id="l", ending=AGAIN),
    "add": lambda opened: opened.add(A_SPEC),
    "request_cancel": lambda opened: opened.queue.request_cancel("1"),
    "retry": lambda opened: opened.queue.retry("1"),
    "hold": lambda opened: opened.queue.hold("1"),
    "record": lambda opened: opened.ledger.record(an_attempt()),
}
PORT = {"look", "describe", "claim", "settle"}


def an_attempt() -> AttemptRecord:
    return AttemptRecord(
        lease_id="l",
        task_id="1",
        source="local",
        agent="a",
        attempt=1,
        started_at=None,
        ended_at=START,
        outcome=Outcome.SUCCEEDED,
        failure_reason=None,
    )


def fill(path: Path, *specs: TaskSpec) -> None:
    opened = open_queue(path)
    opened.add(*(specs or (A_SPEC,)))
    opened.database.close()


def assert_refused(opened: Opened, use: str, *, kind: type[TinySchedulerError]) -> str:
    """Use the queue; it must say what is wrong with which file, as the right error."""
    expected = SourceError if use in PORT else kind
    with pytest.raises(TinySchedulerError) as refused:
        (USES | CHANGES)[use](opened)
    assert type(refused.value) is expected
    assert opened.database.path in refused.value.what
    assert isinstance(refused.value.__cause__, sqlite3.Error | OSError | TinySchedulerError | None)
    opened.database.close()
    return refused.value.what


# Making it


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_its_owner_may_read_the_queue_whatever_the_umask(path, umask):
    path.parent.mkdir()
    before = os.umask(umask)
    try:
        opened = open_queue(path)
        opened.add(A_SPEC)
        modes = {
            name.name: stat.S_IMODE(name.stat().st_mode) for name in sorted(path.parent.iterdir())
        }
        opened.database.close()
    finally:
        os.umask(before)

    assert modes == {path.name + suffix: 0o600 for suffix in ("", "-shm", "-wal")}


def test_a_missing_state_folder_is_made_for_its_owner_alone(path):
    fill(path)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [name.name for name in path.parent.iterdir()] == [path.name]


def test_a_folder_and_a_name_full_of_uri_characters_work(tmp_path):
    path = tmp_path / "a?mode=ro&b#c%41 ü" / "x%3f.db"

    fill(path)

    assert [name.name for name in path.parent.iterdir()] == [path.name]
    assert open_queue(path, Access.READ).queue.look(window=1).waiting_total == 1


def test_many_processes_that_create_it_at_once_all_find_one_queue(path):
    program = """
import sys
from tests.queue.builders import A_SPEC, open_queue
opened = open_queue(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(opened.add(A_SPEC)[0])
"""
    for round_number in range(5):
        one = path.parent / str(round_number) / path.name
        processes = [start_program(program, one) for _ in range(6)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        outputs = [process.communicate("go\n", timeout=LIMIT_S) for process in processes]

        assert sorted(out.strip() for out, _ in outputs) == list("123456"), outputs
        assert [name.name for name in one.parent.iterdir()] == [one.name]
        assert_sound(one)


def test_who_comes_second_in_creating_it_leaves_the_first_ones_tasks_alone(path):
    fill(path)
    before = contents(path.parent)

    # As a process would that looked a moment before the first one was ready.
    Database(str(path))._create()

    assert contents(path.parent) == before


def test_every_commit_reaches_the_disk_before_anybody_is_told(opened):
    with opened.database.writing() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
        assert connection.execute("PRAGMA journal_size_limit").fetchone()[0] == 16 << 20


def how_durable(database: Database) -> int:
    """Return what SQLite promises of the next commit: 1 its order, 2 that it is on the disk."""
    with database.writing() as connection:
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
    return int(level)


def test_a_commit_that_another_follows_need_not_wait_for_the_disk_itself(opened):
    with opened.database.writing(durably=False) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1
        connection.commit()

    assert how_durable(opened.database) == 2


def test_after_one_that_came_to_nothing_commits_wait_for_the_disk_again(path, opened):
    opened.add(A_SPEC)
    with suppress(ZeroDivisionError), opened.database.writing(durably=False):
        raise ZeroDivisionError
    assert how_durable(opened.database) == 2
    impatient = Database(str(path), busy_timeout_s=0)
    impatient.read(lambda connection: connection.execute(TASK_IDS).fetchall())
    with opened.database.writing(), pytest.raises(BusyError), impatient.writing(durably=False):
        pass

    assert how_durable(impatient) == 2


@pytest.mark.parametrize(
    ("source", "is_told_next", "durably"),
    [("local", True, False), ("local", False, True), ("tinytask", True, True)],
)
def test_only_the_row_of_a_source_in_the_same_file_is_left_to_its_settling(
    opened, source, is_told_next, durably
):
    asked = []

    class Watched(Database):
        def writing(self, *, durably: bool = True):
            asked.append(durably)
            return super().writing(durably=durably)

    ledger = SqliteLedger(Watched(opened.database.path), shared_with="local")
    attempt = replace(an_attempt(), source=source)

    ledger.record(attempt, is_told_next=is_told_next)

    assert asked == [durably]
    assert list(ledger.attempts(attempt.task_id)) == [attempt]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_killed_while_creating_leaves_nothing_that_matters(path, moment):
    program = "import sys; from tests.queue.test_database import fill; fill(sys.argv[1])"

    run_killed(f"database.create:{moment}", program, path)

    assert path.exists() == (moment == "after")
    fill(path)
    assert [name.name for name in path.parent.iterdir()] == [path.name]
    assert path.stat().st_nlink == 1
    assert_sound(path)


def test_a_queue_replaced_under_a_running_process_is_opened_anew(path, opened):
    opened.add(A_SPEC, A_SPEC)
    other = path.parent.parent / "other" / path.name
    fill(other)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()

    os.replace(other, path)

    assert opened.queue.look(window=5).waiting_total == 1
    assert opened.add(A_SPEC) == ["2"]


def test_a_queue_removed_under_a_running_process_is_made_anew(path, opened):
    opened.add(A_SPEC, A_SPEC)

    shutil.rmtree(path.parent)

    assert opened.add(A_SPEC) == ["1"]
    assert open_queue(path, Access.READ).queue.look(window=5).waiting_total == 1


@pytest.mark.parametrize("use", sorted(USES))
def test_a_queue_converted_under_a_running_process_is_refused_from_then_on(path, opened, use):
    opened.add(A_SPEC)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")

    words = assert_refused(opened, use, kind=StoreError)

    assert "newer TinyScheduler" in words


def test_a_queue_converted_while_a_change_waits_for_its_turn_is_not_changed(path):
    fill(path)
    migrations = ConvertedMeanwhile(MIGRATIONS)
    database = Database(str(path), migrations=migrations)
    database.read(lambda connection: connection.execute(TASK_IDS).fetchall())
    migrations.path = path

    with pytest.raises(StoreError, match="newer TinyScheduler"), database.writing():
        pytest.fail("it may be changed")

    database.close()


class ConvertedMeanwhile(UserList[Sequence[str]]):
    """Lets a newer program convert the queue just after its version has been looked at."""

    path: Path | None = None

    def __len__(self) -> int:
        if self.path is not None:
            with closing(sqlite3.connect(self.path)) as newer:
                newer.execute("PRAGMA user_version = 99")
            self.path = None
        return super().__len__()


# Looking without a trace


@pytest.mark.parametrize("use", sorted(USES))
def test_a_missing_queue_reads_as_an_empty_one_and_stays_missing(path, use):
    opened = open_queue(path, Access.READ)

    try:
        answer = USES[use](opened)
    except (NotFoundError, StoreError):
        assert use in {"task", "describe"}
    else:
        empty = {"look": SourceView(name="local"), "tasks": [], "states": {}, "attempts": []}
        assert answer == empty.get(use, dict.fromkeys(opened.queue.counts(), 0))
    assert not path.parent.exists()


@pytest.mark.parametrize("use", sorted(USES))
def test_looking_leaves_no_trace_beside_a_queue_at_rest(path, use):
    fill(path)
    before = contents(path.parent)

    USES[use](open_queue(path, Access.READ))

    assert contents(path.parent) == before
    assert [name.name for name in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("use", sorted(USES))
def test_looking_sees_what_a_killed_process_committed_and_changes_no_byte_of_it(path, use):
    program = "import sys; from tests.queue.test_database import fill; fill(sys.argv[1])"
    fill(path)
    run_killed("queue.add:after", program, path)
    before = contents(path.parent)
    assert f"{path.name}-wal" in before
    opened = open_queue(path, Access.READ)

    USES[use](opened)

    assert opened.queue.look(window=5).waiting_total == 2
    assert contents(path.parent) == before


@pytest.mark.parametrize("use", sorted(USES))
def test_looking_beside_a_working_process_sees_its_last_commit_and_changes_nothing(
    path, opened, use
):
    opened.add(A_SPEC)
    before = contents(path.parent)
    reader = open_queue(path, Access.READ)

    USES[use](reader)

    assert contents(path.parent) == before
    assert reader.queue.look(window=5) == opened.queue.look(window=5)


def test_a_log_without_its_shared_memory_is_read_all_the_same(path, opened):
    opened.add(A_SPEC)
    copy = path.parent.parent / "copy" / path.name
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    before = contents(copy.parent)

    assert open_queue(copy, Access.READ).queue.look(window=5).waiting_total == 1

    assert contents(copy.parent) == before


def test_what_changes_while_it_is_read_as_unchanging_is_read_again(path):
    fill(path)
    reader = Database(str(path), Access.READ)
    seen: list[object] = []

    def question(connection: sqlite3.Connection) -> int:
        (number,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        if not seen:
            fill(path)
        seen.append(number)
        return int(number)

    assert reader.read(question) == 2
    assert seen == [1, 2]


def test_an_error_met_while_the_file_changes_is_not_believed(path):
    fill(path)
    reader = Database(str(path), Access.READ)
    seen: list[object] = []

    def question(connection: sqlite3.Connection) -> int:
        if not seen:
            seen.append("fault")
            fill(path)
            raise sqlite3.DatabaseError("malformed")
        (number,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        return int(number)

    assert reader.read(question) == 2


def test_a_database_that_never_rests_is_read_as_a_changing_one(path):
    fill(path)
    reader = Database(str(path), Access.READ)
    seen: list[object] = []

    def question(connection: sqlite3.Connection) -> int:
        (number,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        seen.append(number)
        fill(path)
        return int(number)

    assert reader.read(question) == len(seen)
    assert len(seen) < 10


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_queue_opened_for_looking_is_never_changed(path, change):
    fill(path)

    with pytest.raises(AssertionError):
        CHANGES[change](open_queue(path, Access.READ))


def test_looking_needs_no_right_to_write():
    program = """
import os, sys
from tests.queue.builders import Access, open_queue
reader = open_queue(sys.argv[1], Access.READ)
reader.queue.look(window=1)
if os.geteuid() == 0:
    os.chown(sys.argv[1], 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)
print(reader.queue.look(window=1).waiting_total)
"""
    with folder_open_to_all() as folder:
        path = folder / "state" / "tinyscheduler.db"
        fill(path)
        path.parent.chmod(0o555)
        done = run_program(program, path)

    assert (done.stdout, done.stderr) == ("1\n", "")


# Refusing


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize(
    "content",
    [b"", b"not a database, but long enough to be taken for one" * 50, b"SQLite format 3\0"],
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(path, access, use, content):
    path.parent.mkdir()
    path.write_bytes(content)
    before = contents(path.parent)

    assert_refused(open_queue(path, access), use, kind=StoreError)

    assert contents(path.parent) == before


@pytest.mark.parametrize("use", sorted(USES | CHANGES))
def test_a_truncated_queue_is_refused_and_left_alone(path, use):
    fill(path, *[A_SPEC] * 300)
    os.truncate(path, path.stat().st_size // 3)
    before = contents(path.parent)

    words = assert_refused(open_queue(path), use, kind=StoreError)

    assert "damaged" in words
    assert contents(path.parent) == before


@pytest.mark.parametrize("access", list(Access))
def test_damage_in_the_middle_is_refused_and_left_alone(path, access):
    fill(path, *[A_SPEC] * 300)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    before = contents(path.parent)

    words = assert_refused(open_queue(path, access), "look", kind=StoreError)

    assert "damaged" in words
    assert contents(path.parent) == before


@pytest.mark.parametrize("details", ["{", '{"no_such_field": 1}', '{"priority_class": "x"}', "[]"])
def test_a_task_whose_row_makes_no_sense_is_refused_alone(path, opened, details):
    broken, whole = opened.add(A_SPEC, A_SPEC)
    with opened.database.writing() as connection:
        connection.execute("UPDATE task_specs SET details = ? WHERE task_id = ?", (details, broken))
        connection.commit()

    with pytest.raises(StoreError, match=f"what task {broken} asks for") as refused:
        opened.queue.describe(broken)

    assert str(path) in refused.value.what
    assert opened.queue.describe(whole) == A_SPEC


@pytest.mark.parametrize(
    "details",
    [
        '{"labels": 5}',
        '{"labels": [["a"]]}',
        '{"labels": [["a", 1]]}',
        '["\\"title\\":"]',
        '[{"seed": 1}]',
        '{"title": 7}',
        '{"title": "\\ud800"}',
        '{"seed": "1"}',
        '{"seed": true}',
        '{"seed": 18446744073709551616}',
        f'{{"seed": {"9" * 5000}}}',
    ],
)
def test_a_task_whose_marks_make_no_sense_waits_without_any(opened, details):
    broken, whole = opened.add(A_SPEC, replace(A_SPEC, title="whole", seed=7))
    with opened.database.writing() as connection:
        details = details.replace(": ", ":")
        connection.execute("UPDATE task_specs SET details = ? WHERE task_id = ?", (details, broken))
        connection.commit()

    found = opened.queue.look(window=9).waiting

    assert [(one.task_id, one.title, one.seed, one.labels) for one in found] == [
        (broken, None, None, ()),
        (whole, "whole", 7, ()),
    ]


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("use", sorted(USES))
def test_the_database_of_another_program_is_refused_and_left_alone(path, access, use):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE tasks (id INTEGER, state TEXT)")
    before = contents(path.parent)

    words = assert_refused(open_queue(path, access), use, kind=StoreError)

    assert "not a database of TinyScheduler" in words
    assert contents(path.parent) == before


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("use", sorted(USES))
def test_a_newer_version_is_refused_and_left_alone(path, access, use):
    fill(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = contents(path.parent)

    words = assert_refused(open_queue(path, access), use, kind=StoreError)

    assert "newer TinyScheduler" in words
    assert contents(path.parent) == before


@pytest.mark.parametrize("use", sorted(CHANGES))
def test_a_locked_queue_is_busy_and_nothing_waits_for_ever(path, opened, use):
    opened.add(A_SPEC)
    late = open_queue(path, busy_timeout_s=0.05)
    late.queue.look(window=1)

    with opened.database.writing():
        kind = StoreError if use == "record" else BusyError
        words = assert_refused(late, use, kind=kind)

    assert "is busy" in words


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("use", sorted(USES))
def test_a_queue_locked_for_readers_too_is_busy(path, opened, access, use):
    opened.add(A_SPEC)
    opened.database.close()
    late = open_queue(path, access, busy_timeout_s=0.05)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        words = assert_refused(late, use, kind=BusyError)

    assert "is busy" in words


@pytest.mark.parametrize("use", sorted(USES))
def test_looking_goes_on_while_somebody_writes(path, opened, use):
    opened.add(A_SPEC)
    late = open_queue(path, busy_timeout_s=0)

    with opened.database.writing() as connection:
        connection.execute("UPDATE tasks SET priority = 7")
        USES[use](late)
        assert late.queue.task("1").priority == 0
    late.database.close()


@pytest.mark.parametrize("use", ["add", "claim", "record", "look"])
def test_a_folder_that_may_not_be_written_is_named(use):
    program = """
import os, sys
from tests.queue.test_database import CHANGES, USES, open_queue
from tinyscheduler.errors import TinySchedulerError
opened = open_queue(sys.argv[1])
opened.queue.look(window=1)
opened.database.close()
os.chmod(os.path.dirname(sys.argv[1]), 0o555)
if os.geteuid() == 0:
    os.chown(sys.argv[1], 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)
try:
    (USES | CHANGES)[sys.argv[2]](opened)
except TinySchedulerError as error:
    print(type(error).__name__, error.what, error.hint, sep="\\n")
"""
    with folder_open_to_all() as folder:
        path = folder / "state" / "tinyscheduler.db"
        fill(path)
        done = run_program(program, path, use)

    kind, what, hint = done.stdout.splitlines()
    assert done.stderr == ""
    assert kind == ("SourceError" if use in PORT else "StoreError")
    assert str(path) in what
    assert f"check that user {os.geteuid() or 65534} may write" in hint


@pytest.mark.parametrize("use", ["add", "look", "attempts"])
def test_a_folder_in_which_nothing_can_be_made_is_named(path, use):
    path.parent.write_text("a file where the state folder should be")

    assert_refused(open_queue(path), use, kind=StoreError)


@pytest.mark.parametrize("use", ["add", "claim", "settle", "record"])
def test_on_a_full_disk_nothing_changes_and_the_file_stays_whole(path, use):
    program = """
import resource, signal, sys
from tests.queue.builders import PARKED, open_queue
from tests.queue.test_database import CHANGES
from tinyscheduler.errors import TinySchedulerError
from tinyscheduler.model.tasks import TaskSpec
opened = open_queue(sys.argv[1])
opened.queue.look(window=1)
if sys.argv[2] == "settle":
    assert opened.queue.claim("1", lease_id="l", agent="a", queue="work", attempt=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    CHANGES[sys.argv[2]](opened)
except TinySchedulerError as error:
    print(type(error).__name__, error.what, sep="\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
print(CHANGES[sys.argv[2]](opened))
"""
    fill(path)

    done = run_program(program, path, use, 100)

    kind, what, then = done.stdout.splitlines()
    assert done.stderr == ""
    assert kind == ("SourceError" if use in PORT else "StoreError")
    assert str(path) in what
    assert then == {"add": "['2']", "claim": "True", "settle": "waiting", "record": "None"}[use]
    assert_sound(path)


@pytest.mark.parametrize("use", ["look", "tasks", "attempts"])
def test_a_full_disk_that_refused_a_change_does_not_refuse_a_look(path, use):
    # Without room SQLite cannot make what readers and writers of a log share.
    program = """
import resource, sys
from tests.queue.builders import open_queue
from tests.queue.test_database import CHANGES, USES
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.errors import TinySchedulerError
resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1))
try:
    CHANGES["add"](open_queue(sys.argv[1]))
except TinySchedulerError as error:
    print(type(error).__name__)
USES[sys.argv[2]](open_queue(sys.argv[1], Access.READ))
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))  # who measures writes at the end
"""
    fill(path)

    done = run_program(program, path, use)

    assert (done.stdout, done.stderr) == ("StoreError\n", "")


@pytest.mark.parametrize("use", ["look", "add"])
def test_a_queue_that_does_not_fit_on_the_disk_is_not_made(path, use):
    program = """
import resource, signal, sys
from tests.queue.builders import open_queue
from tests.queue.test_database import CHANGES, USES
from tinyscheduler.errors import TinySchedulerError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    (USES | CHANGES)[sys.argv[2]](open_queue(sys.argv[1]))
except TinySchedulerError as error:
    print(type(error).__name__, error.what, sep="\\n")
"""

    done = run_program(program, path, use)

    kind, what = done.stdout.splitlines()
    assert kind == ("SourceError" if use in PORT else "StoreError")
    assert str(path) in what
    assert list(path.parent.iterdir()) == []


# Versions


def test_an_older_version_is_converted_and_a_copy_of_it_kept(path):
    fill(path)
    old = path.read_bytes()
    database = Database(str(path), migrations=OTHER_MIGRATIONS)

    def question(connection: sqlite3.Connection) -> list[str]:
        return [row["colour"] for row in connection.execute("SELECT colour FROM tasks")]

    assert database.read(question) == [None]
    database.close()

    (copy,) = path.parent.glob(f"{path.name}.v{CURRENT}-*")
    assert re.fullmatch(r".*\.v\d+-\d{8}T\d{6}Z", copy.name)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(name.name for name in path.parent.iterdir()) == [path.name, copy.name]
    assert Database(str(copy), Access.READ).read(lambda c: list(c.execute(TASK_IDS))) != []
    assert old != path.read_bytes()
    assert_sound(path)


def test_looking_at_an_older_version_sees_all_of_it_and_converts_nothing(path):
    fill(path)
    before = contents(path.parent)
    database = Database(str(path), Access.READ, migrations=OTHER_MIGRATIONS)

    (row,) = database.read(lambda c: c.execute("SELECT id, colour FROM tasks").fetchall())

    assert tuple(row) == (1, None)
    assert contents(path.parent) == before


def test_a_conversion_that_fails_changes_nothing_and_can_be_tried_again(path):
    fill(path)
    broken = (*MIGRATIONS, ("ALTER TABLE tasks ADD COLUMN colour TEXT", "ALTER TABLE nothing"))
    before = Database(str(path), Access.READ).read(lambda c: list(map(tuple, c.execute(SCHEMA))))

    with pytest.raises(StoreError):
        Database(str(path), migrations=broken).read(lambda connection: connection.execute(TASK_IDS))

    after = Database(str(path), Access.READ).read(lambda c: list(map(tuple, c.execute(SCHEMA))))
    assert after == before
    database = Database(str(path), migrations=OTHER_MIGRATIONS)
    assert database.read(lambda connection: len(list(connection.execute(TASK_IDS)))) == 1
    database.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_killed_while_converting_leaves_one_version_or_the_other(path, moment):
    program = """
import sys
from tests.queue.test_database import OTHER_MIGRATIONS, TASK_IDS, Database
Database(sys.argv[1], migrations=OTHER_MIGRATIONS).read(lambda c: c.execute(TASK_IDS).fetchall())
"""
    fill(path)

    run_killed(f"database.migrate:{moment}", program, path)

    assert len(list(path.parent.glob(f"{path.name}.v{CURRENT}-*"))) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (
            CURRENT + (moment == "after"),
        )
    assert run_program(program, path).returncode == 0
    assert_sound(path)


CURRENT = len(MIGRATIONS)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_killed_while_copying_leaves_the_old_version_as_it_was(path, moment):
    program = """
import sys
from tests.queue.test_database import OTHER_MIGRATIONS, TASK_IDS, Database
Database(sys.argv[1], migrations=OTHER_MIGRATIONS).read(lambda c: c.execute(TASK_IDS).fetchall())
"""
    fill(path)

    run_killed(f"database.copy:{moment}", program, path)

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (CURRENT,)
    assert run_program(program, path).returncode == 0
    assert list(path.parent.glob("*.new*")) == []
    assert_sound(path)


def test_many_processes_that_convert_it_at_once_convert_it_once(path):
    program = """
import sys
from tests.queue.test_database import OTHER_MIGRATIONS, TASK_IDS, Database
print("ready", flush=True)
sys.stdin.readline()
database = Database(sys.argv[1], migrations=OTHER_MIGRATIONS)
print(len(database.read(lambda c: c.execute(TASK_IDS).fetchall())))
"""
    fill(path, *[A_SPEC] * 50)
    processes = [start_program(program, path) for _ in range(5)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    outputs = [process.communicate("go\n", timeout=LIMIT_S) for process in processes]

    assert outputs == [("50\n", "")] * 5
    assert len(list(path.parent.glob(f"{path.name}.v{CURRENT}-*"))) == 1
    assert_sound(path)


def test_where_the_copy_has_no_room_nothing_is_converted(path):
    program = """
import resource, signal, sys
from tests.queue.test_database import OTHER_MIGRATIONS, TASK_IDS, Database
from tinyscheduler.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, -1))
try:
    Database(sys.argv[1], migrations=OTHER_MIGRATIONS).read(lambda c: c.execute(TASK_IDS))
except StoreError as error:
    print(error.what)
# Whoever measures this program writes more at its end.
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
"""
    fill(path)

    done = run_program(program, path)

    assert str(path) in done.stdout
    assert done.stderr == ""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (CURRENT,)
    assert [name.name for name in path.parent.iterdir()] == [path.name]


SCHEMA = "SELECT sql FROM sqlite_master ORDER BY name"
TASK_IDS = "SELECT id FROM tasks"
