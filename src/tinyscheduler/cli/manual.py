"""The manual, written from the commands themselves: man(7) pages as text.

``python -m tinyscheduler.cli.manual FOLDER`` writes them all.
"""

from __future__ import annotations

import os
import sys

from tinyscheduler import __version__
from tinyscheduler.cli.command_tree import PROGRAM, Command, Option, read_commands, read_program

_EXIT_CODES = (
    ("0", "done"),
    ("1", "done with failures, or what was awaited did not succeed"),
    ("2", "the command line says something that cannot be done"),
    ("3", "what was asked for is inactive"),
    ("4", "the configuration is invalid, or the state belongs to another user"),
    ("5", "there is no such task"),
    ("69", "something needed does not work: the state folder, the disk, every source"),
    ("70", "a bug; --debug shows where"),
    ("75", "busy, try again"),
    ("124", "the time is up"),
    ("130", "interrupted"),
)
_ABOUT = (
    (
        "Queue commands, or prompts for agents, and ticks run them: as many at once as you allow,"
        " one after another where one needs the other, again where one fails. A tick is one short"
        " command: cron calls it each minute, or a daemon repeats it, or both. Nothing is lost and"
        " nothing runs twice at once, whatever is killed."
    ),
    "Without a command it says in two lines how things stand.",
)


def pages() -> dict[str, str]:
    """Return every page by the name of its file."""
    program, commands = read_program(), read_commands()
    found = {f"{PROGRAM}.1": _program_page(program, commands)}
    for command in commands:
        found[f"{PROGRAM}-{command.name}.1"] = _command_page(command)
    return found


def _program_page(program: Command, commands: tuple[Command, ...]) -> str:
    lines = _head(PROGRAM, program.summary)
    lines += [".SH SYNOPSIS", f".B {PROGRAM}", "[global options]", ".I command", "[options]"]
    lines += [".SH DESCRIPTION", *_paragraphs(_ABOUT)]
    lines += [".SH COMMANDS"]
    for one in commands:
        lines += [".TP", f".BR {_escape(f'{PROGRAM}-{one.name}')} (1)", _line(one.summary)]
    lines += [".SH GLOBAL OPTIONS", "They stand before the command.", *_options(program.options)]
    lines += [".SH EXIT STATUS"]
    for code, meaning in _EXIT_CODES:
        lines += [".TP", f".B {code}", _line(meaning)]
    lines += [
        ".SH ENVIRONMENT",
        "Every setting has a variable that begins with TINYSCHEDULER_; see",
        f".BR {_escape(f'{PROGRAM}-config')} (1).",
        ".SH SEE ALSO",
        *_references([one.name for one in commands]),
    ]
    return "\n".join([*lines, ""])


def _command_page(command: Command) -> str:
    lines = _head(f"{PROGRAM}-{command.name}", command.summary)
    lines += [".SH SYNOPSIS", f".B {PROGRAM} {_escape(command.name)}"]
    rest = command.usage.removeprefix(f"{PROGRAM} {command.name}").strip()
    lines += [_line(rest)] if rest else []
    lines += [".SH DESCRIPTION", *_paragraphs(command.text)]
    if command.arguments:
        lines += [".SH ARGUMENTS"]
        for one in command.arguments:
            known = f" One of {', '.join(one.choices)}." if one.choices else ""
            lines += [".TP", f".I {_escape(one.name)}", _line(f"{one.help or one.name}{known}")]
    if command.options:
        lines += [".SH OPTIONS", *_options(command.options)]
    if command.examples:
        lines += [".SH EXAMPLES"]
        for number, example in enumerate(command.examples):
            lines += [*([".PP"] if number else []), ".nf", _line(example), ".fi"]
    lines += [
        ".SH EXIT STATUS",
        "As listed in",
        f".BR {PROGRAM} (1).",
        ".SH SEE ALSO",
        f".BR {PROGRAM} (1)",
    ]
    return "\n".join([*lines, ""])


def _head(name: str, summary: str) -> list[str]:
    title = _escape(name.upper())
    return [
        '.\\" Written by scripts/man from the commands; do not edit.',
        f'.TH {title} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        f"{_escape(name)} \\- {_escape(summary)}",
    ]


def _options(options: tuple[Option, ...]) -> list[str]:
    lines = []
    for option in options:
        spelled = ", ".join(f"\\fB{_escape(one)}\\fR" for one in option.spellings)
        takes = f" \\fI{_escape(option.takes)}\\fR" if option.takes else ""
        lines += [".TP", f"{spelled}{takes}", _line(option.help)]
    return lines


def _paragraphs(paragraphs: tuple[str, ...]) -> list[str]:
    lines = []
    for number, paragraph in enumerate(paragraphs):
        lines += [*([".PP"] if number else []), _line(paragraph)]
    return lines


def _references(names: list[str]) -> list[str]:
    return [
        f".BR {_escape(f'{PROGRAM}-{name}')} (1){',' if number < len(names) else ''}"
        for number, name in enumerate(sorted(names), start=1)
    ]


def _line(text: str) -> str:
    """Return a line of text, which a leading dot or quote does not make a request (man(7))."""
    escaped = _escape(text)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return escaped.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")


def write_pages(folder: str) -> None:
    """Write every page, and remove those of commands that are no more."""
    os.makedirs(folder, exist_ok=True)
    written = pages()
    for name in os.listdir(folder):
        if name.endswith(".1") and name not in written:
            os.unlink(os.path.join(folder, name))
    for name, text in written.items():
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.write(text)


if __name__ == "__main__":
    write_pages(sys.argv[1])
