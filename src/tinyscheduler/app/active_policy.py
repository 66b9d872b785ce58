"""The policy of one's own that a tick finds, and the version of it that answered last."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyscheduler.adapters.policies_file import FilePolicies
    from tinyscheduler.adapters.policy_confined import ConfinedPolicy
    from tinyscheduler.model.config import Config
    from tinyscheduler.ports import Clock


class ActivePolicy:
    """Finds the policy afresh for each tick, and ends the processes of those that it found."""

    def __init__(self, config: Config, clock: Clock) -> None:
        """Take where to look; nothing is read yet."""
        self._config = config
        self._clock = clock
        self._found: ConfinedPolicy | None = None
        self._last_good: ConfinedPolicy | None = None

    def find(self) -> ConfinedPolicy | None:
        """Return the policy that is set, or else the one that is deployed; None if neither is."""
        self.close()
        if not self._is_there():
            return None  # as nearly everywhere, and ticks are short
        from tinyscheduler.app.policies import own_policy

        self._found = own_policy(self._config)
        return self._found

    def find_last_good(self) -> ConfinedPolicy | None:
        """Return what answered last; None if that is what was found, or cannot be read."""
        from tinyscheduler.app.policies import kept_policy

        kept = self._policies().last_good()
        if kept is None or kept.fault is not None or self._found is None:
            return None
        if kept.digest == self._found.version:
            return None
        self._last_good = kept_policy(self._config, kept)
        return self._last_good

    def keep_good(self) -> None:
        """Remember that what was found has answered, if anything was."""
        from tinyscheduler.policy.headers import read_header, suffix_of

        if self._found is None:
            return
        source, path = self._found.source, self._found.path
        header = read_header(source) if self._config.policy.path is None else None
        self._policies().keep_good(
            source,
            suffix=suffix_of(path),
            name=os.path.basename(path) if header is None else header.name,
            number=None if header is None else header.number,
            at=self._clock.now().wall,
        )

    def close(self) -> None:
        """End the processes."""
        for one in (self._found, self._last_good):
            if one is not None:
                one.close()
        self._found = self._last_good = None

    def _is_there(self) -> bool:
        policy = self._config.policy
        if policy.mode == "platform":
            return False
        active = os.path.join(self._config.paths.state, "policies", "active")
        return policy.path is not None or os.path.lexists(active)

    def _policies(self) -> FilePolicies:
        from tinyscheduler.adapters.policies_file import FilePolicies

        return FilePolicies(self._config.paths)
