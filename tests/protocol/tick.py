"""The steps of a tick, each as atomic as one system call or one SQL statement.

DESIGN.md 5.1 is `lock` to `forget kick` and `unlock` to `look for kick`; 5.2 is `look`; 5.3 to
5.7 is `judge`; section 4's seven steps and the table of reclaims are the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.protocol.world import (
    NO_INODE,
    NO_LEASE,
    NOBODY,
    Job,
    Lease,
    Row,
    Sighting,
    Tick,
    Wrapper,
    command_of,
    find,
    fresh_inode,
    hold,
    is_held,
    is_lock_held,
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
    from tests.protocol.world import Task, World

Steps = list[tuple[str, "World"]]

# What gives something back or ends something: afterwards the tick looks again.
_CHANGING = {"settle", "reclaim", "repair", "sweep", "end"}


class Evidence(NamedTuple):
    """What `/proc` shows of an attempt."""

    wrapper_lives: bool
    is_stale: bool
    survivors: bool


def steps_of_tick(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    """Return every next step, with the world that follows."""
    return _STEPS[tick.at](world, tick, rules, scenario)


# The tick lock: DESIGN.md 5.1


def _lock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """flock the pidfile without waiting."""
    world = promise(world)
    if world.ticking == NOBODY:
        world = world._replace(ticking=tick.name)
        return [("locks the pidfile", _go(world, tick, "forget kick"))]
    return [("finds the pidfile locked", _go(world, tick, "wish"))]


def _wish(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Create `kick`: the holder may have looked before what we came for."""
    world = world._replace(kick=True)
    if not rules.tries_again_after_kick:
        return [("creates kick and leaves", _leave(world, tick))]
    return [("creates kick", _go(world, tick, "lock again"))]


