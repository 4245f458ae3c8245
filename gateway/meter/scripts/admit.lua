-- Admits one call, or refuses it and changes nothing.
--
-- Checks in this order: the epoch of the partition, the versions that the caller decided on, the Idempotency-Key, the
-- minute, hour and day windows, calls in flight, credits, the budget of the key. All checks precede the first write, so a
-- refusal of any kind leaves every counter where it was.
--
-- KEYS account, catalogue, holds (hashes), claim (hash, only for a call with an Idempotency-Key)
-- ARGV request_id
--      account_version, catalogue_version    that the caller decided on
--      amount             credits to hold
--      least_balance      that the call needs: below 0 where the plan allows an overage, far below for a free call
--      limit_minute, limit_hour, limit_day, limit_in_flight    -1 for none
--      owner_and_prefix   owner, tab, record prefix: what the hold line says behind its amount
--      epoch              that the caller has entered (`enter_epoch.lua`)
--      fingerprint, claim_seconds    of the request, and how long the claim lasts: only with a claim, else empty
--      budget_credits, budget_id, budget_since, budget_keys, budget_required    only for a key with a budget: what it may
--                         spend, the start of the period in microseconds, how many keys spend from it, and what the call
--                         must leave of it, 0 for a free call
--
-- Reply: {verdict, balance, used and reset seconds of minute, hour, day, retry after seconds, violated windows as bits
--   1 minute, 2 hour, 4 day}; the balance of ADMITTED is without the hold. Behind them comes with IDEMPOTENT_REPLAY the
--   stored response, with KEY_BUDGET_EXHAUSTED what the budget still allows.
-- Or {verdict} alone: STALE a version has moved, decide again   NOT_LOADED load the account   WRONG_EPOCH the partition is
--   in another epoch or in none, enter it   BUDGET_NOT_LOADED load what the keys spent (`load_key_budget.lua`)
--   EPOCH_NOT_OPEN nothing is loaded yet, since gateways still replay what they know
--
-- Example: EVALSHA .. 3 {p07}:a:<uuid> {p07}:c {p07}:h <id> 12 3 1 1 50 2000 -1 -1 "gw1\t<prefix>" <epoch>
--
-- The state of an account is one packed value, so a call reads and writes one small field. `gateway/meter/layout.py`
-- describes it. A window is a ring of 61 buckets, each 1/60 of its length. Only buckets that counted a call exist, and
-- each names the next one: a bucket is written once and read once when it leaves the window, and idle time costs nothing.
-- The state is longer than hash-max-listpack-value, so the account is a hash table and Redis finds every field at once.
--
-- Time never runs backwards within an account, but for a clock that was set back by more than a minute: then the account is
-- unloaded.
--
-- A claim whose call has neither ended nor a hold was swept without a charge, and is free; `late_settlement.lua` then finds
-- it taken. In another epoch a missing hold proves nothing: the call may have ended unknown to this server.
--
-- Uses `replay_window.lua` and `windows.lua`.
--
-- Cost of an admission: 12.5 us of script time and 18 us of server CPU, 600 bytes of append-only file with a prefix of 330;
-- a refusal 15 us, 16 us and none. Valkey 9.1.2, 2-core VM: `python -m benchmarks.scripts_cost`.

local account, catalogue, holds, claim = unpack(KEYS)
local request_id, account_version, catalogue_version, amount, least_balance, limit_minute, limit_hour, limit_day,
  limit_in_flight, owner_and_prefix, epoch, fingerprint, claim_seconds, budget_credits, budget_id, budget_since,
  budget_keys, budget_required = unpack(ARGV)

local found = redis.call('HMGET', account, STATE_FIELD, VERSION_FIELD, EPOCH_FIELD)
local shared = redis.call('HMGET', catalogue, VERSION_FIELD, EPOCH_FIELD)
if shared[2] ~= epoch then
  return {WRONG_EPOCH}
end
if found[3] ~= epoch or not found[1] then
  return {is_replaying(redis.call('HGET', catalogue, OPENS_AT_FIELD), now_ms()) and EPOCH_NOT_OPEN or NOT_LOADED}
end
local function is_newer(here, decided_on)
  return here ~= decided_on and tonumber(here) > tonumber(decided_on)
end
if is_newer(found[2], account_version) or is_newer(shared[1], catalogue_version) then
  return {STALE}
end

local credits_of_key = tonumber(budget_credits)
local has_budgets = #found[1] > STATE_BYTES
local budget, since, spent, keys
if has_budgets then
  local pattern = '^[^\t]*\t' .. PREFIX_MARK .. '[^\t]*\t(%d+)\t[^\t]*\t([^\t]*)'
  local created_at, key = string.match(owner_and_prefix, pattern)
  local of_key = key and redis.call('HGET', account, KEY_PREFIX .. key)
  local counted = of_key and redis.call('HGET', account, BUDGET_PREFIX .. of_key)
  if counted then
    since, spent, keys = struct.unpack(BUDGET, counted)
    budget = tonumber(created_at) >= since and of_key
  end
