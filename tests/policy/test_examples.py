"""The examples of the policy reference run as they are written there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.builders import a_task
from tests.policy.asking import a_context, a_policy
from tests.policy.test_rules import EXAMPLE

from tinyscheduler.model.policy import AgentView

if TYPE_CHECKING:
    from pathlib import Path

LUA = """
-- User-defined scheduler
function schedule(context)
  local queue = context.queue
  local pools = context.pools
  -- Custom logic: prioritize jobs with seed for determinism
  for _, job in ipairs(queue) do
    if job.seed ~= nil then
      local worker = find_best_worker(pools, job.model_ref)
      if worker then
        return { action = "dispatch", job_id = job.id, worker_id = worker.id }
      end
    end
  end
  -- Fallback to platform scheduler
  return platform.schedule(context)
end
"""


@pytest.mark.parametrize(("name", "source"), [("p.lua", LUA), ("p.yaml", EXAMPLE)])
def test_what_has_a_seed_goes_first(tmp_path: Path, name: str, source: str):
    plain, seeded = a_task("1", created_order=1), a_task("2", created_order=2, seed=7)
    policy = a_policy(tmp_path, source, name=name)

    # There is another agent that is freer, and may run neither.
    agents = (
        AgentView(name="chat", queue="chat", limit=9, active=0),
        AgentView(name="coder", queue="dev", limit=2, active=1),
    )
    mixed = policy.propose(a_context(plain, seeded, agents=agents))
    alone = policy.propose(a_context(plain, agents=agents))
    policy.close()

    assert (mixed[0].task.task_id, mixed[0].agent) == ("2", "coder")
    assert [one.task.task_id for one in alone] == ["1"]
