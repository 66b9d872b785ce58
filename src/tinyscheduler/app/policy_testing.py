"""Does a policy decide as its fixtures say?  Asked in its real confinement, case by case."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.app.policy_fixtures import fixture_beside, read_fixtures
from tinyscheduler.config.inputs import fault_in_path
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import NotFoundError, PolicyError
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tinyscheduler.app.policy_fixtures import FixtureCase
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.policy.context import Answer

# What counts is CPU time.  That a machine is busy is no fault of a policy that is tested.
_PATIENCE_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Something that came otherwise than expected, a line for each decision or list."""

    what: str
    expected: tuple[str, ...]
    came: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """How a case went; ``log`` is what the policy said meanwhile, level and text."""

    case: FixtureCase
    mismatches: tuple[Mismatch, ...]
    log: tuple[tuple[str, str], ...] = ()

    @property
    def is_passed(self) -> bool:
        """Whether all came as expected."""
        return not self.mismatches


def find_cases(policy: str, fixture: str | None) -> tuple[str, tuple[FixtureCase, ...]]:
    """Return the file of a policy's fixtures, beside it unless one is named, and its cases.

    Raises NotFoundError if there is no such policy or file, ConfigError if the file is wrong.
    """
    if fault_in_path(policy) or not os.path.exists(policy):
        raise NotFoundError(f"there is no file {quote(policy)}", hint="give the path of a policy")
    path = fixture_beside(policy) if fixture is None else fixture
    return path, read_fixtures(path)


def run_cases(config: Config, policy: str, cases: Iterable[FixtureCase]) -> Iterator[CaseResult]:
    """Ask a policy about each case in a process of its own, and yield how that went.

    Whatever is wrong with the policy is how its cases go.
    """
    settings = replace(
        config.policy,
        path=os.path.abspath(policy),
        wall_ms=max(config.policy.wall_ms, _PATIENCE_MS),
    )
    for case in cases:
        own = ConfinedPolicy(settings, base=config.paths.base, start_ms=_PATIENCE_MS)
        try:
            proposals = own.propose(case.context)
        except PolicyError as error:
            yield CaseResult(case=case, mismatches=tuple(_after_fault(case, error)), log=error.log)
        else:
            answer = own.answers[-1]
            mismatches = tuple(_compare(case, answer, proposals))
            yield CaseResult(case=case, mismatches=mismatches, log=answer.log)
        finally:
            own.close()


def _after_fault(case: FixtureCase, error: PolicyError) -> Iterator[Mismatch]:
    expected = case.expect.fault
    if expected == error.cause:
        return
    hint = f" ({error.hint})" if error.hint else ""
    yield Mismatch(
        what="fault",
        expected=("none" if expected is None else expected,),
        came=(f"{error.cause}: {error.what}{hint}",),
    )


def _compare(
    case: FixtureCase, answer: Answer, proposals: Sequence[Proposal]
) -> Iterator[Mismatch]:
    expect = case.expect
    if expect.fault is not None:
        yield Mismatch(what="fault", expected=(expect.fault,), came=("none",))
    if expect.decisions is not None:
        came = answer.decisions
        is_same = len(came) == len(expect.decisions) and all(map(_is_met, expect.decisions, came))
        if not is_same:
            yield Mismatch(
                what="decisions",
                expected=tuple(map(_words_of, expect.decisions)),
                came=tuple(
                    _words_of(_as_expected(one, at, expect.decisions))
                    for at, one in enumerate(came)
                ),
            )
    started = tuple(proposal.task.task_id for proposal in proposals)
    if expect.starts is not None and expect.starts != started:
        yield Mismatch(what="starts", expected=(_list(expect.starts),), came=(_list(started),))
    if expect.waits is not None:
        not_waiting = [one for one in expect.waits if one in started]
        if not_waiting:
            waiting = [one for one in expect.waits if one not in started]
            yield Mismatch(what="waits", expected=(_list(expect.waits),), came=(_list(waiting),))


def _is_met(expected: Mapping[str, Any], came: Mapping[str, Any]) -> bool:
    return expected.items() <= came.items()


def _as_expected(
    decision: Mapping[str, Any], at: int, expected: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return of a decision what matters: as expected where it is, else beside its counterpart."""
    near = expected[at : at + 1]
    for one in (*near, *expected):
        if _is_met(one, decision):
            return one
    names = {"action", "job_id", *(near[0] if near else decision)}
    return {name: value for name, value in decision.items() if name in names}


def _words_of(decision: Mapping[str, Any]) -> str:
    """Return a decision in a line, what it does and to what before the rest."""
    first = ("action", "job_id")
    names = [name for name in first if name in decision]
    names += sorted(name for name in decision if name not in first)
    return " ".join(f"{name}={_value(decision[name])}" for name in names) or "any"


def _value(value: object) -> str:
    text = str(value)
    if isinstance(value, dict):
        return "{" + _words_of(value) + "}"
    return quote(text) if " " in text or not text else text


def _list(ids: Iterable[str]) -> str:
    return f"[{', '.join(ids)}]"
