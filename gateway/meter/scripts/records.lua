-- Reads journal ids and records: functions for the scripts that count what the journal and holds say.

local CREATED_AT, USER_ID, KEY_ID, CREDITS = 2, 3, 4, 20 -- columns of a record (`policies/usage/records.py`)
local MAX_ENTRIES = 500 -- newer than what the caller has counted; with more it counts on first

local function is_past(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or (ms == other_ms and tonumber(seq) > tonumber(other_seq))
end

local function columns(record)
  local found = {}
  for column in string.gmatch(record .. '\t', '([^\t]*)\t') do
    found[#found + 1] = column
  end
  return found
end

