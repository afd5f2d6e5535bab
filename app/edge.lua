-- What HAProxy's own rules cannot do: read a refused body to its end, read a deadline, count a body's prompts, remember
-- a full queue, and ask the keeper about a request.
-- Argument: for how many milliseconds a keeper that is away is waited for.

-- Reads a body to its end, keeping nothing, and then answers txn.status and txn.refusal.
core.register_service("refuse", "http", function(applet)
    repeat local piece = applet:receive(65536) until not piece or #piece == 0
    local body = applet:get_var("txn.refusal")
    applet:set_status(applet:get_var("txn.status"))
    applet:add_header("content-type", "application/json")
    applet:add_header("content-length", tostring(#body))
    applet:start_response()
    applet:send(body)
end)

-- Milliseconds that X-Request-Timeout gives, read as replicas read it; 0 where it gives none.
core.register_converters("timeout_ms", function(text)
    local decimal = #text <= 32 and string.match(text, "^%+?[%d.]+[eE]?[+-]?%d*$")
    local seconds = decimal and tonumber(text)
    if not seconds or not (seconds > 0 and seconds <= 86400) then return 0 end
    return math.ceil(seconds * 1000)
end)

-- How many prompts or conversations a body's array of this name holds: texts and arrays; numbers are one prompt's.
core.register_converters("sequences", function(body, name)
    local bare = body:gsub("\\.", "")
    local _, begin = bare:find('"' .. name .. '"%s*:%s*%[')
    local found, depth = 0, 0
    for mark in (begin and bare:sub(begin):gsub('"[^"]*"', '"') or ""):gmatch('["%[%]{}]') do
        if depth == 1 and (mark == '"' or mark == "[") then found = found + 1 end
        if mark == "[" or mark == "{" then depth = depth + 1 end
        if mark == "]" or mark == "}" then depth = depth - 1 end
        if depth == 0 then break end
    end
    return math.max(1, found)
end)

local function now_ms()
    local now = core.now()
    return now.sec * 1000 + now.usec // 1000
end

core.register_fetches("steady_ms", now_ms)

-- Of variable name -> header of the question. A body may say anything, so what could end a line is taken out.
local ASKED = {
    key_id = "x-key", uid = "x-request", secret = "x-corral-secret", path = "x-path", method = "x-method",
    model = "x-model", answer_tokens = "x-answer-tokens", answers = "x-answers", body_bytes = "x-body-bytes",
}
local ANSWERED = {
    ["x-corral-principal"] = "txn.principal", ["retry-after"] = "txn.retry_after",
    ["x-ratelimit-limit-requests"] = "txn.limit_requests", ["x-ratelimit-remaining-requests"] = "txn.left_requests",
    ["x-ratelimit-reset-requests"] = "txn.reset_requests", ["x-ratelimit-reset-tokens"] = "txn.reset_tokens",
    ["x-ratelimit-limit-tokens"] = "txn.limit_tokens", ["x-ratelimit-remaining-tokens"] = "txn.left_tokens",
}
-- Of model and key, whom a full queue turns away: what they were told, and until when that holds.
local FULL, known, MOST_KNOWN = {}, 0, 4096

local function whose(txn)
    return tostring(txn:get_var("txn.deployed")) .. " " .. tostring(txn:get_var("txn.key_id"))
end

-- Remembers a replica's refusal for as long as it says.
core.register_action("full", {"http-res"}, function(txn)
    local for_ms = tonumber(txn:get_var("txn.full_ms"))
    if not for_ms then return end
    local told = {["txn.status"] = 429}
    for _, name in pairs(ANSWERED) do told[name] = txn:get_var(name) end
    told["txn.retry_after"] = tonumber(txn.sf:res_fhdr("retry-after")) or 1
    local who = whose(txn)
    if FULL[who] == nil then known = known + 1 end
    if known > MOST_KNOWN then FULL, known = {}, 1 end
    FULL[who] = {until_ms = now_ms() + for_ms, told = told}
end, 0)

-- Sets txn.status where such a refusal holds.
core.register_action("still_full", {"http-req"}, function(txn)
    local found = FULL[whose(txn)]
    if found == nil or now_ms() >= found.until_ms then return end
    for name, value in pairs(found.told) do txn:set_var(name, value) end
end, 0)

local PATIENCE_MS, ANSWER_MS = tonumber((...)), 2000
-- Between two tries, longer each time: hundreds may wait, and the keeper needs the processor to start.
local FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 50, 400

-- Asks the keeper, which may be starting again just now. Sets txn.status where the request is not to be served.
core.register_action("admit", {"http-req"}, function(txn)
    local asked = {}
    for name, header in pairs(ASKED) do
        local value = txn:get_var("txn." .. name)
        if value ~= nil then
            asked[header] = {string.sub(string.gsub(tostring(value), "[^%w%p]", "?"), 1, 512)}
        end
    end
    local answer, pause_ms, given_up_ms = nil, FIRST_PAUSE_MS, now_ms() + PATIENCE_MS
    repeat
        local began_ms = now_ms()
        answer = core.httpclient():get{
            url = "http://keeper/admit", dst = "unix@keeper.sock", headers = asked, timeout = ANSWER_MS,
        }
        if answer.headers ~= nil and answer.headers["x-corral-answer"] ~= nil then break end
        answer = nil
        if now_ms() - began_ms >= ANSWER_MS then break end -- it is there, and has too much to do
        core.msleep(pause_ms)
        pause_ms = math.min(2 * pause_ms, LONGEST_PAUSE_MS)
    until now_ms() >= given_up_ms
    if answer == nil then return end -- the rules after this one let nobody in without an answer
    for header, name in pairs(ANSWERED) do
        if answer.headers[header] ~= nil then txn:set_var(name, answer.headers[header][0]) end
    end
    if answer.status ~= 200 then
        txn:set_var("txn.status", answer.status)
        txn:set_var("txn.refusal", answer.body)
    end
end, 0)
