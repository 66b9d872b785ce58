"""What is handed out: the wheel and the source archive hold all they should, and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import tinyscheduler.__main__

TOP = Path(__file__).resolve().parents[2]
# What a checkout in use has lying about.
JUNK = (
    ".env",
    ".env.tinyscheduler",
    ".venv/bin/python",
    ".coverage",
    "agents.yaml",
    "dist/old.whl",
    "src/tinyscheduler/__pycache__/wrapper.cpython-311.pyc",
    "state/tinyscheduler.db",
    "tests/__pycache__/builders.cpython-311.pyc",
    ".hypothesis/constants/1",
    "tinyscheduler-cron.log",
)
NOT_HANDED_OUT = {".git", ".gitattributes", "state"}
HIDDEN = {".ci", ".gitignore", ".env.tinyscheduler.example"}
SHARED = {
    "share/bash-completion/completions/tinyscheduler": "completions/tinyscheduler.bash",
    "share/zsh/site-functions/_tinyscheduler": "completions/_tinyscheduler",
    "share/fish/vendor_completions.d/tinyscheduler.fish": "completions/tinyscheduler.fish",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A checkout in use, and the packages made of it."""

    tree: Path
    wheel: Path
    archive: Path

    @property
    def installed(self) -> dict[str, bytes]:
        """The files of the wheel by where they land below a virtual environment."""
        with zipfile.ZipFile(self.wheel) as wheel:
            found = {name: wheel.read(name) for name in wheel.namelist()}
        return {name.partition(".data/data/")[2] or name: found[name] for name in found}

    @property
    def archived(self) -> dict[str, bytes]:
        """The files of the source archive, without its one folder."""
        with tarfile.open(self.archive) as archive:
            files = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
            found = {name: file.read() for name, file in files.items() if file is not None}
        return {name.partition("/")[2]: content for name, content in found.items()}


def build(tree: Path, *, into: Path, kinds: tuple[str, ...]) -> list[Path]:
    """Make packages as `pip`, `pipx` and `uv` have them made."""
    into.mkdir()
    subprocess.run(
        [sys.executable, "-I", "-m", "hatchling", "build", *kinds, "-d", str(into)],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return sorted(into.iterdir())


def files_of(tree: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    scratch = tmp_path_factory.mktemp("packages")
    tree = scratch / "checkout"
    tree.mkdir()
    for name in _tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TOP / name, tree / name)
    for name in JUNK:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("left by somebody")
    wheel, archive = build(tree, into=scratch / "dist", kinds=("-t", "wheel", "-t", "sdist"))
    return Built(tree=tree, wheel=wheel, archive=archive)


def _tracked() -> list[str]:
    """Return the files of the project; in an unpacked source archive those are all of them."""
    if not (TOP / ".git").exists():
        places = {name: Path(name).parts[0] for name in files_of(TOP) if name != "PKG-INFO"}
        return [name for name in places if name[0] != "." or places[name] in HIDDEN]
    listed = subprocess.run(
        ["git", "-C", str(TOP), "-c", f"safe.directory={TOP}", "ls-files", "-z"],
        check=True,
        capture_output=True,
    )
    names = os.fsdecode(listed.stdout).split("\0")
    return [name for name in names if name and (TOP / name).is_file()]


def test_the_wheel_holds_the_package_and_nothing_that_lay_about(built: Built):
    package = {
        name.removeprefix("src/"): content
        for name, content in files_of(built.tree).items()
        if name.startswith("src/")
    }

    installed = built.installed

    assert {n: c for n, c in installed.items() if n.startswith("tinyscheduler/")} == package
    others = {name for name in installed if not name.startswith(("tinyscheduler/", "share/"))}
    assert {name.partition("/")[2] for name in others} == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_man_pages_and_completions_land_where_they_are_looked_for(built: Built):
    wanted = {to: (built.tree / origin).read_bytes() for to, origin in SHARED.items()}
    for page in (built.tree / "man").iterdir():
        wanted[f"share/man/man1/{page.name}"] = page.read_bytes()

    installed = built.installed

    assert len(wanted) > 30
    assert {n: c for n, c in installed.items() if n.startswith("share/")} == wanted


def test_the_source_archive_holds_the_project_and_nothing_that_lay_about(built: Built):
    wanted = {
        name: content
        for name, content in files_of(built.tree).items()
        if name not in JUNK and Path(name).parts[0] not in NOT_HANDED_OUT
    }

    archived = built.archived

    assert archived.pop("PKG-INFO").startswith(b"Metadata-Version:")
    assert archived == wanted


def test_no_package_tells_where_it_was_made(built: Built):
    for name, content in {**built.installed, **built.archived}.items():
        for trace in (str(built.tree), str(TOP), sys.prefix):
            assert trace.encode() not in content, name


def test_the_source_archive_makes_the_same_wheel(built: Built, tmp_path: Path):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    # Not by tarfile, whose filters the first releases of Python 3.11 do not know.
    subprocess.run(["tar", "-xzf", built.archive], cwd=folder, check=True)
    (unpacked,) = folder.iterdir()

    (wheel,) = build(unpacked, into=tmp_path / "dist", kinds=("-t", "wheel"))

    assert wheel.read_bytes() == built.wheel.read_bytes()
    launcher = unpacked / "tinyscheduler"
    assert os.access(launcher, os.X_OK)


def test_the_program_of_the_wheel_starts(built: Built, tmp_path: Path):
    shutil.unpack_archive(built.wheel, tmp_path, "zip")
    (entry_points,) = tmp_path.glob("*/entry_points.txt")

    said = subprocess.run(
        [sys.executable, "-P", "-m", "tinyscheduler", "--version"],
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    (file,) = tmp_path.glob("tinyscheduler-*.dist-info")
    assert said.stdout == f"tinyscheduler {file.name.split('-')[1].removesuffix('.dist')}\n"
    ((name, function),) = tomllib.loads((TOP / "pyproject.toml").read_text())["project"][
        "scripts"
    ].items()
    assert f"{name} = {function}" in entry_points.read_text()
    assert callable(getattr(tinyscheduler.__main__, function.partition(":")[2]))
