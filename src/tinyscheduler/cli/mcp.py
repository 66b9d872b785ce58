"""``mcp``: the queue for agents, over stdin and stdout."""

from __future__ import annotations

import os
import sys

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, option
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import UsageError
from tinyscheduler.files import user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typer

    from tinyscheduler.model.config import Config

_LONGEST_NAME = 255


def mcp(
    context: typer.Context,
    *,
    allow_write: Annotated[
        bool, option("--allow-write", help="Let clients change tasks, not only look at them.")
    ] = False,
    allow_agent: Annotated[
        list[str] | None,
        option(metavar="AGENT", help="Let clients enqueue commands for this agent; repeatable."),
    ] = None,
    name: Annotated[
        str | None, option("--as", metavar="NAME", help="Who clients are, unless they say.")
    ] = None,
) -> int:
    """Serve the queue to an agent over MCP, by stdin and stdout.

    The tools are those of tinytask, and why, status, wait and enqueue_command. Clients only look
    unless you say otherwise. Ends when stdin does.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.app.surroundings import find_surroundings
    from tinyscheduler.cli.mcp_answers import Scope
    from tinyscheduler.cli.mcp_server import serve

    config = invocation.configure_reading()
    agents = _check_agents(config, allow_agent or [], may_write=allow_write)
    around = find_surroundings(config, os.environ)
    default = around.agent if around is not None and around.agent else user_name(os.geteuid())
    scope = Scope(
        name=default if name is None else _check_name(name),
        may_write=allow_write,
        agents=agents,
        lease_id=None if around is None else around.lease_id,
        folder=_current_folder(),
    )
    if sys.stdin.isatty():
        invocation.advise("this speaks MCP to a client, which starts it by itself; Ctrl-C ends it")
    serve(config, scope)
    return 0


def _check_agents(config: Config, names: list[str], *, may_write: bool) -> frozenset[str]:
    known = [agent.name for agent in config.agents]
    for one in names:
        if one not in known:
            raise UsageError(
                f"--allow-agent {quote(one)}: there is no such agent", hint=did_you_mean(one, known)
            )
    if names and not may_write:
        raise UsageError(
            "--allow-agent lets clients enqueue commands, and without --allow-write they only look",
            hint="add --allow-write, or leave out --allow-agent",
        )
    return frozenset(names)


def _check_name(name: str) -> str:
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(
            f"--as {quote(name[:_LONGEST_NAME])} is no name",
            hint=f"1 to {_LONGEST_NAME} characters that can be printed",
        )
    return name.strip()


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
