-- What wrk sends, for benches/uploads.py: HEAD of tus uploads, by a file of their ids.

local threads = {}

function setup(thread)
    thread:set("number", #threads)
    table.insert(threads, thread)
end

function init(arguments)
    wrk.headers["Authorization"] = "Bearer " .. arguments[1]
    wrk.headers["Tus-Resumable"] = "1.0.0"
    wrong = 0
    math.randomseed(os.time() + number)
    ids = {}
    for line in io.lines(arguments[2]) do ids[#ids + 1] = line end
end

function request()
    return wrk.format("HEAD", "/v1/uploads/tus/" .. ids[math.random(#ids)])
end

function response(status)
    if status ~= 200 then wrong = wrong + 1 end
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
