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
_MOST_LINE_BYTES = 4000

_GOOSE = "goose"
_AGENTS = frozenset({"claude", "codex", _GOOSE})
_UNKNOWN = "sdk_error"
_GOOSE_GAVE_UP = "reached the maximum number of actions I can do without user input"
# What goose prints above what a tool does: its name and where it comes from between rules.
_TOOL_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 3
# One message of the document that `goose run --output-format json` ends with.
_DOCUMENT_HEAD, _DOCUMENT_MESSAGE = b'"messages": [', b'      "role": "assistant"'
_DOCUMENT_TOKENS = b'"total_tokens": '

# By which words a text tells of a failure, and of which: the first kind that it speaks of counts,
# in this order.  All are whole words, of letters and digits; between two parts with … stand at
# most two others.
_FAILURES = (
    ("aborted", ("aborted", "aborterror", "abort error")),
    (
        "turn_limit_exceeded",
        (
            *("turn limit", "turns limit", "limit of…turns", "limit on…turns", "maxturns"),
            *("max turn", "max…turns", "maximum turn", "maximum…turns", "maxsessionturns"),
            *("turns exhausted", "turns are exhausted", "turns have been exhausted"),
            *("exhausted its…turns", "exhausted all…turns", "exhausted the…turns"),
            *("turn budget exhausted", "too many turns", "out of turns"),
            "maximum number of actions i can do without user input",
        ),
    ),
    (
        "timeout",
        ("timeout", "timeouts", "timed out", "timeouterror", "etimedout", "deadline exceeded"),
    ),
    ("budget_exceeded", ("budget", "budgets")),
    (
        "auth_failed",
        (
            *("authentication", "oauth", "unauthorized", "unauthenticated", "401 unauthorized"),
            *("run login", "not logged in", "log in again", "sign in again", "signing in again"),
            *("invalid api key", "invalid x api key", "incorrect api key", "api key not valid"),
            *("no api key", "missing api key", "api key not found", "api key expired"),
            *("token has expired", "invalid credentials", "403 forbidden"),
            # Nothing that waiting would help against: somebody has to pay first.
            *("credit balance is too low", "credit balance too low", "billing error"),
        ),
    ),
    (
        "rate_limited",
        (
            *("rate limit", "rate limits", "rate limited", "rate limiting", "ratelimit"),
            *("ratelimiterror", "ratelimitexceeded", "too many requests"),
            *("usage limit", "usage limits", "session limit", "hour limit", "daily limit"),
            *("weekly limit", "monthly limit", "hit your…limit", "reached your…limit"),
            *("out of extra usage", "insufficient quota", "quota exceeded", "quota exhausted"),
            *("quota will reset", "exceeded your…quota", "exhausted your…quota"),
            *("exhausted your…capacity", "resource exhausted", "resource has been exhausted"),
            *("overloaded error", "overloaded"),
        ),
    ),
)
# What claude says of bounds that it was given itself.
_CLAUDE_LIMITS = {
    "error_max_turns": "turn_limit_exceeded",
    "error_max_budget_usd": "budget_exceeded",
}
# Answers of servers, where they stand as such: an error in line 401 is none.
_STATUSES = {"401": "auth_failed", "429": "rate_limited", "529": "rate_limited"}
_BEFORE_STATUS = frozenset(
    {"http", "status", "code", "error", "api", "returned", "got", "with", "failed", "repeated"}
)
# What is overloaded in programs.
_IN_PROGRAMS = ("overloaded function", "overloaded method", "overloaded operator")
# Where a text says when it will go on.
_WHEN = ("reset", "resets", "retry", "retrydelay", "try again", "resetsat", "available again")
_MOST_BETWEEN = 2
_MOST_TEXT = 1 << 16
# Things that codex does between two answers of its model.
_CODEX_WORK = frozenset(
    {"command_execution", "file_change", "mcp_tool_call", "web_search", "collab_tool_call"}
)


