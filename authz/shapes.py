"""How the body of each endpoint says what it asks for: data, as the servers' sources have it."""

from __future__ import annotations

from typing import Final

from authz.shape import Content, Shape

_ANYWHERE: Final = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("n_predict", "max_new_tokens"),
)
"""What some server takes for a bound on another endpoint than the one that it belongs to: of
llama.cpp every endpoint reads `n_predict`, else `max_completion_tokens`, else `max_tokens`, and
its Responses pass on what they do not know."""

_REPEATS: Final = ("n", "best_of", "n_cmpl", "beam_width")
_SESSION: Final = ("session_params",)
"""By which SGLang goes on with what it keeps of earlier calls, whoever made them."""


def _other(*bounds: str) -> tuple[str, ...]:
    return tuple(name for name in _ANYWHERE if name not in bounds)


# ── OpenAI ───────────────────────────────────────────────────────────────────────────────────────

CHAT: Final = Shape(
    "messages",
    bounds=("max_tokens", "max_completion_tokens"),
    also=_other("max_tokens", "max_completion_tokens"),
    repeats=_REPEATS,
    usage_on_request=True,
    stored=_SESSION,
)
COMPLETIONS: Final = Shape(
    "prompt",
    beside=("suffix",),
    kind=Content.PROMPTS,
    bounds=("max_tokens",),
    also=_other("max_tokens"),
    repeats=_REPEATS,
    usage_on_request=True,
    stored=_SESSION,
)
RESPONSES: Final = Shape(
    "input",
    bounds=("max_output_tokens",),
    also=_other("max_output_tokens"),
    repeats=_REPEATS,
    stored=("previous_response_id", "conversation", "prompt", *_SESSION),
    refers=True,
    unbounded=("background",),
)
EMBEDDINGS: Final = Shape("input", kind=Content.PROMPTS, generates=False)
MODERATIONS: Final = EMBEDDINGS
RERANK: Final = Shape(
    "documents",
    beside=("texts",),
    kind=Content.DOCUMENTS,
    query=("query", "instruction", "instruct"),  # vLLM's; SGLang's
    generates=False,
)
SCORE: Final = Shape(
    "text_2",
    beside=("data_2", "items", "documents"),
    kind=Content.DOCUMENTS,
    query=("text_1", "data_1", "query", "queries", "instruction", "instruct"),
    generates=False,
)
IMAGES: Final = Shape("prompt", kind=Content.PROMPTS, repeats=("n",))
SPEECH: Final = Shape("input", kind=Content.PROMPTS)

# ── Anthropic ────────────────────────────────────────────────────────────────────────────────────

MESSAGES: Final = Shape(
    "messages",
    bounds=("max_tokens",),
    also=_other("max_tokens"),
    repeats=_REPEATS,
    controls=("speed", "inference_geo"),  # of Anthropic's own servers: at another price
)

NOTHING: Final = Shape()
"""Of which only the model is read: the call holds no money."""

# ── Gemini ───────────────────────────────────────────────────────────────────────────────────────

# Protobuf's JSON takes both spellings of every member.
_SPELLINGS: Final = (
    ("generationConfig", "generation_config"),
    ("maxOutputTokens", "max_output_tokens"),
    ("candidateCount", "candidate_count"),
    ("cachedContent", "cached_content"),
    ("routingConfig", "routing_config"),
    ("modelConfig", "model_config"),
    ("systemInstruction", "system_instruction"),
    ("generateContentRequest", "generate_content_request"),
)


def _gemini(*, streams: bool) -> Shape:
    return Shape(
        "contents",
        beside=("systemInstruction",),
        kind=Content.PARTS,
        bounds=("generationConfig.maxOutputTokens",),
        repeats=("generationConfig.candidateCount",),
        stored=("cachedContent",),
        always_streams=streams,
        prefix="models/",
        nests=("generationConfig",),
        controls=("generationConfig.routingConfig", "generationConfig.modelConfig"),
        spellings=_SPELLINGS,
    )


GEMINI: Final = _gemini(streams=False)
GEMINI_STREAM: Final = _gemini(streams=True)
GEMINI_EMBED: Final = Shape(
    "content", kind=Content.PARTS, generates=False, prefix="models/", spellings=_SPELLINGS
)
GEMINI_EMBED_BATCH: Final = Shape(
    "requests", kind=Content.REQUESTS, generates=False, prefix="models/", spellings=_SPELLINGS
)
GEMINI_COUNT: Final = Shape(
    stored=("cachedContent", "generateContentRequest.cachedContent"),
    models=("model", "generateContentRequest.model"),
    prefix="models/",
    spellings=_SPELLINGS,
)

