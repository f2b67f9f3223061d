-- Take leases of sources, or renew them: one that nobody has, that is the claimant's own, or that was not renewed in time.
--
-- KEYS[1]  P:leases
-- ARGV     the claimant, seconds after which a lease is free, ids of sources
-- Returns  for each source 1 where it is the claimant's now, else 0.
local now = tonumber(redis.call('TIME')[1])
local answers = {}
for i = 3, #ARGV do
  local found = redis.call('HGET', KEYS[1], ARGV[i])
  local space = found and string.find(found, ' ', 1, true)
  local holder = space and string.sub(found, space + 1)
  if not holder or holder == ARGV[1] or now - tonumber(string.sub(found, 1, space - 1)) > tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], ARGV[i], now .. ' ' .. ARGV[1])
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
