-- What wrk sends, for benches/requests.py: MODE, and for all but uploads a file of ids.
-- Each thread has its share of the ids, and a seed of its own.

local threads = {}
local count = 0

function setup(thread)
    thread:set("number", count)
    count = count + 1
    table.insert(threads, thread)
end

function init(arguments)
    mode, token, ids_file, size = arguments[1], arguments[2], arguments[3], tonumber(arguments[4])
    total = tonumber(arguments[5])
    wrk.headers["Authorization"] = "Bearer " .. token
    refused = 0
    sent = 0
    ran_out = 0
    math.randomseed(os.time() + number)
    if mode == "upload" then
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "application/x-bench"
        local bytes = {}
        for i = 1, size - 24 do bytes[i] = string.char(math.random(0, 255)) end
        tail = table.concat(bytes)
        run = math.random(0, 99999999)
    else
        ids = {}
        local line_number = 0
        for line in io.lines(ids_file) do
            if line_number % total == number then ids[#ids + 1] = line end
            line_number = line_number + 1
        end
    end
end

function request()
    sent = sent + 1
    if mode == "upload" then
        local body = string.format("%08d%04d%012d", run, number, sent) .. tail
        return wrk.format(nil, "/v1/files?name=bench-" .. number .. "-" .. sent, nil, body)
    elseif mode == "download" then
        return wrk.format("GET", "/v1/files/" .. ids[math.random(#ids)] .. "/content")
    elseif mode == "json" then
        return wrk.format("GET", "/v1/files/" .. ids[math.random(#ids)])
    elseif mode == "list" then
        return wrk.format("GET", "/v1/files?limit=100")
    end
    -- delete: each once. wrk's time goes on when there are none left: the run is no measurement then.
    if sent > #ids then
        ran_out = 1
        wrk.thread:stop()
        return wrk.format("GET", "/health/live")
    end
    return wrk.format("DELETE", "/v1/files/" .. ids[sent] .. "?permanent=true")
end

function response(status)
    if status >= 400 then refused = refused + 1 end
end

function done(summary, latency, requests)
    local refused, ran_out = 0, 0
    for _, thread in ipairs(threads) do
        refused = refused + thread:get("refused")
        ran_out = ran_out + thread:get("ran_out")
    end
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "ran_out": %d, "p50": %.3f, "p99": %.3f}\n',
        summary.requests, summary.duration / 1e6, refused,
        errors.connect + errors.read + errors.write + errors.timeout, ran_out,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
