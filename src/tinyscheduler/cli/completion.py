"""``completion``: scripts for bash, zsh and fish, and the words they ask for while typing."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.render import emit, escape
from tinyscheduler.errors import EXIT_DONE, TinySchedulerError, UsageError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.switches import EVERYTHING, SwitchKind
from tinyscheduler.model.tasks import TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    import typer

    from tinyscheduler.cli.command_tree import Command, Option

_MOST_IDS = 200
# Tasks that a command can do something with; any task for the others.
_STATES_OF = {
    "cancel": "waiting,held,working",
    "retry": "parked,failed,cancelled,waiting",
    "edit": "waiting,held",
    "hold": "waiting",
    "release": "held",
    "wait": "waiting,working,held",
}
_ASKED_OF = {"pause": "targets", "resume": "paused", "replay": "ticks"}
# What an option takes, by the word that its help has for it.
_FILES, _FOLDERS = ("FILE",), ("FOLDER",)
_ASKED_FOR = {"--agent": "agents", "--queue": "queues", "--after": "tasks", "--task": "tasks"}
_OUTCOMES = "done succeeded failed cancelled retry_later interrupted"
_STATES = "waiting held working starting running settling done failed parked cancelled"


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    context: typer.Context,
    shell: Annotated[Shell | None, argument(help="Whose script to print.", is_behind=True)] = None,
    *,
    words: Annotated[str | None, option(is_hidden=True)] = None,
) -> int:
    """Print a script that makes a shell complete words.

    It completes commands, options, task ids, agents and states.
    """
    invocation: Invocation = context.obj
    if words is not None:
        _print_words(invocation, words)
        return EXIT_DONE
    if shell is None:
        raise UsageError(
            "which shell? bash, zsh or fish", hint="`tinyscheduler completion bash`, for example"
        )
    emit(script(shell))
    return EXIT_DONE


def _print_words(invocation: Invocation, kind: str) -> None:
    """Print what could be typed, each with what it is after a tab; nothing where that fails.

    A shell that asks for words has no place to show an error.
    """
    try:
        lines = list(_words(invocation, kind))
    except TinySchedulerError:
        return
    if lines:
        emit("\n".join(lines))


def _words(invocation: Invocation, kind: str) -> Iterator[str]:
    from tinyscheduler.config.load import load_config

    # Not through the invocation, which would tell of warnings amid a line being typed.
    config = load_config(invocation.overrides, write_cache=False)
    what, _, states = kind.partition(":")
    if what == "agents":
        yield from (f"{one.name}\t{one.limit} at once" for one in config.agents)
    elif what == "queues":
        yield from sorted({one.queue for one in config.agents})
    elif what == "targets":
        yield str(EVERYTHING)
        yield from (f"agent:{one.name}" for one in config.agents)
        yield from (f"queue:{name}" for name in sorted({one.queue for one in config.agents}))
    elif what == "paused":
        from tinyscheduler.adapters.sqlite.database import Access
        from tinyscheduler.app.queue import open_queue

        queue = open_queue(config, Access.READ)
        paused = [one.target for one in queue.switches.read() if one.kind is SwitchKind.PAUSE]
        yield from map(str, dict.fromkeys((EVERYTHING, *paused)))
        yield from (f"account:{one.account}" for one in queue.coolings.read())
    elif what == "ticks":
        from tinyscheduler.adapters.rounds_file import FileRecorder

        yield "latest"
        yield from reversed(FileRecorder(config.paths).ticks()[-_MOST_IDS:])
    elif what == "tasks":
        from tinyscheduler.adapters.sqlite.database import Access
        from tinyscheduler.app.queue import open_queue

        tasks = open_queue(config, Access.READ).tasks
        known = [TaskState(one) for one in states.split(",") if one in set(TaskState)]
        wanted: list[TaskState | None] = [*known] or [None]
        for state in wanted:
            for one in reversed(tasks.tasks(state=state, limit=_MOST_IDS)):
                yield f"{one.task_id}\t{one.state}: {escape(one.summary)}"


def script(shell: Shell) -> str:
    """Return the script, written from the parser."""
    from tinyscheduler.cli.command_tree import read_commands, read_program

    program, commands = read_program(), read_commands()
    match shell:
        case Shell.BASH:
            return _bash(program, commands)
        case Shell.ZSH:
            return _zsh(program, commands)
        case Shell.FISH:
            return _fish(program, commands)


def _words_of(command: Command, option: Option) -> tuple[str, str]:
    """Return how an option's value is completed: ``words``, ``ask``, ``files``, ``folders``.

    And the words or the kind to ask for.
    """
    if option.choices:
        return "words", " ".join(option.choices)
    for spelling in option.spellings:
        if spelling in _ASKED_FOR:
            return "ask", _ASKED_FOR[spelling]
        if words := _words_behind(spelling, command):
            return "words", words
    if option.takes in _FILES or "--prompt-file" in option.spellings:
        return "files", ""
    return ("folders", "") if option.takes in _FOLDERS else ("nothing", "")


def _words_behind(spelling: str, command: Command) -> str:
    match spelling:
        case "--state":
            return _OUTCOMES if command.name == "history" else _STATES
        case "--event":
            return " ".join(EventName)
        case "--unset":
            from tinyscheduler.cli.edit import UNSETTABLE

            return " ".join(UNSETTABLE)
        case _:
            return ""


def _argument_of(command: Command) -> tuple[str, str]:
    """Return how the arguments of a command are completed."""
    if any(one.name == "ID" for one in command.arguments):
        states = _STATES_OF.get(command.name)
        return "ask", f"tasks:{states}" if states else "tasks"
    if command.name in _ASKED_OF:
        return "ask", _ASKED_OF[command.name]
    if command.name == "help":
        from tinyscheduler.cli.main import COMMANDS

        return "words", " ".join(COMMANDS)
    choices = [choice for one in command.arguments for choice in one.choices]
    return ("words", " ".join(choices)) if choices else ("nothing", "")


# -- bash ---------------------------------------------------------------------------

_BASH = """\
# bash completion for tinyscheduler; written by `tinyscheduler completion bash`.
# Load it with:  source <(tinyscheduler completion bash)

