"""What ticks decided is kept, shown and decided again; a snapshot can be decided on anywhere."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import Place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.place import Answer

SAME = "decided again: the same plan"


@pytest.fixture
def used(place: Place) -> Place:
    """Return a place where a tick has started one task, and left two that wait."""
    place.settings |= {"AGENT_LIMITS": "shell:1", "KICK": "false"}
    place.add("--label", "key=hunter2", "--", "sh", "-c", "true # hunter2")
    place.add("--", "true")
    place.add("--hold", "--", "true")
    place.run("run")
    return place


def kept(place: Place) -> list[Path]:
    return sorted((place.state / "ticks").iterdir())


def run_until_done(place: Place, *task_ids: str) -> None:
    """Tick by hand until these are done: the end of an attempt makes none happen here."""
    for _ in range(500):
        place.run("run")
        if place.run("wait", *task_ids, "--timeout", "0.1").code == 0:
            return
    raise AssertionError(task_ids)


def tampered(place: Place, **changes: Any) -> Path:
    """Return a document of a tick in which this is otherwise."""
    document = json.loads(kept(place)[0].read_text()) | changes
    path = place.base / "tampered.json"
    path.write_text(json.dumps(document))
    return path


def without_the_start(place: Place) -> Path:
    """Return a document that says that the tick let task 1 wait."""
    plan = json.loads(kept(place)[0].read_text())["plan"]
    plan["decisions"] = [one for one in plan["decisions"] if one["type"] != "dispatch"]
    return tampered(place, plan=plan, program="0.0.9")


# -- what is kept ---------------------------------------------------------------------


def test_a_tick_that_changes_something_is_kept_for_its_owner_alone_and_without_secrets(used):
    (path,) = kept(used)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "hunter2" not in path.read_text()
    assert json.loads(path.read_text())["version"] == 1


def test_ticks_that_change_nothing_are_not_kept(used):
    run_until_done(used, "1", "2")
    before = kept(used)

    used.run("run")
    used.run("run", "--dry-run")

    assert kept(used) == before


def test_where_nothing_can_be_kept_a_tick_does_all_the_same_and_says_so(place):
    place.state.mkdir()
    (place.state / "ticks").write_text("in the way")
    place.add("--", "true")

    answer = place.run("run", "--json")

    assert answer.code == 0
    assert answer.json["stats"]["tasks_spawned"] == 1
    assert "warning: what was decided is not on record: " in answer.err
    assert answer.json["errors"] == []


# -- replay ---------------------------------------------------------------------------


def test_replay_shows_what_a_tick_saw_and_decided_and_decides_it_again(used):
    answer = used.run("replay", "latest")

    lines = answer.out.splitlines()
    assert answer.code == 0
    assert lines[0].startswith("tick 2")
    assert lines[1].startswith("  it saw 0 of 2 slots in use, 2 waiting, ")
    assert lines[2].startswith("  task 1: start attempt 1 by agent shell, ")
    assert [line.split()[:2] for line in lines[3:6]] == [
        ["WAITING", "TASKS"],
        ["held", "3"],
        ["agent_limit", "2"],
    ]
    assert lines[6:] == [SAME]


def test_a_tick_of_two_rounds_shows_both(used):
    run_until_done(used, "1")

    answer = used.run("replay", "latest")

    assert "round 1\n" in answer.out
    assert "round 2\n" in answer.out
    assert "  attempt at task 1: settle, succeeded\n" in answer.out
    assert answer.out.count(SAME) == 2


def test_what_was_left_alone_is_told_at_length(place):
    place.settings["KICK"] = "false"
    place.add("--", "sleep", "1000")
    place.run("run")
    place.add("--", "true")
    place.run("run")

    assert "leave alone" not in place.run("replay", "latest").out
    assert "  attempt at task 1: leave alone\n" in place.run("-v", "replay", "latest").out


def test_at_length_every_reason_and_every_task_is_named(place):
    place.settings["KICK"] = "false"
    place.add("--", "sleep", "1000")
    for number in range(25):
        place.add("--not-before", f"2099-01-01T00:00:{number:02}Z", "--", "true")
    for _ in range(7):
        place.add("--hold", "--label", "a=b", "--", "true")
    place.run("run")

    brief, long = place.run("replay", "latest"), place.run("-v", "replay", "latest")

    assert "task for other reasons; -v shows all of them" in brief.out.replace("tasks", "task")
    assert "for other reasons" not in long.out
    assert len(long.out.splitlines()) > len(brief.out.splitlines())


def test_a_tick_is_found_by_its_id_by_the_beginning_of_it_and_by_its_file(used):
    (path,) = kept(used)
    tick_id = path.name.rpartition("-")[0]

    for name in (tick_id, tick_id[:-3], tick_id[:4], str(path)):
        answer = used.run("replay", name, "--json")

        assert (answer.code, answer.json["rounds"][0]["tick_id"]) == (0, tick_id)


def test_its_document_says_the_same(used):
    answer = used.run("replay", "latest", "--json")

    document = answer.json
    (one,) = document["rounds"]
    assert (document["schema_version"], document["same"], one["same"]) == (1, True, True)
    assert one["policy"] == {
        "recorded": "platform",
        "recorded_version": None,
        "instead_of": None,
        "derived": "platform",
        "derived_version": None,
    }
    assert one["notes"] == []
    assert [start["task_id"] for start in one["starts"]] == ["1"]
    assert {wait["task_id"]: wait["reason"] for wait in one["waits"]} == {
        "2": "agent_limit",
        "3": "held",
    }
    assert (one["round"], one["attempts"], one["differences"]) == (1, [], [])


def test_the_id_of_a_report_is_that_of_what_is_kept(place):
    place.add("--", "true")
    tick_id = place.run("run", "--json").json["tick_id"]

    assert place.run("replay", tick_id).code == 0


def test_a_plan_that_differs_ends_with_1_and_says_where(used):
    answer = used.run("replay", str(without_the_start(used)))

    assert answer.code == 1
    lines = answer.out.splitlines()
    at = lines.index("decided again: the plan differs")
    assert lines[at + 1].startswith("  task 1: then nothing; now start attempt 1 by agent shell, ")
    assert lines[at + 2] == (
        "then by TinyScheduler 0.0.9, policy platform; now by 0.1.0, policy platform"
    )


def test_a_plan_that_differs_is_told_in_a_document_too(used):
    answer = used.run("replay", str(without_the_start(used)), "--json")

    assert (answer.code, answer.json["same"]) == (1, False)
    (difference,) = answer.json["rounds"][0]["differences"]
    assert (difference["what"], difference["task_id"]) == ("task 1", "1")
    assert difference["recorded"] == "nothing"
    assert difference["derived"].startswith("start attempt 1 by agent shell")


def test_what_this_version_has_no_field_for_is_a_warning(used):
    answer = used.run("replay", str(tampered(used, mood="fine")))

    assert answer.code == 0
    assert answer.err == ("warning: this version knows nothing of mood, and went on without it\n")


# -- all, and the list ----------------------------------------------------------------


def test_all_that_is_kept_is_replayed_at_once(used):
    run_until_done(used, "1", "2")
    ticks = used.run("replay", "--list", "--json").json["ticks"]

    answer, document = used.run("replay", "--all"), used.run("replay", "--all", "--json").json

    rounds = sum(one["rounds"] for one in ticks)
    assert answer.code == 0
    assert answer.out == f"{len(ticks)} ticks, {rounds} rounds: decided again, each the same\n"
    assert (document["ticks"], document["rounds"], document["same"]) == (len(ticks), rounds, rounds)
    assert (document["differing"], document["damaged"]) == ([], [])


def test_of_all_those_that_differ_or_are_damaged_are_named(used):
    run_until_done(used, "1")
    first = kept(used)[0]
    first.write_text(without_the_start(used).read_text())
    kept(used)[-1].write_text("garbage")

    answer, document = used.run("replay", "--all"), used.run("replay", "--all", "--json")

    assert answer.code == document.code == 1
    assert answer.err.startswith(f"error: {kept(used)[-1]}: it is not JSON: ")
    tick_id = first.name.rpartition("-")[0]
    assert answer.out.startswith(f"tick {tick_id}, round 1: task 1: then nothing; now start ")
    assert answer.out.endswith("0 decided again the same, 1 not\n")
    assert [one["tick_id"] for one in document.json["differing"]] == [tick_id]
    assert [one["tick_id"] for one in document.json["damaged"]] == [
        kept(used)[-1].name.rpartition("-")[0]
    ]


def test_what_cannot_be_decided_on_is_named_and_the_others_are_decided_again(used):
    run_until_done(used, "1")
    (first, *others) = kept(used)
    snapshot = json.loads(first.read_text())["snapshot"]
    # Five minutes before the first day of the calendar there is none.
    snapshot["now"]["wall"] = "0001-01-01T00:00:00.000000Z"
    first.write_text(tampered(used, snapshot=snapshot).read_text())
    tick_id = first.name.rpartition("-")[0]
    words = f"error: round 1 of tick {tick_id} cannot be decided again: OverflowError: "

    one, every = used.run("replay", tick_id), used.run("replay", "--all", "--json")

    assert (one.code, every.code) == (1, 1)
    assert one.err.startswith(words)
    assert every.err.startswith(words)
    assert [damaged["tick_id"] for damaged in every.json["damaged"]] == [tick_id]
    assert every.json["same"] == len(others)


def test_where_nothing_is_kept_there_is_nothing_to_list_or_replay(place):
    assert place.run("replay", "--list").code == 0
    assert place.run("-q", "replay", "--list").out == ""
    assert place.run("replay", "--all").out == "0 ticks, 0 rounds: nothing to decide again\n"
    latest = place.run("replay", "latest")
    assert (latest.code, latest.out) == (5, "")
    assert "error: no tick is kept yet\n" in latest.err


def test_the_list_says_of_each_tick_what_it_did(used):
    run_until_done(used, "1")

    answer = used.run("replay", "--list")
    document = used.run("replay", "--list", "--json").json["ticks"]

    lines = [line.split() for line in answer.out.splitlines()]
    assert lines[0] == ["TICK", "WHEN", "ROUNDS", "STARTS", "SETTLES", "OTHERS", "WAITS"]
    assert [line[0] for line in lines[1:]] == [one["tick_id"] for one in document]
    assert [(one["starts"], one["settles"]) for one in document] == [(1, 0), (1, 1)]
    assert document[0]["waits"] == 2
    assert document[0]["others"] == 0


def test_the_list_can_be_cut_and_says_so(used):
    run_until_done(used, "1", "2")
    newest = kept(used)[-1].name.rpartition("-")[0]

    answer = used.run("replay", "--list", "--limit", "1")

    assert [line.split()[0] for line in answer.out.splitlines()[1:]] == [newest]
    assert "only the newest 1 are listed; --limit N lists more" in answer.err


def test_the_list_goes_on_beside_what_is_damaged(used):
    run_until_done(used, "1")
    kept(used)[0].write_text('{"version": 1}')

    answer = used.run("replay", "--list")

    assert answer.code == 1
    assert len(answer.out.splitlines()) == 2
    assert "snapshot should be an object, not None" in answer.err


# -- documents ------------------------------------------------------------------------


def test_a_snapshot_is_one_document_that_can_be_decided_on(used):
    answer = used.run("snapshot")
    (used.base / "bug.json").write_text(answer.out)

    replayed = used.run("replay", "-", stdin=answer.out.encode())

    assert answer.code == 0
    assert "hunter2" not in answer.out
    assert {"schema_version", "version", "program", "policy", "snapshot", "plan"} <= set(
        answer.json
    )
    assert (replayed.code, replayed.err) == (0, "")
    assert SAME in replayed.out
    assert used.run("replay", "./bug.json").out == replayed.out
    assert used.run("snapshot", "--json").json.keys() == answer.json.keys()


def test_a_snapshot_needs_no_place_to_be_decided_on(used, tmp_path):
    text = used.run("snapshot").out
    elsewhere = Place(tmp_path / "elsewhere")

    answer = elsewhere.run("replay", "-", stdin=text.encode())

    assert (answer.code, answer.err) == (0, "")
    assert not elsewhere.state.exists()


def test_a_snapshot_is_spread_out_for_people(used):
    code, screen = used.type("snapshot")

    assert code == 0
    assert screen.startswith('{\n  "schema_version": 1,\n  "version": 1,\n')


def test_a_snapshot_of_a_broken_queue_is_told_and_ends_as_a_dry_run(used):
    for name in ("", "-wal", "-shm"):
        (used.state / f"tinyscheduler.db{name}").unlink(missing_ok=True)
    (used.state / "tinyscheduler.db").write_bytes(b"no database" * 999)

    answer = used.run("snapshot")

    assert answer.code == used.run("run", "--dry-run").code == 69
    assert answer.err.startswith("error: source local: ")
    # That it is down decides; what it said may tell more than it should.
    assert answer.json["snapshot"]["sources"][0]["error"] == ""


def test_several_documents_at_once_are_replayed_in_turn(used):
    run_until_done(used, "1")
    text = b"\n".join(path.read_bytes() for path in kept(used))

    answer = used.run("replay", "-", stdin=text)

    assert answer.code == 0
    assert answer.out.count(SAME) == len(kept(used))


def test_a_document_of_a_newer_version_is_refused_and_left_as_it_is(used):
    path = tampered(used, version=7, program="9.1")
    before = path.read_bytes()

    answer = used.run("replay", str(path))

    assert refused(answer, 4) == (
        f"error: {path}: it was written by a newer TinyScheduler (document version 7, by version"
        " 9.1)"
    )
    assert answer.err.endswith("hint: install a newer one\n")
    assert path.read_bytes() == before


def test_what_is_wrong_in_a_document_is_told_with_its_place(used):
    plan = {"verdicts": [], "decisions": [{"type": "dance"}]}
    path = tampered(used, plan=plan)

    assert refused(used.run("replay", str(path)), 4) == (
        f"error: {path}: plan.decisions[0].type should be one of dispatch, wait, not 'dance'"
    )
    assert refused(used.run("replay", "-", stdin=b"{"), 4).startswith(
        "error: stdin: it is not JSON: "
    )


def test_a_damaged_tick_that_is_kept_is_left_as_it_is(used):
    (path,) = kept(used)
    path.write_text('{"version": 1, "snapshot": {}}')

    answer = used.run("replay", "latest")

    assert answer.code == 4
    assert answer.err.startswith(f"error: {path}: snapshot.now is missing\n")
    assert path.read_text() == '{"version": 1, "snapshot": {}}'


# -- which tick -----------------------------------------------------------------------


def refused(answer: Answer, code: int) -> str:
    assert (answer.code, answer.out) == (code, "")
    assert "\nhint: " in answer.err
    return answer.err.splitlines()[0]


def test_one_tick_has_to_be_named(used):
    for arguments in ([], ["latest", "--all"], ["--all", "--list"], ["latest", "--list"]):
        assert refused(used.run("replay", *arguments), 2).startswith("error: which tick?")
    assert refused(used.run("replay", "--all", "--limit", "3"), 2) == (
        "error: --limit goes with --list"
    )


def test_a_tick_that_is_not_kept_ends_with_5(used):
    assert refused(used.run("replay", "1999"), 5) == (
        "error: no tick is kept whose id begins with '1999'"
    )
    assert refused(used.run("replay", "no-such-file"), 5) == (
        "error: there is no file 'no-such-file'"
    )


def test_a_beginning_that_several_ids_have_is_refused(used):
    run_until_done(used, "1", "2")

    answer = used.run("replay", "2")

    count = len({path.name.rpartition("-")[0] for path in kept(used)})
    assert refused(answer, 2) == f"error: the ids of {count} ticks begin with '2'"
    assert kept(used)[0].name.rpartition("-")[0] in answer.err


def test_what_is_no_file_cannot_be_read(used):
    assert refused(used.run("replay", "./state"), 2) == (
        "error: cannot read './state': Is a directory"
    )


def test_ids_are_completed(used):
    (path,) = kept(used)

    answer = used.run("completion", "--words", "ticks")

    assert answer.out.splitlines() == ["latest", path.name.rpartition("-")[0]]
