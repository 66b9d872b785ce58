"""One attempt of an agent beside the queue: run as any other, and seen by no tick."""

from __future__ import annotations

import os

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.launch_local import LocalLauncher
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable
from tinyscheduler.app.ticks import wrapper_path
from tinyscheduler.errors import LaunchError
from tinyscheduler.model.leases import NO_RUN, Lease, LeaseState, Needs
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.config import AgentProfile, Config
    from tinyscheduler.model.tasks import AttemptResult, TaskSpec

_TASK_ID = "trial"
_GLANCE_S = 0.05
_BLOCK_BYTES = 1 << 16


class Trial:
    """An attempt whose lease, log and result are in a folder of its own."""

    def __init__(self, config: Config, folder: str) -> None:
        """Take a folder that nobody else uses."""
        names = ("running", "results", "cancel", "tasks", "logs", "kick", "tick_lock")
        places = {name: os.path.join(folder, name) for name in (*names, "daemon_lock")}
        self._config = replace(config, paths=replace(config.paths, **places), kick_enabled=False)
        self._store = FileLeaseStore(self._config.paths, locks=LockTable())
        self._clock = SystemClock()
        self._lease: Lease | None = None
        self._copied = 0

    def start(self, agent: AgentProfile, spec: TaskSpec) -> None:
        """Start it; LaunchError says why that cannot be."""
        launcher = LocalLauncher(self._config, wrapper=wrapper_path(), kick_argv=())
        os.makedirs(self._config.paths.logs, mode=0o700, exist_ok=True)
        lock = self._store.acquire(_TASK_ID)
        assert lock is not None  # noqa: S101 - nobody else uses the folder
        try:
            lease = launcher.prepare(self._bare_lease(agent, spec, lock.lease_id), spec)
            self._store.create(lock, lease)
            launcher.launch(lease, lock)
        finally:
            lock.close()
        self._lease = lease

    def ask_to_end(self) -> None:
        """Have its wrapper end it, the whole tree: SIGTERM, the grace, SIGKILL."""
        if self._lease is not None:
            self._store.request_cancel(self._lease.lease_id)

    def follow(self, copy: Callable[[bytes], None]) -> AttemptResult:
        """Hand over what it prints as it comes, and return how it ended.

        Raises LaunchError where its wrapper was killed: then nobody knows.
        """
        while True:
            scan = self._store.scan()
            has_ended = not any(one.is_lock_held for one in scan.entries)
            self._copy(copy)
            if has_ended and scan.results:
                return scan.results[0]
            if has_ended and not self._store.scan().results:
                message = "the wrapper of this attempt is gone, and left no result"
                raise LaunchError(message, hint="somebody killed it; the kernel's log may say who")
            self._clock.sleep(_GLANCE_S)

    def _copy(self, copy: Callable[[bytes], None]) -> None:
        assert self._lease is not None  # noqa: S101 - it was started
        try:
            with open(self._lease.run.log, "rb") as file:
                file.seek(self._copied)
                while block := file.read(_BLOCK_BYTES):
                    self._copied += len(block)
                    copy(block)
        except FileNotFoundError:
            return  # it has not begun

    def _bare_lease(self, agent: AgentProfile, spec: TaskSpec, lease_id: str) -> Lease:
        now, timing = self._clock.now(), self._config.timing
        models = self._config.inventory.models
        host = next((one.host for one in models if one.model == agent.model), None)
        return Lease(
            task_id=_TASK_ID,
            lease_id=lease_id,
            source="local",
            agent=agent.name,
            attempt=1,
            launches=0,
            state=LeaseState.STARTING,
            host=os.uname().nodename,
            boot_id=now.boot_id,
            started_at=now.wall,
            heartbeat=now.wall,
            monotonic_started_ns=now.monotonic_ns,
            monotonic_heartbeat_ns=now.monotonic_ns,
            heartbeat_s=timing.heartbeat_s,
            max_runtime_s=spec.max_runtime_s or agent.max_runtime_s or timing.max_runtime_s,
            needs=Needs(),
            run=NO_RUN,
            recipe=spec.recipe,
            max_turns=spec.max_turns or agent.max_turns,
            max_tokens=spec.max_tokens or agent.max_tokens,
            max_cost_usd=spec.max_cost_usd or agent.max_cost_usd,
            model=agent.model,
            model_host=host,
        )
