"""The tools are those of tinytask 2.0 in names, arguments and shapes, beside four of ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.mcp_server.clients import answers_at, call, refuse

from tinyscheduler.cli.mcp_tools import BY_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.cli.mcp_answers import Answers

# Each tool of tinytask 2.0: what it needs, and behind the line what it takes beside that.
TINYTASK = {
    name: tuple(words.split() for words in takes.split("|"))
    for name, takes in {
        "create_task": """title created_by | description assigned_to priority tags
            parent_task_id queue_name blocked_by_task_id""",
        "update_task": """id | title description status assigned_to priority tags
            parent_task_id queue_name blocked_by_task_id""",
        "get_task": "id |",
        "delete_task": "id |",
        "archive_task": "id |",
        "list_tasks": """| assigned_to status exclude_status include_archived limit offset
            queue_name parent_task_id exclude_subtasks""",
        "create_subtask": """parent_task_id title created_by | description assigned_to priority
            tags queue_name""",
        "get_subtasks": "parent_task_id | recursive include_archived",
        "get_task_with_subtasks": "task_id | recursive",
        "move_subtask": "subtask_id | new_parent_id",
        "get_my_queue": "agent_name |",
        "signup_for_task": "agent_name |",
        "move_task": "task_id current_agent new_agent comment |",
        "list_queues": "|",
        "get_queue_stats": "queue_name |",
        "add_task_to_queue": "task_id queue_name |",
        "remove_task_from_queue": "task_id |",
        "move_task_to_queue": "task_id new_queue_name |",
        "get_queue_tasks": """queue_name | assigned_to status exclude_status parent_task_id
            exclude_subtasks include_archived limit offset""",
        "clear_queue": "queue_name |",
        "add_comment": "task_id content | created_by",
        "update_comment": "id content |",
        "delete_comment": "id |",
        "list_comments": "task_id |",
        "get_comment": "id |",
        "move_comment": "comment_id to_task_id |",
        "add_link": "task_id url | description created_by",
        "update_link": "id | url description",
        "delete_link": "id |",
        "list_links": "task_id |",
    }.items()
}
OURS = {"why", "status", "wait", "enqueue_command"}
A_TASK = """id title description status assigned_to previous_assigned_to created_by priority tags
    parent_task_id queue_name blocked_by_task_id created_at updated_at archived_at
    is_currently_blocked""".split()  # noqa: SIM905 - read as words
A_COMMENT = ["id", "task_id", "content", "created_by", "created_at", "updated_at"]
A_LINK = ["id", "task_id", "url", "description", "created_by", "created_at"]


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return answers_at(tmp_path / "base")


def test_each_tool_of_tinytask_is_here_and_takes_what_it_takes_there():
    for name, (needed, more) in TINYTASK.items():
        schema = BY_NAME[name].schema

        assert (name, set(schema["required"])) == (name, set(needed))
        assert (name, set(schema["properties"])) == (name, {*needed, *more})
        assert all(one["description"] for one in schema["properties"].values())


def test_there_are_no_tools_beside_those_of_tinytask_and_four_of_ours(answers: Answers):
    assert set(BY_NAME) == set(TINYTASK) | OURS
    assert {tool.name for tool in answers.tools} == set(BY_NAME)


def test_answers_have_the_keys_of_tinytask_in_its_order(answers: Answers):
    def create(**more: object) -> dict[str, object]:
        task = call(answers, "create_task", title="t", created_by="ann", **more)
        assert list(task)[: len(A_TASK)] == A_TASK
        return dict(task)

    first = create(assigned_to="bob", priority="2", description="d", queue_name="dev", tags=["x"])
    part = call(answers, "create_subtask", parent_task_id=1, title="part", created_by="ann")
    comment = call(answers, "add_comment", task_id=1, content=" said ")
    link = call(answers, "add_link", task_id=1, url="notes.md", created_by="bob")
    whole = call(answers, "get_task", id="1")
    move = {"task_id": 1, "current_agent": "bob", "new_agent": "eve", "comment": "go"}
    moved = call(answers, "move_task", **move)

    assert (first["status"], first["priority"], first["tags"]) == ("idle", 2, ["x"])
    assert (part["parent_task_id"], part["queue_name"]) == (1, "dev")
    assert (list(comment), list(link)) == (A_COMMENT, A_LINK)
    assert (comment["content"], comment["created_by"], link["description"]) == ("said", "me", None)
    assert whole["comments"] == [comment]
    assert whole["links"] == [link]
    assert (moved["task"]["assigned_to"], moved["task"]["previous_assigned_to"]) == ("eve", "bob")
    assert moved["comment"]["content"] == "go"
    assert list(call(answers, "list_tasks")) == ["count", "tasks"]
    assert list(call(answers, "get_my_queue", agent_name="eve")) == ["agent", "count", "tasks"]
    listed = call(answers, "get_queue_tasks", queue_name="dev", status="idle")
    assert list(listed) == ["queue_name", "count", "filters", "tasks"]
    assert call(answers, "list_queues") == {"count": 1, "queues": ["dev"]}
    assert call(answers, "get_queue_stats", queue_name="dev") == {
        "queue_name": "dev",
        "total_tasks": 2,
        "by_status": {"idle": 2, "working": 0, "complete": 0},
        "assigned": 1,
        "unassigned": 1,
        "agents": ["eve"],
    }
    assert list(call(answers, "get_subtasks", parent_task_id=1)) == [
        "parent_task_id",
        "recursive",
        "count",
        "subtasks",
    ]
    assert call(answers, "get_task_with_subtasks", task_id=1)["subtask_count"] == 1
    assert call(answers, "move_subtask", subtask_id=2)["parent_task_id"] is None
    assert call(answers, "clear_queue", queue_name="dev")["tasks_cleared"] == 2
    assert list(call(answers, "list_comments", task_id=1)) == ["task_id", "count", "comments"]
    assert call(answers, "move_comment", comment_id=1, to_task_id=2)["task_id"] == 2
    assert call(answers, "get_comment", id=1)["content"] == "Comment moved to task 2 comment 3"
    assert call(answers, "update_comment", id=1, content="anew")["content"] == "anew"
    assert call(answers, "update_link", id=1, description="what")["description"] == "what"
    gone = {"success": True, "message": "Comment 1 deleted successfully", "id": 1}
    assert call(answers, "delete_comment", id=1) == gone
    assert call(answers, "delete_link", id=1)["success"]
    assert call(answers, "list_links", task_id=1)["count"] == 0
    assert call(answers, "archive_task", id=2)["archived_at"] is not None
    assert call(answers, "delete_task", id=1)["success"]


def test_a_task_that_is_a_title_alone_is_told_to_its_agent_by_its_title(answers: Answers):
    call(answers, "create_task", title="first", created_by="me", assigned_to="bob")

    renamed = call(answers, "update_task", id=1, title="second")
    told = call(answers, "update_task", id=1, description="more")
    silent = call(answers, "update_task", id=1, description="")

    assert [one["description"] for one in (renamed, told, silent)] == [None, "more", None]


def test_what_is_not_there_is_told_in_the_words_of_tinytask(answers: Answers):
    call(answers, "create_task", title="t", created_by="me")

    assert refuse(answers, "get_task", id=999).startswith(
        "Error retrieving task: Task not found: 999"
    )
    assert "Comment not found: 7" in refuse(answers, "update_comment", id=7, content="x")
    assert "Link not found: 7" in refuse(answers, "delete_link", id=7)
    assert "Parent task not found: 7" in refuse(
        answers, "create_subtask", parent_task_id=7, title="t", created_by="me"
    )
    assert refuse(answers, "no_such_tool") == "Unknown tool: no_such_tool"
    assert call_text(answers, "signup_for_task", agent_name="bob") == (
        "No idle tasks available in queue for agent: bob"
    )


def call_text(answers: Answers, name: str, **arguments: object) -> str:
    answer = asyncio.run(answers.answer(name, arguments))
    assert not answer.is_error
    return answer.text