def _lock_again(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Try once more: the holder may have looked for `kick` just before we created it."""
    if world.ticking == NOBODY:
        world = world._replace(ticking=tick.name)
        return [("locks the pidfile", _go(world, tick, "forget kick"))]
    return [("finds the pidfile locked and leaves", _leave(world, tick))]


def _forget_kick(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Unlink `kick` before anything is read."""
    return [("unlinks kick", _look_anew(world._replace(kick=False), tick))]


def _unlock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    # A tick whose pidfile was removed under it unlocks a file that nobody sees.
    if world.ticking == tick.name:
        world = world._replace(ticking=NOBODY)
    if rules.looks_for_kick == "after unlocking":
        return [("unlocks the pidfile", _go(world, tick, "look for kick"))]
    return [("unlocks the pidfile", _leave(world, tick))]


def _look_for_kick(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    if world.kick:
        if rules.looks_for_kick == "before unlocking":
            return [("finds kick", _go(world, tick, "forget kick"))]
        return [("finds kick", _go(world, tick, "lock"))]
    if rules.looks_for_kick == "before unlocking":
        return [("finds no kick", _go(world, tick, "unlock"))]
    return [("finds no kick and leaves", _leave(world, tick))]


def _sleep(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """A daemon between two ticks: inotify wakes it when `kick` is created."""
    if not world.kick:
        return []
    return [("is woken by kick", _go(world, tick, "lock"))]


def _leave(world: World, tick: Tick) -> World:
    """End the tick; a daemon's process goes on."""
    if world.daemon == tick.name:
        return _go(world, tick, "sleep")
    return without_process(world, tick.name)


# Looking: DESIGN.md 5.2


def _look(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    """Read one kind of thing of all tasks; after the last, judge."""
    what = rules.looks[len(tick.seen)]
    tick = tick._replace(seen=(*tick.seen, _SEES[what](world)))
    if len(tick.seen) < len(rules.looks):
        return [(f"looks at the {what}", with_process(world, tick))]
    seen = dict(zip(rules.looks, tick.seen, strict=True))
    agenda = tuple(_plan(world, seen, rules, scenario))
    tick = tick._replace(seen=(), agenda=(Job("look", 0), *agenda), is_changed=False)
    words = ", ".join(f"{job.verb} {world.tasks[job.task].name}" for job in agenda) or "nothing"
    return [(f"looks at the {what} and plans: {words}", _next_job(world, tick, rules))]


def _see_processes(world: World) -> tuple[tuple[Evidence, ...], ...]:
    """Look at /proc once: for each task, by lease number, what lives of it."""
    return tuple(
        tuple(_evidence(world, index, lease) for lease in range(task.leases + 1))
        for index, task in enumerate(world.tasks)
    )


_SEES: dict[str, Callable[[World], tuple[object, ...]]] = {
    # By inode in /proc/locks: looking must never hold a lock.
    "locks": lambda world: tuple(
        "none" if not task.lock else "held" if is_lock_held(task) else "free"
        for task in world.tasks
    ),
    "leases": lambda world: tuple(task.lease for task in world.tasks),
    "results": lambda world: tuple(frozenset(of for of, _ in task.results) for task in world.tasks),
    "source": lambda world: tuple(task.row for task in world.tasks),
    "processes": _see_processes,
}


def _evidence(world: World, index: int, lease: int) -> Evidence:
    wrapper = wrapper_of(world, index, lease)
    return Evidence(
        # A wrapper that has let go is none any more: it may be a tick by now, perhaps this one.
        wrapper_lives=wrapper is not None and wrapper.at in _HOLDING,
        is_stale=wrapper is not None and wrapper.is_stale,
        survivors=command_of(world, index, lease) is not None,
    )


_HOLDING = {"write running", "look for cancel", "go", "watch", "write result", "close lock"}


def _plan(world, seen, rules: Rules, scenario: Scenario) -> list[Job]:
    """Judge what is there, then give what is free to who waits."""
    jobs: list[Job] = []
    used = 0
    for index, task in enumerate(world.tasks):
        todo, keeps_slot = _judge(index, task, seen, rules)
        jobs += todo
        used += keeps_slot
    for index, row in enumerate(seen["source"]):
        leased = seen["leases"][index] is not None or seen["locks"][index] == "held"
        if row.state == "waiting" and not leased and used < scenario.slots:
            used += 1
            jobs.append(Job("start", index, attempt=row.attempt))
    return jobs


def _judge(index: int, task: Task, seen, rules: Rules) -> tuple[list[Job], bool]:
    """Return what to do about one task, and whether it occupies its slot meanwhile."""
    lock, lease, results = (seen[what][index] for what in ("locks", "leases", "results"))
    row: Row = seen["source"][index]
    claim = row.lease if row.state == "working" else NO_LEASE
    current = lease.lease if lease is not None else claim
    # A lease created after we looked at the processes cannot be judged by that look.
    known = seen["processes"][index]
    evidence = known[current] if current < len(known) else Evidence(True, False, False)
    # Results of other leases: a crash came between removing lease and result.
    jobs = [Job("settle", index, of) for of in sorted(results) if of != current]
    if not current:
        if lock == "free" and not jobs:
            jobs.append(Job("sweep", index))
        return jobs, lock == "held"
    job, keeps_slot = _judge_attempt(index, current, lock, lease, evidence, results, task, rules)
    return [*jobs, *([job] if job else [])], keeps_slot


def _judge_attempt(index, current, lock, lease, evidence, results, task, rules: Rules):
    """The table of DESIGN.md section 4, row by row."""
    if lock != "held":
        looks = rules.looks_for_survivors
        if current in results:
            looks = rules.looks_for_survivors_of_results
        if looks and evidence.survivors:
            return Job("end", index, current, because="survivors"), True
        if current in results:
            return Job("settle", index, current), False
        if lease is None:
            return Job("repair", index, current), False
        return Job("reclaim", index, current, because=lease.state), True
    # The pid of a wrapper that is only starting is not known yet, so nothing says it is dead.
    if not evidence.wrapper_lives and (lease is None or lease.state == "running"):
        if lease is None and current not in results:
            return None, True
        return Job("end", index, current, because="leftover"), True
    if lease is None or not evidence.is_stale:
        return None, True
    if task.sighting is not None and task.sighting.lease == current:
        if task.sighting.is_old:
            return Job("end", index, current, because="stale"), True
        return None, True
    if rules.sightings == 1:
        return Job("end", index, current, because="stale"), True
    return Job("suspect", index, current), True


# The agenda


def _go(world: World, tick: Tick, at: str) -> World:
    return with_process(world, tick._replace(at=at))


def _look_anew(world: World, tick: Tick) -> World:
    return with_process(
        world, tick._replace(at="look", seen=(), agenda=(), inode=NO_INODE, is_changed=False)
    )


def _next_job(world: World, tick: Tick, rules: Rules) -> World:
    """Close the task lock and turn to the next job; after changes, look again before starting."""
    job = tick.agenda[0]
    if tick.inode != NO_INODE:
        world = with_task(world, job.task, let_go(world.tasks[job.task], tick.name))
    agenda = tick.agenda[1:]
    tick = tick._replace(agenda=agenda, inode=NO_INODE)
    if tick.is_changed and (not agenda or agenda[0].verb not in _CHANGING | {"suspect"}):
        return _look_anew(world, tick)
    if not agenda:
        before = "look for kick" if rules.looks_for_kick == "before unlocking" else "unlock"
        return _go(world, tick, before)
    match agenda[0].verb:
        case "suspect":
            return _go(world, tick, "remember")
        case "end":
            return _go(world, tick, "last look" if agenda[0].because == "stale" else "kill")
        case "start" if not rules.locks_before_leasing:
            return _go(world, tick, "create lease")
        case "start":
            return _go(world, tick, "open lock")
        case _ if not rules.writes_under_lock:
            return _go(world, tick, "read again")
        case _:
            return _go(world, tick, "open lock")


def _close_lock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    if tick.agenda[0].verb in _CHANGING:
        tick = tick._replace(is_changed=True)
    return [("closes the task lock", _next_job(world, tick, rules))]


# The task lock


def _open_lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """open(O_CREAT)."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    inode = task.lock or fresh_inode(world, index)
    world = with_task(world, index, task._replace(lock=inode))
    return [("opens the task lock", _go(world, tick._replace(inode=inode), "take lock"))]


def _take_lock(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """flock without waiting; held means that somebody newer is at it."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    if is_held(task, tick.inode):
        return [("finds the task lock held", _next_job(world, tick, rules))]
    world = with_task(world, index, hold(task, tick.inode, tick.name))
    at = "verify lock" if rules.verifies_inode else "read again"
    return [("takes the task lock", _go(world, tick, at))]


def _verify_lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """fstat(fd) == stat(path), or somebody unlinked what we locked."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    if task.lock == tick.inode:
        return [("sees that it is the one", _go(world, tick, "read again"))]
    world = with_task(world, index, let_go(task, tick.name))
    return [("sees another lock", _go(world, tick._replace(inode=NO_INODE), "open lock"))]


def _read_again(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Read lease, result and claim under the lock: is it still what was judged?"""
    job = tick.agenda[0]
    task = world.tasks[job.task]
    results = {lease for lease, _ in task.results}
    lease = task.lease
    is_ours = (task.row.state, task.row.lease) == ("working", job.lease)
    holds = {
        "settle": job.lease in results,
        "reclaim": lease is not None
        and (lease.lease, lease.state) == (job.lease, job.because)
        and job.lease not in results,
        "repair": lease is None and job.lease not in results and is_ours,
        "sweep": lease is None and not results,
        "start": lease is None,
    }[job.verb]
    if rules.reads_again and not holds:
        return [("reads again: it changed", _go(world, tick, "close lock"))]
    at = _FIRST_STEP[job.verb]
    if job.verb == "reclaim" and rules.reads_again and not is_ours:
        at = "remove lease"  # the claim was refused or is told already: there is only to tidy up
    elif at == "write ledger" and _ending(task, job) == "never started":
        at = "tell source"
    return [("reads again", _go(world, tick, at))]


# Settle and reclaim: DESIGN.md section 4, step 7 and the table


# A result is told and then noted; a loss is noted first, for a lost lease leaves no trace that
# the note is still missing.
_FIRST_STEP = {
    "settle": "tell source",
    "reclaim": "write ledger",
    "repair": "write ledger",
    "sweep": "remove lock",
    "start": "create lease",
}


def _tell_source(world: World, tick: Tick, rules: Rules, scenario: Scenario) -> Steps:
    """One compare-and-set on (working, lease_id)."""
    job = tick.agenda[0]
    task = world.tasks[job.task]
    ending = _ending(task, job)
    words = f"tells the source that lease {job.lease} {ending}"
    world = tell(world, job.task, job.lease, ending, rules, scenario)
    at = "write ledger" if job.verb == "settle" else "remove lease"
    return [(words, _go(world, tick, at))]


def _ending(task: Task, job: Job) -> str:
    if job.verb == "settle":
        return dict(task.results).get(job.lease, "vanished")
    if job.verb == "unlaunch" or job.because == "starting":
        return "never started"
    return "died"


def tell(
    world: World, index: int, lease: int, ending: str, rules: Rules, scenario: Scenario
) -> World:
    """Change the row if it is still claimed by this lease."""
    task = world.tasks[index]
    row = task.row
    if (row.state, row.lease) != ("working", lease):
        if rules.tells_by_comparing:
            return world
        world = world._replace(wrong="a task is settled under a lease that is not its claim")
    if ending in ("died", "never started") and lease in dict(task.results):
        world = world._replace(wrong="a recorded result is run again")
    if ending == "never started" and lease in task.ran:
        world = world._replace(wrong="an attempt that ran is not counted")
    state, attempt = row.state, row.attempt
    if ending == "succeeded":
        state = "done"
    elif ending == "cancelled" or row.cancel:
        state = "cancelled"
    elif ending == "never started":
        state = "waiting"
    elif row.attempt == scenario.most_attempts:
        state = "parked"
    else:
        state, attempt = "waiting", row.attempt + 1
    # Whoever gives it back looks again before it leaves.
    waits = state == "waiting"
    task = task._replace(row=Row(state, attempt), is_promised=waits)
    return with_task(world, index, task)


def _write_ledger(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Insert one row; a second one for the same lease changes nothing."""
    job = tick.agenda[0]
    world = write_ledger(world, job.task, job.lease, _ending(world.tasks[job.task], job))
    at = "remove lease" if job.verb == "settle" else "tell source"
    return [("writes the ledger", _go(world, tick, at))]


def write_ledger(world: World, index: int, lease: int, ending: str) -> World:
    task = world.tasks[index]
    known = dict(task.ledger)
    if lease not in known:
        known[lease] = ending
        return with_task(world, index, task._replace(ledger=tuple(sorted(known.items()))))
    if known[lease] != ending:
        return world._replace(wrong="the ledger tells two stories of one attempt")
    return world


def _remove_lease(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    world = remove_lease(world, job.task, job.lease, rules)
    return [("removes the lease", _go(world, tick, "remove cancel request"))]


def remove_lease(world: World, index: int, lease: int, rules: Rules) -> World:
    task = world.tasks[index]
    if task.lease is None:
        return world
    if task.lease.lease != lease:
        if rules.removes_only_its_own:
            return world
        world = world._replace(wrong="the lease of another attempt is removed")
    return with_task(world, index, world.tasks[index]._replace(lease=None))


def _remove_cancel(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    task = world.tasks[job.task]
    world = with_task(world, job.task, task._replace(cancels=task.cancels - {job.lease}))
    return [("removes the cancel request", _go(world, tick, "remove result"))]


def _remove_result(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    world = remove_result(world, job.task, job.lease)
    at = "remove lock" if rules.locks_before_leasing and rules.writes_under_lock else "close lock"
    return [("removes the result", _go(world, tick, at))]


def remove_result(world: World, index: int, lease: int) -> World:
    task = world.tasks[index]
    left = tuple(result for result in task.results if result[0] != lease)
    return with_task(world, index, task._replace(results=left))


def _remove_lock(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """Unlink the path; only who holds the flock does, and only if no lease is left."""
    index = tick.agenda[0].task
    task = world.tasks[index]
    if task.lease is None:
        world = with_task(world, index, task._replace(lock=NO_INODE))
    return [("unlinks the task lock", _go(world, tick, "close lock"))]


# Starting: DESIGN.md section 4, steps 1 to 3


def _create_lease(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    task = world.tasks[job.task]
    if task.lease is not None:
        world = world._replace(wrong="a lease is created over another")
    lease = Lease(task.leases + 1, job.attempt, "starting")
    world = with_task(world, job.task, task._replace(lease=lease, leases=lease.lease))
    tick = tick._replace(agenda=(job._replace(lease=lease.lease), *tick.agenda[1:]))
    return [(f"creates lease {lease.lease}", _go(world, tick, "claim"))]


def _claim(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """One compare-and-set waiting -> working(lease_id)."""
    job = tick.agenda[0]
    task = world.tasks[job.task]
    row = task.row
    fits = row.attempt == job.attempt or not rules.claims_by_attempt
    if row.state != "waiting" or not fits:
        tick = tick._replace(agenda=(job._replace(verb="unclaim"), *tick.agenda[1:]))
        return [("is refused the claim", _go(world, tick, "remove lease"))]
    world = with_task(
        world, job.task, task._replace(row=Row("working", row.attempt, job.lease), is_promised=False)
    )
    return [("claims the task", _go(world, tick, "spawn"))]


def _spawn(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """posix_spawn: the wrapper inherits the description of the lock; we close our copy after."""
    job = tick.agenda[0]
    task = world.tasks[job.task]
    name = f"wrapper {task.name}{job.lease}"
    found: Steps = []
    if world.budget.launch_failures:
        budget = world.budget._replace(launch_failures=world.budget.launch_failures - 1)
        failed = tick._replace(agenda=(job._replace(verb="unlaunch"), *tick.agenda[1:]))
        found.append(
            ("cannot spawn", _go(world._replace(budget=budget), failed, "tell source"))
        )
    at = "write running" if rules.locks_before_leasing else "open lock"
    wrapper = Wrapper(name, at, job.task, job.lease, job.attempt)
    started = with_task(world, job.task, share(task, tick.inode, tick.name, name))
    found.append((f"spawns {name}", _go(with_process(started, wrapper), tick, "close lock")))
    return found


# Ending a tree


def _remember(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    job = tick.agenda[0]
    task = world.tasks[job.task]
    wrapper = wrapper_of(world, job.task, job.lease)
    # What is remembered is the value that was read; a beat since then makes it worthless.
    sighting = Sighting(job.lease) if wrapper is not None and wrapper.is_stale else None
    world = with_task(world, job.task, task._replace(sighting=sighting))
    return [("remembers a stale heartbeat", _next_job(world, tick, rules))]


def beat(world: World, wrapper: Wrapper) -> World:
    """Renew a heartbeat: what was remembered of the old one is void."""
    task = world.tasks[wrapper.task]
    if task.sighting is not None:
        world = with_task(world, wrapper.task, task._replace(sighting=None))
    return with_process(world, wrapper._replace(is_stale=False))


def _last_look(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """Wait a moment, in which a wrapper that runs beats, and look once more."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    if rules.looks_once_more and wrapper is not None:
        if not wrapper.is_stopped:
            world = beat(world, wrapper)
        if not wrapper.is_stopped or not wrapper.is_stale:
            return [("waits and sees a heartbeat", _next_job(world, tick, rules))]
    return [("is sure that it is stale", _go(world, tick, "signal"))]


def _signal(world: World, tick: Tick, _rules: Rules, _scenario: Scenario) -> Steps:
    """SIGTERM to the wrapper."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    if wrapper is not None:
        if not wrapper.was_stopped:
            world = world._replace(wrong="a healthy attempt is ended")
        world = with_process(world, wrapper._replace(is_told=True))
    return [("sends SIGTERM", _go(world, tick, "kill"))]


def _kill(world: World, tick: Tick, rules: Rules, _scenario: Scenario) -> Steps:
    """SIGKILL to all that still belongs to the attempt."""
    job = tick.agenda[0]
    wrapper = wrapper_of(world, job.task, job.lease)
    if wrapper is not None and job.because == "stale":
        world = without_process(world, wrapper.name)
    command = command_of(world, job.task, job.lease)
    if command is not None:
        world = without_process(world, command.name)
        wrapper = wrapper_of(world, job.task, job.lease)
        if wrapper is not None and wrapper.at == "watch":
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
    "tell source": _tell_source,
    "write ledger": _write_ledger,
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
