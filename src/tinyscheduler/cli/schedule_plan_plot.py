"""``schedule plan --plot``: a picture of the hours to come, as they are and with the shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.plotting import Picture, write_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.cli.schedule_plan import Hour, Plan

_HOURS = 24
# Told apart by those who see no red or no green, and by how dark they are alone.
_COLORS = "cividis"
_WIDTH, _HEIGHT_OF_DAY, _HEIGHT_OF_REST = 9.0, 0.32, 1.1


def write_plot(path: str, plan: Plan, lines: Sequence[str]) -> None:
    """Draw the plan into a .png or .html, as `write_picture` does."""
    panels = [("as it is", plan.hours)]
    if plan.proposal.shifts:
        minutes = plan.proposal.minutes
        panels.append((f"with the proposed shifts, {minutes} min in all", plan.shifted_hours))
    days = len(plan.hours) // _HOURS
    height = len(panels) * (_HEIGHT_OF_REST + _HEIGHT_OF_DAY * days)
    picture = Picture(
        title="Schedules: what is to come",
        lines=lines,
        inches=(_WIDTH, height),
        draw=lambda figure: _draw(figure, plan, panels),
    )
    write_picture(path, picture)


def _draw(figure: Any, plan: Plan, panels: Sequence[tuple[str, Sequence[Hour]]]) -> None:  # noqa: ANN401 - matplotlib's
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    most = max(1.0, *(one.share for _, hours in panels for one in hours))
    scale = Normalize(0, 100 * most)
    colors = colormaps[_COLORS]
    all_axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (title, hours) in zip(all_axes, panels, strict=True):
        days = [hours[begin : begin + _HOURS] for begin in range(0, len(hours), _HOURS)]
        shares = [[float("nan") if one.is_past else 100 * one.share for one in row] for row in days]
        mesh = axes.pcolormesh(
            range(_HOURS + 1),
            range(len(days) + 1),
            shares,
            norm=scale,
            cmap=colors,
            edgecolors=axes.spines["left"].get_edgecolor(),
            linewidth=0.4,
        )
        for number, row in enumerate(days):
            for one in filter(lambda hour: hour.collides, row):
                is_light = scale(100 * one.share) > 0.5  # noqa: PLR2004 - the middle of the colors
                axes.text(
                    one.hour + 0.5,
                    number + 0.5,
                    "!",
                    color="black" if is_light else "white",
                    ha="center",
                    va="center",
                    fontweight="bold",
                )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_yticks(
            [number + 0.5 for number in range(len(days))],
            labels=[f"{row[0].day:%a %d %b}" for row in days],
        )
        axes.set_xticks(range(0, _HOURS + 1, 3), labels=[f"{hour:02}" for hour in range(0, 25, 3)])
        axes.invert_yaxis()
        axes.tick_params(length=0)
    all_axes[-1].set_xlabel("hour of the day;  ! a collision")
    firings = plan.load.room.firings
    bar = figure.colorbar(
        mesh, ax=list(all_axes), label=f"% of {firings} firings at once", aspect=30
    )
    bar.solids.set_rasterized(False)
