"""The Lua that comes with the program, as text: what it runs, and what others start from."""

from __future__ import annotations

import os
from functools import cache

PLATFORM_NAME = "platform.lua"
PLATFORM_TEMPLATE = "platform"
# What the fixtures of a policy are called, after its own name without .lua.
FIXTURES = ".test.yaml"
_ABOVE_PLATFORM = b"-- What the platform policy decides, to be changed at will.\n--\n"
_FOLDER = os.path.dirname(os.path.abspath(__file__))
_TEMPLATES = os.path.join(_FOLDER, "templates")


def read_platform() -> bytes:
    """Return the source of the platform policy."""
    return read_source(PLATFORM_NAME)


def template_names() -> tuple[str, ...]:
    """Return what the policies to start from are called; the platform's own is one."""
    found = (name.removesuffix(".lua") for name in os.listdir(_TEMPLATES) if name.endswith(".lua"))
    return tuple(sorted({PLATFORM_TEMPLATE, *found}))


def read_template(name: str) -> bytes:
    """Return the source of one of `template_names`."""
    if name == PLATFORM_TEMPLATE:
        # One text, so that it never differs from what decides.
        return _ABOVE_PLATFORM + read_platform()
    return read_source(os.path.join(_TEMPLATES, f"{name}.lua"))


def read_template_fixtures(name: str) -> bytes:
    """Return the fixtures of one of `template_names`, which it passes."""
    return read_source(os.path.join(_TEMPLATES, f"{name}{FIXTURES}"))


def describe_template(name: str) -> str:
    """Return what a template is for, in the one sentence that it begins with."""
    return read_template(name).decode().partition("\n")[0].removeprefix("-- ")


@cache
def read_source(name: str) -> bytes:
    """Return one of the files beside this one; who may open none any more gets it again."""
    with open(os.path.join(_FOLDER, name), "rb") as stream:
        return stream.read()
