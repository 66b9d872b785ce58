"""What every clock must do, whatever it is made of."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.simulator.clock import SimulatedClock
from tinyscheduler.simulator.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.ports import Clock

CLOCKS: dict[str, Callable[[], Clock]] = {
    "system": SystemClock,
    "simulated": lambda: SimulatedClock(Machine().spawn("tick")),
}


@pytest.fixture(params=list(CLOCKS))
def clock(request: pytest.FixtureRequest) -> Clock:
    return CLOCKS[request.param]()


def test_the_wall_clock_knows_its_zone_and_the_boot_its_name(clock):
    now = clock.now()

    assert now.wall.utcoffset() == timedelta(0)
    assert now.boot_id == clock.now().boot_id != ""


def test_monotonic_time_never_goes_back(clock):
    readings = [clock.now().monotonic_ns for _ in range(1000)]

    assert readings == sorted(readings)


def test_sleeping_lets_at_least_that_time_pass(clock):
    before = clock.now()

    clock.sleep(0.05)

    after = clock.now()
    assert after.monotonic_ns - before.monotonic_ns >= 0.05e9
    assert after.wall > before.wall


@pytest.mark.parametrize("seconds", [0, -1])
def test_sleeping_for_no_time_or_less_returns_at_once(clock, seconds):
    before = clock.now()

    clock.sleep(seconds)

    assert clock.now().monotonic_ns - before.monotonic_ns < 1e9


def test_a_signal_handler_can_end_a_sleep_and_all_later_ones():
    clock = SystemClock()
    handler = signal.signal(signal.SIGALRM, lambda _number, _frame: clock.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        before = clock.now()

        clock.sleep(60)
        clock.sleep(60)

        assert clock.now().monotonic_ns - before.monotonic_ns < 30e9
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_the_boot_is_the_kernels():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert SystemClock().now().boot_id == file.read().strip()


def test_a_clock_keeps_no_descriptor_when_it_is_gone():
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(50):
        SystemClock()

    assert len(os.listdir("/proc/self/fd")) == before
