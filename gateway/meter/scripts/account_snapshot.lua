-- Reads what an account may still do, as an admission at this moment would find it. Writes nothing.
--
-- KEYS account, catalogue (hashes)
-- ARGV limit_minute, limit_hour, limit_day    -1 for none
--      budget_id, budget_since, budget_keys   only for a key with a budget, as `admit.lua` takes them
--
-- Reply: {ADMITTED, balance, used and reset seconds of minute, hour, day, retry after seconds, violated windows as bits,
--   calls in flight, spent from the budget}, as `admit.lua` replies; the last one only if the budget is loaded
--   {NOT_LOADED}
--
-- Reads the windows as `admit.lua` does, but does not write back what has left them. Uses `replay_window.lua` and
-- `windows.lua`.

local account, catalogue = unpack(KEYS)
local limit_minute, limit_hour, limit_day, budget_id, budget_since, budget_keys = unpack(ARGV)

local found = redis.call('HMGET', account, STATE_FIELD, EPOCH_FIELD)
local state = found[1]
if not state or found[2] ~= redis.call('HGET', catalogue, EPOCH_FIELD) then
  return {NOT_LOADED}
end

local s = {struct.unpack(STATE, state)}
local now = now_ms()
if s[1] - now > MAX_LEAD_MS then
  return {NOT_LOADED} -- as `admit.lua` does
end
now = math.max(s[1], now)
local limits = {tonumber(limit_minute), tonumber(limit_hour), tonumber(limit_day)}
local reply = {ADMITTED, s[2]}
local violated, retry_ms = 0, 0
for window = 1, 3 do
  local at = window * 4
  local first, last, total = s[at], s[at + 1], s[at + 3]
  local bucket = math.floor(now / STEP_MS[window])
  if bucket > last then
    if total > 0 and last >= bucket - STEPS then
      while first < bucket - STEPS do
        local count, following = closed_bucket(account, window, first)
        total = total - count
        first = following
      end
    else
      first, total = bucket, 0
    end
  end

  local limit = limits[window]
  if limit >= 0 and total >= limit then
    violated = violated + 2 ^ (window - 1)
    local wait = STEP_MS[window] * STEPS
    if total > 0 then
      wait = until_free(account, now, window, first, last, total - limit + 1)
    end
    if window == 1 then
      wait = math.min(wait, MAX_MINUTE_SECONDS * 1000)
    end
    retry_ms = math.max(retry_ms, wait)
  end
  reply[window * 2 + 1] = total
  reply[window * 2 + 2] = math.ceil(((first + STEPS + 1) * STEP_MS[window] - now) / 1000)
end
reply[4] = math.min(reply[4], MAX_MINUTE_SECONDS)
reply[9], reply[10], reply[11] = math.ceil(retry_ms / 1000), violated, s[3]
local counted = budget_id and #state > STATE_BYTES and redis.call('HGET', account, BUDGET_PREFIX .. budget_id)
if counted then
  local since, spent, keys = struct.unpack(BUDGET, counted)
  reply[12] = since == tonumber(budget_since) and keys == tonumber(budget_keys) and spent or nil
end
return reply
