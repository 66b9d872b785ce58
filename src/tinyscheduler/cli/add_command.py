"""What typer has to know of ``add`` beside its options."""

from __future__ import annotations

import typer

from tinyscheduler.cli.add import spread_after
from tinyscheduler.cli.command import Command


class AddCommand(Command):
    """``add``, whose ``--after`` takes several ids and whose own options end at the command."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's own subclass of what it declares
        """Repeat ``--after`` before each further id behind it."""
        result: list[str] = super().parse_args(ctx, spread_after(args))
        return result
