"""A tinytask server as a task source, wired; loaded only where the settings name it."""

from __future__ import annotations

import os
from functools import partial

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.tinytask.client import TinytaskClient
from tinyscheduler.adapters.tinytask.source import TinytaskSettings, TinytaskSource
from tinyscheduler.app.queue import source_tasks
from tinyscheduler.errors import NotFoundError
from tinyscheduler.wording import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import Rules
    from tinyscheduler.ports import Clock, Ledger

_MOST_COUNTED = 1000


def open_client(config: Config, clock: Clock, *, may_write: bool) -> TinytaskClient:
    """Return what asks the server: again and again where more depends on it than a preview."""
    timeout_s = config.timing.source_timeout_s
    if may_write:
        return TinytaskClient(config.endpoint, clock, timeout_s=timeout_s)
    return TinytaskClient(config.endpoint, clock, timeout_s=timeout_s, tries=1)


def tinytask_source(
    config: Config,
    client: TinytaskClient,
    database: Database,
    clock: Clock,
    ledger: Ledger,
    *,
    rules: Rules,
    may_write: bool,
    warn: Callable[[str], None],
) -> TinytaskSource:
    """Return the source under the settings that decide what of the server's is ours."""
    return TinytaskSource(
        client,
        source_tasks(config, database, clock),
        ledger,
        clock,
        settings=TinytaskSettings(
            # What runs the task's own argv has nothing to run: these tasks bring none.
            agents=tuple(agent for agent in config.agents if agent.command),
            # Without such a file agents have no queue but their own name.
            serves_queues=os.path.isfile(config.paths.agents_file),
            blocking_disabled=config.blocking_disabled,
            recipes=config.paths.recipes,
            rules=rules,
            lost_after_s=config.timing.lost_after_s,
            may_write=may_write,
        ),
        warn=warn,
        find_answer=partial(_find_answer, config),
    )


def _find_answer(config: Config, agent: str, tail: bytes) -> str:
    """Return what the agent said last, by the end of what it printed; empty if that tells none."""
    # Loaded where an attempt has ended.
    from tinyscheduler.app.agent_samples import find_answer, find_rules

    try:
        return find_answer(find_rules(config, agent), tail)
    except NotFoundError:
        return ""


def dial(config: Config) -> str:
    """Ask the server as a tick would and say in words what it told; SourceError if it does not."""
    clock = SystemClock()
    client = open_client(config, clock, may_write=False)
    try:
        began_ns = clock.now().monotonic_ns
        tasks, number = client.tasks(
            lambda _words: None, status="idle,working", limit=_MOST_COUNTED
        )
        status = client.health().get("status")
        where, language = client.where, client.language
        took_ms = (clock.now().monotonic_ns - began_ns) / 1e6
    finally:
        client.close()
    known = {agent.name for agent in config.agents if agent.command}
    queues = {agent.queue for agent in config.agents if agent.command}
    ours = sum(
        one.agent in known if one.agent is not None else one.queue in queues for one in tasks
    )
    more = " or more" if number == _MOST_COUNTED else ""
    health = "" if status == "healthy" else f", and calls itself {quote(status)}"
    return (
        f"{where} answers over {language} in {took_ms:.0f} ms{health}: {number}{more} open tasks,"
        f" {ours} of them for agents here"
    )
