"""``logs``: byte for byte, from the end, or as it comes."""

from __future__ import annotations

import ctypes
import json
import os
import time
from typing import TYPE_CHECKING

from tests.process.station import until

from tinyscheduler.cli.logs import Log, LogReader

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from tests.cli.place import Place

BLOCK = 65536
PUNCH_HOLE_KEEP_SIZE = 3  # fallocate(2)


def done_task(place: Place, script: str = "true") -> tuple[str, Path]:
    """Run a task to its end and return its id and the path of its log."""
    task_id = place.add("--start", "--", "sh", "-c", script)
    assert place.run("wait", task_id).code == 0
    return task_id, place.state / "logs" / "tasks" / task_id / "1.log"


def test_bytes_that_are_no_text_pass_through_unchanged(place: Place):
    task_id, log = done_task(place)
    content = bytes(range(256)) * 300 + b"\xff\xfe no newline at the end"
    log.write_bytes(content)

    whole = place.run_raw("logs", task_id)
    end = place.run_raw("logs", task_id, "-n", "1")

    assert (whole.returncode, whole.stdout, whole.stderr) == (0, content, b"")
    assert end.stdout == content[content.rindex(b"\n") + 1 :]


def test_the_last_lines_are_found_across_blocks(place: Place):
    task_id, log = done_task(place)
    lines = [b"%d " % number + b"x" * (number % 977) for number in range(1000)]
    log.write_bytes(b"\n".join(lines) + b"\n")

    for number in (0, 1, 2, 500, 1000, 5000):
        printed = place.run_raw("logs", task_id, "-n", str(number)).stdout
        wanted = lines[-number:] if number else []
        assert printed == b"".join(line + b"\n" for line in wanted)


def test_what_was_cut_out_of_a_log_is_skipped_and_told(place: Place):
    task_id, log = done_task(place)
    with log.open("wb") as file:
        file.write(b"head\n" + b"h" * (BLOCK - 5) + b"m" * BLOCK * 4 + b"t" * BLOCK + b"\ntail\n")
        file.flush()
        libc = ctypes.CDLL(None, use_errno=True)
        offsets = [ctypes.c_int64(BLOCK), ctypes.c_int64(BLOCK * 4)]
        assert libc.fallocate(file.fileno(), PUNCH_HOLE_KEEP_SIZE, *offsets) == 0

    answer = place.run_raw("logs", task_id)

    assert answer.returncode == 0
    assert answer.stdout == b"head\n" + b"h" * (BLOCK - 5) + b"t" * BLOCK + b"\ntail\n"
    assert answer.stderr.decode() == f"… {BLOCK * 4} bytes were cut out of this log here …\n"


def test_following_shows_each_line_at_once_and_ends_with_the_task(place: Place):
    gate = place.base / "gate"
    os.mkfifo(gate)
    script = f"while read line; do echo $line; done < {gate}; printf end"
    task_id = place.add("--start", "--", "sh", "-c", script)
    with place.start("logs", task_id, "--follow") as following:
        assert following.stdout is not None
        delays = []
        with gate.open("w", buffering=1) as writer:
            for line in ("one\n", "two\n", "three\n", "four\n", "five\n"):
                writer.write(line)
                written = time.monotonic()
                assert following.stdout.readline() == line.encode()
                delays.append(time.monotonic() - written)
        rest = following.stdout.read()

    assert (following.returncode, rest) == (0, b"end")
    # The first line also waits for the program to start.
    assert min(delays[1:]) < 0.3


