"""How does a value of the model become JSON and come back, whatever fields it has?

Nothing is written down here about any class: what a field may hold is read off its
declaration, so a new field travels as soon as it is declared, and a document from before it
is still read, by its default.

- A value is an object of its fields; one that may be of several classes has a ``type``, too.
- A field at its default is left out where that says "nothing": None, no, 0 or empty.
- Times are RFC 3339 in UTC to the microsecond, tuples and sets lists, mappings objects, or
  lists of pairs where their keys are neither texts nor whole numbers.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType

from tinyscheduler.model.clock import format_exactly, parse_time
from tinyscheduler.model.documents import DocumentError
from tinyscheduler.values import MISSING, dataclass, field, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import Any, TypeVar

    Value = TypeVar("Value")
    _Encode = Callable[[Any, "Named"], Any]
    _Decode = Callable[[Any, str, "Reading"], Any]
    _Missing = Callable[[], object]

TAG = "type"
_NOTHING: tuple[object, ...] = (None, False, 0, "", (), frozenset(), {})
_PACKAGE = __name__.rpartition(".")[0]
# As `model.documents` has it: larger ones fit neither the kernel's numbers nor any column.
_MOST_INTEGER, _MOST_NUMBER = 2**63, 1e15
_LONGEST_KEY = 20  # of a whole number within these bounds

# By the id of an object that another document holds: the fields that name it there.
Named = Mapping[int, Mapping[str, object]]


@dataclass(slots=True, kw_only=True)
class Reading:
    """One document being read.

    ``named`` are the objects that it may name, by class and names.  ``unknown`` collects the
    places of fields that this version of the program has not.
    """

    named: Mapping[tuple[type, tuple[object, ...]], object] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


class Codec:
    """Writes and reads values by what their classes declare.

    ``stand_ins`` are fields that are not to be told, by class, each with what is read in its
    place; None stays None.  ``names`` are the fields that name an object of a class, which
    is all that is written of one that another document holds.
    """

    def __init__(
        self,
        *,
        stand_ins: Mapping[type, Mapping[str, object]] | None = None,
        names: Mapping[type, tuple[str, ...]] | None = None,
    ) -> None:
        self._stand_ins = stand_ins or {}
        self._names = names or {}
        self._writers: dict[type, tuple[tuple[str, _Encode | None, object, object], ...]] = {}
        self._readers: dict[type, tuple[tuple[str, _Decode, _Missing | None], ...]] = {}

    def encode(self, value: object, named: Named | None = None) -> dict[str, Any]:
        """Return a value of a declared class as a JSON object."""
        return self._encode(value, named or {})

    def decode(
        self, kind: type[Value], document: object, where: str, reading: Reading | None = None
    ) -> Value:
        """Read what `encode` wrote; DocumentError names the first place that is wrong.

        ``where`` is what messages call the whole.  Fields that this program has not are
        passed over, and noted in the ``reading``.
        """
        value: Value = self._decode(kind, document, where, reading or Reading())
        return value

    def names_of(self, value: object) -> dict[str, object]:
        """Return the fields that name this object."""
        return {name: getattr(value, name) for name in self._names[type(value)]}

    # -- writing ------------------------------------------------------------------

    def _encode(self, value: object, named: Named) -> dict[str, Any]:
        if named and id(value) in named:
            return dict(named[id(value)])
        kind = type(value)
        writers = self._writers.get(kind)
        if writers is None:
            writers = self._writers[kind] = tuple(self._make_writers(kind))
        document = {}
        for name, encode, left_out, stand_in in writers:
            content = getattr(value, name)
            if stand_in is not MISSING and content is not None:
                content = stand_in
            if content is left_out or (not content and content == left_out):
                continue
            document[name] = content if encode is None else encode(content, named)
        return document

    def _make_writers(self, kind: Any) -> Iterator[tuple[str, _Encode | None, object, object]]:  # noqa: ANN401 - a class of `values`
        stand_ins, declared = self._stand_ins.get(kind, {}), kind.__annotations__
        # Evaluating what is declared takes most of the time, and most fields hold nothing odd.
        others = {name for name, text in declared.items() if text not in _SIMPLE}
        hints = hints_of(kind, others)
        for one in fields(kind):
            stand_in = stand_ins.get(one.name, MISSING)
            missing = self._missing(kind, one)
            unsaid = MISSING if missing is None else missing()
            # What says something stays in the document: a default may change some day.
            left_out = unsaid if _is_nothing(unsaid) else MISSING
            text = declared[one.name]
            encode = self._encoder(hints[one.name]) if one.name in others else _SIMPLE[text]
            yield one.name, encode, left_out, stand_in

    def _encoder(self, hint: Any) -> _Encode | None:  # noqa: ANN401 - a type as it was declared
        """Return what makes JSON of such a content; None where it is JSON as it stands."""
        if isinstance(hint, UnionType):
            return self._union_encoder([one for one in hint.__args__ if one is not NoneType])
        origin, arguments = getattr(hint, "__origin__", None), getattr(hint, "__args__", ())
        if origin is tuple:
            return self._tuple_encoder(arguments)
        if origin is frozenset:
            return _sorted_list
        if origin is Mapping:
            return self._mapping_encoder(*arguments)
        if hint is datetime:
            return _format_time
        if hasattr(hint, "_fields"):
            return self._encode
        if hint in _PLAIN or issubclass(hint, StrEnum):
            return None
        raise TypeError(hint)

    def _union_encoder(self, members: list[Any]) -> _Encode | None:
        if len(members) > 1:
            tags = _tags(members)
            return lambda value, named: (
                None if value is None else {TAG: tags[type(value)], **self._encode(value, named)}
            )
        (encode,) = map(self._encoder, members)
        if encode is None:
            return None
        return lambda value, named: None if value is None else encode(value, named)

    def _tuple_encoder(self, arguments: tuple[Any, ...]) -> _Encode:
        kinds = arguments[:1] if arguments[1:] == (...,) else arguments
        encoders = [self._encoder(one) for one in kinds]
        if not any(encoders):
            return _list_of
        if arguments[1:] == (...,):
            encode = encoders[0] or _as_it_is
            return lambda values, named: [encode(one, named) for one in values]
        return lambda values, named: [
            one if encode is None else encode(one, named)
            for encode, one in zip(encoders, values, strict=True)
        ]

    def _mapping_encoder(self, key_kind: Any, value_kind: Any) -> _Encode:  # noqa: ANN401 - types as they were declared
        encode = self._encoder(value_kind) or _as_it_is
        if key_kind in (str, int) or _is_choice(key_kind):
            return lambda values, named: {
                str(key): encode(one, named) for key, one in values.items()
            }
        encode_key = self._encoder(key_kind) or _as_it_is
        return lambda values, named: [
            [encode_key(key, named), encode(one, named)] for key, one in values.items()
        ]

    # -- reading ------------------------------------------------------------------

    def _decode(self, kind: Any, document: Any, where: str, reading: Reading) -> Any:  # noqa: ANN401 - any class, any JSON
        if not isinstance(document, dict):
            raise _wrong(where, "an object", document)
        names = self._names.get(kind, ())
        if names and reading.named and document.keys() == set(names):
            return _find(kind, [document[name] for name in names], where, reading)
        readers = self._readers.get(kind)
        if readers is None:
            readers = self._readers[kind] = tuple(self._make_readers(kind))
        values = {}
        for name, decode, missing in readers:
            if name in document:
                values[name] = decode(document[name], f"{where}.{name}", reading)
            elif missing is not None:
                values[name] = missing()
            else:
                message = f"{where}.{name} is missing"
                raise DocumentError(message)
        reading.unknown += [f"{where}.{name}" for name in document if name not in values]
        return kind(**values)

    def _make_readers(self, kind: Any) -> Iterator[tuple[str, _Decode, _Missing | None]]:  # noqa: ANN401 - a class of `values`
        hints = hints_of(kind, kind.__annotations__)
        for one in fields(kind):
            yield one.name, self._decoder(hints[one.name]), self._missing(kind, one)

    def _missing(self, kind: type, one: Any) -> _Missing | None:  # noqa: ANN401 - a field of `values`
        """Return what makes the content of a field that a document has not; None if it must."""
        if one.default is not MISSING:
            return partial(_as_it_is, one.default)
        if one.default_factory is not MISSING:
            return one.default_factory  # type: ignore[no-any-return]  # what makes a default takes nothing
        stand_ins = self._stand_ins.get(kind, {})
        return partial(_as_it_is, stand_ins[one.name]) if one.name in stand_ins else None

    def _decoder(self, hint: Any) -> _Decode:  # noqa: ANN401 - a type as it was declared
        if isinstance(hint, UnionType):
            return self._union_decoder(hint.__args__)
        origin, arguments = getattr(hint, "__origin__", None), getattr(hint, "__args__", ())
        if origin is tuple:
            return self._tuple_decoder(arguments)
        if origin is frozenset:
            decode_all = self._tuple_decoder((*arguments, ...))
            return lambda document, where, reading: frozenset(decode_all(document, where, reading))
        if origin is Mapping:
            return self._mapping_decoder(*arguments)
        if hasattr(hint, "_fields"):
            return partial(self._decode, hint)
        return _PLAIN[hint] if hint in _PLAIN else partial(_read_choice, hint)

    def _union_decoder(self, arguments: tuple[Any, ...]) -> _Decode:
        members = [one for one in arguments if one is not NoneType]
        decode = self._decoder(members[0]) if len(members) == 1 else self._tagged(members)
        if NoneType not in arguments:
            return decode
        return lambda document, where, reading: (
            None if document is None else decode(document, where, reading)
        )

    def _tagged(self, members: list[Any]) -> _Decode:
        kinds = {tag: kind for kind, tag in _tags(members).items()}
        # A field that held one class once, and may hold several now, has no tag in it.
        first = next(iter(kinds))

        def decode(document: Any, where: str, reading: Reading) -> Any:  # noqa: ANN401 - any JSON, any class
            if not isinstance(document, dict):
                raise _wrong(where, "an object", document)
            tag = document.get(TAG, first)
            if not isinstance(tag, str) or tag not in kinds:
                raise _wrong(f"{where}.{TAG}", f"one of {', '.join(kinds)}", tag)
            rest = {name: one for name, one in document.items() if name != TAG}
            return self._decode(kinds[tag], rest, where, reading)

        return decode

    def _tuple_decoder(self, arguments: tuple[Any, ...]) -> _Decode:
        if arguments[1:] == (...,):
            decode = self._decoder(arguments[0])
            return lambda document, where, reading: tuple(
                [
                    decode(one, f"{where}[{number}]", reading)
                    for number, one in enumerate(_list(document, where))
                ]
            )
        decoders = [self._decoder(one) for one in arguments]

        def decode_each(document: Any, where: str, reading: Reading) -> Any:  # noqa: ANN401 - any JSON, any tuple
            if len(_list(document, where)) != len(decoders):
                raise _wrong(where, f"a list of {len(decoders)}", document)
            return tuple(
                decode(one, f"{where}[{number}]", reading)
                for number, (decode, one) in enumerate(zip(decoders, document, strict=True))
            )

        return decode_each

    def _mapping_decoder(self, key_kind: Any, value_kind: Any) -> _Decode:  # noqa: ANN401 - types as they were declared
        decode = self._decoder(value_kind)
        if key_kind is int:
            decode_key: _Decode = _read_number_key
        else:
            decode_key = self._decoder(key_kind)
        if key_kind not in (str, int) and not _is_choice(key_kind):
            pairs = self._tuple_decoder((tuple[key_kind, value_kind], ...))
            return lambda document, where, reading: dict(pairs(document, where, reading))

        def decode_all(document: Any, where: str, reading: Reading) -> Any:  # noqa: ANN401 - any JSON, any mapping
            if not isinstance(document, dict):
                raise _wrong(where, "an object", document)
            return {
                decode_key(key, where, reading): decode(one, f"{where}.{key}", reading)
                for key, one in document.items()
            }

        return decode_all


def _list_of(values: Iterable[Any], _named: object) -> list[Any]:
    return list(values)


def _as_it_is(value: object, _named: object = None) -> object:
    return value


# What can be written without looking further at its declaration.
_SIMPLE: Mapping[str, _Encode | None] = {
    **dict.fromkeys(("str", "int", "float", "bool", "str | None", "int | None", "float | None")),
    "tuple[str, ...]": _list_of,
}


def _is_nothing(value: object) -> bool:
    return any(type(value) is type(one) and value == one for one in _NOTHING)


def _is_choice(kind: Any) -> bool:  # noqa: ANN401 - a type as it was declared
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _sorted_list(values: Iterable[Any], _named: object) -> list[Any]:
    return sorted(values)


def _format_time(moment: datetime, _named: object) -> str:
    return format_exactly(moment)


def _tags(members: Iterable[Any]) -> dict[Any, str]:
    """Return how each class of a union is called: ``EndTree`` as ``end_tree``."""
    return {
        kind: "".join(
            f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__
        ).lstrip("_")
        for kind in members
        if fields(kind)
    }


def _find(kind: type, names: list[object], where: str, reading: Reading) -> object:
    # Nothing that names anything is a list: what cannot be looked up is none of them.
    key = (kind, tuple(str(one) for one in names))
    if key not in reading.named:
        raise _wrong(where, "named in the snapshot", names)
    return reading.named[key]


# -- JSON's own values -------------------------------------------------------------


def _wrong(where: str, words: str, found: object) -> DocumentError:
    return DocumentError(f"{where} should be {words}, not {reprlib.repr(found)}")


def _list(document: object, where: str) -> list[Any]:
    if not isinstance(document, list):
        raise _wrong(where, "a list", document)
    return document


def _read_text(document: object, where: str, _reading: Reading) -> str:
    if not isinstance(document, str):
        raise _wrong(where, "a text", document)
    return document


def _read_switch(document: object, where: str, _reading: Reading) -> bool:
    if not isinstance(document, bool):
        raise _wrong(where, "true or false", document)
    return document


def _read_integer(document: object, where: str, _reading: Reading) -> int:
    if isinstance(document, bool) or not isinstance(document, int):
        raise _wrong(where, "an integer", document)
    if not -_MOST_INTEGER <= document < _MOST_INTEGER:
        raise _wrong(where, "an integer of 64 bits", document)
    return document


def _read_number(document: object, where: str, _reading: Reading) -> float:
    if isinstance(document, bool) or not isinstance(document, int | float):
        raise _wrong(where, "a number", document)
    if not abs(document) < _MOST_NUMBER:  # refuses NaN too
        raise _wrong(where, "a finite number", document)
    return document


def _read_time(document: object, where: str, reading: Reading) -> datetime:
    try:
        return parse_time(_read_text(document, where, reading))
    except ValueError as error:
        raise _wrong(where, "a time", document) from error


def _read_choice(kind: type[StrEnum], document: object, where: str, reading: Reading) -> StrEnum:
    try:
        return kind(_read_text(document, where, reading))
    except ValueError as error:
        raise _wrong(where, f"one of {', '.join(kind)}", document) from error


def _read_number_key(document: str, where: str, reading: Reading) -> int:
    digits = document.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < _LONGEST_KEY):
        raise _wrong(where, "an object with whole numbers as keys", document)
    return _read_integer(int(document), where, reading)


_PLAIN: Mapping[Any, _Decode] = {
    str: _read_text,
    bool: _read_switch,
    int: _read_integer,
    float: _read_number,
    datetime: _read_time,
}


# -- declarations -------------------------------------------------------------------


def hints_of(kind: type, names: Collection[str]) -> dict[str, Any]:
    """Return the declared type of each of these fields.

    What a declaration speaks of is looked up in its own module, then in all of the model, for
    most of it is imported for type checkers alone.
    """
    declared = {name: text for name, text in kind.__annotations__.items() if name in names}
    own = vars(sys.modules[kind.__module__])
    try:
        return _evaluate(declared, own)
    except NameError:
        # Of a class that nobody here has met yet, which hardly ever is a tick.
        from importlib import import_module
        from pkgutil import iter_modules

        package = sys.modules[_PACKAGE]
        for module in iter_modules(package.__path__, f"{_PACKAGE}."):
            import_module(module.name)
        _vocabulary.cache_clear()
        return _evaluate(declared, own)


@cache
def _vocabulary() -> dict[str, Any]:
    found: dict[str, Any] = {"datetime": datetime, "Mapping": Mapping}
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_PACKAGE}."):
            found.update(vars(module))
    return found


def _evaluate(declared: Mapping[str, str], own: Mapping[str, Any]) -> dict[str, Any]:
    text = "".join(f"{one}," for one in declared.values())
    # Our own source: a declaration is an expression, and is made to be evaluated.
    hints = eval(f"({text})", _vocabulary(), own)  # noqa: S307 - as said above
    return dict(zip(declared, hints, strict=True))
