"""What a policy is told, and what it may answer.  The names are those of the policy reference."""

from __future__ import annotations

from datetime import timedelta, timezone

from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.errors import CAUSES, PolicyError
from tinyscheduler.jsontext import loads
from tinyscheduler.model.config import LOCAL_HOST
from tinyscheduler.model.plan import Proposal
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypeVar

    from tinyscheduler.model.policy import AgentView, GpuView, PolicyContext
    from tinyscheduler.model.tasks import WaitingTask

    _Kind = TypeVar("_Kind")

# Of the tasks that could start, so many are shown to a policy, in line.
MOST_JOBS = 1000
# An agent without a bound worth the name has no more workers than that.
_MOST_WORKERS = 256


def describe(
    context: PolicyContext,
    *,
    most: int = MOST_JOBS,
    with_workers: bool = True,
    utc_offset_s: int | None = None,
) -> dict[str, Any]:
    """Return the context as values of JSON, with so many jobs.  Bytes and milliseconds.

    The hour is that of this place, unless clocks are said to be ``utc_offset_s`` ahead of UTC.
    """
    now_ms = int(context.now.timestamp() * 1000)
    queue = [
        _job(name, task, context, now_ms=now_ms)
        for name, task in _by_name(context.waiting[:most]).items()
    ]
    slots = [
        worker for agent in context.agents if with_workers for worker in _workers(agent, context)
    ]
    pools = _pools(slots, context)
    workers = [worker for pool in pools for worker in pool["workers"]]
    busy = sum(worker["status"] == "busy" for worker in workers)
    # Nights and weekends are those of the place.
    zone = None if utc_offset_s is None else timezone(timedelta(seconds=utc_offset_s))
    here = context.now.astimezone(zone)
    return {
        "queue": queue,
        "pools": pools,
        "agents": [
            {
                "name": agent.name,
                "queue": agent.queue,
                "limit": agent.limit,
                "active": agent.active,
                "free": agent.free,
                "is_interactive": agent.is_interactive,
            }
            for agent in context.agents
        ],
        "tenants": [
            {
                "id": one.name,
                "quota_vram": one.vram_bytes,
                "quota_used": one.used_vram_bytes,
                "quota_slots": one.slots,
                "slots_used": one.used_slots,
            }
            for one in context.tenants
        ],
        "metrics": {
            "queue_depth": len(context.waiting),
            "total_workers": len(workers),
            "busy_workers": busy,
            "free_slots": context.host_slots_free,
            "memory_pressure": context.memory_pressure,
            "now_ms": now_ms,
            "hour": here.hour,
            "weekday": here.isoweekday(),
        },
    }


def _by_name(waiting: Sequence[WaitingTask]) -> dict[str, WaitingTask]:
    """Return the tasks, as they stand in line, by what decisions call them.

    That is the id; of a task that stands behind one of another source with the same id, also the
    source, which no id can be taken for: there is no colon in any.
    """
    named: dict[str, WaitingTask] = {}
    for task in waiting:
        is_taken = task.task_id in named
        named[_full_name(task) if is_taken else task.task_id] = task
    return named


def _full_name(task: WaitingTask) -> str:
    return f"{task.source}:{task.task_id}"


def _job(name: str, task: WaitingTask, context: PolicyContext, *, now_ms: int) -> dict[str, Any]:
    key = key_of(task)
    names = context.choices.get(key)
    if names is None:
        names = tuple(agent.name for agent in candidates(task, context.agents))
    job: dict[str, Any] = {
        "id": name,
        "source": task.source,
        "priority": task.priority_class.value,
        "rank": task.priority if context.is_priority_enabled else 0,
        # A list of its own: what is there twice comes to Lua once, and empty after that.
        "agents": list(names),
        "vram": task.vram_bytes or 0,
        "memory": task.memory_bytes or 0,
        "gpus": task.gpus,
        "attempts": task.attempt - 1,
        "skips": context.skips.get(key, 0),
        "blocks": task.blocks,
        "turn": context.turns.get(key, 0),
        "order": task.created_order,
        "labels": dict(task.labels),
    }
    # What is not said is nil in Lua, and need not be sent.
    if task.agent is not None:
        job["agent"] = task.agent
    if task.queue is not None:
        job["queue"] = task.queue
    if task.model is not None:
        job["model_ref"] = task.model
    if task.title is not None:
        job["title"] = task.title
    if task.seed is not None:
        job["seed"] = task.seed
    if task.tenant is not None:
        job["tenant"] = task.tenant
    if task.project is not None:
        job["project"] = task.project
    if task.created_at is not None:
        job["age_ms"] = max(0, now_ms - int(task.created_at.timestamp() * 1000))
    return job


