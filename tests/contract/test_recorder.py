"""What every recorder of rounds must do, whatever it is made of."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_lease, a_result, a_snapshot, a_task, an_entry
from tests.contract.places import importing, paths_in

from tinyscheduler.adapters.rounds_file import FileRecorder, parse_rounds
from tinyscheduler.core.decide import decide
from tinyscheduler.errors import ConfigError, StoreError
from tinyscheduler.model.policy import DecidedBy
from tinyscheduler.model.rounds import Round, encode_round, redact
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.simulator.disk import Disk, Refusal
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.recorder import SimulatedRecorder
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinyscheduler.ports import Recorder

FIRST, SECOND, THIRD = (f"2026030{day}T120000.000000Z" for day in (1, 2, 3))


def a_round(tick_id: str = FIRST, number: int = 1, *, tasks: int = 1) -> Round:
    """Return what a tick decided; it has things in it that are not to be told."""
    snapshot = a_snapshot(
        *(a_task(f"t{one}", created_order=one) for one in range(tasks)),
        an_entry(a_lease("8", metadata=(("key", "hunter2"),))),
        a_result("9", message="hunter2"),
        slots=2,
    )
    plan = decide(snapshot, PlatformPolicy())
    return Round(
        tick_id=tick_id,
        number=number,
        program="0.1.0",
        decided_by=DecidedBy(name="platform"),
        snapshot=snapshot,
        plan=plan,
    )


@dataclass(kw_only=True)
class Place:
    """A place where rounds are kept: each call of ``recorder`` is another process.

    ``recorder`` may be told how many to keep at most; ``spoil`` makes of what is kept of a
    tick something that is not readable.
    """

    recorder: Callable[..., Recorder]
    spoil: Callable[[str], None]
    refuse: Callable[[], None]


def build_file(folder: Path) -> Place:
    paths = paths_in(folder)
    ticks = folder / "state" / "ticks"

    def recorder(most: int = 1000) -> Recorder:
        return FileRecorder(paths, most_files=most)

    def spoil(tick_id: str) -> None:
        for path in ticks.glob(f"{tick_id}-*"):
            path.write_text("garbage")

    def refuse() -> None:
        ticks.mkdir(parents=True, exist_ok=True)
        # Stands in the way of the temporary file, for root too.
        (ticks / ".round.tmp").mkdir()

    return Place(recorder=recorder, spoil=spoil, refuse=refuse)


def build_simulated(_folder: Path) -> Place:
    machine, disk = Machine(), Disk()

    def recorder(most: int = 1000) -> Recorder:
        return SimulatedRecorder(machine.spawn("tick"), disk, most_rounds=most)

    def spoil(tick_id: str) -> None:
        for key in disk.rounds:
            if key[0] == tick_id:
                disk.rounds[key] = "garbage"

    def refuse() -> None:
        disk.refusal = Refusal.BYTES

    return Place(recorder=recorder, spoil=spoil, refuse=refuse)


PLACES: dict[str, Callable[[Path], Place]] = {"file": build_file, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


def test_where_nothing_was_recorded_there_is_nothing(place):
    assert list(place.recorder().ticks()) == []
    assert list(place.recorder().rounds(FIRST)) == []


def test_another_process_reads_what_was_recorded_without_what_is_not_to_be_told(place):
    place.recorder().record([a_round()])

    (back,) = place.recorder().rounds(FIRST)

    assert back == redact(a_round())
    assert back != a_round()


def test_rounds_of_one_tick_come_in_order_whenever_they_were_recorded(place):
    place.recorder().record([a_round(number=1), a_round(number=2)])
    place.recorder().record([a_round(number=10)])

    assert [one.number for one in place.recorder().rounds(FIRST)] == [1, 2, 10]
    assert list(place.recorder().ticks()) == [FIRST]


def test_ticks_are_told_oldest_first(place):
    for tick_id in (SECOND, FIRST, THIRD):
        place.recorder().record([a_round(tick_id)])

    assert list(place.recorder().ticks()) == [FIRST, SECOND, THIRD]


def test_to_record_nothing_is_nothing(place):
    place.recorder().record([])

    assert list(place.recorder().ticks()) == []


def test_the_oldest_make_room(place):
    for tick_id in (FIRST, SECOND, THIRD):
        place.recorder(most=2).record([a_round(tick_id)])

    assert list(place.recorder().ticks()) == [SECOND, THIRD]


def test_after_a_clock_was_ahead_what_is_new_does_not_make_room_for_what_it_named(place):
    for tick_id in (SECOND, THIRD, FIRST):
        place.recorder(most=2).record([a_round(tick_id)])

    assert list(place.recorder().ticks()) == [FIRST, THIRD]


def test_a_disk_that_refuses_raises_store_error_and_keeps_what_is_there(place):
    place.recorder().record([a_round(FIRST)])
    place.refuse()

    with pytest.raises(StoreError):
        place.recorder().record([a_round(SECOND)])

    assert list(place.recorder().ticks()) == [FIRST]
    assert len(place.recorder().rounds(FIRST)) == 1


def test_what_is_damaged_is_told_and_spoils_no_other(place):
    place.recorder().record([a_round(FIRST), a_round(SECOND)])
    place.spoil(FIRST)

    with pytest.raises(ConfigError, match="it is not JSON"):
        place.recorder().rounds(FIRST)

    assert len(place.recorder().rounds(SECOND)) == 1


# -- the files ------------------------------------------------------------------------


def test_a_file_can_be_read_by_its_owner_alone_and_with_any_tool(tmp_path):
    FileRecorder(paths_in(tmp_path)).record([a_round()])

    ticks = tmp_path / "state" / "ticks"
    (path,) = ticks.iterdir()
    assert path.name == f"{FIRST}-0001.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ticks.stat().st_mode) == 0o700
    document = json.loads(path.read_text())
    assert (document["version"], document["tick_id"], document["round"]) == (1, FIRST, 1)
    assert "hunter2" not in path.read_text()


def test_other_files_are_none_of_ours(tmp_path):
    ticks = tmp_path / "state" / "ticks"
    ticks.mkdir(parents=True)
    for name in (".round.tmp", "mine.json", "mine-1.json", f"{FIRST}.json", f"{FIRST}-1.json.gz"):
        (ticks / name).write_text("mine")
    recorder = FileRecorder(paths_in(tmp_path), most_files=1)

    recorder.record([a_round(FIRST), a_round(SECOND)])

    assert recorder.ticks() == [SECOND]
    assert len(list(ticks.iterdir())) == 5, "what was left half-written is gone, the others stay"


def test_bytes_are_bounded_too_whatever_a_round_takes(tmp_path):
    small, large = a_round(tasks=1), a_round(tasks=40)
    most_bytes = 20 * len(json.dumps(encode_round(large)))
    recorder = FileRecorder(paths_in(tmp_path), most_files=100, most_bytes=most_bytes)
    ticks = tmp_path / "state" / "ticks"

    for number in range(1, 131):
        one = large if number % 3 else small
        recorder.record([replace(one, number=number)])
        assert sum(path.stat().st_size for path in ticks.iterdir()) <= most_bytes

    kept = [one.number for one in recorder.rounds(FIRST)]
    assert kept == list(range(kept[0], 131)), "the newest, without a gap"
    assert 5 < len(kept) < 40


def test_one_that_is_larger_than_any_should_be_is_refused(tmp_path):
    recorder = FileRecorder(paths_in(tmp_path), most_bytes_of_one=1000)

    with pytest.raises(StoreError, match=r"would take \d+ bytes"):
        recorder.record([a_round()])

    assert recorder.ticks() == []


def test_the_newest_stays_however_large_it_is(tmp_path):
    recorder = FileRecorder(paths_in(tmp_path), most_bytes=10)

    recorder.record([a_round(FIRST), a_round(SECOND)])

    assert recorder.ticks() == [SECOND]


def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path):
    program = """
