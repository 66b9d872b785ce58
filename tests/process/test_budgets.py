"""Budgets hold whole ticks, wrappers and commands, however many claim at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.process.station import Station, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUNAWAY = 45


def with_budget(base: Path, text: str) -> None:
    base.mkdir()
    agents = f"agents:\n  shell: {{limit: 8}}\nbudgets:\n  {text}\n"
    (base / "agents.yaml").write_text(agents)


def status(station: Station) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(station.run("status", "--json").stdout)
    return found


def tick_until_still(station: Station) -> None:
    """Tick until nothing runs and nothing starts any more."""

    def is_still() -> bool:
        assert station.tick() in {0, 1}
        return not station.leftovers()

    until(is_still, "everything to end", limit_s=60)
    station.tick()
    until(lambda: not station.leftovers(), "what that started to end")


def test_a_runaway_that_succeeds_is_stopped_after_exactly_as_many_runs_as_it_may(
    make_station: Callable[..., Station], tmp_path: Path
):
    with_budget(tmp_path / "base", "agent:shell: {runs: 20, window: 1d}")
    station = make_station()
    tasks = [station.add("true") for _ in range(RUNAWAY)]
    # Several at once, and the ends of attempts tick as well.
    ticks = [station.start_tick() for _ in range(3)]
    for one in ticks:
        one.communicate(timeout=60)
    tick_until_still(station)

    assert len([line for line in station.lines() if line[0] == "start"]) == 20
    (budget,) = status(station)["budgets"]
    assert budget == {
        "subject": "agent:shell",
        "window_sec": 86400.0,
        "is_used_up": True,
        "bounds": {"runs": {"used": 20, "limit": 20}},
    }
    assert "agent:shell  20 of 20 runs in 1d" in station.run("status").stdout
    (paused,) = status(station)["paused"]
    assert (paused["target"], paused["by"]) == ("agent:shell", "its budget")
    assert paused["reason"] == "used up: 20 of 20 runs in 1d"
    why = station.run("why", tasks[-1]).stdout
    assert "agent shell is paused; `resume agent:shell` ends it; by its budget" in why
    assert "20 of 20 runs in 1d" in why

    resumed = station.run("resume", "agent:shell")
    assert resumed.returncode == 0, resumed.stderr
    tick_until_still(station)
    assert len([line for line in station.lines() if line[0] == "start"]) == 40
    station.assert_never_two_at_once()


@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_dies_while_a_budget_is_enforced_or_lifted_lets_nothing_more_start(
    make_station: Callable[..., Station], tmp_path: Path, when: str
):
    with_budget(tmp_path / "base", "overall: {runs: 2}")
    station = make_station(kicks=False)
    for _ in range(6):
        station.add("true")
    assert station.tick(crash_at=f"budget.pause:{when}") == -9
    tick_until_still(station)

    assert len([line for line in station.lines() if line[0] == "start"]) == 2
    assert [one["target"] for one in status(station)["paused"]] == ["all"]
    station.crash_mark.unlink()
    dead = station.run("resume", crash_at=f"budget.lift:{when}")
    assert dead.returncode == -9
    tick_until_still(station)
    assert len([line for line in station.lines() if line[0] == "start"]) == 2

    assert station.run("resume").returncode == 0
    tick_until_still(station)
    assert len([line for line in station.lines() if line[0] == "start"]) == 4


def test_a_schedule_that_has_used_its_budget_fires_nothing_and_starts_nothing(
    make_station: Callable[..., Station], tmp_path: Path
):
    with_budget(tmp_path / "base", "schedule:s: {runs: 2}")
    station = make_station(SCHEDULE_MAX_CONCURRENT="9")
    options = ("--every", "2h", "--overlap", "allow")
    added = station.run("schedule", "add", "--name", "s", *options, "--", "true")
    assert added.returncode == 0, added.stderr
    firings = [station.run("schedule", "run", "s").stdout.strip() for _ in range(4)]
    tick_until_still(station)

    states = station.queue().tasks.states(firings)
    assert sorted(states.values()) == ["done", "done", "waiting", "waiting"]
    shown = json.loads(station.run("schedule", "show", "s", "--json").stdout)["schedule"]
    assert shown["state"] == "paused"
    assert shown["why_paused"] == "its budget is used up: 2 of 2 runs in 1d"
    events = (station.state / "logs" / "events.jsonl").read_text()
    assert '"schedule.paused"' in events
    assert "`resume schedule:s` ends it" in station.run("why", firings[-1]).stdout

    assert station.run("schedule", "resume", "s").returncode == 0
    assert status(station)["paused"] == []
    tick_until_still(station)
    assert set(station.queue().tasks.states(firings).values()) == {"done"}
    # The two that ran since have used it up again.
    assert [one["target"] for one in status(station)["paused"]] == ["schedule:s"]
    assert station.run("resume", "schedule:s").returncode == 0
    shown = json.loads(station.run("schedule", "show", "s", "--json").stdout)["schedule"]
    assert shown["state"] == "active"
