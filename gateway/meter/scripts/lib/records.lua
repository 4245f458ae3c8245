-- Library: reads journal ids, records and their versions (`policies/usage/records.py`).

local MAX_ENTRIES = 500 -- that a load counts; where PostgreSQL is further behind, the caller counts on first

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

-- The columns of a record prefix, without the mark that names its version.
local function prefix_columns(prefix)
  return columns(string.match(prefix, '^/%d+\t(.*)$') or prefix)
end

-- What a journal entry charges, by its columns; nil if a newer release wrote its prefix, whose length is unknown here.
local function credits_of(field, found)
  local length = PREFIX_LENGTHS[tonumber(string.match(field, '^r(%d+)%.%d+$') or 1)]
  return length and (tonumber(found[length + CREDITS_IN_SUFFIX]) or 0)
end

