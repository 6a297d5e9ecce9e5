"""How the JSON body of an endpoint says what it asks for, and what every body could hide. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from authz.names import Names

SELECTORS: Final = ("lora_path", "adapter_id", "lora", "lora_name", "adapters")
"""Members by which a server picks an adapter beside the model: SGLang's, TGI's and LoRAX',
llama.cpp's, Triton's and MLX'. A string makes the model `name:adapter`."""

REFUSED: Final = (
    *("lora_request", "lora_task_id", "lora_weights", "lora_config"),  # TensorRT-LLM
    *("merged_adapters", "adapter_source"),  # LoRAX
    "lora_id",  # SGLang's own name of an adapter that it has loaded
    *("models", "fallbacks", "draft_model"),  # routers in front of servers; MLX
    *("model_list", "user_config", "custom_llm_provider", "api_base", "base_url"),  # LiteLLM
    *("deployment_id", "litellm_credential_name", "router_settings_override"),
    *("context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks"),
    "upscaling_model_path",  # SGLang's images
)
"""Members that name another model or adapter in a way that no allowlist could judge."""

CONTROLS: Final = (
    *("keep_alive", "kv_transfer_params", "id_slot", "slot_id", "priority", "chat_template"),
    *("cache_salt", "extra_key", "request_id", "rid", "session_id"),
    *("data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank", "decode_tp_size"),
    *("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"),
    *("http_worker_ipc", "encoder_urls", "kv_router_hint", "routing_key"),  # SGLang
    *("kv_hints", "mm_hashes", "perf_dump_path", "diffusers_kwargs"),
    *("extra_body", "extra_headers", "extra_query"),  # LiteLLM puts them over the body; vLLM-Omni
    *("ec_transfer_params", "vllm_xargs"),  # vLLM: its connectors and plugins
    *("disaggregated_params", "nvext", "migration_request"),  # TensorRT-LLM, Dynamo, LMDeploy
    *("custom_logit_processor", "logits_processors"),
)
"""Members that steer the server rather than the answer: which slot, cache or peer is used, who
comes first, what stays loaded, which code runs. Refused unless the catalog allows them."""

TEMPLATING: Final = tuple(
    f"chat_template_kwargs.{name}"
    for name in (
        *("chat_template", "conversation", "tokenizer", "tokenize", "tokenizer_kwargs"),
        *("processor_kwargs", "padding", "truncation", "max_length", "return_dict"),
        "return_tensors",
    )
)
"""What vLLM and SGLang pass on to the call that makes the prompt, where its own arguments have
these names: another template, another talk, another form of what comes out. Controls as well;
all else in there are variables of the template."""

QUERY_CONTROLS: Final = frozenset({"autoload", "fields", "$fields"})
"""What steers a server from the query of the path: whether llama.cpp's router loads a model; which
members Gemini's answer has, so that it may be without its usage."""

HIDING: Final = (
    *("include_reasoning", "stream_reasoning"),  # vLLM; SGLang, LightLLM
    *("reasoning_effort", "reasoning_format"),  # vLLM, as it is hosted by others
    *("reasoning", "thinking"),  # routers in front of servers; Anthropic's
)
"""Members that can say that some of what is generated is not to be streamed."""

TENSORS: Final = frozenset(
    {
        *(*SELECTORS, *REFUSED, *CONTROLS),
        *("sampling_parameters", "embedding_request"),  # JSON in a text, an adapter's name too
        *("sequence_id", "sequence_start", "sequence_end"),
        *("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"),
    }
)
"""Names of tensors and of their parameters that steer a server: its adapters, its queue, what it
keeps of other calls, its memory."""

CONTEXT: Final = frozenset(
    {
        *("web_search_options", "mcp_servers", "audio", "prompt_id", "container"),
        *("image_data", "multi_modal_data", "prompt_embeds", "images", "video_data", "audio_data"),
        *("image_url", "image_input", "image_url_input", "image_bytes_input", "video_bytes_input"),
        "prompt_embedding_table",  # TensorRT-LLM
        *("image", "ref_audio", "references", "template", "input_embeds", "data_sources"),
        *("chat_template", "chat_template_kwargs", "documents"),  # the prompt is made by them
    }
)
"""Members that bring input which does not stand in the body as text, whatever their value."""

TALK: Final = ("messages", "system", "instructions")
"""Members that are input on every endpoint that has any, whatever else it calls so."""


