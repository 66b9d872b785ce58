"""How is a configuration remembered?  As JSON, beside the state it configures, for one key.

An entry answers for exactly the inputs it was made from: the key covers what every
command can see cheaply, ``watched`` the files and ``referenced`` the variables that only
became known by parsing.  The cache is a convenience: whatever is wrong with it, it is
ignored, and it never holds a value of the environment that agents receive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from tinyscheduler.config.inputs import digest, digest_of_file, digest_of_variables
from tinyscheduler.files import own_temporary_for
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.model.budgets import Budget
from tinyscheduler.model.config import (
    AgentProfile,
    Config,
    FairShare,
    Host,
    Inventory,
    Limits,
    ModelMatch,
    ModelPlace,
    OnExpire,
    Origin,
    Paths,
    PolicySettings,
    Quota,
    StdinSource,
    Timing,
)
from tinyscheduler.values import asdict, dataclass
from tinyscheduler.values import fields as fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tinyscheduler.model.profiles import OutcomeRule, Profile

CACHE_VERSION = 5
CACHE_NAME = "config-cache.json"

# A shell and cron rarely see the same environment; both find their entry here.
MAX_ENTRIES = 4

MAX_CACHE_BYTES = 8 * 2**20

# What `decode` makes of something else than a resolution.  Deep nesting that can just be
# parsed is too deep for an error that would quote it.
NOT_DECODED = (AttributeError, KeyError, TypeError, ValueError, RecursionError)

# A century: no duration is longer, and no calendar ends within it.
_MOST_S = 36_525 * 86_400.0


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
            found = decode(loads(text))
            return found if _still_holds(found, environ) else None
        except NOT_DECODED:
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
        found = dumps(encode(resolution))
        entry = {"key": key, "digest": digest(found.encode()), "resolution": found}
        others = [other for other in _entries(path) if other.get("key") != key]
        text = dumps({"version": CACHE_VERSION, "entries": [entry, *others][:MAX_ENTRIES]})
        if len(text) > MAX_CACHE_BYTES:
            return  # nobody would read it
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
    Raises one of `NOT_DECODED` for anything else.
    """
    config = _known(Config, fields["config"])
    return Resolution(
        config=Config(
            **{
                **config,
                "paths": _decode_paths(config["paths"]),
                "timing": Timing(**_known(Timing, config["timing"])),
                "limits": _decode_limits(config["limits"]),
                "agents": tuple(_decode_agent(agent) for agent in config["agents"]),
                "inventory": _decode_inventory(config["inventory"])
                if "inventory" in config
                else Inventory(),
                "policy": PolicySettings(**_known(PolicySettings, config.get("policy", {}))),
                "sources": tuple(config["sources"]),
                # Settings that an earlier version saved do not have it.
                "pressure_sources": tuple(config.get("pressure_sources", ())),
                "profiles": tuple(map(_decode_profile, config.get("profiles", ()))),
                "environment": (),
                "origins": tuple(
                    (_text(name), Origin(origin)) for name, origin in config["origins"]
                ),
                "warnings": tuple(config["warnings"]),
            }
        ),
        watched=tuple((path, found) for path, found in fields["watched"]),
        referenced=tuple(fields["referenced"]),
        referenced_digest=fields["referenced_digest"],
        literals=tuple((name, _decode_span(span)) for name, span in fields["literals"]),
    )


def _known(kind: type[Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that this version knows, each checked against its declaration.

    JSON has no infinity, but Python reads and writes it; one that was believed would end
    the tick far from here.  What is made of fields itself is checked by who decodes it.
    """
    known = {one.name: found[one.name] for one in fields_of(kind) if one.name in found}
    for name, value in known.items():
        declared = kind.__annotations__[name]
        fits = _FITS.get(declared.removesuffix(" | None"))
        is_left_out = value is None and declared.endswith(" | None")
        if fits is not None and not is_left_out and not fits(value):
            message = f"{name} is no {declared}"
            raise ValueError(message)
    return known


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_integer(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MOST_S  # refuses NaN too


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(map(_is_text, values))


_FITS: dict[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "bool": lambda value: isinstance(value, bool),
    "int": _is_integer,
    "float": _is_number,
    "tuple[str, ...]": _are_texts,
}


def _text(value: object) -> str:
    if not _is_text(value):
        message = "a name is no text"
        raise ValueError(message)
    return str(value)


def _decode_paths(fields: dict[str, Any]) -> Paths:
    known = _known(Paths, fields)
    if any("\0" in path for path in known.values()):
        message = "a path holds the character that ends it"
        raise ValueError(message)
    return Paths(**known)


def _decode_limits(fields: dict[str, Any]) -> Limits:
    known = _known(Limits, fields)
    # Settings that an earlier version saved do not have it.
    return Limits(**{**known, "fair_share": FairShare(known.get("fair_share", FairShare.OFF))})


def _decode_agent(fields: dict[str, Any]) -> AgentProfile:
    return AgentProfile(
        **{
            **_known(AgentProfile, fields),
            "command": tuple(fields["command"]),
            "environment": tuple(fields["environment"]),
            "stdin": StdinSource(fields["stdin"]),
            "on_expire": OnExpire(fields["on_expire"]),
            # Settings that an earlier version saved do not have it.
            "model_match": ModelMatch(fields.get("model_match", ModelMatch.REQUIRED)),
        }
    )


def _decode_profile(fields: dict[str, Any]) -> Profile:
    from tinyscheduler.model.profiles import Profile  # few have one of their own

    return Profile(
        **{
            **_known(Profile, fields),
            "command": tuple(fields["command"]),
            "environment": tuple(fields["environment"]),
            "stdin": StdinSource(fields["stdin"]),
            "tells": tuple((_text(name), _text(path)) for name, path in fields["tells"]),
            "outcomes": tuple(map(_decode_rule, fields["outcomes"])),
        }
    )


def _decode_rule(fields: dict[str, Any]) -> OutcomeRule:
    from tinyscheduler.model.profiles import OutcomeRule  # as above

    codes, lines = fields["exit_codes"], fields["last_lines"]
    return OutcomeRule(
        then=_text(fields["then"]),
        say=None if fields["say"] is None else _text(fields["say"]),
        exit_codes=None if codes is None else tuple(map(int, codes)),
        json=tuple((_text(path), tuple(values)) for path, values in fields["json"]),
        last_lines=None if lines is None else tuple(map(_text, lines)),
    )


def _decode_inventory(fields: dict[str, Any]) -> Inventory:
    return Inventory(
        hosts=tuple(Host(**_known(Host, one)) for one in fields["hosts"]),
        models=tuple(ModelPlace(**_known(ModelPlace, one)) for one in fields["models"]),
        queues=tuple(Quota(**_known(Quota, one)) for one in fields["queues"]),
        tenants=tuple(Quota(**_known(Quota, one)) for one in fields["tenants"]),
        # Settings that an earlier version saved do not have it.
        budgets=tuple(Budget(**_known(Budget, one)) for one in fields.get("budgets", ())),
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
        content = loads(os.read(descriptor, found.st_size))
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
