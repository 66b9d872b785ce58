"""A policy that was compiled, and how what is said of it becomes words about its YAML.

Apart from the compiler: ticks that find a compiled policy load nothing of that.
"""

from __future__ import annotations

import re

from tinyscheduler.values import dataclass

SUFFIXES = (".yaml", ".yml")
# What Lua calls the compiled text of a file: the lines of one are not those of the other.
SUFFIX = ".lua"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where in the YAML a line of the Lua comes from."""

    lua_line: int
    rule: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A policy as Lua; ``origins`` by line of it, for those that stand for something."""

    name: str
    version: str
    lua: str
    origins: tuple[Origin, ...]

    def locate(self, words: str, *, path: str) -> str:
        """Return a message about the compiled text as one about the file.

        ``path`` is what messages call the file; the compiled text bears its name and SUFFIX.
        """
        by_line = {one.lua_line: one for one in self.origins}

        def place(found: re.Match[str]) -> str:
            origin = by_line.get(int(found[1] or 0))
            if origin is None:
                return path
            return f"{path}:{origin.line} (rule {lua_text(origin.rule)})"

        return re.sub(re.escape(path + SUFFIX) + r"(?::([0-9]{1,9})\b)?", place, words)


def is_compiled(path: str) -> bool:
    """Whether a policy of this name is YAML and must be compiled."""
    return path.lower().endswith(SUFFIXES)


def lua_text(text: str) -> str:
    r"""Return a quoted literal of one line, whatever is in it; what cannot be seen is escaped.

    >>> print(lua_text('a"\n--]]'))
    "a\"\010--]]"
    """
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in ('"', "\\"):
        return f"\\{character}"
    if character.isprintable():
        return character
    # Always three digits, or one that follows would count as a part of it.
    return "".join(f"\\{byte:03d}" for byte in character.encode(errors="surrogatepass"))
