"""As what the end of an attempt counts: by words, and by the rules of a profile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.agent_outcomes import Judge, classify
from tinyscheduler.agent_output import AgentOutput
from tinyscheduler.core.profiles import find_profile, profile_document

if TYPE_CHECKING:
    from collections.abc import Sequence

AGENTS = ("claude", "codex", "gemini", "goose")


def a_line(**event: object) -> bytes:
    return json.dumps(event).encode() + b"\n"


def judge(
    profile: str | dict[str, object], *pieces: bytes, code: int = 0
) -> tuple[str, str] | None:
    """Return how an output that ends with this exit code failed."""
    if isinstance(profile, str):
        known = find_profile(profile)
        assert known is not None
        kind, rules = known.output or "any", profile_document(known)
    else:
        kind, rules = "any", profile
    watcher = Judge(rules)
    output = AgentOutput(kind, json.loads, watcher)
    for piece in pieces:
        output.feed(piece)
    output.close()
    return watcher.judge(code, output.answer)


def reason(profile: str, *pieces: bytes, code: int = 0) -> str | None:
    found = judge(profile, *pieces, code=code)
    return None if found is None else found[0]


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
        'API Error: 400 {"error":{"message":"This organization has been disabled."}}',
        "Your organization has disabled Claude subscription access for Claude Code",
        "Your organization does not have access to Claude. Please login again or contact …",
        "Please set an Auth method in your settings.json or specify one of the following …",
        "Your workspace is out of credits. Ask your workspace owner to refill.",
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

    assert classify(words) == (reason, words)
    assert judge("codex", failed) == (reason, words)


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
    # However few of its characters are those of words.
    dense = '{"":"","a":[["' * 100
    found = classify(f'{dense}rate limit"{dense}"resets_at": 1767239472,{dense}')
    assert found[0] == "rate_limited"
    assert "rate limit" in found[1]
    assert 'resets_at": 1767239472' in found[1]


def test_s15_what_is_told_in_megabytes_is_judged_all_the_same():
    hostile = ("hit your ", "a\n", "\x1b[", "\U0001d504", "max", "max ")
    pattern: dict[str, object] = {
        "outcomes": [{"last_line": ["*a*a*a*a*a*a*a*a*b"], "then": "success"}]
    }

    # What took more time than grows with the text would not end within that of a test.
    for text in hostile:
        assert classify(text * 10**6)[0] == "sdk_error"
    assert judge(pattern, b"a " * 10**5) is not None


@pytest.mark.parametrize("kind", AGENTS)
def test_s15_an_agent_that_only_exits_is_judged_by_its_last_lines(kind: str):
    said = (b"I looked at the rate limit code.\n", *[b"and so on\n"] * 9)

    assert judge(kind, *said) is None
    assert reason(kind, *said, code=3) == "sdk_error"
    assert reason(kind, *said, "Invalid API key · Please run /login\n".encode(), code=3) == (
        "auth_failed"
    )
    trace = b"Error: boom\n    at main (cli.js:1:2)\n" + b"    at x\n" * 20
    assert judge(kind, trace, code=3) == ("sdk_error", "exit code 3: Error: boom")
    assert judge(kind, code=3) == ("sdk_error", "exit code 3: it printed nothing")
    # Who says nothing at all has not done it.
    assert judge(kind, b" \n\n") == ("sdk_error", "it printed nothing (exit code 0)")


def test_what_a_model_speaks_of_has_not_befallen_its_agent():
    """Else its account would cool, or its agent be paused, by the content of a task."""
    words = "Next I raise the rate limit."
    message = {"id": "m", "role": "assistant", "content": [{"type": "text", "text": words}]}
    crash = b"Error: boom\n    at main (cli.js:1:2)\n"

    for kind, said in (
        ("claude", a_line(type="assistant", message=message)),
        ("goose", a_line(type="message", message=message)),
        ("codex", a_line(type="item.completed", item={"type": "agent_message", "text": words})),
        ("gemini", a_line(type="message", role="assistant", content=words)),
        # What a tool has failed with, too.
        ("gemini", a_line(type="tool_result", status="error", error={"message": words})),
    ):
        assert judge(kind, said, crash, code=1) == ("sdk_error", "exit code 1: Error: boom")
    # But for claude's own words in the place of its model's.
    refused = a_line(type="assistant", message=message, error="rate_limit")
    assert judge("claude", refused, code=1) == ("rate_limited", words)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("goose", "Mended: it says 'Ran into this error: rate limit' no more."),
        (
            "goose",
            "It has reached the maximum number of actions I can do without user input early.",
        ),
        ("claude", "- API errors: handled"),
        ("claude", "API error handling is done."),
        ("claude", "Not logged in users see the login page."),
        ("claude", "OAuth token refresh works."),
        ("codex", "- Error handling covers all cases."),
        ("gemini", "The API error handling is done."),
    ],
)
def test_an_answer_that_speaks_of_failures_is_none(kind: str, line: str):
    assert judge(kind, f"All is done.\n{line}\n".encode()) is None


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Rate limit exceeded: Please retry after 20 seconds", "rate_limited"),
        ("Server error: 500", "sdk_error"),
        ("Authentication error: 401 Unauthorized", "auth_failed"),
    ],
)
def test_what_goose_says_below_every_error_is_not_what_happened(
    words: str, expected: str, code: int
):
    """It speaks of authentication there, whatever it was."""
    text = (
        f"I look at OAuth.\nError: {words}\n\nYes — what would you like me to do?\n"
        "\n  error: The error above was an exception we were not able to handle.\n"
        "These errors are often related to connection or authentication\n"
        "We've removed the conversation up to the most recent user message\n"
        "- depending on the error you may be able to continue\n\n"
    )

    # Newer ones say it once more at the end, and exit as they should.
    found = judge("goose", text.encode(), f"Error: {words}\n".encode() * code, code=code)

    assert found == (expected, f"Error: {words}")


def test_what_goose_shows_in_a_text_for_people_is_no_event():
    shown = a_line(type="error", error="OAuth token expired: rate limit")
    older = "─── shell | developer ──────────\ncommand: cat log\n".encode()
    newer = f"\n  {'─' * 40}\n  ▸ shell developer\n    command: cat log\n".encode()

    for rule in (older, newer):
        assert judge("goose", rule, shown, b"Mended.\n") is None
        assert judge("goose", shown, rule, b"Mended.\n") is None
    assert reason("goose", shown) == "auth_failed"


def test_a_line_that_is_too_long_to_be_read_is_told_of():
    events = [{"type": "user", "text": "x" * (3 << 20)}, {"type": "result", "is_error": True}]
    cut = ("sdk_error", "its output is cut off: a line of more than 1 MiB")
    pieces = [json.dumps(events).encode()[at : at + 4096] for at in range(0, 3 << 20, 4096)]

    assert judge("claude", *pieces, b"}]\n") == cut
    assert judge("claude", json.dumps(events).encode()) == cut
    # It is no news where others follow, and words where it is no event.
    done = a_line(type="result", subtype="success", is_error=False, result="ok")
    assert judge("claude", *pieces, b"\n", done) is None
    assert judge("claude", b"x" * (3 << 20)) is None


def test_s15_a_plain_command_is_judged_by_its_exit_code_alone():
    assert judge("shell", b"rate limit\n") is None
    assert judge("shell", b"rate limit\n", code=3) == ("command_failed", "exit code 3: rate limit")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"subtype": "error_max_turns", "is_error": True}, "turn_limit_exceeded"),
        ({"subtype": "error_max_budget_usd", "is_error": True}, "budget_exceeded"),
        ({"subtype": "error_during_execution", "errors": ["it broke"]}, "sdk_error"),
        ({"subtype": "success", "is_error": True, "result": "API Error: 429 …"}, "rate_limited"),
        ({"subtype": "success", "is_error": True, "result": "Please run /login"}, "auth_failed"),
        ({"subtype": "success", "is_error": True, "result": "return limit"}, "sdk_error"),
        ({"subtype": "success", "is_error": False, "result": "rate limit"}, None),
        # Whatever is not exactly that is no success.
        ({"subtype": "success", "result": "done"}, "sdk_error"),
        ({"subtype": "success", "is_error": "false", "result": "done"}, "sdk_error"),
        ({"subtype": None, "is_error": False, "result": "done"}, "sdk_error"),
    ],
)
def test_claude_says_itself_how_it_failed(event: dict[str, object], expected: str | None):
    assert reason("claude", a_line(type="result", **event)) == expected


def test_what_claude_says_beside_its_words_counts_where_they_say_nothing():
    def failed(**more: object) -> bytes:
        return a_line(type="result", subtype="success", is_error=True, **more)

    def limit(status: str) -> bytes:
        info = {"status": status, "resetsAt": 1774447200}
        return a_line(type="rate_limit_event", rate_limit_info=info)

    went_on = a_line(type="assistant", message={"id": "a"})
    refused = a_line(type="assistant", message={"id": "s"}, error="rate_limit")

    assert judge("claude", limit("allowed"), failed(result="odd")) == ("sdk_error", "odd")
    assert judge("claude", failed(result="odd", api_error_status=429)) == (
        "rate_limited",
        "API status 429",
    )
    assert judge("claude", refused, limit("rejected"), failed(result="odd")) == (
        "rate_limited",
        "rate_limit … limit resets at 1774447200",
    )
    # Let in again since: what holds it up now ends at another time.
    assert judge("claude", limit("rejected"), limit("allowed"), failed(result="HTTP 429")) == (
        "rate_limited",
        "HTTP 429",
    )
    assert judge("claude", refused, went_on, failed(result="odd")) == ("sdk_error", "odd")
    assert judge(
        "claude", a_line(type="result", subtype="error_max_turns", errors=["Reached maximum of 1"])
    ) == ("turn_limit_exceeded", "Reached maximum of 1")


BEGINS = a_line(type="thread.started", thread_id="t") + a_line(type="turn.started")
ENDS = a_line(type="turn.completed", usage={"input_tokens": 9})
TRIED = a_line(type="error", message="You've hit your usage limit. Try again in 4 hours.")
FAILED = a_line(type="turn.failed", error={"message": "usage limit reached"})


@pytest.mark.parametrize(
    ("pieces", "code", "expected"),
    [
        ((BEGINS, ENDS), 0, None),
        ((BEGINS, TRIED, ENDS), 0, None),
        ((BEGINS, FAILED), 0, "rate_limited"),
        ((BEGINS, FAILED), 1, "rate_limited"),
        ((BEGINS, TRIED), 1, "rate_limited"),
        ((BEGINS, FAILED, BEGINS, ENDS), 0, None),
        ((BEGINS, ENDS, BEGINS, FAILED), 0, "rate_limited"),
        ((BEGINS, ENDS), 1, "sdk_error"),
        ((BEGINS,), 0, "sdk_error"),
        ((BEGINS, ENDS, BEGINS), 0, "sdk_error"),
        ((BEGINS, ENDS[:20]), 0, "sdk_error"),
    ],
)
def test_codex_fails_by_its_events_and_whoever_goes_on_has_not_failed(
    pieces: Sequence[bytes], code: int, expected: str | None
):
    assert reason("codex", *pieces, code=code) == expected


GAVE_UP = "I've reached the maximum number of actions I can do without user input. Continue?"


def goose(text: str, name: str = "m") -> bytes:
    message = {"id": name, "role": "assistant", "content": [{"type": "text", "text": text}]}
    return a_line(type="message", message=message)


COMPLETE = a_line(type="complete", total_tokens=7)


def test_goose_that_gives_up_has_reached_its_own_limit_of_turns():
    document = json.dumps(
        {
            "messages": [
                {"id": None, "role": "assistant", "created": 1, "content": [{"text": GAVE_UP}]}
            ],
            "metadata": {"total_tokens": 7},
        },
        indent=2,
    )
    for text in (goose(GAVE_UP) + COMPLETE, f"{GAVE_UP}\n\n".encode(), document.encode()):
        assert reason("goose", text) == "turn_limit_exceeded"

    later = [goose("…", f"m{number}") for number in range(9)]
    assert reason("goose", goose(GAVE_UP, "m"), *later, COMPLETE) is None


def test_goose_that_exits_well_has_not_done_it_where_it_says_so():
    assert reason("goose", goose("Done."), COMPLETE) is None
    assert reason("goose", goose("Done.")) == "sdk_error"
    assert reason(
        "goose", b"Session ended with error: Request failed: 429 Too Many Requests\n"
    ) == ("rate_limited")
    assert reason("goose", a_line(type="error", error="boom")) == "sdk_error"


def test_gemini_is_judged_by_its_exit_codes_and_by_what_it_ends_with():
    done = a_line(type="result", status="success", stats={"total_tokens": 9})
    message = "You have exhausted your capacity on this model. Your quota will reset after 2h."
    failed = {"type": "Error", "message": message, "code": 429}
    pretty = json.dumps({"response": "Done", "stats": {}}, indent=2).encode()

    assert reason("gemini", done) is None
    assert reason("gemini", pretty) is None
    assert reason("gemini", pretty[:-3]) == "sdk_error"
    assert reason("gemini", code=53) == "turn_limit_exceeded"
    assert reason("gemini", code=41) == "auth_failed"
    assert judge("gemini", b"No input\n", code=42) == (
        "sdk_error",
        "it refused its input (exit code 42)",
    )
    for text in (
        json.dumps({"error": failed}, indent=2).encode(),
        a_line(type="result", status="error", error=failed),
    ):
        assert judge("gemini", text, code=1) == ("rate_limited", message)
    assert reason("gemini", a_line(type="init", model="m")) == "sdk_error"
    assert reason("gemini", f"✕ [API Error: {message}]\n".encode()) == "rate_limited"


def test_a_profile_of_ones_own_is_asked_in_its_order():
    rules: list[dict[str, object]] = [
        {"json": {"status": ["failed"], "detail.code": [7, 8]}, "then": "auth_failed"},
        {"json": {"status": ["failed"]}, "then": "by_words"},
        {"exit_code": [0], "json": {"status": ["ok"], "answers.1": ["*"]}, "then": "success"},
        {"exit_code": [4, 5], "last_line": ["quota*"], "then": "rate_limited", "say": "no more"},
        {"exit_code": [5], "then": "budget_exceeded"},
    ]
    profile: dict[str, object] = {"name": "own", "outcomes": rules}

    def ended(*pieces: bytes, code: int = 0) -> tuple[str, str] | None:
        return judge(profile, *pieces, code=code)

    assert ended(a_line(status="ok", answers=[1, 2])) is None
    for text in (a_line(status="ok", answers=[1]), a_line(status="OK"), b"fine\n", b""):
        found = ended(text)
        assert found is not None
        assert found[0] == "sdk_error"
        assert found[1].startswith("no rule of its profile knows exit code 0: ")
    refused = ended(a_line(status="failed", detail={"code": 8}, message="who?"))
    assert refused == ("auth_failed", "who?")
    assert ended(a_line(status="failed", message="timed out")) == ("timeout", "timed out")
    # One that is no number is not that number.
    odd = ended(a_line(status="failed", detail={"code": True}))
    assert odd == ("sdk_error", "failed")
    assert ended(b"Quota of today\n", code=4) == ("rate_limited", "no more (exit code 4)")
    assert ended(b"the quota\n", code=5) == ("budget_exceeded", "exit code 5: the quota")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    (
        *("type", "subtype", "is_error", "error", "errors", "message", "result", "status"),
        *("code", "response", "rate_limit_info", "resetsAt", "api_error_status"),
    )
)
KINDS = st.sampled_from(
    (
        *("result", "assistant", "turn.failed", "turn.completed", "error", "complete", "message"),
        *("success", "rate_limit_event", "rejected", "error_max_turns"),
    )
)


@given(
    st.lists(st.dictionaries(KEYS, KINDS | ANYTHING, max_size=5), max_size=4),
    st.integers(0, 255),
    st.lists(st.binary(max_size=40), max_size=3),
)
def test_whatever_is_printed_it_ends_as_a_success_or_for_one_reason(
    events: list[dict[str, object]], code: int, lines: list[bytes]
):
    text = b"".join([*(a_line(**one) for one in events), *lines])
    for kind in AGENTS:
        found = judge(kind, text, code=code)

        if found is None:
            assert code == 0
        else:
            assert found[0] in {*WORDS, "command_failed"}
            assert len(found[1]) <= 330
