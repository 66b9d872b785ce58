-- Who has least goes next: slots are shared out evenly between tenants.
--
-- What a tenant has is what runs for it now, which is known of tenants that agents.yaml names, and
-- what is started here. Between tenants that have as much, who had least of late goes first (where
-- FAIR_SHARE is set), then who has waited longest. Tasks without a tenant share one turn.

local function owner(job) return job.tenant or "" end

-- Take from each tenant's tasks in turn, as they stand in line.
local function in_turns(context)
  local has, tasks, owners = {}, {}, {}
  for _, tenant in ipairs(context.tenants) do has[tenant.id] = tenant.slots_used end
  for _, job in ipairs(context.queue) do
    local name = owner(job)
    if tasks[name] == nil then
      tasks[name], has[name], owners[#owners + 1] = { next = 1 }, has[name] or 0, name
    end
    table.insert(tasks[name], job)
  end

  local function goes_before(one, other)
    local a, b = tasks[one][tasks[one].next], tasks[other][tasks[other].next]
    if has[one] ~= has[other] then return has[one] < has[other] end
    if a.turn ~= b.turn then return a.turn < b.turn end
    if a.order ~= b.order then return a.order < b.order end
    return one < other
  end

  return function(is_started)
    local best
    for _, name in ipairs(owners) do
      if tasks[name][tasks[name].next] and (best == nil or goes_before(name, best)) then best = name end
    end
    if best == nil then return nil end
    local job = tasks[best][tasks[best].next]
    tasks[best].next = tasks[best].next + 1
    if is_started(job) then has[best] = has[best] + 1 end
    return job
  end
end

function schedule(context)
  local free, slots, decisions = {}, context.metrics.free_slots, {}
  for _, agent in ipairs(context.agents) do free[agent.name] = agent.free end

  local function start(job)
    local best
    for _, name in ipairs(job.agents) do
      if free[name] and free[name] > 0 and (best == nil or free[name] > free[best]) then best = name end
    end
    if best == nil then return false end
    decisions[#decisions + 1] = { action = "dispatch", job_id = job.id, agent = best }
    free[best], slots = free[best] - 1, slots - 1
    return true
  end

  local next_job = in_turns(context)
  while slots > 0 and next_job(start) do end
  return decisions
end
