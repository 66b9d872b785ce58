"""Many processes at one queue, and processes that die while they change it."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
from contextlib import closing

import pytest
from tests.queue.builders import (
    A_SPEC,
    AGAIN,
    DONE,
    LIMIT_S,
    assert_sound,
    open_queue,
    run_killed,
    start_program,
)

from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.model.tasks import TaskSpec, TaskState

CLAIM_ALL = """
import sys
from tests.queue.builders import open_queue
opened = open_queue(sys.argv[1])
tasks = opened.queue.look(window=1000).waiting
print("ready", flush=True)
sys.stdin.readline()
for task in tasks:
    lease = f"{sys.argv[2]}-{task.task_id}"
    if opened.queue.claim(task.task_id, lease_id=lease, agent="a", queue="work", attempt=1):
        print(task.task_id, lease)
opened.database.close()
"""


def test_of_eight_processes_that_claim_the_same_tasks_one_gets_each(path, opened):
    ids = opened.add(*[A_SPEC] * 50)
    processes = [start_program(CLAIM_ALL, path, number) for number in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    outputs = [process.communicate(timeout=LIMIT_S) for process in processes]

    assert [err for _, err in outputs] == [""] * 8
    won = [tuple(line.split()) for out, _ in outputs for line in out.splitlines()]
    assert sorted(won) == sorted((one.task_id, one.lease_id) for one in claims(opened))
    assert sorted(task_id for task_id, _ in won) == sorted(ids)


def claims(opened):
    return opened.queue.look(window=1).claims


LOOK_UNTIL_TOLD = """
import select, sys
from tests.queue.builders import Access, open_queue
reader = open_queue(sys.argv[1], Access.READ, busy_timeout_s=5)
looks, seen = 0, 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    view = reader.queue.look(window=1000)
    # Each round of the writer adds two, and takes two away, in single steps.
    assert view.waiting_total + len(view.claims) in (0, 1, 2), view
    assert view.waiting_total == len(view.waiting), view
    looks += 1
print(looks)
"""


@pytest.mark.parametrize("closes", ["after every change", "at its end"])
def test_readers_in_a_loop_see_whole_transactions_and_never_hold_up_a_writer(path, closes):
    writer = open_queue(path, busy_timeout_s=1)
    writer.queue.look(window=1)
    readers = [start_program(LOOK_UNTIL_TOLD, path) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"

    def pause() -> None:
        if closes == "after every change":
            writer.database.close()

    for _ in range(100):
        ids = writer.add(A_SPEC, A_SPEC)
        pause()
        for task_id in ids:
            assert writer.claim(task_id, lease_id=task_id)
            pause()
            assert writer.queue.settle(task_id, lease_id=task_id, ending=DONE)
            pause()

    outputs = [reader.communicate("stop\n", timeout=LIMIT_S) for reader in readers]
    assert [err for _, err in outputs] == ["", ""]
    assert all(int(out) > 10 for out, _ in outputs), outputs
    assert writer.queue.counts()[TaskState.DONE] == 200
    writer.database.close()
    assert_sound(path)


ONE_CHANGE = {
    "queue.add": "opened.queue.add([('a', A_SPEC), (None, TaskSpec(after=('a', '1')))])",
    "queue.claim": "opened.queue.claim('1', lease_id='l', agent='a', queue='work', attempt=1)",
    "queue.settle": "opened.queue.settle('2', lease_id='two', ending=DONE)",
    "queue.cancel": "opened.queue.request_cancel('3')",
    "queue.retry": "opened.queue.retry('4')",
    "queue.hold": "opened.queue.hold('1')",
    "ledger.record": "opened.ledger.record(an_attempt())",
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", sorted(ONE_CHANGE))
def test_a_process_killed_at_a_change_leaves_all_of_it_or_nothing(path, step, moment):
    program = f"""
import sys
from tests.queue.builders import A_SPEC, DONE, open_queue
from tests.queue.test_database import an_attempt
from tinyscheduler.model.tasks import TaskSpec
opened = open_queue(sys.argv[1])
{ONE_CHANGE[step]}
"""
    opened = open_queue(path)
    opened.add(A_SPEC, A_SPEC)
    opened.add(TaskSpec(after=("2",)), TaskSpec(after=("2",)))
    opened.claim("2", lease_id="two")
    opened.queue.request_cancel("4")
    opened.database.close()
    before = dump(path)

    run_killed(f"{step}:{moment}", program, path)

    # The wholeness of what was committed is in the counters, which assert_sound compares.
    assert (dump(path) != before) == (moment == "after")
    assert_sound(path)


def dump(path):
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


CHANGE_FOR_EVER = """
import itertools, sys
from tests.queue.builders import A_SPEC, AGAIN, DONE, open_queue
from tinyscheduler.model.tasks import TaskSpec
opened = open_queue(sys.argv[1])
opened.queue.look(window=1)
print("ready", flush=True)
for round_number in itertools.count():
    first, second, *_ = opened.queue.add(
        [("a", A_SPEC), *((None, TaskSpec(after=("a",))) for _ in range(9))]
    )
    assert opened.claim(first, lease_id=f"l{first}")
    assert opened.queue.settle(first, lease_id=f"l{first}", ending=AGAIN)
    assert opened.claim(first, lease_id=f"m{first}")
    assert opened.queue.settle(first, lease_id=f"m{first}", ending=DONE)
    opened.queue.request_cancel(second)
    opened.queue.retry(second)
    if round_number % 3 == 0:
        opened.database.close()
"""


def test_a_process_killed_at_any_moment_leaves_a_sound_queue_for_the_next(path):
    chance = random.Random(7)
    for _ in range(12):
        process = start_program(CHANGE_FOR_EVER, path)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.01, 0.1))

        process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=LIMIT_S)

        assert err == ""
        reader = open_queue(path, Access.READ)
        assert sum(reader.queue.counts().values()) % 10 == 0
        for one in reader.queue.look(window=1).claims:
            writer = open_queue(path)
            assert writer.queue.settle(one.task_id, lease_id=one.lease_id, ending=AGAIN)
            writer.database.close()
        assert_sound(path)
    assert sum(open_queue(path, Access.READ).queue.counts().values()) > 0
