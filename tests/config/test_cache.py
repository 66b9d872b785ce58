"""Is a remembered configuration always the one that would be read afresh, and harmless?"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.config.building import (
    a_base,
    a_public_folder,
    an_environment,
    loaded,
    run_python,
)

from tinyscheduler.config.cache import (
    CACHE_NAME,
    MAX_CACHE_BYTES,
    Resolution,
    decode,
    encode,
    remember,
)
from tinyscheduler.config.inputs import digest, gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.resolve import resolve
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import (
    AgentProfile,
    Config,
    FairShare,
    Host,
    Inventory,
    Limits,
    ModelMatch,
    ModelPlace,
    OnExpire,
    Origin,
    Paths,
    Quota,
    StdinSource,
    Timing,
)
from tinyscheduler.values import fields, replace

AGENTS = "agents: {coder: {limit: 2, env: [API_KEY]}}"

# Prints which heavy libraries a load needed, then the configuration's most telling parts.
PROGRAM = """if True:
    import sys
    from tinyscheduler.config.load import load_config
    from tinyscheduler.config.overrides import Overrides
    config = load_config(Overrides(base_path=sys.argv[1]), environ={})
    heavy = {"pydantic", "pydantic_settings", "yaml", "dotenv", "urllib", "difflib", "pathlib"}
    print(sorted(heavy & set(sys.modules)))
    print(dict(config.environment).get("API_KEY"), config.limits.max_attempts)
