"""What the kernel says of one process is read whatever it is called, and however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tinyscheduler import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMED = """
import sys
open("/proc/self/comm", "w").write("a) Z (1 2\\n")
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process whose name looks like the end of one, and like a zombie."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_a_name_like_the_fields_behind_it_is_no_field(child):
    fields = procfs.read_stat(child.pid)

    assert fields is not None
    assert not procfs.is_over(fields)
    assert int(fields[procfs.PARENT]) == os.getpid()
    assert int(fields[procfs.SESSION]) == os.getsid(child.pid)
    assert int(fields[procfs.RESIDENT_PAGES]) > 0
    assert len(fields[procfs.CPU_TICKS]) == 4
    assert procfs.read_start_ticks(child.pid) == int(fields[procfs.START_TICKS])


def test_a_process_started_when_the_kernel_says(child):
    ticks = procfs.read_start_ticks(child.pid)

    assert ticks is not None
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    assert 0 <= age_s < 60


def test_one_that_has_ended_is_over_before_and_after_it_was_waited_for(child):
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    zombie = procfs.read_stat(child.pid)
    assert zombie is not None
    assert procfs.is_over(zombie)
    assert procfs.read_start_ticks(child.pid) is None
    child.wait()
    assert procfs.read_stat(child.pid) is None
    assert procfs.read_start_ticks(child.pid) is None
