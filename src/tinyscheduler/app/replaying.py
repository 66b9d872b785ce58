"""Deciding again what ticks decided, and looking at what is kept of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tinyscheduler import __version__
from tinyscheduler.config.problems import quote
from tinyscheduler.core.decide import decide
from tinyscheduler.core.replay import compare
from tinyscheduler.errors import NotFoundError, PolicyError, TinySchedulerError
from tinyscheduler.model.rounds import Round, redact
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.tick import utc_offset_s
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tinyscheduler.adapters.policy_confined import ConfinedPolicy
    from tinyscheduler.core.replay import Difference
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.ports import Policy
    from tinyscheduler.tick import Foresight

# What deciding may end with on something that no tick ever saw, such as a weight of 0.
UNDECIDABLE = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)
PLATFORM = PlatformPolicy.name
# Nobody waits for it: what it took then is not judged again.
_PATIENCE_MS, _CPU_MS = 10_000, 1000


class PolicyGoneError(NotFoundError):
    """The version of a policy that decided then cannot be found any more."""

    def __init__(self, what: str, *, missing: str, hint: str) -> None:
        """Say what is ``missing`` also apart from the round, for others may miss the same."""
        super().__init__(what, hint=hint)
        self.missing = missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A round, and where what is decided now differs from it.

    ``policy`` is which one decided now, ``version`` a digest of its source, None of the built-in
    one.  Where nobody had to be asked, both are None.  ``notes`` are sentences on what that is
    worth.
    """

    round: Round
    policy: str | None
    version: str | None
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether the same plan was derived."""
        return not self.differences


def replay(one: Round, policy: Policy | None = None) -> Replay:
    """Decide again on what was seen then, with this policy: the platform's unless one is given.

    Raises TinySchedulerError, which names the round, if that cannot be done.
    """
    policy = PlatformPolicy() if policy is None else policy
    try:
        plan = decide(one.snapshot, policy)
    except PolicyError as error:
        where = "" if error.what.startswith(f"{policy.name}:") else f"policy {policy.name}: "
        raise TinySchedulerError(
            f"{_named(one)} cannot be decided again: {where}{error.what}",
            hint=error.hint or "if it answered then, its answer depends on more than it is told",
        ) from error
    except UNDECIDABLE as error:
        cause = f"{type(error).__name__}: {error}"
        raise TinySchedulerError(
            f"{_named(one)} cannot be decided again: {cause}",
            hint="if nobody changed its document this is a bug: please send it in",
        ) from error
    # What is not told of the plan then is not told of the one now.
    derived = redact(replace(one, plan=plan)).plan
    return Replay(
        round=one,
        policy=policy.name or None,
        version=policy.version or None,
        differences=compare(one.plan, derived),
    )


class Replayer:
    """Decides rounds again, each by the very policy that decided it, or all by another.

    One of one's own is started afresh for each tick, as it was then.
    """

    def __init__(self, configure: Callable[[], Config], *, wanted: str | None = None) -> None:
        """Take what tells where policies are, and, unless each its own, which one is ``wanted``.

        That is `PLATFORM` or the path of a policy; NotFoundError if there is no such file.  Whoever
        tells is asked whenever a policy is looked for.
        """
        if wanted not in (None, PLATFORM) and not os.path.exists(wanted):
            raise NotFoundError(
                f"there is no file {quote(wanted)}",
                hint=f"give the path of a policy, or {PLATFORM}",
            )
        self._configure = configure
        self._wanted = wanted
        self._started: tuple[tuple[object, ...], ConfinedPolicy] | None = None

    def replay(self, one: Round) -> Replay:
        """Decide again.

        Raises PolicyGoneError if the version that decided cannot be found, TinySchedulerError if
        it cannot be done otherwise.
        """
        by, wanted = one.decided_by, self._wanted
        is_by_platform = by.version is None and by.name == PLATFORM
        if wanted == PLATFORM or (wanted is None and is_by_platform):
            return replay(one)
        done = replay(one, _Sought(lambda: self._find(one)))
        return replace(done, notes=tuple(self._notes(done)))

    def close(self) -> None:
        """End the process of the policy that was asked last, if there is one."""
        if self._started is not None:
            self._started[1].close()
            self._started = None

    # -- parts --------------------------------------------------------------------

    def _notes(self, done: Replay) -> Iterator[str]:
        by = done.round.decided_by
        if done.policy is None:
            return
        if by.version is None and self._wanted is not None:
            yield "titles and labels are not on record here: the policy was told of none"
        elif by.version is None:
            yield f"which version of {by.name} decided is not on record: the platform decides again"
        if done.differences and done.version is not None and done.version == by.version:
            yield (
                "it is the same policy: an answer that depends on more than what it is told, such"
                " as os.clock or a count of its own, is not given again"
            )

    def _find(self, one: Round) -> Policy:
        by = one.decided_by
        if self._wanted is None and by.version is None:
            return PlatformPolicy()
        # Questions of one tick share what the policy remembers; those of two share nothing.
        key = (one.tick_id, by.version, one.utc_offset_s)
        if self._started is None or self._started[0] != key:
            self.close()
            if self._wanted is None:
                policy = self._find_version(one)
            else:
                policy = self._policy_at(os.path.abspath(self._wanted), one)
            self._started = (key, policy)
        return self._started[1]

    def _find_version(self, one: Round) -> ConfinedPolicy:
        version = one.decided_by.version
        for path in self._paths_of(version):
            policy = self._policy_at(path, one)
            if policy.version == version:
                return policy
        raise self._gone(one)

    def _paths_of(self, version: str | None) -> Iterator[str]:
        """Yield where that version may be: in the file that is set, and in what is kept."""
        from tinyscheduler.adapters.policies_file import FilePolicies

        config = self._configure()
        if config.policy.path is not None:
            yield config.policy.path
        policies = FilePolicies(config.paths)
        last_good = policies.last_good()
        kept = [*policies.versions(), *([] if last_good is None else [last_good])]
        yield from (one.path for one in kept if one.fault is None and one.digest == version)

    def _policy_at(self, path: str, one: Round) -> ConfinedPolicy:
        from tinyscheduler.adapters.policy_confined import ConfinedPolicy
        from tinyscheduler.policy.artefacts import artefacts_of

        config = self._configure()
        settings = replace(
            config.policy,
            path=path,
            cpu_ms=max(config.policy.cpu_ms, _CPU_MS),
            wall_ms=max(config.policy.wall_ms, _PATIENCE_MS),
        )
        return ConfinedPolicy(
            settings,
            base=config.paths.base,
            artefacts=artefacts_of(config.paths, may_write=False),
            start_ms=_PATIENCE_MS,
            utc_offset_s=one.utc_offset_s,
        )

    def _gone(self, one: Round) -> PolicyGoneError:
        by, path = one.decided_by, self._configure().policy.path
        what = f"version {by.version} of {by.name} is not kept any more"
        if path is not None:
            now = self._policy_at(path, one)
            if now.name == by.name:
                what += f", the file holds version {now.version} by now"
        return PolicyGoneError(
            f"{_named(one)} cannot be decided again: {what}",
            missing=what,
            hint="`--policy FILE` decides again by a file, and `--policy platform` by the platform"
            " policy",
        )


class _Sought:
    """A policy that is looked for once it is asked: many rounds ask nobody."""

    def __init__(self, find: Callable[[], Policy]) -> None:
        self._find = find
        self._found: Policy | None = None

    @property
    def name(self) -> str:
        return "" if self._found is None else self._found.name

    @property
    def version(self) -> str:
        return "" if self._found is None else self._found.version

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        if self._found is None:
            self._found = self._find()
        return self._found.propose(context)


def round_of(foresight: Foresight) -> Round:
    """Return what a dry run saw and decided as ticks keep it."""
    return Round(
        tick_id=foresight.report.tick_id,
        number=1,
        program=__version__,
        decided_by=foresight.decided_by,
        snapshot=foresight.snapshot,
        plan=foresight.plan,
        utc_offset_s=utc_offset_s(foresight.snapshot, foresight.decided_by),
    )


def _named(one: Round) -> str:
    return f"round {one.number} of tick {one.tick_id}"
