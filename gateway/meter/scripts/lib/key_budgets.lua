-- Library: counts what keys spend from their budgets. Uses `prefixes.lua`.

-- Adds credits to the budget of the key that a prefix names, if the account counts it and the call is of its period.
-- Costs an account without budgets one comparison.
local function spend(account, state, prefix, credits)
  if #state <= STATE_BYTES then -- HAS_BUDGETS is missing
    return
  end
  local created_at, key = string.match(prefix, '^[^\t]*\t(%d+)\t[^\t]*\t([^\t]*)')
  local budget = key and redis.call('HGET', account, KEY_PREFIX .. key)
  local counted = budget and redis.call('HGET', account, BUDGET_PREFIX .. budget)
  if not counted then
    return
  end
  local since, spent = struct.unpack(BUDGET_START, counted)
  if tonumber(created_at) >= since then
    local packed = struct.pack(BUDGET_START, since, spent + credits) .. string.sub(counted, AFTER_SPENT)
    redis.call('HSET', account, BUDGET_PREFIX .. budget, packed)
  end
end

