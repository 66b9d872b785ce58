"""A policy in YAML where it is asked: by ticks, in its process, and by commands."""

from __future__ import annotations

import json
import os
import resource
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.builders import a_task
from tests.policy.test_rules import EXAMPLE, a_policy

from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.cli.main import main
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.config import PolicySettings
from tinyscheduler.model.policy import AgentView, PolicyContext
from tinyscheduler.policy.artefacts import MOST_FILES, Artefacts
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CODER = AgentView(name="coder", queue="dev", limit=2, active=0)
CONTEXT = PolicyContext(
    now=datetime(2026, 3, 2, 9, 30, tzinfo=UTC),
    waiting=tuple(a_task(str(number), created_order=number) for number in range(1, 4)),
    agents=(CODER,),
    host_slots_free=9,
    memory_free_bytes=8 << 30,
)


class Place:
    """A base path with a state, and a policy in it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = base / "policies" / "p.yaml"
        self.path.parent.mkdir()
        (base / "state").mkdir()
        self.compiled = base / "state" / "policies" / "compiled"
        self.artefacts = Artefacts(folder=str(self.compiled), may_write=True)
        self._asked: list[ConfinedPolicy] = []

    def policy(self, text: str, **settings: Any) -> ConfinedPolicy:
        self.path.write_text(text)
        limits = {"wall_ms": 10_000, **settings}
        found = ConfinedPolicy(
            PolicySettings(mode="home", path=str(self.path), **limits),
            base=str(self.base),
            artefacts=self.artefacts,
        )
        self._asked.append(found)
        return found

    def entries(self) -> list[Path]:
        return sorted(self.compiled.iterdir()) if self.compiled.exists() else []

    def close(self) -> None:
        for one in self._asked:
            one.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


def starts(policy: ConfinedPolicy) -> list[tuple[str, str]]:
    return [(one.task.task_id, one.agent) for one in policy.propose(CONTEXT)]


AT_NIGHT = """scheduler:
  name: mine
  rules:
    - name: weekends and nights
      condition:
        any:
          - metrics.hour: {ge: 22}
          - metrics.weekday: {ge: 6}
      action: dispatch
