-- Settles a call of which this server may know nothing: it was admitted before Redis was lost, or while it was away.
--
-- The journal gets the whole record, marked as a correction, so PostgreSQL charges it unless it has it. Whether it has
-- is not known here, so the account goes cold, and its next call loads it from both.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)   4 journal (stream)
-- ARGV 1 epoch that the caller has entered   2 request id   3 record
--
-- Reply: id of the journal entry, or nil: another epoch has begun, or none.

if redis.call('HGET', KEYS[2], 'e') ~= ARGV[1] then
  return false
end
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[1], 's')
return redis.call('XADD', KEYS[4], '*', 'r', ARGV[3], 'k', 'c')
