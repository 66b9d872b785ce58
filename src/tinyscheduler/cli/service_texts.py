"""What do a crontab, systemd and logrotate have to be told, for this installation?

Texts only: nothing here reads or writes a file.  deploy/ holds the same texts for an
installation in /opt/tinyscheduler.
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import assert_never

from tinyscheduler.errors import UsageError
from tinyscheduler.values import dataclass

CRON_LOG = "tinyscheduler-cron.log"
# Debian's cron refuses a longer command, crontab(5) of others a longer line.
LONGEST_CRON_COMMAND = 990
_MADE = "Made by `tinyscheduler service install`"
_BOOT_DELAY = "1min"
_INTERVAL = "1min"


class Kind(StrEnum):
    """What makes ticks happen, and what keeps its log small."""

    CRON = "cron"
    TIMER = "timer"
    DAEMON = "daemon"
    LOGROTATE = "logrotate"


class Scope(StrEnum):
    """Whose systemd: the user's own, or the machine's."""

    USER = "user"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Where this TinyScheduler is, and for which base path and user it is to tick."""

    python: str
    base_path: str
    env_file: str | None
    user: str
    group: str
    search_path: str

    @property
    def mark(self) -> str:
        """The line by which our files are known, and for which base path they are."""
        return f"{_MADE} for {self.base_path}"

    @property
    def cron_log(self) -> str:
        """Where the cron line writes what a tick complains of."""
        return f"{self.base_path}/{CRON_LOG}"

    def argv(self, *command: str) -> list[str]:
        """Return a command of this installation, spelled out."""
        chosen = [] if self.env_file is None else ["--env-file", self.env_file]
        module = [self.python, "-I", "-m", "tinyscheduler"]
        return [*module, "--base-path", self.base_path, *chosen, *command]


def is_ours(text: str) -> bool:
    """Whether a file was made by `service install`, for whichever base path."""
    return f"# {_MADE} for " in text


def names_of(kind: Kind) -> tuple[str, ...]:
    """Return the names of the files of a kind; the crontab is no file of ours."""
    match kind:
        case Kind.CRON:
            return ()
        case Kind.TIMER:
            return ("tinyscheduler.timer", "tinyscheduler-oneshot.service")
        case Kind.DAEMON:
            return ("tinyscheduler.service",)
        case Kind.LOGROTATE:
            return ("tinyscheduler",)
        case _:
            assert_never(kind)


def text_of(name: str, installation: Installation, scope: Scope) -> str:
    """Return the content of the file of that name."""
    return {
        "tinyscheduler.timer": _timer,
        "tinyscheduler-oneshot.service": _oneshot,
        "tinyscheduler.service": _daemon,
        "tinyscheduler": _logrotate,
    }[name](installation, scope)


# -- cron ------------------------------------------------------------------------------


def cron_block(installation: Installation) -> str:
    """Return the lines for a crontab, between two marks.

    Everything stands in the one line: a variable set in a crontab holds for every line
    after it, and those are not ours.
    """
    begin, end = cron_marks(installation)
    argv = [
        "/usr/bin/env",
        f"PATH={installation.search_path}",
        *installation.argv("-q", "run", "--once"),
    ]
    # The shell makes the log, for its owner alone as all that lies beside it.
    command = f"umask 077; {shlex.join(argv)} >>{shlex.quote(installation.cron_log)} 2>&1"
    # To cron a percent sign is the end of the command (crontab(5)).
    command = command.replace("%", "\\%")
    if len(command.encode()) > LONGEST_CRON_COMMAND:
        raise UsageError(
            f"the cron line would have {len(command.encode())} characters, and cron takes 1000",
            hint="use a shorter base path, or `service install timer`",
        )
    note = "# `tinyscheduler service uninstall cron` removes these lines."
    return f"{begin}\n{note}\n* * * * * {command}\n{end}\n"


def cron_marks(installation: Installation) -> tuple[str, str]:
    """Return the first and the last line of our block."""
    base = installation.base_path
    return f"# BEGIN tinyscheduler {base}", f"# END tinyscheduler {base}"


def with_block(crontab: str, block: str, installation: Installation) -> str:
    """Return the crontab with our block replaced, or added at its end."""
    found = _find_block(crontab, installation)
    if found is None:
        joint = "" if not crontab or crontab.endswith("\n") else "\n"
        return crontab + joint + block
    start, end = found
    return crontab[:start] + block + crontab[end:]


def without_block(crontab: str, installation: Installation) -> str:
    """Return the crontab without our block, every other byte as it was."""
    return with_block(crontab, "", installation) if block_in(crontab, installation) else crontab


def block_in(crontab: str, installation: Installation) -> str | None:
    """Return our block as it stands in a crontab, or None."""
    found = _find_block(crontab, installation)
    return None if found is None else crontab[found[0] : found[1]]


