"""The versions of a policy on disk, and what ticks go by where the active one cannot be loaded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.places import importing, paths_in
from tests.tick.staging import a_world, states, tick

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.policies_file import MOST_VERSIONS, FilePolicies
from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.app.active_policy import ActivePolicy
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.errors import StoreError
from tinyscheduler.model.documents import decode_memory, encode_memory
from tinyscheduler.model.events import EventName
from tinyscheduler.model.snapshot import PolicyRecord, SchedulingMemory
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.policy.headers import body_of, digest_of, read_header, with_header
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.versions import KeptPolicy
    from tinyscheduler.simulator.world import SimulatedWorld

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
ONE = b"function schedule(context) return platform.schedule(context) end -- one\n"
TWO = b"function schedule(context) return platform.schedule(context) end -- two\n"
BROKEN = b"function schedule(context\n  return nil\n"
# What stands at the top of a file runs when it is loaded.
RAISES = b'local x = 1\nerror("not today")\nfunction schedule(context) return {} end\n'


@pytest.fixture
def policies(tmp_path: Path) -> FilePolicies:
    found = FilePolicies(paths_in(tmp_path))
    assert found.try_lock()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "policies"


def deploy(policies: FilePolicies, source: bytes, name: str = "mine.lua") -> KeptPolicy:
    kept = policies.keep(source, suffix=".lua", name=name, at=AT)
    policies.activate(kept)
    policies.make_room()
    return kept


def numbers(policies: FilePolicies) -> list[int | None]:
    return [one.number for one in policies.versions()]


# the comment above a policy


@given(st.binary(max_size=200), st.text(max_size=150), st.none() | st.integers(1, 999_999_999))
def test_what_is_kept_is_read_back_whatever_it_is_and_is_called(source, name, number):
    body = body_of(source)

    content = with_header(body, suffix=".lua", name=name, number=number, created=AT)

    header = read_header(content)
    assert header is not None
    assert (header.number, header.created, header.digest) == (number, AT, digest_of(body))
    assert body_of(content) == body
    assert digest_of(content) == digest_of(source)


def test_a_name_gets_nothing_out_of_the_comment():
    name = "x\nos.exit()\r\x1b[2J\u2028end\udcff--[["

    content = with_header(b"", suffix=".lua", name=name, number=1, created=AT)

    assert content.count(b"\n") == 4
    assert all(line.startswith(b"-- ") for line in content.splitlines())
    assert b"\x1b" not in content


def test_a_comment_of_another_kind_is_a_part_of_the_policy():
    content = b"-- Policy: mine\n-- Version: 0\nreturn 1\n"

    assert body_of(content) == content
    assert read_header(content) is None


# versions


def test_versions_are_numbered_and_the_last_one_is_active(policies: FilePolicies, folder: Path):
    deploy(policies, ONE)
    deploy(policies, TWO, "other.lua")

    active = policies.active()

    assert active is not None
    assert (active.number, active.name, active.source) == (2, "other.lua", TWO)
    assert (folder / "2.lua").read_bytes() == (
        b"-- Policy: other.lua\n-- Version: 2\n-- Created: 2026-03-02T09:30:00.000Z\n"
        b"-- Hash: " + digest_of(TWO).encode() + b"\n" + TWO
    )
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_a_policy_in_yaml_is_headed_by_its_own_kind_of_comment(policies: FilePolicies):
    kept = policies.keep(b"\xef\xbb\xbfscheduler: {}\n", suffix=".yaml", name="a.yaml", at=AT)

    assert kept.source == b"scheduler: {}\n"
    assert kept.path.endswith("1.yaml")
    with open(kept.path, "rb") as stream:
        assert stream.readline() == b"# Policy: a.yaml\n"


def test_the_last_twenty_stay_and_so_do_the_active_and_the_last_good_one(policies: FilePolicies):
    first, second = deploy(policies, ONE), deploy(policies, TWO)
    policies.keep_good(ONE, suffix=".lua", name="mine.lua", number=1, at=AT)
    policies.activate(second)

    for number in range(MOST_VERSIONS + 3):
        policies.keep(b"x = %d" % number, suffix=".lua", name="x.lua", at=AT)
    policies.make_room()

    newest = list(range(25, 5, -1))
    assert numbers(policies) == [*newest, second.number, first.number]
    deploy(policies, b"x = 77")
    assert numbers(policies) == [26, *newest[:-1], first.number]


def test_a_number_is_never_given_twice_even_where_the_newest_was_removed(
    policies: FilePolicies, folder: Path
):
    deploy(policies, ONE)
    deploy(policies, TWO)
    (folder / "2.lua").unlink()

    assert deploy(policies, TWO).number == 3


def test_what_others_put_there_is_neither_taken_for_a_version_nor_removed(
    policies: FilePolicies, folder: Path
):
    deploy(policies, ONE)
    foreign = {
        "7.lua": b"function schedule() return {} end",
        "8.lua": (folder / "1.lua").read_bytes(),
        "9.yaml": b"",
        "10.lua": b"\x00\xff" * 5000,
        "notes.txt": b"mine",
        "01.lua": b"",
        "-1.lua": b"",
        "1.lua.orig": b"",
    }
    for name, content in foreign.items():
        (folder / name).write_bytes(content)
    (folder / "11.lua").mkdir()
    os.mkfifo(folder / "12.lua")
    (folder / "13.lua").symlink_to("/nonexistent")

    faults = {one.number: one.fault for one in policies.versions()}
    for number in range(MOST_VERSIONS + 2):
        deploy(policies, b"x = %d" % number)

    assert [number for number, fault in faults.items() if fault is None] == [1]
    assert all(str(folder) in fault for fault in faults.values() if fault is not None)
    assert {name: (folder / name).read_bytes() for name in foreign} == foreign
    assert (folder / "11.lua").is_dir()
    active = policies.active()
    assert active is not None
    assert active.number == 13 + MOST_VERSIONS + 2


def test_after_the_highest_number_that_can_be_read_nothing_is_deployed(
    policies: FilePolicies, folder: Path
):
    deploy(policies, ONE)
    (folder / "999999999.lua").write_bytes(b"")

    with pytest.raises(StoreError, match="999999999"):
        deploy(policies, TWO)

    active = policies.active()
    assert active is not None
    assert active.number == 1


@pytest.mark.parametrize(
    "content", [b"", b"3.lua", b"../mine.lua\n", b"1.lua\n2.lua\n", b"\xff\xfe", b"x" * 100_000]
)
def test_an_active_that_names_no_version_is_a_fault_and_no_crash(
    policies: FilePolicies, folder: Path, content: bytes
):
    deploy(policies, ONE)
    (folder / "active").write_bytes(content)

    active = policies.active()

    assert active is not None
    assert active.fault is not None
    assert str(folder) in active.fault
    assert deploy(policies, TWO).number in {2, 4}  # 3 was taken, if it was named
    active = policies.active()
    assert active is not None
    assert active.source == TWO


def test_a_version_that_was_changed_by_hand_is_a_fault(policies: FilePolicies, folder: Path):
    deploy(policies, ONE)
    with (folder / "1.lua").open("ab") as file:
        file.write(b"function schedule() return {} end")

    active = policies.active()

    assert active is not None
    assert active.fault is not None
    assert "it was changed" in active.fault


def test_only_one_process_deploys_at_a_time(policies: FilePolicies, tmp_path: Path):
    other = FilePolicies(paths_in(tmp_path))

    assert not other.try_lock()
    policies.unlock()
    assert other.try_lock()
    other.unlock()


WRITE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tests.contract.places import paths_in
from tinyscheduler.adapters.policies_file import FilePolicies
what, folder = sys.argv[1], Path(sys.argv[2])
policies, at = FilePolicies(paths_in(folder)), datetime.now(tz=UTC)
assert policies.try_lock()
if what == "deploy":
    policies.activate(policies.keep(b"x = 2", suffix=".lua", name="two.lua", at=at))
elif what == "rollback":
    policies.activate(policies.versions()[-1])
elif what == "forget":
    policies.make_room()
else:
    policies.keep_good(b"x = 3", suffix=".yaml", name="three.yaml", number=None, at=at)
"""


