"""``pause``, ``resume``, ``drain`` and ``undrain``: what shall not start for now."""

from __future__ import annotations

import os

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.parsing import duration_s
from tinyscheduler.cli.render import count, emit_json, escape, format_clock, format_when
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.core.switches import name_target
from tinyscheduler.errors import EXIT_DONE, EXIT_TIMEOUT, NotFoundError, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.switches import (
    EVERYTHING,
    Switch,
    SwitchKind,
    Target,
    TargetKind,
    parse_target,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.coolings import Cooling

_LONGEST_REASON = 500
_MOST_IDS = 10
_LOOK_S = 0.1
_ACCOUNT = "account:"
_SYNTAX = "write all, agent:NAME, queue:NAME or schedule:NAME"

_Targets = Annotated[
    list[str] | None,
    argument(
        metavar="TARGET", help="all, agent:NAME, queue:NAME or schedule:NAME; all by default."
    ),
]
_Why = Annotated[
    str | None, option("--reason", metavar="TEXT", help="Why, for whoever asks later.")
]
_Json = Annotated[bool, option("--json", help="Print one JSON document.")]


def pause(
    context: typer.Context, targets: _Targets = None, *, reason: _Why = None, json: _Json = False
) -> int:
    """Start nothing for a target until it is resumed.

    A target is an agent, a queue, a schedule, or all.  Attempts under way go on.  It
    lasts over restarts.
    """
    invocation: Invocation = context.obj
    wanted = _read_targets(targets)
    reason = _check_reason(reason)
    config, queue = _open_to_stop(invocation)
    before = queue.switches.read()
    for target in wanted:
        _refuse_unknown(target, config, before, queue)
    lines = []
    changed = []
    for target in wanted:
        switch = _new_switch(queue, SwitchKind.PAUSE, target, reason)
        earlier = queue.switches.set(switch)
        if target.kind is TargetKind.SCHEDULE:
            _pause_schedule(queue, target.name, reason)
        if earlier is None:
            changed.append(switch)
            _announce(queue, EventName.PAUSED, switch)
        lines.append(_told(f"{name_target(target)} is paused", earlier))
    return _answer(invocation, queue, lines, changed, as_json=json)


def resume(
    context: typer.Context,
    targets: Annotated[
        list[str] | None,
        argument(
            metavar="TARGET",
            help="all, agent:NAME, queue:NAME, schedule:NAME or account:NAME; all by default.",
        ),
    ] = None,
    *,
    json: _Json = False,
) -> int:
    """Let what is paused start again.

    Without a target every pause ends; a drain goes on.  An account that cools because its
    provider refused it is tried again at once: name it, or an agent that uses it.
    """
    from tinyscheduler.app.pausing import end_pause

    invocation: Invocation = context.obj
    accounts = _read_accounts(targets)
    others = [one for one in targets or [] if not one.startswith(_ACCOUNT)]
    wanted = _read_targets(others) if others or not accounts else []
    config, queue = _open_to_go_on(invocation)
    before = queue.switches.read()
    for target in wanted:
        _refuse_unknown(target, config, before, queue)
    coolings = _end_coolings(queue, [*accounts, *_accounts_of(wanted, config)], named=accounts)
    if EVERYTHING in wanted:
        # Whoever wants everything to go on means the single pauses too.
        wanted = [one.target for one in before if one.kind is SwitchKind.PAUSE] or [EVERYTHING]
    lines = []
    changed = []
    for target in wanted:
        lifted = end_pause(queue, target) if before else None
        is_changed = target.kind is TargetKind.SCHEDULE and _resume_schedule(queue, target.name)
        if lifted is None and is_changed:
            lifted = _new_switch(queue, SwitchKind.PAUSE, target, None)
        if lifted is not None:
            changed.append(lifted)
            _announce(queue, EventName.RESUMED, lifted)
        name = name_target(target)
        nothing = "nothing was paused" if target == EVERYTHING else f"{name} was not paused"
        if lifted is not None:
            lines.append(f"the pause of {name} has ended")
        elif not (coolings and target.kind is TargetKind.AGENT):
            lines.append(nothing)
    lines += [_cooling_ended(queue, one) for one in coolings]
    ended = {one.account for one in coolings}
    lines += [f"account {name} was not cooling" for name in accounts if name not in ended]
    more = {"coolings_ended": [cooling_json(one) for one in coolings]}
    return _answer(invocation, queue, lines, changed, as_json=json, config=config, more=more)


def drain(
    context: typer.Context,
    *,
    reason: _Why = None,
    wait: Annotated[bool, option("--wait", help="Return when the last attempt has ended.")] = False,
    timeout: Annotated[
        str | None,
        option(metavar="DURATION", help="With --wait: give up after this time, with 124."),
    ] = None,
    json: _Json = False,
) -> int:
    """Start nothing at all until `undrain`.

    Nothing starts either when something is resumed.  Attempts under way go on; with
    --wait the command returns when the last has ended.
    """
    invocation: Invocation = context.obj
    if timeout is not None and not wait:
        raise UsageError("--timeout is for --wait", hint="add --wait, or leave --timeout out")
    limit_s = None if timeout is None else duration_s("--timeout", timeout)
    reason = _check_reason(reason)
    _, queue = _open_to_stop(invocation)
    switch = _new_switch(queue, SwitchKind.DRAIN, EVERYTHING, reason)
    earlier = queue.switches.set(switch)
    changed = [switch] if earlier is None else []
    if earlier is None:
        _announce(queue, EventName.DRAINING, switch)
    busy = _find_busy(queue)
    # Said at once: it holds from now on, and the wait may be long.
    if not json:
        invocation.answer(escape(_told("nothing starts any more", earlier)))
    if not wait:
        return _answer(invocation, queue, [_under_way(busy)], changed, as_json=json)
    if busy:
        invocation.note(f"waiting for {count(len(busy), 'attempt')} to end: {_ids(busy)}")
    busy = _wait_for_rest(queue, busy, limit_s=limit_s)
    _answer(invocation, queue, [_under_way(busy)], changed, as_json=json, running=busy)
    if busy:
        invocation.note(f"gave up after {timeout}: {_ids(busy)} not ended; still draining")
        return EXIT_TIMEOUT
    return EXIT_DONE


def undrain(context: typer.Context, *, json: _Json = False) -> int:
    """End a drain; what is paused stays so."""
    invocation: Invocation = context.obj
    config, queue = _open_to_go_on(invocation)
    lifted = queue.switches.clear(SwitchKind.DRAIN, EVERYTHING) if queue.switches.read() else None
    if lifted is not None:
        _announce(queue, EventName.UNDRAINED, lifted)
    lines = ["tasks may start again" if lifted is not None else "nothing was draining"]
    changed = [lifted] if lifted is not None else []
    return _answer(invocation, queue, lines, changed, as_json=json, config=config)


def switch_json(switch: Switch) -> dict[str, Any]:
    """Return one switch as the documented JSON object."""
    return {
        "target": str(switch.target),
        "kind": switch.kind.value,
        "since": format_time(switch.since),
        "by": switch.by,
        "reason": switch.reason,
    }


def _read_targets(texts: list[str] | None) -> list[Target]:
    targets: list[Target] = []
    for text in texts or [TargetKind.ALL.value]:
        try:
            target = parse_target(text)
        except ValueError as error:
            raise UsageError(
                f"{quote(text)} is nothing that can be paused", hint=_SYNTAX
            ) from error
        if target not in targets:
            targets.append(target)
    return targets


def _read_accounts(texts: list[str] | None) -> list[str]:
    accounts = [text.removeprefix(_ACCOUNT) for text in texts or [] if text.startswith(_ACCOUNT)]
    if "" in accounts:
        raise UsageError("account: names no account", hint="write account:NAME")
    return accounts


def _accounts_of(targets: Iterable[Target], config: Config) -> list[str]:
    from tinyscheduler.core.cooling import account_of

    names = [one.name for one in targets if one.kind is TargetKind.AGENT]
    found = (account_of(name, config.agents) for name in names)
    return [account for account in found if account is not None]


def _end_coolings(queue: Queue, accounts: list[str], *, named: Iterable[str]) -> list[Cooling]:
    """Forget what is known against these accounts; return those that cooled.

    Raises NotFoundError for a ``named`` one that no agent uses and that was never refused.
    """
    from tinyscheduler.core.cooling import account_of, is_cooling

    if not accounts:
        return []
    agents = queue.config.agents
    kept = {one.account for one in queue.coolings.read()}
    used = {account_of(one.name, agents) for one in agents}
    known = kept | {one for one in used if one is not None}
    for name in named:
        if name not in known:
            hint = did_you_mean(name, known) if known else "there is no account at all"
            raise NotFoundError(f"there is no account {quote(name)}", hint=hint)
    now = queue.clock.now().wall
    ended = [queue.coolings.forget(name) for name in dict.fromkeys(accounts) if name in kept]
    return [one for one in ended if one is not None and is_cooling(one, now)]


def _cooling_ended(queue: Queue, cooling: Cooling) -> str:
    until = format_clock(cooling.until, now=queue.clock.now().wall)
    return f"account {cooling.account} is no longer cooling; it would have been until {until}"


def cooling_json(cooling: Cooling) -> dict[str, Any]:
    """Return one cooling as the documented JSON object."""
    return {
        "account": cooling.account,
        "since": format_time(cooling.since),
        "until": format_time(cooling.until),
        "is_told": cooling.is_told,
        "times": cooling.times,
        "agent": cooling.agent,
        "words": cooling.words,
    }


def _open_to_stop(invocation: Invocation) -> tuple[Config, Queue]:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    config = invocation.configure_changing()
    # Made where there is none: it is to hold for what is added later.
    return config, open_queue(config, Access.WRITE)


def _open_to_go_on(invocation: Invocation) -> tuple[Config, Queue]:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    config = invocation.configure_changing()
    is_empty = not os.path.lexists(config.paths.database)
    return config, open_queue(config, Access.READ if is_empty else Access.WRITE)


def _pause_schedule(queue: Queue, name: str, reason: str | None) -> None:
    from tinyscheduler.app.schedules import pause_schedule, schedules_of

    schedules = schedules_of(queue)
    # Of one that was removed while it was paused the pause is all there is.
    if schedules.store.find(name) is not None:
        pause_schedule(schedules, name, why=reason)


def _resume_schedule(queue: Queue, name: str) -> bool:
    """Let a schedule fire again; whether it did not.  One that is over is left as it is."""
    from tinyscheduler.app.schedules import resume_schedule, schedules_of
    from tinyscheduler.model.schedules import ScheduleState

    schedules = schedules_of(queue)
    schedule = schedules.store.find(name)
    if schedule is None or schedule.state is not ScheduleState.PAUSED:
        return False
    resume_schedule(schedules, name)
    return True


def _names_of_schedules(queue: Queue) -> set[str]:
    from tinyscheduler.app.schedules import schedules_of

    return {one.schedule_id for one in schedules_of(queue).store.schedules()}


def _refuse_unknown(
    target: Target, config: Config, switches: Iterable[Switch], queue: Queue
) -> None:
    """Raise NotFoundError for a name that is neither configured nor paused already."""
    known = {
        TargetKind.ALL: {""},
        TargetKind.AGENT: {agent.name for agent in config.agents},
        TargetKind.QUEUE: {agent.queue for agent in config.agents},
        TargetKind.SCHEDULE: set[str](),
    }[target.kind]
    if target.kind is TargetKind.SCHEDULE:
        known = _names_of_schedules(queue)
    # An agent may have been paused and then taken out of the agents file.
    if target.name in known or any(switch.target == target for switch in switches):
        return
    hint = did_you_mean(target.name, known) if known else f"there is no {target.kind} at all"
    raise NotFoundError(f"there is no {target.kind} {quote(target.name)}", hint=hint)


def _new_switch(queue: Queue, kind: SwitchKind, target: Target, reason: str | None) -> Switch:
    return Switch(
        kind=kind,
        target=target,
        since=queue.clock.now().wall,
        by=name_self(),
        reason=reason,
    )


def name_self() -> str:
    """Return who sets a switch: the user, or the task that runs as that user."""
    from tinyscheduler.files import user_name

    name = user_name(os.getuid())
    task_id = os.environ.get("TINYSCHEDULER_TASK_ID")
    return f"task {task_id}" if task_id else name


def _check_reason(reason: str | None) -> str | None:
    if reason is None or not reason.strip():
        return None
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise UsageError("--reason is not UTF-8", hint="write it in UTF-8") from error
    if len(reason) > _LONGEST_REASON or "\0" in reason:
        raise UsageError(
            f"--reason has {len(reason)} characters; at most {_LONGEST_REASON} are possible",
            hint="say it in a sentence",
        )
    # One line, wherever it is told.
    return " ".join(reason.split())


def _announce(queue: Queue, name: EventName, switch: Switch) -> None:
    from tinyscheduler.app.queue import announce_event

    details = (("target", str(switch.target)), ("by", name_self()))
    announce_event(queue, name, reason=switch.reason, details=details)


def _told(words: str, earlier: Switch | None) -> str:
    if earlier is None:
        return words
    why = f" ({earlier.reason})" if earlier.reason else ""
    return f"{words} already, since {format_time(earlier.since)} by {earlier.by}{why}"


def _answer(
    invocation: Invocation,
    queue: Queue,
    lines: list[str],
    changed: list[Switch],
    *,
    as_json: bool,
    config: Config | None = None,
    running: tuple[str, ...] | None = None,
    more: dict[str, Any] | None = None,
) -> int:
    """Print what was done; with a configuration also wish for a tick, and say what still stops."""
    from tinyscheduler.app.kicks import kick

    left = queue.switches.read()
    if as_json:
        more = {**(more or {}), **({} if running is None else {"running": list(running)})}
        emit_json(
            changed=[switch_json(one) for one in changed],
            paused=[switch_json(one) for one in left],
            **more,
        )
    else:
        invocation.answer("\n".join(map(escape, lines)))
    if config is not None:
        kick(config)
        _note_what_still_stops(invocation, queue, left)
    return EXIT_DONE


def _note_what_still_stops(invocation: Invocation, queue: Queue, left: Iterable[Switch]) -> None:
    from tinyscheduler.core.switches import tell_switch

    if not queue.config.enabled:
        invocation.note("nothing starts all the same: TINYSCHEDULER_ENABLED is false")
    _note_what_cools(invocation, queue)
    for switch in left:
        if switch.kind is SwitchKind.DRAIN or switch.target == EVERYTHING:
            words = tell_switch(switch, when=format_when(switch.since, now=queue.clock.now().wall))
            invocation.note(f"nothing starts all the same: {words}")


def _note_what_cools(invocation: Invocation, queue: Queue) -> None:
    from tinyscheduler.core.cooling import is_cooling, tell_cooling

    now = queue.clock.now().wall
    for one in queue.coolings.read():
        if is_cooling(one, now):
            words = tell_cooling(one, when=format_clock(one.until, now=now))
            invocation.note(f"nothing of it starts all the same: {words}")


def _find_busy(queue: Queue) -> tuple[str, ...]:
    """Return the tasks with an attempt under way, as a tick counts slots."""
    from tinyscheduler.cli.status import occupies_slot

    scan = queue.leases.scan()
    return tuple(entry.task_id for entry in scan.entries if occupies_slot(entry, scan))


def _under_way(busy: tuple[str, ...]) -> str:
    return f"{count(len(busy), 'attempt')} under way" if busy else "nothing runs"


def _wait_for_rest(
    queue: Queue, busy: tuple[str, ...], *, limit_s: float | None
) -> tuple[str, ...]:
    """Wait until no attempt is under way or the time is up; return what is left.

    No task can be claimed once the drain is in the database, and the lease of one that
    was claimed before is on disk: so a single look without leases is proof.
    """
    deadline_ns = None
    if limit_s is not None:
        deadline_ns = queue.clock.now().monotonic_ns + int(limit_s * 1e9)
    while busy and (deadline_ns is None or queue.clock.now().monotonic_ns < deadline_ns):
        queue.clock.sleep(_LOOK_S)
        busy = _find_busy(queue)
    return busy


def _ids(task_ids: tuple[str, ...]) -> str:
    shown = " ".join(task_ids[:_MOST_IDS])
    more = len(task_ids) - _MOST_IDS
    return f"task {shown}" + (f" and {more} more" if more > 0 else "")
