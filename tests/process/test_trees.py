"""A wrapper dies: whatever its command started is ended before the task runs again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.process.station import is_alive, until

from tinyscheduler.adapters.launch_local.processes import (
    find_trees,
    judge_wrapper,
    read_process,
)
from tinyscheduler.model.leases import ProcessIdentity, Trace, WrapperLife
from tinyscheduler.model.tasks import FailureReason, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.station import Station

# Each starts a child that writes its pid to $CHILD and would sleep for long.
CHILDREN = {
    "plain": 'sleep 300 & echo $! > "$CHILD"; wait',
    "setsid": "setsid sh -c 'echo $$ > \"$CHILD\"; exec sleep 300'",
    "double-forked": "(setsid sh -c 'echo $$ > \"$CHILD\"; exec sleep 300' &) ; sleep 300",
    "env -i": 'env -i sh -c \'echo $$ > "$0"; exec sleep 300\' "$CHILD"',
    "closed descriptors": (
        f"{sys.executable} -c 'import os, subprocess, sys;"
        'p = subprocess.Popen(["sleep", "300"]); open(os.environ["CHILD"], "w").write(str(p.pid));'
        "p.wait()'"
    ),
    "setsid, closed descriptors": (
        f"{sys.executable} -c 'import os, subprocess, sys;"
        'p = subprocess.Popen(["sleep", "300"], start_new_session=True);'
        'open(os.environ["CHILD"], "w").write(str(p.pid)); p.wait()\''
    ),
    "env -i, closed descriptors": (
        f'env -i CHILD="$CHILD" {sys.executable} -c \'import os, subprocess, sys;'
        'p = subprocess.Popen(["/bin/sleep", "300"]);'
        'open(os.environ["CHILD"], "w").write(str(p.pid)); p.wait()\''
    ),
    "ignores SIGTERM": 'trap "" TERM; sleep 300 & echo $! > "$CHILD"; wait; sleep 300',
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_none_of_a_killed_wrappers_processes_is_alive_when_its_task_runs_again(
    make_station: Callable[..., Station], tmp_path: Path, kind: str
):
    station = make_station(kicks=False)
    child_file = tmp_path / "child"
    body = (
        'if [ "$TINYSCHEDULER_ATTEMPT" -gt 1 ]; then '
        f"stat=$(cat /proc/$(cat {child_file})/stat 2>/dev/null); "
        # A zombie that init has yet to collect runs nothing and holds nothing.
        f'case "$stat" in ""|*") Z "*) ;; *) echo alive >> {tmp_path}/overlap;; esac; '
        f"else export CHILD={child_file}; {CHILDREN[kind]}; fi; true"
    )
    task_id = station.add(body)
    station.tick()
    lease = station.until_running(task_id)
    until(lambda: child_file.exists() and child_file.read_text().strip(), "the child to start")
    child = int(child_file.read_text())
    assert is_alive(child)

    os.kill(lease["pid"], signal.SIGKILL)
    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.DONE
    assert station.starts(task_id) == [1, 2]
    assert not is_alive(child)
    assert not (tmp_path / "overlap").exists()
    station.assert_no_survivors()


def test_a_live_stranger_with_the_recorded_pid_is_not_signalled(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    until(lambda: not is_alive(lease["pid"]), "the wrapper to die")
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        path = station.state / "running" / f"task_{task_id}.json"
        text = path.read_text().replace(f'"pid": {lease["pid"]}', f'"pid": {stranger.pid}')
        path.write_text(
            text.replace(f'"pgid": {lease["process"]["pgid"]}', f'"pgid": {stranger.pid}')
        )

        station.until_final(task_id)

        assert is_alive(stranger.pid)
        stranger.kill()
    assert station.starts(task_id) == [1, 2]


def test_a_wrapper_that_is_a_zombie_is_dead(make_station: Callable[..., Station]):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    # The tick runs in this process, so the killed wrapper stays our unreaped child.
    tick = (
        "import sys, os, signal, time\n"
        "from tinyscheduler.app.ticks import run_kicked\n"
        "run_kicked(sys.argv[1])\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", tick, str(station.base)],
        env=station.environment(),
        stdin=subprocess.PIPE,
    ) as parent:
        lease = station.until_running(task_id)
        os.kill(lease["pid"], signal.SIGKILL)

        station.until_final(task_id)

        stat = Path(f"/proc/{lease['pid']}/stat").read_text()
        assert stat[stat.rindex(")") + 2] == "Z"
        parent.communicate()
    assert station.starts(task_id) == [1, 2]


def test_a_stopped_wrapper_is_reclaimed_after_two_sightings_and_cannot_come_back(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGSTOP)
    lock = station.state / "running" / f"task_{task_id}.lock"
    until(lambda: _age_s(lock) > 0.7, "the heartbeat to be stale")

    station.tick()

    assert station.lease(task_id) is not None, "seen stale once proves nothing"
    assert is_alive(lease["pid"])

    station.until_final(task_id)

    assert not is_alive(lease["pid"])
    assert station.starts(task_id) == [1, 2]
    first = station.queue().ledger.attempts(task_id)[0]
    assert first.failure_reason is FailureReason.STALE_HEARTBEAT
    station.assert_no_survivors()


def test_a_wrapper_frozen_with_the_tick_is_left_alone(make_station: Callable[..., Station]):
    station = make_station(kicks=False)
    release = station.base / "release"
    task_id = station.add(f'while [ ! -e "{release}" ]; do sleep 0.05; done')
    station.tick()
    lease = station.until_running(task_id)
    lock = station.state / "running" / f"task_{task_id}.lock"
    for _ in range(3):
        # Frozen together: the tick wakes up first and sees every heartbeat stale.
        os.kill(lease["pid"], signal.SIGSTOP)
        until(lambda: _age_s(lock) > 0.9, "the heartbeat to be stale")
        tick = station.start_tick()
        tick.communicate(timeout=30)
        os.kill(lease["pid"], signal.SIGCONT)
        until(lambda: _age_s(lock) < 0.5, "the wrapper to beat again")

    release.touch()
    station.until_final(task_id)

    assert station.starts(task_id) == [1]
    assert station.task(task_id).state is TaskState.DONE


def test_a_wrapper_woken_late_after_a_second_freeze_gets_a_last_look(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    release = station.base / "release"
    task_id = station.add(f'while [ ! -e "{release}" ]; do sleep 0.05; done')
    station.tick()
    lease = station.until_running(task_id)
    lock = station.state / "running" / f"task_{task_id}.lock"
    os.kill(lease["pid"], signal.SIGSTOP)
    until(lambda: _age_s(lock) > 0.9, "the heartbeat to be stale")
    station.tick()
    until(lambda: _age_s(lock) > 1.5, "an interval to pass")

    tick = station.start_tick()
    until(lambda: _is_locked(station), "the tick to look")
    os.kill(lease["pid"], signal.SIGCONT)
    tick.communicate(timeout=30)

    assert station.lease(task_id) is not None
    assert is_alive(lease["pid"])
    release.touch()
    station.until_final(task_id)
    assert station.starts(task_id) == [1]


def test_what_a_wrapper_becomes_at_its_end_is_not_taken_for_the_wrapper(tmp_path: Path):
    lock = tmp_path / "task_1.lock"
    program = f"exec 3>'{lock}'; echo held; read line; exec 3>&-; echo let go; read line; exec cat"
    wrapper = subprocess.Popen(
        ["sh", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert wrapper.stdin is not None
    assert wrapper.stdout is not None
    assert wrapper.stdout.readline() == "held\n"
    seen = read_process(wrapper.pid)
    assert seen is not None
    identity = ProcessIdentity(
        boot_id="this",
        pid=wrapper.pid,
        start_ticks=seen.start_ticks,
        pgid=wrapper.pid,
        pid_ns=1,
    )
    trace = Trace(task_id="1", lease_id="lease-1", process=identity, is_lock_held=False)

    def judge() -> tuple[WrapperLife, int]:
        life = judge_wrapper(trace, boot_id="this", pid_ns=1)
        return life, len(find_trees([trace], {})["lease-1"].processes)

    assert judge() == (WrapperLife.ALIVE, 1)
    lock.unlink()
    assert judge() == (WrapperLife.ALIVE, 1)
    print(file=wrapper.stdin, flush=True)
    assert wrapper.stdout.readline() == "let go\n"
    assert judge() == (WrapperLife.DEAD, 0)
    wrapper.communicate("\n")


def _age_s(lock: Path) -> float:
    return (time.monotonic_ns() - lock.stat().st_mtime_ns) / 1e9


def _is_locked(station: Station) -> bool:
    inode = (station.state / "tinyscheduler.pid").stat().st_ino
    return f":{inode} " in Path("/proc/locks").read_text()


HOPPER = """
import os, subprocess, sys, time
open(sys.argv[1], "w").write("up")
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    # A new session, a new parent, no environment, nothing inherited: every 2 ms.
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.002)
"""


def test_a_control_group_ends_even_what_hides_from_every_other_search(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(kicks=False)
    up = tmp_path / "up"
    script = tmp_path / "hopper.py"
    script.write_text(HOPPER)
    hop = (
        f"import subprocess; subprocess.Popen([{sys.executable!r}, '-I', '-S', "
        f"{str(script)!r}, {str(up)!r}], env={{}}, start_new_session=True)"
    )
    body = f'[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || {{ {sys.executable} -c "{hop}"; sleep 300; }}'
    task_id = station.add(body)
    station.tick()
    lease = station.until_running(task_id)
    if lease["run"]["cgroup"] is None:
        pytest.skip("no control group may be made here")
    until(up.exists, "the hopper to hop")

    os.kill(lease["pid"], signal.SIGKILL)
    station.until_final(task_id)

    assert _running(str(script)) == []
    assert not Path(lease["run"]["cgroup"]).exists()
    assert station.starts(task_id) == [1, 2]


def _running(words: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and is_alive(int(name)):
            try:
                if words.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found
