"""How are the command lines of agents run that everybody knows, and how do they end?

These are values as a user's own profiles are: docs/reference/profiles.yaml says the same in the
words of ``agents.yaml``, and is tested to.
"""

from __future__ import annotations

from tinyscheduler.model.config import StdinSource
from tinyscheduler.model.profiles import BY_WORDS, SUCCESS, OutcomeRule, Profile
from tinyscheduler.model.tasks import FailureReason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.profiles import Scalar

SHELL = "shell"
_TURNS, _UNKNOWN = FailureReason.TURN_LIMIT_EXCEEDED.value, FailureReason.SDK_ERROR.value
_DONE = 0
# An agent that neither speaks nor computes for so long is stuck: it prints what it does.
_SILENCE_S = 1800.0
_NO_END = "it ended before it told how"
_CLAUDE_SUCCESS: dict[str, Scalar | tuple[Scalar, ...]] = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
}


def _rule(
    then: str,
    json: Mapping[str, Scalar | tuple[Scalar, ...]] | None = None,
    *,
    code: int | None = None,
    last: tuple[str, ...] | None = None,
    say: str | None = None,
) -> OutcomeRule:
    asked = (json or {}).items()
    return OutcomeRule(
        then=then,
        exit_codes=None if code is None else (code,),
        json=tuple((path, one if isinstance(one, tuple) else (one,)) for path, one in asked),
        last_lines=last,
        say=say,
    )


def _at_last(*markers: str) -> tuple[OutcomeRule, ...]:
    """Return what holds where no event said it: markers, silence, then the exit code."""
    return (
        _rule(BY_WORDS, code=_DONE, last=markers),
        _rule(_UNKNOWN, code=_DONE, last=("",), say="it printed nothing"),
        _rule(SUCCESS, code=_DONE),
        _rule(BY_WORDS),
    )


