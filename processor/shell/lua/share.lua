-- Say that an intake is there, and take or renew leases of its fair share of what may be read now.
--
-- KEYS     P:leases, P:members
-- ARGV     the intake, seconds after which a lease is free and a member gone, a digest of what the intake reads, ids of what may be
--          read now
-- Returns  {1 where another intake reads other sources, else 0; how many leases are a fair share}, then for each id 1 where it is the
--          intake's now, else 0.
local now = tonumber(redis.call('TIME')[1])
local seconds = tonumber(ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], now .. ' ' .. ARGV[3])
local members = redis.call('HGETALL', KEYS[2])
local living, other = 0, 0
for i = 1, #members, 2 do
  local space = string.find(members[i + 1], ' ', 1, true)
  local age = now - tonumber(string.sub(members[i + 1], 1, space - 1))
  if age <= seconds then
    living = living + 1
  end
  if age <= 60 and string.sub(members[i + 1], space + 1) ~= ARGV[3] then
    other = 1
  elseif age > 3600 then
    redis.call('HDEL', KEYS[2], members[i])
  end
end
local share = math.ceil((#ARGV - 3) / living)
local answers = {other, share}
local free, held = {}, 0
for i = 4, #ARGV do
  local found = redis.call('HGET', KEYS[1], ARGV[i])
  local space = found and string.find(found, ' ', 1, true)
  local holder = space and string.sub(found, space + 1)
  answers[i - 1] = 0
  if holder == ARGV[1] then
    held = held + 1
    answers[i - 1] = 1
  elseif not holder or now - tonumber(string.sub(found, 1, space - 1)) > seconds then
    free[#free + 1] = i
  end
end
for _, i in ipairs(free) do
  if held >= share then
    break
  end
  held = held + 1
  answers[i - 1] = 1
end
for i = 4, #ARGV do
  if answers[i - 1] == 1 then
    redis.call('HSET', KEYS[1], ARGV[i], now .. ' ' .. ARGV[1])
  end
end
return answers
