"""What agents print of their turns, of what they cost and at last, and what else may be printed."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.agent_outcomes import Judge
from tinyscheduler.agent_output import AgentOutput


def a_line(**event: object) -> bytes:
    return json.dumps(event).encode() + b"\n"


def claude(name: str | None, *, usage: dict[str, int] | None = None, **more: object) -> bytes:
    message: dict[str, object] = {"id": name, "role": "assistant", "usage": usage or {}}
    return a_line(type="assistant", message=message, parent_tool_use_id=None, **more)


def goose(name: str | None, text: str = "…") -> bytes:
    message = {"id": name, "role": "assistant", "content": [{"type": "text", "text": text}]}
    return a_line(type="message", message=message)


def item(what: str, kind: str, name: str = "item_0") -> bytes:
    return a_line(type=f"item.{what}", item={"id": name, "type": kind})


CODEX_BEGINS = a_line(type="thread.started", thread_id="t") + a_line(type="turn.started")
CODEX_ENDS = a_line(
    type="turn.completed",
    usage={"input_tokens": 900, "cached_input_tokens": 800, "output_tokens": 100},
)


def read(*pieces: bytes, kind: str = "any") -> AgentOutput:
    output = AgentOutput(kind, json.loads, Judge())
    for piece in pieces:
        output.feed(piece)
    output.close()
    return output


def test_a_message_of_claude_is_one_turn_however_many_parts_it_comes_in():
    output = read(
        a_line(type="system", subtype="init", session_id="s"),
        claude("a", usage={"input_tokens": 10, "output_tokens": 1}),
        claude("a", usage={"input_tokens": 10, "output_tokens": 5}),
        a_line(type="user", message={"role": "user", "content": []}),
        claude("b", usage={"output_tokens": 7, "cache_read_input_tokens": 3}),
    )

    assert (output.counted, output.turns, output.tokens) == (2, 2, 25)
    assert output.cost_usd is None


def test_turns_of_a_subagent_are_not_turns_of_the_agent_but_cost_tokens():
    sub = {"id": "s", "role": "assistant", "usage": {"output_tokens": 9}}
    output = read(
        claude("a"), a_line(type="assistant", message=sub, parent_tool_use_id="tool_1"), claude("b")
    )

    assert (output.counted, output.tokens) == (2, 9)


def test_parts_of_messages_are_put_together_though_subagents_speak_in_between():
    def sub(name: str, tool: str, tokens: int) -> bytes:
        message = {"id": name, "role": "assistant", "usage": {"output_tokens": tokens}}
        return a_line(type="assistant", message=message, parent_tool_use_id=tool)

    output = read(
        claude("a", usage={"output_tokens": 1}),
        sub("s", "tool_1", 10),
        sub("t", "tool_2", 100),
        claude("a", usage={"output_tokens": 5}),
        sub("s", "tool_1", 20),
        sub("t", "tool_2", 100),
        sub("u", "tool_1", 30),
    )

    assert (output.counted, output.tokens) == (1, 5 + 20 + 100 + 30)


def test_what_claude_tells_at_its_end_counts_before_what_was_seen():
    result = {"subtype": "success", "is_error": False, "num_turns": 4, "total_cost_usd": 0.25}
    output = read(
        claude("a", usage={"output_tokens": 7}),
        a_line(type="result", usage={"input_tokens": 90, "output_tokens": 10}, **result),
    )

    assert (output.counted, output.turns, output.tokens, output.cost_usd) == (1, 4, 100, 0.25)


def test_one_object_at_the_end_tells_turns_and_bounds_none():
    for text in ({"type": "result", "num_turns": 9}, [{"type": "result", "num_turns": 9}]):
        output = read(json.dumps(text).encode())

        assert (output.counted, output.turns) == (None, 9)


def test_a_message_of_goose_may_come_in_pieces_and_one_without_a_name_is_a_turn_each():
    output = read(
        goose("m1"),
        goose("m1"),
        a_line(type="message", message={"role": "user", "content": []}),
        goose("m2"),
        goose(None),
        goose(None),
        a_line(type="complete", total_tokens=1234),
        kind="goose",
    )

    assert (output.counted, output.tokens) == (4, 1234)


def test_goose_for_people_shows_each_tool_that_it_uses():
    rule = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    shown = f"\x1b[2m{rule * 3} shell | developer {rule * 26}\x1b[0m\ncommand: ls\n\n".encode()

    assert read(b"starting session\n", shown, b"a | b\n", shown, kind="goose").counted == 2
    assert read(shown).counted is None


@pytest.mark.parametrize("indent", [None, 2])
def test_the_document_of_goose_is_read_in_one_line_and_in_many(indent: int | None):
    said = {"type": "text", "text": '"role": "assistant",\n'}
    document = {
        "messages": [
            {"id": None, "role": role, "created": 1, "content": [said]}
            for role in ("user", "assistant", "user", "assistant")
        ],
        "metadata": {"total_tokens": 77, "status": "completed"},
    }
    output = read(json.dumps(document, indent=indent).encode(), kind="goose")

    assert (output.counted, output.turns, output.tokens) == (None, 2, 77)


def test_an_answer_of_codex_is_what_it_says_and_runs_until_it_has_the_results():
    output = read(
        CODEX_BEGINS,
        item("completed", "reasoning"),
        item("completed", "agent_message"),
        item("started", "command_execution", "item_1"),
        item("started", "command_execution", "item_2"),
    )
    assert output.counted == 1
    output.feed(item("completed", "command_execution", "item_1"))
    output.feed(item("completed", "command_execution", "item_2"))
    assert output.counted == 1
    output.feed(item("started", "mcp_tool_call", "item_3"))
    assert output.counted == 2
    output.feed(item("completed", "mcp_tool_call", "item_3") + item("completed", "agent_message"))
    output.feed(CODEX_ENDS)

    assert (output.counted, output.tokens) == (3, 1000)


def test_codex_that_only_speaks_takes_a_turn_for_each_thing_it_says():
    said = item("completed", "agent_message")

    assert read(CODEX_BEGINS, said, said, said, CODEX_ENDS).counted == 3
    assert read((CODEX_BEGINS + said + CODEX_ENDS) * 4).counted == 4
    assert read(CODEX_ENDS * 4).counted == 4


@given(sizes=st.lists(st.integers(1, 400), min_size=1), seed=st.integers())
def test_it_counts_the_same_in_pieces_of_any_size(sizes: list[int], seed: int):
    lines = [claude(f"m{number}", usage={"output_tokens": number}) for number in range(30)]
    lines += [b"\0\xff\xfe not JSON\r\n", b"\n", b"{\n", b'{"type": "assistant"'] * 3
    random.Random(seed).shuffle(lines)
    text = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
    pieces: list[bytes] = []
    at = 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size

    output = read(*pieces)

    assert (output.counted, output.tokens) == (30, sum(range(30)))


@given(st.lists(st.binary(max_size=200)))
def test_output_may_be_anything(pieces: list[bytes]):
    for kind in ("claude", "goose", "codex", "any"):
        read(*pieces, kind=kind)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        (
            *("message", "item", "usage", "num_turns", "total_cost_usd", "total_tokens", "result"),
            *("errors", "error", "subtype", "is_error", "messages", "metadata", "id", "role"),
        )
    ),
    ANYTHING | st.dictionaries(st.sampled_from(("id", "type", "role", "usage", "text")), ANYTHING),
)
TYPES = ("assistant", "message", "result", "complete", "error", "turn.started", "turn.failed")
ITEMS = ("turn.completed", "item.started", "item.completed")


@given(st.lists(st.tuples(st.sampled_from((*TYPES, *ITEMS, None)), FIELDS), max_size=6))
def test_events_may_say_anything(events: list[tuple[str | None, dict[str, object]]]):
    for kind in ("claude", "goose", "codex"):
        output = read(*[a_line(**{**fields, "type": name}) for name, fields in events], kind=kind)

        for number in (output.turns, output.counted, output.tokens, output.cost_usd):
            assert number is None or 0 <= number < 10**17


def test_a_line_without_end_takes_no_memory_and_the_next_one_counts():
    output = AgentOutput("claude", json.loads, Judge())
    for _ in range(40):
        output.feed(b"x" * (1 << 18))
        assert len(output._rest) <= 1 << 20
    output.feed(b"\n" + claude("a"))
    output.feed(b'{"type": "user", "text": "' + b"y" * (3 << 20) + b'"}\n' + claude("b"))

    assert output.counted == 2


def test_names_without_end_take_no_memory():
    output = AgentOutput("any", json.loads, Judge())
    for number in range(1100):
        name = f"{number:05}" + "x" * 10_000
        output.feed(item("started", "command_execution", name))
        message = {"id": name, "role": "assistant"}
        output.feed(a_line(type="assistant", message=message, parent_tool_use_id=name))

    kept = [*output._codex_running, *map(str, output._last.items())]
    assert sum(map(len, kept)) < 1 << 20


def test_numbers_that_cannot_be_are_none():
    for number in (-1, 10**30, 1.5, True, "7", float("nan"), None):
        told = {"num_turns": number, "total_cost_usd": -1, "usage": {"input_tokens": number}}
        output = read(a_line(type="result", **told))

        assert (output.turns, output.cost_usd, output.tokens) == (None, None, None)
