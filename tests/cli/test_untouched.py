"""Commands that look leave every file as it is, to the byte."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.place import Place

LOOKS: tuple[list[str], ...] = (
    [],
    ["status"],
    ["status", "--json"],
    ["list"],
    ["show", "1"],
    ["ps"],
    ["logs", "1"],
    ["wait", "1"],
    ["run", "--dry-run"],
    ["prune", "--dry-run", "--older-than", "0s"],
    ["run", "--dry-run", "--json", "--agent-limit", "shell=7"],
    ["config"],
    ["agent", "list"],
    ["validate-config"],
    ["snapshot"],
    ["replay", "--list"],
    ["replay", "latest"],
    ["replay", "--all"],
)


@pytest.fixture
def used(place: Place) -> Place:
    """Return a place where one task is done, one runs, and others wait."""
    place.settings["AGENT_LIMITS"] = "shell:1"
    place.add("--", "echo", "hi")
    place.run("run")
    place.run("wait", "1")
    # Its heartbeats would change its lease and its lock while we look.
    place.settings["HEARTBEAT_SEC"] = "1000"
    place.add("--", "sleep", "1000")
    place.run("run")
    place.add("--", "true")
    place.add("--hold", "--", "true")
    return place


def test_looking_changes_no_byte(used: Place):
    before = used.digest()

    codes = [used.run(*look).code for look in LOOKS]

    assert codes == [0] * len(LOOKS)
    assert used.digest() == before


def test_looking_changes_no_byte_while_somebody_writes(used: Place):
    with closing(sqlite3.connect(used.state / "tinyscheduler.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE tasks SET priority = 1")
        writer.commit()
        assert (used.state / "tinyscheduler.db-wal").stat().st_size > 0
        before = used.digest()

        codes = [used.run(*look).code for look in LOOKS]

        assert codes == [0] * len(LOOKS)
        assert used.digest() == before


def test_looking_at_nothing_makes_nothing(place: Place):
    looks = [[], ["status"], ["list"], ["ps"], ["run", "--dry-run"], ["config"]]
    looks += [["snapshot"], ["replay", "--list"], ["replay", "--all"]]

    codes = [place.run(*look).code for look in looks]

    assert codes == [0] * len(looks)
    assert list(place.base.iterdir()) == []


def test_a_dry_run_by_the_environment_is_one(place: Place):
    place.add("--", "true")
    before = place.digest()

    answer = place.run("run", TINYSCHEDULER_DRY_RUN="true")

    assert "would start task 1" in answer.out
    assert place.run("run", "--daemon", TINYSCHEDULER_DRY_RUN="true").code == 2
    assert place.digest() == before
