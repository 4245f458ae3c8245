-- Forgets the journal up to an id that PostgreSQL has committed, and notes that id for `load.lua`.
--
-- KEYS 1 journal (stream)   2 catalogue (hash)
-- ARGV 1 last id committed  2 the id after it
--
-- Reply: how many entries went. A lower id than before changes nothing, so writers may trim in any order.

local function parts(id)
  local milliseconds, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(milliseconds), tonumber(sequence)
end

local function is_after(id, other)
  local milliseconds, sequence = parts(id)
  local other_milliseconds, other_sequence = parts(other)
  if milliseconds ~= other_milliseconds then
    return milliseconds > other_milliseconds
  end
  return sequence > other_sequence
end

local trimmed = redis.call('HGET', KEYS[2], 't')
if not trimmed or is_after(ARGV[1], trimmed) then
  redis.call('HSET', KEYS[2], 't', ARGV[1])
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
