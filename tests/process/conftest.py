"""Stations for tests with real processes; whatever they start is ended with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.process.station import Station

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make_station(tmp_path: Path) -> Iterator[Callable[..., Station]]:
    """Return a maker of stations with settings of their own."""
    stations: list[Station] = []

    def make(name: str = "base", *, kicks: bool = True, **settings: str) -> Station:
        stations.append(Station(tmp_path / name, settings, kicks))
        return stations[-1]

    yield make
    for station in stations:
        station.clean_up()


@pytest.fixture
def station(make_station: Callable[..., Station]) -> Station:
    """Return a station with the quick settings."""
    return make_station()
