"""Agents run by their profiles, from the command line to the ledger.

They are stand-ins that print what the real ones print: the samples of tests/agents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.agents.test_samples import SAMPLES
from tests.process.station import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.station import Station

TOP = Path(__file__).resolve().parents[2]
# Which agent prints which sample, what it exits with, and what follows.
ENDS = (
    ("claude", "claude-success", 0, "succeeded", None),
    ("claude", "claude-rate-limit", 1, "failed", "rate_limited"),
    ("claude", "claude-api-error", 0, "failed", "sdk_error"),
    ("codex", "codex-success", 0, "succeeded", None),
    ("codex", "codex-auth", 1, "failed", "auth_failed"),
    ("gemini", "gemini-success", 0, "succeeded", None),
    ("gemini", "gemini-turn-limit", 53, "failed", "turn_limit_exceeded"),
    ("goose", "goose-success", 0, "succeeded", None),
    ("goose", "goose-turn-limit", 0, "failed", "turn_limit_exceeded"),
    ("own", "shell-failure", 7, "failed", "budget_exceeded"),
    ("own", "shell-failure", 0, "failed", "sdk_error"),
)
AGENTS = """
agents:
{agents}
profiles:
  own:
    outcomes:
      - when: {{exit_code: 7, last_line: "rate*exceeded"}}
        then: budget_exceeded
"""


def test_each_profile_tells_how_its_attempts_ended(
    make_station: Callable[..., Station], tmp_path: Path
):
    stand_in = json.dumps(["sh", "-c", f"set -- {{prompt}}; cat {SAMPLES}/$1.txt; exit $2"])
    # One for each: a limit of a provider, or a login, keeps all of an agent's tasks waiting.
    agents = "\n".join(
        f"  a{number}: {{profile: {end[0]}, command: {stand_in}}}"
        for number, end in enumerate(ENDS)
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "agents.yaml").write_text(AGENTS.format(agents=agents))
    station = make_station()
    tasks = [
        station.add_command(
            agent=f"a{one}", command=(), prompt=f"{end[1]} {end[2]}", max_attempts=1
        )
        for one, end in enumerate(ENDS)
    ]

    ledger = station.queue().ledger
    until(
        lambda: station.tick() == 0 and all(ledger.attempts(one) for one in tasks),
        "an attempt of each to be settled",
        limit_s=40,
    )

    records = {one: ledger.attempts(one)[0] for one in tasks}
    ends = [(records[one].outcome, records[one].failure_reason) for one in tasks]
    assert ends == [(outcome, reason) for *_, outcome, reason in ENDS]
    limited = records[tasks[1]].message
    assert "You've hit your limit · resets 2am (Europe/Warsaw)" in limited
    assert [records[one].turns for one in tasks[:4]] == [2, 2, 2, 2]
