"""Runs a policy in Lua: a context goes in, decisions come out as JSON text."""

from __future__ import annotations

# Not `lua54` as a name of `lupa`, which looks for that with a regular expression.
from lupa.lua54 import LuaMemoryError, LuaRuntime

from tinyscheduler.jsontext import dumps
from tinyscheduler.policy.limits import LuaLimits
from tinyscheduler.policy.sources import read_platform, read_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class LuaEngine:
    """One policy, loaded in a Lua state of its own.

    Not a wall by itself: who does not trust the policy runs this in a process that can be
    killed.  It ``is_bounded`` in memory there: a bound reached outside of Lua ends the process.
    """

    def __init__(self, *, limits: LuaLimits, is_bounded: bool) -> None:
        """Make the state and what a policy finds in it; no file is read after this."""
        self._limits = limits
        self._is_bounded = is_bounded
        self._lua = LuaRuntime(
            encoding="utf-8",
            unpack_returned_tuples=False,
            register_eval=False,
            register_builtins=False,
            max_memory=0,
        )
        values = {name: getattr(limits, name) for name in LuaLimits.__slots__}
        self._platform = read_platform()
        self._sandbox = self._lua.execute(
            read_source("sandbox.lua"),
            self._lua.table_from(values),
            read_source("helpers.lua"),
            name="=sandbox",
        )

    def load(self, source: bytes, name: str) -> str | None:
        """Load a policy; return what is wrong with it, as `schedule` would answer it."""
        self._bound()
        fault: str | None = self._sandbox["load"](source, name, self._platform)
        return fault

    def schedule(self, context: Mapping[str, Any]) -> str:
        """Return the answer to a context, as JSON: ``decisions``, or a ``fault`` with ``words``."""
        self._lua.set_max_memory(0)  # what we put in never ends the process
        try:
            table = self._lua.table_from(context, recursive=True)
        except (OverflowError, UnicodeEncodeError):
            table = self._lua.table_from(_bounded(context), recursive=True)
        self._bound()
        try:
            answer: str = self._sandbox["schedule"](table)
        except LuaMemoryError:
            # Not even for words about it something was left.
            words = f"schedule took more than {self._limits.memory_mb} MB of memory"
            return dumps({"fault": "memory", "words": words, "log": [], "metrics": {}})
        return answer

    def _bound(self) -> None:
        if self._is_bounded:
            self._lua.set_max_memory(self._limits.memory_mb << 20, total=False)


def _bounded(value: object) -> object:
    """Return the value with what Lua cannot hold as near to it as can be.

    Numbers beyond 64 bits, and halves of characters: no machine and no task should have any,
    but one that does must not keep all others from being decided about.
    """
    match value:
        case dict():
            return {_bounded(key): _bounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_bounded(item) for item in value]
        case str():
            return value.encode(errors="replace").decode()
        case int() if not isinstance(value, bool):
            return max(-(2**63), min(value, 2**63 - 1))
        case _:
            return value
