"""What does a policy add to a tick?  Against a bare interpreter of the same environment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.measure import Ratio, added, command, compare
from benchmarks.place import BARE, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 25
AGAINST = "python -I -c pass"
WAITING, MANY, GPUS = 1000, 10_000, 8
GIB = 2**30


def policies() -> Iterator[Ratio]:
    """The platform's, with a thousand tasks and eight GPUs; and one of one's own instead.

    The last row is a whole tick: what a policy is told of is a window, however many wait.
    """
    bare = command(*BARE)
    with Place(AGENT_LIMITS="shell:8", GPU_PROBE="file:gpus.json") as place:
        gpus = [{"uuid": f"GPU-{n}", "name": "", "total": 24 * GIB} for n in range(GPUS)]
        (place.base / "gpus.json").write_text(json.dumps({"gpus": gpus}))
        (place.base / "own.lua").write_text(
            "function schedule(context) return platform.schedule(context) end"
        )
        own = {
            **place.environment,
            "TINYSCHEDULER_POLICY_MODE": "home",
            "TINYSCHEDULER_POLICY_FILE": "own.lua",
        }
        paused = {**place.environment, "TINYSCHEDULER_ENABLED": "false"}

        idle = place.argv("run", "--once")
        yield added(
            "own policy, nothing to decide",
            command(*idle, environment=own),
            command(*idle, environment=place.environment),
            bare,
            against=AGAINST,
            rounds=ROUNDS,
            bar=0.3,
        )
        _fill(place, WAITING)
        look = place.argv("--quiet", "run", "--dry-run")
        yield added(
            "platform policy, 1,000 waiting",
            command(*look, environment=place.environment),
            command(*look, environment=paused),
            bare,
            against=AGAINST,
            rounds=ROUNDS,
            bar=1.5,
        )
        yield added(
            "own policy instead, 1,000 waiting",
            command(*look, environment=own),
            command(*look, environment=place.environment),
            bare,
            against=AGAINST,
            rounds=ROUNDS,
            bar=4,
        )
        with Place(AGENT_LIMITS="shell:8", GPU_PROBE="file:gpus.json") as larger:
            for name in ("gpus.json", "own.lua"):
                (larger.base / name).write_bytes((place.base / name).read_bytes())
            _fill(larger, MANY)
            many = {**own, **larger.environment}
            yield compare(
                f"own policy, {MANY:,} waiting",
                command(*larger.argv("--quiet", "run", "--dry-run"), environment=many),
                command(*look, environment=own),
                against=f"the same with {WAITING:,}",
                rounds=ROUNDS,
                bar=1.3,
            )


def _fill(place: Place, number: int) -> None:
    tasks = "".join(
        json.dumps({"command": ["true"], "vram": f"{1 + n % 9}G"}) + "\n" for n in range(number)
    )
    place.run("add", "--from", "-", stdin=tasks.encode())
