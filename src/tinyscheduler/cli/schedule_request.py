"""What does a ``schedule`` command line ask for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.errors import UsageError
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from enum import StrEnum

    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.model.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line says; ``values`` by the names of the parameters."""

    invocation: Invocation
    action: StrEnum
    rest: tuple[str, ...]
    values: dict[str, Any]
    is_json: bool

    def schedule_id(self) -> str:
        """Return the one schedule that is named."""
        if len(self.rest) != 1:
            what = "needs an ID" if not self.rest else "takes one ID"
            hint = f"`tinyscheduler schedule {self.action} ID`"
            raise UsageError(f"schedule {self.action} {what}", hint=hint)
        return self.rest[0]


def open_store(config: Config, *, writes: bool) -> Schedules:
    """Open the schedules, to read alone or to write as well."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.schedules import open_schedules

    return open_schedules(config, Access.WRITE if writes else Access.READ)
