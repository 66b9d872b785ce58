"""How did an attempt of an agent end, by the rules of its profile?

Standard library only, and nothing of ours: a wrapper loads this by its path, beside the program
that reads what the agent prints.  A profile is data: its rules are asked in order, and the first
that holds says what the attempt was.  What a rule asks of the output it asks of the newest line
that any rule asks for: who goes on after a failure has not failed, and who goes on after a success
has not ended.

No pattern is a regular expression: an output may be hostile, and its judge must not hang.
"""

from __future__ import annotations

SUCCESS = "success"
# What decides is what was said, see `classify`.
BY_WORDS = "by_words"
UNKNOWN = "sdk_error"
# Near the end, or somebody only spoke of it.
_LAST_LINES = 5
# Kept at most, with those that tell where in its program it failed.
_KEPT_LINES = 200
_MOST_LINE_BYTES = 4000
_MOST_DEPTH = 8
_MOST_PARTS = 10
_MOST_WORDS = 300
_MOST_COUNT = 10**15
# Where events tell what went wrong, most telling first.
_TELLING = ("result", "errors", "error", "message")
_STATUS = ("api_error_status", "status_code", "code")

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
            *("token has expired", "invalid credentials", "403 forbidden", "set an auth method"),
            # Nothing that waiting would help against: somebody has to pay first.
            *("credit balance is too low", "credit balance too low", "billing error"),
            *(
                "out of credits",
                "credits exhausted",
                "login again",
                "does not have access to claude",
            ),
            *("organization has been disabled", "organization has disabled"),
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
            *("overloaded error", "overloaded", "is at capacity", "no capacity available"),
            "experiencing high demand",
        ),
    ),
)
# Answers of servers, where they stand as such: an error in line 401 is none.
_STATUSES = {"401": "auth_failed", "429": "rate_limited", "529": "rate_limited"}
_BEFORE_STATUS = frozenset(
    {"http", "status", "code", "error", "api", "returned", "got", "with", "failed", "repeated"}
)
# What is overloaded in programs.
_IN_PROGRAMS = ("overloaded function", "overloaded method", "overloaded operator")
# Where a text says when it will go on.
_WHEN = ("reset", "resets", "retry", "retrydelay", "try again", "resetsat", "available again")
# What goose says below every error that it does not know, of which it need not be one.
_BELOW_ERRORS = (
    "these errors are often related to connection or authentication",
    "we ve removed the conversation up to the most recent user message",
    "depending on the error you may be able to continue",
    "yes what would you like me to do",
)
_MOST_BETWEEN = 2
_MOST_TEXT = 1 << 16


