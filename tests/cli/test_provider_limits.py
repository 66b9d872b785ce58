"""What people see of accounts that cool down and of agents that are not let in, and end by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from tests.cli.place import LIMIT_S, Place
from tests.process.station import until

from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings
from tinyscheduler.adapters.sqlite.database import Database
from tinyscheduler.model.clock import parse_time
from tinyscheduler.model.coolings import Cooling

if TYPE_CHECKING:
    from collections.abc import Sequence

TOP = Path(__file__).resolve().parents[2]
WARSAW = ZoneInfo("Europe/Warsaw")
AGENTS = """\
agents:
  coder: {queue: dev, limit: 2, command: [sh, claude.sh], profile: claude, account: anthropic}
  writer: {queue: docs, limit: 2, command: ["true"], account: anthropic}
  other: {queue: ops, limit: 2, command: ["true"]}
"""
REFUSED = '{"type":"result","subtype":"success","is_error":true,"num_turns":1,"result":"%s"}'
DONE = '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"done"}'


@pytest.fixture
def agents(place: Place) -> Place:
    """Return a place with a stand-in for claude that says what is in the file ``says``."""
    (place.base / "agents.yaml").write_text(AGENTS)
    (place.base / "claude.sh").write_text(
        'read words < says; echo "$words"; case "$words" in *true,*) exit 1;; esac\n'
    )
    # The end of one task must not start another behind the test's back.
    place.settings["KICK"] = "false"
    place.settings["RETRY_BACKOFF_SEC"] = "30"
    return place


def says(place: Place, words: str) -> None:
    (place.base / "says").write_text(f"{words}\n")


def run_at(place: Place, moment: datetime) -> list[str]:
    """Tick when the wall clock shows that; return the tasks that were started."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.campaigns.elsewhen", moment.isoformat()),
            *("--base-path", str(place.base), "run", "--json"),
        ],
        env=place.environment(),
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decisions = json.loads(done.stdout)["decisions"]
    return [one["task_id"] for one in decisions if one["action"] == "dispatch"]


def tick_until_ended(place: Place, task_id: str, attempts: int = 1) -> dict[str, Any]:
    """Tick until so many attempts of the task have ended; return the task."""
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        nonlocal found
        assert place.run("run").code in {0, 1}
        found = place.run("show", task_id, "--json").json
        ended = [one for one in found["attempts"] if one["ended_at"] is not None]
        return len(ended) == attempts and found["state"] in {"waiting", "done"}

    until(has_ended, "the attempt to end")
    return found


def cool(place: Place, account: str = "anthropic", *, hours: float = 2) -> Cooling:
    """Write down that an account was refused, as a tick does."""
    now = datetime.now(UTC).replace(microsecond=0)
    cooling = Cooling(
        account=account,
        since=now,
        until=now + timedelta(hours=hours),
        times=1,
        agent="coder",
        words="usage limit reached",
        is_told=True,
    )
    with closing(Database(str(place.state / "tinyscheduler.db"))) as database:
        SqliteCoolings(database).keep(cooling)
    return cooling


def reasons(place: Place) -> dict[str, str]:
    waiting = place.run("status", "--json").json["waiting"]
    return {one["task_id"]: one["reason"] for one in waiting}