end
if credits_of_key
  and (budget ~= budget_id or since ~= tonumber(budget_since) or keys ~= tonumber(budget_keys)) then
  return {BUDGET_NOT_LOADED}
end

local s = {struct.unpack(STATE, found[1])}
local now = now_ms()
if s[1] > now then
  if s[1] - now > MAX_LEAD_MS then
    -- The server's clock was set back. The windows would stand still for as long; a load counts the calls of the last day
    -- by the clocks of the gateways.
    redis.call('HDEL', account, STATE_FIELD)
    return {NOT_LOADED}
  end
  now = s[1]
end
local limits = {tonumber(limit_minute), tonumber(limit_hour), tonumber(limit_day)}
local writes = {}
local violated, retry_ms = 0, 0
local used, reset = {}, {}

for window = 1, 3 do
  local at = window * 4
  local first, last, in_last, total = s[at], s[at + 1], s[at + 2], s[at + 3]
  local bucket = math.floor(now / STEP_MS[window])
  if bucket > last then
    if total > 0 and last >= bucket - STEPS then
      writes[#writes + 1] = RINGS[window] .. last % (STEPS + 1)
      writes[#writes + 1] = struct.pack(BUCKET, in_last, bucket)
      while first < bucket - STEPS do
        local count, following = closed_bucket(account, window, first)
        total = total - count
        first = following
      end
    else
      first, total = bucket, 0
    end
    last, in_last = bucket, 0
  end

  local limit = limits[window]
  if limit >= 0 and total >= limit then
    violated = violated + 2 ^ (window - 1)
    local wait = STEP_MS[window] * STEPS
    if total > 0 then
      -- A bucket that was closed just above is not in the ring yet, so the walk ends at it.
      wait = until_free(account, now, window, first, s[at + 1], total - limit + 1)
    end
    if window == 1 then
      wait = math.min(wait, MAX_MINUTE_SECONDS * 1000)
    end
    retry_ms = math.max(retry_ms, wait)
  end
  s[at], s[at + 1], s[at + 2], s[at + 3] = first, last, in_last + 1, total + 1
  used[window] = total
  reset[window] = math.ceil(((first + STEPS + 1) * STEP_MS[window] - now) / 1000)
end
if reset[1] > MAX_MINUTE_SECONDS then
  reset[1] = MAX_MINUTE_SECONDS
end

local balance, in_flight = s[2], s[3]
local function reply(verdict, held, counted)
  return {
    verdict, balance - held,
    used[1] + counted, reset[1], used[2] + counted, reset[2], used[3] + counted, reset[3],
    math.ceil(retry_ms / 1000), violated,
  }
end
local function refuse(verdict, detail)
  local refused = reply(verdict, 0, 0)
  refused[#refused + 1] = detail
  return refused
end

if claim then
  local claimed = redis.call('HMGET', claim, FINGERPRINT_FIELD, REQUEST_ID_FIELD, EPOCH_FIELD, RESPONSE_FIELD)
  local response = claimed[4]
  if claimed[1] and claimed[1] ~= fingerprint then
    return refuse(KEY_REUSED)
  elseif response and response ~= '' then
    return refuse(IDEMPOTENT_REPLAY, response)
  elseif claimed[1] and not response and redis.call('HEXISTS', holds, claimed[2]) == 1 then
    return refuse(IN_PROGRESS)
  elseif response or (claimed[1] and claimed[3] ~= epoch) then
    return refuse(NOT_REPLAYABLE)
  end
end
if violated > 0 then
  return refuse(RATE_LIMITED)
end
local in_flight_limit = tonumber(limit_in_flight)
if in_flight_limit >= 0 and in_flight >= in_flight_limit then
  return refuse(TOO_MANY_IN_FLIGHT)
end
if balance < tonumber(least_balance) then
  return refuse(INSUFFICIENT_CREDITS)
end
if credits_of_key then
  local needed = tonumber(budget_required)
  if needed > 0 and credits_of_key - spent < needed then
    return refuse(KEY_BUDGET_EXHAUSTED, math.max(credits_of_key - spent, 0))
  end
end

local held = tonumber(amount)
s[1], s[2], s[3] = now, balance - held, in_flight + 1
writes[#writes + 1] = STATE_FIELD
writes[#writes + 1] = struct.pack(STATE, unpack(s))
if has_budgets then
  writes[#writes] = writes[#writes] .. string.sub(found[1], STATE_BYTES + 1)
  if budget then
    writes[#writes + 1] = BUDGET_PREFIX .. budget
    writes[#writes + 1] = struct.pack(BUDGET, since, spent + held, keys)
  end
end
if account_version ~= found[2] then
  writes[#writes + 1] = VERSION_FIELD
  writes[#writes + 1] = account_version
end
redis.call('HSET', account, unpack(writes))
redis.call('HSET', holds, request_id, amount .. '\t' .. owner_and_prefix)
if claim then
  redis.call('HSET', claim, FINGERPRINT_FIELD, fingerprint, REQUEST_ID_FIELD, request_id, EPOCH_FIELD, epoch)
  redis.call('EXPIRE', claim, claim_seconds)
end
return reply(ADMITTED, held, 1)
