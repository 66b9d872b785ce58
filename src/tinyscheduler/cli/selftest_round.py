"""One round of the self-test: real tasks, killed and corrupted at random, then judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

from tinyscheduler.adapters.launch_local.processes import COOKIE, read_process, signal_process
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app.queue import open_queue
from tinyscheduler.cli.demo_stage import processes_of
from tinyscheduler.cli.witness import hear, testify
from tinyscheduler.config.inputs import PREFIX, UNPREFIXED
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.model.tasks import Outcome, TaskSpec, TaskState
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.values import dataclass, field

SLOTS = 3
CHAOS_S, LONGEST_CHAOS_S = 1.5, 3.0
SETTLE_S = 60.0
_LOOK_S = 0.05
# On a slow machine little runs at first, so it goes on until so much was hit.
_LEAST_HITS = 6
_MOST_TICKS = 3
_TICK_TIMEOUT_S = 60.0
# Attempts are never used up: whatever is killed, each task must be done in the end.
_SETTINGS = {
    "MAX_CONCURRENT_SLOTS": str(SLOTS),
    "AGENT_LIMITS": f"shell:{SLOTS}",
    "MAX_ATTEMPTS": "1000",
    "MAX_LAUNCHES": "1000",
    "STAGGER_DELAY_MS": "0",
    # However little memory this machine has left.
    "MEMORY_PER_SLOT_MB": "1",
    "MEMORY_CRITICAL": "1",
    "HEARTBEAT_SEC": "0.2",
    "RETRY_BASE_SEC": "0.1",
    "RETRY_MAX_SEC": "0.2",
    "KILL_GRACE_SEC": "0.5",
}
# What the tasks do: end at once, take a while, leave processes behind, fail the first time.
_BODIES = (
    "true",
    "sleep 0.1",
    "sleep 0.4",
    "sleep 1",
    "sleep 0.2 & setsid sleep 0.3; wait",
    "(setsid sleep 200 &) ; sleep 0.2",
    '[ "$attempt" -gt 1 ]',
)
_GARBAGE = (b"", b"{", b'{"version": 1}', b"[1, 2]\n", b"\xff\x00\xfe" * 40)


@dataclass(slots=True, kw_only=True)
class Damage:
    """What was done to a round, counted by kind."""

    kills: Counter[str] = field(default_factory=Counter)
    corruptions: Counter[str] = field(default_factory=Counter)

    def add(self, other: Damage) -> None:
        """Count another round's damage, too."""
        self.kills += other.kills
        self.corruptions += other.corruptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What is promised, and every way in which a round broke it."""

    words: str
    broken: tuple[str, ...]


class Round:
    """A base path of its own with a few tasks, to be ticked, hurt, and judged."""

    def __init__(self, base: str, chance: Chance) -> None:
        """Write the settings and add the tasks; some wait for others."""
        self.base = base
        self.damage = Damage()
        self._revivals = 0
        self._chance = chance
        # The user's own settings, and those of an attempt this may run in, are not ours.
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(PREFIX) and name not in UNPREFIXED
        }
        os.makedirs(base, mode=0o700)
        with open(os.path.join(base, ".env.tinyscheduler"), "w", encoding="utf-8") as file:
            file.writelines(f"{PREFIX}{name}={value}\n" for name, value in _SETTINGS.items())
        config = load_config(Overrides(base_path=base), environ=self._environment)
        self._paths = config.paths
        self.queue = open_queue(config, Access.WRITE)
        self.task_ids: list[str] = []
        for _ in range(chance.count(3, 6)):
            after = (chance.pick(self.task_ids),) if self.task_ids and chance.happens(0.25) else ()
            argv = testify(base, chance.pick(_BODIES))
            spec = TaskSpec(agent="shell", command=argv, cwd=base, after=after)
            self.task_ids += self.queue.tasks.add([(None, spec)])

    # -- hurting ----------------------------------------------------------------------

    def wreak(self) -> None:
        """Tick, and kill and corrupt at random moments, until it is enough."""
        ticks: list[subprocess.Popen[bytes]] = []
        began_ns = self._now_ns()
        while self._wreaks_on((self._now_ns() - began_ns) / 1e9):
            if sum(tick.poll() is None for tick in ticks) < _MOST_TICKS:
                ticks.append(self._start_tick())
            self._sleep(self._chance.between(0, 0.12))
            for _ in range(self._chance.count(0, 2)):
                self._hurt(ticks)
                self._sleep(self._chance.between(0, 0.05))
        for tick in ticks:
            with suppress(subprocess.TimeoutExpired):
                tick.wait(timeout=_TICK_TIMEOUT_S)

    def _wreaks_on(self, spent_s: float) -> bool:
        hits = self.damage.kills.total() + self.damage.corruptions.total()
        return spent_s < CHAOS_S or (hits < _LEAST_HITS and spent_s < LONGEST_CHAOS_S)

    def _hurt(self, ticks: list[subprocess.Popen[bytes]]) -> None:
        ways: Mapping[str, Callable[[], list[int]]] = {
            "tick": lambda: [one.pid for one in ticks if one.poll() is None],
            "wrapper": self._wrappers,
            "command": self._commands,
        }
        kind = self._chance.pick(("tick", "wrapper", "wrapper", "command", "command", "corrupt"))
        if kind == "corrupt":
            self._corrupt()
            return
        pid = self._pick(ways[kind]())
        process = read_process(pid) if pid is not None else None
        if process is not None:
            signal_process(process, signal.SIGKILL)
            self.damage.kills[kind] += 1

    def _pick(self, pids: list[int]) -> int | None:
        return self._chance.pick(pids) if pids else None

    def _wrappers(self) -> list[int]:
        """Return the wrappers of this base path: they hold a task lock as descriptor 3."""
        found = []
        for pid in processes_of(self.base):
            with suppress(OSError):
                held = os.readlink(f"/proc/{pid}/fd/3")
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    is_wrapper = b"wrapper" in file.read()
                if is_wrapper and held.startswith(self._paths.running):
                    found.append(pid)
        return found

    def _commands(self) -> list[int]:
        """Return the processes of attempts: only these carry the cookie of a lease."""
        found = []
        for pid in processes_of(self.base):
            with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                if os.fsencode(COOKIE) in file.read():
                    found.append(pid)
        return found

    def _corrupt(self) -> None:
        """Overwrite a lease, a result or the scheduling memory, as a failing disk would."""
        kind = self._chance.pick(("lease", "result", "memory"))
        paths = {
            "lease": lambda: _files(self._paths.running),
            "result": lambda: _files(self._paths.results),
            "memory": lambda: [self._paths.memory],
        }[kind]()
        if not paths:
            return
        with suppress(OSError):
            # Never created: what is gone by now is left alone.
            fd = os.open(self._chance.pick(paths), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, self._chance.pick(_GARBAGE))
            finally:
                os.close(fd)
            self.damage.corruptions[kind] += 1

    # -- settling ---------------------------------------------------------------------

    def settle(self) -> bool:
        """Tick until every task has ended and nothing is left; False if the time is up."""
        end_ns = self._now_ns() + int(SETTLE_S * 1e9)
        while self._now_ns() < end_ns:
            tick = self._start_tick()
            with suppress(subprocess.TimeoutExpired):
                tick.wait(timeout=_TICK_TIMEOUT_S)
            self._revive()
            states = self.queue.tasks.states(self.task_ids).values()
            if all(one.is_final for one in states) and not self._leftovers():
                return True
            self._sleep(_LOOK_S)
        return False

    def _revive(self) -> None:
        """Let tasks wait again that were parked because we corrupted their results.

        They may have succeeded, so it is right that a tick does not run them again; their
        owner decides, and that is us.  Each corrupted result can park one.
        """
        for one, state in self.queue.tasks.states(self.task_ids).items():
            is_ours = self._revivals < self.damage.corruptions["result"]
            if state is TaskState.PARKED and is_ours:
                self._revivals += 1
                self.queue.tasks.retry(one)

    def _leftovers(self) -> list[str]:
        scan = self.queue.leases.scan()
        return [
            *(f"a lease or lock of task {entry.task_id} is left" for entry in scan.entries),
            *(f"a result of task {result.task_id} is left" for result in scan.results),
            *(f"process {pid} is left running" for pid in processes_of(self.base)),
        ]

    def end_everything(self) -> None:
        """SIGKILL all that runs here: nobody will look at it any more."""
        for _ in range(200):
            pids = processes_of(self.base)
            if not pids:
                return
            for pid in pids:
                process = read_process(pid)
                if process is not None:
                    signal_process(process, signal.SIGKILL)
            self._sleep(0.02)

    # -- judging ----------------------------------------------------------------------

    def judge(self) -> list[Promise]:
        """Compare what the tasks themselves testify with what was promised."""
        said = hear(self.base)
        states = self.queue.tasks.states(self.task_ids)
        lost, again = [], []
        for one in self.task_ids:
            state = states.get(one)
            if state is not TaskState.DONE:
                lost.append(f"task {one} is {state or 'gone'}")
            starts = said.starts.get(one, [])
            rows = self.queue.ledger.attempts(one)
            succeeded = [row.attempt for row in rows if row.outcome is Outcome.SUCCEEDED]
            if state is TaskState.DONE and succeeded != starts[-1:]:
                again.append(f"task {one} succeeded as {succeeded}, and started as {starts}")
        twice = [
            f"task {one} was started as attempts {starts}"
            for one, starts in said.starts.items()
            if starts != sorted(set(starts))
        ]
        if said.most_of_a_task > 1:
            twice.append(f"{said.most_of_a_task} attempts of one task lived at once")
        over = [f"{said.most} ran at once, of {SLOTS}"] if said.most > SLOTS else []
        return [
            Promise(words=NOTHING_LOST, broken=tuple(lost)),
            Promise(words=NOTHING_TWICE, broken=tuple(twice)),
            Promise(words=NOTHING_AGAIN, broken=tuple(again)),
            Promise(words=NO_LIMIT_EXCEEDED, broken=tuple(over)),
            Promise(words=NOTHING_LEFT, broken=tuple(self._leftovers())),
        ]

    # -- time and ticks -----------------------------------------------------------------

    def _start_tick(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-m", "tinyscheduler", "--base-path", self.base]
        with open(os.path.join(self.base, "ticks.log"), "ab") as log:
            return subprocess.Popen(
                [*command, "-q", "run", "--once"],
                cwd=self.base,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                # Ctrl-C is for the self-test; it ends these itself.
                start_new_session=True,
            )

    def _now_ns(self) -> int:
        return self.queue.clock.now().monotonic_ns

    def _sleep(self, seconds: float) -> None:
        self.queue.clock.sleep(seconds)


NOTHING_LOST = "no task is lost"
NOTHING_TWICE = "no task runs twice at once"
NOTHING_AGAIN = "no task that is done is run again"
NO_LIMIT_EXCEEDED = "no limit is exceeded"
NOTHING_LEFT = "nothing is left running or lying about"
PROMISES = (NOTHING_LOST, NOTHING_TWICE, NOTHING_AGAIN, NO_LIMIT_EXCEEDED, NOTHING_LEFT)


def _files(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(os.path.join(folder, name) for name in names if name.endswith(".json"))