def test_an_agent_that_met_its_usage_limit_goes_on_at_its_reset_with_nobody_touching_it(
    agents: Place,
):
    # Two in the morning there, or in the afternoon where that is about now.
    here = datetime.now(WARSAW)
    hour = 2 if not 1 <= here.hour <= 2 else 14
    reset = here.replace(hour=hour, minute=0, second=0, microsecond=0)
    reset += timedelta(days=reset <= here)
    words = f"You've hit your usage limit · resets {reset:%-I%p} (Europe/Warsaw)".lower()
    says(agents, REFUSED % words.replace("(europe/warsaw)", "(Europe/Warsaw)"))
    agents.add("--agent", "coder", "--prompt", "x")
    agents.add("--agent", "writer", "--prompt", "x")

    task = tick_until_ended(agents, "1")

    agents.add("--agent", "other", "--prompt", "x")
    agents.add("--agent", "writer", "--prompt", "y")
    (attempt,) = task["attempts"]
    assert (attempt["outcome"], attempt["failure_reason"]) == ("failed", "rate_limited")
    assert (task["failures"], task["attempt"]) == (0, 1)
    assert {"1", "4"} <= {key for key, reason in reasons(agents).items() if reason == "cooling"}
    status = agents.run("status", "--json").json
    ends = {name: one["cooling_until"] for name, one in status["agents"].items()}
    assert parse_time(ends["coder"]) == parse_time(ends["writer"]) == reset
    assert ends["other"] is None
    assert run_at(agents, reset.astimezone(UTC) - timedelta(seconds=5)) == ["3"]

    says(agents, DONE)
    assert sorted(run_at(agents, reset.astimezone(UTC) + timedelta(seconds=1))) == ["1", "4"]

    until(lambda: not agents.run("ps", "--json").json["leases"][2:], "all to end")
    events = agents.run("events", "--json").out.splitlines()
    cooled = [one for one in map(json.loads, events) if one["event"] == "agent.cooling"]
    assert [(one["agent"], one["account"]) for one in cooled] == [("coder", "anthropic")]


def test_a_daemon_goes_on_at_the_end_of_a_limit_and_not_at_its_next_minute(agents: Place):
    refused = REFUSED % "Rate limit reached. Please try again in 1.5s."
    (agents.base / "claude.sh").write_text(
        f"[ -e was_refused ] && echo '{DONE}' && exit; touch was_refused; echo '{refused}'; exit 1"
    )
    agents.add("--agent", "coder", "--prompt", "x")

    daemon = agents.start("run", "--daemon")
    assert agents.run("wait", "1", "--timeout", "40s").code == 0
    daemon.send_signal(signal.SIGTERM)
    daemon.communicate(timeout=LIMIT_S)

    first, second = agents.run("show", "1", "--json").json["attempts"]
    waited = parse_time(second["started_at"]) - parse_time(first["ended_at"])
    assert timedelta(seconds=1.5) <= waited < timedelta(seconds=30)


def test_what_cools_is_told_wherever_people_look(agents: Place):
    agents.add("--agent", "coder", "--prompt", "x")
    agents.add("--queue", "ops", "--prompt", "x")
    cooling = cool(agents)
    clock = f"{cooling.until.astimezone():%H:%M}"
    told = f"account anthropic is cooling until {clock}"

    bare, status = agents.run(), agents.run("status")
    why, shown, listed = (agents.run(*one) for one in (("why", "1"), ("show", "1"), ("list",)))

    if cooling.until.astimezone().date() == datetime.now().astimezone().date():
        assert told in bare.out.replace("\n", " ")
        assert told in status.out.replace("\n", " ")
        assert f"until {clock}" in status.out
        assert told in listed.err.replace("\n", " ")
    assert "usage limit reached" in status.out.replace("\n", " ")
    assert "task 1 is waiting: cooling" in why.out
    assert "`resume account:anthropic` ends it" in " ".join(why.out.split())
    assert "the account is tried again by itself then" in why.out
    assert "account anthropic is cooling until" in " ".join(shown.out.split())
    assert agents.run("show", "1", "--json").json["stopped_by"]["reason"] == "cooling"
    assert agents.run("show", "2", "--json").json["stopped_by"] is None
    (one,) = agents.run("status", "--json").json["cooling"]
    assert (one["account"], parse_time(one["until"])) == ("anthropic", cooling.until)


