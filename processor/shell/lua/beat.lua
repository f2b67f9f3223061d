-- Show that a store's owner lives, between two flushes.
--
-- KEYS[1]  P:meta
-- ARGV     the owner that says so
-- Returns  1, or 0 where another one has the store.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'renewed', string.format('%d.%06d', now[1], now[2]))
return 1
