"""A hostile client gets clear errors and changes nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import LIMIT_S, Place
from tests.mcp_server.clients import answers_at, call, refuse

from tinyscheduler.cli.mcp_tools import BY_NAME, Access, Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tinyscheduler.cli.mcp_answers import Answers

SURROGATE = "\ud800"
NO_IDS = (
    *("../x", "", " ", "1\0", "0", 0, -1, "-1", 1.5, 10**400, "9" * 400, 1e300, float("nan")),
    *(float("inf"), True, [1], {"id": 1}, "1; DROP TABLE tasks", SURROGATE, "\uff11"),
)
NO_TEXTS: tuple[object, ...] = (7, True, [], {}, "a\0b", SURROGATE, "x" * (2 << 20))
# Nothing is wrong with these.
RIGHT = {
    **dict.fromkeys(("priority", "limit", "offset", "timeout_sec"), (0, "0", -1, "-1")),
    # Where null means "none", so do zero and nothing.
    **dict.fromkeys(("parent_task_id", "new_parent_id", "blocked_by_task_id"), (0, "")),
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "base")
    (place.base / "agents.yaml").write_text(
        "agents:\n  coder: {limit: 1, command: [cat, '{recipe}']}\n"
    )
    (place.base / "recipes").mkdir()
    place.add("--hold", "--", "true")
    yield place
    place.clean_up()


@pytest.fixture
def answers(place: Place) -> Answers:
    return answers_at(place.base, agents=("shell", "coder"))


TABLES = ["tasks", "task_specs", "dependencies", "shared_tasks", "comments", "links", "attempts"]


def rows(place: Place) -> list[Any]:
    """Return all that a client might have changed."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as connection:
        return [
            connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - of this list
            for table in TABLES
        ]


def required(name: str) -> dict[str, object]:
    """Return arguments that nothing is wrong with but that no second task is there."""
    values = {"number": 1, "string": "x", "array": ["true"]}
    schema = BY_NAME[name].schema
    return {
        one: values[schema["properties"][one].get("type", "number")] for one in schema["required"]
    }


def wrong_values(parameter: Parameter) -> Iterator[object]:
    kinds = parameter.schema.get("type", ())
    if kinds == "string":
        yield from NO_TEXTS
    elif kinds == "number" or "number" in kinds:
        yield from (one for one in NO_IDS if one not in RIGHT.get(parameter.name, ()))
    else:
        yield from ({}, SURROGATE, [None], [{}], [SURROGATE])


def test_every_argument_of_every_tool_is_looked_at_before_anything_is_touched(
    place: Place, answers: Answers
):
    before = rows(place)

    for tool in BY_NAME.values():
        for parameter in tool.parameters:
            for value in wrong_values(parameter):
                arguments = {**required(tool.name), parameter.name: value}
                words = refuse(answers, tool.name, **arguments)
                assert words.startswith(f"Error {tool.doing}: {parameter.name}"), words
                assert len(words) < 500
        for name in required(tool.name):
            arguments = {key: one for key, one in required(tool.name).items() if key != name}
            if name != "created_by":
                assert f"{name} is required" in refuse(answers, tool.name, **arguments)
        words = refuse(answers, tool.name, **required(tool.name), nonsense=1)
        assert f"{tool.name} takes no argument 'nonsense'" in words
    assert rows(place) == before


def test_a_server_that_only_reads_has_no_tool_that_writes_and_refuses_each(place: Place):
    answers = answers_at(place.base, may_write=False)
    before = place.digest()

    offered = {tool.name for tool in answers.tools}
    for tool in BY_NAME.values():
        if tool.access is Access.READS:
            continue
        assert "this server only reads" in refuse(answers, tool.name, **required(tool.name))
    for name in offered:
        more = {"timeout_sec": 0} if name == "wait" else {}
        asyncio.run(answers.answer(name, required(name) | more))

    assert offered == {tool.name for tool in BY_NAME.values() if tool.access is Access.READS}
    assert place.digest() == before


def test_paths_that_lead_out_of_their_folders_and_agents_that_may_not_are_refused(
    place: Place, answers: Answers, tmp_path: Path
):
    (place.base / "out").symlink_to(tmp_path)
    (tmp_path / "evil.yaml").write_text("x")
    before = rows(place)

    def enqueue(**more: object) -> str:
        return refuse(answers, "enqueue_command", command=["true"], **more)

    for cwd in ("..", "/", "out", "../base/../..", "nowhere", str(tmp_path)):
        assert "cwd" in enqueue(cwd=cwd)
    for recipe in ("../evil.yaml", str(tmp_path / "evil.yaml"), "a.txt", "x\\\0.yaml", "none.yaml"):
        assert "recipe" in enqueue(recipe=recipe)
    assert "may not be given commands" in enqueue(agent="other")
    assert "the command is empty" in refuse(answers, "enqueue_command", command=[])
    assert "has an empty name" in refuse(answers, "enqueue_command", command=[""])
    assert "NUL" in refuse(answers, "enqueue_command", command=["echo", "a\0b"])
    # A command that somebody else has put there is not started by handing it to who may not.
    only_coder = answers_at(place.base, agents=("coder",))
    words = refuse(only_coder, "update_task", id=1, priority=5)
    assert "may not be given any here" in words
    words = refuse(answers, "create_task", title="t", created_by="x", assigned_to="shell")
    assert "agent shell runs a command" in words
    assert rows(place) == before


