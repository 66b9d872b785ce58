"""Random policies in YAML, by a grammar: good ones, nearly good ones, and what is none."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tinyscheduler.policy.expressions import MOST_CHARACTERS as LONGEST_EXPRESSION
from tinyscheduler.policy.rules import (
    ACTIONS,
    COMBINATIONS,
    FIELDS,
    LABELS,
    MOST_BYTES,
    MOST_CHARACTERS,
    MOST_ITEMS,
    MOST_OPERAND_CHARACTERS,
    MOST_PRIORITY,
    MOST_RULES,
    MOST_WAIT_MS,
    OPERATORS,
    ORDERING,
    PLATFORM,
    WORDS,
    Eviction,
    Kind,
    Match,
    Selection,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# What whoever runs a text by mistake makes: a file of this name where it runs, or a line of log.
MARKER = "ESCAPED"
# Each would do something if it got out of its quotes, or out of the comment it stands in.
ATTACKS = (
    f"\") os.execute('touch {MARKER}') --",
    f"\") log('error', '{MARKER}') --[[",
    f"\" .. log('error', '{MARKER}') .. \"",
    f"\\\" .. log('error', '{MARKER}') .. \\\"",
    f"' then log('error', '{MARKER}') end --",
    f"]] log('error', '{MARKER}') --[[",
    f"]==] emit_metric('{MARKER}', 1) --[==[",
    f"\nlog('error', '{MARKER}')\n",
    f"\rlog('error', '{MARKER}')\r",
    f"\0\" log('error', '{MARKER}') --",
    f"\u2028log('error', '{MARKER}')\u2029",
    f"\\z\n log('error', '{MARKER}')",
    f"end end error('{MARKER}') --",
    f"$(touch {MARKER})",
    f"`touch {MARKER}`",
    "--[[",
    "--]]",
    "]]",
    "end",
    "os.execute",
    '"',
    "\\",
    "\\n\\0\\x41\\u{41}\\z",
    "%d%%%[",
    "{{x}} ${x} %s",
    "nil",
    "--[==[\n",
)
# What stands in the world that policies are asked about, and what is odd.
KNOWN = ("coder", "tester", "red", "blue", "local", "box", "large", "small", "1", "2", "GPU-0")
ODD = (
    *(" ", "é", "日本", "\U0001f600", "a\u0301", "\u202eabc", "\ufeff", "\x1b[31m", "\x7f", "\x85"),
    *("\ufffe", "\t", "a" * MOST_OPERAND_CHARACTERS, "ä" * MOST_CHARACTERS, "no", "\u2028\u2029"),
)
NUMBERS = (
    *("0", "1", "-1", "+5", "007", "2.5", ".5", "5.", "1e3", "-0.0", "0.1", "1e-320", "1E+2"),
    *("9007199254740993", str(10**18), str(-(10**18)), "1e18", "999999999999999999", "8589934592"),
)
EXPRESSIONS = (
    *("a", "x-y", ".", "[a-z]", "[^a-z0-9_]", r"\d", r"\w", r"\S", "a?", r"\.", "é", "%d", "[%]]"),
    *("(a|b)", "(?:x|y)?", "(r|bl)", "]]", r"\"", "--[[", r"\\", r"\n", r"\(", "-", "[]a-]", "'"),
)
ENDS = ("", "", "", "*", "+", "$")
# No policy has these anywhere, or hardly anywhere.
STRANGE = (
    *("~", "null", "yes", "true", "False", "0x1f", "0o17", "1_000", "12:30", "2026-03-01", "<<"),
    *(".inf", "-.inf", ".nan", "1e999", "1e400", "9" * 30, "1" * 5000, "-" + "9" * 19, "0" * 400),
    *("1000000000000000001", "1.5", "''", '""', "'5'", "[]", "{}", "[[[]]]", "{a: {b: c}}", "[,]"),
    *("{a: 1, a: 2}", "&a x", "*a", "&a [*a]", "{<<: *a}", "!!str 5", "! 5", "!x y", "!!null ''"),
    *("!!binary aGk=", "!!set {a, b}", "!!timestamp 2001-01-01", "!!float x", "!!omap [a: b]"),
    *("? a", "@x", "`x`", "%x", "- - -", "a: b: c", "|", ">-", "\t", "# x", "'", '"', "[", "}"),
    f"!!python/object/apply:os.system ['touch {MARKER}']",
    f"!!python/object/new:os.system ['touch {MARKER}']",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!<tag:yaml.org,2002:python/tuple> [a]",
    "[" * 25 + "]" * 25,
    "{a: " * 25 + "}" * 25,
    "[" * 3000,
    '"\\ud800"',
    '"\\0\\e\\x7f\\N\\_\\L\\P"',
    '"\\q"',
    '"\\U00110000"',
)
KEYS = (
    *("scheduler", "name", "version", "rules", "condition", "action", "priority", "always"),
    *("schedulers", "names", "conditions", "actions", "job.prio", "job", "job.", ".", "gte"),
    *("=", "!=", "<<", "__proto__", "job.labels.", "job.labels.a b", 'job.labels.a"]', "1", ""),
    *(*COMBINATIONS, *OPERATORS, *ACTIONS, "worker_selection", "duration_ms", "policy", "gpu_id"),
)
_SAFE = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,80}")
_MEANS_ANOTHER = frozenset({"null", "Null", "NULL", "true", "True", "TRUE"}) | {
    *("false", "False", "FALSE")
}
_DEEPEST = 4


class Plain(str):
    """A piece of YAML, to be written as it is; any other text is one to be read."""

    __slots__ = ()


class Pairs(list[Any]):
    """A mapping, whose keys may be there twice: lists of a key and a value."""

    __slots__ = ()


def a_document(draw: random.Random) -> bytes:
    """Return a policy in YAML; about half of them can be compiled."""
    tree = _policy(draw)
    kind = draw.randrange(20)
    spoils = {0: 2, 1: 3}.get(kind, 1) if kind < _SPOILT else 0
    for _ in range(spoils):
        if 0 < len(_places(tree)) < _LARGE:  # or it would never be written
            draw.choice(_SPOILS)(tree, draw)
    lines, _ = _lines(tree, draw, is_flow=draw.random() < _ALL_IN_ONE)
    content = ("\n".join(lines) + "\n").encode(errors="surrogatepass")
    if kind >= _DAMAGED:
        content = draw.choice(_DAMAGES)(content, draw)
    return content[: 2 * MOST_BYTES]


# Of twenty, those below the first are spoilt as values, and those from the second as bytes.
_SPOILT, _DAMAGED = 7, 18
_ALL_IN_ONE = 0.1
_LARGE = 3000

# -- what a policy says ----------------------------------------------------------------


def _policy(draw: random.Random) -> Pairs:
    number = MOST_RULES if draw.randrange(200) == 0 else draw.randint(1, 6)
    parts = Pairs([["name", _name(draw)]])
    if draw.random() < 0.5:
        parts.append(["version", _name(draw)])
    parts.append(["rules", [_rule(draw, at) for at in range(number)]])
    draw.shuffle(parts)
    return Pairs([["scheduler", parts]])


def _rule(draw: random.Random, at: int) -> Pairs:
    name = _name(draw, most=MOST_CHARACTERS - 4) + f" {at}"
    parts = Pairs([["name", name], ["condition", _condition(draw, 0)], ["action", _action(draw)]])
    if draw.random() < 0.5:
        least = draw.choice((-MOST_PRIORITY, -1, 0))
        parts.append(["priority", draw.randint(least, draw.choice((0, 3, MOST_PRIORITY)))])
    if draw.random() < 0.3:
        draw.shuffle(parts)
    return parts


def _condition(draw: random.Random, depth: int) -> Any:
    kind = draw.random()
    if kind < 0.15:
        return "always"
    if kind < 0.45 and depth < _DEEPEST:
        how = draw.choice(COMBINATIONS)
        if how == "not":
            return Pairs([[how, _condition(draw, depth + 1)]])
        parts = [_condition(draw, depth + 1) for _ in range(draw.randint(1, 4))]
        return Pairs([[how, parts]])
    asked = Pairs(_comparison(draw) for _ in range(draw.randint(1, 3)))
    return Pairs({key: [key, value] for key, value in asked}.values())


def _comparison(draw: random.Random) -> list[Any]:
    subject = draw.choice(tuple(FIELDS))
    field = draw.choice(tuple(FIELDS[subject]))
    name, kind = f"{subject}.{field}", FIELDS[subject][field]
    if draw.random() < 0.1:
        label = draw.choice(("x", "team/a", "0", "end", "A.b-c_d", "a--b", "x" * 63))
        name, kind = LABELS + label, Kind.TEXT
    if kind is Kind.ANYTHING:
        return [name, Pairs([["exists", draw.random() < 0.5]])]
    if draw.random() < 0.3:
        return [name, _operand(draw, name, kind)]
    able = [
        one for one in OPERATORS if one not in (ORDERING if kind is Kind.TEXT else ("matches",))
    ]
    operators = draw.sample(able, draw.randint(1, 2))
    return [name, Pairs([one, _operands(draw, name, kind, one)] for one in operators)]


def _operands(draw: random.Random, name: str, kind: Kind, operator: str) -> Any:
    if operator == "exists":
        return draw.random() < 0.5
    if operator == "matches":
        return _expression(draw)
    if operator == "in":
        number = MOST_ITEMS if draw.randrange(50) == 0 else draw.randint(1, 4)
        return [_operand(draw, name, kind) for _ in range(number)]
    return _operand(draw, name, kind)


def _operand(draw: random.Random, name: str, kind: Kind) -> Any:
    if kind is Kind.NUMBER:
        return Plain(draw.choice(NUMBERS)) if draw.random() < 0.5 else draw.randint(-3, 9)
    if name in WORDS:
        return draw.choice(WORDS[name])
    return _text(draw)[:MOST_OPERAND_CHARACTERS]


def _expression(draw: random.Random) -> str:
    pieces = "".join(draw.choice(EXPRESSIONS) for _ in range(draw.randint(1, 5)))
    text = draw.choice(("", "", "^")) + pieces + draw.choice(ENDS)
    if draw.random() < 0.1:
        text = "|".join((text, _text(draw)))
    return text[:LONGEST_EXPRESSION]


def _text(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.3:
        return draw.choice(KNOWN)
    if kind < 0.7:
        return draw.choice(ATTACKS)
    if kind < 0.8:
        return draw.choice(ODD)
    pieces = (*ATTACKS, *ODD, *KNOWN)
    return "".join(draw.choice(pieces) for _ in range(draw.randint(2, 4)))


def _name(draw: random.Random, *, most: int = MOST_CHARACTERS) -> str:
    """Return a text that may be a name: nothing in it that cannot be seen."""
    seen = "".join(one for one in _text(draw) if one.isprintable())[:most]
    return seen if seen.strip() else "x"


def _action(draw: random.Random) -> Any:
    match draw.choice(ACTIONS):
        case "dispatch":
            return draw.choice(("dispatch", Pairs([["dispatch", _how_to_start(draw)]])))
        case "wait":
            longest = draw.choice((0, 1, 1500, MOST_WAIT_MS))
            return draw.choice(("wait", Pairs([["wait", Pairs([["duration_ms", longest]])]])))
        case "evict":
            worker = ["worker_id", draw.choice(("large@box", "coder/1", _name(draw)))]
            idle = ["policy", str(draw.choice(tuple(Eviction)))]
            return Pairs([["evict", Pairs([draw.choice((worker, idle))])]])
        case "start_worker":
            what = Pairs([["model_ref", _name(draw)], ["pool_id", _name(draw)]])
            if draw.random() < 0.5:
                what.append(["gpu_id", _name(draw)])
            return Pairs([["start_worker", what]])
        case _:
            return Pairs([["use", PLATFORM]])


def _how_to_start(draw: random.Random) -> Any:
    how = Pairs()
    if draw.random() < 0.7:
        how.append(["worker_selection", str(draw.choice(tuple(Selection)))])
    if draw.random() < 0.7:
        how.append(["model_match", str(draw.choice(tuple(Match)))])
    return how or Plain("")


# -- what spoils it --------------------------------------------------------------------


def _places(node: Any) -> list[tuple[list[Any], int]]:
    """Return where each value below this one stands: a list and an index in it."""
    found: list[tuple[list[Any], int]] = []
    if isinstance(node, Pairs):
        for pair in node:
            found += [(pair, 1), *_places(pair[1])]
    elif isinstance(node, list):
        for at, item in enumerate(node):
            found += [(node, at), *_places(item)]
    return found


def _mappings(tree: Pairs) -> list[Pairs]:
    """Return all mappings that hold something."""
    inner = [holder[at] for holder, at in _places(tree)]
    return [one for one in (tree, *inner) if isinstance(one, Pairs) and one]


def _put_something_strange(tree: Pairs, draw: random.Random) -> None:
    holder, at = draw.choice(_places(tree))
    holder[at] = Plain(draw.choice(STRANGE))


def _put_another_text(tree: Pairs, draw: random.Random) -> None:
    holder, at = draw.choice(_places(tree))
    holder[at] = draw.choice((*ATTACKS, *ODD, *KEYS, "x" * 2000, ""))


def _put_another_part(tree: Pairs, draw: random.Random) -> None:
    places = _places(tree)
    holder, at = draw.choice(places)
    other, there = draw.choice(places)
    holder[at] = deepcopy(other[there])


def _say_more_of_it(tree: Pairs, draw: random.Random) -> None:
    key = draw.choice((*KEYS, *ATTACKS, "k" * 2000))
    value = draw.choice(("always", 1, Plain(draw.choice(STRANGE)), Pairs([["a", "b"]])))
    draw.choice(_mappings(tree)).append([key, value])


def _leave_something_out(tree: Pairs, draw: random.Random) -> None:
    found = draw.choice(_mappings(tree))
    del found[draw.randrange(len(found))]


def _say_something_twice(tree: Pairs, draw: random.Random) -> None:
    found = draw.choice(_mappings(tree))
    found.append(list(draw.choice(found)))


def _use_another_key(tree: Pairs, draw: random.Random) -> None:
    draw.choice(draw.choice(_mappings(tree)))[0] = draw.choice((*KEYS, Plain(draw.choice(STRANGE))))


def _nest_it(tree: Pairs, draw: random.Random) -> None:
    holder, at = draw.choice(_places(tree))
    key = draw.choice(("not", "all", "any", "x"))
    for _ in range(draw.choice((1, 5, 15, 18, 30))):
        holder[at] = Pairs([[key, holder[at] if key == "not" else [holder[at]]]])


def _make_it_wide(tree: Pairs, draw: random.Random) -> None:
    lists = [one for holder, at in _places(tree) if (one := holder[at]) and type(one) is list]
    if lists:
        found = draw.choice(lists)
        found.extend(found[:1] * draw.choice((MOST_ITEMS - 1, MOST_ITEMS, MOST_RULES)))


def _make_it_long(tree: Pairs, draw: random.Random) -> None:
    """Say as much as Lua that can hardly be had from so many bytes."""
    holder, at = draw.choice(_places(tree))
    operand = draw.choice(({"in": [7] * MOST_ITEMS}, {"ge": 0, "lt": 1}))
    term = Pairs([["job.rank", Pairs([key, value] for key, value in operand.items())]])
    holder[at] = Pairs([["any", [term] * draw.choice((20, MOST_ITEMS))]])


_SPOILS: tuple[Callable[[Pairs, random.Random], None], ...] = (
    *(_put_something_strange, _put_something_strange, _put_another_text, _put_another_part),
    *(_say_more_of_it, _leave_something_out, _say_something_twice, _use_another_key),
    *(_nest_it, _make_it_wide, _make_it_long),
)


def _cut_off(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, draw: random.Random) -> bytes:
    odd = (
        *(b"\xff", b"\x00", b"\x1b", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
        *(b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\t", b"\n", b"\r", b"\n---\n"),
        *(b"\n...\n", b"&a ", b"*a ", b"!", b'"', b"'", b"{", b"]", b":", b"#", b"%", b"- ", b"| "),
    )
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.choice(odd) * draw.choice((1, 1, 3)) + content[at:]


def _take_out(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + content[at + draw.choice((1, 2, 8, 40)) :]


def _put_before(content: bytes, draw: random.Random) -> bytes:
    odd = (
        *(
            b"\xef\xbb\xbf",
            b"\xef\xbb\xbf",
            b"\xef\xbb\xbf[",
            b"\x0c[",
            b"[1]\n",
            b"---\n",
            b"\n\n",
        ),
        *(b"%YAML 1.1\n---\n", b"%YAML 9.9\n---\n", b"%TAG ! tag:x,2000:\n---\n", b"...\n", b"#"),
        *(b"\xff\xfe", b"\x1bLua", b"!!python/object:os.x\n", b"&a\n", b"{", b"- ", b"\t", b"\x00"),
    )
    return draw.choice(odd) + content


def _put_behind(content: bytes, draw: random.Random) -> bytes:
    odd = (
        *(
            b"---\n",
            b"--- {}\n",
            b"...\n",
            b"...\na",
            b"\x00",
            b"\xff",
            b"*a\n",
            b"scheduler: {}\n",
        ),
        *(b"#" * MOST_BYTES, b"\n" * (MOST_BYTES - 500), b"x", b"]", b"- a\n", b"? \n", b'"'),
    )
    return content + draw.choice(odd)


def _end_lines_otherwise(content: bytes, draw: random.Random) -> bytes:
    ends = (b"\r\n", b"\r\n", b"\r", b"\n\n", b"\xc2\x85", b"\xe2\x80\xa8", b"\n\t", b" \n")
    return content.replace(b"\n", draw.choice(ends))


def _write_it_otherwise(content: bytes, draw: random.Random) -> bytes:
    text = content.decode(errors="replace")
    return text.encode(draw.choice(("utf-16", "utf-32", "latin-1")), errors="replace")


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut_off, _insert, _insert, _take_out, _put_before, _put_behind, _end_lines_otherwise),
    _write_it_otherwise,
)

# -- how it is written -----------------------------------------------------------------


def _lines(node: Any, draw: random.Random, *, is_flow: bool = False) -> tuple[list[str], bool]:
    """Return the lines of a value, and whether they must stand below what is before them."""
    if not isinstance(node, list) or not node or is_flow or draw.random() < 0.3:
        return [_flow(node, draw)], False
    lines: list[str] = []
    if isinstance(node, Pairs):
        for key, value in node:
            inner, is_below = _lines(value, draw)
            if is_below:
                lines += [f"{_flow(key, draw)}:", *(f"  {line}" for line in inner)]
            else:
                lines.append(f"{_flow(key, draw)}: {inner[0]}")
    else:
        for item in node:
            inner, _ = _lines(item, draw)
            lines += [f"- {inner[0]}", *(f"  {line}" for line in inner[1:])]
    return lines, True


def _flow(node: Any, draw: random.Random) -> str:
    """Return a value on one line."""
    if isinstance(node, Pairs):
        inner = (f"{_flow(key, draw)}: {_flow(value, draw)}" for key, value in node)
        return "{" + ", ".join(inner) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(_flow(item, draw) for item in node) + "]"
    if isinstance(node, Plain):
        return str(node)
    if not isinstance(node, str):
        return str(node).lower()
    how = draw.random()
    if how < 0.6 and _SAFE.fullmatch(node) and node not in _MEANS_ANOTHER:
        return node
    if how < 0.8 and node.isprintable():
        return "'" + node.replace("'", "''") + "'"
    return '"' + "".join(_escaped(one, draw) for one in node) + '"'


def _escaped(character: str, draw: random.Random) -> str:
    """Return a character as it stands in double quotes."""
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable() and draw.random() < 0.97:
        return character
    number = ord(character)
    forms = [f"\\U{number:08x}"]
    if number < 0x10000:
        forms.append(f"\\u{number:04X}")
    if number < 0x100:
        forms.append(f"\\x{number:02x}")
    return draw.choice(forms)
