"""What would come of a policy before it rules, and is it worse than the one that does?"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from tinyscheduler.adapters.policies_file import FilePolicies
from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.app.deploying import version_of
from tinyscheduler.app.policies import PLATFORM
from tinyscheduler.app.policy_loads import refusing_nonsense
from tinyscheduler.errors import (
    BusyError,
    NotFoundError,
    PolicyError,
    PolicyLateError,
    UsageError,
)
from tinyscheduler.simulator.forecast.figures import compare_starts, measure
from tinyscheduler.simulator.forecast.play import play
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tinyscheduler.model.config import Config
    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.ports import Policy
    from tinyscheduler.simulator.forecast.figures import Figures, Moves
    from tinyscheduler.simulator.forecast.load import Load
    from tinyscheduler.simulator.forecast.play import Contender, Course

ACTIVE = "active"
# Nobody waits for it, and the same must come of it on a busy machine.
_PATIENCE_MS = 10_000
_MOST_CPU_S = 3600
# A call may take so many times as long as in a tick: what is slow is told, and played all the same.
_SLACK = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What came of a load under a policy.

    ``slow`` is how many questions took longer than a tick would have waited: on this machine,
    and not a part of what is the same each time.  ``instead`` says why it is not the active
    policy that decided, though that was asked for.
    """

    course: Course
    figures: Figures
    slow: int = 0
    instead: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worsening:
    """A figure that is worse than it was by more than its bound allows.

    ``share`` is the change as a share of what it was; None where that was 0.
    """

    measure: str
    before: float
    after: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A candidate beside a baseline, on one load."""

    baseline: Forecast
    candidate: Forecast
    moves: Moves
    bounds: Mapping[str, float]
    worse: tuple[Worsening, ...]


class _Platform:
    """The platform policy decides."""

    name, version = PLATFORM, ""

    def find(self) -> Policy | None:
        """Return nothing: that is the built-in one."""
        return None


class OwnContender:
    """A policy of one's own, in one process, that has forgotten all with each tick."""

    def __init__(self, policy: ConfinedPolicy, cpu_ms: int) -> None:
        self._policy = policy
        self._cpu_ms = cpu_ms
        self._late: PolicyLateError | None = None
        self.name, self.version = policy.name, policy.version
        self.slow = 0

    def find(self) -> Policy | None:
        """Return it as the next tick finds it."""
        self.conclude()
        self._policy.forget()
        return self

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        """Ask it."""
        try:
            return self._policy.propose(context)
        except PolicyLateError as error:
            self._late = error
            raise

    def conclude(self) -> None:
        """Count the questions since the last tick that a tick would not have waited for.

        Raises BusyError where one had no time to be answered: on a machine that is less busy
        something else would come of it.
        """
        self.slow += sum((one.cpu_ms or 0.0) > self._cpu_ms for one in self._policy.calls)
        self._policy.calls.clear()
        if self._late is not None:
            raise _too_busy(self.name, self._late) from self._late


def _too_busy(name: str, error: PolicyLateError) -> BusyError:
    message = f"{name} cannot be tried on a machine so busy: {error.what}"
    return BusyError(message, hint="try again when less runs here")


def forecast(config: Config, load: Load, policy: str) -> Forecast:
    """Play the load under a policy: `platform`, `active`, a file, or the number of a version.

    An active one that cannot even be loaded decides nothing: what does instead is played.

    Raises NotFoundError or ConfigError where there is no such policy, PolicyError where it
    cannot even be loaded, and BusyError where this machine gives it no time.
    """
    with _contender(config, policy) as (contender, instead):
        course = _play(load, contender)
        slow = 0
        if isinstance(contender, OwnContender):
            contender.conclude()
            slow = contender.slow
    return Forecast(course=course, figures=measure(course), slow=slow, instead=instead)


def compare(
    config: Config, load: Load, candidate: str, *, against: str, bounds: Mapping[str, float]
) -> Difference:
    """Play the load under both, and say what gets worse by more than the bounds allow."""
    after = forecast(config, load, candidate)
    before = forecast(config, load, against)
    after = replace(after, figures=measure(after.course, beside=before.figures))
    return Difference(
        baseline=before,
        candidate=after,
        moves=compare_starts(before.course, after.course),
        bounds=bounds,
        worse=tuple(_find_worse(before.figures, after.figures, bounds)),
    )


def _play(load: Load, contender: Contender) -> Course:
    with refusing_nonsense() if load.kind == "snapshot" else nullcontext():
        return play(load, contender)


# -- policies -------------------------------------------------------------------------


@contextmanager
def _contender(config: Config, word: str) -> Iterator[tuple[Contender, str | None]]:
    """Start the policy that is meant; also say why it is another, if so."""
    policy, instead = _find(config, word), None
    try:
        if policy is not None:
            try:
                _load(policy)
            except PolicyError as error:
                if word != ACTIVE:
                    raise
                policy, instead = _last_good(config, but=policy.version), error.what
        yield (
            (_Platform() if policy is None else OwnContender(policy, config.policy.cpu_ms)),
            instead,
        )
    finally:
        if policy is not None:
            policy.close()


