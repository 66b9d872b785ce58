"""Is there anything to do, and what is an agent told that goes through a checklist?"""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.schedules import LiveFirings, Schedule

# The last line of an answer that found nothing to do; `wrapper.py` looks for it as well.
NOTHING_TO_DO = "HEARTBEAT_OK"
DEFAULT_PROMPT = "Go through this checklist and do what it says."
_ANSWER = (
    f"If nothing of this needs doing now, end your answer with a line that says {NOTHING_TO_DO}"
    " and nothing else."
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# What of a line of Markdown asks for nothing: headings, rules, empty items and ticked boxes.
_NOTHING = re.compile(
    r"#{1,6}(?:\s.*)?|(?:[-*_=]\s*){3,}|(?:[-*+]|\d{1,9}[.)])?\s*(?:\[ ?\]|\[[xX]\].*)?"
)


def has_work(checklist: str) -> bool:
    r"""Say whether a checklist asks for anything: a line that is more than its form.

    Headings, comments, rules, empty items and boxes that are ticked ask for nothing.

    >>> has_work("# Morning\n\n- [ ] look at the mail\n")
    True
    >>> has_work("# Morning\n<!-- nothing yet -->\n- [x] done\n- [ ]\n-\n---\n")
    False
    """
    lines = _COMMENT.sub("", checklist).splitlines()
    return any(_NOTHING.fullmatch(line.strip()) is None for line in lines)


def heartbeat_prompt(prompt: str | None, checklist: str | None) -> str | None:
    """Return what an agent reads: what it is asked, the checklist, and how to say "nothing".

    None where it is asked nothing, as a command is.
    """
    if prompt is None:
        return None
    parts = (prompt.rstrip(), None if checklist is None else checklist.strip(), _ANSWER)
    return "\n\n".join(part for part in parts if part) + "\n"


def begin_of_day(now: datetime, zone: str) -> datetime:
    """Return when the day began that it is now by the clock of a zone, in UTC."""
    midnight = now.astimezone(ZoneInfo(zone)).replace(
        hour=0, minute=0, second=0, microsecond=0, fold=0
    )
    return midnight.astimezone(UTC)


def left_today(schedule: Schedule, live: LiveFirings) -> int | None:
    """Return how often it may fire today still; None if nothing bounds that."""
    most = schedule.max_per_day
    return None if most is None else max(0, most - live.fired_today)
