"""Commands that behave badly, and what a well-behaved one may rely on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.process.station import PYTHON, Station, is_alive, survivors, until

from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.saved import save_settings
from tinyscheduler.errors import EXIT_USAGE
from tinyscheduler.model.tasks import FailureReason, Outcome, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.model.history import AttemptRecord

MEGABYTE = 1 << 20
# Starts a child in a session of its own, then waits for ever; the child's pid is in $CHILD.
WITH_CHILD = (
    'CHILD="{child}"; setsid sh -c \'echo $$ > "$0.new"; mv "$0.new" "$0"; sleep 300\' "$CHILD" & '
)


def finish(station: Station, task_id: str) -> Sequence[AttemptRecord]:
    """Let the task run until it has ended, and return its attempts."""
    station.tick()
    station.until_final(task_id)
    station.assert_no_survivors()
    return station.queue().ledger.attempts(task_id)


def child_of(path: Path) -> int:
    """Wait until a child has said its number."""
    until(path.exists, "the child to start")
    return int(path.read_text())


# -- commands that cannot start -------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "cwd", "words"),
    [
        (["./missing"], ".", "No such file or directory (in "),
        (["a-name-that-nobody-has"], ".", "No such file or directory"),
        (["./plain"], ".", "Permission denied (in "),
        (["./folder"], ".", "Permission denied (in "),
        (["true"], "./missing", "No such file or directory"),
    ],
    ids=["no path", "no name", "not executable", "folder", "no cwd"],
)
def test_a_command_that_cannot_start_says_why_and_is_parked_after_its_attempts(
    make_station: Callable[..., Station], command: list[str], cwd: str, words: str
):
    station = make_station(MAX_ATTEMPTS="2")
    (station.base / "plain").write_text("echo hi\n")
    (station.base / "folder").mkdir()
    task_id = station.add_command(*command, cwd=str(station.base / cwd))

    attempts = finish(station, task_id)

    assert station.task(task_id).state is TaskState.PARKED
    assert station.task(task_id).failure_reason is FailureReason.SPAWN_FAILED
    assert [attempt.attempt for attempt in attempts] == [1, 2]
    for attempt in attempts:
        assert attempt.failure_reason is FailureReason.SPAWN_FAILED
        assert attempt.exit_code is None
        assert attempt.message.startswith(f"cannot execute {command[0]!r}: ")
        assert words in attempt.message
        log = station.log(task_id, attempt.attempt).decode()
        assert log == f"tinyscheduler: {attempt.message}\n"


def test_arguments_too_long_together_fail_the_command(
    tmp_path: Path, make_station: Callable[..., Station]
):
    # Each fits, but the kernel has room for two megabytes of all together (execve(2)).
    many = ", ".join(['"{prompt}"'] * 20)
    station = with_agents(tmp_path, make_station, f'arguing: {{command: ["echo", {many}]}}')
    task_id = station.add_command(agent="arguing", prompt="x" * 130_000, max_attempts=1)

    (attempt,) = finish(station, task_id)

    assert attempt.failure_reason is FailureReason.SPAWN_FAILED
    assert "Argument list too long" in attempt.message


def test_a_prompt_too_long_for_an_argument_fails_the_start_with_the_fix(
    tmp_path: Path, make_station: Callable[..., Station]
):
    station = with_agents(
        tmp_path, make_station, 'arguing: {command: ["echo", "{prompt}"]}', MAX_LAUNCHES="2"
    )
    task_id = station.add_command(agent="arguing", prompt="x" * MEGABYTE)

    first = station.run("run", "--once")
    station.until_final(task_id)

    assert first.returncode == 1
    assert "pass long prompts by {prompt_file} or stdin" in first.stderr
    assert "Traceback" not in first.stderr
    assert station.task(task_id).state is TaskState.PARKED
    assert station.task(task_id).failure_reason is FailureReason.SPAWN_FAILED
    assert station.queue().ledger.attempts(task_id) == [], "no attempt ever started"


# -- input and output -----------------------------------------------------------------


def test_a_command_that_prints_much_keeps_the_head_and_the_tail_of_its_log(
    make_station: Callable[..., Station],
):
    station = make_station(LOG_MAX_MB="1")
    # It goes on only while the disk holds little of what it said, so a log that is not
    # capped while it grows would stop it for good.
    program = (
        "import os, time\n"
        "for chunk in range(60):\n"
        "    while os.fstat(1).st_blocks * 512 > 16 << 20:\n"
        "        time.sleep(0.01)\n"
        "    first = chunk << 16\n"
        "    os.write(1, b''.join(b'%015d\\n' % n for n in range(first, first + (1 << 16))))\n"
    )
    task_id = station.add_command(PYTHON, "-I", "-c", program)
    log = station.state / "logs" / "tasks" / task_id / "1.log"
    sizes = [0]

    tick = station.start_tick()
    until(log.exists, "the log")
    while not station.task(task_id).state.is_final:
        sizes.append(log.stat().st_size)
        assert len(sizes) < 10_000
        time.sleep(0.005)
    tick.communicate()

    status = log.stat()
    assert station.task(task_id).state is TaskState.DONE
    assert sizes == sorted(sizes), "offsets never go back"
    assert status.st_size == 60 * MEGABYTE
    assert status.st_blocks * 512 <= MEGABYTE
    with log.open("rb") as file:
        assert file.read(64 * 1024) == b"".join(b"%015d\n" % number for number in range(4096))
        file.seek(-512 * 1024, os.SEEK_END)
        last = 60 << 16
        newest = range(last - 512 * 1024 // 16, last)
        assert file.read() == b"".join(b"%015d\n" % number for number in newest)


def test_a_command_that_prints_as_fast_as_it_can_is_not_held_up(
    make_station: Callable[..., Station],
):
    station = make_station(LOG_MAX_MB="1")
    task_id = station.add("yes 0123456789abcde | head -c 60M")

    (attempt,) = finish(station, task_id)

    assert attempt.outcome is Outcome.SUCCEEDED
    assert attempt.started_at is not None
    assert (attempt.ended_at - attempt.started_at).total_seconds() < 10
    log = station.state / "logs" / "tasks" / task_id / "1.log"
    assert log.stat().st_size == 60 * MEGABYTE
    assert log.stat().st_blocks * 512 <= MEGABYTE


def test_bytes_that_are_no_text_reach_the_log_unchanged(station: Station):
    task_id = station.add(r"printf '\377\376\000caf\351\n\200' ; printf '\355\240\200' >&2")

    finish(station, task_id)

    assert station.log(task_id) == b"\xff\xfe\0caf\xe9\n\x80\xed\xa0\x80"
    shown = subprocess.run(
        [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", station.base, "logs", task_id],
        env=station.environment(),
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert (shown.stdout, shown.stderr) == (station.log(task_id), b"")


def test_a_command_that_reads_its_input_finds_the_end_at_once(station: Station):
    task_id = station.add("cat; echo end; if [ -t 0 ]; then echo terminal; fi")

    finish(station, task_id)

    assert station.log(task_id) == b"end\n"


@pytest.mark.parametrize(
    "agent",
    [
        'coder: {command: ["sha256sum", "{prompt_file}"]}',
        'coder: {command: ["sha256sum"], stdin: prompt}',
        'coder: {command: ["sh", "-c", "sha256sum < $TINYSCHEDULER_PROMPT_FILE"]}',
    ],
    ids=["prompt file", "stdin", "variable"],
)
def test_a_prompt_of_a_megabyte_arrives_byte_for_byte(
    tmp_path: Path, make_station: Callable[..., Station], agent: str
):
    station = with_agents(tmp_path, make_station, agent)
    prompt = "Größe: {task_id} $(rm) \r\n'\"\\" * (MEGABYTE // 28) + "\n"
    task_id = station.add_command(agent="coder", prompt=prompt)

    finish(station, task_id)

    expected = hashlib.sha256(prompt.encode()).hexdigest()
    assert station.log(task_id).decode().split()[0] == expected


# -- how commands end -----------------------------------------------------------------


def test_a_daemon_that_a_command_leaves_behind_ends_with_the_attempt(
    station: Station, tmp_path: Path
):
    # As daemon(3): two forks and a session of its own, the standard descriptors closed.
    program = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "os.closerange(0, 100)\n"
        "os.close(os.open(sys.argv[1] + '.new', os.O_WRONLY | os.O_CREAT))\n"
        "with open(sys.argv[1] + '.new', 'w') as file: file.write(str(os.getpid()))\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(300)\n"
    )
    child = tmp_path / "child"
    wait = f'until [ -e "{child}" ]; do sleep 0.02; done'
    task_id = station.add(
        f'{PYTHON} -I -S -c "$PROGRAM" {child}; {wait}; exit 0', environment=(("PROGRAM", program),)
    )

    (attempt,) = finish(station, task_id)

    assert (attempt.outcome, attempt.exit_code) == (Outcome.SUCCEEDED, 0)
    assert station.task(task_id).state is TaskState.DONE
    assert not is_alive(int(child.read_text()))


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(station: Station):
    task_id = station.add('trap "echo asked" TERM; while :; do sleep 0.05; done')
    station.tick()
    station.until_running(task_id)

    before = time.monotonic()
    station.run("cancel", task_id).check_returncode()
    station.until_final(task_id)

    (attempt,) = station.queue().ledger.attempts(task_id)
    assert (attempt.outcome, attempt.signal) == (Outcome.CANCELLED, signal.SIGKILL)
    assert b"asked" in station.log(task_id)
    assert time.monotonic() - before > float(station.config().timing.kill_grace_s)
    station.assert_no_survivors()


@pytest.mark.parametrize(("name", "number"), [("SEGV", 11), ("KILL", 9), ("TERM", 15)])
def test_a_command_that_a_signal_ends_has_failed(station: Station, name: str, number: int):
    task_id = station.add(f"kill -{name} $$", max_attempts=1)

    (attempt,) = finish(station, task_id)

    assert (attempt.exit_code, attempt.signal) == (None, number)
    assert attempt.failure_reason is FailureReason.COMMAND_FAILED
    assert attempt.message == f"ended by signal SIG{name}"
    assert station.task(task_id).state is TaskState.PARKED


def test_exit_code_75_is_tried_again_later_and_counts_as_no_attempt(station: Station):
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -ge 3 ] || exit 75', max_attempts=1)

    attempts = finish(station, task_id)

    assert station.task(task_id).state is TaskState.DONE
    assert station.task(task_id).failures == 0
    assert [(one.attempt, one.outcome, one.exit_code) for one in attempts] == [
        (1, Outcome.RETRY_LATER, 75),
        (2, Outcome.RETRY_LATER, 75),
        (3, Outcome.SUCCEEDED, 0),
    ]


def test_past_its_maximum_runtime_the_whole_tree_is_ended(station: Station, tmp_path: Path):
    child = tmp_path / "child"
    body = WITH_CHILD.format(child=child) + "sleep 300"
    task_id = station.add(body, max_runtime_s=1.0, max_attempts=1)

    (attempt,) = finish(station, task_id)

    assert attempt.failure_reason is FailureReason.TIMEOUT
    assert attempt.message == "ran longer than its maximum of 1 s"
    assert station.task(task_id).state is TaskState.PARKED
    assert not is_alive(child_of(child))


def test_an_agent_whose_command_falls_silent_is_ended(
    tmp_path: Path, make_station: Callable[..., Station]
):
    agent = 'talker: {command: ["sh", "-c", "echo one; sleep 300"], idle_output: 1s}'
    station = with_agents(tmp_path, make_station, agent, MAX_ATTEMPTS="1")
    task_id = station.add_command(agent="talker", prompt="speak")

    (attempt,) = finish(station, task_id)

    assert attempt.failure_reason is FailureReason.IDLE_OUTPUT
    assert station.log(task_id) == b"one\n"


# -- cancelling -----------------------------------------------------------------------


def test_a_running_task_that_is_cancelled_ends_within_moments_tree_and_all(
    station: Station, tmp_path: Path
):
    child = tmp_path / "child"
    task_id = station.add(WITH_CHILD.format(child=child) + "sleep 300")
    station.tick()
    station.until_running(task_id)
    grandchild = child_of(child)

    station.run("cancel", task_id).check_returncode()

    # No tick of ours: the wrapper notices by itself, and becomes the tick that settles.
    station.wait_final(task_id, limit_s=5)
    assert station.task(task_id).state is TaskState.CANCELLED
    assert not is_alive(grandchild)
    station.assert_no_survivors()
    until(lambda: station.leftovers() == [], "all to be tidied up")
    assert station.starts(task_id) == [1]


def test_a_waiting_task_that_is_cancelled_never_starts(station: Station):
    cancelled, other = station.add(), station.add()

    station.run("cancel", cancelled).check_returncode()
    finish(station, other)

    assert station.task(cancelled).state is TaskState.CANCELLED
    assert station.starts(cancelled) == []


def test_a_task_cancelled_between_its_claim_and_its_command_never_starts(station: Station):
    task_id = station.add()
    # The wrapper dies before it may start the command, as if it were slow to come up.
    station.tick(crash_at="wrapper.running:before")
    until(station.crash_mark.exists, "the wrapper to die")
    assert station.lease(task_id) is not None

    station.run("cancel", task_id).check_returncode()
    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.CANCELLED
    assert station.starts(task_id) == []


# -- what a command finds -------------------------------------------------------------


def test_a_command_sees_the_allowed_variables_and_its_own_and_no_others(
    tmp_path: Path, make_station: Callable[..., Station]
):
    agent = 'coder: {command: ["cat", "/proc/self/environ"], env: [API_KEY, UNSET]}'
    station = with_agents(tmp_path, make_station, agent, MAX_RUNTIME_SEC="70")
    environment = station.environment() | {
        "API_KEY": "key",
        "SECRET": "secret",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/nonexistent",
        "TINYSCHEDULER_CRASH_AT": "no.such.point /nonexistent",
    }
    save_settings(
        load_config(Overrides(base_path=str(station.base)), environ=environment, write_cache=False)
    )
    task_id = station.add_command(
        agent="coder", prompt="x", max_turns=9, environment=(("MINE", "a=b\nc"),)
    )

    station.run("run", "--kicked", crash_at="no.such.point")
    station.until_final(task_id)

    (attempt,) = station.queue().ledger.attempts(task_id)
    items = station.log(task_id).decode().rstrip("\0").split("\0")
    found = dict(item.split("=", 1) for item in items)
    assert found == {
        "PATH": os.environ["PATH"],
        "HOME": str(station.base),
        "LANG": "C.UTF-8",
        "API_KEY": "key",
        "MINE": "a=b\nc",
        "TINYSCHEDULER_TASK_ID": task_id,
        "TINYSCHEDULER_ATTEMPT": "1",
        "TINYSCHEDULER_LEASE_ID": attempt.lease_id,
        "TINYSCHEDULER_AGENT": "coder",
        "TINYSCHEDULER_BASE_PATH": str(station.base),
        "TINYSCHEDULER_PROMPT_FILE": str(station.state / "tasks" / f"task_{task_id}.prompt"),
        "TINYSCHEDULER_ATTEMPT_MAX_TURNS": "9",
        "TINYSCHEDULER_ATTEMPT_MAX_RUNTIME_SEC": "70",
    }


# Becomes a tick that has everything a careless parent can leave behind.
CARELESS = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM})
os.umask(0)
kept = os.open(sys.argv[1], os.O_RDONLY)
for fd in (3, 4, 5, 10, 11, 40):
    os.dup2(kept, fd)
os.execv(sys.executable, [sys.executable, "-I", "-m", "tinyscheduler", *sys.argv[2:]])
"""


