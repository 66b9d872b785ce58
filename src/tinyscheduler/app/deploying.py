"""The life of a policy: deployed, active, rolled back, forgotten."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.policies_file import FilePolicies
from tinyscheduler.app.place import make_state_folder, refuse_foreign_state
from tinyscheduler.app.policies import check_policy
from tinyscheduler.app.queue import observers_of
from tinyscheduler.errors import BusyError, ConfigError, NotFoundError, StoreError, UsageError
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.policy.headers import body_of, digest_of, suffix_of, with_header
from tinyscheduler.policy.limits import LuaLimits
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tinyscheduler.app.forecasting import Difference
    from tinyscheduler.app.policies import Checked
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.versions import KeptPolicy

# How long a person's command waits for another one that deploys.
_PATIENCE_S = 10.0
_LOOK_S = 0.02
_VARIABLE = "TINYSCHEDULER_POLICY_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is active now, what was before, and what was left undone.

    Nothing is ``kept`` where the policy was refused; it is not ``changed`` where it was active
    already.  ``judged`` is how it compares with the active one, where that was asked.
    """

    kept: KeptPolicy | None
    before: KeptPolicy | None = None
    is_changed: bool = False
    checked: Checked | None = None
    judged: Difference | None = None
    warnings: tuple[str, ...] = ()


def deploy(
    config: Config,
    path: str,
    *,
    despite_warnings: bool,
    judge: Callable[[], Difference] | None = None,
) -> Deployment:
    """Check a policy as a tick would load it, keep it, and make it the active one.

    It is refused, too, where one who is asked to ``judge`` finds that anything gets worse.
    Raises ConfigError where POLICY_FILE is set, and NotFoundError, UsageError, BusyError or
    StoreError with what was active still active.
    """
    _refuse_unread(config)
    source = _read(path)
    checked = check_policy(config, path)
    if not checked.is_usable or (checked.findings and not despite_warnings):
        return Deployment(kept=None, checked=checked)
    compared_with = FilePolicies(config.paths).active()
    judged = None if judge is None else judge()
    if judged is not None and judged.worse:
        return Deployment(kept=None, checked=checked, judged=judged)
    if _read(path) != source:
        raise BusyError(f"{path} was changed while it was checked", hint="try again")
    clock, name, suffix = SystemClock(), os.path.basename(path), suffix_of(path)
    with _locked(config, clock) as policies:
        before = policies.active()
        if judged is not None and _path_of(before) != _path_of(compared_with):
            raise BusyError(
                "another policy was made the active one while this one was compared with it",
                hint="try again",
            )
        if before is not None and _is_same(before, source, suffix):
            return Deployment(kept=before, before=before, checked=checked, judged=judged)
        kept = policies.keep(source, suffix=suffix, name=name, at=clock.now().wall)
        try:
            policies.activate(kept)
        except StoreError:
            policies.discard(kept)
            raise
        warnings = _make_room(policies)
        _announce(config, clock, kept, reason="deploy")
    return Deployment(
        kept=kept,
        before=before,
        is_changed=True,
        checked=checked,
        judged=judged,
        warnings=warnings,
    )


def roll_back(config: Config, number: int | None) -> Deployment:
    """Make a version the active one again: the one before the active one, or that of a number.

    Raises ConfigError where POLICY_FILE is set or that version is damaged, NotFoundError where
    there is none.
    """
    _refuse_unread(config)
    if not os.path.isdir(os.path.join(config.paths.state, "policies")):
        raise _none_before(None)
    clock = SystemClock()
    with _locked(config, clock) as policies:
        before, versions = policies.active(), policies.versions()
        passed: Sequence[KeptPolicy] = ()
        if number is not None:
            kept = version_of(versions, number)
        else:
            kept, passed = _before(before, versions)
        warnings = tuple(f"passed over: {one.fault}" for one in passed)
        if before is not None and before.fault is None and before.path == kept.path:
            return Deployment(kept=kept, before=before, warnings=warnings)
        policies.activate(kept)
        _announce(config, clock, kept, reason="rollback")
    return Deployment(kept=kept, before=before, is_changed=True, warnings=warnings)


