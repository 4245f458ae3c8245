-- Forgets journal entries that PostgreSQL has, and notes up to where, so that a load that counted without them reads again.
--
-- KEYS 1 catalogue (hash)   2 journal (stream)
-- ARGV 1 epoch in which the entries were read, or empty: none had begun
--      2 id of the last entry to forget   3 the id after it
--
-- Reply: 1 forgotten, 0 another epoch has begun: what is in the journal now may be something else.

if (redis.call('HGET', KEYS[1], 'e') or '') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 't', ARGV[2])
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[3])
return 1
