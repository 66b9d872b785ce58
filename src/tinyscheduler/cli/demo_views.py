"""How the demo is watched: a table that changes in place, plain lines, or not at all."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tinyscheduler.cli.demo_stage import AGENT_LIMITS, Happening, History, Stage
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import (
    INK_OF_STATE,
    Cell,
    Ink,
    Page,
    Row,
    emit,
    escape,
    format_table,
)
from tinyscheduler.cli.standing import Standing
from tinyscheduler.model.tasks import TaskState

_WIDEST_STATE = max(map(len, TaskState))  # columns that move are hard to watch
_LEAST_WIDTH, _LEAST_HEIGHT = 60, 16


class View(Protocol):
    """Where the play is watched."""

    def say(self, *happenings: Happening) -> None:
        """Tell lines of the story."""

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        """Show where each task stands now."""


class Lines:
    """The whole story, line by line, for files, pipes and simple terminals."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._frame: list[str] = []

    def say(self, *happenings: Happening) -> None:
        """Print every line."""
        for happening in happenings:
            emit(_line(happening, self._invocation.page))

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        """Keep the table for the end."""
        self._frame = format_frame(stage, standings, page=self._invocation.page)

    def finish(self) -> None:
        """Print the table as it was in the end."""
        emit("\n".join(["", *self._frame]))


class LiveTable:
    """A table that changes in place, below the turns of the story."""

    def __init__(self, invocation: Invocation, live: Live) -> None:
        self._invocation = invocation
        self._live = live
        self._frame: list[str] = []

    def say(self, *happenings: Happening) -> None:
        """Print what the table does not tell, above it."""
        for happening in happenings:
            if happening.is_turn:
                line = Text.from_ansi(_line(happening, self._invocation.page))
                self._live.console.print(line, soft_wrap=True)

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        """Draw the table over its last self."""
        frame = format_frame(stage, standings, page=self._invocation.page)
        # Drawn only when it says something new, so that nothing flickers.
        if frame != self._frame:
            self._frame = frame
            text = Text.from_ansi("\n".join(["", *frame]), no_wrap=True, overflow="crop")
            self._live.update(text, refresh=True)


class Silence:
    """Nothing: only the document at the end is wanted."""

    def say(self, *happenings: Happening) -> None:
        """Say nothing."""

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        """Show nothing."""


@contextmanager
def open_view(invocation: Invocation, *, is_silent: bool) -> Iterator[View]:
    """Choose the view that stdout can show, and close it with the table as it was last."""
    if is_silent:
        yield Silence()
        return
    page = invocation.page
    size = shutil.get_terminal_size()
    is_roomy = size.columns >= _LEAST_WIDTH and size.lines >= _LEAST_HEIGHT
    if page.width is None or not is_roomy or os.environ.get("TERM") == "dumb":
        lines = Lines(invocation)
        yield lines
        lines.finish()
        return
    console = Console(highlight=False, no_color=not page.is_colored)
    with Live(
        console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield LiveTable(invocation, live)


def format_frame(stage: Stage, standings: Sequence[Standing], *, page: Page) -> list[str]:
    """Return the table of all tasks as lines that fit the page."""
    now = stage.queue.clock.now().wall
    active = Counter(one.agent for one in standings if one.state in _ACTIVE)
    rows: list[Row] = []
    for part, one in zip(stage.cast, standings, strict=True):
        history = stage.histories[one.record.task_id]
        is_killed = stage.killed is not None and stage.killed.task_id == one.record.task_id
        rows.append(
            [
                one.record.task_id,
                part.title,
                part.agent,
                Cell(text=f"{one.state:<{_WIDEST_STATE}}", ink=INK_OF_STATE[one.state]),
                str(history.attempt or "-"),
                tell_past(one, history, is_killed=is_killed, now=now)
                or _tell_wait(one, is_busy=active[part.agent] >= AGENT_LIMITS[part.agent]),
            ]
        )
    return format_table(["ID", "TASK", "AGENT", "STATE", "ATTEMPT", "WHAT HAPPENED"], rows, page)


def tell_past(standing: Standing, history: History, *, is_killed: bool, now: datetime) -> str:
    """Say in a few words what became of a task so far, and what it waits for."""
    past = ""
    if history.is_reclaimed:
        past = "reclaimed"
    elif is_killed:
        past = "wrapper killed"
    elif history.failures:
        past = _FAILED.get(history.failures, f"failed {history.failures} times")
    record = standing.record
    match standing.state:
        case TaskState.DONE:
            return f"{past}, then done" if past else ""
        case TaskState.CANCELLED:
            return "ended while running" if history.attempt else ""
        case TaskState.WAITING if record.blocked_by:
            return f"waits for {' and '.join(record.blocked_by)}"
        case TaskState.WAITING if record.backing_off_until is not None:
            seconds = math.ceil((record.backing_off_until - now).total_seconds())
            return f"{past}, next in {seconds} s" if seconds > 0 else f"{past}, next tick"
        case _:
            return past


_FAILED = {1: "failed", 2: "failed twice"}
_ACTIVE = (TaskState.STARTING, TaskState.RUNNING, TaskState.SETTLING)


def _tell_wait(standing: Standing, *, is_busy: bool) -> str:
    if standing.state is not TaskState.WAITING:
        return ""
    return f"{standing.agent} is busy" if is_busy else "waits for a tick"


def _line(happening: Happening, page: Page) -> str:
    clock = page.paint(f"{happening.at_s:5.1f}s", Ink.DIM)
    return f"{clock}  {escape(happening.words)}"
