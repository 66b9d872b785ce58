"""Policies before they rule: what is wrong with one, and how much it takes."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from tinyscheduler.adapters.memory_file import FileMemoryStore
from tinyscheduler.adapters.policies_file import FilePolicies
from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.errors import NotFoundError, PolicyError, PolicyLateError, UsageError
from tinyscheduler.model.policy import AgentView, GpuView, PolicyContext
from tinyscheduler.model.tasks import PriorityClass, WaitingTask
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import PolicyRecord
    from tinyscheduler.model.versions import KeptPolicy
    from tinyscheduler.policy.artefacts import Artefacts
    from tinyscheduler.policy.compiled import Compiled
    from tinyscheduler.policy.context import Answer

_GIB = 1 << 30
_NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
# Of the time that a call may take, the share from which on it is called slow.
_SLOW = 0.5
_MANY = 1000
# No tick waits for it: its process may take so long to start, and be excused so often.
_PATIENCE_MS = 10_000
_MOST_EXCUSES = 5


class Severity(StrEnum):
    """How bad a finding is: with an error the policy could not rule."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a policy that its author should know.

    ``contexts`` are the worlds it was found in, none if it was found in all of them.
    """

    severity: Severity
    words: str
    contexts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found, how it was called, and what it took at most.  Milliseconds."""

    name: str
    version: str
    findings: tuple[Finding, ...]
    slowest_ms: float | None
    log: tuple[tuple[str, str], ...]

    @property
    def is_usable(self) -> bool:
        """Whether it could rule."""
        return all(one.severity is not Severity.ERROR for one in self.findings)


def own_policy(config: Config) -> ConfinedPolicy | None:
    """Return the policy that is set instead of the platform's; it reads its file when asked."""
    settings = config.policy
    if settings.mode == "platform":
        return None
    if settings.path is not None:
        return ConfinedPolicy(settings, base=config.paths.base)
    deployed = FilePolicies(config.paths).active()
    return None if deployed is None else kept_policy(config, deployed)


def kept_policy(
    config: Config, kept: KeptPolicy, *, artefacts: Artefacts | None = None
) -> ConfinedPolicy:
    """Return a version that was kept, to be asked."""
    settings = replace(config.policy, path=kept.path)
    return ConfinedPolicy(settings, base=config.paths.base, artefacts=artefacts, fault=kept.fault)


def recorded(config: Config) -> PolicyRecord:
    """Return how the policy that was asked last did."""
    store = FileMemoryStore(config.paths, warn=lambda _words: None, may_write=False)
    return store.load().policy


def compile_file(config: Config, path: str) -> Compiled:
    """Compile a policy in YAML.

    Raises NotFoundError if there is no such file, UsageError if it is none of YAML, and
    PolicyError for what is wrong with it.
    """
    _find(path)
    settings = replace(config.policy, path=os.path.abspath(path))
    try:
        compiled = ConfinedPolicy(settings, base=config.paths.base).compiled()
    except PolicyError as error:
        # To a tick a file that cannot be read is no news of what to do.
        hint = error.hint or "give a policy that can be read, and is no longer"
        raise PolicyError(error.what, cause=error.cause, hint=hint) from error
    if compiled is None:
        hint = "give a file that ends in .yaml or .yml; one in Lua needs no compiling"
        raise UsageError(f"{path} is no policy in YAML", hint=hint)
    return compiled


def check_policy(config: Config, path: str) -> Checked:
    """Load a policy as a tick would, and ask it about one world after the other.

    Raises NotFoundError if there is no such file.
    """
    _find(path)
    settings = replace(config.policy, path=os.path.abspath(path))
    faults: dict[str, list[str]] = {}
    slowest_ms: float | None = None
    log: list[tuple[str, str]] = []
    worlds = dict(sample_contexts())
    for name, context in worlds.items():
        # One world knows nothing of another.
        policy = ConfinedPolicy(settings, base=config.paths.base, start_ms=_PATIENCE_MS)
        try:
            answer = _ask(policy, context)
        except PolicyError as error:
            if error.cause in ("file", "syntax"):
                faults[_words(error)] = list(worlds)
                break
            faults.setdefault(_words(error), []).append(name)
            continue
        finally:
            policy.close()
        log += [line for line in answer.log if line not in log]
        slowest_ms = max(slowest_ms or 0.0, answer.cpu_ms)
    findings = [
        Finding(
            severity=Severity.ERROR,
            words=words,
            contexts=() if len(names) == len(worlds) else tuple(names),
        )
        for words, names in faults.items()
    ]
    if slowest_ms is not None and slowest_ms > settings.cpu_ms * _SLOW:
        words = f"schedule took {slowest_ms:.0f} ms with {_MANY} tasks waiting;"
        words += f" it is stopped at {settings.cpu_ms} ms (POLICY_TIMEOUT_MS)"
        findings.append(Finding(severity=Severity.WARNING, words=words))
    return Checked(
        name=policy.name,
        version=policy.version,
        findings=tuple(findings),
        slowest_ms=slowest_ms,
        log=tuple(log),
    )


def _ask(policy: ConfinedPolicy, context: PolicyContext) -> Answer:
    """Ask it; once more where this machine was too busy to let it answer in time."""
    for _ in range(_MOST_EXCUSES):
        try:
            policy.propose(context)
            break
        except PolicyLateError:
            continue
    else:
        policy.propose(context)
    return policy.answers[-1]


def _find(path: str) -> None:
    if not os.path.exists(path):
        raise NotFoundError(f"there is no file {path}", hint="give the path of a policy")


def sample_contexts() -> Iterator[tuple[str, PolicyContext]]:
    """Yield worlds that every policy should have an answer for, by name."""
    coder = AgentView(name="coder", queue="dev", limit=2, active=0)
    busy = replace(coder, active=2)
    chat = AgentView(name="chat", queue="chat", limit=1, active=0, is_interactive=True)
    gpu = GpuView(index=0, uuid="GPU-0", name="sample", total_bytes=24 * _GIB)
    plain = PolicyContext(
        now=_NOW,
        waiting=(_task(1),),
        agents=(coder, chat),
        host_slots_free=3,
        memory_free_bytes=8 * _GIB,
    )
    yield "one task", plain
    yield "a task of a queue", replace(plain, waiting=(_task(1, agent=None, queue="dev"),))
    yield (
        "an interactive task",
        replace(plain, waiting=(_task(1), _task(2, priority_class=PriorityClass.INTERACTIVE))),
    )
    yield "one slot", replace(plain, host_slots_free=1, waiting=(_task(1), _task(2)))
    yield (
        "a GPU",
        replace(
            plain,
            waiting=(_task(1, vram_bytes=10 * _GIB), _task(2, gpus=1)),
            gpus=(replace(gpu, free_bytes=24 * _GIB, is_idle=True),),
        ),
    )
    yield "a busy agent", replace(plain, agents=(busy, chat), waiting=(_task(1, agent="chat"),))
    yield (
        f"{_MANY} tasks",
        replace(plain, waiting=tuple(_task(number) for number in range(1, _MANY + 1))),
    )


def _task(number: int, **more: object) -> WaitingTask:
    fields: dict[str, object] = {
        "task_id": str(number),
        "source": "local",
        "created_order": number,
        "attempt": 1,
        "agent": "coder",
        "created_at": _NOW - timedelta(seconds=number),
        **more,
    }
    return WaitingTask(**fields)  # type: ignore[arg-type]  # each is named as a field is


def _words(error: PolicyError) -> str:
    return error.what if error.hint is None else f"{error.what} ({error.hint})"
