"""What every probe must do, whatever it is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_lease

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.model.leases import ProcessIdentity
from tinyscheduler.simulator.clock import SimulatedClock
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.probe import SimulatedProbe
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.ports import Clock, Probe


def build_real() -> tuple[Probe, Clock]:
    return ProcProbe(), SystemClock()


def build_simulated() -> tuple[Probe, Clock]:
    process = Machine().spawn("tick")
    return SimulatedProbe(process), SimulatedClock(process)


PROBES: dict[str, Callable[[], tuple[Probe, Clock]]] = {
    "proc": build_real,
    "simulated": build_simulated,
}


@pytest.fixture(params=list(PROBES))
def probe_and_clock(request: pytest.FixtureRequest) -> tuple[Probe, Clock]:
    return PROBES[request.param]()


def test_a_machine_has_a_name_memory_and_cores(probe_and_clock):
    state = probe_and_clock[0].read()

    assert state.hostname
    assert 0 < state.memory_available_bytes <= state.memory_total_bytes
    assert state.cores >= 1
    assert state.load >= 0
    assert state.pid_ns > 0


def test_probe_and_clock_agree_on_the_boot(probe_and_clock):
    probe, clock = probe_and_clock

    assert probe.read().boot_id == clock.now().boot_id


def test_who_the_machine_is_does_not_change_between_reads(probe_and_clock):
    first, second = (probe_and_clock[0].read() for _ in range(2))

    assert (first.hostname, first.boot_id, first.pid_ns, first.memory_total_bytes) == (
        second.hostname,
        second.boot_id,
        second.pid_ns,
        second.memory_total_bytes,
    )


def test_what_attempts_use_is_told_of_those_that_can_be_seen(probe_and_clock):
    probe, _ = probe_and_clock
    seen = a_lease("1", process=living(probe))
    gone = a_lease("2", process=replace(living(probe), start_ticks=living(probe).start_ticks + 1))
    elsewhere = a_lease("3", process=replace(living(probe), pid_ns=1))
    starting = a_lease("4", process=None)

    used = probe.measure([seen, gone, elsewhere, starting])

    assert used.keys() == {"lease-1"}
    assert 1 << 20 < used["lease-1"] < 64 << 30
    assert probe.measure([]) == {}


def living(probe: Probe) -> ProcessIdentity:
    """Return a process that lives and has memory: this one, or one of the simulated machine."""
    if isinstance(probe, ProcProbe):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        pid, start_ticks = os.getpid(), int(fields[19])
    else:
        assert isinstance(probe, SimulatedProbe)
        process = probe.process
        process.memory_bytes = 5 << 20
        pid, start_ticks = process.pid, process.start_ticks
    state = probe.read()
    return ProcessIdentity(
        boot_id=state.boot_id,
        pid=pid,
        start_ticks=start_ticks,
        pgid=pid,
        pid_ns=state.pid_ns,
    )


def test_nobody_is_told_of_stalls_who_did_not_ask(probe_and_clock):
    assert probe_and_clock[0].read().memory_stall is None


def test_the_stalls_of_this_machine_are_a_share():
    try:
        is_told = bool(Path("/proc/pressure/memory").read_text())
    except OSError:
        is_told = False  # a kernel without them, or one that was told not to count

    told = ProcProbe(sees_stalls=True).read().memory_stall

    assert is_told == (told is not None)
    assert told is None or 0 <= told <= 1


def test_memory_is_told_in_bytes():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    assert ProcProbe().read().memory_total_bytes == pytest.approx(pages, rel=0.05)
