"""A day in the life of a recipe: calls of tools, and what the real tinytask 2.0 answers to them.

Both stand in the file beside this one.  ``python -m tests.mcp_server.conversation
BUILD/index.js`` asks all of it anew, and writes down what is said.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

RECORD = Path(__file__).with_suffix(".json")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def read(text: str) -> Any:
    """Return an answer with its document read, behind its sentence if it has one; without times."""
    head, gap, rest = text.partition("\n\n")
    document = rest if gap and not text.startswith("{") else text
    try:
        found = json.loads(_TIME.sub("TIME", document))
    except ValueError:
        return text
    return found if document == text else [head, found]


async def _ask(program: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        variables = {"TINYTASK_MODE": "stdio", "TINYTASK_DB_PATH": f"{folder}/tinytask.db"}
        server = StdioServerParameters(
            command="node",
            args=[program],
            env={"PATH": os.environ["PATH"], "TINYTASK_LOG_LEVEL": "error", **variables},
        )
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            said = []
            for asked in json.loads(RECORD.read_text()):
                name, arguments = asked["call"], asked["with"]
                result = await session.call_tool(name, arguments)
                (content,) = result.content
                assert content.type == "text"
                one = {"call": name, "with": arguments, "fails": bool(result.is_error)}
                said.append({**one, "said": read(content.text)})
            return said


if __name__ == "__main__":
    lines = [json.dumps(one, ensure_ascii=False) for one in asyncio.run(_ask(sys.argv[1]))]
    RECORD.write_text("[\n" + ",\n".join(lines) + "\n]\n")
