"""How many firings run, and which may start beside them."""

from __future__ import annotations

from tests.builders import a_task

from tinyscheduler.core.firing_room import FiringRoom
from tinyscheduler.model.plan import Reason

FULL = FiringRoom(most=2, running={"a": 1, "b": 1})


def test_a_task_that_is_no_firing_is_never_refused():
    assert FULL.refuse(a_task("1")) is None


def test_as_many_as_may_run_at_once():
    refusal = FULL.refuse(a_task("1", schedule_id="c"))

    assert refusal is not None
    assert (refusal.reason, refusal.is_lasting) == (Reason.SCHEDULE_CAP, False)
    assert refusal.words == "2 of 2 firings run (SCHEDULE_MAX_CONCURRENT)"
    assert FULL.give_back(["b", None]).refuse(a_task("1", schedule_id="c")) is None


def test_one_that_was_forced_goes_beyond_but_not_beside_its_own():
    assert FULL.refuse(a_task("1", schedule_id="c", is_forced=True)) is None
    refusal = FULL.refuse(a_task("1", schedule_id="a", is_forced=True))

    assert refusal is not None
    assert refusal.words == "an earlier firing of a still runs"
    assert FULL.refuse(a_task("1", schedule_id="a", is_forced=True, is_beside=True)) is None


def test_what_starts_is_counted_and_what_ends_is_not():
    room = FiringRoom(most=1)

    taken = room.take("a").take(None)
    assert taken.running == {"a": 1}
    assert taken.give_back(["a"]).running == {"a": 0}
    assert taken.give_back([None]) is taken
    assert taken.give_back(["unknown"]).running["unknown"] == 0