BUILT_IN = (
    Profile(
        name=SHELL,
        outcomes=(_rule(SUCCESS, code=_DONE), _rule(FailureReason.COMMAND_FAILED.value)),
    ),
    Profile(
        name="goose",
        command=(
            *("goose", "run", "--recipe", "{recipe}", "--no-session"),
            *("--params", "task_id={task_id}"),
        ),
        environment=("GOOSE_PROVIDER", "GOOSE_MODEL", "GOOSE_MODE", "GOOSE_DISABLE_KEYRING"),
        output="goose",
        idle_output_s=_SILENCE_S,
        outcomes=(
            _rule(
                _TURNS,
                last=("I've reached the maximum number of actions I can do without user input*",),
            ),
            _rule(BY_WORDS, {"type": "error"}),
            _rule(
                BY_WORDS,
                last=(
                    *("Session ended with error:*", "Ran into this error:*"),
                    "error: The error above was an exception we were not able to handle",
                ),
            ),
            _rule(SUCCESS, {"type": "complete"}, code=_DONE),
            _rule(_UNKNOWN, {"type": "message"}, code=_DONE, say=_NO_END),
            *_at_last("Request failed:*"),
        ),
    ),
    Profile(
        name="claude",
        command=(
            *("claude", "-p", "--output-format", "stream-json", "--verbose"),
            *("--permission-mode", "acceptEdits"),
        ),
        environment=("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR"),
        stdin=StdinSource.PROMPT,
        output="claude",
        idle_output_s=_SILENCE_S,
        outcomes=(
            _rule(_TURNS, {"type": "result", "subtype": "error_max_turns"}),
            _rule(
                FailureReason.BUDGET_EXCEEDED.value,
                {"type": "result", "subtype": "error_max_budget_usd"},
            ),
            _rule(SUCCESS, _CLAUDE_SUCCESS, code=_DONE),
            _rule(_UNKNOWN, _CLAUDE_SUCCESS, say="it told of a success, and exited otherwise"),
            _rule(BY_WORDS, {"type": "result"}),
            _rule(_UNKNOWN, {"type": ("assistant", "user")}, code=_DONE, say=_NO_END),
            *_at_last(
                *("API Error:*", "API Error*timed out*", "You've hit your*limit*"),
                *("Claude AI usage limit reached*", "Credit balance is too low*"),
                *("Invalid API key*login*", "Invalid API key*external API key"),
                *("Not logged in*run*login*", "Please run /login*", "OAuth token revoked*"),
                *("OAuth token has expired*", "Execution error"),
            ),
        ),
    ),
    Profile(
        name="codex",
        command=(
            *("codex", "exec", "--json", "--skip-git-repo-check"),
            *("--sandbox", "workspace-write", "-"),
        ),
        environment=("OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_HOME"),
        stdin=StdinSource.PROMPT,
        output="codex",
        idle_output_s=_SILENCE_S,
        outcomes=(
            _rule(BY_WORDS, {"type": ("turn.failed", "error")}),
            _rule(SUCCESS, {"type": "turn.completed"}, code=_DONE),
            _rule(
                _UNKNOWN,
                {"type": "turn.completed"},
                say="it completed its turn, and exited otherwise",
            ),
            _rule(
                _UNKNOWN,
                {"type": ("thread.started", "turn.started", "item.started", "item.completed")},
                code=_DONE,
                say=_NO_END,
            ),
            *_at_last(
                "ERROR:*", "stream error:*", "Not logged in*run*login*", "You've hit your*limit*"
            ),
        ),
    ),
    Profile(
        name="gemini",
        command=("gemini", "--output-format", "stream-json", "--approval-mode", "auto_edit"),
        environment=(
            *("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT"),
            *("GOOGLE_CLOUD_LOCATION", "GOOGLE_GENAI_USE_VERTEXAI"),
        ),
        stdin=StdinSource.PROMPT,
        output="gemini",
        idle_output_s=_SILENCE_S,
        outcomes=(
            _rule(_TURNS, {"error.message": "*"}, code=53),
            _rule(_TURNS, code=53),
            _rule(FailureReason.AUTH_FAILED.value, code=41),
            _rule(_UNKNOWN, code=42, say="it refused its input"),
            # What a tool has failed with has a type, and is no end.
            _rule(BY_WORDS, {"error.message": "*", "type": None}),
            _rule(BY_WORDS, {"type": "result", "status": "error"}),
            _rule(SUCCESS, {"type": "result", "status": "success"}, code=_DONE),
            _rule(SUCCESS, {"response": "*"}, code=_DONE),
            _rule(
                _UNKNOWN,
                {"type": ("init", "message", "tool_use", "tool_result")},
                code=_DONE,
                say=_NO_END,
            ),
            *_at_last("[API Error:*", "✕ [API Error:*"),
        ),
    ),
)


def profile_of(
    agent: AgentProfile, argv: tuple[str, ...], own: Iterable[Profile] = ()
) -> Profile | None:
    """Return by whose rules an attempt of this agent ends; None: its exit code says all.

    What an agent without a command of its own runs is known by its name.
    """
    profile = find_profile(agent.profile, own)
    if profile is not None and profile.name == SHELL:
        name = argv[0].rpartition("/")[2]
        profile = None if agent.command else find_profile(name)
    return None if profile is None or profile.name == SHELL else profile


def find_profile(name: str, own: Iterable[Profile] = ()) -> Profile | None:
    """Return the profile of that name: of the user's own, else one of those above."""
    return next((one for one in (*own, *BUILT_IN) if one.name == name), None)


def profile_document(profile: Profile) -> dict[str, Any]:
    """Return what a wrapper reads of a profile, as a JSON object."""
    return {
        "name": profile.name,
        "tells": dict(profile.tells),
        "outcomes": [
            {
                "exit_code": None if rule.exit_codes is None else list(rule.exit_codes),
                "json": {path: list(values) for path, values in rule.json},
                "last_line": None if rule.last_lines is None else list(rule.last_lines),
                "then": rule.then,
                "say": rule.say,
            }
            for rule in profile.outcomes
        ],
    }
