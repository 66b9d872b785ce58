"""A policy of one's own, asked in a process that can do nothing else and is killed in time."""

from __future__ import annotations

import json
import marshal
import os
import select
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from tinyscheduler.errors import CAUSES, PolicyError, PolicyLateError, PolicyLoadError
from tinyscheduler.files import short_path
from tinyscheduler.model.policy import PolicyCall
from tinyscheduler.policy.compiled import SUFFIX, is_compiled
from tinyscheduler.policy.context import describe, understand
from tinyscheduler.policy.headers import digest_of
from tinyscheduler.policy.limits import LAYERS, LuaLimits
from tinyscheduler.values import asdict, replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tinyscheduler.model.config import PolicySettings
    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.policy.artefacts import Artefacts
    from tinyscheduler.policy.compiled import Compiled
    from tinyscheduler.policy.context import Answer

_CHILD = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "policy", "child.py"
)
# What starting it may take besides: all of a tick's time for a policy is this and its own.
_START_MS = 250
# Seconds of CPU time that no start of an interpreter takes.
_STARTING_S = 0.1
# Seconds that somebody waits who only looks whether it works.
_PATIENCE_S = 5.0
# Of one answer: a thousand decisions with reasons.
_MOST_BYTES = 4 << 20
# Seconds of CPU time that the process may use from its start to its end.
_MOST_CPU_S = 5
# Of what it may be asked, that which is no context.
_FORGET = marshal.dumps(None)


class ConfinedPolicy:
    """Reads the file once, starts the process with the first question, and ends it when closed.

    So it is one policy for a whole tick, whatever becomes of the file meanwhile.
    """

    def __init__(
        self,
        settings: PolicySettings,
        *,
        base: str,
        layers: tuple[str, ...] = LAYERS,
        artefacts: Artefacts | None = None,
        fault: str | None = None,
        start_ms: int = _START_MS,
        cpu_s: int = _MOST_CPU_S,
    ) -> None:
        """Take where the policy is and what it may take; fewer ``layers`` only to test each.

        One in YAML is compiled, or found among the ``artefacts``.  With a ``fault`` its file is
        not even looked at.  Starting its process may take ``start_ms``, and all it does may
        take ``cpu_s``; longer where no tick waits for it.
        """
        assert settings.path is not None  # noqa: S101 - who has none asks the platform
        self._settings = settings
        self._path = settings.path
        self._layers = layers
        self._start_ms = start_ms
        self._cpu_s = cpu_s
        self._is_to_forget = False
        self._child: _Child | None = None
        self.answers: list[Answer] = []
        self.calls: list[PolicyCall] = []
        self.name = short_path(self._path, base)
        self._limits = LuaLimits(cpu_ms=settings.cpu_ms, memory_mb=settings.memory_mb)
        self._loaded: tuple[bytes, str | None] | None = None if fault is None else (b"", fault)
        self._artefacts = artefacts
        self._compiled: Compiled | None = None

    @property
    def version(self) -> str:
        """A digest of its source, which is read when somebody wants to know."""
        return digest_of(self.source)

    @property
    def path(self) -> str:
        """Where its file is."""
        return self._path

    @property
    def source(self) -> bytes:
        """What its file held when it was first wanted; empty if that could not be read."""
        return self._load()[0]

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        """Ask it; raises PolicyError for whatever is no answer, and in time."""
        told = describe(context)
        # Of this version of the format alone equal values have equal bytes.
        digest = sha256(marshal.dumps(told, 2)).hexdigest()[:16]
        call = PolicyCall(context=digest, jobs=len(context.waiting))
        try:
            answer = self._ask(marshal.dumps(told), context)
        except PolicyError as error:
            located = self._located(error)
            failed = replace(call, cause=error.cause, words=located.what, log=error.log)
            self.calls.append(failed)
            raise located from error
        self.answers.append(answer)
        self.calls.append(
            replace(
                call,
                decisions=Counter(str(one.get("action")) for one in answer.decisions),
                log=answer.log,
                metrics=answer.metrics,
                instructions=answer.instructions,
                cpu_ms=answer.cpu_ms,
            )
        )
        return answer.proposals

    def compiled(self) -> Compiled | None:
        """Return what becomes of a policy in YAML; None for one in Lua.

        Raises PolicyError if the file cannot be read, or is no policy.
        """
        source, fault = self._load()
        if fault is not None:
            raise PolicyLoadError(fault, cause="file")
        if self._compiled is None and is_compiled(self._path):
            try:
                self._compiled = self._compile(source)
            except PolicyError as error:
                raise PolicyLoadError(error.what, cause=error.cause, hint=error.hint) from error
        return self._compiled

    def start(self) -> None:
        """Load it, if it is not yet; PolicyError where it cannot be."""
        if self._child is None:
            try:
                self._child = self._start()
            except PolicyError as error:
                raise self._located(error) from error

    def forget(self) -> None:
        """Let the next question be the first: what it remembers is gone, as with a new tick."""
        self.answers.clear()
        self.calls.clear()
        self._is_to_forget = self._child is not None

    def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    # -- parts --------------------------------------------------------------------

    def _ask(self, content: bytes, context: PolicyContext) -> Answer:
        if self._child is None:
            self._child = self._start()
        wall_s = self._settings.wall_ms / 1000
        try:
            if self._is_to_forget:
                self._is_to_forget = False
                _check_hello(self._child.ask(_FORGET, time.monotonic() + self._start_ms / 1000))
            answer = self._child.ask(content, time.monotonic() + wall_s)
        except PolicyError as error:
            child, self._child = self._child, None
            child.kill()
            raise child.excused(error, wall_s) from error
        return understand(answer, context)

    def _located(self, error: PolicyError) -> PolicyError:
        """Return the same with the place in the YAML, if that is what it was compiled from."""
        if self._compiled is None:
            return error
        what = self._compiled.locate(error.what, path=self.name)
        return type(error)(what, cause=error.cause, hint=error.hint, log=error.log)

    def _compile(self, source: bytes) -> Compiled:
        found = self._artefacts.recall(source) if self._artefacts is not None else None
        if found is None:
            # It takes longer to load than most ticks do.
            from tinyscheduler.policy.compiling import compile_policy

            found = compile_policy(source, path=self.name)
            if self._artefacts is not None:
                self._artefacts.remember(source, found)
        return found

    def _load(self) -> tuple[bytes, str | None]:
        """Return its source as it was when it was first wanted, or what is wrong with the file."""
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    def _read(self) -> tuple[bytes, str | None]:
        most = self._limits.source_bytes
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as stream:
                source = stream.read(most + 1)
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error)
            return b"", f"{self._path}: {words}"
        if len(source) > most:
            return source, f"{self._path} has more than the {most} bytes that a policy may have"
        return source, None

    def _start(self) -> _Child:
        compiled = self.compiled()
        source = self._load()[0] if compiled is None else compiled.lua.encode()
        child, hello = _greet(
            source,
            self.name if self._compiled is None else self.name + SUFFIX,
            limits=self._limits,
            layers=self._layers,
            patience_s=self._start_ms / 1000,
            cpu_s=self._cpu_s,
        )
        if hello["fault"] is not None:
            child.kill()
            raise _load_error(hello["fault"])
        return child


