"""Our values behave as `dataclasses` would make them, as far as anybody here relies on it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from tinyscheduler.values import asdict, copier, dataclass, field, fields, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """A place."""

    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    ends: tuple[Point, ...]
    names: dict[str, Point]


@dataclass(slots=True, kw_only=True)
class Counter:
    count: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Identity:
    count: int = 0


def test_defaults_are_filled_in_and_factories_make_a_new_one_each_time():
    first, second = Point(x=1), Point(x=1)

    assert (first.x, first.y, first.tags, first.total) == (1, 2, [], 3)
    assert first.tags is not second.tags


def test_it_looks_like_the_standard_one():
    assert repr(Point(x=1)) == repr(Standard(x=1)).replace("Standard", "Point")
    assert [one.name for one in fields(Point)] == [one.name for one in dataclasses.fields(Standard)]
    assert Point.__doc__ == "A place."


@pytest.mark.parametrize("values", [{}, {"x": 1, "z": 2}, {"y": 1}])
def test_a_field_that_is_missing_or_unknown_is_named(values: dict[str, Any]):
    with pytest.raises(TypeError, match=r"Point: unknown or missing: [xz]"):
        Point(**values)


def test_equal_fields_make_equal_values_of_one_class_only():
    assert Point(x=1) == Point(x=1)
    assert Point(x=1) != Point(x=2)
    other: object = Standard(x=1)
    assert Point(x=1) != other
    assert Counter() == Counter()
    assert Identity() != Identity()


def test_frozen_values_can_be_keys_and_others_cannot():
    line = Line(ends=(), names={})
    frozen = replace(line, names=())  # type: ignore[arg-type]  # something that can be a key

    assert {frozen: 1}[replace(frozen)] == 1
    with pytest.raises(TypeError):
        hash(Counter())


def test_frozen_values_cannot_be_changed_and_others_can():
    point: Any = Point(x=1)
    with pytest.raises(AttributeError, match=r"Point\.x is frozen"):
        point.x = 2
    with pytest.raises(AttributeError):
        del point.x
    counter = Counter()
    counter.count += 1
    assert counter.count == 1


def test_no_name_can_be_invented():
    counter: Any = Counter()
    with pytest.raises(AttributeError):
        counter.cuont = 1


def test_replacing_changes_the_copy_alone_and_refuses_what_is_no_field():
    point = Point(x=1)

    assert replace(point, y=5) == Point(x=1, y=5)
    assert point.y == 2
    with pytest.raises(TypeError, match="z"):
        replace(point, z=1)  # type: ignore[call-arg]  # it is told twice: here, and at run time


def test_a_copier_varies_one_field_as_replacing_it_would():
    point = Point(x=1, tags=["a"])

    copy_with = copier(point, "x")

    assert [copy_with(2), copy_with(1)] == [replace(point, x=2), point]
    assert copy_with(2).tags is point.tags
    with pytest.raises(AttributeError):
        copier(point, "z")


def test_as_a_dictionary_values_inside_values_are_taken_apart():
    line = Line(ends=(Point(x=1), Point(x=2)), names={"a": Point(x=3)})

    assert asdict(line) == {
        "ends": ({"x": 1, "y": 2, "tags": []}, {"x": 2, "y": 2, "tags": []}),
        "names": {"a": {"x": 3, "y": 2, "tags": []}},
    }


def test_copies_and_pickles_come_back_equal():
    point = Point(x=1, tags=["a"])

    assert copy.deepcopy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point  # noqa: S301 - our own bytes


def test_a_pattern_matches_by_name():
    match Point(x=7):
        case Point(x=7, y=found):
            assert found == 2
        case _:
            pytest.fail("it should match")
