"""What besides markers says that somebody is at work?  A seat, a stranger on a GPU, a file."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress

from tinyscheduler.errors import ProbeError
from tinyscheduler.model.pressure import InteractivePressure, PressureKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tinyscheduler.model.resources import GpuReading
    from tinyscheduler.ports import Clock

_LIMIT_S = 2.0
_MOST_BYTES = 1 << 16
_MOST_SESSIONS = 100
_SHOWN = ("Id", "Name", "Seat", "Class", "State", "Active", "IdleHint")


class PressureSources:
    """Those that are configured; each is looked at when it is asked for, and none before."""

    def __init__(
        self,
        sources: Sequence[str],
        *,
        base: str,
        clock: Clock,
        gpus: Callable[[], GpuReading],
        owners: Callable[[Sequence[int]], Mapping[int, str | None]],
        warn: Callable[[str], None],
    ) -> None:
        """Take which there are: ``seat``, ``gpu`` and ``file:PATH``, below ``base``."""
        self._sources = sources
        self._base = base
        self._clock = clock
        self._gpus = gpus
        self._owners = owners
        self._warn = warn

    def live(self) -> Sequence[InteractivePressure]:
        """Return who is at work now; what cannot be found out is told, and counts as nobody."""
        found: list[InteractivePressure] = []
        for source in self._sources:
            kind, _, path = source.partition(":")
            match kind:
                case "seat":
                    found += self._seats()
                case "gpu":
                    found += self._strangers_on_gpus()
                case _:
                    found += self._file(path)
        return found

    def _file(self, path: str) -> Iterator[InteractivePressure]:
        if os.path.lexists(os.path.join(self._base, path)):
            yield InteractivePressure(name=f"file:{path}", kind=PressureKind.FILE)

    def _strangers_on_gpus(self) -> Iterator[InteractivePressure]:
        reading = self._gpus()
        if reading.fault is not None and not reading.is_absent:
            self._warn(f"nobody knows who is at the GPUs: {reading.fault}")
        pids = {one.pid for gpu in reading.gpus for one in gpu.processes or ()}
        try:
            owners = self._owners(sorted(pids)) if pids else {}
        except ProbeError as error:
            self._warn(f"nobody knows who is at the GPUs: {error.what}")
            return
        for pid in sorted(owners):
            if owners[pid] is None:
                yield InteractivePressure(name=f"gpu:{pid}", kind=PressureKind.GPU, pid=pid)

    def _seats(self) -> Iterator[InteractivePressure]:
        """Ask logind who is at a screen of this machine, and not idle (loginctl(1))."""
        try:
            listed = [line.split() for line in self._ask("list-sessions", "--no-legend")]
            names = [words[0] for words in listed if words and _is_session(words[0])]
            if not names:
                return
            properties = ",".join(_SHOWN)
            shown = self._ask("show-session", f"--property={properties}", *names[:_MOST_SESSIONS])
        except (OSError, ProbeError) as error:
            self._warn(f"nobody knows who sits at this machine: {_words_of(error)}")
            return
        for session in read_sessions(shown):
            if is_at_work(session):
                name = f"seat:{session.get('Name') or session.get('Id')}"
                yield InteractivePressure(name=name, kind=PressureKind.SEAT)

    def _ask(self, *arguments: str) -> list[str]:
        """Return what loginctl prints; ProbeError if it fails, says too much or takes too long."""
        with subprocess.Popen(
            ["loginctl", "--no-pager", "--no-ask-password", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            # What it starts itself holds its output open, and is to end with it.
            start_new_session=True,
        ) as process:
            try:
                said = self._read(process)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        lines = said.decode(errors="replace").splitlines()
        if process.returncode != 0:
            words = lines[0].strip() if lines else f"it ended with {process.returncode}"
            message = f"loginctl says: {words}"
            raise ProbeError(message)
        return lines

    def _read(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        out, said = process.stdout.fileno(), b""
        poll = select.poll()
        poll.register(out, select.POLLIN)
        deadline_ns = self._clock.now().monotonic_ns + round(_LIMIT_S * 1e9)
        too_late = f"loginctl did not answer within {_LIMIT_S:g} s"
        while True:
            left_ms = (deadline_ns - self._clock.now().monotonic_ns) / 1e6
            if left_ms <= 0 or not poll.poll(left_ms):
                raise ProbeError(too_late)
            chunk = os.read(out, _MOST_BYTES)
            if not chunk:
                # It has closed its output, and has nothing else to do.
                try:
                    process.wait(timeout=_LIMIT_S)
                except subprocess.TimeoutExpired as error:
                    raise ProbeError(too_late) from error
                return said
            said += chunk
            if len(said) > _MOST_BYTES:
                message = f"loginctl says more than {_MOST_BYTES} bytes"
                raise ProbeError(message)


def read_sessions(lines: Sequence[str]) -> list[dict[str, str]]:
    """Read the properties that loginctl shows, an empty line between two sessions.

    >>> read_sessions(["Id=2", "Name=ann", "", "Id=c1", "nonsense"])
    [{'Id': '2', 'Name': 'ann'}, {'Id': 'c1'}]
    """
    sessions: list[dict[str, str]] = [{}]
    for line in lines:
        name, equals, value = line.partition("=")
        if not line.strip():
            sessions.append({})
        elif equals:
            sessions[-1][name.strip()] = value.strip()
    return [one for one in sessions if one]


def is_at_work(session: Mapping[str, str]) -> bool:
    """Whether somebody sits there: a person, at a screen that shows this session, not idle.

    >>> ann = {"Seat": "seat0", "Class": "user", "Active": "yes", "IdleHint": "no"}
    >>> is_at_work(ann), is_at_work({**ann, "IdleHint": "yes"}), is_at_work({**ann, "Seat": ""})
    (True, False, False)
    """
    return (
        bool(session.get("Seat"))
        and session.get("Class", "").startswith("user")
        and session.get("Active") == "yes"
        and session.get("State", "active") == "active"
        and session.get("IdleHint") == "no"
    )


def _is_session(text: str) -> bool:
    """Whether this may name a session, as logind names them: it is asked about by that."""
    return text.isascii() and text.isalnum()


def _words_of(error: OSError | ProbeError) -> str:
    match error:
        case ProbeError():
            return error.what
        case FileNotFoundError():
            return "there is no loginctl here"
        case _:
            return f"loginctl: {error.strerror}"
