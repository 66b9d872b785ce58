"""Which policy decides, and what follows where the one that is set cannot."""

from __future__ import annotations

from tinyscheduler.core.decide import decide
from tinyscheduler.errors import PolicyError, PolicyLateError, PolicyLoadError, StoreError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.policy import DecidedBy, FailedPolicy
from tinyscheduler.tick.world import Mode
from tinyscheduler.values import replace

TYPE_CHECKING = False
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
    def version_if_asked(self) -> str | None:
        """What tells which policy decided; None of the built-in one, and if nobody was asked.

        A file that nobody asks is not even read.
        """
        return (self.version or None) if self.is_asked else None

    @property
    def record(self) -> PolicyRecord:
        """What is on record of this version of it."""
        return _of_version(self._record, self.version)

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        self.is_asked = True
        record = self.record
        if record.is_given_up:
            hint = "it is asked again once it is changed"
            raise _GivenUpError(f"it {_failures(record)}", cause=record.cause or "error", hint=hint)
        return self._policy.propose(context)


def _of_version(record: PolicyRecord, version: str) -> PolicyRecord:
    """Return what is on record of a version: another counts afresh."""
    if record.version != version:
        record = replace(record, version=version, failed=0, cause=None, words=None)
        record = replace(record, is_unloadable=False)
    return record


def _failures(record: PolicyRecord) -> str:
    return f"has failed {record.failed} times in a row, at last: {record.words}"


def decide_loudly(progress: Progress, snapshot: Snapshot) -> Plan:
    """Ask the policy; one that fails is replaced for the rest of this tick, loudly.

    One that cannot even be loaded by the version of it that answered last, if there is one, and
    else by the built-in one.
    """
    world = progress.world
    if progress.policy is None:
        progress.policy = world.find_policy() or world.policy
    if progress.policy is world.fallback or progress.substitute is not None:
        return _decide_instead(progress, snapshot)
    asked = _Asked(progress.policy, progress.memory.policy)
    before = world.clock.now().monotonic_ns
    plan = _ask(progress, snapshot, asked)
    if asked.is_asked:
        passed_ms = (world.clock.now().monotonic_ns - before) / 1e6
        progress.policy_ms = (progress.policy_ms or 0.0) + passed_ms
    return plan


def _ask(progress: Progress, snapshot: Snapshot, asked: _Asked) -> Plan:
    """Ask it, and another if it fails."""
    try:
        progress.policy_name = asked.name
        plan = decide(snapshot, asked)
    except PolicyError as error:
        _fall_back(progress, error, asked)
        return _decide_instead(progress, snapshot)
    progress.decided_by = DecidedBy(name=asked.name, version=asked.version_if_asked)
    if asked.is_asked:
        progress.policy_version = asked.version
        _note_answer(progress, asked)
    return plan


def _note_answer(progress: Progress, asked: _Asked) -> None:
    progress.memory = replace(progress.memory, policy=_after_answer(asked.record))
    if progress.mode is Mode.DRY_RUN:
        return
    try:
        progress.world.keep_good()
    except StoreError as error:
        progress.warn(f"policy {asked.name} could not be kept as the last good one: {error.what}")


def _decide_instead(progress: Progress, snapshot: Snapshot) -> Plan:
    """Decide by the last good policy, and by the built-in one if that fails too or is none."""
    fallback = progress.world.fallback
    substitute = progress.substitute
    if substitute is not None and substitute is not fallback:
        asked = _Asked(substitute, progress.memory.last_good)
        progress.policy_name, progress.policy_version = asked.name, asked.version
        try:
            plan = decide(snapshot, asked)
        except PolicyError as error:
            progress.warn(f"{_told_of(asked, error)}; the platform policy decides instead")
            _tell(progress, asked, error, instead=fallback)
            record = _after_failure(asked.record, error)
            progress.memory = replace(progress.memory, last_good=record)
            progress.substitute = fallback
        else:
            if asked.is_asked and asked.record.failed:
                record = _after_answer(asked.record)
                progress.memory = replace(progress.memory, last_good=record)
            progress.decided_by = DecidedBy(
                name=asked.name,
                version=asked.version_if_asked,
                instead_of=progress.policy_failed,
            )
            return plan
    progress.policy_name = fallback.name
    progress.decided_by = DecidedBy(name=fallback.name, instead_of=progress.policy_failed)
    return decide(snapshot, fallback)


def _fall_back(progress: Progress, error: PolicyError, asked: _Asked) -> None:
    """Let another policy decide, and say why."""
    record, world = asked.record, progress.world
    progress.policy_version = asked.version
    is_unloadable = isinstance(error, PolicyLoadError)
    if isinstance(error, _GivenUpError):
        is_unloadable = record.is_unloadable
    who = "the platform policy decides instead"
    substitute = world.find_last_good() if is_unloadable else None
    if substitute is not None:
        who = f"{substitute.name}, the last version that answered, decides instead"
        last_good = _of_version(progress.memory.last_good, substitute.version)
        if last_good.is_given_up:
            who = f"the platform policy decides instead, for {substitute.name},"
            who += f" the last version that answered, {_failures(last_good)}"
            substitute = None
    progress.substitute = substitute or world.fallback
    progress.policy_failed = FailedPolicy(name=asked.name, version=asked.version, cause=error.cause)
    progress.warn(f"{_told_of(asked, error)}; {who}")
    if isinstance(error, _GivenUpError):
        return
    _tell(progress, asked, error, instead=progress.substitute)
    record = replace(_after_failure(record, error), is_unloadable=is_unloadable)
    progress.memory = replace(progress.memory, policy=record)


def _after_answer(record: PolicyRecord) -> PolicyRecord:
    return replace(record, failed=0, cause=None, words=None, is_unloadable=False)


def _after_failure(record: PolicyRecord, error: PolicyError) -> PolicyRecord:
    is_to_blame = not isinstance(error, PolicyLateError)
    return replace(
        record,
        failed=record.failed + is_to_blame,
        errors=record.errors + (error.cause != "timeout"),
        timeouts=record.timeouts + (error.cause == "timeout"),
        cause=error.cause,
        words=error.what,
    )


def _tell(progress: Progress, policy: Policy, error: PolicyError, *, instead: Policy) -> None:
    details = (("policy", policy.name), ("cause", error.cause), ("words", error.what))
    progress.notice(EventName.POLICY_FALLBACK, details=(*details, ("instead", instead.name)))


def _told_of(policy: Policy, error: PolicyError) -> str:
    hint = f" ({error.hint})" if error.hint else ""
    # Faults that have a place begin with the name of the file.
    where = "" if error.what.startswith(f"{policy.name}:") else f"policy {policy.name}: "
    return f"{where}{error.what}{hint}"
