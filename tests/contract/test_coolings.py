"""What every keeper of coolings must do, whatever it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import open_database

from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings
from tinyscheduler.errors import StoreError
from tinyscheduler.model.coolings import Cooling
from tinyscheduler.simulator.coolings import SimulatedCoolings
from tinyscheduler.simulator.disk import Disk, Refusal
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tinyscheduler.ports import Coolings

SINCE = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
COOLING = Cooling(
    account="anthropic",
    since=SINCE,
    until=SINCE + timedelta(hours=2, microseconds=1),
    times=3,
    agent="coder",
    words="limit reached ✓",
    is_told=True,
)


@dataclass(kw_only=True)
class Place:
    """A place where coolings are kept: each call of ``keeper`` is another process."""

    keeper: Callable[[], Coolings]
    spoil: Callable[[], None]


def build_sqlite(folder: Path, stack: ExitStack) -> Place:
    def spoil() -> None:
        stack.close()
        (folder / "state" / "tinyscheduler.db").write_bytes(b"no database" * 1000)

    return Place(keeper=lambda: SqliteCoolings(open_database(folder, stack)), spoil=spoil)


def build_simulated(_folder: Path, _stack: ExitStack) -> Place:
    machine, disk = Machine(), Disk()

    def spoil() -> None:
        disk.are_switches_readable = False
        disk.refusal = Refusal.BYTES

    return Place(keeper=lambda: SimulatedCoolings(machine.spawn("tick"), disk), spoil=spoil)


PLACES = {"sqlite": build_sqlite, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield PLACES[request.param](tmp_path, stack)


def test_at_first_no_account_cools(place):
    assert list(place.keeper().read()) == []
    assert place.keeper().forget("anthropic") is None


def test_another_process_reads_exactly_what_was_kept_by_account(place):
    others = [
        replace(COOLING, account="zai", is_told=False),
        replace(COOLING, account="codex", words=""),
    ]

    for one in (*others, COOLING):
        place.keeper().keep(one)

    assert list(place.keeper().read()) == [COOLING, others[1], others[0]]


def test_what_is_kept_of_an_account_is_replaced_and_forgotten(place):
    place.keeper().keep(COOLING)
    later = replace(COOLING, times=4, until=COOLING.until + timedelta(hours=1))

    place.keeper().keep(later)

    assert list(place.keeper().read()) == [later]
    assert place.keeper().forget("anthropic") == later
    assert list(place.keeper().read()) == []
    assert place.keeper().forget("anthropic") is None


def test_words_may_be_anything_that_an_agent_prints(place):
    words = "limit \udcff \0 '\" ; DROP TABLE coolings"

    place.keeper().keep(replace(COOLING, words=words))

    (kept,) = place.keeper().read()
    assert kept.words.startswith("limit ")


def test_a_place_that_does_not_answer_says_so(place):
    place.keeper().keep(COOLING)
    place.spoil()

    for action in (
        lambda: place.keeper().read(),
        lambda: place.keeper().keep(COOLING),
        lambda: place.keeper().forget("anthropic"),
    ):
        with pytest.raises(StoreError):
            action()
