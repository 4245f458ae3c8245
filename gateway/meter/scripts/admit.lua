-- Admits one call or changes nothing.
--
-- Checks, in this order: the epoch of the partition, the versions the caller decided on, whether it repeats a call, the
-- minute, hour and day windows, calls in flight, credits, the cap of the key.
-- Everything is checked before the first write, so a refusal of any kind leaves every counter where it was.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)   4 claim (hash), only for a call with an Idempotency-Key
-- ARGV 1 request id       2 account version    3 catalogue version
--      4 credits to hold  5 credits the balance must have (0: a free call)
--      6 7 8 limit per minute, hour, day (-1: none)   9 limit in flight (-1: none)
--      10 owner, tab, record head: what the hold remembers behind its amount
--      11 epoch that the caller has entered (`enter.lua`)
--      12 fingerprint of the request   13 seconds for which to remember it: both only with a claim, else empty
--      14 credits that the key may spend   15 budget   16 start of the period, in microseconds   17 how many keys spend
--        from the budget: all only of a key with a cap
--
-- Reply: {verdict, balance, used and reset seconds of minute, hour, day}
--   1 admitted, balance already without the hold
--   4 rate limited: then 9 retry after seconds, 10 violated windows as bits 1 minute, 2 hour, 4 day
--   5 too many in flight   6 not enough credits
--   8 a repeat: then 11 the answer to tell again   9 the first call is still running   10 the key came with another
--   request   11 what became of the first call cannot be told again   13 the cap of the key: then 11 what it leaves
-- or {2} stale: a version has moved, decide again   or {3} cold: the account is not here in this epoch, load it
-- or {7} lost: the partition is in another epoch or in none, enter it   or {12} uncounted: what counts against the cap
-- is not known here, count it (`count.lua`)   or {14} closed: cold, and nothing is loaded yet, for gateways hand in what
-- they know of this epoch
--
-- Example: EVALSHA .. 3 {p07}:a:<uuid> {p07}:c {p07}:h <id> 12 3 1 1 50 2000 -1 -1 "gw1\t<head>" <epoch>
--
-- The state of an account is one packed field, so that a call reads and writes one small value:
--   clock ms (i8), balance (i8), in flight (i4), then per window: first bucket, last bucket, used in last, used (I4 each).
-- A window is a ring of 61 buckets, each 1/60 of its length. Only buckets that saw a call exist, each pointing at the
-- next one, so a bucket is written once, read once when it leaves, and no idle time is ever walked.
-- The state is longer than hash-max-listpack-value, so the account is a hash table and every field is found at once.
--
-- Where any key of the account has a cap, or had, a byte behind the state says so. Of each key that is counted the field
-- `k:<key>` names its budget, and `b:<budget>` is what was spent from it: start of the period in microseconds (i8), credits
-- charged or held by calls admitted since (i8), number of keys (I4). All calls of such a key are counted, whether or not it
-- has a cap now.
--
-- A claim whose call has neither ended nor a hold was swept, at no charge, and is free; `late.lua` then finds it taken. In
-- another epoch that proves nothing: the call may have ended where this server does not know of it.
--
-- Uses `openings.lua`.
--
-- Cost of an admission: 12.5 us of script time and 18 us of server CPU, 600 bytes of append-only file with a head of 330;
-- a refusal 15 us, 16 us and none. Valkey 9.1.2, 2-core VM: `python -m benchmarks.scripts_cost`.

local STEPS = 60
local STEP_MS = {1000, 60000, 1440000}
local RING = {'m', 'h', 'd'}
local STATE = '<i8i8i4I4I4I4I4I4I4I4I4I4I4I4I4'
local STATE_BYTES = 68
local BUCKET = '<I4I4'
local SPENT = '<i8i8I4'
local CREATED_AT_AND_KEY = '^[^\t]*\t[^\t]*\t(%d+)\t[^\t]*\t([^\t]*)'

local account = KEYS[1]
local found = redis.call('HMGET', account, 's', 'v', 'e')
local catalogue = redis.call('HMGET', KEYS[2], 'v', 'e')
if catalogue[2] ~= ARGV[11] then
  return {7}
end
if found[3] ~= ARGV[11] or not found[1] then
  return {is_closed(redis.call('HGET', KEYS[2], 'o'), now_ms()) and 14 or 3}
end
local function moved(here, decided)
  return here ~= decided and tonumber(here) > tonumber(decided)
end
if moved(found[2], ARGV[2]) or moved(catalogue[1], ARGV[3]) then
  return {2}
end

