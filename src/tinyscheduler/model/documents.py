"""How leases, results and what ticks remember are JSON, read back without trusting a byte."""

from __future__ import annotations

import reprlib

from tinyscheduler.model.clock import format_time, parse_time
from tinyscheduler.model.leases import (
    LEASE_VERSION,
    Lease,
    LeaseState,
    Needs,
    ProcessIdentity,
    Run,
)
from tinyscheduler.model.resources import Gpu, GpuProcess, Pressure
from tinyscheduler.model.snapshot import (
    Account,
    Deferral,
    GpuSighting,
    PolicyRecord,
    SchedulingMemory,
    Skips,
    StaleSighting,
    Told,
)
from tinyscheduler.model.tasks import AttemptResult, FailureReason, Outcome, is_task_id
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from enum import StrEnum
    from typing import Any, TypeVar

    Kind = TypeVar("Kind")
    Choice = TypeVar("Choice", bound=StrEnum)
    Value = TypeVar("Value")

RESULT_VERSION = 1
MEMORY_VERSION = 1


MOST_HOLDER_BYTES = 200
_MOST_COUNTED = 1_000_000
_OF_TIMES = b"0123456789-:.TZ"


class DocumentError(Exception):
    """A document does not say what it must; the message says where."""


class NewerVersionError(DocumentError):
    """A document was written by a newer version of this program."""


def encode_lease(lease: Lease) -> dict[str, Any]:
    """Return the lease as the documented JSON object."""
    process = lease.process
    return {
        "version": LEASE_VERSION,
        "task_id": lease.task_id,
        "agent": lease.agent,
        "pid": process.pid if process is not None else None,
        "recipe": lease.recipe,
        "started_at": format_time(lease.started_at),
        "heartbeat": format_time(lease.heartbeat),
        "host": lease.host,
        "state": lease.state.value,
        "metadata": dict(lease.metadata),
        "lease_id": lease.lease_id,
        "source": lease.source,
        "attempt": lease.attempt,
        "launches": lease.launches,
        "boot_id": lease.boot_id,
        "process": None
        if process is None
        else {
            "boot_id": process.boot_id,
            "pid": process.pid,
            "start_ticks": process.start_ticks,
            "pgid": process.pgid,
            "pid_ns": process.pid_ns,
        },
        "monotonic": {
            "started": lease.monotonic_started_ns / 1e9,
            "heartbeat": lease.monotonic_heartbeat_ns / 1e9,
        },
        "heartbeat_sec": lease.heartbeat_s,
        "max_runtime_sec": lease.max_runtime_s,
        "needs": {
            "slots": lease.needs.slots,
            "memory_bytes": lease.needs.memory_bytes,
            "gpus": lease.needs.gpus,
            "vram_bytes": lease.needs.vram_bytes,
            "shared_bytes": lease.needs.shared_bytes,
        },
        "gpu_uuids": list(lease.gpu_uuids),
        "pool": lease.pool,
        "launcher": lease.launcher,
        "handle": lease.handle,
        "schedule_id": lease.schedule_id,
        "max_turns": lease.max_turns,
        "max_tokens": lease.max_tokens,
        "max_cost_usd": lease.max_cost_usd,
        "turns": lease.turns,
        "tokens": lease.tokens,
        "cost_usd": lease.cost_usd,
        "cpu_sec": lease.cpu_s,
        "silent_sec": lease.silent_s,
        "model": lease.model,
        "model_host": lease.model_host,
        "tenant": lease.tenant,
        "project": lease.project,
        "gpu_share": lease.gpu_share,
        "run": _encode_run(lease.run),
    }


