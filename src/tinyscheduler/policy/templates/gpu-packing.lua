-- Whole GPUs first, then the largest shares, each where least is left: GPUs are filled up.
--
-- Small tasks go into the gaps that large ones leave, so that no GPU is broken up that a large
-- one could have had. Tasks that need no GPU go last, as they stand in line: they find room.

local function comes_before(a, b)
  if a.gpus ~= b.gpus then return a.gpus > b.gpus end
  if a.vram ~= b.vram then return a.vram > b.vram end
  if a.order ~= b.order then return a.order < b.order end
  return a.id < b.id
end

-- Take what a job needs of the GPUs that are left; false if it is not there.
local function take(job, gpus)
  if job.gpus > 0 then
    local idle = {}
    for _, gpu in ipairs(gpus) do
      if gpu.is_idle then idle[#idle + 1] = gpu end
    end
    if #idle < job.gpus then return false end
    for at = 1, job.gpus do idle[at].is_idle, idle[at].vram = false, 0 end
  elseif job.vram > 0 then
    local best
    for _, gpu in ipairs(gpus) do
      if gpu.vram >= job.vram and (best == nil or gpu.vram < best.vram) then best = gpu end
    end
    if best == nil then return false end
    best.is_idle, best.vram = false, best.vram - job.vram
  end
  return true
end

function schedule(context)
  local line, gpus, free = {}, {}, {}
  for at, job in ipairs(context.queue) do line[at] = job end
  table.sort(line, comes_before)
  for _, pool in ipairs(context.pools) do
    for _, gpu in ipairs(pool.gpus) do
      if gpu.is_known then gpus[#gpus + 1] = { vram = gpu.vram_free, is_idle = gpu.is_idle } end
    end
  end
  for _, agent in ipairs(context.agents) do free[agent.name] = agent.free end

  local slots, decisions = context.metrics.free_slots, {}
  for _, job in ipairs(line) do
    if slots <= 0 then break end
    local best
    for _, name in ipairs(job.agents) do
      if free[name] and free[name] > 0 and (best == nil or free[name] > free[best]) then best = name end
    end
    if best and take(job, gpus) then
      decisions[#decisions + 1] = { action = "dispatch", job_id = job.id, agent = best }
      free[best], slots = free[best] - 1, slots - 1
    end
  end
  return decisions
end
