"""Each wall around a policy's process stands by itself, whatever the others do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tinyscheduler.adapters.policy_confined import find_missing_layers
from tinyscheduler.policy.limits import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
# Puts up the walls that are named, then tries one thing and says what came of it.
PROGRAM = """if True:
    import ctypes, errno, json, os, resource, socket, sys
    from tinyscheduler.policy.confinement import confine
    layers, attempt, inherited_s = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if inherited_s:
        resource.setrlimit(resource.RLIMIT_CPU, (inherited_s, inherited_s))
    libc = ctypes.CDLL(None, use_errno=True)
    held = os.open("/dev/null", os.O_RDONLY)

    def connect():
        with socket.socket() as one:
            one.settimeout(1)
            one.connect(("127.0.0.1", 9))

    def spin():
        while True:
            pass

    attempts = {
        "read a file": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "list a folder": lambda: os.listdir("/"),
        "make a file": lambda: os.close(os.open("made", os.O_WRONLY | os.O_CREAT)),
        "open a socket": lambda: socket.socket().close(),
        "connect": connect,
        "fork": lambda: os.fork() or os._exit(0),
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "signal another": lambda: os.kill(os.getppid(), 0),
        "much memory": lambda: bytearray(400 << 20),
        "much time": spin,
        "gain privileges": lambda: libc.prctl(39, 0, 0, 0, 0) or 1 / 0,
        "compute": lambda: sum(range(10**5)),
        "read what is open": lambda: os.read(held, 1),
    }
    tried = attempts[attempt]
    cpu_s = 5 if inherited_s else 1
    missing = confine(tuple(layers.split()), memory_bytes=100 << 20, cpu_s=cpu_s)
    try:
        tried()
        outcome = "done"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, "?")
    except BaseException as error:
        outcome = type(error).__name__
    os.write(1, json.dumps({"missing": missing, "outcome": outcome}).encode())
    os._exit(0)
"""


def tried(layers: str, attempt: str, cwd: Any, *, inherited_s: int = 0) -> str:
    """Return how an attempt went behind these walls: done, or what stopped it.

    Before they were put up, the process could use so much CPU time, if not 0.
    """
    argv = [sys.executable, "-I", "-c", PROGRAM, layers, attempt, str(inherited_s)]
    done = subprocess.run(argv, capture_output=True, cwd=cwd, timeout=60, check=False)
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    said = json.loads(done.stdout)
    if set(said["missing"]) - {"rlimits"}:
        pytest.skip(f"this kernel offers no {said['missing']}")
    return str(said["outcome"])


@pytest.mark.parametrize(
    ("layer", "attempt", "outcome"),
    [
        ("seccomp", "read a file", "EPERM"),
        ("seccomp", "list a folder", "EPERM"),
        ("seccomp", "make a file", "EPERM"),
        ("seccomp", "open a socket", "EPERM"),
        ("seccomp", "fork", "EPERM"),
        ("seccomp", "run a program", "EPERM"),
        ("seccomp", "signal another", "EPERM"),
        ("no_new_privs landlock", "read a file", "EACCES"),
        ("no_new_privs landlock", "list a folder", "EACCES"),
        ("no_new_privs landlock", "make a file", "EACCES"),
        ("no_new_privs landlock", "run a program", "EACCES"),
        ("rlimits", "read a file", "EMFILE"),
        ("rlimits", "open a socket", "EMFILE"),
        ("rlimits", "much memory", "MemoryError"),
        ("rlimits", "much time", "SIGXCPU"),
        ("no_new_privs", "gain privileges", "done"),
        ("", "gain privileges", "ZeroDivisionError"),
    ],
)
def test_each_wall_alone_stops_what_it_is_there_for(
    tmp_path: Any, layer: str, attempt: str, outcome: str
):
    assert tried(layer, attempt, tmp_path) == outcome


@pytest.mark.parametrize(
    ("attempt", "inherited_s", "outcome"),
    [
        ("open a socket", 1, "EMFILE"),
        ("open a socket", 3, "EMFILE"),
        ("open a socket", 5, "EMFILE"),
        ("much time", 2, "SIGXCPU"),
        ("much time", 1, "SIGKILL"),
    ],
)
def test_a_process_that_was_given_less_time_is_limited_in_all_else_too(
    tmp_path: Any, attempt: str, inherited_s: int, outcome: str
):
    assert tried("rlimits", attempt, tmp_path, inherited_s=inherited_s) == outcome


@pytest.mark.parametrize("attempt", ["read a file", "make a file", "open a socket", "fork"])
def test_without_walls_it_could(tmp_path: Any, attempt: str):
    assert tried("", attempt, tmp_path) == "done"


@pytest.mark.parametrize("attempt", ["compute", "read what is open"])
def test_behind_all_of_them_it_computes_and_reads_what_is_open(tmp_path: Any, attempt: str):
    assert tried(" ".join(LAYERS), attempt, tmp_path) == "done"


def test_it_is_known_which_walls_cannot_be_put_up_here():
    missing = find_missing_layers()

    assert set(missing) <= set(LAYERS)
    assert "rlimits" not in missing


def test_what_a_policy_runs_in_loads_nothing_that_takes_long():
    program = "import sys, tinyscheduler.policy.child; print(*sorted(sys.modules))"
    folders = [folder for folder in sys.path if os.path.isabs(folder)]
    before = f"import sys; sys.path[:0] = sys.argv[1:]; {program}"

    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", before, *folders],
        capture_output=True,
        text=True,
        check=True,
    )

    heavy = {"ctypes", "enum", "json", "platform", "re", "typing"}
    assert "lupa.lua54" in told.stdout.split()
    assert heavy & set(told.stdout.split()) == set()


# Asks a policy that never answers, and says who that is.
ASKER = """if True:
    import glob, os, sys
    from pathlib import Path
    from tests.policy.asking import a_context
    from tinyscheduler.adapters.policy_confined import ConfinedPolicy
    from tinyscheduler.model.config import PolicySettings
    settings = PolicySettings(mode="home", path=sys.argv[1], cpu_ms=60_000, wall_ms=60_000)
    policy = ConfinedPolicy(settings, base="/", start_ms=60_000, cpu_s=3600)
    policy.start()
    (task,) = glob.glob("/proc/self/task/*/children")
    print(Path(task).read_text(), flush=True)
    policy.propose(a_context())
"""


def test_nobody_computes_for_one_who_was_killed(tmp_path: Path):
    path = tmp_path / "endless.lua"
    path.write_text("function schedule() while true do end end")
    argv = [sys.executable, "-c", ASKER, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as asker:
        assert asker.stdout is not None
        pid = int(asker.stdout.readline())
        wait_until(lambda: cpu_ticks(pid) >= 30)
        asker.kill()

    wait_until(lambda: cpu_ticks(pid) < 0)


def cpu_ticks(pid: int) -> int:
    """Return what a process has computed; -1 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return -1
    return -1 if fields[0] == "Z" else int(fields[11])


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)
