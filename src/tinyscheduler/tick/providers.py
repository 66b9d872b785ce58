"""What the end of an attempt says of the account that it used: refused, let in, or not known."""

from __future__ import annotations

from tinyscheduler.core.cooling import (
    account_of,
    cool_down,
    has_recovered,
    is_cooling,
    tell_cooling,
)
from tinyscheduler.core.switches import pause_for_login
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.tasks import FailureReason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.tasks import AttemptResult
    from tinyscheduler.tick.progress import Progress


def heed_provider(progress: Progress, result: AttemptResult, *, now: datetime) -> None:
    """Let its account cool, or pause its agent; after a success nothing is known against it."""
    match result.failure_reason:
        case FailureReason.RATE_LIMITED:
            _cool(progress, result, now)
        case FailureReason.AUTH_FAILED:
            _pause(progress, result, now)
        case _:
            account = _account_of(result, progress)
            before = progress.coolings.get(account)
            if before is not None and has_recovered(before, result):
                progress.world.coolings.forget(account)
                del progress.coolings[account]


def _account_of(result: AttemptResult, progress: Progress) -> str:
    account = account_of(result.agent, progress.settings.agents)
    assert account is not None  # noqa: S101 - who has none is no matter of this
    return account


def _cool(progress: Progress, result: AttemptResult, now: datetime) -> None:
    account = _account_of(result, progress)
    before = progress.coolings.get(account)
    cooling = cool_down(before, result, account=account, rules=progress.settings.rules, now=now)
    if cooling == before:
        return
    progress.world.coolings.keep(cooling)
    progress.coolings[account] = cooling
    was_told = before is not None and is_cooling(before, now)
    if not is_cooling(cooling, now) or (was_told and before and before.until >= cooling.until):
        return
    progress.warn(tell_cooling(cooling))
    progress.notice(
        EventName.AGENT_COOLING,
        agent=result.agent,
        reason=FailureReason.RATE_LIMITED.value,
        details=(
            ("account", account),
            ("until", format_time(cooling.until)),
            ("is_told", cooling.is_told),
            ("times", cooling.times),
            ("words", cooling.words),
        ),
    )


def _pause(progress: Progress, result: AttemptResult, now: datetime) -> None:
    agent = progress.agent(result.agent)
    profile = agent.profile if agent is not None else ""
    switch = pause_for_login(result.agent, profile=profile, now=now)
    if progress.world.switches.set(switch) is not None:
        return
    target = str(switch.target)
    progress.warn(
        f"{target} is paused: {switch.reason}; then `tinyscheduler resume {target}` lets it go on"
    )
    progress.notice(
        EventName.PAUSED,
        agent=result.agent,
        reason=FailureReason.AUTH_FAILED.value,
        details=(("target", target), ("by", switch.by), ("words", switch.reason)),
    )
