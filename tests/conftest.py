"""What every test starts from: no settings of the developer's own, and repeatable examples."""

from __future__ import annotations

import os
import posix
import signal
from importlib import import_module
from pkgutil import walk_packages
from typing import TYPE_CHECKING, cast

import pytest
from coverage import Coverage
from hypothesis import is_hypothesis_test, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# A queue may be at work in this very checkout.  A test that forgets to name a
# base path of its own must fail, not write there.
for name in [name for name in os.environ if name.startswith("TINYSCHEDULER_")]:
    if name != "TINYSCHEDULER_SEEDS":  # no setting: how many simulations to run
        del os.environ[name]
os.environ["TINYSCHEDULER_BASE_PATH"] = "/nonexistent/a-test-names-its-own-base-path"

# In the background of a shell Ctrl-C is ignored, and so it would be by all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Busy machines make any deadline a matter of luck; the limit per test is pytest's.
settings.register_profile("explore", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "campaign", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "5000"))
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))

# Whose branches count for scripts/check_coverage.py, which doubles the time that they take.
MEASURED = (
    "tests/contract/",
    "tests/core/",
    "tests/policy/test_context.py",
    "tests/policy/test_deploying.py",
    "tests/tick/",
    "tests/process/test_found_nothing.py",
    "tests/process/test_wrapper.py",
)
# Whose processes count too.  One that is measured takes ten times as long to start, and one that
# is killed takes along what it has measured: what is not a wrapper is measured without processes.
WITH_PROCESSES = ("tests/process/test_wrapper.py",)


class Measuring:
    """Measures this process, those that it starts as well, or nothing."""

    def __init__(self) -> None:
        """Load all that counts while it is measured, and then nothing more."""
        self._coverage = Coverage.current()  # none when pytest runs without it
        self._is_on = False
        self._is_on_in_processes: bool | None = None
        self._variables = {
            name: os.environ[name]
            for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_FILE")
            if name in os.environ
        }
        # Coverage wraps these anew at each start, and so many wrappers end in a RecursionError.
        self._calls = {name: getattr(os, name) for name in ("_exit", "execv", "execve")}
        if self._coverage is not None:
            for name in cast("list[str]", self._coverage.get_option("run:source_pkgs")):
                load(name)
            self._coverage.stop()

    def switch(self, *, is_wanted: bool, is_wanted_of_processes: bool) -> None:
        """Change over only where tests that count meet others: a start takes longer than most."""
        wanted = (is_wanted, is_wanted_of_processes)
        if self._coverage is None or wanted == (self._is_on, self._is_on_in_processes):
            return
        if is_wanted != self._is_on:
            (self._coverage.start if is_wanted else self._coverage.stop)()
        self._is_on, self._is_on_in_processes = wanted
        for name, value in self._variables.items():
            if is_wanted_of_processes:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        for name, call in self._calls.items():
            setattr(os, name, call if is_wanted_of_processes else getattr(posix, name))


def load(name: str) -> None:
    """Import a module, and all that are inside if it is a package."""
    for found in walk_packages(getattr(import_module(name), "__path__", ()), f"{name}."):
        import_module(found.name)


MEASURING = Measuring()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure a test that counts, with all its fixtures.

    Properties do not: every branch has a test that says when it is taken, and most of a
    property's time would go into tracing how its examples are made.
    """
    is_random = is_hypothesis_test(getattr(item, "obj", None))
    MEASURING.switch(
        is_wanted=item.nodeid.startswith(MEASURED) and not is_random,
        is_wanted_of_processes=item.nodeid.startswith(WITH_PROCESSES),
    )
    return (yield)


@pytest.fixture(autouse=True)
def _same_umask() -> Iterator[None]:
    """Put back the umask, which a command that is called in this process sets for itself."""
    before = os.umask(0o077)
    os.umask(before)
    yield
    os.umask(before)
