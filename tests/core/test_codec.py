"""Values come back from JSON as they were, whatever fields their classes have."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, no_type_check

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW
from tests.contract.places import importing

from tinyscheduler.model.codec import Codec, Reading, hints_of
from tinyscheduler.model.documents import DocumentError
from tinyscheduler.model.plan import Plan
from tinyscheduler.model.snapshot import Snapshot
from tinyscheduler.values import MISSING, dataclass, field, fields, replace


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LongLine:
    ends: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One of everything that a field may hold."""

    name: str
    size: float = 1.5
    color: Color = Color.RED
    at: datetime | None = None
    is_old: bool = False
    is_new: bool = True
    shape: Point | LongLine | None = None
    corner: Point = Point(x=0)
    pair: tuple[str, int] = ("", 0)
    corners: tuple[tuple[Point, str], ...] = ()
    seen: frozenset[str] = frozenset()
    by_name: Mapping[str, Point] = field(default_factory=dict)
    by_number: Mapping[int, str | None] = field(default_factory=dict)
    by_color: Mapping[Color, int] = field(default_factory=dict)
    by_pair: Mapping[tuple[str, int], Point] = field(default_factory=dict)
    notes: tuple[str, ...] | None = ()


CODEC = Codec()
some_zones = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=3),
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    float: st.floats(-1e14, 1e14) | st.integers(-5, 5),
    datetime: st.datetimes(timezones=some_zones).filter(lambda moment: 1 < moment.year < 9999),
}


