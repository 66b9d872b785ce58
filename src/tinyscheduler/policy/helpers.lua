-- Questions that policies ask, answered from the context that they are asked about.

local context = ...

local workers_by_id, pool_of, jobs = {}, {}, nil
for _, pool in ipairs(context.pools) do
  for _, worker in ipairs(pool.workers) do
    workers_by_id[worker.id], pool_of[worker.id] = worker, pool
  end
end

local function job_of(id)
  if jobs == nil then
    jobs = {}
    for _, job in ipairs(context.queue) do jobs[job.id] = job end
  end
  return jobs[id]
end

-- A worker takes any model if it is an agent's slot, and its own if it is a model's.
local function is_able(worker, model_ref)
  return worker.status == "ready" and (model_ref == nil or worker.model_ref == nil or worker.model_ref == model_ref)
end

local function best(pools, model_ref, is_better)
  local found
  for _, pool in ipairs(pools) do
    for _, worker in ipairs(pool.workers) do
      if is_able(worker, model_ref) and (found == nil or is_better(worker, found)) then found = worker end
    end
  end
  return found
end

local helpers = {}

function helpers.find_worker(model_ref, pool_id)
  for _, pool in ipairs(context.pools) do
    if pool_id == nil or pool.id == pool_id then
      for _, worker in ipairs(pool.workers) do
        if is_able(worker, model_ref) then return worker end
      end
    end
  end
end

local function is_less_loaded(a, b) return a.in_flight < b.in_flight end
function helpers.find_best_worker(pools, model_ref)
  return best(pools, model_ref, is_less_loaded)
end

local function has_more_vram(a, b) return a.vram_free > b.vram_free end
function helpers.find_worker_most_vram_free(model_ref)
  return best(context.pools, model_ref, has_more_vram)
end

local function is_longer_unused(a, b) return (a.last_used_ms or 0) < (b.last_used_ms or 0) end
function helpers.find_worker_round_robin(model_ref)
  return best(context.pools, model_ref, is_longer_unused)
end

function helpers.calculate_wait_time(job_id)
  local job = job_of(job_id)
  return job and job.age_ms or 0
end

function helpers.check_quota(tenant_id, vram_needed)
  for _, tenant in ipairs(context.tenants) do
    if tenant.id == tenant_id then
      return tenant.quota_vram == nil or tenant.quota_used + (vram_needed or 0) <= tenant.quota_vram
    end
  end
  return true
end

function helpers.can_fit(job_id, worker_id)
  local job, worker = job_of(job_id), workers_by_id[worker_id]
  if job == nil or worker == nil or worker.status ~= "ready" then return false end
  if (job.vram or 0) > worker.vram_free or (job.memory or 0) > pool_of[worker_id].memory_free then return false end
  if worker.agent == nil then return job.model_ref == nil or job.model_ref == worker.model_ref end
  for _, name in ipairs(job.agents) do
    if name == worker.agent then return true end
  end
  return false
end

-- A text fits if one of these patterns does; what is longer than any name fits none.
local LONGEST_TEXT = 256
function helpers.matches(text, ...)
  if type(text) ~= "string" or #text > LONGEST_TEXT then return false end
  for at = 1, select("#", ...) do
    if string.find(text, (select(at, ...))) then return true end
  end
  return false
end

-- Batches: what a policy made of rules collects its decisions with.  The context is kept as it
-- stands after them, so each rule sees what those before it left.

local MOST_DECISIONS = 1000 -- that are taken at once

local function is_less_busy(a, b)
  if a.agent.active ~= b.agent.active then return a.agent.active < b.agent.active end
  if a.agent.free ~= b.agent.free then return a.agent.free > b.agent.free end
  return a.agent.name < b.agent.name
end

local SELECTIONS = {
  ["least-loaded"] = is_less_busy,
  ["most-vram-free"] = function(a, b)
    if a.vram_free ~= b.vram_free then return a.vram_free > b.vram_free end
    return is_less_busy(a, b)
  end,
  ["round-robin"] = function(a, b)
    if a.last_used_ms ~= b.last_used_ms then return a.last_used_ms < b.last_used_ms end
    if a.given ~= b.given then return a.given < b.given end
    return is_less_busy(a, b)
  end,
}

