"""The table of endpoints: what it names, and that everything else is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz import endpoints
from authz.endpoints import BUILT_IN, Table, is_template, path_regex, table_of
from authz.model import Dialect, Endpoint, Lane, Metering, Place
from authz.shape import Content
from store.catalog import Catalog
from store.errors import ConfigError

NATIVE = Table(native_model="mine")
PLANS = "plans: {free: {}}\ndefault_plan: free\n"

# (call, name, what it is): O, A, G, L are inference as OpenAI, Anthropic, Gemini and Ollama meter
# it, N is inference that says nothing of its usage; = is a listing, ! is answered by us.
ROWS = """
POST /v1/chat/completions chat.completions O
POST /v1/completions completions O
POST /v1/responses responses O
POST /v1/embeddings embeddings O
POST /v1/moderations moderations O
POST /v1/rerank rerank O
POST /rerank rerank.bare O
POST /v2/rerank rerank.v2 O
POST /v1/score score O
POST /score score.bare O
POST /v1/images/generations images.generations O
POST /v1/audio/speech audio.speech O
POST /v1/audio/transcriptions audio.transcriptions O
POST /v1/audio/translations audio.translations O
POST /v1/images/edits images.edits O
POST /v1/messages messages A
POST /v1/messages/count_tokens messages.count_tokens =
POST /v1beta/models/M:generateContent gemini.generate G
POST /v1beta/models/M:streamGenerateContent gemini.stream G
POST /v1beta/models/M:embedContent gemini.embed G
POST /v1beta/models/M:batchEmbedContents gemini.embed.batch G
POST /v1beta/models/M:countTokens gemini.count_tokens =
POST /api/chat ollama.chat L
POST /api/generate ollama.generate L
POST /api/embed ollama.embed L
POST /api/embeddings ollama.embeddings L
POST /api/show ollama.show =
GET /api/tags tags !
POST /v2/models/M/infer v2.infer N
POST /v2/models/M/versions/3/infer v2.infer.version N
POST /v2/models/M/generate v2.generate N
POST /v2/models/M/versions/3/generate v2.generate.version N
POST /v2/models/M/generate_stream v2.generate_stream N
POST /v2/models/M/versions/3/generate_stream v2.generate_stream.version N
GET /v2 v2.server =
GET /v2/health/live v2.live =
GET /v2/health/ready v2.ready =
GET /v2/models/M v2.model =
GET /v2/models/M/ready v2.model.ready =
GET /v2/models/M/versions/3 v2.model.version =
GET /v2/models/M/versions/3/ready v2.model.version.ready =
POST /v1/models/M:predict v1.predict N
POST /v1/models/M/versions/3:classify v1.classify.version N
POST /v1/models/M/labels/best:regress v1.regress.label N
POST /v1/models/M:explain v1.explain N
GET /v1/models/M/metadata v1.metadata =
GET /v1/models/M/versions/3 v1.version =
GET /v1/models/M/versions/3/metadata v1.version.metadata =
GET /v1/models/M/labels/best v1.label =
GET /v1/models/M/labels/best/metadata v1.label.metadata =
POST /inference.GRPCInferenceService/ModelInfer grpc.infer N
POST /inference.GRPCInferenceService/ServerLive grpc.live =
POST /inference.GRPCInferenceService/ServerReady grpc.ready =
POST /inference.GRPCInferenceService/ServerMetadata grpc.server =
POST /inference.GRPCInferenceService/ModelReady grpc.model.ready =
POST /inference.GRPCInferenceService/ModelMetadata grpc.model =
POST /generate native.generate N
POST /generate_stream native.generate_stream N
POST /completion native.completion N
POST /completions native.completions N
POST /infill native.infill N
POST /embedding native.embedding N
POST /embeddings native.embeddings N
POST /reranking native.reranking N
POST /tokenize native.tokenize =
POST /detokenize native.detokenize =
POST /apply-template native.apply_template =
GET /info native.info =
GET /health health =
GET /v1/models models !
GET /v1/models/M model !
GET /v1/models/org/deep/model:tag model !
GET /v1/key key !
"""
KINDS = {
    "O": (Lane.INFERENCE, Metering.OPENAI),
    "A": (Lane.INFERENCE, Metering.ANTHROPIC),
    "G": (Lane.INFERENCE, Metering.GEMINI),
    "L": (Lane.INFERENCE, Metering.OLLAMA),
    "N": (Lane.INFERENCE, Metering.NONE),
    "=": (Lane.LISTING, Metering.NONE),
    "!": (Lane.OURS, None),
}
CALLS = [tuple(line.split()) for line in ROWS.strip().splitlines()]


@pytest.mark.parametrize(("method", "path", "name", "kind"), CALLS)
def test_rows(method: str, path: str, name: str, kind: str) -> None:
    match = NATIVE.find(method, path)
    assert match is not None
    row, (lane, usage) = match.endpoint, KINDS[kind]
    assert (row.name, row.lane) == (name, lane)
    assert usage in {None, row.usage}
    if row.place is Place.PATH:
        assert match.model == "M"
    else:
        assert match.model == ("mine" if row.place is Place.SERVER else None)
    if row.dialect is not Dialect.GRPC:
        assert row.dialect == endpoints.dialect_of(path)


def test_every_row_is_one_of_these() -> None:
    assert {row.name for row in NATIVE.rows} <= {name for _, _, name, _ in CALLS} | {
        f"v1.{verb}{more}"
        for verb in ("predict", "classify", "regress", "explain")
        for more in ("", ".version", ".label")
    }
    assert len({row.name for row in NATIVE.rows}) == len(NATIVE.rows)


@pytest.mark.parametrize("path", [path for _, path, *_ in CALLS])
def test_another_method_is_another_endpoint(path: str) -> None:
    own = {method for method, named, *_ in CALLS if named == path}
    if path.startswith("/v1/models/"):
        own.add("GET")  # whatever stands behind it may be the name of a model
    for method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "post", ""} - own:
        assert NATIVE.find(method, path) is None


@pytest.mark.parametrize("path", [path for _, path, name, _ in CALLS if name.startswith("native")])
def test_without_a_native_model_there_are_no_native_paths(path: str) -> None:
    assert BUILT_IN.find("POST", path) is None
    assert BUILT_IN.find("GET", path) is None


@pytest.mark.parametrize("row", NATIVE.rows, ids=lambda row: row.name)
def test_what_a_row_must_have(row: Endpoint) -> None:
    """What the readers of each place rely on."""
    if row.lane is Lane.OURS:
        assert (row.method, row.place, row.shape) == ("GET", Place.NONE, None)
    if row.method == "GET":
        assert row.lane is not Lane.INFERENCE
        assert row.shape is None
    if row.lane is Lane.INFERENCE:
        assert row.place is not Place.NONE
    if row.method == "POST" and row.place in {Place.BODY, Place.PATH, Place.SERVER}:
        assert row.shape is not None
        assert bool(row.shape.content) == (row.lane is Lane.INFERENCE)
    assert ("{model}" in row.path) == (row.place is Place.PATH)
    assert not (row.shape and row.shape.bounds and not row.shape.generates)


# ── What no row names ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "*", "/v1", "/v1/", "/v1/chat", "v1/chat/completions"),
        *("/v1/chat/completions/", "/v1/chat/completions;x=1", "/v1/chat/completions#x"),
        *("/V1/chat/completions", "/v1/Chat/Completions", "//v1/chat/completions"),
        *("/v1//chat/completions", "/v1/./chat/completions", "/x/../v1/chat/completions"),
        *("/v1/chat%2fcompletions", "/v1/chat\\completions"),
        "http://gate.example/v1/chat/completions",
        *("/openai/deployments/m/chat/completions", "/v1/engines/m/completions", "/engines/m/x"),
        *("/v1/messages/batches", "/v1/files", "/v1/batches", "/v1/fine_tuning/jobs"),
        *("/v1beta/models/m:batchGenerateContent", "/v1/models/m:generateContent"),
        *("/v1beta/cachedContents", "/v1beta/models/m:predict", "/v1beta/models/m"),
        *("/v2/models/m", "/v2/models/m/", "/v2/models//infer", "/v2/models/m/infer/"),
        *("/v2/models/m/config", "/v2/models/m/x/infer", "/v2/models/m/versions/infer"),
        *("/v2/models/m%2Fn/infer", "/v2/models/m;n/infer", "/v2/models/m n/infer"),
        *("/v2/models/../infer", "/v2/models/./infer", "/v2/models/m\x00/infer"),
        *("/v2/models/m\n/infer", "/v2/models/m/infer\n", "/v2/models/mü/infer"),
        f"/v2/models/{'m' * 257}/infer",
        *("/v1/models/m:predict:", "/v1/models/:predict", "/v1/models/a/b:predict"),
        *("/generate/", "/Generate", "/completion/x", "/invocations", "/"),
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/inference.GRPCInferenceService/",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
    ],
)
def test_what_no_row_names_is_no_endpoint(path: str) -> None:
    assert NATIVE.find("POST", path) is None


# What a server does for whoever runs it: read in the servers' own routers.
CONTROLS = {
    "vLLM": """
        /metrics /load /server_info /is_sleeping /sleep /wake_up /collective_rpc /pause /resume
        /is_paused /reset_prefix_cache /reset_mm_cache /reset_encoder_cache /start_profile
        /stop_profile /v1/load_lora_adapter /v1/unload_lora_adapter /scale_elastic_ep
        /is_scaling_elastic_ep /init_weight_transfer_engine /update_weights /get_world_size
        /abort_requests /inference/v1/generate /tokenizer_info /version /ping /invocations
        /docs /openapi.json /v1/realtime /pooling /classify /v1/chat/completions/render
    """,
    "SGLang": """
        /flush_cache /clear_hicache_storage_backend /get_server_info /server_info /get_model_info
        /model_info /get_load /v1/loads /get_internal_state /set_internal_state
        /update_weights_from_disk /update_weights_from_tensor /update_weights_from_distributed
        /update_weights_from_ipc /update_weight_version /init_weights_update_group
        /destroy_weights_update_group /init_weights_send_group_for_remote_instance
        /send_weights_to_remote_instance /get_weights_by_name /weights_checker /get_weight_version
        /release_memory_occupation /resume_memory_occupation /slow_down /load_lora_adapter
        /load_lora_adapter_from_tensors /unload_lora_adapter /open_session /close_session
        /configure_logging /dump_metrics /abort_request /pause_generation /continue_generation
        /start_profile /stop_profile /set_trace_level /start_expert_distribution_record
        /stop_expert_distribution_record /dump_expert_distribution_record /parse_function_call
        /separate_reasoning /freeze_gc /health_generate /encode /hicache/storage-backend
        /add_external_corpus /remove_external_corpus /metrics /set_rpc
    """,
    "Ollama": """
        /api/pull /api/push /api/create /api/delete /api/copy /api/ps /api/version /api/me
        /api/signout /api/blobs/sha256:0 /api/experimental/web_search /api/user/keys/x
        /api/tags/ /api/show/
    """,
    "Triton": """
        /v2/repository/index /v2/repository/models/m/load /v2/repository/models/m/unload
        /v2/systemsharedmemory/status /v2/systemsharedmemory/region/x/register
        /v2/systemsharedmemory/region/x/unregister /v2/systemsharedmemory/unregister
        /v2/cudasharedmemory/status /v2/cudasharedmemory/region/x/register
        /v2/cudasharedmemory/region/x/unregister /v2/cudasharedmemory/unregister
        /v2/trace/setting /v2/models/m/trace/setting /v2/logging /v2/models/stats
        /v2/models/m/stats /v2/models/m/versions/1/stats /v2/models/m/config
        /v2/models/m/versions/1/config /metrics
    """,
    "MLServer and KServe": """
        /v2/repository/index /v2/repository/models/m/load /v2/models/m/versions/1/docs
        /v2/docs /v2/docs/dataplane.json /v2/models/m/docs /v1/models/m/load /openai/v1/models
        /metrics /v2/models/m/load /v2/models/m/unload
    """,
    "TGI": "/metrics /docs /chat_tokenize /invocations /shutdown /ping /kserve/v2/models/m/infer",
    "llama.cpp": """
        /metrics /slots /slots/0 /props /lora-adapters /models /models/load /models/unload
        /models/sse /tools /cors-proxy /v1/chat/completions/control /v1/streams /v1/stream/x
        /chat/completions /responses /v1/health
    """,
    "TF Serving": "/monitoring/prometheus/metrics /v1/config/reload /v1/models/m:multi_inference",
    "LiteLLM": "/key/generate /user/new /model/new /config/update /spend/logs /v1/model/info",
}


@pytest.mark.parametrize(
    ("server", "path"),
    [(server, path) for server, paths in CONTROLS.items() for path in paths.split()],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])
def test_a_servers_own_controls_are_no_endpoints(server: str, path: str, method: str) -> None:
    match = NATIVE.find(method, path)
    assert match is None or (
        # GET /v1/models/… is answered by us, whatever stands there; no server sees it
        match.endpoint.lane is Lane.OURS and path.startswith("/v1/models/")
    )


@pytest.mark.parametrize(
    "path",
    [
        *("/ModelStreamInfer", "/ModelConfig", "/ModelStatistics", "/RepositoryIndex"),
        *("/RepositoryModelLoad", "/RepositoryModelUnload", "/SystemSharedMemoryRegister"),
        *("/SystemSharedMemoryStatus", "/CudaSharedMemoryRegister", "/TraceSetting"),
        "/LogSettings",
    ],
)
def test_the_controls_of_a_grpc_server_are_no_endpoints(path: str) -> None:
    assert NATIVE.find("POST", "/inference.GRPCInferenceService" + path) is None


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/modelsx", "/v1/keys", "/v1/key/", "/v1/keyx"])
def test_near_a_listing(path: str) -> None:
    assert BUILT_IN.find("GET", path) is None


# ── Paths with a model ───────────────────────────────────────────────────────────────────────────

MODEL_CHARACTERS = "abzABZ019._~!$&'()*+,=@:-"


@pytest.mark.parametrize("row", [r for r in NATIVE.rows if r.place is Place.PATH], ids=str)
@given(model=st.text(MODEL_CHARACTERS, min_size=1, max_size=256))
def test_the_model_of_a_path_is_what_stands_there(row: Endpoint, model: str) -> None:
    path = row.path.replace("{model}", model).replace("{version}", "1").replace("{label}", "l")
    match = NATIVE.find(row.method, path)
    if model in {".", ".."}:
        assert match is None or match.endpoint.lane is Lane.OURS
    else:
        assert match is not None
        assert (match.endpoint, match.model) == (row, model)


@given(path=st.text(max_size=20).map(lambda text: f"/v2/models/{text}/infer"))
def test_no_other_character_names_a_model(path: str) -> None:
    match = NATIVE.find("POST", path)
    model = path.removeprefix("/v2/models/").removesuffix("/infer")
    allowed = set(model) <= {*map(chr, range(33, 127))} - set('/%;?#"<>[]\\^`{|}')
    assert (match is not None) == (allowed and model not in {"", ".", ".."})


def test_a_path_as_a_regular_expression() -> None:
    assert path_regex("/v1/rerank") == "/v1/rerank"
    assert path_regex("/v2/models/{model}/infer", "M+") == "/v2/models/M+/infer"
    assert is_template("/v1/{model}")
    assert not is_template("/v1/x")


# ── Dialects ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/v1/messages/", Dialect.ANTHROPIC),
        ("/v1/messages/batches", Dialect.ANTHROPIC),
        ("/v1/messagesx", Dialect.OPENAI),
        ("/v1/models", Dialect.OPENAI),
        ("/nowhere", Dialect.OPENAI),
        ("", Dialect.OPENAI),
    ],
)
def test_whose_error_shape_a_path_speaks(path: str, dialect: Dialect) -> None:
    assert endpoints.dialect_of(path) is dialect


@pytest.mark.parametrize(
    ("content_type", "spoken"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc+json", True),
        ("application/grpc-web", False),  # Envoy answers it in plain HTTP
        ("application/grpc; charset=utf-8", False),
        ("Application/Grpc", False),
        ("application/json", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("path", ["/inference.GRPCInferenceService/ModelInfer", "/v1/messages"])
def test_a_grpc_client_is_answered_over_grpc_wherever_it_calls(
    path: str, content_type: str, spoken: bool
) -> None:
    dialect = endpoints.dialect_of(path, content_type)
    assert (dialect is Dialect.GRPC) == spoken
    if not spoken:
        assert dialect is endpoints.dialect_of(path)


@pytest.mark.parametrize(
    ("content_type", "grpc", "http"),
    [
        ("application/grpc", True, False),
        ("application/grpc+proto", True, False),
        ("application/grpc+json", False, False),
        ("application/json", False, True),
        ("", False, True),
    ],
)
def test_grpc_is_spoken_on_its_own_paths_alone(content_type: str, grpc: bool, http: bool) -> None:
    for row in NATIVE.rows:
        expected = grpc if row.path.startswith("/inference.") else http
        assert endpoints.speaks(row, content_type) is expected, row.name


# ── The catalog's own rows ───────────────────────────────────────────────────────────────────────


def catalog_of(rows: str, more: str = "") -> Catalog:
    listed = "".join(f"  - {{{line.strip()}}}\n" for line in rows.strip().splitlines())
    return Catalog.parse(f"{PLANS}{more}endpoints:\n{listed}", "catalog.yaml")


def test_rows_of_the_catalog() -> None:
    catalog = catalog_of(
        """
        name: fill, path: /v1/fim, input: prompt, output: [options.most, limit], repeats: [n]
        name: cohere, path: "/v3/{model}/ask", model: path, usage: none, dialect: anthropic
        name: voices, path: /v1/voices, method: GET, model: none, lane: listing
        name: count, path: /count, model: server, lane: listing
        name: dub, path: /v1/dub, model: form
        name: named, path: /v1/named, model_member: engine, usage: ollama, input: messages
        """,
        "native_model: mine\n",
    )
    table = table_of(catalog)
    fill = table.find("POST", "/v1/fim")
    assert fill is not None
    shape = fill.endpoint.shape
    assert shape is not None
    assert (fill.endpoint.name, fill.endpoint.lane) == ("fill", Lane.INFERENCE)
    assert (fill.endpoint.place, fill.endpoint.usage) == (Place.BODY, Metering.OPENAI)
    assert (shape.content, shape.kind) == ("prompt", Content.PROMPTS)
    assert (shape.bounds, shape.repeats) == (("options.most", "limit"), ("n",))
    assert shape.nests == ("options",)
    asked = table.find("POST", "/v3/llama/ask")
    assert asked is not None
    assert (asked.model, asked.endpoint.usage) == ("llama", Metering.NONE)
    assert asked.endpoint.dialect is Dialect.ANTHROPIC
    assert asked.endpoint.shape is not None
    assert asked.endpoint.shape.kind is Content.OPAQUE
    voices = table.find("GET", "/v1/voices")
    assert voices is not None
    assert (voices.endpoint.lane, voices.endpoint.shape) == (Lane.LISTING, None)
    count = table.find("POST", "/count")
    assert count is not None
    assert (count.model, count.endpoint.lane) == ("mine", Lane.LISTING)
    dub = table.find("POST", "/v1/dub")
    assert dub is not None
    assert (dub.endpoint.place, dub.endpoint.shape) == (Place.FORM, None)
    named = table.find("POST", "/v1/named")
    assert named is not None
    assert named.endpoint.shape is not None
    assert named.endpoint.shape.models == ("engine",)
    assert named.endpoint.shape.endless
    assert table.find("POST", "/v1/chat/completions") is not None
    assert table.find("POST", "/v1/voices") is None
    assert BUILT_IN.find("POST", "/v1/fim") is None


@pytest.mark.parametrize(
    ("row", "member"),
    [
        ("name: rerank, path: /x", "name"),
        ("name: x, path: /v1/rerank", "path"),
        ('name: x, path: "/v2/models/{model}/infer", model: path', "path"),
        ('name: x, path: "/v1/models/{model}", method: GET, model: path, lane: listing', "path"),
        ("name: x, path: /completion", "path"),  # also without a native model
    ],
)
def test_a_row_that_is_built_in_is_refused_with_its_line(row: str, member: str) -> None:
    catalog = catalog_of(f"name: fine, path: /fine\n{row}")
    with pytest.raises(ConfigError) as caught:
        table_of(catalog)
    expected = f"line 5: endpoints.1.{member}: a built-in endpoint has it already"
    assert caught.value.faults == (expected,)
    assert str(caught.value).startswith("The catalog catalog.yaml cannot be used:")
