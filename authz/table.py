"""The built-in rows of the table of endpoints: data, by whose API they are. Pure."""

from __future__ import annotations

from typing import Final

from authz import shapes
from authz.model import Dialect, Endpoint, Lane, Metering, Place
from authz.shape import Shape

MODEL_PREFIX: Final = "/v1/models/"

NO_MODELS: Final = frozenset({"/v2/models/stats"})
"""Where a server has something else than a model of that name: Triton's statistics of all."""

MODELS: Final = Endpoint("models", "GET", "/v1/models", Lane.OURS, place=Place.NONE)
MODEL: Final = Endpoint("model", "GET", MODEL_PREFIX, Lane.OURS, place=Place.NONE)
KEY: Final = Endpoint("key", "GET", "/v1/key", Lane.OURS, place=Place.NONE)
TAGS: Final = Endpoint("tags", "GET", "/api/tags", Lane.OURS, place=Place.NONE)


def _post(
    name: str,
    path: str,
    shape: Shape | None = None,
    usage: Metering = Metering.OPENAI,
    place: Place = Place.BODY,
) -> Endpoint:
    """An inference call."""
    dialect = Dialect.ANTHROPIC if usage is Metering.ANTHROPIC else Dialect.OPENAI
    return Endpoint(name, "POST", path, Lane.INFERENCE, dialect, place, usage, shape)


def _read(name: str, path: str, place: Place = Place.PATH) -> Endpoint:
    """Something to be looked up, which holds no money."""
    return Endpoint(name, "GET", path, Lane.LISTING, place=place, usage=Metering.NONE)


def _count(
    name: str,
    path: str,
    place: Place,
    shape: Shape | None = None,
    dialect: Dialect = Dialect.OPENAI,
) -> Endpoint:
    """A call with a body that holds no money, such as the counting of tokens."""
    return Endpoint(name, "POST", path, Lane.LISTING, dialect, place, Metering.NONE, shape)


_OPENAI: Final = (
    _post("chat.completions", "/v1/chat/completions", shapes.CHAT),
    _post("completions", "/v1/completions", shapes.COMPLETIONS),
    _post("responses", "/v1/responses", shapes.RESPONSES),
    _post("embeddings", "/v1/embeddings", shapes.EMBEDDINGS),
    _post("moderations", "/v1/moderations", shapes.MODERATIONS),
    _post("rerank", "/v1/rerank", shapes.RERANK),
    _post("rerank.bare", "/rerank", shapes.RERANK),
    _post("rerank.v2", "/v2/rerank", shapes.RERANK),
    _post("score", "/v1/score", shapes.SCORE),
    _post("score.bare", "/score", shapes.SCORE),
    _post("images.generations", "/v1/images/generations", shapes.IMAGES),
    _post("audio.speech", "/v1/audio/speech", shapes.SPEECH),
    _post("audio.transcriptions", "/v1/audio/transcriptions", place=Place.FORM),
    _post("audio.translations", "/v1/audio/translations", place=Place.FORM),
    _post("images.edits", "/v1/images/edits", place=Place.FORM),
    MODELS,
    KEY,
)

_ANTHROPIC: Final = (
    _post("messages", "/v1/messages", shapes.MESSAGES, Metering.ANTHROPIC),
    _count(
        "messages.count_tokens",
        "/v1/messages/count_tokens",
        Place.BODY,
        shapes.NOTHING,
        Dialect.ANTHROPIC,
    ),
)


def _gemini(name: str, verb: str, shape: Shape) -> Endpoint:
    path = f"/v1beta/models/{{model}}:{verb}"
    return _post(name, path, shape, Metering.GEMINI, Place.PATH)


_GEMINI: Final = (
    _gemini("gemini.generate", "generateContent", shapes.GEMINI),
    _gemini("gemini.stream", "streamGenerateContent", shapes.GEMINI_STREAM),
    _gemini("gemini.embed", "embedContent", shapes.GEMINI_EMBED),
    _gemini("gemini.embed.batch", "batchEmbedContents", shapes.GEMINI_EMBED_BATCH),
    _count(
        "gemini.count_tokens",
        "/v1beta/models/{model}:countTokens",
        Place.PATH,
        shapes.GEMINI_COUNT,
    ),
)

_OLLAMA: Final = (
    _post("ollama.chat", "/api/chat", shapes.OLLAMA_CHAT, Metering.OLLAMA),
    _post("ollama.generate", "/api/generate", shapes.OLLAMA_GENERATE, Metering.OLLAMA),
    _post("ollama.embed", "/api/embed", shapes.OLLAMA_EMBED, Metering.OLLAMA),
    _post("ollama.embeddings", "/api/embeddings", shapes.OLLAMA_EMBEDDINGS, Metering.OLLAMA),
    _count("ollama.show", "/api/show", Place.BODY, shapes.OLLAMA_SHOW),
    TAGS,
)

