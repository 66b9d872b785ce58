"""``top`` and ``status --watch``: the same look again and again, on a screen or line by line."""

from __future__ import annotations

import json as json_format
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import typer

from tinyscheduler.adapters.probe_host import Usage, read_trees
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.parsing import duration_s, whole_number
from tinyscheduler.cli.render import (
    INK_OF_STATE,
    SCHEMA_VERSION,
    Cell,
    Ink,
    Page,
    Row,
    emit,
    escape,
    fit,
    format_span,
    format_table,
)
from tinyscheduler.cli.scratch import heeding_signals
from tinyscheduler.cli.status import Overview, agents_json, look, status_json, status_lines, summary
from tinyscheduler.config.load import load_config
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.records import WaitingLine
from tinyscheduler.model.resources import format_size
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.cli.standing import Standing
    from tinyscheduler.model.config import Config

_LEAST_INTERVAL_S, _MOST_INTERVAL_S = 0.1, 86_400.0


class Scene(Protocol):
    """Something to look at again and again."""

    def look(self) -> None:
        """Look at how things stand now."""

    def lines(self, page: Page) -> list[str]:
        """Return what was seen last, as lines that fit."""

    def document(self) -> dict[str, Any]:
        """Return what was seen last, as one document."""


def watch_status(invocation: Invocation, *, interval: str, as_json: bool) -> int:
    """Show the status until somebody has seen enough."""
    scene = _StatusScene(invocation)
    return watch(scene, invocation, interval_s=_interval_s(interval), most=None, as_json=as_json)


