-- The platform policy: whose turn it is, and with which agent.
--
-- This is what decides unless you set a policy of your own, and what takes over where yours
-- fails.  It cannot be changed, but `tinyscheduler policy source` prints it, to start from.

-- A batch task that has waited so long counts as interactive.
local PROMOTED_AFTER_MS = 300000

local function agents_by_name(context)
  local found = {}
  for _, agent in ipairs(context.agents) do found[agent.name] = agent end
  return found
end

local function is_batch(job, agents)
  if job.priority == "interactive" then return false end
  if job.agent and agents[job.agent] and agents[job.agent].is_interactive then return false end
  return job.age_ms == nil or job.age_ms < PROMOTED_AFTER_MS
end

-- Interactive before batch, then who had least where slots are shared out fairly, then what most
-- others wait for, the higher priority, and first come, first served.
local function comes_before(a, b)
  local one, other = a.job, b.job
  if a.is_batch ~= b.is_batch then return not a.is_batch end
  if one.turn ~= other.turn then return one.turn < other.turn end
  if one.blocks ~= other.blocks then return one.blocks > other.blocks end
  if one.rank ~= other.rank then return one.rank > other.rank end
  if one.order ~= other.order then return one.order < other.order end
  return one.id < other.id
end

local function in_order(context)
  local agents, line = agents_by_name(context), {}
  for at, job in ipairs(context.queue) do line[at] = { job = job, is_batch = is_batch(job, agents) } end
  table.sort(line, comes_before)
  return line
end

-- The agent with most free slots of those that can start the job now; ties by name.
local function least_loaded(job, free)
  local best
  for _, name in ipairs(job.agents) do
    if best == nil or free[name] > free[best] or (free[name] == free[best] and name < best) then best = name end
  end
  if best ~= nil and free[best] > 0 then return best end
end

function schedule(context)
  local free, slots, decisions = {}, context.metrics.free_slots, {}
  for _, agent in ipairs(context.agents) do free[agent.name] = agent.free end
  for _, one in ipairs(in_order(context)) do
    if slots <= 0 then break end
    local agent = least_loaded(one.job, free)
    if agent ~= nil then
      decisions[#decisions + 1] = { action = "dispatch", job_id = one.job.id, agent = agent }
      free[agent], slots = free[agent] - 1, slots - 1
    end
  end
  return decisions
end
