"""What can influence the configuration?  Gathered cheaply, before anything is understood.

Every command passes through here, and most find a cached answer right after it.  So
nothing here imports more than the cheapest parts of the standard library.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from importlib.util import source_hash

from tinyscheduler import __version__
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import Origin
from tinyscheduler.values import dataclass

PREFIX = "TINYSCHEDULER_"
BASE_PATH = "TINYSCHEDULER_BASE_PATH"
ENV_FILE = "TINYSCHEDULER_ENV_FILE"

# The first TinyScheduler's home, kept as the first choice so that its users find their state.
SEED_BASE_PATH = "/home/user/workspace/calypso"

ENV_FILE_NAMES = (".env.tinyscheduler", ".env")

# These three are read without the prefix too, as their first documentation spelt them.
UNPREFIXED = (
    "SCHEDULE_MAX_CONCURRENT",
    "SCHEDULE_MAX_RUN_DURATION_SEC",
    "SCHEDULE_CHAT_PRESSURE_DELAY_SEC",
)

# What the program tells its own children, and switches that are no settings.  They say
# nothing about the configuration: a tick started by a wrapper is configured like any other.
NOT_SETTINGS = frozenset(
    PREFIX + name
    for name in (
        "TASK_ID",
        "ATTEMPT",
        "LEASE_ID",
        "AGENT",
        "PROMPT_FILE",
        "ATTEMPT_MAX_TURNS",
        "ATTEMPT_MAX_RUNTIME_SEC",
        "MODEL_ENDPOINT",
        "CRASH_AT",
        "ENV_FILE",
    )
)

MAX_FILE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file as it was read, once: its path and its bytes."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything known before the first file is parsed.

    ``base_path`` is absolute and is what decides where the env file is looked for; the
    env file may then name another one, which decides everything else.
    """

    overrides: Overrides
    environ: Mapping[str, str]
    base_path: str
    base_origin: Origin
    env_file: InputFile | None


def gather_inputs(overrides: Overrides, environ: Mapping[str, str]) -> Inputs:
    """Find the base path and read the env file.

    Raises ConfigError if the base path makes no sense or the env file cannot be read.
    """
    base_path, origin = _base_path(overrides, environ)
    return Inputs(
        overrides=overrides,
        environ=environ,
        base_path=base_path,
        base_origin=origin,
        env_file=_env_file(overrides, environ, base_path),
    )


def content_key(inputs: Inputs) -> str:
    """Return a digest of everything that decides the configuration, bar files it names.

    The program's own code is part of it: a new version may read the same files otherwise.
    """
    env_file = inputs.env_file
    facts = [
        __version__,
        *_source_stamps(),
        inputs.base_path,
        inputs.base_origin,
        repr(inputs.overrides),
        *(f"{name}={inputs.environ[name]}" for name in sorted(inputs.environ) if _decides(name)),
        env_file.path if env_file else "",
    ]
    return digest(b"\0".join([*map(_encoded, facts), env_file.content if env_file else b""]))


def digest(content: bytes) -> str:
    """Return a content's fingerprint: the 64 bits by which Python itself checks its .pyc files.

    Importing hashlib would cost a quarter of a bare interpreter's start.
    """
    return source_hash(content).hex()