import resource, sys
from pathlib import Path
from tests.contract.places import paths_in
from tests.contract.test_recorder import FIRST, SECOND, a_round
from tinyscheduler.adapters.rounds_file import FileRecorder
from tinyscheduler.errors import StoreError
recorder = FileRecorder(paths_in(Path(sys.argv[1])))
recorder.record([a_round(FIRST)])
resource.setrlimit(resource.RLIMIT_FSIZE, (200, -1))
try:
    recorder.record([a_round(SECOND)])
except StoreError as error:
    print(error.what)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.endswith("ticks: File too large\n")
    assert [path.name for path in (tmp_path / "state" / "ticks").iterdir()] == [
        f"{FIRST}-0001.json"
    ]


WRITER = """
import sys
from pathlib import Path
from tests.contract.places import paths_in
from tests.contract.test_recorder import a_round
from tinyscheduler.adapters.rounds_file import FileRecorder
from tinyscheduler.values import replace
recorder = FileRecorder(paths_in(Path(sys.argv[1])), most_files=20)
one = a_round(tasks=30)
recorder.record([one])
print("ready", flush=True)
for number in range(1, 10_000):
    recorder.record([replace(one, number=number)])
"""


def test_whenever_the_writer_is_killed_readers_find_whole_documents_alone(tmp_path):
    recorder = FileRecorder(paths_in(tmp_path))
    seen = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env=importing(), stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            for _ in range(5):
                seen += len(recorder.rounds(FIRST))
            writer.send_signal(signal.SIGKILL)
        found = recorder.rounds(FIRST)
        assert all(len(one.snapshot.sources[0].waiting) == 30 for one in found)
        left = os.listdir(tmp_path / "state" / "ticks")
        assert len(left) <= 20 + 2, "the bound, one that was about to make room, one half written"

    assert seen


# -- documents ------------------------------------------------------------------------


def test_several_documents_in_one_text_are_read_in_order():
    texts = [json.dumps(encode_round(a_round(number=number)), indent=1) for number in (1, 2)]

    rounds = parse_rounds("\n\n".join([*texts, ""]).encode(), where="-")

    assert [one.number for one in rounds] == [1, 2]


NEWER = b'{"version": 2, "program": "9.1"}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xff", "it is not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b'{"version": 1', "it is not JSON: Expecting ',' delimiter: line 1 column 14"),
        (b"[" * 100_000, "it is not JSON: "),
        (b"[1]", "the document is no JSON object"),
        (b'{"version": 1}', "snapshot should be an object, not None"),
        (NEWER, r"it was written by a newer TinyScheduler \(document version 2, by version 9.1\)"),
    ],
)
def test_what_is_no_document_is_named_with_its_file(content, words):
    with pytest.raises(ConfigError, match=f"^/some/file: {words}") as caught:
        parse_rounds(content, where="/some/file")

    assert caught.value.hint
