"""The steps of a tick, each one system call or one SQL statement.

Where each step comes from:

DESIGN.md 5.1  lock, wish, lock again, forget kick; unlock, look for kick
DESIGN.md 5.2  look, once for each kind of thing
4, step 1      open lock, take lock, verify lock, read again, create lease
4, step 2      claim
4, step 3      spawn, close lock
4, step 7      open lock, take lock, verify lock, read again, write ledger, tell source,
               remove lease, remove cancel request, remove result, remove lock, close lock;
               reclaiming and repairing take the same way
4, reclaim     remember, last look, signal, kill

A file that is written under another name and renamed is one step: readers see the old
or the new one.  Of two steps that a crash cannot tell apart there is one here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.judging import SEE, as_seen, plan
from tests.protocol.rules import KickLook
from tests.protocol.world import (
    NO_INODE,
    NOBODY,
    Job,
    Lease,
    Row,
    Sighting,
    Wrapper,
    command_of,
    fresh_inode,
    hold,
    is_held,
    let_go,
    promise,
    share,
    with_process,
    with_task,
    without_process,
    wrapper_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.protocol.rules import Rules, Scenario
    from tests.protocol.world import Task, Tick, World

    # What may happen next: words, and the world that follows.
    Steps = list[tuple[str, World]]

# After one of these a tick looks again before it starts anything.
_CHANGING = {"settle", "reclaim", "repair", "sweep", "end"}


def steps_of_tick(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    return _STEPS[tick.at](world, tick, rules, scenario)


def _go(world: World, tick: Tick, at: str) -> World:
    return with_process(world, tick._replace(at=at))


# -- the tick lock and the wish for another tick


def _lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Flock the pidfile without waiting."""
    world = promise(world)
    if world.ticking == NOBODY:
        world = world._replace(ticking=tick.name)
        return [("locks the pidfile", _go(world, tick, "forget kick"))]
    return [("finds the pidfile locked", _go(world, tick, "wish"))]


