r"""What is a regular expression in patterns of Lua, of which one must fit?

Lua's patterns know no alternatives and repeat single characters only.  So of regular
expressions those parts are taken that most people write, and the rest is refused by name:
characters, ``.``, ``[…]``, ``\d \w \s`` and the like, ``* + ?`` behind one of these,
``^ $`` at the ends, and ``a|b`` and ``(a|b)``, which become a pattern for each alternative.
"""

from __future__ import annotations

from tinyscheduler.wording import quote

MOST_CHARACTERS = 128
MOST_PATTERNS = 16
# Each may try every length: with more of them one call could take all the time there is.
MOST_REPETITIONS = 3
MOST_OPTIONS = 8  # likewise: each is tried with and without

_CLASSES = {"d": "%d", "D": "%D", "w": "[%w_]", "W": "[^%w_]", "s": "%s", "S": "%S"}
_IN_SET = {"d": "%d", "w": "%w_", "s": "%s"}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r"}
_SPECIAL = frozenset("^$()%.[]*+-?")
_REPEATED = frozenset("*+?{")


class UnsupportedError(ValueError):
    """Continues a sentence about the expression; the remedy says what to write instead."""

    def __init__(self, what: str, *, remedy: str) -> None:
        """Keep them apart."""
        super().__init__(what)
        self.remedy = remedy


def translate(expression: str) -> tuple[str, ...]:
    r"""Return the patterns; raises UnsupportedError.

    >>> translate(r"^(gpt|llama)-\d+b?$")
    ('^gpt%-%d+b?$', '^llama%-%d+b?$')
    """
    if not expression:
        raise UnsupportedError("is empty", remedy="to match any text, write {exists: true}")
    if len(expression) > MOST_CHARACTERS:
        remedy = f"write at most {MOST_CHARACTERS} characters"
        raise UnsupportedError("is too long", remedy=remedy)
    reader = _Reader(expression)
    patterns = tuple(dict.fromkeys(reader.alternatives()))
    if reader.rest:
        raise UnsupportedError("closes a group that is not open", remedy=r"write \) for the sign")
    for pattern in patterns:
        if _number_of("*+", pattern) > MOST_REPETITIONS:
            remedy = f"use * and + at most {MOST_REPETITIONS} times"
            raise UnsupportedError("repeats too much", remedy=remedy)
        if _number_of("?", pattern) > MOST_OPTIONS:
            remedy = f"use ? at most {MOST_OPTIONS} times"
            raise UnsupportedError("leaves too much open", remedy=remedy)
    return patterns


