-- Keeps count of what keys have spent, as `admit.lua` explains it: a function for the scripts that charge.

-- Adds credits to the budget of the key that a record's head names, where the account counts it and the call is of the
-- period. Costs an account without counters one comparison.
local function spend(account, state, head, credits)
  if #state <= 68 then -- no byte behind the state
    return
  end
  local created_at, key = string.match(head, '^[^\t]*\t(%d+)\t[^\t]*\t([^\t]*)')
  local budget = key and redis.call('HGET', account, 'k:' .. key)
  local counted = budget and redis.call('HGET', account, 'b:' .. budget)
  if not counted then
    return
  end
  local since, spent = struct.unpack('<i8i8', counted)
  if tonumber(created_at) >= since then
    redis.call('HSET', account, 'b:' .. budget, struct.pack('<i8i8', since, spent + credits) .. string.sub(counted, 17))
  end
end

