"""The Lua scripts of the shared storage. Each runs inside Redis, so each count is atomic.

Times are in microseconds on Redis's own clock, so that instances with different clocks agree.
"""

# KEYS: a list of times, oldest first. ARGV: limit, window, amount.
# Returns allowed (0 or 1), remaining, reset_after, retry_after.
HIT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local limit, window, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
while oldest and oldest <= now - window do
  redis.call('LPOP', KEYS[1])
  oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
end
local used = redis.call('LLEN', KEYS[1])
if used + amount > limit then
  local last = tonumber(redis.call('LINDEX', KEYS[1], math.min(used + amount - limit, used) - 1))
  local wait = last and (last + window - now) or window
  return {0, math.max(0, limit - used), oldest and (oldest + window - now) or 0, wait}
end
for _ = 1, amount do redis.call('RPUSH', KEYS[1], string.format('%.0f', now)) end
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return {1, limit - used - amount, (oldest or now) + window - now, 0}
"""

# KEYS: lists of times. ARGV: limit and window of each. Counts one hit in every list if it fits into
# all, else in none. Returns four numbers for each, as above; the last four are of the full list.
HIT_ALL = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local answer = {}
for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local oldest = tonumber(redis.call('LINDEX', key, 0))
  while oldest and oldest <= now - window do
    redis.call('LPOP', key)
    oldest = tonumber(redis.call('LINDEX', key, 0))
  end
  local used = redis.call('LLEN', key)
  local reset = (oldest or now) + window - now
  if used >= limit then
    local last = tonumber(redis.call('LINDEX', key, used - limit))
    for _, value in ipairs({0, 0, reset, last and (last + window - now) or window}) do
      answer[#answer + 1] = value
    end
    return answer
  end
  for _, value in ipairs({1, limit - used - 1, reset, 0}) do answer[#answer + 1] = value end
end
for i, key in ipairs(KEYS) do
  redis.call('RPUSH', key, string.format('%.0f', now))
  redis.call('PEXPIRE', key, math.ceil(tonumber(ARGV[2 * i]) / 1000))
end
return answer
"""

# KEYS: a list of times. ARGV: window. Returns the age of the oldest hit, and the number of hits.
PEEK = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
while oldest and oldest <= now - tonumber(ARGV[1]) do
  redis.call('LPOP', KEYS[1])
  oldest = tonumber(redis.call('LINDEX', KEYS[1], 0))
end
return {oldest and (now - oldest) or 0, redis.call('LLEN', KEYS[1])}
"""

# KEYS: sorted set hold -> time; hash hold -> amount, with the total under ''.
# ARGV: limit, window, amount, hold. Returns 0, or the wait.
RESERVE = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local limit, window, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- If one of the two was evicted, the other alone would count holds for ever, or none.
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 1 then redis.call('DEL', KEYS[1], KEYS[2]) end
local expired = string.format('%.0f', now - window)
for _, hold in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', expired)) do
  redis.call('HINCRBY', KEYS[2], '', -tonumber(redis.call('HGET', KEYS[2], hold) or '0'))
  redis.call('HDEL', KEYS[2], hold)
  redis.call('ZREM', KEYS[1], hold)
end
local total = tonumber(redis.call('HGET', KEYS[2], '') or '0')
local excess = total + amount - limit
if excess > 0 then
  local held = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
  for i = 1, #held, 2 do
    excess = excess - tonumber(redis.call('HGET', KEYS[2], held[i]) or '0')
    if excess <= 0 then return math.max(1, tonumber(held[i + 1]) + window - now) end
  end
  return window
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[4])
redis.call('HSET', KEYS[2], ARGV[4], ARGV[3])
redis.call('HINCRBY', KEYS[2], '', ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
redis.call('PEXPIRE', KEYS[2], math.ceil(window / 1000))
return 0
"""

# KEYS: as above. ARGV: hold, amount. Returns 0.
SETTLE = """
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held then
  redis.call('HINCRBY', KEYS[2], '', tonumber(ARGV[2]) - tonumber(held))
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
return 0
"""
