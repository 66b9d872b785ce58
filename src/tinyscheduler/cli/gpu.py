"""``gpu``: which GPUs are there, what of them is reserved and in use, and who waits for one?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import option
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Page,
    Row,
    cut,
    emit,
    emit_json,
    escape,
    format_table,
    wrap,
)
from tinyscheduler.core.capacity import measure
from tinyscheduler.core.gpus import find_gpu_users
from tinyscheduler.errors import EXIT_DONE, EXIT_INACTIVE
from tinyscheduler.model.plan import Reason, Wait
from tinyscheduler.model.resources import format_size

if TYPE_CHECKING:
    import typer

    from tinyscheduler.model.policy import GpuView
    from tinyscheduler.model.resources import Gpu
    from tinyscheduler.tick import Foresight

_FOR_A_GPU = (Reason.VRAM_INSUFFICIENT, Reason.GPU_UNAVAILABLE, Reason.GPU_UNKNOWN)
_BAR_WIDTH = 10
# At how many columns there is room for a bar beside the figures.
_WIDE = 80
_NAME_WIDTH = 14
_USED, _RESERVED, _FREE = "█", "▒", "░"


def gpu(
    context: typer.Context,
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show the GPUs: what of them is used, reserved and free.

    USED is measured. RESERVED is what live attempts were given, used or not. FREE is what a
    task may still get. Ends with 3 if there is no GPU, or none can be seen.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.app.ticks import foresee_all

    foresight = foresee_all(invocation.configure_reading(), sees_gpus=True)
    reading = foresight.snapshot.gpus
    assert reading is not None  # noqa: S101 - it was asked for
    waits = [
        one
        for one in foresight.report.decisions
        if isinstance(one, Wait) and one.reason in _FOR_A_GPU
    ]
    if json:
        emit_json(
            gpus=gpus_json(foresight),
            fault=reading.fault,
            waiting=[
                {"task_id": one.task.task_id, "reason": one.reason.value, "words": one.words}
                for one in waits
            ],
        )
    elif reading.gpus:
        lines = gpu_lines(foresight, invocation.page)
        sentences = (f"task {one.task.task_id} waits: {escape(one.words)}" for one in waits)
        told = [line for one in sentences for line in wrap(one, invocation.page)]
        emit("\n".join([*lines, *([""] if told else []), *told]))
    else:
        invocation.note(reading.fault or "there is no GPU")
    return EXIT_DONE if reading.gpus else EXIT_INACTIVE


def gpu_lines(foresight: Foresight, page: Page) -> list[str]:
    """Return a line for each GPU and each task that is where it was not put.

    Or why no GPU can be seen; nothing if there is none.
    """
    reading = foresight.snapshot.gpus
    pairs = _pairs(foresight)
    if not pairs:
        is_unknown = reading is not None and reading.fault is not None and not reading.is_absent
        return [f"GPUs: {escape(reading.fault or '')}"] if is_unknown and reading else []
    has_bars = page.width is not None and page.width >= _WIDE
    head = ["GPU", "NAME", *(["VRAM"] if has_bars else []), "USED", "RESERVED", "FREE", "OF"]
    rows: list[Row] = []
    for seen, view in pairs:
        if view.fault is not None:
            dashes = ["-"] * (len(head) - 2)
            fault = Cell(text=view.fault, ink=Ink.RED)
            rows.append([str(view.index), _short(view.name), *dashes, "-", fault])
            continue
        rows.append(
            [
                str(view.index),
                _short(view.name),
                *([_bar(seen, view)] if has_bars else []),
                "-" if seen.total_bytes is None else _brief(seen.used_bytes),
                _brief(view.reserved_bytes),
                _brief(view.free_bytes),
                _brief(view.total_bytes),
                "-" if seen.utilization is None else f"{seen.utilization}%",
                _users(view),
            ]
        )
    table = format_table([*head, "UTIL", "TASKS"], rows, page)
    strays = [one.words for one in find_gpu_users(foresight.snapshot) if one.is_misplaced]
    if not strays:
        return table
    pieces = [piece for words in strays for piece in wrap(escape(words), page)]
    return [*table, "", *(page.paint(piece, Ink.YELLOW) for piece in pieces)]


def gpus_json(foresight: Foresight) -> list[dict[str, Any]]:
    """Return each GPU as measured, with what is reserved and free; bytes and percent."""
    return [
        {
            "index": view.index,
            "uuid": view.uuid,
            "name": view.name,
            "total_bytes": None if view.fault is not None else view.total_bytes,
            "used_bytes": None if view.fault is not None else seen.used_bytes,
            "reserved_bytes": None if view.fault is not None else view.reserved_bytes,
            "free_bytes": None if view.fault is not None else view.free_bytes,
            "is_unified": view.fault is None and seen.total_bytes is None,
            "is_idle": view.is_idle,
            "utilization": seen.utilization,
            "tasks": list(view.used_by),
            "misplaced": list(view.misplaced),
            "other_processes": view.strangers,
            "fault": view.fault,
        }
        for seen, view in _pairs(foresight)
    ]


def _pairs(foresight: Foresight) -> list[tuple[Gpu, GpuView]]:
    """Return each GPU as it was seen, and what a tick makes of it."""
    snapshot = foresight.snapshot
    if snapshot.gpus is None:
        return []
    views = measure(snapshot, foresight.plan.verdicts).gpu_views()
    seen = {one.uuid: one for one in snapshot.gpus.gpus}
    return [(seen[view.uuid], view) for view in views]


def _brief(size_bytes: int) -> str:
    """Return a size as one would type it: 14G."""
    return format_size(size_bytes).replace(" ", "").replace("iB", "")


def _short(name: str) -> str:
    return cut(name.removeprefix("NVIDIA ").removeprefix("GeForce "), _NAME_WIDTH)


def _users(view: GpuView) -> str:
    others = f"{view.strangers} other{'' if view.strangers == 1 else 's'}"
    strays = [f"{task_id} (put elsewhere)" for task_id in view.misplaced]
    users = [*view.used_by, *strays, *([others] if view.strangers else [])]
    return ", ".join(users) or "-"


def _bar(seen: Gpu, view: GpuView) -> str:
    """Draw what is used, and what is reserved beyond that."""
    total = max(1, view.total_bytes)
    taken = total - view.free_bytes
    used = min(seen.used_bytes if seen.total_bytes is not None else taken, total)
    filled = round(_BAR_WIDTH * used / total)
    reserved = max(0, round(_BAR_WIDTH * taken / total) - filled)
    return _USED * filled + _RESERVED * reserved + _FREE * (_BAR_WIDTH - filled - reserved)
