"""Run benchmarks by hand: `scripts/bench [NAME...]`; `--list` names them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks import deciding, policies, rate, scale, server, start_up
from benchmarks.measure import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Ratio

BENCHMARKS: dict[str, Callable[[], Iterator[Ratio]]] = {
    "idle-tick": start_up.idle_tick,
    "add": start_up.add,
    "status": start_up.status,
    "many-leases": scale.many_leases,
    "many-waiting": scale.many_waiting,
    "many-schedules": scale.many_schedules,
    "add-many": scale.add_many,
    "tinytask": server.tinytask,
    "decide": deciding.deciding,
    "policies": policies.policies,
    "lease-write": scale.lease_write,
    "rate": rate.rate,
    "gap": rate.gap,
    "wrapper-memory": rate.wrapper_memory,
}


def main(names: list[str]) -> int:
    """Print a row per ratio; exit 1 if a bar is missed, 2 for a name that is none."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or names == ["--list"]:
        print(*BENCHMARKS, sep="\n")
        return 2 if unknown and names != ["--list"] else 0
    print(HEADER, flush=True)
    missed = 0
    for name in names or BENCHMARKS:
        for ratio in BENCHMARKS[name]():
            print(ratio.line(), flush=True)
            missed += not ratio.is_met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
