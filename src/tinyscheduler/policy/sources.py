"""The Lua that comes with the program, as text."""

from __future__ import annotations

import os

PLATFORM_NAME = "platform.lua"
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def read_platform() -> bytes:
    """Return the source of the platform policy."""
    return read_source(PLATFORM_NAME)


def read_source(name: str) -> bytes:
    """Return one of the files beside this one."""
    with open(os.path.join(_FOLDER, name), "rb") as stream:
        return stream.read()
