"""How is a configuration remembered?  As JSON, beside the state it configures, for one key.

An entry answers for exactly the inputs it was made from: the key covers what every
command can see cheaply, ``watched`` the files and ``referenced`` the variables that only
became known by parsing.  The cache is a convenience: whatever is wrong with it, it is
ignored, and it never holds a value of the environment that agents receive.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from tinyscheduler.config.inputs import digest, digest_of_file, digest_of_variables
from tinyscheduler.files import own_temporary_for
from tinyscheduler.model.config import (
    AgentProfile,
    Config,
    Limits,
    OnExpire,
    Origin,
    Paths,
    StdinSource,
    Timing,
)
from tinyscheduler.values import asdict, dataclass
from tinyscheduler.values import fields as fields_of

CACHE_VERSION = 1
CACHE_NAME = "config-cache.json"

# A shell and cron rarely see the same environment; both find their entry here.
MAX_ENTRIES = 4

MAX_CACHE_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A configuration and what else must be unchanged for it to be still the right one.

    ``config`` has an empty ``environment``.  ``watched`` maps files to their digests,
    None for a file that was not there.  ``literals`` maps each variable of the env file
    that agents may receive to where its value stands in the file's bytes, None where it
    must be parsed.
    """

    config: Config
    watched: tuple[tuple[str, str | None], ...] = ()
    referenced: tuple[str, ...] = ()
    referenced_digest: str = ""
    literals: tuple[tuple[str, tuple[int, int] | None], ...] = ()


def recall(folder: str, key: str, environ: Mapping[str, str]) -> Resolution | None:
    """Return the resolution remembered under this key, if it still holds."""
    for entry in _entries(os.path.join(folder, CACHE_NAME)):
        if entry.get("key") != key:
            continue
        try:
            text = entry["resolution"]
            # A damaged disk must not pass for a setting.
            if digest(text.encode()) != entry["digest"]:
                return None
            found = decode(json.loads(text))
            return found if _still_holds(found, environ) else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
    return None


def remember(folder: str, key: str, resolution: Resolution, *, makes_folder: bool = False) -> None:
    """Keep a resolution for the next command, if that can be done without harm.

    Does nothing where the folder is read-only or of another user, or missing unless this
    ``makes_folder``: the next command should not pay for the first one's haste.
    """
    path = os.path.join(folder, CACHE_NAME)
    temporary = own_temporary_for(path)
    try:
        if makes_folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.stat(folder).st_uid != os.geteuid():
            return
        found = json.dumps(encode(resolution))
        entry = {"key": key, "digest": digest(found.encode()), "resolution": found}
        others = [other for other in _entries(path) if other.get("key") != key]
        text = json.dumps({"version": CACHE_VERSION, "entries": [entry, *others][:MAX_ENTRIES]})
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except OSError:
        # A full disk or a folder of someone else: the next command parses again.
        try:
            os.unlink(temporary)
        except OSError:
            return


def encode(resolution: Resolution) -> dict[str, Any]:
    """Return a resolution as JSON values, without the environment of agents."""
    found = asdict(resolution)
    del found["config"]["environment"]
    return found


def decode(fields: dict[str, Any]) -> Resolution:
    """Return the resolution that `encode` took apart.

    Names of a newer version are left out: after a downgrade ticks go on without them.
    Raises KeyError, TypeError, ValueError or AttributeError for anything else.
    """
    config = _known(Config, fields["config"])
    return Resolution(
        config=Config(
            **{
                **config,
                "paths": Paths(**_known(Paths, config["paths"])),
                "timing": Timing(**_known(Timing, config["timing"])),
                "limits": Limits(**_known(Limits, config["limits"])),
                "agents": tuple(_decode_agent(agent) for agent in config["agents"]),
                "sources": tuple(config["sources"]),
                "environment": (),
                "origins": tuple((name, Origin(origin)) for name, origin in config["origins"]),
                "warnings": tuple(config["warnings"]),
            }
        ),
        watched=tuple((path, found) for path, found in fields["watched"]),
        referenced=tuple(fields["referenced"]),
        referenced_digest=fields["referenced_digest"],
        literals=tuple((name, _decode_span(span)) for name, span in fields["literals"]),
    )


def _known(kind: type[Any], found: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields_of(kind)}
    return {name: value for name, value in found.items() if name in names}


def _decode_agent(fields: dict[str, Any]) -> AgentProfile:
    return AgentProfile(
        **{
            **_known(AgentProfile, fields),
            "command": tuple(fields["command"]),
            "environment": tuple(fields["environment"]),
            "stdin": StdinSource(fields["stdin"]),
            "on_expire": OnExpire(fields["on_expire"]),
        }
    )


def _decode_span(span: list[int] | None) -> tuple[int, int] | None:
    if span is None:
        return None
    start, end = span
    return start, end


def _still_holds(found: Resolution, environ: Mapping[str, str]) -> bool:
    if digest_of_variables(found.referenced, environ) != found.referenced_digest:
        return False
    return all(digest_of_file(path) == known for path, known in found.watched)


def _entries(path: str) -> list[dict[str, Any]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        found = os.fstat(descriptor)
        # Whoever can write this file decides what we run: it must be ours alone.
        writable_by_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_uid != os.geteuid()
            or writable_by_others
            or found.st_size > MAX_CACHE_BYTES
        ):
            return []
        content = json.loads(os.read(descriptor, found.st_size))
    except (OSError, ValueError, RecursionError):
        return []
    finally:
        os.close(descriptor)
    if not isinstance(content, dict) or content.get("version") != CACHE_VERSION:
        return []
    entries = content.get("entries")
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]
