"""What every memory store must do, whatever it is made of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.config.building import a_public_folder
from tests.contract.places import importing, paths_in

from tinyscheduler.adapters.memory_file import FileMemoryStore
from tinyscheduler.errors import StoreError
from tinyscheduler.model.resources import Pressure
from tinyscheduler.model.snapshot import (
    GpuSighting,
    SchedulingMemory,
    Skips,
    StaleSighting,
    Told,
)
from tinyscheduler.simulator.disk import Disk, Refusal
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.memory import SimulatedMemoryStore
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinyscheduler.ports import MemoryStore

FULL = SchedulingMemory(
    stale=(
        StaleSighting(lease_id="one", beat_ns=2**62 + 1, seen_ns=2**62 + 3, boot_id="boot"),
        StaleSighting(lease_id="two", beat_ns=0, seen_ns=0, boot_id="boot"),
    ),
    last_start_ns=2**61 + 7,
    last_start_boot_id="boot",
    pruned_at=datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC),
    told=Told(
        pressure=Pressure.WARNING,
        is_healthy=False,
        is_full=True,
        is_empty=False,
        sources_down=("tinytask",),
    ),
    skips=(Skips(source="local", task_id="7", times=2),),
    gpu_sightings=(
        GpuSighting(lease_id="one", uuids=("GPU-a", "MIG-b"), looked_s=61),
        GpuSighting(lease_id="two"),
    ),
    used_slots=3,
    active=(("", 1), ("coder", 2)),
)


# As it is written, each name in it once.
WHOLE = (
    '{"version": 1, "stale": [{"lease_id": "one", "beat_ns": 5, "seen_ns": 7, "boot_id": "boot"}],'
    ' "last_start_ns": 9, "last_start_boot_id": "boot", "pruned_at": "2026-03-01T12:00:00.000Z",'
    ' "told": {"pressure": "none", "is_healthy": true, "is_full": false, "is_empty": true},'
    ' "skips": [{"source": "local", "task_id": "seven", "times": 2}],'
    ' "gpu_sightings": [{"lease_id": "two", "uuids": ["GPU-a"], "looked_sec": 61}],'
    ' "used_slots": 3, "active_agent_counts": {"coder": 2}}'
)
# What no field may hold, as JSON that Python reads: it knows more numbers than the standard.
ODD = (
    *("Infinity", "-Infinity", "NaN", "1e999", "1.5", "true", "[5]", '{"a": 1}', "[[[[]]]]"),
    *("1" + "0" * 400, "1" + "0" * 5000, "[" * 900 + "]" * 900, "[" * 100_000),
)


@dataclass(kw_only=True)
class Place:
    """A place where memories are kept: each call of ``store`` is another process."""

    store: Callable[[], MemoryStore]
    spoil: Callable[[str], None]
    refuse: Callable[[], None]
    set_aside: Callable[[], list[str]]
    warnings: list[str] = field(default_factory=list)


def build_file(folder: Path) -> Place:
    paths = paths_in(folder)
    os.makedirs(paths.state)
    warnings: list[str] = []

    def spoil(text: str) -> None:
        with open(paths.memory, "w", encoding="utf-8") as file:
            file.write(text)

    def refuse() -> None:
        # Stands in the way of the temporary file, for root too.
        os.makedirs(os.path.join(paths.state, ".scheduler.json.tmp"))

    def set_aside() -> list[str]:
        found = []
        for name in os.listdir(paths.quarantine):
            with open(os.path.join(paths.quarantine, name), encoding="utf-8") as file:
                found.append(file.read())
        return found

    return Place(
        store=lambda: FileMemoryStore(paths, warn=warnings.append, may_write=True),
        spoil=spoil,
        refuse=refuse,
        set_aside=set_aside,
        warnings=warnings,
    )


def build_simulated(_folder: Path) -> Place:
    machine, disk = Machine(), Disk()
    warnings: list[str] = []

    def refuse() -> None:
        disk.refusal = Refusal.BYTES

    def spoil(text: str) -> None:
        disk.memory = text

    return Place(
        store=lambda: SimulatedMemoryStore(machine.spawn("tick"), disk, warn=warnings.append),
        spoil=spoil,
        refuse=refuse,
        set_aside=lambda: [text for _, text in disk.quarantine],
        warnings=warnings,
    )


PLACES: dict[str, Callable[[Path], Place]] = {"file": build_file, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


def test_where_nothing_was_saved_the_memory_is_empty(place):
    assert place.store().load() == SchedulingMemory()
    assert place.warnings == []


@pytest.mark.parametrize("memory", [SchedulingMemory(), FULL], ids=["empty", "full"])
def test_another_process_loads_exactly_what_was_saved(place, memory):
    place.store().save(memory)

    assert place.store().load() == memory


def test_the_last_save_counts(place):
    place.store().save(FULL)
    place.store().save(replace(FULL, stale=()))

    assert place.store().load() == replace(FULL, stale=())


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"version": 1}', '{"version": 99}', "\x00"])
def test_what_cannot_be_read_is_set_aside_told_once_and_forgotten(place, garbage):
    place.spoil(garbage)

    assert place.store().load() == SchedulingMemory()
    assert len(place.warnings) == 1
    assert place.set_aside() == [garbage]
    assert place.store().load() == SchedulingMemory()
    assert len(place.warnings) == 1


@pytest.mark.parametrize("odd", ODD, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    "field",
    [
        *("version", "stale", "last_start_ns", "last_start_boot_id", "pruned_at"),
        *("lease_id", "beat_ns", "seen_ns", "boot_id"),
        *("source", "task_id", "times", "uuids", "looked_sec", "used_slots", "coder"),
    ],
)
def test_whatever_stands_in_a_field_it_stops_no_tick(place, field, odd):
    garbage = re.sub(rf'"{field}": ("[^"]*"|\d+|\[.*?\])', lambda _: f'"{field}": {odd}', WHOLE)
    assert garbage != WHOLE
    place.spoil(garbage)

    assert place.store().load() == SchedulingMemory()
    assert len(place.warnings) == 1
    assert place.set_aside() == [garbage]


@pytest.mark.parametrize("field", ["times", "used_slots", "coder"])
@pytest.mark.parametrize("number", ["-1", "-1e3", "1.5", "null", str(10**18), str(2**63)])
def test_a_count_that_no_machine_has_is_set_aside(place, field, number):
    garbage = re.sub(rf'"{field}": \d+', f'"{field}": {number}', WHOLE)
    assert garbage != WHOLE
    place.spoil(garbage)

    assert place.store().load() == SchedulingMemory()
    assert place.set_aside() == [garbage]


def test_a_disk_that_refuses_raises_store_error_and_keeps_what_was_saved(place):
    place.store().save(FULL)
    place.refuse()

    with pytest.raises(StoreError):
        place.store().save(SchedulingMemory())

    assert place.store().load() == FULL


def test_a_dry_run_moves_nothing_that_it_cannot_read(tmp_path):
    paths = paths_in(tmp_path)
    os.makedirs(paths.state)
    with open(paths.memory, "w", encoding="utf-8") as file:
        file.write("garbage")
    warnings: list[str] = []

    memory = FileMemoryStore(paths, warn=warnings.append, may_write=False).load()

    assert memory == SchedulingMemory()
    assert len(warnings) == 1
    assert os.listdir(paths.state) == ["scheduler.json"]


@pytest.mark.parametrize(("mode", "is_read"), [(0o400, False), (0o444, True)])
def test_one_that_somebody_else_owns_stops_nobody(mode: int, *, is_read: bool):
    """As after `sudo`: it may be replaced, for the folder is ours, but perhaps not read."""
    if os.geteuid() != 0:
        pytest.skip("only the superuser can act as two users")
    program = """if True:
        import os, pathlib, sys
        from tests.contract.test_memory_store import FULL, FileMemoryStore, paths_in
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        told = []
        paths = paths_in(pathlib.Path(sys.argv[1]))
        store = FileMemoryStore(paths, warn=told.append, may_write=True)
        print(store.load() == FULL, len(told))
        store.save(FULL)
        print(store.load() == FULL, len(told))
    """
    with a_public_folder() as folder:
        paths = paths_in(folder)
        os.makedirs(paths.state)
        FileMemoryStore(paths, warn=print, may_write=True).save(FULL)
        os.chmod(paths.memory, mode)
        os.chown(paths.state, 65534, 65534)

        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            env=importing(),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )

        read, unread = ["True", "0", "True", "0"], ["False", "1", "True", "1"]
        assert done.stdout.split() == (read if is_read else unread)
        assert os.path.exists(paths.quarantine) is not is_read
        assert os.stat(paths.memory).st_uid == 65534
