-- Library: names the version of a record whose prefix another release may have written (`policies/usage/records.py`).

-- The field of a journal entry, and the prefix without the mark that names its version.
local function field_and_prefix(prefix)
  if string.byte(prefix) ~= 47 then -- a slash; version 1 has no mark
    return UNMARKED_RECORD_FIELD, prefix
  end
  local version, unmarked = string.match(prefix, '^/(%d+)\t(.*)$')
  return 'r' .. version .. '.' .. SUFFIX_VERSION, unmarked
end

