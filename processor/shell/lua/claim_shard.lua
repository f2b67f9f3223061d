-- Become the owner of one shard in Kafka mode, or stay it in a newer generation.
--
-- A claim needs a higher number than the stored one, of the same cluster and group, or an owner that has been silent.
--
-- Nor is a shard given away while a living process holds the whole store, as one does that takes it out of Kafka mode.
--
-- KEYS     P:{N}:meta, P:meta
-- ARGV     the layout that the claimant writes, cluster, group, generation, member, seconds after which an owner of the shard is
--          held to be dead, and one of the whole store
-- Returns  {'ok', owner, flush number, mark}, {'held', owner}, or {'layout', layout}.
local found = redis.call('HMGET', KEYS[1], 'owner', 'renewed', 'layout', 'cluster', 'group', 'number', 'flush', 'mark')
if found[3] and found[3] ~= ARGV[1] then
  return {'layout', found[3]}
end
local now = redis.call('TIME')
local owner = 'kafka ' .. ARGV[4] .. ' ' .. ARGV[5]
local whole = redis.call('HMGET', KEYS[2], 'owner', 'renewed')
if whole[1] and string.sub(whole[1], 1, 8) == 'embedded' and tonumber(now[1]) - tonumber(whole[2] or '0') <= tonumber(ARGV[7]) then
  return {'held', whole[1]}
end
local age = tonumber(now[1]) - tonumber(found[2] or '0')
if age <= tonumber(ARGV[6]) and found[1] ~= owner then
  local same = found[4] == ARGV[2] and found[5] == ARGV[3]
  if same and tonumber(ARGV[4]) <= tonumber(found[6] or '-1') or found[1] and not same then
    return {'held', found[1] or ''}
  end
end
redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'owner', owner, 'cluster', ARGV[2], 'group', ARGV[3], 'number', ARGV[4],
  'renewed', string.format('%d.%06d', now[1], now[2]))
redis.call('HDEL', KEYS[1], 'drained')
return {'ok', owner, found[7] or '0', found[8] or ''}
