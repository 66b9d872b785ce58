"""The policy of one's own that a tick finds, and the version of it that answered last."""

from __future__ import annotations

import os

from tinyscheduler.files import read_bytes, short_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.adapters.policies_file import FilePolicies
    from tinyscheduler.adapters.policy_confined import ConfinedPolicy
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyCall, PolicyContext
    from tinyscheduler.policy.artefacts import Artefacts
    from tinyscheduler.ports import Clock


class _Found:
    """A policy that was found, loaded by ticks that decide something: few do."""

    def __init__(self, config: Config, path: str, *, may_write: bool) -> None:
        self.name = short_path(path, config.paths.base)
        self.path = path
        self._config = config
        self._may_write = may_write
        self._loaded: ConfinedPolicy | None = None

    @property
    def version(self) -> str:
        return self.load().version

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        return self.load().propose(context)

    @property
    def calls(self) -> Sequence[PolicyCall]:
        return () if self._loaded is None else self._loaded.calls

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    def load(self) -> ConfinedPolicy:
        """Return the policy itself; a version that was deployed only if it is as it was."""
        if self._loaded is None:
            from tinyscheduler.adapters.policy_confined import ConfinedPolicy
            from tinyscheduler.policy.artefacts import artefacts_of

            paths = self._config.paths
            artefacts = artefacts_of(paths, may_write=self._may_write)
            if self._config.policy.path is not None:
                self._loaded = ConfinedPolicy(
                    self._config.policy, base=paths.base, artefacts=artefacts
                )
            else:
                self._loaded = _load_kept(self._config, self.path, artefacts)
        return self._loaded


class ActivePolicy:
    """Finds the policy afresh for each tick, and ends the processes of those that it found."""

    def __init__(self, config: Config, clock: Clock, *, may_write: bool) -> None:
        """Take where to look; nothing is read yet.  Who only looks ``may_write`` nothing."""
        self._config = config
        self._clock = clock
        self._may_write = may_write
        self._found: _Found | None = None
        self._last_good: ConfinedPolicy | None = None
        self._past: list[PolicyCall] = []

    @property
    def name(self) -> str:
        """What the policy that was found is called in messages."""
        return "platform" if self._found is None else self._found.name

    @property
    def calls(self) -> Sequence[PolicyCall]:
        """What came of each question so far."""
        return [*self._past, *self._calls()]

    def find(self) -> _Found | None:
        """Return the policy that is set, or else the one that is deployed; None if neither is."""
        self.close()
        settings = self._config.policy
        if settings.mode != "platform":
            path = settings.path or self._deployed_path()
            self._found = None if path is None else self._make(path)
        return self._found

    def _make(self, path: str) -> _Found:
        return _Found(self._config, path, may_write=self._may_write)

    def find_last_good(self) -> ConfinedPolicy | None:
        """Return what answered last; None if that is what was found, or cannot be read."""
        from tinyscheduler.app.policies import kept_policy
        from tinyscheduler.policy.artefacts import artefacts_of

        kept = self._policies().last_good()
        if kept is None or kept.fault is not None or self._found is None:
            return None
        if kept.digest == self._found.version:
            return None
        artefacts = artefacts_of(self._config.paths, may_write=self._may_write)
        self._last_good = kept_policy(self._config, kept, artefacts=artefacts)
        return self._last_good

    def keep_good(self) -> None:
        """Remember that what was found has answered, if anything was."""
        from tinyscheduler.policy.headers import read_header, suffix_of

        if self._found is None:
            return
        source, path = self._found.load().source, self._found.path
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
        self._past += self._calls()
        for one in (self._found, self._last_good):
            if one is not None:
                one.close()
        self._found = self._last_good = None

    def _calls(self) -> list[PolicyCall]:
        """Return what came of the questions to those that are found."""
        mine = [] if self._found is None else self._found.calls
        return [*mine, *([] if self._last_good is None else self._last_good.calls)]

    def _deployed_path(self) -> str | None:
        """Return where the active version should be; it is looked at when it is loaded."""
        pointer = os.path.join(self._config.paths.state, "policies", "active")
        try:
            name = read_bytes(pointer).decode("ascii").removesuffix("\n")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return pointer
        is_name = name.replace(".", "").isalnum()
        return os.path.join(os.path.dirname(pointer), name) if is_name else pointer

    def _policies(self) -> FilePolicies:
        from tinyscheduler.adapters.policies_file import FilePolicies

        return FilePolicies(self._config.paths)


def _load_kept(config: Config, path: str, artefacts: Artefacts) -> ConfinedPolicy:
    from tinyscheduler.adapters.policies_file import FilePolicies
    from tinyscheduler.app.policies import kept_policy

    kept = FilePolicies(config.paths).version_at(path)
    return kept_policy(config, kept, artefacts=artefacts)