def _encode_run(run: Run) -> dict[str, Any]:
    return {
        "argv": list(run.argv),
        "cwd": run.cwd,
        "stdin": run.stdin,
        "log": run.log,
        "log_max_bytes": run.log_max_bytes,
        "kill_grace_sec": run.kill_grace_s,
        "idle_output_sec": run.idle_output_s,
        "results": run.results,
        "cancel": run.cancel,
        "kick": run.kick,
        "tick_lock": run.tick_lock,
        "daemon_lock": run.daemon_lock,
        "kick_argv": list(run.kick_argv),
        "cgroup": run.cgroup,
        "agent_kind": run.agent_kind,
        "agent_output": run.agent_output,
        "agent_outcomes": run.agent_outcomes,
        "agent_profile": run.agent_profile,
        "attempt_life": run.attempt_life,
        "gpu_report": list(run.gpu_report),
    }


def decode_lease(document: object) -> Lease:
    """Read a lease; DocumentError names the first field that is missing or wrong."""
    reader = _Reader(document, "lease")
    reader.check_version(LEASE_VERSION)
    process, run = reader.optional_child("process"), reader.child("run")
    monotonic, needs = reader.child("monotonic"), reader.child("needs")
    return Lease(
        task_id=reader.name("task_id"),
        lease_id=reader.name("lease_id"),
        source=reader.text("source"),
        agent=reader.text("agent"),
        attempt=reader.integer("attempt"),
        launches=reader.integer("launches"),
        state=reader.choice("state", LeaseState),
        host=reader.text("host"),
        boot_id=reader.text("boot_id"),
        started_at=reader.time("started_at"),
        heartbeat=reader.time("heartbeat"),
        monotonic_started_ns=round(monotonic.number("started") * 1e9),
        monotonic_heartbeat_ns=round(monotonic.number("heartbeat") * 1e9),
        heartbeat_s=reader.positive("heartbeat_sec"),
        max_runtime_s=reader.positive("max_runtime_sec"),
        needs=Needs(
            slots=needs.integer("slots"),
            memory_bytes=needs.integer("memory_bytes"),
            gpus=needs.integer("gpus"),
            vram_bytes=needs.integer("vram_bytes"),
            # Missing in what earlier versions wrote.
            shared_bytes=needs.optional_integer("shared_bytes") or 0,
        ),
        run=_decode_run(run),
        process=None
        if process is None
        else ProcessIdentity(
            boot_id=process.text("boot_id"),
            pid=process.integer("pid"),
            start_ticks=process.integer("start_ticks"),
            pgid=process.integer("pgid"),
            pid_ns=process.integer("pid_ns"),
        ),
        recipe=reader.optional_text("recipe"),
        metadata=reader.text_pairs("metadata"),
        gpu_uuids=reader.texts("gpu_uuids"),
        pool=reader.text("pool"),
        launcher=reader.text("launcher"),
        handle=reader.optional_text("handle"),
        schedule_id=reader.optional_text("schedule_id"),
        max_turns=reader.optional_integer("max_turns"),
        max_tokens=reader.optional_integer("max_tokens"),
        max_cost_usd=reader.optional_number("max_cost_usd"),
        turns=reader.optional_integer("turns"),
        tokens=reader.optional_integer("tokens"),
        cost_usd=reader.optional_number("cost_usd"),
        cpu_s=reader.optional_number("cpu_sec"),
        silent_s=reader.optional_number("silent_sec"),
        model=reader.optional_text("model"),
        model_host=reader.optional_text("model_host"),
        tenant=reader.optional_text("tenant"),
        project=reader.optional_text("project"),
        gpu_share=reader.optional_number("gpu_share") or 0.0,
    )


