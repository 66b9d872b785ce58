"""``service``: what makes ticks happen by itself: install it, remove it, say how it is."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    ask,
    emit,
    emit_json,
    escape,
    format_table,
    format_when,
)
from tinyscheduler.cli.service_plan import (
    Plan,
    is_installed,
    missing_folder,
    plan_install,
    plan_uninstall,
    printed,
)
from tinyscheduler.cli.service_targets import BY_HAND, Systemd, UnavailableError, lingers
from tinyscheduler.cli.service_texts import Installation, Kind, Scope, names_of
from tinyscheduler.errors import (
    EXIT_DONE,
    EXIT_INACTIVE,
    EXIT_INTERRUPTED,
    TinySchedulerError,
    UsageError,
)
from tinyscheduler.model.clock import format_time
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from tinyscheduler.model.config import Config

_STANDARD_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
# Part of one cron line, which cron cuts at a thousand characters.
_LONGEST_PATH = 400
_ANY_PATH = re.compile(r"'?PATH=\S+")


class Action(StrEnum):
    """What to do about services."""

    INSTALL = "install"
    UNINSTALL = "uninstall"
    STATUS = "status"


def service(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.")],
    kind: Annotated[
        Kind | None, typer.Argument(help="Which; install takes the one that fits here.")
    ] = None,
    user: Annotated[bool, typer.Option("--user", help="Units of your own systemd.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Units of the whole machine.")] = False,
    print_only: Annotated[
        bool,
        typer.Option("--print", help="Print what would be written or removed, and do nothing."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Make ticks happen by cron or systemd.

    Shows what it would write, then asks.
    """
    invocation: Invocation = context.obj
    if user and system:
        raise UsageError("--user and --system cannot be given together", hint="leave one out")
    scope = Scope.SYSTEM if system or (not user and os.geteuid() == 0) else Scope.USER
    if kind is Kind.CRON and (user or system):
        raise UsageError(
            "--user and --system are for systemd; a crontab is always a user's",
            hint="leave it out; `sudo -u USER` installs the line for another user",
        )
    chosen = kind or _fitting_kind(scope)
    wanted = chosen if action is Action.INSTALL else kind
    config = _configure_for(invocation, wanted, scope)
    installation = find_installation(invocation, config, kind=wanted, scope=scope)
    if action is Action.STATUS:
        return _show(invocation, config, installation, as_json=json)
    if action is Action.UNINSTALL:
        plans = _plans_to_uninstall(invocation, installation, kind, scope)
        if print_only:
            for plan in plans.values():
                emit("\n".join(plan.lines(invocation.page)))
            return EXIT_DONE
        return _uninstall(invocation, plans, is_agreed=yes)
    _warn_of_programs(invocation, config, installation)
    if print_only:
        _print_texts(invocation, installation, chosen, scope)
        return EXIT_DONE
    return install(invocation, installation, chosen, scope, is_agreed=yes)


def configure(invocation: Invocation) -> Config:
    """Return the configuration for a command to which a state folder does not matter yet."""
    return _tell_warnings(invocation, _load(invocation, home=None))


def _configure_for(invocation: Invocation, kind: Kind | None, scope: Scope) -> Config:
    """As `configure`; where root acts for the user behind sudo, as that user would find it.

    A queue that root alone has goes on being root's.
    """
    behind = _user_behind_sudo()
    if behind is None or scope is Scope.USER or kind is Kind.CRON:
        return configure(invocation)
    config = _load(invocation, home=behind.pw_dir)
    if not os.path.lexists(config.paths.state):
        own = _load(invocation, home=None)
        config = own if os.path.lexists(own.paths.state) else config
    return _tell_warnings(invocation, config)


def _load(invocation: Invocation, *, home: str | None) -> Config:
    from tinyscheduler.config.load import load_config

    environ = None if home is None else {**os.environ, "HOME": home}
    return load_config(invocation.overrides, environ=environ, write_cache=False)


def _tell_warnings(invocation: Invocation, config: Config) -> Config:
    for warning in config.warnings:
        invocation.warn(warning)
    return config