def top(
    context: typer.Context,
    *,
    interval: Annotated[str, typer.Option(metavar="DURATION", help="Between two looks.")] = "2s",
    iterations: Annotated[
        int | None,
        typer.Option(
            "--iterations",
            "-n",
            parser=whole_number(least=1),
            metavar="N",
            help="End after so many looks.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> int:
    """Watch what runs, what it takes, and what waits.

    CPU and memory are those of all processes of an attempt.  On a terminal it fills the
    screen until q or Ctrl-C; elsewhere it prints again and again.
    """
    invocation: Invocation = context.obj
    scene = _TopScene(invocation)
    return watch(scene, invocation, interval_s=_interval_s(interval), most=iterations, as_json=json)


def _interval_s(text: str) -> float:
    seconds = duration_s("--interval", text)
    if not _LEAST_INTERVAL_S <= seconds <= _MOST_INTERVAL_S:
        raise UsageError(f"--interval {text} is not between 0.1s and 1d", hint="try 2s")
    return seconds


class _StatusScene:
    """What ``status`` shows."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._overview: Overview | None = None

    def look(self) -> None:
        """Look at everything that status looks at."""
        self._overview = look(_configure(self._invocation, is_first=self._overview is None))

    def lines(self, page: Page) -> list[str]:
        """Return the sections of status, and what failed."""
        overview = _seen(self._overview)
        errors = [f"error: {one.where}: {one.message}" for one in overview.report.errors]
        lines = status_lines(overview, self._invocation)
        return [*lines, *(fit(escape(one), page) for one in errors)]

    def document(self) -> dict[str, Any]:
        """Return the document of status."""
        return status_json(_seen(self._overview))


def _configure(invocation: Invocation, *, is_first: bool) -> Config:
    """Return the configuration as it is now; what it warns of is told once."""
    if is_first:
        return invocation.configure_reading()
    return load_config(invocation.overrides, write_cache=False)


def _seen(overview: Overview | None) -> Overview:
    if overview is None:
        raise AssertionError("shown before it was looked at")
    return overview


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What one attempt takes now: percent of one core, and what its processes hold."""

    cpu_percent: float
    usage: Usage


class _TopScene:
    """What ``top`` shows."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._overview: Overview | None = None
        self._waiting: Sequence[WaitingLine] = ()
        self._loads: Mapping[str, _Load] = {}
        # CPU seconds of each attempt, and the moment (monotonic) at which it had them.
        self._before: dict[str, tuple[float, int]] = {}

    def look(self) -> None:
        """Look at the queue, the leases and the processes of each attempt."""
        from tinyscheduler.adapters.sqlite.database import Access
        from tinyscheduler.app.queue import open_queue

        config = _configure(self._invocation, is_first=self._overview is None)
        self._overview = overview = look(config)
        queue = open_queue(config, Access.READ)
        self._waiting = queue.inquiry.lines()
        self._loads = self._measure(overview.running, queue.clock.now().monotonic_ns)

    def _measure(self, running: Sequence[Standing], now_ns: int) -> dict[str, _Load]:
        processes = {
            one.lease.lease_id: (one.lease.process, one.lease.monotonic_started_ns)
            for one in running
            if one.lease is not None and one.lease.process is not None
        }
        trees = read_trees((one.pid, one.start_ticks) for one, _ in processes.values())
        loads, marks = {}, {}
        for lease_id, (process, started_ns) in processes.items():
            usage = trees.get((process.pid, process.start_ticks))
            if usage is None:
                continue
            # At the first look the average since the start stands in for the present.
            cpu_s, since_ns = self._before.get(lease_id, (0.0, started_ns))
            spent_s = max((now_ns - since_ns) / 1e9, 0.001)
            percent = max(0.0, 100 * (usage.cpu_s - cpu_s) / spent_s)
            loads[lease_id] = _Load(cpu_percent=percent, usage=usage)
            marks[lease_id] = usage.cpu_s, now_ns
        self._before = marks
        return loads

    def lines(self, page: Page) -> list[str]:
        """Return the summary, a line per attempt, and a line per agent."""
        overview = _seen(self._overview)
        lines = [fit(summary(overview), page), ""]
        if overview.running:
            rows = [self._running_row(one, overview) for one in overview.running]
            head = ["ID", "AGENT", "ATTEMPT", "FOR", "CPU%", "MEM", "PROCS", "TASK"]
            lines += format_table(head, rows, page)
        else:
            lines.append("nothing is running")
        agents = format_table(
            ["AGENT", "WAITING", "HELD", "ACTIVE", "LIMIT"], self._agent_rows(overview), page
        )
        errors = [escape(f"error: {one.where}: {one.message}") for one in overview.report.errors]
        return [*lines, "", *agents, *errors]

    def _running_row(self, one: Standing, overview: Overview) -> Row:
        load = self._loads.get(one.record.lease_id or "")
        age = "-"
        if one.lease is not None:
            age = format_span((overview.now - one.lease.started_at).total_seconds())
        return [
            Cell(text=one.record.task_id, ink=INK_OF_STATE[one.state]),
            one.agent or "-",
            str(one.attempt),
            age,
            "-" if load is None else f"{load.cpu_percent:.0f}",
            "-" if load is None else format_size(load.usage.memory_bytes),
            "-" if load is None else str(load.usage.processes),
            one.record.summary,
        ]

    def _agent_rows(self, overview: Overview) -> Iterator[Row]:
        """Yield the agents, then queues and agents that are named but not configured."""
        left = {(line.agent, line.queue): line for line in self._waiting}
        for name, slots in agents_json(overview).items():
            own = [line for key, line in left.items() if key[0] == name]
            left = {key: line for key, line in left.items() if key[0] != name}
            yield [
                name,
                str(sum(line.waiting for line in own)),
                str(sum(line.held for line in own)),
                str(slots["active"]),
                str(slots["limit"]),
            ]
        for line in left.values():
            name = f"queue {line.queue}" if line.agent is None else line.agent
            yield [Cell(text=name, ink=Ink.DIM), str(line.waiting), str(line.held), "-", "-"]

    def document(self) -> dict[str, Any]:
        """Return the attempts under way with their loads, and the lines that wait."""
        overview = _seen(self._overview)
        return {
            "at": format_time(overview.now),
            "load_state": overview.load_state,
            "running": [self._running_json(one) for one in overview.running],
            "waiting": [
                {"agent": one.agent, "queue": one.queue, "waiting": one.waiting, "held": one.held}
                for one in self._waiting
            ],
            "agents": agents_json(overview),
        }

    def _running_json(self, one: Standing) -> dict[str, Any]:
        load = self._loads.get(one.record.lease_id or "")
        return {
            "task_id": one.record.task_id,
            "state": one.state.value,
            "summary": one.record.summary,
            "agent": one.agent,
            "attempt": one.attempt,
            "started_at": format_time(one.lease.started_at) if one.lease is not None else None,
            "pid": one.lease.process.pid
            if one.lease is not None and one.lease.process is not None
            else None,
            "cpu_percent": None if load is None else round(load.cpu_percent, 1),
            "memory_bytes": None if load is None else load.usage.memory_bytes,
            "processes": None if load is None else load.usage.processes,
        }


def watch(
    scene: Scene,
    invocation: Invocation,
    *,
    interval_s: float,
    most: int | None,
    as_json: bool,
) -> int:
    """Show the scene until q, Ctrl-C, SIGTERM, or so many looks; these are no failures."""
    is_screen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not as_json
    with suppress(KeyboardInterrupt), heeding_signals():
        if is_screen:
            _show_screen(scene, invocation, interval_s=interval_s, most=most)
        else:
            _show_lines(scene, invocation, interval_s=interval_s, most=most, as_json=as_json)
    return EXIT_DONE


def _show_lines(
    scene: Scene, invocation: Invocation, *, interval_s: float, most: int | None, as_json: bool
) -> None:
    from tinyscheduler.adapters.clock_system import SystemClock

    clock = SystemClock()
    shown = 0
    while True:
        scene.look()
        if as_json:
            emit(json_format.dumps({"schema_version": SCHEMA_VERSION, **scene.document()}))
        else:
            lines = scene.lines(invocation.page)
            emit("\n".join([*([""] if shown else []), *lines]))
        shown += 1
        if shown == most:
            return
        clock.sleep(interval_s)


def _show_screen(
    scene: Scene, invocation: Invocation, *, interval_s: float, most: int | None
) -> None:
    """Draw on the terminal's other screen, so that what was there comes back."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False, no_color=not invocation.page.is_colored)
    with (
        _Keys() as keys,
        Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live,
    ):
        shown = 0
        while shown != most:
            scene.look()
            shown += 1
            is_due = False
            while not is_due:
                text = "\n".join(_fill(scene, invocation, interval_s=interval_s))
                live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)
                what = _Woken.TIME if shown == most else keys.wait(interval_s)
                if what == _Woken.QUIT:
                    return
                # A new size: what was seen is drawn again, as wide as it now fits.
                is_due = what == _Woken.TIME


def _fill(scene: Scene, invocation: Invocation, *, interval_s: float) -> list[str]:
    """Return as many lines as the screen has, the last one saying how to leave."""
    size = os.get_terminal_size(sys.stdout.fileno())
    page = Page(is_colored=invocation.page.is_colored, width=size.columns or 80)
    room = max(1, (size.lines or 24) - 1)
    lines = scene.lines(page)
    if len(lines) > room:
        lines = [*lines[: room - 1], page.paint(f"… {len(lines) - room + 1} more lines", Ink.DIM)]
    lines += [""] * (room - len(lines))
    return [*lines, page.paint(fit(f"every {interval_s:g}s; q leaves", page), Ink.DIM)]


class _Woken:
    """Why a wait for keys is over."""

    TIME = "time"
    SIZE = "size"
    QUIT = "quit"


class _Keys:
    """Reads single keys from the terminal, and notices when its size changes."""

    def __enter__(self) -> Self:
        """Have keys come at once and unseen, as long as stdin is a terminal of ours."""
        import termios
        import tty

        self._before: list[Any] | None = None
        self._stdin = sys.stdin.fileno() if sys.stdin.isatty() else None
        if self._stdin is not None:
            with suppress(termios.error):
                self._before = termios.tcgetattr(self._stdin)
                tty.setcbreak(self._stdin)
        self._resized, self._notice = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # By the wakeup descriptor: a handler of Python's own may run only once the waiting
        # that it should end is over.
        self._old_wakeup = signal.set_wakeup_fd(self._notice, warn_on_full_buffer=False)
        self._old_handler = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        import termios

        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGWINCH, self._old_handler)
        os.close(self._resized)
        os.close(self._notice)
        if self._stdin is not None and self._before is not None:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """Wait that long, or until there is a reason to draw again or to leave."""
        watched = [self._resized, *([self._stdin] if self._stdin is not None else [])]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._resized in ready:
            os.read(self._resized, 4096)
            return _Woken.SIZE
        if self._stdin in ready and self._stdin is not None:
            typed = os.read(self._stdin, 64)
            # Nothing to read means that the terminal is gone.
            if not typed or b"q" in typed.lower():
                return _Woken.QUIT
        return _Woken.TIME
