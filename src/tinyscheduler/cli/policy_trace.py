"""``policy trace``: what did the policy say in recent ticks?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.adapters.policy_trace_file import encode_entry, read_trace
from tinyscheduler.cli.render import Ink, count, emit, emit_json, escape, wrap
from tinyscheduler.errors import EXIT_DONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.adapters.policy_trace_file import TraceEntry
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.cli.render import Page
    from tinyscheduler.model.policy import PolicyCall

DEFAULT_LIMIT = 20


def show_trace(invocation: Invocation, *, limit: int | None, is_json: bool) -> int:
    """Print the newest ticks that asked a policy of one's own, oldest first."""
    config = invocation.configure_reading()
    entries, damaged = read_trace(config.paths, limit=limit or DEFAULT_LIMIT)
    if damaged:
        lines = count(damaged, "line")
        invocation.warn(f"left out {lines} of state/policies/trace.jsonl that cannot be read")
    if is_json:
        ticks = []
        for entry in entries:
            document = encode_entry(entry)
            del document["version"]
            ticks.append(document)
        emit_json(ticks=ticks, damaged=damaged)
        return EXIT_DONE
    if not entries:
        invocation.note("no tick has asked a policy of your own yet")
        return EXIT_DONE
    page = invocation.page
    emit("\n\n".join("\n".join(_lines(entry, page)) for entry in entries))
    return EXIT_DONE


def _lines(entry: TraceEntry, page: Page) -> Iterator[str]:
    by = f"{entry.policy} {entry.version}".rstrip()
    yield page.paint(escape(f"{entry.at}  tick {entry.tick_id}  {by}"), Ink.BOLD)
    if entry.left_out:
        yield f"  … {count(entry.left_out, 'earlier question')}"
    for call in entry.calls:
        yield from wrap(f"  {escape(_call_words(call))}", page)
        for level, text in call.log:
            yield from wrap(f"    log {escape(level)}: {escape(text)}", page)
        for name, number in call.metrics.items():
            yield f"    {escape(name)} = {number:g}"
    if entry.fallback is not None:
        words = f"the platform policy decided ({entry.fallback}): {entry.words or ''}"
        yield from (page.paint(line, Ink.YELLOW) for line in wrap(f"  {escape(words)}", page))


def _call_words(call: PolicyCall) -> str:
    about = f"{count(call.jobs, 'job')} (context {call.context})"
    if call.cause is not None:
        return f"{about}: failed ({call.cause})"
    told = ", ".join(f"{number} {action}" for action, number in call.decisions.items())
    took = "" if call.cpu_ms is None else f"; {call.cpu_ms:.1f} ms of CPU"
    if call.instructions:
        took += f", {call.instructions} instructions"
    return f"{about}: {told or 'nothing'}{took}"
