"""Which accounts cool down, for how long, and which agents wait for that?"""

from __future__ import annotations

from datetime import timedelta

from tinyscheduler.core.provider_limits import LONGEST_LIMIT_S, find_end
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.config import SHELL_AGENT
from tinyscheduler.model.coolings import Cooling
from tinyscheduler.model.plan import Reason, Wait
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime, tzinfo

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.snapshot import Rules
    from tinyscheduler.model.tasks import AttemptResult, WaitingTask

# Where the provider does not tell the end, its limits last from seconds to hours.
_LONGEST_GUESS_S = 3600.0
# Who was not refused for so long counts afresh.
_FORGOTTEN_AFTER_S = 86_400.0
_MOST_WORDS = 300


def account_of(name: str, agents: Iterable[AgentProfile]) -> str | None:
    """Return the account that an agent uses: the one it names, or its own, called like itself.

    None of what runs its tasks' own commands, unless it names one: these may use any, or none.

    >>> from tinyscheduler.model.config import AgentProfile
    >>> agents = [AgentProfile(name="coder", queue="dev", limit=1, account="anthropic")]
    >>> [account_of(name, agents) for name in ("coder", "writer", "shell")]
    ['anthropic', 'writer', None]
    """
    agent = next((one for one in agents if one.name == name), None)
    named = agent.account if agent is not None else None
    return named or (None if name == SHELL_AGENT else name)


def is_cooling(cooling: Cooling, now: datetime) -> bool:
    """Whether nothing of the account may start now.

    One that has longer to go than any limit lasts was begun under a clock that has been set
    back since, and counts as over.
    """
    return 0 < (cooling.until - now).total_seconds() <= LONGEST_LIMIT_S


def cool_down(
    before: Cooling | None,
    result: AttemptResult,
    *,
    account: str,
    rules: Rules,
    now: datetime,
    zone: tzinfo | None = None,
) -> Cooling:
    """Return how an account cools after an attempt that was refused for a limit.

    Until the provider's own time, where the attempt told one; else longer each time in a row.
    An attempt that began before that was over was let go before it, and says nothing new of how
    often.
    """
    is_news = before is None or result.started_at is None or result.started_at >= before.until
    times = 1
    if before is not None and (now - before.until).total_seconds() < _FORGOTTEN_AFTER_S:
        times = before.times + is_news
    told = find_end(result.message, said_at=result.ended_at, zone=zone)
    # Not at once, whatever it says: it may say so again and again.
    wait_s = rules.retry_base_s if told is not None and times == 1 else _guess_s(times, rules)
    until = result.ended_at + timedelta(seconds=wait_s)
    if told is not None:
        until = max(until, told)
    if before is not None and not is_news and is_cooling(before, now) and before.until >= until:
        return replace(before, times=times)
    return Cooling(
        account=account,
        since=before.since if before is not None and not is_news else now,
        until=until,
        times=times,
        agent=result.agent,
        words=" ".join(result.message.split())[:_MOST_WORDS],
        is_told=told is not None,
    )


def has_recovered(cooling: Cooling, result: AttemptResult) -> bool:
    """Whether an attempt that succeeded shows that the limit is over: it began after that.

    One that was let go right before the account was refused may begin right after it.
    """
    return result.started_at is not None and result.started_at >= cooling.until


def cooling_agents(
    agents: Iterable[AgentProfile], coolings: Iterable[Cooling], now: datetime
) -> dict[str, Cooling]:
    """Return the agents of which nothing may start now, and what they wait for."""
    cool = {one.account: one for one in coolings if is_cooling(one, now)}
    if not cool:
        return {}
    accounts = ((agent.name, account_of(agent.name, [agent])) for agent in agents)
    return {name: cool[account] for name, account in accounts if account in cool}


def find_cooling(
    task: WaitingTask,
    *,
    able: Sequence[AgentView],
    cooling: Mapping[str, Cooling],
    paused: Collection[str],
    now: datetime,
) -> Wait | None:
    """Return which account the task waits for; None if some agent may start it all the same.

    ``able`` are the agents that may run it, and ``paused`` those that start nothing anyhow.
    """
    left = [agent.name for agent in able if agent.name not in paused]
    if not left or any(name not in cooling for name in left):
        return None
    first = min((cooling[name] for name in left), key=_end)
    return Wait(
        task=task,
        reason=Reason.COOLING,
        words=tell_cooling(first),
        retry_after_s=(first.until - now).total_seconds(),
    )


def tell_cooling(cooling: Cooling, *, when: str | None = None) -> str:
    """Say until when an account cools, what ends it before that, and why it does.

    ``when`` is the moment as people say it: ``14:20``.
    """
    # The way out goes first: a line in a table is cut.
    how = "told by its provider" if cooling.is_told else f"refused {_times(cooling.times)}"
    return (
        f"account {cooling.account} is cooling until {when or format_time(cooling.until)};"
        f" `resume account:{cooling.account}` ends it (rate limited: {how})"
    )


def _guess_s(times: int, rules: Rules) -> float:
    """Return how long to wait where nobody told: doubled for each time in a row."""
    return float(min(_LONGEST_GUESS_S, rules.retry_later_s * 2.0 ** min(times - 1, 20)))


def _end(cooling: Cooling) -> tuple[datetime, str]:
    return (cooling.until, cooling.account)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times in a row"
