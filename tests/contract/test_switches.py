"""What every switchboard must do, whatever it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import open_database

from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.errors import StoreError
from tinyscheduler.model.switches import EVERYTHING, Switch, SwitchKind, parse_target
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.switches import SimulatedSwitches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tinyscheduler.ports import Switches

SINCE = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@dataclass(kw_only=True)
class Place:
    """A place where switches are kept: each call of ``board`` is another process."""

    board: Callable[[], Switches]
    spoil: Callable[[], None]


def build_sqlite(folder: Path, stack: ExitStack) -> Place:
    def spoil() -> None:
        stack.close()
        (folder / "state" / "tinyscheduler.db").write_bytes(b"no database" * 1000)

    return Place(board=lambda: SqliteSwitches(open_database(folder, stack)), spoil=spoil)


def build_simulated(_folder: Path, _stack: ExitStack) -> Place:
    machine, disk = Machine(), Disk()

    def spoil() -> None:
        disk.are_switches_readable = False

    return Place(board=lambda: SimulatedSwitches(machine.spawn("tick"), disk), spoil=spoil)


PLACES = {"sqlite": build_sqlite, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield PLACES[request.param](tmp_path, stack)


def a_switch(target: str = "all", *, kind: SwitchKind = SwitchKind.PAUSE) -> Switch:
    return Switch(kind=kind, target=parse_target(target), since=SINCE, by="ann", reason="lunch ✓")


def test_at_first_nothing_is_switched(place):
    assert list(place.board().read()) == []


def test_another_process_reads_exactly_what_was_set_in_one_order(place):
    switches = [
        a_switch("queue:dev"),
        a_switch("all", kind=SwitchKind.DRAIN),
        a_switch("agent:coder"),
        a_switch("all"),
        a_switch("schedule:nightly"),
    ]

    for switch in switches:
        assert place.board().set(switch) is None

    assert [(one.kind.value, str(one.target)) for one in place.board().read()] == [
        ("drain", "all"),
        ("pause", "agent:coder"),
        ("pause", "all"),
        ("pause", "queue:dev"),
        ("pause", "schedule:nightly"),
    ]
    assert set(place.board().read()) == set(switches)


def test_what_is_set_twice_stays_as_it_was_first(place):
    first = a_switch()
    later = Switch(
        kind=first.kind, target=first.target, since=SINCE + timedelta(days=1), by="bob", reason=None
    )
    place.board().set(first)

    assert place.board().set(later) == first

    assert list(place.board().read()) == [first]


def test_what_is_lifted_is_returned_once_and_others_stay(place):
    pause, drain = a_switch(), a_switch(kind=SwitchKind.DRAIN)
    place.board().set(pause)
    place.board().set(drain)

    assert place.board().clear(SwitchKind.PAUSE, EVERYTHING) == pause
    assert place.board().clear(SwitchKind.PAUSE, EVERYTHING) is None

    assert list(place.board().read()) == [drain]


def test_a_board_that_cannot_be_read_raises_store_error(place):
    place.board().set(a_switch())
    place.spoil()

    with pytest.raises(StoreError):
        place.board().read()
