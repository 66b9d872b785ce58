"""Signs of life of an attempt that prints nothing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tinyscheduler.attempt_life import Life

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Machine:
    """Processes that have used so many seconds of processors."""

    def __init__(self) -> None:
        self.used_s = {101: 0.0, 102: 0.0}
        self.reaped_s = 0.0

    def life(self, most_s: float = 80, **more: Any) -> Life:
        return Life(
            most_s,
            now_s=0.0,
            reaped_s=lambda: self.reaped_s,
            children=lambda: {os.getpid(): [(101, 1, "S")], 101: [(102, 1, "Z")], 1: [(7, 1, "R")]},
            fields=lambda pid: (
                ["S"] * 11 + [str(round(self.used_s[pid] * TICKS_PER_S)), "0", "0", "0"]
            ),
            parse=json.loads,
            **more,
        )


def ended_at(life: Life, work: Callable[[float], None], *, spoke_s: float = 0.0) -> float | None:
    """Return when it was found dead, by looks each second for ten times as long as it may be."""
    for now in range(800):
        work(now)
        if life.is_over(now, spoke_s=min(spoke_s, now)):
            return now
    return None


def test_one_that_does_nothing_is_over_after_its_time_and_at_most_an_eighth_later():
    assert 80 < (ended_at(Machine().life(), lambda _: None) or 0) <= 91
    assert 180 < (ended_at(Machine().life(), lambda _: None, spoke_s=100.0) or 0) <= 191


@pytest.mark.parametrize("pid", [101, 102])
def test_a_hundredth_of_a_processor_anywhere_below_is_life_and_less_is_not(pid: int):
    machine = Machine()

    def work(now: float, share: float) -> None:
        machine.used_s[pid] = share * now

    assert ended_at(machine.life(), lambda now: work(now, 0.02)) is None
    assert ended_at(machine.life(), lambda now: work(now, 0.004)) is not None


def test_what_was_reaped_has_worked_and_what_was_used_while_it_spoke_is_no_life_since():
    machine = Machine()

    def work(now: float) -> None:
        machine.reaped_s = now / 10

    assert ended_at(machine.life(), work) is None

    def work_at_first(now: float) -> None:
        machine.reaped_s = min(now, 100.0)

    found = ended_at(machine.life(), work_at_first, spoke_s=100.0)
    assert 180 < (found or 0) <= 201


@pytest.mark.parametrize(
    ("gpus", "is_life"),
    [
        ([{"uuid": "a", "utilization": 5}], True),
        ([{"uuid": "a", "utilization": 5, "processes": [{"pid": 102, "used": 1}]}], True),
        ([{"uuid": "a", "utilization": 5, "processes": [{"pid": None}]}], True),
        # Somebody else is at work there, or nobody, or on another one.
        ([{"uuid": "a", "utilization": 5, "processes": [{"pid": 7, "used": 1}]}], False),
        ([{"uuid": "a", "utilization": 0, "processes": [{"pid": 101}]}], False),
        ([{"uuid": "a", "utilization": None}, {"uuid": "b", "utilization": 99}], False),
        ([], False),
        (None, False),
        ([3, {"uuid": []}, {"uuid": "a", "utilization": "x", "processes": [4]}], False),
    ],
)
def test_its_gpu_at_work_for_it_is_life(tmp_path: Path, gpus: object, *, is_life: bool):
    report = tmp_path / "report"
    report.write_text(json.dumps({"gpus": gpus}))
    life = Machine().life(report=("/bin/cat", str(report)), gpus=("a",))

    assert (ended_at(life, lambda _: None) is None) is is_life


@pytest.mark.parametrize("argv", [("/nowhere/report",), ("/bin/sh", "-c", "echo no")])
def test_a_report_that_cannot_be_had_is_no_life_and_costs_little(argv: tuple[str, ...]):
    life = Machine().life(report=argv, gpus=("a",))

    assert ended_at(life, lambda _: None) is not None