def install(
    invocation: Invocation,
    installation: Installation,
    kind: Kind,
    scope: Scope,
    *,
    is_agreed: bool,
) -> int:
    """Show what would be written, ask, and write it."""
    plan = plan_install(kind, installation, scope)
    _warn_of_environment(invocation)
    if plan.systemd is not None and not plan.systemd.is_there():
        invocation.warn(
            f"systemd does not run here, and until it does this does nothing; {BY_HAND}"
        )
    code = _carry_out(invocation, plan, is_agreed=is_agreed, done=f"{kind} is installed")
    if code == EXIT_DONE:
        _tell_what_follows(invocation, plan, installation, kind, scope)
    return code


def _print_texts(
    invocation: Invocation, installation: Installation, kind: Kind, scope: Scope
) -> None:
    emit(printed(kind, installation, scope).rstrip("\n"))
    folder = missing_folder(kind, installation)
    if folder is not None:
        command = shlex.join(["mkdir", "-p", "-m", "700", folder])
        invocation.note(f"it ticks once its folder is there: `{command}`")


def offer(invocation: Invocation) -> None:
    """Show the service that fits here, and install it if a person agrees."""
    scope = Scope.SYSTEM if os.geteuid() == 0 else Scope.USER
    kind = _fitting_kind(scope)
    installation = find_installation(invocation, configure(invocation), kind=kind, scope=scope)
    try:
        install(invocation, installation, kind, scope, is_agreed=False)
    except TinySchedulerError as error:
        # The set-up itself is done; this can be typed again at any time.
        invocation.fail(error.what, hint=error.hint)
        invocation.note("`tinyscheduler service install` tries it again")


def find_installation(
    invocation: Invocation, config: Config, *, kind: Kind | None, scope: Scope
) -> Installation:
    """Return where this program is, and for whom it would tick."""
    is_own = scope is Scope.USER or kind is Kind.CRON
    user = _name_of(os.geteuid()) if is_own else _ticking_user(config)
    env_file = invocation.env_file
    return Installation(
        python=sys.executable,
        base_path=config.paths.base,
        env_file=None if env_file is None else os.path.abspath(os.path.expanduser(env_file)),
        user=user,
        group=_group_of(user),
        search_path=search_path(config) if is_own else _search_path_for(user, config),
    )


def _search_path_for(user: str, config: Config) -> str:
    """Return the PATH of a user who is perhaps not the one who types.

    sudo has one of its own, without the folders of the user behind it.
    """
    folders = search_path(config).split(":")
    if user != _name_of(os.geteuid()):
        with suppress(KeyError):
            folders.insert(0, os.path.join(pwd.getpwnam(user).pw_dir, ".local", "bin"))
        program = os.path.abspath(sys.argv[0])
        if os.path.basename(program) == "tinyscheduler":
            # Last: beside it may lie the python of its environment.
            folders.append(os.path.dirname(program))
    return ":".join(dict.fromkeys(folders))


def search_path(config: Config) -> str:
    """Return a PATH that reaches what agents call, from where this one was typed."""
    known = [one for one in os.environ.get("PATH", "").split(":") if os.path.isabs(one)]
    usable = [one for one in dict.fromkeys(known) if os.path.isdir(one) and ":" not in one]
    import shutil

    programs = [agent.command[0] for agent in config.agents if agent.command]
    found = [shutil.which(program) for program in programs]
    needed = [os.path.dirname(one) for one in found if one is not None and os.path.isabs(one)]
    chosen = {one for one in needed if one in usable} | {*_STANDARD_PATH}
    length = sum(len(one) + 1 for one in chosen)
    for folder in usable:
        length += len(folder) + 1
        if length <= _LONGEST_PATH:
            chosen.add(folder)
    ordered = [one for one in usable if one in chosen]
    return ":".join(dict.fromkeys([*ordered, *_STANDARD_PATH]))


def _ticking_user(config: Config) -> str:
    """Return whose state it is: ticks of anybody else would be refused."""
    try:
        return _name_of(os.stat(config.paths.state).st_uid)
    except OSError:
        behind = _user_behind_sudo()
        return _name_of(os.geteuid()) if behind is None else behind.pw_name


