"""What every GPU probe must do, whatever it is made of."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.gpus.driver import driver

from tinyscheduler.adapters.gpu_file import FileGpuProbe
from tinyscheduler.adapters.gpu_nvml.probe import _REPORT, NvmlGpuProbe
from tinyscheduler.model.resources import Gpu, GpuProcess, GpuReading
from tinyscheduler.simulator.gpus import SimulatedGpuProbe
from tinyscheduler.simulator.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.ports import GpuProbe

__all__ = ["driver"]

GIB = 2**30
TWO = GpuReading(
    gpus=(
        Gpu(
            index=0,
            uuid="GPU-fake-1",
            name="Fake RTX",
            total_bytes=24 * GIB,
            used_bytes=GIB // 2,
            utilization=42,
        ),
        Gpu(
            index=1,
            uuid="GPU-fake-2",
            name="Fake RTX",
            total_bytes=24 * GIB,
            used_bytes=5 * GIB,
            utilization=42,
            processes=(GpuProcess(pid=4711, used_bytes=4 * GIB),),
        ),
    )
)


@dataclass(kw_only=True)
class Place:
    """A machine whose GPUs a test may change: ``show`` by the names of tests/gpus/nvml.c."""

    probe: GpuProbe
    show: Callable[[str], None]


def as_json(gpu: Gpu) -> dict[str, object]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "total": gpu.total_bytes,
        "used": gpu.used_bytes,
        "utilization": gpu.utilization,
        "processes": None
        if gpu.processes is None
        else [{"pid": one.pid, "used": one.used_bytes} for one in gpu.processes],
    }


LOST = (TWO.gpus[0], Gpu(index=1, uuid="GPU-fake-2", name="GPU-fake-2", fault="GPU is lost"))
UNIFIED = (
    Gpu(
        index=0,
        uuid="GPU-fake-1",
        name="Fake RTX",
        total_bytes=None,
        used_bytes=0,
        processes=None,
    ),
)
MIG = tuple(
    Gpu(
        index=number,
        uuid=f"MIG-fake-{11 + number}",
        name="Fake 1g.12gb",
        total_bytes=12 * GIB,
        used_bytes=GIB // 2,
    )
    for number in range(2)
)
SHOWN = {"two": TWO.gpus, "lost": LOST, "unified": UNIFIED, "mig": MIG, "none": ()}


def build_file(folder: Path, _driver: Path, _monkeypatch: pytest.MonkeyPatch) -> Place:
    path = folder / "gpus.json"

    def show(what: str) -> None:
        entries = [
            as_json(gpu) if gpu.fault is None else {"uuid": gpu.uuid, "fault": gpu.fault}
            for gpu in SHOWN[what]
        ]
        path.write_text(json.dumps({"gpus": entries}))

    return Place(probe=FileGpuProbe(str(path)), show=show)


def build_nvml(folder: Path, driver: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("FAKE_NVML_PID", "4711")
    # The program is named otherwise, so that no real device file is asked for first.
    program = folder / "report.py"
    program.symlink_to(_REPORT)
    probe = NvmlGpuProbe(str(folder / "mark.json"), argv=(sys.executable, "-I", str(program)))
    return Place(probe=probe, show=lambda what: monkeypatch.setenv("FAKE_NVML", what))


def build_simulated(_folder: Path, _driver: Path, _monkeypatch: pytest.MonkeyPatch) -> Place:
    machine = Machine()

    def show(what: str) -> None:
        gpus = SHOWN[what]
        absent = GpuReading(fault="none", is_absent=True)
        machine.gpus = GpuReading(gpus=gpus) if gpus else absent

    return Place(probe=SimulatedGpuProbe(machine.spawn("tick")), show=show)


PLACES = {"file": build_file, "nvml": build_nvml, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    driver: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    return PLACES[request.param](tmp_path, driver, monkeypatch)


def test_gpus_are_told_with_their_memory_and_who_uses_it(place: Place):
    place.show("two")

    assert place.probe.read() == TWO


def test_each_reading_is_afresh(place: Place):
    place.show("two")
    place.probe.read()
    place.show("mig")

    assert place.probe.read().gpus == MIG


@pytest.mark.parametrize("what", ["unified", "mig"])
def test_what_is_not_supported_is_not_made_up(place: Place, what: str):
    place.show(what)

    assert place.probe.read() == GpuReading(gpus=SHOWN[what])


def test_a_lost_gpu_takes_no_other_with_it(place: Place):
    place.show("lost")

    reading = place.probe.read()

    assert reading.fault is None
    assert reading.gpus == LOST


def test_a_machine_without_gpus_is_certain_of_it(place: Place):
    place.show("none")

    reading = place.probe.read()

    assert reading.gpus == ()
    assert reading.fault
    assert reading.is_absent


# -- of the driver alone ----------------------------------------------------------------


@pytest.fixture
def nvml(tmp_path: Path, driver: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return build_nvml(tmp_path, driver, monkeypatch)


def test_a_driver_that_is_not_loaded_is_no_gpu(nvml: Place):
    nvml.show("unloaded")

    reading = nvml.probe.read()

    assert reading == GpuReading(fault="the driver says: Driver Not Loaded", is_absent=True)


def test_of_an_instance_only_its_own_processes_are_told(nvml: Place):
    nvml.show("shared")

    found = [(gpu.uuid, [one.pid for one in gpu.processes or ()]) for gpu in nvml.probe.read().gpus]

    # Of the third the driver does not say on which part it is.
    assert found == [("MIG-fake-11", [100, 102]), ("MIG-fake-12", [101, 102])]


def test_a_driver_that_hangs_is_waited_for_two_seconds_at_most(nvml: Place):
    nvml.show("hang")
    began = time.monotonic()

    reading = nvml.probe.read()

    assert time.monotonic() - began < 2 + 1  # a busy machine
    assert reading.fault == "the driver did not answer within 1.5 s"
    assert not reading.is_absent
    nvml.show("two")
    assert nvml.probe.read() == TWO  # what hung could be killed, so another is started


def test_one_that_cannot_even_be_killed_is_not_joined_by_another(tmp_path: Path):
    mark = tmp_path / "mark.json"
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    mark.write_text(json.dumps({"version": 1, "pid": os.getpid(), "start_ticks": ticks}))
    probe = NvmlGpuProbe(str(mark), argv=("/bin/false", "x"))

    hanging = probe.read()
    mark.write_text(json.dumps({"version": 1, "pid": os.getpid(), "start_ticks": ticks + 1}))
    looking = NvmlGpuProbe(str(mark), may_write=False, argv=("/bin/false", "x"))
    assert looking.read() != hanging
    assert mark.exists()
    after = probe.read()

    assert hanging.fault == f"the driver hangs: process {os.getpid()} still asks it"
    assert after.fault == "the GPU probe ended without an answer"
    assert not mark.exists()


@pytest.mark.parametrize("garbage", ["", "[]", "{}", '{"pid": "x"}', "[" * 9000, '{"pid": 1}'])
def test_a_broken_mark_is_none(tmp_path: Path, garbage: str):
    (tmp_path / "mark.json").write_text(garbage)
    probe = NvmlGpuProbe(str(tmp_path / "mark.json"), argv=("/bin/echo", '{"gpus": []}'))

    assert probe.read() == GpuReading(fault="the driver knows no GPU", is_absent=True)


@pytest.mark.parametrize(
    "said", ["", "no JSON", "[]", '{"gpus": 5}', '{"gpus": [{"uuid": 5}]}', "[" * 50_000]
)
def test_a_program_that_says_something_else_makes_the_gpus_unknown(tmp_path: Path, said: str):
    probe = NvmlGpuProbe(str(tmp_path / "mark.json"), argv=("/bin/echo", said))

    reading = probe.read()

    assert reading.fault is not None
    assert not reading.is_absent


def test_a_program_that_talks_for_ever_is_ended(tmp_path: Path):
    reading = NvmlGpuProbe(str(tmp_path / "mark.json"), argv=("/usr/bin/yes", "x")).read()

    assert reading.fault == "the driver did not answer within 1.5 s"


def test_where_nobody_waits_for_children_no_other_process_is_hit(nvml: Place):
    """Whoever started us may ignore SIGCHLD: then a number is free as soon as its owner ends."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        nvml.show("two")
        assert nvml.probe.read() == TWO
        nvml.show("hang")
        assert nvml.probe.read().fault == "the driver did not answer within 1.5 s"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_missing_program_makes_the_gpus_unknown(tmp_path: Path):
    reading = NvmlGpuProbe(str(tmp_path / "mark.json"), argv=("/nowhere", "x")).read()

    assert reading.fault == "the GPU probe could not be started: No such file or directory"