def test_whatever_a_careless_parent_left_to_the_tick_the_command_starts_clean(station: Station):
    # The shell reads by itself: while it has a child start, it blocks signals of its own.
    status_of_shell = 'while read -r line; do echo "$line"; done < /proc/$$/status'
    task_id = station.add(f"{status_of_shell}; exec sleep 300")
    kept = station.base / "kept"
    kept.touch()

    subprocess.run(
        [sys.executable, "-I", "-c", CARELESS, kept, "--base-path", station.base, "run", "--once"],
        env=station.environment(),
        timeout=30,
        check=True,
    )
    lease = station.until_running(task_id)
    command = lease["process"]["pgid"]
    until(lambda: b"ctxt_switches" in station.log(task_id), "the command to print")

    lines = station.log(task_id).decode().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    # Numbers 32 and 33 belong to glibc, which ignores them in all that it spawns.
    valid = sum(1 << (number - 1) for number in signal.valid_signals())
    assert int(status["SigIgn"], 16) & valid == 0
    assert int(status["SigBlk"], 16) == 0
    assert status["Umask"].strip() == "0022"
    log = str(station.state / "logs" / "tasks" / task_id / "1.log")
    lock = str(station.state / "running" / f"task_{task_id}.lock")
    assert _descriptors(command) == {0: "/dev/null", 1: log, 2: log, 3: lock}
    wrapper_files = set(_descriptors(lease["pid"]).values())
    assert str(kept) not in wrapper_files
    assert str(station.state / "tinyscheduler.pid") not in wrapper_files
    assert os.readlink(f"/proc/{lease['pid']}/fd/1") == "/dev/null"


