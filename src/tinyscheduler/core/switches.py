"""Which tasks are paused or drained, and how is that told?"""

from __future__ import annotations

from tinyscheduler.model.clock import format_time
from tinyscheduler.model.plan import Reason, Wait
from tinyscheduler.model.switches import EVERYTHING, Switch, SwitchKind, Target, TargetKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.tasks import WaitingTask


# Who pauses an agent that its provider does not let in.
LOGIN_KEEPER = "its failed login"
_LOGINS = {
    "claude": "claude is not let in: run `claude /login`, or see to its key or credit",
    "codex": "codex is not let in: run `codex login`, or see to its key or credit",
    "gemini": "gemini is not let in: run `gemini` and then /auth, or see to its key or credit",
    "goose": "goose is not let in: run `goose configure`, or see to its key or credit",
}
_OTHER_LOGIN = "it is not let in by its provider: see to its login, its key or its credit"


def pause_for_login(agent: str, *, profile: str, now: datetime) -> Switch:
    """Return the switch that pauses an agent until somebody has seen to its login.

    >>> from datetime import UTC, datetime
    >>> now = datetime(2026, 1, 2, tzinfo=UTC)
    >>> pause_for_login("coder", profile="codex", now=now).reason
    'codex is not let in: run `codex login`, or see to its key or credit'
    """
    return Switch(
        kind=SwitchKind.PAUSE,
        target=Target(kind=TargetKind.AGENT, name=agent),
        since=now,
        by=LOGIN_KEEPER,
        reason=_LOGINS.get(profile, _OTHER_LOGIN),
    )


def find_stop(
    task: WaitingTask, *, agents: Sequence[AgentView], switches: Collection[Switch] | None
) -> Wait | None:
    """Return the switch that keeps the task from starting as a reason; None if there is none.

    ``agents`` are those that may run the task, paused ones included.  The widest switch
    is named first: lifting a narrower one would change nothing.  Where the switches
    could not be read (None), nothing starts: what was paused must stay so.
    """
    if switches is None:
        words = "what is paused could not be read; the report's errors say why"
        return Wait(task=task, reason=Reason.PAUSED, words=words)
    found = {(switch.kind, switch.target): switch for switch in switches}
    drain = found.get((SwitchKind.DRAIN, EVERYTHING))
    if drain is not None:
        return Wait(task=task, reason=Reason.DRAINING, words=tell_switch(drain))
    targets = [EVERYTHING]
    queue = task.queue or next((agent.queue for agent in agents), None)
    if queue is not None:
        targets.append(Target(kind=TargetKind.QUEUE, name=queue))
    if task.schedule_id is not None:
        targets.append(Target(kind=TargetKind.SCHEDULE, name=task.schedule_id))
    pauses = [found.get((SwitchKind.PAUSE, target)) for target in targets]
    # An agent's pause stops a task of a queue only if no other agent serves the queue.
    by_agent = [found.get((SwitchKind.PAUSE, _target_of(agent))) for agent in agents]
    if by_agent and all(by_agent):
        pauses.append(by_agent[0])
    pause = next((one for one in pauses if one is not None), None)
    return (
        None if pause is None else Wait(task=task, reason=Reason.PAUSED, words=tell_switch(pause))
    )


def is_paused(agent: AgentView, switches: Iterable[Switch] | None) -> bool:
    """Whether this agent by itself is paused, so that no policy may choose it."""
    return any(switch.target == _target_of(agent) for switch in switches or ())


def name_target(target: Target) -> str:
    """Return what people call a target.

    >>> name_target(EVERYTHING), name_target(Target(kind=TargetKind.QUEUE, name="dev"))
    ('everything', 'queue dev')
    """
    return f"{target.kind} {target.name}" if target.name else "everything"


def tell_switch(switch: Switch, *, when: str | None = None) -> str:
    """Say what is switched off, what ends it, by whom, since when and why.

    ``when`` is the moment as people say it: ``3m ago``.
    """
    what, way_out = f"{name_target(switch.target)} is paused", f"resume {switch.target}"
    if switch.kind is SwitchKind.DRAIN:
        what, way_out = "draining", "undrain"
    when = when or f"since {format_time(switch.since)}"
    why = f" ({switch.reason})" if switch.reason else ""
    # The way out goes first: a reason may be long, and a line in a table is cut.
    return f"{what}; `{way_out}` ends it; by {switch.by} {when}{why}"


def _target_of(agent: AgentView) -> Target:
    return Target(kind=TargetKind.AGENT, name=agent.name)
