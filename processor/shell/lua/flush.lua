-- Write all commands of a flush, if the store is as this writer left it.
--
-- KEYS[1]  P:meta
-- ARGV     owner, flush number and mark that this writer wrote last, the mark of this flush, msgpack of the commands
-- Returns  {'ok'}, {'again'} where this flush was written before and its answer got lost, or
--          {'lost', owner, flush number} as they stand.
local found = redis.call('HMGET', KEYS[1], 'owner', 'flush', 'mark')
local owner, flush, mark = found[1] or '', found[2] or '0', found[3] or ''
if owner == ARGV[1] and mark == ARGV[4] then
  return {'again'}
end
if owner ~= ARGV[1] or flush ~= ARGV[2] or mark ~= ARGV[3] then
  return {'lost', owner, flush}
end
for _, command in ipairs(cmsgpack.unpack(ARGV[5])) do
  redis.call(unpack(command))
end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'flush', tostring(tonumber(flush) + 1), 'mark', ARGV[4],
  'renewed', string.format('%d.%06d', now[1], now[2]))
return {'ok'}
