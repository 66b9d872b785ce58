"""``parked``, ``history`` and ``report``: the ledger, for people, scripts, and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import Place, compare, settle_json, settle_text
from tests.process.station import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.place import Answer

LOOKS = {
    "parked": ["parked"],
    "parked-verbose": ["-v", "parked"],
    "history": ["history"],
    "history-failed": ["history", "--state", "failed", "--agent", "shell", "--since", "1h"],
    "history-by-agent": ["history", "--by", "agent"],
    "report": ["report"],
    "report-empty": ["report", "--since", "0s", "--status", "working"],
    "report-of-writer": ["report", "--agent", "writer", "--status", "idle", "--no-color"],
}


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place where something succeeded, something was parked, something cancelled."""
    place = Place(tmp_path_factory.mktemp("past") / "base")
    place.settings |= {"MAX_ATTEMPTS": "2", "AGENT_LIMITS": "shell:3", "RETRY_BASE_SEC": "0.1"}
    (place.base / "agents.yaml").write_text(
        "agents:\n  writer: {queue: words, command: [cat, '{prompt_file}']}\n"
    )
    place.add("--cwd", "/", "--", "true")
    place.run("run")
    place.run("wait", "1")
    place.add("--cwd", "/", "--title", '=EVIL()\n,"x"', "--", "sh", "-c", "exit 3")
    place.run("run")
    until(lambda: len(_attempts(place)) == 2, "the first failure")
    until(lambda: _tick_again(place), "task 2 to be parked")
    place.add("--cwd", "/", "--agent", "writer", "--prompt", "a poem")
    place.run("run")
    place.run("wait", "3")
    place.add("--hold", "--priority", "5", "--", "true")
    place.add("--queue", "words", "--after", "4", "--prompt", "another")
    yield place
    place.clean_up()


def _attempts(place: Place) -> list[dict[str, object]]:
    attempts: list[dict[str, object]] = place.run("history", "--json").json["attempts"]
    return attempts


def _tick_again(place: Place) -> bool:
    place.run("run")
    return bool(place.run("show", "2", "--json").json["state"] == "parked")


@pytest.mark.parametrize("name", LOOKS)
def test_in_a_pipe_the_text_is_whole_and_plain(
    past: Place, run_at: Callable[..., Answer], name: str
):
    answer = run_at(past, *LOOKS[name])

    assert answer.code == 0
    assert "\x1b" not in answer.out
    compare(f"past/{name}.txt", settle_past(answer.out, past) + answer.err)


@pytest.mark.parametrize("name", ["parked", "history", "report"])
def test_the_document_has_the_same(past: Place, run_at: Callable[..., Answer], name: str):
    answer = run_at(past, *LOOKS[name], "--json")

    assert (answer.code, answer.err, answer.json["schema_version"]) == (0, "", 1)
    document = settle_json(answer.json, past)
    for one in walk(document):
        if "median_sec" in one:
            one.update(dict.fromkeys(one.keys() - {"distribution"}, "<s>"))
        if "age_sec" in one:
            one["age_sec"] = "<s>"
    for work in [document.get("total"), *document.get("agents", {}).values()]:
        for spread in (work[key] for key in ("wait_sec", "run_sec")) if work else ():
            spread.update(median="<s>", p95="<s>")
    compare(f"past/{name}.json", json.dumps(document, indent=1) + "\n")


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if type(value) is list else ():
        yield from walk(one)


def settle_past(text: str, place: Place) -> str:
    text = settle_text(text, place)
    return "\n".join(
        f"{line.partition(': ')[0]}: WHEN" if line.startswith(("busiest: ", "ages: ")) else line
        for line in text.split("\n")
    )


@pytest.mark.parametrize("name", ["parked", "history", "report"])
@pytest.mark.parametrize("columns", [80, 40])
def test_on_a_terminal_every_line_fits(past: Place, name: str, columns: int):
    code, text = past.type(*LOOKS[name], columns=columns, NO_COLOR="1")

    assert code == 0
    lines = [line for line in text.splitlines() if not line.startswith("`tinyscheduler")]
    widest = max(map(len, lines))
    # The columns that tell one row from another are never cut, however narrow it is.
    assert widest <= columns or columns == 40


def test_a_spreadsheet_gets_one_row_an_attempt_and_runs_no_formula(past: Place):
    answer = past.run("history", "--csv")

    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [row["task_id"] for row in rows] == ["1", "2", "2", "3"]
    assert [row["outcome"] for row in rows] == ["succeeded", "failed", "failed", "succeeded"]
    assert rows[1]["exit_code"] == "3"
    assert len(answer.out.splitlines()) == 5
    assert not any(cell[:1] in {"=", "+", "@"} for row in rows for cell in row.values())


def test_the_newest_are_listed_and_it_is_said_that_there_are_more(past: Place):
    answer = past.run("history", "--limit", "1")

    assert "3" in answer.out.splitlines()[1].split()
    assert len(answer.out.splitlines()) == 2
    assert answer.err == "only the newest 1 are listed; --limit N lists more\n"
    assert past.run("history", "--limit", "1", "--json").json["is_complete"] is False


def test_each_filter_leaves_out_the_rest(past: Place):
    def ids(*options: str) -> list[object]:
        answer = past.run("history", "--json", *options)
        return [one["task_id"] for one in answer.json["attempts"]]

    assert ids("--state", "done") == ["1", "3"]
    assert ids("--agent", "writer") == ["3"]
    assert ids("--agent", "nobody") == []
    assert ids("--since", "2999-01-01") == []
    assert ids("--since", "1999-01-01T00:00Z") == ["1", "2", "2", "3"]


