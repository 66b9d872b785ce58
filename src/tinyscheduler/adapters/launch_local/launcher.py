"""Start one wrapper per attempt with posix_spawn(3), and end what must be ended."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader

from tinyscheduler.adapters.launch_local.cgroups import ControlGroups, is_group_of
from tinyscheduler.adapters.launch_local.processes import (
    COOKIE,
    TASK_LOCK_FD,
    WRAPPER_MARK,
    find_owners,
    find_survivors,
    judge_wrapper,
    kill_trees,
    read_process,
    signal_process,
)
from tinyscheduler.core.command_line import (
    KNOWN_AGENTS,
    Unfilled,
    budget_header,
    build_argv,
    uses,
)
from tinyscheduler.crash import VARIABLE as CRASH_VARIABLE
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import ExhaustedError, LaunchError, ProbeError
from tinyscheduler.jsontext import dumps
from tinyscheduler.model.config import ALWAYS_ALLOWED, GPU_MASK, StdinSource
from tinyscheduler.model.leases import NO_RUN, ProcessEvidence, Trace, WrapperLife
from tinyscheduler.model.tasks import id_at_source
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tinyscheduler.model.config import AgentProfile, Config
    from tinyscheduler.model.leases import Lease, Run
    from tinyscheduler.model.tasks import TaskSpec
    from tinyscheduler.ports import TaskLock

_STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the loader of programs reads would load another library into the wrapper than its
# interpreter was made for (ld.so(8)); what the interpreter sets for itself where no locale
# is set (PEP 538) would pass for the user's.
_FOR_COMMAND_ALONE = ("LD_", "GLIBC_TUNABLES", "LC_CTYPE")
# Taken off again by the wrapper, see there.
FOR_COMMAND = "TINYSCHEDULER_FOR_COMMAND_"
_PAUSE_S = 0.02
# Whose command ends as its exit code says, and whose output it is where nobody said so.
_PLAIN, _ANY_AGENT = "shell", "any"
_PYC_HEADER_BYTES = 16
# No process, memory, descriptor or room left.
_EXHAUSTED = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}
)

# By which numbers GPUs are told apart: those of the driver, not "fastest first".
_GPU_ORDER = "CUDA_DEVICE_ORDER"


class LocalLauncher:
    """Attempts as processes of this machine, each under its own wrapper."""

    def __init__(self, config: Config, *, wrapper: str, kick_argv: tuple[str, ...]) -> None:
        """Take the path of the wrapper's source, and the command a wrapper ends as."""
        self._config = config
        self._wrapper = wrapper
        self._kick_argv = kick_argv
        self._boot_id = ""
        self._environments: dict[str, dict[str, str]] = {}
        self._pid_ns = os.stat("/proc/self/ns/pid").st_ino
        self._cgroups = ControlGroups()

    def prepare(self, lease: Lease, spec: TaskSpec) -> Lease:
        """Write the prompt file, build argv and environment, and put the run into the lease."""
        agent = self._config.agent(lease.agent)
        if agent is None:
            message = f"agent {lease.agent} is not configured"
            raise LaunchError(message, hint=f"add it to {self._config.paths.agents_file}")
        spec = _with_budget(spec, lease)
        paths = self._config.paths
        folder = os.path.join(paths.logs, "tasks", lease.task_id)
        log = os.path.join(folder, f"{lease.attempt}.log")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            prompt_file = self._write_prompt(lease.task_id, spec)
        except OSError as error:
            message = f"cannot write {error.filename}: {error.strerror}"
            hint = "make room, or make the folder writable"
            raise _launch_error(error, message, hint) from error
        recipe = self._find_recipe(agent, spec)
        cwd = spec.cwd or agent.cwd or paths.base
        values = self._values(lease, spec, log=log, cwd=cwd, recipe=recipe, prompt_file=prompt_file)
        argv = build_argv(agent, spec, values)
        if isinstance(argv, Unfilled):
            raise LaunchError(argv.words, hint="`validate-config` checks agents.yaml")
        self._environments[lease.lease_id] = self._environment(lease, agent, spec, prompt_file)
        run = self._reading(agent, argv, lease)
        return replace(
            lease,
            recipe=recipe,
            run=replace(
                run,
                argv=argv,
                cwd=cwd,
                stdin=prompt_file if agent.stdin is StdinSource.PROMPT else None,
                log=log,
                log_max_bytes=self._config.limits.log_max_bytes,
                kill_grace_s=self._config.timing.kill_grace_s,
                idle_output_s=agent.idle_output_s,
                results=paths.results,
                cancel=paths.cancel,
                kick=paths.kick,
                tick_lock=paths.tick_lock,
                daemon_lock=paths.daemon_lock,
                kick_argv=self._kick_argv if self._config.kick_enabled else (),
                cgroup=self._cgroups.name_for(lease.lease_id),
            ),
        )

    def launch(self, lease: Lease, lock: TaskLock) -> None:
        """Spawn the wrapper in a session of its own, with nothing open but the task lock."""
        path = os.path.join(self._config.paths.running, f"task_{lease.task_id}.json")
        program = compile_once(self._wrapper)
        argv = [sys.executable, "-I", "-S", program, path]
        errors = os.path.join(self._config.paths.logs, "wrapper.log")
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            # Redirected, or cron and pipes would wait for every agent to end.
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, errors, append, 0o600),
            (os.POSIX_SPAWN_DUP2, _fileno(lock), TASK_LOCK_FD),
        ]
        try:
            # An interpreter without its program would start well, and end at once.
            os.stat(program)
            with durable_step("launch.spawn"):
                os.posix_spawn(
                    sys.executable,
                    argv,
                    self._environments.pop(lease.lease_id),
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    # A shell, nohup or Python itself may ignore some; the agent must not.
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
        except OSError as error:
            message = f"cannot start {sys.executable} {program}: {error.strerror}"
            hint = "the next tick tries again; if this installation was moved, run the new one"
            raise _launch_error(error, message, hint) from error

    def inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        """Look at the recorded wrappers, and for the rest where the wrapper does not live."""
        with _looking():
            return self._inspect(traces)

    def _inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        lives = {trace.lease_id: self._judge(trace) for trace in traces}
        dead = WrapperLife.DEAD
        searched = [
            self._credible(trace)
            for trace in traces
            if not (trace.is_lock_held and trace.is_leased) or lives[trace.lease_id] is dead
        ]
        trees = find_survivors(searched, self._lock_inodes(searched)) if searched else {}
        for trace in searched:
            if not (trace.is_leased or trees[trace.lease_id].has_wrapper):
                lives[trace.lease_id] = dead
        return {
            lease_id: ProcessEvidence(
                wrapper=life,
                survivors=len(trees[lease_id].processes) if lease_id in trees else 0,
            )
            for lease_id, life in lives.items()
        }

    def end(self, traces: Sequence[Trace], *, grace_s: float) -> frozenset[str]:
        """SIGTERM to living wrappers, which end their own trees; then SIGKILL to what is left."""
        with _looking():
            return self._end(traces, grace_s=grace_s)

    def _end(self, traces: Sequence[Trace], *, grace_s: float) -> frozenset[str]:
        asked = [trace for trace in traces if self._judge(trace) is WrapperLife.ALIVE]
        for trace in asked:
            assert trace.process is not None  # noqa: S101 - it was just seen alive
            process = read_process(trace.process.pid)
            if process is not None and process.start_ticks == trace.process.start_ticks:
                signal_process(process, signal.SIGTERM)
        # The wrapper itself gives its command this grace, and once more what that left
        # behind; then it still writes the result.
        deadline_s = time.monotonic() + 2 * grace_s + 1
        while asked and time.monotonic() < deadline_s:
            time.sleep(_PAUSE_S)
            asked = [trace for trace in asked if self._judge(trace) is WrapperLife.ALIVE]
        found = [self._credible(trace) for trace in traces]
        gone = kill_trees(found, self._lock_inodes(traces))
        # Never call gone what still lives, however it kept out of its own tree.
        alive = {trace.lease_id for trace in traces if self._judge(trace) is WrapperLife.ALIVE}
        return gone - alive

    def owners(self, pids: Sequence[int]) -> Mapping[int, str | None]:
        """Look at the marks of these processes, and of those that started them."""
        with _looking():
            return find_owners(pids)

    # -- parts --------------------------------------------------------------------

    def _reading(self, agent: AgentProfile, argv: tuple[str, ...], lease: Lease) -> Run:
        """Return who reads what the command prints, and by whose rules it is judged.

        A plain command is judged by its exit code, and read only where something bounds it.
        """
        silence = NO_RUN
        if agent.idle_output_s is not None:
            silence = replace(NO_RUN, attempt_life=self._program("attempt_life.py"))
            if lease.gpu_uuids:
                silence = replace(silence, gpu_report=self._gpu_report())
        profile = None
        name = argv[0].rpartition("/")[2]
        if agent.profile != _PLAIN or (not agent.command and name in KNOWN_AGENTS):
            from tinyscheduler.core.profiles import profile_document, profile_of

            profile = profile_of(agent, argv, self._config.profiles)
        bounds = (lease.max_turns, lease.max_tokens, lease.max_cost_usd)
        is_bounded = any(one is not None for one in bounds)
        if profile is None and not is_bounded and lease.schedule_id is None:
            return silence
        kind = _ANY_AGENT if is_bounded else None
        if profile is not None:
            kind = profile.output or _ANY_AGENT
        return replace(
            silence,
            agent_kind=kind,
            agent_output=self._program("agent_output.py"),
            agent_outcomes=self._program("agent_outcomes.py"),
            agent_profile=None if profile is None else dumps(profile_document(profile)),
        )

    def _gpu_report(self) -> tuple[str, ...]:
        """Return the command that prints what the driver says of the GPUs."""
        name, _, path = self._config.gpu_probe.partition(":")
        if name == "file":
            return ("/bin/cat", path)
        report = os.path.join(os.path.dirname(self._wrapper), "adapters", "gpu_nvml", "report.py")
        return (sys.executable, "-I", report)

    def _program(self, name: str) -> str:
        """Return a program that wrappers load, beside their own."""
        return compile_once(os.path.join(os.path.dirname(self._wrapper), name))

    def _credible(self, trace: Trace) -> Trace:
        """Drop what a lease cannot rightly say of its attempt's processes.

        Numbers and sessions of before the machine restarted, and groups of anything else.
        """
        if trace.process is not None and trace.process.boot_id != self._this_boot():
            trace = replace(trace, process=None)
        if trace.cgroup is not None and not is_group_of(trace.cgroup, trace.lease_id):
            trace = replace(trace, cgroup=None)
        return trace

    def _judge(self, trace: Trace) -> WrapperLife:
        return judge_wrapper(trace, boot_id=self._this_boot(), pid_ns=self._pid_ns)

    def _this_boot(self) -> str:
        if not self._boot_id:
            with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
                self._boot_id = file.read().strip()
        return self._boot_id

    def _lock_inodes(self, traces: Sequence[Trace]) -> dict[str, tuple[int, int]]:
        inodes = {}
        for trace in traces:
            path = os.path.join(self._config.paths.running, f"task_{trace.task_id}.lock")
            try:
                status = os.stat(path)
            except OSError:
                continue
            inodes[trace.task_id] = (status.st_dev, status.st_ino)
        return inodes

    def _write_prompt(self, task_id: str, spec: TaskSpec) -> str | None:
        if spec.prompt is None:
            return None
        folder = self._config.paths.tasks
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"task_{task_id}.prompt")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            file.write(spec.prompt)
        return path

    def _find_recipe(self, agent: AgentProfile, spec: TaskSpec) -> str | None:
        """Return the recipe's path inside the recipes folder, if the command wants one."""
        if spec.recipe is None and not uses(agent, "recipe"):
            return None
        folder = os.path.realpath(self._config.paths.recipes)
        name = spec.recipe or f"{agent.name}.yaml"
        path = os.path.realpath(os.path.join(folder, name))
        if not path.startswith(folder + os.sep):
            message = f"recipe {name!r} is outside the recipes folder {folder}"
            raise LaunchError(message, hint="name a file below the recipes folder")
        if not path.endswith((".yaml", ".yml")):
            message = f"recipe {name!r} is not a .yaml or .yml file"
            raise LaunchError(message, hint="name a recipe file")
        if not os.path.isfile(path):
            message = f"recipe {path} does not exist"
            raise LaunchError(message, hint=f"create it, or set `command:` of agent {agent.name}")
        return path

    def _values(
        self,
        lease: Lease,
        spec: TaskSpec,
        *,
        log: str,
        cwd: str,
        recipe: str | None,
        prompt_file: str | None,
    ) -> dict[str, str | None]:
        return {
            "task_id": id_at_source(lease.task_id, lease.source),
            "attempt": str(lease.attempt),
            "agent": lease.agent,
            "recipe": recipe,
            "prompt": spec.prompt,
            "prompt_file": prompt_file,
            "cwd": cwd,
            "model": lease.model,
            "model_endpoint": self._endpoint(lease) or "",
            "max_turns": None if lease.max_turns is None else str(lease.max_turns),
            "max_runtime_sec": f"{lease.max_runtime_s:g}",
            "gpu_uuids": ",".join(lease.gpu_uuids),
            "log_file": log,
        }

    def _endpoint(self, lease: Lease) -> str | None:
        return self._config.inventory.endpoint(lease.model, lease.model_host)

    def _environment(
        self, lease: Lease, agent: AgentProfile, spec: TaskSpec, prompt_file: str | None
    ) -> dict[str, str]:
        """Return what the command may see: the allow-list, the task's own, and ours.

        The mark of the wrapper is for itself; it takes it out for the command, which gets
        the cookie instead.
        """
        allowed = {*ALWAYS_ALLOWED, *agent.environment}
        environment = {"PATH": _STANDARD_PATH}
        environment.update(
            (name, value) for name, value in self._config.environment if name in allowed
        )
        environment.update(spec.environment)
        ours = {
            "TASK_ID": lease.task_id,
            "ATTEMPT": str(lease.attempt),
            "AGENT": lease.agent,
            "BASE_PATH": self._config.paths.base,
            "PROMPT_FILE": prompt_file,
            "ATTEMPT_MAX_TURNS": None if lease.max_turns is None else str(lease.max_turns),
            "ATTEMPT_MAX_TOKENS": None if lease.max_tokens is None else str(lease.max_tokens),
            "ATTEMPT_MAX_COST_USD": None
            if lease.max_cost_usd is None
            else f"{lease.max_cost_usd:g}",
            "ATTEMPT_MAX_RUNTIME_SEC": f"{lease.max_runtime_s:g}",
            "MODEL_ENDPOINT": self._endpoint(lease),
        }
        environment.update(
            (f"TINYSCHEDULER_{name}", value) for name, value in ours.items() if value is not None
        )
        if lease.gpu_uuids:
            environment[GPU_MASK] = ",".join(lease.gpu_uuids)
            environment[_GPU_ORDER] = "PCI_BUS_ID"
        for name in (COOKIE, CRASH_VARIABLE):
            # What an attempt belongs to, and where it is to crash, is not the task's to say.
            environment.pop(name, None)
        for name in [one for one in environment if one.startswith(_FOR_COMMAND_ALONE)]:
            environment[FOR_COMMAND + name] = environment.pop(name)
        environment[WRAPPER_MARK] = lease.lease_id
        if CRASH_VARIABLE in os.environ:
            environment[CRASH_VARIABLE] = os.environ[CRASH_VARIABLE]
        return environment


