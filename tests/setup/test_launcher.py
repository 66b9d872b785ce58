"""The launcher and its builder, from outside, in checkouts that hold one tiny package.

Real pip where the claim is about installing, with an index of one folder; else
a small program in uv's place, so that nothing here needs the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
PYTHON = os.path.realpath(sys.executable)
TOOLS = (
    *("sh", "cat", "cmp", "cp", "date", "dirname", "flock", "ls", "mkdir", "mv"),
    *("readlink", "rm", "sed", "tail", "touch"),
)

# Root may write anywhere; without this capability it is held to permissions like anyone.
HELD_TO_PERMISSIONS = (
    ["/usr/bin/setpriv", "--bounding-set", "-dac_override", "--"] if os.geteuid() == 0 else []
)

MAIN = """
import json, sys
import tiny_package, tinyscheduler
print(json.dumps({
    "arguments": sys.argv[1:], "input": sys.stdin.read(),
    "tiny": tiny_package.VERSION, "isolated": sys.flags.isolated,
    "prefix": sys.prefix, "package": tinyscheduler.__file__, "cached": tinyscheduler.__cached__,
}))
raise SystemExit(7)
"""

# Does what the builder asks of uv, notes each call, and can be told to wait or to fail.
UV = """#!/bin/sh
echo "$*" >>"$UV_CALLS"
cat >/dev/null
case $1 in
venv)
    [ -z "${UV_WAITS_FOR-}" ] || read line <"$UV_WAITS_FOR"
    for venv; do :; done
    "$UV_PYTHON" -I -m venv --without-pip "$venv" ;;
pip)
    [ -z "${UV_FAILS-}" ] || { echo "no certificate"; exit 2; }
    while [ "$1" != --python ]; do shift; done
    packages=$(echo "${2%/bin/python}"/lib/python3*/site-packages)
    for lock; do :; done
    sed -n 's/^tiny-package==\\([0-9.]*\\).*/VERSION = "\\1"/p' "$lock" \\
        >"$packages/tiny_package.py" ;;
