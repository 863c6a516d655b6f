-- What wrk sends, for benches/links.py: MODE (random, hot or static) and how many links there are.

local threads = {}
local count = 0

function setup(thread)
    thread:set("number", count)
    count = count + 1
    table.insert(threads, thread)
end

function init(arguments)
    mode, total = arguments[1], tonumber(arguments[2])
    expected = mode == "static" and 303 or 302
    wrong = 0
    math.randomseed(os.time() * 16 + number)
end

function request()
    if mode == "static" then
        return wrk.format("GET", "/docs")
    elseif mode == "hot" then
        return wrk.format("GET", "/l/bench/" .. math.random(0, 99))
    end
    return wrk.format("GET", "/l/bench/" .. math.random(0, total - 1))
end

function response(status)
    if status ~= expected then wrong = wrong + 1 end
end

function done(summary, latency, requests)
    local wrong = 0
    for _, thread in ipairs(threads) do wrong = wrong + thread:get("wrong") end
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "seconds": %.6f, "wrong": %d, "p50": %.3f, "p99": %.3f}\n',
        summary.requests, summary.duration / 1e6,
        wrong + errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
