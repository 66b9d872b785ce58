"""What does an agent's output say of its turns, and of what they cost?

Standard library only, and nothing of ours: a wrapper loads this by its path, for attempts at
which there is something to count.  It reads what the command prints while it prints it: lines of
JSON as written by ``claude -p --output-format stream-json`` (or ``json``), ``goose run
--output-format stream-json`` (or ``json``) and ``codex exec --json``, and what goose prints for
people.  All else is passed over: output may be anything, and lie.

A turn is one answer of the model: with claude and goose a message of the assistant, however many
parts it comes in, and those of subagents not counted; with codex what it says and runs until it
has seen the results.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A longer line is no event that we count: those hold what a model said at once.
_LONGEST_LINE_BYTES = 1 << 20
# Things that codex does at once, and agents that work at once: of more only some are known.
_MOST_AT_ONCE = 1000
_LONGEST_NAME = 200
_MOST_COUNT = 10**15
_MOST_MONEY = 1e9
_MOST_WORDS = 300
# Near the end, or somebody only spoke of it.
_LAST_LINES = 5

_GOOSE = "goose"
_GOOSE_GAVE_UP = "reached the maximum number of actions I can do without user input"
# What goose prints above what a tool does: its name and where it comes from between rules.
_TOOL_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 3
# One message of the document that `goose run --output-format json` ends with.
_DOCUMENT_HEAD, _DOCUMENT_MESSAGE = b'"messages": [', b'      "role": "assistant"'
_DOCUMENT_TOKENS = b'"total_tokens": '

_RATE_LIMITED = ("rate limit", "rate_limit", "usage limit", "too many requests", "overloaded")
_AUTH_FAILED = ("authentication", "unauthorized", "invalid api key", "/login", "not logged in")
# Things that codex does between two answers of its model.
_CODEX_WORK = frozenset(
    {"command_execution", "file_change", "mcp_tool_call", "web_search", "collab_tool_call"}
)


class AgentOutput:
    """Counts in the output of one attempt.

    ``counted`` are the turns seen so far; ``turns`` those that the agent itself told of at its
    end, or else these.  ``tokens`` are all that went in and out, cached ones too; ``cost_usd`` is
    what the agent says it cost.  None where nothing was told.  ``verdict`` is how the agent itself
    says it failed: a failure reason, and words; None where it did not.
    """

    __slots__ = (
        "_codex_in_turn",
        "_codex_is_answering",
        "_codex_last",
        "_codex_running",
        "_gave_up_at",
        "_has_brace",
        "_is_in_document",
        "_is_overlong",
        "_kind",
        "_last",
        "_lines",
        "_parse",
        "_rest",
        "_told_turns",
        "cost_usd",
        "counted",
        "tokens",
        "verdict",
    )

    def __init__(self, kind: str, parse: Callable[[bytes], object]) -> None:
        """Take whose output it is (claude, codex or goose; anything else: any that writes JSON).

        ``parse`` reads a JSON text, and raises ValueError for what is none.
        """
        self._kind = kind
        self._parse = parse
        self._rest = b""
        self._is_overlong = False
        self._lines = 0
        self.counted: int | None = None
        self.tokens: int | None = None
        self.cost_usd: float | None = None
        self.verdict: tuple[str, str] | None = None
        self._told_turns: int | None = None
        # What each agent said last, and the tokens that took; "" is the agent itself.
        self._last: dict[str, tuple[str | None, int]] = {}
        self._gave_up_at: int | None = None
        self._has_brace = self._is_in_document = False
        self._codex_in_turn = False
        self._codex_is_answering = False
        self._codex_last = ""
        self._codex_running: set[str] = set()

    @property
    def turns(self) -> int | None:
        """How many turns it took, as far as is known."""
        return self.counted if self._told_turns is None else self._told_turns

    def feed(self, data: bytes) -> None:
        """Take note of what was printed next, in pieces of any size."""
        first, newline, others = data.partition(b"\n")
        if self._is_overlong:
            self._is_overlong = not newline
        elif len(self._rest) + len(first) > _LONGEST_LINE_BYTES:
            self._rest, self._is_overlong = b"", not newline
        elif newline:
            self._take_line(self._rest + first)
            self._rest = b""
        else:
            self._rest += first
        if newline:
            lines = others.split(b"\n")
            for line in lines[:-1]:
                self._take_line(line)
            self._rest = lines[-1]

    def skip(self) -> None:
        """Take note that some of the output is left out here."""
        self._rest, self._is_overlong = b"", True

    def close(self) -> None:
        """Take note that nothing more comes."""
        self._take_line(self._rest)
        self._rest = b""
        gave_up_at = self._gave_up_at
        if gave_up_at is not None and self._lines - gave_up_at < _LAST_LINES:
            self.verdict = ("turn_limit_exceeded", "goose reached its own limit of turns")

    def _take_line(self, line: bytes) -> None:
        text = line.strip()
        if not text:
            return
        self._lines += 1
        if len(line) > _LONGEST_LINE_BYTES:
            return
        if text[:1] in (b"{", b"[") and len(text) > 1:
            try:
                document = self._parse(text)
            except ValueError:
                return
            for event in document if isinstance(document, list) else (document,):
                if isinstance(event, dict):
                    self._take_event(event)
        elif self._kind == _GOOSE:
            self._take_text(line, text)

    def _take_event(self, event: dict[str, object]) -> None:
        kind = event.get("type")
        if kind is None and isinstance(event.get("messages"), list):
            self._take_conversation(event)
        elif not isinstance(kind, str):
            return
        elif kind == "assistant":
            parent = event.get("parent_tool_use_id")
            whose = "" if parent is None else f"of {_name(parent)}"
            self._take_answer(_mapping(event.get("message")), whose)
        elif kind == "message":
            message = _mapping(event.get("message"))
            if message.get("role") == "assistant":
                self._take_answer(message, "")
                self._note_if_given_up(message)
        elif kind == "result":
            self._take_result(event)
        elif kind == "complete":
            self._tell_tokens(_whole(event.get("total_tokens")))
        elif kind == "error" and self._kind == _GOOSE:
            self.verdict = _failure(event.get("error"))
        else:
            self._take_codex(kind, event)

    # -- claude and goose -----------------------------------------------------------

    def _take_answer(self, message: dict[str, object], whose: str) -> None:
        """Count a message of an assistant, which may come in several parts of one name.

        Between them those of others may come that work at the same time.
        """
        name = _name(message.get("id")) or None
        tokens = _tokens(message.get("usage"))
        before, told = self._last.get(whose, (None, 0))
        if name is not None and name == before:
            # Each part tells what the whole has used up to there.
            tokens = max(tokens, told)
            self._add_tokens(tokens - told)
        else:
            if not whose:
                self._count_turn()
            self._add_tokens(tokens)
        if not whose or whose in self._last or len(self._last) < _MOST_AT_ONCE:
            self._last[whose] = (name, tokens)

    def _take_result(self, event: dict[str, object]) -> None:
        """Read what claude says at its end, which counts before what was seen of it."""
        turns, cost = _whole(event.get("num_turns")), _money(event.get("total_cost_usd"))
        if turns is not None:
            self._told_turns = turns
        if cost is not None:
            self.cost_usd = cost
        self._tell_tokens(_tokens(event.get("usage")) or None)
        kind = event.get("subtype")
        if kind == "error_max_turns":
            self.verdict = ("turn_limit_exceeded", "claude reached its own limit of turns")
        elif kind == "error_max_budget_usd":
            self.verdict = ("budget_exceeded", "claude reached its own limit of money")
        elif event.get("is_error") is True or kind not in ("success", None):
            self.verdict = _failure(event.get("result") or event.get("errors") or kind)
        else:
            self.verdict = None

    def _take_conversation(self, event: dict[str, object]) -> None:
        """Read the document that goose ends with, where it is written in one line."""
        messages = event.get("messages")
        answers = [
            one
            for one in (messages if isinstance(messages, list) else ())
            if isinstance(one, dict) and one.get("role") == "assistant"
        ]
        self._told_turns = len(answers)
        self._tell_tokens(_whole(_mapping(event.get("metadata")).get("total_tokens")))
        if answers:
            self._note_if_given_up(answers[-1])

    def _note_if_given_up(self, message: dict[str, object]) -> None:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            words = _mapping(part).get("text")
            if isinstance(words, str) and _GOOSE_GAVE_UP in words:
                self._gave_up_at = self._lines

    def _take_text(self, line: bytes, text: bytes) -> None:
        """Read what goose prints for people, or its document where that has many lines."""
        if self._is_in_document:
            if line.startswith(_DOCUMENT_MESSAGE):
                self._told_turns = (self._told_turns or 0) + 1
            elif text.startswith(_DOCUMENT_TOKENS):
                digits = text.removeprefix(_DOCUMENT_TOKENS).rstrip(b",")
                self._tell_tokens(int(digits) if digits.isdigit() and len(digits) < 16 else None)  # noqa: PLR2004 - as _MOST_COUNT
        else:
            self._is_in_document = self._has_brace and text == _DOCUMENT_HEAD
            self._has_brace = text == b"{"
        words = text.decode(errors="replace")
        if _GOOSE_GAVE_UP in words:
            self._gave_up_at = self._lines
        if _TOOL_RULE in words[:20] and " | " in words:
            self._count_turn()

    # -- codex ------------------------------------------------------------------------

    def _take_codex(self, kind: str, event: dict[str, object]) -> None:
        if kind == "turn.started":
            self._codex_is_answering = False
            self._codex_last = ""
            self._codex_running.clear()
            self._answer()
        elif kind == "turn.completed":
            if not self._codex_in_turn:
                self._answer()
            self._codex_in_turn = self._codex_is_answering = False
            self._add_tokens(_tokens(event.get("usage")))
            self.verdict = None
        elif kind == "turn.failed":
            self._codex_in_turn = self._codex_is_answering = False
            self.verdict = _failure(_mapping(event.get("error")).get("message"))
        elif kind in ("item.started", "item.completed"):
            self._take_item(kind, _mapping(event.get("item")))

    def _take_item(self, kind: str, item: dict[str, object]) -> None:
        """Count an answer at the first thing it consists of: words, or what it has done."""
        what, name = _text(item.get("type")), _name(item.get("id"))
        if what in _CODEX_WORK:
            if kind == "item.started":
                self._answer()
                if len(self._codex_running) < _MOST_AT_ONCE:
                    self._codex_running.add(name)
            else:
                if name in self._codex_running:
                    self._codex_running.discard(name)
                else:
                    self._answer()
                # The model goes on once it has all the results.
                self._codex_is_answering = bool(self._codex_running)
        elif what == "agent_message" and kind == "item.completed":
            if self._codex_last == what:
                # What it says with what it does is one answer; said twice, it is another.
                self._codex_is_answering = False
            self._answer()
        else:
            return
        self._codex_last = what

    def _answer(self) -> None:
        self._codex_in_turn = True
        if not self._codex_is_answering:
            self._codex_is_answering = True
            self._count_turn()

    # -- sums ---------------------------------------------------------------------------

    def _count_turn(self) -> None:
        self.counted = (self.counted or 0) + 1

    def _add_tokens(self, tokens: int) -> None:
        if tokens:
            self.tokens = min((self.tokens or 0) + tokens, _MOST_COUNT)

    def _tell_tokens(self, tokens: int | None) -> None:
        if tokens is not None:
            self.tokens = tokens


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _name(value: object) -> str:
    return _text(value)[:_LONGEST_NAME]


def _whole(value: object) -> int | None:
    # `true` is an integer to Python, and 10**400 one to JSON.
    return value if type(value) is int and 0 <= value <= _MOST_COUNT else None


def _money(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Not so for what is no number at all, which JSON in Python knows too.
    return float(value) if is_number and 0 <= value <= _MOST_MONEY else None  # type: ignore[operator,arg-type]  # it is a number


def _tokens(usage: object) -> int:
    """Add up what a model read and wrote; what codex read from a cache is in it already."""
    told = _mapping(usage)
    parts = ("input_tokens", "output_tokens", "cache_creation_input_tokens")
    return sum(_whole(told.get(one)) or 0 for one in (*parts, "cache_read_input_tokens"))


def _failure(words: object) -> tuple[str, str]:
    """Return how an agent failed by its own account: as what, and what it said."""
    if isinstance(words, list):
        words = words[0] if words else ""
    text = words if isinstance(words, str) else str(_mapping(words).get("message", ""))
    told = " ".join(text[:_MOST_WORDS].split()) or "it says that it failed, and not why"
    lowered = told.lower()
    if any(_has_word(lowered, one) for one in _RATE_LIMITED):
        return ("rate_limited", told)
    if any(_has_word(lowered, one) for one in _AUTH_FAILED):
        return ("auth_failed", told)
    return ("sdk_error", told)


def _has_word(text: str, words: str) -> bool:
    """Whether these begin a word somewhere: a separate limit is no rate limit, rate limits are."""
    at = text.find(words)
    while at > 0 and text[at - 1].isalnum():
        at = text.find(words, at + 1)
    return at >= 0
