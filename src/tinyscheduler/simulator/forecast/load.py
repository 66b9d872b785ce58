"""What is played: which tasks come when and take how long, and the machine that they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.model.snapshot import SchedulingMemory
from tinyscheduler.simulator.machine import NO_GPU
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.resources import GpuReading
    from tinyscheduler.model.tasks import TaskSpec
    from tinyscheduler.tick import TickSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attempt: how many seconds it runs, and what it ends with."""

    runs_s: float
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task of a load.  Seconds.

    People know it by its ``summary``.  It arrives so long after the beginning, and was ``age_s``
    old by then.  ``spec.after`` names jobs that stand before it.  Each attempt goes as its trial;
    those after the last succeed as quickly.  One that ``is_running`` has a slot from the
    beginning on, and nothing is measured of it.
    """

    name: str
    spec: TaskSpec
    arrives_s: float
    trials: tuple[Trial, ...]
    summary: str | None = None
    age_s: float = 0.0
    attempt: int = 1
    failures: int = 0
    is_running: bool = False

    def trial(self, attempt: int) -> Trial:
        """Return how the attempt of that number goes."""
        place = attempt - self.attempt
        if 0 <= place < len(self.trials):
            return self.trials[place]
        return Trial(runs_s=self.trials[-1].runs_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The machine, and how ticks are configured there.  Bytes.

    Nobody but the load uses its memory and its GPUs, apart from what these say themselves.
    """

    settings: TickSettings
    memory_bytes: int
    gpus: GpuReading = NO_GPU
    memory_used_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """All that a run is a function of, beside the policy.

    ``jobs`` stand in the order in which they came to the queue.  ``kind`` and ``words`` say where
    they are from, ``notes`` what was left out.  ``memory`` is what ticks remember at the
    beginning; it speaks of jobs by their names.
    """

    kind: str
    words: str
    begins_at: datetime
    site: Site
    jobs: tuple[Job, ...]
    seed: int = 0
    notes: tuple[str, ...] = ()
    memory: SchedulingMemory = SchedulingMemory()
