"""Who is at work at this machine?  Markers, and what is configured besides."""

from __future__ import annotations

import os

from tinyscheduler.adapters.pressure_files import PressureFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tinyscheduler.model.config import Config
    from tinyscheduler.model.pressure import InteractivePressure
    from tinyscheduler.model.resources import GpuReading
    from tinyscheduler.ports import Clock


class ConfiguredPressures:
    """The markers, and the sources that are configured."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        gpus: Callable[[], GpuReading],
        owners: Callable[[Sequence[int]], Mapping[int, str | None]],
        warn: Callable[[str], None],
        may_write: bool,
    ) -> None:
        """Say on ``warn`` what cannot be found out; with ``may_write`` off nothing is moved."""
        self.markers = PressureFiles(config.paths, clock, warn=warn, may_write=may_write)
        self._config = config
        self._clock = clock
        self._gpus = gpus
        self._owners = owners
        self._warn = warn

    def live(self) -> Sequence[InteractivePressure]:
        """Return who is at work now."""
        return [*self.markers.live(), *self._besides()]

    def _besides(self) -> Sequence[InteractivePressure]:
        if not self._config.pressure_sources:
            return ()
        from tinyscheduler.adapters.pressure_sources import PressureSources

        return PressureSources(
            self._config.pressure_sources,
            base=self._config.paths.base,
            clock=self._clock,
            gpus=self._gpus,
            owners=self._owners,
            warn=self._warn,
        ).live()


def marked_names(config: Config, clock: Clock) -> tuple[str, ...]:
    """Return who has said to be at work and is, by name; nothing is asked or changed for that."""
    # `pressure list` tells what is wrong with a marker.
    markers = PressureFiles(config.paths, clock, warn=lambda _: None, may_write=False)
    return tuple(one.name for one in markers.live())


def name_of_user() -> str:
    """Return who runs this, as told beside a marker."""
    from tinyscheduler.files import user_name

    return user_name(os.getuid())
