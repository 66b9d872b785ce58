"""How is each command typed?  Shown below its help and in its man page; each is tested to parse."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": ("tinyscheduler run", "tinyscheduler run --dry-run", "tinyscheduler run --daemon"),
    "add": (
        "tinyscheduler add -- sh -c 'make test'",
        "tinyscheduler add --agent coder --prompt 'fix the build' --max-runtime 1h",
        "tinyscheduler add --from tasks.jsonl",
    ),
    "status": ("tinyscheduler status", "tinyscheduler status --watch --interval 5s"),
    "list": ("tinyscheduler list --state parked", "tinyscheduler list --agent coder --limit 20"),
    "show": ("tinyscheduler show 7",),
    "why": ("tinyscheduler why 7",),
    "ps": ("tinyscheduler ps",),
    "logs": ("tinyscheduler logs -f 7", "tinyscheduler logs -n 20 --attempt 1 7"),
    "wait": ("tinyscheduler wait 7 8 9 --timeout 30m",),
    "top": ("tinyscheduler top", "tinyscheduler top -n 1 --json"),
    "parked": ("tinyscheduler parked", "tinyscheduler -v parked --agent coder"),
    "history": (
        "tinyscheduler history --since 24h --state failed",
        "tinyscheduler history --since 2026-01-01 --csv",
        "tinyscheduler history --by day,agent --since 7d",
    ),
    "report": (
        "tinyscheduler report --since 30d",
        "tinyscheduler report --format both -o report.json",
    ),
    "events": ("tinyscheduler events -f", "tinyscheduler events -n 100 --event 'task.*' --task 7"),
    "health": ("tinyscheduler health", "tinyscheduler health --json"),
    "gpu": ("tinyscheduler gpu", "tinyscheduler gpu --json"),
    "snapshot": ("tinyscheduler snapshot > snapshot.json",),
    "replay": (
        "tinyscheduler replay --list --limit 50",
        "tinyscheduler replay latest",
        "tinyscheduler replay snapshot.json",
        "tinyscheduler replay --all",
        "tinyscheduler replay latest --policy old.lua",
    ),
    "schedule": (
        'tinyscheduler schedule add --name backup --cron "30 2 * * *" -- ./backup',
        "tinyscheduler schedule add --name look --every 2h --agent coder --prompt hi",
        "tinyscheduler schedule edit look --kind heartbeat --checklist HEARTBEAT.md",
        "tinyscheduler schedule list",
        'tinyscheduler schedule next --cron "*/15 9-17 * * 1-5" --tz Europe/Warsaw',
        "tinyscheduler schedule edit backup --every 3h --unset jitter",
        "tinyscheduler schedule apply -f schedules.yaml --prune --dry-run",
        "tinyscheduler schedule history backup -n 5",
        "tinyscheduler schedule plan --days 14 --plot plan.html",
        "tinyscheduler schedule run backup --force",
        "tinyscheduler schedule resume backup",
    ),
    "pressure": (
        "tinyscheduler pressure on --id chat --ttl 5m",
        "tinyscheduler pressure on --id editor --pid 4711 --ttl 8h",
        "tinyscheduler pressure off --id chat",
        "tinyscheduler pressure list",
    ),
    "agent": (
        "tinyscheduler agent list",
        "tinyscheduler agent test reviewer --sample state/logs/tasks/7/1.log",
        "tinyscheduler agent test claude --sample - --exit-code 1",
        "tinyscheduler agent try coder --prompt 'Mend the tests.' --max-turns 20",
    ),
    "policy": (
        "tinyscheduler policy show",
        "tinyscheduler policy source > mine.lua",
        "tinyscheduler policy templates fair-share > mine.lua",
        "tinyscheduler policy check mine.lua",
        "tinyscheduler policy compile rules.yaml",
        "tinyscheduler policy simulate mine.lua --queue-depth 10",
        "tinyscheduler policy diff mine.lua --since 7d --plot diff.html",
        "tinyscheduler policy deploy mine.lua --gate",
        "tinyscheduler policy rollback",
        "tinyscheduler policy test mine.lua --fixture mine.test.yaml",
        "tinyscheduler policy trace --limit 5",
    ),
    "cancel": ("tinyscheduler cancel 7 8",),
    "retry": ("tinyscheduler retry 7",),
    "edit": (
        "tinyscheduler edit 7 --priority 9 --max-runtime 2h --unset after",
        "tinyscheduler edit 7 -- make test",
    ),
    "hold": ("tinyscheduler hold 7",),
    "release": ("tinyscheduler release 7",),
    "pause": ("tinyscheduler pause agent:coder --reason 'key expired'", "tinyscheduler pause"),
    "resume": ("tinyscheduler resume agent:coder", "tinyscheduler resume all"),
    "drain": ("tinyscheduler drain --wait --timeout 1h --reason 'kernel update'",),
    "undrain": ("tinyscheduler undrain",),
    "prune": ("tinyscheduler prune --older-than 7d --dry-run",),
    "reset": ("tinyscheduler reset --yes",),
    "init": ("tinyscheduler init --yes",),
    "config": ("tinyscheduler config --show",),
    "validate-config": ("tinyscheduler validate-config --fix",),
    "doctor": ("tinyscheduler doctor",),
    "mcp": (
        "tinyscheduler mcp",
        "tinyscheduler mcp --allow-write --as coder",
        "tinyscheduler mcp --allow-write --allow-agent shell",
    ),
    "service": (
        "tinyscheduler service install --print",
        "tinyscheduler service install daemon --user",
        "tinyscheduler service status",
    ),
    "completion": (
        "tinyscheduler completion bash > ~/.tinyscheduler-completion",
        "tinyscheduler completion zsh > ~/.zfunc/_tinyscheduler",
    ),
    "help": ("tinyscheduler help", "tinyscheduler help add"),
    "selftest": ("tinyscheduler selftest", "tinyscheduler selftest --rounds 50 --seed 7"),
    "demo": ("tinyscheduler demo", "tinyscheduler demo --keep"),
}


def epilog_of(command: str) -> str | None:
    """Return the examples as they stand below the help; None where there are none."""
    lines = EXAMPLES.get(command)
    if not lines:
        return None
    title = "Example:" if len(lines) == 1 else "Examples:"
    # The mark keeps the lines as they are (a form feed would do it, too).
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
