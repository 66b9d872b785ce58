"""Which policy decides, and what follows where the one that is set cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.decide import decide
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.events import EventName
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.plan import Plan, Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.snapshot import PolicyRecord, Snapshot
    from tinyscheduler.ports import Policy
    from tinyscheduler.tick.progress import Progress


class _GivenUpError(PolicyError):
    """It has failed too often, and has not been changed since."""


class _Asked:
    """A policy that is asked, unless it has failed too often.  Knows whether anybody did."""

    def __init__(self, policy: Policy, record: PolicyRecord) -> None:
        self.name = policy.name
        self.is_asked = False
        self._policy = policy
        self._record = record

    @property
    def version(self) -> str:
        return self._policy.version

    @property
    def record(self) -> PolicyRecord:
        """What is on record of this version of it."""
        record = self._record
        if record.version != self.version:
            record = replace(record, version=self.version, failed=0, cause=None, words=None)
        return record

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        self.is_asked = True
        record = self.record
        if record.is_given_up:
            message = f"it has failed {record.failed} times in a row, at last: {record.words}"
            hint = "it is asked again once it is changed"
            raise _GivenUpError(message, cause=record.cause or "error", hint=hint)
        return self._policy.propose(context)


def decide_loudly(progress: Progress, snapshot: Snapshot) -> Plan:
    """Ask the policy; one that fails is replaced by the built-in one for this tick, loudly."""
    world = progress.world
    if world.policy is world.fallback or progress.policy_fallback is not None:
        progress.policy_name = world.fallback.name
        return decide(snapshot, world.fallback)
    asked = _Asked(world.policy, progress.memory.policy)
    before = world.clock.now().monotonic_ns
    try:
        progress.policy_name = world.policy.name
        plan = decide(snapshot, asked)
    except PolicyError as error:
        _fall_back(progress, error, asked.record)
        plan = decide(snapshot, world.fallback)
    else:
        if asked.is_asked:
            record = replace(asked.record, failed=0, cause=None, words=None)
            progress.memory = replace(progress.memory, policy=record)
    if asked.is_asked:
        passed_ms = (world.clock.now().monotonic_ns - before) / 1e6
        progress.policy_ms = (progress.policy_ms or 0.0) + passed_ms
        progress.policy_version = asked.version
    return plan


def _fall_back(progress: Progress, error: PolicyError, record: PolicyRecord) -> None:
    """Let the platform policy decide, and say why."""
    name = progress.world.policy.name
    progress.policy_fallback = error.cause
    progress.policy_name = progress.world.fallback.name
    hint = f" ({error.hint})" if error.hint else ""
    where = "" if error.what.startswith(f"{name}:") else f"policy {name}: "
    progress.warn(f"{where}{error.what}{hint}; the platform policy decides instead")
    if isinstance(error, _GivenUpError):
        return
    progress.notice(
        EventName.POLICY_FALLBACK,
        details=(("policy", name), ("cause", error.cause), ("words", error.what)),
    )
    record = replace(
        record,
        failed=record.failed + 1,
        errors=record.errors + (error.cause != "timeout"),
        timeouts=record.timeouts + (error.cause == "timeout"),
        cause=error.cause,
        words=error.what,
    )
    progress.memory = replace(progress.memory, policy=record)
