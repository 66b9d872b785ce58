"""The program that a policy of one's own runs in: reads contexts, writes decisions.

Started anew for each tick, with nothing open but a pipe to it and one from it.  Messages are
four bytes of length and that many of content; the first is how to confine oneself, the second
the policy, each further one a context, or None: then the policy is loaded anew and has forgotten
all.  What comes is marshalled, for it is ours and is the quickest to read; what goes out is JSON,
for it is not.  The arguments are where modules are found.
"""

from __future__ import annotations

import marshal
import os
import sys

sys.path[:0] = sys.argv[1:]

from tinyscheduler.jsontext import dumps
from tinyscheduler.policy.confinement import confine, die_with_parent
from tinyscheduler.policy.limits import LuaLimits
from tinyscheduler.policy.lua import LuaEngine

# Python, the context and the answer need their memory beside the policy's own.
_BESIDES_BYTES = 96 << 20


def read_message() -> bytes:
    """Return the next message; empty once there is none."""
    return _read(int.from_bytes(_read(4), "little"))


def write_message(content: bytes) -> None:
    """Write a message whole."""
    left = memoryview(len(content).to_bytes(4, "little") + content)
    while left:
        left = left[os.write(1, left) :]


def _read(size: int) -> bytes:
    content = b""
    while len(content) < size:
        chunk = os.read(0, size - len(content))
        if not chunk:
            return b""
        content += chunk
    return content


def _close_all_but_pipes() -> None:
    """Close what whoever started the tick left open to all its children, such as a lock."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # noqa: PLR2004 - those of every program
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed them is closed already


def main() -> None:
    """Answer until nobody asks."""
    die_with_parent()
    _close_all_but_pipes()
    setup = marshal.loads(read_message())
    source = read_message()
    limits = LuaLimits(**setup["limits"])
    engine = LuaEngine(limits=limits, is_bounded=setup["is_bounded"])
    missing = confine(
        tuple(setup["layers"]),
        memory_bytes=(limits.memory_mb << 20) + _BESIDES_BYTES,
        cpu_s=setup["cpu_s"],
    )
    fault = engine.load(source, setup["name"])
    write_message(dumps({"missing": missing, "fault": fault}).encode())
    while fault is None and (content := read_message()):
        context = marshal.loads(content)
        if context is None:
            del engine  # there is not room for two
            engine = LuaEngine(limits=limits, is_bounded=setup["is_bounded"])
            fault = engine.load(source, setup["name"])
            write_message(dumps({"missing": missing, "fault": fault}).encode())
        else:
            write_message(engine.schedule(context).encode())


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is left to be tidied up, and exit handlers may want what is gone