def digest_of_variables(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return one fingerprint of the values of these variables, absent ones included."""
    facts = (f"{name}={environ[name]}" if name in environ else name for name in names)
    return digest(b"\0".join(map(_encoded, facts)))


def digest_of_file(path: str) -> str | None:
    """Return the fingerprint of a file as it is now, None of a missing one."""
    try:
        found = read_input(path, what="file")
    except ConfigError:
        return ""  # something is there, and nobody knows what: not the same as nothing
    return digest(found.content) if found else None


def read_input(path: str, *, what: str) -> InputFile | None:
    """Read a configuration file whole, or return None if there is none.

    Raises ConfigError, calling the file ``what``, if it is no regular file, cannot be
    read, or is larger than a configuration file can be.
    """
    try:
        # Not blocking, or a named pipe without a writer would stop the program here.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, what, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) and path != os.devnull:
            raise ConfigError(f"the {what} is not a file", where=path, hint="name a regular file")
        content = _read_bounded(descriptor)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"the {what} is larger than 1 MiB",
            where=path,
            hint="keep only settings in it; is this the right file?",
        )
    return InputFile(path=path, content=content)


def _unreadable(path: str, what: str, error: OSError) -> ConfigError:
    fault, hint = f"the {what} cannot be read: {error.strerror}", "make it readable for you"
    if isinstance(error, PermissionError):
        named, owner_id = _nearest_owner(path)
        if owner_id != os.geteuid():
            from tinyscheduler.files import user_name

            # That its mode be changed is no advice: it may hold somebody's keys.
            owner = user_name(owner_id)
            fault = f"the {what}" if named == path else f"the {what} cannot be read: {named}"
            fault += f" belongs to user {owner}, not to you"
            hint = f"run this as {owner}, or use a base path of your own"
    return ConfigError(fault, where=path, hint=hint)


def _nearest_owner(path: str) -> tuple[str, int]:
    """Return the file itself or, where it is hidden, the folder above that hides it; and whose."""
    while True:
        try:
            return path, os.stat(path).st_uid
        except PermissionError:
            path = os.path.dirname(os.path.abspath(path))


def absolute(path: str, *, under: str, environ: Mapping[str, str]) -> str:
    """Return an absolute, tidy path: ``~`` expanded, relative ones under a folder."""
    return os.path.normpath(os.path.join(under, expand_home(path, environ)))


def expand_home(path: str, environ: Mapping[str, str]) -> str:
    """Replace a leading ``~`` by HOME as this environment has it, or as the system knows it."""
    if path == "~" or path.startswith("~/"):
        return (environ.get("HOME") or os.path.expanduser("~")) + path[1:]
    return os.path.expanduser(path)


def fault_in_path(path: str) -> str | None:
    """Return what makes a text unusable as a path, or None."""
    if not path.strip():
        return "is empty"
    if not path.isprintable():
        # Also surrogates, which is how bytes that are not UTF-8 arrive.
        return "holds bytes that are not printable UTF-8 text"
    if len(path) > _MAX_PATH:
        return f"is longer than {_MAX_PATH} characters"
    return None


_MAX_PATH = 4096


def default_base_path(environ: Mapping[str, str], *, seed: str, code: str) -> str:
    """Return the base path nobody chose: the seed's, the checkout's, or the user's own.

    ``code`` is a file of this package; a checkout is known by its pyproject.toml and its
    executable launcher three folders above the package's subfolders.
    """
    if os.path.isdir(seed):
        return seed
    checkout = os.path.abspath(code)
    for _ in range(4):
        checkout = os.path.dirname(checkout)
    launcher = os.path.join(checkout, "tinyscheduler")
    if (
        os.path.isfile(os.path.join(checkout, "pyproject.toml"))
        and os.path.isfile(launcher)
        and os.access(launcher, os.X_OK)
    ):
        return checkout
    state_home = environ.get("XDG_STATE_HOME", "")
    # The XDG specification says that relative values are to be ignored.
    if not os.path.isabs(state_home):
        state_home = expand_home("~/.local/state", environ)
    if not os.path.isabs(state_home):
        raise ConfigError(
            "not set, and there is no home folder to take instead",
            where=BASE_PATH,
            hint=f"set {BASE_PATH} to a folder",
        )
    return os.path.join(state_home, "tinyscheduler")


def _base_path(overrides: Overrides, environ: Mapping[str, str]) -> tuple[str, Origin]:
    if overrides.base_path is not None:
        given, name, origin = overrides.base_path, "--base-path", Origin.COMMAND_LINE
    elif BASE_PATH in environ:
        given, name, origin = environ[BASE_PATH], BASE_PATH, Origin.ENVIRONMENT
    else:
        chosen = default_base_path(environ, seed=SEED_BASE_PATH, code=__file__)
        return chosen, Origin.DEFAULT
    return chosen_path(given, name=name, environ=environ, under=None), origin


def chosen_path(given: str, *, name: str, environ: Mapping[str, str], under: str | None) -> str:
    """Return the absolute form of a path someone chose; relative ones under a folder.

    ``under`` None is the current folder.  Raises ConfigError, naming the setting, if the
    text is no path, or a relative one where the current folder was removed.
    """
    fault = fault_in_path(given)
    if fault:
        raise ConfigError(f"{given!a} {fault}", where=name, hint=f"set {name} to a path")
    path = expand_home(given.strip(), environ)
    if under is None and not os.path.isabs(path):
        try:
            under = os.getcwd()
        except FileNotFoundError as error:
            raise ConfigError(
                f"{given!a} is relative, and the current folder does not exist any more",
                where=name,
                hint="give an absolute path, or change to another folder",
            ) from error
    return os.path.normpath(os.path.join(under or "/", path))


def _env_file(overrides: Overrides, environ: Mapping[str, str], base_path: str) -> InputFile | None:
    for given, name in ((overrides.env_file, "--env-file"), (environ.get(ENV_FILE), ENV_FILE)):
        if given is not None:
            path = chosen_path(given, name=name, environ=environ, under=None)
            found = read_input(path, what="env file")
            if found is None:
                raise ConfigError(
                    f"there is no file {path}",
                    where=name,
                    hint=f"create it (see .env.tinyscheduler.example) or leave {name} out",
                )
            return found
    for file_name in ENV_FILE_NAMES:
        found = read_input(os.path.join(base_path, file_name), what="env file")
        if found is not None:
            return found
    return None


def _decides(name: str) -> bool:
    if name.startswith(PREFIX):
        return name not in NOT_SETTINGS
    return name in UNPREFIXED or name in ("HOME", "XDG_STATE_HOME")


def _source_stamps() -> list[str]:
    here = os.path.dirname(os.path.abspath(__file__))
    top = os.path.dirname(here)
    tree = os.stat(os.path.join(top, "tree.py"))
    stamps = [f"tree.py:{tree.st_mtime_ns}:{tree.st_size}"]
    for folder in (here, os.path.join(top, "model")):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    found = entry.stat()
                    stamps.append(f"{entry.name}:{found.st_mtime_ns}:{found.st_size}")
    return sorted(stamps)


def _read_bounded(descriptor: int) -> bytes:
    chunks = []
    wanted = MAX_FILE_BYTES + 1
    while wanted > 0 and (chunk := os.read(descriptor, wanted)):
        chunks.append(chunk)
        wanted -= len(chunk)
    return b"".join(chunks)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
