"""What would change on this machine?  Shown first, done with consent, never twice."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

from tinyscheduler.cli.render import Ink, escape
from tinyscheduler.cli.service_targets import CrontabTarget, FileTarget, Systemd, unit_folder
from tinyscheduler.cli.service_texts import (
    Installation,
    Kind,
    Scope,
    block_in,
    cron_block,
    is_ours,
    names_of,
    text_of,
    with_block,
    without_block,
)
from tinyscheduler.errors import TinySchedulerError, UsageError
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.cli.render import Page

Target = FileTarget | CrontabTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file or crontab: how it is, and how it should be; None is absent."""

    target: Target
    before: str | None
    after: str | None

    @property
    def verb(self) -> str:
        """Say what is done to it."""
        if self.before == self.after:
            return "leave"
        if self.before is None:
            return "create"
        return "remove" if self.after is None else "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All changes, and what systemd has to be told before and after them.

    ``folder`` is one that is not there yet, and is made first.
    """

    changes: tuple[Change, ...]
    folder: str | None = None
    first: tuple[tuple[str, ...], ...] = ()
    then: tuple[tuple[str, ...], ...] = ()
    systemd: Systemd | None = None

    @property
    def is_done(self) -> bool:
        """Whether all is as it should be."""
        return self.folder is None and all(change.verb == "leave" for change in self.changes)

    def lines(self, page: Page) -> list[str]:
        """Show it: new files whole, changed ones as a diff."""
        found = []
        if self.folder is not None:
            found.append(page.paint(f"make folder {escape(self.folder)}", Ink.BOLD))
        for change in self.changes:
            title = f"{change.verb} {escape(change.target.title)}"
            found.append(page.paint(title, Ink.BOLD))
            found += [f"    {escape(line)}" for line in _difference(change)]
        calls = [*self.first, *self.then]
        if self.systemd is not None and not self.is_done:
            found += [f"run    {' '.join(self.systemd.argv(*words))}" for words in calls]
        return found

    def carry_out(self) -> None:
        """Do all of it; what has changed since it was planned is left alone, loudly."""
        for change in self.changes:
            if change.target.read() != change.before:
                raise UsageError(
                    f"{change.target.title} has changed meanwhile; nothing more was done",
                    hint="look at it, and type the command again",
                )
        if self.folder is not None:
            _make_folder(self.folder)
        can_call = self.systemd is not None and self.systemd.is_there()
        for words in self.first if can_call else ():
            assert self.systemd is not None  # noqa: S101 - it can be called
            self.systemd.call(*words)
        for change in self.changes:
            if change.verb != "leave":
                change.target.write(change.after)
        for words in self.then if can_call else ():
            assert self.systemd is not None  # noqa: S101 - it can be called
            self.systemd.call(*words)


def plan_install(kind: Kind, installation: Installation, scope: Scope) -> Plan:
    """Return what makes this kind of service be there as it should be."""
    if kind is Kind.CRON:
        target = CrontabTarget(user=installation.user)
        before = target.read()
        after = with_block(before or "", cron_block(installation), installation)
        return Plan(
            changes=(Change(target=target, before=before, after=after),),
            folder=missing_folder(kind, installation),
        )
    changes = tuple(
        Change(
            target=one,
            before=_text_if_ours(one, installation),
            after=text_of(one.path.rpartition("/")[2], installation, scope),
        )
        for one in _files(kind, scope)
    )
    if kind is Kind.LOGROTATE:
        return Plan(changes=changes)
    main = names_of(kind)[0]
    # What runs with an older text is started anew; attempts outlive that.
    is_new = all(change.before is None for change in changes)
    start = ("enable", "--now", main) if is_new else ("restart", main)
    then = (("daemon-reload",), *((("enable", main),) if not is_new else ()), start)
    return Plan(changes=changes, then=then, systemd=Systemd(scope=scope))


def missing_folder(kind: Kind, installation: Installation) -> str | None:
    """Return the folder without which nothing of this kind can start; None if it is there."""
    # A cron line opens its log before anything of ours runs; a unit makes the folder itself.
    is_missing = kind is Kind.CRON and not os.path.isdir(installation.base_path)
    return installation.base_path if is_missing else None


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise TinySchedulerError(
            f"cannot make the folder {path}: {error.strerror}",
            hint="choose a folder that you may write to: --base-path FOLDER",
        ) from error


def plan_uninstall(kind: Kind, installation: Installation, scope: Scope) -> Plan:
    """Return what removes exactly what is ours of this kind."""
    if kind is Kind.CRON:
        target = CrontabTarget(user=installation.user)
        before = target.read()
        after = without_block(before or "", installation) or None
        return Plan(changes=(Change(target=target, before=before, after=after),))
    targets = [(one, _text_if_ours(one, installation)) for one in _files(kind, scope)]
    changes = tuple(
        Change(target=target, before=before, after=None)
        for target, before in targets
        if before is not None
    )
    if kind is Kind.LOGROTATE or not changes:
        return Plan(changes=changes)
    return Plan(
        changes=changes,
        first=(("disable", "--now", names_of(kind)[0]),),
        then=(("daemon-reload",),),
        systemd=Systemd(scope=scope),
    )


def is_installed(kind: Kind, installation: Installation, scope: Scope) -> bool:
    """Whether it is there, for this base path; perhaps of another version."""
    if kind is Kind.CRON:
        crontab = CrontabTarget(user=installation.user).read()
        return crontab is not None and block_in(crontab, installation) is not None
    main = _files(kind, scope)[0].read()
    return main is not None and _is_for(main, installation)


def printed(kind: Kind, installation: Installation, scope: Scope) -> str:
    """Return the texts, to look at or to put where one likes."""
    if kind is Kind.CRON:
        return cron_block(installation)
    texts = [
        f"# {one.path}\n{text_of(one.path.rpartition('/')[2], installation, scope)}"
        for one in _files(kind, scope)
    ]
    return "\n".join(texts)


def _files(kind: Kind, scope: Scope) -> list[FileTarget]:
    folder = "/etc/logrotate.d" if kind is Kind.LOGROTATE else unit_folder(scope)
    return [FileTarget(path=f"{folder}/{name}") for name in names_of(kind)]


def _text_if_ours(target: FileTarget, installation: Installation) -> str | None:
    """Return the text of a file of ours; UsageError if it is somebody else's."""
    text = target.read()
    if text is None or _is_for(text, installation):
        return text
    whose = "of another base path" if is_ours(text) else "not made by TinyScheduler"
    raise UsageError(
        f"{target.path} is there already, and {whose}; it was left alone",
        hint="move it away, or use `service install cron`, which many base paths can share",
    )


def _is_for(text: str, installation: Installation) -> bool:
    return f"# {installation.mark}\n" in text


def _difference(change: Change) -> list[str]:
    if change.verb == "leave":
        return []
    if change.before is None:
        return (change.after or "").splitlines()
    if change.after is None and isinstance(change.target, FileTarget):
        return []
    before, after = change.before.splitlines(), (change.after or "").splitlines()
    return list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
