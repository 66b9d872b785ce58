-- Tasks with a seed go first, and the same queue is always decided in the same way.
--
-- For experiments that are to be repeated: seeded tasks (`add --seed N`) stand before all others,
-- those of one model together. Which agent starts a task depends on its name alone, never on how
-- busy others are. Tasks without a seed go as they stand in line.

local function comes_before(a, b)
  local one, other = a.seed ~= nil, b.seed ~= nil
  if one ~= other then return one end
  if one and a.model_ref ~= b.model_ref then return (a.model_ref or "") < (b.model_ref or "") end
  if a.order ~= b.order then return a.order < b.order end
  return a.id < b.id
end

function schedule(context)
  local line = {}
  for at, job in ipairs(context.queue) do line[at] = job end
  table.sort(line, comes_before)

  local free, slots, decisions = {}, context.metrics.free_slots, {}
  for _, agent in ipairs(context.agents) do free[agent.name] = agent.free end
  for _, job in ipairs(line) do
    if slots <= 0 then break end
    local chosen
    for _, name in ipairs(job.agents) do
      if free[name] and free[name] > 0 and (chosen == nil or name < chosen) then chosen = name end
    end
    if chosen then
      local reason = job.seed and "seeded" or nil
      decisions[#decisions + 1] = { action = "dispatch", job_id = job.id, agent = chosen, reason = reason }
      free[chosen], slots = free[chosen] - 1, slots - 1
    end
  end
  return decisions
end
