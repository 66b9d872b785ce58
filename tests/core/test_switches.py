"""What is paused or drained starts nothing, and says since when, by whom and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.builders import NOW, a_lease, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core.decide import decide
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.plan import Dispatch, Proposal, Reason, Wait
from tinyscheduler.model.switches import Switch, SwitchKind, parse_target
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.builders import Thing

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.snapshot import Snapshot

AGENTS = (
    an_agent("coder", queue="dev", limit=2),
    an_agent("tester", queue="dev", limit=2),
    an_agent("writer", queue="docs", limit=2),
)
FIFO = PlatformPolicy()


def a_switch(
    target: str = "all", kind: SwitchKind = SwitchKind.PAUSE, reason: str | None = None
) -> Switch:
    return Switch(kind=kind, target=parse_target(target), since=NOW.wall, by="ann", reason=reason)


def a_world(*things: Thing, switches: Sequence[Switch] | None = ()) -> Snapshot:
    snapshot = a_snapshot(*things, agents=AGENTS)
    return replace(snapshot, switches=None if switches is None else tuple(switches))


def waits(snapshot: Snapshot) -> dict[str, Reason]:
    decisions = decide(snapshot, FIFO).decisions
    return {one.task.task_id: one.reason for one in decisions if isinstance(one, Wait)}


def starts(snapshot: Snapshot) -> dict[str, str]:
    decisions = decide(snapshot, FIFO).decisions
    return {one.task.task_id: one.agent for one in decisions if isinstance(one, Dispatch)}


def words(snapshot: Snapshot) -> str:
    (wait,) = decide(snapshot, FIFO).decisions
    assert isinstance(wait, Wait)
    return wait.words


TASKS = (
    a_task("1", agent="coder"),
    a_task("2", agent="writer"),
    a_task("3", agent=None, queue="dev"),
)


@pytest.mark.parametrize(
    ("target", "stopped"),
    [
        ("all", {"1", "2", "3"}),
        ("agent:coder", {"1"}),
        ("agent:writer", {"2"}),
        ("queue:dev", {"1", "3"}),
        ("queue:docs", {"2"}),
        ("schedule:nightly", set()),
        ("agent:nobody", set()),
    ],
)
def test_a_pause_stops_what_it_is_about_and_nothing_else(target, stopped):
    snapshot = a_world(*TASKS, switches=[a_switch(target)])

    assert waits(snapshot) == dict.fromkeys(stopped, Reason.PAUSED)
    assert set(starts(snapshot)) == {"1", "2", "3"} - stopped


def test_a_task_of_a_queue_goes_to_an_agent_that_is_not_paused():
    task = a_task("3", agent=None, queue="dev")

    assert starts(a_world(task, switches=[a_switch("agent:coder")])) == {"3": "tester"}
    both = [a_switch("agent:coder"), a_switch("agent:tester")]
    assert waits(a_world(task, switches=both)) == {"3": Reason.PAUSED}


def test_a_task_that_names_another_queue_than_its_agent_serves_is_of_that_queue():
    task = a_task("1", agent="coder", queue="hotfix")

    assert starts(a_world(task, switches=[a_switch("queue:dev")])) == {"1": "coder"}
    assert waits(a_world(task, switches=[a_switch("queue:hotfix")])) == {"1": Reason.PAUSED}


def test_a_drain_stops_everything_whatever_else_is_paused():
    switches = [a_switch(kind=SwitchKind.DRAIN), a_switch(), a_switch("agent:coder")]

    for count in (1, 2, 3):
        found = waits(a_world(*TASKS, switches=switches[:count]))
        assert set(found.values()) == {Reason.DRAINING}


def test_attempts_under_way_are_left_alone():
    lease = a_lease("9")
    calm = decide(a_world(an_entry(lease)), FIFO).verdicts

    for switch in (a_switch(), a_switch(kind=SwitchKind.DRAIN), a_switch("agent:coder")):
        assert decide(a_world(an_entry(lease), switches=[switch]), FIFO).verdicts == calm


def test_what_a_paused_agent_runs_still_counts_on_this_machine():
    lease = a_lease("9", agent="writer")
    busy = replace(a_world(an_entry(lease), *TASKS, switches=[a_switch("agent:writer")]))
    snapshot = replace(busy, rules=replace(busy.rules, host_slots=1))

    assert waits(snapshot) == {
        "1": Reason.HOST_SLOTS,
        "2": Reason.PAUSED,
        "3": Reason.HOST_SLOTS,
    }


def test_the_words_say_what_ends_it_by_whom_since_when_and_why():
    task = a_task(agent="coder")
    since = format_time(NOW.wall)

    paused = words(a_world(task, switches=[a_switch("agent:coder", reason="key expired")]))
    drained = words(a_world(task, switches=[a_switch(kind=SwitchKind.DRAIN)]))
    everything = words(a_world(task, switches=[a_switch(), a_switch("agent:coder")]))

    way_out = "`resume agent:coder` ends it"
    assert paused == f"agent coder is paused; {way_out}; by ann since {since} (key expired)"
    assert drained == f"draining; `undrain` ends it; by ann since {since}"
    assert everything.startswith("everything is paused")


def test_where_the_switches_could_not_be_read_nothing_starts():
    snapshot = a_world(*TASKS, switches=None)

    assert starts(snapshot) == {}
    assert set(waits(snapshot).values()) == {Reason.PAUSED}


@dataclass(frozen=True)
class Stubborn:
    """Proposes one agent, whatever it is shown."""

    agent: str
    name = "stubborn"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        return [Proposal(task=context.waiting[0], agent=self.agent)]


def test_a_policy_is_not_shown_a_paused_agent_and_cannot_choose_it():
    task = a_task("3", agent=None, queue="dev")
    snapshot = a_world(task, switches=[a_switch("agent:coder")])

    with pytest.raises(PolicyError, match="agent coder"):
        decide(snapshot, Stubborn("coder"))


@pytest.mark.parametrize("text", ["", "coder", "agent:", ":coder", "all:x", "pool:x", "ALL"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises(ValueError, match="is not all, agent:NAME"):
        parse_target(text)


def test_a_task_that_no_agent_may_run_waits_for_one_whatever_is_paused():
    task = a_task("1", agent="nobody")

    assert waits(a_world(task, switches=[a_switch("queue:dev")])) == {"1": Reason.UNPLACED}
    assert waits(a_world(task, switches=[a_switch()])) == {"1": Reason.PAUSED}
