"""``policy deploy``, ``rollback``, ``versions``, ``show V``: which policy decides from now on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.policy_checked import checked_json, checked_lines
from tinyscheduler.cli.render import (
    emit,
    emit_bytes,
    emit_json,
    escape,
    format_table,
)
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, UsageError
from tinyscheduler.model.clock import format_time

if TYPE_CHECKING:
    from tinyscheduler.app.deploying import Deployment
    from tinyscheduler.app.forecasting import Difference
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.cli.policy_forecast import ForecastOptions
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.versions import KeptPolicy

_MOST_DIGITS = 9
_MODE_ADVICE = (
    "POLICY_MODE is platform, so the platform policy decides: "
    "set TINYSCHEDULER_POLICY_MODE to home or lab"
)


def version_number(text: str) -> int:
    """Read the number of a version; UsageError for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise UsageError(
            f"{quote(text)} is not the number of a version",
            hint="`tinyscheduler policy versions` lists them",
        )
    return int(text)


def deploy(
    invocation: Invocation,
    file: str,
    *,
    is_forced: bool,
    gate: ForecastOptions | None,
    is_json: bool,
) -> int:
    """Deploy a policy, or say why not."""
    from tinyscheduler.app.deploying import deploy

    config = invocation.configure_writing()
    ask = None
    if gate is not None:
        from tinyscheduler.cli.policy_forecast import judge

        def ask() -> Difference:
            return judge(config, file, gate)

    done = deploy(config, file, despite_warnings=is_forced, judge=ask)
    assert done.checked is not None  # noqa: S101 - nothing is deployed unchecked
    if is_json:
        emit_json(
            is_deployed=done.kept is not None,
            is_changed=done.is_changed,
            **_kept_json(done.kept),
            mode=config.policy.mode,
            check=checked_json(done.checked),
            **_judged_json(done.judged),
        )
    else:
        for line in (*checked_lines(done.checked), *_judged_lines(invocation, done.judged)):
            emit(line)
    if done.judged is not None:
        from tinyscheduler.cli.policy_forecast import note

        note(
            invocation,
            done.judged.candidate.course.load,
            done.judged.candidate,
            done.judged.baseline,
        )
    if done.kept is None:
        if not is_json:
            invocation.fail(f"{file} is not deployed", hint=_advice(done))
        return EXIT_FAILED
    if not is_json:
        is_now = "is active from the next tick on" if done.is_changed else "is active already"
        _answer(invocation, done, is_now)
    _warn(invocation, config, done)
    return EXIT_DONE


def _advice(done: Deployment) -> str:
    assert done.checked is not None  # noqa: S101 - nothing is deployed unchecked
    if done.judged is not None:
        return "mend it, or allow more with --bound FIGURE=PCT; without --gate nobody compares"
    return "mend it and try again" if not done.checked.is_usable else "--force deploys it"


def _judged_lines(invocation: Invocation, judged: Difference | None) -> list[str]:
    if judged is None:
        return []
    from tinyscheduler.cli.policy_forecast import difference_lines

    return ["", *difference_lines(judged, invocation.page)]


def _judged_json(judged: Difference | None) -> dict[str, Any]:
    if judged is None:
        return {}
    from tinyscheduler.cli.policy_forecast import difference_json

    return {"gate": difference_json(judged, with_tasks=False)}


def roll_back(invocation: Invocation, number: str | None, *, is_json: bool) -> int:
    """Go back to an earlier version."""
    from tinyscheduler.app.deploying import roll_back

    wanted = None if number is None else version_number(number)
    config = invocation.configure_changing()
    done = roll_back(config, wanted)
    if is_json:
        emit_json(is_changed=done.is_changed, **_kept_json(done.kept), mode=config.policy.mode)
    else:
        is_now = "is active again from the next tick on" if done.is_changed else "is active already"
        _answer(invocation, done, is_now)
    _warn(invocation, config, done)
    return EXIT_DONE