-- What is known of each agent, from its slots: those of one agent are alike.
local function agents_by_name()
  local found = {}
  for _, agent in ipairs(context.agents) do
    found[agent.name] = { agent = agent, ready = {}, given = 0, vram_free = 0, last_used_ms = 0 }
  end
  for _, pool in ipairs(context.pools) do
    for at = #pool.workers, 1, -1 do
      local worker = pool.workers[at]
      local one = worker.agent ~= nil and found[worker.agent]
      if one then one.pool = pool end
      if one and worker.status == "ready" then
        one.ready[#one.ready + 1] = worker
        one.vram_free = math.max(one.vram_free, worker.vram_free or 0)
        one.last_used_ms = math.max(one.last_used_ms, worker.last_used_ms or 0)
        one.model_ref = worker.model_ref
      end
    end
  end
  return found
end

-- The workers that are models, by what they serve.
local function servers_by_model()
  local found = {}
  for _, pool in ipairs(context.pools) do
    for _, worker in ipairs(pool.workers) do
      if worker.agent == nil and worker.model_ref ~= nil then
        found[worker.model_ref] = found[worker.model_ref] or {}
        table.insert(found[worker.model_ref], worker)
      end
    end
  end
  return found
end

local function is_idle(worker)
  return worker.agent == nil and worker.status == "ready" and (worker.in_flight or 0) == 0
end

local EVICTIONS = {
  lru = function(worker) return worker.last_used_ms or 0 end,
  lfu = function(worker) return worker.uses or 0 end,
}

function helpers.new_batch()
  local batch, decisions, decided, handed, done = {}, {}, {}, {}, {}
  local left, agents, servers, metrics = context.queue, agents_by_name(), servers_by_model(), context.metrics

  local function add(decision)
    if #decisions < MOST_DECISIONS then decisions[#decisions + 1] = decision end
  end

  -- A rule about model servers decides once, however many jobs ask for it.
  local function add_once(decision)
    if not done[decision.reason] then add(decision) end
    done[decision.reason] = true
  end

  -- Count what a job takes.
  local function count(job, name)
    local one = agents[name]
    one.agent.free, one.agent.active = one.agent.free - 1, one.agent.active + 1
    one.given, one.last_used_ms = one.given + 1, metrics.now_ms
    local worker = table.remove(one.ready)
    if worker ~= nil then worker.status = "busy" end
    metrics.free_slots, metrics.busy_workers = metrics.free_slots - 1, metrics.busy_workers + 1
    metrics.queue_depth = metrics.queue_depth - 1
    if one.pool ~= nil then
      one.pool.slots_free = one.pool.slots_free - 1
      one.pool.memory_free = math.max(0, one.pool.memory_free - (job.memory or 0))
    end
  end

  -- Whether the job can start in a pool: where its model is served, or else by an agent of it.
  local function is_of(pool_id, job, one)
    if pool_id == nil then return true end
    if servers[job.model_ref] == nil then return one.pool ~= nil and one.pool.id == pool_id end
    for _, worker in ipairs(servers[job.model_ref]) do
      if pool_of[worker.id].id == pool_id and worker.status == "ready" then return true end
    end
    return false
  end

  -- The jobs that no rule has decided about, in line.
  function batch.jobs()
    local rest = {}
    for _, job in ipairs(left) do
      if not decided[job] then rest[#rest + 1] = job end
    end
    left = rest
    local at = 0
    return function()
      at = at + 1
      return rest[at]
    end
  end

  -- The same, while a slot is free.
  function batch.startable()
    local next_job = batch.jobs()
    return function()
      if metrics.free_slots > 0 and #decisions < MOST_DECISIONS then return next_job() end
    end
  end

  -- Start the job, by one of the agents that can start it, in a pool if one is named; whether
  -- that can be.
  function batch.dispatch(job, selection, match, rule, pool_id)
    local is_better, wanted = SELECTIONS[selection], job.model_ref
    local best, best_fits
    if metrics.free_slots <= 0 then return false end
    for _, name in ipairs(job.agents) do
      local one = agents[name]
      if one ~= nil and one.agent.free > 0 and is_of(pool_id, job, one) then
        local has_model = wanted ~= nil and one.model_ref == wanted
        local is_able = match ~= "required" or wanted == nil or one.model_ref == nil or has_model
        local fits = match == "preferred" and has_model
        if is_able and (best == nil or (fits and not best_fits) or (fits == best_fits and is_better(one, best))) then
          best, best_fits = one, fits
        end
      end
    end
    if best == nil then return false end
    decided[job] = true
    add { action = "dispatch", job_id = job.id, agent = best.agent.name, pool_id = pool_id, reason = rule }
    count(job, best.agent.name)
    return true
  end

  -- Let the job wait.
  function batch.wait(job, duration_ms, rule)
    decided[job] = true
    add { action = "wait", job_id = job.id, duration_ms = duration_ms, reason = rule }
  end

  -- Leave the job to whoever is asked next.
  function batch.hand_over(job)
    decided[job] = true
    handed[#handed + 1] = job
  end

  -- Ask somebody, such as platform.schedule, about the jobs that were handed over.
  function batch.ask(schedule, rule)
    local view, by_id = {}, {}
    for name, value in next, context do view[name] = value end
    view.queue = handed
    for _, job in ipairs(handed) do by_id[job.id] = job end
    handed = {}
    local answer = schedule(view) or {}
    if answer.action ~= nil then answer = { answer } end
    for _, decision in ipairs(answer) do
      local job = by_id[decision.job_id]
      decision.reason = decision.reason or rule
      add(decision)
      if decision.action == "dispatch" and job ~= nil and agents[decision.agent] ~= nil then
        count(job, decision.agent)
      end
    end
  end

  -- End the model server of this id, if there is one.
  function batch.evict(worker_id, rule)
    local worker = workers_by_id[worker_id]
    if worker ~= nil and worker.agent == nil then
      add_once { action = "evict", evict_worker_id = worker_id, reason = rule }
    end
  end

  -- End the idle model server that is used least: lru or lfu.
  function batch.evict_idle(how, rule)
    local found
    for _, pool in ipairs(context.pools) do
      for _, worker in ipairs(pool.workers) do
        local is_less = found == nil or EVICTIONS[how](worker) < EVICTIONS[how](found)
        if is_idle(worker) and is_less then found = worker end
      end
    end
    if found ~= nil then batch.evict(found.id, rule) end
  end

  -- Start a model server.
  function batch.start_worker(what, rule)
    add_once { action = "start_worker", start_worker = what, reason = rule }
  end

  function batch.decisions() return decisions end

  return batch
end

return helpers
