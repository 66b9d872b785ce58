"""What is a value here?  A class declared as with `dataclasses`, at a twentieth of its price.

The standard decorator writes six methods as text and compiles them, 0.6 ms a class, again
at every start: for the sixty classes of a tick more than a bare interpreter takes.  These
share a handful of methods that read the list of fields instead.  To a type checker they
*are* the standard ones.

Left out is what nobody here uses: positional arguments, order, inheritance of fields,
`InitVar`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import MISSING, asdict, dataclass, field, fields, replace
    from typing import Any, TypeVar, assert_never

    _Value = TypeVar("_Value")

    __all__ = [
        "MISSING",
        "asdict",
        "assert_never",
        "copier",
        "dataclass",
        "field",
        "fields",
        "replace",
    ]

    def copier(value: _Value, name: str) -> Callable[[Any], _Value]:
        """Return what makes copies of a value that differ in one field, for thousands of them."""

else:
    _put = object.__setattr__

    class _Missing:
        """The default of a field that has none."""

        def __repr__(self):
            return "MISSING"

    MISSING = _Missing()

    class FrozenInstanceError(AttributeError):
        """Somebody tried to change a frozen value."""

    class Field:
        """One field: its name and what it is unless said otherwise."""

        __slots__ = ("default", "default_factory", "name")

        def __init__(self, *, default=MISSING, default_factory=MISSING):
            self.name = ""
            self.default = default
            self.default_factory = default_factory

    def field(*, default=MISSING, default_factory=MISSING):
        """Describe a field whose default is made anew for each value."""
        return Field(default=default, default_factory=default_factory)

    def dataclass(*, frozen=False, slots, kw_only, eq=True):
        """Make a class of the annotated names in the class body, as `dataclasses` does."""
        del slots, kw_only  # always so; written out for who reads, and for the type checker

        def make(cls):
            namespace = dict(cls.__dict__)
            found = []
            for name in namespace.get("__annotations__", {}):
                default = namespace.pop(name, MISSING)
                one = default if isinstance(default, Field) else Field(default=default)
                one.name = name
                found.append(one)
            for name in ("__dict__", "__weakref__"):
                namespace.pop(name, None)
            names = tuple(one.name for one in found)
            namespace.update(
                __slots__=names,
                __match_args__=(),
                _fields=tuple(found),
                _names=frozenset(names),
                _number=len(names),
                _defaults={one.name: one.default for one in found if one.default is not MISSING},
                _factories=tuple(one for one in found if one.default_factory is not MISSING),
                __init__=_init,
                __repr__=namespace.get("__repr__", _repr),
                __getstate__=_state_of,
                __setstate__=_restore,
            )
            if eq:
                namespace.update(__eq__=_eq, __hash__=_hash if frozen else None)
            if frozen:
                namespace.update(__setattr__=_refuse, __delattr__=_refuse)
            return type(cls)(cls.__name__, cls.__bases__, namespace)

        return make

    def fields(value):
        """Return the fields of a value or of its class, in the order of their declaration."""
        return value._fields

    def replace(value, /, **changes):
        """Return a copy with some fields changed; TypeError for a name that is no field."""
        return type(value)(
            **{**{one.name: getattr(value, one.name) for one in value._fields}, **changes}
        )

    def copier(value, name):
        """Return what makes copies of a value that differ in one field, for thousands of them."""
        made_by, cls = object.__new__, type(value)
        vary = getattr(cls, name).__set__
        rest = [
            (getattr(cls, one.name).__set__, getattr(value, one.name))
            for one in value._fields
            if one.name != name
        ]

        def copy(varying):
            made = made_by(cls)
            vary(made, varying)
            for put, each in rest:
                put(made, each)
            return made

        return copy

    def assert_never(value):
        """Say that no value comes here, which type checkers prove; `typing` takes long to load."""
        raise AssertionError(f"expected code to be unreachable, but got: {value!r}")

    def asdict(value):
        """Return a value as plain containers, values inside it included."""
        if hasattr(value, "_fields") and hasattr(value, "_names"):
            return {one.name: asdict(getattr(value, one.name)) for one in value._fields}
        if isinstance(value, dict):
            return {asdict(key): asdict(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(asdict(each) for each in value)
        return value

    def _init(self, **values):
        if len(values) != self._number:
            values = _completed(self, values)
        try:
            for name, value in values.items():
                _put(self, name, value)
        except AttributeError:
            # As many as there are fields, and one of them is none.
            _completed(self, values)
            raise

    def _completed(self, values):
        complete = {**self._defaults, **values}
        for one in self._factories:
            if one.name not in complete:
                complete[one.name] = one.default_factory()
        if complete.keys() != self._names:
            wrong = sorted(complete.keys() ^ self._names)
            raise TypeError(f"{type(self).__name__}: unknown or missing: {', '.join(wrong)}")
        return complete

    def _values(self):
        return tuple([getattr(self, one.name) for one in self._fields])

    def _eq(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        return _values(self) == _values(other)

    def _hash(self):
        return hash(_values(self))

    def _repr(self):
        inside = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in self._fields)
        return f"{type(self).__qualname__}({inside})"

    def _refuse(self, name, *_):
        raise FrozenInstanceError(f"{type(self).__name__}.{name} is frozen")

    def _state_of(self):
        return _values(self)

    def _restore(self, state):
        for one, value in zip(self._fields, state, strict=True):
            _put(self, one.name, value)
