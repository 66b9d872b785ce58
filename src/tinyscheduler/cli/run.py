"""``run``: one tick, or ticks for ever."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from tinyscheduler.cli.invocation import NORMAL, Invocation
from tinyscheduler.cli.options import Annotated, option
from tinyscheduler.cli.render import (
    ReaderGoneError,
    count,
    emit,
    emit_json,
    escape,
    format_span,
    tell,
)
from tinyscheduler.cli.report import preview_lines, report_json, tick_lines, wait_lines
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_BUSY, EXIT_DONE, EXIT_FAILED, EXIT_UNAVAILABLE, UsageError
from tinyscheduler.model.plan import Dispatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typer

    from tinyscheduler.model.config import Config
    from tinyscheduler.model.plan import TickError, TickReport

_MOST_SUMMARIES = 100


_Text = str | None
_Once = Annotated[bool, option("--once", help="Do one tick; the default.")]
_Daemon = Annotated[bool, option("--daemon", help="Tick again and again.")]
_DryRun = Annotated[bool, option("--dry-run", help="Say what a tick would do, and change nothing.")]
_FailIfLocked = Annotated[
    bool, option("--fail-if-locked", help="End with 75 if another tick is running.")
]
_AgentLimit = Annotated[
    list[str] | None, option(metavar="AGENT=N", help="Attempts of an agent at once.")
]
_LoopInterval = Annotated[_Text, option(metavar="DURATION", help="Between ticks of --daemon.")]
_HeartbeatInterval = Annotated[_Text, option(metavar="DURATION", help="Between heartbeats.")]
_MaxRuntime = Annotated[_Text, option(metavar="DURATION", help="End attempts after this time.")]
_RunningDir = Annotated[_Text, option(metavar="FOLDER", help="Where leases are.")]
_LogDir = Annotated[_Text, option(metavar="FOLDER", help="Where logs are.")]
_RecipesDir = Annotated[_Text, option(metavar="FOLDER", help="Where recipes are.")]
_GooseBin = Annotated[_Text, option(metavar="FILE", help="The goose program.")]
_McpEndpoint = Annotated[_Text, option(metavar="URL", help="Where tinytask answers.")]
_DisableBlocking = Annotated[bool, option("--disable-blocking", help="Start blocked tasks too.")]
_Json = Annotated[bool, option("--json", help="Print the tick's report.")]


def run(
    context: typer.Context,
    *,
    once: _Once = False,
    daemon: _Daemon = False,
    dry_run: _DryRun = False,
    fail_if_locked: _FailIfLocked = False,
    agent_limit: _AgentLimit = None,
    loop_interval: _LoopInterval = None,
    heartbeat_interval: _HeartbeatInterval = None,
    max_runtime: _MaxRuntime = None,
    running_dir: _RunningDir = None,
    log_dir: _LogDir = None,
    recipes_dir: _RecipesDir = None,
    goose_bin: _GooseBin = None,
    mcp_endpoint: _McpEndpoint = None,
    disable_blocking: _DisableBlocking = False,
    json: _Json = False,
) -> int:
    """Run one tick: settle, reclaim, start.

    Settles what ended, reclaims what was lost, and starts what fits.  Ends with 1 if
    anything in the tick failed, with 69 if no task source answered.
    """
    invocation: Invocation = context.obj
    if daemon and (once or dry_run):
        other = "--once" if once else "--dry-run"
        raise UsageError(
            f"--daemon and {other} cannot be given together", hint="leave out one of the two"
        )
    overrides = Overrides(
        env_file=invocation.env_file,
        base_path=invocation.base_path,
        log_level=invocation.log_level,
        agent_limits=parse_limits(agent_limit or []),
        loop_interval=loop_interval,
        heartbeat_interval=heartbeat_interval,
        max_runtime=max_runtime,
        running_dir=running_dir,
        log_dir=log_dir,
        recipes_dir=recipes_dir,
        goose_bin=goose_bin,
        mcp_endpoint=mcp_endpoint,
        disable_blocking=disable_blocking or None,
        dry_run=dry_run or None,
    )
    if daemon:
        return run_daemon(invocation, overrides, as_json=json)
    config = invocation.configure_writing(overrides)
    if config.dry_run:
        return run_dry(invocation, config, as_json=json)
    return run_tick(invocation, config, as_json=json, fail_if_locked=fail_if_locked)


def parse_limits(texts: list[str]) -> tuple[tuple[str, int], ...]:
    """Read ``AGENT=N`` texts; of several for one agent the last counts."""
    limits: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not (name and equals and number.isascii() and number.isdigit() and len(number) < 10):  # noqa: PLR2004 - far above any limit, far below what int() refuses
            raise UsageError(
                f"--agent-limit {quote(text)} is not AGENT=N", hint="write it as coder=2"
            )
        limits[name] = int(number)
    return tuple(limits.items())


def run_dry(invocation: Invocation, config: Config, *, as_json: bool) -> int:
    """Say what a tick would do."""
    from tinyscheduler.app.ticks import preview

    invocation.note_missing_state(config)
    report = preview(config)
    _tell_troubles(invocation, config, report)
    if as_json:
        emit_json(**report_json(report))
    else:
        lines = preview_lines(
            report,
            invocation.page,
            summaries=_summaries(config, report),
            is_verbose=invocation.verbosity > NORMAL,
        )
        emit("\n".join(lines))
    return exit_code(report, fail_if_locked=False)


def run_tick(invocation: Invocation, config: Config, *, as_json: bool, fail_if_locked: bool) -> int:
    """Do one tick, and those that were wished for meanwhile."""
    from tinyscheduler.app.ticks import TickInterruptedError, run_once

    interrupt: TickInterruptedError | None = None
    try:
        report = run_once(config)
    except TickInterruptedError as error:
        report, interrupt = error.report, error
    _tell_troubles(invocation, config, report)
    if report.locked:
        invocation.note(f"another tick is running ({report.holder}); it will look again")
    if as_json:
        emit_json(**report_json(report))
    elif not report.locked:
        lines = tick_lines(report)
        if invocation.verbosity > NORMAL:
            lines = [*wait_lines(report, invocation.page, is_verbose=True), *lines]
        invocation.answer("\n".join(lines))
    if interrupt is not None:
        raise interrupt
    return exit_code(report, fail_if_locked=fail_if_locked)


def run_daemon(invocation: Invocation, overrides: Overrides, *, as_json: bool) -> int:
    """Tick until SIGTERM or SIGINT; print each tick that did something."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue
    from tinyscheduler.app.serving import run_daemon
    from tinyscheduler.config.load import load_config

    told: set[TickError] = set()

    def notice(report: TickReport) -> None:
        if not report.locked:
            # What ails every tick would fill the log.
            for error in report.errors:
                if error not in told:
                    invocation.fail(f"{error.where}: {error.message}")
            told.clear()
            told.update(report.errors)
        if as_json:
            emit_json(**report_json(report))
        elif not _is_quiet(report):
            invocation.answer("\n".join(tick_lines(report)))

    def notice_if_read(report: TickReport) -> None:
        # Whoever reads may come and go; the queue is served all the same.
        with suppress(ReaderGoneError):
            notice(report)

    config = invocation.configure_writing(overrides)
    if config.dry_run:
        raise UsageError(
            "--daemon cannot be a dry run, and TINYSCHEDULER_DRY_RUN is set",
            hint="unset it, or leave out --daemon",
        )
    run_daemon(
        lambda: load_config(overrides),
        greet=partial(_greet, invocation),
        greet_again=partial(_greet_again, invocation),
        notice=notice_if_read,
        complain=lambda words: tell(escape(words)),
    )
    running = len(open_queue(config, Access.READ).leases.scan().entries)
    invocation.note(f"stopped; {count(running, 'attempt')} run{'s' * (running == 1)} on")
    return EXIT_DONE


