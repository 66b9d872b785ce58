"""Which worlds are explored: small ones with every run of the tests, larger ones by hand."""

from __future__ import annotations

from typing import NamedTuple

from tests.protocol.rules import KickLook, Rules, Scenario, WrapperSettles
from tests.protocol.world import Budget

# Two ticks at once can only come about by the loss of the pidfile.  Wrappers that become
# ticks as well would make too many worlds of it.
TWO_TICKS = Scenario(
    "two ticks at once",
    "w",
    Budget(crons=2, lost_pidfiles=1, failures=1),
    kicks=False,
    worlds=63_000,
)

SMALL = (
    Scenario("a time comes while one ticks", "l", Budget(crons=2), worlds=6_000),
    Scenario("a time comes beside a task that waits", "wl", Budget(crons=1), worlds=7_000),
    Scenario("a time comes while a command runs", "rl", Budget(crons=1), worlds=8_000),
    Scenario("a slot is freed while one ticks", "rw", Budget(crons=1), worlds=7_000),
    Scenario("a task is added", "wa", Budget(crons=1), worlds=15_000),
    Scenario("a tick or wrapper is killed", "w", Budget(crons=2, kills=1), worlds=28_000),
    Scenario(
        "a failing attempt is killed", "r", Budget(crons=1, kills=1, failures=1), worlds=23_000
    ),
    Scenario("a kill while another task waits", "rw", Budget(crons=1, kills=1), worlds=38_000),
    Scenario("two kills", "r", Budget(crons=2, kills=2), worlds=29_000),
    Scenario("a wrapper is stopped", "r", Budget(crons=2, stops=1), worlds=45_000),
    Scenario("the machine freezes twice", "r", Budget(crons=2, freezes=2), worlds=35_000),
    Scenario("a cancel and a kill", "w", Budget(crons=1, kills=1), cancelled="0", worlds=4_000),
    Scenario(
        "a cancel of what fails", "r", Budget(failures=1, kills=1), cancelled="0", worlds=4_000
    ),
    Scenario(
        "a process is left behind",
        "w",
        Budget(crons=1, leftovers=1, failures=1),
        commands_close_lock=True,
        worlds=17_000,
    ),
    Scenario(
        "a command outlives its wrapper",
        "w",
        Budget(crons=2, kills=1),
        commands_close_lock=True,
        worlds=29_000,
    ),
    Scenario(
        "a lease is lost before its command starts", "w", Budget(crons=1, lost_leases=1), worlds=800
    ),
    Scenario("a lease is lost", "r", Budget(crons=1, lost_leases=1, kills=2), worlds=3_000),
    Scenario("a wrapper cannot be spawned", "w", Budget(crons=2, launch_failures=1), worlds=10_000),
    Scenario("a daemon stops", "w", Budget(crons=1, daemon_stops=1), has_daemon=True, worlds=9_000),
    Scenario(
        "a task is added to a daemon", "ra", Budget(daemon_stops=1), has_daemon=True, worlds=19_000
    ),
    TWO_TICKS,
    Scenario("two ticks and a kill", "r", Budget(crons=1, lost_pidfiles=1, kills=1), worlds=13_000),
)