"""


@pytest.mark.parametrize(
    ("now", "number"),
    [
        pytest.param(datetime(2026, 3, 6, 21, 59), 0, id="Friday evening"),  # noqa: DTZ001 - of this place
        pytest.param(datetime(2026, 3, 6, 22, 0), 2, id="Friday night"),  # noqa: DTZ001 - of this place
        pytest.param(datetime(2026, 3, 7, 12, 0), 2, id="Saturday"),  # noqa: DTZ001 - of this place
    ],
)
def test_a_rule_may_ask_for_the_hour_and_the_day_of_this_place(
    place: Place, now: datetime, number: int
):
    found = place.policy(AT_NIGHT).propose(replace(CONTEXT, now=now.astimezone(UTC)))

    assert len(found) == number


# -- asked by a tick -----------------------------------------------------------------


def test_the_example_of_the_reference_decides_in_its_process(place: Place):
    assert starts(place.policy(EXAMPLE)) == [("1", "coder"), ("2", "coder")]


def test_what_is_wrong_with_it_is_a_fault_of_its_syntax_with_file_line_and_rule(place: Place):
    policy = place.policy(a_policy(condition="{job.prio: batch}"))

    with pytest.raises(PolicyError) as caught:
        policy.propose(CONTEXT)

    assert caught.value.cause == "syntax"
    assert caught.value.what == (
        "policies/p.yaml:5 (rule \"night\"): there is no condition 'job.prio'"
    )
    assert caught.value.hint == "did you mean job.priority?"
    assert place.entries() == []


def test_a_rule_that_takes_too_long_is_named_with_its_line(place: Place):
    slow = {"condition": {"job.rank": {"in": [7] * 100}}, "action": "dispatch"}
    rules = [{"name": f"rule {number}", **slow} for number in range(40)]
    context = {"scheduler": {"name": "mine", "rules": rules}}
    policy = place.policy(json.dumps(context, indent=0), cpu_ms=1)
    tasks = tuple(a_task(str(number), created_order=number) for number in range(1000))

    with pytest.raises(PolicyError) as caught:
        policy.propose(
            PolicyContext(
                now=CONTEXT.now,
                waiting=tasks,
                agents=(CODER,),
                host_slots_free=9,
                memory_free_bytes=0,
            )
        )

    assert caught.value.cause == "timeout"
    file, _, words = caught.value.what.partition(" (rule ")
    assert file.startswith("policies/p.yaml:")
    named = rules[int(words.split('"')[1].removeprefix("rule "))]["name"]
    lines = place.path.read_text().splitlines()
    assert lines[: int(file.rpartition(":")[2])].count(f'"name": "{named}",') == 1
    assert words.endswith("schedule took longer than 1 ms")


def test_a_policy_that_asks_for_a_model_server_asks_in_vain(place: Place):
    policy = place.policy(a_policy(action="{start_worker: {model_ref: large, pool_id: local}}"))

    proposals = policy.propose(CONTEXT)
    policy.close()

    assert list(proposals) == []
    assert [one["action"] for one in policy.answers[-1].decisions] == ["start_worker"]


# -- compiled before -----------------------------------------------------------------


def test_what_was_compiled_is_found_again(place: Place):
    first = place.policy(EXAMPLE).compiled()
    (entry,) = place.entries()

    again = place.artefacts.recall(EXAMPLE.encode())

    assert again == first
    assert entry.stat().st_mode & 0o777 == 0o600
    assert place.artefacts.recall(EXAMPLE.encode() + b"\n") is None


def damage(entry: Path) -> None:
    entry.write_text(entry.read_text().replace("least-loaded", "most-vram-free"))


def replace_by_nonsense(entry: Path) -> None:
    entry.write_text('{"digest": 1, "compiled": ' + "[" * 100_000)


def empty(entry: Path) -> None:
    entry.write_bytes(b"")


def let_others_write(entry: Path) -> None:
    entry.chmod(0o666)


def link_elsewhere(entry: Path) -> None:
    elsewhere = entry.parent.parent / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)


def put_a_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry, mode=0o600)


def put_a_folder(entry: Path) -> None:
    entry.unlink()
    entry.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        replace_by_nonsense,
        empty,
        let_others_write,
        link_elsewhere,
        put_a_pipe,
        put_a_folder,
    ],
)
def test_a_spoilt_artefact_is_compiled_anew(place: Place, spoil: Callable[[Path], None]):
    expected = place.policy(EXAMPLE).compiled()
    spoil(place.entries()[0])

    assert place.artefacts.recall(EXAMPLE.encode()) is None
    assert place.policy(EXAMPLE).compiled() == expected
    assert [entry.name for entry in place.entries() if entry.name.startswith(".")] == []


def test_no_more_are_kept_than_there_is_room_for(place: Place):
    place.policy(EXAMPLE).compiled()
    (place.compiled / ".half.json.4711.tmp").write_text("{")
    for number in range(MOST_FILES + 3):
        place.policy(a_policy(condition=f"{{job.rank: {number}}}")).compiled()

    assert len(place.entries()) == MOST_FILES
    assert place.artefacts.recall(place.path.read_bytes()) is not None


def test_a_full_disk_harms_nothing(place: Place):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    policy = place.policy(EXAMPLE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        compiled = policy.compiled()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert compiled is not None
    assert place.entries() == []
    assert starts(policy) == [("1", "coder"), ("2", "coder")]


@pytest.mark.parametrize("what", ["no state", "a file", "a dangling link"])
def test_a_place_where_nothing_can_be_written_harms_nothing(place: Place, what: str):
    state = place.base / "state"
    if what == "no state":
        state.rmdir()
    elif what == "a file":
        (state / "policies").write_text("")
    else:
        (state / "policies").symlink_to("/nonexistent/elsewhere")

    assert starts(place.policy(EXAMPLE)) == [("1", "coder"), ("2", "coder")]
    assert state.exists() is (what != "no state")


def test_who_only_looks_leaves_no_artefact(place: Place):
    place.artefacts = Artefacts(folder=str(place.compiled), may_write=False)

    place.policy(EXAMPLE).compiled()

    assert not place.compiled.parent.exists()


# -- asked by a command --------------------------------------------------------------


def command(place: Place, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["-q", "--base-path", str(place.base), "policy", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_compile_prints_lua_that_the_sandbox_takes(
    place: Place, capsys: pytest.CaptureFixture[str]
):
    place.path.write_text(EXAMPLE)

    code, out, _ = command(place, capsys, "compile", str(place.path))

    assert code == 0
    by_hand = place.base / "policies" / "p.lua"
    by_hand.write_text(out)
    settings = PolicySettings(mode="home", path=str(by_hand), wall_ms=10_000)
    policy = ConfinedPolicy(settings, base=str(place.base))
    try:
        assert starts(policy) == [("1", "coder"), ("2", "coder")]
    finally:
        policy.close()


def test_compile_tells_programs_which_line_comes_from_where(
    place: Place, capsys: pytest.CaptureFixture[str]
):
    place.path.write_text(EXAMPLE)

    code, out, _ = command(place, capsys, "compile", str(place.path), "--json")

    found = json.loads(out)
    assert (code, found["schema_version"]) == (0, 1)
    assert (found["name"], found["version"]) == ("determinism-first", "1.0")
    lines = found["lua"].splitlines()
    assert [
        (one["rule"], one["line"])
        for one in found["map"]
        if "batch.dispatch" in lines[one["lua_line"] - 1]
    ] == [("prioritize-seeded-jobs", 7), ("batch-jobs-low-priority", 11)]


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("p.yaml", b"scheduler: {}", 1, "policies/p.yaml:1: scheduler has no name"),
        ("p.yaml", b"\xff\xfe", 1, "policies/p.yaml:1: not UTF-8 text"),
        ("p.yaml", b"a" * 300_000, 1, "has more than the 262144 bytes"),
        ("p.YML", b"scheduler: {}", 1, "policies/p.YML:1: scheduler has no name"),
        ("p.lua", b"", 2, "p.lua is no policy in YAML"),
        ("gone.yaml", None, 5, "there is no file"),
    ],
)
def test_compile_says_what_is_wrong(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    code: int,
    words: str,
):
    path = place.path.parent / name
    if content is not None:
        path.write_bytes(content)

    found, out, err = command(place, capsys, "compile", str(path))

    assert (found, out) == (code, "")
    assert words in err
    assert "hint: " in err


def test_check_takes_yaml_and_names_file_line_and_rule(
    place: Place, capsys: pytest.CaptureFixture[str]
):
    place.path.write_text(EXAMPLE)
    assert command(place, capsys, "check", str(place.path))[0] == 0

    place.path.write_text(a_policy(action="{use: platformm}"))
    code, out, _ = command(place, capsys, "check", str(place.path), "--json")

    (finding,) = json.loads(out)["findings"]
    assert code == 1
    assert finding["words"].startswith('policies/p.yaml:6 (rule "night"): there is nothing to use')
    assert not place.compiled.parent.exists()
