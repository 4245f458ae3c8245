-- Adds a difference that was found to an account's balance. Once: each correction says how many there were before it.
--
-- KEYS 1 account (hash)
-- ARGV 1 credits to add, signed         2 corrections so far   3 credit sequence, both as `audit.lua` gave them
--      4 credit sequence from now on: all of PostgreSQL's changes up to it are in the balance after this
--
-- Reply: 1 corrected, 0 not, because the account is cold, was corrected or took a change since: audit it again.
-- Admissions and settlements in between do no harm, for they move credits between balance, holds and journal only.

local account = redis.call('HMGET', KEYS[1], 's', 'n', 'c')
if not account[1] or (account[2] or '0') ~= ARGV[2] or (account[3] or '0') ~= ARGV[3] then
  return 0
end
local clock, balance = struct.unpack('<i8i8', account[1])
local corrected = struct.pack('<i8i8', clock, balance + ARGV[1]) .. string.sub(account[1], 17)
redis.call('HSET', KEYS[1], 's', corrected, 'c', ARGV[4], 'n', ARGV[2] + 1)
return 1