def _user_behind_sudo() -> pwd.struct_passwd | None:
    """Return who became root by sudo, and has a home of their own."""
    try:
        user = pwd.getpwnam(os.environ.get("SUDO_USER", ""))
    except KeyError:
        return None
    return user if os.geteuid() == 0 and user.pw_uid != 0 else None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_of(user: str) -> str:
    import grp

    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def _fitting_kind(scope: Scope) -> Kind:
    return Kind.DAEMON if Systemd(scope=scope).is_there() else Kind.CRON


def _carry_out(invocation: Invocation, plan: Plan, *, is_agreed: bool, done: str) -> int:
    emit("\n".join(plan.lines(invocation.page)))
    if plan.is_done:
        invocation.note("nothing to do: it is so already")
        return EXIT_DONE
    if not is_agreed:
        if not sys.stdin.isatty():
            raise UsageError("nothing was written: nobody is here to agree", hint="add --yes")
        if not ask("Do this?"):
            invocation.note("nothing was written")
            return EXIT_INTERRUPTED
    plan.carry_out()
    invocation.note(done)
    return EXIT_DONE


def _uninstall(invocation: Invocation, plans: dict[Kind, Plan], *, is_agreed: bool) -> int:
    for kind, plan in plans.items():
        code = _carry_out(invocation, plan, is_agreed=is_agreed, done=f"{kind} is removed")
        if code != EXIT_DONE:
            return code
    if plans:
        invocation.note("attempts that run now go on; `tinyscheduler run` settles them")
    return EXIT_DONE


def _plans_to_uninstall(
    invocation: Invocation, installation: Installation, kind: Kind | None, scope: Scope
) -> dict[Kind, Plan]:
    """Return what removes each kind that is there; say of one that was named that it is not."""
    plans = {}
    for one in [kind] if kind is not None else _installed(installation, scope):
        try:
            plan = plan_uninstall(one, installation, scope)
        except UnavailableError as error:
            invocation.note(f"{one} is not installed: {error.what}")
            continue
        if plan.changes and not plan.is_done:
            plans[one] = plan
        else:
            invocation.note(f"{one} is not installed for this base path")
    if kind is None and not plans:
        invocation.note("nothing is installed for this base path")
    return plans


def _installed(installation: Installation, scope: Scope) -> list[Kind]:
    found = []
    for kind in Kind:
        # Without cron there is no line of ours in a crontab.
        with suppress(UnavailableError):
            if is_installed(kind, installation, scope):
                found.append(kind)
    return found


def _warn_of_programs(invocation: Invocation, config: Config, installation: Installation) -> None:
    """Say which agents' programs the service will not find: sudo has a PATH of its own."""
    import shutil

    for agent in config.agents:
        program = agent.command[0] if agent.command else None
        if program and shutil.which(program, path=installation.search_path) is None:
            invocation.warn(
                f"agent {agent.name}: the service will not find {program} on its PATH;"
                f" name it by its whole path in {config.paths.agents_file}"
            )


def _warn_of_environment(invocation: Invocation) -> None:
    """Say which settings of this shell the service will not see."""
    from tinyscheduler.config.inputs import BASE_PATH, NOT_SETTINGS, PREFIX

    names = [name for name in sorted(os.environ) if name.startswith(PREFIX)]
    unseen = [name for name in names if name not in {*NOT_SETTINGS, BASE_PATH}]
    if unseen:
        told = ", ".join(unseen[:3]) + (" and others" if unseen[3:] else "")
        invocation.warn(
            f"{told}: set in this shell, which the service does not see;"
            " put it into .env.tinyscheduler in the base path"
        )


def _tell_what_follows(
    invocation: Invocation, plan: Plan, installation: Installation, kind: Kind, scope: Scope
) -> None:
    if plan.systemd is not None and not plan.systemd.is_there():
        invocation.note("once systemd runs, type:")
        for words in plan.then:
            invocation.note("  " + " ".join(plan.systemd.argv(*words)))
    if plan.systemd is not None and scope is Scope.USER and lingers(installation.user) is False:
        invocation.note("it stops when you log out, unless you type:")
        invocation.note(f"  loginctl enable-linger {installation.user}")
    if kind is Kind.CRON:
        invocation.note(f"what ticks complain of goes to {installation.cron_log}")


# -- status ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One kind of service as it is on this machine."""

    kind: Kind
    scope: Scope | None
    is_current: bool
    state: str | None
    next_run: datetime | None


