"""``pause``, ``resume``, ``drain`` and ``undrain``: nothing starts, what runs goes on."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place, compare, settle_json, settle_text
from tests.process.station import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.cli.place import Answer


def reasons(place: Place) -> dict[str, str]:
    waiting = place.run("status", "--json").json["waiting"]
    return {one["task_id"]: one["reason"] for one in waiting}


def events(place: Place) -> list[dict[str, Any]]:
    lines = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def running(place: Place, task_id: str) -> bool:
    return bool(place.run("show", task_id, "--json").json["state"] == "running")


@pytest.fixture
def agents(place: Place) -> Place:
    """Return a place with two agents of two queues beside the shell."""
    (place.base / "agents.yaml").write_text(
        "agents:\n"
        "  coder: {queue: dev, limit: 2, command: [sh, -c, '{command}']}\n"
        "  writer: {queue: docs, limit: 2, command: [cat, '{prompt_file}']}\n"
    )
    # The end of one task must not start another behind the test's back.
    place.settings["KICK"] = "false"
    return place


def test_a_paused_agent_starts_nothing_and_the_others_go_on(agents: Place):
    agents.add("--agent", "coder", "--", "true")
    agents.add("--", "true")

    paused = agents.run("pause", "agent:coder", "--reason", "key expired")
    tick = agents.run("run")

    assert (paused.code, paused.out, paused.err) == (0, "agent coder is paused\n", "")
    assert "started task 2" in tick.out
    assert "started task 1" not in tick.out
    assert reasons(agents) == {"1": "paused"}
    shown = agents.run("show", "1")
    assert "agent coder is paused; `resume agent:coder` ends it" in shown.out
    assert "(key expired)" in shown.out
    assert agents.run("show", "1", "--json").json["stopped_by"]["reason"] == "paused"
    assert "agent coder is paused; `resume agent:coder` ends it" in agents.run("list").err

    assert agents.run("resume", "agent:coder").out == "the pause of agent coder has ended\n"
    assert "started task 1" in agents.run("run").out


def test_a_paused_queue_keeps_all_its_agents_from_starting(agents: Place):
    agents.add("--queue", "dev", "--", "true")
    agents.add("--agent", "coder", "--", "true")
    agents.add("--agent", "writer", "--prompt", "x")

    agents.run("pause", "queue:dev")

    assert reasons(agents) == {"1": "paused", "2": "paused"}


def test_pause_without_a_target_means_everything_and_resume_ends_every_pause(agents: Place):
    agents.add("--", "true")

    assert agents.run("pause").out == "everything is paused\n"
    agents.run("pause", "agent:coder", "queue:docs")
    assert agents.run("run").out == "nothing to do: 0 running, 1 waiting\n"
    resumed = agents.run("resume")

    assert sorted(resumed.out.splitlines()) == [
        "the pause of agent coder has ended",
        "the pause of everything has ended",
        "the pause of queue docs has ended",
    ]
    assert agents.run("status", "--json").json["paused"] == []
    assert "started task 1" in agents.run("run").out


def test_what_runs_goes_on_while_everything_is_paused(place: Place):
    place.add("--", "sh", "-c", "while [ ! -e go ]; do sleep 0.05; done")
    place.run("run")
    until(lambda: running(place, "1"), "task 1 to run")

    place.run("pause")
    place.run("run")
    (place.base / "go").touch()

    assert place.run("wait", "1", "--timeout", "30s").code == 0


def test_switching_twice_is_no_error_and_tells_who_was_first(agents: Place):
    agents.run("pause", "agent:coder", "--reason", "first")

    again = agents.run("pause", "agent:coder", "--reason", "second")
    none = agents.run("resume", "agent:writer")
    nothing = agents.run("undrain")

    assert again.code == 0
    assert again.out.startswith("agent coder is paused already, since ")
    assert again.out.endswith("(first)\n")
    assert (none.code, none.out) == (0, "agent writer was not paused\n")
    assert (nothing.code, nothing.out) == (0, "nothing was draining\n")
    (paused,) = agents.run("status", "--json").json["paused"]
    assert (paused["target"], paused["reason"]) == ("agent:coder", "first")


@pytest.mark.parametrize(
    ("target", "code", "hint"),
    [
        ("agent:codr", 5, "did you mean coder?"),
        ("queue:dex", 5, "did you mean dev?"),
        ("schedule:nightly", 5, "no schedule at all"),
        ("coder", 2, "agent:NAME"),
        ("agent:", 2, "agent:NAME"),
        ("", 2, "agent:NAME"),
        ("agent:\x1b[2J", 5, "known names"),
    ],
)
def test_what_is_not_there_cannot_be_paused(agents: Place, target: str, code: int, hint: str):
    for command in ("pause", "resume"):
        answer = agents.run(command, "agent:coder", target)
        assert (answer.code, answer.out) == (code, ""), answer
        assert hint in answer.err
        assert "\x1b" not in answer.err
    assert agents.run("status", "--json").json["paused"] == []


def test_an_agent_that_is_configured_no_more_can_be_resumed(agents: Place):
    agents.run("pause", "agent:coder")
    (agents.base / "agents.yaml").unlink()

    assert agents.run("resume", "agent:coder").code == 0


def test_a_drain_outlives_every_resume(place: Place):
    place.add("--", "true")

    drained = place.run("drain", "--reason", "kernel\tupdate ✓")
    resumed = place.run("resume")

    assert drained.out == "nothing starts any more\nnothing runs\n"
    assert "nothing starts all the same: draining; `undrain` ends it" in resumed.err
    assert reasons(place) == {"1": "draining"}
    assert "(kernel update ✓)" in place.run("status").out
    assert place.run("undrain").out == "tasks may start again\n"
    assert "started task 1" in place.run("run").out


def test_drain_waits_for_the_last_attempt(place: Place):
    place.add("--", "sh", "-c", "while [ ! -e go ]; do sleep 0.05; done")
    place.add("--after", "1", "--", "true")
    place.run("run")
    until(lambda: running(place, "1"), "task 1 to run")

    with place.start("drain", "--wait", "--json") as waiting:
        until(lambda: "draining" in place.run("status").out, "the drain to be set")
        assert waiting.poll() is None
        (place.base / "go").touch()
        out, err = waiting.communicate(timeout=30)

    assert waiting.returncode == 0
    assert json.loads(out)["running"] == []
    assert b"waiting for 1 attempt to end: task 1" in err
    # Its end made a tick happen, and that one started nothing.
    until(lambda: reasons(place).get("2") == "draining", "task 2 to be free to start")


def test_a_drain_that_takes_too_long_gives_up_with_124_and_stays(place: Place):
    place.add("--", "sleep", "1000")
    place.run("run")

    answer = place.run("drain", "--wait", "--timeout", "200ms")

    assert answer.code == 124
    assert "gave up after 200ms: task 1 not ended; still draining" in answer.err
    assert place.run("status", "--json").json["paused"][0]["kind"] == "drain"
    assert place.run("drain", "--timeout", "1s").code == 2


def test_a_drain_says_at_once_that_it_holds(place: Place):
    place.add("--", "sleep", "1000")
    place.run("run")
    with place.start("drain", "--wait", "--timeout", "30s") as waiting:
        assert waiting.stdout is not None
        first = waiting.stdout.readline()
        is_waiting = waiting.poll() is None
        place.run("cancel", "1")
        rest, _ = waiting.communicate(timeout=30)

    assert (first, is_waiting, rest) == (b"nothing starts any more\n", True, b"nothing runs\n")


def test_a_drain_that_is_interrupted_while_it_waits_stays(place: Place):
    place.add("--", "sleep", "1000")
    place.run("run")
    with place.start("drain", "--wait") as waiting:
        until(lambda: "draining" in place.run("status").out, "the drain to be set")
        waiting.send_signal(signal.SIGINT)
        waiting.communicate(timeout=30)

    assert waiting.returncode == 130
    assert "draining" in place.run("status").out


def test_every_change_is_an_event(agents: Place):
    agents.run("pause", "agent:coder", "--reason", "why")
    agents.run("pause", "agent:coder")
    agents.run("resume")
    agents.run("drain")
    agents.run("undrain")

    told = [(one["event"], one.get("target"), one["reason"]) for one in events(agents)]

    assert told == [
        ("scheduler.paused", "agent:coder", "why"),
        ("scheduler.resumed", "agent:coder", "why"),
        ("scheduler.draining", "all", None),
        ("scheduler.undrained", "all", None),
    ]


def test_a_pause_by_a_task_names_the_task(place: Place):
    place.run("pause", TINYSCHEDULER_TASK_ID="7")

    assert place.run("status", "--json").json["paused"][0]["by"] == "task 7"


def test_a_daemon_that_is_resumed_starts_at_once(place: Place):
    place.settings["LOOP_INTERVAL_SEC"] = "1000"
    place.run("pause")
    place.add("--", "true")
    with place.start("run", "--daemon", "--json") as daemon:
        assert daemon.stdout is not None
        first = json.loads(daemon.stdout.readline())
        assert [one["reason"] for one in first["decisions"]] == ["paused"]
        assert place.run("show", "1", "--json").json["state"] == "waiting"

        place.run("resume")

        assert place.run("wait", "1", "--timeout", "30s").code == 0
        daemon.terminate()
        daemon.communicate(timeout=30)


@pytest.mark.parametrize("reason", ["x" * 501, b"\xff\xfe"])
def test_a_reason_is_a_sentence(place: Place, reason: str | bytes):
    answer = place.run("pause", "--reason", reason)

    assert answer.code == 2
    assert answer.err.startswith("error: --reason ")


def test_the_documents_of_the_switches(agents: Place, run_at: Callable[..., Answer]):
    lines = []
    for name, arguments in (
        ("pause", ["pause", "agent:coder", "--reason", "key expired"]),
        ("drain", ["drain"]),
        ("resume", ["resume"]),
        ("undrain", ["undrain"]),
    ):
        answer = run_at(agents, *arguments, "--json")
        lines.append(f"{name} {json.dumps(settle_json(answer.json, agents))}")
    compare("switches.jsonl", "\n".join(lines).replace('"root"', '"USER"') + "\n")


def test_the_status_of_a_paused_place(agents: Place, run_at: Callable[..., Answer]):
    agents.add("--agent", "coder", "--", "true")
    agents.run("pause", "agent:coder", "--reason", "key expired")
    agents.run("drain")

    text = settle_text(run_at(agents, "status").out, agents)
    code, screen = agents.type("status", NO_COLOR="1")

    compare("status-paused.txt", text.replace("by root", "by USER"))
    assert code == 0
    assert max(map(len, screen.splitlines())) <= 80


@pytest.mark.parametrize("look", [(), ("status",)])
def test_at_a_terminal_the_whole_of_a_pause_can_be_read(agents: Place, look: tuple[str, ...]):
    agents.add("--agent", "coder", "--", "true")
    agents.run("pause", "agent:coder", "--reason", "the key of the service has to be made anew")

    _, screen = agents.type(*look, columns=80, NO_COLOR="1")

    told = screen.splitlines()[1]
    assert told.startswith("agent coder is paused; `resume agent:coder` ends it; by ")
    assert "(the key of the service has to be made anew)" in " ".join(screen.split())
    assert max(map(len, screen.splitlines())) <= 80


def test_a_paused_schedule_fires_nothing_and_what_it_fired_waits(agents: Place):
    agents.run("schedule", "add", "--name", "nightly", "--every", "2h", "--", "true")
    agents.run("schedule", "run", "nightly")

    paused = agents.run("pause", "schedule:nightly", "--reason", "too dear")

    assert paused.out == "schedule nightly is paused\n"
    assert reasons(agents) == {"1": "paused"}
    assert "nothing to do" in agents.run("run").out
    shown = agents.run("schedule", "show", "nightly", "--json").json["schedule"]
    assert (shown["state"], shown["why_paused"]) == ("paused", "too dear")
    status = agents.run("status", "--json").json
    assert [one["reason"] for one in status["paused"]] == ["too dear"]
    assert status["schedules"]["stopped"] == []  # somebody did, and it is not its own doing

    assert agents.run("resume", "schedule:nightly").out == (
        "the pause of schedule nightly has ended\n"
    )
    assert agents.run("schedule", "show", "nightly", "--json").json["schedule"]["state"] == "active"
    assert "started task 1" in agents.run("run").out


@pytest.mark.parametrize("way", [("schedule", "resume", "nightly"), ("resume", "schedule:nightly")])
def test_a_schedule_is_resumed_either_way_however_it_was_paused(
    agents: Place, way: tuple[str, ...]
):
    agents.run("schedule", "add", "--name", "nightly", "--every", "2h", "--", "true")
    for pause in (("schedule", "pause", "nightly"), ("pause", "schedule:nightly")):
        agents.run(*pause)
        assert agents.run(*way).code == 0
        shown = agents.run("schedule", "show", "nightly", "--json").json["schedule"]
        assert shown["state"] == "active"
        assert agents.run("status", "--json").json["paused"] == []

    assert agents.run("resume", "schedule:nightly").out == "schedule nightly was not paused\n"


def test_a_schedule_that_is_not_there_is_told_with_the_name_that_was_meant(agents: Place):
    agents.run("schedule", "add", "--name", "nightly", "--every", "2h", "--", "true")

    missed = agents.run("pause", "schedule:nightl")

    assert missed.code == 5
    assert "did you mean nightly?" in missed.err


def test_the_pause_of_a_schedule_ends_with_it(agents: Place):
    agents.run("schedule", "add", "--name", "nightly", "--every", "2h", "--", "true")
    agents.run("pause", "schedule:nightly")
    agents.run("schedule", "rm", "nightly")

    assert agents.run("status", "--json").json["paused"] == []
