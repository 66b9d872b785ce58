"""The policies to start from: each passes its own fixtures, could rule, and is like no other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from tests.builders import NOW, a_gpu, a_snapshot, a_task, an_agent

from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.app.policies import check_policy
from tinyscheduler.app.policy_testing import find_cases, run_cases
from tinyscheduler.config.load import load_config
from tinyscheduler.core.decide import decide
from tinyscheduler.model.config import Inventory, ModelPlace, PolicySettings, Quota
from tinyscheduler.model.plan import Dispatch
from tinyscheduler.model.tasks import PriorityClass
from tinyscheduler.policy import sources
from tinyscheduler.policy.sources import (
    describe_template,
    read_platform,
    read_template,
    read_template_fixtures,
    template_names,
)
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import Snapshot

NAMES = template_names()


def write(folder: Path, name: str) -> str:
    (folder / f"{name}.test.yaml").write_bytes(read_template_fixtures(name))
    policy = folder / f"{name}.lua"
    policy.write_bytes(read_template(name))
    return str(policy)


def failed(folder: Path, policy: str, fixture: str | None = None) -> list[str]:
    environ = {"TINYSCHEDULER_BASE_PATH": str(folder)}
    config = load_config(environ=environ, write_cache=False)
    _, cases = find_cases(policy, fixture)
    results = list(run_cases(config, policy, cases))
    assert len(results) > 2
    return [f"{one.case.name}: {one.mismatches}" for one in results if not one.is_passed]


def test_these_are_there():
    assert NAMES == (
        "batch-optimized",
        "deadline-first",
        "determinism-first",
        "fair-share",
        "gpu-packing",
        "night-batch",
        "platform",
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_passes_its_own_fixtures(tmp_path, name):
    assert failed(tmp_path, write(tmp_path, name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_each_could_rule(tmp_path, name):
    config = load_config(environ={"TINYSCHEDULER_BASE_PATH": str(tmp_path)}, write_cache=False)

    checked = check_policy(config, write(tmp_path, name))

    assert [one.words for one in checked.findings] == []


@pytest.mark.parametrize("name", sorted({*NAMES} - {"platform"}))
def test_the_platform_policy_fails_the_fixtures_of_each_other(tmp_path, name):
    write(tmp_path, name)
    platform = write(tmp_path, "platform")

    assert failed(tmp_path, platform, str(tmp_path / f"{name}.test.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_each_begins_with_what_it_is_for_and_is_short(name):
    words, source = describe_template(name), read_template(name).decode()

    assert source.startswith(f"-- {words}\n")
    assert words[0].isupper()
    assert words.endswith(".")
    assert len(source.splitlines()) < 80
    assert source.isascii()


def test_the_platform_one_is_the_very_text_that_decides():
    assert read_template("platform").endswith(read_platform())


def test_every_file_of_the_folder_is_a_template_or_its_fixtures():
    folder = Path(sources.__file__).parent / "templates"

    found = {path.name for path in folder.iterdir()}

    assert found == {f"{name}.test.yaml" for name in NAMES} | {
        f"{name}.lua" for name in NAMES if name != "platform"
    }


# -- in the core ----------------------------------------------------------------------


def a_world(chance: Random) -> Snapshot:
    """Return one in which all sorts of tasks wait, and not all can start."""
    owners: list[dict[str, str]] = [{"agent": "a"}, {"agent": "b"}, {"queue": "dev"}]
    labels = ("2026-03-02T18:00Z", "1772442000", "soon")
    tasks = [
        a_task(
            str(number),
            created_order=number,
            created_at=NOW.wall - timedelta(seconds=chance.choice([0, 400])),
            priority_class=chance.choice(list(PriorityClass)),
            gpus=chance.choice([0, 0, 1, 2]),
            vram_bytes=chance.choice([None, 4 << 30, 16 << 30]),
            memory_bytes=chance.choice([None, 5 << 30]),
            model=chance.choice([None, "large", "small"]),
            tenant=chance.choice([None, "red", "blue"]),
            seed=chance.choice([None, 0, 5]),
            labels=chance.choice([(), (("deadline", chance.choice(labels)),)]),
            **chance.choice(owners),
        )
        for number in range(1, chance.randrange(2, 14))
    ]
    world = a_snapshot(
        *tasks,
        agents=tuple(an_agent(name, limit=chance.randrange(1, 4)) for name in "abc"),
        slots=chance.randrange(1, 6),
        gpus=[a_gpu(index) for index in range(chance.randrange(1, 4))],
        skips={str(number): chance.randrange(3) for number in range(1, 6)},
        inventory=Inventory(
            tenants=(Quota(name="red", slots=chance.randrange(1, 3)),),
            models=(ModelPlace(model="large", max_slots=1),),
        ),
    )
    later = NOW.wall + timedelta(hours=chance.randrange(200))
    return replace(world, now=replace(NOW, wall=later))


@pytest.mark.parametrize("name", NAMES)
def test_whatever_waits_the_core_refuses_none_and_something_starts(tmp_path, name):
    settings = PolicySettings(path=write(tmp_path, name), wall_ms=10_000)
    policy = ConfinedPolicy(settings, base=str(tmp_path), start_ms=10_000)
    try:
        plans = [decide(a_world(Random(seed)), policy) for seed in range(30)]
    finally:
        policy.close()

    starts = sum(isinstance(one, Dispatch) for plan in plans for one in plan.decisions)
    assert starts > len(plans) / 2
