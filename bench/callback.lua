-- For wrk: the documented callback, each time about a new call. Argument: a seed that no other run has.

local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  math.randomseed(tonumber(arguments[1]) + number)
  hex4 = function() return string.format("%04x", math.random(0, 65535)) end
end

function request()
  local id = hex4() .. hex4() .. "-" .. hex4() .. "-4" .. string.sub(hex4(), 2) .. "-a" .. string.sub(hex4(), 2)
    .. "-" .. hex4() .. hex4() .. hex4()
  return wrk.format("GET", wrk.path .. "?ReferenceId=" .. id .. "&CallDuration=0&CallStatus=&Ivr=&Price=0.0000"
    .. "&SentResult=0&CID=02871002454&SendStatus=5")
end

function done(summary, latency)
  local lost = summary.errors
  io.write(string.format(
    '\nRESULT {"answers": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50": %.6f, "p99": %.6f}\n',
    summary.requests, summary.duration / 1e6, lost.status, lost.connect + lost.read + lost.write + lost.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