# -- of the file alone ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is wrong"),
        ("[]", "is wrong: gpus is not a JSON object"),
        ("{}", "gpus.gpus should be a list"),
        ('{"gpus": [5]}', "gpus.gpus is not a JSON object"),
        ('{"gpus": [{}]}', "gpus.gpus.uuid should be a text"),
        ('{"gpus": [{"uuid": "a b", "total": 1}]}', "uuid should be a word without commas"),
        ('{"gpus": [{"uuid": "a"}]}', "gpus.gpus.total should be a whole number from 0 on, or"),
        ('{"gpus": [{"uuid": "a", "total": -1}]}', "total should be a whole number from 0 on"),
        ('{"gpus": [{"uuid": "a", "total": "24G"}]}', "total should be an integer"),
        ('{"gpus": [{"uuid": "a", "total": 1}, {"uuid": "a", "total": 1}]}', "a uuid twice"),
        ('{"gpus": [{"uuid": "a", "total": 1, "processes": [{}]}]}', "processes.pid should be"),
        ('{"gpus": [{"uuid": "a", "total": 1, "used": NaN}]}', "used should be"),
        ("[" * 100_000, "is wrong"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_with_it(tmp_path: Path, text: str | None, words: str):
    path = tmp_path / "gpus.json"
    if text is not None:
        path.write_text(text)

    reading = FileGpuProbe(str(path)).read()

    assert reading.fault is not None
    assert reading.fault.startswith(f"the GPU file {path} ")
    assert words in reading.fault
    assert not reading.is_absent


def test_a_file_may_say_as_little_as_uuid_and_total(tmp_path: Path):
    path = tmp_path / "gpus.json"
    path.write_text('{"gpus": [{"uuid": "GPU-b", "total": 7}, {"uuid": "GPU-a", "total": 9}]}')

    assert FileGpuProbe(str(path)).read().gpus == (
        Gpu(index=0, uuid="GPU-b", name="GPU-b", total_bytes=7),
        Gpu(index=1, uuid="GPU-a", name="GPU-a", total_bytes=9),
    )


def test_a_pipe_in_place_of_the_file_hangs_nothing(tmp_path: Path):
    path = tmp_path / "gpus.json"
    os.mkfifo(path)

    assert FileGpuProbe(str(path)).read().fault