"""


def cache_of(base: Path) -> Path:
    return base / "state" / CACHE_NAME


def tamper(base: Path, old: str, new: str) -> None:
    """Make the newest entry say something that no input says, as if it had been meant."""
    content = json.loads(cache_of(base).read_text())
    entry = content["entries"][0]
    assert old in entry["resolution"]
    entry["resolution"] = entry["resolution"].replace(old, new)
    entry["digest"] = digest(entry["resolution"].encode())
    cache_of(base).write_text(json.dumps(content))


def remembered(base: Path, **variables: str) -> Config:
    return loaded(base, an_environment(**variables), write_cache=True)


def test_the_second_load_needs_none_of_the_heavy_libraries(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_MAX_ATTEMPTS=7\nAPI_KEY=s3cr3t\n", agents=AGENTS)

    first = run_python(PROGRAM, str(base)).splitlines()
    second = run_python(PROGRAM, str(base)).splitlines()

    assert "pydantic" in first[0]
    assert second[0] == "[]"
    assert first[1] == second[1] == "s3cr3t 7"


def test_a_remembered_configuration_equals_a_fresh_one(tmp_path: Path):
    base = a_base(
        tmp_path,
        env="TINYSCHEDULER_LOOP_INTERVAL_SEC=x\nTINYSCHEDULER_KICK=no\nTZ=UTC\n",
        agents=AGENTS,
    )

    first = remembered(base, API_KEY="unused", AGENT_LIMITS="reviewer:3")
    assert cache_of(base).exists()
    second = remembered(base, API_KEY="unused", AGENT_LIMITS="reviewer:3")
    cache_of(base).unlink()

    assert first == second == remembered(base, API_KEY="unused", AGENT_LIMITS="reviewer:3")


def test_only_its_owner_can_read_or_write_it(tmp_path: Path):
    base = a_base(tmp_path)

    before = os.umask(0)
    try:
        remembered(base)
    finally:
        os.umask(before)

    assert cache_of(base).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (base / "state").iterdir()) == [CACHE_NAME]


def test_it_never_holds_what_agents_may_be_told(tmp_path: Path):
    base = a_base(tmp_path, env="API_KEY=from-the-file\n", agents=AGENTS)

    in_file = loaded(base, {"HOME": "/secret-home"}, write_cache=True)
    in_environment = loaded(base, {"API_KEY": "from-the-process"}, write_cache=True)

    assert dict(in_file.environment)["API_KEY"] == "from-the-file"
    assert dict(in_environment.environment)["API_KEY"] == "from-the-process"
    text = cache_of(base).read_text()
    assert "from-the" not in text
    assert "secret-home" not in text


def test_a_password_in_the_endpoint_or_a_token_is_never_written(tmp_path: Path):
    base = a_base(tmp_path)

    remembered(base, UI_TOKEN="s3cr3t-token")
    remembered(base, MCP_ENDPOINT="http://me:s3cr3t-word@host")

    assert "s3cr3t" not in cache_of(base).read_text()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("API_KEY=plain", "plain"),
        ("API_KEY='quoted # value'", "quoted # value"),
        ('API_KEY="esc\\naped"', "esc\naped"),
        ("API_KEY=${OTHER}/x", "other/x"),
        ("API_KEY=${HOME}/x", "/users/somebody/x"),
        ("API_KEY=käse", "käse"),
        ("API_KEY=", ""),
        ("# API_KEY=commented", None),
    ],
)
def test_a_value_of_the_env_file_is_the_same_read_afresh_or_remembered(
    tmp_path: Path, line: str, value: str | None
):
    base = a_base(tmp_path, env=f"\ufeffOTHER=other\n{line}\n", agents=AGENTS)

    values = [dict(remembered(base).environment).get("API_KEY") for _ in range(3)]

    assert values == [value] * 3


def test_the_environment_wins_over_the_env_file_each_time(tmp_path: Path):
    base = a_base(tmp_path, env="API_KEY=file\nLANG=file\n", agents=AGENTS)

    found = [
        dict(loaded(base, environ, write_cache=True).environment)
        for environ in ({"API_KEY": "process"}, {}, {"API_KEY": "process"})
    ]

    assert [values["API_KEY"] for values in found] == ["process", "file", "process"]
    assert all(values["LANG"] == "file" for values in found)


def test_only_allowed_names_reach_agents(tmp_path: Path):
    base = a_base(tmp_path, env="OTHER_KEY=file\n", agents=AGENTS)
    environ = {"API_KEY": "k", "LC_ALL": "C", "AWS_SECRET": "no", "TINYSCHEDULER_KICK": "no"}

    names = dict(loaded(base, environ).environment).keys()

    assert names == {"API_KEY", "LC_ALL"}


def change_env_file(base: Path) -> None:
    (base / ".env").write_text("TINYSCHEDULER_MAX_ATTEMPTS=8\n")


def change_env_file_keeping_its_times(base: Path) -> None:
    before = (base / ".env").stat()
    change_env_file(base)
    os.utime(base / ".env", ns=(before.st_atime_ns, before.st_mtime_ns))


def add_stronger_env_file(base: Path) -> None:
    (base / ".env.tinyscheduler").write_text("TINYSCHEDULER_MAX_ATTEMPTS=9\n")


def remove_env_file(base: Path) -> None:
    (base / ".env").unlink()


def change_agents_file(base: Path) -> None:
    (base / "agents.yaml").write_text(AGENTS.replace("limit: 2", "limit: 4"))


def remove_agents_file(base: Path) -> None:
    (base / "agents.yaml").unlink()


@pytest.mark.parametrize(
    "change",
    [
        change_env_file,
        change_env_file_keeping_its_times,
        add_stronger_env_file,
        remove_env_file,
        change_agents_file,
        remove_agents_file,
    ],
)
def test_every_change_of_a_file_is_noticed_at_once(tmp_path: Path, change):
    base = a_base(tmp_path, env="TINYSCHEDULER_MAX_ATTEMPTS=7\n", agents=AGENTS)
    before = remembered(base)

    change(base)

    after = remembered(base)
    assert after != before
    assert after == loaded(base)


def test_a_file_that_appears_is_noticed_at_once(tmp_path: Path):
    base = a_base(tmp_path)
    assert remembered(base).agent("coder") is None

    (base / "agents.yaml").write_text(AGENTS)

    assert remembered(base).agent("coder") is not None


@pytest.mark.parametrize(
    "environ",
    [
        an_environment(MAX_ATTEMPTS="9"),
        an_environment(SURPRISE="1"),
        {"SCHEDULE_MAX_CONCURRENT": "9"},
        an_environment() | {"HOME": "/users/other"},
    ],
)
def test_every_variable_that_decides_something_is_noticed(tmp_path: Path, environ: dict[str, str]):
    base = a_base(tmp_path, env="TINYSCHEDULER_LOG_DIR=~/logs\n")
    before = remembered(base)

    after = loaded(base, environ, write_cache=True)

    assert replace(after, environment=()) != replace(before, environment=())
    assert after == loaded(base, environ)


def test_a_variable_that_the_env_file_refers_to_is_noticed(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_LOG_DIR=${PROJECT:-none}/logs\n")

    folders = [
        loaded(base, environ, write_cache=True).paths.logs
        for environ in ({"PROJECT": "one"}, {"PROJECT": "two"}, {}, {"PROJECT": "one"})
    ]

    assert folders == [f"{base}/{name}/logs" for name in ("one", "two", "none", "one")]


def test_a_policy_file_that_vanishes_is_noticed(tmp_path: Path):
    base = a_base(tmp_path)
    (base / "policy.lua").write_text("")
    environ = {"POLICY_MODE": "home", "POLICY_FILE": "policy.lua"}
    remembered(base, **environ)

    (base / "policy.lua").unlink()

    with pytest.raises(ConfigError, match="there is no file"):
        remembered(base, **environ)


def test_an_agents_file_that_can_no_longer_be_read_is_noticed(tmp_path: Path):
    base = a_base(tmp_path, agents=AGENTS)
    remembered(base)

    (base / "agents.yaml").unlink()
    (base / "agents.yaml").mkdir()

    with pytest.raises(ConfigError, match="is not a file"):
        remembered(base)


def test_a_dry_run_is_not_remembered(tmp_path: Path):
    base = a_base(tmp_path)

    loaded(base, write_cache=True, dry_run=True)
    assert not cache_of(base).exists()
    loaded(base, write_cache=True)
    assert cache_of(base).exists()


def test_a_folder_in_place_of_a_missing_agents_file_is_noticed(tmp_path: Path):
    base = a_base(tmp_path)
    remembered(base)

    (base / "agents.yaml").mkdir()

    with pytest.raises(ConfigError, match="the agents file is not a file") as raised:
        remembered(base)
    assert raised.value.where == str(base / "agents.yaml")


def test_overrides_have_entries_of_their_own(tmp_path: Path):
    base = a_base(tmp_path)

    for number in (1, 2, 3, 4, 5, 6, 1):
        config = loaded(base, write_cache=True, loop_interval=number)
        assert config.timing.loop_interval_s == number

    assert len(json.loads(cache_of(base).read_text())["entries"]) == 4


def test_a_shell_and_cron_do_not_drive_each_other_out(tmp_path: Path):
    base = a_base(tmp_path)
    remembered(base)
    remembered(base, MAX_ATTEMPTS="9")

    inode = cache_of(base).stat().st_ino
    remembered(base)
    remembered(base, MAX_ATTEMPTS="9")

    assert cache_of(base).stat().st_ino == inode


def test_what_a_wrapper_tells_its_command_makes_no_new_entry(tmp_path: Path):
    base = a_base(tmp_path)
    remembered(base)
    inode = cache_of(base).stat().st_ino

    remembered(base, LEASE_ID="abc", TASK_ID="7", ATTEMPT="1")

    assert cache_of(base).stat().st_ino == inode


def test_a_reader_writes_nothing(tmp_path: Path):
    base = a_base(tmp_path, agents=AGENTS)

    loaded(base, write_cache=False)

    assert list((base / "state").iterdir()) == []


def test_a_missing_state_folder_is_left_missing(tmp_path: Path):
    assert loaded(tmp_path / "none", write_cache=True).paths.base == f"{tmp_path}/none"
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_cannot_be_written_fails_nothing():
    program = """if True:
        import os, sys
        from tinyscheduler.config.load import load_config
        from tinyscheduler.config.overrides import Overrides
        print(load_config(Overrides(base_path=sys.argv[1])).limits.max_attempts)
    """
    with a_public_folder() as folder:
        base = a_base(folder / "base")
        (base / "state").chmod(0o555)

        printed = run_python(program, str(base), unprivileged=True)
        left = list((base / "state").iterdir())
        (base / "state").chmod(0o755)

    assert (printed, left) == ("3\n", [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"version": 2, "entries": []}',
        b'{"version": 1, "entries": {}}',
        b'{"version": 1, "entries": [1, null, [], {}, {"key": 5}]}',
        b"[" * 100_000,
        b'{"version": 1, "entries": [' + b" " * (9 * 2**20) + b"]}",
    ],
)
def test_a_corrupt_cache_is_ignored_and_replaced(tmp_path: Path, content: bytes):
    base = a_base(tmp_path)
    cache_of(base).write_bytes(content)
    cache_of(base).chmod(0o600)

    assert remembered(base).limits.max_attempts == 3

    assert json.loads(cache_of(base).read_bytes())["entries"]


@pytest.mark.parametrize("part", ["config", "watched", "literals", "referenced"])
@pytest.mark.parametrize("damage", [None, 5, [5], {"a": 1}, [[]], "x"])
def test_an_entry_that_makes_no_sense_is_ignored(tmp_path: Path, part: str, damage: object):
    base = a_base(tmp_path, env="API_KEY=k\n", agents=AGENTS)
    fresh = remembered(base)
    content = json.loads(cache_of(base).read_text())
    resolution = json.loads(content["entries"][0]["resolution"])
    tamper(base, json.dumps(resolution), json.dumps(resolution | {part: damage}))

    assert remembered(base) == fresh


@pytest.mark.parametrize("odd", ["Infinity", "NaN", "1e300", "[5]", "[" * 900 + "]" * 900])
def test_an_entry_with_a_setting_that_is_none_is_ignored(tmp_path: Path, odd: str):
    base = a_base(tmp_path)
    fresh = remembered(base)
    tamper(base, '"max_attempts": 3', f'"max_attempts": {odd}')

    assert remembered(base) == fresh


@pytest.mark.parametrize("part", ["key", "digest", "resolution"])
@pytest.mark.parametrize("damage", [None, 5, [], {}, "x", "\udcff"])
def test_an_entry_of_another_shape_is_ignored(tmp_path: Path, part: str, damage: object):
    base = a_base(tmp_path)
    fresh = remembered(base)
    content = json.loads(cache_of(base).read_text())
    content["entries"][0][part] = damage
    cache_of(base).write_text(json.dumps(content))

    assert remembered(base) == fresh


def test_a_flipped_bit_is_never_taken_for_a_setting(tmp_path: Path):
    base = a_base(tmp_path)
    fresh = remembered(base)
    text = cache_of(base).read_text()
    damaged = text.replace('max_attempts\\": 3', 'max_attempts\\": 7')
    assert damaged != text
    cache_of(base).write_text(damaged)

    assert remembered(base) == fresh


def test_a_cache_that_others_could_have_written_is_not_believed(tmp_path: Path):
    base = a_base(tmp_path)
    remembered(base)
    tamper(base, '"max_attempts": 3', '"max_attempts": 99')
    assert remembered(base).limits.max_attempts == 99

    cache_of(base).chmod(0o620)

    assert remembered(base).limits.max_attempts == 3


def test_a_cache_that_is_a_link_is_not_followed(tmp_path: Path):
    base = a_base(tmp_path)
    remembered(base)
    tamper(base, '"max_attempts": 3', '"max_attempts": 99')
    cache_of(base).rename(tmp_path / "elsewhere")
    cache_of(base).symlink_to(tmp_path / "elsewhere")

    assert remembered(base).limits.max_attempts == 3
    assert not cache_of(base).is_symlink()


def test_a_cache_that_is_a_pipe_or_a_folder_stops_nobody(tmp_path: Path):
    base = a_base(tmp_path)

    os.mkfifo(cache_of(base))
    assert loaded(base).limits.max_attempts == 3
    cache_of(base).unlink()
    cache_of(base).mkdir()
    assert remembered(base).limits.max_attempts == 3

    assert sorted(path.name for path in (base / "state").iterdir()) == [CACHE_NAME]


def test_a_new_version_of_the_program_forgets_what_an_older_one_made(tmp_path: Path):
    base = a_base(tmp_path / "base")
    package = Path(__file__).resolve().parents[2] / "src"
    copy = tmp_path / "src"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    program = f"import sys\nsys.path.insert(0, {str(copy)!r})\n{PROGRAM}"
    run_python(program, str(base))
    assert run_python(program, str(base)).startswith("[]")

    (copy / "tinyscheduler" / "config" / "units.py").touch()

    assert "pydantic" in run_python(program, str(base))


texts = st.text(max_size=20)
places = texts.map(lambda text: text.replace("\0", ""))
seconds = st.floats(0, 100 * 365 * 86_400)
counts = st.integers(0, 10**9)
numbers = st.integers(min_value=-(2**53), max_value=2**53)
agents = st.builds(
    AgentProfile,
    name=texts,
    queue=texts,
    limit=numbers,
    command=st.lists(texts, max_size=3).map(tuple),
    profile=texts,
    environment=st.lists(texts, max_size=3).map(tuple),
    stdin=st.sampled_from(StdinSource),
    cwd=st.none() | texts,
    memory_bytes=st.none() | numbers,
    vram_bytes=st.none() | numbers,
    model=st.none() | texts,
    max_runtime_s=st.none() | seconds,
    max_turns=st.none() | numbers,
    max_per_host=st.none() | numbers,
    account=st.none() | texts,
    idle_output_s=st.none() | seconds,
    on_expire=st.sampled_from(OnExpire),
    priority_class=st.none() | texts,
    model_match=st.sampled_from(ModelMatch),
)
bounds = st.none() | counts
quotas = st.builds(Quota, name=texts, slots=bounds, vram_bytes=bounds, weight=seconds)
inventories = st.builds(
    Inventory,
    hosts=st.lists(
        st.builds(
            Host,
            name=texts,
            address=st.none() | texts,
            max_slots=bounds,
            total_vram_bytes=bounds,
        ),
        max_size=2,
    ).map(tuple),
    models=st.lists(
        st.builds(
            ModelPlace,
            model=texts,
            host=texts,
            max_slots=counts,
            vram_bytes=counts,
            endpoint=st.none() | texts,
        ),
        max_size=2,
    ).map(tuple),
    queues=st.lists(quotas, max_size=2).map(tuple),
    tenants=st.lists(quotas, max_size=2).map(tuple),
)
configs = st.builds(
    Config,
    paths=st.builds(Paths, **dict.fromkeys((one.name for one in fields(Paths)), places)),
    agents=st.lists(agents, max_size=3).map(tuple),
    sources=st.lists(texts, max_size=3).map(tuple),
    timing=st.builds(Timing, **dict.fromkeys((one.name for one in fields(Timing)), seconds)),
    limits=st.builds(
        Limits,
        **{
            **dict.fromkeys((one.name for one in fields(Limits)), counts),
            "fair_share": st.sampled_from(FairShare),
            "has_automatic_slots": st.booleans(),
        },
    ),
    **dict.fromkeys(
        ("blocking_disabled", "dry_run", "enabled", "kick_enabled", "priority_enabled"),
        st.booleans(),
    ),
    goose_command=texts,
    endpoint=texts,
    log_level=texts,
    environment=st.just(()),
    inventory=inventories,
    origins=st.lists(st.tuples(texts, st.sampled_from(Origin)), max_size=3).map(tuple),
    warnings=st.lists(texts, max_size=3).map(tuple),
)
spans = st.none() | st.tuples(numbers, numbers)
resolutions = st.builds(
    Resolution,
    config=configs,
    watched=st.lists(st.tuples(texts, st.none() | texts), max_size=3).map(tuple),
    referenced=st.lists(texts, max_size=3).map(tuple),
    referenced_digest=texts,
    literals=st.lists(st.tuples(texts, spans), max_size=3).map(tuple),
)


@given(resolutions)
def test_what_is_written_reads_back_as_itself(resolution: Resolution):
    assert decode(json.loads(json.dumps(encode(resolution)))) == resolution


def test_every_field_survives_the_round_trip_of_a_real_configuration(tmp_path: Path):
    base = a_base(tmp_path, env="API_KEY=k\nX=${HOME}\n", agents=AGENTS)
    inputs = gather_inputs(Overrides(base_path=str(base)), an_environment())

    resolution = resolve(inputs)

    assert decode(json.loads(json.dumps(encode(resolution)))) == resolution
    assert resolution.referenced == ("HOME",)
    assert dict(resolution.literals).keys() == {"API_KEY", "X"}


def test_what_would_be_too_large_to_be_read_is_not_written(tmp_path: Path):
    base = a_base(tmp_path)
    resolution = resolve(gather_inputs(Overrides(base_path=str(base)), an_environment()))
    folder = str(cache_of(base).parent)

    remember(folder, "small", resolution)
    before = cache_of(base).read_bytes()
    remember(folder, "large", replace(resolution, referenced=("x" * MAX_CACHE_BYTES,)))

    assert cache_of(base).read_bytes() == before
