"""What each agent prints at its ends, and as what each of them counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyscheduler.app.agent_samples import judge_sample
from tinyscheduler.core.profiles import find_profile

SAMPLES = Path(__file__).parent / "samples"
# File, exit code, reason (None: a success), turns, tokens, and of the words, or what it said.
TABLE: tuple[tuple[str, int, str | None, int | None, int | None, str], ...] = (
    ("claude-success", 0, None, 2, 2080, "Mended the rate limit of the fake server."),
    ("claude-success", 1, "sdk_error", 2, 2080, "it told of a success, and exited otherwise"),
    ("claude-failure", 1, "sdk_error", 2, 2080, "Cannot read properties of undefined"),
    ("claude-turn-limit", 1, "turn_limit_exceeded", 2, 2080, "Reached maximum number of turns (1)"),
    ("claude-rate-limit", 1, "rate_limited", 2, 2080, "resets 2am (Europe/Warsaw)"),
    ("claude-auth", 1, "auth_failed", 2, 2080, "OAuth token has expired."),
    ("claude-api-error", 0, "sdk_error", 2, 2080, "API Error: 500"),
    ("claude-crash", 1, "sdk_error", 1, 2080, "exit code 1: Error: Cannot find module"),
    ("claude-cut-off", 0, "sdk_error", 1, 2080, "its output is cut off: "),
    ("claude-text-rate-limit", 0, "rate_limited", None, None, "resets 2am (Europe/Warsaw)"),
    ("claude-text-rate-limit", 1, "rate_limited", None, None, "resets 2am (Europe/Warsaw)"),
    ("claude-text-success", 0, None, None, None, "All tests pass now."),
    ("codex-success", 0, None, 2, 24885, "Mended the test."),
    ("codex-failure", 0, "sdk_error", 1, None, "stream disconnected before completion"),
    ("codex-failure", 1, "sdk_error", 1, None, "stream disconnected before completion"),
    ("codex-rate-limit", 1, "rate_limited", 1, None, "try again in 3 days 4 hours."),
    ("codex-auth", 1, "auth_failed", 1, None, "last status: 401 Unauthorized"),
    ("codex-api-error", 0, "sdk_error", 1, None, "unexpected status 500 Internal Server Error"),
    ("codex-crash", 101, "sdk_error", 1, None, "exit code 101: thread 'main' panicked"),
    ("codex-cut-off", 0, "sdk_error", 2, None, "it ended before it told how (exit code 0)"),
    ("goose-success", 0, None, 2, 4321, "Mended it."),
    ("goose-text-success", 0, None, 2, None, "All tests pass now."),
    ("goose-text-newer-success", 0, None, 2, None, "All tests pass now."),
    ("goose-failure", 0, "sdk_error", None, None, "status: 400 Bad Request"),
    ("goose-turn-limit", 0, "turn_limit_exceeded", 2, 4321, "maximum number of actions"),
    ("goose-rate-limit", 0, "rate_limited", None, None, "Please retry after 20 seconds."),
    ("goose-auth", 0, "auth_failed", None, None, "Authentication failed."),
    ("goose-api-error", 0, "sdk_error", 1, 12, "503 Service Unavailable"),
    ("goose-crash", 101, "sdk_error", None, None, "exit code 101: thread 'main' panicked"),
    ("goose-cut-off", 0, "sdk_error", 1, None, "it ended before it told how (exit code 0)"),
    ("gemini-success", 0, None, 2, 25113, "Mended it."),
    ("gemini-json-success", 0, None, 2, 25113, "Mended it."),
    ("gemini-failure", 1, "sdk_error", None, None, "[API Error: fetch failed]"),
    ("gemini-turn-limit", 53, "turn_limit_exceeded", 1, 25113, "Reached max session turns"),
    ("gemini-rate-limit", 1, "rate_limited", None, None, "Your quota will reset after 2h3m4s."),
    ("gemini-auth", 41, "auth_failed", None, None, "Please set an Auth method"),
    ("gemini-api-error", 0, "sdk_error", None, None, "[API Error: An unknown error"),
    ("gemini-crash", 1, "sdk_error", None, None, "exit code 1: TypeError: Cannot read"),
    ("gemini-cut-off", 0, "sdk_error", 1, None, "it ended before it told how (exit code 0)"),
    ("shell-success", 0, None, None, None, "429 tests passed, none aborted"),
    ("shell-failure", 1, "command_failed", None, None, "exit code 1: rate limit exceeded"),
)


@pytest.mark.parametrize(("name", "code", "reason", "turns", "tokens", "words"), TABLE)
def test_each_end_of_each_agent_counts_as_what_it_is(
    name: str, code: int, reason: str | None, turns: int | None, tokens: int | None, words: str
):
    profile = find_profile(name.partition("-")[0])
    assert profile is not None

    found = judge_sample(profile, (SAMPLES / f"{name}.txt").read_bytes(), code)

    assert (found.outcome, found.reason) == ("failed" if reason else "succeeded", reason)
    assert (found.turns, found.tokens) == (turns, tokens)
    assert words in (found.words if reason else found.text)


def test_every_sample_is_in_the_table():
    assert {path.stem for path in SAMPLES.iterdir()} == {name for name, *_ in TABLE}
