"""A stand-in for NVIDIA's driver library, compiled from nvml.c and loaded like the real one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")


def build_driver(folder: Path) -> Path:
    """Compile the library into the folder and return the folder, for LD_LIBRARY_PATH."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    target = folder / "libnvidia-ml.so.1"
    if not target.exists():
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", str(target), str(SOURCE)],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the library in it."""
    return build_driver(tmp_path_factory.mktemp("driver"))