def write(what: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITE, what, str(folder)],
        env=importing() | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("what", "step"),
    [
        ("deploy", "keep"),
        ("deploy", "activate"),
        ("rollback", "activate"),
        ("forget", "forget"),
        ("good", "keep_good"),
        ("good", "name_good"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_step_what_is_active_and_what_is_good_can_be_read(
    policies: FilePolicies, tmp_path: Path, what: str, step: str, when: str
):
    count = MOST_VERSIONS + 1 if what == "forget" else 2
    for number in range(count):
        policies.activate(policies.keep(b"y = %d" % number, suffix=".lua", name="y.lua", at=AT))
    policies.keep_good(ONE, suffix=".lua", name="one.lua", number=None, at=AT)
    policies.unlock()
    mark = tmp_path / "mark"

    done = write(what, tmp_path, TINYSCHEDULER_CRASH_AT=f"policy.{step}:{when} {mark}")

    assert done.returncode == -9, done.stderr
    active, good = policies.active(), policies.last_good()
    assert active is not None
    assert active.fault is None
    is_moved = step == "activate" and when == "after"
    moved_to = {"deploy": count + 1, "rollback": 1}.get(what)
    assert active.number == (moved_to if is_moved else count)
    assert good is not None
    assert good.fault is None
    assert good.source == (b"x = 3" if (step, when) == ("name_good", "after") else ONE)
    assert write(what, tmp_path).returncode == 0
    assert all(one.fault is None for one in policies.versions())


def test_where_a_file_cannot_be_written_what_was_active_stays(policies: FilePolicies, folder: Path):
    deploy(policies, ONE)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2, 2))\n"
    policies.unlock()

    done = subprocess.run(
        [sys.executable, "-c", limit + WRITE, "deploy", str(folder.parent.parent)],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert f"StoreError: {folder}: {os.strerror(errno.EFBIG)}" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ticks


WORN_AT_TIMES = b"""
function schedule(context)
  for _, job in ipairs(context.queue) do if job.agent == "alpha" then error("worn") end end
  return platform.schedule(context)
end
"""


class Stage:
    """A simulated world that is ruled by real policies from real files."""

    def __init__(self, base: Path, **settings: str) -> None:
        self.base = base
        environ = {
            "TINYSCHEDULER_POLICY_MODE": "home",
            # On a busy machine it may get none of its time for a while.
            "TINYSCHEDULER_POLICY_WALL_MS": "10000",
        }
        environ |= {f"TINYSCHEDULER_{name}": value for name, value in settings.items()}
        overrides = Overrides(base_path=str(base))
        self.config = load_config(overrides, environ=environ, write_cache=False)
        self.policies = FilePolicies(self.config.paths)
        self.active = ActivePolicy(self.config, SystemClock(), may_write=True)
        self.world: SimulatedWorld = a_world(0, slots=40)
        self.world.rewire = lambda world, _process: replace(
            world,
            find_policy=self.active.find,
            find_last_good=self.active.find_last_good,
            keep_good=self.active.keep_good,
        )

    def tick(self) -> TickReport:
        self.world.queue.add(TaskSpec(agent="beta", command=("work",)))
        report = tick(self.world)
        self.world.machine.advance(20)
        tick(self.world)
        assert TaskState.WAITING not in states(self.world).values(), "whoever decided, it ran"
        return report

    def fallbacks(self) -> list[dict[str, object]]:
        events = self.world.observer.events
        return [dict(one.details) for one in events if one.name is EventName.POLICY_FALLBACK]

    @property
    def good(self) -> bytes | None:
        good = self.policies.last_good()
        return None if good is None else good.source


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch):
    """Give the process of a policy time to start, however busy the machine is."""
    assert ConfinedPolicy.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(ConfinedPolicy.__init__.__kwdefaults__, "start_ms", 10_000)


