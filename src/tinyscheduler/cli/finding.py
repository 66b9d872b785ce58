"""What does ``doctor`` say about one thing: how is it, where, and what mends it?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass


class Verdict(StrEnum):
    """How one thing is."""

    OK = "ok"
    WARN = "warn"  # it works, and will not always, or not as well as it could
    FAIL = "fail"  # tasks do not run until this is mended


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.  ``where`` is a path, a unit or a variable."""

    check: str
    verdict: Verdict
    what: str
    where: str | None = None
    fix: str | None = None


def ok(check: str, what: str, where: str | None = None) -> Finding:
    """Say that a thing is as it should be."""
    return Finding(check=check, verdict=Verdict.OK, what=what, where=where)


def warn(check: str, what: str, *, where: str | None = None, fix: str) -> Finding:
    """Say that a thing should be looked at."""
    return Finding(check=check, verdict=Verdict.WARN, what=what, where=where, fix=fix)


def fail(check: str, what: str, *, where: str | None = None, fix: str) -> Finding:
    """Say that a thing must be mended."""
    return Finding(check=check, verdict=Verdict.FAIL, what=what, where=where, fix=fix)