class Judge:
    """Watches an output for what the rules of a profile ask, and judges by them.

    A profile is a mapping: ``outcomes`` are its rules, most telling first, and ``tells`` are the
    paths at which events tell of turns, tokens, cost_usd and text.  A rule is a mapping too: its
    ``then`` is success, by_words or a failure reason; what it asks for is in ``exit_code``
    (numbers), ``json`` (paths, and the values of which each must have one) and ``last_line``
    (patterns); ``say`` is what people are told.
    """

    __slots__ = (
        "_has_events",
        "_is_cut",
        "_last",
        "_newest",
        "_notes",
        "_rules",
        "_tells",
        "_told",
        "_watched",
    )

    def __init__(self, profile: object = None) -> None:
        """Take a profile; where it has no rules, nothing is a failure."""
        known = _mapping(profile)
        rules, tells = known.get("outcomes"), _mapping(known.get("tells"))
        self._rules = tuple(map(_mapping, rules)) if isinstance(rules, list) else ()
        self._watched = tuple(
            (number, _mapping(rule.get("json")))
            for number, rule in enumerate(self._rules)
            if rule.get("json")
        )
        self._tells = tuple((name, _text(path)) for name, path in tells.items())
        # Which rules the newest line agrees with that any agrees with, and what it says.
        self._newest: tuple[int, ...] = ()
        self._told: dict[str, object] = {}
        # Lines that are no events, the newest last.
        self._last: list[bytes] = []
        self._notes: dict[str, str] = {}
        self._has_events = self._is_cut = False

    def take_event(self, event: dict[str, object]) -> dict[str, object]:
        """Take note of an object that was printed, and return what its profile has it tell."""
        self._has_events, self._is_cut = True, False
        agreed = tuple(number for number, asked in self._watched if _agrees(event, asked))
        if agreed:
            self._newest, self._told = agreed, event
        self._note(event)
        found = ((name, _at(event, path)) for name, path in self._tells)
        return {name: value for name, value in found if value is not None}

    def forget_events(self) -> None:
        """Take back all events: what looked like one was quoted in a text for people."""
        self._newest, self._told, self._notes = (), {}, {}
        self._has_events = False

    def take_line(self, line: bytes) -> None:
        """Take note of a line that is no event."""
        self._is_cut = False
        self._last.append(line if len(line) < _MOST_LINE_BYTES else line[:_MOST_LINE_BYTES])
        if len(self._last) > _KEPT_LINES:
            del self._last[: -_KEPT_LINES // 2]

    def take_cut(self, line: bytes) -> None:
        """Take note of what began as an event, and is none: the last one may be cut off."""
        self.take_line(line)
        self._is_cut = True

    def judge(self, exit_code: int, answer: str = "") -> tuple[str, str] | None:
        """Return how the attempt failed, as reason and words; None: it did not.

        ``answer`` is the last thing that the agent said, where its events told that.
        """
        if not self._rules:
            return None
        lines = self._last_lines(answer)
        if self._is_cut and self._watched and exit_code == 0:
            return (UNKNOWN, _cut("its output is cut off: ", lines))
        has_said = bool(lines or self._newest)
        for number, rule in enumerate(self._rules):
            if not self._asks_for(rule, number, exit_code):
                continue
            patterns = rule.get("last_line")
            if patterns is None:
                return self._conclude(rule, exit_code, lines)
            line = _said(lines, patterns, has_said=has_said)
            if line is not None:
                return self._conclude(rule, exit_code, [line], is_told=True)
        return (UNKNOWN, _cut(f"no rule of its profile knows exit code {exit_code}: ", lines))

    def _last_lines(self, answer: str) -> list[str]:
        """Return the last lines that are no events, those of the answer first.

        Where in its program an agent failed is left out: that stands below what happened.
        """
        lines = [_plain(one.decode(errors="replace")) for one in self._last]
        told = [one for one in lines if not _is_below(one)][-_LAST_LINES:]
        return [one for one in (*answer.splitlines()[-_LAST_LINES:], *told) if one.strip()]

    def _asks_for(self, rule: dict[str, object], number: int, exit_code: int) -> bool:
        codes = rule.get("exit_code")
        if isinstance(codes, list) and exit_code not in codes:
            return False
        return not rule.get("json") or number in self._newest

    def _conclude(
        self,
        rule: dict[str, object],
        exit_code: int,
        lines: list[str],
        *,
        is_told: bool = False,
    ) -> tuple[str, str] | None:
        reason, say = _text(rule.get("then")), _text(rule.get("say"))
        if reason == SUCCESS:
            return None
        told = lines if is_told else []
        if rule.get("json"):
            told = [*_words_in(self._told), *filter(None, self._notes.values())]
        code = f"exit code {exit_code}"
        if reason == BY_WORDS:
            reason, words = classify("\n".join(told or self._words_of_program(lines)))
            if is_told and reason == UNKNOWN:
                # A line that only says that there was an error stands below it.
                reason, words = classify("\n".join([*self._errors(), *told]))
            is_known = bool(told) or reason != UNKNOWN
            return (reason, words if is_known else self._end(code, lines))
        if say:
            return (reason, f"{say} ({code})")
        return (reason, classify("\n".join(told))[1] if told else self._end(code, lines))

    def _words_of_program(self, lines: list[str]) -> list[str]:
        """Return those that are not the model's: what that speaks of has not befallen it.

        All where no events tell the two apart, or where claude says that its model was not asked.
        """
        if not self._has_events or self._notes.get("error"):
            return [*lines, *filter(None, self._notes.values())]
        return self._last_lines("")

    def _errors(self) -> list[str]:
        """Return those of its last lines that begin as an error does."""
        return [one for one in self._last_lines("") if _spoken(one).startswith(" error ")]

    def _end(self, code: str, lines: list[str]) -> str:
        """Return what there is to say where nothing was told of it."""
        return _cut(f"{code}: ", lines) if lines or not self._newest else code

    def _note(self, event: dict[str, object]) -> None:
        """Keep what claude says beside its words of why its provider refuses it, and till when."""
        kind = event.get("type")
        if kind == "assistant":
            # What it said before it went on was no end.
            self._notes["error"] = _text(event.get("error"))[:_MOST_WORDS]
        elif kind == "rate_limit_event":
            limit = _mapping(event.get("rate_limit_info"))
            until, is_out = limit.get("resetsAt"), limit.get("status") == "rejected"
            is_told = is_out and type(until) is int and 0 < until < _MOST_COUNT
            # Who was let in again since is held up by something else, if at all.
            self._notes["until"] = f"limit resets at {until}" if is_told else ""


def _agrees(event: dict[str, object], asked: dict[str, object]) -> bool:
    """Whether the event has at each path one of the values; "*" is any but null."""
    for path, values in asked.items():
        found = _at(event, path)
        wanted = values if isinstance(values, list) else [values]
        # True is 1 to Python, and not to JSON.
        if not any(
            (one == "*" and found is not None) or (one == found and type(one) is type(found))
            for one in wanted
        ):
            return False
    return True


def _at(event: dict[str, object], path: str) -> object:
    """Return what stands at a path such as error.message or errors.0; None if nothing does."""
    found: object = event
    for name in path.split("."):
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdigit() and int(name[:9]) < len(found):
            found = found[int(name[:9])]
        else:
            return None
    return found


def _words_in(event: dict[str, object]) -> list[str]:
    """Return what an event tells of how something failed, most telling first."""
    told: list[str] = []
    for name in _TELLING:
        told += _texts(event.get(name), depth=0)
    told = told or [text for name in ("subtype", "status") if (text := _text(event.get(name)))]
    places = (event, _mapping(event.get("error")))
    status = next((one for place in places for name in _STATUS if (one := place.get(name))), None)
    return [*told, f"API status {status}"] if type(status) is int else told


def _texts(value: object, *, depth: int) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list):
        return [text for one in value[:_MOST_PARTS] for text in _texts(one, depth=depth + 1)]
    if isinstance(value, dict) and depth < _MOST_DEPTH:
        names = ("message", "type", "detail")
        return [text for name in names for text in _texts(value.get(name), depth=depth + 1)]
    return []


