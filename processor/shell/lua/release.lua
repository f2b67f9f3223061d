-- Give up a store, so that the next writer need not wait.
--
-- KEYS[1]  P:meta
-- ARGV     the owner that gives it up
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  return redis.call('HDEL', KEYS[1], 'owner', 'renewed')
end
return 0
