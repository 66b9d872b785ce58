"""The recorder on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.errors import ConfigError, StoreError
from tinyscheduler.model.rounds import Round, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process

MOST_ROUNDS = 1000


class SimulatedRecorder:
    """Rounds on the disk, by tick and number; a text in the place of one is unreadable."""

    def __init__(self, process: Process, disk: Disk, *, most_rounds: int = MOST_ROUNDS) -> None:
        """Keep so many at most."""
        self._process = process
        self._disk = disk
        self._most_rounds = most_rounds

    def record(self, rounds: Sequence[Round]) -> None:
        """Keep each; StoreError if the disk refuses."""
        for one in rounds:
            with self._process.doing("round.record"):
                try:
                    self._disk.refuse_bytes()
                except OSError as error:
                    message = f"ticks: {error.strerror}"
                    raise StoreError(message, hint="make room on the disk") from error
                self._keep((one.tick_id, one.number), one)

    def _keep(self, key: tuple[str, int], one: Round) -> None:
        kept = self._disk.rounds
        kept[key] = one
        if len(kept) > self._most_rounds:
            # What is younger than the newest is of a clock that was ahead of its time.
            del kept[min(kept, key=lambda other: (other <= key, other))]

    def ticks(self) -> Sequence[str]:
        """Return the ids of all that is kept."""
        return list(dict.fromkeys(tick_id for tick_id, _ in sorted(self._disk.rounds)))

    def rounds(self, tick_id: str) -> Sequence[Round]:
        """Return what a document of each would say."""
        found = [one for key, one in sorted(self._disk.rounds.items()) if key[0] == tick_id]
        return [self._read(one) for one in found]

    def _read(self, one: Round | str) -> Round:
        if isinstance(one, str):
            raise ConfigError("it is not JSON", where="ticks", hint="nothing reads it")
        # Kept as it is: a run has thousands, and few are ever looked at.
        return redact(one)
