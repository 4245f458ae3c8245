-- Tells whether gateways still hand in what they know of a new epoch: functions for the scripts that wait for it.

local MAX_PATIENCE_MS = 5000 -- what is further off comes of a clock that was set back

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- `opens` is when it ends, as `enter.lua` has noted it.
local function is_closed(opens, now)
  local opens_in = tonumber(opens or 0) - now
  return opens_in > 0 and opens_in <= MAX_PATIENCE_MS
end

