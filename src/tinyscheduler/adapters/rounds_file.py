"""``state/ticks/``: a JSON file for each round of a tick that changed something."""

from __future__ import annotations

import os
import re

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import ConfigError, StoreError
from tinyscheduler.files import read_bytes, remove, write_bytes
from tinyscheduler.jsontext import dumps
from tinyscheduler.model.documents import DocumentError, NewerVersionError
from tinyscheduler.model.rounds import decode_round, encode_round

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.config import Paths
    from tinyscheduler.model.rounds import Round

MOST_FILES = 1000
MOST_BYTES = 50 << 20
# As much as is read.  Five thousand tasks, as many as a tick ever looks at of one line, take two
# megabytes; some have several such lines.
MOST_BYTES_OF_ONE = 16 << 20
# Of all files that may be there, the share that makes room at once.
_SHARE = 20
# Always this one: no crash leaves more than one of it behind.
_TEMPORARY = ".round.tmp"
# Of ids of ticks, which are times: what somebody else put there is none of ours.
_NAME = re.compile(r"[0-9TZ.]+-[0-9]+\.json")
_REMEDY = "documents of ticks are made by `tinyscheduler snapshot`, and by ticks in state/ticks/"


class FileRecorder:
    """Names files by tick and round, so that they sort by age and can be read with ``jq``."""

    def __init__(
        self,
        paths: Paths,
        *,
        most_files: int = MOST_FILES,
        most_bytes: int = MOST_BYTES,
        most_bytes_of_one: int = MOST_BYTES_OF_ONE,
    ) -> None:
        """Remember where; the folder is made when something is first recorded."""
        self._folder = os.path.join(paths.state, "ticks")
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._most_bytes_of_one = most_bytes_of_one

    def record(self, rounds: Sequence[Round]) -> None:
        """Write a file each; StoreError if the disk refuses, or one is larger than any should be.

        They outlive the death of any process; a power failure may cost the last ones.
        """
        try:
            for one in rounds:
                self._write(one)
        except OSError as error:
            message = f"{self._folder}: {error.strerror}"
            raise StoreError(message, hint="make room on the disk") from error

    def ticks(self) -> Sequence[str]:
        """Return the ids that file names say."""
        return list(dict.fromkeys(map(_tick_of, self._names())))

    def rounds(self, tick_id: str) -> Sequence[Round]:
        """Read all files of the tick."""
        names = [name for name in self._names() if _tick_of(name) == tick_id]
        return [one for name in names for one in self._read(name)]

    # -- parts --------------------------------------------------------------------

    def _write(self, one: Round) -> None:
        name = f"{one.tick_id}-{one.number:04d}.json"
        content = dumps(encode_round(one), separators=(",", ":")).encode()
        if len(content) > self._most_bytes_of_one:
            message = f"{name} would take {len(content)} bytes"
            raise StoreError(message, hint="nothing needs to be done: it is left out")
        with durable_step("round.record"):
            path, temporary = (os.path.join(self._folder, part) for part in (name, _TEMPORARY))
            try:
                write_bytes(path, content, durably=False, temporary=temporary)
            except FileNotFoundError:
                os.makedirs(self._folder, mode=0o700)
                write_bytes(path, content, durably=False, temporary=temporary)
        self._make_room(name, len(content))

    def _make_room(self, newest: str, size: int) -> None:
        """Remove the oldest beyond the bounds, some at once, so that few writes need to look.

        As many files of half the average size as may be there take half of the bytes.  So sizes
        are looked at where a larger one comes: a thousand of them take milliseconds.
        """
        is_large = size > self._most_bytes / self._most_files / 2
        if not is_large and len(os.listdir(self._folder)) <= self._most_files:
            return
        names = self._names()
        # What is younger than the newest is of a clock that was ahead of its time.
        names.sort(key=lambda name: (name <= newest, name))
        excess = len(names) - self._most_files
        first = excess + self._most_files // _SHARE if excess > 0 else 0
        gone, kept = names[:first], names[first:]
        if is_large:
            sizes = self._sizes()
            total = sum(sizes.get(name, 0) for name in kept)
            while kept[1:] and total > self._most_bytes / 2:
                total -= sizes.get(kept[0], 0)
                gone.append(kept.pop(0))
        for name in gone:
            remove(os.path.join(self._folder, name))

    def _sizes(self) -> dict[str, int]:
        with os.scandir(self._folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []
        except OSError as error:
            message = f"{self._folder}: {error.strerror}"
            raise StoreError(message, hint="make it readable") from error

    def _read(self, name: str) -> Sequence[Round]:
        """Read one; nothing if it has made room since its name was read."""
        path = os.path.join(self._folder, name)
        try:
            return parse_rounds(read_bytes(path), where=path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            message = f"{path}: {error.strerror}"
            raise StoreError(message, hint="make it readable") from error
        except ValueError as error:
            raise ConfigError(str(error), where=path, hint=_REMEDY) from error


def parse_rounds(content: bytes, *, where: str) -> Sequence[Round]:
    """Read one JSON document after the other; ConfigError names the first place that is wrong."""
    from json import JSONDecoder  # no tick reads what ticks have decided

    try:
        text = content.decode()
        rounds, end = [], _skip_space(text, 0)
        while end < len(text):
            document, end = JSONDecoder().raw_decode(text, end)
            rounds.append(decode_round(document))
            end = _skip_space(text, end)
    except NewerVersionError as error:
        raise ConfigError(str(error), where=where, hint="install a newer one") from error
    except DocumentError as error:
        raise ConfigError(str(error), where=where, hint=_REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not JSON: {error}", where=where, hint=_REMEDY) from error
    if not rounds:
        raise ConfigError("it is empty", where=where, hint=_REMEDY)
    return rounds


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _tick_of(name: str) -> str:
    return name.rpartition("-")[0]