LARGE = (
    Scenario("two cron ticks, two tasks", "wl", Budget(crons=2)),
    Scenario("three tasks", "rla", Budget(crons=1)),
    Scenario("two slots", "www", Budget(crons=1), slots=2),
    Scenario("a kill of what may fail", "w", Budget(crons=2, kills=1, failures=1)),
    Scenario("a kill among two tasks", "ww", Budget(crons=1, kills=1, failures=1)),
    Scenario("two kills from the start", "w", Budget(crons=2, kills=2)),
    Scenario("a stop and a kill", "r", Budget(crons=2, stops=1, kills=1)),
    Scenario("a stop and a freeze", "r", Budget(crons=2, stops=1, freezes=1, failures=1)),
    Scenario(
        "a cancel, a kill, a failure", "w", Budget(crons=1, kills=1, failures=1), cancelled="0"
    ),
    Scenario("a stop and a cancel", "r", Budget(crons=2, stops=1), cancelled="0"),
    Scenario(
        "left-overs, a kill and a failure",
        "w",
        Budget(crons=1, leftovers=1, kills=1, failures=1),
        commands_close_lock=True,
    ),
    Scenario("a lost lease and kills", "w", Budget(crons=2, lost_leases=1, kills=1)),
    Scenario("a daemon beside cron", "wa", Budget(crons=1, daemon_stops=1), has_daemon=True),
    Scenario("a daemon is killed", "w", Budget(crons=1, kills=1, daemon_stops=1), has_daemon=True),
    Scenario("two ticks and a kill", "w", Budget(crons=2, lost_pidfiles=1, kills=1), kicks=False),
    Scenario("two ticks and kicks", "w", Budget(crons=2, lost_pidfiles=1)),
    Scenario(
        "two ticks and a cancel", "r", Budget(crons=1, lost_pidfiles=1, failures=1), cancelled="0"
    ),
)


class Loss(NamedTuple):
    """A rule that is taken out, and what then goes wrong first of the kind that is sought."""

    rule: str
    rules: Rules
    scenario: Scenario
    wrong: str


_LOCKS_LAST = ("results", "locks", "leases", "source", "processes")
_LEASES_FIRST = ("leases", "locks", "results", "source", "processes")
_FROZEN_ONCE = Scenario("the machine freezes", "r", Budget(crons=2, freezes=1))