@pytest.fixture
def own(tmp_path: Path):
    """Yield a stage whose POLICY_FILE is ``mine.lua``."""
    (tmp_path / "mine.lua").write_bytes(ONE)
    stage = Stage(tmp_path, POLICY_FILE="mine.lua")
    yield stage
    stage.active.close()


@pytest.fixture
def deployed(tmp_path: Path):
    """Yield a stage where nothing is deployed yet."""
    stage = Stage(tmp_path)
    assert stage.policies.try_lock()
    yield stage
    stage.active.close()


def test_without_a_policy_of_ones_own_the_platform_decides(deployed: Stage):
    report = deployed.tick()

    assert (report.policy, report.policy_fallback, report.warnings) == ("platform", None, ())
    assert deployed.good is None


def test_what_is_deployed_decides_from_the_next_tick_on_and_is_kept_once_it_answered(
    deployed: Stage,
):
    kept = deploy(deployed.policies, ONE)
    assert deployed.good is None

    report = deployed.tick()

    assert (report.policy, report.policy_version) == ("state/policies/1.lua", kept.digest)
    assert deployed.good == ONE
    good = deployed.policies.last_good()
    assert good is not None
    assert (good.number, good.name) == (1, "mine.lua")


def test_what_answers_again_is_not_written_again(own: Stage, tmp_path: Path):
    own.tick()
    before = (tmp_path / "state/policies/last-good.lua").stat()

    own.tick()

    after = (tmp_path / "state/policies/last-good.lua").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_tick_that_has_nothing_to_decide_and_one_that_only_looks_write_nothing(
    own: Stage, tmp_path: Path
):
    tick(own.world)
    own.world.queue.add(TaskSpec(agent="beta", command=("work",)))
    report = own.world.preview()

    assert report.policy == "mine.lua"
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("content", "cause", "place"),
    [(BROKEN, "syntax", "mine.lua:2"), (RAISES, "error", "mine.lua:2"), (b"", "error", "mine.lua")],
)
def test_an_edit_that_cannot_be_loaded_leaves_the_version_that_answered_last_in_charge(
    own: Stage, tmp_path: Path, content: bytes, cause: str, place: str
):
    own.tick()
    (tmp_path / "mine.lua").write_bytes(content)

    report = own.tick()

    assert report.policy == "state/policies/last-good.lua"
    assert report.policy_version == digest_of(ONE)
    assert report.policy_fallback == cause
    assert report.errors == ()
    (warning,) = report.warnings
    assert place in warning
    assert warning.endswith(
        "state/policies/last-good.lua, the last version that answered, decides instead"
    )
    (told,) = own.fallbacks()
    assert told["cause"] == cause
    assert told["instead"] == "state/policies/last-good.lua"
    assert own.good == ONE


