"""``parked``, ``history`` and ``report``: the ledger, for people, scripts, and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING

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
    "report": ["report"],
    "report-empty": ["report", "--since", "0s"],
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
    for work in [document.get("total"), *document.get("agents", {}).values()]:
        for spread in (work[key] for key in ("wait_sec", "run_sec")) if work else ():
            spread.update(median="<s>", p95="<s>")
    compare(f"past/{name}.json", json.dumps(document, indent=1) + "\n")


def settle_past(text: str, place: Place) -> str:
    text = settle_text(text, place)
    return "\n".join(
        "busiest: WHEN" if line.startswith("busiest: ") else line for line in text.split("\n")
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
    assert place.run("report").out == "no attempt has ended since 7d\n"
    assert place.run("parked").err.splitlines()[1:] == ["no task is parked"]
    assert not place.state.exists()


def test_a_report_fits_a_terminal_and_loses_no_column(past: Place):
    code, screen = past.type("report", columns=80)

    head = re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()[0]
    assert code == 0
    assert head.split()[-3:] == ["RETRIES", "WAIT", "RUN"]
