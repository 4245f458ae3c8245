-- Library: the clock of the server, and the time after the start of an epoch in which gateways replay what they know.

local MAX_WINDOW_MS = 5000 -- a longer wait comes from a clock that was set back
local MAX_LEAD_MS = 60000 -- by which the clock of an account may be ahead of the server's

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether gateways still replay; `opens_at` is the moment that `enter_epoch.lua` stored.
local function is_replaying(opens_at, now)
  local opens_in = tonumber(opens_at or 0) - now
  return opens_in > 0 and opens_in <= MAX_WINDOW_MS
end