def _wish(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Create `kick`: the holder may have read before that happened which we came for."""
    world = world._replace(kick=True)
    if not rules.tries_again_after_kick:
        return [("creates kick and leaves", _leave(world, tick))]
    return [("creates kick", _go(world, tick, "lock again"))]


def _lock_again(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Try once more: the holder may have looked for `kick` just before it was created."""
    if world.ticking == NOBODY:
        world = world._replace(ticking=tick.name)
        return [("locks the pidfile", _go(world, tick, "forget kick"))]
    return [("finds the pidfile still locked and leaves", _leave(world, tick))]


def _forget_kick(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Unlink `kick` before anything is read."""
    return [("unlinks kick", _look_anew(world._replace(kick=False), tick))]


def _unlock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    # A tick whose pidfile was removed under it unlocks a file that nobody else can open.
    if world.ticking == tick.name:
        world = world._replace(ticking=NOBODY)
    if rules.looks_for_kick is KickLook.AFTER_UNLOCKING:
        return [("unlocks the pidfile", _go(world, tick, "look for kick"))]
    return [("unlocks the pidfile and leaves", _leave(world, tick))]


def _look_for_kick(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    still_locked = rules.looks_for_kick is KickLook.BEFORE_UNLOCKING
    if world.kick:
        return [("finds kick", _go(world, tick, "forget kick" if still_locked else "lock"))]
    if still_locked:
        return [("finds no kick", _go(world, tick, "unlock"))]
    return [("finds no kick and leaves", _leave(world, tick))]


def _sleep(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Wait, as a daemon does between ticks, until `kick` is there.

    A daemon that was just refused finds its own wish; how long it pauses is no matter here.
    """
    return [("is woken by kick", _go(world, tick, "lock"))] if world.kick else []


def _leave(world: World, tick: Tick) -> World:
    if world.daemon == tick.name:
        return _go(world, tick, "sleep")
    return without_process(world, tick.name)


# -- looking, and the agenda that comes of it


def _look(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    """Read one kind of thing; after the last, judge."""
    what = rules.looks[len(tick.seen)]
    tick = tick._replace(seen=(*tick.seen, SEE[what](world)))
    if len(tick.seen) < len(rules.looks):
        return [(f"looks at the {what}", with_process(world, tick))]
    seen = as_seen(dict(zip(rules.looks, tick.seen, strict=True)))
    jobs = plan(world, seen, rules, scenario)
    words = ", ".join(f"{job.verb} {world.tasks[job.task].name}" for job in jobs) or "nothing"
    tick = tick._replace(seen=(), agenda=(Job("look", 0), *jobs), is_changed=False)
    return [(f"looks at the {what} and plans: {words}", _next_job(world, tick, rules))]


def _look_anew(world: World, tick: Tick) -> World:
    return with_process(
        world, tick._replace(at="look", seen=(), agenda=(), inode=NO_INODE, is_changed=False)
    )


def _next_job(world: World, tick: Tick, rules: Rules) -> World:
    """Close the task lock and turn to the next job; after changes, look again before a start."""
    job, agenda = tick.agenda[0], tick.agenda[1:]
    if tick.inode != NO_INODE:
        world = with_task(world, job.task, let_go(world.tasks[job.task], tick.name))
    tick = tick._replace(agenda=agenda, inode=NO_INODE)
    if tick.is_changed and (not agenda or agenda[0].verb == "start"):
        return _look_anew(world, tick)
    if not agenda:
        still_locked = rules.looks_for_kick is KickLook.BEFORE_UNLOCKING
        return _go(world, tick, "look for kick" if still_locked else "unlock")
    return _go(world, tick, _first_step(agenda[0], rules))


def _first_step(job: Job, rules: Rules) -> str:
    match job.verb:
        case "suspect":
            return "remember"
        case "end":
            return "last look" if job.because == "stale" else "kill"
        case "start" if not rules.locks_before_leasing:
            return "create lease"
        case "start":
            return "open lock"
        case _:
            return "open lock" if rules.writes_under_lock else "read again"


# -- the task lock


def _open_lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Open the file, creating it if it is not there."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    inode = task.lock or fresh_inode(world, index)
    world = with_task(world, index, task._replace(lock=inode))
    return [("opens the task lock", _go(world, tick._replace(inode=inode), "take lock"))]


def _take_lock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Flock it without waiting; held means that somebody newer is at it."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    if is_held(task, tick.inode):
        return [("finds the task lock held", _next_job(world, tick, rules))]
    world = with_task(world, index, hold(task, tick.inode, tick.name))
    at = "verify lock" if rules.verifies_inode else "read again"
    return [("takes the task lock", _go(world, tick, at))]


def _verify_lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Compare fstat(fd) with stat(path): somebody may have unlinked what was opened."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    if task.lock == tick.inode:
        return [("sees that the lock bears its name", _go(world, tick, "read again"))]
    world = with_task(world, index, let_go(task, tick.name))
    tick = tick._replace(inode=NO_INODE)
    return [("sees that the lock lost its name", _go(world, tick, "open lock"))]


def _read_again(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Read lease, result and claim under the lock: is it still what was judged?"""
    job = tick.agenda[0]
    task = world.tasks[job.task]
    if rules.reads_again and not _still_holds(task, job):
        return [("reads again: it changed", _go(world, tick, "close lock"))]
    if job.verb in ("sweep", "start"):
        at = "remove lock" if job.verb == "sweep" else "create lease"
    elif job.verb == "reclaim" and rules.reads_again and not _is_claimed_by(task, job.lease):
        at = "remove lease"  # the claim was refused, or is told already: only tidy up
    else:
        at = _first_word(job, rules)
    return [("reads again", _go(world, tick, at))]


def _still_holds(task: Task, job: Job) -> bool:
    lease, results = task.lease, {of for of, _ in task.results}
    match job.verb:
        case "settle":
            return job.lease in results
        case "reclaim":
            is_same = lease is not None and (lease.lease, lease.state) == (job.lease, job.because)
            return is_same and job.lease not in results
        case "repair":
            return lease is None and job.lease not in results and _is_claimed_by(task, job.lease)
        case "sweep":
            return lease is None and not results
        case _:
            return lease is None


def _is_claimed_by(task: Task, lease: int) -> bool:
    return (task.row.state, task.row.lease) == ("working", lease)


def _close_lock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Close this holder's descriptor; others of the same description keep it locked."""
    if tick.agenda[0].verb in _CHANGING:
        tick = tick._replace(is_changed=True)
    return [("closes the task lock", _next_job(world, tick, rules))]


# -- settling, reclaiming, repairing


def _first_word(job: Job, rules: Rules) -> str:
    """Return who hears first of the end of an attempt; the ledger knows only those that ran."""
    if not rules.notes_before_telling or job.verb == "unlaunch" or job.because == "starting":
        return "tell source"
    return "write ledger"


def _ending(task: Task, job: Job) -> str:
    if job.verb == "settle":
        return dict(task.results).get(job.lease, "vanished")
    if job.verb == "unlaunch" or job.because == "starting":
        return "never started"
    return "died"


def _write_ledger(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Insert one row; a second one for the same lease changes nothing."""
    job = tick.agenda[0]
    world = write_ledger(world, job.task, job.lease, _ending(world.tasks[job.task], job))
    at = "tell source" if rules.notes_before_telling else "remove lease"
    return [("writes the ledger", _go(world, tick, at))]


def write_ledger(world: World, index: int, lease: int, ending: str) -> World:
    task = world.tasks[index]
    known = dict(task.ledger)
    if known.setdefault(lease, ending) != ending:
        return world._replace(wrong="the ledger tells two stories of one attempt")
    return with_task(world, index, task._replace(ledger=tuple(sorted(known.items()))))


def _tell_source(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    """One compare-and-set on (working, lease_id)."""
    job = tick.agenda[0]
    ending = _ending(world.tasks[job.task], job)
    world = tell(world, job.task, job.lease, ending, rules, scenario)
    is_noted = rules.notes_before_telling or ending == "never started"
    words = f"tells the source: lease {job.lease} {ending}"
    return [(words, _go(world, tick, "remove lease" if is_noted else "write ledger"))]


def tell(
    world: World, index: int, lease: int, ending: str, rules: Rules, scenario: Scenario
) -> World:
    """Change the row if this lease is its claim; a wish to cancel is granted in the same step."""
    task = world.tasks[index]
    row = task.row
    if not _is_claimed_by(task, lease):
        if rules.tells_by_comparing:
            return world
        world = world._replace(wrong="a task is settled under a lease that is not its claim")
    if ending in ("died", "never started") and lease in dict(task.results):
        world = world._replace(wrong="a recorded result is run again")
    if ending == "never started" and lease in task.ran:
        world = world._replace(wrong="an attempt that ran is not counted")
    state, attempt = "waiting", row.attempt
    if ending == "succeeded":
        state = "done"
    elif ending == "cancelled" or row.cancel:
        state = "cancelled"
    elif ending != "never started":
        if attempt == scenario.most_attempts:
            state = "parked"
        else:
            attempt += 1
    # A tick that makes a task wait looks again before it leaves.
    task = task._replace(row=Row(state, attempt), is_promised=state == "waiting")
    return with_task(world, index, task)


def _remove_lease(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    task = world.tasks[job.task]
    if task.lease is not None and (task.lease.lease == job.lease or not rules.removes_only_its_own):
        world = remove_lease(world, job.task, job.lease)
    at = "remove cancel request" if scenario.cancelled else "remove result"
    return [("removes the lease", _go(world, tick, at))]


def remove_lease(world: World, index: int, lease: int) -> World:
    """Unlink the lease, whosever it is."""
    task = world.tasks[index]
    if task.lease is not None and task.lease.lease != lease:
        world = world._replace(wrong="the lease of another attempt is removed")
    return with_task(world, index, task._replace(lease=None))


def _remove_cancel(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    task = world.tasks[job.task]
    world = with_task(world, job.task, task._replace(cancels=task.cancels - {job.lease}))
    return [("removes the cancel request", _go(world, tick, "remove result"))]


def _remove_result(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    world = remove_result(world, job.task, job.lease)
    owns_lock = rules.locks_before_leasing and rules.writes_under_lock
    return [("removes the result", _go(world, tick, "remove lock" if owns_lock else "close lock"))]


def remove_result(world: World, index: int, lease: int) -> World:
    task = world.tasks[index]
    left = tuple(result for result in task.results if result[0] != lease)
    return with_task(world, index, task._replace(results=left))


def _remove_lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Unlink the lock file unless a lease is left; only who holds the lock ever does."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    if task.lease is None:
        world = with_task(world, index, task._replace(lock=NO_INODE))
    return [("unlinks the task lock", _go(world, tick, "close lock"))]


# -- starting


def _create_lease(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    task = world.tasks[job.task]
    if task.lease is not None:
        world = world._replace(wrong="a lease is created over another")
    number = task.leases + 1
    task = task._replace(lease=Lease(number, job.attempt, "starting"), leases=number)
    tick = tick._replace(agenda=(job._replace(lease=number), *tick.agenda[1:]))
    return [(f"creates lease {number}", _go(with_task(world, job.task, task), tick, "claim"))]


def _claim(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """One compare-and-set (waiting, attempt) -> working(lease_id)."""
    job = tick.agenda[0]
    task = world.tasks[job.task]
    row = task.row
    is_it = row.attempt == job.attempt or not rules.claims_by_attempt
    if row.state != "waiting" or not is_it:
        tick = tick._replace(agenda=(job._replace(verb="unclaim"), *tick.agenda[1:]))
        return [("is refused the claim", _go(world, tick, "remove lease"))]
    task = task._replace(row=Row("working", row.attempt, job.lease), is_promised=False)
    return [("claims the task", _go(with_task(world, job.task, task), tick, "spawn"))]


def _spawn(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """posix_spawn: the wrapper gets a copy of the lock's descriptor; ours is closed next."""
    job, budget = tick.agenda[0], world.budget
    task = world.tasks[job.task]
    name = f"wrapper {task.name}{job.lease}"
    at = "write running" if rules.locks_before_leasing else "open lock"
    wrapper = Wrapper(name, at, job.task, job.lease, job.attempt)
    started = with_task(world, job.task, share(task, tick.inode, tick.name, name))
    found = [(f"spawns {name}", _go(with_process(started, wrapper), tick, "close lock"))]
    if budget.launch_failures:
        world = world._replace(budget=budget._replace(launch_failures=budget.launch_failures - 1))
        tick = tick._replace(agenda=(job._replace(verb="unlaunch"), *tick.agenda[1:]))
        found.append(("cannot spawn", _go(world, tick, "tell source")))
    return found


# -- ending what hangs or was left behind


def _remember(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Note the heartbeat's value; one that moved since it was read makes the note worthless."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    is_stale = wrapper is not None and wrapper.is_stale
    task = world.tasks[job.task]._replace(sighting=Sighting(job.lease) if is_stale else None)
    world = with_task(world, job.task, task)
    return [("remembers a stale heartbeat", _next_job(world, tick, rules))]


def beat(world: World, wrapper: Wrapper) -> World:
    """Renew a heartbeat: what was remembered of the old value is void."""
    task = world.tasks[wrapper.task]._replace(sighting=None)
    return with_process(with_task(world, wrapper.task, task), wrapper._replace(is_stale=False))


def _last_look(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Wait a moment, in which a wrapper that runs beats, and look at the heartbeat again."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    if rules.looks_once_more and wrapper is not None and not wrapper.is_stopped:
        return [("waits and sees a heartbeat", _next_job(beat(world, wrapper), tick, rules))]
    return [("is sure that it is stale", _go(world, tick, "signal"))]


def _signal(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """SIGTERM to the wrapper: one that is resumed now ends its attempt and records it."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    if wrapper is not None:
        if not wrapper.was_stopped:
            world = world._replace(wrong="a healthy attempt is ended")
        world = with_process(world, wrapper._replace(is_told=True))
    return [("sends SIGTERM", _go(world, tick, "kill"))]


def _kill(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """SIGKILL to everything that is still part of the attempt."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    command = command_of(world, job.task, job.lease)
    if command is not None:
        world = without_process(world, command.name)
    if wrapper is not None and job.because == "stale":
        world = without_process(world, wrapper.name)
    elif wrapper is not None and wrapper.at == "watch":
        world = with_process(world, wrapper._replace(at="write result", outcome="failed"))
    tick = tick._replace(is_changed=True)
    return [("sends SIGKILL to the whole tree", _next_job(world, tick, rules))]


_STEPS: dict[str, Callable[[World, Tick, Rules, Scenario], Steps]] = {
    "lock": _lock,
    "wish": _wish,
    "lock again": _lock_again,
    "forget kick": _forget_kick,
    "look": _look,
    "open lock": _open_lock,
    "take lock": _take_lock,
    "verify lock": _verify_lock,
    "read again": _read_again,
    "write ledger": _write_ledger,
    "tell source": _tell_source,
    "remove lease": _remove_lease,
    "remove cancel request": _remove_cancel,
    "remove result": _remove_result,
    "remove lock": _remove_lock,
    "close lock": _close_lock,
    "create lease": _create_lease,
    "claim": _claim,
    "spawn": _spawn,
    "remember": _remember,
    "last look": _last_look,
    "signal": _signal,
    "kill": _kill,
    "unlock": _unlock,
    "look for kick": _look_for_kick,
    "sleep": _sleep,
}
