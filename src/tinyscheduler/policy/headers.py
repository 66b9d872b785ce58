"""The comment that heads a kept policy: what it is called, which version it is, and its hash."""

from __future__ import annotations

import re
from hashlib import sha256

from tinyscheduler.model.clock import format_time, parse_time
from tinyscheduler.policy.compiled import is_compiled
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

LUA, YAML = ".lua", ".yaml"
_MARKS = {LUA: "--", YAML: "#"}
_LONGEST_NAME = 100
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEADER = re.compile(
    rb"(--|#) Policy: ([^\r\n]*)\n"
    rb"(?:\1 Version: ([1-9][0-9]{0,8})\n)?"
    rb"\1 Created: ([0-9TZ:.+-]+)\n"
    rb"\1 Hash: ([0-9a-f]+)\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the comment says.  A copy of a file that was never deployed has no number."""

    name: str
    number: int | None
    created: datetime
    digest: str


def suffix_of(path: str) -> str:
    """Return how the name of a kept copy ends: by its language.

    >>> suffix_of("/srv/Mine.YML"), suffix_of("mine.lua"), suffix_of("mine")
    ('.yaml', '.lua', '.lua')
    """
    return YAML if is_compiled(path) else LUA


def digest_of(content: bytes) -> str:
    r"""Return the hash of a policy: with or without the comment it is the same.

    >>> header = b"-- Policy: a\n-- Created: 2026-03-02T00:00:00Z\n-- Hash: 0f\n"
    >>> digest_of(header + b"x = 1") == digest_of(b"x = 1")
    True
    """
    return sha256(body_of(content)).hexdigest()[:16]


def body_of(content: bytes) -> bytes:
    """Return a policy without the comment, and without a mark of its byte order."""
    content, start = content.removeprefix(_BYTE_ORDER_MARK), 0
    # Below one comment there may be another: of a copy of a copy.
    while (found := _HEADER.match(content, start)) is not None:
        start = found.end()
    return content[start:]


def with_header(
    body: bytes, *, suffix: str, name: str, number: int | None, created: datetime
) -> bytes:
    """Return a policy below the comment that `read_header` reads."""
    mark = _MARKS[suffix]
    lines = [f"Policy: {_on_one_line(name)}"]
    lines += [f"Version: {number}"] if number is not None else []
    lines += [f"Created: {format_time(created)}", f"Hash: {digest_of(body)}"]
    return "".join(f"{mark} {line}\n" for line in lines).encode() + body


def read_header(content: bytes) -> Header | None:
    """Return what the comment says; None if there is none."""
    found = _HEADER.match(content)
    if found is None:
        return None
    try:
        created = parse_time(found[4].decode())
    except ValueError:
        return None
    return Header(
        name=found[2].decode(errors="replace"),
        number=None if found[3] is None else int(found[3]),
        created=created,
        digest=found[5].decode(),
    )


def _on_one_line(name: str) -> str:
    """Return a name of which nothing gets out of the comment."""
    safe = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in name
    )
    return safe[:_LONGEST_NAME]
