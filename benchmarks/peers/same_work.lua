-- The gateway's work of a call that is priced by the call, as nginx does it: nginx.conf calls `access`, `content`, `log`.
--
-- The key's digest names the caller, whose account, limits and record columns this worker keeps. Redis runs the gateway's
-- own `admit.lua` and `settle.lua`, which reply in one line here: reading ten values takes this client ten reads. The
-- call is settled before its answer is sent, or with `settles_later` in batches behind it.

local redis = require "nginx.redis"
local settings = require "settings"
local callers = require "callers"

local ngx, concat, floor, format, match, find = ngx, table.concat, math.floor, string.format, string.match, string.find
local NULL, SHARED = "\\N", { share_all_vars = true }
local HOP_BY_HOP = { connection = true, ["keep-alive"] = true, ["transfer-encoding"] = true, upgrade = true,
                     ["content-length"] = true, te = true, trailer = true, ["proxy-connection"] = true }
local hop_by_hop = setmetatable({}, { __index = function(known, name)
  local is = HOP_BY_HOP[string.lower(name)] or false
  known[name] = is
  return is
end })
local BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }
local duration, overhead, counted = {}, {}, { settled = 0, credits = 0 }
local pending = {}

local M = {}

local function connected()
  local store = redis:new()
  store:set_timeout(1000)
  if not store:connect("127.0.0.1", settings.redis) then
    return nil
  end
  return store
end

local function label(value)
  if not value then
    return NULL
  end
  return find(value, "[%c\\]") and NULL or value
end

-- The columns of a record that are known at the admission (`policies/usage/records.py`).
local function record_prefix(caller, id, var)
  return concat({
    id, format("%.0f", ngx.now() * 1000000), caller.columns, settings.route_columns, 1, label(var.http_x_language_code),
    label(var.http_x_category), label(var.http_x_batch_id), var.remote_addr, label(var.http_x_request_id),
  }, "\t")
end

local function observe(histogram, seconds)
  local at = 1
  while BUCKETS[at] and seconds > BUCKETS[at] do
    at = at + 1
  end
  histogram[at] = (histogram[at] or 0) + 1
  histogram.sum = (histogram.sum or 0) + seconds
end

function M.access()
  local var = ngx.var
  local key = var.http_x_api_key
  local caller = key and callers[ngx.encode_base64(ngx.hmac_sha1("pepper", key))]
  if not caller then
    return ngx.exit(401)
  end
  local id, store = var.request_id, connected()
  local reply = store and store:evalsha(
    settings.admit, 3, caller.account, caller.catalogue, caller.holds, id, 1, 1, 1, 1, caller.minute, caller.hour,
    caller.day, -1, caller.owner .. record_prefix(caller, id, var), caller.epoch)
  if not reply then
    return ngx.exit(503)
  end
  local verdict, balance, minute, minute_reset, hour, hour_reset, day, day_reset = match(
    reply, "^(%d+) ?(%-?%d*) ?(%d*) ?(%d*) ?(%d*) ?(%d*) ?(%d*) ?(%d*)")
  if verdict ~= "1" then
    store:set_keepalive(60000, 256)
    return ngx.exit(verdict == "4" and 429 or verdict == "6" and 402 or 503)
  end
  local call = ngx.ctx
  call.caller, call.store, call.id, call.balance = caller, store, id, balance
  call.limits = format(caller.ratelimit, caller.minute - minute, minute_reset, caller.hour - hour, hour_reset,
    caller.day - day, day_reset)
  local trace = "00-" .. id .. "-" .. string.sub(id, 17) .. "-01"
  var.trace, var.user, var.key_id = trace, caller.user, caller.key
end

local function record_suffix(status, bytes, started, forwarded)
  local now = ngx.now()
  local elapsed, upstream = now - started, now - forwarded
  observe(duration, elapsed)
  observe(overhead, elapsed - upstream)
  counted.settled, counted.credits = counted.settled + 1, counted.credits + 1
  counted[status] = (counted[status] or 0) + 1
  return concat({
    "succeeded", status, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "none", 0, bytes, NULL,
    floor(elapsed * 1000), floor(upstream * 1000), NULL, NULL, NULL, NULL,
  }, "\t")
end

local function tell(header, call, balance)
  header["X-Request-Id"] = call.id
  header["X-Credits-Remaining"] = balance
  header["X-Credits-Charged"] = 1
  header["RateLimit-Policy"] = call.caller.policy
  header["RateLimit"] = call.limits
end

-- Forwards, settles, then answers.
function M.content()
  local call, forwarded = ngx.ctx, ngx.now()
  local answer = ngx.location.capture("/upstream" .. ngx.var.request_uri, SHARED)
  local caller, store = call.caller, call.store
  local suffix = record_suffix(answer.status, #answer.body, ngx.req.start_time(), forwarded)
  local reply = store:evalsha(settings.settle, 3, caller.account, caller.holds, caller.journal, call.id, 1, suffix)
  store:set_keepalive(60000, 256)
  if not reply then
    return ngx.exit(503)
  end
  local header = ngx.header
  for name, value in pairs(answer.header) do
    if not hop_by_hop[name] then
      header[name] = value
    end
  end
  tell(header, call, match(reply, "^%d+ (%-?%d+)"))
  header["Content-Length"] = #answer.body
  ngx.status = answer.status
  ngx.print(answer.body)
end

-- With `settles_later`: gives the connection back before forwarding, and the balance of the admission to the client.
function M.access_later()
  M.access()
  local call = ngx.ctx
  call.forwarded = ngx.now()
  call.store:set_keepalive(60000, 256)
end

function M.header_later()
  local call = ngx.ctx
  if call.caller then
    tell(ngx.header, call, call.balance)
  end
end

function M.log_later()
  local call = ngx.ctx
  if call.caller then
    local suffix = record_suffix(ngx.status, ngx.var.body_bytes_sent, ngx.req.start_time(), call.forwarded)
    pending[#pending + 1] = { call.caller, call.id, suffix }
  end
end

local function settle_pending()
  local batch = pending
  local store = #batch > 0 and connected()
  if not store then
    return
  end
  pending = {}
  store:init_pipeline(#batch)
  for _, each in ipairs(batch) do
    local caller = each[1]
    store:evalsha(settings.settle, 3, caller.account, caller.holds, caller.journal, each[2], 1, each[3])
  end
  if not store:commit_pipeline() then
    for _, each in ipairs(batch) do
      pending[#pending + 1] = each
    end
  end
  store:set_keepalive(60000, 256)
end

-- Nothing writes the journal to PostgreSQL, so it is cut here.
local function trim()
  local store = connected()
  for _, caller in pairs(callers) do
    store:xtrim(caller.journal, "MAXLEN", 10000)
  end
  store:set_keepalive(60000, 256)
end

function M.start()
  redis.add_commands("evalsha", "xtrim")
  ngx.timer.every(1, trim)
  if settings.settles_later then
    ngx.timer.every(0.01, settle_pending)
  end
end

return M