LOSSES = (
    Loss(
        "R1: the lock before the lease, held until the end, and by who writes",
        Rules(locks_before_leasing=False, writes_under_lock=False),
        Scenario("nothing special", "w", Budget(crons=2)),
        "a lease is resurrected or written over by another's wrapper",
    ),
    Loss(
        "R1: the lock before the lease, held until the end, and by who writes",
        Rules(locks_before_leasing=False, writes_under_lock=False),
        Scenario("nothing special", "w", Budget(crons=2)),
        "a live attempt of a task that was given back",
    ),
    Loss(
        "R1: the lock is handed to the wrapper",
        Rules(locks_before_leasing=False),
        Scenario("nothing special", "w", Budget(crons=2)),
        "a lost wake-up: task A waits beside a free slot",
    ),
    Loss(
        "R1: a tick writes under the lock",
        Rules(writes_under_lock=False),
        TWO_TICKS,
        "a live attempt of a task that was given back",
    ),
    Loss(
        "R2: only a tick settles",
        Rules(wrapper_settles=WrapperSettles.AFTER_LETTING_GO),
        Scenario("a failure", "r", Budget(crons=1, failures=1)),
        "the lease of another attempt is removed",
    ),
    Loss(
        "kick is looked for after unlocking, not before",
        Rules(looks_for_kick=KickLook.BEFORE_UNLOCKING),
        Scenario("nothing special", "rw", Budget(crons=1)),
        "a lost wake-up: a recorded result waits for cron",
    ),
    Loss(
        "kick is looked for at all",
        Rules(looks_for_kick=KickLook.NEVER),
        Scenario("nothing special", "rw", Budget(crons=1)),
        "a lost wake-up: a recorded result waits for cron",
    ),
    Loss(
        "a wrapper lets go before it kicks",
        Rules(lets_go_before_kick=False),
        Scenario("nothing special", "rw", Budget(crons=1)),
        "a lost wake-up: a recorded result waits for cron",
    ),
    Loss(
        "a refused tick tries again after kick",
        Rules(tries_again_after_kick=False),
        Scenario("a time comes", "l", Budget(crons=2)),
        "a lost wake-up: task A waits beside a free slot",
    ),
    Loss(
        "a daemon looks for kick after it let go of daemon.lock",
        Rules(daemon_looks_at_its_end=False),
        Scenario("a daemon stops", "r", Budget(daemon_stops=1), has_daemon=True),
        "a lost wake-up: a recorded result waits for cron",
    ),
    Loss(
        "a task lock is on the file that bears its name",
        Rules(verifies_inode=False),
        TWO_TICKS,
        "a live attempt of a task that was given back",
    ),
    Loss(
        "locks are looked at before results, or results read again under the lock",
        Rules(looks=_LOCKS_LAST, reads_again=False),
        Scenario("nothing special", "r", Budget(crons=1)),
        "a recorded result is run again",
    ),
    Loss(
        "locks are looked at before leases, or leases read again under the lock",
        Rules(looks=_LEASES_FIRST, reads_again=False),
        Scenario("a kill", "w", Budget(crons=2, kills=1)),
        "an attempt that ran is not counted",
    ),
    Loss(
        "what was judged is read again under the lock",
        Rules(reads_again=False),
        TWO_TICKS,
        "a recorded result is run again",
    ),
    Loss(
        "the lease id is compared before a lease is removed",
        Rules(reads_again=False, removes_only_its_own=False),
        TWO_TICKS,
        "the lease of another attempt is removed",
    ),
    Loss(
        "the source is told by compare-and-set on the lease id",
        Rules(tells_by_comparing=False),
        Scenario("a kill", "rw", Budget(crons=1, kills=1)),
        "a task is settled under a lease that is not its claim",
    ),
    Loss(
        "the ledger is written before the source is told",
        Rules(notes_before_telling=False),
        Scenario("a lease is lost", "r", Budget(crons=1, lost_leases=1, kills=2)),
        "not all work ends: task A has 1 ledger rows of 2 attempts",
    ),
    Loss(
        "a stale heartbeat is seen twice",
        Rules(sightings=1, looks_once_more=False),
        _FROZEN_ONCE,
        "a healthy attempt is ended",
    ),
    Loss(
        "a heartbeat that was seen stale twice is looked at once more",
        Rules(looks_once_more=False),
        Scenario("the machine freezes twice", "r", Budget(crons=2, freezes=2)),
        "a healthy attempt is ended",
    ),
    Loss(
        "processes are looked for although the lock is free",
        Rules(looks_for_survivors=False),
        Scenario(
            "a command outlives its wrapper",
            "w",
            Budget(crons=2, kills=1),
            commands_close_lock=True,
        ),
        "two live attempts of one task",
    ),
    Loss(
        "processes are looked for although a result is recorded",
        Rules(looks_for_survivors_of_results=False),
        Scenario(
            "a process is left behind",
            "w",
            Budget(crons=1, leftovers=1, failures=1),
            commands_close_lock=True,
        ),
        "two live attempts of one task",
    ),
    Loss(
        "a cancel is noted in the row",
        Rules(cancels_in_row=False),
        Scenario("a cancel of what fails", "r", Budget(failures=1), cancelled="0"),
        "a cancelled task is run again",
    ),
)

# Needs more worlds than a run of the tests can look at.
LARGE_LOSSES = (
    Loss(
        "a claim names the attempt",
        Rules(claims_by_attempt=False),
        Scenario("two ticks and kicks", "w", Budget(crons=2, lost_pidfiles=1, failures=1)),
        "an attempt runs under a wrong number",
    ),
)

# With one tick at a time, another rule catches what each of these does.
SECOND_DEFENCES = (
    ("a tick writes under the lock", Rules(writes_under_lock=False)),
    ("what was judged is read again under the lock", Rules(reads_again=False)),
    ("a task lock is on the file that bears its name", Rules(verifies_inode=False)),
    ("a lease is removed only if it is its own", Rules(removes_only_its_own=False)),
    ("a claim names the attempt", Rules(claims_by_attempt=False)),
    ("locks are looked at before results", Rules(looks=_LOCKS_LAST)),
    ("locks are looked at before leases", Rules(looks=_LEASES_FIRST)),
)
ONE_TICK = Scenario("one tick at a time", "r", Budget(crons=1, failures=1), worlds=7_000)
