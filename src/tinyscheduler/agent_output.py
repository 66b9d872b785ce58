"""What does an agent's output say of its turns, of what they cost, and at last?

Standard library only, and nothing of ours: a wrapper loads this by its path, for attempts at
which there is something to count.  It reads what the command prints while it prints it: lines of
JSON as written by ``claude -p --output-format stream-json`` (or ``json``), ``goose run
--output-format stream-json`` (or ``json``), ``codex exec --json`` and ``gemini --output-format
stream-json`` (or ``json``), and what goose prints for people.  All else is passed over: output may
be anything, and lie.  Whether the attempt failed is for its judge, who is told of each line.

A turn is one answer of the model: with claude and goose a message of the assistant, however many
parts it comes in, and those of subagents not counted; with codex what it says and runs until it
has seen the results.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Judge(Protocol):
        """Who is told of all that is printed: see agent_outcomes.py."""

        def take_event(self, event: dict[str, object]) -> dict[str, object]:
            """Take note of an object, and return what it tells of turns and the like."""

        def forget_events(self) -> None:
            """Take back all objects: they were only shown."""

        def take_line(self, line: bytes) -> None:
            """Take note of a line that is none."""

        def take_cut(self, line: bytes) -> None:
            """Take note of a line that looks like one, and is none."""

        def judge(self, exit_code: int, answer: str) -> tuple[str, str] | None:
            """Return how the attempt failed, as reason and words; None: it did not."""


# What is read of a log at once, and of what lies further back only the newest.
_READ_BYTES = 1 << 18
_READS_AT_ONCE = 4
_MOST_UNREAD_BYTES = 64 << 20
# A longer line is no event that we count: those hold what a model said at once.
_LONGEST_LINE_BYTES = 1 << 20
# In the place of one.
_OVERLONG = b"a line of more than 1 MiB"
# Things that codex does at once, and agents that work at once: of more only some are known.
_MOST_AT_ONCE = 1000
_LONGEST_NAME = 200
_MOST_COUNT = 10**15
_MOST_MONEY = 1e9
# Of the last thing that an agent said.
_MOST_ANSWER = 1 << 16

_GOOSE = "goose"
_GEMINI = "gemini"
# What goose prints above what a tool does: its name and where it comes from between rules, and
# newer ones below one.
_TOOL_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 3
_TOOL_MARK = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE} "
# One message of the document that `goose run --output-format json` ends with.
_DOCUMENT_HEAD, _DOCUMENT_MESSAGE = b'"messages": [', b'      "role": "assistant"'
_DOCUMENT_ROLE, _DOCUMENT_WORDS = b'      "role": ', b'"text": "'
_DOCUMENT_TOKENS = b'"total_tokens": '

# How objects of JSON begin, and little else.
_JSON_HEADS = (b'{"', b'[{"', b"{\n")
# Things that codex does between two answers of its model.
_CODEX_WORK = frozenset(
    {"command_execution", "file_change", "mcp_tool_call", "web_search", "collab_tool_call"}
)


class Reading:
    """The log of an attempt, read while it is written.

    ``has_unread`` tells that there is more to read at once; ``output`` is what was found.
    """

    __slots__ = ("_at", "_fd", "_judge", "has_unread", "output")

    def __init__(
        self, kind: str, *, log: str, begin: int, parse: Callable[[bytes], object], judge: Judge
    ) -> None:
        """Begin at that byte of the log; OSError if it cannot be read."""
        self._fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._at = begin
        self._judge = judge
        self.has_unread = False
        self.output = AgentOutput(kind, parse, judge)

    def read(self) -> None:
        """Read what was printed since: before the middle of the log is given back."""
        size = os.fstat(self._fd).st_size
        if size - self._at > _MOST_UNREAD_BYTES:
            # It prints faster than anybody can read, and no agent does.
            self._at = size - _READ_BYTES
            self.output.skip()
        for _ in range(_READS_AT_ONCE):
            data = os.pread(self._fd, _READ_BYTES, self._at)
            self._at += len(data)
            self.output.feed(data)
            self.has_unread = len(data) == _READ_BYTES
            if not self.has_unread:
                break

    def finish(self, exit_code: int | None) -> tuple[str, str] | None:
        """Read the rest, once nobody prints any more, and return how the attempt failed.

        None: it did not, or a signal that ended it says how.
        """
        self.read()
        while self.has_unread:
            self.read()
        self.output.close()
        return None if exit_code is None else self._judge.judge(exit_code, self.output.answer)


class AgentOutput:
    """Counts in the output of one attempt.

    ``counted`` are the turns seen so far; ``turns`` those that the agent itself told of at its
    end, or else these.  ``tokens`` are all that went in and out, cached ones too; ``cost_usd`` is
    what the agent says it cost.  None where nothing was told.  ``answer`` is the last thing that
    its events have it say, ``last_line`` the last that is no event.
    """

    __slots__ = (
        "_codex_in_turn",
        "_codex_is_answering",
        "_codex_last",
        "_codex_running",
        "_document",
        "_document_bytes",
        "_gemini_is_answering",
        "_has_brace",
        "_has_rule",
        "_is_assistant",
        "_is_for_people",
        "_is_in_document",
        "_is_overlong",
        "_judge",
        "_kind",
        "_last",
        "_last_words",
        "_parse",
        "_rest",
        "_speaker",
        "_told_turns",
        "answer",
        "cost_usd",
        "counted",
        "tokens",
    )

    def __init__(self, kind: str, parse: Callable[[bytes], object], judge: Judge) -> None:
        """Take whose output it is; anything else than those above: any that writes JSON.

        ``parse`` reads a JSON text, and raises ValueError for what is none.
        """
        self._kind = kind
        self._parse = parse
        self._judge = judge
        self._rest = b""
        self._is_overlong = False
        self.counted: int | None = None
        self.tokens: int | None = None
        self.cost_usd: float | None = None
        self.answer = ""
        self._last_words = b""
        self._told_turns: int | None = None
        # What each agent said last, and the tokens that took; "" is the agent itself.
        self._last: dict[str, tuple[str | None, int]] = {}
        # Whose words the answer consists of, where they come in pieces.
        self._speaker: str | None = None
        self._has_brace = self._is_in_document = self._is_assistant = False
        self._is_for_people = self._has_rule = False
        # The lines of an object that has many.
        self._document: list[bytes] = []
        self._document_bytes = 0
        self._codex_in_turn = False
        self._codex_is_answering = False
        self._codex_last = ""
        self._codex_running: set[str] = set()
        self._gemini_is_answering = False

    @property
    def last_line(self) -> str:
        """The last thing that was printed and is no event."""
        return self._last_words.decode(errors="replace").strip()

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
            self._take_overlong(self._rest or first)
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
        self._give_up_document()

    def _take_line(self, line: bytes) -> None:
        text = line.strip()
        if not text:
            return
        if self._document and line[:1] not in b" \t}":
            # What is printed over many lines is indented.
            if line == b"{":
                self._document, self._document_bytes = [line], 1
                return
            self._give_up_document()
        if len(line) > _LONGEST_LINE_BYTES:
            self._take_overlong(line)
        elif self._document or (line == b"{" and self._kind != _GOOSE):
            self._take_document_line(line)
        elif text[:1] in (b"{", b"[") and len(text) > 1 and not self._is_for_people:
            self._take_json(text)
        else:
            self._take_words(line)
            if self._kind == _GOOSE:
                self._take_text(line, text)

    def _take_json(self, text: bytes) -> None:
        try:
            document = self._parse(text)
        except (ValueError, RecursionError):
            if text.startswith(_JSON_HEADS):
                self._judge.take_cut(text)
            else:
                self._take_words(text)
            return
        for event in document if isinstance(document, list) else (document,):
            if isinstance(event, dict):
                self._take_event(event)

    def _take_overlong(self, begin: bytes) -> None:
        """Take note of a line that is not read: it may have been the event that tells the end."""
        if begin.lstrip()[:3].startswith(_JSON_HEADS):
            self._judge.take_cut(_OVERLONG)
        else:
            self._take_words(_OVERLONG)

    def _take_words(self, line: bytes) -> None:
        self._last_words = line
        self._judge.take_line(line)

    def _take_document_line(self, line: bytes) -> None:
        """Put an object together that is printed over many lines, as gemini does."""
        self._document.append(line)
        self._document_bytes += len(line)
        if line.rstrip() == b"}":
            text, self._document, self._document_bytes = b"\n".join(self._document), [], 0
            self._take_json(text)
        elif self._document_bytes > _LONGEST_LINE_BYTES:
            self._give_up_document()

    def _give_up_document(self) -> None:
        lines, self._document, self._document_bytes = self._document, [], 0
        for line in lines[-_MOST_AT_ONCE:]:
            self._take_words(line)
        if len(lines) > 1 and lines[1].lstrip().startswith(b'"'):
            self._judge.take_cut(lines[-1])

    def _take_event(self, event: dict[str, object]) -> None:
        told = self._judge.take_event(event)
        kind = event.get("type")
        if isinstance(kind, str):
            read = _READERS.get(kind)
            if read is not None:
                read(self, event)
            else:
                self._take_codex(kind, event)
        elif isinstance(event.get("messages"), list):
            self._take_conversation(event)
        elif "response" in event:
            self._say(event.get("response"), None)
            self._tell_gemini(event.get("stats"))
        if told:
            self._tell(told)

    def _tell(self, told: dict[str, object]) -> None:
        """Believe what the profile has an event tell."""
        turns, cost = _whole(told.get("turns")), _money(told.get("cost_usd"))
        if turns is not None:
            self.counted = self._told_turns = turns
        if cost is not None:
            self.cost_usd = cost
        self._tell_tokens(_whole(told.get("tokens")))
        self._say(told.get("text"), None)

    def _say(self, text: object, speaker: str | None) -> None:
        """Keep what was said last; more of one speaker comes behind what it said."""
        if not isinstance(text, str):
            return
        goes_on = speaker is not None and speaker == self._speaker
        self.answer = f"{self.answer if goes_on else ''}{text[-_MOST_ANSWER:]}"[-_MOST_ANSWER:]
        self._speaker = speaker

    # -- claude and goose -----------------------------------------------------------

    def _take_assistant(self, event: dict[str, object]) -> None:
        parent = event.get("parent_tool_use_id")
        message = _mapping(event.get("message"))
        self._take_answer(message, "" if parent is None else f"of {_name(parent)}")
        if parent is None:
            self._say_parts(message)

    def _take_message(self, event: dict[str, object]) -> None:
        message = _mapping(event.get("message"))
        if message.get("role") == "assistant":
            self._take_answer(message, "")
            self._say_parts(message)
        elif event.get("role") == "assistant":
            self._take_gemini(event)
        elif event.get("role") == "user":
            self._gemini_is_answering = False

    def _say_parts(self, message: dict[str, object]) -> None:
        content, name = message.get("content"), _name(message.get("id")) or None
        for part in content if isinstance(content, list) else ():
            words = _mapping(part)
            if words.get("type") == "text":
                self._say(words.get("text"), name)

    def _take_complete(self, event: dict[str, object]) -> None:
        cost = _money(event.get("cost_usd"))
        if cost is not None:
            self.cost_usd = cost
        self._tell_tokens(_whole(event.get("total_tokens")))

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
        self._say(event.get("result"), None)
        self._tell_gemini(event.get("stats"))

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
            self._say_parts(answers[-1])

    def _take_text(self, line: bytes, text: bytes) -> None:
        """Read what goose prints for people, or its document where that has many lines."""
        if self._is_in_document:
            if line.startswith(_DOCUMENT_ROLE):
                self._is_assistant = line.startswith(_DOCUMENT_MESSAGE)
                self._told_turns = (self._told_turns or 0) + self._is_assistant
            elif self._is_assistant and text.startswith(_DOCUMENT_WORDS):
                # What cannot be read was cut off, or is none.
                try:
                    self._say(self._parse(text[len(_DOCUMENT_WORDS) - 1 :].rstrip(b",")), None)
                except ValueError:
                    return
            elif text.startswith(_DOCUMENT_TOKENS):
                digits = text.removeprefix(_DOCUMENT_TOKENS).rstrip(b",")
                self._tell_tokens(int(digits) if digits.isdigit() and len(digits) < 16 else None)  # noqa: PLR2004 - as _MOST_COUNT
            return
        self._is_in_document = self._has_brace and text == _DOCUMENT_HEAD
        self._has_brace = text == b"{"
        words = text.decode(errors="replace")
        is_below_rule, self._has_rule = self._has_rule, not words.strip(_TOOL_RULE[0])
        is_between = _TOOL_RULE in words[:20] and " | " in words
        if is_between or (is_below_rule and words.startswith(_TOOL_MARK)):
            self._count_turn()
            # Then what looks like an event is only shown there.
            self._is_for_people = True
            self._judge.forget_events()

    # -- gemini -----------------------------------------------------------------------

    def _take_gemini(self, event: dict[str, object]) -> None:
        """Count an answer of gemini, which comes in pieces until it uses a tool."""
        if not self._gemini_is_answering:
            self._gemini_is_answering, self._speaker = True, None
            self._count_turn()
        self._say(event.get("content"), _GEMINI)

    def _take_tool(self, event: dict[str, object]) -> None:
        if event.get("type") == "tool_use" and not self._gemini_is_answering:
            self._count_turn()
        # With the results of all that it uses at once it goes on.
        self._gemini_is_answering = event.get("type") == "tool_use"

    def _tell_gemini(self, stats: object) -> None:
        """Read the sums of gemini: of all models, or those of each."""
        told = _mapping(stats)
        self._tell_tokens(_whole(told.get("total_tokens")))
        models = [_mapping(one) for one in _mapping(told.get("models")).values()]
        tokens = [_whole(_mapping(one.get("tokens")).get("total")) for one in models]
        requests = [_whole(_mapping(one.get("api")).get("totalRequests")) for one in models]
        if any(tokens):
            self._tell_tokens(sum(one or 0 for one in tokens))
        if any(requests):
            self._told_turns = sum(one or 0 for one in requests)

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
        elif kind == "turn.failed":
            self._codex_in_turn = self._codex_is_answering = False
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
            self._say(item.get("text"), None)
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
    "complete": AgentOutput._take_complete,  # noqa: SLF001 - as above
    "tool_use": AgentOutput._take_tool,  # noqa: SLF001 - as above
    "tool_result": AgentOutput._take_tool,  # noqa: SLF001 - as above
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