def _workers(agent: AgentView, context: PolicyContext) -> list[dict[str, Any]]:
    """Return the slots of an agent: so many are busy, whichever of them they are."""
    most_free = max((gpu.free_bytes for gpu in context.gpus if gpu.fault is None), default=0)
    return [
        {
            "id": f"{agent.name}/{number}",
            "agent": agent.name,
            "queue": agent.queue,
            "status": "busy" if number <= agent.active else "ready",
            "vram_free": most_free,
            "in_flight": agent.active,
            "last_used_ms": 0,
        }
        for number in range(1, min(max(agent.limit, agent.active), _MOST_WORKERS) + 1)
    ]


def _pools(slots: list[dict[str, Any]], context: PolicyContext) -> list[dict[str, Any]]:
    """Return this machine, with the slots of all agents, and each host that serves models."""
    hosts = sorted({one.host for one in context.models} - {LOCAL_HOST})
    here = {
        "id": LOCAL_HOST,
        "workers": [*slots, *_servers(LOCAL_HOST, context)],
        "gpus": [_gpu(gpu) for gpu in context.gpus],
        "slots_free": context.host_slots_free,
        "memory_free": max(0, context.memory_free_bytes),
    }
    return [
        here,
        *(
            {
                "id": host,
                "workers": _servers(host, context),
                "gpus": [],
                "slots_free": sum(one.free for one in context.models if one.host == host),
                "memory_free": 0,
            }
            for host in hosts
        ),
    ]


def _servers(host: str, context: PolicyContext) -> list[dict[str, Any]]:
    """Return the models on a host: each is a worker as long as it has a slot."""
    return [
        {
            "id": f"{one.model}@{host}",
            "model_ref": one.model,
            "status": "ready" if one.free else "busy",
            "vram_free": 0,
            "in_flight": one.used,
            "last_used_ms": 0,
        }
        for one in context.models
        if one.host == host
    ]