def test_nothing_is_made_where_nothing_was_ever_added(tmp_path: Path):
    empty = Place(tmp_path / "empty")
    answers = answers_at(empty.base)
    before = empty.digest()

    for tool in BY_NAME.values():
        if tool.access is Access.WRITES and tool.name not in ("create_task", "signup_for_task"):
            refuse(answers, tool.name, **required(tool.name))
    asyncio.run(answers.answer("signup_for_task", {"agent_name": "x"}))
    refuse(answers, "create_task", title="t", created_by="x", assigned_to="shell")
    refuse(answers, "enqueue_command", command=["x"], agent="coder")

    assert empty.digest() == before


def test_calls_that_wait_are_bounded(answers: Answers):
    async def talk() -> list[Any]:
        calls = (answers.answer("wait", {"ids": 1, "timeout_sec": 0}) for _ in range(30))
        return await asyncio.gather(*calls)

    async def talk_long() -> list[Any]:
        calls = (answers.answer("wait", {"ids": 1, "timeout_sec": 1}) for _ in range(21))
        return await asyncio.gather(*calls)

    assert {one.is_error for one in asyncio.run(talk())} == {False}
    refused = [one.text for one in asyncio.run(talk_long()) if one.is_error]
    assert len(refused) == 1
    assert "20 calls wait already" in refused[0]


def test_a_hundred_calls_at_once_are_answered(answers: Answers):
    async def talk() -> list[Any]:
        calls = (answers.answer("list_tasks", {"limit": 1}) for _ in range(100))
        return await asyncio.gather(*calls)

    assert {one.is_error for one in asyncio.run(talk())} == {False}


def test_a_database_that_is_locked_broken_or_of_a_newer_program_costs_one_call_not_the_server(
    place: Place, answers: Answers
):
    path = place.state / "tinyscheduler.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        call(answers, "add_comment", task_id=1, content="before")
        other.execute("BEGIN IMMEDIATE")
        locked = refuse(answers, "add_comment", task_id=1, content="while it is locked")
        other.execute("ROLLBACK")
        call(answers, "add_comment", task_id=1, content="after")
        other.execute("PRAGMA user_version = 99")
        newer = refuse(answers, "add_comment", task_id=1, content="x")
        newer_read = refuse(answers, "list_tasks")
        other.execute("PRAGMA user_version = 8")
    assert "locked" in locked
    assert "newer TinyScheduler" in newer
    assert "newer TinyScheduler" in newer_read
    assert call(answers, "list_comments", task_id=1)["count"] == 2

    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(b"no database at all" * 100)
    assert "Error listing tasks" in refuse(answers, "list_tasks")
    assert "Error adding comment" in refuse(answers, "add_comment", task_id=1, content="x")


def request(number: int, method: str, **parameters: object) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
    ).encode()


# One message a line, as it comes: after what is none, a server still answers.
MESSAGES = [
    b"not json",
    b"[" * 100_000,
    b"\xff\xfe\x00",
    b"x" * (17 << 20),
    b"{}",
    request(
        1,
        "initialize",
        protocolVersion="2025-06-18",
        capabilities={},
        clientInfo={"name": "evil", "version": "0"},
    ),
    b'{"jsonrpc": "2.0", "method": "notifications/initialized"}',
    request(2, "tools/call", name=SURROGATE),
    request(3, "tools/call", name=7),
    request(4, "no/such"),
    b'{"jsonrpc": "1.0", "id": 5, "method": "tools/list"}',
    request(6, "tools/call", name="wait", arguments={"ids": 1, "timeout_sec": 600}),
    request(7, "tools/call", name="delete_task", arguments={"id": 1}),
    request(8, "tools/call", name="get_task", arguments={"id": 1}),
]


def test_what_is_no_message_is_passed_over_and_stdout_holds_the_protocol_alone(place: Place):
    before = rows(place)
    with subprocess.Popen(
        place.argv("mcp"),
        env=place.environment(),
        cwd=place.base,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"\n".join(MESSAGES) + b"\n")
        process.stdin.flush()
        said: dict[object, Any] = {}
        while 8 not in said:
            answer = json.loads(process.stdout.readline())
            assert answer["jsonrpc"] == "2.0"
            said[answer.get("id")] = answer
        # Somebody still waits for the end of a task, for ten minutes at most.
        process.stdin.close()
        code = process.wait(timeout=LIMIT_S / 4)
        rest, told = process.stdout.read(), process.stderr.read()

    assert (code, b"Traceback" in told) == (0, False), told
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert "error" in said[3]
    assert "error" in said[4]
    assert "this server only reads" in said[7]["result"]["content"][0]["text"]
    assert json.loads(said[8]["result"]["content"][0]["text"])["state"] == "held"
    assert rows(place) == before


def test_options_that_make_no_sense_are_refused_before_the_first_message(place: Place):
    for arguments, words in (
        (["--allow-agent", "coder"], "without --allow-write they only look"),
        (["--allow-write", "--allow-agent", "codre"], "did you mean coder?"),
        (["--as", ""], "is no name"),
        (["--as", "a\nb"], "is no name"),
    ):
        answer = place.run("mcp", *arguments)
        assert (answer.code, answer.out) == (2, "")
        assert words in answer.err