def _said(lines: list[str], patterns: object, *, has_said: bool) -> str | None:
    """Return the newest line that agrees with one of these; "" agrees with nothing at all."""
    wanted = patterns if isinstance(patterns, list) else [patterns]
    if "" in wanted and not has_said:
        return "it printed nothing"
    for line in reversed(lines):
        spoken = _spoken(line)
        if any(one and _is_like(spoken, str(one)) and _begins(line, str(one)) for one in wanted):
            return line
    return None


def _begins(line: str, pattern: str) -> bool:
    """Whether a line begins as a pattern does that ends its first words in a colon.

    >>> _begins("ERROR: no more", "error:*"), _begins("- Error handling: done", "error:*")
    (True, False)
    """
    head = pattern.partition("*")[0].strip().lower()
    return not head.endswith(":") or line.strip().lower().startswith(head)


def _is_like(spoken: str, pattern: str) -> bool:
    """Whether a line has these words and no others, but for those where an asterisk stands.

    >>> _is_like(_spoken("Error: quota of project 7 was exceeded"), "error*quota*exceeded")
    True
    >>> _is_like(_spoken("the quotation exceeded it"), "*quota*")
    False
    """
    parts = [_spoken(one).strip() for one in pattern.split("*")]
    if len(parts) == 1:
        return spoken.strip() == parts[0]
    first, *middle, last = parts
    at = 0
    if first:
        if not spoken.startswith(f" {first} "):
            return False
        at = len(first) + 1
    for one in filter(None, middle):
        found = spoken.find(f" {one} ", at)
        if found < 0:
            return False
        at = found + len(one) + 1
    return not last or (spoken.endswith(f" {last} ") and len(spoken) - len(last) - 2 >= at)


def _cut(before: str, lines: list[str]) -> str:
    """Return these words and the last line that speaks of a fault, or else the last."""
    faults = [one for one in lines if any(map(_is_fault, _spoken(one).split()))]
    last = _excerpt((faults or lines)[-1], 0) if lines else "it printed nothing"
    return f"{before}{last}"[:_MOST_WORDS]


def _is_below(line: str) -> bool:
    """Whether a line tells more of an error above it, and may tell of another."""
    return line.lstrip().startswith("at ") or _spoken(line).strip() in _BELOW_ERRORS


def _is_fault(word: str) -> bool:
    return word.endswith("error") or word in {"panicked", "fatal", "exception"}


def classify(text: str) -> tuple[str, str]:
    """Return as what a failure counts that is told like this, and the line that decided it.

    Of a long line some 300 characters around the words; where a provider says in another line
    when it goes on, that comes behind it.  What speaks of nothing known is an sdk_error.

    >>> classify("API Error (Request timed out.)")
    ('timeout', 'API Error (Request timed out.)')
    >>> classify("it took a wrong turn: the rate limit was reached")[0]
    'rate_limited'
    """
    lines = [" ".join(one.split()) for one in _plain(text[:_MOST_TEXT]).splitlines()]
    lines = [one for one in lines if one]
    spoken = [_spoken(one) for one in lines]
    for reason, phrases in _FAILURES:
        for number, words in enumerate(spoken):
            at = _first(words, phrases, reason)
            if at is not None:
                told = _excerpt(lines[number], _place(lines[number], words, at))
                if reason == "rate_limited" and not _speaks_of(_spoken(told), _WHEN):
                    told = _with_time(told, lines, spoken)
                return (reason, told)
    words = _excerpt(lines[0], 0) if lines else "it says that it failed, and not why"
    return (UNKNOWN, words)


def _first(words: str, phrases: tuple[str, ...], reason: str) -> int | None:
    """Return where the words of a line speak of one of these, if they do."""
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


def _place(line: str, words: str, at: int) -> int:
    """Return where in a line the word begins before which its words have that space.

    >>> line = "{'error': api_rate_limit_error} (429)"
    >>> line[_place(line, _spoken(line), _spoken(line).index(" limit ")) :]
    'limit_error} (429)'
    """
    left, place = words.count(" ", 0, at), 0
    shown = "".join(one if one.isalnum() or one in ",." else " " for one in line.lower())
    for word in shown.split():
        place = shown.index(word, place)
        if word.strip(",."):
            if not left:
                break
            left -= 1
        place += len(word)
    return place


def _excerpt(line: str, at: int) -> str:
    """Return the line, or as much as is kept of it around some place."""
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
            when = line[max(0, _place(line, words, at) - 20) :][: _MOST_WORDS // 3]
            return f"{told[: _MOST_WORDS - len(when) - 3]} … {when}"
    return told


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
