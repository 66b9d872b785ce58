"""What everybody must do who knows who is at work interactively, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import START, SteppedClock
from tests.contract.places import paths_in

from tinyscheduler.adapters.pressure_files import PressureFiles
from tinyscheduler.model.pressure import InteractivePressure, PressureKind
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.pressures import SimulatedPressures

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from tinyscheduler.ports import Pressures


@dataclass(kw_only=True)
class Place:
    """A machine at which people work: each call of ``looker`` is another process."""

    looker: Callable[[], Pressures]
    press: Callable[[str, float], None]
    advance: Callable[[float], None]
    now: Callable[[], datetime]


def build_files(folder: Path) -> Place:
    clock = SteppedClock()
    (folder / "state").mkdir()

    def files() -> PressureFiles:
        return PressureFiles(paths_in(folder), clock, warn=pytest.fail, may_write=True)

    def press(name: str, ttl_s: float) -> None:
        files().set(name, ttl_s=ttl_s, pid=None, by="ann")

    return Place(
        looker=files,
        press=press,
        advance=clock.advance,
        now=lambda: clock.now().wall,
    )


def build_simulated(_folder: Path) -> Place:
    machine, disk = Machine(), Disk()
    machine.step_wall((START - machine.wall).total_seconds())

    def press(name: str, ttl_s: float) -> None:
        before = disk.pressures.get(name)
        disk.pressures[name] = InteractivePressure(
            name=name,
            kind=PressureKind.MARKER,
            since=machine.wall if before is None else before.since,
            ends_at=machine.wall + timedelta(seconds=ttl_s),
            by="ann",
        )

    return Place(
        looker=lambda: SimulatedPressures(machine.spawn("tick"), disk),
        press=press,
        advance=machine.advance,
        now=lambda: machine.wall,
    )


PLACES = {"files": build_files, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


def test_at_first_nobody_is_at_work(place: Place):
    assert list(place.looker().live()) == []


def test_who_is_at_work_is_told_by_name_until_the_time_is_over(place: Place):
    place.press("chat", 60)
    place.press("a", 30)

    assert [one.name for one in place.looker().live()] == ["a", "chat"]
    place.advance(30)
    (chat,) = place.looker().live()
    assert (chat.name, chat.kind, chat.since, chat.by) == (
        "chat",
        PressureKind.MARKER,
        START,
        "ann",
    )
    assert chat.ends_at == START + timedelta(seconds=60)
    place.advance(30)
    assert list(place.looker().live()) == []


def test_who_says_so_again_is_at_work_from_then_on_and_since_the_first_time(place: Place):
    place.press("chat", 60)
    place.advance(50)
    place.press("chat", 60)
    place.advance(50)

    (chat,) = place.looker().live()

    assert (chat.since, chat.ends_at) == (START, START + timedelta(seconds=110))