class AgentOutput:
    """Counts in the output of one attempt.

    ``counted`` are the turns seen so far; ``turns`` those that the agent itself told of at its
    end, or else these.  ``tokens`` are all that went in and out, cached ones too; ``cost_usd`` is
    what the agent says it cost.  None where nothing was told.  ``verdict`` is how the agent itself
    says it failed: a failure reason, and words; None where it did not.  `judge` says what counts.
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
        "_notes",
        "_parse",
        "_rest",
        "_said_last",
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
        self._notes: dict[str, str] = {}
        self._gave_up_at: int | None = None
        self._has_brace = self._is_in_document = False
        # The newest lines that are no events, where an agent for people tells how it failed.
        self._said_last: list[bytes] = []
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

    def judge(self, exit_code: int) -> tuple[str, str] | None:
        """Return how it failed: the reason, and the words that tell of it; None: it did not.

        By its own word, else by its exit code and what it printed last; for what is no agent
        that we know, by its own word alone.
        """
        if self.verdict is not None or exit_code == 0 or self._kind not in _AGENTS:
            return self.verdict
        lines = [one.decode(errors="replace") for one in self._said_last]
        reason, words = classify("\n".join(lines)) if lines else (_UNKNOWN, "")
        if reason == _UNKNOWN:
            last = _excerpt(_plain(lines[-1]), 0) if lines else "and said nothing"
            words = f"exit code {exit_code}: {last}"[:_MOST_WORDS]
        return (reason, words)

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
            return
        if not text.startswith(b"at "):  # where in its program it failed
            self._said_last = [*self._said_last[1 - _LAST_LINES :], line[:_MOST_LINE_BYTES]]
        if self._kind == _GOOSE:
            self._take_text(line, text)

    def _take_event(self, event: dict[str, object]) -> None:
        kind = event.get("type")
        if kind is None and isinstance(event.get("messages"), list):
            self._take_conversation(event)
        elif isinstance(kind, str):
            read = _READERS.get(kind)
            if read is not None:
                read(self, event)
            else:
                self._take_codex(kind, event)

    # -- claude and goose -----------------------------------------------------------

    def _take_assistant(self, event: dict[str, object]) -> None:
        parent = event.get("parent_tool_use_id")
        whose = "" if parent is None else f"of {_name(parent)}"
        self._take_answer(_mapping(event.get("message")), whose)
        self._note(event)

    def _take_message(self, event: dict[str, object]) -> None:
        message = _mapping(event.get("message"))
        if message.get("role") == "assistant":
            self._take_answer(message, "")
            self._note_if_given_up(message)

    def _take_complete(self, event: dict[str, object]) -> None:
        self._tell_tokens(_whole(event.get("total_tokens")))

    def _take_error(self, event: dict[str, object]) -> None:
        told = event.get("error") or event.get("message")
        if self._kind == _GOOSE:
            self.verdict = _failure(told)
        else:
            # Codex tries again after some; where it ends after one, that is why.
            words = _text(told) or _text(_mapping(told).get("message"))
            self._said_last = [words.encode(errors="replace")]

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
        if event.get("is_error") is not True and kind in ("success", None):
            self.verdict = None
            return
        told = self._told_of_failure(event)
        reason, words = _failure([*told, *self._notes.values()])
        if _text(kind) in _CLAUDE_LIMITS:
            reason, words = _CLAUDE_LIMITS[_text(kind)], _failure(told)[1]
        self.verdict = (reason, words)

    @staticmethod
    def _told_of_failure(event: dict[str, object]) -> list[object]:
        """Return what claude says of how it failed, most telling first."""
        errors, status = event.get("errors"), event.get("api_error_status")
        told = [event.get("result"), *(errors if isinstance(errors, list) else ())]
        told = [one for one in told if one] or [event.get("subtype")]
        return told if _whole(status) is None else [*told, f"API status {status}"]

    def _note(self, event: dict[str, object]) -> None:
        """Keep what claude says beside its words of why its provider refuses it, and till when."""
        if event.get("type") == "assistant":
            # What it said before it went on was no end.
            self._notes["error"] = _name(event.get("error"))
        limit = _mapping(event.get("rate_limit_info"))
        until = _whole(limit.get("resetsAt"))
        if limit.get("status") == "rejected" and until is not None:
            self._notes["until"] = f"limit resets at {until}"

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


_READERS = {
    "assistant": AgentOutput._take_assistant,  # noqa: SLF001 - the class's own table
    "message": AgentOutput._take_message,  # noqa: SLF001 - as above
    "result": AgentOutput._take_result,  # noqa: SLF001 - as above
    "rate_limit_event": AgentOutput._note,  # noqa: SLF001 - as above
    "complete": AgentOutput._take_complete,  # noqa: SLF001 - as above
    "error": AgentOutput._take_error,  # noqa: SLF001 - as above
}


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
    parts = words if isinstance(words, list) else [words]
    texts = [one if isinstance(one, str) else _text(_mapping(one).get("message")) for one in parts]
    return classify("\n".join(texts))


def classify(text: str) -> tuple[str, str]:
    """Return as what a failure counts that is told like this, and the line that decided it.

    Of a long line some 300 characters around the words; where a provider says in another line
    when it goes on, that comes behind it.  What speaks of nothing known is an sdk_error.

    >>> classify("API Error (Request timed out.)")
    ('timeout', 'API Error (Request timed out.)')
    >>> classify("it took a wrong turn: the rate limit was reached")[0]
    'rate_limited'
    """
    lines = [one for one in _plain(text[:_MOST_TEXT]).splitlines() if one.strip()]
    spoken = [_spoken(one) for one in lines]
    for reason, phrases in _FAILURES:
        for number, words in enumerate(spoken):
            at = _first(words, phrases, reason)
            if at is not None:
                told = _excerpt(lines[number], at)
                if reason == "rate_limited" and not _speaks_of(_spoken(told), _WHEN):
                    told = _with_time(told, lines, spoken)
                return (reason, told)
    words = _excerpt(lines[0], 0) if lines else "it says that it failed, and not why"
    return (_UNKNOWN, words)


def _first(words: str, phrases: tuple[str, ...], reason: str) -> int | None:
    """Return roughly where a line speaks of one of these, if it does."""
    for phrase in phrases:
        at = _find(words, phrase)
        if at >= 0 and not (phrase == "overloaded" and _speaks_of(words, _IN_PROGRAMS)):
            return at
    return _find_status(words, reason)


def _find_status(words: str, reason: str) -> int | None:
    for status, meaning in _STATUSES.items():
        at = words.find(f" {status} ") if meaning == reason else -1
        while at >= 0:
            before = words[:at].rpartition(" ")[2]
            if before in _BEFORE_STATUS or not before:
                return at
            at = words.find(f" {status} ", at + 1)
    return None


def _speaks_of(words: str, phrases: tuple[str, ...]) -> bool:
    return any(_find(words, one) >= 0 for one in phrases)


def _find(words: str, phrase: str) -> int:
    """Return where words stand that are set apart by spaces, or -1."""
    first, gap, second = phrase.partition("…")
    at = words.find(f" {first} ")
    while at >= 0 and gap:
        between = words[at + len(first) + 1 : at + len(first) + 80].split(" ")
        if second in between[1 : _MOST_BETWEEN + 2]:
            break
        at = words.find(f" {first} ", at + 1)
    return at


def _plain(text: str) -> str:
    """Leave out how a terminal is to show it (ECMA-48), and put escaped line ends apart."""
    first, *others = text.replace("\\n ", "\n ").split("\x1b[")
    return first + "".join(
        one.lstrip("0123456789;?")[1:] if one[:1] in "0123456789;?mKJHABCDhl" else one
        for one in others
    )


def _spoken(line: str) -> str:
    """Return its words in small letters, set apart by single spaces.

    >>> _spoken("{'error': api_rate_limit_error} (429), 1,429 tokens")
    ' error api rate limit error 429 1,429 tokens '
    """
    spoken = "".join(one if one.isalnum() or one in ",." else " " for one in line.lower())
    return f" {' '.join(word for one in spoken.split() if (word := one.strip(',.')))} "


def _excerpt(line: str, at: int) -> str:
    """Return the line, or as much as is kept of it around some place in its words."""
    told = " ".join(line.split())
    if len(told) <= _MOST_WORDS:
        return told
    begin = max(0, min(at - _MOST_WORDS // 4, len(told) - _MOST_WORDS))
    return told[begin : begin + _MOST_WORDS]


def _with_time(told: str, lines: list[str], spoken: list[str]) -> str:
    """Add what says when a provider goes on, where another line or the rest of this one does."""
    for line, words in zip(lines, spoken, strict=True):
        at = next((found for one in _WHEN if (found := _find(words, one)) >= 0), None)
        if at is not None:
            when = " ".join(line.split())[max(0, at - 20) :][: _MOST_WORDS // 3]
            return f"{told[: _MOST_WORDS - len(when) - 3]} … {when}"
    return told
