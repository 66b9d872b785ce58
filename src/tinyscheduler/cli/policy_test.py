"""``policy test``: one line a case, and of a failed one what was expected and what came."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.render import Ink, count, emit, emit_json, escape
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.app.policy_testing import CaseResult, Mismatch
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.cli.render import Page


def test_policy(invocation: Invocation, policy: str, *, fixture: str | None, is_json: bool) -> int:
    """Run the fixtures of a policy; those beside it unless a file is named."""
    from tinyscheduler.app.policy_testing import find_cases, run_cases

    config = invocation.configure_apart()
    page = invocation.page
    path, cases = find_cases(policy, fixture)
    results = []
    for result in run_cases(config, policy, cases):
        results.append(result)
        if not is_json:
            # Each as it comes: there may be many.
            emit("\n".join(_lines(result, page)))
    failed = sum(not one.is_passed for one in results)
    if is_json:
        emit_json(
            policy=policy,
            fixture=path,
            cases=[_json(one) for one in results],
            passed=len(results) - failed,
            failed=failed,
        )
    else:
        verdict = f"{failed} failed" if failed else "all passed"
        ink = Ink.RED if failed else Ink.GREEN
        emit(f"{count(len(results), 'case')}: {page.paint(verdict, ink)}")
    return EXIT_FAILED if failed else EXIT_DONE


def _lines(result: CaseResult, page: Page) -> Iterator[str]:
    name = escape(result.case.name)
    if result.is_passed:
        yield f"{page.paint('ok', Ink.GREEN)}      {name}"
        return
    yield f"{page.paint('failed', Ink.RED)}  {name} ({escape(result.case.where)})"
    for mismatch in result.mismatches:
        yield f"    {mismatch.what}: - expected, + came"
        for line in _difference(mismatch):
            ink = {"-": Ink.RED, "+": Ink.GREEN}.get(line[0], Ink.PLAIN)
            yield "      " + page.paint(escape(line), ink)
    for level, text in result.log:
        yield f"    log {level}: {escape(text)}"


def _difference(mismatch: Mismatch) -> Iterator[str]:
    expected, came = mismatch.expected, mismatch.came
    if not expected or not came:
        yield from (f"- {line}" for line in expected or ["none"])
        yield from (f"+ {line}" for line in came or ["none"])
        return
    for what, one, one_end, other, other_end in SequenceMatcher(
        None, expected, came, autojunk=False
    ).get_opcodes():
        if what == "equal":
            yield from (f"  {line}" for line in expected[one:one_end])
            continue
        yield from (f"- {line}" for line in expected[one:one_end])
        yield from (f"+ {line}" for line in came[other:other_end])


def _json(result: CaseResult) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "where": result.case.where,
        "passed": result.is_passed,
        "mismatches": [
            {"what": one.what, "expected": list(one.expected), "came": list(one.came)}
            for one in result.mismatches
        ],
        "log": [{"level": level, "text": text} for level, text in result.log],
    }
