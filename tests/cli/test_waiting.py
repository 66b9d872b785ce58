"""``wait``: until it is over, and how it was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.process.station import until

if TYPE_CHECKING:
    from tests.cli.place import Place


def test_all_done_ends_with_0_and_leaves_nothing_behind(place: Place):
    ids = [place.add("--", "true") for _ in range(2)]
    place.run("run")

    answer = place.run("wait", *ids)

    assert (answer.code, answer.out, answer.err) == (0, "task 1 done\ntask 2 done\n", "")
    until(lambda: not place.leftovers(), "leases, locks and results to be gone")


def test_one_that_is_parked_or_cancelled_ends_with_1(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    place.add("--", "true")
    place.add("--", "sh", "-c", "exit 3")
    place.add("--hold", "--", "true")
    place.run("cancel", "3")
    place.run("run")

    answer = place.run("wait", "1", "2", "3")
    document = place.run("wait", "1", "2", "3", "--json").json

    assert answer.code == 1
    assert answer.out == "task 1 done\ntask 2 parked (command_failed)\ntask 3 cancelled\n"
    assert [one["state"] for one in document["tasks"]] == ["done", "parked", "cancelled"]
    assert document["timed_out"] is False
    assert place.run("wait", "1").code == 0
    assert place.run("wait", "3").code == 1


def test_time_out_ends_with_124_and_tells_how_things_stand(place: Place):
    place.add("--hold", "--", "true")

    started = time.monotonic()
    answer = place.run("wait", "1", "1", "--timeout", "300ms")
    document = place.run("wait", "1", "--timeout", "0", "--json")

    assert time.monotonic() - started < 30
    assert (answer.code, answer.out) == (124, "task 1 held\n")
    assert "gave up after 300ms: 1 task not ended" in answer.err
    assert (document.code, document.json["timed_out"]) == (124, True)
    assert document.err.endswith("\ngave up after 0s: 1 task not ended\n")


def test_an_end_is_noticed_at_once(place: Place):
    place.add("--hold", "--", "true")
    waiting = place.start("wait", "1")
    assert waiting.stderr is not None
    waiting.stderr.readline()

    place.run("cancel", "1")
    cancelled = time.monotonic()
    out, _ = waiting.communicate(timeout=30)

    assert (waiting.returncode, out) == (1, b"task 1 cancelled\n")
    assert time.monotonic() - cancelled < 2


def test_what_will_never_end_by_itself_is_told(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    place.add("--", "false")
    place.add("--after", "1", "--", "true")
    place.run("run")
    place.run("wait", "1")

    answer = place.run("wait", "2", "--timeout", "0")

    assert f"task 2 waits for task 1, which is parked; `{place.program} retry 1`" in answer.err


def test_a_pause_between_attempts_is_told_and_what_ends_it(place: Place):
    place.settings["RETRY_BASE_SEC"] = "60"
    ids = [place.add("--", "false") for _ in range(2)]
    place.run("run")
    until(lambda: "backing_off" in place.run("why", ids[1]).out, "the second to back off")

    answer = place.run("wait", *ids, "--timeout", "1s")

    assert answer.code == 124
    first, second, _ = answer.err.splitlines()
    for words, task_id in ((first, "1"), (second, "2")):
        assert words.startswith(f"task {task_id} failed (command_failed); attempt 2 is due in 1m")
        assert words.endswith("no daemon runs here")
    assert "due in" not in place.run("-q", "wait", *ids, "--timeout", "1s").err


def test_what_was_no_failure_is_not_called_one(place: Place):
    place.settings |= {"RETRY_BACKOFF_SEC": "60", "RETRY_BASE_SEC": "60"}
    later = place.add("--", "sh", "-c", "exit 75")
    interrupted = place.add("--", "sh", "-c", "kill $PPID; sleep 60")
    unstarted = place.add("--", "true")
    (place.state / "logs" / "tasks").mkdir()
    (place.state / "logs" / "tasks" / unstarted).write_text("where the folder of its logs goes")
    place.settings["AGENT_LIMITS"] = "shell:3"

    def all_back_off() -> bool:
        place.run("run")  # nothing ticks by itself after an interruption
        return "backing_off  1 2 3  tried again in " in place.run("status").out

    until(all_back_off, "all three to back off")
    status = place.run("status").out
    told = place.run("wait", later, interrupted, unstarted, "--timeout", "0").err
    reasons = [place.run("why", one).out for one in (later, interrupted, unstarted)]

    assert "a failure" not in status + "".join(reasons)
    assert [line.partition(" is due in")[0] for line in told.splitlines()[:3]] == [
        "task 1 asked to be tried later; attempt 2",
        "task 2 was interrupted; attempt 2",
        "task 3 could not be started; attempt 1",
    ]
    assert "attempt 1 retry_later (exit code 75) " in reasons[0]
    assert "attempt 1 interrupted (aborted" in reasons[1]
    assert all("\n  backs off until " in one for one in reasons)


def test_a_held_task_further_up_is_told_once_to_who_waits(place: Place):
    held = place.add("--hold", "--", "true")
    middle = place.add("--after", held, "--", "true")
    last = place.add("--after", middle, "--", "true")

    answer = place.run("wait", last, "--timeout", "1500ms")

    assert answer.err.splitlines() == [
        f"task 3 waits for task 1, which is held; `{place.program} release 1` lets it go",
        "gave up after 1500ms: 1 task not ended",
    ]
    assert place.run("-q", "wait", last, "--timeout", "0").err == ""


def test_what_gets_stuck_while_somebody_waits_is_told_too(place: Place):
    first = place.add("--", "true")
    place.add("--after", first, "--", "true")
    with place.start("wait", "2") as waiting:
        assert waiting.stderr is not None
        place.run("hold", first)
        told = waiting.stderr.readline().decode()
        place.run("cancel", "2")

    way = f"`{place.program} release 1` lets it go"
    assert told == f"task 2 waits for task 1, which is held; {way}\n"


def test_that_nothing_ticks_is_told_at_a_terminal_and_in_a_pipe(place: Place):
    place.add("--", "true")

    answer = place.run("wait", "1", "--timeout", "4s")
    _, screen = place.type("wait", "1", "--timeout", "4s")

    words = "task 1 still waits: no daemon runs here, and nothing has ticked here yet;"
    words += f" `{place.program} run` starts what can start\n"
    assert answer.err == words + "gave up after 4s: 1 task not ended\n"
    assert "task 1 still waits: no daemon runs here" in screen


def test_while_something_ticks_nobody_is_told_to(place: Place):
    place.add("--", "true")
    place.run("pause", "all")

    with place.start("wait", "1", "--timeout", "5s") as waiting:
        while waiting.poll() is None:
            place.run("run")
        assert waiting.stderr is not None
        told = waiting.stderr.read().decode()

    assert told == "gave up after 5s: 1 task not ended\n"


def test_what_a_tick_follows_by_itself_is_told_to_people_alone(place: Place):
    place.settings["MAX_CONCURRENT_SLOTS"] = "1"
    place.add("--", "sleep", "60")
    place.add("--", "true")
    place.run("run")

    answer = place.run("wait", "2", "--timeout", "4s")
    _, screen = place.type("wait", "2", "--timeout", "4s")

    assert answer.err == "gave up after 4s: 1 task not ended\n"
    words = f"task 2 still waits, and `{place.program} why 2` says why"
    assert words in " ".join(screen.split())


def test_one_unknown_task_ends_the_wait_with_5(place: Place):
    place.add("--hold", "--", "true")

    answer = place.run("wait", "1", "9")

    assert (answer.code, answer.out) == (5, "")
    assert answer.err.startswith("error: there is no task '9'\n")