def _decode_run(run: _Reader) -> Run:
    return Run(
        argv=run.texts("argv"),
        cwd=run.text("cwd"),
        stdin=run.optional_text("stdin"),
        log=run.text("log"),
        log_max_bytes=run.integer("log_max_bytes"),
        kill_grace_s=run.number("kill_grace_sec"),
        idle_output_s=run.optional_number("idle_output_sec"),
        results=run.text("results"),
        cancel=run.text("cancel"),
        kick=run.text("kick"),
        tick_lock=run.text("tick_lock"),
        daemon_lock=run.text("daemon_lock"),
        kick_argv=run.texts("kick_argv"),
        cgroup=run.optional_text("cgroup"),
        agent_kind=run.optional_text("agent_kind"),
        agent_output=run.optional_text("agent_output"),
        agent_outcomes=run.optional_text("agent_outcomes"),
        agent_profile=run.optional_text("agent_profile"),
        attempt_life=run.optional_text("attempt_life"),
        gpu_report=run.optional_texts("gpu_report"),
    )


def decode_result(document: object) -> AttemptResult:
    """Read what a wrapper recorded; DocumentError names the field that is missing or wrong."""
    reader = _Reader(document, "result")
    reader.check_version(RESULT_VERSION)
    reason = reader.optional_text("failure_reason")
    return AttemptResult(
        lease_id=reader.name("lease_id"),
        task_id=reader.name("task_id"),
        source=reader.text("source"),
        agent=reader.text("agent"),
        attempt=reader.integer("attempt"),
        outcome=reader.choice("outcome", Outcome),
        failure_reason=None if reason is None else reader.choice("failure_reason", FailureReason),
        exit_code=reader.optional_integer("exit_code"),
        signal=reader.optional_integer("signal"),
        message=reader.text("message"),
        started_at=reader.time("started_at"),
        ended_at=reader.time("ended_at"),
        duration_s=reader.number("duration_sec"),
        turns=reader.optional_integer("turns"),
        peak_rss_mb=reader.optional_number("peak_rss_mb"),
        log=reader.text("log"),
        tokens=reader.optional_integer("tokens"),
        cost_usd=reader.optional_number("cost_usd"),
        cpu_s=reader.optional_number("cpu_sec"),
        gpu_s=reader.optional_number("gpu_sec"),
        found_nothing=reader.optional_switch("found_nothing"),
    )


def encode_memory(memory: SchedulingMemory) -> dict[str, Any]:
    """Return what one tick remembers for the next as a JSON object."""
    return {
        "version": MEMORY_VERSION,
        "stale": [
            {
                "lease_id": sighting.lease_id,
                "beat_ns": sighting.beat_ns,
                "seen_ns": sighting.seen_ns,
                "boot_id": sighting.boot_id,
            }
            for sighting in memory.stale
        ],
        "last_start_ns": memory.last_start_ns,
        "last_start_boot_id": memory.last_start_boot_id,
        "pruned_at": None if memory.pruned_at is None else format_time(memory.pruned_at),
        "told": {
            "pressure": memory.told.pressure.value,
            "is_healthy": memory.told.is_healthy,
            "is_full": memory.told.is_full,
            "is_empty": memory.told.is_empty,
            "sources_down": list(memory.told.sources_down),
            "silent": list(memory.told.silent),
        },
        "skips": [
            {"source": one.source, "task_id": one.task_id, "times": one.times}
            for one in memory.skips
        ],
        "deferrals": [
            {"model": one.model, "until": format_time(one.until)} for one in memory.deferrals
        ],
        "accounts": [
            {"owner": one.owner, "slot_sec": one.slot_s, "gpu_sec": one.gpu_s}
            for one in memory.accounts
        ],
        "accounted_at": None if memory.accounted_at is None else format_time(memory.accounted_at),
        "gpu_sightings": [
            {"lease_id": one.lease_id, "uuids": list(one.uuids), "looked_sec": one.looked_s}
            for one in memory.gpu_sightings
        ],
        "used_slots": memory.used_slots,
        "active_agent_counts": dict(memory.active),
        "policy": _encode_policy(memory.policy),
        "last_good_policy": _encode_policy(memory.last_good),
    }


def _encode_policy(record: PolicyRecord) -> dict[str, Any]:
    return {
        "version": record.version,
        "failed": record.failed,
        "scheduler_error_total": record.errors,
        "scheduler_timeout_total": record.timeouts,
        "cause": record.cause,
        "words": record.words,
        "is_unloadable": record.is_unloadable,
    }