def find_missing_layers() -> Mapping[str, str]:
    """Return the walls that cannot be put up around a policy here, and why not.

    Raises PolicyError where no policy can be asked at all.
    """
    source = b"function schedule() end"
    child, hello = _greet(source, "none", limits=LuaLimits(), layers=LAYERS, patience_s=_PATIENCE_S)
    child.kill()
    missing: dict[str, str] = hello["missing"]
    return missing


def _greet(
    source: bytes,
    name: str,
    *,
    limits: LuaLimits,
    layers: tuple[str, ...],
    patience_s: float,
    cpu_s: int = _MOST_CPU_S,
) -> tuple[_Child, dict[str, Any]]:
    """Start the process and load a policy in it; return what it says of that."""
    setup: dict[str, Any] = {
        "limits": asdict(limits),
        "layers": layers,
        "cpu_s": cpu_s,
        "name": name,
        "is_bounded": True,
    }
    try:
        child = _Child()
    except OSError as error:
        message = f"its process could not be started: {error.strerror}"
        raise PolicyError(message, cause="error") from error
    deadline = time.monotonic() + patience_s
    try:
        child.send(marshal.dumps(setup), deadline)
        return child, _read_hello(child.ask(source, deadline))
    except PolicyLoadError:
        child.kill()
        raise
    except PolicyError as error:
        child.kill()
        error = child.excused(error, patience_s)
        if isinstance(error, PolicyLateError):
            raise error from None
        raise PolicyLoadError(error.what, cause=error.cause, hint=error.hint) from error


