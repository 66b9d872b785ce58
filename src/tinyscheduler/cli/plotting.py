"""How does a picture get into a .png, or into a .html that is read on dark and on light?"""

from __future__ import annotations

import html
import io
import logging
import os
import re
from typing import TYPE_CHECKING, Any

from tinyscheduler.config.problems import quote
from tinyscheduler.errors import StoreError, UsageError
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_KINDS = (".png", ".html")
_DOTS = 120
# Stands for the color of the text around a picture, and is replaced by that.
_TEXT, _GRID = "#123456", "#abcdef"
_SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    # Names of parts would be drawn at random.
    "svg.hashsalt": "tinyscheduler",
}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --grid: #d5d9dd; }}
@media (prefers-color-scheme: dark) {{ :root {{ --grid: #3a4046; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem }}
svg {{ max-width: 100%; height: auto }}
svg text {{ font-family: system-ui, sans-serif !important }}
pre {{ overflow-x: auto; line-height: 1.35 }}
</style>
<h1>{title}</h1>
<pre>{text}</pre>
{picture}
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is drawn: its size in inches, and who draws into matplotlib's empty figure.

    Of a page, ``title`` stands above, and these ``lines`` between.
    """

    title: str
    lines: Sequence[str]
    inches: tuple[float, float]
    draw: Callable[[Any], None]


def refuse_path(path: str | None) -> None:
    """Raise, before minutes are spent, UsageError for a picture of another kind.

    And StoreError for one that cannot be written.
    """
    if path is None:
        return
    if not path.endswith(_KINDS):
        raise UsageError(
            f"--plot {quote(path)} is neither a .png nor a .html",
            hint="name the file FILE.png or FILE.html",
        )
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.access(path if os.path.lexists(path) else folder, os.W_OK):
        raise StoreError(f"--plot {quote(path)} cannot be written", hint="name another file")


def write_picture(path: str, picture: Picture) -> None:
    """Draw a picture into a .png, or into a .html with its lines above.

    The same picture makes the same bytes.  Raises UsageError where matplotlib is missing, and
    StoreError where the file cannot be written.
    """
    content = _png(picture) if path.endswith(".png") else _html(picture)
    try:
        with open(path, "wb") as stream:
            stream.write(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot write {quote(path)}: {reason}", hint="name another file"
        ) from error


def _png(picture: Picture) -> bytes:
    return _draw(picture, "png", text="#1f2328", grid="#d5d9dd", metadata={"Software": None})


def _html(picture: Picture) -> bytes:
    metadata: dict[str, str | None] = {"Date": None, "Creator": None}
    drawn = _draw(picture, "svg", text=_TEXT, grid=_GRID, metadata=metadata)
    svg = drawn.decode().replace(_TEXT, "currentColor").replace(_GRID, "var(--grid)")
    return _PAGE.format(
        title=html.escape(picture.title),
        text=html.escape("\n".join(picture.lines)),
        picture=re.sub(r"^.*?<svg", "<svg", svg, count=1, flags=re.DOTALL),
    ).encode()


def _draw(
    picture: Picture, kind: str, *, text: str, grid: str, metadata: dict[str, str | None]
) -> bytes:
    # It tells of its cache of fonts, and of a home that it cannot write to.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "--plot needs matplotlib, which is not installed",
            hint="pip install 'tinyscheduler[plot]'",
        ) from error
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), text)
    colors |= {"axes.edgecolor": grid, "grid.color": grid}
    settings: dict[Any, Any] = {**_SETTINGS, **colors}
    with mpl.rc_context(settings):
        figure = Figure(figsize=picture.inches, layout="constrained")
        picture.draw(figure)
        if kind == "svg":
            figure.patch.set_alpha(0)
            for axes in figure.axes:
                axes.patch.set_alpha(0)
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=_DOTS, metadata=metadata)
    return stream.getvalue()
