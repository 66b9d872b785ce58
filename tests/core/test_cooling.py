"""Which accounts cool, for how long, and what waits for that."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, RULES, a_lease, a_result, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core.cooling import cool_down, has_recovered, is_cooling
from tinyscheduler.core.decide import decide
from tinyscheduler.core.explain import explain
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.coolings import Cooling
from tinyscheduler.model.plan import Dispatch, Reason, Wait
from tinyscheduler.model.switches import Switch, SwitchKind, parse_target
from tinyscheduler.model.tasks import FailureReason, Outcome
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tests.builders import Thing

    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import AttemptResult

FIFO = PlatformPolicy()
AGENTS = (
    an_agent("coder", queue="dev", limit=2, account="anthropic"),
    an_agent("reviewer", queue="dev", limit=2, account="anthropic"),
    an_agent("codex", queue="dev", limit=2),
    an_agent("writer", queue="docs", limit=2, account="anthropic"),
)
HOUR = timedelta(hours=1)


def at(seconds: float) -> datetime:
    return NOW.wall + timedelta(seconds=seconds)


def a_cooling(account: str = "anthropic", /, **more: Any) -> Cooling:
    """Return one that was refused an hour ago and has another to go."""
    cooling = Cooling(
        account=account,
        since=NOW.wall - HOUR,
        until=NOW.wall + HOUR,
        times=1,
        agent="coder",
        words="usage limit",
        is_told=True,
    )
    return replace(cooling, **more)


def refused(
    message: str = "rate limit", *, began_s: float = 0, ended_s: float = 10
) -> AttemptResult:
    """Return an attempt that was refused; it began and ended so many seconds from now."""
    return a_result(
        outcome=Outcome.FAILED,
        failure_reason=FailureReason.RATE_LIMITED,
        message=message,
        started_at=at(began_s),
        ended_at=at(ended_s),
    )


def cooled(before: Cooling | None, result: AttemptResult, *, now_s: float | None = None) -> Cooling:
    now = result.ended_at if now_s is None else at(now_s)
    return cool_down(before, result, account="anthropic", rules=RULES, now=now)


def a_world(*things: Thing, coolings: tuple[Cooling, ...] = (), **more: Any) -> Snapshot:
    return replace(a_snapshot(*things, agents=AGENTS, slots=9), coolings=coolings, **more)


def waits(snapshot: Snapshot) -> dict[str, Reason]:
    decisions = decide(snapshot, FIFO).decisions
    return {one.task.task_id: one.reason for one in decisions if isinstance(one, Wait)}


def starts(snapshot: Snapshot) -> dict[str, str]:
    decisions = decide(snapshot, FIFO).decisions
    return {one.task.task_id: one.agent for one in decisions if isinstance(one, Dispatch)}


# -- how long -------------------------------------------------------------------------


def test_an_account_cools_until_exactly_the_time_that_its_provider_told():
    cooling = cooled(None, refused("usage limit reached, try again in 2 hours 10 minutes"))

    assert cooling == Cooling(
        account="anthropic",
        since=at(10),
        until=at(10 + 7800),
        times=1,
        agent="coder",
        words="usage limit reached, try again in 2 hours 10 minutes",
        is_told=True,
    )


def test_a_time_that_was_told_counts_from_when_it_was_said_however_late_that_is_read():
    result = refused("try again in 2 hours")

    assert cooled(None, result, now_s=3600).until == at(10 + 7200)
    assert not is_cooling(cooled(None, result, now_s=9000), at(9000))


def test_without_a_time_it_cools_longer_each_time_in_a_row_up_to_an_hour():
    waited, cooling, now_s = [], None, 0.0
    for _ in range(9):
        cooling = cooled(cooling, refused(began_s=now_s, ended_s=now_s))
        waited.append((cooling.until - at(now_s)).total_seconds())
        now_s += waited[-1]

    first = RULES.retry_later_s
    assert waited == [min(3600.0, first * 2**number) for number in range(9)]
    assert (cooling.times, cooling.is_told) == (9, False) if cooling is not None else False


def test_a_provider_that_says_at_once_again_and_again_is_not_asked_at_once():
    cooling, now_s = None, 0.0
    for times in range(1, 4):
        cooling = cooled(cooling, refused("try again in 20ms", began_s=now_s, ended_s=now_s))
        waited = (cooling.until - at(now_s)).total_seconds()
        expected = RULES.retry_base_s if times == 1 else RULES.retry_later_s * 2 ** (times - 1)
        assert (cooling.times, waited) == (times, expected)
        now_s += waited


def test_attempts_that_ran_side_by_side_count_once_and_the_longest_limit_holds():
    first = cooled(None, refused(began_s=0, ended_s=10))
    second = cooled(first, refused("try again in 3 hours", began_s=5, ended_s=12))
    third = cooled(second, refused("try again in 5 minutes", began_s=5, ended_s=13))

    assert (first.times, second.times, third.times) == (1, 1, 1)
    assert second.until == at(12 + 10_800)
    assert third == second


def test_an_account_that_was_not_refused_for_a_day_counts_afresh():
    before = a_cooling(times=7, until=NOW.wall - timedelta(days=1))

    assert cooled(before, refused()).times == 1
    assert cooled(replace(before, until=before.until + HOUR), refused()).times == 8


def test_an_attempt_of_which_nobody_knows_when_it_began_is_news():
    result = replace(refused(), started_at=None)

    assert cooled(a_cooling(), result).times == 2
    assert not has_recovered(a_cooling(), result)


def test_a_success_is_proof_only_if_it_began_once_the_account_was_let_in_again():
    cooling = a_cooling()

    assert has_recovered(cooling, a_result(started_at=cooling.until))
    # Let go before it, and begun after it: wrappers take a moment.
    assert not has_recovered(cooling, a_result(started_at=cooling.since + HOUR / 100))


def test_of_what_the_agent_said_a_line_is_kept():
    assert cooled(None, refused("limit\n\n" + 999 * "x")).words == "limit " + 294 * "x"


def test_a_cooling_that_has_longer_to_go_than_any_limit_was_begun_under_another_clock():
    assert is_cooling(a_cooling(), NOW.wall)
    assert not is_cooling(a_cooling(), NOW.wall + HOUR)
    assert not is_cooling(a_cooling(), NOW.wall - timedelta(days=8))


@given(
    message=st.sampled_from(("limit", "try again in 1 s", "try again in 3 hours", "resets 2am")),
    times=st.integers(1, 60),
    offset_s=st.integers(-200_000, 200_000),
    began_s=st.integers(-200_000, 0),
)
def test_whatever_came_before_an_account_cools_for_some_time_and_for_no_longer_than_a_limit(
    message: str, times: int, offset_s: int, began_s: int
):
    before = a_cooling(times=times, until=at(offset_s), since=at(offset_s) - HOUR)
    result = refused(message, began_s=began_s, ended_s=1)

    cooling = cooled(before, result)

    assert is_cooling(cooling, result.ended_at)
    assert cooled(cooling, result) == cooling  # told twice, as after a crash, it is the same
    assert 1 <= cooling.times <= times + 1


# -- who waits ------------------------------------------------------------------------


def test_tasks_of_a_cooling_account_wait_with_its_name_and_others_go_on():
    tasks = (
        a_task("1", agent="coder"),
        a_task("2", agent="writer"),
        a_task("3", agent="codex"),
        a_task("4", agent=None, queue="docs"),
    )
    snapshot = a_world(*tasks, coolings=(a_cooling(),))

    assert waits(snapshot) == dict.fromkeys("124", Reason.COOLING)
    assert starts(snapshot) == {"3": "codex"}
    wait = next(one for one in decide(snapshot, FIFO).decisions if isinstance(one, Wait))
    assert wait.retry_after_s == HOUR.total_seconds()
    assert wait.words == (
        f"account anthropic is cooling until {format_time(NOW.wall + HOUR)};"
        " `resume account:anthropic` ends it (rate limited: told by its provider)"
    )


def test_a_task_of_a_queue_goes_to_the_agent_whose_account_is_let_in():
    task = a_task("1", agent=None, queue="dev")

    assert starts(a_world(task, coolings=(a_cooling(),))) == {"1": "codex"}


def test_of_a_backoff_and_a_cooling_the_one_that_ends_later_is_told():
    task = a_task("1", backing_off_until=at(100))

    assert waits(a_world(task, coolings=(a_cooling(),))) == {"1": Reason.COOLING}
    assert waits(a_world(task, coolings=(a_cooling(until=at(100)),))) == {"1": Reason.COOLING}
    assert waits(a_world(task, coolings=(a_cooling(until=at(99)),))) == {"1": Reason.BACKING_OFF}
    other = a_cooling("codex")
    assert waits(a_world(task, coolings=(other,))) == {"1": Reason.BACKING_OFF}
    held = replace(task, is_held=True)
    assert waits(a_world(held, coolings=(a_cooling(),))) == {"1": Reason.HELD}


def test_where_all_agents_of_a_queue_cool_the_first_end_is_told():
    task = a_task("1", agent=None, queue="dev")
    own = a_cooling("codex", until=NOW.wall + HOUR / 2, is_told=False, times=3)

    (wait,) = decide(a_world(task, coolings=(a_cooling(), own)), FIFO).decisions

    assert isinstance(wait, Wait)
    assert wait.words.startswith("account codex is cooling")
    assert wait.words.endswith("(rate limited: refused 3 times in a row)")
    once = replace(own, times=1)
    (wait,) = decide(a_world(task, coolings=(a_cooling(), once)), FIFO).decisions
    assert isinstance(wait, Wait)
    assert wait.words.endswith("(rate limited: refused once)")


def test_a_paused_agent_is_no_way_out_of_a_cooling_and_a_pause_of_all_goes_first():
    task = a_task("1", agent=None, queue="dev")
    pause = Switch(
        kind=SwitchKind.PAUSE, target=parse_target("agent:codex"), since=NOW.wall, by="ann"
    )
    everything = replace(pause, target=parse_target("all"))

    paused = a_world(task, coolings=(a_cooling(),), switches=(pause,))
    assert waits(paused) == {"1": Reason.COOLING}
    assert waits(replace(paused, switches=(everything,))) == {"1": Reason.PAUSED}


@pytest.mark.parametrize("until", [NOW.wall, NOW.wall - HOUR, NOW.wall + timedelta(days=9)])
def test_once_it_is_over_everything_starts_again(until):
    assert starts(a_world(a_task("1"), coolings=(a_cooling(until=until),))) == {"1": "coder"}


def test_what_runs_already_is_left_alone():
    entry = an_entry(a_lease("1", agent="coder"))

    calm = decide(a_world(entry), FIFO)

    assert decide(a_world(entry, coolings=(a_cooling(),)), FIFO).verdicts == calm.verdicts


def test_why_says_that_it_goes_on_by_itself():
    task = a_task("1")
    snapshot = a_world(task, coolings=(a_cooling(),))

    explanation = explain(snapshot, decide(snapshot, FIFO), task, FIFO, window=8)

    assert explanation is not None
    assert explanation.remedies == ("the account is tried again by itself then",)
