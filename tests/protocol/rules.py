"""The protocol's rules, each of which can be taken out to see what it is good for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.protocol.world import Budget

LOOKS = ("locks", "leases", "results", "source", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The intact protocol, unless a field says otherwise."""

    # R1: a tick takes the task lock before it creates the lease, and hands it to the wrapper.
    # Out: the wrapper takes it for itself once it runs, as in the earlier form.
    locks_before_leasing: bool = True
    # R1: a tick holds the task lock while it settles, reclaims or repairs.
    # Out: having seen it free is enough.
    writes_under_lock: bool = True
    # R2: only ticks settle.  Out: the wrapper settles what it recorded, having let go.
    only_ticks_settle: bool = True
    # A wrapper lets go of the lock, then creates `kick`.  Out: the other way round.
    lets_go_before_kick: bool = True
    # A tick that is refused creates `kick` and tries once more.  Out: it does not try again.
    tries_again_after_kick: bool = True
    # A tick looks for `kick` after unlocking the pidfile.  Out: before, or not at all.
    looks_for_kick: str = "after unlocking"  # before unlocking, never
    # A task lock counts only if it is the file that its path names.
    verifies_inode: bool = True
    # What a tick looks at, in this order.
    looks: tuple[str, ...] = LOOKS
    # Under the task lock, lease and result are read again before anything is done.
    reads_again: bool = True
    # A lease is removed only if it bears the lease id that is settled.
    removes_only_its_own: bool = True
    # The source is told by compare-and-set on (working, lease_id).
    tells_by_comparing: bool = True
    # The source is asked by compare-and-set on (waiting, attempt).  Out: on waiting alone.
    claims_by_attempt: bool = True
    # How often a heartbeat must be seen stale.
    sightings: int = 2
    # Before a wrapper is ended for its silence, it is given a moment and looked at once more.
    looks_once_more: bool = True
    # Processes of a dead attempt that do not hold its lock are looked for.
    looks_for_survivors: bool = True
    # They are looked for before a result is settled, too.
    looks_for_survivors_of_results: bool = True
    # `cancel` notes its wish in the row; out: only in a file beside the lease.
    cancels_in_row: bool = True
    # A daemon that was told to stop looks for `kick` after it let go of daemon.lock.
    daemon_looks_once_more: bool = True


INTACT = Rules()


class Scenario(NamedTuple):
    """Where exploring begins."""

    name: str
    tasks: str  # one letter each: w(aiting), a(dded while we look), l(ater: its time comes)
    budget: Budget
    slots: int = 1
    most_attempts: int = 2
    cancels: str = ""  # indices of tasks that somebody cancels
    commands_close_lock: bool = False  # some do: Python's Popen closes what it inherits
    has_daemon: bool = False
    begins: str = "waiting"  # or with the first task "running"
