-- Where OpenAI's and Anthropic's answers say what they cost: chat completions, completions,
-- Responses, embeddings, images, audio, rerank, score, moderations; messages.
--
-- A format is a table of
--   body              the node (see tensorgate.json) of a JSON body
--   event             the node of an object in a stream
--   object(state, record)  takes over what such an object says, when it has ended, by
--                     `state:count`; returns whether it ends the answer, and whether it was a
--                     usage alone
--   known(state)      where given: whether what is `loose` in an object, as far as it was read, is
--                     no content
--   told(record)      where given: whether a body that has not ended has said all of it
--   lines, listed     whether its streams may be lines of JSON; JSON arrays
--
-- Only a member `usage` at its own place counts: at the top of a body or an event, in `message` of
-- an event `message_start`, in `response` of one that ends a response; of a reranker's body also
-- `meta.tokens` and `meta.billed_units`.
--
-- So that no stream is free where it is cut, however its server writes, all that is not known to be
-- none counts as generated: each string, object and array in a choice, a delta or a block, and in
-- an event that is none of the known ones. What is not known by its name is measured as it stands.
--
-- A usage alone is an event that has one at its top and nothing that a client looks for: no choice,
-- nothing generated, no error and no reason to stop. `alone(scan)` says so of an event that is read
-- by itself, with a scanner of the node `lone`, in which no counter is a fault: for a stream in
-- which something could not be read.

local format, match = string.format, string.match

local COUNTERS = {
  "prompt_tokens", "completion_tokens", "total_tokens", -- OpenAI
  "input_tokens", "output_tokens", -- OpenAI's Responses, images and audio; Anthropic
  "cache_read_input_tokens", "cache_creation_input_tokens", -- Anthropic
}

local function usage(into)
  local fields = {
    prompt_tokens_details = {fields = {cached_tokens = {integer = "prompt_cached_tokens"}}},
    input_tokens_details = {fields = {cached_tokens = {integer = "input_cached_tokens"}}},
  }
  for _, name in ipairs(COUNTERS) do
    fields[name] = {integer = name}
  end
  return {into = into, fields = fields}
end

local function units(into)
  return {into = into, fields = {
    input_tokens = {integer = "input_tokens"}, output_tokens = {integer = "output_tokens"},
  }}
end

local CONTENT = {measured = true}
local UNKNOWN = {loose = true} -- content, if the event turns out to be none that is known
local NONE = {}

-- A node of an object in which all is content but the members that are named here to be none.
local function content(fields, ...)
  for _, name in ipairs({...}) do
    fields[name] = NONE
  end
  return {measured = true, fields = fields, others = CONTENT}
end

local CALL = content({})
local PARTS = {measured = true, items = content({}, "type", "annotations")}
local DELTA = content(
  {
    content = PARTS,
    tool_calls = {measured = true, items = content(
      {["function"] = CALL, custom = CALL}, "index", "id", "type"
    )},
    function_call = CALL,
    audio = content({}, "id", "expires_at"),
  },
  "role", "type", "index", "annotations", "tool_call_id", "provider_specific_fields"
)

local BODY = {fields = {
  usage = usage("usage"),
  -- rerank
  results = {count = "results"},
  meta = {fields = {tokens = units("meta_tokens"), billed_units = units("billed_units")}},
}}

local EVENT = content(
  {
    usage = usage("usage"),
    type = {text = "type"},
    -- OpenAI: chat completions and completions
    choices = {loose = true, count = "choices", items = content(
      {delta = DELTA},
      "index", "usage", "finish_reason", "native_finish_reason", "stop_reason", "matched_stop",
      "logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids", "hidden_states",
      "content_filter_results", "content_filter_offsets"
    )},
    -- Anthropic; in OpenAI's Responses `delta` is the text itself
    delta = content(
      {stop_reason = {text = "stop_reason"}},
      "type", "signature", "citation", "stop_sequence", "stop_details", "container"
    ),
    content_block = content(
      {}, "type", "id", "signature", "citations", "caller", "tool_use_id"
    ),
    message = {loose = true, others = UNKNOWN, fields = {
      usage = usage("message_usage"), content = CONTENT, role = NONE,
    }},
    -- OpenAI: Responses
    response = {loose = true, others = UNKNOWN, fields = {usage = usage("response_usage")}},
    -- OpenAI: speech, images
    audio = CONTENT,
    b64_json = CONTENT,
    partial_image_b64 = CONTENT,
    error = {present = "error"},
  },
  "id", "object", "created", "created_at", "model", "provider", "system_fingerprint",
  "service_tier", "timings", "prompt_progress", "prompt_filter_results",
  "item_id", "logprobs", "obfuscation"
)
EVENT.measured, EVENT.others = nil, UNKNOWN

local LONE = {lax = true, others = UNKNOWN, fields = {}}
for name, node in pairs(EVENT.fields) do
  LONE.fields[name] = node
end
LONE.fields.usage = {present = "usage"}