class _Reader:
    """Reads from left to right; what stands in a group is read by the same functions."""

    def __init__(self, expression: str) -> None:
        self.rest = expression
        self._depth = 0

    def alternatives(self) -> list[str]:
        found = self._sequence()
        while self.rest.startswith("|"):
            self._take()
            found += self._sequence()
            _bound(found)
        return found

    def _take(self) -> str:
        sign, self.rest = self.rest[0], self.rest[1:]
        return sign

    def _sequence(self) -> list[str]:
        found = [""]
        is_first = True
        while self.rest and self.rest[0] not in "|)":
            parts = self._item(is_first=is_first)
            found = [one + part for one in found for part in parts]
            _bound(found)
            is_first = False
        return found

    def _item(self, *, is_first: bool) -> list[str]:
        sign = self._take()
        if sign == "(":
            return self._group()
        if sign == "^":
            if not is_first or self._depth:
                raise UnsupportedError("has a ^ inside", remedy=r"write \^ for the sign")
            return ["^"]
        if sign == "$":
            if self._depth or (self.rest and self.rest[0] != "|"):
                raise UnsupportedError("has a $ inside", remedy=r"write \$ for the sign")
            return ["$"]
        if sign in _REPEATED:
            remedy = f"write \\{sign} for the sign"
            raise UnsupportedError(f"repeats nothing with {sign}", remedy=remedy)
        if sign == ".":
            return [self._repeated(".")]
        if sign == "[":
            return [self._repeated(self._set())]
        if sign == "\\":
            return [self._repeated(self._escaped(_CLASSES))]
        return [self._repeated(_literal(sign))]

    def _group(self) -> list[str]:
        if self.rest.startswith("?"):
            self.rest = self.rest.removeprefix("?:")
            if self.rest.startswith("?"):
                raise UnsupportedError("has a group that begins with (?", remedy="write (a|b)")
        self._depth += 1
        # A group in itself costs a level of calls.
        if self._depth > MOST_PATTERNS:
            raise UnsupportedError("has too many groups in one another", remedy="use fewer")
        found = self.alternatives()
        self._depth -= 1
        if not self.rest:
            raise UnsupportedError("does not close a group", remedy=r"write \( for the sign")
        self._take()
        if self.rest[:1] == "?":
            self._take()
            return [*found, ""]
        if self.rest[:1] in _REPEATED and self.rest:
            raise UnsupportedError("repeats a group", remedy="repeat single characters only")
        return found

    def _repeated(self, one: str) -> str:
        how = self.rest[:1]
        if not how or how not in _REPEATED:
            return one
        self._take()
        if how == "{" or self.rest[:1] in ("*", "+", "?", "{"):
            raise UnsupportedError("counts repetitions, or changes them", remedy="use * + or ?")
        if len(one.encode()) > len(one):
            remedy = "repeat letters of ASCII only"
            raise UnsupportedError("repeats a character beyond ASCII", remedy=remedy)
        return one + how

    def _escaped(self, classes: dict[str, str]) -> str:
        if not self.rest:
            raise UnsupportedError("ends with a backslash", remedy=r"write \\ for the sign")
        sign = self._take()
        if sign in classes:
            return classes[sign]
        if sign in _CONTROLS:
            return _CONTROLS[sign]
        if sign.isalnum():
            remedy = r"use \d \w \s, or the sign itself"
            raise UnsupportedError(f"has \\{sign}, which is not known here", remedy=remedy)
        return _literal(sign)

    def _set(self) -> str:
        content = ""
        if self.rest.startswith("^"):
            content = self._take()
        is_first = True
        while is_first or not self.rest.startswith("]"):
            if not self.rest:
                raise UnsupportedError("does not close a [", remedy=r"write \[ for the sign")
            before, low = self.rest, self._of_set()
            if self.rest.startswith("-") and self.rest[1:2] not in ("]", ""):
                self._take()
                high = self._of_set()
                if not (low.isalnum() and high.isalnum() and low <= high):
                    remedy = "write letters or digits, such as [a-z0-9]"
                    written = before.removesuffix(self.rest)
                    raise UnsupportedError(f"has the range {quote(written)}", remedy=remedy)
                content += f"{low}-{high}"
            else:
                content += low
            is_first = False
        self._take()
        return f"[{content}]"

    def _of_set(self) -> str:
        sign = self._take()
        found = self._escaped(_IN_SET) if sign == "\\" else _literal(sign)
        if not found.isascii():
            remedy = "write alternatives, (ä|ö)"
            raise UnsupportedError("has a character beyond ASCII in [ ]", remedy=remedy)
        return found


def _literal(sign: str) -> str:
    return f"%{sign}" if sign in _SPECIAL else sign


def _bound(found: list[str]) -> None:
    if len(found) > MOST_PATTERNS:
        remedy = f"write at most {MOST_PATTERNS} alternatives"
        raise UnsupportedError("has too many alternatives", remedy=remedy)


def _number_of(signs: str, pattern: str) -> int:
    """Return how many of these stand in a pattern with a meaning of their own."""
    number, at = 0, 0
    is_in_set = False
    while at < len(pattern):
        if pattern[at] == "%":
            at += 2
            continue
        is_in_set = (is_in_set or pattern[at] == "[") and pattern[at] != "]"
        number += not is_in_set and pattern[at] in signs
        at += 1
    return number
