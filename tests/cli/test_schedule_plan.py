"""``schedule plan`` and warnings of collisions: told, drawn, taken apart, never in the way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.errors import EXIT_DONE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

LIMIT_S = 30.0
AGENTS = 'agents: {coder: {command: ["echo", "{prompt}"], vram: 14G}}\n'
GPUS = '{"gpus": [{"index": 0, "uuid": "GPU-1", "name": "A", "total": 25769803776, "used": 0,'
GPUS += ' "utilization": 0, "processes": []}]}'
UTC = ("--tz", "UTC")


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place with an agent that reads prompts, and a GPU of 24 GiB."""
    (place.base / "agents.yaml").write_text(AGENTS)
    (place.base / "gpus.json").write_text(GPUS)
    place.settings |= {"GPU_PROBE": "file:gpus.json"}
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


@pytest.fixture
def add(here: Callable[..., Answer]) -> Callable[..., Answer]:
    """Add schedules that run a command and declare their turns."""

    def run(name: str, cron: str, *more: str, turns: int = 2000) -> Answer:
        given = ("--name", name, "--cron", cron, *UTC, "--max-turns", str(turns), *more)
        return here("schedule", "add", *given, "--", "true")

    return run


def two_that_collide(add: Callable[..., Answer]) -> None:
    add("a", "33 2 * * *")
    add("b", "31 2 * * *")


def test_a_collision_is_told_when_it_is_made_and_stands_in_the_way_of_nothing(
    here: Callable[..., Answer], add: Callable[..., Answer]
):
    assert add("a", "30 2,14 * * *").err == ""

    added = add("b", "33 2 * * *", "--json")
    told = here("schedule", "edit", "b", "--cron", "34 14 * * *")

    assert added.code == told.code == EXIT_DONE
    (warning,) = added.json["warnings"]
    assert warning.pop("message").startswith(
        "b comes together with a, once in a day, next at 02:33"
    )
    assert warning.pop("nextCollisionAt").endswith("T02:33:00.000Z")
    assert warning == {
        "type": "cron_collision",
        "schedule_id": "b",
        "overlappingSchedules": ["a"],
        "overlappingMinutes": [150],
        "estimatedConcurrentSteps": 4000,
    }
    assert "warning: b comes together with a, once in a day, next at 14:34" in told.err
    assert here("schedule", "edit", "b", "--cron", "0 3 * * *").err == ""


@pytest.mark.parametrize("more", [("--project", "other"), ("--max-turns", "900")])
def test_what_is_of_another_project_or_light_collides_with_nobody(
    add: Callable[..., Answer], more: tuple[str, ...]
):
    add("a", "* * * * *")

    assert add("b", "* * * * *", *more, turns=2000).err == ""


def test_one_that_is_paused_collides_with_nobody(
    here: Callable[..., Answer], add: Callable[..., Answer]
):
    add("a", "30 2 * * *")
    here("schedule", "pause", "a")

    assert add("b", "30 2 * * *").err == ""


def test_a_schedule_that_is_edited_does_not_collide_with_what_it_was(
    here: Callable[..., Answer], add: Callable[..., Answer]
):
    add("a", "30 2 * * *", turns=2900)

    assert here("schedule", "edit", "a", "--cron", "31 2 * * *").err == ""


def test_what_its_firings_took_counts_before_its_bound(
    home: Place, here: Callable[..., Answer], add: Callable[..., Answer]
):
    add("a", "30 2 * * *")
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("UPDATE schedules SET average_turns = 10")

    assert add("b", "30 2 * * *").err == ""
    assert here("schedule", "plan", "--json").json["collisions"] == []


def test_vram_that_is_declared_collides_where_a_gpu_has_less(here: Callable[..., Answer]):
    agent = ("--agent", "coder", "--prompt", "hi", "--max-run-duration", "10m", *UTC)
    here("schedule", "add", "--name", "a", "--cron", "0 2 * * *", *agent)

    added = here("schedule", "add", "--name", "b", "--cron", "8 2 * * *", *agent, "--json")

    (warning,) = added.json["warnings"]
    assert warning["type"] == "vram_collision"
    assert warning["overlappingMinutes"] == [125]
    assert (warning["neededBytes"], warning["availableBytes"]) == (28 << 30, 24 << 30)
    collision = here("schedule", "plan", "--json").json["collisions"][0]
    assert (collision["type"], collision["times"]) == ("vram_collision", 7)


def test_a_file_is_told_of_its_collisions_by_check_and_by_apply(
    home: Place, here: Callable[..., Answer]
):
    one = 'cron: "0 2 * * *", command: [x], max_turns: 2000'
    (home.base / "s.yaml").write_text(f"schedules: {{a: {{{one}}}, b: {{{one}}}}}")

    checked = here("schedule", "check", "s.yaml", "--json").json["warnings"]
    applied = here("schedule", "apply", "-f", "s.yaml", "--json").json["warnings"]

    for warnings in (checked, applied):
        pairs = [(one["schedule_id"], one["overlappingSchedules"]) for one in warnings]
        assert pairs == [("a", ["b"]), ("b", ["a"])]


def test_a_damaged_schedule_keeps_no_other_from_being_added(
    home: Place, add: Callable[..., Answer]
):
    add("a", "30 2 * * *")
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("UPDATE schedules SET definition = 'x'")

    added = add("b", "30 2 * * *")

    assert added.code == EXIT_DONE
    assert "warning: nobody looked for collisions: the definition of schedule a" in added.err


# -- the plan -------------------------------------------------------------------------


