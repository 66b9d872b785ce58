"""How fast do tasks follow each other?  Against task-spooler and a bare loop of spawns."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Ratio, command, compare, note, timed_ms
from benchmarks.place import BAREST, Place, until

if TYPE_CHECKING:
    from collections.abc import Iterator

# As many as task-spooler takes before it lets nobody in any more.
TASKS, SLOTS = 500, 2
STAMPS = 150
# Prints when it started, and ends at once.
STAMP = 'date +%s%N >> "$0"'


def rate() -> Iterator[Ratio]:
    """Five hundred times `true` at two slots, from the first start to the last end."""
    floor = [timed_ms(_spawn_loop) for _ in range(3)]
    note(f"{TASKS} tasks through the daemon")
    ours = [_through_daemon() for _ in range(2)]
    yield _rate("500 true, daemon", ours, floor, against="a posix_spawn loop")
    note(f"{TASKS} tasks through ticks and kicks")
    kicked = [_through_ticks()]
    yield _rate("500 true, ticks", kicked, floor, against="a posix_spawn loop")
    if _spooler() is None:
        note("task-spooler is not installed (apt install task-spooler): not compared")
        return
    theirs = [_through_spooler() for _ in range(2)]
    yield Ratio(
        name="500 true, daemon",
        ours_ms=ours,
        theirs_ms=theirs,
        against="task-spooler",
        bar=0.08,
        is_rate=True,
    )
    yield _rate("500 true, ticks", kicked, theirs, against="task-spooler")


def _rate(name: str, ours: list[float], theirs: list[float], *, against: str) -> Ratio:
    return Ratio(name=name, ours_ms=ours, theirs_ms=theirs, against=against, is_rate=True)


def gap() -> Iterator[Ratio]:
    """From the end of one task to the start of the next, one slot, through the daemon."""
    bare = compare("", command(*BAREST), command(*BAREST), against="", rounds=15).ours_ms
    with Place(AGENT_LIMITS="shell:1", MAX_CONCURRENT_SLOTS="1") as place:
        stamps = place.base / "stamps"
        daemon = place.start_daemon()
        place.add(STAMPS, "sh", "-c", STAMP, str(stamps))
        until(lambda: len(_lines(stamps)) == STAMPS, "all stamps")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        ours = _gaps_ms(_lines(stamps))
    half, most = _percentile(ours, 50), _percentile(ours, 95)
    against = "python -I -S -c pass"
    yield Ratio(name="gap p50", ours_ms=[half], theirs_ms=bare, against=against, bar=4)
    yield Ratio(name="gap p95", ours_ms=[most], theirs_ms=bare, against=against)
    if _spooler() is not None:
        theirs = _spooler_gaps_ms()
        for share, value in ((50, half), (95, most)):
            yield Ratio(
                name=f"gap p{share}",
                ours_ms=[value],
                theirs_ms=[_percentile(theirs, share)],
                against=f"task-spooler p{share}",
            )


def wrapper_memory() -> Iterator[Ratio]:
    """What a wrapper holds in memory while its command runs.  Kilobytes, not milliseconds."""
    with Place() as place:
        (task_id,) = place.add(1, "sleep", "600")
        place.run("run", "--once")
        lease = place.base / "state" / "running" / f"task_{task_id}.json"
        until(lambda: '"running"' in lease.read_text(), "the task to run")
        ours = _rss_kb(json.loads(lease.read_text())["pid"])
    waiting = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [*BAREST[:-1], waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bare:
        assert bare.stdout is not None  # noqa: S101 - a pipe was asked for
        bare.stdout.readline()  # it is up
        theirs = _rss_kb(bare.pid)
        bare.kill()
    yield Ratio(
        name="wrapper memory (kB)",
        ours_ms=[ours],
        theirs_ms=[theirs],
        against="python -I -S",
        bar=1.4,
    )


def _rss_kb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    message = f"process {pid} is gone"
    raise SystemExit(message)


def _through_daemon() -> float:
    with Place(AGENT_LIMITS=f"shell:{SLOTS}", MAX_CONCURRENT_SLOTS=str(SLOTS)) as place:
        place.add(TASKS, "true")
        started = time.perf_counter()
        daemon = place.start_daemon()
        _await_all(place)
        took_ms = (time.perf_counter() - started) * 1e3
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        return took_ms


def _through_ticks() -> float:
    with Place(AGENT_LIMITS=f"shell:{SLOTS}", MAX_CONCURRENT_SLOTS=str(SLOTS)) as place:
        place.add(TASKS, "true")
        started = time.perf_counter()
        place.run("run", "--once")
        _await_all(place)
        return (time.perf_counter() - started) * 1e3


def _await_all(place: Place) -> None:
    import sqlite3

    database = sqlite3.connect(f"file:{place.base}/state/tinyscheduler.db?mode=ro", uri=True)
    question = "SELECT count(*) FROM tasks WHERE state <> 'done'"
    until(lambda: database.execute(question).fetchone()[0] == 0, "all tasks to be done")
    database.close()


def _spawn_loop() -> None:
    living: set[int] = set()
    for _ in range(TASKS):
        if len(living) == SLOTS:
            living.discard(os.wait()[0])
        living.add(os.posix_spawn("/bin/true", ["true"], {}))
    while living:
        living.discard(os.wait()[0])


# -- task-spooler -------------------------------------------------------------------


def _spooler() -> str | None:
    return shutil.which("tsp")


def _spooling(folder: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "TMPDIR": folder,
        "TS_SOCKET": f"{folder}/socket",
        "TS_MAXCONN": "2000",
        "TS_MAXFINISHED": "2000",
    }


def _through_spooler() -> float:
    """Queue all behind a task that waits, then time how the queue empties."""
    program = str(_spooler())
    with tempfile.TemporaryDirectory() as folder:
        environment = _spooling(folder)
        gate, done = Path(folder) / "gate", Path(folder) / "done"

        def spool(*argv: str) -> None:
            subprocess.run([program, *argv], env=environment, capture_output=True, check=True)

        spool("-S", str(SLOTS))
        for _ in range(SLOTS):
            spool("-n", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.01; done")
        for _ in range(TASKS - SLOTS):
            spool("-n", "true")
        for _ in range(SLOTS):
            spool("-n", "sh", "-c", f"echo >> {done}")
        started = time.perf_counter()
        gate.touch()
        until(lambda: len(_lines(done)) == SLOTS, "task-spooler to end")
        took_ms = (time.perf_counter() - started) * 1e3
        spool("-K")
        return took_ms


def _spooler_gaps_ms() -> list[float]:
    program = str(_spooler())
    with tempfile.TemporaryDirectory() as folder:
        environment = _spooling(folder)
        stamps = Path(folder) / "stamps"
        for _ in range(STAMPS):
            subprocess.run(
                [program, "-n", "sh", "-c", STAMP, str(stamps)],
                env=environment,
                capture_output=True,
                check=True,
            )
        until(lambda: len(_lines(stamps)) == STAMPS, "all stamps of task-spooler")
        subprocess.run([program, "-K"], env=environment, capture_output=True, check=True)
        return _gaps_ms(_lines(stamps))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def _gaps_ms(stamps: list[str]) -> list[float]:
    moments = sorted(int(stamp) for stamp in stamps)
    return [(after - before) / 1e6 for before, after in itertools.pairwise(moments)]


def _percentile(values: list[float], share: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]
