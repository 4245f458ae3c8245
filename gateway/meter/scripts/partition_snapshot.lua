-- Reads some accounts of a partition and all of its holds at one instant. Writes nothing.
--
-- KEYS holds (hash), journal (stream), catalogue (hash), then the accounts (hashes)
--
-- Reply: {id of the newest journal entry or nil, {every hold line of the partition}, then for each account
--   {state or nil, credit sequence or nil, corrections so far or nil}}
-- The state of an account of another epoch is nil.
--
-- There are as many holds as calls under way. The journal may be long, so the caller reads it in pages, up to the id.

local holds, journal, catalogue = unpack(KEYS)
local NAMED_KEYS = 3

local newest = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)[1]
local reply = {newest and newest[1] or false, redis.call('HVALS', holds)}
local epoch = redis.call('HGET', catalogue, EPOCH_FIELD)
for number = NAMED_KEYS + 1, #KEYS do
  local account = redis.call('HMGET', KEYS[number], STATE_FIELD, CREDIT_SEQ_FIELD, CORRECTIONS_FIELD, EPOCH_FIELD)
  reply[#reply + 1] = {epoch and account[4] == epoch and account[1], account[2], account[3]}
end
return reply