def list_versions(invocation: Invocation, *, is_json: bool) -> int:
    """List what is kept, the newest first."""
    from tinyscheduler.adapters.policies_file import FilePolicies

    config = invocation.configure_reading()
    policies = FilePolicies(config.paths)
    versions, active, good = policies.versions(), policies.active(), policies.last_good()
    if is_json:
        emit_json(
            versions=[
                {
                    **_kept_json(one),
                    "is_active": active is not None and one.path == active.path,
                    "is_last_good": _is_good(one, good),
                    "fault": one.fault,
                }
                for one in versions
            ],
            active=None if active is None else active.number,
            mode=config.policy.mode,
        )
    elif not versions and active is None:
        invocation.note("no policy was deployed yet: `tinyscheduler policy deploy FILE`")
    elif versions:
        rows = [_fields(one, active, good) for one in versions]
        head = ("VERSION", "NAME", "HASH", "DEPLOYED", "STATE")
        emit("\n".join(format_table(head, rows, invocation.page)))
    if active is not None and active.fault is not None:
        invocation.warn(f"what is active cannot be loaded: {active.fault}")
    if versions:
        _advise(invocation, config)
    return EXIT_DONE


def show_version(invocation: Invocation, number: str, *, is_json: bool) -> int:
    """Print the source of a version as it was deployed."""
    from tinyscheduler.adapters.policies_file import FilePolicies
    from tinyscheduler.app.deploying import version_of

    wanted = version_number(number)
    config = invocation.configure_reading()
    kept = version_of(FilePolicies(config.paths).versions(), wanted)
    if is_json:
        emit_json(**_kept_json(kept), source=kept.source.decode(errors="replace"))
    elif sys.stdout.isatty():
        text = kept.source.decode(errors="backslashreplace").removesuffix("\n")
        lines = [escape(line.removesuffix("\r").expandtabs(4)) for line in text.split("\n")]
        emit("\n".join(lines))
    else:
        emit_bytes(kept.source)
    return EXIT_DONE


def deployed_json(active: KeptPolicy | None) -> dict[str, Any] | None:
    """Return which version is active, for `policy show`."""
    return None if active is None else {**_kept_json(active), "fault": active.fault}


def deployed_line(active: KeptPolicy) -> str:
    """Say which version is active, for `policy show`."""
    if active.fault is not None:
        what = "nothing" if active.number is None else f"version {active.number}, but nothing"
        return f"deployed: {what} that can be loaded"
    return f"deployed: version {active.number}, {escape(active.name)}, {_when(active)}"


def _answer(invocation: Invocation, done: Deployment, is_now: str) -> None:
    kept = done.kept
    assert kept is not None  # noqa: S101 - what was refused was told before
    invocation.answer(f"version {kept.number} ({escape(kept.name)}, {kept.digest}) {is_now}")


def _warn(invocation: Invocation, config: Config, done: Deployment) -> None:
    for words in done.warnings:
        invocation.warn(words)
    _advise(invocation, config)


def _advise(invocation: Invocation, config: Config) -> None:
    """Say if none of what is deployed decides."""
    if config.policy.mode == "platform":
        invocation.warn(_MODE_ADVICE)
    elif config.policy.path is not None:
        invocation.warn(f"TINYSCHEDULER_POLICY_FILE is set, so that decides: {config.policy.path}")


def _fields(one: KeptPolicy, active: KeptPolicy | None, good: KeptPolicy | None) -> tuple[str, ...]:
    states = []
    if active is not None and one.path == active.path:
        states.append("active")
    if _is_good(one, good):
        states.append("last good")
    if one.fault is not None:
        return (str(one.number), "-", "-", "-", ", ".join([*states, one.fault]))
    state = ", ".join(states) or "-"
    return (str(one.number), one.name, one.digest, _when(one), state)


def _is_good(one: KeptPolicy, good: KeptPolicy | None) -> bool:
    is_sound = good is not None and good.fault is None and one.fault is None
    return is_sound and good is not None and one.digest == good.digest


def _when(one: KeptPolicy) -> str:
    return "-" if one.created is None else format_time(one.created)


def _kept_json(one: KeptPolicy | None) -> dict[str, Any]:
    if one is None or one.fault is not None:
        number = None if one is None else one.number
        return {"version": number, "name": None, "hash": None, "created_at": None}
    return {
        "version": one.number,
        "name": one.name,
        "hash": one.digest,
        "created_at": _when(one),
    }
