"""What every test starts from: no settings of the developer's own, and repeatable examples."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

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
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))
