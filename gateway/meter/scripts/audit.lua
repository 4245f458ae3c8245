-- Reads what a partition remembers of some of its accounts, all at one instant. Writes nothing.
--
-- KEYS 1 holds (hash)   2 journal (stream)   3 catalogue (hash)   4.. accounts (hashes)
--
-- Reply: {id of the newest journal entry or nil, {every hold of the partition}, then for each account
--   {state or nil, credit sequence or nil, corrections so far or nil}}
-- An account of another epoch is as good as none, so its state is nil.
--
-- The holds are as many as calls are running. The journal may be long, so it is left to be read in pages up to the id.

local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local reply = {newest and newest[1] or false, redis.call('HVALS', KEYS[1])}
local epoch = redis.call('HGET', KEYS[3], 'e')
for number = 4, #KEYS do
  local account = redis.call('HMGET', KEYS[number], 's', 'c', 'n', 'e')
  reply[number - 1] = {epoch and account[4] == epoch and account[1], account[2], account[3]}
end
return reply
