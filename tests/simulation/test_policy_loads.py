"""Loads from the past and from now: what ledgers and snapshots say, however odd it is."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_gpu, a_lease, a_snapshot, a_task, an_agent, an_entry
from tests.config.building import an_environment, loaded
from tests.contract.builders import SteppedClock

from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.app.place import make_state_folder
from tinyscheduler.app.policy_fixtures import read_fixtures
from tinyscheduler.app.policy_loads import fixture_load, recorded_load, snapshot_load
from tinyscheduler.app.queue import local_queue
from tinyscheduler.errors import NotFoundError, TinySchedulerError
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.tasks import Outcome, TaskSpec
from tinyscheduler.simulator.forecast.play import play
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.ports import Policy
    from tinyscheduler.simulator.forecast.load import Load
    from tinyscheduler.simulator.forecast.play import Course

GIB = 1 << 30
DAY_MIN = 24 * 60.0
# What a start takes on the simulated machine, and a tick that follows an arrival.
SOON_S = 0.5


class Platform:
    """The platform policy."""

    name, version = "platform", ""

    def find(self) -> Policy | None:
        return None


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a machine with four slots and no GPU."""
    (tmp_path / "gpus").write_text('{"gpus": []}')
    environment = an_environment(
        MAX_CONCURRENT_SLOTS="4",
        AGENT_LIMITS="shell:4",
        MEMORY_PER_SLOT_MB="1",
        STAGGER_DELAY_MS="0",
        GPU_PROBE="file:gpus",
    )
    return loaded(tmp_path, environment)


class Past:
    """What is on record there.  Minutes count from an hour ago."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._start = datetime.now(UTC) - timedelta(hours=1)
        self._leases = 0
        make_state_folder(config)

    def at(self, minutes: float) -> datetime:
        return self._start + timedelta(minutes=minutes)

    def add(self, made: float = 0.0, /, **spec: object) -> str:
        """Add a task of the shell's in that minute."""
        whole = TaskSpec(agent="shell", command=("work",), **spec)  # type: ignore[arg-type]  # each is named as a field is
        with closing(Database(self._config.paths.database, Access.WRITE)) as database:
            queue = local_queue(self._config, database, SteppedClock(wall=self.at(made)))
            (task_id,) = queue.add([(None, whole)])
        return task_id

    def tried(
        self,
        task_id: str,
        began: float,
        ended: float,
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        attempt: int = 1,
    ) -> None:
        """Let an attempt have begun and ended in these minutes."""
        self._leases += 1
        record = AttemptRecord(
            lease_id=f"lease-{self._leases}",
            task_id=task_id,
            source="local",
            agent="shell",
            attempt=attempt,
            started_at=self.at(began),
            ended_at=self.at(ended),
            outcome=outcome,
            failure_reason=None,
        )
        with closing(Database(self._config.paths.database, Access.WRITE)) as database:
            SqliteLedger(database).record(record)

    def load(self, *, since: float = -60.0) -> Load:
        return recorded_load(self._config, since=self.at(since))


@pytest.fixture
def past(config: Config) -> Past:
    return Past(config)


def starts(course: Course) -> dict[str, float | None]:
    return {one.name: one.started_s for one in course.tasks}


def about(minutes: float) -> object:
    return pytest.approx(60 * minutes, abs=SOON_S)


# -- the past -------------------------------------------------------------------------


def test_a_task_comes_when_it_came_and_takes_as_long_and_what_follows_it_waits(past: Past):
    first = past.add(0)
    then = past.add(1, after=(first,))
    past.tried(first, 3, 13)
    past.tried(then, 20, 25)
    course = play(past.load(), Platform())

    # Nothing else is there, so that both start as soon as they may.
    assert starts(course) == {first: about(0), then: about(10)}
    assert [one.runs_s for one in course.tasks] == [about(10), about(5)]


@pytest.mark.parametrize("since", [-30, -20])
def test_what_is_older_than_the_time_asked_for_comes_with_the_first_thing_on_record(
    past: Past, since: float
):
    """So the same comes of it while time goes by and nothing leaves the time asked for."""
    old, new = past.add(-20 * DAY_MIN), past.add(0)
    past.tried(old, -50, -10)
    past.tried(new, 0, 1)
    load = past.load(since=since)

    assert load.begins_at == past.at(-10)
    assert {job.name: job.arrives_s for job in load.jobs} == {old: 0.0, new: about(10)}
    # It is as old as it was, so that it goes before others as it did.
    assert load.jobs[0].age_s == about(20 * DAY_MIN - 10)


