"""What agents print of their turns and of what they cost, and what else may be printed."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.agent_output import AgentOutput, classify


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
    output = AgentOutput(kind, json.loads)
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
    assert (output.cost_usd, output.verdict) == (None, None)


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
    assert output.verdict is None


def test_one_object_at_the_end_tells_turns_and_bounds_none():
    for text in ({"type": "result", "num_turns": 9}, [{"type": "result", "num_turns": 9}]):
        output = read(json.dumps(text).encode())

        assert (output.counted, output.turns) == (None, 9)


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        ({"subtype": "error_max_turns", "is_error": True}, "turn_limit_exceeded"),
        ({"subtype": "error_max_budget_usd", "is_error": True}, "budget_exceeded"),
        ({"subtype": "error_during_execution", "errors": ["it broke"]}, "sdk_error"),
        ({"subtype": "success", "is_error": True, "result": "API Error: 429 rate limit"}, "rate_"),
        ({"subtype": "success", "is_error": True, "result": "Please run /login"}, "auth_failed"),
        ({"subtype": "success", "is_error": True, "result": "return limit reached"}, "sdk_error"),
        ({"subtype": "success", "is_error": False, "result": "rate limit"}, None),
    ],
)
def test_claude_says_itself_how_it_failed(event: dict[str, object], verdict: str | None):
    found = read(a_line(type="result", **event)).verdict

    assert (None if found is None else found[0].startswith(verdict or "?")) == (verdict and True)


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

    assert (output.counted, output.tokens, output.verdict) == (4, 1234, None)


GAVE_UP = "I've reached the maximum number of actions I can do without user input. Continue?"


def test_goose_that_gives_up_has_reached_its_own_limit_of_turns():
    for text in (goose("m", GAVE_UP), f"{GAVE_UP}\n\n".encode()):
        verdict = read(text, kind="goose").verdict
        assert verdict is not None
        assert verdict[0] == "turn_limit_exceeded"

    later = read(goose("m", GAVE_UP), *[goose(f"m{number}") for number in range(9)], kind="goose")
    assert later.verdict is None


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

    assert (output.counted, output.tokens, output.verdict) == (3, 1000, None)


def test_codex_that_only_speaks_takes_a_turn_for_each_thing_it_says():
    said = item("completed", "agent_message")

    assert read(CODEX_BEGINS, said, said, said, CODEX_ENDS).counted == 3
    assert read((CODEX_BEGINS + said + CODEX_ENDS) * 4).counted == 4
    assert read(CODEX_ENDS * 4).counted == 4


def test_codex_fails_by_its_events_and_whoever_goes_on_has_not_failed():
    failed = a_line(type="turn.failed", error={"message": "usage limit reached"})
    retried = a_line(type="error", message="Reconnecting... 1/5")

    assert read(CODEX_BEGINS, retried, CODEX_ENDS).verdict is None
    assert read(CODEX_BEGINS, failed).verdict == ("rate_limited", "usage limit reached")
    assert read(CODEX_BEGINS, failed, CODEX_BEGINS, CODEX_ENDS).verdict is None


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
    output = AgentOutput("claude", json.loads)
    for _ in range(40):
        output.feed(b"x" * (1 << 18))
        assert len(output._rest) <= 1 << 20
    output.feed(b"\n" + claude("a"))
    output.feed(b'{"type": "user", "text": "' + b"y" * (3 << 20) + b'"}\n' + claude("b"))

    assert output.counted == 2


def test_names_without_end_take_no_memory():
    output = AgentOutput("any", json.loads)
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


JSON_429 = (
    '{"error":{"message":"{\\n  \\"error\\": {\\n    \\"code\\": 429,\\n    \\"message\\": '
    '\\"You exceeded your current quota.\\"' + " " * 20 + "x" * 900 + '\\n "retryDelay": "36s"}}'
)
# As which reason text counts that tells of a failure; what real agents print, and what only
# looks like it.
WORDS = {
    "aborted": (
        "AbortError: aborted",
        "Request was aborted.",
        "aborted: 429 Too Many Requests after a timeout",
    ),
    "turn_limit_exceeded": (
        "Agent exhausted its turn limit (42 turns used)",
        "Reached maximum number of turns (1)",
        "error_max_turns",
        "Reached max session turns for this session. Increase the number of turns by …",
        "FatalTurnLimitedError: maxSessionTurns reached",
        "I've reached the maximum number of actions I can do without user input. Would you …",
        "it went over its limit of 40 turns before the timeout",
    ),
    "timeout": (
        "API Error (Request timed out.) · check your network",
        "Timeouts of the provider: authentication was not reached",
        "connect ETIMEDOUT 10.0.0.1:443",
        "rate limit, or timeout? nobody knows",
    ),
    "budget_exceeded": (
        "Reached maximum budget ($0.01)",
        "Budget of the OAuth client is used up",
    ),
    "auth_failed": (
        "Invalid API key · Please run /login",
        "Not logged in · Please run /login",
        'API Error: 401 {"type":"error","error":{"type":"authentication_error"}} · Please …',
        "OAuth token has expired. Please obtain a new token or refresh your existing token.",
        "oauth_org_not_allowed",
        "exceeded retry limit, last status: 401 Unauthorized, request id: 9a57-SIN",
        "Your access token could not be refreshed. Please log out and sign in again.",
        "API key not valid. Please pass a valid API key.",
        "Incorrect API key provided: sk-…",
        "Credit balance is too low",
        "Authentication_error: too many requests",
        "unexpected status 401: see the log",
    ),
    "rate_limited": (
        "HTTP 429 rate limit",
        "Rate limits were reached",
        "error: api_rate_limit_error",
        "(429) Too Many Requests",
        "Claude AI usage limit reached|1749924000",
        "5-hour limit reached ∙ resets 3pm",
        "You've hit your limit · resets 2am (Europe/Warsaw)",
        "You\u2019ve hit your session limit · resets 8:30pm (Asia/Tokyo)",
        "You've hit your usage limit. Upgrade to Pro or try again in 3 days 4 hours 5 minutes.",
        "usage_limit_reached: The usage limit has been reached",
        "exceeded retry limit, last status: 429 Too Many Requests, request id: c4fc",
        "Request failed: Rate limit exceeded: please retry after 20 seconds",
        "Resource has been exhausted (e.g. check quota).",
        "You have exhausted your capacity on this model. Your quota will reset after 2h3m4s.",
        'API Error: 529 {"type":"error","error":{"type":"overloaded_error"}}',
        "API Error: Repeated 529 Overloaded errors",
        "wrong turn: the rate limit of the API",
        "turn 3 failed: usage limit",
    ),
    "sdk_error": (
        "something weird",
        "Request failed: Request failed with status: 400 Bad Request",
        "Reconnecting... 2/5",
        # A part of another word is not that word, and words that stand apart say something else.
        "the return limit was reached",
        "the tool has a separate limit",
        "over the corporate limit",
        "a nocturnal turn of events",
        "deauthentication of the badge failed",
        "setTimeout is not defined",
        "a budgetary question",
        "unaborted",
        "no overloaded function matches the call",
        "error in line 401, and 429 files were read",
        "it used 1,429 tokens on port 529",
        "the login page does not exist",
        "retry limit",
    ),
}


@pytest.mark.parametrize(("reason", "words"), [(one, each) for one in WORDS for each in WORDS[one]])
def test_s15_how_an_agent_failed_is_told_by_whole_words_in_one_order(words: str, reason: str):
    failed = a_line(type="turn.failed", error={"message": words})

    assert read(CODEX_BEGINS, failed).verdict == (reason, words)


def test_s15_the_line_that_decided_it_is_kept_with_when_it_goes_on():
    limit = "You've hit your session limit · resets 5:40pm (Europe/Berlin)"
    noise = "\n\n\x1b[31mCould not do it\x1b[0m\n"

    # What follows it there speaks of another account, and is no failure to log in.
    assert classify(f"{noise}  {limit}\n/login to switch to another account") == (
        "rate_limited",
        limit,
    )
    assert classify(noise) == ("sdk_error", "Could not do it")
    assert classify("") == ("sdk_error", "it says that it failed, and not why")
    for text in (JSON_429, "x " * 400 + "rate limit " + "y " * 400 + "resets 3pm " + "z" * 400):
        reason, words = classify(text)
        assert reason == "rate_limited"
        assert len(words) <= 300
        assert ("retryDelay" in words) == (text is JSON_429)
        assert ("resets 3pm" in words) == (text is not JSON_429)


def test_s15_what_is_told_in_megabytes_is_judged_quickly():
    for text in (
        "hit your " * 10**6,
        "a\n" * 10**6,
        "\x1b[" * 10**6,
        "\U0001d504" * 10**6,
        "max" * 10**6,
    ):
        started = time.process_time()
        assert classify(text)[0] == "sdk_error"
        assert time.process_time() - started < 1


@pytest.mark.parametrize("kind", ["claude", "codex", "goose"])
def test_s15_an_agent_that_only_exits_is_judged_by_its_last_lines(kind: str):
    said = (b"I looked at the rate limit code.\n", *[b"and so on\n"] * 9)
    cases = {
        "Invalid API key · Please run /login\n": "auth_failed",
        "Error: boom\n    at main (cli.js:1:2)\n" + "    at x\n" * 20: "sdk_error",
        "\n\n": "sdk_error",
    }
    for text, reason in cases.items():
        output = read(*said, text.encode(), kind=kind)

        assert output.judge(0) is None
        found = output.judge(3)
        assert found is not None
        assert found[0] == reason

    assert read(b"Error: boom\n", kind=kind).judge(3) == ("sdk_error", "exit code 3: Error: boom")
    assert read(kind=kind).judge(3) == ("sdk_error", "exit code 3: and said nothing")
    assert read(*said, b"rate limit\n", kind="any").judge(3) is None


def test_s15_what_claude_says_beside_its_words_counts_where_they_say_nothing():
    def claude_failed(**more: object) -> bytes:
        return a_line(type="result", subtype="success", is_error=True, **more)

    limit = a_line(
        type="rate_limit_event", rate_limit_info={"status": "rejected", "resetsAt": 1774447200}
    )
    warned = a_line(
        type="rate_limit_event", rate_limit_info={"status": "allowed", "resetsAt": 1774447200}
    )
    refused = a_line(type="assistant", message={"id": "s"}, error="rate_limit")

    assert read(warned, claude_failed(result="odd")).verdict == ("sdk_error", "odd")
    assert read(claude_failed(result="odd", api_error_status=429)).verdict == (
        "rate_limited",
        "API status 429",
    )
    assert read(refused, limit, claude_failed(result="odd")).verdict == (
        "rate_limited",
        "rate_limit … limit resets at 1774447200",
    )
    # It went on after it.
    assert read(refused, claude("a"), claude_failed(result="odd")).verdict == ("sdk_error", "odd")
    assert read(
        a_line(type="result", subtype="error_max_turns", errors=["Reached maximum of 1"])
    ).verdict == ("turn_limit_exceeded", "Reached maximum of 1")


def test_s15_codex_that_ends_after_an_error_ended_for_it():
    tried = a_line(type="error", message="You've hit your usage limit. Try again in 4 hours.")

    assert read(CODEX_BEGINS, tried, kind="codex").judge(1) == (
        "rate_limited",
        "You've hit your usage limit. Try again in 4 hours.",
    )
    assert read(CODEX_BEGINS, tried, CODEX_ENDS, kind="codex").judge(0) is None
