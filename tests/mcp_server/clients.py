"""MCP clients: the official one over a real process, and calls without any protocol."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

from tinyscheduler.cli.mcp_answers import Answer, Answers, Scope
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cli.place import Place

LIMIT_S = 60


class Client:
    """A session with a server: what it answers, read as an agent would."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def names(self) -> dict[str, Any]:
        """Return the schemas of its tools by their names."""
        return {tool.name: tool.input_schema for tool in (await self._session.list_tools()).tools}

    async def call(self, name: str, **arguments: object) -> Any:
        """Return what a call that succeeds answers."""
        answer = await self.answer(name, arguments)
        assert not answer.is_error, answer
        # A sentence may stand before it.
        head, _, rest = answer.text.partition("\n\n")
        return json.loads(answer.text if head.startswith("{") else rest)

    async def fail(self, name: str, **arguments: object) -> str:
        """Return the words of a call that fails."""
        answer = await self.answer(name, arguments)
        assert answer.is_error, answer
        return answer.text

    async def answer(self, name: str, arguments: dict[str, object]) -> Answer:
        """Return whatever a call answers."""
        result = await self._session.call_tool(name, arguments)
        (content,) = result.content
        assert content.type == "text"
        return Answer(text=content.text, is_error=result.is_error)


@asynccontextmanager
async def connected(place: Place, *options: str) -> AsyncIterator[Client]:
    """Start ``mcp`` as a process of its own and greet it."""
    program, *arguments = place.argv("mcp", *options)
    server = StdioServerParameters(
        command=str(program),
        args=[str(one) for one in arguments],
        env=place.environment(),
        cwd=place.base,
    )
    async with (
        asyncio.timeout(LIMIT_S),
        stdio_client(server) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield Client(session)


def answers_at(
    base: Path,
    *,
    may_write: bool = True,
    agents: tuple[str, ...] = ("shell",),
    lease_id: str | None = None,
) -> Answers:
    """Return who answers at a base path, without any protocol."""
    scope = Scope(
        name="me",
        may_write=may_write,
        agents=frozenset(agents),
        lease_id=lease_id,
        folder=str(base),
    )
    config = load_config(Overrides(base_path=str(base)), makes_state=True)
    return Answers(config, scope, asyncio.sleep, patience_s=0.2)


def call(answers: Answers, name: str, **arguments: object) -> Any:
    """Return what a call that succeeds answers."""
    answer = asyncio.run(answers.answer(name, arguments))
    assert not answer.is_error, answer
    head, _, rest = answer.text.partition("\n\n")
    return json.loads(answer.text if head.startswith("{") else rest)


def refuse(answers: Answers, name: str, **arguments: object) -> str:
    """Return the words of a call that fails."""
    answer = asyncio.run(answers.answer(name, arguments))
    assert answer.is_error, answer
    return answer.text
