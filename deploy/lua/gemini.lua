-- Where Gemini's answers say what they cost. A format as tensorgate.openai describes it.
--
-- Only `usageMetadata` at the top of a body, of an event or of an element of the array that
-- streamGenerateContent answers with counts; in a stream each is of all that came so far. Cached
-- tokens are inside the prompt's; what tools brought in is beside them, and thoughts are beside the
-- candidates, or inside for a server whose total says so. JSON made of protobuf leaves a count of
-- nothing out, so the total speaks for candidates that are not counted.
--
-- All that a candidate holds and nobody knows was generated, and is counted as it is written. Only
-- a thought's signature is not: it stands for tokens that the usage has, and says not how many.

local format = string.format

local function add(...)
  local sum = 0
  for i = 1, select("#", ...) do
    sum = sum + tonumber((select(i, ...)) or 0)
  end
  return format("%d", sum)
end

local USAGE = {into = "usage", fields = {
  promptTokenCount = {integer = "prompt"},
  toolUsePromptTokenCount = {integer = "tools"},
  cachedContentTokenCount = {integer = "cached"},
  candidatesTokenCount = {integer = "candidates"},
  thoughtsTokenCount = {integer = "thoughts"},
  totalTokenCount = {integer = "total"},
}}

local NOTHING = {}
local CONTENT = {measured = true}

local function all_but(fields)
  return {measured = true, others = CONTENT, fields = fields}
end

local PART = all_but({text = CONTENT, thought = NOTHING, thoughtSignature = NOTHING})
local CANDIDATE = all_but({
  content = all_but({role = NOTHING, parts = {measured = true, items = PART}}),
  finishReason = {tally = "finished"},
  -- said of what was generated, not generated
  index = NOTHING, finishMessage = NOTHING, tokenCount = NOTHING, avgLogprobs = NOTHING,
  logprobsResult = NOTHING, safetyRatings = NOTHING, citationMetadata = NOTHING,
  groundingMetadata = NOTHING, groundingAttributions = NOTHING, urlContextMetadata = NOTHING,
})

local BODY = {fields = {
  usageMetadata = USAGE,
  embedding = {fields = {values = {count = "embedding"}}},
  embeddings = {count = "embeddings"},
}}

local EVENT = {fields = {
  usageMetadata = USAGE,
  candidates = {count = "candidates", items = CANDIDATE},
  promptFeedback = {fields = {blockReason = {text = "blocked"}}},
}}

-- What was generated, by a usage; nil where it does not say.
local function output(counted, embedded)
  local prompt, candidates, thoughts = counted.prompt, counted.candidates, counted.thoughts
  if candidates then
    if thoughts and counted.total == add(prompt, counted.tools, candidates) then
      return candidates
    end
    return add(candidates, thoughts)
  elseif prompt and counted.total then
    local rest = tonumber(counted.total) - tonumber(add(prompt, counted.tools))
    return rest >= tonumber(thoughts or 0) and format("%d", rest) or nil
  end
  return embedded and not thoughts and "0" or nil
end

local function object(state, record)
  local counted = record.usage
  if counted then
    local input = counted.prompt and add(counted.prompt, counted.tools)
    state:count(input, output(counted, record.embedding or record.embeddings), counted.cached)
    state.seen.cached_inside = state.seen.input and "1"
  end
  local finished = record.finished and record.finished >= (record.candidates or 0)
  return finished or (record.blocked or "") ~= ""
end

return {body = BODY, event = EVENT, object = object, listed = true}
