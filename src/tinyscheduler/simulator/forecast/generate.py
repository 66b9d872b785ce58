"""A load from a seed: a queue that is full at the beginning, and tasks that keep coming.

The mix is that of a small machine which people share: a third of the tasks are short and somebody
waits for them, the others are long; one tenant has most of them; a few fail.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tinyscheduler.model.config import AgentProfile, Inventory
from tinyscheduler.model.resources import Gpu, GpuReading
from tinyscheduler.model.tasks import PriorityClass, TaskSpec
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.forecast.load import Job, Load, Site, Trial
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from tinyscheduler.tick import TickSettings

_GIB = 1 << 30
_MONDAY = datetime(2026, 3, 2, 8, 0)  # noqa: DTZ001 - of wherever it is played
_QUEUE = "jobs"
_GPU_BYTES = 24 * _GIB
# Of memory, for each slot.
_SLOT_BYTES = 8 * _GIB
# So many times the tasks that wait at the beginning come in all.
_TIMES = 10
# How much of the machine those take that come later.
_LOADED = 0.7
_INTERACTIVE = 0.3
_INTERACTIVE_S, _BATCH_S = 60.0, 900.0
_FAILING = 0.05
# Of the time that an attempt may take: who took it whole would be ended, and tried again.
_SHARE_OF_LONGEST = 0.99
_ON_GPU, _WHOLE_GPU = 0.5, 0.05
_SEEDED = 0.5
_TENANTS = (*["red"] * 6, *["green"] * 3, "blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A machine to be made up: so many pools, each with a GPU and so many workers."""

    pools: int
    workers_per_pool: int


def made_up_site(shape: Shape, settings: TickSettings) -> Site:
    """Return a machine of this shape; all else is as it is configured."""
    slots = shape.pools * shape.workers_per_pool
    agents = tuple(
        AgentProfile(name=f"pool-{number}", queue=_QUEUE, limit=shape.workers_per_pool)
        for number in range(1, shape.pools + 1)
    )
    gpus = tuple(
        Gpu(index=index, uuid=f"GPU-{index}", name="made up", total_bytes=_GPU_BYTES)
        for index in range(shape.pools)
    )
    rules = replace(settings.rules, host_slots=slots, memory_per_slot_bytes=None)
    return Site(
        settings=replace(
            settings,
            agents=agents,
            rules=rules,
            inventory=Inventory(),
            window=slots + rules.lookahead,
            is_enabled=True,
            gpu_mask=None,
        ),
        memory_bytes=slots * _SLOT_BYTES,
        gpus=GpuReading(gpus=gpus),
    )


def generate(site: Site, *, queue_depth: int, seed: int) -> Load:
    """Return a load for the machine: so many tasks wait at once, nine times as many come later."""
    maker = _Maker(site, seed)
    jobs = []
    at_s = 0.0
    for number in range(1, _TIMES * queue_depth + 1):
        if number > queue_depth:
            at_s += maker.chance.after(maker.every_s)
        jobs.append(maker.make(number, at_s))
    return Load(
        kind="generated",
        words=f"{len(jobs)} made-up tasks, {queue_depth} at once and the others as they come",
        begins_at=_MONDAY.astimezone(UTC),
        site=site,
        jobs=tuple(jobs),
        seed=seed,
    )


class _Maker:
    """Makes one task after the other."""

    def __init__(self, site: Site, seed: int) -> None:
        self.chance = Chance(seed, "load")
        self._agents = [one for one in site.settings.agents for _ in range(one.limit)]
        self._by_queue = all(one.queue == _QUEUE for one in site.settings.agents)
        gpus = [one for one in site.gpus.gpus if one.fault is None]
        self._gpu_bytes = min((one.total_bytes or 0 for one in gpus), default=0)
        self._shares = max(1, len(self._agents) // max(1, len(gpus)))
        mean_s = _INTERACTIVE * _INTERACTIVE_S + (1 - _INTERACTIVE) * _BATCH_S
        slots = max(1, min(site.settings.rules.host_slots, len(self._agents)))
        self.every_s = mean_s / slots / _LOADED
        self._longest_s = site.settings.max_runtime_s

    def make(self, number: int, arrives_s: float) -> Job:
        chance = self.chance
        is_urgent = chance.happens(_INTERACTIVE)
        agent = chance.pick(self._agents)
        runs_s = chance.after(_INTERACTIVE_S if is_urgent else _BATCH_S)
        gpus, vram_bytes = self._needs()
        seed = chance.count(1, 100) if chance.happens(_SEEDED) else None
        fails = chance.happens(_FAILING)
        spec = TaskSpec(
            agent=None if self._by_queue else agent.name,
            queue=agent.queue,
            title=f"task {number}",
            command=("work",),
            priority_class=PriorityClass.INTERACTIVE if is_urgent else PriorityClass.BATCH,
            gpus=gpus,
            vram_bytes=vram_bytes,
            seed=seed,
            tenant=chance.pick(_TENANTS),
        )
        longest_s = _SHARE_OF_LONGEST * (agent.max_runtime_s or self._longest_s)
        runs_s = min(max(1.0, runs_s), longest_s)
        first = (Trial(runs_s=runs_s / 2, exit_code=1),) if fails else ()
        return Job(
            name=str(number),
            spec=spec,
            arrives_s=arrives_s,
            trials=(*first, Trial(runs_s=runs_s)),
        )

    def _needs(self) -> tuple[int, int | None]:
        """Return whole GPUs and VRAM."""
        whole, share, size = (
            self.chance.happens(_WHOLE_GPU),
            self.chance.happens(_ON_GPU),
            self.chance.count(1, 2),
        )
        if not self._gpu_bytes:
            return 0, None
        if whole:
            return 1, None
        return (
            (0, min(self._gpu_bytes, self._gpu_bytes * size // self._shares))
            if share
            else (0, None)
        )
