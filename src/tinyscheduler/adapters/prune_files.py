"""Removes logs, prompts, set-aside files, copies, stray requests and decisions that are old."""

from __future__ import annotations

import os
import re
import stat
from functools import partial

from tinyscheduler.errors import StoreError
from tinyscheduler.files import read_json
from tinyscheduler.model.documents import DocumentError, decode_lease
from tinyscheduler.model.pruning import Pruned, PruneKind, Removed
from tinyscheduler.model.tasks import is_task_id
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from tinyscheduler.model.config import Paths
    from tinyscheduler.model.pruning import PruneBounds

# A request is obeyed within a heartbeat, so an hour later nobody looks for it any more.
_CANCEL_MAX_AGE_S = 3600.0
# Tasks whose standing is asked for at once.
_MOST_ASKED = 500
_FOLDER_MODE = 0o700
_ATTEMPT_LOG = re.compile(r"[0-9]+\.log")
_PROMPT = re.compile(r"task_(.+)\.prompt")
_DAILY_LOG = re.compile(r"scheduler_(\d{8})\.log(\.\d+)?")
_ROTATED_LOG = re.compile(r"(events\.jsonl|wrapper\.log)\.\d+")
_ROUND = re.compile(r"[0-9TZ.]+-\d+\.json|\.round\.tmp")
_HALF_A_POLICY = re.compile(r"\.(\d+|active|last-good)(\.lua|\.yaml)?(\.\d+)?\.tmp")
_COPY = re.compile(r"\.(v\d+|reset)-\d{8}T\d{6}Z")


@dataclass(slots=True, kw_only=True)
class _Sweep:
    """One call: what may still go, and what went."""

    left: int
    may_write: bool
    found: dict[PruneKind, tuple[int, int]] = field(default_factory=dict)
    is_more: bool = False
    refused: OSError | None = None

    def remove(self, kind: PruneKind, path: str, *, before_s: float) -> None:
        """Remove the file if it is older than that at this very moment, and may still go."""
        try:
            status = os.lstat(path)
            if status.st_mtime >= before_s:
                return
            if self.left == 0:
                self.is_more = True
                return
            if self.may_write:
                os.unlink(path)
        except (FileNotFoundError, IsADirectoryError):
            return
        except OSError as error:
            self.note_refusal(error)
            return
        self.left -= 1
        number, size = self.found.get(kind, (0, 0))
        # What it takes on disk: logs have holes.
        self.found[kind] = (number + 1, size + status.st_blocks * 512)

    def note_refusal(self, error: OSError) -> None:
        """Keep the first one; what cannot go must not keep what comes after it."""
        self.refused = self.refused or error


