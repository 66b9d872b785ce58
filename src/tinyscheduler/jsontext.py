"""JSON as the standard library's module has it, without the price of loading that.

`json` brings regular expressions and enumerations along, which takes a third of a bare
interpreter's start.  Its C parts do the work here; what they do not make of a text at once,
`json` itself is asked about, so that its faults are told in its words.
"""

from __future__ import annotations

from _json import (
    encode_basestring,
    encode_basestring_ascii,
    make_encoder,
    make_scanner,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


class _Syntax:
    """How the scanner is to read: as `json.loads` does."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner's own, empty between texts


_scan = make_scanner(_Syntax())  # type: ignore[arg-type]  # it wants this context


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Read a document as `json.loads` does; ValueError if it is none."""
    try:
        whole = (text if isinstance(text, str) else text.decode()).strip(_SPACE)
        value, end = _scan(whole, 0)
        if end == len(whole):
            return value
    except (StopIteration, SystemError, ValueError):
        # The second where it would name the place, in words of a module not loaded here.
        pass
    import json

    return json.loads(text)


def dumps(
    value: object,
    *,
    ensure_ascii: bool = True,
    allow_nan: bool = True,
    separators: tuple[str, str] = (", ", ": "),
) -> str:
    """Write a value as `json.dumps` does; TypeError for what is none of JSON."""
    between, behind_key = separators
    encode = make_encoder(
        markers={},
        default=_refuse,
        encoder=encode_basestring_ascii if ensure_ascii else encode_basestring,
        indent=None,
        key_separator=behind_key,
        item_separator=between,
        sort_keys=False,
        skipkeys=False,
        allow_nan=allow_nan,
    )
    return "".join(encode(value, 0))


def _refuse(value: object) -> None:
    message = f"Object of type {type(value).__name__} is not JSON serializable"
    raise TypeError(message)
