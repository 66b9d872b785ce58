-- Batch tasks of one model run after one another, and a slot stays free for who waits at a screen.
--
-- For throughput: of the batch tasks those go first whose model most others want too, so that a
-- model that is loaded stays in use. Interactive tasks go before all of them, and find a slot.

local KEPT_FREE = 1 -- slots that batch tasks leave alone, unless there is but one

-- Start the jobs of a line, the first first, each by the freest agent that can. Batch tasks leave
-- some slots.
local function start(context, line, kept)
  local free, slots, decisions = {}, context.metrics.free_slots, {}
  for _, agent in ipairs(context.agents) do free[agent.name] = agent.free end
  for _, job in ipairs(line) do
    if slots <= (job.priority == "batch" and kept or 0) then break end
    local best
    for _, name in ipairs(job.agents) do
      if free[name] and free[name] > 0 and (best == nil or free[name] > free[best]) then best = name end
    end
    if best then
      decisions[#decisions + 1] = { action = "dispatch", job_id = job.id, agent = best }
      free[best], slots = free[best] - 1, slots - 1
    end
  end
  return decisions
end

function schedule(context)
  local wanted = {}
  local function group(job) return job.model_ref or job.agent or job.queue or "" end
  for _, job in ipairs(context.queue) do
    if job.priority == "batch" then wanted[group(job)] = (wanted[group(job)] or 0) + 1 end
  end

  local line = {}
  for at, job in ipairs(context.queue) do line[at] = job end
  table.sort(line, function(a, b)
    if a.priority ~= b.priority then return a.priority == "interactive" end
    if a.priority == "batch" and group(a) ~= group(b) then
      local one, other = wanted[group(a)], wanted[group(b)]
      if one ~= other then return one > other end
      return group(a) < group(b)
    end
    if a.order ~= b.order then return a.order < b.order end
    return a.id < b.id
  end)

  local slots = context.metrics.free_slots
  for _, agent in ipairs(context.agents) do slots = slots + agent.active end
  return start(context, line, slots <= KEPT_FREE and 0 or KEPT_FREE)
end
