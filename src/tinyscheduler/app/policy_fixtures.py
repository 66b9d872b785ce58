"""Fixtures of policies: which worlds is one asked about, and what is expected of it?

A list of cases in YAML.  Whatever a case does not say is as in an ordinary world: each agent
that a job names is there and has free slots, nothing is short, and it is a Monday morning.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tinyscheduler.app.fixture_fields import (
    AGENT,
    DECISION,
    EXPECT,
    GIVEN,
    GPU,
    JOB,
    LONGEST_NAME,
    MODEL,
    PLAIN,
    TENANT,
    Place,
    written,
)
from tinyscheduler.config.inputs import fault_in_path, read_input
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.errors import NotFoundError
from tinyscheduler.model.config import LOCAL_HOST
from tinyscheduler.model.policy import AgentView, GpuView, ModelView, PolicyContext, TenantView
from tinyscheduler.model.tasks import (
    PriorityClass,
    WaitingTask,
)
from tinyscheduler.policy.sources import FIXTURES
from tinyscheduler.tree import Entry, Node, read_tree
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MOST_CASES = 1000
_SOURCE = "local"
_MORNING = datetime(2026, 3, 2, 9, 30)  # noqa: DTZ001 - of wherever this is run
_MEMORY = 64 << 30
_GPU_MEMORY = 24 << 30
_LIMIT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What is to come of a case; None: nothing is expected of that.

    ``decisions`` are those of the policy, in order and each with no more than the fields that
    matter; ``starts`` the ids of the jobs it starts, in order; ``waits`` ids of jobs that it
    does not start; ``fault`` the cause of its failure.
    """

    decisions: tuple[Mapping[str, Any], ...] | None = None
    starts: tuple[str, ...] | None = None
    waits: tuple[str, ...] | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FixtureCase:
    """One case: what the policy is asked about, and what is expected; ``where`` it is written."""

    name: str
    where: str
    context: PolicyContext
    expect: Expectation


def fixture_beside(policy: str) -> str:
    """Return the file that holds the fixtures of a policy unless another is named.

    >>> fixture_beside("policies/mine.lua"), fixture_beside("mine")
    ('policies/mine.test.yaml', 'mine.test.yaml')
    """
    folder, slash, name = policy.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return f"{folder}{slash}{stem}{FIXTURES}"


def read_fixtures(path: str) -> tuple[FixtureCase, ...]:
    """Read the cases of a file.

    Raises NotFoundError if there is none, ConfigError with file and line for the first fault.
    """
    if fault_in_path(path):
        raise NotFoundError(f"there is no file {quote(path)}", hint="name a file of fixtures")
    source = read_input(path, what="file of fixtures")
    if source is None:
        raise NotFoundError(
            f"there is no file {quote(path)}",
            hint="write fixtures there, or name them with --fixture;"
            " `tinyscheduler policy templates fair-share.test.yaml` prints some to start from",
        )
    root = read_tree(source.content, path)
    place = Place(path)
    if not isinstance(root.value, tuple) or not root.value:
        raise place.fault(root.line, "holds no list of cases", "begin with `- name: what it shows`")
    if len(root.value) > MOST_CASES:
        raise place.fault(
            root.line, f"has {len(root.value)} cases", f"keep at most {MOST_CASES} in one file"
        )
    cases = tuple(_case(node, number, place) for number, node in enumerate(root.value, start=1))
    place.refuse_twins(
        "case", [(one.name, node) for one, node in zip(cases, root.value, strict=True)]
    )
    return cases


def _case(node: Node, number: int, place: Place) -> FixtureCase:
    what = f"case {number}"
    entries = place.entries(node, what, ("name", "given", "expect"))
    name = what
    if "name" in entries:
        text = entries["name"].node.value
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_NAME:
            raise place.fault(
                entries["name"].line,
                f"name of {what}: {written(entries['name'].node)} is no name",
                f"set name to a text of at most {LONGEST_NAME} characters",
            )
        name = text
    given = entries.get("given")
    context = _World(place).context(
        Node(value={}, line=node.line) if given is None or given.node.value is None else given.node
    )
    if "expect" not in entries:
        raise place.fault(node.line, f"{what} expects nothing", "say it with expect: {starts: […]}")
    expect = _expectation(entries["expect"].node, context, place)
    return FixtureCase(name=name, where=place.at(node.line), context=context, expect=expect)


