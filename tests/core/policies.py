"""Policies to decide by in generated worlds: the platform's, the templates, and random ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from tests.core.worlds import AGENTS

from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.model.plan import Proposal
from tinyscheduler.policy.context import describe, understand
from tinyscheduler.policy.limits import LuaLimits
from tinyscheduler.policy.lua import LuaEngine
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.policy.sources import PLATFORM_TEMPLATE, read_template, template_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy

PLATFORM = PlatformPolicy()


def able(task: WaitingTask, context: PolicyContext) -> Sequence[str]:
    """Return the agents that can start a task now."""
    names = context.choices.get(key_of(task))
    return names or [agent.name for agent in candidates(task, context.agents)]


class Refusing:
    """Starts nothing."""

    name = "refusing"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        del context
        return ()


@dataclass(frozen=True, kw_only=True)
class WildPolicy:
    """Proposes what it was told to, whatever is free; something else as the waiting get fewer."""

    picks: tuple[tuple[tuple[int, str | None, str | None, str | None], ...], ...]
    name = "wild"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        left, proposals = list(context.waiting), []
        for index, agent, pool, gpu in self.picks[len(context.waiting) % len(self.picks)]:
            if index >= 0 and not left:
                break
            # With a negative one it says again what it may have said already.
            task = left.pop(index % len(left)) if index >= 0 else context.waiting[index]
            name = agent or able(task, context)[-1]
            proposals.append(Proposal(task=task, agent=name, pool=pool, gpu=gpu))
        return proposals


@dataclass(frozen=True, kw_only=True)
class FicklePolicy:
    """Proposes any that could start, by any agent that can start it: odd, and never dishonest."""

    picks: tuple[int, ...]
    name = "fickle"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        left, proposals = list(context.waiting), []
        for pick in self.picks:
            if not left:
                break
            task = left.pop(pick % len(left))
            names = able(task, context)
            proposals.append(Proposal(task=task, agent=names[pick % len(names)]))
        return proposals


@dataclass(frozen=True, kw_only=True)
class Template:
    """One to start from, asked in this process: what it may obtain is not the question here."""

    name: str
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        return understand(_engine(self.name).schedule(describe(context)), context).proposals


@cache
def _engine(name: str) -> LuaEngine:
    engine = LuaEngine(limits=LuaLimits(cpu_ms=60_000), is_bounded=False)
    fault = engine.load(read_template(name), f"{name}.lua")
    assert fault is None, fault
    return engine


@dataclass(kw_only=True)
class Asked:
    """A policy, and how many tasks it was asked about each time."""

    policy: Policy
    version: str = ""
    questions: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.policy.name

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        self.questions.append(len(context.waiting))
        return self.policy.propose(context)


some_wild_policy: SearchStrategy[WildPolicy] = st.builds(
    WildPolicy,
    picks=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from((*range(12), -1)),
                # Any that can, mostly: one that may not ends the whole question.
                st.sampled_from((*(None,) * 17, *AGENTS)),
                st.sampled_from((*(None,) * 9, "local", "box", "gone")),
                st.sampled_from((*(None,) * 9, "GPU-0", "GPU-1", "GPU-gone")),
            ),
            max_size=5,
        ).map(tuple),
        min_size=1,
        max_size=4,
    ).map(tuple),
)
some_fickle_policy: SearchStrategy[FicklePolicy] = st.builds(
    FicklePolicy, picks=st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple)
)
# By what each is called in reports.  Only the wild one asks for what no honest policy would.
WILD = "wild"
POLICIES: dict[str, SearchStrategy[Policy]] = {
    PLATFORM.name: st.just(PLATFORM),
    "refusing": st.just(Refusing()),
    WILD: some_wild_policy,
    "fickle": some_fickle_policy,
    **{
        name: st.just(Template(name=name)) for name in template_names() if name != PLATFORM_TEMPLATE
    },
}
