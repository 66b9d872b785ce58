"""Does the end of an output say that there was nothing to do?"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.agent_outcomes import Judge
from tinyscheduler.agent_output import AgentOutput
from tinyscheduler.core.heartbeats import NOTHING_TO_DO
from tinyscheduler.wrapper import says_nothing_to_do

OK = NOTHING_TO_DO
CLAUDE = {"type": "result", "subtype": "success", "is_error": False, "num_turns": 2}
CODEX = {"type": "item.completed", "item": {"id": "1", "type": "agent_message"}}


def lines(*documents: object) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in documents)


def says_so(text: bytes, kind: str = "any") -> bool:
    output = AgentOutput(kind, json.loads, Judge())
    output.feed(text)
    output.close()
    return says_nothing_to_do(output.answer or output.last_line)


def in_pieces(*texts: str, name: str = "m1") -> str:
    """Return a message as goose prints it while the model still speaks."""
    return lines(
        *(
            {
                "type": "message",
                "message": {
                    "id": name,
                    "role": "assistant",
                    "content": [{"type": "text", "text": text}],
                },
            }
            for text in texts
        )
    )


@pytest.mark.parametrize(
    "text",
    [
        OK,
        in_pieces("All is", " well.\n\nHEART", "BEAT", "_OK") + lines({"type": "complete"}),
        in_pieces("the disk is full", name="m0") + in_pieces("HEARTBEAT", "_OK", "\n"),
        f"{OK}\n",
        f"I looked at all of it.\n\n{OK}\n\n \n",
        f"  {OK}  \r\n",
        f"**{OK}**\n",
        f"`{OK}`.",
        lines({**CLAUDE, "result": OK}),
        lines({**CLAUDE, "result": f"All is well.\n\n{OK}\n"}),
        lines({"type": "system"}, {"type": "assistant"}, {**CLAUDE, "result": OK}),
        lines(
            {"type": "turn.started"},
            {**CODEX, "item": {**CODEX["item"], "text": f"fine\n{OK}"}},  # type: ignore[dict-item]  # it is a mapping
            {"type": "turn.completed", "usage": {"input_tokens": 3}},
        ),
        lines({"response": OK, "stats": {}}),
        # What is printed beside its answer is not its answer.
        lines({**CLAUDE, "result": OK}) + "npm warn: old\n",
    ],
)
def test_an_answer_whose_last_line_is_the_word_says_so(text: str):
    assert says_so(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "the disk is full",
        f"{OK} but the disk is full",
        f"{OK}\nthe disk is full",
        f"not {OK}",
        in_pieces("not ", OK) + lines({"type": "complete", "total_tokens": 7}),
        in_pieces(f"{OK}\n", name="m0") + in_pieces("the disk", " is full"),
        OK.lower(),
        f"{OK}!?",
        "{broken json",
        "{}",
        lines({**CLAUDE, "result": "the disk is full"}),
        lines({**CLAUDE, "result": f"{OK}, but the disk is full"}),
        lines({"type": "turn.completed"}),
        lines({**CODEX, "item": {"type": "agent_message", "text": "full"}}),
        f"{OK}\n" + lines({**CLAUDE, "result": "the disk is full"}),
        lines({"content": []}, {"content": [3]}, {"item": 3}, {"message": None}),
        # Nobody looks so deep into it, whatever can be read.
        '{"item":' * 20 + f'{{"text": "{OK}"}}' + "}" * 20,
        '{"item":' * 5000 + "1" + "}" * 5000,
    ],
)
def test_any_other_does_not(text: str):
    assert not says_so(text.encode())


@given(st.binary(max_size=200) | st.text().map(lambda text: f"{{{text}".encode(errors="replace")))
def test_nothing_that_is_printed_is_too_odd_to_be_judged(output: bytes):
    for kind in ("any", "claude", "goose"):
        assert says_so(output, kind) in {True, False}