def _gpu(gpu: GpuView) -> dict[str, Any]:
    return {
        "id": gpu.uuid,
        "uuid": gpu.uuid,
        "index": gpu.index,
        "name": gpu.name,
        "vram_total": gpu.total_bytes,
        "vram_allocated": gpu.reserved_bytes,
        "vram_free": max(0, gpu.free_bytes),
        "is_idle": gpu.is_idle,
        "is_known": gpu.fault is None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a policy decided, and what it said about it.

    ``decisions`` are as it wrote them, ``proposals`` the starts among them.  ``log`` are its
    lines, level and text; ``instructions`` is how many of Lua it took, to the thousand, and
    ``cpu_ms`` how long.
    """

    proposals: tuple[Proposal, ...]
    decisions: tuple[Mapping[str, Any], ...] = ()
    log: tuple[tuple[str, str], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    instructions: int = 0
    cpu_ms: float = 0.0


def understand(text: str | bytes, context: PolicyContext) -> Answer:
    """Return the starts that an answer of a policy asks for, in its order.

    Raises PolicyError, with the place in the policy where one is known, for a fault that it
    reports and for a decision that no honest policy would make.
    """
    try:
        document = loads(text)
        fault, decisions = document.get("fault"), _checked(document.get("decisions", []))
        log = tuple(
            (_typed(line["level"], str), _typed(line["text"], str)) for line in document["log"]
        )
        metrics = {name: _number(one) for name, one in document["metrics"].items()}
        instructions = _typed(document.get("instructions", 0), int)
        cpu_ms = _number(document.get("cpu_ms", 0.0))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise PolicyError(f"it answered nonsense: {error}", cause="nonsense") from error
    if fault is not None:
        cause = fault if fault in CAUSES else "nonsense"
        raise PolicyError(str(document.get("words")), cause=cause, log=log)
    tasks = _by_name(context.waiting)
    try:
        proposals = [_proposal(decision, tasks, context) for decision in decisions]
    except PolicyError as error:
        error.log = log
        raise
    return Answer(
        proposals=tuple(one for one in proposals if one is not None),
        decisions=tuple(decisions),
        log=log,
        metrics=metrics,
        instructions=instructions,
        cpu_ms=cpu_ms,
    )


# Of a decision, what names something.
_NAMES = ("action", "job_id", "worker_id", "agent", "pool_id", "gpu_id")


def _checked(decisions: object) -> list[dict[str, Any]]:
    """Return the decisions; TypeError for what the sandbox, which is trusted, never writes.

    It wrote them in the same process as the policy runs in, and that is not.
    """
    checked = [_typed(one, dict) for one in _typed(decisions, list)]
    for one in checked:
        for name in _NAMES:
            _typed(one.get(name, ""), str)
    return checked


def _typed(value: object, kind: type[_Kind]) -> _Kind:
    if not isinstance(value, kind):
        message = f"a {type(value).__name__} is no {kind.__name__}"
        raise TypeError(message)
    return value


def _number(value: object) -> float:
    return value if isinstance(value, int) else _typed(value, float)


# There are no model servers yet that could be started or ended.
_WITHOUT_STARTS = frozenset({"wait", "evict", "start_worker"})


def _proposal(
    decision: Mapping[str, Any], tasks: Mapping[str, WaitingTask], context: PolicyContext
) -> Proposal | None:
    action = decision.get("action")
    if action in _WITHOUT_STARTS:
        return None
    if action != "dispatch":
        raise PolicyError(f"it asked for the action {action!r}, which does not exist")
    name = decision.get("job_id")
    task = _find(name or "", tasks)
    if task is None:
        message = f"it asked for job {name!r}, which cannot start now"
        raise PolicyError(message)
    agent, pool = _worker(decision, task, context)
    return Proposal(task=task, agent=agent, pool=pool, gpu=_gpu_of(decision, task, context))


def _find(name: str, tasks: Mapping[str, WaitingTask]) -> WaitingTask | None:
    """Return the task that a decision means.

    With its source it is known, too, where it need not be: what stood before it may have started.
    """
    if name in tasks or ":" not in name:
        return tasks.get(name)
    return next((task for task in tasks.values() if _full_name(task) == name), None)


def _worker(
    decision: Mapping[str, Any], task: WaitingTask, context: PolicyContext
) -> tuple[str, str | None]:
    """Return the agent that a decision means, or the freest that can start the task, and a pool.

    A slot of an agent that may not run the task stands for any: who asks for the best worker
    says of which model, and not for which task.
    """
    agent, pool = decision.get("agent"), decision.get("pool_id")
    worker = decision.get("worker_id")
    if worker is not None:
        name, slash, number = worker.rpartition("/")
        if slash and number.isdigit() and any(name == one.name for one in context.agents):
            able = candidates(task, context.agents)
            agent = name if any(name == one.name for one in able) else None
        elif any(worker == f"{one.model}@{one.host}" for one in context.models):
            pool = worker.rpartition("@")[2]
        else:
            raise PolicyError(f"it asked for worker {worker!r}, which does not exist")
    if pool is not None and pool not in {LOCAL_HOST, *(one.host for one in context.models)}:
        raise PolicyError(f"it asked for pool {pool!r}, which does not exist")
    return agent or _freest(task, context), pool


def _freest(task: WaitingTask, context: PolicyContext) -> str:
    names: Sequence[str] = context.choices.get(key_of(task)) or [
        agent.name for agent in candidates(task, context.agents)
    ]
    free = {agent.name: agent.free for agent in context.agents}
    return min(names, key=lambda name: (-free[name], name))


def _gpu_of(decision: Mapping[str, Any], task: WaitingTask, context: PolicyContext) -> str | None:
    """Return the UUID of the GPU that a decision names, by that or by its index."""
    named = decision.get("gpu_id")
    if named is None:
        return None
    for gpu in context.gpus:
        if named in (gpu.uuid, str(gpu.index)):
            return gpu.uuid
    raise PolicyError(f"it asked for GPU {named!r} for task {task.task_id}, which does not exist")
