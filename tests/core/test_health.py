"""Health is a verdict over figures, and each thing that is wrong says what to do."""

from __future__ import annotations

import pytest
from tests.builders import HOST

from tinyscheduler.core.health import Health, Issue, Severity, assess
from tinyscheduler.model.resources import Pressure
from tinyscheduler.values import replace

GIB = 2**30


def assessed(*, used: float = 0.1, active: int = 0, disk: int | None = GIB, load=1.0) -> Health:
    host = replace(
        HOST,
        memory_total_bytes=10 * GIB,
        memory_available_bytes=round(10 * GIB * (1 - used)),
        load=load,
        cores=2,
    )
    return assess(
        host,
        disk_free_bytes=disk,
        active_slots=active,
        most_slots=2,
        memory_warning=0.8,
        memory_critical=0.9,
    )


@pytest.mark.parametrize(
    ("used", "pressure"),
    [
        (0.5, Pressure.NONE),
        (0.8, Pressure.WARNING),
        (0.89, Pressure.WARNING),
        (0.9, Pressure.CRITICAL),
        (1.0, Pressure.CRITICAL),
    ],
)
def test_memory_warns_before_it_is_critical(used: float, pressure: Pressure):
    verdict = assessed(used=used)

    assert verdict.pressure is pressure
    assert verdict.is_healthy == (pressure is not Pressure.CRITICAL)
    assert [issue.component for issue in verdict.issues] == ["memory"] * (used >= 0.8)


def test_time_lost_in_waiting_for_memory_is_critical_from_the_limit_on():
    host = replace(HOST, memory_stall=0.31)

    def judged(limit: float | None) -> Health:
        return assess(
            host,
            disk_free_bytes=GIB,
            active_slots=0,
            most_slots=1,
            memory_warning=0.8,
            memory_critical=0.9,
            memory_stall_critical=limit,
        )

    assert judged(None).is_healthy
    assert judged(0.4).pressure is Pressure.NONE
    verdict = judged(0.3)
    assert (verdict.is_healthy, verdict.pressure) == (False, Pressure.CRITICAL)
    (issue,) = verdict.issues
    assert (issue.severity, issue.component) == (Severity.CRITICAL, "memory")
    assert issue.message == (
        "programs here waited for memory 31% of the last 10 s, the limit is 30%"
    )


def test_without_a_free_slot_nothing_more_can_be_taken_on():
    verdict = assessed(active=2)

    assert not verdict.is_healthy
    assert [issue.severity for issue in verdict.issues] == [Severity.INFO]


def test_a_full_disk_is_critical_and_an_unknown_one_is_not():
    assert not assessed(disk=1).is_healthy
    assert assessed(disk=None).is_healthy


def test_load_is_told_per_core_and_never_above_100():
    assert assessed(load=1.0).cpu_percent == 50
    assert assessed(load=9.0).cpu_percent == 100


def test_what_was_found_elsewhere_counts():
    found = Issue(severity=Severity.CRITICAL, component="queue", message="", recommendation="")
    verdict = assess(
        HOST,
        disk_free_bytes=GIB,
        active_slots=0,
        most_slots=1,
        memory_warning=0.8,
        memory_critical=0.9,
        known=[found],
    )

    assert not verdict.is_healthy
    assert verdict.issues == (found,)
