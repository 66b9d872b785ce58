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

return helpers
