"""When a limit ends is read out of what agents say, and out of nothing else they print."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyscheduler.core.provider_limits import LONGEST_LIMIT_S, find_end

WARSAW = ZoneInfo("Europe/Warsaw")
# A Monday, 23:50 in Warsaw.
SAID_AT = datetime(2026, 10, 5, 21, 50, tzinfo=UTC)


def found(words: str, said_at: datetime = SAID_AT) -> str | None:
    """Return what the words tell on a machine in Warsaw, in UTC."""
    end = find_end(words, said_at=said_at, zone=WARSAW)
    return None if end is None else f"{end.astimezone(UTC):%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("words", "end"),
    [
        # claude, then and now
        ("You've hit your limit · resets 2am (Europe/Warsaw)", "10-06 00:00:00"),
        ("You've hit your session limit · resets 5:40pm (Europe/Berlin)", "10-06 15:40:00"),
        ("Weekly limit reached · resets 10am (Asia/Seoul) · /upgrade to Max", "10-06 01:00:00"),
        ("Claude usage limit reached. Your limit will reset at 1pm (Etc/GMT+5).", "10-06 18:00:00"),
        ("Claude usage limit reached. Your limit will reset at 12am.", "10-05 22:00:00"),
        ("Claude AI usage limit reached|1791252000", "10-06 02:00:00"),
        ("5-hour limit reached ∙ resets 3:45pm", "10-06 13:45:00"),
        ("Opus weekly limit reached ∙ resets Oct 9 at 5pm", "10-09 15:00:00"),
        ("limit reached · resets Oct 9, 5pm (America/Bogota)", "10-09 22:00:00"),
        ("resets Mon 12:00am", "10-11 22:00:00"),
        ("resets Thursday at noon", "10-08 10:00:00"),
        # codex
        ("or try again in 3 days 4 hours 5 minutes.", "10-09 01:55:00"),
        ("hit your usage limit. Try again at 7:31 PM.", "10-06 17:31:00"),
        ("or try again at Oct 7th, 2026 1:36\N{NARROW NO-BREAK SPACE}PM.", "10-07 11:36:00"),
        ('"resets_at":1791252000,"resets_in_seconds":602705', "10-06 02:00:00"),
        ('{"plan_type":"plus","resets_in_seconds":13872}', "10-06 01:41:12"),
        # OpenAI, Anthropic and others by their interfaces
        ("Limit 10000, Used 8554, Requested 3082. Please try again in 1.2s.", "10-05 21:50:01"),
        ("on requests per day (RPD): Limit 200. Please try again in 6m0s.", "10-05 21:56:00"),
        ("Please try again in 20ms. Contact us", "10-05 21:50:00"),
        ("429 Too Many Requests, retry-after: 30", "10-05 21:50:30"),
        ("{'retry-after-ms': '90000'}", "10-05 21:51:30"),
        ("Retry-After: Wed, 07 Oct 2026 07:28:00 GMT", "10-07 07:28:00"),
        ("x-ratelimit-reset-tokens: 6m0s", "10-05 21:56:00"),
        ("anthropic-ratelimit-requests-reset: 2026-10-05T22:00:30Z", "10-05 22:00:30"),
        ("Please wait 30 seconds and then", "10-05 21:50:30"),
        # gemini
        ('"retryDelay": "34s"', "10-05 21:50:34"),
        ("Your quota will reset after 5h3m", "10-06 02:53:00"),
        ("will reset after 5s.. Retrying after 6173ms...", "10-05 21:50:05"),
        ("RPD quotas reset at midnight Pacific time", "10-06 07:00:00"),
        # as others might
        ("available again tomorrow at 9am", "10-06 07:00:00"),
        ("rate limited until 2026-10-06 02:00", "10-06 00:00:00"),
        ("resets at 2026-10-06T02:00:00.5+02:00", "10-06 00:00:00"),
        ("retry on 2026-10-08", "10-07 22:00:00"),
        ("resets 9:15 p.m. (EST)", "10-06 01:15:00"),
        ("resets at 14:20:05 UTC", "10-06 14:20:05"),
        ("resets today, 23:59", "10-05 21:59:00"),
        ("resets 7 Oct 2026", "10-06 22:00:00"),
        ("resets Oct. 7", "10-06 22:00:00"),
        ("İİ resets 2am (Europe/Warsaw)", "10-06 00:00:00"),
        ("try again in 1 hour, 2 minutes and 3 seconds", "10-05 22:52:03"),
        ("Please retry in 2h0m59.56s.", "10-05 23:50:59"),
        ("retry_after_seconds=90", "10-05 21:51:30"),
        (r"{\"retryDelay\": \"34.074s\"}", "10-05 21:50:34"),
        ("attempt 10 of 10, try again later … limit resets at 1791252000", "10-06 02:00:00"),
        ("Access is restored on October 9 at 5:00 PM PDT", "10-10 00:00:00"),
        ("resets 2am (Mars/Olympus)", "10-06 00:00:00"),
        ("resets 2am (Europe)", "10-06 00:00:00"),
        (f"resets 2am ({'x' * 99})", "10-06 00:00:00"),
        ("resets 2am (../../etc/passwd)", "10-06 00:00:00"),
    ],
)
def test_the_end_of_a_limit_is_read_out_of_the_words_of_agents(words: str, end: str):
    assert found(words) == end


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Please try again later.",
        "This request would exceed your account's rate limit. Please try again later.",
        "wait for limits to reset (every 5h and every week.).",
        "try again at 10 de jul. de 2026, 11:52.",  # another language
        "Retry after 6 attempts",
        "retry in 5",
        "retry-after: 2026-13-45",
        "resets 25:70",
        "resets 13am",
        "resets 12:",
        "resets 1:2:3:4",
        "resets a.m.",
        "resets Oct",
        "resets Feb 30 at 5pm",
        "limit reached|soon",
        "Current: 176000.000000 / min",
        # over, or absurd
        "Claude AI usage limit reached|1749924000",
        "resets_at: 99999999999999",
        "resets at 2026-10-01T00:00:00Z",
        "resets at 2026-10-06T02:00:00+05:30",
        "resets Dec 24 at 5pm",
        "try again in 9 days",
        "try again in 999999999999999 weeks",
        "try again in 9999999999999999 s",
        "resets 0001-01-01T00:00:00+14:00",
        "resets Jan 1, 0001 at 2am",
    ],
)
def test_what_tells_no_end_or_an_absurd_one_counts_as_not_told(words: str):
    assert found(words) is None


def test_a_time_that_has_passed_today_is_tomorrow_but_not_one_that_has_just_passed():
    assert found("resets 11pm") == "10-06 21:00:00"
    # The provider and this machine do not agree to the second, and an agent may lag behind.
    assert found("resets 11:49pm") == "10-05 21:50:00"


@pytest.mark.parametrize(
    ("said_at", "words", "end"),
    [
        # 02:30 does not exist on 29 March: clocks go from 02:00 to 03:00, at 01:00 in UTC.
        ("2026-03-28T23:50", "resets 2:30am (Europe/Warsaw)", "03-29 01:30:00"),
        # On 25 October they show 02:30 twice, at 00:30 and 01:30 in UTC.
        ("2026-10-24T22:00", "resets 2:30am (Europe/Warsaw)", "10-25 00:30:00"),
        ("2026-10-25T00:40", "resets 2:30am (Europe/Warsaw)", "10-25 01:30:00"),
        ("2026-10-25T01:40", "resets 2:30am (Europe/Warsaw)", "10-26 01:30:00"),
        # A day has 25 hours then.
        ("2026-10-24T10:00", "resets tomorrow at 11:00 (Europe/Warsaw)", "10-25 10:00:00"),
    ],
)
def test_clocks_that_are_set_forward_or_back_are_read_right(said_at: str, words: str, end: str):
    assert found(words, datetime.fromisoformat(said_at).replace(tzinfo=UTC)) == end


def test_without_a_zone_the_time_is_that_of_the_machine():
    # Where this runs may be anywhere: what its clocks show then is what was told.
    end = find_end("resets 2am", said_at=SAID_AT)

    assert end is not None
    assert f"{end.astimezone():%H:%M}" == "02:00"


def test_only_the_beginning_of_long_words_is_read():
    assert found("x" * 990 + " resets 2am") is None
    assert found("again " * 100_000) is None


PIECES = st.sampled_from(
    (
        *(
            "resets",
            "try again",
            "retry-after",
            "|",
            "until",
            "wait",
            "in",
            "at",
            "on",
            ":",
            "=",
            ",",
        ),
        *("2", "12", "59", "2026", "1791252000", "1791252000000", "999999999999999", "0.5", "٣"),
        *("am", "p.m.", "ms", "s", "minutes", "hours", "days", "weeks", "and", "noon", "midnight"),
        *("Mon", "Thursday", "Oct", "Feb", "30th", "today", "tomorrow", "-", "T", "Z", "+02:00"),
        *("(Europe/Warsaw)", "(Europe)", "(../x)", "[UTC]", "PST", "\\", '"', "·", "İ", "\0"),
    )
)


@given(
    words=st.text(max_size=60)
    | st.lists(PIECES, max_size=12).map(" ".join)
    | st.lists(PIECES, max_size=12).map("".join),
    said_at=st.datetimes(timezones=st.just(UTC)),
)
@example(words="resets today 2am", said_at=datetime.min.replace(tzinfo=UTC))
@example(words="resets Sunday", said_at=datetime.max.replace(tzinfo=UTC))
def test_whatever_is_said_an_end_is_ahead_and_within_the_longest_limit(
    words: str, said_at: datetime
):
    end = find_end(words, said_at=said_at, zone=WARSAW)

    assert end is None or timedelta(0) <= end - said_at <= timedelta(seconds=LONGEST_LIMIT_S)


@given(seconds=st.integers(1, int(LONGEST_LIMIT_S)))
def test_a_time_that_is_told_as_wait_or_moment_is_found_to_the_second(seconds: int):
    end = SAID_AT + timedelta(seconds=seconds)
    days, rest = divmod(seconds, 86_400)
    told = (
        f"retry-after: {seconds}",
        f"try again in {days} days {rest // 3600} hours {rest // 60 % 60} minutes {rest % 60} s",
        f"limit reached|{int(end.timestamp())}",
        f"resets at {end.isoformat()}",
        f"resets {end.astimezone(WARSAW):%b %d, %Y at %I:%M:%S %p} (Europe/Warsaw)",
    )

    assert {find_end(words, said_at=SAID_AT) for words in told} == {end}
