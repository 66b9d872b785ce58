"""Commands that testify what really ran: their own starts, ends, and who lived beside them."""

from __future__ import annotations

import os
from collections import Counter

from tinyscheduler.values import dataclass, field

# Each command writes its line, then counts whom it started beside: those who wrote theirs
# before and live now, so they all lived at that moment.  The last to start sees every one of
# them; counting who came later would add up some that never met, as it takes a while.
# Zombies and recycled pids do not count: the command line of a witness names the folder it
# testifies in.
WITNESS = r"""
dir=$0 body=$1
task=$TINYSCHEDULER_TASK_ID attempt=$TINYSCHEDULER_ATTEMPT agent=$TINYSCHEDULER_AGENT
echo "start $task $attempt $agent $$" >> "$dir/journal"
same=0 agents=0 all=0
while read -r word t a g pid; do
    [ "$word" = start ] || continue
    [ -r "/proc/$pid/cmdline" ] || continue
    tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir" || continue
    case $(cat "/proc/$pid/stat" 2>/dev/null) in ""|*") Z "*|*") X "*) continue ;; esac
    all=$((all + 1))
    [ "$t" = "$task" ] && same=$((same + 1))
    [ "$g" = "$agent" ] && agents=$((agents + 1))
    [ "$t $a $pid" = "$task $attempt $$" ] && break
done < "$dir/journal"
echo "beside $task $attempt $agent $same $agents $all" >> "$dir/journal"
eval "$body"
code=$?
echo "end $task $attempt $agent $code" >> "$dir/journal"
exit $code
"""

_WHOLE = (5, 7)  # words of a start or an end, and of who was beside


def testify(folder: str, body: str) -> tuple[str, ...]:
    """Return the argv of a witness that runs ``body``."""
    return ("sh", "-c", WITNESS, folder, body)


@dataclass(slots=True, kw_only=True)
class Testimony:
    """What all witnesses of one round said."""

    starts: dict[str, list[int]] = field(default_factory=dict)
    ends: Counter[tuple[str, int]] = field(default_factory=Counter)
    most_of_a_task: int = 0
    most_of_an_agent: dict[str, int] = field(default_factory=dict)
    most: int = 0


def hear(folder: str) -> Testimony:
    """Read the journal; a witness that was killed while it wrote leaves half a line."""
    testimony = Testimony()
    try:
        with open(os.path.join(folder, "journal"), encoding="utf-8") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return testimony
    for what, task_id, attempt, agent, *rest in (line for line in lines if len(line) in _WHOLE):
        if what == "start":
            testimony.starts.setdefault(task_id, []).append(int(attempt))
        elif what == "end":
            testimony.ends[task_id, int(attempt)] += 1
        else:
            same, of_agent, everyone = (int(word) for word in rest)
            testimony.most_of_a_task = max(testimony.most_of_a_task, same)
            testimony.most = max(testimony.most, everyone)
            before = testimony.most_of_an_agent.get(agent, 0)
            testimony.most_of_an_agent[agent] = max(before, of_agent)
    return testimony
