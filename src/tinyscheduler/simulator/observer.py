"""An observer that keeps everything it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyscheduler.model.events import Event
    from tinyscheduler.model.plan import TickReport


@dataclass(eq=False, slots=True)
class RecordingObserver:
    """Keeps events and reports in the order they came."""

    events: list[Event] = field(default_factory=list)
    reports: list[TickReport] = field(default_factory=list)

    def notice(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def report(self, report: TickReport) -> None:
        """Keep the report."""
        self.reports.append(report)
