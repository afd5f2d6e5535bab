-- What HAProxy's own rules cannot do: read a refused body to its end, and ask the keeper about a request.

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

-- Of variable name -> header of the question. A body may say anything, so what could end a line is taken out.
local ASKED = {
    key_id = "x-key", uid = "x-request", secret = "x-corral-secret", path = "x-path", method = "x-method", model = "x-model",
    answer_tokens = "x-answer-tokens", body_bytes = "x-body-bytes",
}
local ANSWERED = {
    ["x-corral-principal"] = "txn.principal", ["retry-after"] = "txn.retry_after",
    ["x-ratelimit-limit-requests"] = "txn.limit_requests", ["x-ratelimit-remaining-requests"] = "txn.left_requests",
    ["x-ratelimit-reset-requests"] = "txn.reset_requests", ["x-ratelimit-reset-tokens"] = "txn.reset_tokens",
    ["x-ratelimit-limit-tokens"] = "txn.limit_tokens", ["x-ratelimit-remaining-tokens"] = "txn.left_tokens",
}
local ATTEMPTS, PAUSE_MS, ANSWER_MS = 40, 50, 2000

-- Asks the keeper, which may be starting again just now. Sets txn.status where the request is not to be served.
core.register_action("admit", {"http-req"}, function(txn)
    local asked = {}
    for name, header in pairs(ASKED) do
        local value = txn:get_var("txn." .. name)
        if value ~= nil then
            asked[header] = {string.sub(string.gsub(tostring(value), "[^%w%p]", "?"), 1, 512)}
        end
    end
    local answer = nil
    for _ = 1, ATTEMPTS do
        local began = core.now().sec
        answer = core.httpclient():get{
            url = "http://keeper/admit", dst = "unix@keeper.sock", headers = asked, timeout = ANSWER_MS,
        }
        if answer.headers ~= nil and answer.headers["x-corral-answer"] ~= nil then break end
        answer = nil
        if core.now().sec - began >= 2 then break end -- it is there, and has too much to do
        core.msleep(PAUSE_MS)
    end
    if answer == nil then
        txn:set_var("txn.status", 503)
        txn:set_var("txn.refusal", '{"error":{"message":"Nobody can say now whether this key may ask; try again.",'
            .. '"type":"server_error","param":null,"code":"admission_unavailable"}}')
        txn:set_var("txn.retry_after", "1")
        return
    end
    for header, name in pairs(ANSWERED) do
        if answer.headers[header] ~= nil then txn:set_var(name, answer.headers[header][0]) end
    end
    if answer.status ~= 200 then
        txn:set_var("txn.status", answer.status)
        txn:set_var("txn.refusal", answer.body)
    end
end, 0)