def test_following_goes_on_with_the_next_attempt(place: Place):
    script = 'echo attempt $TINYSCHEDULER_ATTEMPT; [ "$TINYSCHEDULER_ATTEMPT" = 2 ]'
    place.settings["RETRY_BASE_SEC"] = "2"  # a pause that is over is not told
    task_id = place.add("--", "sh", "-c", script)
    with place.start("logs", "-f", task_id) as following:
        assert following.stderr is not None
        assert following.stdout is not None
        place.run("run")
        head = following.stderr.readline().decode().rstrip()
        between = following.stderr.readline().decode().rstrip()
        until(lambda: place.run("run").out.startswith("started"), "the backoff to be over")
        out, next_head = following.stdout.read(), following.stderr.read().decode().rstrip()

    assert (following.returncode, out) == (0, b"attempt 1\nattempt 2\n")
    assert head == "==> task 1, attempt 1 <=="
    assert between.startswith("task 1 failed (command_failed); attempt 2 is due in ")
    assert between.endswith("the first tick after that starts it; no daemon runs here")
    assert next_head == "==> task 1, attempt 2 <=="
    first = place.run_raw("logs", task_id, "--attempt", "1")
    assert first.stdout == b"attempt 1\n"
    assert place.run_raw("logs", task_id).stdout == b"attempt 2\n"
    assert place.run_raw("logs", task_id, "-f", "-n", "1", "--attempt", "1").stdout == first.stdout


def test_following_what_is_held_or_waits_for_it_says_so(place: Place):
    held = place.add("--hold", "--", "echo", "first")
    blocked = place.add("--after", held, "--", "echo", "second")
    told = []
    for task_id in (held, blocked):
        with place.start("logs", "-f", task_id) as following:
            assert following.stderr is not None
            told.append(following.stderr.readline().decode())
            following.terminate()

    assert told == [
        f"task 1 is held; `{place.program} release 1` lets it go\n",
        f"task 2 waits for task 1, which is held; `{place.program} release 1` lets it go\n",
    ]


def test_an_attempt_that_never_was_ends_with_5_and_names_those_that_were(place: Place):
    task_id, _ = done_task(place)

    answer = place.run("logs", task_id, "--attempt", "7")

    assert (answer.code, answer.out) == (5, "")
    assert answer.err == "error: task 1 has no log of attempt 7\nhint: attempts with a log: 1\n"


def test_a_task_that_has_printed_nothing_yet_ends_with_3(place: Place):
    task_id = place.add("--hold", "--", "true")
    waiting = place.run("logs", task_id)
    place.run("cancel", task_id)
    cancelled = place.run("logs", task_id)

    assert (waiting.code, waiting.out) == (3, "")
    assert waiting.err == "task 1 is held: it has not started yet\n"
    assert (cancelled.code, cancelled.err) == (3, "task 1 is cancelled: it never ran\n")


def test_a_log_that_was_removed_ends_with_3(place: Place):
    task_id, log = done_task(place)
    log.unlink()

    answer = place.run("logs", task_id)

    assert (answer.code, answer.out) == (3, "")
    assert str(log) in answer.err


def test_a_log_that_cannot_be_read_is_an_error(place: Place):
    task_id, log = done_task(place)
    log.unlink()
    log.mkdir()

    answer = place.run("logs", task_id)

    assert (answer.code, answer.out) == (69, "")
    assert "is not a file" in answer.err


def test_show_names_the_log_of_each_attempt(place: Place):
    task_id, log = done_task(place)

    answer = place.run("show", task_id, "--json")

    assert [one["log"] for one in json.loads(answer.out)["attempts"]] == [str(log)]


def test_a_log_that_is_cut_off_while_it_is_read_is_read_from_its_beginning(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
):
    path = tmp_path / "log"
    path.write_bytes(b"long ago\n")
    notes: list[str] = []
    reader = LogReader(note=notes.append)
    assert reader.open(Log(attempt=1, path=str(path)), last_lines=None)
    reader.copy()

    path.write_bytes(b"")
    reader.copy()
    path.write_bytes(b"anew\n")
    reader.copy()

    assert capfdbinary.readouterr().out == b"long ago\nanew\n"
    assert notes == ["… this log was cut off and goes on from its beginning …"]


def test_a_log_that_vanishes_between_two_looks_ends_no_command(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "log"
    path.write_bytes(b"first\n")
    reader = LogReader(note=lambda _: None)
    assert reader.open(Log(attempt=1, path=str(path)), last_lines=None)
    real = os.pread

    def read_and_cut(fd: int, length: int, offset: int) -> bytes:
        block = real(fd, length, offset)
        os.truncate(path, 0)
        return block

    monkeypatch.setattr(os, "pread", read_and_cut)
    reader.copy()

    assert capfdbinary.readouterr().out == b"first\n"