def find_installed(config: Config, installation: Installation, now: datetime) -> list[Installed]:
    """Return every service for this base path, of this user and of the machine."""
    found = []
    for kind in Kind:
        scopes = [Scope.USER] if kind in (Kind.CRON, Kind.LOGROTATE) else list(Scope)
        for scope in scopes:
            with suppress(TinySchedulerError):
                if is_installed(kind, installation, scope):
                    found.append(_look(kind, installation, scope, config=config, now=now))
    return found


def _look(
    kind: Kind, installation: Installation, scope: Scope, *, config: Config, now: datetime
) -> Installed:
    is_current = _is_current(kind, installation, scope, config)
    if kind in (Kind.CRON, Kind.LOGROTATE):
        minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        return Installed(
            kind=kind,
            scope=None,
            is_current=is_current,
            state=None,
            next_run=minute if kind is Kind.CRON else None,
        )
    systemd = Systemd(scope=scope)
    unit = names_of(kind)[0]
    elapses_s = systemd.next_run_s(unit) if kind is Kind.TIMER else None
    return Installed(
        kind=kind,
        scope=scope,
        is_current=is_current,
        state=systemd.state_of(unit),
        next_run=None if elapses_s is None else datetime.fromtimestamp(elapses_s, tz=UTC),
    )


def _is_current(kind: Kind, installation: Installation, scope: Scope, config: Config) -> bool:
    """Whether it reads as this version would write it, whatever PATH the shells had."""
    user = installation.user if scope is Scope.USER else _ticking_user(config)
    try:
        plan = plan_install(kind, replace(installation, user=user, group=_group_of(user)), scope)
    except TinySchedulerError:
        return False
    return all(
        change.before is not None
        and change.after is not None
        and _ANY_PATH.sub("PATH", change.before) == _ANY_PATH.sub("PATH", change.after)
        for change in plan.changes
    )


def _show(
    invocation: Invocation, config: Config, installation: Installation, *, as_json: bool
) -> int:
    from tinyscheduler.app.kicks import last_tick_at
    from tinyscheduler.app.serving import find_daemon

    now = datetime.now(tz=UTC)  # noqa: TID251 - a person's command: the time is for them
    services = find_installed(config, installation, now)
    daemon = find_daemon(config)
    last = last_tick_at(config)
    ticking = daemon is not None or any(
        one.kind is not Kind.LOGROTATE and one.state in (None, "active") for one in services
    )
    if as_json:
        emit_json(
            base_path=config.paths.base,
            services=[_json_of(one) for one in services],
            daemon=None if daemon is None else {"pid": daemon.pid, "since": daemon.since},
            last_tick_at=None if last is None else format_time(last),
            lingers=lingers(installation.user),
        )
        return EXIT_DONE if ticking else EXIT_INACTIVE
    lines = [f"base path: {escape(config.paths.base)}"]
    lines += [f"last tick: {format_when(last, now=now) if last is not None else 'none yet'}"]
    if daemon is not None:
        lines += [f"daemon: pid {daemon.pid or 'unknown'} serves this base path"]
    if services:
        rows = [_row_of(one, now) for one in services]
        head = ["SERVICE", "OF", "STATE", "NEXT", "AS THIS VERSION WRITES IT"]
        lines += ["", *format_table(head, rows, invocation.page)]
    else:
        words = "no service is installed for this base path: `tinyscheduler service install`"
        lines += [escape(invocation.as_typed(words))]
    emit("\n".join(lines))
    return EXIT_DONE if ticking else EXIT_INACTIVE


def _row_of(one: Installed, now: datetime) -> Row:
    state = one.state or ("installed" if one.scope is None else "unknown")
    ink = Ink.GREEN if state in ("active", "installed") else Ink.YELLOW
    return [
        one.kind,
        one.scope or ("you" if one.kind is Kind.CRON else "the machine"),
        Cell(text=state, ink=ink),
        format_when(one.next_run, now=now),
        "yes" if one.is_current else f"no, `service install {one.kind}` shows how",
    ]


def _json_of(one: Installed) -> dict[str, Any]:
    return {
        "kind": one.kind.value,
        "scope": None if one.scope is None else one.scope.value,
        "is_current": one.is_current,
        "state": one.state,
        "next_run": None if one.next_run is None else format_time(one.next_run),
    }