def test_a_mended_file_decides_again_even_where_it_had_been_given_up(own: Stage, tmp_path: Path):
    own.tick()
    (tmp_path / "mine.lua").write_bytes(BROKEN)
    reports = [own.tick() for _ in range(5)]
    (tmp_path / "mine.lua").write_bytes(TWO)

    mended = own.tick()

    assert {one.policy for one in reports} == {"state/policies/last-good.lua"}
    assert all("last version that answered" in " ".join(one.warnings) for one in reports)
    assert (mended.policy, mended.policy_fallback, mended.warnings) == ("mine.lua", None, ())
    assert own.good == TWO


@pytest.mark.parametrize("replace_by", [Path.mkdir, os.mkfifo, lambda _path: None])
def test_a_file_that_cannot_be_read_leaves_the_last_good_version_in_charge(
    own: Stage, tmp_path: Path, replace_by
):
    own.tick()
    (tmp_path / "mine.lua").unlink()
    replace_by(tmp_path / "mine.lua")

    report = own.tick()

    assert report.policy == "state/policies/last-good.lua"
    # A pipe that nobody writes to holds nothing, and nobody waits for it.
    assert report.policy_fallback == ("error" if (tmp_path / "mine.lua").is_fifo() else "file")
    assert "mine.lua" in report.warnings[0]


