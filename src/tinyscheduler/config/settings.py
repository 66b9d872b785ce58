"""Which settings exist, what may each be, and what is it set to, by whom?

pydantic-settings reads each layer; the layers are asked one by one, so that every value
knows where it came from and every fault names the variable, the value and its origin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tinyscheduler.config.env_file import EnvFile, parse_env_file
from tinyscheduler.config.inputs import (
    NOT_SETTINGS,
    PREFIX,
    UNPREFIXED,
    Inputs,
    fault_in_path,
)
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import (
    Problem,
    Severity,
    UnusableError,
    did_you_mean,
    quote,
)
from tinyscheduler.config.units import parse_duration_s
from tinyscheduler.model.config import FairShare, Origin
from tinyscheduler.model.tasks import TASK_ID_RULE, is_task_id
from tinyscheduler.values import dataclass

SECONDS = "a number of seconds, or a duration such as 90s or 15m, of at most ten years"
KNOWN_SOURCES = ("local", "tinytask")
PRESSURE_SOURCES = ("seat", "gpu")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
POLICY_MODES = ("platform", "home", "lab")
ENDPOINT_SCHEMES = ("http", "https")

# One number for "no machine has that many"; it keeps products of two within 64 bits.
MAX_NUMBER = 10**9
MAX_LIMIT = 10_000
# Each wrapper beats so often: any faster it would do little else.
LEAST_HEARTBEAT_S = 0.05
MAX_LIMITS_CHARACTERS = 64 * 1024

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def parse_agent_limits(value: object) -> tuple[tuple[str, int], ...]:
    """Return the limits in ``{"coder": 2}`` or ``coder:2,reviewer:1``, in their order.

    Raises UnusableError for a broken syntax, a bad or repeated name, or a limit that is
    not a whole number from 0 to 10000.
    """
    text = str(value).strip()
    if not text or len(text) > MAX_LIMITS_CHARACTERS:
        raise UnusableError(_LIMITS_EXPECTED)
    pairs = _limits_from_json(text) if text.startswith("{") else _limits_from_list(text)
    seen: set[str] = set()
    for name, limit in pairs:
        if not is_task_id(name):
            because = f"names {quote(name)}, which is no name ({TASK_ID_RULE})"
        elif name in seen:
            because = f"names {name} twice"
        elif type(limit) is not int or not 0 <= limit <= MAX_LIMIT:
            because = f"limits {name} to {quote(limit)}, no whole number from 0 to {MAX_LIMIT}"
        else:
            seen.add(name)
            continue
        raise UnusableError(_LIMITS_EXPECTED, because=because)
    return tuple(pairs)


_LIMITS_EXPECTED = 'limits such as {"coder": 2} or coder:2,reviewer:1'


def _limits_from_json(text: str) -> list[tuple[str, Any]]:
    try:
        pairs = json.loads(text, object_pairs_hook=lambda found: found)
    except (ValueError, RecursionError) as error:
        raise UnusableError(_LIMITS_EXPECTED, because=f"is not JSON ({error})") from error
    return list(pairs)


def _limits_from_list(text: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for part in text.split(","):
        name, colon, limit = (piece.strip() for piece in part.partition(":"))
        if not colon:
            raise UnusableError(_LIMITS_EXPECTED, because=f"has no ':' in {quote(part)}")
        pairs.append((name, int(limit) if _WHOLE_NUMBER.fullmatch(limit) else limit))
    return pairs


def _whole_number(minimum: int) -> BeforeValidator:
    expected = f"a whole number from {minimum} to {MAX_NUMBER}"

    def parse(value: object) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not _WHOLE_NUMBER.fullmatch(text):
            raise UnusableError(expected)
        number = int(text)
        if not minimum <= number <= MAX_NUMBER:
            raise UnusableError(expected)
        return number

    return BeforeValidator(parse)


def _seconds(*, zero: bool = False, least: float = 0.0) -> BeforeValidator:
    expected = f"{SECONDS}, and at least {least:g}" if least else SECONDS

    def parse(value: object) -> float:
        try:
            seconds = parse_duration_s(value if isinstance(value, (int, float)) else str(value))
        except ValueError as error:
            raise UnusableError(expected) from error
        if seconds == 0 and not zero:
            raise UnusableError(expected, because="is no time at all")
        if seconds < least:
            raise UnusableError(expected, because=f"is less than {least:g} seconds")
        return seconds

    return BeforeValidator(parse)


def _parse_share(value: object) -> float:
    text = str(value).strip()
    if not _DECIMAL_NUMBER.fullmatch(text) or not 0 < float(text) <= 1:
        raise UnusableError("a share above 0 and up to 1, such as 0.8")
    return float(text)


def _parse_share_or_zero(value: object) -> float:
    text = str(value).strip()
    if not _DECIMAL_NUMBER.fullmatch(text) or not 0 <= float(text) <= 1:
        raise UnusableError("a share up to 1, such as 0.2, or 0 to do without")
    return float(text)


def _parse_slots(value: object) -> int | None:
    if str(value).strip().lower() == "auto":
        return None
    text = str(value).strip()
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_NUMBER:
        raise UnusableError("auto or a whole number above 0")
    return int(text)


def _parse_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise UnusableError("true or false")


def _parse_path(value: object) -> str:
    text = str(value)
    if fault_in_path(text):
        raise UnusableError("a path")
    return text.strip()


def _one_of(words: tuple[str, ...]) -> BeforeValidator:
    def parse(value: object) -> str:
        found = {word.lower(): word for word in words}.get(str(value).strip().lower())
        if found is None:
            raise UnusableError("one of " + ", ".join(words))
        return found

    return BeforeValidator(parse)


def _parse_sources(value: object) -> tuple[str, ...]:
    names = tuple(part.strip() for part in str(value).split(","))
    if not set(names) <= set(KNOWN_SOURCES) or len(set(names)) != len(names):
        raise UnusableError("a comma list of " + ", ".join(KNOWN_SOURCES) + ", each at most once")
    return names


def _parse_endpoint(value: object) -> str:
    text = str(value).strip()
    expected = "a URL such as http://localhost:3000 (http or https)"
    if not text.isprintable() or " " in text:
        raise UnusableError(expected)
    try:
        parts = urlsplit(text)
        usable = (
            parts.scheme in ENDPOINT_SCHEMES
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.query or parts.fragment)
        )
    except ValueError as error:  # a port or a bracketed address that is none
        raise UnusableError(expected) from error
    if not usable:
        raise UnusableError(expected)
    return text.rstrip("/")


def _parse_gpu_probe(value: object) -> str:
    text = str(value).strip()
    kind, _, path = text.partition(":")
    if text != "nvml" and (kind != "file" or fault_in_path(path)):
        raise UnusableError("nvml or file:PATH")
    return text


def _parse_pressure_sources(value: object) -> tuple[str, ...] | None:
    names = tuple(part.strip() for part in str(value).split(",") if part.strip())
    for name in names:
        kind, _, path = name.partition(":")
        if name not in PRESSURE_SOURCES and (kind != "file" or fault_in_path(path)):
            raise UnusableError("a comma list of seat, gpu and file:PATH, or nothing")
    if len(set(names)) != len(names):
        raise UnusableError("each source at most once")
    return names or None


def _parse_token(value: object) -> str:
    text = str(value)
    if not text.strip() or not text.isprintable() or " " in text:
        raise UnusableError("a word without spaces")
    return text


# The second mark of each type says what a fault means; see Severity.
Positive = Annotated[int, _whole_number(1), Severity.TUNING]
NotNegative = Annotated[int, _whole_number(0), Severity.TUNING]
Seconds = Annotated[float, _seconds(), Severity.TUNING]
HeartbeatSeconds = Annotated[float, _seconds(least=LEAST_HEARTBEAT_S), Severity.TUNING]
SecondsOrZero = Annotated[float, _seconds(zero=True), Severity.TUNING]
Share = Annotated[float, BeforeValidator(_parse_share), Severity.TUNING]
ShareOrZero = Annotated[float, BeforeValidator(_parse_share_or_zero), Severity.TUNING]
Slots = Annotated[int | None, BeforeValidator(_parse_slots), Severity.TUNING]
Switch = Annotated[bool, BeforeValidator(_parse_switch), Severity.STRUCTURE]
PathText = Annotated[str, BeforeValidator(_parse_path), Severity.STRUCTURE]
OptionalPathText = Annotated[str | None, BeforeValidator(_parse_path), Severity.STRUCTURE]
LogLevel = Annotated[str, _one_of(LOG_LEVELS), Severity.STRUCTURE]
FairShareSetting = Annotated[str, _one_of(tuple(FairShare)), Severity.STRUCTURE]
PolicyMode = Annotated[str, _one_of(POLICY_MODES), Severity.STRUCTURE]
Sources = Annotated[tuple[str, ...], BeforeValidator(_parse_sources), Severity.STRUCTURE]
PressureSources = Annotated[
    tuple[str, ...] | None, BeforeValidator(_parse_pressure_sources), Severity.STRUCTURE
]
Endpoint = Annotated[str, BeforeValidator(_parse_endpoint), Severity.STRUCTURE]
GpuProbe = Annotated[str, BeforeValidator(_parse_gpu_probe), Severity.STRUCTURE]
Token = Annotated[str | None, BeforeValidator(_parse_token), Severity.STRUCTURE]
AgentLimits = Annotated[
    tuple[tuple[str, int], ...], BeforeValidator(parse_agent_limits), Severity.STRUCTURE
]


class Settings(BaseSettings):
    """Every variable there is, without its prefix, in lower case."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=False
    )

    base_path: OptionalPathText = Field(
        None,
        description="Home of state/; other paths are relative to it."
        " Unset: this checkout, else ~/.local/state/tinyscheduler.",
    )
    running_dir: PathText = Field("state/running", description="Folder of the leases.")
    log_dir: PathText = Field("state/logs", description="Folder of all logs.")
    task_cache_dir: PathText = Field(
        "state/tasks", description="Folder of prompt files and cached task details."
    )
    recipes_dir: PathText = Field("recipes", description="Folder that every recipe lies in.")
    bin_dir: PathText = Field("scripts", description="Folder of run_agent.py.")
    lock_file: PathText = Field("state/tinyscheduler.pid", description="Pidfile that ticks lock.")
    agent_control_file: PathText = Field(
        "agents.yaml", description="File that defines agents; YAML, or a JSON array."
    )
    agent_limits: AgentLimits = Field(
        (), description='Slots per agent: {"coder": 2} or coder:2,reviewer:1.'
    )
    goose_bin: PathText = Field("goose", description="The goose command, or a path to it.")
    sources: Sources = Field(
        ("local",), description="Where tasks come from: local, tinytask, or both with a comma."
    )
    mcp_endpoint: Endpoint = Field(
        "http://localhost:3000", description="Base URL of the tinytask server."
    )
    source_timeout_sec: Seconds = Field(
        10.0,
        description="Seconds that one question to tinytask may take; a tick's, three times that.",
    )
    lost_after_sec: Seconds = Field(
        600.0,
        description="Seconds until a task that is working at tinytask, and that nobody runs here,"
        " is made idle.",
    )
    loop_interval_sec: Seconds = Field(60.0, description="Seconds between ticks of the daemon.")
    heartbeat_sec: HeartbeatSeconds = Field(
        15.0, description="Seconds between heartbeats of a lease."
    )
    max_runtime_sec: Seconds = Field(3600.0, description="Seconds an attempt may take.")
    max_concurrent_slots: Slots = Field(
        None, description="Attempts at once on this host; auto is the sum of agent limits."
    )
    memory_per_slot_mb: Positive = Field(4096, description="Megabytes that one attempt needs.")
    memory_warning: Share = Field(0.8, description="Share of memory in use that warns.")
    memory_critical: Share = Field(
        0.9, description="Share of memory in use above which nothing starts."
    )
    memory_stall_critical: ShareOrZero = Field(
        0.0, description="Share of time waited for memory from which nothing starts; 0 is off."
    )
    stagger_delay_ms: NotNegative = Field(
        5000, description="Milliseconds between two starts of one tick."
    )
    tick_budget_sec: Seconds = Field(50.0, description="Seconds a tick may spend sleeping.")
    priority_enabled: Switch = Field(
        default=False, description="true: higher priority first; false: first come first served."
    )
    fair_share: FairShareSetting = Field(
        "off", description="tenant or project: who had least of late goes first; off: nobody does."
    )
    fair_share_half_life_sec: Seconds = Field(
        86400.0, description="Seconds after which what somebody had counts half."
    )
    max_queue_depth: NotNegative = Field(0, description="Waiting tasks at most; 0 is unlimited.")
    kill_grace_sec: SecondsOrZero = Field(5.0, description="Seconds between SIGTERM and SIGKILL.")
    max_launches: Positive = Field(
        5, description="Starts that never reached the command before a task is parked."
    )
    queue_lookahead: NotNegative = Field(
        5, description="Tasks looked at behind one that does not fit."
    )
    max_skips_per_task: Positive = Field(2, description="Times a waiting task may be overtaken.")
    retry_backoff_sec: SecondsOrZero = Field(
        30.0, description="Seconds until a task that asked for it by exit code 75 is tried again."
    )
    max_attempts: Positive = Field(3, description="Attempts before a task is parked.")
    retry_base_sec: SecondsOrZero = Field(
        5.0, description="Seconds before the second attempt; doubles with each failure."
    )
    retry_max_sec: SecondsOrZero = Field(
        300.0, description="Longest wait between two attempts, in seconds."
    )
    schedule_max_concurrent: Positive = Field(
        2, description="Firings of schedules that may run at once."
    )
    schedule_max_run_duration_sec: Positive = Field(
        1200, description="Seconds a firing of a schedule may take."
    )
    schedule_chat_pressure_delay_sec: Positive = Field(
        30, description="Seconds a firing is put off under interactive pressure."
    )
    pressure_sources: PressureSources = Field(
        None, description="What else says that somebody is at work: seat, gpu, file:PATH; none."
    )
    policy_mode: PolicyMode = Field(
        "platform", description="platform; home and lab allow a policy of your own."
    )
    policy_file: OptionalPathText = Field(
        None, description="Policy of your own, Lua or YAML; needs POLICY_MODE home or lab."
    )
    policy_timeout_ms: Positive = Field(50, description="CPU milliseconds of one schedule() call.")
    policy_wall_ms: Positive = Field(
        200, description="Milliseconds after which a policy is killed."
    )
    policy_memory_mb: Positive = Field(64, description="Megabytes a policy may use.")
    log_level: LogLevel = Field(
        "INFO", description="Least level that is logged: DEBUG, INFO, WARNING, ERROR, CRITICAL."
    )
    log_max_mb: Positive = Field(50, description="Megabytes at which a log is rotated.")
    log_retention_days: Positive = Field(14, description="Days that logs are kept.")
    history_retention_days: Positive = Field(30, description="Days that finished tasks are kept.")
    disable_blocking: Switch = Field(
        default=False, description="true: tasks start even while others block them."
    )
    dry_run: Switch = Field(default=False, description="true: ticks plan and change nothing.")
    enabled: Switch = Field(default=True, description="false: ticks start nothing new.")
    gpu_probe: GpuProbe = Field("nvml", description="How GPUs are seen: nvml or file:PATH.")
    kick: Switch = Field(
        default=True, description="true: the end of an attempt makes a tick happen at once."
    )
    ui_token: Token = Field(
        None, description="Token of the web UI; generated into a 0600 file when unset."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing on its own: the layers are asked one by one, by `read_settings`."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


class _VariablesSource(EnvSettingsSource):
    """One layer of variables: the environment's or the env file's."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._variables.items()}

    def prepare_field_value(
        self,
        field_name: str,
        field: FieldInfo,
        value: Any,  # noqa: ANN401 - pydantic's signature
        value_is_complex: bool,  # noqa: FBT001 - as above
    ) -> Any:  # noqa: ANN401 - as above
        """Leave every text as it is: lists and objects have their own parsers here."""
        del field_name, field, value_is_complex
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A value somebody set: by which name, in which layer, and where exactly."""

    value: object
    name: str
    origin: Origin
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """The settings in force, who set each, and everything that is wrong with them.

    ``given`` holds what was set and could be used; any other setting has its default.
    """

    settings: Settings
    given: Mapping[str, Given]
    env_file: EnvFile
    problems: tuple[Problem, ...]

    def origin(self, field_name: str) -> Origin:
        """Return which layer a setting's value came from."""
        found = self.given.get(field_name)
        return found.origin if found else Origin.DEFAULT


def read_settings(inputs: Inputs) -> ReadSettings:
    """Ask every layer, weakest first, and judge what comes out.

    Raises ConfigError only for an env file that cannot be read at all; other faults are
    problems of the result, and its settings hold the default in place of each.
    """
    env_file = parse_env_file(inputs.env_file, inputs.environ)
    problems = list(env_file.problems)
    given: dict[str, Given] = {}
    for layer in (
        _env_file_layer(env_file),
        _environment_layer(inputs.environ),
        _command_line_layer(inputs.overrides),
    ):
        given.update(layer)
    settings = None
    while settings is None:
        try:
            settings = Settings.model_validate({name: found.value for name, found in given.items()})
        except ValidationError as error:
            for fault in error.errors():
                name = str(fault["loc"][0])
                problems.append(_problem(name, given.pop(name), fault["ctx"]["error"]))
    problems += _unknown_variables(inputs.environ, env_file)
    problems += _contradictions(settings)
    return ReadSettings(settings=settings, given=given, env_file=env_file, problems=tuple(problems))


def variable_of(field_name: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field_name.upper()


def _env_file_layer(env_file: EnvFile) -> dict[str, Given]:
    variables = {name: entry.value for name, entry in env_file.entries.items()}
    return {
        field_name: Given(
            value=value,
            name=name,
            origin=Origin.ENV_FILE,
            place=f"{env_file.path} line {env_file.entries[name].line}",
        )
        for field_name, name, value in _known(variables)
    }


def _environment_layer(environ: Mapping[str, str]) -> dict[str, Given]:
    return {
        field_name: Given(
            value=value, name=name, origin=Origin.ENVIRONMENT, place="the environment"
        )
        for field_name, name, value in _known(environ)
    }


def _known(variables: Mapping[str, str]) -> list[tuple[str, str, object]]:
    """List field, variable and value of every setting in one layer."""
    names = {}
    values = {}
    for field_name in Settings.model_fields:
        variable = variable_of(field_name)
        if field_name.upper() in UNPREFIXED and variable not in variables:
            variable = field_name.upper()
        if variable in variables:
            names[field_name] = variable
            values[variable_of(field_name)] = variables[variable]
    return [(name, names[name], value) for name, value in _VariablesSource(values)().items()]


def _command_line_layer(overrides: Overrides) -> dict[str, Given]:
    options: dict[str, tuple[str, object]] = {
        "base_path": ("--base-path", overrides.base_path),
        "loop_interval_sec": ("--loop-interval", overrides.loop_interval),
        "heartbeat_sec": ("--heartbeat-interval", overrides.heartbeat_interval),
        "max_runtime_sec": ("--max-runtime", overrides.max_runtime),
        "running_dir": ("--running-dir", overrides.running_dir),
        "log_dir": ("--log-dir", overrides.log_dir),
        "recipes_dir": ("--recipes-dir", overrides.recipes_dir),
        "goose_bin": ("--goose-bin", overrides.goose_bin),
        "mcp_endpoint": ("--mcp-endpoint", overrides.mcp_endpoint),
        "disable_blocking": ("--disable-blocking", overrides.disable_blocking),
        "dry_run": ("--dry-run", overrides.dry_run),
        "log_level": ("--log-level", overrides.log_level),
    }
    chosen = {name: value for name, (_, value) in options.items() if value is not None}
    source = InitSettingsSource(Settings, init_kwargs=chosen)
    return {
        name: Given(
            value=value,
            name=options[name][0],
            origin=Origin.COMMAND_LINE,
            place="the command line",
        )
        for name, value in source().items()
    }


def _problem(field_name: str, found: Given, fault: UnusableError) -> Problem:
    field = Settings.model_fields[field_name]
    severity = next(mark for mark in field.metadata if isinstance(mark, Severity))
    # Whoever types an option sees the error at once; nothing is gained by going on.
    if found.origin is Origin.COMMAND_LINE:
        severity = Severity.STRUCTURE
    value = quote(redacted(field_name, found.value))
    default = default_text(field_name)
    fate = f"; using the default {default}" if severity is Severity.TUNING else ""
    return Problem(
        severity=severity,
        setting=found.name,
        value=value,
        message=f"{value} from {found.place} {fault.because}{fate}",
        fix=f"set {found.name} to {fault.expected}, or leave it out (default {default})",
    )


def default_text(field_name: str) -> str:
    """Return a setting's default as one would write it in an env file."""
    if field_name == "max_concurrent_slots":
        return "auto"
    return as_text(Settings.model_fields[field_name].default)


def as_text(value: object) -> str:
    """Return a setting's value as one would write it in an env file."""
    match value:
        case None:
            return "(none)"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}" if value == float(f"{value:g}") else repr(value)
        case tuple() if all(isinstance(item, str) for item in value) and value:
            return ",".join(value)
        case tuple():
            return json.dumps(dict(value))
        case _:
            return str(value)


def redacted(field_name: str, value: object) -> object:
    """Return a setting's value with its secrets replaced."""
    if is_secret(field_name) and value is not None:
        return "(secret)"
    if field_name == "mcp_endpoint":
        # Also in a text that is no URL: this is what an error message quotes.
        return _QUERY.sub("?(secret)", _USERINFO.sub(r"\1(secret)@", str(value)))
    return value


def is_secret(name: str) -> bool:
    """Tell by its name whether a variable holds a secret."""
    return _SECRET.search(name.upper()) is not None


_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")
_USERINFO = re.compile(r"^(\w+://)?.*@")
_QUERY = re.compile(r"\?.*")


def _unknown_variables(environ: Mapping[str, str], env_file: EnvFile) -> list[Problem]:
    known = {variable_of(name) for name in Settings.model_fields}
    places = dict.fromkeys(environ, "the environment")
    for name, entry in env_file.entries.items():
        places.setdefault(name, f"{env_file.path} line {entry.line}")
    return [
        Problem(
            severity=Severity.ADVICE,
            setting=name,
            message=f"there is no such setting; ignored (from {place})",
            fix=did_you_mean(name, known),
        )
        for name, place in sorted(places.items())
        if name.startswith(PREFIX) and name not in known | NOT_SETTINGS
    ]


def _contradictions(settings: Settings) -> list[Problem]:
    found = []
    if settings.memory_warning > settings.memory_critical:
        found.append(
            Problem(
                severity=Severity.ADVICE,
                setting=variable_of("memory_warning"),
                value=as_text(settings.memory_warning),
                message=f"above MEMORY_CRITICAL ({as_text(settings.memory_critical)}):"
                " nothing would warn before starts stop",
                fix="set it below MEMORY_CRITICAL",
            )
        )
    if settings.retry_base_sec > settings.retry_max_sec:
        found.append(
            Problem(
                severity=Severity.ADVICE,
                setting=variable_of("retry_base_sec"),
                value=as_text(settings.retry_base_sec),
                message=f"above RETRY_MAX_SEC ({as_text(settings.retry_max_sec)}), which wins",
                fix="set it to at most RETRY_MAX_SEC",
            )
        )
    return found
