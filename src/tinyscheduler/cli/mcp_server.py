"""How is MCP spoken over stdin and stdout?  By the official package, which is loaded here alone."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from tinyscheduler import __version__
from tinyscheduler.cli.mcp_tools import Access, Tool
from tinyscheduler.cli.render import ReaderGoneError, tell
from tinyscheduler.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Any

    from mcp import types
    from mcp.server.context import ServerRequestContext

    from tinyscheduler.cli.mcp_answers import Answers, Scope
    from tinyscheduler.model.config import Config

# A message with the longest texts that any tool takes, each character written out.
_MOST_MESSAGE_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 16


def serve(config: Config, scope: Scope) -> None:
    """Answer until stdin ends.  UsageError where the package is missing.

    From here on stdout is the protocol's: whatever else is printed goes to stderr.
    """
    try:
        import anyio
        from mcp import types as mcp_types
        from mcp.server.lowlevel import Server
    except ImportError as error:
        raise UsageError(
            f"mcp needs the package mcp, 2.3 or newer, which is not installed ({error.name})",
            hint="pip install 'tinyscheduler[mcp]'; in a checkout, ./tinyscheduler brings it along",
        ) from error
    from tinyscheduler.cli.mcp_answers import Answers

    answers = Answers(config, scope, anyio.sleep)
    handlers = _Handlers(answers, mcp_types)
    server: Server[dict[str, Any]] = Server(
        "tinyscheduler",
        version=__version__,
        instructions=_instructions(scope),
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
    )
    faults: list[OSError] = []
    try:
        anyio.run(_serve, server)
    except* OSError as group:
        faults += _leaves_of(group)
    # Raised here, since what is raised above comes out in a group of its own.
    if any(isinstance(one, BrokenPipeError) for one in faults):
        raise ReaderGoneError
    if faults:
        raise StoreError(
            f"cannot talk to the client any more: {faults[0].strerror}",
            hint="stdin and stdout must stay open for as long as it is served",
        )


def _leaves_of(group: BaseExceptionGroup[OSError]) -> Iterator[OSError]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves_of(one)
        else:
            yield one


async def _serve(server: Any) -> None:  # noqa: ANN401 - of a package that may be missing
    import anyio
    from mcp.server.stdio import stdio_server

    lines: Any = _Lines(os.dup(0), anyio.wait_readable)
    out = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), encoding="utf-8", write_through=True)
    os.dup2(2, 1)
    async with stdio_server(lines, anyio.wrap_file(out)) as (read, write):
        await server.run(read, write, server.create_initialization_options())


class _Lines:
    """The lines of a descriptor, as they come; of one too long no more than that it is no message.

    Waited for without a thread, which nothing could call back from its read: Ctrl-C would wait for
    the next line.
    """

    def __init__(self, fd: int, wait_readable: Callable[[int], Awaitable[None]]) -> None:
        self._fd = fd
        self._wait_readable = wait_readable
        self._rest = b""

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        pieces, length, rest = [], 0, self._rest
        while True:
            before, newline, self._rest = rest.partition(b"\n")
            length += len(before)
            if length <= _MOST_MESSAGE_BYTES:
                pieces.append(before + newline)
            if newline:
                break
            rest = await self._read()
            if not rest:
                break
        if length > _MOST_MESSAGE_BYTES:
            tell(f"error: a message of {length} bytes; read are {_MOST_MESSAGE_BYTES}")
            return "too long\n"
        if not length and not newline:
            raise StopAsyncIteration
        return b"".join(pieces).decode(errors="replace")

    async def _read(self) -> bytes:
        with suppress(PermissionError):  # a file, or /dev/null: there is nothing to wait for
            await self._wait_readable(self._fd)
        return os.read(self._fd, _BLOCK_BYTES)


class _Handlers:
    """The package's side of the tools."""

    def __init__(self, answers: Answers, mcp_types: Any) -> None:  # noqa: ANN401 - a module
        self._answers = answers
        self._types = mcp_types

    async def list_tools(
        self,
        _context: ServerRequestContext[Any],
        _params: types.PaginatedRequestParams | None,
    ) -> types.ListToolsResult:
        """Name the tools that may be called here."""
        tools = [self._describe(tool) for tool in self._answers.tools]
        listed: types.ListToolsResult = self._types.ListToolsResult(tools=tools)
        return listed

    def _describe(self, tool: Tool) -> types.Tool:
        hints = self._types.ToolAnnotations(read_only_hint=tool.access is Access.READS)
        told: types.Tool = self._types.Tool(
            name=tool.name, description=tool.text, input_schema=tool.schema, annotations=hints
        )
        return told

    async def call_tool(
        self, _context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Answer one call, with words in any case."""
        answer = await self._answers.answer(params.name, params.arguments or {})
        content = self._types.TextContent(type="text", text=answer.text)
        result: types.CallToolResult = self._types.CallToolResult(
            content=[content], is_error=answer.is_error
        )
        return result


def _instructions(scope: Scope) -> str:
    may = "reads and changes" if scope.may_write else "reads"
    words = f"The queue of a TinyScheduler. This server {may} tasks as {scope.name}."
    if scope.agents:
        words += f" Commands may be given to: {', '.join(sorted(scope.agents))}."
    if scope.lease_id is not None:
        words += (
            " You are an attempt that works on a task of this queue: signup_for_task tells which."
            " It ends with you; complete is noted, and exit code 0 makes it so."
        )
    return words
