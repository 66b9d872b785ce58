"""Whatever a policy tries: it obtains nothing, ends in time, and the cause is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.policy.asking import a_context, a_policy

from tinyscheduler.errors import PolicyError, PolicyLateError

if TYPE_CHECKING:
    from tinyscheduler.policy.context import Answer

ATTACKS = {
    one["name"]: one["lua"]
    for one in map(json.loads, Path(__file__).with_name("attacks.jsonl").read_text().splitlines())
}
# What an attack returns is told in the log, and the platform policy decides.
FRAME = """
function schedule(context)
  local said = (function() {attack}
  end)()
  if type(said) == "string" then log("error", said) return platform.schedule(context) end
  return said
end
"""
_MANY_TICKS = 20  # of CPU time: starting takes fewer
CAUSES = {"syntax", "error", "timeout", "memory", "nonsense", "refused"}


def attacked(tmp_path: Path, source: str | bytes) -> Answer | PolicyError:
    policy = a_policy(tmp_path, source)
    try:
        policy.propose(a_context())
    except PolicyError as error:
        return error
    finally:
        policy.close()
    return policy.answers[-1]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_obtains_nothing(tmp_path: Path, name: str):
    outcome = attacked(tmp_path, FRAME.format(attack=ATTACKS[name]))

    if isinstance(outcome, PolicyError):
        assert outcome.cause in CAUSES
        assert "ESCAPED" not in outcome.what
    else:
        assert not [text for _, text in outcome.log if "ESCAPED" in text]


@pytest.mark.parametrize(
    ("attack", "cause", "words"),
    [
        ("while true do end", "timeout", "policies/p.lua:3: schedule took longer than 50 ms"),
        ("local s = 'x' while true do s = s .. s end", "memory", "schedule took more than 64 MB"),
        (
            "return nil + 1",
            "error",
            "policies/p.lua:3: attempt to perform arithmetic",
        ),
        ("error('so be it')", "error", "policies/p.lua:3: so be it"),
        ("error({})", "error", "an error that is a table and no text"),
        ("error('\\255bad')", "error", "policies/p.lua:3: ?bad"),
        ("error('x' .. ('é'):rep(2000))", "error", "policies/p.lua:3: xéé"),
        ("return context['\\255'].x", "error", "policies/p.lua:3: attempt to index a nil value"),
        ("table.sort({3, 2, 1}, 7)", "error", "policies/p.lua:3: bad argument #2 to 'sort'"),
        ("return ('a'):rep(5000):find(('a-'):rep(30) .. 'b')", "timeout", ""),
        ("return 5", "error", "schedule returned a number"),
        ("return {action = 'dispatch', job_id = '77'}", "refused", "asked for job '77'"),
        ("return {action = 'fly'}", "refused", "asked for the action 'fly'"),
    ],
)
def test_the_cause_is_right_and_the_place_is_named(
    tmp_path: Path, attack: str, cause: str, words: str
):
    error = attacked(tmp_path, FRAME.format(attack=attack))

    assert isinstance(error, PolicyError)
    assert (error.cause, words in error.what) == (cause, True), error.what


def test_memory_that_is_used_up_to_the_last_is_the_cause_whatever_was_said(tmp_path: Path):
    said = "for _ = 1, 100 do log('info', ('x'):rep(256)) end"
    source = f"function schedule() {said} while true do kept = {{kept}} end end"
    policy = a_policy(tmp_path, source, memory_mb=8, cpu_ms=4000, wall_ms=9000)

    with pytest.raises(PolicyError, match="more than 8 MB of memory") as refused:
        policy.propose(a_context())
    policy.close()

    assert refused.value.cause == "memory"


def test_what_it_said_is_cut_between_characters(tmp_path: Path):
    said = "log('info', 'x' .. ('é'):rep(300)) log('info', '\\255é')"

    answer = attacked(tmp_path, f"function schedule() {said} end")

    assert not isinstance(answer, PolicyError)
    assert answer.log == (("info", "x" + "é" * 127), ("info", "???"))


@pytest.mark.parametrize(
    ("source", "cause", "words"),
    [
        ("function schedule(c) returns 5 end", "syntax", "policies/p.lua:1: syntax error near '5'"),
        ("", "error", "policies/p.lua: there is no function schedule(context)"),
        ("schedule = 5", "error", "there is no function schedule(context)"),
        (b"\x1bLua\x54\x00\x19\x93", "syntax", "compiled Lua is refused"),
        ("return " + "(" * 100_000, "syntax", "policies/p.lua: C stack overflow"),
        (b"\xff\xfe\x00", "syntax", "policies/p.lua:1:"),
        ("while true do end", "timeout", "policies/p.lua:1: schedule took longer than 50 ms"),
        ("local t = {" + "'s'," * 100_000 + "}", "file", "more than the 262144 bytes"),
    ],
)
def test_a_source_that_cannot_be_loaded_is_refused(
    tmp_path: Path, source: str | bytes, cause: str, words: str
):
    error = attacked(tmp_path, source)

    assert isinstance(error, PolicyError)
    assert (error.cause, words in error.what) == (cause, True), error.what


def test_what_it_remembers_from_call_to_call_ends_with_the_tick(tmp_path: Path):
    source = "times = 0 function schedule(c) times = times + 1 log('info', times) return {} end"
    first, second = a_policy(tmp_path, source), a_policy(tmp_path, source)

    for policy in (first, first, second):
        policy.propose(a_context())
    first.close()
    second.close()

    said = [[text for _, text in one.log] for one in (*first.answers, *second.answers)]
    assert said == [["1"], ["2"], ["1"]]


def test_it_decides_the_same_each_time(tmp_path: Path):
    source = """
    local names = {}
    for name in pairs({zeta = 1, alpha = 2, beta = 3, [3] = 4, [1] = 5}) do
      names[#names + 1] = tostring(name)
    end
    function schedule(context)
      log('info', table.concat(names, ' ') .. ' ' .. math.random(1000000) .. ' ' .. os.time())
      return {}
    end
    """
    said = set()

    for _ in range(3):
        outcome = attacked(tmp_path, source)
        assert not isinstance(outcome, PolicyError)
        said.add(outcome.log)

    ((line,),) = said
    assert line[1].startswith("1 3 alpha beta zeta ")
    assert line[1].endswith(" 1772366400")


def test_a_file_that_is_not_there_or_no_file_is_told(tmp_path: Path):
    policy = a_policy(tmp_path, "")
    path = tmp_path / "policies" / "p.lua"
    path.unlink()

    with pytest.raises(PolicyError, match="No such file") as missing:
        policy.propose(a_context())
    path.mkdir()
    with pytest.raises(PolicyError, match="Is a directory"):
        a_policy(tmp_path, None).propose(a_context())

    assert missing.value.cause == "file"


def test_a_process_that_has_ended_is_not_killed_again_under_a_number_given_to_another(
    tmp_path: Path,
):
    policy = a_policy(
        tmp_path, "function schedule() while true do end end", cpu_ms=9000, wall_ms=9000
    )
    killed: list[int] = []
    sys.addaudithook(lambda event, args: killed.append(args[0]) if event == "os.kill" else None)
    threading.Thread(target=_end_children, daemon=True).start()

    with pytest.raises(PolicyError, match="its process died by SIGTERM"):
        policy.propose(a_context())
    policy.close()

    assert len(killed) == 1


@pytest.mark.parametrize(
    "greeting", ["nope", "5", "{}", '{"missing":{},"fault":"x"}', '{"missing":{},"fault":"{}"}']
)
def test_a_process_that_greets_with_nonsense_is_ended_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greeting: str
):
    program = tmp_path / "python"
    size = f"\\{len(greeting):03o}\\0\\0\\0"
    program.write_text(f"#!/bin/sh\nprintf '{size}%s' '{greeting}'\nexec cat >/dev/null\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    before = os.listdir("/proc/self/fd")

    error = attacked(tmp_path, "function schedule() end")

    assert isinstance(error, PolicyError)
    assert (error.cause, "nonsense" in error.what) == ("nonsense", True)
    assert os.listdir("/proc/self/fd") == before


def test_its_process_keeps_nothing_open_that_was_left_open_to_it(tmp_path: Path):
    policy = a_policy(tmp_path, "function schedule() return {} end")
    with (tmp_path / "lock").open("wb") as lock:
        os.set_inheritable(lock.fileno(), True)
        policy.propose(a_context())
        (process,) = _processes_of_policies()
        held = {name: os.readlink(process / "fd" / name) for name in os.listdir(process / "fd")}
    policy.close()

    assert sorted(held) == ["0", "1", "2"]


def _processes_of_policies() -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            is_policy = b"policy/child.py" in (path / "cmdline").read_bytes()
            found += [path] if is_policy and parent == str(os.getpid()) else []
    return found


_MOST_EXCUSES = 30


def _end_children() -> None:
    """End, by another program, the first process of a policy that has begun to compute."""
    while True:
        for path in _processes_of_policies():
            with suppress(OSError):
                used = (path / "stat").read_text().rpartition(")")[2].split()[11]
                if int(used) >= _MANY_TICKS:
                    subprocess.run(("kill", path.name), check=True)
                    return


def test_who_had_no_time_on_a_busy_machine_is_not_to_blame(tmp_path: Path):
    # No interpreter starts within a millisecond, so this one cannot have used it up.
    policy = a_policy(tmp_path, "function schedule(c) return {} end", start_ms=1)

    with pytest.raises(PolicyLateError, match="to answer in 1") as late:
        policy.propose(a_context())

    assert late.value.cause == "timeout"


def test_who_uses_its_time_up_in_one_call_is_to_blame(tmp_path: Path):
    pattern = "return ('a'):rep(5000):find(('a-'):rep(30) .. 'b')"
    policy = a_policy(tmp_path, FRAME.format(attack=pattern), wall_ms=1000)

    # On a machine that is busy by itself it may not get half of its time, and is excused.
    for _ in range(_MOST_EXCUSES):
        with pytest.raises(PolicyError) as killed:
            policy.propose(a_context())
        if not isinstance(killed.value, PolicyLateError):
            break

    assert not isinstance(killed.value, PolicyLateError)
    assert killed.match("did not answer in time and was killed")
