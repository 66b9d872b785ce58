"""Tasks of a tinytask server, through the command line: what broke the first TinyScheduler.

Each test here is a failure that was seen when that one ran against a real server.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from tests.cli.served import Served
from tests.tinytask.double import Double, Fault, Speaks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.place import Place


@pytest.fixture
def served(place: Place) -> Iterator[Served]:
    with Double().running() as double:
        yield Served(place=place, double=double)


def most_seconds_of_a_tick(served: Served) -> float:
    """Return what a tick may take whose questions fail: their bound, by how busy it is here."""
    began = time.monotonic()
    assert served.tick().code == 0
    healthy_s = time.monotonic() - began
    return 3 * 0.5 + 3 + 5 * healthy_s


def test_a_task_is_run_and_its_end_told_there(served: Served):
    served.do("echo 'all is well'")
    number = served.double.add("write docs", description="all of them", assigned_to="coder")

    started = served.tick()
    told_working = served.double.task(number)["status"]
    served.until_ended()
    settled = served.tick()

    task = served.double.task(number)
    assert (started.code, settled.code) == (0, 0)
    assert (told_working, task["status"], served.ran) == ("working", "complete", ["1 1 coder"])
    (comment,), (link,) = task["comments"], task["links"]
    assert comment["created_by"] == "tinyscheduler"
    assert "attempt 1 by coder succeeded" in comment["content"]
    assert "exit code 0. The task is complete." in comment["content"]
    assert "write docs\n    \n    all of them\n    all is well" in comment["content"]
    assert link["url"].endswith("/state/logs/tasks/tinytask-1/1.log")
    assert served.run("show", "tinytask-1", "--json").json["state"] == "done"


def test_the_comment_tells_what_an_agent_answered_and_why_it_failed(served: Served):
    agents = served.place.base / "agents.yaml"
    agents.write_text(agents.read_text().replace("limit: 2", "limit: 2\n    profile: claude", 1))
    served.do(
        """echo '{"type":"assistant","message":{"id":"m","role":"assistant","content":[]}}'
        echo '{"type":"result","subtype":"success","is_error":false,"result":"It \\u001b[1mworks."}'
        """
    )
    done = served.double.add(assigned_to="coder")
    served.finish(done)
    served.do("echo 'Error: a strange thing happened'; exit 1")
    failed = served.double.add(assigned_to="coder")
    served.tick()
    served.until_ended()
    served.tick()

    (told,), (why,) = served.double.comments(done), served.double.comments(failed)
    assert "Its last words:\n\n    It [1mworks.\n\nLog:" in told
    assert "Because: exit code 1: Error: a strange thing happened\n" in why


def test_while_the_server_is_down_nothing_is_given_back_and_the_exit_code_says_so(served: Served):
    # The first one: a warning, "Requeued task", leases deleted, errors 0, and working for ever.
    served.do("sleep 60")
    number = served.double.add(assigned_to="coder")
    served.tick()
    lease = served.until_running()
    served.kill_wrapper(lease)
    served.double.stop()

    down = served.tick()

    assert down.code == 69
    assert [one["where"] for one in down.json["errors"]] == ["source tinytask"]
    assert "Connection refused" in down.json["errors"][0]["message"]
    assert [one["lease_id"] for one in served.leases()] == [lease["lease_id"]]
    served.double.start()
    served.do("true")
    served.finish(number)
    assert served.ran == ["1 1 coder", "1 2 coder"]
    (first, second) = served.double.comments(number)
    assert "dead_pid" in first
    assert "succeeded" in second


def test_a_source_that_is_down_stops_no_other(served: Served):
    served.place.settings["SOURCES"] = "local,tinytask"
    served.double.stop()
    task_id = served.place.add("--", "true")

    answer = served.tick()

    assert answer.code == 1
    assert answer.json["stats"]["tasks_spawned"] == 1
    served.until_ended()
    served.tick()
    assert served.run("show", task_id, "--json").json["state"] == "done"
    served.double.start()
    served.tick()
    events = (served.place.state / "logs" / "events.jsonl").read_text().splitlines()
    told = [json.loads(line)["event"] for line in events if '"source.' in line]
    assert told == ["source.down", "source.up"]


def test_a_result_waits_for_its_server_and_is_told_once(served: Served):
    number = served.double.add(assigned_to="coder")
    served.tick()
    served.until_ended()
    served.double.stop()
    for _ in range(2):
        assert served.tick().code == 69
    assert len(list((served.place.state / "results").iterdir())) == 1

    served.double.start()
    served.finish(number)

    assert served.ran == ["1 1 coder"]
    assert len(served.double.comments(number)) == 1


def test_unassigned_tasks_of_a_queue_go_to_its_agent_with_most_free_slots(served: Served):
    # The first one asked for a tool that no server has, and matched nothing ever.
    served.do("sleep 5")
    numbers = [served.double.add(queue_name="dev") for _ in range(4)]

    report = served.tick().json

    assert report["stats"]["unassigned_matched"] == 3
    owners = [served.double.task(number)["assigned_to"] for number in numbers]
    assert sorted(map(str, owners)) == ["None", "coder", "coder", "helper"]
    # Two free against one, then one against one: by name.
    assert owners[:2] == ["coder", "coder"]


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.DRIP])
def test_a_server_that_never_ends_its_answer_is_cut_off_in_time(served: Served, fault: Fault):
    # The first one had no timeout at all, and held its lock until it was killed.
    most_s = most_seconds_of_a_tick(served)
    served.double.misbehave(fault)

    began = time.monotonic()
    answer = served.tick()

    assert answer.code == 69
    assert time.monotonic() - began < most_s
    (error,) = answer.json["errors"]
    assert "GET /tasks: no whole answer within 0." in error["message"]


def test_what_only_looks_like_an_answer_is_told_apart_and_not_asked_for_again(served: Served):
    wanted = {
        Fault.REDIRECT: "status 302; redirects are not followed",
        Fault.NOT_JSON: "but '<html>It works!</html>' is no JSON",
        Fault.WRONG_TYPES: "not a list",
        Fault.HUGE: "longer than 16 MiB",
    }
    served.double.add(assigned_to="coder")
    for fault, words in wanted.items():
        served.double.behave()
        served.double.asked.clear()
        served.double.misbehave(fault)

        answer = served.tick()

        assert answer.code == 69, fault
        assert words in answer.json["errors"][0]["message"]
        assert len(served.double.asked) == 1
    assert served.ran == []


def test_a_server_that_stumbles_once_is_asked_again(served: Served):
    number = served.double.add(assigned_to="coder")
    served.double.misbehave(Fault.SERVER_ERROR, times=1)
    served.double.misbehave(Fault.CUT_AFTER_WRITE, "PATCH", times=1)

    assert served.tick().code == 0

    served.until_ended()
    served.double.misbehave(Fault.CUT_AFTER_WRITE, "POST", times=2)
    assert served.tick().code == 0
    task = served.double.task(number)
    assert (task["status"], served.ran) == ("complete", ["1 1 coder"])
    assert (len(task["comments"]), len(task["links"])) == (1, 1)


@pytest.mark.parametrize(
    ("method", "path", "calls"),
    [
        ("GET", "/tasks$", 2),
        ("GET", "/tasks/1$", 3),
        ("PATCH", "/tasks/1$", 2),
        ("POST", "/comments$", 1),
        ("POST", "/links$", 1),
    ],
)
def test_wherever_in_a_tick_the_server_fails_nothing_is_lost_or_done_twice(
    served: Served, method: str, path: str, calls: int
):
    most_s = most_seconds_of_a_tick(served)
    numbers = []
    for fault in (
        Fault.CUT_AT_CONNECT,
        Fault.CUT_IN_HEADERS,
        Fault.CUT_IN_BODY,
        Fault.CUT_AFTER_WRITE,
    ):
        for spared in range(calls):
            number = served.double.add(f"{fault} {spared}", assigned_to="coder")
            numbers.append(number)
            # So often that no trying again helps, in one tick and in the next.
            served.double.misbehave(fault, method, path.replace("1", str(number)), spared=spared)
            for _ in range(2):
                began = time.monotonic()
                assert served.tick().code in {0, 1, 69}
                assert time.monotonic() - began < most_s
            served.double.behave()

    served.finish(*numbers)

    assert sorted(int(line.split()[0]) for line in served.ran) == numbers
    for number in numbers:
        task = served.double.task(number)
        assert (len(task["comments"]), len(task["links"])) == (1, 1), task


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["note", "claim", "unclaim", "settle"])
def test_a_tick_that_is_killed_at_a_step_of_its_own_notes_loses_nothing_and_runs_nothing_twice(
    served: Served, tmp_path: Path, step: str, moment: str
):
    number = served.double.add(assigned_to="coder")
    mark = tmp_path / "mark"
    crash = f"source_tasks.{step}:{moment} {mark}"
    if step == "unclaim":
        # A claim comes to nothing where the server does not say what has become of it.
        served.double.misbehave(Fault.CUT_IN_HEADERS, "PATCH")
    if step == "settle":
        served.tick()
        served.until_ended()

    served.place.run("run", TINYSCHEDULER_CRASH_AT=crash)
    assert mark.exists()
    served.double.behave()
    served.finish(number)

    assert served.ran in (["1 1 coder"], ["1 2 coder"])
    assert served.double.task(number)["status"] == "complete"
    assert len(served.double.comments(number)) == 1


def test_a_claim_that_the_server_refuses_starts_nothing(served: Served):
    # The first one started the agent first, and never looked whether its claim was taken.
    number = served.double.add(assigned_to="coder")
    served.double.misbehave(Fault.SERVER_ERROR, "PATCH")
    served.place.settings["MAX_LAUNCHES"] = "2"

    for _ in range(3):  # more often than starts may fail before a task is parked
        answer = served.tick()
        assert answer.code in {1, 69}
    assert "status 500, SQLITE_BUSY" in answer.json["errors"][0]["message"]
    assert served.ran == []

    served.double.behave()
    served.finish(number)
    assert served.ran == ["1 1 coder"]


def test_what_somebody_changes_between_looking_and_claiming_is_his(served: Served):
    number = served.double.add(assigned_to="coder")
    before = served.double.answer

    def answer(method, path, query, body):
        if method == "PATCH":
            served.double.answer = before  # type: ignore[method-assign]  # the server itself
            served.double.change(number, assigned_to="ann")
        return before(method, path, query, body)

    served.double.answer = answer  # type: ignore[method-assign]  # the server itself

    report = served.tick().json

    assert report["stats"]["tasks_spawned"] == 0
    task = served.double.task(number)
    assert (task["assigned_to"], task["status"], served.ran) == ("ann", "idle", [])
    assert served.place.leftovers() == []


def test_a_fast_attempt_is_not_run_again(served: Served):
    # The first one leased and claimed after starting, and set what was complete to working.
    served.do(f"""
        curl --silent --request PATCH --header 'Content-Type: application/json' \
            --data '{{"status": "complete"}}' {served.double.url}/api/v1/tasks/1 >/dev/null""")
    number = served.double.add(assigned_to="coder")

    served.tick()
    served.until_ended()
    for _ in range(3):
        served.tick()

    assert served.double.task(number)["status"] == "complete"
    assert served.ran == ["1 1 coder"]
    (comment,) = served.double.comments(number)
    assert "completed before the attempt ended" in comment


def test_a_hundred_blocked_tasks_keep_no_other_from_starting(served: Served):
    # The first one took the first few by priority, all blocked, and starved.
    blocker = served.double.add("never", assigned_to="ann")
    for _ in range(230):
        served.double.add(assigned_to="coder", priority=9, blocked_by_task_id=blocker)
    free = served.double.add(assigned_to="coder")

    report = served.tick().json

    assert report["stats"]["tasks_spawned"] == 1
    assert served.double.task(free)["status"] == "working"


def test_a_blocker_that_is_archived_blocks_for_ever_unless_blocking_is_off(served: Served):
    blocker = served.double.add("never", assigned_to="ann")
    number = served.double.add(assigned_to="coder", blocked_by_task_id=blocker)
    served.double.ask("POST", f"/api/v1/tasks/{blocker}/archive")

    (decision,) = served.tick().json["decisions"]
    assert (decision["reason"], decision["task_id"]) == ("blocked_by", "tinytask-2")
    assert "tinytask-1" in served.run("why", "tinytask-2").out

    assert served.tick("--disable-blocking").json["stats"]["tasks_spawned"] == 1
    assert served.double.task(number)["status"] == "working"


def test_a_parent_waits_for_its_subtasks(served: Served):
    parent = served.double.add("parent", assigned_to="coder", priority=9)
    child = served.double.add("child", parent_task_id=parent, assigned_to="coder")

    served.finish(parent)

    # Complete by its child, as the server has it: there was nothing left to run.
    assert served.ran == [f"{child} 1 coder"]


def test_a_task_at_work_that_nobody_runs_is_given_back_after_a_grace(served: Served):
    # The first one left it working for ever.
    lost, person = (served.double.add(assigned_to=name) for name in ("coder", "ann"))
    for number in (lost, person):
        served.double.change(number, status="working")
    served.place.settings["LOST_AFTER_SEC"] = "1"
    assert served.tick().json["reclaims"] == []  # seen for the first time
    assert served.tick().json["reclaims"] == []
    time.sleep(1.1)

    report = served.tick().json

    assert [(one["task_id"], one["reason"]) for one in report["reclaims"]] == [
        ("tinytask-1", "lost")
    ]
    served.finish(lost)
    assert served.ran == ["1 2 coder"]
    assert "nobody works on it here" in served.double.comments(lost)[0]
    assert served.double.task(person)["status"] == "working"


def test_a_task_that_fails_again_and_again_is_parked_with_a_comment(served: Served):
    # The first one started it again at every pass for ever.
    served.do("echo 'no such file'; exit 3")
    number = served.double.add("hopeless", assigned_to="coder")

    for _ in range(12):
        served.tick()
        served.until_ended(0)
        time.sleep(0.05)

    assert served.ran == ["1 1 coder", "1 2 coder", "1 3 coder"]
    task = served.double.task(number)
    assert (task["status"], task["assigned_to"]) == ("idle", "coder")
    assert len(task["comments"]) == 3
    assert "No attempt is left" in task["comments"][-1]["content"]
    assert "no such file" in task["comments"][-1]["content"]
    (parked,) = served.run("parked", "--json").json["tasks"]
    assert (parked["task_id"], parked["failures"]) == ("tinytask-1", 3)
    served.do("true")
    assert served.run("retry", "tinytask-1").code == 0
    served.finish(number)
    assert served.ran[3:] == ["1 4 coder"]


def test_a_parked_task_that_is_given_to_another_agent_is_tried_by_that_one(served: Served):
    served.do("exit 3")
    served.place.settings["MAX_ATTEMPTS"] = "1"
    number = served.double.add(assigned_to="coder")
    served.tick()
    served.until_ended()
    served.tick()
    assert served.tick().json["stats"]["tasks_spawned"] == 0

    served.double.change(number, assigned_to="helper")
    served.finish(number)

    assert served.ran == ["1 1 coder", "1 2 helper"]


def test_an_agent_that_hands_its_task_on_is_not_contradicted(served: Served):
    number = served.double.add(assigned_to="coder")
    served.do("sleep 0.3")
    served.tick()
    served.double.ask(
        "POST",
        f"/api/v1/tasks/{number}/transfer",
        {"current_agent": "coder", "new_agent": "helper", "comment": "review, please"},
    )

    served.until_ended()
    served.finish(number)

    assert served.ran == ["1 1 coder", "1 2 helper"]
    assert "given to somebody else" in served.double.comments(number)[1]


def test_a_missing_recipe_is_a_reason_and_not_an_attempt(served: Served):
    # The first one warned at each pass, exit code 0, or assigned and started it all the same.
    number = served.double.add(assigned_to="cook")
    for _ in range(7):
        (decision,) = served.tick().json["decisions"]
    assert decision["reason"] == "unplaced"
    assert "recipes/cook.yaml does not exist" in served.run("why", "tinytask-1").out

    recipes = served.place.base / "recipes"
    recipes.mkdir()
    (recipes / "cook.yaml").write_text("version: 1.0.0\n")
    served.finish(number)


def test_a_dry_run_only_looks(served: Served):
    served.double.add(assigned_to="coder")
    served.tick("--dry-run")
    before = served.place.digest()
    served.double.asked.clear()

    report = served.tick("--dry-run").json

    assert report["stats"]["tasks_spawned"] == 1
    assert {method for method, _ in served.double.asked} == {"GET"}
    assert served.place.digest() == before


def test_a_lease_of_any_size_costs_no_other_task_its_turn(served: Served):
    served.tick()
    huge = served.place.state / "running" / "task_huge.json"
    huge.parent.mkdir(mode=0o700, exist_ok=True)
    huge.write_bytes(b" " * (17 << 20) + b"{}")
    huge.chmod(0o600)
    number = served.double.add(assigned_to="coder")

    told = served.tick()
    served.until_ended()
    served.tick()

    assert served.double.task(number)["status"] == "complete"
    assert "huge" in told.out
    assert not huge.exists()


def test_ids_and_names_of_a_hostile_server_lead_nowhere(served: Served):
    served.double.add("--help; $(touch pwned) ../../x", assigned_to="coder")
    served.double.add(assigned_to="../../etc/passwd")
    before = served.double.answer

    def answer(method, path, query, body):
        status, document = before(method, path, query, body)
        if path == "/api/v1/tasks" and "parent_task_id" not in query:
            document = [{**document[0], "id": "../../../etc/x"}, *document]
        return status, document

    served.double.answer = answer  # type: ignore[method-assign]  # the server itself

    report = served.tick().json

    assert report["stats"]["tasks_spawned"] == 1
    served.until_ended()
    assert not (served.place.base / "pwned").exists()
    assert (
        "--help; $(touch pwned) ../../x"
        in next((served.place.state / "logs" / "tasks" / "tinytask-1").iterdir()).read_text()
    )


def test_most_blockers_first_then_priority_then_age_whoever_it_is_for(served: Served):
    served.place.settings |= {"AGENT_LIMITS": "coder:1", "STAGGER_DELAY_MS": "0"}
    old = served.double.add("old", assigned_to="coder")
    urgent = served.double.add("urgent", assigned_to="coder", priority=5)
    blocker = served.double.add("blocker", assigned_to="coder", priority=-5)
    dependent = served.double.add(
        "dependent", assigned_to="coder", priority=9, blocked_by_task_id=blocker
    )

    served.finish(old, urgent, blocker, dependent)

    order = [int(line.split()[0]) for line in served.ran]
    assert order == [blocker, dependent, urgent, old]


def test_without_an_agents_file_only_assigned_tasks_are_ours(served: Served):
    (served.place.base / "agents.yaml").unlink()
    served.place.settings |= {"AGENT_LIMITS": "coder:1", "GOOSE_BIN": "/bin/echo"}
    recipes = served.place.base / "recipes"
    recipes.mkdir()
    (recipes / "coder.yaml").write_text("version: 1.0.0\n")
    assigned = served.double.add(assigned_to="coder")
    unassigned = served.double.add(queue_name="coder")

    served.finish(assigned)
    served.tick()

    assert served.double.task(unassigned)["status"] == "idle"


def test_cancelling_holding_and_releasing_need_no_server(served: Served):
    served.do("sleep 60")
    running, held, cancelled = (served.double.add(assigned_to="coder") for _ in range(3))
    served.place.settings["AGENT_LIMITS"] = "coder:1"
    served.tick()
    served.until_running()
    served.double.stop()

    codes = [
        served.run(verb, f"tinytask-{number}").code
        for verb, number in (("cancel", running), ("hold", held), ("cancel", cancelled))
    ]

    assert codes == [0, 0, 0]
    listed = served.run("list", "--json").json["tasks"]
    assert [one["state"] for one in listed[1:]] == ["held", "cancelled"]
    assert served.run("cancel", "tinytask-99").code == 5
    assert served.run("edit", "tinytask-2", "--title", "x").code == 2
    served.double.start()
    served.until_ended()
    served.do("true")
    served.tick()
    assert "cancelled here" in served.double.comments(running)[0]
    assert served.double.task(running)["status"] == "idle"
    served.run("release", "tinytask-2")
    served.finish(held)
    assert served.ran == [f"{running} 1 coder", f"{held} 1 coder"]


def test_a_report_counts_what_is_open_in_every_source(served: Served):
    # The first one's reporter knew tinytask alone, and took each age for nothing.
    served.place.settings["SOURCES"] = "local,tinytask"
    served.run("pause")
    served.double.add(assigned_to="coder", priority=7)
    served.double.add(queue_name="dev")
    served.place.add("--agent", "coder", "--prompt", "x")
    served.tick()

    document = served.run("report", "--json").json
    told = served.run("report", "--agent", "coder").out

    assert document["sources"] == {"local": 1, "tinytask": 2}
    assert document["summary"]["total_open_tasks"] == 3
    work = document["agent_breakdown"]
    assert sorted(work["coder"]["task_ids"]) == ["1", "tinytask-1"]
    assert work["queue dev"]["task_ids"] == ["tinytask-2"]
    assert document["priority_distribution"] == {"7": 1, "0": 2}
    assert "sources: local (1 task), tinytask (1 task)" in told


@pytest.fixture
def old(place: Place) -> Iterator[Served]:
    with Double(speaks=Speaks.OLD).running() as double:
        served = Served(place=place, double=double)
        served.place.settings["SOURCE_TIMEOUT_SEC"] = "2"
        yield served


def test_a_server_of_version_1_is_served_by_its_tools(old: Served):
    # The first one waited for ever for the transport of the other version, and broke with mcp 2.
    old.do("echo 'all is well'")
    first = old.double.add("first", assigned_to="coder", priority=1)
    second = old.double.add("second", assigned_to="coder")

    told = old.run("doctor", "--json").json
    (what,) = [one["what"] for one in told["checks"] if one["check"] == "sources"]
    assert what.startswith(f"tinytask: {old.double.url}/mcp answers over MCP (SSE) in ")
    assert told["failures"] == 0
    old.finish(first, second)

    assert sorted(old.ran) == ["1 1 coder", "2 1 coder"]  # both at once
    (comment,) = old.double.comments(first)
    assert "all is well" in comment
    assert len(old.double.task(second)["links"]) == 1


def test_a_server_of_version_1_that_goes_down_and_fails_keeps_its_tasks(old: Served):
    number = old.double.add(assigned_to="coder")
    old.tick()
    old.until_ended()
    old.double.stop()
    down = old.tick()
    old.double.start()
    old.double.misbehave(Fault.CUT_AT_CONNECT, "POST", "/mcp", times=2)

    old.finish(number)

    assert down.code == 69
    assert old.ran == ["1 1 coder"]
    assert len(old.double.comments(number)) == 1
    assert "Traceback" not in down.err


def test_a_held_task_that_somebody_works_on_is_made_idle_and_stays_held(served: Served):
    number = served.double.add(assigned_to="coder")
    served.place.settings["LOST_AFTER_SEC"] = "0.001"
    served.double.change(number, status="working")
    served.tick()
    served.run("hold", "tinytask-1")

    given_back = served.tick()

    assert (given_back.code, given_back.err) == (0, "")
    assert served.double.task(number)["status"] == "idle"
    assert served.run("show", "tinytask-1", "--json").json["state"] == "held"
    assert served.ran == []
