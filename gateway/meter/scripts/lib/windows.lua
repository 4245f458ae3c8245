-- Library: walks the ring of a rate limit window. `gateway/meter/layout.py` describes the state of an account.

-- The minute's last step may have a second to go after the minute. Nobody is told of it: client libraries sleep out a
-- minute and no more, and one that comes back within that second is told to wait for one.
local MAX_MINUTE_SECONDS = 60

-- How many calls a closed bucket counted, and the next bucket that counted any.
local function closed_bucket(account, window, bucket)
  return struct.unpack(BUCKET, redis.call('HGET', account, RINGS[window] .. bucket % (STEPS + 1)))
end

-- Milliseconds until `excess` calls have left the window, or all of them have. The walk ends at the bucket `last`.
local function until_free(account, now, window, first, last, excess)
  local bucket = first
  while excess > 0 and bucket < last do
    local count, following = closed_bucket(account, window, bucket)
    excess = excess - count
    if excess > 0 then
      bucket = following
    end
  end
  return (bucket + STEPS + 1) * STEP_MS[window] - now
end

