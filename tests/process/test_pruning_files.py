"""Old files go, and nothing goes that an attempt, a waiting task or its blocker may need."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_lease
from tests.contract.places import paths_in

from tinyscheduler.adapters.prune_files import FilePruner
from tinyscheduler.errors import StoreError
from tinyscheduler.model.documents import encode_lease
from tinyscheduler.model.pruning import PruneBounds, Pruned, PruneKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass
class Place:
    """A state folder whose files are as old as the test says."""

    folder: Path
    needed: set[str] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)

    def make(self, name: str, *, days: float, content: str = "x" * 5000) -> Path:
        path = self.folder / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        then = (NOW - days * DAY).timestamp()
        os.utime(path, (then, then))
        os.utime(path.parent, (then, then))
        return path

    def prune(self, *, most: int = 100, may_write: bool = True) -> Pruned:
        def needed(task_ids: Sequence[str]) -> frozenset[str]:
            self.asked.append(len(task_ids))
            return frozenset(self.needed & set(task_ids))

        pruner = FilePruner(
            paths_in(self.folder), needed=needed, log_max_bytes=10_000, may_write=may_write
        )
        return pruner.prune(
            PruneBounds(
                history_before=NOW - 30 * DAY, logs_before=NOW - 14 * DAY, now=NOW, most=most
            )
        )

    def files(self) -> set[str]:
        top = self.folder / "state"
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def counts(pruned: Pruned) -> dict[PruneKind, int]:
    return {one.kind: one.number for one in pruned.removed}


def test_where_nothing_is_there_nothing_goes(place):
    assert place.prune() == Pruned()


def test_each_kind_goes_by_its_own_age_and_says_how_much_it_took(place):
    place.make("logs/tasks/1/1.log", days=15)
    place.make("tasks/task_1.prompt", days=15)
    place.make("logs/scheduler_20260201.log", days=15)
    place.make("logs/scheduler_20260201.log.1", days=15)
    place.make("logs/events.jsonl.2", days=15)
    place.make("logs/wrapper.log.1", days=15)
    place.make("quarantine/task_1.json.7", days=31)
    place.make("tinyscheduler.db.v1-20260101T000000Z", days=31)
    place.make("tinyscheduler.db.reset-20260101T000000Z", days=31)
    place.make("cancel/0123", days=1)
    place.make("ticks/20260101T000000.000000Z-0001.json", days=31)
    place.make("ticks/.round.tmp", days=31)

    pruned = place.prune()

    assert counts(pruned) == {
        PruneKind.LOGS: 5,
        PruneKind.PROMPTS: 1,
        PruneKind.QUARANTINE: 1,
        PruneKind.COPIES: 2,
        PruneKind.CANCELS: 1,
        PruneKind.TICKS: 2,
    }
    assert all(one.bytes >= one.number * 5000 for one in pruned.removed)
    assert place.files() == set()
    assert not (place.folder / "state" / "logs" / "tasks" / "1").exists()


def test_what_is_young_or_still_written_stays(place):
    kept = {
        str(path.relative_to(place.folder / "state"))
        for path in (
            place.make("logs/tasks/1/1.log", days=13),
            place.make("tasks/task_1.prompt", days=13),
            place.make("logs/scheduler_20260301.log", days=99),
            place.make("logs/scheduler_20260220.log", days=9),
            place.make("logs/events.jsonl", days=99),
            place.make("logs/wrapper.log", days=99),
            place.make("logs/mine.txt", days=99),
            place.make("quarantine/task_1.json.7", days=29),
            place.make("tinyscheduler.db", days=99),
            place.make("tinyscheduler.db-wal", days=99),
            place.make("tinyscheduler.db.mine", days=99),
            place.make("tinyscheduler.db.v1-20260220T000000Z", days=9),
            place.make("cancel/0123", days=0.01),
            place.make("ticks/20260301T000000.000000Z-0001.json", days=29),
            place.make("ticks/mine.json", days=99),
            place.make("settings.json", days=99),
            place.make("tasks/mine.txt", days=99),
        )
    }

    assert place.prune() == Pruned()

    assert place.files() == kept


def test_beside_logs_of_attempts_nothing_of_the_users_own_goes(place):
    place.make("logs/tasks/1/1.log", days=99)
    kept = {
        str(path.relative_to(place.folder / "state"))
        for path in (
            place.make("logs/tasks/thesis/draft.tex", days=99),
            place.make("logs/tasks/2/1.log.gz", days=99),
            place.make("logs/tasks/2/build.log", days=99),
            place.make("logs/tasks/2/notes", days=99),
        )
    }
    empty = place.make("logs/tasks/inbox/x", days=99)
    empty.unlink()
    os.utime(empty.parent, ((NOW - 99 * DAY).timestamp(),) * 2)

    assert counts(place.prune()) == {PruneKind.LOGS: 1}

    assert place.files() == kept
    assert empty.parent.is_dir()


def test_a_folder_that_holds_more_than_logs_stays_without_them(place):
    place.make("logs/tasks/1/1.log", days=99)
    place.make("logs/tasks/1/notes", days=99)

    place.prune()

    assert place.files() == {"logs/tasks/1/notes"}


def test_a_folder_that_was_emptied_before_a_kill_goes_later_and_one_of_the_users_stays(place):
    for name, mode in (("7", 0o700), ("8", 0o755), ("notes-2024", 0o755), ("9", 0o700)):
        path = place.make(f"logs/tasks/{name}/1.log", days=20)
        path.unlink()
        path.parent.chmod(mode)
        then = (NOW - (1 if name == "9" else 20) * DAY).timestamp()
        os.utime(path.parent, (then, then))

    place.prune()

    assert {path.name for path in (place.folder / "state" / "logs" / "tasks").iterdir()} == {
        *("8", "notes-2024"),
        "9",  # too young to be judged: an attempt may be about to write into it
    }


def test_nothing_of_a_task_that_is_needed_goes(place):
    place.needed = {"1"}
    for task_id in "12":
        place.make(f"logs/tasks/{task_id}/1.log", days=99)
        place.make(f"tasks/task_{task_id}.prompt", days=99)

    place.prune()

    assert place.files() == {"logs/tasks/1/1.log", "tasks/task_1.prompt"}


@pytest.mark.parametrize("evidence", ["json", "lock"])
def test_nothing_goes_while_an_attempt_of_the_task_may_live(place, evidence):
    place.make(f"running/task_1.{evidence}", days=99, content="{broken")
    place.make("logs/tasks/1/1.log", days=99)
    place.make("tasks/task_1.prompt", days=99)
    place.make("cancel/0123", days=99)

    assert place.prune() == Pruned()


def test_a_request_to_cancel_stays_as_long_as_its_attempt_or_its_result(place):
    lease = json.dumps(encode_lease(a_lease("1", lease_id="aaaa")))
    place.make("running/task_1.json", days=99, content=lease)
    place.make("running/task_1.lock", days=99)
    place.make("results/bbbb.json", days=99)
    for lease_id in ("aaaa", "bbbb", "cccc"):
        place.make(f"cancel/{lease_id}", days=99)

    assert counts(place.prune()) == {PruneKind.CANCELS: 1}

    assert {name for name in place.files() if name.startswith("cancel")} == {
        "cancel/aaaa",
        "cancel/bbbb",
    }


def test_a_task_with_a_younger_attempt_keeps_all_its_logs(place):
    place.make("logs/tasks/1/1.log", days=99)
    place.make("logs/tasks/1/2.log", days=1)

    assert place.prune() == Pruned()


def test_a_file_written_since_its_folder_grew_old_stays(place):
    log = place.make("logs/tasks/1/1.log", days=99)
    os.utime(log, ((NOW - DAY).timestamp(),) * 2)

    assert place.prune() == Pruned()


def test_no_more_than_asked_for_goes_at_once_the_oldest_tasks_first(place):
    for number in (2, 10, 9, 1):
        place.make(f"logs/tasks/{number}/1.log", days=99)

    first = place.prune(most=2)

    assert (counts(first), first.is_more) == ({PruneKind.LOGS: 2}, True)
    assert place.files() == {"logs/tasks/9/1.log", "logs/tasks/10/1.log"}
    assert not place.prune(most=2).is_more
    assert place.files() == set()


def test_many_old_tasks_are_asked_about_in_parts(place):
    for number in range(1100):
        place.make(f"logs/tasks/{number}/1.log", days=99)

    assert counts(place.prune(most=2000)) == {PruneKind.LOGS: 1100}

    assert place.asked == [500, 500, 100]


def test_a_dry_run_says_the_same_and_removes_nothing(place):
    place.make("logs/tasks/1/1.log", days=99)
    place.make("logs/wrapper.log", days=1, content="x" * 20_000)
    before = place.files()

    told = place.prune(may_write=False)

    assert place.files() == before
    assert place.prune() == told


def test_what_wrappers_wrote_is_set_aside_when_it_is_large(place):
    place.make("logs/wrapper.log", days=1, content="x" * 20_000)

    place.prune()

    assert place.files() == {"logs/wrapper.log.1"}


def test_a_link_is_removed_and_never_what_it_leads_to(place, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "1.log").write_text("keep")
    then = (NOW - 99 * DAY).timestamp()
    (place.folder / "state" / "logs" / "tasks").mkdir(parents=True)
    (place.folder / "state" / "logs" / "tasks" / "7").symlink_to(precious)
    place.make("logs/tasks/8/2.log", days=99)
    link = place.folder / "state" / "logs" / "tasks" / "8" / "1.log"
    link.symlink_to(precious / "1.log")
    os.utime(link, (then, then), follow_symlinks=False)
    os.utime(link.parent, (then, then))

    place.prune()

    assert (precious / "1.log").read_text() == "keep"
    assert not link.is_symlink()


def test_odd_names_stop_nothing(place):
    place.make("logs/tasks/-x/1.log", days=99)
    place.make("logs/tasks/a b/1.log", days=99)
    place.make("tasks/task_.prompt", days=99)
    place.make("logs/tasks/1/1.log", days=99)

    assert counts(place.prune()) == {PruneKind.LOGS: 1}


def test_a_folder_that_may_not_be_written_is_named_and_keeps_nothing_else(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = tmp_path_factory.mktemp("foreign")
    place = Place(folder)
    place.make("logs/tasks/1/1.log", days=99)
    place.make("logs/tasks/2/1.log", days=99)
    place.make("quarantine/x", days=99)
    for one in (*folder.parents, folder):
        if str(one).startswith("/tmp/pytest"):
            one.chmod(0o755)
    (folder / "state" / "logs" / "tasks" / "1").chmod(0o555)
    for name in ("logs/tasks/2", "quarantine"):
        os.chown(folder / "state" / name, 65534, -1)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            place.prune()
        except StoreError as error:
            os._exit(0 if "tasks/1/1.log" in error.what else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert place.files() == {"logs/tasks/1/1.log"}