def _greet(invocation: Invocation, config: Config) -> None:
    invocation.note(f"{_daemon_words(config)}; SIGTERM or Ctrl-C stops it")


def _greet_again(invocation: Invocation, config: Config) -> None:
    for warning in config.warnings:
        invocation.warn(warning)
    invocation.note(f"the settings were read again; {_daemon_words(config)}")


def _daemon_words(config: Config) -> str:
    agents = ", ".join(f"{agent.name} {agent.limit}" for agent in config.agents)
    interval = format_span(config.timing.loop_interval_s)
    return (
        f"ticking in {config.paths.base} every {interval} and when something happens;"
        f" agents: {agents}"
    )


def exit_code(report: TickReport, *, fail_if_locked: bool) -> int:
    """Return what a tick's report means to a script."""
    if report.locked:
        return EXIT_BUSY if fail_if_locked else EXIT_DONE
    if report.all_sources_down:
        return EXIT_UNAVAILABLE
    return EXIT_FAILED if report.errors else EXIT_DONE


def _is_quiet(report: TickReport) -> bool:
    stats = report.stats
    return not (stats.tasks_spawned or stats.leases_settled or stats.leases_reclaimed)


def _tell_troubles(invocation: Invocation, config: Config, report: TickReport) -> None:
    for warning in report.warnings:
        # Those of the configuration were told when it was read.
        if warning not in config.warnings:
            invocation.warn(warning)
    for error in report.errors:
        invocation.fail(f"{error.where}: {error.message}")


def _summaries(config: Config, report: TickReport) -> dict[str, str]:
    """Look up what the tasks to be started are, for people."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    starts = [one.task for one in report.decisions if isinstance(one, Dispatch)]
    local = [task.task_id for task in starts if task.source == "local"][:_MOST_SUMMARIES]
    queue = open_queue(config, Access.READ)
    return {task_id: queue.tasks.task(task_id).summary for task_id in local}
