"""What tests of schedules do at a place: make them due, wait, look at what was fired."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Place

LIMIT_S = 30.0


def until(place: Place, is_so: Callable[[], bool]) -> None:
    """Wait until something is so; ticks come by themselves."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, place.run("list").out
        time.sleep(0.05)


def due_now(place: Place, *names: str) -> None:
    """Make schedules due, as if their time had come, which is another one each time."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database, database:
        for name in names:
            database.execute(
                "UPDATE schedules SET anchor = anchor - 3601 * 1000000,"
                " next_slot = next_slot - 3601 * 1000000, due_at = due_at - 3601 * 1000000"
                " WHERE id = ?",
                (name,),
            )


def states(place: Place) -> dict[str, str]:
    """Return the state of each task."""
    tasks = place.run("list", "--json").json["tasks"]
    return {one["task_id"]: one["state"] for one in tasks}


def events(place: Place) -> list[str]:
    """Return the lines of the log of events."""
    return (place.state / "logs" / "events.jsonl").read_text().splitlines()


def add_hourly(place: Place, *names: str, command: tuple[str, ...] = ("true",)) -> None:
    """Add schedules that fire every hour."""
    for name in names:
        added = place.run("schedule", "add", "--name", name, "--every", "1h", "--", *command)
        assert added.code == 0, added


def rows_of(place: Place, question: str) -> list[tuple[Any, ...]]:
    """Ask the database, apart from anything that the program says."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        return database.execute(question).fetchall()


def metrics_of(place: Place) -> dict[str, dict[str, Any]]:
    """Return what was measured of each firing, by its task."""
    found = place.run("schedule", "metrics", "--json").json["firings"]
    return {one["task_id"]: one for one in found}