def version_of(versions: Sequence[KeptPolicy], number: int) -> KeptPolicy:
    """Return the version of that number; NotFoundError if there is none, ConfigError if damaged."""
    found = next((one for one in versions if one.number == number), None)
    if found is None:
        raise NotFoundError(
            f"there is no version {number}", hint="`tinyscheduler policy versions` lists them"
        )
    if found.fault is not None:
        raise ConfigError(
            found.fault, hint="deploy the policy anew; `tinyscheduler policy versions` lists others"
        )
    return found


def _before(
    active: KeptPolicy | None, versions: Sequence[KeptPolicy]
) -> tuple[KeptPolicy, Sequence[KeptPolicy]]:
    """Return the last sound version before the active one, and those between that are not."""
    if active is None:
        raise _none_before(None)
    if active.number is None:
        raise ConfigError(
            str(active.fault), hint="say to which version: `tinyscheduler policy rollback V`"
        )
    earlier = [one for one in versions if one.number is not None and one.number < active.number]
    sound = next((one for one in earlier if one.fault is None), None)
    if sound is None:
        raise _none_before(active.number)
    return sound, earlier[: earlier.index(sound)]


def _none_before(number: int | None) -> NotFoundError:
    what = "no policy is deployed" if number is None else f"there is no version before {number}"
    return NotFoundError(what, hint="`tinyscheduler policy versions` lists what there is")


def _refuse_unread(config: Config) -> None:
    """Raise ConfigError where nobody would read what is deployed."""
    if config.policy.path is not None:
        raise ConfigError(
            f"it is set to {config.policy.path}, and that decides, whatever is deployed",
            where=_VARIABLE,
            hint=f"edit that file, or unset {_VARIABLE} to deploy policies",
        )


def _read(path: str) -> bytes:
    """Return the policy, if what is kept of it can be loaded."""
    most = LuaLimits().source_bytes
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:
            source = stream.read(most + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}", hint="give the path of a policy") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {path}: {reason}", hint="name a file") from error
    longest = with_header(
        body_of(source),
        suffix=suffix_of(path),
        name=os.path.basename(path),
        number=10**9 - 1,
        created=SystemClock().now().wall,
    )
    if len(longest) > most:
        raise UsageError(
            f"{path} has more than the {most} bytes that a policy may have, with what heads it",
            hint="make it shorter",
        )
    return source


def _path_of(kept: KeptPolicy | None) -> str | None:
    return None if kept is None else kept.path


def _is_same(kept: KeptPolicy, source: bytes, suffix: str) -> bool:
    is_sound = kept.fault is None and kept.path.endswith(suffix)
    return is_sound and kept.digest == digest_of(source)


def _make_room(policies: FilePolicies) -> tuple[str, ...]:
    try:
        policies.make_room()
    except StoreError as error:
        return (f"an old version could not be removed: {error.what}",)
    return ()


def _announce(config: Config, clock: SystemClock, kept: KeptPolicy, *, reason: str) -> None:
    assert kept.number is not None  # noqa: S101 - only versions are made active
    event = Event(
        at=clock.now().wall,
        name=EventName.POLICY_DEPLOYED,
        reason=reason,
        details=(("policy", kept.name), ("version", kept.number), ("hash", kept.digest)),
    )
    for observer in observers_of(config):
        observer.notice(event)


@contextmanager
def _locked(config: Config, clock: SystemClock) -> Iterator[FilePolicies]:
    """Keep out all others who deploy; BusyError if one takes long."""
    refuse_foreign_state(config)
    os.umask(0o077)
    make_state_folder(config)
    policies = FilePolicies(config.paths)
    until_ns = clock.now().monotonic_ns + int(_PATIENCE_S * 1e9)
    while not policies.try_lock():
        if clock.now().monotonic_ns >= until_ns:
            raise BusyError("somebody else deploys a policy", hint="try again in a minute")
        clock.sleep(_LOOK_S)
    try:
        yield policies
    finally:
        policies.unlock()
