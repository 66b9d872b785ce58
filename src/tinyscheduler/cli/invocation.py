"""What did the global options ask for, and which configuration follows from them?

They also decide what is said.  A command speaks by these verbs alone:

- `render.emit`, `render.emit_json`: data, which was asked for; on stdout, always.
- `answer`: what a change did; on stdout, unless -q.
- `note`: what people should know beside that; on stderr, unless -q.
- `advise`: a note for people at a terminal alone: what to do next, how far it is.
- `warn`: a note of what may be wrong, after ``warning:``.
- `fail`: what went wrong, after ``error:``, and the fix after ``hint:``; always.
- `render.ask`: a question to a person at a terminal, on stderr.
"""

from __future__ import annotations

import os
import sys

from tinyscheduler.cli.render import (
    PROGRAM,
    Color,
    Ink,
    Page,
    emit,
    escape,
    page_of,
    program_here,
    tell,
    wrap,
)
from tinyscheduler.config.load import load_beside_agents, load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from tinyscheduler.model.config import Config

QUIET, NORMAL, VERBOSE = -1, 0, 1


@dataclass(slots=True, kw_only=True)
class Invocation:
    """The global options of one command; the defaults, until they have been read."""

    env_file: str | None = None
    base_path: str | None = None
    log_level: str | None = None
    color: Color = Color.AUTO
    verbosity: int = NORMAL

    @property
    def page(self) -> Page:
        """What stdout can show."""
        return page_of(sys.stdout, self.color)

    @property
    def overrides(self) -> Overrides:
        """The global options as the strongest layer of the configuration."""
        return Overrides(env_file=self.env_file, base_path=self.base_path, log_level=self.log_level)

    def as_typed(self, words: str) -> str:
        """Return advice with its commands as they act on the queue that this command acts on.

        They stand as `tinyscheduler …` in all sentences, and so they stay in documents.
        """
        is_command = words.startswith(f"{PROGRAM} ")
        if not is_command and f"`{PROGRAM} " not in words:
            return words
        import shlex

        chosen = (("--env-file", self.env_file), ("--base-path", self.base_path))
        given = [word for name, value in chosen if value is not None for word in (name, value)]
        program = shlex.join([program_here(), *given])
        if is_command:
            words = words.replace(PROGRAM, program, 1)
        return words.replace(f"`{PROGRAM} ", f"`{program} ")

    def configure_reading(self) -> Config:
        """Return the configuration for a command that leaves every file as it is.

        It goes on beside a faulty agents file, with a warning.
        """
        return self._look(write_cache=False)

    def configure_apart(self) -> Config:
        """Return the configuration for a command that looks at no state."""
        return self._tell_warnings(load_beside_agents(self.overrides, write_cache=False))

    def configure_trying(self) -> Config:
        """Return the configuration for a command that runs something, and looks at no state."""
        return self._tell_warnings(load_config(self.overrides, write_cache=False))

    def configure_changing(self) -> Config:
        """Return the configuration for a command that changes tasks there are.

        It goes on beside a faulty agents file, with a warning.
        """
        return self._look(write_cache=True)

    def configure_writing(self, overrides: Overrides | None = None) -> Config:
        """Return the configuration for a command that makes a state where there is none."""
        return self._tell_warnings(load_config(overrides or self.overrides, makes_state=True))

    def configure_strictly(self) -> Config:
        """Return the configuration for a command that needs the agents to change what there is."""
        config = self._tell_warnings(load_config(self.overrides))
        self.note_missing_state(config)
        return config

    def _look(self, *, write_cache: bool) -> Config:
        config = load_beside_agents(self.overrides, write_cache=write_cache)
        self._tell_warnings(config)
        self.note_missing_state(config)
        return config

    def note_missing_state(self, config: Config) -> None:
        """Say if nothing was ever added here: the base path may be another than was meant."""
        if not os.path.lexists(config.paths.state):
            self.note(f"no state yet in {config.paths.base}: nothing was ever added there")

    def _tell_warnings(self, config: Config) -> Config:
        for warning in config.warnings:
            self.warn(warning)
        return config

    def answer(self, text: str) -> None:
        """Say what a change did, unless silence was asked for; whole lines, safe to print."""
        if self.verbosity > QUIET:
            emit(text)

    def note(self, words: str) -> None:
        """Tell people something beside the data, unless they asked for silence."""
        if self.verbosity > QUIET:
            self._tell_people(words)

    def note_unknown(self, what: str, name: str, known: Iterable[str]) -> None:
        """Say of a name that nothing was found for, if it is none, which may have been meant."""
        names = set(known)
        if name not in names:
            self.note(f"there is no {what} {quote(name)}; {did_you_mean(name, names)}")

    def advise(self, words: str) -> None:
        """Tell a person at a terminal what to do, or how far it is; scripts know."""
        if sys.stderr.isatty():
            self.note(words)

    def warn(self, words: str) -> None:
        """Tell people what they should look at, unless they asked for silence."""
        if self.verbosity > QUIET:
            self._tell_people(words, label="warning:", ink=Ink.YELLOW)

    def fail(self, words: str, *, hint: str | None = None) -> None:
        """Tell people about a failure, whether or not it ended the command, and the fix."""
        self._tell_people(words, label="error:", ink=Ink.RED)
        if hint:
            self._tell_people(hint, label="hint:", ink=Ink.DIM)

    def _tell_people(self, words: str, *, label: str = "", ink: Ink = Ink.PLAIN) -> None:
        page = page_of(sys.stderr, self.color)
        said = escape(self.as_typed(words))
        text = "\n".join(wrap(f"{label} {said}" if label else said, page))
        # Painted after it was wrapped, which would count the escape sequences as letters.
        tell(page.paint(label, ink) + text.removeprefix(label))
