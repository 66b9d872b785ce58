"""``--plot``: how long tasks waited, how many waited when, and how many slots were in use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.plotting import Picture, write_picture
from tinyscheduler.simulator.forecast.figures import (
    running_on_average,
    waiting_over_time,
    waits_in_order,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.app.forecasting import Forecast
    from tinyscheduler.simulator.forecast.play import Course

# Told apart by those who see no red or no green (Okabe and Ito), and on dark and on light.
_COLORS = ("#d55e00", "#0072b2")
_ONE_COLOR = "#0072b2"
# Whoever waits less does not wait.
_SHORTEST_S = 1.0
_WAITS = {
    1: "1s",
    10: "10s",
    60: "1m",
    600: "10m",
    3600: "1h",
    36_000: "10h",
    345_600: "4d",
    3_456_000: "40d",
}
# Of the time, in so many the use of slots is told.
_STRETCHES = 120
_INCHES = (9.0, 9.0)


def write_plot(path: str, forecasts: Sequence[Forecast], lines: Sequence[str]) -> None:
    """Draw the courses into a .png, or into a .html with these lines above.

    The same courses make the same bytes.  Raises UsageError where matplotlib is missing, and
    StoreError where the file cannot be written.
    """
    courses = [one.course for one in forecasts]
    title = " and ".join(os.path.basename(one.policy) for one in reversed(courses))
    picture = Picture(
        title=f"Forecast: {title}",
        lines=lines,
        inches=_INCHES,
        draw=lambda figure: _draw(figure, courses),
    )
    write_picture(path, picture)


def _draw(figure: Any, courses: Sequence[Course]) -> None:  # noqa: ANN401 - matplotlib's
    waits, waiting, running = figure.subplots(3, 1)
    _draw_waits(waits, courses)
    _draw_waiting(waiting, courses)
    _draw_running(running, courses)


def _draw_waits(axes: Any, courses: Sequence[Course]) -> None:  # noqa: ANN401 - matplotlib's
    """Draw which share of the tasks waited at most how long."""
    longest_s = _SHORTEST_S
    for course, color in zip(courses, _palette(courses), strict=True):
        waits = [max(one, _SHORTEST_S) for one in waits_in_order(course)]
        if waits:
            longest_s = max(longest_s, waits[-1])
            shares = [100 * number / len(waits) for number in range(1, len(waits) + 1)]
            # From nothing up, and on to the right for as long as anybody waited.
            axes.step(
                [_SHORTEST_S, *waits], [0, *shares], where="post", color=color, label=_name(course)
            )
    axes.set_xscale("log")
    ticks = {at_s: name for at_s, name in _WAITS.items() if at_s <= longest_s}
    axes.set_xticks(list(ticks), labels=list(ticks.values()))
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.set_xlabel("waited at most")
    axes.set_ylabel("% of the tasks")
    axes.grid(visible=True, linewidth=0.5)
    axes.legend(frameon=False, loc="lower right")


def _draw_waiting(axes: Any, courses: Sequence[Course]) -> None:  # noqa: ANN401 - matplotlib's
    """Draw how many waited when."""
    for course, color in zip(courses, _palette(courses), strict=True):
        steps = waiting_over_time(course)
        steps.append((course.ended_s, steps[-1][1]))
        axes.step(
            [at_s / 3600 for at_s, _ in steps],
            [level for _, level in steps],
            where="post",
            color=color,
        )
    _finish(axes, "tasks that wait")


def _draw_running(axes: Any, courses: Sequence[Course]) -> None:  # noqa: ANN401 - matplotlib's
    """Draw how much of the slots was in use when, on the average of a stretch of time."""
    span_s = max(course.ended_s for course in courses) or 1.0
    width_s = span_s / _STRETCHES
    for course, color in zip(courses, _palette(courses), strict=True):
        slots = max(1, course.load.site.settings.rules.host_slots)
        shares = [100 * one / slots for one in running_on_average(course, width_s)]
        hours = [(number + 0.5) * width_s / 3600 for number in range(len(shares))]
        axes.plot(hours, shares, color=color)
    _finish(axes, "% of the slots in use")


def _finish(axes: Any, label: str) -> None:  # noqa: ANN401 - matplotlib's
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours since the beginning")
    axes.set_ylabel(label)
    axes.grid(visible=True, linewidth=0.5)


def _palette(courses: Sequence[Course]) -> tuple[str, ...]:
    return (_ONE_COLOR,) if len(courses) == 1 else _COLORS


def _name(course: Course) -> str:
    # What begins so would have no line in the legend; a dollar begins a formula.
    return os.path.basename(course.policy).lstrip("_").replace("$", r"\$") or "policy"
