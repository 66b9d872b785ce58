"""Every expected failure, sorted by what the operator does next, with its exit code.

Exit codes are those of the command line reference; a program that calls us can
rely on them.  A failure that is not one of these is a bug and ends with 70.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INACTIVE = 3
EXIT_CONFIG = 4
EXIT_NOT_FOUND = 5
EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
EXIT_BUSY = 75
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130


class TinySchedulerError(Exception):
    """An expected failure: what happened, and the fix as a hint."""

    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        """Keep the sentence for the operator and, apart from it, the fix."""
        super().__init__(what)
        self.what = what
        self.hint = hint


class UsageError(TinySchedulerError):
    """The command line, or a line of a batch, says something that cannot be done."""

    exit_code = EXIT_USAGE


class NotFoundError(TinySchedulerError):
    """The named task, schedule or policy does not exist."""

    exit_code = EXIT_NOT_FOUND


class ConfigError(TinySchedulerError):
    """A setting or a file of ours is wrong; names file, key, value and expectation."""

    exit_code = EXIT_CONFIG

    def __init__(self, what: str, *, where: str = "", hint: str | None = None) -> None:
        """``where`` is a variable, an option, a file or ``file:line``, where there is one."""
        super().__init__(f"{where}: {what}" if where else what, hint=hint)
        self.where = where
        self.message = what


class BusyError(TinySchedulerError):
    """Something else holds what was asked for; the same call may work later."""

    exit_code = EXIT_BUSY


class QueueFullError(BusyError):
    """So many tasks wait that no more are taken; nothing was added."""

    def __init__(self, *, depth: int, more: int, limit: int) -> None:
        """Say how many wait, how many more were to be added, and how many may wait."""
        super().__init__(
            f"the queue is full: {depth} waiting, {more} more would exceed"
            f" {limit}; nothing was added",
            hint="wait until some have run, or raise TINYSCHEDULER_MAX_QUEUE_DEPTH",
        )
        self.depth = depth
        self.more = more
        self.limit = limit


class CapacityFullError(BusyError):
    """As many firings as may run at once do so; nothing was added."""

    def __init__(self, *, running: int, limit: int, eta_s: float) -> None:
        """Say how many run or wait, and in about how many seconds one more may start."""
        rounded_up = -int(-eta_s // 1)
        super().__init__(
            f"capacity_full: {running} firings run or are about to, and {limit} may at once;"
            f" a slot is free in about {rounded_up} s",
            hint="try again then; --force starts it beyond TINYSCHEDULER_SCHEDULE_MAX_CONCURRENT",
        )
        self.running = running
        self.limit = limit
        self.slot_eta_s = rounded_up


class SourceError(TinySchedulerError):
    """A task source could not answer; the next tick asks again."""

    exit_code = EXIT_UNAVAILABLE


class LaunchError(TinySchedulerError):
    """An attempt could not be started, and nothing of it was left running."""


class ExhaustedError(LaunchError):
    """The machine has nothing left to start anything with: no fault of the task at hand."""


class ProbeError(TinySchedulerError):
    """A measurement of the machine failed; the next tick measures again."""


class StoreError(TinySchedulerError):
    """State on disk could not be read or written."""

    exit_code = EXIT_UNAVAILABLE


class LeaseConflict(StoreError):  # noqa: N818 - losing a race is normal, not an error
    """Another process holds the right to this lease; normal under concurrency."""


# How a policy fails.
CAUSES = ("file", "syntax", "error", "timeout", "memory", "nonsense", "refused")


class PolicyError(TinySchedulerError):
    """A policy failed; the platform policy takes over for this tick.

    ``cause`` says how, one of `CAUSES`; ``log`` is what it said before, level and text.
    """

    def __init__(
        self,
        what: str,
        *,
        cause: str = "refused",
        hint: str | None = None,
        log: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Say what it did, with the place in its source where one is known."""
        super().__init__(what, hint=hint)
        self.cause = cause
        self.log = log


class PolicyLateError(PolicyError):
    """The policy had no time to answer, for the machine was busy: no fault of its own."""


class PolicyLoadError(PolicyError):
    """The policy could not even be loaded: another version of it may decide instead."""
