"""What is said of each kind of fault of a policy: file and line, of YAML the rule as well."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.cli.place import compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer, Place

HEAD = 'scheduler:\n  name: night\n  version: "1"\n  rules:\n'
RULE = "    - name: {name}\n      condition: {condition}\n      action: {action}\n"
# So many that a thousand tasks are too many for them.
CROWD = "".join(
    RULE.format(name=f"r{number}", condition='{job.title: {matches: "a*b*c*$"}}', action="wait")
    for number in range(200)
)
FAULTS = {
    "syntax.lua": "function schedule(context)\n  return {\nend\n",
    "nothing.lua": "local answer = 42\n",
    "load.lua": "local pool = nil\nlocal size = pool.size\n",
    "run-time.lua": "function schedule(context)\n  return context.jobs[1]\nend\n",
    "raised.lua": 'function schedule(context)\n  error("no job today")\nend\n',
    "timeout.lua": "function schedule(context)\n  while true do end\nend\n",
    "nonsense.lua": 'function schedule(context)\n  return { action = "fly" }\nend\n',
    "syntax.yaml": "scheduler:\n  name: [night\n  rules: []\n",
    "keys.yaml": f"{HEAD}    - name: red\n      condition: always\n      then: wait\n",
    "condition.yaml": HEAD + RULE.format(name="red", condition="{job.prio: 1}", action="wait"),
    "operator.yaml": HEAD + RULE.format(name="red", condition="{job.rank: {gr: 1}}", action="wait"),
    "type.yaml": HEAD + RULE.format(name="red", condition="{job.rank: high}", action="wait"),
    "action.yaml": HEAD + RULE.format(name="red", condition="always", action="dispatches"),
    "timeout.yaml": HEAD + CROWD,
}


def test_each_fault_names_its_place(place: Place, run_at: Callable[..., Answer]):
    told = []
    # On a busy machine, too, its own time ends first.
    place.settings |= {"POLICY_WALL_MS": "5000", "POLICY_TIMEOUT_MS": "5"}
    place.add("--hold", "--", "true")
    for name, source in FAULTS.items():
        (place.base / name).write_text(source)
        answer = run_at(place, "policy", "check", name)
        assert answer.code == 1, (name, answer)
        # Which of the two hundred it was that the time ended in is chance.
        words = re.sub(r':\d+ \(rule "r\d+"\)', ':N (rule "rN")', answer.out + answer.err)
        told.append(f"== {name}\n{words}")

    compare("policy-faults.txt", "\n".join(told))