class _World:
    """Builds the context of one case."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def context(self, node: Node) -> PolicyContext:
        place = self._place
        entries = place.entries(node, "given", GIVEN)
        plain = {key: entry for key, entry in entries.items() if key in PLAIN}
        said = place.fields(Node(value=plain, line=node.line), "given", PLAIN)
        now = said.get("now") or _MORNING.astimezone(UTC)
        jobs = [
            (self._named(item, "job", JOB, number), item)
            for number, item in enumerate(place.items(entries.get("queue"), "queue"), start=1)
        ]
        place.refuse_twins("job", [(str(job["id"]), item) for job, item in jobs])
        agents = self._agents(entries.get("agents"), jobs)
        waiting = [
            self._task(job, item, number, agents=agents, now=now)
            for number, (job, item) in enumerate(jobs, start=1)
        ]
        given = {key_of(task): job for task, (job, _) in zip(waiting, jobs, strict=True)}
        return PolicyContext(
            now=now,
            waiting=tuple(waiting),
            agents=agents,
            host_slots_free=said.get("slots", sum(agent.free for agent in agents)),
            memory_free_bytes=said.get("memory", _MEMORY),
            gpus=self._gpus(entries.get("gpus")),
            choices={
                key_of(task): given[key_of(task)].get("agents")
                or tuple(one.name for one in candidates(task, agents) if one.free)
                for task in waiting
            },
            models=self._models(entries.get("models")),
            tenants=self._tenants(entries.get("tenants")),
            turns={key: job["turn"] for key, job in given.items() if "turn" in job},
            skips={key: job["skips"] for key, job in given.items() if "skips" in job},
            # A rank that a case states is to be seen.
            is_priority_enabled=True,
            memory_pressure=said.get("memory_pressure", "none"),
        )

    def _named(
        self, node: Node, what: str, parsers: Mapping[str, Callable[[Node], Any]], number: int
    ) -> dict[str, Any]:
        """Return the fields of one item; one that is but a word is its id or name."""
        key = next(iter(parsers))
        if not isinstance(node.value, dict):
            node = Node(value={key: Entry(node=node, line=node.line)}, line=node.line)
        values = self._place.fields(node, f"{what} {number}", parsers)
        values.setdefault(key, str(number))
        return values

    def _agents(
        self, entry: Entry | None, jobs: Sequence[tuple[Mapping[str, Any], Node]]
    ) -> tuple[AgentView, ...]:
        place = self._place
        if entry is None:
            return _agents_named_by([job for job, _ in jobs])
        items = place.items(entry, "agents")
        said = [
            self._named(item, "agent", AGENT, number) for number, item in enumerate(items, start=1)
        ]
        place.refuse_twins(
            "agent", [(one["name"], item) for one, item in zip(said, items, strict=True)]
        )
        views = []
        for one, item in zip(said, items, strict=True):
            limit = one.get("limit", max(_LIMIT, one.get("active", 0), one.get("free", 0)))
            active = one.get("active", limit - one["free"] if "free" in one else 0)
            if active < 0 or one.get("free", max(0, limit - active)) != max(0, limit - active):
                raise place.fault(
                    item.line,
                    f"agent {one['name']} has limit {limit}, and {active} active are not"
                    f" {one['free']} free",
                    "say limit and one of active and free",
                )
            views.append(
                AgentView(
                    name=one["name"],
                    queue=one.get("queue", one["name"]),
                    limit=limit,
                    active=active,
                    is_interactive=one.get("is_interactive", False),
                )
            )
        return tuple(views)

    def _task(
        self,
        job: Mapping[str, Any],
        node: Node,
        number: int,
        *,
        agents: Sequence[AgentView],
        now: datetime,
    ) -> WaitingTask:
        names = [agent.name for agent in agents]
        agent, queue = job.get("agent"), job.get("queue")
        if agent is None and queue is None and names:
            agent = names[0]
        wrong = [
            one for one in (agent, *job.get("agents", ())) if one is not None and one not in names
        ]
        if wrong:
            raise self._place.fault(
                node.line,
                f"job {job['id']} is of agent {quote(wrong[0])}, which agents does not name",
                did_you_mean(wrong[0], names) if names else "leave agents out, or name it there",
            )
        try:
            created = now - timedelta(milliseconds=job.get("age_ms", 0))
        except OverflowError as error:
            raise self._place.fault(
                node.line, f"job {job['id']} is older than time", "give it a smaller age_ms"
            ) from error
        return WaitingTask(
            task_id=job["id"],
            source=_SOURCE,
            created_order=job.get("order", number),
            attempt=job.get("attempts", 0) + 1,
            agent=agent,
            queue=queue,
            priority=job.get("rank", 0),
            blocks=job.get("blocks", 0),
            memory_bytes=job.get("memory"),
            priority_class=PriorityClass(job.get("priority", PriorityClass.BATCH)),
            gpus=job.get("gpus", 0),
            vram_bytes=job.get("vram"),
            model=job.get("model_ref"),
            tenant=job.get("tenant"),
            project=job.get("project"),
            created_at=created,
            title=job.get("title"),
            seed=job.get("seed"),
            labels=job.get("labels", ()),
        )

    def _gpus(self, entry: Entry | None) -> tuple[GpuView, ...]:
        views = []
        for number, item in enumerate(self._place.items(entry, "gpus"), start=1):
            one = self._named(item, "gpu", GPU, number)
            index = one.get("index", number - 1)
            total = one.get("vram_total", max(_GPU_MEMORY, one.get("vram_free", 0)))
            reserved = one.get("vram_allocated", 0)
            free = one.get("vram_free", max(0, total - reserved))
            if free > total:
                raise self._place.fault(
                    item.line, f"gpu {number} has more vram_free than vram_total", "say less of it"
                )
            name = one.get("uuid") or one["id"]
            views.append(
                GpuView(
                    index=index,
                    uuid=f"GPU-{index}" if name == str(number) else name,
                    name=one.get("name", "GPU"),
                    total_bytes=total,
                    free_bytes=free,
                    reserved_bytes=reserved,
                    is_idle=one.get("is_idle", free == total),
                    fault=None if one.get("is_known", True) else "it cannot be seen",
                )
            )
        return tuple(views)

    def _models(self, entry: Entry | None) -> tuple[ModelView, ...]:
        said = [
            self._named(item, "model", MODEL, number)
            for number, item in enumerate(self._place.items(entry, "models"), start=1)
        ]
        return tuple(
            ModelView(
                model=one["model_ref"],
                host=one.get("host", LOCAL_HOST),
                slots=(slots := one.get("slots", max(1, one.get("used", 0)))),
                used=(used := one.get("used", 0)),
                free=max(0, slots - used),
            )
            for one in said
        )

    def _tenants(self, entry: Entry | None) -> tuple[TenantView, ...]:
        items = self._place.items(entry, "tenants")
        said = [
            self._named(item, "tenant", TENANT, number)
            for number, item in enumerate(items, start=1)
        ]
        self._place.refuse_twins(
            "tenant", [(one["id"], item) for one, item in zip(said, items, strict=True)]
        )
        return tuple(
            TenantView(
                name=one["id"],
                slots=one.get("quota_slots"),
                vram_bytes=one.get("quota_vram"),
                used_slots=one.get("slots_used", 0),
                used_vram_bytes=one.get("quota_used", 0),
            )
            for one in said
        )


def _agents_named_by(jobs: Sequence[Mapping[str, Any]]) -> tuple[AgentView, ...]:
    """Return the agents that jobs speak of, and one for each queue that has none."""
    queues: dict[str, str] = {}
    for job in jobs:
        for name in (job.get("agent"), *job.get("agents", ())):
            if name is not None:
                queues.setdefault(name, job.get("queue") or name)
    for job in jobs:
        queue = job.get("queue")
        if queue is not None and "agent" not in job and queue not in queues.values():
            queues.setdefault(queue, queue)
    if not queues:
        queues["shell"] = "shell"
    return tuple(
        AgentView(name=name, queue=queue, limit=_LIMIT, active=0) for name, queue in queues.items()
    )


# -- what is expected -----------------------------------------------------------------


def _expectation(node: Node, context: PolicyContext, place: Place) -> Expectation:
    entries = place.entries(node, "expect", ("decisions", "starts", "waits", "fault"))
    plain = {key: entry for key, entry in entries.items() if key != "decisions"}
    said = place.fields(Node(value=plain, line=node.line), "expect", EXPECT)
    known = {task.task_id for task in context.waiting}
    for key in ("starts", "waits"):
        for name in said.get(key, ()):
            if name not in known:
                raise place.fault(
                    entries[key].line,
                    f"{key} names job {quote(name)}, which is not in the queue of the case",
                    did_you_mean(name, known) if known else "name jobs in given: {queue: […]}",
                )
    if "decisions" in entries:
        items = place.items(entries["decisions"], "decisions")
        said["decisions"] = tuple(
            place.fields(item, f"decision {number}", DECISION)
            for number, item in enumerate(items, start=1)
        )
    if not said:
        raise place.fault(
            node.line, "expect says nothing", "expect one of decisions, starts, waits and fault"
        )
    if "fault" in said and len(said) > 1:
        raise place.fault(
            entries["fault"].line,
            "expects a fault and decisions",
            "a policy that fails decides nothing: keep one of the two",
        )
    return Expectation(**said)
