"""Random policies, by a grammar: what is plain, what is odd, and what breaks things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

_DEEPEST = 4
# Statements and expressions, the first few of each without any inside.
_STATEMENTS = (
    *("<place> = <value>", "local a = <name>", "do local _ = <name> end", "return <value>"),
    *("<place> = <e>", "local a = <e>", "do local _ = <e> end", "if <e> then return <e> end"),
    "for i = 1, <times> do <s> end",
    "while <e> do <s> <leave> end",
    "pcall(function() <s> end)",
    "(function() <s> end)()",
    "do local t = setmetatable({}, {<key> = function(...) <s> end}) local _ = <e> end",
    "table.sort({3, 1, 2}, function(x, y) <s> return x < y end)",
    "local said = (function() <attack>\nend)() log('info', said)",
    "<s>\n<s>",
)
_EXPRESSIONS = (
    *("<value>", "<name>", "<name>", "<function>(<value>)"),
    *("<function>()", "<function>(<e>)", "<function>(<e>, <e>)", "<function>(<e>, <e>, <e>)"),
    "(<e> <operator> <e>)",
    "{<e>, [<key_value>] = <e>}",
    "(function(...) return <e> end)(<e>)",
)
_PLAIN = 4
_WORDS: Mapping[str, tuple[str, ...]] = {
    "place": ("a", "b", "t.x", "context.queue", "string.x", "context.helpers", "_G.pairs"),
    "name": ("context", "context.queue", "context.queue[1]", "a", "b", "platform", "string", "t"),
    "function": (
        *("tostring", "type", "rawget", "rawlen", "next", "pairs", "ipairs", "select", "log"),
        *("setmetatable", "getmetatable", "pcall", "xpcall", "error", "assert", "tonumber"),
        *("string.rep", "string.format", "string.find", "string.gsub", "string.byte"),
        *("string.pack", "table.concat", "table.insert", "table.remove", "table.sort"),
        *("table.unpack", "table.move", "math.random", "math.floor", "utf8.char", "utf8.len"),
        *("os.time", "os.date", "platform.schedule", "platform.get_source", "find_worker"),
        *("find_best_worker", "can_fit", "check_quota", "emit_metric"),
    ),
    "value": ("nil", "true", "0", "-1", "1e9", "2^53", "0/0", "'x'", "''", "'%s'", "{}", "{1, 2}"),
    "key_value": ("true", "0", "-1", "2^53", "'x'", "''", "{}"),
    "key": ("__index", "__gc", "__len", "__call", "__close", "__tostring", "__pairs", "id", "x"),
    "operator": ("..", "+", "==", "<", "and", "or", "//", "<<"),
    "times": ("3", "100", "1000000"),
    "leave": ("break", ""),
    "attack": tuple(
        json.loads(line)["lua"]
        for line in Path(__file__).with_name("attacks.jsonl").read_text().splitlines()
    ),
}


def a_program(draw: random.Random) -> str:
    """Return the source of a policy; one of twenty is cut off somewhere."""
    body = "\n".join(_grow("<s>", draw, 0) for _ in range(draw.randint(1, 6)))
    if draw.randrange(20) == 0:
        body = body[: draw.randrange(len(body) + 1)]
    return (
        "local a, b, t = 1, 'b', {}\n"
        f"function schedule(context)\nlocal said = (function()\n{body}\nend)()\n"
        "if type(said) == 'string' then log('error', said) end\n"
        "if type(said) == 'table' then return said end\n"
        "return platform.schedule(context)\nend\n"
    )


def _grow(template: str, draw: random.Random, depth: int) -> str:
    def replace(match: re.Match[str]) -> str:
        word = match[1]
        if word in _WORDS:
            return draw.choice(_WORDS[word])
        choices: tuple[str, ...] = _STATEMENTS if word == "s" else _EXPRESSIONS
        if depth >= _DEEPEST:
            choices = choices[:_PLAIN]
        return _grow(draw.choice(choices), draw, depth + 1)

    return re.sub("<([a-z_]+)>", replace, template)