def _with_budget(spec: TaskSpec, lease: Lease) -> TaskSpec:
    """Have a firing say above its prompt how many turns it has, where they are bounded."""
    if spec.prompt is None or lease.schedule_id is None or lease.max_turns is None:
        return spec
    header = budget_header(max_turns=lease.max_turns, max_runtime_s=lease.max_runtime_s)
    return replace(spec, prompt=header + spec.prompt)


def compile_once(source: str) -> str:
    """Return the compiled file of a source, made now if whoever installed it made none.

    A program run by its path is never kept compiled by the interpreter, and some
    installers (uv) leave compiling to it.  The source, where nothing can be kept.
    """
    found = compiled(source)
    if found != source or not os.access(os.path.dirname(source), os.W_OK):
        return found
    # As the interpreter itself does it: judged before it is read, replaced at one blow.
    with suppress(OSError, SyntaxError, ValueError):
        SourceFileLoader("wrapper", source).get_code("wrapper")
    return compiled(source)


def compiled(source: str) -> str:
    """Return the compiled file of a source if it is there and current, else the source.

    A .pyc run by name is not checked against its source, so it is checked here: running
    the source itself works too, it only compiles again at every start.
    """
    cache = importlib.util.cache_from_source(source)
    try:
        with open(cache, "rb") as file:
            header = file.read(_PYC_HEADER_BYTES)
        status = os.stat(source)
    except OSError:
        return source
    # PEP 552: magic, flags (0: by time), modification time, size.
    stamp = int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF
    found = int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
    by_time = header[4:8] == b"\0\0\0\0"
    current = header[:4] == importlib.util.MAGIC_NUMBER and by_time and found == stamp
    return cache if current else source


def _launch_error(error: OSError, message: str, hint: str) -> LaunchError:
    """Return the failure of a start: of this task, or of the machine, which all would meet."""
    if error.errno in _EXHAUSTED:
        return ExhaustedError(message, hint="free some of it; nothing is lost meanwhile")
    return LaunchError(message, hint=hint)


@contextmanager
def _looking() -> Iterator[None]:
    """Have a look at processes that fails say so; it must never pass for a dead process."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ProbeError(
            f"cannot look at processes: {where}{error.strerror}",
            hint="the next tick looks again; until then no attempt is ended or given back",
        ) from error


def _fileno(lock: object) -> int:
    assert hasattr(lock, "fileno")  # noqa: S101 - wired together by the composition root
    return int(lock.fileno())