@pytest.mark.parametrize("year", [1970, 2099])
def test_a_clock_that_was_wrong_makes_no_load_of_decades(past: Past, year: int):
    """One without a battery begins in 1970."""
    wrong = (datetime(year, 1, 1, tzinfo=UTC) - past.at(0)).total_seconds() / 60
    odd, plain = past.add(wrong), past.add(0)
    past.tried(odd, wrong, 5)
    past.tried(plain, 0, 1)
    course = play(past.load(), Platform())

    assert None not in starts(course).values()
    assert course.ended_s < 4 * 3600


def test_a_task_that_began_before_it_was_made_comes_when_it_began(past: Past):
    task = past.add(10)
    past.tried(task, 5, 12)
    load = past.load()

    assert (load.begins_at, load.jobs[0].arrives_s) == (past.at(5), 0.0)
    assert starts(play(load, Platform())) == {task: about(0)}


def test_what_was_tried_before_the_time_asked_for_comes_when_it_was_tried_again(past: Past):
    task = past.add(-20 * DAY_MIN)
    past.tried(task, -20 * DAY_MIN, -20 * DAY_MIN + 5, Outcome.FAILED)
    past.tried(task, 0, 5, attempt=2)
    course = play(past.load(), Platform())

    assert course.load.begins_at == past.at(0)
    assert [one.ended_s - one.started_s for one in course.attempts] == [about(5)]


def test_a_task_that_was_retried_by_hand_is_tried_as_often_as_it_was(past: Past):
    """After three failures it was parked, and what comes after it waited until it was done."""
    first = past.add(0)
    then = past.add(0, after=(first,))
    for number in range(1, 6):
        outcome = Outcome.SUCCEEDED if number == 5 else Outcome.FAILED
        past.tried(first, number, number + 0.5, outcome, attempt=number)
    past.tried(then, 10, 11)
    course = play(past.load(), Platform())

    assert [one.name for one in course.attempts] == [first] * 5 + [then]
    assert None not in starts(course).values()


def test_a_task_that_was_parked_is_not_tried_once_more(past: Past):
    task = past.add(0, max_attempts=5)
    for number in (1, 2):
        past.tried(task, number, number + 0.5, Outcome.FAILED, attempt=number)
    course = play(past.load(), Platform())

    assert len(course.attempts) == 2


def test_attempts_are_played_by_their_numbers_whatever_the_clock_said(past: Past):
    task = past.add(0)
    past.tried(task, 30, 40, Outcome.FAILED, attempt=1)
    past.tried(task, 5, 8, attempt=2)
    (job,) = past.load().jobs

    assert [(one.runs_s, one.exit_code) for one in job.trials] == [(600.0, 1), (180.0, 0)]


def test_what_took_as_long_as_it_may_succeeds_again(past: Past):
    task = past.add(0, max_runtime_s=60.0)
    past.tried(task, 0, 30)
    course = play(past.load(), Platform())

    assert len(course.attempts) == 1
    assert course.attempts[0].ended_s - course.attempts[0].started_s == pytest.approx(59, abs=0.1)


def test_what_was_asked_to_wait_for_after_it_began_is_no_wish_of_that_time(past: Past):
    task = past.add(0, not_before=past.at(50 * DAY_MIN))
    past.tried(task, 5, 6)

    assert starts(play(past.load(), Platform())) == {task: about(0)}


def test_what_this_machine_could_never_start_is_left_out_and_told(past: Past):
    plain, large = past.add(0), past.add(0, gpus=1)
    past.tried(plain, 1, 2)
    past.tried(large, 1, 2)
    load = past.load()

    assert [job.name for job in load.jobs] == [plain]
    assert load.words.startswith("1 recorded task, from ")
    why = "no agent may run them, or the machine has not what they need"
    assert load.notes == (f"left out: 1 task ({why})",)


def test_what_need_not_wait_for_others_here_does_not(tmp_path: Path):
    environment = an_environment(AGENT_LIMITS="shell:4", DISABLE_BLOCKING="true")
    past = Past(loaded(tmp_path, environment))
    first = past.add(0)
    then = past.add(0, after=(first,))
    past.tried(first, 0, 10)
    past.tried(then, 0, 10)

    assert all(not job.spec.after for job in past.load().jobs)


# -- now ------------------------------------------------------------------------------


def taken(config: Config, snapshot: Snapshot) -> Load:
    return snapshot_load(config, snapshot, seed=1)