def test_a_parked_task_says_where_its_log_is_and_how_it_is_revived(past: Place):
    (task,) = past.run("parked", "--json").json["tasks"]

    assert (task["task_id"], task["failures"], task["failure_reason"]) == (
        "2",
        2,
        "command_failed",
    )
    assert task["log"] == str(past.state / "logs" / "tasks" / "2" / "2.log")
    assert task["way_out"] == "tinyscheduler retry 2"
    assert past.run("parked", "--agent", "writer").err == "no task is parked\n"


@pytest.mark.parametrize("command", ["history", "report"])
@pytest.mark.parametrize("text", ["soon", "", "-1h", "99999999999d", "2026-13-01", "\x1b[2J"])
def test_a_time_that_is_none_is_refused_with_the_fix(past: Place, command: str, text: str):
    answer = past.run(command, f"--since={text}")

    assert (answer.code, answer.out) == (2, "")
    first, hint = answer.err.splitlines()
    assert first.startswith("error: --since")
    assert first.isprintable()
    assert hint.startswith("hint: ")


def test_two_forms_at_once_are_refused(past: Place):
    answer = past.run("history", "--csv", "--json")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "error: --csv and --json cannot be given together\nhint: leave one out\n"


def test_an_empty_queue_has_no_past(place: Place):
    assert place.run("history").err.splitlines()[1:] == ["no such attempt is on record"]
    assert place.run("history", "--csv").out.count("\n") == 1
    assert place.run("report").out == "nothing is open\n\nno attempt has ended since 7d\n"
    assert place.run("parked").err.splitlines()[1:] == ["no task is parked"]
    assert not place.state.exists()


def test_a_report_fits_a_terminal_and_loses_no_column(past: Place):
    code, screen = past.type("report", columns=80)

    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()
    head = next(line for line in lines if line.startswith("AGENT"))
    assert code == 0
    assert lines[0].split()[-2:] == ["WORKING", "OLDEST"]
    assert head.split()[-3:] == ["RETRIES", "WAIT", "RUN"]


def test_attempts_are_summed_up_by_day_and_agent_for_a_spreadsheet_and_for_a_program(past: Place):
    rows = list(csv.DictReader(io.StringIO(past.run("history", "--by", "day,agent", "--csv").out)))
    document = past.run("history", "--by", "day,agent", "--json").json

    assert [(row["agent"], row["attempts"], row["failed"]) for row in rows] == [
        ("shell", "3", "2"),
        ("writer", "1", "0"),
    ]
    assert document["by"] == ["day", "agent"]
    assert [one["agent"] for one in document["groups"]] == ["shell", "writer"]
    assert rows[0]["day"] == document["groups"][0]["day"]
    total = document["total"]
    assert (total["attempts"], total["succeeded"], total["failed"]) == (4, 2, 2)
    assert total["run_sec"] == pytest.approx(sum(one["run_sec"] for one in document["groups"]))
    assert (total["turns"], total["cost_usd"], document["is_complete"]) == (None, None, True)


def test_of_sums_the_last_are_listed_and_what_fits_none_is_said(past: Place):
    answer = past.run("history", "--by", "agent", "--limit", "1")
    nothing = past.run("history", "--by", "agent", "--since", "0s")

    assert "writer" in answer.out
    assert "shell" not in answer.out
    assert answer.err == "only the last 1 are listed; --limit N lists more\n"
    assert (nothing.out, nothing.err) == ("", "no such attempt is on record\n")


def test_a_report_is_written_to_a_file_as_text_as_a_document_or_as_both(past: Place):
    text = past.run("report").out
    written = past.run("report", "-o", "report.txt")
    both = past.run("report", "--format", "both", "--output", "report.json")
    on_stdout = past.run("report", "--format", "both")

    document = json.loads((past.base / "report.json").read_text())
    assert (written.out, both.out.count("OPEN")) == ("", 1)
    assert (past.base / "report.txt").read_text().splitlines()[0] == text.splitlines()[0]
    assert (document["schema_version"], document["summary"]["total_open_tasks"]) == (1, 2)
    assert document["agent_breakdown"]["queue words"]["task_ids"] == ["5"]
    assert document["priority_distribution"] == {"5": 1, "0": 1}
    assert on_stdout.out.startswith("OPEN ")
    assert json.loads(on_stdout.out.splitlines()[-1])["summary"] == document["summary"]


@pytest.mark.parametrize("switch", [["report", "--no-color"], ["--color", "never", "report"]])
def test_a_report_has_no_colours_where_none_are_wanted(past: Place, switch: list[str]):
    assert "\x1b[1m" in past.type("report", columns=100)[1]
    assert "\x1b[1m" not in past.type(*switch, columns=100)[1]
    assert "\x1b[1m" not in past.type("report", columns=100, NO_COLOR="1")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["report", "--format", "xml"], 2, "is not one of console, json, both"),
        (["report", "--status", "done"], 2, "is not one of idle, waiting, held, working"),
        (["report", "--json", "--format", "both"], 2, "cannot be given together"),
        (["report", "-o", "/nonexistent/report"], 70, "cannot write"),
        (["report", "-o", "a\udcff/b"], 70, "cannot write"),
        (["report", "--agent", "writr"], 0, "writer"),
        (["history", "--by", "week"], 2, "is not agent, day, or day,agent"),
        (["history", "--by", "day,day"], 2, "is not agent, day, or day,agent"),
        (["history", "--by", "day", "--csv", "--json"], 2, "cannot be given together"),
    ],
)
def test_what_cannot_be_meant_is_refused(past: Place, arguments: list[str], code: int, words: str):
    answer = past.run(*arguments)

    assert words in answer.err
    assert "Traceback" not in answer.err
    assert answer.code == code or (code == 70 and answer.code not in (0, 70))
