-- Library: drops what an account has of an epoch that has ended, before something of the present one is stored.

-- An account that only has versions and the like is not loaded: its state is missing.
local function begin_account_epoch(account, epoch)
  if (redis.call('HGET', account, EPOCH_FIELD) or '') ~= epoch then
    redis.call('HDEL', account, STATE_FIELD, VERSION_FIELD, CREDIT_SEQ_FIELD)
    redis.call('HSET', account, EPOCH_FIELD, epoch)
  end
end