esac
"""


class Checkout:
    """A copy of what starting needs, a lock of one package, and a PATH of few tools."""

    def __init__(self, top: Path, scratch: Path) -> None:
        self.top = top
        self.launcher = top / "tinyscheduler"
        self.lock = top / "requirements.lock"
        self.venv = top / ".venv"
        self.wheels = scratch / "wheels"
        self.tools = scratch / "tools"
        self.uv_calls = scratch / "uv-calls"
        self.environment = {
            "PATH": str(self.tools),
            "HOME": str(scratch / "home"),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "UV_CALLS": str(self.uv_calls),
            "UV_PYTHON": PYTHON,
        }
        for folder in (self.wheels, self.tools, top / "scripts", top / "src" / "tinyscheduler"):
            folder.mkdir(parents=True)
        for name in ("tinyscheduler", "scripts/build-venv", "pyproject.toml"):
            shutil.copy2(TOP / name, top / name)
        (top / "src/tinyscheduler/__init__.py").touch()
        (top / "src/tinyscheduler/__main__.py").write_text(MAIN)
        for tool in TOOLS:
            (self.tools / tool).symlink_to(
                shutil.which(tool, path="/usr/bin:/bin") or "/nonexistent"
            )
        (self.tools / "python3").symlink_to(PYTHON)
        self.lock_version("1.0")

    def lock_version(self, version: str, *, digest: str | None = None) -> None:
        """Publish a version of the tiny package and lock it, by its own hash or another."""
        wheel = self.wheels / f"tiny_package-{version}-py3-none-any.whl"
        info = f"tiny_package-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("tiny_package.py", f'VERSION = "{version}"\n')
            file.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n",
            )
            file.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            file.writestr(
                f"{info}/RECORD",
                f"tiny_package.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
            )
        digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
        self.lock.write_text(f"tiny-package=={version} \\\n    --hash=sha256:{digest}\n")

    def provide(self, name: str, program: str) -> None:
        """Put a small program on the PATH."""
        (self.tools / name).unlink(missing_ok=True)
        (self.tools / name).write_text(program)
        (self.tools / name).chmod(0o755)

    def popen(
        self, *arguments: str, launcher: Path | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Start it from the root folder with the checkout's environment, unless told otherwise."""
        settings: dict[str, Any] = {
            "env": self.environment,
            "cwd": "/",
            "stdin": subprocess.DEVNULL,
        }
        return subprocess.Popen(
            [*HELD_TO_PERMISSIONS, launcher or self.launcher, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings | more,
        )

    def start(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Start it and wait for its end."""
        with self.popen(*arguments, **more) as process:
            output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def forbid_writing(self) -> None:
        """Take the permission to write away from every folder and file."""
        for path in (self.top, *self.top.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)

    def start_without_tools(self) -> subprocess.CompletedProcess[str]:
        """Start where nothing can be called by name: proof that the launcher calls nothing."""
        return self.start(env={"PATH": "/nonexistent"})

    def builds(self) -> int:
        """Count how often uv's stand-in was asked for an environment."""
        calls = self.uv_calls.read_text().splitlines() if self.uv_calls.exists() else []
        return sum(call.startswith("venv ") for call in calls)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a check out", tmp_path)


@pytest.fixture
def uv_checkout(checkout: Checkout) -> Checkout:
    checkout.provide("uv", UV)
    return checkout


def said(process: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """Return what the started program printed, which must be all there is on stdout."""
    assert process.returncode == 7, process.stderr
    document: dict[str, object] = json.loads(process.stdout)
    return document


def test_the_first_start_installs_what_is_locked_and_runs(checkout: Checkout):
    process = checkout.start("run", "--once", "two words", "")

    assert said(process)["arguments"] == ["run", "--once", "two words", ""]
    assert said(process)["tiny"] == "1.0"
    assert said(process)["prefix"] == str(checkout.venv)
    assert said(process)["isolated"] == 1
    assert "ready after" in process.stderr


def test_a_later_start_says_nothing_and_calls_no_other_program(uv_checkout: Checkout):
    uv_checkout.start()

    process = uv_checkout.start_without_tools()

    assert said(process)["tiny"] == "1.0"
    assert process.stderr == ""


def test_it_starts_from_any_folder_and_through_links(uv_checkout: Checkout, tmp_path: Path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "first").symlink_to("second")
    (folder / "second").symlink_to(uv_checkout.launcher)

    by_link = uv_checkout.start(launcher=folder / "first", cwd=folder)
    by_relative_name = uv_checkout.start(
        launcher=Path("../tinyscheduler"), cwd=uv_checkout.top / "src"
    )

    assert said(by_link)["prefix"] == str(uv_checkout.venv)
    assert said(by_relative_name)["tiny"] == "1.0"
    assert uv_checkout.builds() == 1


def test_what_is_piped_into_the_first_start_reaches_the_command(
    uv_checkout: Checkout, tmp_path: Path
):
    (tmp_path / "tasks").write_text("one\ntwo\n")

    with (tmp_path / "tasks").open() as tasks:
        process = uv_checkout.start("add", "--from", "-", stdin=tasks)

    assert said(process)["input"] == "one\ntwo\n"


def test_a_checkout_that_was_moved_still_starts(uv_checkout: Checkout, tmp_path: Path):
    uv_checkout.start()
    moved = uv_checkout.top.rename(tmp_path / "moved")

    process = uv_checkout.start(launcher=moved / "tinyscheduler")

    assert said(process)["package"] == str(moved / "src/tinyscheduler/__init__.py")
    assert uv_checkout.builds() == 1


def test_everything_is_compiled_once_whatever_the_caller_has_set(checkout: Checkout):
    hostile = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "/nonexistent",
        "PIP_TARGET": "/nonexistent",
        "PIP_USER": "1",
    }

    process = checkout.start(env=checkout.environment | hostile)

    assert Path(str(said(process)["cached"])).exists()
    assert list(checkout.venv.glob("lib/python3*/site-packages/__pycache__/tiny_package.*.pyc"))


def test_a_newer_lock_is_installed_over_what_may_be_running(checkout: Checkout):
    checkout.start()
    (used,) = checkout.venv.glob("lib/python3*/site-packages")
    (used / "in_use.py").touch()
    checkout.lock_version("2.0")

    process = checkout.start()

    assert said(process)["tiny"] == "2.0"
    assert (used / "in_use.py").exists()


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml", "scripts/build-venv"])
def test_an_input_that_changed_is_noticed_even_if_it_looks_old(uv_checkout: Checkout, name: str):
    uv_checkout.start()
    changed = uv_checkout.top / name
    changed.write_text(changed.read_text() + "\n# changed\n")
    os.utime(changed, (0, 0))

    process = uv_checkout.start()

    assert said(process)["tiny"] == "1.0"
    assert uv_checkout.builds() == 2


def test_new_times_alone_build_nothing_and_are_looked_into_once(uv_checkout: Checkout):
    uv_checkout.start()
    for name in ("requirements.lock", "pyproject.toml", "scripts/build-venv"):
        os.utime(uv_checkout.top / name)

    process = uv_checkout.start()

    assert process.stderr == ""
    assert uv_checkout.builds() == 1
    assert said(uv_checkout.start_without_tools())


def test_a_package_with_another_hash_is_refused_and_the_next_start_tries_again(checkout: Checkout):
    checkout.lock_version("1.0", digest="0" * 64)
    refused = checkout.start()
    log = (checkout.venv / "install.log").read_text()
    checkout.lock_version("1.0")

    process = checkout.start()

    assert refused.returncode == 69
    assert refused.stdout == ""
    assert f"error: could not build {checkout.venv}" in refused.stderr
    assert "DO NOT MATCH THE HASHES" in log
    assert said(process)["tiny"] == "1.0"


def test_without_an_index_it_says_so_and_the_next_start_tries_again(checkout: Checkout):
    wheels = checkout.wheels.rename(checkout.wheels.parent / "out of reach")
    failed = checkout.start()
    wheels.rename(checkout.wheels)

    process = checkout.start()

    assert failed.returncode == 69
    assert failed.stdout == ""
    assert "No matching distribution found for tiny-package==1.0" in failed.stderr
    assert str(checkout.venv / "install.log") in failed.stderr
    assert "hint: packages come from the network" in failed.stderr
    assert said(process)["tiny"] == "1.0"


def test_where_uv_fails_pip_does_it(uv_checkout: Checkout):
    process = uv_checkout.start(env=uv_checkout.environment | {"UV_FAILS": "1"})

    assert said(process)["tiny"] == "1.0"
    assert "no certificate" in (uv_checkout.venv / "install.log").read_text()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Return a named pipe that holds uv's stand-in until a line is written into it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def kill_while_building(checkout: Checkout, gate: Path) -> None:
    held = checkout.environment | {"UV_WAITS_FOR": str(gate)}
    with checkout.popen(env=held, start_new_session=True) as building:
        with gate.open("w"):  # opens once the builder has reached it
            os.killpg(building.pid, signal.SIGKILL)
        building.communicate(timeout=60)


def test_a_build_that_was_killed_is_done_again(uv_checkout: Checkout, gate: Path):
    kill_while_building(uv_checkout, gate)

    process = uv_checkout.start()

    assert said(process)["tiny"] == "1.0"
    assert uv_checkout.builds() == 2


def test_of_two_first_starts_one_builds_and_the_other_waits(uv_checkout: Checkout, gate: Path):
    held = uv_checkout.environment | {"UV_WAITS_FOR": str(gate)}
    with (
        uv_checkout.popen("first", env=held) as first,
        gate.open("w") as door,
        uv_checkout.popen("second", env=held) as second,
    ):
        assert second.stderr is not None
        waiting = second.stderr.readline()
        door.write("go on\n")
        door.flush()
        results = [process.communicate(timeout=60)[0] for process in (first, second)]

    assert "waiting for another process" in waiting
    assert [json.loads(result)["arguments"] for result in results] == [["first"], ["second"]]
    assert uv_checkout.builds() == 1


def test_an_environment_whose_python_is_gone_is_built_anew(uv_checkout: Checkout):
    uv_checkout.start()
    for link in uv_checkout.venv.glob("bin/python*"):
        link.unlink()
        link.symlink_to("/nonexistent/python")

    process = uv_checkout.start()

    assert said(process)["tiny"] == "1.0"
    assert uv_checkout.builds() == 2


def test_an_update_that_was_killed_installs_every_package_again(uv_checkout: Checkout, gate: Path):
    uv_checkout.start()
    uv_checkout.lock_version("2.0.1")  # of another length: bytecode is judged by time and size
    kill_while_building(uv_checkout, gate)

    process = uv_checkout.start()

    assert said(process)["tiny"] == "2.0.1"
    assert "--reinstall" in uv_checkout.uv_calls.read_text().splitlines()[-1]


def test_going_back_to_the_old_lock_after_a_killed_update_builds_again(
    uv_checkout: Checkout, gate: Path
):
    uv_checkout.start()
    old = uv_checkout.lock.read_text()
    uv_checkout.lock_version("2.0.1")
    kill_while_building(uv_checkout, gate)
    uv_checkout.lock.write_text(old)

    process = uv_checkout.start()

    assert said(process)["tiny"] == "1.0"
    assert uv_checkout.builds() == 3


def test_a_checkout_that_may_not_be_written_is_an_error_with_a_way_out(checkout: Checkout):
    checkout.forbid_writing()

    process = checkout.start()

    assert process.returncode == 69
    assert process.stderr == (
        f"error: cannot write to {checkout.venv}, which the first start has to build\n"
        f"hint: run it once as the owner of {checkout.top},"
        f" or make a copy of your own: cp -r '{checkout.top}' DIR\n"
    )


@pytest.mark.parametrize("kept_out_by", ["python", "folder"])
def test_an_environment_that_only_its_owner_can_use_is_told_as_that(
    uv_checkout: Checkout, kept_out_by: str
):
    uv_checkout.start()
    for link in uv_checkout.venv.glob("bin/python*"):
        link.unlink()
        link.symlink_to("/nonexistent/python")
    uv_checkout.forbid_writing()
    if kept_out_by == "folder":
        uv_checkout.venv.chmod(0)

    process = uv_checkout.start()

    uv_checkout.venv.chmod(0o755)
    assert (process.returncode, process.stdout) == (69, "")
    assert process.stderr == (
        f"error: {uv_checkout.venv} is there, but you cannot execute the python in it\n"
        f"hint: another user has built it; install your own: pipx install '{uv_checkout.top}',"
        f" or pip install '{uv_checkout.top}' in an environment of yours\n"
    )


def test_a_built_checkout_starts_where_nothing_may_be_written(uv_checkout: Checkout):
    uv_checkout.start()
    os.utime(uv_checkout.lock)
    uv_checkout.forbid_writing()

    process = uv_checkout.start()

    assert said(process)["tiny"] == "1.0"
    assert process.stderr == ""


def test_a_python_that_brings_pip_only_into_new_environments_is_enough(checkout: Checkout):
    checkout.provide(
        "python3",
        f"""#!/bin/sh
case "$*" in
*_base_executable*) echo "$0" ;;
*"-m pip"*) exit 1 ;;
*) exec {PYTHON} "$@" ;;
esac
""",
    )

    process = checkout.start()

    assert said(process)["tiny"] == "1.0"


def test_a_system_without_flock_builds_all_the_same(uv_checkout: Checkout):
    (uv_checkout.tools / "flock").unlink()

    process = uv_checkout.start()

    assert said(process)["tiny"] == "1.0"


def test_without_a_new_enough_python_it_says_what_to_install(checkout: Checkout):
    checkout.provide("python3", "#!/bin/sh\nexit 1\n")
    checkout.provide("apt-get", "#!/bin/sh\n")

    process = checkout.start()

    assert process.returncode == 69
    assert process.stderr == (
        "error: no Python 3.11 or newer found\n"
        "hint: run: apt-get install python3 python3-venv;"
        " or install uv, which brings its own Python\n"
    )


def test_a_python_without_pip_and_venv_says_what_to_install(checkout: Checkout):
    checkout.provide(
        "python3",
        f"""#!/bin/sh
case "$*" in
*_base_executable*) echo "$0" ;;
*pip* | *venv*) exit 1 ;;
*) exec {PYTHON} "$@" ;;
esac
""",
    )
    checkout.provide("apt-get", "#!/bin/sh\n")

    process = checkout.start()

    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert process.returncode == 69
    assert process.stderr == (
        f"error: {checkout.tools}/python3 can neither make a virtual environment"
        " nor install into one\n"
        f"hint: run: apt-get install python{minor}-venv\n"
    )