def test_nothing_is_planned_where_nothing_fires(here: Callable[..., Answer]):
    answer = here("schedule", "plan")

    assert answer.code == EXIT_DONE
    assert "nothing collides" in answer.out
    assert "no schedule is active" in answer.err


def test_the_plan_is_told_in_eighty_columns_and_read_without_colours(
    here: Callable[..., Answer], add: Callable[..., Answer]
):
    two_that_collide(add)

    shown = here("schedule", "plan", "--days", "3").out

    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown
    assert shown.count("!") == 4  # three days, and what it means
    assert "a and b: 4000 turns, 3000 are too many; 3 times, first " in shown
    assert "1 schedule by 2 minutes in all, no less would do:" in shown
    assert "  a: 2 minutes later, cron: 33 2 * * * -> 35 2 * * *" in lines


def test_a_terminal_sees_colours_that_hide_nothing(home: Place, add: Callable[..., Answer]):
    two_that_collide(add)

    _, screen = home.type("schedule", "plan")
    _, plain = home.type("schedule", "plan", NO_COLOR="1")

    assert "\x1b[31m" in screen
    assert "\x1b" not in plain
    assert "▅" in plain or "▁" in plain or "▂" in plain


def test_a_document_tells_hours_collisions_and_shifts(
    here: Callable[..., Answer], add: Callable[..., Answer]
):
    two_that_collide(add)

    plan = here("schedule", "plan", "--days", "2", "--json").json

    assert (plan["days"], plan["minutes"], plan["is_least"], plan["applied"]) == (2, 2, True, False)
    assert plan["capacity"]["firings"] == 2
    assert 48 <= len(plan["hours"]) <= 49
    assert sum(one["collides"] for one in plan["hours"]) == 2
    # Two firings of at most twenty minutes, of the two hours that two at once have.
    assert max(one["load"] for one in plan["hours"]) == pytest.approx(1 / 3, abs=0.001)
    (shift,) = plan["shifts"]
    assert (shift["schedule_id"], shift["minutes"], shift["cron"]) == ("a", 2, "35 2 * * *")
    assert plan["left"] == []


def test_shifts_are_taken_all_at_once_and_then_nothing_collides(
    here: Callable[..., Answer], add: Callable[..., Answer]
):
    two_that_collide(add)
    here("schedule", "add", "--name", "c", "--every", "1d", "--max-turns", "2000", "--", "x")
    here("schedule", "add", "--name", "d", "--every", "1d", "--max-turns", "2000", "--", "x")

    taken = here("schedule", "plan", "--apply", "--json").json
    again = here("schedule", "plan", "--json").json

    assert taken["applied"] is True
    assert {one["schedule_id"] for one in taken["shifts"]} >= {"a"}
    assert (again["collisions"], again["shifts"]) == ([], [])
    shown = here("schedule", "list", "--json").json["schedules"]
    moved = {one["schedule_id"] for one in shown if one["revision"]}
    assert moved == {one["schedule_id"] for one in taken["shifts"]}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["change", "apply"])
def test_who_is_killed_while_shifts_are_taken_has_taken_all_or_none(
    home: Place, tmp_path: Path, add: Callable[..., Answer], step: str, moment: str
):
    two_that_collide(add)
    add("c", "33 5 * * *")
    add("d", "31 5 * * *")
    mark = tmp_path / "mark"

    crash = {"TINYSCHEDULER_CRASH_AT": f"schedule.{step}:{moment} {mark}"}
    home.start("schedule", "plan", "--apply", **crash).communicate(timeout=LIMIT_S)

    assert mark.exists()
    left = home.run("schedule", "plan", "--json").json["shifts"]
    assert len(left) == (0 if (step, moment) == ("apply", "after") else 2)


def test_a_shift_of_what_a_file_declares_is_told_not_to_last(
    home: Place, here: Callable[..., Answer]
):
    one = 'command: [x], max_turns: 2000, cron: "0 2 * * *"'
    (home.base / "s.yaml").write_text(f"schedules: {{a: {{{one}}}, b: {{{one}}}}}")
    here("schedule", "apply", "-f", "s.yaml")

    answer = here("schedule", "plan", "--apply")

    assert f"{home.base}/s.yaml declares a: change it there as well" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--days", "0"), EXIT_USAGE),
        (("--days", "32"), EXIT_USAGE),
        (("--days", "x"), EXIT_USAGE),
        (("a",), EXIT_USAGE),
        (("--plot", "plan.pdf"), EXIT_USAGE),
        (("--plot", "no/plan.png"), EXIT_UNAVAILABLE),
        (("--cron", "@daily"), EXIT_USAGE),
    ],
)
def test_what_cannot_be_planned_is_refused(
    here: Callable[..., Answer], arguments: tuple[str, ...], code: int
):
    assert here("schedule", "plan", *arguments).code == code
    assert here("schedule", "edit", "plan", "--jitter", "1m").code == EXIT_NOT_FOUND


def test_a_picture_shows_the_days_as_they_are_and_with_the_shifts(
    home: Place, here: Callable[..., Answer], add: Callable[..., Answer]
):
    pytest.importorskip("matplotlib")
    two_that_collide(add)

    assert here("schedule", "plan", "--plot", "plan.png").code == EXIT_DONE
    assert here("schedule", "plan", "--plot", "plan.html").code == EXIT_DONE

    assert (home.base / "plan.png").read_bytes().startswith(b"\x89PNG\r\n")
    page = (home.base / "plan.html").read_text()
    assert "a: 2 minutes later, cron: 33 2 * * * -&gt; 35 2 * * *" in page
    assert "as it is" in page
    assert "with the proposed shifts, 2 min in all" in page
    assert "currentColor" in page
    assert "<image" not in page
