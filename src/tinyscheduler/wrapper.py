"""One process per attempt: run the command under the lease, and record durably how it ended.

Standard library only, single-threaded, and nothing of ours: it runs for hours beside
upgrades of the package, from compiled code, as ``python -I -S wrapper.pyc LEASE``.

Descriptor 3 is the task lock, taken by the tick and handed over.  While it is held,
this process (and nobody else) may write the lease.  The steps, in this order:

1. fork the command, but keep it waiting; write the lease as ``running``; let it go;
2. heartbeat, watch for its end, for a request to cancel, for the maximum runtime; read along
   what an agent prints of its turns, and end it where it takes too many;
3. end what it left behind; write the result; let go of the lock; create ``kick``;
4. become a tick, unless one is at work already.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import select
import sys
import time

# What `ctypes`, `json` and `signal` are made of, without the types, regular expressions
# and enumerations around it: those take as long to load as the interpreter, as does `typing`.
from _ctypes import CFuncPtr, _SimpleCData, dlopen, dlsym
from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Protocol

    class AgentOutput(Protocol):
        """What was found in what an agent printed."""

        counted: int | None
        turns: int | None
        tokens: int | None
        cost_usd: float | None
        answer: str
        last_line: str

    class Reading(Protocol):
        """The log, read along: see agent_output.py."""

        has_unread: bool
        output: AgentOutput

        def read(self) -> None:
            """Read what was printed since."""

        def finish(self, exit_code: int | None) -> tuple[str, str] | None:
            """Read the rest, and return how the attempt failed; None: it did not."""

    class Life(Protocol):
        """Who knows whether a silent command does something: see attempt_life.py."""

        next_look_s: float

        def silent_s(self, now_s: float, *, spoke_s: float) -> float:
            """Return for how long it has shown no life."""

        def is_over(self, now_s: float, *, spoke_s: float) -> bool:
            """Whether that is too long."""
else:
    import _signal as signal

TASK_LOCK_FD = 3
COOKIE = "TINYSCHEDULER_LEASE_ID"
# Tells ticks whose wrapper this is, should lease and lock be gone; not for the command.
WRAPPER_MARK = "TINYSCHEDULER_WRAPPER_OF"
# Before the name of what the command is to find in its environment, and this program not.
FOR_COMMAND = "TINYSCHEDULER_FOR_COMMAND_"
# The interpreter sets the second for itself where no locale is set (PEP 538).
_NOT_FOR_COMMAND = (WRAPPER_MARK, "LC_CTYPE")
CRASH_VARIABLE = "TINYSCHEDULER_CRASH_AT"
EXIT_CODE_RETRY_LATER = 75

# How often to look for a cancel request and at the log's size.  Ends are noticed at once.
_GLANCE_S = 0.5
# How often at most to look at a log that grows fast.
_CLOSE_LOOK_S = 0.01
# How long a command may take to its first word before we have that word wake us.
_DAWN_S = 0.02
_NO_CAP = float("inf")
# How long after its last words an agent may take to end.
_LAST_WORDS_S = 1.0
_RESULT_RETRY_S = 1.0
_LEFTOVERS_LOOK_S = 0.02
_QUIET_LOOKS = 2
_ENVIRONMENT_READS = 4
_MOST_PROGRAM_BYTES = 1 << 20
_PYC_HEADER_BYTES = 16
# Of its output, where a firing may say that there was nothing to do.
_TAIL_BYTES = 1 << 16
# Whose output it is where nobody said so.
_ANY_AGENT = "any"
_NOTHING_TO_DO = "HEARTBEAT_OK"
_LOG_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 4096
_LEASE_MAX_BYTES = 16 << 20
_GONE = ["X", "0", *["-1"] * 20]
_ASKED_TO_END = "its wrapper was asked to end (SIGTERM), as when the machine shuts down"
# What an end of our own making counts as; all others are failures.
_OUTCOMES = {"cancelled": "cancelled", "aborted": "interrupted"}

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FALLOC_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02

# The symbols of the program itself, and so of the C library (dlopen(3)).
_program = dlopen(None, os.RTLD_LAZY)  # type: ignore[arg-type]  # the stubs lack None
_crash_at = os.environ.pop(CRASH_VARIABLE, "")


class RefusedError(Exception):
    """This process was not started by a tick that holds the task lock."""


class suppress:  # noqa: N801 - as in contextlib, which takes long to load
    """Leave the block at one of these errors, and go on behind it."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self.errors = errors

    def __enter__(self) -> None:
        """Nothing happens yet."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Say whether this is one of the errors."""
        return kind is not None and issubclass(kind, self.errors)