def decode_memory(document: object) -> SchedulingMemory:
    """Read what a tick remembered; DocumentError names the field that is missing or wrong."""
    reader = _Reader(document, "memory")
    reader.check_version(MEMORY_VERSION)
    told, policy = reader.optional_child("told"), reader.optional_child("policy")
    last_good = reader.optional_child("last_good_policy")
    return SchedulingMemory(
        stale=tuple(
            StaleSighting(
                lease_id=sighting.text("lease_id"),
                beat_ns=sighting.integer("beat_ns"),
                seen_ns=sighting.integer("seen_ns"),
                boot_id=sighting.text("boot_id"),
            )
            for sighting in reader.children("stale")
        ),
        last_start_ns=reader.optional_integer("last_start_ns"),
        last_start_boot_id=reader.optional_text("last_start_boot_id"),
        # Missing in what earlier versions wrote.
        pruned_at=reader.optional_time("pruned_at"),
        told=Told() if told is None else _decode_told(told),
        skips=reader.optional_children("skips", _decode_skips) or (),
        deferrals=reader.optional_children("deferrals", _decode_deferral) or (),
        accounts=reader.optional_children("accounts", _decode_account) or (),
        accounted_at=reader.optional_time("accounted_at"),
        gpu_sightings=reader.optional_children("gpu_sightings", _decode_gpu_sighting) or (),
        used_slots=reader.count("used_slots", default=0),
        active=reader.counts("active_agent_counts"),
        policy=PolicyRecord() if policy is None else _decode_policy(policy),
        last_good=PolicyRecord() if last_good is None else _decode_policy(last_good),
    )


def _decode_policy(one: _Reader) -> PolicyRecord:
    return PolicyRecord(
        version=one.text("version"),
        failed=one.count("failed"),
        errors=one.count("scheduler_error_total"),
        timeouts=one.count("scheduler_timeout_total"),
        cause=one.optional_text("cause"),
        words=one.optional_text("words"),
        # Missing in what earlier versions wrote.
        is_unloadable=one.optional_switch("is_unloadable"),
    )


def _decode_deferral(one: _Reader) -> Deferral:
    return Deferral(model=one.text("model"), until=one.time("until"))


def _decode_account(one: _Reader) -> Account:
    return Account(
        owner=one.text("owner"), slot_s=one.amount("slot_sec"), gpu_s=one.amount("gpu_sec")
    )


def _decode_gpu_sighting(one: _Reader) -> GpuSighting:
    return GpuSighting(
        lease_id=one.text("lease_id"), uuids=one.texts("uuids"), looked_s=one.size("looked_sec")
    )


def _decode_skips(one: _Reader) -> Skips:
    return Skips(source=one.text("source"), task_id=one.text("task_id"), times=one.count("times"))


def _decode_told(told: _Reader) -> Told:
    return Told(
        pressure=told.choice("pressure", Pressure),
        is_healthy=told.switch("is_healthy"),
        is_full=told.switch("is_full"),
        is_empty=told.switch("is_empty"),
        # Missing in what earlier versions wrote.
        sources_down=told.optional_texts("sources_down"),
        silent=told.optional_texts("silent"),
    )


def decode_gpus(document: object) -> tuple[Gpu, ...]:
    """Read a description of GPUs, by index; DocumentError names what is missing or wrong.

    ``{"gpus": [...]}``; each entry has ``index``, ``uuid``, ``name``, ``total`` and ``used`` in
    bytes, ``utilization`` in percent and ``processes``, a list of ``pid`` and ``used``.  All but
    ``uuid`` and ``total`` may be missing.  A ``total`` of null means that the GPU shares the
    memory of the machine, ``processes`` of null that the driver does not tell them; with a
    ``fault``, a text, nothing else of it is read.
    """
    entries = _Reader(document, "gpus").children("gpus")
    gpus = [_decode_gpu(entry, number) for number, entry in enumerate(entries)]
    if len({gpu.uuid for gpu in gpus}) < len(gpus):
        message = "gpus.gpus names a uuid twice"
        raise DocumentError(message)
    return tuple(sorted(gpus, key=lambda gpu: (gpu.index, gpu.uuid)))