def test_what_a_task_asks_of_the_loader_of_programs_is_not_asked_of_its_wrapper(station: Station):
    nothing = str(station.base / "nothing.so")
    task_id = station.add(
        'echo "$LD_PRELOAD $GLIBC_TUNABLES"; env | grep -c FOR_COMMAND',
        environment=(("LD_PRELOAD", nothing), ("GLIBC_TUNABLES", "glibc.malloc.check=0")),
    )

    station.until_final(task_id)

    lines = station.log(task_id).decode().splitlines()
    assert f"{nothing} glibc.malloc.check=0" in lines
    assert lines[-1] == "0"
    assert any("cannot be preloaded" in line for line in lines)
    assert (station.state / "logs" / "wrapper.log").read_text() == ""


def test_a_command_sees_no_locale_but_that_which_somebody_set(station: Station):
    unset = station.add("env | grep -c ^LC_CTYPE= || true")
    given = station.add("env | grep ^LC_CTYPE=", environment=(("LC_CTYPE", "de_DE.UTF-8"),))

    station.until_final(unset)
    station.until_final(given)

    assert station.log(unset) == b"0\n"
    assert station.log(given) == b"LC_CTYPE=de_DE.UTF-8\n"


def test_a_command_has_a_process_group_and_a_session_of_its_own(station: Station):
    task_id = station.add("exec sleep 300")
    station.tick()
    lease = station.until_running(task_id)

    command, wrapper = lease["process"]["pgid"], lease["pid"]

    assert os.getpgid(command) == command
    assert os.getsid(command) == wrapper, "the attempt's, which no terminal controls"
    assert os.getsid(wrapper) == wrapper
    assert os.getpgid(wrapper) == wrapper
    assert _controlling_terminal(command) == 0


