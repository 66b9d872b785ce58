"""The official MCP client over a real process: tasks created, run, read."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place
from tests.mcp_server.clients import connected
from tests.process.station import until

from tinyscheduler.files import user_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# An agent that reads its prompt, and one that speaks MCP itself: as recipes do.
AGENTS = """\
agents:
  coder: {queue: dev, limit: 1, command: [sh, -c, 'echo did: $(cat)'], stdin: prompt}
  solver: {limit: 1, command: [PYTHON, SCRIPT]}
"""
# Its server has none of the attempt's variables: the client of the package hands on few.
SOLVER = """\
import asyncio, os, sys
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

arguments = ["-I", "-m", "tinyscheduler", "--base-path", os.environ["TINYSCHEDULER_BASE_PATH"]]
server = StdioServerParameters(command=sys.executable, args=[*arguments, "mcp", "--allow-write"])

async def main():
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        async def call(name, **arguments):
            result = await session.call_tool(name, arguments)
            print(name, result.is_error, result.content[0].text.partition("\\n")[0], flush=True)
            return result.content[0].text
        task_id = int(os.environ["TINYSCHEDULER_TASK_ID"])
        await call("signup_for_task", agent_name="solver")
        await call("add_comment", task_id=task_id, content="solved")
        await call("wait", ids=[task_id])
        said = await call("update_task", id=task_id, status="complete")
        assert '"status": "complete"' in said, said
        await call("signup_for_task", agent_name="solver")

asyncio.run(main())
"""

WAITS_FOR_ITSELF = (
    "wait True Error waiting: an attempt cannot wait for the end of its own task"
    " (end it, and let a task that comes after it go on)"
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "base")
    script = tmp_path / "solver.py"
    script.write_text(SOLVER)
    agents = AGENTS.replace("PYTHON", sys.executable).replace("SCRIPT", str(script))
    (place.base / "agents.yaml").write_text(agents)
    yield place
    place.clean_up()


def test_a_client_creates_tasks_a_tick_runs_them_and_the_client_reads_how_they_ended(
    served: Place,
):
    async def talk() -> None:
        async with connected(served, "--allow-write", "--allow-agent", "shell") as client:
            wish = {"title": "Say it", "description": "hello", "created_by": "ann"}
            more = {"assigned_to": "coder", "tags": ["urgent", "team=red"]}
            whole = await client.call("create_task", title="All of it", created_by="ann")
            part = {"parent_task_id": whole["id"]}
            task = await client.call("create_subtask", **wish, **more, **part)
            command = await client.call("enqueue_command", command=["echo", "it ran"])
            served.run("run")
            waited = await client.call("wait", ids=[task["id"], command["id"]], timeout_sec=30)
            found = await client.call("get_task", id=task["id"])
            ran = await client.call("get_task", id=command["id"])
            whole = await client.call("get_task", id=whole["id"])

        assert task["status"] == "idle"
        assert not waited["timed_out"]
        assert [one["status"] for one in (found, whole)] == ["complete", "complete"]
        told = served.run("events", "-n", "100", "--event", "task.finished", "--json").out
        assert told.count('"task.finished"') == 3, "that of the whole included"
        assert found["output"] == "did: hello\n"
        assert found["last_attempt"]["outcome"] == "succeeded"
        assert found["tags"] == ["urgent", "team=red"]
        assert (ran["output"], ran["created_by"]) == ("it ran\n", user_name(os.geteuid()))

    asyncio.run(talk())


def test_an_attempt_that_calls_its_own_task_complete_is_settled_once_and_takes_no_other(
    served: Place,
):
    served.settings["KICK"] = "false"  # nothing starts but by `run`
    own = served.add("--agent", "solver", "--title", "its own")
    served.run("run")
    other = served.add("--agent", "solver", "--title", "another")
    until(lambda: served.run("logs", own).out.count("signup") == 2, "all that it has to say")
    before = served.run("show", other, "--json").json["state"]
    served.run("hold", other)
    until(lambda: not (served.run("run"), served.leftovers())[1], "its end")

    log = served.run("logs", own).out.splitlines()
    shown = served.run("show", own, "--json").json

    assert log == [
        f"signup_for_task False Task #{own} claimed and set to working status",
        "add_comment False {",
        WAITS_FOR_ITSELF,
        "update_task False {",
        "signup_for_task False No idle tasks available in queue for agent: solver",
    ]
    assert (before, shown["state"]) == ("waiting", "done")
    assert [one["outcome"] for one in shown["attempts"]] == ["succeeded"]
