-- Where OpenAI's and Anthropic's answers say what they cost: chat completions, completions,
-- Responses, embeddings, images, audio, rerank, score, moderations; messages.
--
-- A format is a table of
--   body              the node (see tensorgate.json) of a JSON body
--   event             the node of an object in a stream
--   object(state, record)  takes over what such an object says, when it has ended, by
--                     `state:count`; returns whether it ends the answer, and whether it was the
--                     usage and nothing else
--   told(record)      where given: whether a body that has not ended has said all of it
--   lines, listed     whether its streams may be lines of JSON; JSON arrays
--
-- Only a member `usage` at its own place counts: at the top of a body or an event, in `message` of
-- an event `message_start`, in `response` of one that ends a response; of a reranker's body also
-- `meta.tokens` and `meta.billed_units`.

local format = string.format

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
local CALL = {fields = {name = CONTENT, arguments = CONTENT}}
local CUSTOM = {fields = {name = CONTENT, input = CONTENT}}
local PARTS = {measured = true, items = {fields = {text = CONTENT}}}

local BODY = {fields = {
  usage = usage("usage"),
  -- rerank
  results = {count = "results"},
  meta = {fields = {tokens = units("meta_tokens"), billed_units = units("billed_units")}},
}}

local EVENT = {fields = {
  usage = usage("usage"),
  type = {text = "type"},
  -- OpenAI: chat completions and completions
  choices = {count = "choices", items = {fields = {
    text = CONTENT,
    delta = {fields = {
      content = PARTS,
      reasoning_content = CONTENT,
      reasoning = CONTENT,
      refusal = CONTENT,
      thinking = CONTENT,
      tool_calls = {items = {fields = {["function"] = CALL, custom = CUSTOM}}},
      function_call = CALL,
      audio = {fields = {data = CONTENT, transcript = CONTENT}},
    }},
  }}},
  -- Anthropic; in OpenAI's Responses and transcriptions `delta` is the text itself
  delta = {measured = true, fields = {
    text = CONTENT,
    thinking = CONTENT,
    partial_json = CONTENT,
    stop_reason = {text = "stop_reason"},
  }},
  content_block = {fields = {text = CONTENT, thinking = CONTENT, name = CONTENT}},
  message = {fields = {usage = usage("message_usage")}},
  -- OpenAI: Responses; speech; images
  response = {fields = {usage = usage("response_usage")}},
  audio = CONTENT,
  b64_json = CONTENT,
  partial_image_b64 = CONTENT,
}}

local ENDS_RESPONSE = {
  ["response.completed"] = true, ["response.incomplete"] = true, ["response.failed"] = true,
}
local ENDS_IMAGE = {
  ["image_generation.completed"] = true, ["image_edit.completed"] = true,
}
local ENDS = { -- with the usage beside the type
  ["message_stop"] = true, ["transcript.text.done"] = true, ["speech.audio.done"] = true,
}

-- Takes a usage over; what it does not name stays as it was.
local function take(state, counted, beside)
  local prompt = counted.prompt_tokens
  local input = prompt or counted.input_tokens
  local output = counted.completion_tokens or counted.output_tokens
  if input and not output and counted.total_tokens then -- embeddings
    local rest = tonumber(counted.total_tokens) - tonumber(input)
    output = rest >= 0 and format("%d", rest) or nil
  end
  local seen = state.seen
  state:count(input, output)
  if input then
    state.inside = prompt ~= nil or not beside
    seen.cached_inside = state.inside and "1" or "0"
  end
  seen.cached = counted.prompt_cached_tokens or counted.input_cached_tokens
    or counted.cache_read_input_tokens or seen.cached
  if not state.inside then
    seen.cache_write = counted.cache_creation_input_tokens or seen.cache_write
  end
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
  return ends, kind == nil and counted ~= nil and record.choices == 0
end

local function told(record)
  local counted = record.usage
  return counted and counted.whole and not record.results
    and (counted.prompt_tokens or counted.input_tokens)
    and (counted.completion_tokens or counted.output_tokens)
end

local function anthropic(state, record)
  return object(state, record, true)
end

return {
  openai = {body = BODY, event = EVENT, told = told, object = object},
  anthropic = {body = BODY, event = EVENT, told = told, object = anthropic},
}