def test_the_command_carries_the_name_of_its_lease_and_its_wrapper_does_not(station: Station):
    task_id = station.add("exec sleep 300")
    station.tick()
    lease = station.until_running(task_id)

    cookie = f"TINYSCHEDULER_LEASE_ID={lease['lease_id']}".encode()

    # The wrapper becomes a tick, which must not take itself for part of the attempt.
    assert cookie in _environment(lease["process"]["pgid"])
    assert cookie not in _environment(lease["pid"])


# -- inside an attempt ----------------------------------------------------------------


def test_a_task_added_inside_an_attempt_outlives_that_attempt(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(kicks=False)
    release, printed = tmp_path / "release", tmp_path / "printed"
    inner = (
        'echo "start $TINYSCHEDULER_TASK_ID $TINYSCHEDULER_ATTEMPT $$" >> "$0"; '
        f'until [ -e "{release}" ]; do sleep 0.05; done'
    )
    outer = station.add(
        f'[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || {{ {_tinyscheduler(station)} add -- '
        f'sh -c "$INNER" "{station.journal}" > {printed}; sleep 300; }}',
        environment=(("INNER", inner),),
    )
    station.tick()
    first = station.until_running(outer)
    added = until(lambda: printed.exists() and printed.read_text().strip(), "the id")
    until((station.state / "kick").exists, "the kick, which follows the id")
    assert station.lease(added) is None, "adding starts nothing"
    station.tick()
    second = station.until_running(added)

    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: not is_alive(first["process"]["pgid"]), "its command to die")
    until(lambda: station.tick() == 0 and station.starts(outer) == [1, 2], "another attempt")

    assert is_alive(second["process"]["pgid"])
    release.touch()
    station.until_final(outer, added)
    assert station.starts(added) == [1]
    assert station.task(added).state is TaskState.DONE