_tinyscheduler_ask() {{
    "${{COMP_WORDS[0]/#\\~/$HOME}}" "${{globals[@]}}" completion --words "$1" 2>/dev/null | cut -f1
}}

_tinyscheduler() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local command= words= i ended=
    local -a globals=()
    # bash takes "--option=value" for three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]] && ((COMP_CWORD > 1)); then
        prev=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            --base-path | --env-file)
                globals+=("${{COMP_WORDS[i]}}" "${{COMP_WORDS[i + 1]}}")
                ((i++))
                ;;
            {valued}) ((i++)) ;;
            -*) ;;
            *)
                command=${{COMP_WORDS[i]}}
                break
                ;;
        esac
    done
    for ((; i < COMP_CWORD; i++)); do
        [[ ${{COMP_WORDS[i]}} == -- ]] && ended=yes
    done
    COMPREPLY=()
    if [[ $ended && $command == add ]]; then
        mapfile -t COMPREPLY < <(compgen -c -f -- "$cur")
        return
    fi
    case $command:$prev in
{values}
    esac
    case $command in
{commands}
    esac
    if [[ $cur == -* && ! $ended ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    # bash takes "agent:name" for three words, too, and puts in what is behind the colon.
    local before=
    [[ $cur == : ]] && before=$prev: cur=
    [[ $prev == : ]] && before=${{COMP_WORDS[COMP_CWORD - 2]}}:
    cur=$before$cur
    case $command in
{arguments}
    esac
    COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
}}
complete -F _tinyscheduler tinyscheduler ./tinyscheduler"""


def _bash(program: Command, commands: tuple[Command, ...]) -> str:
    values, words, arguments = [], [], []
    for command in (program, *commands):
        name = "" if command is program else command.name
        values += [_bash_value(name, command, one) for one in command.options if one.takes]
        spelled = " ".join(spelling for one in command.options for spelling in one.spellings)
        words.append(f'        "{name}") words="{spelled} --help" ;;')
        answer = _bash_answer(*_argument_of(command))
        if command is program:
            names = " ".join(one.name for one in commands)
            answer = _bash_answer("words", names)
        if answer:
            arguments.append(f'        "{name}") {answer} ;;')
    valued = [
        spelling
        for one in program.options
        if one.takes and not {"--base-path", "--env-file"} & set(one.spellings)
        for spelling in one.spellings
    ]
    return _BASH.format(
        valued=" | ".join(valued),
        values="\n".join(values),
        commands="\n".join(words),
        arguments="\n".join(arguments),
    )


def _bash_value(name: str, command: Command, option: Option) -> str:
    answer = _bash_answer(*_words_of(command, option))
    places = " | ".join(f"{name}:{spelling}" for spelling in option.spellings)
    return f"        {places})\n            {answer or ':'}\n            return\n            ;;"


def _bash_answer(how: str, what: str) -> str:
    match how:
        case "words":
            return f'mapfile -t COMPREPLY < <(compgen -W "{what}" -- "$cur")'
        case "ask":
            asked = f'"$(_tinyscheduler_ask {what})"'
            return f'mapfile -t COMPREPLY < <(compgen -W {asked} -- "$cur")'
        case "files":
            return 'mapfile -t COMPREPLY < <(compgen -f -- "$cur")'
        case "folders":
            return 'mapfile -t COMPREPLY < <(compgen -d -- "$cur")'
        case _:
            return ""


# -- zsh ----------------------------------------------------------------------------

_ZSH = """\
#compdef tinyscheduler
# zsh completion for tinyscheduler; written by `tinyscheduler completion zsh`.
# Put it as _tinyscheduler into a folder of $fpath.