# ── Ollama ───────────────────────────────────────────────────────────────────────────────────────

_RELOADING: Final = tuple(
    f"options.{name}"
    for name in (
        *("num_gpu", "main_gpu", "num_thread", "num_batch", "use_mmap", "use_mlock"),
        *("numa", "low_vram", "vocab_only", "f16_kv"),
    )
)
"""Options that load the model anew, for everybody."""


def _ollama(content: str, *beside: str, generates: bool, kind: Content) -> Shape:
    return Shape(
        content,
        beside=beside,
        kind=kind,
        bounds=("options.num_predict",) if generates else (),
        generates=generates,
        also=_ANYWHERE if generates else (),  # llama.cpp and SGLang have these paths too
        endless=generates,
        context=("options.num_ctx",),
        tagged=True,
        streams=generates,
        controls=_RELOADING,
        nests=("options",),
    )


OLLAMA_CHAT: Final = _ollama("messages", generates=True, kind=Content.TALK)
OLLAMA_GENERATE: Final = _ollama(
    "prompt", "suffix", "context", generates=True, kind=Content.PROMPTS
)
OLLAMA_EMBED: Final = _ollama("input", generates=False, kind=Content.PROMPTS)
OLLAMA_EMBEDDINGS: Final = _ollama("prompt", generates=False, kind=Content.PROMPTS)
OLLAMA_SHOW: Final = Shape(models=("model", "name"), tagged=True)

# ── KServe and Triton, TF Serving ────────────────────────────────────────────────────────────────

INFER: Final = Shape(
    "inputs",
    kind=Content.ROWS,
    stored=("parameters.sequence_id",),
    tensors=True,
    nests=("parameters",),
)


_BEAMS: Final = ("n", "best_of", "beam_width", "num_return_sequences")  # TensorRT-LLM's too


def _triton(*, streams: bool) -> Shape:
    return Shape(
        "text_input",
        kind=Content.PROMPTS,
        bounds=("max_tokens", "parameters.max_tokens"),
        also=(
            *(*_other("max_tokens"), "request_output_len"),
            *("parameters.max_new_tokens", "parameters.request_output_len"),
        ),
        repeats=(*_BEAMS, *(f"parameters.{name}" for name in _BEAMS)),
        stored=("sequence_id", "parameters.sequence_id"),
        controls=("sampling_parameters", "parameters.sampling_parameters"),
        streams=streams,
        always_streams=streams,
        nests=("parameters",),
    )


TRITON_GENERATE: Final = _triton(streams=False)
TRITON_GENERATE_STREAM: Final = _triton(streams=True)
PREDICT: Final = Shape(
    "instances",
    beside=("inputs", "examples", "data"),  # `data`: KServe takes a CloudEvent too
    kind=Content.ROWS,
    nests=("parameters",),  # KServe's runtimes take generation's parameters there
)

# ── TGI, SGLang and llama.cpp under their own paths ──────────────────────────────────────────────


def _tgi(*, streams: bool) -> Shape:
    return Shape(
        "inputs",
        beside=("text", "prompt", "input_ids"),
        kind=Content.PROMPTS,
        bounds=("parameters.max_new_tokens",),
        also=("sampling_params.max_new_tokens", *_ANYWHERE),
        repeats=(
            *("parameters.best_of", "parameters.num_return_sequences", "n", "best_of"),
            *("sampling_params.n", "sampling_params.beam_width"),
        ),
        stored=_SESSION,
        controls=("background",),
        streams=streams,
        always_streams=streams,
        nests=("parameters", "sampling_params"),
    )


GENERATE: Final = _tgi(streams=False)
GENERATE_STREAM: Final = _tgi(streams=True)


def _llama_cpp(content: str, *beside: str, kind: Content) -> Shape:
    return Shape(
        content,
        beside=beside,
        kind=kind,
        bounds=("n_predict",),
        also=_other("n_predict"),
        repeats=_REPEATS,
    )


COMPLETION: Final = _llama_cpp("prompt", kind=Content.PROMPTS)
INFILL: Final = _llama_cpp("prompt", "input_prefix", "input_suffix", kind=Content.PROMPTS)
EMBEDDING: Final = Shape("input", beside=("content",), kind=Content.PROMPTS, generates=False)