_V2: Final = "/v2/models/{model}"
_V2_VERSION: Final = "/v2/models/{model}/versions/{version}"


def _kserve_v2(name: str, verb: str, shape: Shape) -> tuple[Endpoint, Endpoint]:
    return (
        _post(f"v2.{name}", f"{_V2}/{verb}", shape, Metering.NONE, Place.PATH),
        _post(f"v2.{name}.version", f"{_V2_VERSION}/{verb}", shape, Metering.NONE, Place.PATH),
    )


_KSERVE_V2: Final = (
    *_kserve_v2("infer", "infer", shapes.INFER),
    *_kserve_v2("generate", "generate", shapes.TRITON_GENERATE),
    *_kserve_v2("generate_stream", "generate_stream", shapes.TRITON_GENERATE_STREAM),
    _read("v2.server", "/v2", Place.NONE),
    _read("v2.live", "/v2/health/live", Place.NONE),
    _read("v2.ready", "/v2/health/ready", Place.NONE),
    _read("v2.model", _V2),
    _read("v2.model.version", _V2_VERSION),
    _read("v2.model.ready", f"{_V2}/ready"),
    _read("v2.model.version.ready", f"{_V2_VERSION}/ready"),
)

_V1: Final = "/v1/models/{model}"
_V1_VERSION: Final = "/v1/models/{model}/versions/{version}"
_V1_LABEL: Final = "/v1/models/{model}/labels/{label}"


def _predict(verb: str) -> tuple[Endpoint, Endpoint, Endpoint]:
    args = (shapes.PREDICT, Metering.NONE, Place.PATH)
    return (
        _post(f"v1.{verb}", f"{_V1}:{verb}", *args),
        _post(f"v1.{verb}.version", f"{_V1_VERSION}:{verb}", *args),
        _post(f"v1.{verb}.label", f"{_V1_LABEL}:{verb}", *args),
    )


_TENSORFLOW: Final = (
    *_predict("predict"),
    *_predict("classify"),
    *_predict("regress"),
    *_predict("explain"),
    _read("v1.metadata", f"{_V1}/metadata"),
    _read("v1.version", _V1_VERSION),
    _read("v1.version.metadata", f"{_V1_VERSION}/metadata"),
    _read("v1.label", _V1_LABEL),
    _read("v1.label.metadata", f"{_V1_LABEL}/metadata"),
)

_GRPC_SERVICE: Final = "/inference.GRPCInferenceService"


def _grpc(name: str, method: str, lane: Lane, place: Place) -> Endpoint:
    path = f"{_GRPC_SERVICE}/{method}"
    return Endpoint(name, "POST", path, lane, Dialect.GRPC, place, Metering.NONE)


_GRPC: Final = (
    _grpc("grpc.infer", "ModelInfer", Lane.INFERENCE, Place.MESSAGE),
    _grpc("grpc.live", "ServerLive", Lane.LISTING, Place.NONE),
    _grpc("grpc.ready", "ServerReady", Lane.LISTING, Place.NONE),
    _grpc("grpc.server", "ServerMetadata", Lane.LISTING, Place.NONE),
    _grpc("grpc.model.ready", "ModelReady", Lane.LISTING, Place.MESSAGE),
    _grpc("grpc.model", "ModelMetadata", Lane.LISTING, Place.MESSAGE),
)


def _native(name: str, shape: Shape) -> Endpoint:
    """A path of a server that has one model."""
    return _post(f"native.{name}", f"/{name}", shape, Metering.NONE, Place.SERVER)


_NATIVE: Final = (
    _native("generate", shapes.GENERATE),
    _native("generate_stream", shapes.GENERATE_STREAM),
    _native("completion", shapes.COMPLETION),
    _native("completions", shapes.COMPLETION),
    _native("infill", shapes.INFILL),
    _native("embedding", shapes.EMBEDDING),
    _native("embeddings", shapes.EMBEDDING),
    _native("reranking", shapes.RERANK),
    _count("native.tokenize", "/tokenize", Place.SERVER, shapes.NOTHING),
    _count("native.detokenize", "/detokenize", Place.SERVER, shapes.NOTHING),
    _count("native.apply_template", "/apply-template", Place.SERVER, shapes.NOTHING),
    _read("native.info", "/info", Place.SERVER),
    _read("health", "/health", Place.NONE),
)

ROWS: Final = (
    *_OPENAI,
    *_ANTHROPIC,
    *_GEMINI,
    *_OLLAMA,
    *_KSERVE_V2,
    *_TENSORFLOW,
    *_GRPC,
    *_NATIVE,
)
