"""What besides markers says that somebody is at work?  A seat, a stranger on a GPU, a file."""

from __future__ import annotations

import os
import subprocess

from tinyscheduler.errors import ProbeError
from tinyscheduler.model.pressure import InteractivePressure, PressureKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tinyscheduler.model.resources import GpuReading

_LIMIT_S = 2.0
_MOST_CHARACTERS = 1 << 16
_MOST_SESSIONS = 100
_SHOWN = ("Id", "Name", "Seat", "Class", "State", "Active", "IdleHint")


class PressureSources:
    """Those that are configured; each is looked at when it is asked for, and none before."""

    def __init__(
        self,
        sources: Sequence[str],
        *,
        base: str,
        gpus: Callable[[], GpuReading],
        owners: Callable[[Sequence[int]], Mapping[int, str | None]],
        warn: Callable[[str], None],
    ) -> None:
        """Take which there are: ``seat``, ``gpu`` and ``file:PATH``, below ``base``."""
        self._sources = sources
        self._base = base
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
            names = [
                line.split()[0] for line in _ask("list-sessions", "--no-legend") if line.split()
            ]
            if not names:
                return
            properties = ",".join(_SHOWN)
            shown = _ask("show-session", f"--property={properties}", *names[:_MOST_SESSIONS])
        except (OSError, subprocess.SubprocessError) as error:
            self._warn(f"nobody knows who sits at this machine: {_words_of(error)}")
            return
        for session in read_sessions(shown):
            if is_at_work(session):
                name = f"seat:{session.get('Name') or session.get('Id')}"
                yield InteractivePressure(name=name, kind=PressureKind.SEAT)


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


def _ask(*arguments: str) -> list[str]:
    done = subprocess.run(
        ["loginctl", "--no-pager", "--no-ask-password", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_LIMIT_S,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.stdout.decode(errors="replace")[:_MOST_CHARACTERS].splitlines()


def _words_of(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "there is no loginctl here"
        case subprocess.TimeoutExpired():
            return f"loginctl did not answer within {_LIMIT_S:g} s"
        case subprocess.CalledProcessError():
            said = (error.stderr or b"").decode(errors="replace").strip()
            return f"loginctl says: {said.splitlines()[0] if said else error.returncode}"
        case _:
            return str(error)