def _decode_gpu(entry: _Reader, number: int) -> Gpu:
    uuid = entry.text("uuid")
    if not uuid or not uuid.isprintable() or "," in uuid or " " in uuid:
        message = "gpus.gpus.uuid should be a word without commas"
        raise DocumentError(message)
    index = entry.optional_size("index")
    gpu = Gpu(
        index=number if index is None else index,
        uuid=uuid,
        name=entry.optional_text("name") or uuid,
        fault=entry.optional_text("fault"),
    )
    if gpu.fault is not None:
        return gpu
    return replace(
        gpu,
        total_bytes=entry.optional_size("total", is_required=True),
        used_bytes=entry.optional_size("used") or 0,
        utilization=entry.optional_size("utilization"),
        processes=entry.optional_children("processes", _decode_gpu_process),
    )


def _decode_gpu_process(entry: _Reader) -> GpuProcess:
    return GpuProcess(pid=entry.size("pid"), used_bytes=entry.optional_size("used"))


def is_holder_text(content: bytes) -> bool:
    r"""Whether a tick lock may hold this: the line of its last holder, or nothing yet.

    The first TinyScheduler wrote its pid alone.  A holder that was killed before it cut the
    file leaves the end of a longer line behind its own, and a power failure zeros.

    >>> is_holder_text(b"pid 7, start ticks 351, since 2026-01-02T03:04:05.678Z\n")
    True
    >>> is_holder_text(b"agents: {}\n")
    False
    """
    if len(content) > MOST_HOLDER_BYTES:
        return False
    # Plain texts: a tick would pay for compiling a pattern.
    line, newline, rest = content.rstrip(b"\0").partition(b"\n")
    named, _, since = line.partition(b", since ")
    pid, comma, ticks = named.removeprefix(b"pid ").partition(b", start ticks ")
    if not comma:
        return (not line and not newline) or (pid == line and pid.isdigit() and not rest)
    is_line = pid.isdigit() and (ticks.isdigit() or ticks == b"None")
    return is_line and not since.strip(_OF_TIMES) and not rest.strip(_OF_TIMES + b", since\n")


