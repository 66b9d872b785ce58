"""The rules of the claim protocol, each of which can be taken out to see what it is good for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.protocol.world import Budget


class KickLook(Enum):
    """When a tick looks whether somebody wished for another one."""

    AFTER_UNLOCKING = "after unlocking the pidfile"
    BEFORE_UNLOCKING = "before unlocking it"
    NEVER = "never"


class WrapperSettles(Enum):
    """Whether the wrapper settles what it recorded."""

    NEVER = "it leaves that to a tick"
    AFTER_LETTING_GO = "once it has let go of the task lock"
    BEFORE_LETTING_GO = "under the task lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The protocol as it is built, unless a field says otherwise."""

    # R1: the task lock is taken before the lease exists, and handed to the wrapper.
    # Out: the wrapper takes it for itself once it runs.
    locks_before_leasing: bool = True
    # R1: a tick holds the task lock while it settles, reclaims and repairs.
    # Out: having seen that it is free is enough.
    writes_under_lock: bool = True
    # R2: only a tick settles.
    wrapper_settles: WrapperSettles = WrapperSettles.NEVER
    # A wrapper lets go of the task lock and then creates `kick`.  Out: the other way round.
    lets_go_before_kick: bool = True
    # A tick that finds the pidfile locked creates `kick` and tries again.  Out: it leaves.
    tries_again_after_kick: bool = True
    looks_for_kick: KickLook = KickLook.AFTER_UNLOCKING
    # A daemon that stops looks for `kick` once more after it let go of daemon.lock.
    daemon_looks_at_its_end: bool = True
    # A task lock counts only if it is on the file that bears its name.
    verifies_inode: bool = True
    # What a tick reads, in this order.
    looks: tuple[str, ...] = ("locks", "leases", "results", "source", "processes")
    # Lease, result and claim are read again under the task lock.
    reads_again: bool = True
    # A lease is removed only if it bears the lease id at hand.
    removes_only_its_own: bool = True
    # The source is told by compare-and-set on (working, lease_id).  Out: it is just told.
    tells_by_comparing: bool = True
    # The source is asked by compare-and-set on (waiting, attempt).  Out: on waiting alone.
    claims_by_attempt: bool = True
    # The ledger is written before the source is told.  Out: after it.
    notes_before_telling: bool = True
    # How often a heartbeat must be seen stale before its wrapper is ended.
    sightings: int = 2
    # Then the tick waits a moment and looks at the heartbeat once more.
    looks_once_more: bool = True
    # An attempt whose lock is free is over only if none of its processes is found.
    looks_for_survivors: bool = True
    # The same where it recorded a result.
    looks_for_survivors_of_results: bool = True
    # `cancel` notes its wish in the task's row.  Out: only in a file beside the lease.
    cancels_in_row: bool = True


INTACT = Rules()


class Scenario(NamedTuple):
    """Where exploring begins, and what may happen."""

    name: str
    tasks: str  # w waiting, r running, a added by somebody, l due later
    budget: Budget
    slots: int = 1
    most_attempts: int = 2
    cancelled: str = ""  # indices of the tasks that somebody cancels
    commands_close_lock: bool = False  # some do: Python's Popen closes what it inherits
    has_daemon: bool = False
    kicks: bool = True  # TINYSCHEDULER_KICK: wrappers create `kick` and become ticks
    worlds: int = 0  # fewer would mean that something in the model no longer happens
