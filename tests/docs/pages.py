"""Pages of the documentation as things to run: the commands in them, and what they print.

A fenced block marked ``console`` is a conversation: a line after ``$`` is typed, lines
after ``>`` go on with it, and everything up to the next ``$`` is what comes back.

``python tests/docs/pages.py README.md docs/quick-start.md`` runs all of them and writes
what comes back into the pages.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# How the pages call the folder that the reader works in.
READERS_FOLDER = "/opt/tinyscheduler"
ANY_LINES = "…"
LONGEST_S = 100
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PASSING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)?[smhd]( \d+[smhd])?\b"), "SPAN"),
    (re.compile(r"\b\d+ (m?s|MB)\b"), r"N \1"),
    (re.compile(r"\b\d{3,}\b"), "NUMBER"),
    (re.compile(r"\(\d\d:\d\d\)"), "(CLOCK)"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One command of a page, and the lines that the page says it prints."""

    command: str
    answer: tuple[str, ...]


def exchanges(page: str) -> list[Exchange]:
    """Return all commands of a page in their order."""
    found: list[Exchange] = []
    for block in _BLOCK.findall(page):
        command: list[str] = []
        answer: list[str] = []
        for line in [*block.splitlines(), "$ "]:
            if line.startswith("$ "):
                if command:
                    found.append(Exchange(command="\n".join(command), answer=tuple(answer)))
                command, answer = [line[2:]], []
            elif line.startswith("> ") and not answer:
                command.append(line[2:])
            else:
                answer.append(line)
    return found


def typed(page: str) -> list[str]:
    """Return the lines of a page's blocks marked ``sh`` that use the program."""
    lines = "\n".join(_SHELL_BLOCK.findall(page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if "tinyscheduler " in line.partition(" #")[0].rstrip()]


def refill(page: str, folder: Path) -> str:
    """Return the page with every answer as it is now."""

    def answer(block: re.Match[str]) -> str:
        lines = []
        for exchange in exchanges(block.group(0)):
            lines.append("$ " + exchange.command.replace("\n", "\n> "))
            lines += [line.rstrip() for line in run(exchange.command, folder).splitlines()]
        return "```console\n" + "\n".join(lines) + "\n```"

    return _BLOCK.sub(answer, page)


def run(command: str, folder: Path, *, limit_s: float = LONGEST_S) -> str:
    """Type a command in the reader's folder, and return what comes back."""
    launcher = folder / "tinyscheduler"
    if not launcher.exists():
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -m tinyscheduler "$@"\n')
        launcher.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TINYSCHEDULER_BASE_PATH": str(folder),
    }
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            # Not the shell alone: what it started holds the pipe.
            os.killpg(process.pid, signal.SIGKILL)
            printed = f"{process.communicate()[0]}… and then nothing for {limit_s} s\n"
    return printed.replace(str(folder), READERS_FOLDER)


def without_passing(text: str) -> str:
    """Replace what differs from run to run: times, spans, process ids, widths of columns."""
    for pattern, stand_in in _PASSING:
        text = pattern.sub(stand_in, text)
    return text.strip()


def agrees(said: tuple[str, ...], printed: tuple[str, ...]) -> bool:
    """Whether a command printed what the page says; ``…`` stands for any lines."""
    if ANY_LINES not in said:
        return tuple(map(without_passing, said)) == tuple(map(without_passing, printed))
    place = said.index(ANY_LINES)
    before, after = said[:place], said[place + 1 :]
    if len(printed) < len(before) + len(after) or not agrees(before, printed[:place]):
        return False
    return any(
        agrees(after, printed[start:]) for start in range(place, len(printed) - len(after) + 1)
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            Path(name).write_text(refill(Path(name).read_text(), Path(scratch)))
