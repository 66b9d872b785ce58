"""The verdict of the demo: was every promise kept?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tinyscheduler.adapters.launch_local.processes import Process, read_process
from tinyscheduler.cli.demo_stage import Part, Stage
from tinyscheduler.cli.render import count
from tinyscheduler.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise and whether it was kept; ``words`` say what was seen."""

    words: str
    is_kept: bool


def judge(stage: Stage) -> list[Check]:
    """Compare what happened with what was promised."""
    journal = stage.journal()
    return [
        _check_endings(stage),
        check_attempts(journal, dict(zip(stage.task_ids, stage.cast, strict=True))),
        check_overlaps(journal),
        check_order(journal, _blockers(stage)),
        _check_killed(stage),
        _check_leftovers(stage),
    ]


def _check_endings(stage: Stage) -> Check:
    states = [one.state for one in stage.standings()]
    wrong = [
        f"task {task_id} is {state}, not {part.ends}"
        for task_id, part, state in zip(stage.task_ids, stage.cast, states, strict=True)
        if state is not part.ends
    ]
    if wrong:
        return _broken(*wrong, stage.faults())
    tally = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    return _kept(f"{count(len(states), 'task')} ended as planned: {tally}")


def check_attempts(journal: Sequence[tuple[str, str, int]], parts: Mapping[str, Part]) -> Check:
    """Check that each command ran as often as planned, each time as the next attempt."""
    wrong = []
    for task_id, part in parts.items():
        ran = [attempt for what, task, attempt in journal if (what, task) == ("start", task_id)]
        if ran != list(range(1, part.attempts + 1)):
            wrong.append(f"task {task_id} ran as attempts {ran}, not 1 to {part.attempts}")
    if wrong:
        return _broken(*wrong)
    total = sum(part.attempts for part in parts.values())
    return _kept(f"{count(total, 'attempt')} ran, each exactly once")


def check_overlaps(journal: Sequence[tuple[str, str, int]]) -> Check:
    """Check that no attempt found a process of an earlier one alive."""
    wrong = [
        f"task {task_id}: attempt {attempt} began while another lived"
        for what, task_id, attempt in journal
        if what == "overlap"
    ]
    return _broken(*wrong) if wrong else _kept("no task had two attempts alive at once")


def check_order(
    journal: Sequence[tuple[str, str, int]], blockers: Mapping[str, Sequence[str]]
) -> Check:
    """Check that no task began before the last end of each task it waits for."""
    first_start: dict[str, int] = {}
    last_end: dict[str, int] = {}
    for place, (what, task_id, _) in enumerate(journal):
        if what == "start":
            first_start.setdefault(task_id, place)
        elif what == "end":
            last_end[task_id] = place
    wrong = [
        f"task {task_id} began before task {blocker} was done"
        for task_id, waits_for in blockers.items()
        for blocker in waits_for
        if first_start.get(task_id, len(journal)) < last_end.get(blocker, len(journal))
    ]
    return _broken(*wrong) if wrong else _kept("no task began before those it waits for")


def _check_killed(stage: Stage) -> Check:
    killed = stage.killed
    if killed is None:
        return _broken("no wrapper could be killed")
    alive = [one.pid for one in killed.processes if _lives(one)]
    if stage.reclaim_reasons != ["dead_pid"] or alive:
        reasons = ", ".join(stage.reclaim_reasons) or "nothing"
        return _broken(f"task {killed.task_id}: reclaimed for {reasons}; still alive: {alive}")
    number = len(killed.processes)
    return _kept(f"task {killed.task_id} was reclaimed; all {number} processes of it are gone")


def _check_leftovers(stage: Stage) -> Check:
    left = stage.leftovers()
    if left:
        return _broken("left over: " + ", ".join(left))
    return _kept("no lease, lock, result or process is left")


def _blockers(stage: Stage) -> dict[str, list[str]]:
    return {
        task_id: [stage.task_ids[place - 1] for place in part.after]
        for task_id, part in zip(stage.task_ids, stage.cast, strict=True)
    }


def _lives(process: Process) -> bool:
    again = read_process(process.pid)
    return again is not None and again.start_ticks == process.start_ticks


def _kept(words: str) -> Check:
    return Check(words=words, is_kept=True)


def _broken(*words: str) -> Check:
    return Check(words="; ".join(filter(None, words)), is_kept=False)
