-- Reads what a partition remembers of some of its accounts, all at one instant. Writes nothing.
--
-- KEYS 1 holds (hash)   2 journal (stream)   3.. accounts (hashes)
--
-- Reply: {id of the newest journal entry or nil, {every hold of the partition}, then for each account
--   {state or nil, credit sequence or nil, corrections so far or nil}}
--
-- The holds are as many as calls are running. The journal may be long, so it is left to be read in pages up to the id.

local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local reply = {newest and newest[1] or false, redis.call('HVALS', KEYS[1])}
for number = 3, #KEYS do
  reply[number] = redis.call('HMGET', KEYS[number], 's', 'c', 'n')
end
return reply
