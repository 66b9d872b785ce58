"""``policy templates``: policies to start from, each with the fixtures that it passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.cli.render import emit, emit_json, format_table
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import EXIT_DONE, NotFoundError
from tinyscheduler.policy.sources import (
    FIXTURES,
    describe_template,
    read_template,
    read_template_fixtures,
    template_names,
)

if TYPE_CHECKING:
    from tinyscheduler.cli.invocation import Invocation


def list_templates(invocation: Invocation, *, is_json: bool) -> int:
    """Say what there is to start from."""
    described = [(name, describe_template(name)) for name in template_names()]
    if is_json:
        emit_json(templates=[{"name": name, "description": words} for name, words in described])
        return EXIT_DONE
    emit("\n".join(format_table(["NAME", "WHAT IT DOES"], described, invocation.page)))
    invocation.advise(
        "`tinyscheduler policy templates NAME` prints one,"
        f" `tinyscheduler policy templates NAME{FIXTURES}` its fixtures"
    )
    return EXIT_DONE


def print_template(wanted: str, *, is_json: bool) -> int:
    """Print a template, or its fixtures where those are named."""
    name = wanted.removesuffix(FIXTURES).removesuffix(".lua")
    known = template_names()
    if name not in known:
        raise NotFoundError(f"there is no template {quote(wanted)}", hint=did_you_mean(name, known))
    source, fixtures = read_template(name).decode(), read_template_fixtures(name).decode()
    if is_json:
        emit_json(name=name, description=describe_template(name), source=source, fixtures=fixtures)
    else:
        emit((fixtures if wanted.endswith(FIXTURES) else source).rstrip("\n"))
    return EXIT_DONE