_tinyscheduler_ask() {{
    local -a found
    found=(${{(f)"$(_call_program words tinyscheduler ${{(q)globals}} completion --words $1)"}})
    found=("${{(@)found//:/\\:}}")
    found=("${{(@)found/$'\t'/:}}")
    _describe -V 'value' found
}}

_tinyscheduler() {{
    local context state state_descr line
    local -a commands globals
    typeset -A opt_args
    commands=(
{commands}
    )
    _arguments -C \\
{options}
        '1:command:->command' \\
        '*::argument:->argument' && return
    [[ -n $opt_args[--base-path] ]] && globals+=(--base-path ${{(Q)opt_args[--base-path]}})
    [[ -n $opt_args[--env-file] ]] && globals+=(--env-file ${{(Q)opt_args[--env-file]}})
    case $state in
        command) _describe -t commands 'command' commands ;;
        argument)
            case $words[1] in
{cases}
            esac
            ;;
    esac
}}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _tinyscheduler "$@"
else
    compdef _tinyscheduler tinyscheduler
fi"""


def _zsh(program: Command, commands: tuple[Command, ...]) -> str:
    cases = []
    for command in commands:
        specs = [_zsh_option(command, one) for one in command.options]
        specs += _zsh_arguments(command)
        joined = " \\\n".join(f"                        {one}" for one in specs)
        lines = [f"                {command.name})"]
        lines += ["                    _arguments \\", joined, "                    ;;"]
        cases.append("\n".join(lines))
    return _ZSH.format(
        commands="\n".join(
            f"        {_zsh_quote(f'{one.name}:{_zsh_colons(one.summary)}')}" for one in commands
        ),
        options="\n".join(f"        {_zsh_option(program, one)} \\" for one in program.options),
        cases="\n".join(cases),
    )


def _zsh_option(command: Command, option: Option) -> str:
    text = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    spec = f"[{_zsh_colons(text)}]"
    if option.takes:
        spec += f":{_zsh_colons(option.takes)}:{_zsh_action(*_words_of(command, option))}"
    if len(option.spellings) == 1:
        return _zsh_quote(f"*{option.spellings[0]}{spec}")
    return f"'*'{{{','.join(option.spellings)}}}{_zsh_quote(spec)}"


def _zsh_arguments(command: Command) -> list[str]:
    how, what = _argument_of(command)
    if how == "nothing" and command.name == "add":
        return ["'*::command:_normal'"]
    if how == "nothing":
        return []
    return [_zsh_quote(f"*:argument:{_zsh_action(how, what)}")]


def _zsh_action(how: str, what: str) -> str:
    match how:
        case "words":
            return f"({what})"
        case "ask":
            # After a space it is called as it stands, without what zsh would put in.
            return f" _tinyscheduler_ask {_zsh_colons(what)}"
        case "files":
            return "_files"
        case "folders":
            return "_files -/"
        case _:
            return " "


def _zsh_colons(text: str) -> str:
    return text.replace(":", "\\:")


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish ---------------------------------------------------------------------------

_FISH = """\
# fish completion for tinyscheduler; written by `tinyscheduler completion fish`.
# Put it into ~/.config/fish/completions/tinyscheduler.fish

function __tinyscheduler_ask
    set -l globals
    set -l typed (commandline -opc)
    for place in (seq 2 (math (count $typed) - 1))
        if contains -- $typed[$place] --base-path --env-file
            set -a globals $typed[$place] $typed[(math $place + 1)]
        end
    end
    tinyscheduler $globals completion --words $argv[1] 2>/dev/null
end

complete -c tinyscheduler -f"""


def _fish(program: Command, commands: tuple[Command, ...]) -> str:
    lines = [_FISH]
    names = " ".join(one.name for one in commands)
    is_first = f"'not __fish_seen_subcommand_from {names}'"
    lines += [_fish_option(is_first, program, one) for one in program.options]
    for command in commands:
        summary = _fish_quote(command.summary)
        lines.append(f"complete -c tinyscheduler -n {is_first} -a {command.name} -d {summary}")
        where = f"'__fish_seen_subcommand_from {command.name}'"
        lines += [_fish_option(where, command, one) for one in command.options]
        answer = _fish_answer(*_argument_of(command))
        if answer:
            lines.append(f"complete -c tinyscheduler -n {where} {answer}")
    return "\n".join(lines)


def _fish_option(where: str, command: Command, option: Option) -> str:
    spelled = " ".join(
        f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in option.spellings
    )
    answer = ""
    if option.takes:
        answer = f" {_fish_answer(*_words_of(command, option)) or '-x'}"
    return f"complete -c tinyscheduler -n {where} {spelled}{answer} -d {_fish_quote(option.help)}"


def _fish_answer(how: str, what: str) -> str:
    match how:
        case "words":
            return f"-xa {_fish_quote(what)}"
        case "ask":
            return f"-xa '(__tinyscheduler_ask {what})'"
        case "files":
            return "-rF"
        case "folders":
            return "-xa '(__fish_complete_directories)'"
        case _:
            return ""


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