def _read_hello(content: bytes) -> dict[str, Any]:
    """Return what it says of itself; PolicyLoadError for what is no greeting."""
    try:
        hello = json.loads(content)
        return {name: hello[name] for name in ("missing", "fault")}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PolicyLoadError(f"it greeted with nonsense: {error}", cause="nonsense") from error


def _check_hello(content: bytes) -> None:
    """Raise PolicyLoadError where it could not be loaded once more."""
    fault = _read_hello(content)["fault"]
    if fault is not None:
        raise _load_error(fault)


def _load_error(text: str) -> PolicyError:
    """Return what is wrong with the policy: its first lines have run, and may have lied."""
    try:
        fault = json.loads(text)
        cause = fault["fault"] if fault["fault"] in CAUSES else "nonsense"
        return PolicyLoadError(str(fault["words"]), cause=cause)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return PolicyLoadError(f"it greeted with nonsense: {error}", cause="nonsense")


class _Child:
    """The process, and a pipe to it and from it.  Nobody waits for it longer than told."""

    def __init__(self) -> None:
        self._pid: int | None
        self._to, self._from, self._pid = _spawn()
        os.set_blocking(self._to, False)
        self._used_s = 0.0

    def excused(self, error: PolicyError, patience_s: float) -> PolicyError:
        """Return what it is to be blamed for, now that it has ended: not for a busy machine.

        Who had less than half the time to compute, or no more than a start takes, can hardly
        have used it up.
        """
        if error.cause != "timeout" or self._used_s >= max(patience_s / 2, _STARTING_S):
            return error
        message = f"it had {self._used_s * 1000:.0f} ms to answer in {patience_s * 1000:.0f}"
        hint = "the machine is busy; POLICY_WALL_MS gives it longer"
        return PolicyLateError(message, cause="timeout", hint=hint)

    def ask(self, message: bytes, deadline: float) -> bytes:
        """Send a message and return the answer; PolicyError if none comes."""
        self.send(message, deadline)
        size = int.from_bytes(self._receive(4, deadline), "little")
        if size > _MOST_BYTES:
            raise PolicyError(f"it answered with {size} bytes", cause="nonsense")
        return self._receive(size, deadline)

    def send(self, message: bytes, deadline: float) -> None:
        """Send a message."""
        left = memoryview(len(message).to_bytes(4, "little") + message)
        while left:
            self._wait(self._to, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._to, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def kill(self) -> None:
        """End it for good."""
        for fd in (self._to, self._from):
            with suppress(OSError):
                os.close(fd)
        self._reap()

    def _receive(self, size: int, deadline: float) -> bytes:
        content = b""
        while len(content) < size:
            self._wait(self._from, select.POLLIN, deadline)
            chunk = os.read(self._from, size - len(content))
            if not chunk:
                raise self._ended()
            content += chunk
        return content

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(fd, event)
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poll.poll(left_ms):
            message = "it did not answer in time and was killed"
            hint = "one call of a function took too long (POLICY_WALL_MS)"
            raise PolicyError(message, cause="timeout", hint=hint)

    def _ended(self) -> PolicyError:
        """Say how it ended: it never does so by itself while somebody asks."""
        status = self._reap()
        if status is None or not os.WIFSIGNALED(status):
            return PolicyError("its process ended without an answer", cause="error")
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return PolicyError("it used all the CPU time that it may", cause="timeout")
        if number == signal.SIGABRT:
            return PolicyError("it used more memory than it may (POLICY_MEMORY_MB)", cause="memory")
        return PolicyError(f"its process died by {signal.Signals(number).name}", cause="error")

    def _reap(self) -> int | None:
        """Kill it and return how it ended; None where that has been learned before."""
        pid, self._pid = self._pid, None
        if pid is None:
            return None  # by now its number may be that of another process
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            _, status, used = os.wait4(pid, 0)
            self._used_s = used.ru_utime + used.ru_stime
            return status
        return None


def _spawn() -> tuple[int, int, int]:
    """Start the program with nothing but two pipes; return ours to and from it, and its pid."""
    asked, to = os.pipe2(os.O_CLOEXEC)
    answers, into = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            # Without the search for packages, which takes a tenth of it all.
            (sys.executable, "-I", "-S", _CHILD, *filter(os.path.isabs, sys.path)),
            {"TZ": "UTC0", "LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, asked, 0),
                (os.POSIX_SPAWN_DUP2, into, 1),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
            setsid=True,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
    except OSError:
        os.close(to)
        os.close(answers)
        raise
    finally:
        os.close(asked)
        os.close(into)
    return to, answers, pid
