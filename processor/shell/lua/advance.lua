-- Move an intake's sources on, with what it counted on the way, once their uses are acknowledged: all of it or nothing.
--
-- KEYS     P:leases, P:files, P:intakes, P:meta, P:accounts
-- ARGV     the intake, the mark of its last advance ('' for none), the mark of this one, msgpack of the moves
--          ({lease, name, position expected, position, '1' where the lease ends}), of commands (which add to counters), of
--          {account, time of its first record} pairs, and of {newest, second newest}, the times of records; the newest mark, of
--          whichever intake, that this one has seen ('' for none)
-- Returns  {'ok'}, {'again'} where this was written before and its answer got lost, or {'lost', why}.
local mark = redis.call('HGET', KEYS[3], ARGV[1]) or ''
if mark == ARGV[3] then
  return {'again'}
end
if mark ~= ARGV[2] then
  return {'lost', 'Redis came back older'}
end
local marks = redis.call('HGET', KEYS[3], '#') or ''
if ARGV[8] ~= '' and not string.find(marks, ARGV[8], 1, true) then
  return {'lost', 'Redis came back older'}
end
if string.sub(redis.call('HGET', KEYS[4], 'owner') or '', 1, 8) == 'embedded' then
  return {'lost', 'another process holds the whole store'}
end
local moves = cmsgpack.unpack(ARGV[4])
for _, move in ipairs(moves) do
  local found = redis.call('HGET', KEYS[1], move[1]) or ''
  if string.sub(found, (string.find(found, ' ', 1, true) or 0) + 1) ~= ARGV[1] then
    return {'lost', 'another intake has the lease of a source'}
  end
  if (redis.call('HGET', KEYS[2], move[2]) or '') ~= move[3] then
    return {'lost', 'a source is not where it was left'}
  end
end
local now = tonumber(redis.call('TIME')[1])
for _, move in ipairs(moves) do
  redis.call('HSET', KEYS[2], move[2], move[4])
  if move[5] == '1' then
    redis.call('HDEL', KEYS[1], move[1])
  else
    redis.call('HSET', KEYS[1], move[1], now .. ' ' .. ARGV[1])
  end
end
for _, command in ipairs(cmsgpack.unpack(ARGV[5])) do
  redis.call(unpack(command))
end
for _, first in ipairs(cmsgpack.unpack(ARGV[6])) do
  local before = redis.call('HGET', KEYS[5], first[1])
  if not before or tonumber(first[2]) < tonumber(before) then
    redis.call('HSET', KEYS[5], first[1], first[2])
  end
end
local times = redis.call('HMGET', KEYS[4], 'newest', 'second_newest')
local newest, second = tonumber(times[1] or '0'), tonumber(times[2] or '0')
for _, time in ipairs(cmsgpack.unpack(ARGV[7])) do
  time = tonumber(time)
  if time > newest then
    newest, second = time, newest
  elseif time > second and time ~= newest then
    second = time
  end
end
-- The mode, too: a Redis that came back from before the store was divided must not be divided again.
redis.call('HSET', KEYS[4], 'mode', 'kafka', 'newest', string.format('%.0f', newest), 'second_newest', string.format('%.0f', second))
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3], '#', string.sub(ARGV[3] .. marks, 1, 4096))
return {'ok'}
