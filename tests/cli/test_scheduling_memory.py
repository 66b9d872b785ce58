"""``scheduler.json`` may be damaged in any way: it is set aside, told, and stops no tick."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GIB = 2**30


def memory_of(place: Place) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place.state / "scheduler.json").read_text())
    return document


def leases(place: Place) -> list[str]:
    return sorted(path.stem.removeprefix("task_") for path in place.state.glob("running/*.json"))


def a_queue_with_skips(place: Place) -> Place:
    """Let task 2, which needs a whole GPU, be overtaken by task 3."""
    place.settings |= {"AGENT_LIMITS": "shell:9", "GPU_PROBE": "file:gpus.json", "KICK": "false"}
    (place.base / "gpus.json").write_text(
        json.dumps({"gpus": [{"uuid": "GPU-a", "total": 24 * GIB}]})
    )
    place.add("--vram", "2G", "--", "sleep", "600")
    place.run("run")
    place.add("--gpus", "1", "--", "sleep", "600")
    place.add("--vram", "2G", "--", "sleep", "600")
    place.run("run")
    assert leases(place) == ["1", "3"]
    return place


# -- what is remembered -------------------------------------------------------------------


def test_slots_agents_and_skips_are_all_in_it(place: Place):
    document = memory_of(a_queue_with_skips(place))

    assert document["used_slots"] == 2
    assert document["active_agent_counts"] == {"shell": 2}
    assert document["skips"] == [{"source": "local", "task_id": "2", "times": 1}]


def test_a_tick_over_an_unchanged_world_leaves_the_file_alone(place: Place):
    a_queue_with_skips(place)
    place.run("run")
    before = (place.state / "scheduler.json").stat()

    place.run("run")

    after = (place.state / "scheduler.json").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


# -- killed anywhere ----------------------------------------------------------------------

POINTS = [
    f"{step}:{when}"
    for step in ("memory.save", "lock.create", "lease.create", "queue.claim", "launch.spawn")
    for when in ("before", "after")
]


@pytest.mark.parametrize("point", POINTS)
def test_skips_survive_a_kill_anywhere_in_a_start(place: Place, point: str, tmp_path: Path):
    """Of a start that overtakes: counted before it happens, so never once too few."""
    place.settings["RETRY_BASE_SEC"] = "0"  # ticks follow each other faster than any backoff
    a_queue_with_skips(place)
    place.add("--vram", "2G", "--", "sleep", "600")
    mark = tmp_path / "died"

    place.run("run", TINYSCHEDULER_CRASH_AT=f"{point} {mark}")
    assert mark.exists()
    counted = memory_of(place)["skips"]
    place.run("run")
    place.run("run")

    (skips,) = memory_of(place)["skips"]
    assert counted[0]["times"] in (1, 2)
    assert (skips["task_id"], skips["times"]) == ("2", 2)
    assert "4" in leases(place) or place.run("why", "4", "--json").json["reason"] == (
        "overtaken_limit"
    )
    assert memory_of(place)["used_slots"] == len(leases(place))


def test_slots_are_those_of_leases_after_any_crash(place: Place):
    a_queue_with_skips(place)
    document = memory_of(place)
    document |= {"used_slots": 7, "active_agent_counts": {"gone": 7}}
    (place.state / "scheduler.json").write_text(json.dumps(document))

    answer = place.run("run")

    assert (answer.code, answer.err) == (0, "")
    assert memory_of(place)["used_slots"] == 2
    assert memory_of(place)["active_agent_counts"] == {"shell": 2}
    lines = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    (leak,) = (one for one in map(json.loads, lines) if one["event"] == "slot.leak_repaired")
    assert (leak["slots"], leak["remembered"], leak["found"]) == (5, 7, 2)


def test_what_an_older_version_wrote_is_taken_over(place: Place):
    a_queue_with_skips(place)
    document = memory_of(place)
    older = {key: document[key] for key in ("version", "stale", "last_start_ns", "skips")}
    (place.state / "scheduler.json").write_text(json.dumps(older))

    answer = place.run("run")

    assert (answer.code, answer.err) == (0, "")
    assert not (place.state / "quarantine").exists()
    assert memory_of(place)["skips"] == document["skips"]
    assert memory_of(place)["used_slots"] == 2


# -- damaged ------------------------------------------------------------------------------


def changed(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda good: json.dumps({**json.loads(good), **fields}).encode()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda good: good[: len(good) // 2],
    "zeros": lambda good: bytes(len(good)),
    "not UTF-8": lambda good: good.replace(b"local", b"loc\xff\xfe"),
    "a list": lambda _: b"[]",
    "a number": lambda _: b"7",
    "no version": lambda _: b"{}",
    "version 0": changed(version=0),
    "a newer version": changed(version=99),
    "no list": changed(skips="x"),
    "negative skips": changed(skips=[{"source": "local", "task_id": "2", "times": -1}]),
    "negative slots": changed(used_slots=-1),
    "negative agents": changed(active_agent_counts={"shell": -2}),
    "absurd slots": changed(used_slots=10**15),
    "endless slots": changed(used_slots=10**400),
    "half a slot": changed(used_slots=0.5),
    "deep": lambda _: b"[" * 100_000,
    "huge": lambda good: good + b" " * (16 << 20),
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, bytes]]:
    """Return a place at which two attempts run for long, and what its file says as it should."""
    place = a_queue_with_skips(Place(tmp_path_factory.mktemp("busy") / "base"))
    yield place, (place.state / "scheduler.json").read_bytes()
    place.clean_up()


def quarantined(place: Place) -> set[Path]:
    return set(place.state.glob("quarantine/*"))


def tick_over(place: Place) -> tuple[str, Path]:
    """Tick twice over what cannot be read; return the first one's words, and what was kept."""
    before = quarantined(place)
    task_id = place.add("--", "true")

    first = place.run("run")
    started, document = leases(place), memory_of(place)
    second = place.run("run")

    assert (first.code, second.code, second.err) == (0, 0, "")
    assert {"1", "3", task_id} <= set(started)
    assert document["used_slots"] == len(started)
    assert document["skips"] == []
    (kept,) = quarantined(place) - before
    return first.err, kept


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_told_once_and_begun_afresh(
    busy: tuple[Place, bytes], damage: str
):
    place, good = busy
    broken = DAMAGES[damage](good)
    (place.state / "scheduler.json").write_bytes(broken)

    told, kept = tick_over(place)

    (warning,) = told.splitlines()
    assert "scheduler.json is unreadable" in warning
    assert kept.read_bytes() == broken


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


STAND_INS: dict[str, Callable[[Path], None]] = {
    "a folder": a_folder,
    "a pipe": os.mkfifo,
    "a link to a folder": lambda path: path.symlink_to("logs"),
    "a link to itself": lambda path: path.symlink_to("scheduler.json"),
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_something_else_in_its_place_is_moved_away_whole(busy: tuple[Place, bytes], kind: str):
    place, _ = busy
    path = place.state / "scheduler.json"
    path.unlink()
    STAND_INS[kind](path)

    told, kept = tick_over(place)

    assert "scheduler.json is unreadable" in told
    assert kind != "a folder" or (kept / "inside").read_text() == "x"
    assert kept.is_symlink() == ("link" in kind)
    assert path.is_file()
    assert not path.is_symlink()


def test_a_link_to_nothing_is_replaced(busy: tuple[Place, bytes]):
    place, _ = busy
    path = place.state / "scheduler.json"
    path.unlink()
    path.symlink_to("nowhere")

    assert place.run("run").code == 0

    assert memory_of(place)["used_slots"] == len(leases(place))