class _Reader:
    """Takes fields out of a parsed JSON object, and says which one is wrong."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            message = f"{where} is not a JSON object"
            raise DocumentError(message)
        self._fields: dict[str, Any] = document
        self._where = where

    def check_version(self, known: int) -> None:
        version = self.integer("version")
        if version > known:
            message = f"version {version}"
            raise NewerVersionError(message)
        if version < 1:
            raise self._wrong("version", "a version")

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        # Not by `_take`: there are twenty of these in a lease, and a thousand leases in a tick.
        if isinstance(value, str):
            return value
        raise self._wrong(name, "a text")

    def name(self, name: str) -> str:
        """Take what also names a file of ours, and so must not lead out of its folder."""
        value = self.text(name)
        if not is_task_id(value):
            raise self._wrong(name, "a name of letters, digits, '_', '-' and '.'")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        value = self._take(name, int, "an integer")
        # Larger ones fit neither the kernel's numbers nor the ledger's columns.
        if isinstance(value, bool) or not -(2**63) <= value < 2**63:
            raise self._wrong(name, "an integer of 64 bits")
        return value

    def size(self, name: str) -> int:
        value = self.integer(name)
        if value < 0:
            raise self._wrong(name, "a whole number from 0 on")
        return value

    def count(self, name: str, *, default: int | None = None) -> int:
        """Take how many there are of something that no machine has a million of."""
        if default is not None and name not in self._fields:
            return default
        value = self.size(name)
        if value > _MOST_COUNTED:
            raise self._wrong(name, f"a number up to {_MOST_COUNTED}")
        return value

    def counts(self, name: str) -> tuple[tuple[str, int], ...]:
        """Take an object of such numbers, by name in its order; empty where it is missing."""
        child = self.optional_child(name)
        # Names are those of the document: as long as it is, but texts.
        return () if child is None else tuple((key, child.count(key)) for key in child._fields)

    def optional_size(self, name: str, *, is_required: bool = False) -> int | None:
        """Take a number that may be null, and that may be missing unless it is required."""
        if is_required and name not in self._fields:
            raise self._wrong(name, "a whole number from 0 on, or null")
        return None if self._fields.get(name) is None else self.size(name)

    def switch(self, name: str) -> bool:
        return self._take(name, bool, "true or false")

    def optional_switch(self, name: str) -> bool:
        return name in self._fields and self.switch(name)

    def optional_integer(self, name: str) -> int | None:
        return None if self._fields.get(name) is None else self.integer(name)

    def number(self, name: str) -> float:
        value = self._fields.get(name)
        # An infinite or missing number would make every age comparison lie.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        if not abs(value) < 1e15:  # noqa: PLR2004 - refuses NaN too
            raise self._wrong(name, "a finite number")
        return float(value)

    def positive(self, name: str) -> float:
        value = self.number(name)
        # An interval of zero would make a healthy attempt stale at once.
        if value <= 0:
            raise self._wrong(name, "a number above 0")
        return value

    def amount(self, name: str) -> float:
        value = self.number(name)
        if value < 0:
            raise self._wrong(name, "a number from 0 on")
        return value

    def optional_number(self, name: str) -> float | None:
        return None if self._fields.get(name) is None else self.number(name)

    def time(self, name: str) -> datetime:
        try:
            return parse_time(self.text(name))
        except ValueError as error:
            raise self._wrong(name, "a time") from error

    def optional_time(self, name: str) -> datetime | None:
        return None if self._fields.get(name) is None else self.time(name)

    def choice(self, name: str, kind: type[Choice]) -> Choice:
        try:
            return kind(self.text(name))
        except ValueError as error:
            raise self._wrong(name, f"a {kind.__name__}") from error

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._take(name, list, "a list")
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(name, "a list of texts")
        return tuple(values)

    def optional_texts(self, name: str) -> tuple[str, ...]:
        return self.texts(name) if name in self._fields else ()

    def text_pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        values = self._take(name, dict, "an object")
        if not all(isinstance(value, str) for value in values.values()):
            raise self._wrong(name, "an object of texts")
        return tuple(values.items())

    def child(self, name: str) -> _Reader:
        return _Reader(self._take(name, dict, "an object"), f"{self._where}.{name}")

    def children(self, name: str) -> list[_Reader]:
        return [_Reader(one, f"{self._where}.{name}") for one in self._take(name, list, "a list")]

    def optional_children(
        self, name: str, read: Callable[[_Reader], Value]
    ) -> tuple[Value, ...] | None:
        """Take a list of objects: None where it is null, empty where it is missing."""
        if name not in self._fields:
            return ()
        if self._fields[name] is None:
            return None
        return tuple(read(child) for child in self.children(name))

    def optional_child(self, name: str) -> _Reader | None:
        return None if self._fields.get(name) is None else self.child(name)

    def _take(self, name: str, kind: type[Kind], words: str) -> Kind:
        value = self._fields.get(name)
        if not isinstance(value, kind):
            raise self._wrong(name, words)
        return value

    def _wrong(self, name: str, words: str) -> DocumentError:
        found = reprlib.repr(self._fields.get(name, "nothing"))
        return DocumentError(f"{self._where}.{name} should be {words}, not {found}")