local cap = tonumber(ARGV[14])
local is_counting = #found[1] > STATE_BYTES
local budget, since, spent, keys
if is_counting then
  local created_at, key = string.match(ARGV[10], CREATED_AT_AND_KEY)
  local of_key = key and redis.call('HGET', account, 'k:' .. key)
  local counted = of_key and redis.call('HGET', account, 'b:' .. of_key)
  if counted then
    since, spent, keys = struct.unpack(SPENT, counted)
    budget = tonumber(created_at) >= since and of_key
  end
end
if cap and (budget ~= ARGV[15] or since ~= tonumber(ARGV[16]) or keys ~= tonumber(ARGV[17])) then
  return {12}
end

local s = {struct.unpack(STATE, found[1])}
local now = math.max(s[1], now_ms())

local writes = {}
local violated, retry_ms = 0, 0
local used, reset = {}, {}

-- The bucket after `bucket` in the chain, and what `bucket` counted.
local function closed_bucket(window, bucket)
  local count, following = struct.unpack(BUCKET, redis.call('HGET', account, RING[window] .. bucket % (STEPS + 1)))
  return count, following
end

-- Milliseconds until `excess` calls have left the window, or all of them have. `tip` is the newest bucket.
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

for window = 1, 3 do
  local at = window * 4
  local first, last, in_last, total = s[at], s[at + 1], s[at + 2], s[at + 3]
  local bucket = math.floor(now / STEP_MS[window])
  if bucket > last then
    if total > 0 and last >= bucket - STEPS then
      writes[#writes + 1] = RING[window] .. last % (STEPS + 1)
      writes[#writes + 1] = struct.pack(BUCKET, in_last, bucket)
      while first < bucket - STEPS do
        local count, following = closed_bucket(window, first)
        total = total - count
        first = following
      end
    else
      first, total = bucket, 0
    end
    last, in_last = bucket, 0
  end

  local limit = tonumber(ARGV[5 + window])
  if limit >= 0 and total >= limit then
    violated = violated + 2 ^ (window - 1)
    local wait = STEP_MS[window] * STEPS
    if total > 0 then
      -- A bucket closed just above is not in the ring yet, so the walk ends at it.
      wait = until_free(window, first, s[at + 1], total - limit + 1)
    end
    retry_ms = math.max(retry_ms, wait)
  end
  s[at], s[at + 1], s[at + 2], s[at + 3] = first, last, in_last + 1, total + 1
  used[window] = total
  reset[window] = math.ceil(((first + STEPS + 1) * STEP_MS[window] - now) / 1000)
end

local balance, in_flight = s[2], s[3]
local function reply(verdict, spent, counted)
  return {
    verdict, balance - spent,
    used[1] + counted, reset[1], used[2] + counted, reset[2], used[3] + counted, reset[3],
    math.ceil(retry_ms / 1000), violated,
  }
end

if KEYS[4] then
  local claim = redis.call('HMGET', KEYS[4], 'f', 'r', 'e', 'a')
  local answer = claim[4]
  if claim[1] and claim[1] ~= ARGV[12] then
    return reply(10, 0, 0)
  elseif answer and answer ~= '' then
    local again = reply(8, 0, 0)
    again[11] = answer
    return again
  elseif claim[1] and not answer and redis.call('HEXISTS', KEYS[3], claim[2]) == 1 then
    return reply(9, 0, 0)
  elseif answer or (claim[1] and claim[3] ~= ARGV[11]) then
    return reply(11, 0, 0)
  end
end
if violated > 0 then
  return reply(4, 0, 0)
end
local limit_in_flight = tonumber(ARGV[9])
if limit_in_flight >= 0 and in_flight >= limit_in_flight then
  return reply(5, 0, 0)
end
local required = tonumber(ARGV[5])
if required > 0 and balance < required then
  return reply(6, 0, 0)
end
if cap and required > 0 and cap - spent < required then
  local refused = reply(13, 0, 0)
  refused[11] = math.max(cap - spent, 0)
  return refused
end

local amount = tonumber(ARGV[4])
s[1], s[2], s[3] = now, balance - amount, in_flight + 1
writes[#writes + 1] = 's'
writes[#writes + 1] = struct.pack(STATE, unpack(s))
if is_counting then
  writes[#writes] = writes[#writes] .. string.sub(found[1], STATE_BYTES + 1)
  if budget then
    writes[#writes + 1] = 'b:' .. budget
    writes[#writes + 1] = struct.pack(SPENT, since, spent + amount, keys)
  end
end
if ARGV[2] ~= found[2] then
  writes[#writes + 1] = 'v'
  writes[#writes + 1] = ARGV[2]
end
redis.call('HSET', account, unpack(writes))
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4] .. '\t' .. ARGV[10])
if KEYS[4] then
  redis.call('HSET', KEYS[4], 'f', ARGV[12], 'r', ARGV[1], 'e', ARGV[11])
  redis.call('EXPIRE', KEYS[4], ARGV[13])
end
return reply(1, amount, 1)
