-- Become the owner of a store, if it is still in the state that the claimant saw.
--
-- KEYS[1]  P:meta
-- ARGV     owner and renewal time that were seen ('' for none), the layout that the claimant writes, its mode and member
-- Returns  {'ok', owner, flush number, mark}, {'raced'} where somebody was faster, or {'layout', layout}.
local found = redis.call('HMGET', KEYS[1], 'owner', 'renewed', 'layout', 'number', 'flush', 'mark')
if (found[1] or '') ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then
  return {'raced'}
end
if found[3] and found[3] ~= ARGV[3] then
  return {'layout', found[3]}
end
local number = tostring(tonumber(found[4] or '0') + 1)
local owner = ARGV[4] .. ' ' .. number .. ' ' .. ARGV[5]
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'layout', ARGV[3], 'shards', '64', 'owner', owner, 'number', number,
  'renewed', string.format('%d.%06d', now[1], now[2]))
return {'ok', owner, found[5] or '0', found[6] or ''}
