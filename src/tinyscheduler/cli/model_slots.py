"""Which models have slots, where, and how many of them are used?  Lines of ``status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.render import Page, Row, format_table
from tinyscheduler.core.capacity import measure
from tinyscheduler.model.config import LOCAL_HOST

if TYPE_CHECKING:
    from tinyscheduler.tick import Foresight


def model_lines(foresight: Foresight, page: Page) -> list[str]:
    """Return a line for each model on each host."""
    rows: list[Row] = [
        [one["model"], one["host"], str(one["used"]), str(one["max_slots"]), str(one["free"])]
        for one in models_json(foresight)
    ]
    return format_table(["MODEL", "HOST", "USED", "SLOTS", "FREE"], rows, page)


def models_json(foresight: Foresight) -> list[dict[str, Any]]:
    """Return each model on each host, with its slots; its host may have fewer left."""
    snapshot = foresight.snapshot
    room = measure(snapshot, foresight.plan.verdicts).models
    addresses = {host.name: host.address for host in snapshot.inventory.hosts}
    return [
        {
            "model": place.model,
            "host": place.host,
            "is_remote": place.host != LOCAL_HOST,
            "endpoint": place.endpoint or addresses.get(place.host),
            "max_slots": place.max_slots,
            "used": room.used_of(place),
            "free": max(0, room.free(place)),
        }
        for place in room.places
    ]