def test_without_a_last_good_version_the_platform_decides(own: Stage, tmp_path: Path):
    (tmp_path / "mine.lua").write_bytes(BROKEN)

    report = own.tick()

    assert (report.policy, report.policy_fallback) == ("platform", "syntax")
    assert report.warnings[0].endswith("the platform policy decides instead")


def test_a_policy_that_fails_while_it_decides_is_followed_by_the_platform(
    own: Stage, tmp_path: Path
):
    own.tick()
    (tmp_path / "mine.lua").write_bytes(b"function schedule(context) error('no') end")

    report = own.tick()

    assert (report.policy, report.policy_fallback) == ("platform", "error")
    assert own.good == ONE


def test_a_last_good_version_that_fails_too_is_followed_by_the_platform(own: Stage, tmp_path: Path):
    (tmp_path / "mine.lua").write_bytes(b"function schedule(c) return {} end -- once good")
    own.world.queue.add(TaskSpec(agent="beta", command=("work",)))
    tick(own.world)
    bad = b"function schedule(c) error('worn') end"
    own.policies.keep_good(bad, suffix=".lua", name="mine.lua", number=None, at=AT)
    (tmp_path / "mine.lua").write_bytes(BROKEN)

    report = own.tick()

    assert report.policy == "platform"
    assert len(report.warnings) == 2
    assert "worn" in report.warnings[1]
    assert [one["instead"] for one in own.fallbacks()][:2] == [
        "state/policies/last-good.lua",
        "platform",
    ]


def worn(own: Stage, tmp_path: Path, source: bytes = b"function schedule(c) error('worn') end"):
    """Leave a last good version that fails by now, and a file that cannot be loaded."""
    own.tick()
    own.policies.keep_good(source, suffix=".lua", name="mine.lua", number=None, at=AT)
    (tmp_path / "mine.lua").write_bytes(BROKEN)


def test_a_last_good_version_that_keeps_failing_is_asked_no_more(own: Stage, tmp_path: Path):
    worn(own, tmp_path)

    reports = [own.tick() for _ in range(5)]
    instead = [one["instead"] for one in own.fallbacks() if one["policy"] != "mine.lua"]

    assert {one.policy for one in reports} == {"platform"}
    assert instead == ["platform"] * 3
    assert all("worn" in " ".join(one.warnings) for one in reports)
    (warning,) = reports[-1].warnings
    assert warning.endswith(
        "the platform policy decides instead, for state/policies/last-good.lua, the last version"
        " that answered, has failed 3 times in a row, at last:"
        " state/policies/last-good.lua:4: worn"
    )


def test_another_last_good_version_is_asked_again(own: Stage, tmp_path: Path):
    worn(own, tmp_path)
    for _ in range(4):
        own.tick()
    own.policies.keep_good(TWO, suffix=".lua", name="mine.lua", number=None, at=AT)

    assert own.tick().policy == "state/policies/last-good.lua"


def test_a_last_good_version_that_answers_between_is_not_given_up(own: Stage, tmp_path: Path):
    worn(own, tmp_path, WORN_AT_TIMES)

    policies = []
    for fails in (True, True, False, True, True, False):
        own.world.queue.add(TaskSpec(agent="alpha" if fails else "beta", command=("work",)))
        policies.append(tick(own.world).policy)
        own.world.machine.advance(20)
        tick(own.world)

    good = "state/policies/last-good.lua"
    assert policies == ["platform", "platform", good, "platform", "platform", good]


def test_a_dry_run_gives_no_last_good_version_up(own: Stage, tmp_path: Path):
    worn(own, tmp_path)
    own.world.queue.add(TaskSpec(agent="beta", command=("work",)))
    for _ in range(4):
        own.world.preview()

    assert "worn" in own.world.preview().warnings[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "1.lua").unlink(),
        lambda folder: (folder / "1.lua").write_bytes(b"-- Policy: mine.lua\n"),
        lambda folder: (folder / "active").write_bytes(b"nonsense"),
    ],
)
def test_a_damaged_deployment_leaves_the_last_good_version_in_charge(
    deployed: Stage, folder: Path, damage
):
    deploy(deployed.policies, ONE)
    deployed.tick()
    damage(folder)

    report = deployed.tick()
    deploy(deployed.policies, TWO)
    after = deployed.tick()

    assert (report.policy, report.policy_fallback) == ("state/policies/last-good.lua", "file")
    assert str(folder) in report.warnings[0]
    assert (after.policy, after.policy_fallback) == ("state/policies/2.lua", None)


