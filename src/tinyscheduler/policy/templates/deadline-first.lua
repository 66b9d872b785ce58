-- What is due first goes first.
--
-- A task says when it is due with a label: `add --label deadline=2026-03-02T18:00Z`, a time of UTC,
-- or seconds since 1970. Tasks without one go after those, as they stand in line.

-- Return seconds since 1970; nil for a text that is no time.
local function moment(text)
  if tonumber(text) then return tonumber(text) end
  local year, month, day, hour, min, rest = text:match("^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d)(.*)$")
  if year == nil then return nil end
  local sec, zone = rest:match("^:(%d%d)[%d.]*(.*)$")
  zone = zone or rest
  if zone ~= "" and zone ~= "Z" and zone ~= "+00:00" then return nil end
  return os.time({ year = year, month = month, day = day, hour = hour, min = min, sec = sec or 0 })
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
  local due, line, late = {}, {}, 0
  for at, job in ipairs(context.queue) do
    line[at] = job
    local deadline = job.labels.deadline
    due[job.id] = deadline and moment(deadline) or math.huge
    if due[job.id] * 1000 < context.metrics.now_ms then late = late + 1 end
    if deadline and due[job.id] == math.huge then
      log("warning", "job " .. job.id .. ": its deadline is no time of UTC: " .. deadline)
    end
  end
  table.sort(line, function(a, b)
    if due[a.id] ~= due[b.id] then return due[a.id] < due[b.id] end
    if a.order ~= b.order then return a.order < b.order end
    return a.id < b.id
  end)
  emit_metric("late", late)
  return start(context, line)
end
