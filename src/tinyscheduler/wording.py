"""How are names and values put into messages: which was meant, and safe to print?"""

from __future__ import annotations

from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MEANT = "did you mean"
_LONGEST_QUOTE = 80


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the fix for a misspelt name: the nearest known one, or all of them."""
    candidates = sorted(known)
    nearest = nearest_name(name, candidates, likeness=0.6)
    if nearest is not None:
        return f"{MEANT} {nearest}?"
    return "known names: " + ", ".join(candidates)


def nearest_name(name: str, known: Iterable[str], *, likeness: float) -> str | None:
    """Return the known name that is most like this one, from 0 to 1, if any is so much."""
    # Commands that meet no mistake do not pay for this.
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=likeness)), None)


def quote(value: object) -> str:
    """Return a value for a message: quoted, printable, and never longer than a line."""
    text = literal(value)
    text = (
        text.encode("ascii", "backslashreplace").decode("ascii") if not text.isprintable() else text
    )
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."


def one_line(text: str, *, longest: int) -> str:
    r"""Return a text as one short line for tables: terminals would obey control characters.

    >>> one_line(" two\n words \x1b[1m", longest=20), one_line("too long", longest=4)
    ('two words \\x1b[1m', 'too…')
    """
    line = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in " ".join(text[: longest * 4].split())
    )
    return line if len(line) <= longest else line[: longest - 1] + "…"


def literal(value: object) -> str:
    r"""Return a value as Python writes it, and a text that is not UTF-8 as its bytes (PEP 383).

    >>> literal("ü"), literal("\udcff bytes")
    ("'ü'", "'\\xff bytes'")
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            with suppress(UnicodeEncodeError):  # a surrogate that is no byte
                return repr(value.encode(errors="surrogateescape")).removeprefix("b")
    return repr(value)