@pytest.mark.parametrize("content", [b"", b"last-good.lua", b"../../x.lua", b"\xff"])
def test_a_damaged_last_good_version_is_none(own: Stage, tmp_path: Path, content: bytes):
    own.tick()
    (tmp_path / "state/policies/last-good.lua").write_bytes(b"-- half")
    (tmp_path / "state/policies/last-good").write_bytes(content)
    (tmp_path / "mine.lua").write_bytes(BROKEN)

    assert own.tick().policy == "platform"

    (tmp_path / "mine.lua").write_bytes(TWO)
    own.tick()
    assert own.good == TWO


def test_where_the_last_good_version_cannot_be_kept_the_tick_warns_and_goes_on(
    own: Stage, tmp_path: Path
):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/policies").write_bytes(b"a file of somebody")

    report = own.tick()

    assert report.policy == "mine.lua"
    assert report.errors == ()
    assert "could not be kept as the last good one" in report.warnings[0]
    assert (tmp_path / "state/policies").read_bytes() == b"a file of somebody"


RULES = b"""\xef\xbb\xbfscheduler:
  name: mine
  version: "1"
  rules:
    - {name: all, condition: always, action: {use: platform-scheduler}}
"""


def test_a_policy_in_yaml_is_deployed_and_followed_by_its_last_good_version(
    deployed: Stage, folder: Path
):
    kept = deployed.policies.keep(RULES, suffix=".yaml", name="mine.yaml", at=AT)
    deployed.policies.activate(kept)

    ruled = deployed.tick()
    (folder / "1.yaml").write_bytes(b"scheduler: [")
    broken = deployed.tick()

    assert (ruled.policy, ruled.policy_fallback) == ("state/policies/1.yaml", None)
    assert ruled.policy_version == kept.digest
    assert (broken.policy, broken.policy_fallback) == ("state/policies/last-good.yaml", "file")
    assert broken.policy_version == kept.digest


def test_a_mistake_in_yaml_is_told_with_its_line_and_the_last_good_version_decides(tmp_path: Path):
    (tmp_path / "mine.yml").write_bytes(RULES)
    stage = Stage(tmp_path, POLICY_FILE="mine.yml")
    stage.tick()
    (tmp_path / "mine.yml").write_bytes(RULES.replace(b"always", b"sometimes"))

    report = stage.tick()
    (tmp_path / "mine.yml").write_bytes(BROKEN)
    worse = stage.tick()
    stage.active.close()

    assert (report.policy, report.policy_fallback) == ("state/policies/last-good.yaml", "syntax")
    assert report.warnings[0].startswith("mine.yml:5")
    assert worse.policy == "state/policies/last-good.yaml"


def test_an_edit_in_the_middle_of_a_tick_changes_nothing_in_that_tick(own: Stage, tmp_path: Path):
    policy = own.active.find()
    assert policy is not None
    before = policy.version

    (tmp_path / "mine.lua").write_bytes(BROKEN)

    assert policy.version == before == digest_of(ONE)
    found = own.active.find()
    assert found is not None
    assert found.version == digest_of(BROKEN)


def test_what_an_earlier_program_remembered_of_a_policy_is_still_read():
    memory = SchedulingMemory(
        policy=PolicyRecord(version="a", failed=2, is_unloadable=True),
        last_good=PolicyRecord(version="b", failed=1, cause="error", words="worn"),
    )
    document = encode_memory(memory)
    assert decode_memory(document) == memory

    del document["policy"]["is_unloadable"], document["last_good_policy"]

    assert decode_memory(document) == SchedulingMemory(policy=PolicyRecord(version="a", failed=2))
