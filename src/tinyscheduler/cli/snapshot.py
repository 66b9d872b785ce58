"""``snapshot``: all that a tick would know now, and what it would decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import option
from tinyscheduler.cli.render import emit_json
from tinyscheduler.cli.run import exit_code

if TYPE_CHECKING:
    import typer

_NAMES_ARE_TOLD = (
    "titles and labels of tasks are in it: a policy of your own decided, and may look at them"
)


def snapshot(
    context: typer.Context,
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document, as always.")] = False,
) -> int:
    """Print what a tick would decide on now.

    One JSON document: all that a dry run sees, and its plan. `replay` decides on it again,
    here or elsewhere. No command, prompt, path or output of a task is in it, and titles and
    labels only where a policy of your own decided. Changes nothing; ends as a dry run does.
    """
    invocation: Invocation = context.obj
    del json  # there is no other way to tell all of it
    from tinyscheduler.app.replaying import round_of
    from tinyscheduler.app.ticks import foresee_all
    from tinyscheduler.model.rounds import encode_round

    foresight = foresee_all(invocation.configure_reading(), sees_gpus=False)
    for error in foresight.report.errors:
        invocation.fail(f"{error.where}: {error.message}")
    one = round_of(foresight)
    if one.tells_names:
        invocation.note(_NAMES_ARE_TOLD)
    emit_json(**encode_round(one))
    return exit_code(foresight.report, fail_if_locked=False)
