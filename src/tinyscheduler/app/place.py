"""Is this a place to work in?  Refused with words before anything is touched."""

from __future__ import annotations

import os
from contextlib import suppress

from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable
from tinyscheduler.config.saved import saved_running_folder
from tinyscheduler.errors import ConfigError, UsageError
from tinyscheduler.files import is_same, user_name
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyscheduler.model.config import Config

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "fuse.sshfs"}
)


def refuse_inside_attempt(config: Config, environ: Mapping[str, str]) -> None:
    """Raise UsageError inside an attempt of this base path.

    A tick there would start wrappers as descendants of the attempt, and whoever ends the
    attempt would end them too.
    """
    if is_inside_attempt(config, environ):
        message = f"this is inside attempt {environ['TINYSCHEDULER_LEASE_ID']}; nothing was started"
        raise UsageError(
            message, hint="`add` is enough: the end of this attempt makes a tick happen"
        )


def is_inside_attempt(config: Config, environ: Mapping[str, str]) -> bool:
    """Whether this process runs in an attempt of this base path."""
    base = environ.get("TINYSCHEDULER_BASE_PATH", "")
    inside = bool(environ.get("TINYSCHEDULER_LEASE_ID"))
    return inside and is_same(base, config.paths.base)


def refuse_foreign_state(config: Config) -> None:
    """Raise ConfigError if the state belongs to another user: mixed owners lock both out.

    That holds for looking too: what a reader opens, SQLite may have to create.
    """
    folder = config.paths.state
    try:
        owner = os.stat(folder).st_uid
    except PermissionError:
        folder = config.paths.base
        try:
            owner = os.stat(folder).st_uid
        except OSError:
            return
    except OSError:
        return
    if owner != os.geteuid():
        message = f"{folder} belongs to user {user_name(owner)}, not to you"
        raise ConfigError(
            message, hint=f"run this as {user_name(owner)}, or choose another --base-path"
        )


def refuse_network_filesystem(config: Config) -> None:
    """Raise ConfigError where locks do not mean what they mean on a local filesystem."""
    kind = filesystem_of(config.paths.base)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"{config.paths.base} is on {kind}, a network filesystem",
            hint="put the base path on a local disk: file locks must be reliable",
        )


def filesystem_of(path: str) -> str | None:
    """Return the type of the filesystem a path is on; None if that cannot be told."""
    try:
        status = os.stat(path)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    for line in lines:
        # The third field is the device; the filesystem's type follows a lone dash (proc(5)).
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [device]:
            return after.split()[0]
    return None


def refuse_moved_leases(config: Config) -> None:
    """Raise ConfigError if another folder holds the leases of attempts that may live.

    A tick that looks into an empty folder sees none of them, and would start over.
    """
    folder = saved_running_folder(config.paths.settings)
    if folder is None or is_same(folder, config.paths.running):
        return
    before = FileLeaseStore(replace(config.paths, running=folder), locks=LockTable()).scan()
    tasks = [one.task_id for one in before.entries if one.lease is not None or one.is_lock_held]
    if tasks:
        words = f"task {tasks[0]}" + (f" and {len(tasks) - 1} more" if len(tasks) > 1 else "")
        raise ConfigError(
            f"TINYSCHEDULER_RUNNING_DIR is {config.paths.running}, "
            f"but the leases of {words} are in {folder}",
            hint="set it back until these have ended, then change it",
        )


def make_state_folder(config: Config) -> None:
    """Make the state folder for its owner alone; ConfigError if that cannot be done."""
    try:
        os.makedirs(config.paths.state, mode=0o700, exist_ok=True)
        # A checkout brings the folder, open to everybody, before anything lies in it.
        if not os.path.lexists(config.paths.database):
            with suppress(PermissionError):
                os.chmod(config.paths.state, 0o700)
    except OSError as error:
        message = f"cannot create the state folder {config.paths.state}: {error.strerror}"
        raise ConfigError(
            message, hint="make its parent writable, or set TINYSCHEDULER_BASE_PATH"
        ) from error
