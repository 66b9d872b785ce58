"""What every test starts from: no settings of the developer's own, and repeatable examples."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from coverage import Coverage
from hypothesis import settings

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

# Whose branches count for scripts/check_coverage.py.  Measuring doubles the time of what runs in
# the test's own process, and a process that is measured takes ten times as long to start.
MEASURED = (
    "tests/contract/",
    "tests/core/",
    "tests/tick/",
    "tests/process/test_commands.py",
    "tests/process/test_trees.py",
    "tests/process/test_wrapper.py",
)


@pytest.fixture(autouse=True)
def _measures_only_what_counts(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Keep every other test, and the processes that it starts, from being measured."""
    if request.node.nodeid.startswith(MEASURED):
        yield
        return
    # Neither is there when pytest runs without coverage.
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    coverage = Coverage.current()
    if coverage is not None:
        coverage.stop()
    yield
    if coverage is not None:
        coverage.start()
