"""With which settings does a kicked tick run?  With those of the last regular tick.

Whoever's attempt ended has another environment, perhaps none; a kicked tick that read it
could exceed a limit given on the regular tick's command line.
"""

from __future__ import annotations

from tinyscheduler.config.cache import NOT_DECODED, Resolution, decode, encode
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import ConfigError
from tinyscheduler.files import own_temporary_for, read_json, write_json
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.config import Config

SETTINGS_VERSION = 1

NOT_LOADED = (OSError, *NOT_DECODED)


def save_settings(config: Config) -> None:
    """Keep the configuration for kicked ticks, if it differs from what is kept.

    The file holds the values of the variables agents may receive, so it is as secret as
    the ``.env`` file: mode 0600.  Raises OSError if it cannot be written.
    """
    document = {
        "version": SETTINGS_VERSION,
        "resolution": encode(Resolution(config=config)),
        "environment": [list(pair) for pair in config.environment],
    }
    path = config.paths.settings
    try:
        if _normalise(document) == read_json(path):
            return
    except (OSError, ValueError):
        pass  # missing or broken: written afresh below
    with durable_step("settings.save"):
        # No lock keeps ticks apart whose TINYSCHEDULER_LOCK_FILE is not the same.
        write_json(path, document, temporary=own_temporary_for(path))


def load_settings(path: str) -> Config:
    """Return the configuration of the last regular tick; ConfigError if there is none."""
    try:
        document = read_json(path)
        if not isinstance(document, dict) or document["version"] != SETTINGS_VERSION:
            message = "not settings of this version"
            raise ValueError(message)
        config = decode(document["resolution"]).config
        environment = tuple((name, value) for name, value in document["environment"])
        if not all(isinstance(text, str) for pair in environment for text in pair):
            message = "the environment is not made of texts"
            raise TypeError(message)
    except NOT_LOADED as error:
        what = f"the settings of the last regular tick are unreadable: {path}: {error}"
        raise ConfigError(what, hint="`tinyscheduler run --once` writes them again") from error
    return replace(config, environment=environment)


def saved_running_folder(path: str) -> str | None:
    """Return where the last regular tick kept its leases; None if nobody can tell."""
    try:
        document = read_json(path)
        folder = document["resolution"]["config"]["paths"]["running"]  # type: ignore[index]  # whatever it is instead is caught
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if isinstance(folder, str) and "\0" not in folder else None


def _normalise(document: dict[str, object]) -> object:
    """Return the document as it reads back from JSON."""
    return loads(dumps(document))
