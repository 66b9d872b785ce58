-- Batch tasks run at night and on weekends; by day only interactive ones start.
--
-- Hours are those of this machine. What runs already is left alone in the morning.

local NIGHT_FROM, NIGHT_TO = 22, 6 -- o'clock
local SATURDAY = 6 -- weekdays count from Monday, 1

local function is_quiet(metrics)
  return metrics.weekday >= SATURDAY or metrics.hour >= NIGHT_FROM or metrics.hour < NIGHT_TO
end

-- Start the jobs of a line, the first first, each by the freest agent that can.
local function start(context, line)
  local free, slots, decisions = {}, context.metrics.free_slots, {}
  for _, agent in ipairs(context.agents) do free[agent.name] = agent.free end
  for _, job in ipairs(line) do
    if slots <= 0 then break end
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
  if is_quiet(context.metrics) then return platform.schedule(context) end

  local line, waits = {}, {}
  for _, job in ipairs(context.queue) do
    if job.priority == "interactive" then
      line[#line + 1] = job
    else
      waits[#waits + 1] = { action = "wait", job_id = job.id, reason = "starts at " .. NIGHT_FROM .. " o'clock" }
    end
  end
  local decisions = start(context, line)
  for _, wait in ipairs(waits) do decisions[#decisions + 1] = wait end
  return decisions
end
