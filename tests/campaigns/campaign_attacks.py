"""Each known attack on a policy, in whole ticks of the real program.

Each is first the policy in Lua that a tick is to ask, then the operand of a rule in YAML.  Where
it fails, the tick must name a right cause and come to the platform's decision; always it must do
so within the time that a policy may take, give nothing away, leave no file behind, and need no
more memory itself than beside a policy that is harmless.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from tests.policy.asking import ENDLESS, MOST_S, in_time
from tests.policy.test_attacks import ATTACKS, CAUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HARMLESS = "function schedule(context) return platform.schedule(context) end"
# What an attack returns is told as an error, which a tick repeats.
_FRAME = """
function schedule(context)
  local said = (function() {attack}
  end)()
  if type(said) == "string" then error(said) end
  return said
end
"""
# How much more of its own memory a tick may have needed, in KiB: it differs by so much anyway.
SLACK_KB = 2048
_WALLS = {"POLICY_MODE": "home", "MEMORY_PER_SLOT_MB": "1", "MEMORY_CRITICAL": "1"}
# A tick that writes down how much memory it had itself at most: its policy's is not its own.
_TICK = """
import atexit, sys
from pathlib import Path
def tell():
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in one)
    Path(peak).write_text(line.split()[1])
base, peak = sys.argv[1:]
atexit.register(tell)
sys.argv[1:] = ["--base-path", base, "run", "--dry-run", "--json"]
from tinyscheduler.__main__ import run
run()
"""


class Stage:
    """A base path in which one task waits, and whatever policy is to decide about it."""

    def __init__(self, folder: Path) -> None:
        """Add the task, and see how much memory a tick needs beside a harmless policy."""
        self.base, self._peak = folder / "base", folder / "peak"
        (self.base / "policies").mkdir(parents=True)
        self._write("p.lua", HARMLESS)
        add = ("-m", "tinyscheduler", "--base-path", str(self.base), "add", "--", "true")
        self._python(*add, name="p.lua")
        self.usual_kb = 0
        for _ in range(3):
            self._tick("p.lua")
            self.usual_kb = max(self.usual_kb, int(self._peak.read_text()))

    def attack(self, name: str, source: str, *, most_s: float) -> tuple[str, str | None]:
        """Return what came of a policy in a tick, and what is wrong with that, if anything."""
        self._write(name, source)
        return in_time(lambda: self._judge(name), self._endless_s, most_s=most_s)

    def _judge(self, name: str) -> tuple[str, str | None, float]:
        before = self._files()
        done = self._tick(name)
        told = json.loads(done.stdout)
        policy, words = told["policy"], " ".join((*told["warnings"], done.stderr))
        (decision,) = told["decisions"]
        # A policy may well answer that nothing is to start.
        is_its_own = policy["fallback"] is None and decision["reason"] == "policy_wait"
        peak_kb = int(self._peak.read_text())
        wrong = None
        if "ESCAPED" in done.stdout + done.stderr:
            wrong = f"it got hold of something: {words}"
        elif not is_its_own and decision["action"] != "dispatch":
            wrong = f"the platform's decision was not taken: {decision}"
        elif policy["fallback"] not in {None, *CAUSES}:
            wrong = f"unknown cause: {policy['fallback']}"
        elif policy["fallback"] is not None and f"policies/{name}" not in words:
            wrong = f"the policy is not named: {words}"
        elif peak_kb > self.usual_kb + SLACK_KB:
            wrong = f"the tick needed {peak_kb} KiB, and {self.usual_kb} beside a harmless one"
        elif self._files() != before:
            wrong = f"it left something: {self._files() ^ before}"
        return policy["fallback"] or "harmless", wrong, (policy["duration_ms"] or 0.0) / 1000

    def _endless_s(self) -> float:
        self._write("endless.lua", ENDLESS)
        policy = json.loads(self._tick("endless.lua").stdout)["policy"]
        return float(policy["duration_ms"]) / 1000

    def _write(self, name: str, source: str) -> None:
        (self.base / "policies" / name).write_text(source)

    def _files(self) -> set[Path]:
        return {path for path in self.base.rglob("*") if path.suffix not in {".db-shm", ".db-wal"}}

    def _tick(self, name: str) -> subprocess.CompletedProcess[str]:
        tick = ("-c", _TICK, str(self.base), str(self._peak))
        return self._python(*tick, name=name)

    def _python(self, *arguments: str, name: str) -> subprocess.CompletedProcess[str]:
        settings = {**_WALLS, "POLICY_FILE": str(self.base / "policies" / name)}
        return subprocess.run(
            [sys.executable, "-I", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.base),
                **{f"TINYSCHEDULER_{name}": value for name, value in settings.items()},
            },
            cwd=self.base,
            capture_output=True,
            text=True,
            check=True,
        )


def policies(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each of these attacks in Lua and in YAML: its name, its file, and what is in that."""
    for name in names:
        lua = ATTACKS[name]
        yield f"{name} in Lua", "p.lua", _FRAME.format(attack=lua)
        # One that does not hold, so that the platform decides.
        condition = {"job.title": lua[:1000], "job.tenant": {"in": [lua[:1000], "red"]}}
        rules = [
            {"name": name, "condition": condition, "action": {"wait": {"duration_ms": 1000}}},
            {"name": "rest", "condition": "always", "action": {"use": "platform-scheduler"}},
        ]
        document = {"scheduler": {"name": name, "version": "1", "rules": rules}}
        yield f"{name} in YAML", "p.yaml", yaml.safe_dump(document)


def run(names: Iterable[str], *, most_s: float = MOST_S) -> int:
    """Make these attacks, print what came of them, and return the number of violations."""
    began, outcomes, violations = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        for title, name, source in policies(names):
            outcome, wrong = stage.attack(name, source, most_s=most_s)
            outcomes[outcome] += 1
            if wrong is not None:
                violations += 1
                print(f"{title}: {wrong}", flush=True)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(
        f"{outcomes.total()} attacks: {told}: {violations} violations"
        f" ({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    return violations


def main(argv: list[str]) -> int:
    """Make all attacks; return 1 if one did what none may."""
    parser = argparse.ArgumentParser(prog="scripts/campaign attacks", description=__doc__)
    parser.parse_args(argv)
    return 1 if run(ATTACKS) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