-- Events in which all that is generated stands where it is looked for. Those of Responses are known
-- by their names but for a `delta`, and for an item of which no delta came before.
local KNOWN = {
  message_start = true, content_block_start = true, content_block_delta = true,
  content_block_stop = true, message_delta = true, message_stop = true, ping = true, error = true,
  ["transcript.text.delta"] = true,
  ["speech.audio.delta"] = true, ["speech.audio.done"] = true,
  ["image_generation.partial_image"] = true, ["image_generation.completed"] = true,
  ["image_edit.partial_image"] = true, ["image_edit.completed"] = true,
}
local REPEATS = {["response.output_item.done"] = true, ["transcript.text.segment"] = true}

local ENDS_RESPONSE = {
  ["response.completed"] = true, ["response.incomplete"] = true, ["response.failed"] = true,
}
local ENDS_IMAGE = {
  ["image_generation.completed"] = true, ["image_edit.completed"] = true,
}
local ENDS = { -- with the usage beside the type
  ["message_stop"] = true, ["transcript.text.done"] = true, ["speech.audio.done"] = true,
}

-- The output of a usage that has an input and a total: what the total says beside the input, for a
-- server that leaves reasoning out of `completion_tokens`; of embeddings, which name no output, 0.
local function by_total(total, input, output)
  local rest = tonumber(total) - tonumber(input)
  if rest >= 0 and (not output or rest > tonumber(output)) then
    return format("%d", rest)
  end
  return output
end

-- Takes a usage over; what it does not name stays as it was.
local function take(state, counted, beside)
  local prompt = counted.prompt_tokens
  local input = prompt or counted.input_tokens
  local output = counted.completion_tokens or counted.output_tokens
  local seen = state.seen
  if input then
    state.inside = prompt ~= nil or not beside
    seen.cached_inside = state.inside and "1" or "0"
  end
  -- Where cached tokens are beside the input, a total may have them too.
  if input and counted.total_tokens and (state.inside or not output) then
    output = by_total(counted.total_tokens, input, output)
  end
  local cached = counted.prompt_cached_tokens or counted.input_cached_tokens
    or counted.cache_read_input_tokens
  local written = not state.inside and counted.cache_creation_input_tokens or nil
  state:count(input, output, cached, written)
end

-- Of a reranker, which generates nothing: all of its tokens are input, whatever they are called.
local function reranked(record)
  local counted = record.usage or {}
  local input = counted.prompt_tokens or counted.input_tokens or counted.total_tokens
  local output = counted.completion_tokens or counted.output_tokens
  if not input then
    counted = record.meta_tokens or {}
    if not counted.input_tokens then
      counted = record.billed_units or {}
    end
    input, output = counted.input_tokens, counted.output_tokens
  end
  return {prompt_tokens = input, completion_tokens = input and (output or "0")}
end

-- `measured`: of this event. Beside an empty list of choices, what nobody knows is no content.
local function only_usage(record, measured, loose)
  local choices = record.choices
  return record.usage ~= nil and (choices or 0) == 0
    and measured == 0 and (choices == 0 or loose == 0)
    and not record.error and record.type ~= "error" and not record.stop_reason
end

local function alone(scan)
  return scan.whole and only_usage(scan.record, scan.measured, scan.loose)
end

local function object(state, record, beside)
  local kind, counted = record.type, record.usage
  local ends = ENDS[kind] or (counted and record.choices == 0) or false
  if record.results then
    counted = reranked(record)
  elseif kind == "message_start" then
    counted = record.message_usage
  elseif kind == "message_delta" then
    ends = record.stop_reason ~= nil
  elseif ENDS_RESPONSE[kind] then
    counted, ends = record.response_usage, true
  elseif ENDS_IMAGE[kind] then
    -- One usage of several images: nobody says whether it is of all of them.
    ends, state.unsure = true, state.pictured
    state.pictured = true
  end
  if counted then
    take(state, counted, beside)
  end
  if REPEATS[kind] then
    state.item = state.scan.measured
  end
  local scan = state.scan
  return ends, only_usage(record, scan.measured - state.measured, scan.loose)
end

-- Whether what is loose in an event, as far as it was read, is no content.
local function known(state)
  local scan = state.scan
  local kind = scan.record.type
  if REPEATS[kind] then
    return scan.measured > (state.item or 0)
  elseif kind == "transcript.text.done" then
    return scan.measured + state.besides > 0
  elseif kind and match(kind, "^response%.") then
    return scan.measured > state.measured or not match(kind, "%.delta$")
  end
  return scan.record.choices ~= nil or KNOWN[kind] ~= nil
end

local function told(record)
  local counted = record.usage
  return counted and counted.whole
    and (counted.prompt_tokens or counted.input_tokens)
    and (counted.completion_tokens or counted.output_tokens)
end

local function anthropic(state, record)
  return object(state, record, true)
end

return {
  lone = LONE, alone = alone,
  openai = {body = BODY, event = EVENT, object = object, known = known, told = told},
  anthropic = {body = BODY, event = EVENT, object = anthropic, known = known, told = told},
}