class FilePruner:
    """Prunes the files below the state folder.

    ``needed`` says which of some tasks are not over yet, are parked, or are waited for:
    nothing of theirs goes.  A dry one (``may_write`` off) only says what it would remove.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        needed: Callable[[Sequence[str]], frozenset[str]],
        log_max_bytes: int,
        may_write: bool = True,
    ) -> None:
        self._paths = paths
        self._needed = needed
        self._log_max_bytes = log_max_bytes
        self._may_write = may_write

    def prune(self, bounds: PruneBounds) -> Pruned:
        """Remove at most ``most`` files; StoreError, after all else, where the disk refuses."""
        sweep = _Sweep(left=bounds.most, may_write=self._may_write)
        logs_s = bounds.logs_before.timestamp()
        history_s = bounds.history_before.timestamp()
        for step in (
            partial(self._prune_task_logs, sweep, logs_s),
            partial(self._prune_prompts, sweep, logs_s),
            self._cap_wrapper_log,
            partial(self._prune_logs, sweep, logs_s, today=bounds.now),
            partial(self._prune_quarantine, sweep, history_s),
            partial(self._prune_copies, sweep, history_s),
            partial(self._prune_cancels, sweep, bounds.now.timestamp() - _CANCEL_MAX_AGE_S),
            partial(self._prune_ticks, sweep, history_s),
            partial(self._prune_policies, sweep, history_s),
        ):
            try:
                step()
            except OSError as error:
                sweep.note_refusal(error)
        if sweep.refused is not None:
            message = f"{sweep.refused.filename}: {sweep.refused.strerror}"
            raise StoreError(message, hint="make the state folder writable") from sweep.refused
        return Pruned(
            removed=tuple(
                Removed(kind=kind, number=number, bytes=size)
                for kind, (number, size) in sweep.found.items()
            ),
            is_more=sweep.is_more,
        )

    def _prune_task_logs(self, sweep: _Sweep, before_s: float) -> None:
        """Remove the logs of tasks whose newest attempt began before that time.

        LOG_DIR may be a folder of the user's own, with a ``tasks`` of its own in it: nothing
        goes there but what is named like a log of an attempt, the folder that held one, and
        an empty one such as we make: whoever emptied it was killed before it went.
        """
        top = os.path.join(self._paths.logs, "tasks")
        old = {name for name, changed_s in _folders(top) if changed_s < before_s}
        for task_id in self._expendable(old):
            folder = os.path.join(top, task_id)
            logs = [name for name in _names(folder) if _ATTEMPT_LOG.fullmatch(name)]
            for name in logs:
                sweep.remove(PruneKind.LOGS, os.path.join(folder, name), before_s=before_s)
            if self._may_write and (logs or _is_private(folder)):
                try:
                    os.rmdir(folder)
                except OSError:
                    continue  # something in it is younger, not ours, or left for the next call
            if sweep.is_more:
                return

    def _prune_prompts(self, sweep: _Sweep, before_s: float) -> None:
        named = {
            match[1]: os.path.join(self._paths.tasks, name)
            for name in _names(self._paths.tasks)
            if (match := _PROMPT.fullmatch(name)) is not None
        }
        old = {task_id for task_id, path in named.items() if _changed_s(path) < before_s}
        for task_id in self._expendable(old):
            sweep.remove(PruneKind.PROMPTS, named[task_id], before_s=before_s)
            if sweep.is_more:
                return

    def _prune_logs(self, sweep: _Sweep, before_s: float, *, today: datetime) -> None:
        for name in _names(self._paths.logs):
            daily = _DAILY_LOG.fullmatch(name)
            is_past = daily is not None and daily[1] != f"{today:%Y%m%d}"
            if is_past or _ROTATED_LOG.fullmatch(name) is not None:
                path = os.path.join(self._paths.logs, name)
                sweep.remove(PruneKind.LOGS, path, before_s=before_s)

    def _cap_wrapper_log(self) -> None:
        """Set aside what wrappers wrote once it is large; they have it open for long."""
        path = os.path.join(self._paths.logs, "wrapper.log")
        try:
            if self._may_write and os.stat(path).st_size > self._log_max_bytes:
                os.replace(path, f"{path}.1")
        except FileNotFoundError:
            return

    def _prune_quarantine(self, sweep: _Sweep, before_s: float) -> None:
        for name in _names(self._paths.quarantine):
            path = os.path.join(self._paths.quarantine, name)
            sweep.remove(PruneKind.QUARANTINE, path, before_s=before_s)

    def _prune_copies(self, sweep: _Sweep, before_s: float) -> None:
        folder, database = os.path.split(self._paths.database)
        for name in _names(folder):
            if name.startswith(database) and _COPY.fullmatch(name, len(database)) is not None:
                path = os.path.join(folder, name)
                sweep.remove(PruneKind.COPIES, path, before_s=before_s)

    def _prune_cancels(self, sweep: _Sweep, before_s: float) -> None:
        """Remove requests to end attempts of which neither lease nor result is left."""
        names = _names(self._paths.cancel)
        if not names:
            return
        leased = self._leased_ids()
        if leased is None:
            return
        for name in names:
            path = os.path.join(self._paths.cancel, name)
            result = os.path.join(self._paths.results, f"{name}.json")
            if name not in leased and not os.path.lexists(result):
                sweep.remove(PruneKind.CANCELS, path, before_s=before_s)

    def _prune_ticks(self, sweep: _Sweep, before_s: float) -> None:
        folder = os.path.join(self._paths.state, "ticks")
        for name in _names(folder):
            if _ROUND.fullmatch(name) is not None:
                sweep.remove(PruneKind.TICKS, os.path.join(folder, name), before_s=before_s)

    def _prune_policies(self, sweep: _Sweep, before_s: float) -> None:
        """Remove what was never renamed; versions go as newer ones are deployed."""
        folder = os.path.join(self._paths.state, "policies")
        for name in _names(folder):
            if _HALF_A_POLICY.fullmatch(name) is not None:
                sweep.remove(PruneKind.POLICIES, os.path.join(folder, name), before_s=before_s)

    def _expendable(self, task_ids: set[str]) -> Iterator[str]:
        """Yield those of which no attempt lives and that nothing waits for, oldest first."""
        idle = {name for name in task_ids if is_task_id(name)} - set(self._leased_tasks())
        ordered = sorted(idle, key=lambda name: (len(name), name))
        for start in range(0, len(ordered), _MOST_ASKED):
            asked = ordered[start : start + _MOST_ASKED]
            needed = self._needed(asked)
            yield from (task_id for task_id in asked if task_id not in needed)

    def _leased_tasks(self) -> Iterator[str]:
        for name in _names(self._paths.running):
            stem, _, ending = name.rpartition(".")
            if ending in {"json", "lock"}:
                yield stem.removeprefix("task_")

    def _leased_ids(self) -> set[str] | None:
        """Return the lease ids on disk; None where one of them cannot be known."""
        found = set()
        names = set(_names(self._paths.running))
        for name in names:
            if name.endswith(".lock") and name.replace(".lock", ".json") not in names:
                return None
            if name.endswith(".json") and not name.startswith("."):
                try:
                    lease = decode_lease(read_json(os.path.join(self._paths.running, name)))
                except (DocumentError, ValueError, OSError):
                    return None
                found.add(lease.lease_id)
        return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders(top: str) -> Iterator[tuple[str, float]]:
    """Return each folder's name and when a file was last made in it."""
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return


def _is_private(folder: str) -> bool:
    """Whether this is a folder of ours that nobody else may look into, as we make them."""
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_IMODE(status.st_mode) == _FOLDER_MODE and status.st_uid == os.geteuid()


def _changed_s(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return float("inf")
