-- Ends one admitted call: removes its hold, charges what it cost, writes its record to the journal, with the balance that
-- this leaves behind it. Once.
--
-- A charge above the hold is taken in full and may take the balance below zero, or a key above its cap; it never goes
-- uncharged.
--
-- KEYS 1 account (hash)   2 holds (hash)   3 journal (stream)
--      4 swept (string), only from the sweeper, or claim (hash), only of a call with an Idempotency-Key
-- ARGV 1 request id       2 credits to charge   3 record tail   4 seconds for which to remember key 4
--      5 fingerprint   6 bytes of answers that an account may store in a day   7 answer, empty if it cannot be told
--        again, none if the claim is given up: all only with a claim
--
-- Reply: {1, balance, journal id}, or {0} if there is no such hold: it has been settled before, or Redis has lost it, and
-- nothing changes. Whoever holds the real settlement of a call then asks `late.lua` what has become of the hold.
-- Or {3}: Redis was lost, and another call has claimed the key meanwhile; only one of them may count. Nothing changes.
-- An account that went cold meanwhile is charged by its record alone; its balance is then none.
--
-- Cost: 7.2 us of script time and 12.8 us of server CPU, 800 bytes of append-only file with a record of 480.
-- Valkey 9.1.2, 2-core VM: `python -m benchmarks.scripts_cost`.
--
-- Uses `budgets.lua`.
--
-- Example: EVALSHA .. 3 {p07}:a:<uuid> {p07}:h {p07}:j <id> 1 "succeeded\t200\t.."

local STATE = '<i8i8i4'
local STATE_BYTES = 20
local STORED = '<I4I4' -- day, bytes of answers

local hold = redis.call('HGET', KEYS[2], ARGV[1])
if not hold then
  return {0}
end
local claimed_by = ARGV[5] and redis.call('HGET', KEYS[4], 'r')
local is_claimed = claimed_by and claimed_by ~= ARGV[1]
if is_claimed and ARGV[7] then
  return {3}
end
local held, head = string.match(hold, '^(%d+)\t[^\t]*\t(.*)$')
local balance, record = false, head .. '\t' .. ARGV[3]

local state = redis.call('HGET', KEYS[1], 's')
if state then
  local clock, before, in_flight = struct.unpack(STATE, state)
  balance = before + held - ARGV[2]
  -- What another epoch left behind may have counted fewer; nothing is admitted by it any more.
  local settled = struct.pack(STATE, clock, balance, math.max(in_flight - 1, 0)) .. string.sub(state, STATE_BYTES + 1)
  redis.call('HSET', KEYS[1], 's', settled)
  spend(KEYS[1], state, head, ARGV[2] - held)
  record = record .. string.format('\t%d', balance) -- `..` writes large numbers as 1e+15
end
redis.call('HDEL', KEYS[2], ARGV[1])
local entry = redis.call('XADD', KEYS[3], '*', 'r', record)
if KEYS[4] then
  if not ARGV[5] then
    redis.call('SET', KEYS[4], head, 'EX', ARGV[4])
  elseif not ARGV[7] then
    if not is_claimed then
      redis.call('DEL', KEYS[4])
    end
  else
    local today, answer = math.floor(redis.call('TIME')[1] / 86400), ARGV[7]
    local day, stored = struct.unpack(STORED, redis.call('HGET', KEYS[1], 'i') or struct.pack(STORED, today, 0))
    stored = (day == today and stored or 0) + #answer
    if stored > tonumber(ARGV[6]) then
      answer = ''
    elseif answer ~= '' then
      redis.call('HSET', KEYS[1], 'i', struct.pack(STORED, today, stored))
    end
    redis.call('HSET', KEYS[4], 'f', ARGV[5], 'r', ARGV[1], 'a', answer)
    redis.call('EXPIRE', KEYS[4], ARGV[4])
  end
end
return {1, balance, entry}