class Content(StrEnum):
    """What input looks like."""

    TALK = "talk"  # messages and parts, as OpenAI and Anthropic write them
    PROMPTS = "prompts"  # text or tokens, or a list of them: many prompts
    DOCUMENTS = "documents"  # a list of texts, each read together with a query
    PARTS = "parts"  # contents and parts, as Gemini writes them
    REQUESTS = "requests"  # a list of requests of Gemini's, each with one content and the model
    OPAQUE = "opaque"  # its size in tokens cannot be told
    ROWS = "rows"  # the same, but lists of it are so many inputs: tensors, instances


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """How a body says what it asks for.

    A member is named `options.num_predict` where it stands inside an object of the body.

    `content` is the member whose text is the input, of this `kind`, and `beside` are others.
    `query`: members that are read once more with each of the documents.

    `bounds` are the members that bound the output by the endpoint's API. Every server knows the
    first of them, so that is set where the client set none, and stands in place of another of the
    body's own that the client set alone. `also` are members that some servers take for a bound.
    `endless`: the server goes on behind the end of its context until it meets the bound.

    `spellings`: members with a second name, of which a body may use one.
    """

    content: str = ""
    beside: tuple[str, ...] = ()
    kind: Content = Content.TALK
    query: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    generates: bool = True  # there is output that could cost something
    endless: bool = False
    context: tuple[str, ...] = ()  # members that say how long the context is to be
    tagged: bool = False  # a model's name without a tag means `:latest`
    usage_on_request: bool = False  # a stream carries usage only where `stream_options` asks
    streams: bool = False  # unless `stream` is false
    always_streams: bool = False
    stored: tuple[str, ...] = ()  # members that name context which the server keeps
    refers: bool = False  # and an item of the input may be only the name of a kept one
    unbounded: tuple[str, ...] = ()  # members that make the work outlive the request
    controls: tuple[str, ...] = ()  # beyond those of every body
    models: tuple[str, ...] = ("model",)  # members that name the model
    tensors: bool = False  # `inputs` and `outputs` are lists of tensors with parameters
    prefix: str = ""  # what may stand before its name there
    nests: tuple[str, ...] = ()  # objects that hold selectors and controls too
    spellings: tuple[tuple[str, str], ...] = ()
    members: Names = field(init=False, repr=False)
    nested: tuple[tuple[str, Names], ...] = field(init=False, repr=False)
    input: tuple[str, ...] = field(init=False, repr=False)
    media: frozenset[str] = field(init=False, repr=False)
    selectors: frozenset[str] = field(init=False, repr=False)
    steering: frozenset[str] = field(init=False, repr=False)
    hiding: frozenset[str] = field(init=False, repr=False)  # of these some may hide output
    second: frozenset[str] = field(init=False, repr=False)  # these and what is never allowed

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "selectors", frozenset(self._everywhere(SELECTORS)))
        steering = (*self._everywhere(CONTROLS), *TEMPLATING, *self.controls)
        put(self, "steering", frozenset(steering))
        put(self, "second", self.selectors.union(self.steering, self._everywhere(REFUSED)))
        best_of = (name for name in self.repeats if name.rpartition(".")[2] == "best_of")
        put(self, "hiding", frozenset((*HIDING, *best_of) if self.bounds else ()))
        put(self, "input", (self.content, *self.beside, *self.query))
        put(self, "media", CONTEXT.difference(self.input))
        top, inner = set[str](self.nests), dict[str, set[str]]()
        for name in self._read():
            nest, dot, member = name.partition(".")
            top.add(nest)
            if dot:
                inner.setdefault(nest, set()).add(member)
        put(self, "members", Names(top, self.spellings))
        objects = (
            (nest, Names(names, self.spellings, inside=nest)) for nest, names in inner.items()
        )
        put(self, "nested", tuple(objects))

    def _everywhere(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            yield name
            for nest in self.nests:
                yield f"{nest}.{name}"

    def _read(self) -> Iterator[str]:
        """Every member that is read, by its name here."""
        yield from ("stream", *self.models, *self.second)
        yield from (*self.query, *self.beside, *self.bounds, *self.also, *self.repeats)
        yield from (*self.stored, *self.unbounded, *self.context)
        yield from self.hiding
        if self.tensors:
            yield from ("inputs", "outputs")
        if self.usage_on_request:
            yield "stream_options"
        if self.content:
            yield from (self.content, "tools", *TALK, *self.media)