def test_what_a_snapshot_says_will_not_start_is_left_out_and_told(config: Config):
    now = a_snapshot().now.wall
    load = taken(
        config,
        a_snapshot(
            a_task("1"),
            a_task("2", is_held=True),
            a_task("3", blocked_by=("2",)),
            a_task("4", blocked_by=("3",)),
            a_task("5", blocked_by=("1",)),
            a_task("6", agent="nobody"),
            a_task("7", not_before=now + timedelta(days=8)),
            a_task("8", not_before=now + timedelta(days=6)),
            a_task("9", blocked_by=("a parked one",)),
        ),
    )

    assert [job.name for job in load.jobs] == ["1", "5", "8"]
    assert load.notes == (
        "left out: 1 task (held)",
        "left out: 1 task (no agent may run them, or the machine has not what they need)",
        "left out: 1 task (asked to wait for more than a week)",
        "left out: 3 tasks (what they come after is not played)",
    )
    assert None not in starts(play(load, Platform())).values()


def test_where_nothing_could_start_it_is_said_why(config: Config):
    with pytest.raises(NotFoundError, match=r"that could start; left out: 1 task \(held\)"):
        taken(config, a_snapshot(a_task("1", is_held=True)))


def test_a_backoff_under_a_clock_that_was_set_back_is_over(config: Config):
    far = a_snapshot().now.wall + timedelta(days=300)
    load = taken(config, a_snapshot(a_task("1", backing_off_until=far)))

    assert starts(play(load, Platform())) == {"1": about(0)}


def test_a_whole_gpu_is_free_again_once_its_attempt_has_ended(config: Config):
    """What the attempt uses there is not that of a stranger."""
    busy = a_lease("1", needs=Needs(gpus=1), gpu_uuids=("GPU-0",), gpu_share=1.0)
    snapshot = a_snapshot(
        an_entry(busy),
        a_task("2", gpus=1),
        agents=(an_agent(limit=2),),
        slots=2,
        gpus=(a_gpu(0, p4711=20),),
        gpu_owners={4711: busy.lease_id},
    )
    load = taken(config, snapshot)
    course = play(load, Platform())

    assert load.site.gpus.gpus[0].used_bytes == 0
    left_s = load.jobs[0].trials[0].runs_s
    assert starts(course) == {"2": pytest.approx(left_s, abs=SOON_S)}


def test_what_strangers_use_of_a_gpu_and_of_the_memory_stays_used(config: Config):
    busy = a_lease(
        "1", needs=Needs(vram_bytes=10 * GIB, memory_bytes=4 * GIB), gpu_uuids=("GPU-0",)
    )
    snapshot = a_snapshot(
        an_entry(busy),
        a_task("2"),
        agents=(an_agent(limit=2),),
        slots=2,
        gpus=(a_gpu(0, p4711=2, p99=5),),
        gpu_owners={4711: busy.lease_id, 99: None},
        # Of 16 GiB eight are in use, and one of these by the attempt.
        memory_used={busy.lease_id: GIB},
    )
    site = taken(config, snapshot).site

    assert site.gpus.gpus[0].used_bytes == 5 * GIB
    assert site.memory_used_bytes == 7 * GIB


def test_an_attempt_that_is_over_runs_no_more(config: Config):
    gone = an_entry(a_lease("1"), is_lock_held=False)
    load = taken(config, a_snapshot(gone, a_task("2")))

    assert [job.name for job in load.jobs] == ["2"]


def test_a_snapshot_that_no_machine_was_like_is_refused(config: Config):
    at = datetime.max.replace(tzinfo=UTC)
    snapshot = a_snapshot(a_task("1", not_before=at))
    last = replace(snapshot, now=replace(snapshot.now, wall=at))

    with pytest.raises(TinySchedulerError, match="this snapshot cannot be played: OverflowError"):
        taken(config, last)


# -- a case ---------------------------------------------------------------------------


def test_a_model_of_which_no_slot_is_free_is_not_one_without_bounds(config: Config, tmp_path: Path):
    path = tmp_path / "cases.yaml"
    path.write_text("""
- name: full
  given:
    queue: [{id: a, model_ref: large}, {id: b}]
    models: [{model_ref: large, slots: 1, used: 1}]
  expect: {starts: [b]}
""")
    (case,) = read_fixtures(str(path))
    course = play(fixture_load(config, case, seed=1), Platform())

    assert starts(course) == {"a": None, "b": about(0)}