@pytest.mark.parametrize("target", ["account:anthropic", "agent:coder", "agent:writer"])
def test_resume_ends_a_cooling_and_says_so(agents: Place, target: str):
    agents.add("--agent", "writer", "--prompt", "x")
    cool(agents)
    assert reasons(agents) == {"1": "cooling"}

    ended = agents.run("resume", target)

    assert ended.code == 0
    assert ended.out.startswith("account anthropic is no longer cooling; it would have been until")
    assert ended.out.count("\n") == 1
    assert reasons(agents) == {}
    again = agents.run("resume", target)
    assert (again.code, again.out) == (0, f"{target.replace(':', ' ')} was not paused\n") or (
        target.startswith("account:")
        and (again.code, again.out) == (0, "account anthropic was not cooling\n")
    )


def test_resume_ends_pause_and_cooling_of_an_agent_in_one_go(agents: Place):
    cool(agents)
    agents.run("pause", "agent:coder")

    ended = agents.run("resume", "agent:coder", "account:other", "--json").json

    assert [one["target"] for one in ended["changed"]] == ["agent:coder"]
    assert [one["account"] for one in ended["coolings_ended"]] == ["anthropic"]


def test_to_resume_everything_leaves_what_its_provider_refuses_and_says_so(agents: Place):
    agents.add("--agent", "writer", "--prompt", "x")
    cool(agents)

    answer = agents.run("resume")

    assert (answer.code, answer.out) == (0, "nothing was paused\n")
    assert "nothing of it starts all the same: account anthropic is cooling" in answer.err
    assert reasons(agents) == {"1": "cooling"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("resume", "account:anthropc"), 5, "did you mean anthropic?"),
        (("resume", "account:"), 2, "account: names no account"),
        (("pause", "account:anthropic"), 2, "nothing that can be paused"),
    ],
)
def test_an_account_that_nobody_has_is_refused(
    agents: Place, arguments: Sequence[str], code: int, words: str
):
    answer = agents.run(*arguments)

    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err


def test_an_agent_that_is_not_let_in_is_paused_until_somebody_has_logged_in(agents: Place):
    says(agents, REFUSED % "Invalid API key · Please run /login")
    agents.add("--agent", "coder", "--prompt", "x")

    task = tick_until_ended(agents, "1")

    assert (task["attempts"][0]["failure_reason"], task["failures"]) == ("auth_failed", 0)
    assert reasons(agents) == {"1": "paused"}
    status = " ".join(agents.run("status").out.split())
    assert "agent coder is paused; `resume agent:coder` ends it; by its failed login" in status
    assert "(claude is not let in: run `claude /login`, or see to its key or credit)" in status
    says(agents, DONE)
    assert agents.run("resume", "agent:coder").out == "the pause of agent coder has ended\n"
    assert tick_until_ended(agents, "1", attempts=2)["state"] == "done"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_tick_that_is_killed_while_an_account_begins_to_cool_is_made_good_by_the_next(
    agents: Place, tmp_path: Path, moment: str
):
    says(agents, REFUSED % "usage limit reached, try again in 2 hours")
    task_id = agents.add("--agent", "coder", "--prompt", "x")
    agents.run("run")
    until(lambda: list((agents.state / "results").glob("*.json")), "the attempt to end")
    mark = tmp_path / "mark"

    agents.run("run", TINYSCHEDULER_CRASH_AT=f"cooling.keep:{moment} {mark}")
    assert mark.exists()
    task = tick_until_ended(agents, task_id)

    assert (task["state"], task["failures"]) == ("waiting", 0)
    (cooling,) = agents.run("status", "--json").json["cooling"]
    assert (cooling["account"], cooling["times"]) == ("anthropic", 1)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_resume_that_is_killed_has_ended_the_cooling_or_not(
    agents: Place, tmp_path: Path, moment: str
):
    agents.run("status")
    agents.add("--agent", "coder", "--prompt", "x")
    cool(agents)
    mark = tmp_path / "mark"

    crash = {"TINYSCHEDULER_CRASH_AT": f"cooling.forget:{moment} {mark}"}
    agents.start("resume", "account:anthropic", **crash).communicate(timeout=LIMIT_S)

    assert mark.exists()
    left = agents.run("status", "--json").json["cooling"]
    assert [one["account"] for one in left] == (["anthropic"] if moment == "before" else [])