def _find(config: Config, word: str) -> ConfinedPolicy | None:
    if word == PLATFORM:
        return None
    if word == ACTIVE:
        return _active(config)
    if word.isdecimal() and word.isascii() and not os.path.exists(word):
        kept = version_of(FilePolicies(config.paths).versions(), int(word))
        return _patient(config, kept.path)
    if not os.path.exists(word):
        raise NotFoundError(
            f"there is no file {word}",
            hint="give the path of a policy, the number of a version, platform or active",
        )
    return _patient(config, os.path.abspath(word))


def _active(config: Config) -> ConfinedPolicy | None:
    """Return the one that decides now; None if that is the built-in one."""
    if config.policy.mode == PLATFORM:
        return None
    if config.policy.path is not None:
        return _patient(config, config.policy.path)
    deployed = FilePolicies(config.paths).active()
    return None if deployed is None else _patient(config, deployed.path, fault=deployed.fault)


def _last_good(config: Config, *, but: str) -> ConfinedPolicy | None:
    """Return the one that answered last, as ticks ask it then; None where there is no other."""
    kept = FilePolicies(config.paths).last_good()
    if kept is None or kept.fault is not None or kept.digest == but:
        return None
    policy = _patient(config, kept.path)
    try:
        policy.start()
    except PolicyError:
        return None
    return policy


def _patient(config: Config, path: str, *, fault: str | None = None) -> ConfinedPolicy:
    settings = replace(
        config.policy,
        path=path,
        cpu_ms=config.policy.cpu_ms * _SLACK,
        wall_ms=max(config.policy.wall_ms, _PATIENCE_MS),
    )
    return ConfinedPolicy(
        settings, base=config.paths.base, fault=fault, start_ms=_PATIENCE_MS, cpu_s=_MOST_CPU_S
    )


def _load(policy: ConfinedPolicy) -> None:
    """Raise PolicyError for one that no tick could even load."""
    try:
        policy.start()
    except PolicyLateError as error:
        raise _too_busy(policy.name, error) from error
    except PolicyError as error:
        hint = error.hint or "`tinyscheduler policy check FILE` says more"
        raise PolicyError(error.what, cause=error.cause, hint=hint) from error


# -- worse ----------------------------------------------------------------------------

# By how much each figure may get worse, as a share of what it was; what gets larger is worse.
DEFAULT_BOUNDS: Mapping[str, float] = {
    "wait_p50": 0.25,
    "wait_p95": 0.10,
    "wait_max": 0.25,
    "slowdown": 0.10,
    "starved": 0.0,
    "never_started": 0.0,
    "faults": 0.0,
    "slots_used": 0.05,
    "gpus_used": 0.05,
    "fairness_agents": 0.10,
    "fairness_tenants": 0.10,
}
# Of these less is worse.
_LESS_IS_WORSE = frozenset({"slots_used", "gpus_used", "fairness_agents", "fairness_tenants"})
# A change that is smaller than that is none, whatever share it is.
_LEAST = {
    "wait_p50": 30.0,
    "wait_p95": 30.0,
    "wait_max": 60.0,
    "slowdown": 0.1,
    "starved": 0.0,
    "never_started": 0.0,
    "faults": 0.0,
    "slots_used": 0.01,
    "gpus_used": 0.01,
    "fairness_agents": 0.01,
    "fairness_tenants": 0.01,
}


def values_of(figures: Figures) -> Mapping[str, float | None]:
    """Return the figures that have bounds, by their names.  Seconds, shares and counts."""
    return {
        "wait_p50": figures.waits.p50_s,
        "wait_p95": figures.waits.p95_s,
        "wait_max": figures.waits.max_s,
        "slowdown": figures.waits.slowdown,
        "starved": figures.starved,
        "never_started": figures.never_started,
        "faults": figures.faults,
        "slots_used": figures.slots_used,
        "gpus_used": figures.gpus_used,
        "fairness_agents": figures.fairness_agents,
        "fairness_tenants": figures.fairness_tenants,
    }


def bounds_of(given: Sequence[tuple[str, str]]) -> Mapping[str, float]:
    """Return the bounds, with those that were given as NAME and a percentage.

    Raises UsageError for an unknown name, and for what is no percentage from 0 on.
    """
    bounds = dict(DEFAULT_BOUNDS)
    for name, text in given:
        if name not in bounds:
            from tinyscheduler.config.problems import did_you_mean, quote

            raise UsageError(f"--bound {quote(name)} is no figure", hint=did_you_mean(name, bounds))
        bounds[name] = _percentage(name, text)
    return bounds


def _percentage(name: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(
            f"--bound {name}={text}: that is no percentage from 0 on",
            hint=f"write it as --bound {name}=10%",
        )
    return value


def _find_worse(
    before: Figures, after: Figures, bounds: Mapping[str, float]
) -> Iterator[Worsening]:
    old, new = values_of(before), values_of(after)
    for name, bound in bounds.items():
        was, now = old[name], new[name]
        if was is None or now is None:
            continue
        harm = was - now if name in _LESS_IS_WORSE else now - was
        if harm > max(bound * was, _LEAST[name]):
            yield Worsening(measure=name, before=was, after=now, bound=bound)
