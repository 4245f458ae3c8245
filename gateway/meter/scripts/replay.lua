-- Settles a call of which this server may know nothing: it was admitted before Redis was lost, or while it was away.
--
-- The journal gets the whole record, marked as a correction, so PostgreSQL charges it unless it has it. Whether it has
-- is not known here, so the account goes cold, and its next call loads it from both.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)   4 journal (stream)
--      5 claim (hash), only of a call with an Idempotency-Key
-- ARGV 1 epoch that the caller has entered   2 request id   3 record
--      4 seconds for which to remember the claim   5 fingerprint   6 any answer, if there is one, which is not stored:
--        all only with a claim
--
-- Reply: id of the journal entry, or nil: another epoch has begun, or none. Or an empty one: another call has claimed the
-- key meanwhile, and only one of them may count. Nothing changes.

if redis.call('HGET', KEYS[2], 'e') ~= ARGV[1] then
  return false
end
if KEYS[5] then
  local claimed_by = redis.call('HGET', KEYS[5], 'r')
  local is_claimed = claimed_by and claimed_by ~= ARGV[2]
  if is_claimed and ARGV[6] then
    return ''
  elseif ARGV[6] then
    redis.call('HSET', KEYS[5], 'f', ARGV[5], 'r', ARGV[2])
    redis.call('HSETNX', KEYS[5], 'a', '')
    redis.call('EXPIRE', KEYS[5], ARGV[4])
  elseif not is_claimed then
    redis.call('DEL', KEYS[5])
  end
end
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[1], 's')
return redis.call('XADD', KEYS[4], '*', 'r', ARGV[3], 'k', 'c')
