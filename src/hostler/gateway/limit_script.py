"""The rules of `decide.limits` as scripts that Redis runs.

Five keys a subject: for requests and for tokens a hash of amounts by grain, with their sum, and a sorted set of the
grains; and the leases of requests under way, by when they run out.
"""

from __future__ import annotations

_COMMON = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local window, grain_ms, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local grain = math.floor(now / grain_ms)
local subjects = #KEYS / 5

-- KEYS of subject s: sum and amounts of requests, its grains, the same of tokens, leases.
local function expire(amounts, grains)
  local oldest = math.floor((now - window) / grain_ms) - 1
  local gone = redis.call('ZRANGEBYSCORE', grains, '-inf', oldest)
  for _, one in ipairs(gone) do
    local amount = tonumber(redis.call('HGET', amounts, one) or '0')
    redis.call('HINCRBY', amounts, 'sum', -amount)
    redis.call('HDEL', amounts, one)
  end
  if #gone > 0 then redis.call('ZREMRANGEBYSCORE', grains, '-inf', oldest) end
  return tonumber(redis.call('HGET', amounts, 'sum') or '0')
end

local function take(amounts, grains, amount)
  redis.call('HINCRBY', amounts, 'sum', amount)
  redis.call('HINCRBY', amounts, grain, amount)
  redis.call('ZADD', grains, grain, grain)
  redis.call('PEXPIRE', amounts, 2 * window)
  redis.call('PEXPIRE', grains, 2 * window)
end

-- Milliseconds until `over` of what counts has ceased to.
local function wait(amounts, grains, over)
  for _, one in ipairs(redis.call('ZRANGE', grains, 0, -1)) do
    over = over - tonumber(redis.call('HGET', amounts, one) or '0')
    if over <= 0 then return math.max(1, (one + 1) * grain_ms + window - now) end
  end
  return -1
end

local function left(grains)
  local last = redis.call('ZRANGE', grains, -1, -1)
  if #last == 0 then return 0 end
  return math.max(0, (last[1] + 1) * grain_ms + window - now)
end
"""

RESERVE = (
    _COMMON
    + """
local tokens, certain, id = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6]
for s = 0, subjects - 1 do
  local k, a = s * 5, 6 + s * 3
  local rpm, tpm, most = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  redis.call('ZREMRANGEBYSCORE', KEYS[k + 5], '-inf', now)
  if most >= 0 then
    local busy = redis.call('ZCARD', KEYS[k + 5])
    if busy >= most then return {0, s, 'max_concurrency', busy, 1000} end
  end
  if rpm >= 0 then
    local used = expire(KEYS[k + 1], KEYS[k + 2])
    if used >= rpm then return {0, s, 'rpm', used, wait(KEYS[k + 1], KEYS[k + 2], used + 1 - rpm)} end
  end
  if tpm >= 0 and tokens > 0 then
    local used = expire(KEYS[k + 3], KEYS[k + 4])
    local asked = tokens
    if not certain and tokens > tpm then asked = tpm end
    if used + asked > tpm then
      local ms = -1
      if asked <= tpm then ms = wait(KEYS[k + 3], KEYS[k + 4], used + asked - tpm) end
      return {0, s, 'tpm', used, ms}
    end
  end
end
for s = 0, subjects - 1 do
  local k, a = s * 5, 6 + s * 3
  if tonumber(ARGV[a + 1]) >= 0 then take(KEYS[k + 1], KEYS[k + 2], 1) end
  if tonumber(ARGV[a + 2]) >= 0 and tokens > 0 then take(KEYS[k + 3], KEYS[k + 4], tokens) end
  redis.call('ZADD', KEYS[k + 5], now + lease, id)
  redis.call('PEXPIRE', KEYS[k + 5], 2 * lease)
end
return {1, grain, tonumber(redis.call('HGET', KEYS[1], 'sum') or '0'), left(KEYS[2]),
        tonumber(redis.call('HGET', KEYS[3], 'sum') or '0'), left(KEYS[4])}
"""
)
"""ARGV: tokens, whether they are certain, the request's id; then rpm, tpm, max_concurrency of each subject, -1 for
none. Answers 1, the grain, and how much of the first subject counts and for how long (ms); or 0, the subject, the
limit, how much of it counts, and the wait in ms, -1 for never."""

SETTLE = (
    _COMMON
    + """
local taken, used, at, id = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
for s = 0, subjects - 1 do
  local k = s * 5
  if redis.call('ZREM', KEYS[k + 5], id) == 1 and used ~= taken and redis.call('EXISTS', KEYS[k + 3]) == 1 then
    expire(KEYS[k + 3], KEYS[k + 4])
    if used > taken then
      take(KEYS[k + 3], KEYS[k + 4], used - taken)
    elseif redis.call('HEXISTS', KEYS[k + 3], at) == 1 then
      redis.call('HINCRBY', KEYS[k + 3], at, used - taken)
      redis.call('HINCRBY', KEYS[k + 3], 'sum', used - taken)
    end
  end
end
return 1
"""
)
"""ARGV: tokens taken, tokens used, the grain they were taken in, the request's id. Whoever holds a lease may settle,
and gives it up: the same settlement, sent again because its answer was late, does nothing. One whose lease ran out
leaves what was taken."""

RENEW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = tonumber(ARGV[1])
for i, leases in ipairs(KEYS) do
  if redis.call('ZSCORE', leases, ARGV[i + 1]) then
    redis.call('ZADD', leases, now + lease, ARGV[i + 1])
    redis.call('PEXPIRE', leases, 2 * lease)
  end
end
return 1
"""
"""KEYS: the leases of a subject, for each request; ARGV: how long they last in ms, then the requests' ids. A lease that
ran out is not taken again."""
