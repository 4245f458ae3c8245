-- Says what an account may still do, as an admission at this moment would see it. Writes nothing.
--
-- KEYS 1 account (hash)   2 catalogue (hash)
-- ARGV 1 2 3 limit per minute, hour, day (-1: none), from which the wait is told
--      4 budget   5 start of the period, in microseconds   6 how many keys spend from the budget: all only of a key with a
--        cap
--
-- Reply: {1, balance, used and reset seconds of minute, hour, day, retry after seconds, violated windows as bits,
--   in flight, spent from the budget}, all but the last two as `admit.lua` replies them; the last only where it is
--   counted, or {3} cold: the account is not here, PostgreSQL knows it.
--
-- The state is explained in `admit.lua`; here it is read the same way, but nothing that has left is written back.

local STEPS = 60
local STEP_MS = {1000, 60000, 1440000}
local RING = {'m', 'h', 'd'}
local STATE = '<i8i8i4I4I4I4I4I4I4I4I4I4I4I4I4'
local STATE_BYTES = 68
local BUCKET = '<I4I4'

local account = KEYS[1]
local found = redis.call('HMGET', account, 's', 'e')
local state = found[1]
if not state or found[2] ~= redis.call('HGET', KEYS[2], 'e') then
  return {3}
end

local s = {struct.unpack(STATE, state)}
local time = redis.call('TIME')
local now = math.max(s[1], time[1] * 1000 + math.floor(time[2] / 1000))

local function closed_bucket(window, bucket)
  local count, following = struct.unpack(BUCKET, redis.call('HGET', account, RING[window] .. bucket % (STEPS + 1)))
  return count, following
end

local function until_free(window, first, tip, excess)
  local bucket = first
  while excess > 0 and bucket < tip do
    local count, following = closed_bucket(window, bucket)
    excess = excess - count
    if excess > 0 then
      bucket = following
    end
  end
  return (bucket + STEPS + 1) * STEP_MS[window] - now
end

local reply = {1, s[2]}
local violated, retry_ms = 0, 0
for window = 1, 3 do
  local at = window * 4
  local first, last, total = s[at], s[at + 1], s[at + 3]
  local bucket = math.floor(now / STEP_MS[window])
  if bucket > last then
    if total > 0 and last >= bucket - STEPS then
      while first < bucket - STEPS do
        local count, following = closed_bucket(window, first)
        total = total - count
        first = following
      end
    else
      first, total = bucket, 0
    end
  end

  local limit = tonumber(ARGV[window])
  if limit >= 0 and total >= limit then
    violated = violated + 2 ^ (window - 1)
    local wait = STEP_MS[window] * STEPS
    if total > 0 then
      wait = until_free(window, first, last, total - limit + 1)
    end
    retry_ms = math.max(retry_ms, wait)
  end
  reply[window * 2 + 1] = total
  reply[window * 2 + 2] = math.ceil(((first + STEPS + 1) * STEP_MS[window] - now) / 1000)
end
reply[9], reply[10], reply[11] = math.ceil(retry_ms / 1000), violated, s[3]
local counted = ARGV[4] and #state > STATE_BYTES and redis.call('HGET', account, 'b:' .. ARGV[4])
if counted then
  local since, spent, keys = struct.unpack('<i8i8I4', counted)
  reply[12] = since == tonumber(ARGV[5]) and keys == tonumber(ARGV[6]) and spent or nil
end
return reply
