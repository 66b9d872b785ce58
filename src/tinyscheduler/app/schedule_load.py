"""How much would the schedules take of this machine, and how much is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.adapters.sqlite.firing_history import FiringHistory
from tinyscheduler.core.collisions import Board, Room, Weight, course_of
from tinyscheduler.model.config import LOCAL_HOST
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.core.collisions import Course, Stretch
    from tinyscheduler.model.config import AgentProfile, Config
    from tinyscheduler.model.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLoad:
    """When all schedules fire in a stretch of time, what they take, and what there is for it."""

    stretch: Stretch
    courses: Mapping[str, Course]
    room: Room
    board: Board


def load_of(schedules: Schedules, everything: Sequence[Schedule], stretch: Stretch) -> ScheduleLoad:
    """Return what these schedules would take: by their firings so far, else by their bounds."""
    config = schedules.queue.config
    room, gpu_bytes = _measure(config, everything)
    took = FiringHistory(schedules.queue.database).average_durations_s()
    courses = {
        one.schedule_id: course_of(
            one,
            weight_of(one, config, took_s=took.get(one.schedule_id), gpu_bytes=gpu_bytes),
            stretch,
        )
        for one in everything
    }
    board = Board(courses.values(), room)
    return ScheduleLoad(stretch=stretch, courses=courses, room=room, board=board)


def rivals_of(
    some: Sequence[Schedule], everything: Sequence[Schedule], config: Config
) -> list[Schedule]:
    """Return those schedules that take anything of what some of them take, these included."""

    def takes(one: Schedule) -> set[tuple[str, str | None]]:
        weight = weight_of(one, config, took_s=None, gpu_bytes=1)
        asked = (
            ("turns", one.spec.project, weight.turns),
            ("memory", None, weight.memory_bytes),
            ("vram", None, weight.vram_bytes),
        )
        return {(what, whose) for what, whose, amount in asked if amount}

    taken = {what for one in some for what in takes(one)}
    names = {one.schedule_id for one in some}
    return [
        one
        for one in everything
        if one.schedule_id in names
        or (one.state is ScheduleState.ACTIVE and not taken.isdisjoint(takes(one)))
    ]


def weight_of(one: Schedule, config: Config, *, took_s: float | None, gpu_bytes: int = 0) -> Weight:
    """Return what a firing takes.

    Turns are those of its firings, on the average; of one that has none yet its bound, or its
    agent's, and where there is none either 0: nobody knows.  Memory and VRAM are what it declares,
    or its agent does.
    """
    spec, agent = one.spec, _agent_of(one, config)
    bound = spec.max_turns or (agent.max_turns if agent is not None else None)
    longest_s = one.max_run_duration_s or config.timing.schedule_run_s
    vram = spec.vram_bytes if spec.vram_bytes is not None else _vram_of(agent, one, config)
    return Weight(
        turns=one.average_turns if one.average_turns is not None else bound or 0,
        run_s=longest_s if took_s is None else min(took_s, longest_s),
        memory_bytes=_memory_of(one, agent),
        vram_bytes=spec.gpus * gpu_bytes if spec.gpus else vram,
    )


def _agent_of(one: Schedule, config: Config) -> AgentProfile | None:
    if one.spec.agent is not None:
        return config.agent(one.spec.agent)
    return next((agent for agent in config.agents if agent.queue == one.spec.queue), None)


def _memory_of(one: Schedule, agent: AgentProfile | None) -> int:
    said = (one.spec.memory_bytes, agent.memory_bytes if agent is not None else None)
    return next((size for size in said if size is not None), 0)


def _vram_of(agent: AgentProfile | None, one: Schedule, config: Config) -> int:
    """Return what its agent needs of a GPU, or else its model does on this machine."""
    if agent is not None and agent.vram_bytes is not None:
        return agent.vram_bytes
    model = one.spec.model or (agent.model if agent is not None else None)
    places = (place for place in config.inventory.models if place.host == LOCAL_HOST)
    return next((place.needed_vram_bytes for place in places if place.model == model), 0)


def _measure(config: Config, everything: Sequence[Schedule]) -> tuple[Room, int]:
    """Return what there is, and how much a GPU has; what nobody asks for is not looked at."""
    weights = [weight_of(one, config, took_s=None, gpu_bytes=1) for one in everything]
    memory_bytes = vram_bytes = None
    gpu_bytes = 0
    if any(one.memory_bytes for one in weights):
        memory_bytes = _memory_there_is(config)
    if any(one.vram_bytes for one in weights):
        sizes = _gpus_there_are(config)
        vram_bytes = sum(sizes) or None
        gpu_bytes = max(sizes, default=0)
    firings = config.limits.schedule_max_concurrent
    return Room(firings=firings, memory_bytes=memory_bytes, vram_bytes=vram_bytes), gpu_bytes


def _memory_there_is(config: Config) -> int | None:
    from tinyscheduler.adapters.probe_host import ProcProbe
    from tinyscheduler.errors import ProbeError

    try:
        total = ProcProbe().read().memory_total_bytes
    except ProbeError:
        return None
    # More is not started: what is above is kept free.
    return int(total * config.limits.memory_critical)


def _gpus_there_are(config: Config) -> list[int]:
    """Return the bytes of each GPU; where none can be seen, what the agents file says."""
    from tinyscheduler.app.ticks import may_have_gpus, read_gpus

    sizes: list[int] = []
    if may_have_gpus(config):
        sizes = [gpu.total_bytes for gpu in read_gpus(config).gpus if gpu.total_bytes]
    said = [host.total_vram_bytes for host in config.inventory.hosts if host.name == LOCAL_HOST]
    return sizes or [size for size in said if size]