def test_a_tick_inside_an_attempt_starts_nothing_and_says_so(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    ours = _tinyscheduler(station)
    task_id = station.add(
        f"{ours} add -- touch started-inside; {ours} run --once; echo code $?; "
        f"{ours} run --kicked; echo code $?; {ours} add --start -- true; echo code $?; "
        "exec sleep 300"
    )

    station.tick()
    station.until_running(task_id)
    log = until(
        lambda: (found := station.log(task_id).decode()).count("code") == 3 and found, "the answers"
    )

    assert log.count(f"code {EXIT_USAGE}\n") == 2
    assert log.count("nothing was started\nhint: `add` is enough") == 2
    assert log.endswith(
        "inside an attempt nothing is started; a tick follows when it ends\ncode 0\n"
    )
    assert "Traceback" not in log
    assert [path.stem for path in (station.state / "running").glob("*.json")] == [f"task_{task_id}"]


def test_attempts_of_another_scheduler_that_an_attempt_started_are_not_ended_with_it(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(kicks=False)
    other = Station(tmp_path / "other", kicks=False)
    release = tmp_path / "release"
    inner = other.add(f'until [ -e "{release}" ]; do sleep 0.05; done')
    settings = " ".join(f"{name}={value}" for name, value in other.environment().items())
    outer = station.add(
        f"env -i {settings} {_tinyscheduler(other)} run; (setsid sleep 300 &); exit 0"
    )

    station.tick()
    lease = other.until_running(inner)
    station.until_final(outer)

    assert station.task(outer).state is TaskState.DONE
    assert is_alive(lease["process"]["pgid"])
    assert survivors(str(station.base)) == []
    release.touch()
    other.until_final(inner)
    assert (other.starts(inner), other.task(inner).state) == ([1], TaskState.DONE)


# -- parts ----------------------------------------------------------------------------


def with_agents(
    tmp_path: Path, make_station: Callable[..., Station], agent: str, **settings: str
) -> Station:
    """Return a station with this line in its agents.yaml."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "agents.yaml").write_text(f"agents:\n  {agent}\n")
    return make_station(**settings)


def _tinyscheduler(station: Station) -> str:
    return f"{PYTHON} -I -m tinyscheduler --base-path {station.base}"


def _descriptors(pid: int) -> dict[int, str]:
    return {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}


def _environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def _controlling_terminal(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text[text.rindex(")") + 2 :].split()[4])
