"""What every ledger must do, whatever it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import LEDGERS, START

from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.tasks import FailureReason, Outcome
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tinyscheduler.ports import Ledger

FULL = AttemptRecord(
    lease_id="lease-1",
    task_id="7",
    source="local",
    agent="coder",
    attempt=1,
    started_at=START,
    ended_at=START + timedelta(seconds=3, microseconds=5),
    outcome=Outcome.FAILED,
    failure_reason=FailureReason.DEAD_PID,
    reclaim_reason=ReclaimReason.DEAD_PID,
    exit_code=3,
    signal=9,
    message="killed: ünïcode\nand a second line",
    turns=12,
    peak_rss_mb=12.25,
    log="/base/state/logs/tasks/7/1.log",
)
SPARSE = AttemptRecord(
    lease_id="lease-2",
    task_id="7",
    source="local",
    agent="coder",
    attempt=2,
    started_at=None,
    ended_at=START,
    outcome=Outcome.SUCCEEDED,
    failure_reason=None,
)


@pytest.fixture(params=list(LEDGERS))
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    with ExitStack() as stack:
        yield LEDGERS[request.param](tmp_path, stack)


@pytest.mark.parametrize("attempt", [FULL, SPARSE])
def test_an_attempt_comes_back_as_it_was_recorded(ledger, attempt):
    ledger.record(attempt)

    assert list(ledger.attempts("7")) == [attempt]


def test_a_second_row_of_the_same_lease_changes_nothing(ledger):
    ledger.record(FULL)

    ledger.record(replace(FULL, outcome=Outcome.SUCCEEDED, message="another story"))

    assert list(ledger.attempts("7")) == [FULL]


def test_attempts_come_oldest_first_in_whatever_order_they_were_recorded(ledger):
    third = replace(SPARSE, lease_id="lease-0", attempt=3)
    for attempt in (third, FULL, SPARSE):
        ledger.record(attempt)

    assert list(ledger.attempts("7")) == [FULL, SPARSE, third]


def test_an_attempt_started_twice_keeps_both_rows(ledger):
    again = replace(FULL, lease_id="lease-3", ended_at=FULL.ended_at + timedelta(seconds=1))
    ledger.record(FULL)
    ledger.record(again)

    assert list(ledger.attempts("7")) == [FULL, again]


def test_attempts_of_other_tasks_are_not_told(ledger):
    ledger.record(FULL)
    ledger.record(replace(SPARSE, task_id="77"))
    ledger.record(replace(SPARSE, lease_id="lease-4", task_id="tinytask-7", source="tinytask"))

    assert list(ledger.attempts("7")) == [FULL]
    assert list(ledger.attempts("8")) == []


def test_words_and_paths_that_are_no_unicode_lose_no_row(ledger):
    undecodable = b"caf\xe9 printed".decode(errors="surrogateescape")

    ledger.record(replace(FULL, message=undecodable, log=f"/logs/{undecodable}"))

    (attempt,) = ledger.attempts("7")
    assert attempt.message.startswith("caf")
    assert (attempt.log or "").startswith("/logs/caf")
    assert attempt.outcome is FULL.outcome
