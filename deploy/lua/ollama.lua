-- Where Ollama's answers say what they cost. A format as tensorgate.openai describes it.
--
-- Only the object with `done: true` counts, a stream's last line or the body itself, by its members
-- `prompt_eval_count` and `eval_count`; of an embedding, which has no `done`, `prompt_eval_count`.
-- Ollama leaves a count of nothing out.
--
-- All else that such an object holds and nobody knows was generated, and is counted as it is
-- written.

local NOTHING = {}
local CONTENT = {measured = true}

local OBJECT = {others = CONTENT, fields = {
  done = {flag = "done"},
  done_reason = {text = "done_reason"},
  prompt_eval_count = {integer = "prompt_eval_count"},
  eval_count = {integer = "eval_count"},
  embeddings = {count = "embeddings"},
  message = {measured = true, others = CONTENT, fields = {role = NOTHING}},
  -- said of the call
  model = NOTHING, remote_model = NOTHING, remote_host = NOTHING, created_at = NOTHING,
  total_duration = NOTHING, load_duration = NOTHING, prompt_eval_duration = NOTHING,
  eval_duration = NOTHING, completed = NOTHING, total = NOTHING, context = NOTHING,
  logprobs = NOTHING, error = NOTHING, embedding = NOTHING,
}}

local IDLE = {load = true, unload = true} -- of calls that run no model

local function object(state, record)
  local input, output = record.prompt_eval_count, record.eval_count
  if record.embeddings and not record.done then
    state:count(input, "0")
    return true
  elseif record.done ~= "true" then
    return false
  end
  if state.scan.measured == 0 then
    local idle = IDLE[record.done_reason]
    output = output or ((input or idle) and "0")
    input = input or (idle and "0")
  end
  state:count(input, output)
  return true
end

return {body = OBJECT, event = OBJECT, object = object, lines = true}