def main(arguments: list[str]) -> int:
    """Run the attempt whose lease file is named; exits 2 without one."""
    try:
        if len(arguments) != 1:
            message = "usage: run_agent.py LEASE_FILE, with the task lock as descriptor 3"
            raise RefusedError(message)  # noqa: TRY301 - one place tells every refusal
        path = os.path.abspath(arguments[0])
        lease = take_over(path)
    except (RefusedError, OSError) as error:
        sys.stderr.write(
            f"error: {error}\nhint: ticks start attempts; `tinyscheduler run --once` does one\n"
        )
        return 2
    try:
        attempt = Attempt(path, lease)
        if not attempt.start():
            return 1
        attempt.watch()
        attempt.end_leftovers()
        attempt.record()
        attempt.let_go()
    except Exception as error:  # noqa: BLE001 - the outermost place; a tick reclaims the lease
        sys.stderr.write(f"{_now()} task {lease.get('task_id')}: {type(error).__name__}: {error}\n")
        return 1
    return 0


def take_over(path: str) -> dict[str, object]:
    """Return the lease, having made sure that it is ours to run."""
    os.umask(0o077)
    # Whatever folder the tick was started in must stay removable and unmountable.
    os.chdir("/")
    lock_path = path.removesuffix(".json") + ".lock"
    try:
        held, named = os.fstat(TASK_LOCK_FD), os.stat(lock_path)
    except OSError as error:
        message = f"no task lock was handed over for {path}: {error.strerror}"
        raise RefusedError(message) from error
    if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino):
        message = f"descriptor {TASK_LOCK_FD} is not {lock_path}"
        raise RefusedError(message)
    try:
        # Harmless where the description already holds it; a refusal where another does.
        fcntl.flock(TASK_LOCK_FD, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"{lock_path} is held by another process"
        raise RefusedError(message) from error
    os.set_inheritable(TASK_LOCK_FD, True)
    # What cron, a shell or a service left open must not live on in the command.
    _close_from(TASK_LOCK_FD + 1)
    with open(path, "rb") as file:
        text = file.read(_LEASE_MAX_BYTES)
    try:
        lease = _parse_json(text)
    except ValueError as error:
        message = f"{path} is not a lease: {error}"
        raise RefusedError(message) from error
    if not isinstance(lease, dict) or lease.get("state") != "starting":
        message = f"{path} is not a lease in state starting"
        raise RefusedError(message)
    return lease


class Attempt:
    """One attempt from the first fork to the result."""

    def __init__(self, path: str, lease: dict[str, object]) -> None:
        """Keep the lease, and prepare to be told of signals and children."""
        self.path = path
        self.lease = lease
        self.run: dict[str, object] = _mapping(lease["run"])
        self.task_id, self.lease_id = str(lease["task_id"]), str(lease["lease_id"])
        self.heartbeat_s = _number(lease["heartbeat_sec"])
        self.grace_s = _number(self.run["kill_grace_sec"])
        self.command_pid = 0
        self.status: int | None = None
        self.peak_rss_mb: float | None = None
        self.cpu_s = 0.0
        self.reading: Reading | None = None
        self.life: Life | None = None
        self.output: AgentOutput | None = None
        self.log_begin = 0
        self.over_budget_s: float | None = None  # since when it is known to be
        self.verdict: tuple[str, str] | None = None  # of its own failure: reason, words
        self.exec_error = b""
        self.why: tuple[str, str] | None = None  # why we end it: failure reason, words
        self.kill_at_s: float | None = None
        self.term_sent = False
        self.started_s, self.started_wall = time.monotonic(), _now()
        self.ended_s, self.ended_wall = self.started_s, self.started_wall
        self.next_beat_s = 0.0
        self.log_size, self.log_grew_s = 0, self.started_s
        self.log_seen_s, self.next_log_look_s = self.started_s, self.started_s + _CLOSE_LOOK_S
        self.log_folder_fd: int | None = None
        self.log_is_quiet = False
        self.terminated = False
        self.began = True
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wakeup_fd = wakeup_read
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_terminate)
        for number in (signal.SIGCHLD, signal.SIGIO):
            signal.signal(number, lambda _number, _frame: None)
        # Orphans of the command become our children, so none escapes unseen.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def _on_terminate(self, _number: int, _frame: object) -> None:
        self.terminated = True

    # -- start --------------------------------------------------------------------

    def start(self) -> bool:
        """Start the command once the lease says ``running``; False if that can't be written."""
        log_fd = os.open(
            str(self.run["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        self.log_fd = log_fd
        # After a database was lost a number may be given twice, and its log be there.
        self.log_begin = os.fstat(log_fd).st_size
        self._make_cgroup()
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        self.error_fd, error_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            # Nothing was wrong with the task, so nothing is counted against it.
            self.why = ("aborted", f"no process could be made for the command: {error.strerror}")
            self.began = False
            self.record()
            self.let_go()
            return False
        if pid == 0:
            self._become_command(
                parent=parent, go_fd=go_read, go_write=go_write, error_fd=error_write
            )
        os.close(go_read)
        os.close(error_write)
        self.command_pid = pid
        try:
            self._tell_running()
        except OSError:
            # Without a `running` that ticks can see the task could run twice: do not start it.
            os.close(go_write)
            os.waitpid(pid, 0)
            return False
        self.pidfd = os.pidfd_open(pid)
        if self._is_cancelled():
            self.why = ("cancelled", "cancelled before the command started")
            self.began = False
            os.close(go_write)
        else:
            _crash_point("wrapper.command:before")
            # Somebody may have killed it before it began; watching tells.
            with suppress(BrokenPipeError):
                os.write(go_write, b"!")
            os.close(go_write)
            _crash_point("wrapper.command:after")
        return True

    def _tell_running(self) -> None:
        """Write who runs the attempt into its lease; OSError if that cannot be."""
        own_pid = os.getpid()
        self.lease["state"] = "running"
        self.lease["pid"] = own_pid
        self.lease["process"] = {
            "boot_id": _boot_id(),
            "pid": own_pid,
            "start_ticks": _start_ticks(own_pid),
            "pgid": self.command_pid,
            "pid_ns": os.stat("/proc/self/ns/pid").st_ino,
        }
        # A start that was held up, as by a freeze, has used up none of the maximum runtime.
        self.lease["started_at"] = self.started_wall
        _mapping(self.lease["monotonic"])["started"] = self.started_s
        self._beat()
        _crash_point("wrapper.running:before")
        # Every process sees it from here on; a power failure may take it back to
        # `starting`, but after one the boot id alone decides, which that names too.
        self._write_lease(durably=False)
        _crash_point("wrapper.running:after")

    def _become_command(self, *, parent: int, go_fd: int, go_write: int, error_fd: int) -> None:
        """Wait for the go in the forked child, then execute the command; never returns."""
        try:
            os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # The parent may have died before the line above took effect.
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.close(go_write)
            if os.read(go_fd, 1) != b"!":
                os._exit(0)
            self._join_cgroup()
            argv = [str(item) for item in _sequence(self.run["argv"])]
            environment = {
                name.removeprefix(FOR_COMMAND): value
                for name, value in os.environ.items()
                if name not in _NOT_FOR_COMMAND
            }
            environment[COOKIE] = self.lease_id
            stdin = os.open(str(self.run["stdin"] or "/dev/null"), os.O_RDONLY)
            os.dup2(stdin, 0)
            os.dup2(self.log_fd, 1)
            os.dup2(self.log_fd, 2)
            os.umask(0o022)
            os.chdir(str(self.run["cwd"]))
            _execute(argv, environment)
        except OSError as error:
            os.write(error_fd, _words_of(error, self.run).encode(errors="replace")[:2000])
        except BaseException as error:  # noqa: BLE001 - a forked child must not unwind
            os.write(error_fd, str(error).encode(errors="replace")[:2000])
        finally:
            os._exit(127)

    def _make_cgroup(self) -> None:
        """Make the command's control group; without one its processes are found otherwise."""
        if self.run.get("cgroup"):
            with suppress(OSError):
                os.mkdir(str(self.run["cgroup"]), 0o755)

    def _join_cgroup(self) -> None:
        """Move this forked child, and so all it will start, into the control group."""
        if self.run.get("cgroup"):
            with suppress(OSError):
                fd = os.open(f"{self.run['cgroup']}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, b"0")
                os.close(fd)

    def _remove_cgroup(self) -> None:
        if self.run.get("cgroup"):
            with suppress(OSError):
                os.rmdir(str(self.run["cgroup"]))

    # -- watch --------------------------------------------------------------------

    def watch(self) -> None:
        """Return when the command has ended; until then beat, and end it where needed."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.register(self.wakeup_fd, select.POLLIN)
        self._listen()
        while self.status is None:
            poll.poll(self._glance_ms())
            self._drain_wakeups()
            self._reap()
            self._beat_if_due()
            self._read_output()
            self._cap_log()
            if self.status is None:
                self._end_if_needed()
        self.ended_s, self.ended_wall = time.monotonic(), _now()

    def _glance_ms(self) -> float:
        if self.reading is not None and self.reading.has_unread:
            return 0
        now = time.monotonic()
        due = [now + _GLANCE_S, self.next_beat_s, self.next_log_look_s]
        if self.kill_at_s is not None:
            due.append(self.kill_at_s)
        else:
            due.append(self.started_s + _number(self.lease["max_runtime_sec"]))
            if self.life is not None:
                due.append(self.life.next_look_s)
        return max(0.0, min(due) - now) * 1000 + 1

    def _drain_wakeups(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.wakeup_fd, 4096)

    def _reap(self) -> bool:
        """Collect ended children, the command and orphans alike; True if none is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            # Of each with all that it waited for itself.
            self.cpu_s += usage.ru_utime + usage.ru_stime
            self.peak_rss_mb = max(self.peak_rss_mb or 0, round(usage.ru_maxrss / 1024, 1))
            if pid == self.command_pid:
                self.status = status
                with suppress(BlockingIOError):
                    self.exec_error = os.read(self.error_fd, 4096)

    def _end_if_needed(self) -> None:
        """Ask the whole tree to end when something says so, and insist after the grace."""
        if self.why is None:
            self.why = self._reason_to_end()
        if self.why is None:
            return
        now = time.monotonic()
        if not self.term_sent:
            self.term_sent = True
            self.kill_at_s = now + self.grace_s
            _signal_all(_descendants(self.lease_id), signal.SIGTERM)
        elif self.kill_at_s is not None and now >= self.kill_at_s:
            _signal_all(_descendants(self.lease_id), signal.SIGKILL)
            self.kill_at_s = now + 0.1

    def _reason_to_end(self) -> tuple[str, str] | None:
        if self._is_cancelled():
            return ("cancelled", "cancelled by its owner")
        if self.terminated:
            return ("aborted", _ASKED_TO_END)
        now = time.monotonic()
        most_s = _number(self.lease["max_runtime_sec"])
        if now - self.started_s > most_s:
            return ("timeout", f"ran longer than its maximum of {most_s:g} s")
        if self._is_over_turns():
            return ("turn_limit_exceeded", self._words_on_turns())
        words = self._words_on_budget()
        if words is not None:
            self.over_budget_s = self.over_budget_s or now
            # Some tell what they used with their last words, and are about to end by themselves.
            if now - self.over_budget_s > _LAST_WORDS_S:
                return ("budget_exceeded", words)
        if self.life is not None and self.life.is_over(now, spoke_s=self.log_grew_s):
            most_s = _number(self.run["idle_output_sec"])
            return ("idle_output", f"printed nothing and computed nothing for {most_s:g} s")
        return None

    def _is_cancelled(self) -> bool:
        return os.path.exists(os.path.join(str(self.run["cancel"]), self.lease_id))

    def _cap_log(self) -> None:
        """Keep the log's first block and its newest half; give the middle back to the disk.

        Offsets never go back, so readers and counters that follow the file stay right.
        """
        status = os.fstat(self.log_fd)
        most = int(_number(self.run["log_max_bytes"]))
        room = most - status.st_blocks * 512 if most > 0 else _NO_CAP
        if room < 0:
            room = most // 2
            end = (status.st_size - room) // _BLOCK_BYTES * _BLOCK_BYTES
            if end > _LOG_HEAD_BYTES:
                _punch_hole(self.log_fd, start=_LOG_HEAD_BYTES, end=end)
        self._plan_log_look(status.st_size, room=room)

    def _plan_log_look(self, size: int, *, room: float) -> None:
        """Look again by the time that the log is full if it goes on as it does."""
        now = time.monotonic()
        grown, since_s = size - self.log_size, now - self.log_seen_s
        has_just_begun = self.log_grew_s < self.log_seen_s
        self.log_size, self.log_seen_s = size, now
        # It may grow faster than it does yet, so the pauses become longer step by step.
        pause_s = 4 * since_s
        if grown:
            self.log_grew_s = now
            # Most of the time since the last look may have passed before the first byte came.
            pause_s = 0.0 if has_just_begun else min(pause_s, room * since_s / grown)
            self.log_is_quiet = False
        elif not self.log_is_quiet and now - self.log_grew_s >= (_GLANCE_S if size else _DAWN_S):
            self.log_is_quiet = True
            self._notice_log()
            pause_s = 0.0  # for what came just before
        self.next_log_look_s = now + max(pause_s, _CLOSE_LOOK_S)

    def _notice_log(self) -> None:
        """Have the next line wake us, once (F_NOTIFY in fcntl(2)).

        A user may have few inotify instances, and a wrapper none of them.
        """
        # A kernel that cannot do it costs a look that comes late.
        with suppress(OSError):
            if self.log_folder_fd is None:
                folder = os.path.dirname(str(self.run["log"]))
                self.log_folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.fcntl(self.log_folder_fd, fcntl.F_NOTIFY, fcntl.DN_MODIFY)

    # -- turns --------------------------------------------------------------------

    def _listen(self) -> None:
        """Get ready to read along in the output, where the tick named who can.

        Those are other programs beside this one, loaded by few attempts.
        """
        kind, idle_s = self.run.get("agent_kind"), self.run["idle_output_sec"]
        try:
            if kind is not None:
                self.reading = self._open_log(str(kind), self.log_begin)
                self.output = self.reading.output
            if idle_s is not None:
                self.life = _load(str(self.run["attempt_life"]), "Life")(
                    _number(idle_s),
                    now_s=self.started_s,
                    reaped_s=lambda: self.cpu_s,
                    children=_children,
                    fields=_stat_fields,
                    parse=_parse_json,
                    report=self.run.get("gpu_report") or (),
                    gpus=self.lease["gpu_uuids"],
                )
        except Exception as error:  # noqa: BLE001 - without it the attempt goes on
            self._stop_reading(error)

    def _open_log(self, kind: str, begin: int) -> Reading:
        profile = self.run.get("agent_profile")
        rules = None if profile is None else _parse_json(str(profile).encode())
        judge = _load(str(self.run["agent_outcomes"]), "Judge")(rules)
        reading: Reading = _load(str(self.run["agent_output"]), "Reading")(
            kind, log=str(self.run["log"]), begin=begin, parse=_parse_json, judge=judge
        )
        return reading

    def _read_output(self) -> None:
        try:
            if self.reading is not None:
                self.reading.read()
        except Exception as error:  # noqa: BLE001 - whatever it prints must not cost its result
            self._stop_reading(error)

    def _stop_reading(self, error: Exception) -> None:
        self.reading = self.output = None
        words = f"its output is not read: {type(error).__name__}: {error}"
        sys.stderr.write(f"{_now()} task {self.task_id}: {words}\n")

    def _finish_output(self) -> None:
        self._read_output()
        while self.reading is not None and self.reading.has_unread:
            self._beat_if_due()
            self._read_output()
        try:
            if self.reading is not None:
                self.verdict = self.reading.finish(self._exit_code())
        except Exception as error:  # noqa: BLE001 - as above
            self._stop_reading(error)
        self._note_progress()

    def _exit_code(self) -> int | None:
        """Return what the command exited with; None where a signal ended it."""
        exited = self.status is not None and os.WIFEXITED(self.status)
        return os.WEXITSTATUS(self.status or 0) if exited else None

    def _is_over_turns(self) -> bool:
        most = self.lease.get("max_turns")
        counted = None if self.output is None else self.output.counted
        return most is not None and counted is not None and counted > _number(most)

    def _words_on_turns(self) -> str:
        return f"took more than its {self.lease['max_turns']} turns"

    def _words_on_budget(self) -> str | None:
        """Say which bound of its own the attempt has gone over, in tokens or in money."""
        if self.output is None:
            return None
        for used, most, words in (
            (self.output.tokens, self.lease.get("max_tokens"), "{} tokens of its {}"),
            (self.output.cost_usd, self.lease.get("max_cost_usd"), "${:.4g} of its ${:.4g}"),
        ):
            if used is not None and most is not None and used > _number(most):
                return f"used {words.format(used, most)}"
        return None

    def _note_progress(self) -> None:
        """Put into the lease what is known by now, for those who look at it."""
        if self.output is not None:
            self.lease["turns"] = self.output.turns
            self.lease["tokens"] = self.output.tokens
            self.lease["cost_usd"] = self.output.cost_usd
        if self.life is not None:
            silent_s = self.life.silent_s(time.monotonic(), spoke_s=self.log_grew_s)
            self.lease["silent_sec"] = round(silent_s, 1)
        if self.status is None and self.command_pid:
            own = _descendants(self.lease_id)
            pages = sum(max(0, int(_stat_fields(pid)[21])) for pid, _ in own)
            # Of all at once as seen now, and of each the most it ever had, once it has ended.
            held_mb = round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)
            self.peak_rss_mb = max(self.peak_rss_mb or 0, held_mb)
            ticks = sum(map(int, _stat_fields(self.command_pid)[11:15]))
            self.lease["cpu_sec"] = round(self.cpu_s + max(0, ticks) / os.sysconf("SC_CLK_TCK"), 2)
        else:
            self.lease["cpu_sec"] = round(self.cpu_s, 3)

    # -- heartbeat ----------------------------------------------------------------

    def _beat_if_due(self) -> None:
        if time.monotonic() >= self.next_beat_s:
            self._beat()
            self._note_progress()
            # The copy in the lease is a courtesy; the lock's time is the heartbeat.
            with suppress(OSError):
                self._write_lease(durably=False)

    def _beat(self) -> None:
        """Renew the lease: it cannot fail on a full disk, and cannot bring a lease back."""
        monotonic_ns = time.monotonic_ns()
        self.next_beat_s = monotonic_ns / 1e9 + self.heartbeat_s
        # It fails on a read-only remount alone, where nothing could do better.
        with suppress(OSError):
            os.utime(TASK_LOCK_FD, ns=(time.time_ns(), monotonic_ns))
        self.lease["heartbeat"] = _now()
        clocks = _mapping(self.lease["monotonic"])
        clocks["heartbeat"] = monotonic_ns / 1e9

    def _write_lease(self, *, durably: bool) -> None:
        _write_json(self.path, self.lease, durably=durably)

    # -- end ----------------------------------------------------------------------

    def end_leftovers(self) -> None:
        """End every process the command left behind; an attempt's work ends with it."""
        asked = False
        quiet_looks = 0
        kill_at_s = time.monotonic() + self.grace_s
        # Orphans become our children, so without children there are no descendants.
        while not self._reap():
            left = _descendants(self.lease_id)
            quiet_looks = 0 if left else quiet_looks + 1
            if quiet_looks == _QUIET_LOOKS:
                break  # all that is left belongs to other attempts
            if not asked:
                asked = True
                _signal_all(left, signal.SIGTERM)
            elif time.monotonic() >= kill_at_s:
                _signal_all(left, signal.SIGKILL)
            self._beat_if_due()
            self._cap_log()
            self._drain_wakeups()
            select.select([self.wakeup_fd], [], [], _LEFTOVERS_LOOK_S)
        self._remove_cgroup()

    def record(self) -> None:
        """Write the result durably; on a full disk keep trying, and keep beating."""
        self._finish_output()
        result = self._result()
        path = os.path.join(str(self.run["results"]), f"{self.lease_id}.json")
        while True:
            try:
                _crash_point("wrapper.result:before")
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                _write_json(path, result, durably=True)
                _crash_point("wrapper.result:after")
            except OSError:
                self._beat_if_due()
                select.select([], [], [], min(_RESULT_RETRY_S, self.heartbeat_s))
            else:
                break
        self.lease["state"] = "finished"
        # The result says it; the lease only repeats it for readers.
        with suppress(OSError):
            self._write_lease(durably=False)

    def _result(self) -> dict[str, object]:
        outcome, reason, message = self._outcome()
        status = self.status
        ran = self.began and not self.exec_error
        signalled = status is not None and os.WIFSIGNALED(status)
        return {
            "version": 1,
            "lease_id": self.lease_id,
            "task_id": self.task_id,
            "source": self.lease["source"],
            "agent": self.lease["agent"],
            "attempt": self.lease["attempt"],
            "outcome": outcome,
            "failure_reason": reason,
            "exit_code": self._exit_code() if ran else None,
            "signal": os.WTERMSIG(status) if status is not None and signalled else None,
            "message": message,
            "started_at": self.started_wall,
            "ended_at": self.ended_wall,
            "duration_sec": round(self.ended_s - self.started_s, 3),
            "turns": self.lease.get("turns"),
            "tokens": self.lease.get("tokens"),
            "cost_usd": self.lease.get("cost_usd"),
            "peak_rss_mb": self.peak_rss_mb,
            "cpu_sec": self.lease["cpu_sec"],
            "gpu_sec": self._gpu_s(),
            "found_nothing": outcome == "succeeded" and self._found_nothing(),
            "log": self.run["log"],
        }

    def _gpu_s(self) -> float | None:
        """Return how long it had whole GPUs, of a half one half as long; None without any."""
        share = self.lease.get("gpu_share")
        if not self.lease.get("gpu_uuids") or not isinstance(share, int | float):
            return None
        return round(share * (self.ended_s - self.started_s), 3)

    def _found_nothing(self) -> bool:
        """Whether a firing says in its last line that there was nothing to do."""
        if self.lease.get("schedule_id") is None:
            return False
        try:
            said = self.output or self._read_end()
        except Exception as error:  # noqa: BLE001 - whatever it printed must not cost its result
            self._stop_reading(error)
            return False
        return says_nothing_to_do(said if isinstance(said, str) else said.answer or said.last_line)

    def _read_end(self) -> AgentOutput | str:
        """Return the last line of a command, or what it says where it printed events."""
        with open(str(self.run["log"]), "rb") as file:
            begin = max(self.log_begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(begin)
            last = file.read().rstrip().rpartition(b"\n")[2].strip()
        if last[:1] not in (b"{", b"}"):
            return last.decode(errors="replace")
        # Some command that runs an agent: only now there is something to read.
        reading = self._open_log(_ANY_AGENT, begin)
        reading.finish(None)
        return reading.output

    def _outcome(self) -> tuple[str, str | None, str]:
        """Say how it ended: by us, not at all, by what it said, by a signal, or by its exit code.

        An agent's own word goes before its exit code, which may be 0 for a failure.
        """
        if self.why is None and self._is_over_turns():
            # It ended by itself before we looked: that is no better.
            self.why = ("turn_limit_exceeded", self._words_on_turns())
        code = 1 if self.status is None else os.waitstatus_to_exitcode(self.status)
        over = self._words_on_budget()
        if self.why is None and over is not None and (code or self.verdict is not None):
            self.why = ("budget_exceeded", over)
        if self.why is not None:
            reason, words = self.why
            return (_OUTCOMES.get(reason, "failed"), reason, words)
        if self.exec_error:
            argv = _sequence(self.run["argv"])
            words = f"cannot execute {argv[0]!r}: {self.exec_error.decode(errors='replace')}"
            # The result says it too: a full disk must not cost that.
            with suppress(OSError):
                os.write(self.log_fd, f"tinyscheduler: {words}\n".encode(errors="replace"))
            return ("failed", "spawn_failed", words)
        status = self.status or 0
        if status and self.terminated:
            # A machine that shuts down asks everybody at once, and the command was quicker.
            return ("interrupted", "aborted", _ASKED_TO_END)
        if os.WIFSIGNALED(status):
            name = _signal_name(os.WTERMSIG(status))
            return ("failed", "command_failed", f"ended by signal {name}")
        if self.verdict is not None and code != EXIT_CODE_RETRY_LATER:
            return ("failed", *self.verdict)
        if code == 0:
            # What is done is not to be paid for twice: it stands, and it is told what it took.
            return ("succeeded", None, over or "")
        if code == EXIT_CODE_RETRY_LATER:
            return ("retry_later", None, "exit code 75: asked to be tried again later")
        return ("failed", "command_failed", f"exit code {code}")

    def let_go(self) -> None:
        """Let go of the lock, wish for a tick, and become one unless one is at work.

        The lock goes before the wish: a tick that sees the wish must find the lock free,
        or it would leave the slot to a wrapper that no longer asks.

        Who asked us to end wants nothing new started: the wish is left for a later tick.
        """
        _crash_point("wrapper.lock:before")
        os.close(TASK_LOCK_FD)
        _crash_point("wrapper.lock:after")
        argv = [str(item) for item in _sequence(self.run["kick_argv"])]
        if not argv:
            return
        try:
            _crash_point("wrapper.kick:before")
            os.close(os.open(str(self.run["kick"]), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            _crash_point("wrapper.kick:after")
        except OSError:
            pass  # without the wish we tick ourselves all the more
        if self.terminated:
            return
        if _is_locked(str(self.run["tick_lock"])) or _is_locked(str(self.run["daemon_lock"])):
            return
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)  # it would survive the exec
        signal.set_wakeup_fd(-1)
        _close_from(3)
        keep = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "USER", "TZ")
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        if _crash_at:
            environment[CRASH_VARIABLE] = _crash_at
        _crash_point("wrapper.kicked:before")
        try:
            os.execve(argv[0], argv, environment)  # noqa: S606 - no shell is the point
        except OSError as error:
            # The installation was moved or removed while the command ran.
            sys.stderr.write(
                f"{_now()} task {self.task_id}: its result is kept for the next tick,"
                f" which could not be started at once: {argv[0]}: {error.strerror}\n"
            )


# -- processes ----------------------------------------------------------------------


def says_nothing_to_do(answer: str) -> bool:
    """Say whether the last line of what was said is HEARTBEAT_OK."""
    return answer.strip().rpartition("\n")[2].strip("`*\"'. ") == _NOTHING_TO_DO


def _descendants(lease_id: str) -> list[tuple[int, int]]:
    """Return (pid, start ticks) of this attempt's processes below this one, but for zombies.

    A command may have started another scheduler, whose attempts are not ours to end.
    """
    children = _children()
    found: list[tuple[int, int]] = []
    queue = [os.getpid()]
    while queue:
        for pid, start_ticks, state in children.get(queue.pop(), ()):
            if state in "ZX":
                queue.append(pid)
            elif not _is_other_wrapper(pid, lease_id):
                queue.append(pid)
                found.append((pid, start_ticks))
    return found


def _children() -> dict[int, list[tuple[int, int, str]]]:
    """Return (pid, start ticks, state) of the children of every process."""
    children: dict[int, list[tuple[int, int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat_fields(int(name))
            children.setdefault(int(fields[1]), []).append((int(name), int(fields[19]), fields[0]))
    return children


def _is_other_wrapper(pid: int, lease_id: str) -> bool:
    """Whether a process is marked as the wrapper of another attempt.

    During execve(2) its environment reads empty for a moment, so it is read again.
    """
    mark = f"{WRAPPER_MARK}=".encode()
    for _ in range(_ENVIRONMENT_READS):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            return False
        for item in environment.split(b"\0"):
            if item.startswith(mark):
                return item != mark + lease_id.encode()
        if environment:
            return False
    return False


def _signal_all(processes: list[tuple[int, int]], number: int) -> None:
    """Signal each process, but never another that has come to bear its number."""
    for pid, start_ticks in processes:
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if _start_ticks(pid) == start_ticks:
                    signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, ppid, ..., start ticks at 19.

    The pages that it holds are at 21.  A process that is gone reads as a dead child of nobody,
    which never started.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read(4096).decode(errors="replace")
    except OSError:
        return _GONE
    return text[text.rindex(")") + 2 :].split()


def _start_ticks(pid: int) -> int:
    return int(_stat_fields(pid)[19])


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def _execute(argv: list[str], environment: dict[str, str]) -> None:
    """Become the command, looked for on PATH as execvp(3) does; OSError if that cannot be."""
    if "/" in argv[0]:
        os.execve(argv[0], argv, environment)  # noqa: S606 - no shell is the point
    fault: OSError | None = None
    for folder in environment.get("PATH", os.defpath).split(":"):
        try:
            os.execve(f"{folder or '.'}/{argv[0]}", argv, environment)  # noqa: S606 - as above
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            fault = fault or error
    raise fault or FileNotFoundError(2, "No such file or directory")


def _words_of(error: OSError, run: dict[str, object]) -> str:
    """Say why the command could not be executed, and where it was looked for."""
    command = str(_sequence(run["argv"])[0])
    if error.filename is None and "/" not in command:
        # Each folder of PATH was tried; none has it.
        return f"{error.strerror}: no {command} on PATH ({os.environ.get('PATH', os.defpath)})"
    where = os.fsdecode(error.filename) if error.filename else ""
    if where == command:
        where = "" if os.path.isabs(command) else f"in {run['cwd']}"
    return f"{error.strerror} ({where})" if where else str(error.strerror)


def _is_locked(path: str) -> bool:
    """Whether any process holds a lock on this file, asked without touching the lock."""
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="utf-8") as file:
            locks = file.read()
    except OSError:
        return False
    device = f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino} "
    return any(device in line and "->" not in line for line in locks.splitlines())


def _load(path: str, name: str) -> Callable[..., Any]:
    """Return what a program of our own package calls so, read by its path."""
    with open(path, "rb") as file:
        text = file.read(_MOST_PROGRAM_BYTES)
    if path.endswith(".pyc"):
        code = marshal.loads(text[_PYC_HEADER_BYTES:])  # noqa: S302 - of our own package
    else:
        code = compile(text, path, "exec")
    names: dict[str, Any] = {"__name__": f"tinyscheduler.{name}"}
    exec(code, names)  # noqa: S102 - the same
    found: Callable[..., Any] = names[name]
    return found


class _Function(CFuncPtr):
    """A function of C that returns an integer and takes some, plain ones of 32 bits."""

    _flags_ = 1  # called as C does


class _Offset(_SimpleCData):  # type: ignore[type-arg]  # generic in the stubs alone
    """A place in a file, 64 bits wide."""

    _type_ = "q"


def _prctl(option: int, value: int) -> None:
    _Function(dlsym(_program, "prctl"))(option, value, 0, 0, 0)


def _punch_hole(fd: int, *, start: int, end: int) -> None:
    """Give the blocks between two offsets back to the disk, if its filesystem can."""
    fallocate = _Function(dlsym(_program, "fallocate"))
    fallocate(fd, _FALLOC_KEEP_SIZE_PUNCH_HOLE, _Offset(start), _Offset(end - start))


def _signal_name(number: int) -> str:
    try:
        # Python may have been updated meanwhile, and this be gone; that must not cost the result.
        from signal import Signals

        return Signals(number).name
    except (ImportError, ValueError):
        return str(number)


# -- files ----------------------------------------------------------------------------


def _close_from(lowest_fd: int) -> None:
    """Close every descriptor from this one on.

    Not all up to the limit: that may be a thousand million, and a C library without
    close_range(2) tries each of them.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= lowest_fd:
            # The one that listed them is closed already.
            with suppress(OSError):
                os.close(int(name))


def _write_json(path: str, document: dict[str, object], *, durably: bool) -> None:
    """Replace the file so that a reader sees the old or the new text, never a part."""
    temporary = f"{path}.tmp"
    folder, name = os.path.split(temporary)
    temporary = os.path.join(folder, f".{name}")
    data = _as_json(document).encode("ascii")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        if durably:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    if durably:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)


class _Syntax:
    """How the scanner of the standard library is to read JSON: as `json.loads` does."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner's own, empty between texts


def _parse_json(data: bytes) -> object:
    """Read a JSON document; ValueError if it is none."""
    text = data.decode("utf-8").strip()
    try:
        scan = make_scanner(_Syntax())  # type: ignore[arg-type]  # it wants this context
        value, end = scan(text, 0)
    except (StopIteration, RecursionError, SystemError) as error:
        # The last one where it would name the place, in words of a module not loaded here.
        message = "it is not JSON"
        raise ValueError(message) from error
    if end != len(text):
        message = f"it goes on behind character {end}"
        raise ValueError(message)
    return value


def _as_json(value: object) -> str:
    """Write what JSON can be, in ASCII."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = [f"{_as_json(str(key))}: {_as_json(one)}" for key, one in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join([_as_json(one) for one in value]) + "]"
    return repr(value)


def _now() -> str:
    wall_ns = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_ns // 10**9))
    return f"{seconds}.{wall_ns % 10**9 // 10**6:03d}Z"


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)  # noqa: S101 - a lease of our own tick
    return value


def _sequence(value: object) -> list[object]:
    assert isinstance(value, list)  # noqa: S101 - a lease of our own tick
    return value


def _number(value: object) -> float:
    assert isinstance(value, int | float)  # noqa: S101 - a lease of our own tick
    return float(value)


def _crash_point(point: str) -> None:
    """Die here, as by SIGKILL, if a test asked for exactly this point and nobody died yet."""
    wanted, _, mark = _crash_at.partition(" ")
    if point == wanted:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # Nothing is left to close or to flush, and taking the interpreter apart takes time
    # that the next attempt could use.
    os._exit(main(sys.argv[1:]))