@no_type_check
def anything(hint: Any) -> st.SearchStrategy[Any]:
    """Return whatever a field that is declared so may hold."""
    if hint is NoneType:
        return st.none()
    if isinstance(hint, UnionType):
        return st.one_of([anything(one) for one in hint.__args__])
    origin, arguments = getattr(hint, "__origin__", None), getattr(hint, "__args__", ())
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(anything(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(anything, arguments))
    if origin is frozenset:
        return st.frozensets(anything(arguments[0]), max_size=2)
    if origin is Mapping:
        return st.dictionaries(*map(anything, arguments), max_size=2)
    if hint in PLAIN:
        return PLAIN[hint]
    return st.sampled_from(hint) if issubclass(hint, StrEnum) else some(hint)


@no_type_check
def some(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a declared class, each field of it at its default or anything else."""
    hints = hints_of(kind, kind.__annotations__)

    def contents(one: Any) -> st.SearchStrategy[Any]:
        return anything(hints[one.name])

    needed = {one.name: contents(one) for one in fields(kind) if not has_default(one)}
    others = {one.name: contents(one) for one in fields(kind) if has_default(one)}
    return st.fixed_dictionaries(needed, optional=others).map(lambda values: kind(**values))


def has_default(one: Any) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def through_json(value: Any, codec: Codec = CODEC, **more: Any) -> Any:
    document = json.loads(json.dumps(codec.encode(value), allow_nan=False))
    return codec.decode(type(value), document, "it", **more)


@pytest.mark.parametrize("kind", [Picture, Snapshot, Plan])
def test_whatever_a_value_holds_it_comes_back_equal_and_of_the_same_kinds(kind):
    @given(some(kind))
    def comes_back(value):
        reading = Reading()

        back = through_json(value, reading=reading)

        assert back == value
        assert kinds_in(back) == kinds_in(value)
        assert reading.unknown == []

    comes_back()


def kinds_in(value: Any) -> Any:
    """Return the classes of all that is in a value, times aside: they come back in UTC."""
    if hasattr(value, "_fields"):
        return type(value), [kinds_in(getattr(value, one.name)) for one in fields(value)]
    if isinstance(value, Mapping):
        return dict, {key: (type(key), kinds_in(one)) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple, [kinds_in(one) for one in value]
    # What is declared as a text comes back as one, and may have been a choice by default.
    return str if isinstance(value, str) else type(value)


def test_a_time_comes_back_to_the_microsecond_and_in_utc():
    moment = datetime(2026, 7, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))

    document = CODEC.encode(Picture(name="", at=moment))
    back = CODEC.decode(Picture, document, "it")

    assert document["at"] == "2026-07-01T10:00:00.000001Z"
    assert back.at is not None
    assert (back.at, back.at.tzinfo) == (moment, UTC)


def test_what_says_nothing_is_left_out_and_any_other_default_is_written():
    assert CODEC.encode(Picture(name="")) == {
        "name": "",
        "size": 1.5,
        "color": "red",
        "is_new": True,
        "corner": {"x": 0},
        "pair": ["", 0],
    }


def test_none_where_the_default_is_another_nothing_is_told_apart():
    assert CODEC.encode(Picture(name="", notes=None))["notes"] is None
    assert through_json(Picture(name="", notes=None)).notes is None


def test_each_kind_of_field_is_written_as_people_would_write_it():
    picture = Picture(
        name="p",
        shape=LongLine(ends=(Point(x=1, y=2),)),
        corners=((Point(x=1), "a"),),
        seen=frozenset({"b", "a"}),
        by_name={"a": Point(x=1)},
        by_number={-7: None},
        by_color={Color.BLUE: 1},
        by_pair={("a", 1): Point(x=1)},
    )

    document = json.loads(json.dumps(CODEC.encode(picture)))

    assert type(CODEC.decode(Picture, document, "it").color) is Color
    assert document["shape"] == {"type": "long_line", "ends": [{"x": 1, "y": 2}]}
    assert document["corners"] == [[{"x": 1}, "a"]]
    assert document["seen"] == ["a", "b"]
    assert document["by_name"] == {"a": {"x": 1}}
    assert document["by_number"] == {"-7": None}
    assert document["by_color"] == {"blue": 1}
    assert document["by_pair"] == [[["a", 1], {"x": 1}]]


# -- documents of other versions ----------------------------------------------------


def test_a_field_that_a_document_has_not_gets_its_default():
    back = CODEC.decode(Picture, {"name": "old"}, "it")

    assert back == Picture(name="old")


def test_a_field_that_may_hold_several_classes_now_held_the_first_of_them_once():
    back = CODEC.decode(Picture, {"name": "old", "shape": {"x": 1}}, "it")

    assert back.shape == Point(x=1)


def test_a_field_that_this_version_has_not_is_passed_over_and_noted():
    reading = Reading()
    document = {"name": "new", "weight": 3, "corners": [[{"x": 1, "z": 2}, "a"]]}

    back = CODEC.decode(Picture, document, "it", reading)

    assert back == Picture(name="new", corners=((Point(x=1), "a"),))
    assert sorted(reading.unknown) == ["it.corners[0][0].z", "it.weight"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (7, "it should be an object, not 7"),
        ({}, "it.name is missing"),
        ({"name": 7}, "it.name should be a text, not 7"),
        ({"name": None}, "it.name should be a text, not None"),
        ({"size": "7"}, "it.size should be a number, not '7'"),
        ({"size": True}, "it.size should be a number, not True"),
        ({"size": float("nan")}, "it.size should be a finite number, not nan"),
        ({"size": 1e16}, "it.size should be a finite number, not 1e+16"),
        ({"is_old": 0}, "it.is_old should be true or false, not 0"),
        ({"color": "green"}, "it.color should be one of red, blue, not 'green'"),
        ({"color": ["red"]}, "it.color should be a text, not ['red']"),
        ({"at": "noon"}, "it.at should be a time, not 'noon'"),
        ({"at": "2026-01-01T00:00:00"}, "it.at should be a time, not '2026-01-01T00:00:00'"),
        ({"shape": [1]}, "it.shape should be an object, not [1]"),
        (
            {"shape": {"type": "circle"}},
            "it.shape.type should be one of point, long_line, not 'circle'",
        ),
        ({"shape": {"type": {}}}, "it.shape.type should be one of point, long_line, not {}"),
        ({"shape": {"type": "point"}}, "it.shape.x is missing"),
        ({"corner": {"x": 1.0}}, "it.corner.x should be an integer, not 1.0"),
        ({"corner": {"x": False}}, "it.corner.x should be an integer, not False"),
        ({"corner": {"x": 2**63}}, f"it.corner.x should be an integer of 64 bits, not {2**63}"),
        ({"pair": ["a"]}, "it.pair should be a list of 2, not ['a']"),
        ({"pair": "ab"}, "it.pair should be a list, not 'ab'"),
        ({"corners": {}}, "it.corners should be a list, not {}"),
        ({"seen": [1]}, "it.seen[0] should be a text, not 1"),
        ({"by_name": []}, "it.by_name should be an object, not []"),
        ({"by_name": {"a": 1}}, "it.by_name.a should be an object, not 1"),
        (
            {"by_number": {"x": "y"}},
            "it.by_number should be an object with whole numbers as keys, not 'x'",
        ),
        (
            {"by_number": {"9" * 5000: "y"}},
            (
                "it.by_number should be an object with whole numbers as keys,"
                " not '999999999999...9999999999999'"
            ),
        ),
        ({"by_color": {"x": 1}}, "it.by_color should be one of red, blue, not 'x'"),
        ({"by_pair": [[["a"], {}]]}, "it.by_pair[0][0] should be a list of 2, not ['a']"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(document, words):
    if isinstance(document, dict) and document:
        document = {"name": "", **document}

    with pytest.raises(DocumentError) as caught:
        CODEC.decode(Picture, document, "it")

    assert str(caught.value) == words


# -- what is not to be told, and what is named ---------------------------------------


def test_what_is_not_to_be_told_is_read_as_what_stands_in_for_it():
    codec = Codec(stand_ins={Picture: {"name": "", "notes": ("left out",), "at": NOW.wall}})
    picture = Picture(name="secret", notes=("secret",), at=None)

    document = codec.encode(picture)

    assert "secret" not in json.dumps(document)
    assert codec.decode(Picture, document, "it") == replace(picture, name="", notes=("left out",))


def test_a_field_that_every_value_has_and_no_document_tells_is_not_in_it():
    codec = Codec(stand_ins={Point: {"x": 0}})

    assert codec.encode(Point(x=7)) == {}
    assert codec.decode(Point, {}, "it") == Point(x=0)


def test_what_another_document_holds_is_only_named():
    codec = Codec(names={Point: ("x",)})
    known, other = Point(x=1, y=2), Point(x=1, y=3)
    line = LongLine(ends=(known, other))
    reading = Reading(named={(Point, ("1",)): known})

    document = codec.encode(line, {id(known): codec.names_of(known)})

    assert document == {"ends": [{"x": 1}, {"x": 1, "y": 3}]}
    assert codec.decode(LongLine, document, "it", reading) == line


def test_a_name_that_nothing_bears_is_wrong():
    codec = Codec(names={Point: ("x",)})
    reading = Reading(named={(Point, ("1",)): Point(x=1)})

    with pytest.raises(DocumentError, match=r"it\.ends\[0\] should be named in the snapshot"):
        codec.decode(LongLine, {"ends": [{"x": 7}]}, "it", reading)


# -- declarations ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    numbers: list[int]


def test_a_declaration_that_nobody_thought_of_is_refused_at_once():
    with pytest.raises(TypeError, match="list"):
        CODEC.encode(Odd(numbers=[1]))


def test_what_a_declaration_speaks_of_is_found_though_nobody_has_loaded_it():
    program = (
        "import sys; from tinyscheduler.model.codec import hints_of;"
        "from tinyscheduler.model.snapshot import Snapshot;"
        "assert 'tinyscheduler.model.switches' not in sys.modules;"
        "print(hints_of(Snapshot, ['switches', 'agents']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "tinyscheduler.model.switches.Switch" in done.stdout
    assert "tinyscheduler.model.config.AgentProfile" in done.stdout
