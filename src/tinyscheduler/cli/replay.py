"""``replay``: what did a tick decide, on what, and is the same decided today?"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from tinyscheduler import __version__
from tinyscheduler.cli.invocation import NORMAL, Invocation
from tinyscheduler.cli.options import argument, option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import (
    Ink,
    Page,
    Row,
    count,
    emit,
    emit_json,
    escape,
    format_table,
    format_when,
    wrap,
)
from tinyscheduler.config.problems import quote
from tinyscheduler.core.replay import subject_of, tell
from tinyscheduler.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    NotFoundError,
    TinySchedulerError,
    UsageError,
)
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.plan import AwaitSource, Dispatch, Keep, Settle, SettleUnreadable, Wait
from tinyscheduler.model.resources import format_size
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    import typer

    from tinyscheduler.app.replaying import Replay, Replayer
    from tinyscheduler.core.replay import Difference
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.rounds import Round
    from tinyscheduler.ports import Recorder

LATEST, STDIN = "latest", "-"
DEFAULT_LIMIT = 20
_MOST_LISTED = 100_000
# Of waits, of tasks that wait for one reason, of ticks that an ambiguous beginning means.
_MOST_GROUPS, _MOST_IDS, _MOST_NAMED = 20, 5, 3
# An id is made of these alone; a file of such a name is written ./NAME.
_OF_IDS = frozenset("0123456789TZ.")
_MOST_BYTES = 256 << 20
_PLATFORM = "the platform policy"


def replay(
    context: typer.Context,
    tick: Annotated[
        str | None,
        argument(metavar="TICK", help="Its id or how that begins, latest, a file, or - for stdin."),
    ] = None,
    *,
    every: Annotated[bool, option("--all", help="Replay every tick that is kept.")] = False,
    by_policy: Annotated[
        str | None,
        option(
            "--policy",
            metavar="FILE",
            help="Decide again by this policy, or by `platform`, whichever decided then.",
        ),
    ] = None,
    listing: Annotated[bool, option("--list", help="List the ticks that are kept.")] = False,
    limit: Annotated[
        int | None,
        option(
            parser=whole_number(least=1, most=_MOST_LISTED),
            metavar="N",
            help="With --list: at most so many, the newest.",
        ),
    ] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show what a tick decided, and decide it again.

    On what it saw then, with the rules of this version and the very policy that decided: one of
    your own is found by its hash, in POLICY_FILE and among the versions that are kept. Ends with
    0 if the plan is the same, with 1 if it differs, and says where. Ticks that changed something
    are kept, the newest thousand rounds of them.
    """
    invocation: Invocation = context.obj
    if [tick is not None, every, listing].count(True) != 1:
        raise UsageError(
            "which tick? an id, latest, a file, or one of --all and --list",
            hint="`tinyscheduler replay --list` shows which are kept",
        )
    if limit is not None and not listing:
        raise UsageError("--limit goes with --list", hint="leave it out")
    if listing and by_policy is not None:
        raise UsageError("--policy does not go with --list", hint="leave one of them out")
    asked = _Asked(
        invocation=invocation,
        configure=cache(invocation.configure_reading),
        policy=by_policy,
        as_json=json,
    )
    if listing:
        return _list(asked, limit or DEFAULT_LIMIT)
    if every:
        return _replay_all(asked)
    return _replay_one(asked, _find_rounds(asked, tick or ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command line says; ``configure`` is asked where something here is needed."""

    invocation: Invocation
    configure: Callable[[], Config]
    policy: str | None
    as_json: bool

    def recorder(self) -> Recorder:
        """Return what keeps ticks."""
        from tinyscheduler.adapters.rounds_file import FileRecorder

        return FileRecorder(self.configure().paths)

    @contextmanager
    def replayer(self) -> Iterator[Replayer]:
        """Yield what decides again."""
        from tinyscheduler.app.replaying import Replayer

        one = Replayer(self.configure, wanted=self.policy)
        try:
            yield one
        finally:
            one.close()


# -- which rounds ---------------------------------------------------------------------


def _find_rounds(asked: _Asked, tick: str) -> Sequence[Round]:
    """Return the rounds that were asked for; NotFoundError if there are none."""
    from tinyscheduler.adapters.rounds_file import parse_rounds

    if tick == STDIN:
        return parse_rounds(_read(tick), where="stdin")
    if tick != LATEST and not _OF_IDS.issuperset(tick):
        return parse_rounds(_read(tick), where=tick)
    recorder = asked.recorder()
    tick_id = _find_id(tick, recorder.ticks())
    rounds = recorder.rounds(tick_id)
    if not rounds:
        # It has made room between two looks.
        raise _unknown_tick(tick_id)
    return rounds


def _read(name: str) -> bytes:
    try:
        if name == STDIN:
            content = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with open(name, "rb") as file:
                content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no file {quote(name)}",
            hint="an id begins with a digit; `tinyscheduler replay --list` shows them",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot read {quote(name)}: {reason}", hint="name a file, or - for stdin"
        ) from error
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"{quote(name)} is larger than {_MOST_BYTES >> 20} MiB", hint="replay it in parts"
        )
    return content


def _find_id(text: str, known: Sequence[str]) -> str:
    """Return the only id that begins like this; NotFoundError or UsageError else."""
    if text == LATEST:
        if not known:
            raise NotFoundError(
                "no tick is kept yet", hint="ticks that start or settle something are, from now on"
            )
        return known[-1]
    found = [one for one in known if one.startswith(text)]
    if len(found) > 1 and text not in found:
        named = ", ".join(found[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")
        raise UsageError(
            f"the ids of {len(found)} ticks begin with {quote(text)}",
            hint=f"write more of it: {named}",
        )
    if not found:
        raise _unknown_tick(text)
    return text if text in found else found[0]


def _unknown_tick(text: str) -> NotFoundError:
    return NotFoundError(
        f"no tick is kept whose id begins with {quote(text)}",
        hint="`tinyscheduler replay --list` shows which are",
    )


# -- one tick -------------------------------------------------------------------------


def _replay_one(asked: _Asked, rounds: Sequence[Round]) -> int:
    invocation = asked.invocation
    with asked.replayer() as replayer:
        replays = [replayer.replay(one) for one in rounds]
    is_same = all(one.is_same for one in replays)
    if asked.as_json:
        emit_json(same=is_same, program=__version__, rounds=[_replay_json(one) for one in replays])
    else:
        blocks = ["\n".join(_replay_lines(one, invocation, of=len(replays))) for one in replays]
        emit("\n\n".join(blocks))
    for place in dict.fromkeys(place for one in rounds for place in one.unknown):
        invocation.warn(f"this version knows nothing of {place}, and went on without it")
    return EXIT_DONE if is_same else EXIT_FAILED


def _replay_lines(one: Replay, invocation: Invocation, *, of: int) -> list[str]:
    """Return what was decided, and whether it is decided again."""
    page, is_verbose = invocation.page, invocation.verbosity > NORMAL
    kept = one.round
    number = f", round {kept.number}" if of > 1 else ""
    head = f"tick {kept.tick_id}{number}"
    lines = [page.paint(escape(head), Ink.BOLD)]
    told = [_sight(kept), *_decider_lines(kept), *_order_lines(kept, is_verbose=is_verbose)]
    lines += [piece for line in told for piece in wrap(f"  {escape(line)}", page)]
    lines += _wait_lines(kept, page, is_verbose=is_verbose)
    verdict, ink = ("the same plan", Ink.GREEN) if one.is_same else ("the plan differs", Ink.YELLOW)
    words = f"decided again{_by_words(one)}: {verdict}"
    lines += [page.paint(piece, ink) for piece in wrap(escape(words), page)]
    for difference in one.differences:
        lines += wrap(f"  {escape(_difference_words(difference))}", page)
    told = [*([] if one.is_same else [_provenance(one)]), *one.notes]
    return [*lines, *(piece for line in told for piece in wrap(escape(line), page))]


def _decider_lines(kept: Round) -> Iterator[str]:
    """Say which policy decided, where it was not simply the platform's."""
    by = kept.decided_by
    who = _PLATFORM if by.version is None else f"{by.name}, version {by.version},"
    if by.instead_of is not None:
        failed = by.instead_of
        yield f"{who} decided, for {_named(failed.name, failed.version)} failed ({failed.cause})"
    elif by.version is not None:
        yield f"{who} decided"


def _by_words(one: Replay) -> str:
    """Say by which policy it was decided again; nothing where that goes without saying."""
    by = one.round.decided_by
    if one.policy is None or (one.policy == by.name == "platform" and by.instead_of is None):
        return ""
    if one.version is None:
        return f" by {_PLATFORM}"
    if one.version != by.version:
        return f" by {_named(one.policy, one.version)}"
    return f" by {one.policy}" + ("" if one.policy == by.name else ", the same version")


def _named(policy: str, version: str | None) -> str:
    return policy if version is None else f"{policy}, version {version}"


def _sight(kept: Round) -> str:
    """Say in one line what a tick saw."""
    snapshot = kept.snapshot
    host, gpus = snapshot.host, snapshot.gpus
    waiting = sum(source.waiting_total for source in snapshot.sources)
    free, total = map(format_size, (host.memory_available_bytes, host.memory_total_bytes))
    parts = [
        f"{kept.plan.slots_in_use} of {snapshot.rules.host_slots} slots in use",
        f"{waiting} waiting",
        f"{free} of {total} of memory free",
        *([count(len(gpus.gpus), "GPU")] if gpus is not None and gpus.gpus else []),
        *(f"source {source.name} down" for source in snapshot.sources if not source.is_up),
    ]
    return f"it saw {', '.join(parts)}"


def _order_lines(kept: Round, *, is_verbose: bool) -> Iterator[str]:
    """Tell what was to be done; of what was left alone only if at length."""
    for verdict in kept.plan.verdicts:
        if is_verbose or not isinstance(verdict, Keep | AwaitSource):
            yield f"{subject_of(verdict)[0]}: {tell(verdict)}"
    for decision in kept.plan.decisions:
        if isinstance(decision, Dispatch):
            yield f"{subject_of(decision)[0]}: {tell(decision)}"


def _wait_lines(kept: Round, page: Page, *, is_verbose: bool) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for decision in kept.plan.decisions:
        if isinstance(decision, Wait):
            key = (decision.reason.value, decision.words)
            groups.setdefault(key, []).append(decision.task.task_id)
    shown = list(groups.items())[: None if is_verbose else _MOST_GROUPS]
    rows = [
        [reason, _ids_words(ids, is_verbose=is_verbose), words] for (reason, words), ids in shown
    ]
    lines = format_table(["WAITING", "TASKS", "BECAUSE"], rows, page) if rows else []
    hidden = sum(len(ids) for ids in list(groups.values())[len(shown) :])
    if hidden:
        lines.append(f"… and {count(hidden, 'task')} for other reasons; -v shows all of them")
    return [f"  {line}" for line in lines]


def _ids_words(ids: Sequence[str], *, is_verbose: bool) -> str:
    shown = ids if is_verbose else ids[:_MOST_IDS]
    more = f" +{len(ids) - len(shown)}" if len(ids) > len(shown) else ""
    return " ".join(shown) + more


def _difference_words(one: Difference) -> str:
    return f"{one.what}: then {one.recorded}; now {one.derived}"


def _provenance(one: Replay) -> str:
    """Say by whom each of the two was decided."""
    by = one.round.decided_by
    now = (
        "no policy was asked" if one.policy is None else f"policy {_named(one.policy, one.version)}"
    )
    return (
        f"then by TinyScheduler {one.round.program}, policy {_named(by.name, by.version)};"
        f" now by {__version__}, {now}"
    )


def _replay_json(one: Replay) -> dict[str, Any]:
    kept = one.round
    by, failed = kept.decided_by, kept.decided_by.instead_of
    return {
        "tick_id": kept.tick_id,
        "round": kept.number,
        "at": format_time(kept.snapshot.now.wall),
        "program": kept.program,
        "policy": {
            "recorded": by.name,
            "recorded_version": by.version,
            "instead_of": None
            if failed is None
            else {"policy": failed.name, "version": failed.version, "cause": failed.cause},
            "derived": one.policy,
            "derived_version": one.version,
        },
        "notes": list(one.notes),
        "same": one.is_same,
        "differences": [
            {
                "what": difference.what,
                "task_id": difference.task_id,
                "recorded": difference.recorded,
                "derived": difference.derived,
            }
            for difference in one.differences
        ],
        "attempts": [
            {"task_id": subject_of(said)[2], "what": subject_of(said)[0], "words": tell(said)}
            for said in kept.plan.verdicts
        ],
        "starts": [
            {"task_id": said.task.task_id, "words": tell(said)}
            for said in kept.plan.decisions
            if isinstance(said, Dispatch)
        ],
        "waits": [
            {"task_id": said.task.task_id, "reason": said.reason.value, "words": said.words}
            for said in kept.plan.decisions
            if isinstance(said, Wait)
        ],
        "unknown": list(kept.unknown),
    }


# -- all ticks ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Damaged:
    """A tick of which something is kept that cannot be read or decided again, and why."""

    tick_id: str
    error: TinySchedulerError


def _each_tick(
    recorder: Recorder, ticks: Iterable[str]
) -> Iterator[tuple[str, Sequence[Round]] | _Damaged]:
    for tick_id in ticks:
        try:
            rounds = recorder.rounds(tick_id)
        except TinySchedulerError as error:
            yield _Damaged(tick_id=tick_id, error=error)
        else:
            if rounds:
                yield tick_id, rounds


def _replay_all(asked: _Asked) -> int:
    from tinyscheduler.app.replaying import PolicyGoneError

    recorder = asked.recorder()
    ticks, rounds = 0, 0
    differing: list[Replay] = []
    damaged: list[_Damaged] = []
    notes: dict[str, None] = {}
    with asked.replayer() as replayer:
        for found in _each_tick(recorder, recorder.ticks()):
            if isinstance(found, _Damaged):
                damaged.append(found)
                continue
            try:
                replays = [replayer.replay(one) for one in found[1]]
            except TinySchedulerError as error:
                damaged.append(_Damaged(tick_id=found[0], error=error))
                continue
            ticks, rounds = ticks + 1, rounds + len(replays)
            differing += [one for one in replays if not one.is_same]
            notes |= dict.fromkeys(note for one in replays for note in one.notes)
    gone = [one.error for one in damaged if isinstance(one.error, PolicyGoneError)]
    _tell_damaged(asked.invocation, [one for one in damaged if one.error not in gone])
    for missing, number in Counter(error.missing for error in gone).items():
        what = f"{count(number, 'tick')} cannot be decided again: {missing}"
        asked.invocation.fail(what, hint=gone[0].hint)
    if asked.as_json:
        emit_json(
            ticks=ticks,
            rounds=rounds,
            same=rounds - len(differing),
            program=__version__,
            differing=[_replay_json(one) for one in differing],
            damaged=[{"tick_id": one.tick_id, "message": one.error.what} for one in damaged],
        )
    else:
        page = asked.invocation.page
        emit("\n".join(_summary_lines(differing, page, ticks=ticks, rounds=rounds)))
        for note in notes:
            asked.invocation.note(note)
    return EXIT_FAILED if differing or damaged else EXIT_DONE


def _summary_lines(
    differing: Sequence[Replay], page: Page, *, ticks: int, rounds: int
) -> list[str]:
    lines = []
    for one in differing:
        head = f"tick {one.round.tick_id}, round {one.round.number}"
        for difference in one.differences:
            lines += wrap(escape(f"{head}: {_difference_words(difference)}"), page)
        lines += wrap(escape(f"{head}: {_provenance(one)}"), page)
    what = f"{count(ticks, 'tick')}, {count(rounds, 'round')}"
    same = rounds - len(differing)
    if not differing:
        verdict = "decided again, each the same" if rounds else "nothing to decide again"
        return [f"{what}: {verdict}"]
    return [*lines, f"{what}: {same} decided again the same, {len(differing)} not"]


def _tell_damaged(invocation: Invocation, damaged: Iterable[_Damaged]) -> None:
    for one in damaged:
        invocation.fail(one.error.what, hint=one.error.hint)


def _list(asked: _Asked, limit: int) -> int:
    invocation, recorder = asked.invocation, asked.recorder()
    ticks = recorder.ticks()
    found = list(_each_tick(recorder, ticks[-limit:]))
    kept = [one for one in found if not isinstance(one, _Damaged)]
    damaged = [one for one in found if isinstance(one, _Damaged)]
    _tell_damaged(invocation, damaged)
    if asked.as_json:
        emit_json(
            ticks=[_tick_json(tick_id, rounds) for tick_id, rounds in kept],
            damaged=[{"tick_id": one.tick_id, "message": one.error.what} for one in damaged],
        )
    elif kept:
        from tinyscheduler.adapters.clock_system import SystemClock

        now = SystemClock().now().wall
        rows = [_tick_row(tick_id, rounds, now) for tick_id, rounds in kept]
        head = ["TICK", "WHEN", "ROUNDS", "STARTS", "SETTLES", "OTHERS", "WAITS"]
        emit("\n".join(format_table(head, rows, invocation.page)))
    elif not damaged:
        invocation.note("no tick is kept yet")
    if len(ticks) > limit:
        invocation.note(f"only the newest {limit} are listed; --limit N lists more")
    return EXIT_FAILED if damaged else EXIT_DONE


def _counts(rounds: Sequence[Round]) -> dict[str, int]:
    """Count what was to be started and settled in a tick, and what else was to be done."""
    starts, settles, others = set(), set(), set()
    for one in rounds:
        starts |= {subject_of(said) for said in one.plan.decisions if isinstance(said, Dispatch)}
        for said in one.plan.verdicts:
            if isinstance(said, Settle | SettleUnreadable):
                settles.add(subject_of(said))
            elif not isinstance(said, Keep | AwaitSource):
                others.add(subject_of(said))
    waits = sum(isinstance(said, Wait) for said in rounds[-1].plan.decisions)
    return {
        "starts": len(starts),
        "settles": len(settles),
        "others": len(others),
        "waits": waits,
    }


def _tick_row(tick_id: str, rounds: Sequence[Round], now: datetime) -> Row:
    when = format_when(rounds[0].snapshot.now.wall, now=now)
    return [tick_id, when, str(len(rounds)), *map(str, _counts(rounds).values())]


def _tick_json(tick_id: str, rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "tick_id": tick_id,
        "at": format_time(rounds[0].snapshot.now.wall),
        "program": rounds[0].program,
        "policy": rounds[0].decided_by.name,
        "policy_version": rounds[0].decided_by.version,
        "rounds": len(rounds),
        **_counts(rounds),
    }