def _find_block(crontab: str, installation: Installation) -> tuple[int, int] | None:
    begin, end = (f"{mark}\n" for mark in cron_marks(installation))
    lines = crontab.splitlines(keepends=True)
    complete = [line if line.endswith("\n") else line + "\n" for line in lines]
    if begin not in complete:
        return None
    first = complete.index(begin)
    if end not in complete[first:]:
        # Half of our block is somebody's work by hand: not ours to guess at.
        raise UsageError(
            f"the crontab has the line {begin.strip()!r} without its end",
            hint=f"mend it with `crontab -e`: the block ends with {end.strip()!r}",
        )
    last = complete.index(end, first)
    return sum(map(len, lines[:first])), sum(map(len, lines[: last + 1]))


# -- systemd ---------------------------------------------------------------------------


def _daemon(installation: Installation, scope: Scope) -> str:
    wanted_by = "multi-user.target" if scope is Scope.SYSTEM else "default.target"
    return f"""\
# {installation.mark}
# `tinyscheduler service uninstall daemon` removes it.

[Unit]
Description=TinyScheduler: run what is queued in {_specifiers(installation.base_path)}
# However often it fails, it is tried again: a queue that nobody serves is worse.
StartLimitIntervalSec=0
{_mounts(installation, scope)}
[Service]
Type=notify
ExecStart={_command(installation.argv("run", "--daemon"))}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10
WatchdogSec=5min
{_shared(installation, scope)}
[Install]
WantedBy={wanted_by}
"""


def _oneshot(installation: Installation, scope: Scope) -> str:
    return f"""\
# {installation.mark}
# One tick; tinyscheduler.timer starts it. `tinyscheduler service uninstall timer` removes both.

[Unit]
Description=TinyScheduler: one tick for {_specifiers(installation.base_path)}
{_mounts(installation, scope)}
[Service]
Type=oneshot
ExecStart={_command(installation.argv("-q", "run", "--once"))}
# A tick that hangs must not keep the next ones away for ever.
TimeoutStartSec=15min
{_shared(installation, scope)}"""


def _timer(installation: Installation, _scope: Scope) -> str:
    return f"""\
# {installation.mark}
# `tinyscheduler service uninstall timer` removes it.

[Unit]
Description=TinyScheduler: a tick a minute for {_specifiers(installation.base_path)}

[Timer]
OnBootSec={_BOOT_DELAY}
OnUnitActiveSec={_INTERVAL}
AccuracySec=1s
Unit=tinyscheduler-oneshot.service

[Install]
WantedBy=timers.target
"""


def _shared(installation: Installation, scope: Scope) -> str:
    """Return what holds for each service whose children are attempts.

    No limit on memory and no private or read-only folders: attempts would inherit them.
    """
    user = f"User={_specifiers(installation.user)}\n" if scope is Scope.SYSTEM else ""
    return f"""\
# Attempts outlive the process that started them: stopping this must not end them.
KillMode=process
# An attempt that runs out of memory is that attempt's failure alone.
OOMPolicy=continue
# All attempts count as tasks of this unit, and the default is meant for one service.
TasksMax=infinity
# A control group for each attempt, so that nothing can hide by forking.
Delegate=yes
UMask=0077
{user}Environment={_quote("PATH=" + installation.search_path)}
Environment=LANG=C.UTF-8
"""


def _mounts(installation: Installation, scope: Scope) -> str:
    if scope is Scope.USER:
        return ""
    return f"RequiresMountsFor={_quote(installation.base_path)}\n"


def _command(argv: list[str]) -> str:
    # In a command a dollar sign would be replaced, see systemd.service(5).
    return " ".join(_quote(word).replace("$", "$$") for word in argv)


def _quote(word: str) -> str:
    """Quote as systemd.syntax(7) has it."""
    word = _specifiers(word)
    if all(one.isalnum() or one in "/-_.:=%,+@" for one in word) and word:
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


# -- logrotate -------------------------------------------------------------------------


def _logrotate(installation: Installation, _scope: Scope) -> str:
    logs = [installation.cron_log, f"{installation.base_path}/state/logs/wrapper.log"]
    # Names are patterns to logrotate, and quotes have no escape in it.
    names = " ".join('"' + "".join(_as_pattern(one) for one in log) + '"' for log in logs)
    return f"""\
# {installation.mark}
# All other logs are kept small by TinyScheduler itself.

{names} {{
    su {installation.user} {installation.group}
    weekly
    maxsize 10M
    rotate 4
    missingok
    notifempty
    compress
    copytruncate
}}
"""


def _as_pattern(character: str) -> str:
    if character in '*?["\\':
        return "?"
    return character
