"""Simulated wrappers over real files: the disk of the simulator, as a real state folder.

The simulator's wrappers and faults read and change dictionaries of texts.  Here these
are folders, a lock is a descriptor that flock(2) has locked, and a full disk is a limit on
the size of files.  So the real adapters of a tick meet what real wrappers would leave.
"""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from tinyscheduler.adapters.launch_local import LocalLauncher
from tinyscheduler.adapters.leases_file import FileTaskLock
from tinyscheduler.simulator.attempts import Attempt, Wrapper
from tinyscheduler.simulator.disk import Disk, Refusal
from tinyscheduler.simulator.launcher import SimulatedLauncher, Workshop
from tinyscheduler.simulator.machine import Description, LockFile
from tinyscheduler.simulator.tick_lock import KICK

if TYPE_CHECKING:
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.leases import Lease
    from tinyscheduler.model.snapshot import SchedulingMemory
    from tinyscheduler.model.tasks import TaskSpec
    from tinyscheduler.ports import TaskLock
    from tinyscheduler.simulator.machine import Machine, Process

_UNLIMITED = resource.getrlimit(resource.RLIMIT_FSIZE)


class Folder(MutableMapping[str, str]):
    """Files of one folder by what their names say, written as wrappers write them."""

    def __init__(self, path: str, prefix: str = "", suffix: str = "") -> None:
        self._path = path
        self._prefix = prefix
        self._suffix = suffix

    def __getitem__(self, name: str) -> str:
        try:
            return Path(self._of(name)).read_text(errors="replace")
        except FileNotFoundError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, text: str) -> None:
        path = self._of(name)
        temporary = f"{self._path}/.{os.path.basename(path)}.tmp"
        try:
            with open(temporary, "w") as file:
                file.write(text)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

    def __delitem__(self, name: str) -> None:
        try:
            os.unlink(self._of(name))
        except FileNotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return
        end = -len(self._suffix) or None
        for name in sorted(names):
            if name.startswith(self._prefix) and name.endswith(self._suffix) and name[0] != ".":
                yield name[len(self._prefix) : end]

    def __contains__(self, name: object) -> bool:
        return os.path.lexists(self._of(str(name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _of(self, name: str) -> str:
        return f"{self._path}/{self._prefix}{name}{self._suffix}"


class Kicks(Folder):
    """The kick file alone, beside so much else."""

    def __iter__(self) -> Iterator[str]:
        return iter([KICK] if KICK in self else [])


class HeldFile(LockFile):
    """A real lock file that some process has locked."""

    fd = -1


class HeldDescription(Description):
    """A real open file description; the last simulated process to drop it closes it."""

    def __init__(self, fd: int) -> None:
        file = HeldFile()
        file.fd = fd
        super().__init__(lock=file)

    def drop(self, process: Process) -> None:
        """Close the process's descriptor; there is one real one for all of them."""
        super().drop(process)
        if not self.sharers and isinstance(self.lock, HeldFile) and self.lock.fd >= 0:
            os.close(self.lock.fd)
            self.lock.fd = -1


class Locks:
    """The task locks: whose file bears the name now?"""

    def __init__(self, running: str) -> None:
        self._running = running
        self._held: WeakValueDictionary[int, HeldFile] = WeakValueDictionary()

    def take_over(self, lock: FileTaskLock) -> HeldDescription:
        """Return a further descriptor of a lock that a tick has taken, as a spawn inherits it."""
        description = HeldDescription(os.dup(lock.fileno()))
        assert isinstance(description.lock, HeldFile)
        self._held[os.fstat(lock.fileno()).st_ino] = description.lock
        return description

    def get(self, task_id: str) -> LockFile | None:
        """Return the lock that is held on the file of that name, if one is."""
        try:
            inode = os.stat(f"{self._running}/task_{task_id}.lock").st_ino
        except FileNotFoundError:
            return None
        held = self._held.get(inode)
        # A number is given out anew once its file is gone and closed.
        return held if held is not None and held.fd >= 0 else LockFile()

    def count_held(self) -> int:
        """Return how many locks simulated processes hold; each is a descriptor of this one."""
        return sum(file.fd >= 0 for file in self._held.values())

    def keys(self) -> list[str]:
        """Return the tasks that have a lock file."""
        return list(Folder(self._running, "task_", ".lock"))


class TickLockFile(LockFile):
    """The real pidfile, tried as a wrapper would look it up."""

    path = ""

    @property
    def is_held(self) -> bool:
        """Whether any tick is at work."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


class FileDisk(Disk):
    """A state folder in the place of the simulator's dictionaries."""

    def __init__(self, config: Config, machine: Machine) -> None:
        self._paths = paths = config.paths
        self._machine = machine
        super().__init__()
        for folder in (paths.running, paths.results, paths.cancel, paths.quarantine):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self.task_locks = Locks(paths.running)
        self.leases = cast("Any", Folder(paths.running, "task_", ".json"))
        self.locks = cast("Any", self.task_locks)
        self.results = cast("Any", Folder(paths.results, suffix=".json"))
        self.cancels = cast("Any", Folder(paths.cancel))
        self.kicks = cast("Any", Kicks(os.path.dirname(paths.kick)))
        self.tick_lock = TickLockFile()
        self.tick_lock.path = paths.tick_lock

    @property
    def refusal(self) -> Refusal:
        """What is refused now."""
        return self._refusal

    @refusal.setter
    def refusal(self, refusal: Refusal) -> None:
        """Let no file of this process grow, as on a full disk, or let all of them grow again."""
        self._refusal = refusal
        limit, hard = _UNLIMITED
        is_free = refusal is Refusal.NOTHING
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit if is_free else 0, hard))

    @property
    def memory(self) -> None:
        """What the last tick remembers; here it can only be spoiled."""
        return

    @memory.setter
    def memory(self, memory: SchedulingMemory | str | None) -> None:
        """Put a text in the place of what was saved."""
        if isinstance(memory, str):
            Path(self._paths.memory).write_text(memory)

    def refuse_bytes(self) -> None:
        """Nothing: the kernel refuses by itself."""

    def refuse_changes(self) -> None:
        """Nothing: no file is kept from being made or removed."""

    def beat(self, lock: LockFile, beat_ns: int) -> None:
        """Set the times of a lock file, as wrappers do."""
        if isinstance(lock, HeldFile) and lock.fd >= 0:
            os.utime(lock.fd, ns=(int(self._machine.wall.timestamp() * 1e9), beat_ns))


class FileLauncher(SimulatedLauncher):
    """Prepares attempts as the real launcher does, and starts simulated wrappers of them."""

    def __init__(self, process: Process, workshop: Workshop, config: Config, disk: FileDisk):
        super().__init__(process, workshop)
        self._file_disk = disk
        self._real = LocalLauncher(config, wrapper="wrapper.py", kick_argv=("tick",))

    def prepare(self, lease: Lease, spec: TaskSpec) -> Lease:
        """Write the prompt and make the folder of the log, as real attempts need them."""
        self._process.reach("launch.prepare")
        return self._real.prepare(lease, spec)

    def launch(self, lease: Lease, lock: TaskLock) -> None:
        """Start a simulated wrapper that shares the real lock."""
        assert isinstance(lock, FileTaskLock)
        fault = self._workshop.launch_fault(lease.task_id)
        if fault is not None:
            self._process.reach("launch.spawn")
            raise fault
        with self._process.doing("launch.spawn"):
            wrapper = self._machine.spawn("wrapper")
            description = self._file_disk.task_locks.take_over(lock)
            description.share(wrapper)
            self._workshop.attempts[lease.lease_id] = Attempt(lease=lease, wrapper=wrapper)
            program = Wrapper(
                machine=self._machine,
                disk=self._file_disk,
                process=wrapper,
                task_id=lease.task_id,
                description=description,
                script=self._workshop.script,
                attempts=self._workshop.attempts,
                on_command_start=self._workshop.on_command_start,
                become_tick=self._workshop.become_tick,
            )
            self._machine.begin(wrapper, program.life())
